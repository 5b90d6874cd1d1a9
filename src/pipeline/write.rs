//! Writes new cells back, each at the write time that was read (I2).
//!
//! A plain write at that time beats exactly the value it replaces: the new
//! cell's epoch leads its bytes and is higher. Every edit and every delete by
//! the application beats it, in whatever order they arrive.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::clock::{BootTime, WallTime};
use crate::crypto::{Header, expiry};
use crate::epoch::Epoch;
use crate::killpoint;
use crate::pipeline::patience::{FIRST_WAIT, LONGEST_WAIT, patiently};
use crate::pipeline::work::{NewCell, SealedPage, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::registry::ChannelView;
use crate::store::{CellWrite, Partition, StoreErrorClass};
use crate::telemetry::metrics::{STORE_ERRORS, STORE_WRITE_SECONDS};

/// The stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<SealedPage>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let mut writing = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            page = pages.recv(), if more && writing.len() < task.shared.limits.writes => match page {
                Some(page) => writing.push(write_page(&task, page)),
                None => more = false,
            },
            Some(tally) = writing.next(), if !writing.is_empty() => {
                let mut tally = tally?;
                // Not by way of the checkpoint, which may be busy saving one.
                tally.room = None;
                tally.turn = None;
                if done.send(tally).await.is_err() {
                    return Ok(());
                }
            }
            else => return Ok(()),
        }
    }
}

/// Cells that are sent together. Their age goes with them: when one batch of a
/// page is read again, the others are as old as they were.
struct Batch {
    view: Arc<ChannelView>,
    read_at: BootTime,
    answered_at: WallTime,
    epoch: Epoch,
    cells: Vec<NewCell>,
}

impl Batch {
    /// Other cells of the same age.
    fn with(&self, cells: Vec<NewCell>) -> Self {
        Self {
            view: self.view.clone(),
            cells,
            ..*self
        }
    }
}

async fn write_page(task: &TaskRun, page: SealedPage) -> Result<Tally, TaskError> {
    let mut tally = page.tally;
    let partition = page.view.partition(tally.slice.id.hour);
    // The page was read no larger than a batch may be.
    let batch = Batch {
        view: page.view,
        read_at: page.read_at,
        answered_at: page.answered_at,
        epoch: page.epoch,
        cells: page.cells,
    };
    killpoint::reach("cells_before_write");
    write_batch(task, &mut tally, &partition, batch).await?;
    killpoint::reach("cells_after_write");
    Ok(tally)
}

/// Writes one batch. If the store refuses it as such, its rows go one by one,
/// and the one that is meant is left as it is and listed.
async fn write_batch(
    task: &TaskRun,
    tally: &mut Tally,
    partition: &Partition,
    batch: Batch,
) -> Result<(), TaskError> {
    let Some(mut refused) = send(task, tally, partition, batch).await? else {
        return Ok(());
    };
    for cell in std::mem::take(&mut refused.cells) {
        let (record, write_time) = (cell.record.clone(), cell.write_time);
        let alone = refused.with(vec![cell]);
        if send(task, tally, partition, alone).await?.is_some() {
            tally.quarantine(record, write_time, "store_refused");
        }
    }
    Ok(())
}

/// Sends one batch and gives it back if the store refuses it as such. Waits and
/// tries again while the store is away; what became too old by that is read
/// again before it is written (I4), and the TTLs are computed for each try.
async fn send(
    task: &TaskRun,
    tally: &mut Tally,
    partition: &Partition,
    mut batch: Batch,
) -> Result<Option<Batch>, TaskError> {
    let shared = &task.shared;
    let mut wait = FIRST_WAIT;
    loop {
        if is_too_old(task, &batch) {
            read_again(task, tally, partition, &mut batch).await?;
        }
        let writes = compose(shared.clock.wall(), tally, &mut batch);
        if writes.is_empty() {
            return Ok(None);
        }
        let sent_at = shared.clock.boot();
        match shared.store.write_cells(partition, &writes).await {
            Ok(()) => {
                let took = shared.clock.boot().since(sent_at);
                metrics::histogram!(STORE_WRITE_SECONDS).record(took);
                tally.counts.rewritten += writes.len() as u64;
                return Ok(None);
            }
            Err(error) => match error.class {
                StoreErrorClass::Transient => {
                    metrics::counter!(STORE_ERRORS, "class" => "transient").increment(1);
                    tracing::warn!(%error, "the store did not take a batch; trying again");
                    shared.clock.sleep(wait.mul_f64(rand::random())).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                StoreErrorClass::Invalid => {
                    metrics::counter!(STORE_ERRORS, "class" => "invalid").increment(1);
                    return Ok(Some(batch));
                }
                StoreErrorClass::Fatal => return Err(error.into()),
            },
        }
    }
}

/// Makes the statements as they are sent now. A cell whose time is over is
/// dropped from the batch and counted `expired`.
fn compose(now: WallTime, tally: &mut Tally, batch: &mut Batch) -> Vec<CellWrite> {
    let (epoch, answered_at) = (batch.epoch, batch.answered_at);
    let ttl = |cell: &NewCell| match cell.expiry {
        None => Some(0),
        Some((at, read_epoch, read_ttl)) => {
            let read = read_ttl.map(|ttl| (read_epoch, ttl, answered_at));
            expiry::store_ttl(at, epoch, read, now)
        }
    };
    let before = batch.cells.len();
    batch.cells.retain(|cell| ttl(cell).is_some());
    tally.counts.expired += (before - batch.cells.len()) as u64;
    batch
        .cells
        .iter()
        .map(|cell| CellWrite {
            record: cell.record.clone(),
            cell: cell.cell.clone(),
            write_time: cell.write_time,
            ttl_s: ttl(cell).unwrap_or(0),
        })
        .collect()
}

fn is_too_old(task: &TaskRun, batch: &Batch) -> bool {
    let now = task.shared.clock.boot();
    let row_age = task.shared.timing.row_age();
    now.since(batch.read_at) >= row_age || now.since(batch.view.read_at) >= row_age
}

/// Reads the rows of a batch again and keeps those that are still what they
/// were. A row that somebody changed is theirs now: if it should still be of an
/// old epoch, the proving scan finds it.
async fn read_again(
    task: &TaskRun,
    tally: &mut Tally,
    partition: &Partition,
    batch: &mut Batch,
) -> Result<(), TaskError> {
    let shared = &task.shared;
    let (org, channel) = (task.org.clone(), batch.view.channel.clone());
    let view = patiently(&shared.clock, || shared.registry.view(&org, &channel)).await?;
    let read_at = shared.clock.boot();
    let cells = std::mem::take(&mut batch.cells);
    if !view.agrees_with(&batch.view) {
        tally.counts.changed += cells.len() as u64;
        return Ok(());
    }
    for mut cell in cells {
        let found = patiently(&shared.clock, || {
            shared.store.read_cell(partition, &cell.record)
        })
        .await?;
        let same = found.as_ref().is_some_and(|found| {
            found.write_time == cell.write_time
                && Header::parse(&found.cell).is_ok_and(|header| header == cell.replaces)
        });
        if same {
            if let (Some((_, _, ttl)), Some(found)) = (&mut cell.expiry, found) {
                *ttl = found.ttl_s;
            }
            batch.cells.push(cell);
        } else {
            tally.counts.changed += 1;
        }
    }
    batch.view = Arc::new(view);
    batch.read_at = read_at;
    // The last answer's time for all of them: a store's expiry is then never
    // reckoned earlier than it is, and a newer epoch only gets a later one.
    batch.answered_at = shared.clock.wall();
    Ok(())
}
