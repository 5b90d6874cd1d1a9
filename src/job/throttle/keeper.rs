//! The throttles as one worker knows and keeps them.
//!
//! The rows are read every few seconds. A row that cannot be read never means
//! unthrottled: what was last known of it holds, and where nothing was, no new
//! page and no new task of what it concerns is begun until it can be read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::bucket::Bucket;
use super::rows::{Throttle, ThrottleTarget};
use crate::clock::SharedClock;
use crate::ids::{JobId, OrgId};
use crate::job::book::{JobBook, ThrottleRows};
use crate::kms::Gate;
use crate::telemetry::metrics::{THROTTLE_WAIT_SECONDS, THROTTLES};
use crate::telemetry::waiting::{Part, Waiting};

/// Whoever waits looks again this often at least: the throttle may be cleared.
const LOOK: Duration = Duration::from_millis(200);

/// What a rate limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Rows,
    Kms,
}

/// What is known of one row.
#[derive(Debug, Clone)]
enum Known {
    /// It says so.
    Says(Throttle),
    /// It cannot be read now; this is what it said before.
    Said(Throttle),
    /// It cannot be read, and never was.
    Unreadable,
}

/// The answer to who wants to go on.
#[derive(Debug, PartialEq)]
enum Ask {
    /// And what it was counted for.
    Go(Vec<ThrottleTarget>),
    /// Not for so long.
    Wait(Duration),
    /// Not before the throttles can be read, and the service has room.
    Held,
}

/// Rows that may be read. What is not read of them is given back.
#[must_use = "what is not read is given back when it is dropped"]
pub struct Allowance {
    throttles: Throttles,
    job: JobId,
    counted: Vec<ThrottleTarget>,
    rows: f64,
    read: f64,
}

impl Allowance {
    /// So many were read; more than were allowed are owed.
    pub fn read(mut self, rows: usize) {
        self.read = rows as f64;
        let (job, read) = (self.job, self.read);
        self.throttles.with(|state| {
            let expected = state.expected.entry(job).or_insert(read);
            *expected = (0.75 * *expected + 0.25 * read).max(1.0);
        });
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        let unread = self.rows - self.read;
        if self.counted.is_empty() {
            return;
        }
        self.throttles.with(|state| {
            for target in std::mem::take(&mut self.counted) {
                if let Some(bucket) = state.buckets.get_mut(&(target, What::Rows)) {
                    bucket.give_back(unread);
                }
            }
        });
        self.throttles.0.freed.notify_waiters();
    }
}

/// A task that runs, as throttles count it; it is counted until dropped.
pub struct Slot {
    throttles: Throttles,
    number: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.throttles
            .with(|state| state.running.remove(&self.number));
    }
}

/// The throttles that hold in this process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Throttles(Arc<Inner>);

struct Inner {
    clock: SharedClock,
    skew_ms: u64,
    waiting: Waiting,
    // Something was given back: who waits looks again.
    freed: Notify,
    state: Mutex<State>,
}

/// Whose turn it is among those that wait for one rate of one job, first come,
/// first served: of many small pages none is overtaken for ever.
type Turn = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
struct State {
    // The service has no room: nothing new is begun.
    held: bool,
    // By the row's name; `None` before the first read.
    known: Option<BTreeMap<String, Known>>,
    buckets: BTreeMap<(ThrottleTarget, What), Bucket>,
    turns: BTreeMap<(OrgId, Option<JobId>, What), Turn>,
    // Rows that a page of a job has, as far as was seen. As many are counted
    // before it is read: with all that it may have, a rate would be kept by one
    // page at a time, however few rows it has.
    expected: BTreeMap<JobId, f64>,
    // Tasks under way, in the order in which they were begun.
    running: BTreeMap<u64, (OrgId, JobId)>,
    begun: u64,
}

impl Throttles {
    /// Nothing is known yet, so nothing may begin: [`Throttles::keep`] finds out.
    /// `skew_ms` is how far the clocks of two processes may be apart; that the
    /// throttles cannot be read is noted on the board.
    pub fn new(clock: SharedClock, skew_ms: u64, waiting: Waiting) -> Self {
        Self(Arc::new(Inner {
            clock,
            skew_ms,
            waiting,
            freed: Notify::new(),
            state: Mutex::default(),
        }))
    }

    /// Holds everything for a reason, or lets it go on. The reason is noted on the
    /// board.
    pub fn hold(&self, why: Option<&str>) {
        self.with(|state| state.held = why.is_some());
        match why {
            Some(why) => self.0.waiting.note(Part::ServiceHealth, why),
            None => self.0.waiting.clear(Part::ServiceHealth),
        }
    }

    /// Reads the throttles again and again, until asked to stop.
    pub async fn keep(&self, book: &JobBook, every: Duration, mut stop: watch::Receiver<bool>) {
        loop {
            self.refresh(book).await;
            tokio::select! {
                biased;
                () = self.0.clock.sleep(every) => {}
                // The sender ends with the process.
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Reads them once. What could not be read stays as it was last known.
    pub async fn refresh(&self, book: &JobBook) {
        match book.throttles().await {
            Ok(rows) => self.take_in(rows),
            Err(error) => {
                tracing::warn!(%error, "the throttles cannot be read; those last known hold");
                if self.with(|state| state.known.is_none()) {
                    let why = "they cannot be read, and nothing is begun without them";
                    self.0.waiting.note(Part::Throttles, why);
                }
            }
        }
    }

    fn take_in(&self, rows: ThrottleRows) {
        let (says, unreadable) = self.with(|state| {
            let before = state.known.take().unwrap_or_default();
            let mut known = BTreeMap::new();
            for (name, row) in rows.rows {
                let now = match (row, before.get(&name)) {
                    (Ok(throttle), _) => Known::Says(throttle.row),
                    (Err(_), Some(Known::Says(last) | Known::Said(last))) => {
                        Known::Said(last.clone())
                    }
                    (Err(_), _) => Known::Unreadable,
                };
                known.insert(name, now);
            }
            let now = self.0.clock.wall();
            let says = |k: &Known| matches!(k, Known::Says(t) if !t.has_ended(now, self.0.skew_ms));
            let counts = (
                known.values().filter(|k| says(k)).count(),
                known
                    .values()
                    .filter(|k| !matches!(k, Known::Says(_)))
                    .count(),
            );
            // A rate that is set anew begins without debt; the others keep theirs.
            let stands = |target: &ThrottleTarget| known.contains_key(&target.to_string());
            state.buckets.retain(|(target, _), _| stands(target));
            state.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            let running: Vec<JobId> = state.running.values().map(|(_, job)| *job).collect();
            state.expected.retain(|job, _| running.contains(job));
            state.known = Some(known);
            counts
        });
        metrics::gauge!(THROTTLES, "state" => "in_effect").set(says as f64);
        metrics::gauge!(THROTTLES, "state" => "unreadable").set(unreadable as f64);
        if unreadable > 0 {
            let why =
                format!("{unreadable} of them cannot be read; `rekeyd throttle show` names them");
            self.0.waiting.note(Part::Throttles, &why);
        } else {
            self.0.waiting.clear(Part::Throttles);
        }
    }

    /// Waits until a page of at most `rows` rows of a job may be read. `None`: it
    /// was asked to stop meanwhile, and none are to be read.
    pub async fn rows(
        &self,
        org: &OrgId,
        job: JobId,
        rows: usize,
        stop: &watch::Receiver<bool>,
    ) -> Option<Allowance> {
        let mut stop = stop.clone();
        let at_most = rows as f64;
        let expected = self.with(|state| state.expected.get(&job).copied());
        let rows = expected.unwrap_or(at_most).min(at_most);
        let counted = tokio::select! {
            biased;
            counted = self.pass(org, Some(job), What::Rows, rows) => counted,
            // Without a sender there is nobody who could ask.
            Ok(_) = stop.wait_for(|stop| *stop) => return None,
        };
        Some(Allowance {
            throttles: self.clone(),
            job,
            counted,
            rows,
            read: 0.0,
        })
    }

    /// Waits for its turn and then for the rates; says what it was counted for.
    async fn pass(
        &self,
        org: &OrgId,
        job: Option<JobId>,
        what: What,
        n: f64,
    ) -> Vec<ThrottleTarget> {
        if self
            .rates(org, job, what)
            .is_some_and(|rates| rates.is_empty())
        {
            return Vec::new();
        }
        let begun = self.0.clock.boot();
        let turn = self.with(|state| {
            let of = (org.clone(), job, what);
            state.turns.entry(of).or_default().clone()
        });
        let _its_turn = turn.lock().await;
        let counted = loop {
            // From before it asks, so that nothing is missed.
            let freed = self.0.freed.notified();
            let wait = match self.ask(org, job, what, n) {
                Ask::Go(counted) => break counted,
                Ask::Wait(wait) => wait.min(LOOK),
                Ask::Held => LOOK,
            };
            tokio::select! {
                () = self.0.clock.sleep(wait) => {}
                () = freed => {}
            }
        };
        let waited = self.0.clock.boot().since(begun);
        if waited > Duration::ZERO {
            let what = match what {
                What::Rows => "rows",
                What::Kms => "kms",
            };
            metrics::histogram!(THROTTLE_WAIT_SECONDS, "what" => what).record(waited);
        }
        counted
    }

    /// The rates that hold for a job now; `None`: nothing may go on.
    fn rates(
        &self,
        org: &OrgId,
        job: Option<JobId>,
        what: What,
    ) -> Option<Vec<(ThrottleTarget, f64)>> {
        self.with(|state| self.rates_in(state, org, job, what))
    }

    fn rates_in(
        &self,
        state: &State,
        org: &OrgId,
        job: Option<JobId>,
        what: What,
    ) -> Option<Vec<(ThrottleTarget, f64)>> {
        let limits = self.that_hold(state, org, job).filter(|_| !state.held)?;
        let rates = limits.into_iter().filter_map(|throttle| {
            let rate = match what {
                What::Rows => throttle.limits.rows_per_s,
                What::Kms => throttle.limits.kms_per_s,
            };
            rate.map(|rate| (throttle.target, rate))
        });
        Some(rates.collect())
    }

    fn ask(&self, org: &OrgId, job: Option<JobId>, what: What, n: f64) -> Ask {
        let now = self.0.clock.boot();
        self.with(|state| {
            let Some(rates) = self.rates_in(state, org, job, what) else {
                return Ask::Held;
            };
            let mut longest = None;
            for (target, rate) in &rates {
                let bucket = state.buckets.entry((target.clone(), what));
                let wait = bucket.or_insert_with(|| Bucket::new(now)).wait(*rate, now);
                longest = longest.max(wait);
            }
            if let Some(wait) = longest {
                return Ask::Wait(wait);
            }
            let counted = rates.into_iter().map(|(target, _)| {
                if let Some(bucket) = state.buckets.get_mut(&(target.clone(), what)) {
                    bucket.take(n);
                }
                target
            });
            Ask::Go(counted.collect())
        })
    }

    /// Whether another task of a job may be begun.
    pub fn may_begin(&self, org: &OrgId, job: JobId) -> bool {
        self.with(|state| {
            let limits = self.that_hold(state, org, Some(job));
            let Some(limits) = limits.filter(|_| !state.held) else {
                return false;
            };
            limits.iter().all(|throttle| {
                let running = state.running.values();
                let counted = running.filter(|(org, job)| throttle.target.applies_to(org, *job));
                throttle
                    .limits
                    .tasks
                    .is_none_or(|most| counted.count() < most as usize)
            })
        })
    }

    /// Counts a task as begun.
    pub fn begin(&self, org: &OrgId, job: JobId) -> Slot {
        let number = self.with(|state| {
            state.begun += 1;
            state.running.insert(state.begun, (org.clone(), job));
            state.begun
        });
        Slot {
            throttles: self.clone(),
            number,
        }
    }

    /// Whether a task is one too many since a throttle was set: those that were
    /// begun before it are as many as may run.
    pub fn is_one_too_many(&self, slot: &Slot) -> bool {
        self.with(|state| {
            let Some((org, job)) = state.running.get(&slot.number) else {
                return false;
            };
            // Not knowing is no reason to give back what was begun.
            let Some(limits) = self.that_hold(state, org, Some(*job)) else {
                return false;
            };
            limits.iter().any(|throttle| {
                let before = state.running.range(..slot.number);
                let before = before.filter(|(_, (org, job))| throttle.target.applies_to(org, *job));
                throttle
                    .limits
                    .tasks
                    .is_some_and(|most| before.count() >= most as usize)
            })
        })
    }

    /// The throttles that hold for a job now; `None`: that is not known.
    fn that_hold(&self, state: &State, org: &OrgId, job: Option<JobId>) -> Option<Vec<Throttle>> {
        let now = self.0.clock.wall();
        let mut hold = Vec::new();
        for (name, known) in state.known.as_ref()? {
            // A name that this version cannot read may concern anybody.
            let target = name.parse::<ThrottleTarget>();
            if target.is_ok_and(|target| !target.concerns(org, job)) {
                continue;
            }
            match known {
                Known::Says(throttle) if throttle.has_ended(now, self.0.skew_ms) => {}
                Known::Says(throttle) => hold.push(throttle.clone()),
                // It may have been set anew, for longer, in words we cannot read.
                Known::Said(throttle) if throttle.has_ended(now, self.0.skew_ms) => return None,
                Known::Said(throttle) => hold.push(throttle.clone()),
                Known::Unreadable => return None,
            }
        }
        Some(hold)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl Gate for Throttles {
    async fn pass(&self, org: &OrgId, job: Option<JobId>) {
        let _counted = Throttles::pass(self, org, job, What::Kms, 1.0).await;
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
