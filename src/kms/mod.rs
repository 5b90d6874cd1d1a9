//! Key management services: one trait, and the backends and decorators that
//! keep its promises.
//!
//! | file | what |
//! |---|---|
//! | `codes` | every error code of a KMS and what it means, decided in one place |
//! | `backend` | what a backend implements: one attempt, with all that the answer told |
//! | `aws` | AWS KMS |
//! | `local` | the local key ring: a file, for trial and tests |
//! | `caller` | who calls: ourselves, or a role of the customer's |
//! | `budget` | decorator: rate budget per account and region, and the only retries |
//! | `outages` | says in the log when a KMS begins not to answer, and when it answers again |
//! | `audited` | decorator: an audit record for every call |
//! | `gated` | decorator: a call passes a gate first, such as an operator's throttle |
//! | `trial` | is a CMK as a rekey needs it, by canaries |
//! | `conformance` | one suite for every backend |

pub mod audited;
pub mod aws;
pub mod backend;
pub mod budget;
pub mod caller;
pub mod codes;
pub mod conformance;
mod gated;
pub mod local;
mod outages;
pub mod trial;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::KeyId;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::scope::Scope;

pub use backend::{Answered, KmsBackend};
pub use codes::{KmsClass, KmsError};
pub use gated::{Gate, Gated};

/// A KMS that several parts share.
pub type SharedKms = Arc<dyn Kms>;

/// The 32 bytes of a data key, wiped when dropped. No `Debug`, no `Clone`, no
/// way to print it.
pub struct Dek(Zeroizing<[u8; 32]>);

impl Dek {
    /// Takes the bytes; the caller wipes its own copy.
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the key derivation only.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A wrapped key as a KMS returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The CMK that wrapped it, as the response names it. Equal to the one asked.
    pub cmk: CmkArn,
    /// The wrapped bytes, 1 to 6144.
    pub bytes: Vec<u8>,
    /// Which key material of the CMK was used, where the KMS tells.
    pub key_material_id: Option<String>,
}

/// A new data key, in clear and wrapped.
pub struct GeneratedKey {
    /// The key in clear.
    pub dek: Dek,
    /// The key as it is stored.
    pub wrapped: Wrapped,
}

/// The state a KMS reports for a CMK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CmkState {
    /// Usable.
    Enabled,
    /// Disabled by its owner.
    Disabled,
    /// Will be deleted; `deletion_ms` says when.
    PendingDeletion,
    /// Imported material has expired or was deleted.
    PendingImport,
    /// The custom key store is disconnected.
    Unavailable,
    /// Being made or replicated.
    Creating,
}

/// What `DescribeKey` tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CmkDescription {
    /// The full ARN, as the response names it.
    pub arn: CmkArn,
    /// The state.
    pub state: CmkState,
    /// A symmetric encryption key: the only kind that can wrap data keys.
    pub symmetric: bool,
    /// When a pending deletion takes place, Unix milliseconds.
    pub deletion_ms: Option<u64>,
    /// Other regions that hold a replica of the key.
    pub replicas: Vec<CmkArn>,
}

/// Why a key is used: the reason codes of the audit record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReasonCode {
    /// A person reads a message.
    #[serde(rename = "message.read")]
    MessageRead,
    /// A person writes a message.
    #[serde(rename = "message.write")]
    MessageWrite,
    /// A person edits a message.
    #[serde(rename = "message.edit")]
    MessageEdit,
    /// A link is shown with a preview.
    #[serde(rename = "unfurl")]
    Unfurl,
    /// A notification is sent.
    #[serde(rename = "notify")]
    Notify,
    /// Data is exported.
    #[serde(rename = "export")]
    Export,
    /// Data is imported.
    #[serde(rename = "import")]
    Import,
    /// A rekey job works.
    #[serde(rename = "rekey")]
    Rekey,
    /// A channel move works.
    #[serde(rename = "channel_move")]
    ChannelMove,
    /// A scan proves.
    #[serde(rename = "verify")]
    Verify,
    /// A CMK is tried.
    #[serde(rename = "canary")]
    Canary,
    /// An organization or CMK is entered in the registry.
    #[serde(rename = "enrol")]
    Enrol,
    /// A finished rekey's old wraps are deleted.
    #[serde(rename = "retire")]
    Retire,
}

/// Why and for whom a key is used. Travels with every KMS call and every cache
/// hit into the audit record.
#[derive(Debug, Clone)]
pub struct Use {
    /// The reason code.
    pub code: ReasonCode,
    /// The reason in words, at most 200 characters. Never message text.
    pub reason: String,
    /// The job that asked, if a job did.
    pub job: Option<JobId>,
    /// Who asked for the job.
    pub requested_by: Option<String>,
    /// An opaque id of the person on whose behalf, if any.
    pub end_user: Option<String>,
    /// The task and its fencing token, for a worker.
    pub task: Option<(String, u64)>,
    /// The data key the call is about, where it has a key row already.
    pub key_id: Option<KeyId>,
    /// Which attempt of one call it is, from 1. The decorator that retries
    /// counts; nobody else sets it.
    pub attempt: u32,
}

impl Use {
    /// A use with a code and a reason and nothing else.
    pub fn new(code: ReasonCode, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        Self {
            code,
            reason: reason.chars().take(200).collect(),
            job: None,
            requested_by: None,
            end_user: None,
            task: None,
            key_id: None,
            attempt: 1,
        }
    }

    /// The same use, at a later attempt.
    #[must_use]
    pub fn at_attempt(&self, attempt: u32) -> Self {
        Self {
            attempt,
            ..self.clone()
        }
    }
}

/// A key management service.
///
/// # Contract
///
/// The context sent is exactly [`Scope::context`]; a wrap made under one context
/// does not open under another. Every answer is checked before it is returned:
/// the response names the CMK that was asked for, a plaintext key has 32 bytes;
/// otherwise the error is of class `QuarantinedKey` and nothing is returned.
///
/// A backend implements [`KmsBackend`] and makes one attempt. Retries, rate
/// budgets and audit records are decorators ([`budget`], [`audited`]), so that
/// there is one of each.
///
/// There is no Encrypt: data keys are made by the KMS.
///
/// Errors carry the KMS's own code and a class from [`codes::classify`].
#[async_trait::async_trait]
pub trait Kms: Send + Sync {
    /// Makes a data key of 32 bytes.
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError>;

    /// Unwraps a data key with the CMK named; never with another.
    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError>;

    /// Unwraps under `from` and wraps under `to` inside the KMS; the plaintext
    /// key does not leave it. The scope stays.
    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError>;

    /// Describes a CMK. `org` is the organization on whose behalf it is asked.
    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError>;

    /// The key policy of a CMK, a document of JSON as its owner wrote it. Where
    /// it may not be read the error is of class `Denied`.
    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, why: &Use) -> Result<String, KmsError>;
}
