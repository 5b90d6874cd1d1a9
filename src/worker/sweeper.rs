//! Finds jobs that nobody drives and drives them. Because of it a lost message
//! or a dead worker strands nothing.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::job::{JobHold, JobRow, Leased, Versioned, is_free};
use crate::killpoint;
use crate::store::ControlTable;
use crate::worker::{Worker, WorkerError, drive, joined};

/// Jobs one worker drives at once. A job that waits for a time is nobody's
/// meanwhile, so drains of days do not use this up.
const JOBS_AT_ONCE: usize = 64;

pub(super) async fn run(
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    // Tasks of their own: they keep their leases while this loop looks for more.
    let mut driving = JoinSet::new();
    loop {
        if !*stop.borrow() && driving.len() < JOBS_AT_ONCE {
            match free_jobs(&worker).await {
                Ok(free) => {
                    for (org, seen) in free.into_iter().take(JOBS_AT_ONCE - driving.len()) {
                        if let Some(hold) = claim(&worker, &org, seen).await? {
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
            Some(driven) = driving.join_next(), if !driving.is_empty() => joined(driven)?,
            () = worker.pause(&mut idle_stop), if !*stop.borrow() => {}
            _ = stop.changed() => {}
        }
    }
}

async fn free_jobs(worker: &Worker) -> Result<Vec<(String, Versioned<JobRow>)>, WorkerError> {
    let book = &worker.shared.book;
    let now_ms = worker.shared.clock.wall().unix_ms();
    let mut free = Vec::new();
    for org in book.orgs().await? {
        for job in book.open(&org).await? {
            if let Some(seen) = book.get(&org, job).await?
                && is_free(&seen.row, now_ms)
                && !seen.row.state.is_final()
                && seen.row.is_due(now_ms)
            {
                free.push((org.as_str().to_owned(), seen));
            }
        }
    }
    Ok(free)
}

async fn claim(
    worker: &Worker,
    org: &str,
    seen: Versioned<JobRow>,
) -> Result<Option<JobHold>, WorkerError> {
    debug_assert_eq!(JobRow::TABLE, ControlTable::Jobs);
    let shared = &worker.shared;
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
            if hold.is_some() {
                killpoint::reach("job_after_claim");
            }
            Ok(hold)
        }
        Err(error) if error.may_pass() => Ok(None),
        Err(error) => Err(error),
    }
}
