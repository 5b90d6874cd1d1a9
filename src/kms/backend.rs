//! What a backend implements: one attempt at one call, with all that the answer
//! told. [`Kms`] is what everyone else uses.

use super::{CmkDescription, Dek, GeneratedKey, Kms, KmsError, Use, Wrapped};
use crate::ids::{CmkArn, OrgId};
use crate::scope::Scope;

/// An answer, with what the audit record says of it. No `Debug`: the value may
/// be a key.
pub struct Answered<T> {
    /// What was asked for.
    pub value: T,
    /// The request's id at the KMS (`requestID` in CloudTrail).
    pub request_id: Option<String>,
    /// Which key material of the CMK was used, where the KMS tells; of two CMKs,
    /// of the one that wraps.
    pub key_material_id: Option<String>,
}

impl<T> Answered<T> {
    /// An answer of which nothing more is known.
    pub fn plain(value: T) -> Self {
        Self {
            value,
            request_id: None,
            key_material_id: None,
        }
    }
}

/// A key management service, as its backend sees it. The contract is that of
/// [`Kms`]; here each call is one attempt, and reasons are not known.
#[async_trait::async_trait]
pub trait KmsBackend: Send + Sync {
    /// See [`Kms::generate_data_key`].
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<GeneratedKey>, KmsError>;

    /// See [`Kms::decrypt`].
    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<Answered<Dek>, KmsError>;

    /// See [`Kms::re_encrypt`].
    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<Wrapped>, KmsError>;

    /// See [`Kms::describe`].
    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
    ) -> Result<Answered<CmkDescription>, KmsError>;

    /// See [`Kms::key_policy`].
    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId) -> Result<Answered<String>, KmsError>;
}

/// A backend alone, without records, budget or retries: for its own tests.
#[async_trait::async_trait]
impl<B: KmsBackend> Kms for B {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        _why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        let answer = KmsBackend::generate_data_key(self, cmk, scope).await;
        answer.map(|answered| answered.value)
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        _why: &Use,
    ) -> Result<Dek, KmsError> {
        let answer = KmsBackend::decrypt(self, cmk, wrapped, scope).await;
        answer.map(|answered| answered.value)
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        _why: &Use,
    ) -> Result<Wrapped, KmsError> {
        let answer = KmsBackend::re_encrypt(self, from, wrapped, to, scope).await;
        answer.map(|answered| answered.value)
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        _why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        let answer = KmsBackend::describe(self, cmk, org).await;
        answer.map(|answered| answered.value)
    }

    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, _why: &Use) -> Result<String, KmsError> {
        let answer = KmsBackend::key_policy(self, cmk, org).await;
        answer.map(|answered| answered.value)
    }
}
