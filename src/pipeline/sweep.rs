//! Empties the old place of a copy, row by row.

use futures::stream::{StreamExt, TryStreamExt};

use crate::clock::WriteTime;
use crate::ids::RecordId;
use crate::killpoint;
use crate::pipeline::patience::patiently;
use crate::pipeline::{TaskError, TaskRun};
use crate::store::Partition;

/// Rows of one page that are purged at once.
const AT_ONCE: usize = 16;

/// Purges rows, each at exactly the write time that was read: a write that comes
/// later stays, and the next sweep sees it (I14). Only what the destination has,
/// or has replaced, may be given here.
pub(super) async fn purge(
    task: &TaskRun,
    partition: &Partition,
    rows: Vec<(RecordId, WriteTime)>,
) -> Result<(), TaskError> {
    let shared = &task.shared;
    killpoint::reach("sweep_before_purge");
    futures::stream::iter(rows)
        .map(|(record, at)| async move {
            patiently(&shared.clock, || {
                shared.store.delete_row(partition, &record, at)
            })
            .await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    killpoint::reach("sweep_after_purge");
    Ok(())
}
