//! Who calls: credentials, sessions, Regions, and what never shows.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials};
use serde_json::json;

use super::canned::{Answer, Canned};
use super::*;
use crate::audit::Origin;
use crate::clock::Clock;
use crate::ids::{ExternalId, RoleArn};
use crate::kms::audited::Audited;
use crate::kms::budget::{BudgetSettings, Budgeted, Budgets};
use crate::kms::caller::{Access, Callers, Grant};
use crate::kms::codes::{ASSUME_ROLE, CREDENTIALS_PROVIDER_ERROR};
use crate::kms::{KmsClass, SharedKms};
use crate::retry::RetryPolicy;

const ROLE: &str = "arn:aws:iam::444455556666:role/customers/rekeyd";

/// One role for every organization, each with an external id of its own.
struct SameRole;

#[async_trait::async_trait]
impl Roles for SameRole {
    async fn access(&self, org: &OrgId, _: &CmkArn) -> Result<Access, String> {
        Ok(Access::Role(Grant {
            role: RoleArn::new(ROLE).unwrap(),
            external_id: Some(ExternalId::new(format!("T0P-secret-{org}")).unwrap()),
        }))
    }
}

/// STS's answer: credentials that can be told apart, good until a time.
fn assumed(number: usize, until: WallTime) -> Answer {
    Answer::http(
        200,
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleResult><Credentials><AccessKeyId>ASIASESSION{number}</AccessKeyId>\
             <SecretAccessKey>session-secret</SecretAccessKey>\
             <SessionToken>session-token-{number}</SessionToken>\
             <Expiration>{until}</Expiration></Credentials></AssumeRoleResult>\
             <ResponseMetadata><RequestId>sts-1</RequestId></ResponseMetadata>\
             </AssumeRoleResponse>"
        ),
    )
}

fn sts_error(code: &str, message: &str) -> Answer {
    Answer::http(
        403,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
             <Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>sts-2</RequestId></ErrorResponse>"
        ),
    )
}

/// KMS and STS in one: sessions of an hour, and KMS's answer to each call by the
/// access key id that made it.
async fn server(
    clock: Arc<FakeClock>,
    kms: impl Fn(&str) -> Answer + Send + Sync + 'static,
) -> Canned {
    let sessions = AtomicUsize::new(0);
    Canned::playing(move |seen| match seen.operation() {
        "AssumeRole" => {
            let number = sessions.fetch_add(1, Ordering::SeqCst) + 1;
            assumed(number, clock.wall().plus(Duration::from_secs(3600)))
        }
        _ => kms(seen.signed_for().0),
    })
    .await
}

fn enabled(n: u32) -> Answer {
    let about = json!({"KeyId": "x", "Arn": arn(n), "KeyState": "Enabled"});
    Answer::http(200, json!({"KeyMetadata": about}))
}

fn expired() -> Answer {
    let body = json!({"__type": "ExpiredTokenException", "message": "The token is expired"});
    Answer::http(400, body)
}

#[tokio::test]
async fn two_organizations_never_share_a_session() {
    let clock = clock();
    let server = server(clock.clone(), |_| enabled(1)).await;
    let settings = settings(&server.endpoint);
    let kms = aws_with(&settings, Arc::new(SameRole), clock).await;
    for _ in 0..3 {
        for name in ["acme", "umbrella"] {
            kms.describe(&arn(1), &org(name), &why()).await.unwrap();
        }
    }
    let begun: Vec<_> = server
        .seen_of("AssumeRole")
        .iter()
        .map(|seen| {
            let field = |name| seen.form(name).unwrap().to_owned();
            (
                field("RoleSessionName"),
                field("ExternalId"),
                field("RoleArn"),
            )
        })
        .collect();
    let role = ROLE.replace(':', "%3A").replace('/', "%2F");
    let expected = ["acme", "umbrella"].map(|name| {
        (
            format!("rekeyd-{name}"),
            format!("T0P-secret-{name}"),
            role.clone(),
        )
    });
    assert_eq!(begun, expected, "one session for each, and no more");
    let callers: Vec<_> = server
        .seen_of("DescribeKey")
        .iter()
        .map(|seen| {
            let token = seen.header("x-amz-security-token").unwrap().to_owned();
            (seen.signed_for().0.to_owned(), token)
        })
        .collect();
    let of = |n| (format!("ASIASESSION{n}"), format!("session-token-{n}"));
    assert_eq!(callers, [of(1), of(2), of(1), of(2), of(1), of(2)]);
}

#[tokio::test]
async fn each_call_goes_to_the_region_of_its_cmk_with_a_session_of_its_own() {
    let clock = clock();
    let cmks = ["eu-west-1", "ap-southeast-2"]
        .map(|region| CmkArn::new(format!("arn:aws:kms:{region}:111122223333:key/k1")).unwrap());
    let server = server(clock.clone(), |_| {
        Answer::http(400, json!({"__type": "DisabledException"}))
    })
    .await;
    let settings = settings(&server.endpoint);
    let kms = aws_with(&settings, Arc::new(SameRole), clock).await;
    for _ in 0..2 {
        for cmk in &cmks {
            kms.decrypt(cmk, b"w", &scope(), &why())
                .await
                .err()
                .unwrap();
        }
    }
    let regions = |operation: &str| -> Vec<(String, String)> {
        let seen = server.seen_of(operation);
        seen.iter()
            .map(|seen| {
                let (_, region, service) = seen.signed_for();
                (region.to_owned(), service.to_owned())
            })
            .collect()
    };
    let of = |region: &str, service: &str| (region.to_owned(), service.to_owned());
    let both = |service| [of("eu-west-1", service), of("ap-southeast-2", service)];
    assert_eq!(regions("AssumeRole"), both("sts"));
    assert_eq!(regions("Decrypt"), [both("kms"), both("kms")].concat());
}

fn budgeted(inner: SharedKms) -> Budgeted {
    let clock = crate::clock::SystemClock::shared();
    let budgets = Budgets::new(BudgetSettings::per_second(1000.0), clock);
    let policy = RetryPolicy {
        base_ms: 1,
        cap_ms: 1,
        ..RetryPolicy::KMS
    };
    let callers = Callers::Always(Caller::of_account("1"));
    Budgeted::new(inner, callers, Arc::new(budgets), policy)
}

#[tokio::test]
async fn expired_credentials_are_fetched_anew_once() {
    let clock = clock();
    // The first session is refused, the second works.
    let server = server(clock.clone(), |id| match id {
        "ASIASESSION1" => expired(),
        _ => enabled(1),
    })
    .await;
    let kms = aws_with(&settings(&server.endpoint), Arc::new(SameRole), clock).await;
    let kms = budgeted(Arc::new(kms));
    kms.describe(&arn(1), &org("acme"), &why()).await.unwrap();
    assert_eq!(server.seen_of("AssumeRole").len(), 2);
    kms.describe(&arn(1), &org("acme"), &why()).await.unwrap();
    assert_eq!(server.seen_of("AssumeRole").len(), 2, "the second is kept");
}

#[tokio::test]
async fn credentials_that_stay_expired_park_the_job_after_one_more_try() {
    let clock = clock();
    let server = server(clock.clone(), |_| expired()).await;
    let kms = aws_with(&settings(&server.endpoint), Arc::new(SameRole), clock).await;
    let kms = budgeted(Arc::new(kms));
    let error = kms
        .describe(&arn(1), &org("acme"), &why())
        .await
        .unwrap_err();
    assert_eq!(error.class, KmsClass::Unavailable);
    assert_eq!(error.blocked_reason().as_deref(), Some("credentials"));
    assert_eq!(server.seen_of("DescribeKey").len(), 2);
    assert_eq!(server.seen_of("AssumeRole").len(), 2);
}

#[tokio::test]
async fn a_session_is_renewed_before_it_expires_and_begun_once_for_many_callers() {
    let clock = clock();
    let server = server(clock.clone(), |_| enabled(1)).await;
    let settings = settings(&server.endpoint);
    let kms = aws_with(&settings, Arc::new(SameRole), clock.clone()).await;
    let (cmk, acme, why) = (arn(1), org("acme"), why());
    let ask = || kms.describe(&cmk, &acme, &why);
    let answers = futures::future::join_all((0..8).map(|_| ask())).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.seen_of("AssumeRole").len(), 1);
    clock.advance(Duration::from_secs(3600 - 301));
    ask().await.unwrap();
    assert_eq!(server.seen_of("AssumeRole").len(), 1);
    clock.advance(Duration::from_secs(2));
    ask().await.unwrap();
    assert_eq!(server.seen_of("AssumeRole").len(), 2);
}

#[tokio::test]
async fn a_role_that_is_refused_blocks_and_the_external_id_shows_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let origin = Origin::here("test", "caller-1", None);
    let log = AuditLog::open(dir.path(), origin, clock.clone()).unwrap();
    let until = clock.wall().plus(Duration::from_secs(3600));
    // A server that repeats what it was told, which AWS does not.
    let server = Canned::playing(move |seen| match seen.operation() {
        "AssumeRole" if seen.body.contains("T0P-secret-umbrella") => sts_error(
            "AccessDenied",
            "not with T0P-secret-umbrella &amp; not at all",
        ),
        "AssumeRole" => assumed(1, until),
        _ => {
            let body = json!({"__type": "AccessDeniedException", "message": "T0P-secret-acme"});
            Answer::http(400, body)
        }
    })
    .await;
    let roles = RoleCache::new(Arc::new(SameRole), Duration::from_secs(60), clock.clone());
    let roles = Arc::new(roles);
    let settings = settings(&server.endpoint);
    let backend = AwsKms::new(&settings, roles.clone(), Some(log.clone()), clock);
    let own = Caller::of_account("999999999999");
    let callers = Callers::ByRole { own, roles };
    let kms = Audited::new(backend.await.unwrap(), log.clone(), Some(callers));

    let mut shown = String::new();
    for (name, class, operation) in [
        ("umbrella", KmsClass::RoleDenied, ASSUME_ROLE),
        ("acme", KmsClass::Denied, DECRYPT),
    ] {
        let result = kms.decrypt(&arn(1), b"w", &scope_of(name), &why()).await;
        let error = result.err().unwrap();
        assert_eq!(
            (error.class, error.operation),
            (class, operation),
            "{error}"
        );
        if class == KmsClass::RoleDenied {
            assert_eq!(error.blocked_reason().as_deref(), Some("role_denied"));
        }
        shown += &format!("{error} {error:?}");
    }
    log.close().await.unwrap();
    let audit = std::fs::read_to_string(log.path()).unwrap();
    for secret in [
        "T0P-secret",
        "session-secret",
        "session-token",
        "own-secret",
    ] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!audit.contains(secret), "{audit}");
    }
    let records: Vec<serde_json::Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &serde_json::Value| record["type"] == "kms")
        .collect();
    let told: Vec<_> = records
        .iter()
        .map(|r| {
            let text = |field: &str| r[field].as_str().unwrap_or_default().to_owned();
            (
                text("action"),
                text("outcome"),
                text("org"),
                text("kms_request_id"),
            )
        })
        .collect();
    let row = |action: &str, outcome: &str, org: &str| {
        (
            action.to_owned(),
            outcome.to_owned(),
            org.to_owned(),
            "req-1".to_owned(),
        )
    };
    assert_eq!(
        told,
        [
            row("AssumeRole", "blocked", "umbrella"),
            row("AssumeRole", "ok", "acme"),
            row("Decrypt", "blocked", "acme"),
        ]
    );
    let last = &records[2];
    assert_eq!(last["caller_account"], "444455556666");
    let session = "arn:aws:sts::444455556666:assumed-role/rekeyd/rekeyd-acme";
    assert_eq!(last["principal"], session);
}

/// Our own credentials, as a provider that fails and then works.
#[derive(Debug)]
struct Flaky(AtomicUsize);

impl ProvideCredentials for Flaky {
    fn provide_credentials<'a>(&'a self) -> provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let secret = "credentials file says T0P-secret";
        provider::future::ProvideCredentials::ready(match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(CredentialsError::not_loaded(secret)),
            1 => Err(CredentialsError::provider_error(secret)),
            2 => Err(CredentialsError::provider_timed_out(Duration::from_secs(1))),
            _ => Ok(Credentials::new(OWN_KEY, "own-secret", None, None, "test")),
        })
    }
}

#[tokio::test]
async fn our_own_credentials_that_cannot_be_had_are_a_matter_of_credentials() {
    let server = Canned::always(enabled(1)).await;
    let mut settings = settings(&server.endpoint);
    let flaky = Flaky(AtomicUsize::new(0));
    settings.credentials = Some(SharedCredentialsProvider::new(flaky));
    let kms = aws_with(&settings, Arc::new(NoRoles), clock()).await;
    for code in [
        CREDENTIALS_PROVIDER_ERROR,
        CREDENTIALS_PROVIDER_ERROR,
        "CredentialsProviderTimeout",
    ] {
        let error = kms
            .describe(&arn(1), &org("acme"), &why())
            .await
            .unwrap_err();
        assert_eq!(error.code, code);
        assert!(!format!("{error:?}").contains("T0P-secret"), "{error:?}");
        assert!(error.is_transient());
        let last = error.given_up();
        assert_eq!(last.blocked_reason().as_deref(), Some("credentials"));
    }
    kms.describe(&arn(1), &org("acme"), &why()).await.unwrap();
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_re_encrypt_is_called_in_the_role_of_its_target() {
    struct ByKey;
    #[async_trait::async_trait]
    impl Roles for ByKey {
        async fn access(&self, _: &OrgId, cmk: &CmkArn) -> Result<Access, String> {
            let key = cmk.as_str().rsplit('/').next().unwrap();
            let role = RoleArn::new(format!("arn:aws:iam::444455556666:role/{key}")).unwrap();
            let external_id = None;
            Ok(Access::Role(Grant { role, external_id }))
        }
    }
    let clock = clock();
    let server = server(clock.clone(), |_| {
        Answer::http(400, json!({"__type": "DisabledException"}))
    })
    .await;
    let kms = aws_with(&settings(&server.endpoint), Arc::new(ByKey), clock).await;
    let refused = kms
        .re_encrypt(&arn(1), b"w", &arn(2), &scope(), &why())
        .await;
    assert_eq!(refused.unwrap_err().code, "DisabledException");
    let begun = server.seen_of("AssumeRole");
    assert_eq!(begun.len(), 1);
    assert!(begun[0].form("RoleArn").unwrap().ends_with("role%2Fk2"));
    assert_eq!(begun[0].form("ExternalId"), None);
}
