//! The KMS of the configuration, audited and within its budget.

use std::sync::Arc;
use std::time::Duration;

use super::WiringError;
use crate::audit::AuditLog;
use crate::clock::SharedClock;
use crate::config::{Config, KmsKind};
use crate::crypto::Provider;
use crate::kms::SharedKms;
use crate::kms::audited::Audited;
use crate::kms::budget::{BudgetSettings, Budgeted, Budgets, CallingAccount};
use crate::kms::local::{LocalKeyRing, Unlock};
use crate::retry::RetryPolicy;

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

/// Opens the KMS as `caller`: every attempt audited, all within the budget.
pub async fn kms(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    let ring =
        LocalKeyRing::open_with_clock(&config.kms.ring, caller, &unlock(config), clock.clone())?;
    let account = config.kms.account.clone();
    let audited: SharedKms = Arc::new(Audited::new(ring, audit.clone(), Some(account.clone())));
    let rate = f64::from(config.kms.rate_per_s);
    let budgets = Arc::new(Budgets::new(
        BudgetSettings::per_second(rate),
        clock.clone(),
    ));
    let policy = RetryPolicy {
        give_up_after: Duration::from_secs(config.kms.give_up_s),
        ..RetryPolicy::KMS
    };
    let budgeted = Budgeted::new(
        audited,
        CallingAccount::Fixed(account),
        budgets.clone(),
        policy,
    );
    Ok((Arc::new(budgeted), budgets))
}
