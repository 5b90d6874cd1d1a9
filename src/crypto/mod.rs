//! Cells, keys and key rows. docs/format.md gives every byte.

mod key;

pub use key::KeyId;
