//! Decorator: lets each call pass a gate first. An operator's throttle of the
//! KMS is one; the KMS does not know of throttles, nor they of it.

use std::sync::Arc;

use super::{CmkDescription, Dek, GeneratedKey, Kms, KmsError, SharedKms, Use, Wrapped};
use crate::ids::{CmkArn, JobId, OrgId};
use crate::scope::Scope;

/// What a call waits for before it is made.
#[async_trait::async_trait]
pub trait Gate: Send + Sync {
    /// Returns when a call for an organization, and for a job if it is of one,
    /// may be made. Never refuses; dropping the future gives the turn up.
    async fn pass(&self, org: &OrgId, job: Option<JobId>);
}

/// A KMS behind a gate. It stands outside of budget and retries: a call passes
/// once, however often it is tried.
pub struct Gated {
    inner: SharedKms,
    gate: Arc<dyn Gate>,
}

impl Gated {
    /// Puts a gate before `inner`.
    pub fn new(inner: SharedKms, gate: Arc<dyn Gate>) -> Self {
        Self { inner, gate }
    }
}

#[async_trait::async_trait]
impl Kms for Gated {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        self.gate.pass(scope.org(), why.job).await;
        self.inner.generate_data_key(cmk, scope, why).await
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError> {
        self.gate.pass(scope.org(), why.job).await;
        self.inner.decrypt(cmk, wrapped, scope, why).await
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError> {
        self.gate.pass(scope.org(), why.job).await;
        self.inner.re_encrypt(from, wrapped, to, scope, why).await
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        self.gate.pass(org, why.job).await;
        self.inner.describe(cmk, org, why).await
    }

    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, why: &Use) -> Result<String, KmsError> {
        self.gate.pass(org, why.job).await;
        self.inner.key_policy(cmk, org, why).await
    }
}
