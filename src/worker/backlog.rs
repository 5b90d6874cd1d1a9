//! How many tasks wait to be worked on, counted for the metrics, so that workers
//! can be started and stopped by it (docs/metrics.md). No worker needs it: it runs
//! only where metrics are fetched.

use std::time::Duration;

use crate::clock::WallTime;
use crate::job::{BookError, JobBook, JobRow, Versioned};
use crate::telemetry::metrics::TASKS_WAITING;
use crate::worker::{Worker, claims};

/// From one count to the next at least.
const EVERY: Duration = Duration::from_secs(15);
/// Counting takes up one part in so many of the time at most.
const SHARE: u32 = 10;
/// Jobs whose tasks are read for one count at most.
pub const COUNTED_JOBS: usize = 200;

impl Worker {
    /// Counts again and again, beside the worker's own loops. Never returns.
    pub async fn count_backlog(&self) {
        let clock = &self.shared.clock;
        loop {
            let begun = clock.boot();
            if let Some(open) = self.open.latest() {
                match waiting_tasks(&self.shared.book, &open.jobs, clock.wall()).await {
                    Ok(waiting) => metrics::gauge!(TASKS_WAITING).set(waiting as f64),
                    // The loops that cannot do without the store say so.
                    Err(error) => tracing::debug!(%error, "waiting tasks cannot be counted now"),
                }
            }
            let took = clock.boot().since(begun);
            clock.sleep(EVERY.max(took * SHARE)).await;
        }
    }
}

/// Tasks of these jobs that have something to do now and that nobody holds; of the
/// first [`COUNTED_JOBS`] jobs that have any. One listing a job, of a row for each
/// 256 slices.
///
/// # Errors
/// If the tasks cannot be read.
pub async fn waiting_tasks(
    book: &JobBook,
    jobs: &[Versioned<JobRow>],
    now: WallTime,
) -> Result<usize, BookError> {
    let now_ms = now.unix_ms();
    let mut waiting = 0;
    let rounds = jobs.iter().filter_map(|seen| {
        let job = &seen.row;
        let round = job.round.filter(|round| round.tasks.is_some())?;
        let works = job.state.has_tasks() && job.closed_until_ms(now_ms).is_none();
        works.then(|| (job.request.job_id(), round.number))
    });
    for (job, round) in rounds.take(COUNTED_JOBS) {
        let tasks = book.tasks(job, round).await?;
        let free = tasks
            .iter()
            .filter(|task| claims::is_claimable(&task.row, now_ms));
        waiting += free.count();
    }
    Ok(waiting)
}
