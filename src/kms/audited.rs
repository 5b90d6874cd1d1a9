//! Decorator: an audit record for every call to a KMS, whatever comes of it
//! (I16).
//!
//! Put it around the backend and inside the decorator that retries, so that
//! each attempt has its record. It does not wait for the disk: whoever makes
//! something durable that depends on the call awaits the log first.

use std::time::Instant;

use super::{CmkDescription, Dek, GeneratedKey, Kms, KmsClass, KmsError, Use, Wrapped};
use crate::audit::{AuditLog, Outcome, Record, RecordType};
use crate::ids::{CmkArn, OrgId};
use crate::scope::Scope;

/// A KMS whose every call is recorded.
pub struct Audited<K> {
    inner: K,
    log: AuditLog,
    caller_account: Option<String>,
}

impl<K> Audited<K> {
    /// Records the calls of `inner` in `log`. `caller_account` is the account
    /// that calls, where the KMS has such a thing.
    pub fn new(inner: K, log: AuditLog, caller_account: Option<String>) -> Self {
        Self {
            inner,
            log,
            caller_account,
        }
    }

    /// A call that is about to be made, or the refusal to make it: what cannot
    /// be recorded is not done.
    fn begin(
        &self,
        operation: &'static str,
        cmk: &CmkArn,
        why: &Use,
        fill: impl FnOnce(Record) -> Record,
    ) -> Result<Call, KmsError> {
        self.log.check().map_err(|e| KmsError {
            operation,
            code: "AuditLogUnavailable".to_owned(),
            message: e.to_string(),
            class: KmsClass::FatalWorker,
            request_id: None,
        })?;
        let mut record = fill(Record::new(RecordType::Kms, operation).because(why));
        record.cmk = Some(cmk.clone());
        record.region = Some(cmk.region().to_owned());
        record.caller_account = self.caller_account.clone();
        Ok(Call {
            log: self.log.clone(),
            started: Instant::now(),
            record: Some(record),
        })
    }
}

/// A call under way. If its future is dropped (a timeout around it, a shutdown)
/// the KMS may still carry it out, so that too is recorded.
struct Call {
    log: AuditLog,
    started: Instant,
    record: Option<Record>,
}

impl Call {
    fn end<T>(
        mut self,
        result: Result<T, KmsError>,
        fill: impl FnOnce(&mut Record, &T),
    ) -> Result<T, KmsError> {
        if let Some(mut record) = self.record.take() {
            match &result {
                Ok(answer) => fill(&mut record, answer),
                Err(error) => {
                    record = record.ended(error.class.into(), Some(error.code.clone()));
                    record.kms_request_id = error.request_id.clone();
                }
            }
            self.write(record);
        }
        result
    }

    fn write(&self, mut record: Record) {
        let ms = self.started.elapsed().as_millis();
        record.latency_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        self.log.record(record);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.write(record.ended(Outcome::Transient, Some("Cancelled".to_owned())));
        }
    }
}

fn wrapped(record: &mut Record, answer: &Wrapped) {
    record.key_material_id = answer.key_material_id.clone();
}

#[async_trait::async_trait]
impl<K: Kms> Kms for Audited<K> {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        let call = self.begin("GenerateDataKey", cmk, why, |r| r.under(scope))?;
        let result = self.inner.generate_data_key(cmk, scope, why).await;
        call.end(result, |record, key| wrapped(record, &key.wrapped))
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError> {
        let call = self.begin("Decrypt", cmk, why, |r| r.under(scope))?;
        let result = self.inner.decrypt(cmk, wrapped, scope, why).await;
        call.end(result, |_, _| {})
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        bytes: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError> {
        let call = self.begin("ReEncrypt", from, why, |r| {
            let mut record = r.under(scope);
            record.cmk_to = Some(to.clone());
            record
        })?;
        let result = self.inner.re_encrypt(from, bytes, to, scope, why).await;
        call.end(result, wrapped)
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        let call = self.begin("DescribeKey", cmk, why, |mut record| {
            record.org = Some(org.clone());
            record
        })?;
        let result = self.inner.describe(cmk, org, why).await;
        call.end(result, |_, _| {})
    }
}
