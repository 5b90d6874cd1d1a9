//! Decorator: an audit record for every call to a KMS, whatever comes of it
//! (I16).
//!
//! Put it around the backend and inside the decorator that retries, so that
//! each attempt has its record. It does not wait for the disk: whoever makes
//! something durable that depends on the call awaits the log first.

use std::time::Instant;

use super::caller::Callers;
use super::codes::{DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT};
use super::{
    Answered, CmkDescription, Dek, GeneratedKey, Kms, KmsBackend, KmsClass, KmsError, Use, Wrapped,
};
use crate::audit::{AuditLog, Outcome, Record, RecordType};
use crate::ids::{CmkArn, OrgId};
use crate::scope::Scope;
use crate::telemetry::metrics::{KMS_CALL_SECONDS, KMS_CALLS, KMS_IN_FLIGHT};

/// A KMS whose every call is recorded.
pub struct Audited<B> {
    inner: B,
    log: AuditLog,
    callers: Option<Callers>,
}

impl<B> Audited<B> {
    /// Records the calls of `inner` in `log`. `callers` says which account
    /// calls, where the KMS has such a thing.
    pub fn new(inner: B, log: AuditLog, callers: Option<Callers>) -> Self {
        Self {
            inner,
            log,
            callers,
        }
    }

    /// A call that is about to be made, or the refusal to make it: what cannot
    /// be recorded is not done.
    /// The caller is that for `called`, which of two CMKs is the target.
    async fn begin(
        &self,
        operation: &'static str,
        (org, called): (&OrgId, &CmkArn),
        cmk: &CmkArn,
        why: &Use,
        fill: impl FnOnce(Record) -> Record + Send,
    ) -> Result<Call, KmsError> {
        let caller = match &self.callers {
            Some(callers) => Some(callers.of(org, called).await),
            None => None,
        };
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
        record.attempt = Some(why.attempt);
        if let Some(caller) = caller {
            record.caller_account = Some(caller.account);
            record.principal = caller.principal;
        }
        metrics::gauge!(KMS_IN_FLIGHT).increment(1);
        Ok(Call {
            log: self.log.clone(),
            operation,
            started: Instant::now(),
            record: Some(record),
        })
    }
}

/// A call under way. If its future is dropped (a timeout around it, a shutdown)
/// the KMS may still carry it out, so that too is recorded.
struct Call {
    log: AuditLog,
    operation: &'static str,
    started: Instant,
    record: Option<Record>,
}

impl Call {
    fn end<T>(mut self, result: Result<Answered<T>, KmsError>) -> Result<T, KmsError> {
        if let Some(mut record) = self.record.take() {
            match &result {
                Ok(answer) => {
                    record.kms_request_id = answer.request_id.clone();
                    record.key_material_id = answer.key_material_id.clone();
                }
                Err(error) => {
                    // Where the role could not be assumed, the KMS was not called.
                    if error.operation != self.operation {
                        record.action = error.operation.into();
                    }
                    record = record.ended(error.class.into(), Some(error.code.clone()));
                    record.kms_request_id = error.request_id.clone();
                }
            }
            self.write(record);
        }
        result.map(|answer| answer.value)
    }

    fn write(&self, mut record: Record) {
        let took = self.started.elapsed();
        record.latency_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        // Every record of a call has an outcome; an intent is never written here.
        let outcome = record.outcome.map_or("ok", Outcome::as_str);
        self.log.record(record);
        metrics::gauge!(KMS_IN_FLIGHT).decrement(1);
        metrics::counter!(KMS_CALLS, "operation" => self.operation, "outcome" => outcome)
            .increment(1);
        metrics::histogram!(KMS_CALL_SECONDS, "operation" => self.operation).record(took);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.write(record.ended(Outcome::Transient, Some("Cancelled".to_owned())));
        }
    }
}

#[async_trait::async_trait]
impl<B: KmsBackend> Kms for Audited<B> {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        let by = (scope.org(), cmk);
        let call = self
            .begin(GENERATE_DATA_KEY, by, cmk, why, |r| r.under(scope))
            .await?;
        call.end(self.inner.generate_data_key(cmk, scope).await)
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError> {
        let by = (scope.org(), cmk);
        let call = self
            .begin(DECRYPT, by, cmk, why, |r| r.under(scope))
            .await?;
        call.end(self.inner.decrypt(cmk, wrapped, scope).await)
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError> {
        let by = (scope.org(), to);
        let call = self
            .begin(RE_ENCRYPT, by, from, why, |r| {
                let mut record = r.under(scope);
                record.cmk_to = Some(to.clone());
                record
            })
            .await?;
        call.end(self.inner.re_encrypt(from, wrapped, to, scope).await)
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        let call = self
            .begin(DESCRIBE_KEY, (org, cmk), cmk, why, |mut record| {
                record.org = Some(org.clone());
                record
            })
            .await?;
        call.end(self.inner.describe(cmk, org).await)
    }

    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, why: &Use) -> Result<String, KmsError> {
        let call = self
            .begin(GET_KEY_POLICY, (org, cmk), cmk, why, |mut record| {
                record.org = Some(org.clone());
                record
            })
            .await?;
        call.end(self.inner.key_policy(cmk, org).await)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use zeroize::Zeroizing;

    use super::*;
    use crate::audit::Origin;
    use crate::clock::SystemClock;
    use crate::crypto::KeyId;
    use crate::ids::JobId;
    use crate::kms::caller::Caller;
    use crate::kms::{CmkState, ReasonCode};

    /// What the KMS of a test does.
    #[derive(Clone, Copy)]
    enum Answer {
        Ok,
        Deny,
        Hang,
    }

    struct Scripted(Answer);

    impl Scripted {
        async fn answer(&self, operation: &'static str) -> Result<(), KmsError> {
            match self.0 {
                Answer::Ok => Ok(()),
                Answer::Deny => Err(KmsError {
                    operation,
                    code: "AccessDeniedException".into(),
                    message: "no".into(),
                    class: KmsClass::Denied,
                    request_id: Some("req-1".into()),
                }),
                Answer::Hang => std::future::pending().await,
            }
        }

        fn wrap(cmk: &CmkArn) -> Wrapped {
            Wrapped {
                cmk: cmk.clone(),
                bytes: vec![0xEE; 9],
                key_material_id: Some("m1".into()),
            }
        }
    }

    const DEK: [u8; 32] = [0xDD; 32];

    fn answered<T>(value: T, key_material_id: Option<&str>) -> Answered<T> {
        Answered {
            value,
            request_id: Some("req-0".into()),
            key_material_id: key_material_id.map(str::to_owned),
        }
    }

    #[async_trait::async_trait]
    impl KmsBackend for Scripted {
        async fn generate_data_key(
            &self,
            cmk: &CmkArn,
            _: &Scope,
        ) -> Result<Answered<GeneratedKey>, KmsError> {
            self.answer("GenerateDataKey").await?;
            let dek = Dek::new(Zeroizing::new(DEK));
            let wrapped = Self::wrap(cmk);
            Ok(answered(GeneratedKey { dek, wrapped }, Some("m1")))
        }

        async fn decrypt(
            &self,
            _: &CmkArn,
            _: &[u8],
            _: &Scope,
        ) -> Result<Answered<Dek>, KmsError> {
            self.answer("Decrypt").await?;
            Ok(answered(Dek::new(Zeroizing::new(DEK)), Some("m0")))
        }

        async fn re_encrypt(
            &self,
            _: &CmkArn,
            _: &[u8],
            to: &CmkArn,
            _: &Scope,
        ) -> Result<Answered<Wrapped>, KmsError> {
            self.answer("ReEncrypt").await?;
            Ok(answered(Self::wrap(to), Some("m1")))
        }

        async fn describe(
            &self,
            cmk: &CmkArn,
            _: &OrgId,
        ) -> Result<Answered<CmkDescription>, KmsError> {
            self.answer("DescribeKey").await?;
            let described = CmkDescription {
                arn: cmk.clone(),
                state: CmkState::Enabled,
                symmetric: true,
                deletion_ms: None,
                replicas: Vec::new(),
            };
            Ok(answered(described, None))
        }

        async fn key_policy(&self, _: &CmkArn, _: &OrgId) -> Result<Answered<String>, KmsError> {
            self.answer("GetKeyPolicy").await?;
            Ok(answered("{}".to_owned(), None))
        }
    }

    fn arn(n: u8) -> CmkArn {
        CmkArn::new(format!("arn:aws:kms:eu-west-1:111122223333:key/k{n}")).unwrap()
    }

    fn scope() -> Scope {
        Scope::Search {
            org: OrgId::new("acme").unwrap(),
        }
    }

    fn why() -> Use {
        let mut why = Use::new(ReasonCode::Rekey, "yearly rotation");
        why.job = Some(JobId::random());
        why.task = Some(("4".into(), 2));
        why.key_id = Some(KeyId([7; 16]));
        why
    }

    fn open(dir: &Path) -> AuditLog {
        let origin = Origin::here("test", "caller-1", None);
        AuditLog::open(dir, origin, SystemClock::shared()).unwrap()
    }

    fn audited(answer: Answer, log: &AuditLog) -> Audited<Scripted> {
        let caller = Callers::Always(Caller::of_account("444455556666"));
        Audited::new(Scripted(answer), log.clone(), Some(caller))
    }

    fn records(log: &AuditLog) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let all = text.lines().map(|l| serde_json::from_str(l).unwrap());
        all.filter(|l: &serde_json::Value| l["type"] == "kms")
            .collect()
    }

    async fn call_all(kms: &dyn Kms) {
        let (scope, why) = (scope(), why());
        let _ = kms.generate_data_key(&arn(1), &scope, &why).await;
        let _ = kms.decrypt(&arn(1), &[0xEE; 9], &scope, &why).await;
        let _ = kms
            .re_encrypt(&arn(1), &[0xEE; 9], &arn(2), &scope, &why)
            .await;
        let _ = kms.describe(&arn(1), scope.org(), &why).await;
    }

    #[tokio::test]
    async fn every_call_has_its_record_whatever_comes_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        call_all(&audited(Answer::Ok, &log)).await;
        call_all(&audited(Answer::Deny, &log)).await;
        log.durable().await.unwrap();

        let got = records(&log);
        let actions = ["GenerateDataKey", "Decrypt", "ReEncrypt", "DescribeKey"];
        assert_eq!(got.len(), 8);
        for (n, record) in got.iter().enumerate() {
            let denied = n >= 4;
            assert_eq!(record["action"], actions[n % 4]);
            assert_eq!(record["phase"], "result");
            assert_eq!(record["outcome"], if denied { "blocked" } else { "ok" });
            assert_eq!(record.get("code").is_some(), denied);
            let request = if denied { "req-1" } else { "req-0" };
            assert_eq!(record["kms_request_id"], request);
            assert_eq!(record["attempt"], 1);
            assert!(record["latency_ms"].is_u64());
            assert_eq!(record["org"], "acme");
            assert_eq!(record["cmk"], arn(1).as_str());
            assert_eq!(record["region"], "eu-west-1");
            assert_eq!(record["caller_account"], "444455556666");
            assert_eq!(record["principal"], "caller-1");
            assert_eq!(record["reason_code"], "rekey");
            assert_eq!(record["key_id"], "07".repeat(16));
            assert_eq!(record["token"], 2);
            assert_eq!(record.get("cmk_to").is_some(), n % 4 == 2);
            let context = serde_json::json!(scope().context());
            assert_eq!(record.get("context"), (n % 4 != 3).then_some(&context));
            assert_eq!(record.get("key_material_id").is_some(), matches!(n, 0..=2));
        }
    }

    #[tokio::test]
    async fn neither_a_key_nor_a_wrapped_key_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        call_all(&audited(Answer::Ok, &log)).await;
        log.close().await.unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap().to_lowercase();
        for marker in ["dddddd", "eeeeee", "221,221", "238,238", "3d3d", "7u7u"] {
            assert!(!text.contains(marker), "{marker}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let kms = audited(Answer::Hang, &log);
        let (arn, scope, why) = (arn(1), scope(), why());
        let mut call = kms.decrypt(&arn, &[], &scope, &why);
        assert!(futures::poll!(call.as_mut()).is_pending());
        drop(call);
        log.durable().await.unwrap();
        let got = records(&log);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0]["outcome"], "transient");
        assert_eq!(got[0]["code"], "Cancelled");
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_done() {
        struct Full;
        impl crate::audit::Sink for Full {
            fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
                if lines.windows(7).any(|w| w == b"\"start\"") {
                    return Ok(());
                }
                Err(std::io::Error::other("no space left"))
            }
            fn sync(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let origin = Origin::here("test", "caller-1", None);
        let log = AuditLog::with_sink(Box::new(Full), origin, SystemClock::shared()).unwrap();
        log.record(Record::new(RecordType::Verify, "scan"));
        assert!(log.durable().await.is_err());
        // `Hang` would never answer: the call must not reach it.
        let kms = audited(Answer::Hang, &log);
        let error = kms
            .decrypt(&arn(1), &[], &scope(), &why())
            .await
            .err()
            .unwrap();
        assert_eq!(error.class, KmsClass::FatalWorker);
        assert_eq!(error.code, "AuditLogUnavailable");
    }
}
