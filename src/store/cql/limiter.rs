//! How many requests may be under way: fewer while the cluster is slow or says
//! that it is overloaded, more again while it is well.
//!
//! Additive increase, multiplicative decrease, as TCP does it. Latency is held
//! against a baseline that follows good times quickly and bad times slowly, one
//! for reads and one for writes, which cost different things.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::errors::{Failure, Load};
use crate::store::StorePace;

/// What a request does, as far as its latency is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    Read = 0,
    Write = 1,
}

/// Why the limit is below the ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Slow,
    Overloaded,
}

/// Answers that are looked at together.
const WINDOW: u32 = 20;
/// Nothing is slow below this, whatever the baseline: a node that answers in a
/// fraction of a millisecond is not in trouble at five times that.
const NEVER_SLOW: Duration = Duration::from_millis(25);
/// Slow is so many times the baseline.
const SLOW_FACTOR: f64 = 5.0;

/// The rule, without clock or requests.
#[derive(Debug)]
struct Rule {
    ceiling: usize,
    limit: usize,
    reason: Option<Reason>,
    kinds: [Latency; 2],
    /// Answers until a refusal counts again: the answers to what was sent before
    /// the limit fell say nothing new.
    deaf: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Latency {
    baseline_s: Option<f64>,
    sum_s: f64,
    count: u32,
}

impl Rule {
    fn new(ceiling: usize) -> Self {
        Self {
            ceiling: ceiling.max(1),
            limit: ceiling.max(1),
            reason: None,
            kinds: [Latency::default(); 2],
            deaf: 0,
        }
    }

    /// Takes in one answer, with `under_way` requests beside it.
    fn answered(&mut self, does: Does, took: Duration, load: Load, under_way: usize) {
        self.deaf = self.deaf.saturating_sub(1);
        if load != Load::Unsaid {
            if self.deaf == 0 {
                self.fall(0.5, Reason::Overloaded, under_way);
            }
            return;
        }
        let kind = &mut self.kinds[does as usize];
        kind.sum_s += took.as_secs_f64();
        kind.count += 1;
        if kind.count < WINDOW {
            return;
        }
        let mean = kind.sum_s / f64::from(kind.count);
        (kind.sum_s, kind.count) = (0.0, 0);
        let baseline = *kind.baseline_s.get_or_insert(mean);
        let weight = if mean < baseline { 0.3 } else { 0.01 };
        kind.baseline_s = Some(baseline + (mean - baseline) * weight);
        if mean > (baseline * SLOW_FACTOR).max(NEVER_SLOW.as_secs_f64()) {
            if self.deaf == 0 {
                self.fall(0.75, Reason::Slow, under_way);
            }
        } else {
            self.limit = (self.limit + 1 + self.limit / 16).min(self.ceiling);
            if self.limit == self.ceiling {
                self.reason = None;
            }
        }
    }

    fn fall(&mut self, factor: f64, reason: Reason, under_way: usize) {
        // From what was really under way: a limit nobody reaches limits nothing.
        let from = self.limit.min(under_way.max(1));
        self.limit = ((from as f64 * factor) as usize).max(1);
        self.reason = Some(reason);
        self.deaf = under_way;
    }
}

/// Lets requests through within the limit.
pub(super) struct Limiter {
    permits: Semaphore,
    state: Mutex<State>,
}

struct State {
    rule: Rule,
    /// Permits that there are, given out or not. Falls to the rule's limit as
    /// requests end.
    issued: usize,
    under_way: usize,
}

impl Limiter {
    pub fn new(ceiling: usize) -> Self {
        let rule = Rule::new(ceiling);
        Self {
            permits: Semaphore::new(rule.limit),
            state: Mutex::new(State {
                issued: rule.limit,
                rule,
                under_way: 0,
            }),
        }
    }

    /// Waits for its turn, then runs one request.
    pub async fn run<T>(
        &self,
        does: Does,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        // Never closed, so this does not fail.
        let permit = self.permits.acquire().await;
        // A request that is dropped half-way gives its turn back all the same.
        let turn = Turn::new(self, permit.ok());
        let start = Instant::now();
        let answer = request.await;
        let load = answer.as_ref().err().map_or(Load::Unsaid, |e| e.load);
        // A failure that says nothing of load says nothing of latency either.
        if answer.is_ok() || load != Load::Unsaid {
            turn.answered(does, start.elapsed(), load);
        }
        answer
    }

    /// For the status.
    pub fn pace(&self) -> StorePace {
        let state = self.lock();
        StorePace {
            limit: state.rule.limit,
            ceiling: state.rule.ceiling,
            reason: state.rule.reason.map(|reason| {
                match reason {
                    Reason::Slow => "slow",
                    Reason::Overloaded => "overloaded",
                }
                .to_owned()
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that is done under the lock can panic.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// One request's turn.
struct Turn<'l> {
    limiter: &'l Limiter,
    permit: Option<tokio::sync::SemaphorePermit<'l>>,
}

impl<'l> Turn<'l> {
    fn new(limiter: &'l Limiter, permit: Option<tokio::sync::SemaphorePermit<'l>>) -> Self {
        limiter.lock().under_way += 1;
        Self { limiter, permit }
    }

    fn answered(&self, does: Does, took: Duration, load: Load) {
        let mut state = self.limiter.lock();
        let under_way = state.under_way;
        state.rule.answered(does, took, load, under_way);
        let more = state.rule.limit.saturating_sub(state.issued);
        if more > 0 {
            state.issued += more;
            self.limiter.permits.add_permits(more);
        }
        let fewer = state.issued.saturating_sub(state.rule.limit);
        state.issued -= self.limiter.permits.forget_permits(fewer);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        state.under_way -= 1;
        if state.issued > state.rule.limit {
            state.issued -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn answers(rule: &mut Rule, n: u32, took: Duration, under_way: usize) {
        for _ in 0..n {
            rule.answered(Does::Read, took, Load::Unsaid, under_way);
        }
    }

    #[test]
    fn a_refusal_halves_what_is_under_way_once_for_all_that_was_sent_with_it() {
        let mut rule = Rule::new(256);
        for _ in 0..40 {
            rule.answered(Does::Write, MS, Load::Overloaded, 40);
        }
        assert_eq!(rule.limit, 20);
        assert_eq!(rule.reason, Some(Reason::Overloaded));
        rule.answered(Does::Write, MS, Load::TimedOut, 20);
        assert_eq!(rule.limit, 10);
    }

    #[test]
    fn it_recovers_to_the_ceiling_and_then_names_no_reason() {
        let mut rule = Rule::new(64);
        rule.answered(Does::Read, MS, Load::Overloaded, 64);
        assert_eq!(rule.limit, 32);
        answers(&mut rule, WINDOW, MS, 32);
        assert!((33..64).contains(&rule.limit), "{}", rule.limit);
        assert_eq!(rule.reason, Some(Reason::Overloaded));
        answers(&mut rule, WINDOW * 64, MS, 32);
        assert_eq!((rule.limit, rule.reason), (64, None));
    }

    #[test]
    fn slow_is_held_against_the_baseline_and_never_below_a_floor() {
        let mut rule = Rule::new(64);
        answers(&mut rule, WINDOW * 4, MS, 64);
        // Ten times the baseline, and still fast.
        answers(&mut rule, WINDOW, 10 * MS, 64);
        assert_eq!(rule.reason, None);
        answers(&mut rule, WINDOW, 100 * MS, 64);
        assert_eq!((rule.limit, rule.reason), (48, Some(Reason::Slow)));
        // A cluster that was never faster is not slow.
        let mut rule = Rule::new(64);
        answers(&mut rule, WINDOW * 10, 100 * MS, 64);
        assert_eq!(rule.reason, None);
    }

    #[test]
    fn it_never_falls_below_one() {
        let mut rule = Rule::new(4);
        for _ in 0..100 {
            rule.answered(Does::Read, MS, Load::TimedOut, 0);
        }
        assert_eq!(rule.limit, 1);
    }

    #[tokio::test]
    async fn no_more_than_the_limit_are_under_way_and_dropped_turns_come_back() {
        let limiter = Arc::new(Limiter::new(4));
        let overloaded = Failure::from(scylla::errors::ExecutionError::RequestTimeout(MS));
        let failed = limiter
            .run(Does::Read, async { Err::<(), _>(overloaded) })
            .await;
        assert!(failed.is_err());
        // One was under way, so one may be.
        assert_eq!(limiter.pace().limit, 1);
        let first = limiter.run(Does::Read, std::future::pending::<Result<(), Failure>>());
        let mut first = Box::pin(first);
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(limiter.run(Does::Read, async { Ok::<_, Failure>(7) }));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await.unwrap(), 7);
    }
}
