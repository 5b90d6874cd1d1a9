//! Cells, keys and key rows. docs/format.md gives every byte, and
//! tests/vectors hold examples of each, good and bad.
//!
//! | file | what |
//! |---|---|
//! | `key` | a data key ready for use, its commitment and its id |
//! | `nonce` | where nonces come from |
//! | `cell` | one stored blob: header, seal, open |
//! | `expiry` | messages that vanish: what the header says and what the store is told |
//! | `key_row` | one wrap of one data key, as stored |
//! | `open` | the checks around opening, in their order |
//! | `aside` | an old data key, sealed with another to be kept for a time |
//! | `error` | why a cell or a key is not trusted, each reason with its code |
//!
//! All of it is pure: no clock, no I/O, no log. Time and randomness are
//! arguments; the only randomness taken here is the seed of a [`NonceSource`].

pub mod aside;
pub mod cell;
pub mod expiry;
pub mod open;

mod error;
mod key;
mod key_row;
mod nonce;
#[cfg(test)]
mod tests;

pub use cell::{Header, Plaintext};
pub use error::CellError;
pub use key::{CellKey, Commitment, KeyId, SealLimit};
pub use key_row::{KeyRowBody, KeyRowError, Provider};
pub use nonce::NonceSource;
pub use open::{Admission, MessageLocus, admit_cell, check_commitment, scope_fits};
