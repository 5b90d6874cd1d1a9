//! The certificate of a job: what was asked for, what was done, and what follows
//! from it, in one document. It is signed, and can be checked without the store
//! and without us.
//!
//! | file | what |
//! |---|---|
//! | `content` | what stands in it |
//! | `document` | the signed document, and how one is checked |
//! | `keys` | the keys that sign and check (Ed25519) |
//! | `page` | the same as a page that needs nothing from elsewhere |
//!
//! docs/report.md has the form of the document.

mod content;
mod document;
mod keys;
mod page;
#[cfg(test)]
pub(crate) mod tests;

pub use content::{
    Activation, Asked, Certificate, Done, Evidence, Outcome, Plan, Sources, Step, Throttled,
};
pub use document::{BadDocument, Checked, Document, Form};
pub use keys::{KeyFileError, PublicKey, SigningKey, new_key_file};
