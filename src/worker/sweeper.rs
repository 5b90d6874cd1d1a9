//! Finds jobs that nobody drives and drives them. Because of it a lost message
//! or a dead worker strands nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::job::{JobHold, JobRow, Leased, Versioned, is_free};
use crate::killpoint;
use crate::set_aside;
use crate::store::ControlTable;
use crate::telemetry::pulse::Beat;
use crate::worker::{Worker, WorkerError, drive, joined, open_jobs};

/// Jobs one worker drives at once. A job that waits for a time is nobody's
/// meanwhile, so drains of days do not use this up.
const JOBS_AT_ONCE: usize = 64;

/// How often the list of open jobs is held against the organizations.
const COMPLETE_EVERY: Duration = Duration::from_secs(15 * 60);

pub(super) async fn run(
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    // Tasks of their own: they keep their leases while this loop looks for more.
    let mut driving = JoinSet::new();
    let mut completed = None;
    loop {
        worker.pulse.beat(Beat::Sweeper);
        let now = worker.shared.clock.boot();
        if completed.is_none_or(|at| now.since(at) >= COMPLETE_EVERY) && !*stop.borrow() {
            match open_jobs::complete_the_list(&worker).await {
                Ok(()) => {
                    completed = Some(now);
                    delete_what_was_set_aside(&worker).await?;
                }
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "the list of open jobs cannot be completed now");
                }
                Err(error) => return Err(error),
            }
        }
        if !*stop.borrow() && driving.len() < JOBS_AT_ONCE {
            match free_jobs(&worker).await {
                Ok(free) => {
                    for seen in free.into_iter().take(JOBS_AT_ONCE - driving.len()) {
                        let org = seen.row.request.org().clone();
                        if let Some(hold) = claim(&worker, org.as_str(), seen).await? {
                            driving.spawn(drive::run(worker.clone(), hold, stop.clone()));
                        }
                    }
                }
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "jobs cannot be listed now");
                }
                Err(error) => return Err(error),
            }
        }
        if *stop.borrow() && driving.is_empty() {
            return Ok(());
        }
        let mut idle_stop = stop.clone();
        tokio::select! {
            biased;
            Some(driven) = driving.join_next(), if !driving.is_empty() => joined(driven)?,
            () = worker.pause(&mut idle_stop), if !*stop.borrow() => {}
            _ = stop.changed() => {}
        }
    }
}

/// What cannot be deleted now is deleted the next time.
async fn delete_what_was_set_aside(worker: &Worker) -> Result<(), WorkerError> {
    match set_aside::sweep(&worker.shared)
        .await
        .map_err(WorkerError::from)
    {
        Err(error) if error.may_pass() => {
            tracing::warn!(%error, "what was set aside for long enough cannot be deleted now");
            Ok(())
        }
        other => other,
    }
}

async fn free_jobs(worker: &Worker) -> Result<Vec<Versioned<JobRow>>, WorkerError> {
    let now_ms = worker.shared.clock.wall().unix_ms();
    let open = open_jobs::read(worker, Beat::Sweeper).await?;
    let free = |seen: &&Versioned<JobRow>| is_free(&seen.row, now_ms) && seen.row.is_due(now_ms);
    Ok(open.iter().filter(free).cloned().collect())
}

async fn claim(
    worker: &Worker,
    org: &str,
    seen: Versioned<JobRow>,
) -> Result<Option<JobHold>, WorkerError> {
    debug_assert_eq!(JobRow::TABLE, ControlTable::Jobs);
    let shared = &worker.shared;
    let left = seen.row.lease.clone();
    let claimed = JobHold::claim(
        &shared.book,
        &shared.clock,
        &shared.timing,
        &worker.name,
        org,
        seen,
    )
    .await;
    match claimed.map_err(WorkerError::from) {
        Ok(hold) => {
            if let Some(hold) = &hold {
                if let Some(left) = left {
                    let row = hold.row().await;
                    let now_ms = shared.clock.wall().unix_ms();
                    let over_ms = now_ms.saturating_sub(left.until_ms);
                    tracing::info!(
                        org, job = %row.request.job_id(), token = row.token,
                        from = %left.worker, over_ms, "takeover of a job's drive"
                    );
                }
                killpoint::reach("job_after_claim");
            }
            Ok(hold)
        }
        Err(error) if error.may_pass() => Ok(None),
        Err(error) => Err(error),
    }
}
