//! The waits. They stand in one row of the store, so that workers and clients
//! cannot disagree; a process that cannot keep a row refuses to start with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// All waits of a store, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Longest a client uses one view of the registry.
    pub status_time_ms: u64,
    /// Longest a request to the store may take before its sender gives it up.
    pub request_timeout_ms: u64,
    /// Most that two clocks of the system may differ.
    pub max_skew_ms: u64,
    /// Longest from a row's read to its write back (I4).
    pub row_age_ms: u64,
    /// How long a task or job is held by one claim.
    pub lease_ms: u64,
    /// How much earlier than its end a holder stops to trust its lease.
    pub margin_ms: u64,
    /// How long a worker may take to stop after it was asked to.
    pub grace_ms: u64,
    /// L: how long a write that was sent before the settle may still land.
    pub drain_ms: u64,
    /// First wait before a blocked slice is tried again; doubles.
    pub blocked_retry_ms: u64,
    /// Longest wait before a blocked slice is tried again.
    pub blocked_retry_max_ms: u64,
}

/// A combination of waits under which the promises would not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the timing row of this store breaks a rule: {rule} ({detail})")]
pub struct TimingError {
    /// The rule, in words.
    pub rule: &'static str,
    /// The numbers that break it.
    pub detail: String,
}

impl Timing {
    /// The waits of a production store. `drain_ms` is the tables'
    /// `gc_grace_seconds`; ten days is the usual default.
    pub fn production() -> Self {
        Self {
            status_time_ms: 60_000,
            request_timeout_ms: 10_000,
            max_skew_ms: 1_000,
            row_age_ms: 60_000,
            lease_ms: 30_000,
            margin_ms: 5_000,
            grace_ms: 25_000,
            drain_ms: 864_000_000,
            blocked_retry_ms: 900_000,
            blocked_retry_max_ms: 21_600_000,
        }
    }

    /// The waits of the embedded store in earnest: one file has no hints, so L
    /// is the settle time.
    pub fn embedded() -> Self {
        let mut t = Self::production();
        t.drain_ms = t.settle_ms();
        t
    }

    /// Small waits, for the demo and for tests.
    pub fn demo() -> Self {
        let mut t = Self {
            status_time_ms: 1_000,
            request_timeout_ms: 1_000,
            max_skew_ms: 50,
            row_age_ms: 1_000,
            lease_ms: 2_000,
            margin_ms: 200,
            grace_ms: 2_000,
            drain_ms: 0,
            blocked_retry_ms: 1_000,
            blocked_retry_max_ms: 21_600_000,
        };
        t.drain_ms = t.settle_ms();
        t
    }

    /// How long after an activation a writer may still follow the old state:
    /// its view's age, its last request, and the clocks' difference both ways.
    pub fn settle_ms(&self) -> u64 {
        self.status_time_ms + self.request_timeout_ms + 2 * self.max_skew_ms
    }

    /// Refuses combinations under which two owners, a torn settle or an early
    /// verdict would be possible.
    pub fn check(&self) -> Result<(), TimingError> {
        // First, and alone: what the others reckon with must not overflow.
        let in_range = [
            self.status_time_ms,
            self.request_timeout_ms,
            self.max_skew_ms,
            self.row_age_ms,
            self.lease_ms,
            self.margin_ms,
            self.grace_ms,
            self.drain_ms,
            self.blocked_retry_ms,
        ]
        .iter()
        .all(|ms| (1..=31_536_000_000).contains(ms));
        if !in_range {
            return Err(TimingError {
                rule: "every wait is between 1 ms and 365 days",
                detail: format!("{self:?}"),
            });
        }
        let rules: [(bool, &'static str, String); 7] = [
            (
                self.margin_ms > 2 * self.max_skew_ms,
                "margin_ms must be more than twice max_skew_ms, or two workers could both trust one lease",
                format!(
                    "margin_ms {}, max_skew_ms {}",
                    self.margin_ms, self.max_skew_ms
                ),
            ),
            (
                self.lease_ms >= 3 * self.margin_ms,
                "lease_ms must be at least three times margin_ms, or a holder has no time to renew",
                format!("lease_ms {}, margin_ms {}", self.lease_ms, self.margin_ms),
            ),
            (
                self.lease_ms >= 2 * self.request_timeout_ms,
                "lease_ms must be at least twice request_timeout_ms, or one slow renewal loses the lease",
                format!(
                    "lease_ms {}, request_timeout_ms {}",
                    self.lease_ms, self.request_timeout_ms
                ),
            ),
            (
                self.grace_ms <= self.lease_ms,
                "grace_ms must not be more than lease_ms, or a stopping worker outlives its leases",
                format!("grace_ms {}, lease_ms {}", self.grace_ms, self.lease_ms),
            ),
            (
                self.row_age_ms <= self.status_time_ms,
                "row_age_ms must not be more than status_time_ms, or a worker writes by an older view than a client may",
                format!(
                    "row_age_ms {}, status_time_ms {}",
                    self.row_age_ms, self.status_time_ms
                ),
            ),
            (
                self.drain_ms >= self.settle_ms(),
                "drain_ms must be at least status_time_ms + request_timeout_ms + 2 x max_skew_ms, or the verdict could come before the last old write",
                format!("drain_ms {}, settle {}", self.drain_ms, self.settle_ms()),
            ),
            (
                self.blocked_retry_ms <= self.blocked_retry_max_ms,
                "blocked_retry_ms must not be more than blocked_retry_max_ms",
                format!(
                    "blocked_retry_ms {}, blocked_retry_max_ms {}",
                    self.blocked_retry_ms, self.blocked_retry_max_ms
                ),
            ),
        ];
        for (holds, rule, detail) in rules {
            if !holds {
                return Err(TimingError { rule, detail });
            }
        }
        Ok(())
    }

    /// Longest a client uses one view of the registry.
    pub fn status_time(&self) -> Duration {
        Duration::from_millis(self.status_time_ms)
    }

    /// Longest a request to the store may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// Longest from a row's read to its write back.
    pub fn row_age(&self) -> Duration {
        Duration::from_millis(self.row_age_ms)
    }

    /// How long a claim holds.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// How long after its start a claim or renewal may be trusted.
    pub fn trust(&self) -> Duration {
        Duration::from_millis(self.lease_ms - self.margin_ms)
    }

    /// The wait before the `tries`-th retry of a blocked slice (from 1).
    pub fn blocked_retry(&self, tries: u32) -> Duration {
        let doubled = self
            .blocked_retry_ms
            .saturating_mul(1u64 << tries.saturating_sub(1).min(32));
        Duration::from_millis(doubled.min(self.blocked_retry_max_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_sets_keep_the_rules() {
        for t in [Timing::production(), Timing::embedded(), Timing::demo()] {
            t.check().unwrap();
        }
    }

    #[test]
    fn each_rule_refuses_what_breaks_it() {
        type Spoil = fn(&mut Timing);
        let breaks: [(&str, Spoil); 8] = [
            ("every wait", |t| t.row_age_ms = 0),
            ("margin_ms", |t| t.margin_ms = 2 * t.max_skew_ms),
            ("lease_ms must be at least three", |t| {
                t.lease_ms = 3 * t.margin_ms - 1
            }),
            ("lease_ms must be at least twice", |t| {
                t.request_timeout_ms = t.lease_ms
            }),
            ("grace_ms", |t| t.grace_ms = t.lease_ms + 1),
            ("row_age_ms", |t| t.row_age_ms = t.status_time_ms + 1),
            ("drain_ms", |t| t.drain_ms = t.settle_ms() - 1),
            ("blocked_retry_ms", |t| {
                t.blocked_retry_max_ms = t.blocked_retry_ms - 1
            }),
        ];
        for (rule, spoil) in breaks {
            let mut t = Timing::embedded();
            spoil(&mut t);
            let error = t.check().unwrap_err();
            assert!(error.rule.starts_with(rule), "{rule}: {error}");
        }
    }

    #[test]
    fn waits_of_any_size_are_refused_and_not_reckoned_with() {
        let mut t = Timing::embedded();
        t.max_skew_ms = u64::MAX;
        assert!(t.check().unwrap_err().rule.starts_with("every wait"));
        t = Timing::embedded();
        (t.status_time_ms, t.margin_ms) = (u64::MAX, u64::MAX);
        assert!(t.check().is_err());
    }

    #[test]
    fn blocked_retries_double_up_to_the_limit() {
        let t = Timing::production();
        let minutes: Vec<u64> = (1..=8).map(|n| t.blocked_retry(n).as_secs() / 60).collect();
        assert_eq!(minutes, [15, 30, 60, 120, 240, 360, 360, 360]);
        assert_eq!(t.blocked_retry(u32::MAX).as_secs(), 21_600);
    }
}
