//! What each worker holds, by the leases that name it.

use std::collections::BTreeMap;

use super::figures;
use crate::ids::{JobId, OrgId};
use crate::job::{JobRow, Lease, TaskRow};
use crate::registry::Timing;

/// A worker by the leases that name it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The end of the lease that it renewed last, Unix milliseconds.
    pub newest_until_ms: u64,
    /// What it waits for, as it last said.
    pub waits: Option<String>,
    /// What slows it down, as it last said.
    pub slowed: Option<String>,
    /// What it holds.
    pub held: Vec<Held>,
}

/// One lease.
#[derive(Debug, Clone)]
pub struct Held {
    /// The job.
    pub job: JobId,
    /// Its organization.
    pub org: OrgId,
    /// The task's id and row, or `None` for the job itself.
    pub task: Option<(String, TaskRow)>,
    /// What it is held for, in words.
    pub what: String,
    /// The end of the lease, Unix milliseconds.
    pub until_ms: u64,
}

impl Seen {
    /// When it last renewed a lease, Unix milliseconds.
    pub fn heartbeat_ms(&self, timing: &Timing) -> u64 {
        renewed_ms(self.newest_until_ms, timing)
    }
}

impl Held {
    /// When the lease was last renewed, Unix milliseconds.
    pub fn heartbeat_ms(&self, timing: &Timing) -> u64 {
        renewed_ms(self.until_ms, timing)
    }
}

/// Each write sets a lease's end a lease ahead.
fn renewed_ms(until_ms: u64, timing: &Timing) -> u64 {
    until_ms.saturating_sub(timing.lease_ms)
}

/// Notes the leases of a job and of the tasks of its round: each task by its id.
pub fn held(
    workers: &mut BTreeMap<String, Seen>,
    job: &JobRow,
    tasks: impl IntoIterator<Item = (String, TaskRow)>,
) {
    if let Some(lease) = &job.lease {
        note(
            workers,
            lease,
            job,
            None,
            format!("drives it: {}", job.state),
        );
    }
    let Some(round) = job.round else {
        return;
    };
    for (id, task) in tasks {
        let Some(lease) = task.lease.clone() else {
            continue;
        };
        let what = format!(
            "task {id}: {}, {} of {}",
            round.pass.as_str(),
            super::slices_done(&task),
            figures::count(task.planned, "slice")
        );
        note(workers, &lease, job, Some((id, task)), what);
    }
}

fn note(
    workers: &mut BTreeMap<String, Seen>,
    lease: &Lease,
    job: &JobRow,
    task: Option<(String, TaskRow)>,
    what: String,
) {
    let seen = workers.entry(lease.worker.clone()).or_default();
    // It says the same of itself in every row that it holds, as it is when it
    // writes that row: so the newest counts.
    if lease.until_ms >= seen.newest_until_ms {
        seen.newest_until_ms = lease.until_ms;
        let both = [&lease.waits, &lease.intake_waits].into_iter().flatten();
        let both: Vec<&str> = both.map(String::as_str).collect();
        seen.waits = (!both.is_empty()).then(|| both.join("; "));
        seen.slowed.clone_from(&lease.slowed);
    }
    seen.held.push(Held {
        job: job.request.job_id(),
        org: job.request.org().clone(),
        task,
        what,
        until_ms: lease.until_ms,
    });
}
