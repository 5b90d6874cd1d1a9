//! Writes new cells back, each at the write time that was read (I2).
//!
//! A plain write at that time beats exactly the value it replaces: the new
//! cell's epoch leads its bytes and is higher. Every edit and every delete by
//! the application beats it, in whatever order they arrive.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::clock::{BootTime, WallTime, WriteTime};
use crate::crypto::{Header, expiry};
use crate::epoch::Epoch;
use crate::killpoint;
use crate::pipeline::patience::{FIRST_WAIT, LONGEST_WAIT, patiently};
use crate::pipeline::work::{NewCell, SealedPage, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::planted::{self, Bug};
use crate::registry::{ChannelView, RegistryError};
use crate::replay;
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
            biased;
            Some(tally) = writing.next(), if !writing.is_empty() => {
                let mut tally: Tally = tally?;
                // Not by way of the checkpoint, which may be busy saving one.
                tally.room = None;
                tally.turn = None;
                if done.send(tally).await.is_err() {
                    return Ok(());
                }
            }
            page = pages.recv(), if more && writing.len() < task.shared.limits.writes => match page {
                Some(page) => writing.push(write_page(&task, page)),
                None => more = false,
            },
            else => return Ok(()),
        }
    }
}

/// Cells that are sent together. Their age goes with them: when one batch of a
/// page is read again, the others are as old as they were.
pub(super) struct Batch {
    /// Where they go.
    pub(super) partition: Partition,
    /// When the oldest of the reads was begun that they follow from, those of the
    /// registry among them.
    pub(super) read_at: BootTime,
    /// When the store gave the TTLs that they replace.
    pub(super) answered_at: WallTime,
    /// Their epoch.
    pub(super) epoch: Epoch,
    /// The cells. What expires before it is sent is taken out.
    pub(super) cells: Vec<NewCell>,
}

impl Batch {
    /// Other cells of the same age for the same place.
    pub(super) fn with(&self, cells: Vec<NewCell>) -> Self {
        Self {
            partition: self.partition.clone(),
            cells,
            ..*self
        }
    }
}

/// What became of a batch.
pub(super) enum Sent {
    /// What is left of it was acknowledged.
    Done,
    /// The store refuses it as such.
    Refused,
    /// It has to be read again before it may be written (I4).
    TooOld,
}

async fn write_page(task: &Arc<TaskRun>, page: SealedPage) -> Result<Tally, TaskError> {
    let mut tally = page.tally;
    // The page was read no larger than a batch may be.
    let batch = Batch {
        partition: page.view.partition(tally.slice.id.hour),
        read_at: page.read_at.min(page.view.read_at),
        answered_at: page.answered_at,
        epoch: page.epoch,
        cells: page.cells,
    };
    killpoint::reach("cells_before_write");
    if planted::is(Bug::CheckpointBeforeData) {
        tally.counts.rewritten += batch.cells.len() as u64;
        tokio::spawn(late(task.clone(), batch));
        return Ok(tally);
    }
    write_batch(task, &mut tally, &page.view, batch).await?;
    killpoint::reach("cells_after_write");
    Ok(tally)
}

/// What [`Bug::CheckpointBeforeData`] leaves for later.
async fn late(task: Arc<TaskRun>, mut batch: Batch) {
    task.shared
        .clock
        .sleep(task.shared.timing.request_timeout())
        .await;
    let _ = send(&task, &mut batch, |_| ()).await;
}

/// Writes one batch. If the store refuses it as such, its rows go one by one,
/// and the one that is meant is left as it is and listed.
async fn write_batch(
    task: &TaskRun,
    tally: &mut Tally,
    view: &Arc<ChannelView>,
    batch: Batch,
) -> Result<(), TaskError> {
    let Some(mut refused) = rewrite(task, tally, view, batch).await? else {
        return Ok(());
    };
    for cell in std::mem::take(&mut refused.cells) {
        let (record, write_time) = (cell.record.clone(), cell.write_time);
        let alone = refused.with(vec![cell]);
        if rewrite(task, tally, view, alone).await?.is_some() {
            tally.quarantine(record, write_time, "store_refused");
        }
    }
    Ok(())
}

/// Sends one batch, read again as often as it has to be, and gives it back if
/// the store refuses it as such.
async fn rewrite(
    task: &TaskRun,
    tally: &mut Tally,
    view: &Arc<ChannelView>,
    mut batch: Batch,
) -> Result<Option<Batch>, TaskError> {
    loop {
        let sent = send(task, &mut batch, |_| tally.counts.expired += 1).await?;
        match sent {
            Sent::Done => {
                tally.counts.rewritten += batch.cells.len() as u64;
                return Ok(None);
            }
            Sent::Refused => return Ok(Some(batch)),
            Sent::TooOld => read_again(task, tally, view, &mut batch).await?,
        }
    }
}

/// Sends one batch. Waits and tries again while the store is away, until it is
/// too old; the TTLs are computed for each try. A cell whose time is over is
/// taken out and given to `expired`.
pub(super) async fn send(
    task: &TaskRun,
    batch: &mut Batch,
    mut expired: impl FnMut(NewCell),
) -> Result<Sent, TaskError> {
    let shared = &task.shared;
    let mut wait = FIRST_WAIT;
    loop {
        // All that was left of it may have turned out to be somebody else's.
        if batch.cells.is_empty() {
            return Ok(Sent::Done);
        }
        if shared.clock.boot().since(batch.read_at) >= shared.timing.row_age() {
            return Ok(Sent::TooOld);
        }
        let writes = compose(shared.clock.wall(), batch, &mut expired);
        if writes.is_empty() {
            return Ok(Sent::Done);
        }
        let sent_at = shared.clock.boot();
        match shared.store.write_cells(&batch.partition, &writes).await {
            Ok(()) => {
                let took = shared.clock.boot().since(sent_at);
                metrics::histogram!(STORE_WRITE_SECONDS).record(took);
                return Ok(Sent::Done);
            }
            Err(error) => match error.class {
                StoreErrorClass::Transient => {
                    metrics::counter!(STORE_ERRORS, "class" => "transient").increment(1);
                    tracing::warn!(%error, "the store did not take a batch; trying again");
                    shared.clock.sleep(wait.mul_f64(replay::random())).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                StoreErrorClass::Invalid => {
                    metrics::counter!(STORE_ERRORS, "class" => "invalid").increment(1);
                    return Ok(Sent::Refused);
                }
                StoreErrorClass::Fatal => return Err(error.into()),
            },
        }
    }
}

/// Makes the statements as they are sent now.
fn compose(now: WallTime, batch: &mut Batch, expired: &mut impl FnMut(NewCell)) -> Vec<CellWrite> {
    let (epoch, answered_at) = (batch.epoch, batch.answered_at);
    let ttl = |cell: &NewCell| match cell.expiry {
        None => Some(0),
        Some((_, _, Some(ttl))) if planted::is(Bug::RemainingTtl) => Some(ttl),
        Some((at, read_epoch, read_ttl)) => {
            let read = read_ttl.map(|ttl| (read_epoch, ttl, answered_at));
            expiry::store_ttl(at, epoch, read, now)
        }
    };
    batch
        .cells
        .extract_if(.., |cell| ttl(cell).is_none())
        .for_each(expired);
    batch
        .cells
        .iter()
        .map(|cell| CellWrite {
            record: cell.record.clone(),
            cell: cell.cell.clone(),
            write_time: WriteTime(
                cell.write_time.0 + i64::from(planted::is(Bug::WriteTimePlusOne)),
            ),
            ttl_s: ttl(cell).unwrap_or(0),
        })
        .collect()
}

/// Reads the rows of a batch again and keeps those that are still what they
/// were. A row that somebody changed is theirs now: if it should still be of an
/// old epoch, the proving scan finds it.
async fn read_again(
    task: &TaskRun,
    tally: &mut Tally,
    view: &ChannelView,
    batch: &mut Batch,
) -> Result<(), TaskError> {
    let shared = &task.shared;
    let (org, channel) = (&view.org, &view.channel);
    let fresh = patiently(&shared.clock, || shared.registry.view(org, channel)).await;
    let cells = std::mem::take(&mut batch.cells);
    let fresh = match fresh {
        Ok(fresh) if fresh.agrees_with(view) => fresh,
        // Gone: it was the destination of a copy that was called off.
        Ok(_) | Err(RegistryError::UnknownChannel { .. }) => {
            tally.counts.changed += cells.len() as u64;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    for mut cell in cells {
        let found = patiently(&shared.clock, || {
            shared.store.read_cell(&batch.partition, &cell.record)
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
    batch.read_at = fresh.read_at;
    // The last answer's time for all of them: a store's expiry is then never
    // reckoned earlier than it is, and a newer epoch only gets a later one.
    batch.answered_at = shared.clock.wall();
    Ok(())
}
