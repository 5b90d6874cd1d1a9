//! Every error code of a KMS and what it means.
//!
//! The table is in two steps:
//!
//! 1. [`CODES`] and [`Cause::of`]: operation, code and message to a [`Cause`], one
//!    variant for each row of the table.
//! 2. [`Cause::class`] and [`Cause::patience`]: what a cause means, and how long it
//!    is tried again: one exhaustive `match` each. [`KmsError::blocked_reason`] gives the word it is listed under.
//!
//! A message's text only ever refines a code; the code alone already gives a
//! safe answer. A code this version does not know is parked and listed.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::{CmkDescription, CmkState};
use crate::ids::CmkArn;

/// `GenerateDataKey`, as the KMS and its logs name it.
pub const GENERATE_DATA_KEY: &str = "GenerateDataKey";
/// `Decrypt`.
pub const DECRYPT: &str = "Decrypt";
/// `ReEncrypt`.
pub const RE_ENCRYPT: &str = "ReEncrypt";
/// `DescribeKey`.
pub const DESCRIBE_KEY: &str = "DescribeKey";
/// `GetKeyPolicy`.
pub const GET_KEY_POLICY: &str = "GetKeyPolicy";
/// `AssumeRole` of the token service, which precedes calls into a customer's
/// account.
pub const ASSUME_ROLE: &str = "AssumeRole";

/// Our own code for an answer that is not what was asked: another CMK, a
/// plaintext that has not 32 bytes, a commitment that differs.
pub const RESPONSE_MISMATCH: &str = "ResponseMismatch";
/// Our own code for a call that got no answer: connection refused, dispatch
/// failed, time ran out.
pub const NO_RESPONSE: &str = "NoResponse";
/// Our own code for an answer that cannot be read: not what a KMS sends, so it
/// came from something on the way.
pub const UNREADABLE_RESPONSE: &str = "UnreadableResponse";
/// Our own code where the role for a CMK could not be read from the registry.
pub const ROLE_UNKNOWN: &str = "RoleUnknown";
/// Our own code where whatever gives us credentials did not do so in time.
pub const CREDENTIALS_PROVIDER_TIMEOUT: &str = "CredentialsProviderTimeout";
/// Our own code where there are no credentials, or fetching them failed.
pub const CREDENTIALS_PROVIDER_ERROR: &str = "CredentialsProviderError";

/// How an error of a KMS is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KmsClass {
    /// Try again after a wait; `throttled` also halves the budget.
    Transient {
        /// The KMS asks to be called less.
        throttled: bool,
    },
    /// The KMS refuses this use: a revocation until shown otherwise. The slice
    /// parks; whether the whole CMK is refused, a canary tells.
    Denied,
    /// The whole CMK cannot be used now (disabled, pending deletion, store
    /// disconnected): all slices that need it park.
    CmkUnusable,
    /// It was transient for longer than [`Patience`] allows: the slice parks as
    /// `kms_unavailable` or `credentials` and is tried again by itself.
    Unavailable,
    /// The customer no longer lets us assume the role: the organization parks.
    RoleDenied,
    /// The wrapped key is damaged, misplaced or answered wrongly: the key row and
    /// its cells are listed and left as they are.
    QuarantinedKey,
    /// The job cannot go on; the message says what to mend.
    FatalJob,
    /// The worker cannot go on (credentials, region): it exits and says why.
    FatalWorker,
    /// A code this version does not know: parked and listed, never dropped and
    /// never retried at once.
    Unknown,
}

/// Which of a job's CMKs a call was about. For `ReEncrypt`, `DescribeKey` on
/// both finds the side at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The CMK that the data is under.
    Source,
    /// The CMK that the data moves to.
    Target,
}

/// What is known around a failed call. `Default` is "nothing", and gives the
/// answer that loses nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstance {
    /// Which side the CMK is on, where it is known.
    pub side: Option<Side>,
    /// Time since the CMK was created, where it is known: a CMK younger than
    /// [`CREATION_SETTLES`] may not be known everywhere yet.
    pub cmk_age: Option<Duration>,
    /// The HTTP status of the answer, where there was one.
    pub http_status: Option<u16>,
}

/// How long a new CMK may be unknown to some of the KMS's servers.
pub const CREATION_SETTLES: Duration = Duration::from_secs(5 * 60);

/// How long replication of a multi-Region key may take.
const REPLICATION_SETTLES: Duration = Duration::from_secs(10 * 60);

/// Why a call failed: one variant for each row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Called too often.
    Throttled,
    /// The service or the way to it fails.
    Service,
    /// Credentials ran out or could not be fetched, or the clock is wrong.
    Credentials,
    /// Refused.
    AccessDenied,
    /// Refused by our own identity's policy, as the message says: not the
    /// customer's doing.
    OurPolicy,
    /// The CMK is disabled, or pending deletion: `DescribeKey` tells which.
    Disabled,
    /// The CMK waits for its deletion.
    PendingDeletion,
    /// Imported material expired or was deleted.
    PendingImport,
    /// The custom key store is disconnected.
    Disconnected,
    /// A multi-Region key is being created or updated.
    Replicating,
    /// The external key store does not answer or is unhealthy.
    StoreUnreachable,
    /// The external key store refuses, or does not know the key.
    StoreRefuses,
    /// The external key store says that what it got is corrupted: a flipped bit
    /// on the way, or damage.
    StoreCorrupted,
    /// The CMK is in a state that this version has no row for.
    OtherState,
    /// The wrap is damaged, or the context is not the one it was made under.
    InvalidCiphertext,
    /// The wrap was made by another CMK than the one named.
    IncorrectKey,
    /// There is no such CMK.
    NotFound,
    /// A grant token is not valid (any more).
    GrantToken,
    /// The request itself is wrong, or the CMK is of the wrong kind.
    BadRequest,
    /// We are not known, or may not use this Region at all.
    BadSigner,
    /// A dry run would have succeeded. Whoever asks for a dry run looks for this
    /// cause first; from any other call it is a bug.
    DryRun,
    /// The role in the customer's account may not be assumed.
    RoleDenied,
    /// The answer is not what was asked for.
    ResponseMismatch,
    /// A code without a row.
    Unknown,
}

/// Every code that has a row, with the row it has before its message is looked
/// at.
pub const CODES: &[(Cause, &[&str])] = &[
    (
        Cause::Throttled,
        &[
            "ThrottlingException",
            "Throttling",
            "RequestLimitExceeded",
            "TooManyRequestsException",
            "LimitExceededException",
        ],
    ),
    (
        Cause::Service,
        &[
            "KMSInternalException",
            "DependencyTimeoutException",
            "KeyUnavailableException",
            "InternalFailure",
            "InternalError",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "RequestTimeout",
            "RequestTimeoutException",
            NO_RESPONSE,
            UNREADABLE_RESPONSE,
            ROLE_UNKNOWN,
        ],
    ),
    (
        Cause::Credentials,
        &[
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            CREDENTIALS_PROVIDER_TIMEOUT,
            CREDENTIALS_PROVIDER_ERROR,
        ],
    ),
    (
        Cause::AccessDenied,
        &["AccessDeniedException", "AccessDenied"],
    ),
    (Cause::Disabled, &["DisabledException"]),
    (Cause::OtherState, &["KMSInvalidStateException"]),
    (Cause::InvalidCiphertext, &["InvalidCiphertextException"]),
    (Cause::IncorrectKey, &["IncorrectKeyException"]),
    (Cause::NotFound, &["NotFoundException"]),
    (Cause::GrantToken, &["InvalidGrantTokenException"]),
    (
        Cause::BadRequest,
        &[
            "InvalidKeyUsageException",
            "ValidationException",
            "InvalidArnException",
            "UnsupportedOperationException",
            "SerializationException",
        ],
    ),
    (
        Cause::BadSigner,
        &[
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "SignatureDoesNotMatch",
            "InvalidSignatureException",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "OptInRequired",
            "RegionDisabledException",
        ],
    ),
    (Cause::DryRun, &["DryRunOperationException"]),
    (Cause::ResponseMismatch, &[RESPONSE_MISMATCH]),
];

impl Cause {
    /// The row for an error. Together with [`CODES`] this is the one place that
    /// knows codes and texts.
    pub fn of(operation: &str, code: &str, message: &str) -> Self {
        let named = CODES.iter().find(|(_, codes)| codes.contains(&code));
        match named.map_or(Cause::Unknown, |(cause, _)| *cause) {
            Cause::AccessDenied if operation == ASSUME_ROLE => Cause::RoleDenied,
            Cause::AccessDenied if message.contains("identity-based policy") => Cause::OurPolicy,
            Cause::OtherState => Self::of_invalid_state(&message.to_ascii_lowercase()),
            cause => cause,
        }
    }

    /// The rows of `KMSInvalidStateException`, which differ by text only. The
    /// key store's texts come first: they also use words like "unavailable".
    fn of_invalid_state(message: &str) -> Self {
        let rows: [(&[&str], Cause); 7] = [
            (
                &["ciphertext or additional authenticated data is corrupted"],
                Cause::StoreCorrupted,
            ),
            (
                &[
                    "denied access",
                    "not enabled",
                    "could not find the external key",
                    "could not authenticate",
                ],
                Cause::StoreRefuses,
            ),
            (
                &[
                    "did not respond in time",
                    "not reachable",
                    "could not be reached",
                    "unhealthy",
                ],
                Cause::StoreUnreachable,
            ),
            (&["pending deletion"], Cause::PendingDeletion),
            (&["pending import"], Cause::PendingImport),
            (&["unavailable"], Cause::Disconnected),
            (&["creating", "updating"], Cause::Replicating),
        ];
        rows.iter()
            .find(|(texts, _)| texts.iter().any(|text| message.contains(text)))
            .map_or(Cause::OtherState, |(_, cause)| *cause)
    }

    /// How to treat it.
    pub fn class(self, around: &Circumstance) -> KmsClass {
        let transient = KmsClass::Transient { throttled: false };
        match self {
            Cause::Throttled => KmsClass::Transient { throttled: true },
            Cause::Service
            | Cause::Credentials
            | Cause::Replicating
            | Cause::StoreUnreachable
            | Cause::StoreCorrupted
            | Cause::GrantToken => transient,
            Cause::AccessDenied => KmsClass::Denied,
            Cause::RoleDenied => KmsClass::RoleDenied,
            Cause::Disabled
            | Cause::PendingDeletion
            | Cause::PendingImport
            | Cause::Disconnected
            | Cause::StoreRefuses
            | Cause::OtherState => KmsClass::CmkUnusable,
            Cause::InvalidCiphertext | Cause::IncorrectKey | Cause::ResponseMismatch => {
                KmsClass::QuarantinedKey
            }
            Cause::NotFound => match around.side {
                _ if around.cmk_age.is_some_and(|age| age < CREATION_SETTLES) => transient,
                Some(Side::Target) => KmsClass::FatalJob,
                // An unknown side parks: a job that waits can still be stopped,
                // one that failed has to be asked for again.
                Some(Side::Source) | None => KmsClass::CmkUnusable,
            },
            Cause::OurPolicy | Cause::BadRequest | Cause::DryRun => KmsClass::FatalJob,
            Cause::BadSigner => KmsClass::FatalWorker,
            Cause::Unknown if around.http_status.is_some_and(|status| status >= 500) => transient,
            Cause::Unknown if around.http_status == Some(429) => {
                KmsClass::Transient { throttled: true }
            }
            Cause::Unknown => KmsClass::Unknown,
        }
    }

    /// How long a transient error of this cause is tried again. Meaningless for
    /// other classes.
    pub fn patience(self) -> Patience {
        match self {
            // Fetch credentials afresh and try once more.
            Cause::Credentials => Patience::Retries(1),
            // Drop the token and try once without.
            Cause::GrantToken => Patience::Retries(1),
            // AWS has itself tried again once; three tries are ours.
            Cause::StoreUnreachable => Patience::Retries(2),
            Cause::StoreCorrupted => Patience::Retries(2),
            Cause::Replicating => Patience::AtMost(REPLICATION_SETTLES),
            Cause::NotFound => Patience::AtMost(CREATION_SETTLES),
            Cause::Throttled
            | Cause::Service
            | Cause::AccessDenied
            | Cause::OurPolicy
            | Cause::Disabled
            | Cause::PendingDeletion
            | Cause::PendingImport
            | Cause::Disconnected
            | Cause::StoreRefuses
            | Cause::OtherState
            | Cause::InvalidCiphertext
            | Cause::IncorrectKey
            | Cause::BadRequest
            | Cause::BadSigner
            | Cause::DryRun
            | Cause::RoleDenied
            | Cause::ResponseMismatch
            | Cause::Unknown => Patience::UntilGivenUp,
        }
    }

    /// What a transient error of this cause becomes when patience has run out.
    fn class_when_given_up(self) -> KmsClass {
        match self {
            Cause::StoreCorrupted => KmsClass::QuarantinedKey,
            Cause::GrantToken => KmsClass::Denied,
            Cause::StoreUnreachable | Cause::Replicating => KmsClass::CmkUnusable,
            // The side is not known here; parked is the answer that loses nothing.
            Cause::NotFound => KmsClass::CmkUnusable,
            _ => KmsClass::Unavailable,
        }
    }

    /// The word that a CMK which cannot be used is listed under.
    fn cmk_reason(self) -> &'static str {
        match self {
            Cause::Disabled => "cmk_disabled",
            Cause::PendingDeletion => "cmk_pending_deletion",
            Cause::PendingImport => "cmk_pending_import",
            Cause::Disconnected => "cmk_unavailable",
            Cause::Replicating => "cmk_creating",
            Cause::StoreUnreachable => "key_store_unreachable",
            Cause::StoreRefuses => "key_store_refuses",
            Cause::NotFound => "cmk_not_found",
            _ => "cmk_invalid_state",
        }
    }
}

/// How long a transient error is tried again before it parks. The give-up time
/// of the caller's retry policy bounds all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Up to the give-up time.
    UntilGivenUp,
    /// This many times.
    Retries(u32),
    /// This long, if the give-up time is not shorter.
    AtMost(Duration),
}

/// The word for a CMK that refuses even the canary. A refusal seen on a slice is
/// `revoked` until the canary is refused too; the error alone cannot tell.
pub const CMK_DENIED: &str = "cmk_denied";

/// As [`KmsError::side`], of a message alone.
pub(crate) fn side_named(message: &str, from: &CmkArn, to: &CmkArn) -> Option<Side> {
    let says =
        |source: &str, target: &str| match (message.contains(source), message.contains(target)) {
            (true, false) => Some(Side::Source),
            (false, true) => Some(Side::Target),
            _ => None,
        };
    says("kms:ReEncryptFrom", "kms:ReEncryptTo").or_else(|| says(from.as_str(), to.as_str()))
}

/// Decides how an error is treated.
pub fn classify(operation: &str, code: &str, message: &str, around: &Circumstance) -> KmsClass {
    Cause::of(operation, code, message).class(around)
}

/// An error of a KMS call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("KMS {operation}: {code}: {message}")]
pub struct KmsError {
    /// The operation, for example `Decrypt`.
    pub operation: &'static str,
    /// The KMS's own code, for example `AccessDeniedException`.
    pub code: String,
    /// The KMS's own words; ids only.
    pub message: String,
    /// How to treat it.
    pub class: KmsClass,
    /// The request's id at the KMS, if there was an answer.
    pub request_id: Option<String>,
}

impl KmsError {
    /// An error as the KMS gave it, classified.
    pub fn new(
        operation: &'static str,
        code: impl Into<String>,
        message: impl Into<String>,
        around: &Circumstance,
    ) -> Self {
        let (code, message) = (code.into(), message.into());
        let class = classify(operation, &code, &message, around);
        Self {
            operation,
            code,
            message,
            class,
            request_id: None,
        }
    }

    /// The same error with the request's id.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// The row of the table.
    pub fn cause(&self) -> Cause {
        Cause::of(self.operation, &self.code, &self.message)
    }

    /// Which CMK of a `ReEncrypt` the message is about, where it says so: by the
    /// permission that is missing, or by naming one of the two. `None` where it
    /// does not tell; a text only ever refines.
    pub fn side(&self, from: &CmkArn, to: &CmkArn) -> Option<Side> {
        side_named(&self.message, from, to)
    }

    /// Worth another try after a wait.
    pub fn is_transient(&self) -> bool {
        matches!(self.class, KmsClass::Transient { .. })
    }

    /// What the error is once nobody tries again. Other than transient errors
    /// stay as they are.
    #[must_use]
    pub fn given_up(mut self) -> Self {
        if self.is_transient() {
            self.class = self.cause().class_when_given_up();
        }
        self
    }

    /// A person has to look, besides what the class says: signs of tampering,
    /// and a CMK that is going or gone.
    pub fn alerts(&self) -> bool {
        matches!(
            self.cause(),
            Cause::IncorrectKey
                | Cause::ResponseMismatch
                | Cause::PendingDeletion
                | Cause::PendingImport
                | Cause::NotFound
        )
    }

    /// The short, stable word that parked work is listed under; `None` if the
    /// error does not park (transient, quarantined, fatal).
    ///
    /// `DisabledException` also comes for a CMK that is pending deletion: with
    /// its description at hand, use [`KmsError::blocked_reason_given`].
    pub fn blocked_reason(&self) -> Option<Cow<'static, str>> {
        let cause = self.cause();
        match self.class {
            KmsClass::Transient { .. }
            | KmsClass::QuarantinedKey
            | KmsClass::FatalJob
            | KmsClass::FatalWorker => None,
            KmsClass::Denied => Some("revoked".into()),
            KmsClass::RoleDenied => Some("role_denied".into()),
            KmsClass::Unavailable => Some(match cause {
                Cause::Credentials => "credentials".into(),
                _ => "kms_unavailable".into(),
            }),
            KmsClass::CmkUnusable => Some(cause.cmk_reason().into()),
            KmsClass::Unknown => Some(format!("unknown:{}", Printable(&self.code)).into()),
        }
    }

    /// [`KmsError::blocked_reason`], told more exactly by the CMK's description.
    pub fn blocked_reason_given(&self, cmk: &CmkDescription) -> Option<Cow<'static, str>> {
        match (self.class, self.cause(), cmk.state) {
            (KmsClass::CmkUnusable, Cause::Disabled, CmkState::PendingDeletion) => {
                Some(Cause::PendingDeletion.cmk_reason().into())
            }
            _ => self.blocked_reason(),
        }
    }
}

/// A code of unknown origin, fit for a list on a terminal: letters, digits and
/// `.`, `_`, `-`, at most 64 of them.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            .take(64)
            .try_for_each(|c| fmt::Write::write_char(f, c))
    }
}

#[cfg(test)]
pub(in crate::kms) mod tests;
