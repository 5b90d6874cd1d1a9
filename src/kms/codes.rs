//! Every error code of a KMS and what it means.

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
