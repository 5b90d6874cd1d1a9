//! What can go wrong, by class and by a stable code. No error carries a byte of
//! a message or of a key.

use std::fmt;

use crate::clock::WriteTime;
use crate::crypto::CellError;
use crate::ids::{ChannelId, CmkArn, JobId, OrgId};
use crate::kms::{KmsClass, KmsError};
use crate::registry::{ChannelName, RegistryError};
use crate::store::{StoreError, StoreErrorClass};

/// How an error is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It may work in a moment: try again with growing waits.
    Transient,
    /// The owner of the master key has taken the right away, or the key cannot
    /// be used now. Show the message as not available; it comes back by itself
    /// when the owner allows it again.
    Blocked,
    /// The stored data cannot be trusted. It was left as it is; tell an operator.
    Quarantined,
    /// There is no such thing.
    NotFound,
    /// The channel has gone to another name, in another organization. Nothing is
    /// lost: ask for it under the name that the error carries.
    Moved,
    /// The request itself is wrong; sending it again is no use.
    Invalid,
    /// The process or the store is not set up right: stop and mend it.
    Fatal,
}

/// A name that a channel is being copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// The organization of the name asked for.
    pub org: OrgId,
    /// The name asked for.
    pub channel: ChannelId,
    /// The job that copies.
    pub job: JobId,
    /// The channel that is copied, which works under this name.
    pub from: (OrgId, ChannelId),
}

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moving {
            org,
            channel,
            job,
            from: (from_org, from_channel),
        } = self;
        write!(
            f,
            "channel `{from_channel}` of `{from_org}` is being moved to `{channel}` of `{org}` by job {job} and is still used under its old name"
        )
    }
}

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ErrorKind {
    /// The KMS refuses the use of the master key under this scope.
    #[error("the owner of {cmk} refuses its use for this data ({kms_code})")]
    Revoked {
        /// The master key.
        cmk: CmkArn,
        /// The KMS's own code.
        kms_code: String,
    },
    /// The master key cannot be used by anyone now.
    #[error("{cmk} cannot be used now ({kms_code})")]
    CmkUnusable {
        /// The master key.
        cmk: CmkArn,
        /// The KMS's own code.
        kms_code: String,
    },
    /// The KMS answered with a code this version does not know.
    #[error("the KMS answered for {cmk} with a code that this version does not know ({kms_code})")]
    KmsUnknown {
        /// The master key.
        cmk: CmkArn,
        /// The KMS's own code.
        kms_code: String,
    },
    /// Store or KMS did not answer, or asked to be called less.
    #[error("{what} is not available now ({detail})")]
    Unavailable {
        /// `store` or `KMS`.
        what: &'static str,
        /// Its own words; ids only.
        detail: String,
    },
    /// The registry changed again and again while the operation ran.
    #[error("the registry kept changing while the operation ran")]
    Stale,
    /// The cell or its key cannot be trusted.
    #[error(transparent)]
    Quarantined(CellError),
    /// The KMS says that the wrapped key is damaged or misplaced.
    #[error("the KMS does not open the wrapped key of this data ({kms_code})")]
    KeyDamaged {
        /// The KMS's own code.
        kms_code: String,
    },
    /// The registry has no such organization or channel, or has the channel in
    /// another workspace.
    #[error("{0}")]
    NotFound(String),
    /// A channel is being copied to this name, which cannot be used before that
    /// has come far enough. The channel works under its old name.
    #[error("{0}")]
    Moving(Box<Moving>),
    /// The channel has gone to another organization. The client does not follow
    /// it there by itself: whoever may read in one organization need not be
    /// allowed to in the other.
    #[error("the channel has moved to `{0}`")]
    MovedTo(Box<ChannelName>),
    /// An edit found no message: it was deleted, has vanished, or never was.
    #[error("there is no message to edit")]
    Absent,
    /// The message cannot be sealed as asked.
    #[error(transparent)]
    Invalid(CellError),
    /// The expiry asked for has passed already; delete the message instead.
    #[error("the expiry asked for has passed already")]
    ExpiryPast,
    /// A sealed cell did not open to what was sealed; it was not written.
    #[error("a sealed cell did not open to what was sealed; nothing was written")]
    SelfCheck,
    /// The process or the store is not set up right.
    #[error("{0}")]
    Fatal(String),
}

impl ErrorKind {
    /// How to treat it.
    pub fn class(&self) -> ErrorClass {
        match self {
            ErrorKind::Revoked { .. }
            | ErrorKind::CmkUnusable { .. }
            | ErrorKind::KmsUnknown { .. } => ErrorClass::Blocked,
            ErrorKind::Unavailable { .. } | ErrorKind::Stale | ErrorKind::Moving(_) => {
                ErrorClass::Transient
            }
            ErrorKind::MovedTo(_) => ErrorClass::Moved,
            ErrorKind::Quarantined(_) | ErrorKind::KeyDamaged { .. } => ErrorClass::Quarantined,
            ErrorKind::NotFound(_) | ErrorKind::Absent => ErrorClass::NotFound,
            ErrorKind::Invalid(_) | ErrorKind::ExpiryPast => ErrorClass::Invalid,
            ErrorKind::SelfCheck | ErrorKind::Fatal(_) => ErrorClass::Fatal,
        }
    }

    /// The stable code. For a quarantined cell it is the reason, as operators
    /// see it in the list of failures.
    pub fn code(&self) -> &'static str {
        match self {
            ErrorKind::Revoked { .. } => "revoked",
            ErrorKind::CmkUnusable { .. } => "cmk_unusable",
            ErrorKind::KmsUnknown { .. } => "kms_unknown",
            ErrorKind::Unavailable { .. } => "unavailable",
            ErrorKind::Stale => "stale",
            ErrorKind::Quarantined(e) | ErrorKind::Invalid(e) => e.code(),
            ErrorKind::KeyDamaged { .. } => "key_damaged",
            ErrorKind::NotFound(_) => "not_found",
            ErrorKind::Moving(_) => "moving",
            ErrorKind::MovedTo(_) => "moved_to",
            ErrorKind::Absent => "absent",
            ErrorKind::ExpiryPast => "expiry_past",
            ErrorKind::SelfCheck => "self_check",
            ErrorKind::Fatal(_) => "fatal",
        }
    }

    /// What a KMS's refusal means to a client. `cmk` is the key asked for.
    pub(crate) fn of_kms(error: &KmsError, cmk: &CmkArn) -> Self {
        let (cmk, kms_code) = (cmk.clone(), error.code.clone());
        match error.class {
            KmsClass::Transient { .. } | KmsClass::Unavailable => ErrorKind::Unavailable {
                what: "KMS",
                detail: kms_code,
            },
            KmsClass::Denied | KmsClass::RoleDenied => ErrorKind::Revoked { cmk, kms_code },
            KmsClass::CmkUnusable => ErrorKind::CmkUnusable { cmk, kms_code },
            KmsClass::QuarantinedKey => ErrorKind::KeyDamaged { kms_code },
            KmsClass::Unknown => ErrorKind::KmsUnknown { cmk, kms_code },
            KmsClass::FatalJob | KmsClass::FatalWorker => ErrorKind::Fatal(error.to_string()),
        }
    }

    /// Whether an answer read afresh from registry and key table could be
    /// another one. Such a refusal is not believed from a cached view.
    pub(crate) fn may_be_of_an_old_view(&self) -> bool {
        match self {
            ErrorKind::Quarantined(e) => matches!(
                e,
                CellError::EpochAboveNewest { .. }
                    | CellError::EpochBelowFloor { .. }
                    | CellError::WrapBelowFloor { .. }
                    | CellError::KeyRowMissing(_)
                    | CellError::ScopeMismatch
                    | CellError::CmkNotAllowed(_)
            ),
            ErrorKind::NotFound(_) | ErrorKind::Moving(_) | ErrorKind::MovedTo(_) => true,
            _ => false,
        }
    }
}

impl From<StoreError> for ErrorKind {
    fn from(error: StoreError) -> Self {
        match error.class {
            StoreErrorClass::Transient => ErrorKind::Unavailable {
                what: "store",
                detail: error.message,
            },
            StoreErrorClass::Invalid | StoreErrorClass::Fatal => {
                ErrorKind::Fatal(error.to_string())
            }
        }
    }
}

impl From<RegistryError> for ErrorKind {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Store(error) => error.into(),
            RegistryError::UnknownOrg(_)
            | RegistryError::UnknownChannel { .. }
            | RegistryError::WrongWorkspace { .. } => ErrorKind::NotFound(error.to_string()),
            RegistryError::Contended(_) | RegistryError::NotMine(_) => ErrorKind::Unavailable {
                what: "store",
                detail: error.to_string(),
            },
            RegistryError::OrgExists(_)
            | RegistryError::Refused(_)
            | RegistryError::WindowOpen { .. }
            | RegistryError::NoWindow(_)
            | RegistryError::NoTiming
            | RegistryError::Timing(_)
            | RegistryError::Malformed { .. } => ErrorKind::Fatal(error.to_string()),
        }
    }
}

impl From<CellError> for ErrorKind {
    fn from(error: CellError) -> Self {
        ErrorKind::Quarantined(error)
    }
}

/// An operation that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {kind}", kind.code())]
pub struct ClientError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// For a write, edit or delete: the write time under which it may have
    /// happened all the same, because something was sent and not answered.
    /// `None`: nothing was sent, it did not happen.
    pub perhaps_written: Option<WriteTime>,
}

impl ClientError {
    /// How to treat it.
    pub fn class(&self) -> ErrorClass {
        self.kind.class()
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    pub(crate) fn after_sending(kind: ErrorKind, at: WriteTime) -> Self {
        Self {
            kind,
            perhaps_written: Some(at),
        }
    }
}

impl<E: Into<ErrorKind>> From<E> for ClientError {
    fn from(kind: E) -> Self {
        Self {
            kind: kind.into(),
            perhaps_written: None,
        }
    }
}
