//! Decorator: a rate budget, and the only retries there are.
//!
//! A KMS throttles the calling account in each Region, over all its CMKs. So a
//! budget belongs to an account and a Region, and is shared by every part of the
//! process that calls. Throttling halves it at once; it recovers slowly.

mod pace;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use pace::BudgetSettings;

use self::pace::Pace;
use super::caller::Callers;
use super::codes::{Cause, Patience};
use super::outages::{self, Outages};
use super::{CmkDescription, Dek, GeneratedKey, Kms, KmsClass, KmsError, SharedKms, Use, Wrapped};
use crate::clock::{BootTime, SharedClock};
use crate::ids::{CmkArn, OrgId};
use crate::retry::{Decision, RetryPolicy};
use crate::scope::Scope;
use crate::telemetry::metrics::KMS_THROTTLED;
use crate::telemetry::waiting::{Part, Waiting};

/// What a KMS counts calls by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BudgetKey {
    /// The account that calls, which need not be the one the CMK is in.
    pub account: String,
    /// The Region that is called.
    pub region: String,
}

/// All budgets of a process, made as they are first needed.
pub struct Budgets {
    settings: BudgetSettings,
    special: HashMap<BudgetKey, BudgetSettings>,
    clock: SharedClock,
    by_key: Mutex<HashMap<BudgetKey, Arc<Budget>>>,
}

/// One budget, as the status line shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetSnapshot {
    /// Whose budget it is.
    pub key: BudgetKey,
    /// Calls sent, tries included.
    pub calls: u64,
    /// Calls that the KMS throttled.
    pub throttled: u64,
    /// Calls that were tries after a failure.
    pub retries: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Callers that wait for a slot.
    pub waiting_for_slot: u64,
    /// Callers that wait after a failure.
    pub backing_off: u64,
    /// The rate now, in calls per second.
    pub rate_per_s: f64,
    /// The configured maximum.
    pub max_per_s: f64,
}

impl BudgetSnapshot {
    /// What holds callers up, in a word for the status line: the KMS fails
    /// (`kms_errors`), it throttles (`kms_throttling`), or the budget is used up
    /// (`kms_budget`).
    pub fn waiting_for(&self) -> Option<&'static str> {
        if self.rate_per_s < self.max_per_s && self.waiting_for_slot + self.backing_off > 0 {
            Some("kms_throttling")
        } else if self.backing_off > 0 {
            Some("kms_errors")
        } else if self.waiting_for_slot > 0 {
            Some("kms_budget")
        } else {
            None
        }
    }
}

struct Budget {
    pace: Mutex<Pace>,
    calls: AtomicU64,
    throttled: AtomicU64,
    retries: AtomicU64,
    in_flight: AtomicU64,
    waiting_for_slot: AtomicU64,
    backing_off: AtomicU64,
}

/// Counts up, and down again when dropped: also when its caller is cancelled.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budgets {
    /// Budgets with the same settings for every account and Region.
    pub fn new(settings: BudgetSettings, clock: SharedClock) -> Self {
        Self {
            settings,
            special: HashMap::new(),
            clock,
            by_key: Mutex::default(),
        }
    }

    /// Other settings for one account and Region.
    #[must_use]
    pub fn with(mut self, key: BudgetKey, settings: BudgetSettings) -> Self {
        self.special.insert(key, settings);
        self
    }

    fn of(&self, key: BudgetKey) -> Arc<Budget> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = *self.special.get(&key).unwrap_or(&self.settings);
        let fresh = || Arc::new(Budget::new(settings, self.clock.boot()));
        Arc::clone(by_key.entry(key).or_insert_with(fresh))
    }

    /// Every budget in use, by account and Region. Cheap: a lock and some loads.
    pub fn snapshot(&self) -> Vec<BudgetSnapshot> {
        let now = self.clock.boot();
        let by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = by_key
            .iter()
            .map(|(key, budget)| budget.snapshot(key.clone(), now))
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }
}

impl Budget {
    fn new(settings: BudgetSettings, now: BootTime) -> Self {
        Self {
            pace: Mutex::new(Pace::new(settings, now)),
            calls: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            waiting_for_slot: AtomicU64::new(0),
            backing_off: AtomicU64::new(0),
        }
    }

    fn pace<T>(&self, with: impl FnOnce(&mut Pace) -> T) -> T {
        with(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for a slot and returns when that was. Callers wait side by side:
    /// the lock is held for taking a slot only.
    async fn slot(&self, clock: &SharedClock) -> BootTime {
        loop {
            let now = clock.boot();
            let slot = self.pace(|pace| pace.reserve(now));
            if slot.at > now {
                let _waiting = Counted::new(&self.waiting_for_slot);
                clock.sleep(slot.at.since(now)).await;
            }
            if self.pace(|pace| pace.holds(slot)) {
                return clock.boot();
            }
        }
    }

    fn snapshot(&self, key: BudgetKey, now: BootTime) -> BudgetSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (rate_per_s, max_per_s) = self.pace(|pace| (pace.rate_per_s(now), pace.max_per_s()));
        BudgetSnapshot {
            key,
            calls: load(&self.calls),
            throttled: load(&self.throttled),
            retries: load(&self.retries),
            in_flight: load(&self.in_flight),
            waiting_for_slot: load(&self.waiting_for_slot),
            backing_off: load(&self.backing_off),
            rate_per_s,
            max_per_s,
        }
    }
}

/// A KMS that keeps to its budget and tries again.
///
/// A transient error is tried again with full jitter until the policy's give-up
/// time, or less where the error's [`Patience`] says so; then the caller gets the
/// error with the class it has when nobody tries again, never `Transient`.
pub struct Budgeted {
    inner: SharedKms,
    callers: Callers,
    budgets: Arc<Budgets>,
    policy: RetryPolicy,
    clock: SharedClock,
    waiting: Waiting,
    outages: Outages,
}

impl Budgeted {
    /// Puts budgets and retries around `inner`, which makes single attempts.
    pub fn new(
        inner: SharedKms,
        callers: Callers,
        budgets: Arc<Budgets>,
        policy: RetryPolicy,
    ) -> Self {
        let clock = Arc::clone(&budgets.clock);
        Self {
            inner,
            callers,
            budgets,
            policy,
            clock,
            waiting: Waiting::default(),
            outages: Outages::default(),
        }
    }

    /// Notes on this board that the KMS is waited for, and why, until it answers.
    #[must_use]
    pub fn noting(mut self, waiting: Waiting) -> Self {
        self.waiting = waiting;
        self
    }

    async fn budget_of(&self, org: &OrgId, cmk: &CmkArn) -> Arc<Budget> {
        self.budgets.of(BudgetKey {
            account: self.callers.of(org, cmk).await.account,
            region: cmk.region().to_owned(),
        })
    }

    async fn keep_trying<T, F>(
        &self,
        (org, cmk): (&OrgId, &CmkArn),
        why: &Use,
        attempt: impl Fn(Use) -> F + Send + Sync,
    ) -> Result<T, KmsError>
    where
        F: Future<Output = Result<T, KmsError>> + Send,
    {
        let budget = self.budget_of(org, cmk).await;
        let mut began = None;
        let mut failures = 0;
        let mut in_a_row: Option<(Cause, u32)> = None;
        loop {
            let sent = budget.slot(&self.clock).await;
            let began = *began.get_or_insert(sent);
            budget.calls.fetch_add(1, Ordering::Relaxed);
            let outcome = {
                let _in_flight = Counted::new(&budget.in_flight);
                attempt(why.at_attempt(failures + 1)).await
            };
            let error = match outcome {
                Err(error) if error.is_transient() => error,
                settled => {
                    // A refusal is an answer too.
                    self.waiting.clear(Part::Kms);
                    if let Some(away) = self.outages.ends(cmk, self.clock.boot()) {
                        let away_s = away.as_secs();
                        tracing::info!(%org, %cmk, away_s, "the KMS answers again");
                    }
                    return settled;
                }
            };
            self.waiting.note(Part::Kms, &error.code);
            let now = self.clock.boot();
            if error.class == (KmsClass::Transient { throttled: true }) {
                budget.throttled.fetch_add(1, Ordering::Relaxed);
                metrics::counter!(KMS_THROTTLED).increment(1);
                budget.pace(|pace| pace.throttled(sent, now));
            }
            failures += 1;
            let is_silent = error.class != (KmsClass::Transient { throttled: true });
            if is_silent && failures >= outages::FAILURES && self.outages.begins(cmk, now) {
                tracing::warn!(
                    %org, %cmk, code = %error.code,
                    "the KMS does not answer; calls to it are tried again"
                );
            }
            let cause = error.cause();
            let times = match in_a_row {
                Some((before, times)) if before == cause => times + 1,
                _ => 1,
            };
            in_a_row = Some((cause, times));
            let elapsed = now.since(began);
            let worth_it = match cause.patience() {
                Patience::UntilGivenUp => true,
                Patience::Retries(limit) => times <= limit,
                Patience::AtMost(limit) => elapsed < limit,
            };
            match self
                .policy
                .decide(failures, elapsed, crate::replay::random())
            {
                Decision::Wait(wait) if worth_it => {
                    let _waiting = Counted::new(&budget.backing_off);
                    self.clock.sleep(wait).await;
                }
                _ => return Err(error.given_up()),
            }
            budget.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait::async_trait]
impl Kms for Budgeted {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        self.keep_trying((scope.org(), cmk), why, |why| async move {
            self.inner.generate_data_key(cmk, scope, &why).await
        })
        .await
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError> {
        self.keep_trying((scope.org(), cmk), why, |why| async move {
            self.inner.decrypt(cmk, wrapped, scope, &why).await
        })
        .await
    }

    /// One call of the budget of the CMK it wraps under; both are in one Region.
    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError> {
        self.keep_trying((scope.org(), to), why, |why| async move {
            self.inner.re_encrypt(from, wrapped, to, scope, &why).await
        })
        .await
    }

    /// Counted like the rest, although a KMS may count it apart: it is rare.
    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        self.keep_trying((org, cmk), why, |why| async move {
            self.inner.describe(cmk, org, &why).await
        })
        .await
    }

    /// As [`Kms::describe`].
    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, why: &Use) -> Result<String, KmsError> {
        self.keep_trying((org, cmk), why, |why| async move {
            self.inner.key_policy(cmk, org, &why).await
        })
        .await
    }
}
