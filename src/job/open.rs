//! The unfinished jobs as a worker last read them, kept for whoever else in the
//! process asks: the metrics and the status page cost the store nothing by it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::WallTime;
use crate::job::book::Versioned;
use crate::job::lease::is_free;
use crate::job::rows::JobRow;
use crate::job::state::JobState;
use crate::registry::Timing;
use crate::telemetry::metrics::{
    BLOCKED_SLICES, JOBS, JOBS_UNATTENDED, OLDEST_LEASE_SECONDS, OLDEST_UNATTENDED_SECONDS,
    VERDICTS_BLOCKED,
};

/// All of them at one time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When they were read.
    pub at: WallTime,
    /// The jobs, in order of organization and id.
    pub jobs: Arc<[Versioned<JobRow>]>,
}

/// The last snapshot. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct OpenJobs(Arc<Mutex<Option<Snapshot>>>);

/// What the snapshot comes to, for the metrics.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    unattended: u64,
    oldest_unattended_ms: u64,
    verdicts_blocked: u64,
    blocked_slices: u64,
    oldest_lease_ms: u64,
}

impl OpenJobs {
    /// Keeps what was read, in place of what was read before.
    pub fn read_at(&self, at: WallTime, jobs: Arc<[Versioned<JobRow>]>, timing: &Timing) {
        let by_state = |state: JobState| jobs.iter().filter(|seen| seen.row.state == state).count();
        for state in JobState::ALL.into_iter().filter(|state| !state.is_final()) {
            metrics::gauge!(JOBS, "state" => state.as_str()).set(by_state(state) as f64);
        }
        let sums = sums(&jobs, at, timing);
        metrics::gauge!(JOBS_UNATTENDED).set(sums.unattended as f64);
        let oldest = Duration::from_millis(sums.oldest_unattended_ms);
        metrics::gauge!(OLDEST_UNATTENDED_SECONDS).set(oldest.as_secs_f64());
        metrics::gauge!(VERDICTS_BLOCKED).set(sums.verdicts_blocked as f64);
        metrics::gauge!(BLOCKED_SLICES).set(sums.blocked_slices as f64);
        let oldest = Duration::from_millis(sums.oldest_lease_ms);
        metrics::gauge!(OLDEST_LEASE_SECONDS).set(oldest.as_secs_f64());
        let snapshot = Snapshot { at, jobs };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// What was read last; `None` before the first time.
    pub fn latest(&self) -> Option<Snapshot> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }
}

fn sums(jobs: &[Versioned<JobRow>], now: WallTime, timing: &Timing) -> Sums {
    let now_ms = now.unix_ms();
    let mut sums = Sums::default();
    for job in jobs.iter().map(|seen| &seen.row) {
        if is_free(job, now_ms) && job.is_due(now_ms) {
            sums.unattended += 1;
            let left_ms = job.lease.as_ref().map_or(0, |lease| lease.until_ms);
            let due_ms = job.rests_until_ms(now_ms).unwrap_or(0);
            let since_ms = job.since_ms.max(due_ms).max(left_ms);
            let age_ms = now_ms.saturating_sub(since_ms);
            sums.oldest_unattended_ms = sums.oldest_unattended_ms.max(age_ms);
        }
        // Before activation nothing has changed, and there is no old CMK.
        let held_up = job.state == JobState::Blocked && job.activated.is_some();
        sums.verdicts_blocked += u64::from(held_up);
        sums.blocked_slices += job.blocked_slices;
        // One that rests is nobody's, and its last lease may be days old.
        if let Some(lease) = job.lease.as_ref().filter(|_| job.is_due(now_ms)) {
            let renewed_ms = lease.until_ms.saturating_sub(timing.lease_ms);
            let age_ms = now_ms.saturating_sub(renewed_ms);
            sums.oldest_lease_ms = sums.oldest_lease_ms.max(age_ms);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::message::JobMessage;
    use crate::job::rows::Lease;

    const NOW: WallTime = WallTime(1_000_000_000_000);
    const NOW_MS: u64 = 1_000_000_000;

    fn job(state: JobState, since_ms: u64, lease_until_ms: Option<u64>) -> Versioned<JobRow> {
        let message = JobMessage::parse(
            r#"{"v":1,"kind":"rekey","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69","org":"acme",
            "to_cmk":"arn:aws:kms:local:000000000000:key/b","requested_by":"ops"}"#,
        )
        .unwrap();
        let mut row = JobRow::recorded(&message, "", 0, "");
        (row.state, row.since_ms) = (state, since_ms);
        row.lease = lease_until_ms.map(|until_ms| Lease {
            worker: "w".into(),
            until_ms,
            waits: None,
            intake_waits: None,
            slowed: None,
        });
        Versioned {
            id: String::new(),
            rev: 1,
            row,
        }
    }

    #[test]
    fn what_waits_longest_counts_from_when_it_last_began_to_wait() {
        let sums_of = |jobs: &[Versioned<JobRow>]| {
            let sums = sums(jobs, NOW, &Timing::demo());
            (sums.unattended, sums.oldest_unattended_ms)
        };
        let ago = |s: u64| NOW_MS - s * 1000;
        assert_eq!(sums_of(&[]), (0, 0));
        let waits = job(JobState::Rewriting, ago(40), None);
        assert_eq!(sums_of(std::slice::from_ref(&waits)), (1, 40_000));
        // In its state for longer, but its worker was lost only now.
        let lost = job(JobState::Rewriting, ago(900), Some(ago(7)));
        assert_eq!(sums_of(std::slice::from_ref(&lost)), (1, 7_000));
        let driven = job(JobState::Rewriting, ago(900), Some(NOW_MS + 1));
        let paused = job(JobState::Paused, ago(900), None);
        let mut drains = job(JobState::Draining, ago(900), None);
        drains.row.drain_until_ms = Some(NOW_MS + 1);
        assert_eq!(sums_of(&[driven, paused, drains.clone()]), (0, 0));
        drains.row.drain_until_ms = Some(ago(3));
        assert_eq!(sums_of(&[waits, lost, drains]), (3, 40_000));
    }
}
