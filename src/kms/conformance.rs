//! One suite for every KMS backend: what the rest of rekeyd relies on.
//!
//! It is a library, so that the embedded key ring and AWS KMS are held to the
//! same lines. The suite is in three groups, by what a backend's test bench can
//! do: a stand-in for AWS speaks the protocol but ignores key states and
//! policies, so it can run [`wire`] only.
//!
//! Every function panics with the rule that is broken.

use std::collections::BTreeMap;

use super::codes::{self, RESPONSE_MISMATCH};
use super::local::Permission;
use super::{CmkState, KmsClass, KmsError, ReasonCode, SharedKms, Use};
use crate::ids::{ChannelId, CmkArn, OrgId, WorkspaceId};
use crate::scope::Scope;

/// A backend, and a way to make CMKs in it.
#[async_trait::async_trait]
pub trait Harness: Send + Sync {
    /// The backend under test.
    fn kms(&self) -> SharedKms;
    /// Makes a CMK that may be used for everything.
    async fn create_cmk(&self) -> CmkArn;
}

/// What a customer does to the CMK. Each method returns once the change holds.
#[async_trait::async_trait]
pub trait OwnerHarness: Harness {
    /// A well-formed ARN of no CMK.
    fn missing_cmk(&self) -> CmkArn;
    /// Disables the CMK.
    async fn disable(&self, cmk: &CmkArn);
    /// Enables it.
    async fn enable(&self, cmk: &CmkArn);
    /// Schedules its deletion.
    async fn schedule_deletion(&self, cmk: &CmkArn);
    /// Takes that back.
    async fn cancel_deletion(&self, cmk: &CmkArn);
    /// Denies the permissions (all, if empty) where the context has the pairs.
    async fn deny(
        &self,
        cmk: &CmkArn,
        permissions: &[Permission],
        pairs: &BTreeMap<String, String>,
    );
    /// Lifts every denial on the CMK.
    async fn allow(&self, cmk: &CmkArn);
}

/// A backend that can be made to fail.
#[async_trait::async_trait]
pub trait FaultHarness: Harness {
    /// Lets every call fail with this code and message.
    async fn fail_with(&self, code: &str, message: &str);
    /// Lets calls through again.
    async fn work_again(&self);
}

fn why() -> Use {
    Use::new(ReasonCode::Verify, "conformance suite")
}

/// A message scope; every argument can be made to differ.
fn scope(org: &str, workspace: &str, channel: &str, hour: &str) -> Scope {
    Scope::Message {
        org: OrgId::new(org).expect("a fixed id"),
        workspace: WorkspaceId::new(workspace).expect("a fixed id"),
        channel: ChannelId::new(channel).expect("a fixed id"),
        hour: hour.parse().expect("a fixed hour"),
    }
}

fn home() -> Scope {
    scope("acme", "w1", "c1", "2019-02-13T17")
}

fn failed<T>(result: Result<T, KmsError>, rule: &str) -> KmsError {
    match result {
        Ok(_) => panic!("{rule}: the call went through"),
        Err(error) => error,
    }
}

#[track_caller]
fn refused<T>(result: Result<T, KmsError>, code: &str, class: KmsClass, rule: &str) -> KmsError {
    let error = failed(result, rule);
    assert_eq!(
        (error.code.as_str(), error.class),
        (code, class),
        "{rule}: {error}"
    );
    assert!(
        error.request_id.is_some(),
        "{rule}: an answer has a request id"
    );
    error
}

/// What any backend does, stand-ins included.
pub async fn wire(harness: &dyn Harness) {
    let kms = harness.kms();
    let (old, new) = (harness.create_cmk().await, harness.create_cmk().await);
    let scope_ = home();

    let made = kms
        .generate_data_key(&old, &scope_, &why())
        .await
        .expect("GenerateDataKey");
    assert_eq!(
        made.wrapped.cmk, old,
        "the answer names the CMK that was asked"
    );
    assert!(
        (1..=6144).contains(&made.wrapped.bytes.len()),
        "a wrap has 1 to 6144 bytes"
    );
    let opened = kms
        .decrypt(&old, &made.wrapped.bytes, &scope_, &why())
        .await
        .expect("Decrypt");
    assert!(
        opened.expose() == made.dek.expose(),
        "Decrypt gives the key that was made"
    );
    let other = kms
        .generate_data_key(&old, &scope_, &why())
        .await
        .expect("GenerateDataKey");
    assert!(
        other.dek.expose() != made.dek.expose(),
        "each data key is new"
    );

    for foreign in [
        scope("other", "w1", "c1", "2019-02-13T17"),
        scope("acme", "w2", "c1", "2019-02-13T17"),
        scope("acme", "w1", "c2", "2019-02-13T17"),
        scope("acme", "w1", "c1", "2019-02-13T18"),
        Scope::Search {
            org: OrgId::new("acme").expect("a fixed id"),
        },
        Scope::Canary {
            org: OrgId::new("acme").expect("a fixed id"),
        },
    ] {
        let rule = "a wrap opens only under the context it was made under";
        let code = "InvalidCiphertextException";
        let wrapped = &made.wrapped.bytes;
        let result = kms.decrypt(&old, wrapped, &foreign, &why()).await;
        refused(result, code, KmsClass::QuarantinedKey, rule);
        let result = kms.re_encrypt(&old, wrapped, &new, &foreign, &why()).await;
        refused(result, code, KmsClass::QuarantinedKey, rule);
    }

    let mut damaged = made.wrapped.bytes.clone();
    *damaged.last_mut().expect("a wrap is not empty") ^= 1;
    let result = kms.decrypt(&old, &damaged, &scope_, &why()).await;
    refused(
        result,
        "InvalidCiphertextException",
        KmsClass::QuarantinedKey,
        "damage is seen",
    );

    let moved = kms
        .re_encrypt(&old, &made.wrapped.bytes, &new, &scope_, &why())
        .await
        .expect("ReEncrypt");
    assert_eq!(moved.cmk, new, "ReEncrypt names the CMK it wrapped under");
    let opened = kms
        .decrypt(&new, &moved.bytes, &scope_, &why())
        .await
        .expect("Decrypt");
    assert!(
        opened.expose() == made.dek.expose(),
        "ReEncrypt keeps the key"
    );
    let same = kms
        .re_encrypt(&new, &moved.bytes, &new, &scope_, &why())
        .await
        .expect("ReEncrypt");
    assert_eq!(
        same.cmk, new,
        "ReEncrypt onto the same CMK is allowed: it is how a wrap is proved"
    );

    let about = kms
        .describe(&new, scope_.org(), &why())
        .await
        .expect("DescribeKey");
    assert_eq!(about.arn, new, "DescribeKey names the CMK");
    assert_eq!(about.state, CmkState::Enabled, "a new CMK is enabled");
    assert!(about.symmetric, "a new CMK is symmetric");
}

/// Key states, policies and names: what the answers mean.
pub async fn meaning(harness: &dyn OwnerHarness) {
    names(harness).await;
    states(harness).await;
    denials(harness).await;
}

async fn names(harness: &dyn OwnerHarness) {
    let kms = harness.kms();
    let (old, new) = (harness.create_cmk().await, harness.create_cmk().await);
    let made = kms
        .generate_data_key(&old, &home(), &why())
        .await
        .expect("GenerateDataKey");
    let wrapped = made.wrapped.bytes;

    let rule = "a wrap of another CMK is not opened";
    let (code, class) = ("IncorrectKeyException", KmsClass::QuarantinedKey);
    refused(
        kms.decrypt(&new, &wrapped, &home(), &why()).await,
        code,
        class,
        rule,
    );
    refused(
        kms.re_encrypt(&new, &wrapped, &old, &home(), &why()).await,
        code,
        class,
        rule,
    );

    for at in 0..wrapped.len() {
        let mut damaged = wrapped.clone();
        damaged[at] ^= 0x10;
        let error = failed(
            kms.decrypt(&old, &damaged, &home(), &why()).await,
            "damage is seen",
        );
        assert_eq!(error.class, KmsClass::QuarantinedKey, "byte {at}: {error}");
    }
    for cut in 0..wrapped.len() {
        let error = failed(
            kms.decrypt(&old, &wrapped[..cut], &home(), &why()).await,
            "a cut is seen",
        );
        assert!(
            matches!(error.class, KmsClass::QuarantinedKey | KmsClass::FatalJob),
            "cut at {cut}: {error}"
        );
    }

    let missing = harness.missing_cmk();
    let code = "NotFoundException";
    let result = kms.decrypt(&missing, &wrapped, &home(), &why()).await;
    refused(
        result,
        code,
        KmsClass::CmkUnusable,
        "a source that is gone parks",
    );
    let result = kms.generate_data_key(&missing, &home(), &why()).await;
    refused(
        result,
        code,
        KmsClass::FatalJob,
        "a target that is not there ends the job",
    );
    let result = kms
        .re_encrypt(&old, &wrapped, &missing, &home(), &why())
        .await;
    refused(result, code, KmsClass::FatalJob, "so for ReEncrypt");
    let result = kms
        .re_encrypt(&missing, &wrapped, &old, &home(), &why())
        .await;
    refused(result, code, KmsClass::CmkUnusable, "so for ReEncrypt");
}

async fn states(harness: &dyn OwnerHarness) {
    let kms = harness.kms();
    let (cmk, other) = (harness.create_cmk().await, harness.create_cmk().await);
    let made = kms
        .generate_data_key(&cmk, &home(), &why())
        .await
        .expect("GenerateDataKey");
    let wrapped = made.wrapped.bytes;

    let refuses = async |code: &str, reason: &str| {
        let class = KmsClass::CmkUnusable;
        for error in [
            refused(
                kms.generate_data_key(&cmk, &home(), &why()).await,
                code,
                class,
                reason,
            ),
            refused(
                kms.decrypt(&cmk, &wrapped, &home(), &why()).await,
                code,
                class,
                reason,
            ),
            refused(
                kms.re_encrypt(&cmk, &wrapped, &other, &home(), &why())
                    .await,
                code,
                class,
                reason,
            ),
        ] {
            assert_eq!(error.blocked_reason().as_deref(), Some(reason));
        }
    };
    let described = async || {
        kms.describe(&cmk, home().org(), &why())
            .await
            .expect("DescribeKey works in every state")
    };

    harness.disable(&cmk).await;
    refuses("DisabledException", "cmk_disabled").await;
    assert_eq!(described().await.state, CmkState::Disabled);
    harness.enable(&cmk).await;
    kms.decrypt(&cmk, &wrapped, &home(), &why())
        .await
        .expect("enabled again");

    harness.schedule_deletion(&cmk).await;
    refuses("KMSInvalidStateException", "cmk_pending_deletion").await;
    let about = described().await;
    assert_eq!(about.state, CmkState::PendingDeletion);
    assert!(about.deletion_ms.is_some(), "a pending deletion has a date");
    harness.cancel_deletion(&cmk).await;
    refuses("DisabledException", "cmk_disabled").await;
    harness.enable(&cmk).await;
    kms.decrypt(&cmk, &wrapped, &home(), &why())
        .await
        .expect("saved and enabled");
}

async fn denials(harness: &dyn OwnerHarness) {
    let kms = harness.kms();
    let (cmk, other) = (harness.create_cmk().await, harness.create_cmk().await);
    let next_day = scope("acme", "w1", "c1", "2019-02-14T00");
    let mut wraps = Vec::new();
    for scope in [&home(), &next_day] {
        let made = kms
            .generate_data_key(&cmk, scope, &why())
            .await
            .expect("GenerateDataKey");
        wraps.push(made.wrapped.bytes);
    }
    let denied = |error: KmsError| {
        assert_eq!(
            error.blocked_reason().as_deref(),
            Some("revoked"),
            "{error}"
        );
    };
    let (code, class) = ("AccessDeniedException", KmsClass::Denied);

    let day = BTreeMap::from([
        ("channel".to_owned(), "c1".to_owned()),
        ("hour".to_owned(), "2019-02-13T*".to_owned()),
    ]);
    harness.deny(&cmk, &[], &day).await;
    let rule = "one channel on one day is revoked";
    denied(refused(
        kms.decrypt(&cmk, &wraps[0], &home(), &why()).await,
        code,
        class,
        rule,
    ));
    denied(refused(
        kms.generate_data_key(&cmk, &home(), &why()).await,
        code,
        class,
        rule,
    ));
    let result = kms
        .re_encrypt(&cmk, &wraps[0], &other, &home(), &why())
        .await;
    denied(refused(result, code, class, rule));
    kms.decrypt(&cmk, &wraps[1], &next_day, &why())
        .await
        .expect("the next day is not revoked");
    kms.describe(&cmk, home().org(), &why())
        .await
        .expect("DescribeKey has no context");
    harness.allow(&cmk).await;
    kms.decrypt(&cmk, &wraps[0], &home(), &why())
        .await
        .expect("allowed again");

    let everything = BTreeMap::new();
    harness
        .deny(&cmk, &[Permission::Decrypt], &everything)
        .await;
    let rule = "Decrypt alone is denied";
    denied(refused(
        kms.decrypt(&cmk, &wraps[0], &home(), &why()).await,
        code,
        class,
        rule,
    ));
    kms.generate_data_key(&cmk, &home(), &why())
        .await
        .expect("GenerateDataKey is not denied");
    kms.re_encrypt(&cmk, &wraps[0], &other, &home(), &why())
        .await
        .expect("nor is ReEncrypt");
    harness.allow(&cmk).await;

    harness
        .deny(&cmk, &[Permission::ReEncryptTo], &everything)
        .await;
    kms.re_encrypt(&cmk, &wraps[0], &other, &home(), &why())
        .await
        .expect("from, not to");
    let result = kms.re_encrypt(&cmk, &wraps[0], &cmk, &home(), &why()).await;
    denied(refused(result, code, class, "ReEncryptTo is denied"));
    harness.allow(&cmk).await;
}

/// Every error code arrives with its class, from every operation.
pub async fn codes(harness: &dyn FaultHarness) {
    let kms = harness.kms();
    let cmk = harness.create_cmk().await;
    let made = kms
        .generate_data_key(&cmk, &home(), &why())
        .await
        .expect("GenerateDataKey");
    let transient = KmsClass::Transient { throttled: false };
    let throttled = KmsClass::Transient { throttled: true };
    for (code, message, class) in [
        ("ThrottlingException", "Rate exceeded", throttled),
        ("LimitExceededException", "", throttled),
        ("KMSInternalException", "", transient),
        ("DependencyTimeoutException", "", transient),
        ("KeyUnavailableException", "", transient),
        ("ExpiredTokenException", "", transient),
        ("AccessDeniedException", "", KmsClass::Denied),
        (
            "AccessDeniedException",
            "no identity-based policy allows it",
            KmsClass::FatalJob,
        ),
        ("DisabledException", "", KmsClass::CmkUnusable),
        (
            "KMSInvalidStateException",
            "x is pending deletion.",
            KmsClass::CmkUnusable,
        ),
        (
            "KMSInvalidStateException",
            "x is pending import.",
            KmsClass::CmkUnusable,
        ),
        (
            "KMSInvalidStateException",
            "x is unavailable.",
            KmsClass::CmkUnusable,
        ),
        ("KMSInvalidStateException", "x is creating.", transient),
        (
            "KMSInvalidStateException",
            "the proxy did not respond in time",
            transient,
        ),
        (
            "KMSInvalidStateException",
            "the proxy denied access",
            KmsClass::CmkUnusable,
        ),
        (
            "KMSInvalidStateException",
            "the ciphertext or additional authenticated data is corrupted",
            transient,
        ),
        ("InvalidCiphertextException", "", KmsClass::QuarantinedKey),
        ("IncorrectKeyException", "", KmsClass::QuarantinedKey),
        (RESPONSE_MISMATCH, "", KmsClass::QuarantinedKey),
        ("InvalidGrantTokenException", "", transient),
        ("InvalidKeyUsageException", "", KmsClass::FatalJob),
        ("ValidationException", "", KmsClass::FatalJob),
        ("InvalidArnException", "", KmsClass::FatalJob),
        ("UnrecognizedClientException", "", KmsClass::FatalWorker),
        ("OptInRequired", "", KmsClass::FatalWorker),
        ("BrandNewException", "", KmsClass::Unknown),
    ] {
        harness.fail_with(code, message).await;
        let wrapped = &made.wrapped.bytes;
        let rule = "an error keeps its code and gets its class";
        let errors = [
            refused(
                kms.generate_data_key(&cmk, &home(), &why()).await,
                code,
                class,
                rule,
            ),
            refused(
                kms.decrypt(&cmk, wrapped, &home(), &why()).await,
                code,
                class,
                rule,
            ),
            refused(
                kms.re_encrypt(&cmk, wrapped, &cmk, &home(), &why()).await,
                code,
                class,
                rule,
            ),
            refused(
                kms.describe(&cmk, home().org(), &why()).await,
                code,
                class,
                rule,
            ),
            refused(
                kms.key_policy(&cmk, home().org(), &why()).await,
                code,
                class,
                rule,
            ),
        ];
        let operations = errors.map(|error| error.operation);
        assert_eq!(
            operations,
            [
                codes::GENERATE_DATA_KEY,
                codes::DECRYPT,
                codes::RE_ENCRYPT,
                codes::DESCRIBE_KEY,
                codes::GET_KEY_POLICY
            ]
        );
    }
    harness.work_again().await;
    kms.decrypt(&cmk, &made.wrapped.bytes, &home(), &why())
        .await
        .expect("works again");
    let policy = kms.key_policy(&cmk, home().org(), &why()).await;
    let policy: serde_json::Value = serde_json::from_str(&policy.expect("it may be read"))
        .expect("a key policy is a document of JSON");
    assert!(policy["Statement"].is_array(), "{policy}");
}
