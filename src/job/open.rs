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
    BLOCKED_SLICES, JOBS, JOBS_UNATTENDED, OLDEST_LEASE_SECONDS, VERDICTS_BLOCKED,
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
        let free = is_free(job, now_ms);
        sums.unattended += u64::from(free && job.is_due(now_ms));
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
