//! When to try again: exponential backoff with full jitter.
//!
//! This is the one file that knows the `backoff` crate, which gives the growth
//! of the interval. Time and randomness are arguments, so the decision is a pure
//! function.

use std::time::Duration;

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

/// How often and how long something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest wait after the first failure, in milliseconds; it doubles with
    /// each further failure.
    pub base_ms: u64,
    /// The longest wait after any failure, in milliseconds.
    pub cap_ms: u64,
    /// How long after the first attempt the last one may begin.
    pub give_up_after: Duration,
}

impl RetryPolicy {
    /// For a KMS in production: 100 ms to 20 s, for 15 minutes.
    pub const KMS: RetryPolicy = RetryPolicy {
        base_ms: 100,
        cap_ms: 20_000,
        give_up_after: Duration::from_secs(15 * 60),
    };
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this long.
    Wait(Duration),
    /// Do not try again.
    GiveUp,
}

impl RetryPolicy {
    /// Decides after the `failures`-th failure in a row (from 1), `elapsed` after
    /// the first attempt began. `random` is uniform in `[0, 1)`.
    ///
    /// The wait is uniform from nothing to the full interval: callers that failed
    /// together do not come back together. The last wait is cut so that the last
    /// attempt begins when the time is up, not long before.
    pub fn decide(&self, failures: u32, elapsed: Duration, random: f64) -> Decision {
        let left = self.give_up_after.saturating_sub(elapsed);
        if left.is_zero() {
            return Decision::GiveUp;
        }
        Decision::Wait(
            self.interval(failures)
                .mul_f64(random.clamp(0.0, 1.0))
                .min(left),
        )
    }

    /// The full interval after a number of failures.
    fn interval(&self, failures: u32) -> Duration {
        let cap = Duration::from_millis(self.cap_ms);
        let mut growth = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(self.base_ms).min(cap))
            .with_max_interval(cap)
            .with_multiplier(2.0)
            // The jitter is ours: the crate's cannot be given its randomness.
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        // 64 doublings reach any cap.
        for _ in 1..failures.min(64) {
            growth.next_backoff();
        }
        growth.current_interval
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_interval_doubles_up_to_the_cap() {
        let full = |failures| match RetryPolicy::KMS.decide(failures, Duration::ZERO, 1.0) {
            Decision::Wait(wait) => wait.as_millis(),
            Decision::GiveUp => panic!("there is time left"),
        };
        let waits: Vec<u128> = (1..=10).map(full).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 20_000, 20_000]
        );
        assert_eq!(full(u32::MAX), 20_000);
    }

    #[test]
    fn a_cap_below_the_base_holds() {
        let policy = RetryPolicy {
            cap_ms: 10,
            ..RetryPolicy::KMS
        };
        let wait = policy.decide(1, Duration::ZERO, 1.0);
        assert_eq!(wait, Decision::Wait(Duration::from_millis(10)));
    }

    proptest! {
        /// Time only ever runs out, and jitter is full.
        #[test]
        fn total_time_is_bounded(
            give_up_ms in 1_u64..100_000,
            randoms in proptest::collection::vec(0.0_f64..1.0, 1..200),
            attempt_ms in 1_u64..500,
        ) {
            let policy = RetryPolicy {
                give_up_after: Duration::from_millis(give_up_ms),
                ..RetryPolicy::KMS
            };
            let mut elapsed = Duration::ZERO;
            for (n, random) in randoms.iter().enumerate() {
                let failures = n as u32 + 1;
                elapsed += Duration::from_millis(attempt_ms);
                match policy.decide(failures, elapsed, *random) {
                    Decision::GiveUp => {
                        prop_assert!(elapsed >= policy.give_up_after);
                        break;
                    }
                    Decision::Wait(wait) => {
                        prop_assert!(elapsed + wait <= policy.give_up_after);
                        prop_assert!(wait <= policy.interval(failures).mul_f64(*random));
                        elapsed += wait;
                    }
                }
            }
        }
    }

    #[test]
    fn jitter_spans_the_whole_interval() {
        for (random, ms) in [(0.0, 0), (0.25, 100), (0.5, 200), (1.0, 400)] {
            let wait = RetryPolicy::KMS.decide(3, Duration::ZERO, random);
            assert_eq!(wait, Decision::Wait(Duration::from_millis(ms)));
        }
    }

    #[test]
    fn the_last_attempt_begins_when_the_time_is_up() {
        let policy = RetryPolicy {
            give_up_after: Duration::from_millis(150),
            ..RetryPolicy::KMS
        };
        let at = |ms| policy.decide(1, Duration::from_millis(ms), 1.0);
        assert_eq!(at(100), Decision::Wait(Duration::from_millis(50)));
        assert_eq!(at(149), Decision::Wait(Duration::from_millis(1)));
        assert_eq!(at(150), Decision::GiveUp);
    }
}
