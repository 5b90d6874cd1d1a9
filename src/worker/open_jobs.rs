//! The jobs that are not at an end, of all organizations, as they stand now.
//!
//! One partition lists them (`JobBook::open_everywhere`), so that an idle worker
//! costs one listing a poll however many organizations there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::{JobId, OrgId};
use crate::job::{BookError, JobRow, Versioned};
use crate::telemetry::pulse::Beat;
use crate::worker::{Worker, WorkerError};

/// Reads them. A row that does not parse is named in the log and left out: it
/// was written by a newer version or by hand, and must not end a worker that
/// has other jobs to do.
///
/// `beat` is the loop that asks: a long list keeps it busy, not stuck. What was
/// read is kept for the metrics and the status page.
pub(super) async fn read(
    worker: &Worker,
    beat: Beat,
) -> Result<Arc<[Versioned<JobRow>]>, WorkerError> {
    let book = &worker.shared.book;
    let mut open = Vec::new();
    for (org, job) in book.open_everywhere().await? {
        worker.pulse.beat(beat);
        match book.get(&org, job).await {
            // Whoever ended it died before it took it off the list.
            Ok(Some(seen)) if seen.row.state.is_final() => book.unindex(&org, job).await?,
            Ok(Some(seen)) => open.push(seen),
            // Is being recorded, or was to be: its message comes again.
            Ok(None) => {}
            Err(error @ BookError::Malformed { .. }) => {
                tracing::error!(%org, %job, %error, "a job is left out; a worker of its version can do it");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let open: Arc<[_]> = open.into();
    let (now, timing) = (worker.shared.clock.wall(), &worker.shared.timing);
    worker.open.read_at(now, open.clone(), timing);
    Ok(open)
}

/// Puts jobs on the list that are open by their organization's own rows and do
/// not stand there: recorded by an older version. Reads every organization that
/// has jobs, so it is done seldom.
pub(super) async fn complete_the_list(worker: &Worker) -> Result<(), WorkerError> {
    let book = &worker.shared.book;
    let listed: BTreeSet<(OrgId, JobId)> = book.open_everywhere().await?.into_iter().collect();
    for org in book.orgs().await? {
        for job in book.open(&org).await? {
            if !listed.contains(&(org.clone(), job)) {
                book.index(&org, job).await?;
            }
        }
    }
    Ok(())
}
