//! What can go wrong with a ring itself, outside of a KMS call.

use std::io;
use std::path::{Path, PathBuf};

use crate::ids::CmkArn;
use crate::kms::CmkState;

/// An error of the ring's files or of its administration.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A file cannot be read or written.
    #[error("key ring: {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no ring in this folder.
    #[error("key ring: there is no key ring in {}; create one first", dir.display())]
    NotARing {
        /// The folder.
        dir: PathBuf,
    },
    /// There is a ring in this folder already.
    #[error("key ring: {} already holds a key ring", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// The ring's file is not what this program writes.
    #[error("key ring: {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// The ring's file is of another version.
    #[error("key ring: {} is of version {found}, this program reads version 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The passphrase or key file is not this ring's, or the ring is damaged.
    #[error("key ring: the passphrase or key file does not open this key ring")]
    WrongUnlock,
    /// The ring is opened by a key file.
    #[error("key ring: this key ring is opened by a key file, not by a passphrase")]
    NeedsKeyFile,
    /// The ring is opened by a passphrase.
    #[error("key ring: this key ring is opened by a passphrase, not by a key file")]
    NeedsPassphrase,
    /// The protection's parameters are not usable.
    #[error("key ring: the parameters that protect the keys are damaged")]
    BadProtection,
    /// Others can read the key file.
    #[error(
        "key ring: {} can be read by others (mode {mode:03o}); run chmod 600 on it",
        path.display()
    )]
    KeyFileMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("key ring: {} does not hold 64 hexadecimal digits", path.display())]
    BadKeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gave no random bytes.
    #[error("key ring: the operating system gave no random bytes")]
    NoRandomness,
    /// A CMK's sealed material does not open.
    #[error("key ring: the material of {cmk} is damaged")]
    DamagedKey {
        /// The CMK.
        cmk: CmkArn,
    },
    /// There is no such CMK.
    #[error("key ring: there is no CMK {cmk}")]
    NoSuchKey {
        /// The CMK.
        cmk: CmkArn,
    },
    /// The CMK's state does not allow it.
    #[error("key ring: {cmk} is in state {state:?}, which does not allow this")]
    State {
        /// The CMK.
        cmk: CmkArn,
        /// Its state.
        state: CmkState,
    },
    /// The pending window is out of bounds.
    #[error("key ring: a pending window has 7 to 30 days, not {days}")]
    Window {
        /// As given.
        days: u32,
    },
    /// A region or account that cannot stand in an ARN.
    #[error(transparent)]
    BadArn(#[from] crate::ids::InvalidId),
    /// A name of a rule or fault that is not one.
    #[error("key ring: `{given}` is not a name: 1 to 40 lower-case letters, digits, `-` or `_`")]
    BadName {
        /// As given.
        given: String,
    },
    /// The rule or fault exists.
    #[error("key ring: there is a rule `{id}` already")]
    RuleExists {
        /// Its name.
        id: String,
    },
    /// There is no such rule or fault.
    #[error("key ring: there is no rule or fault `{id}`")]
    NoSuchRule {
        /// As given.
        id: String,
    },
    /// A rule without any condition would deny everything to everyone.
    #[error("key ring: rule `{id}` names no CMK, operation, context or caller")]
    EmptyRule {
        /// Its name.
        id: String,
    },
    /// A fault that makes no sense.
    #[error("key ring: fault `{id}`: {rule}")]
    BadFault {
        /// Its name.
        id: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// An operation that the ring does not have.
    #[error(
        "key ring: `{given}` is not an operation of the key ring \
         (GenerateDataKey, Decrypt, ReEncrypt, DescribeKey; in deny rules also \
         ReEncryptFrom, ReEncryptTo; in faults also AssumeRole)"
    )]
    UnknownOperation {
        /// As given.
        given: String,
    },
}

impl RingError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
