//! The KMS of the configuration, audited and within its budget.

use std::sync::Arc;
use std::time::Duration;

use super::WiringError;
use super::roles::{Entering, RegistryRoles};
use crate::audit::AuditLog;
use crate::clock::SharedClock;
use crate::config::{Config, KmsKind};
use crate::crypto::Provider;
use crate::ids::{CmkArn, OrgId};
use crate::kms::audited::Audited;
use crate::kms::aws::{AwsKms, AwsSettings};
use crate::kms::budget::{BudgetSettings, Budgeted, Budgets};
use crate::kms::caller::{Caller, Callers, RoleCache, Roles};
use crate::kms::local::{LocalKeyRing, Unlock};
use crate::kms::{KmsBackend, SharedKms};
use crate::registry::{CmkAccess, Registry};
use crate::retry::{Decision, RetryPolicy};
use crate::telemetry::waiting::{Part, Waiting};

/// The KMS that new key rows name.
pub fn provider(config: &Config) -> Provider {
    match config.kms.kind {
        KmsKind::Ring => Provider::LocalRing,
        KmsKind::Aws => Provider::Aws,
    }
}

/// Variable with the passphrase of the key ring, where it has one.
pub const RING_PASSPHRASE: &str = "REKEYD_RING_PASSPHRASE";

/// How the key ring is opened: by the passphrase in the environment, else by
/// the key file.
pub fn unlock(config: &Config) -> Unlock {
    passphrase().unwrap_or_else(|| {
        Unlock::KeyFile(
            config
                .kms
                .key_file
                .clone()
                .unwrap_or_else(|| config.kms.ring.join("ring.key")),
        )
    })
}

pub(super) fn passphrase() -> Option<Unlock> {
    std::env::var(RING_PASSPHRASE)
        .ok()
        .map(|text| Unlock::Passphrase(text.into()))
}

/// Opens the KMS as `caller`: every attempt audited, all within the budget. AWS
/// KMS learns its roles from the registry, so this opens the store for it.
pub async fn kms(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    kms_noting(config, caller, audit, clock, Waiting::default()).await
}

/// As [`kms`]; what is waited for is noted on the board.
pub async fn kms_noting(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
    waiting: Waiting,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    let registry = registry(config, clock).await?;
    open(config, caller, audit, clock, registry, None, waiting).await
}

/// As [`kms_noting`], for entering a CMK that the registry does not have yet.
pub async fn kms_entering(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
    (org, cmk, access): (&OrgId, &CmkArn, &CmkAccess),
    waiting: Waiting,
) -> Result<SharedKms, WiringError> {
    let registry = registry(config, clock).await?;
    let entering = Some((org.clone(), cmk.clone(), access.clone()));
    let opened = open(config, caller, audit, clock, registry, entering, waiting).await?;
    Ok(opened.0)
}

/// As [`kms`], on a registry that is open already; what is waited for is noted
/// on the board.
pub(super) async fn kms_on(
    registry: &Registry,
    waiting: Waiting,
    config: &Config,
    audit: &AuditLog,
    clock: &SharedClock,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    let caller = &config.kms.caller;
    let registry = Some(registry.clone());
    open(config, caller, audit, clock, registry, None, waiting).await
}

/// The registry, for a KMS that has roles.
async fn registry(config: &Config, clock: &SharedClock) -> Result<Option<Registry>, WiringError> {
    Ok(match config.kms.kind {
        KmsKind::Ring => None,
        KmsKind::Aws => {
            let store = super::store(config, clock).await?;
            Some(Registry::new(store, clock.clone()))
        }
    })
}

async fn open(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
    registry: Option<Registry>,
    entering: Option<(OrgId, CmkArn, CmkAccess)>,
    waiting: Waiting,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    let (config_kms, clock) = (&config.kms, clock.clone());
    let decorated = match (config_kms.kind, registry) {
        (KmsKind::Aws, Some(registry)) => {
            let keep = registry.timing().await?.status_time();
            let mut roles: Arc<dyn Roles> = Arc::new(RegistryRoles(registry));
            if let Some((org, cmk, access)) = entering {
                let others = roles;
                roles = Arc::new(Entering {
                    org,
                    cmk,
                    access,
                    others,
                });
            }
            let roles = Arc::new(RoleCache::new(roles, keep, clock.clone()));
            let settings = AwsSettings {
                credentials: super::credentials(config).provider(),
                kms_endpoint: config_kms.endpoint.clone(),
                sts_endpoint: config_kms.sts_endpoint.clone(),
                ..AwsSettings::default()
            };
            let aws = AwsKms::new(&settings, roles.clone(), Some(audit.clone()), clock.clone());
            let aws = aws.await?;
            let own = ourselves(config, &aws, &clock, &waiting).await?;
            let callers = Callers::ByRole { own, roles };
            decorate(aws, callers, config, audit, &clock, waiting)
        }
        _ => {
            let unlock = unlock(config);
            let ring =
                LocalKeyRing::open_with_clock(&config_kms.ring, caller, &unlock, clock.clone())?;
            let callers = Callers::Always(Caller::of_account(config_kms.account.as_str()));
            decorate(ring, callers, config, audit, &clock, waiting)
        }
    };
    Ok(decorated)
}

fn decorate(
    backend: impl KmsBackend + 'static,
    callers: Callers,
    config: &Config,
    audit: &AuditLog,
    clock: &SharedClock,
    waiting: Waiting,
) -> (SharedKms, Arc<Budgets>) {
    let audited: SharedKms = Arc::new(Audited::new(backend, audit.clone(), Some(callers.clone())));
    let rate = f64::from(config.kms.rate_per_s);
    let budgets = Arc::new(Budgets::new(
        BudgetSettings::per_second(rate),
        clock.clone(),
    ));
    let policy = RetryPolicy {
        give_up_after: Duration::from_secs(config.kms.give_up_s),
        ..RetryPolicy::KMS
    };
    let budgeted = Budgeted::new(audited, callers, budgets.clone(), policy).noting(waiting);
    (Arc::new(budgeted), budgets)
}

/// The account that stands for "ask STS".
const NO_ACCOUNT: &str = "000000000000";

/// Who we are: the account that is set, else what STS says, asked for at most
/// half a minute.
async fn ourselves(
    config: &Config,
    aws: &AwsKms,
    clock: &SharedClock,
    waiting: &Waiting,
) -> Result<Caller, WiringError> {
    if config.kms.account != NO_ACCOUNT {
        return Ok(Caller::of_account(config.kms.account.as_str()));
    }
    let policy = RetryPolicy {
        give_up_after: Duration::from_secs(config.kms.give_up_s.min(30)),
        ..RetryPolicy::KMS
    };
    let began = clock.boot();
    let mut failures = 0;
    loop {
        let error = match aws.whoami().await {
            Ok(caller) => {
                waiting.clear(Part::Kms);
                return Ok(caller);
            }
            Err(error) => error,
        };
        waiting.note(Part::Kms, &error.code);
        failures += 1;
        let elapsed = clock.boot().since(began);
        match policy.decide(failures, elapsed, rand::random()) {
            Decision::Wait(wait) if error.is_transient() => clock.sleep(wait).await,
            _ => return Err(WiringError::WhoAmI(error)),
        }
    }
}
