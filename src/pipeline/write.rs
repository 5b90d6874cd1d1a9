//! Writes new cells back, each at the write time that was read (I2).
//!
//! A plain write at that time beats exactly the value it replaces: the new
//! cell's epoch leads its bytes and is higher. Every edit and every delete by
//! the application beats it, in whatever order they arrive.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::crypto::{Header, expiry};
use crate::killpoint;
use crate::pipeline::patience::{FIRST_WAIT, LONGEST_WAIT, patiently};
use crate::pipeline::work::{NewCell, SealedPage, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::store::{CellWrite, Partition, StoreErrorClass};

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
                if done.send(tally?).await.is_err() {
                    return Ok(());
                }
            }
            else => return Ok(()),
        }
    }
}

async fn write_page(task: &TaskRun, mut page: SealedPage) -> Result<Tally, TaskError> {
    let limits = &task.shared.limits;
    let partition = page.view.partition(page.tally.slice.id.hour);
    let mut cells = std::mem::take(&mut page.cells).into_iter().peekable();
    let mut first = true;
    while cells.peek().is_some() {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(cell) = cells.peek() {
            let fits =
                batch.len() < limits.batch_rows && bytes + cell.cell.len() <= limits.batch_bytes;
            if !batch.is_empty() && !fits {
                break;
            }
            bytes += cell.cell.len();
            batch.extend(cells.next());
        }
        killpoint::reach(if first {
            "cells_before_write"
        } else {
            "cells_half_written"
        });
        first = false;
        write_batch(task, &mut page, &partition, batch).await?;
        killpoint::reach("cells_after_write");
    }
    Ok(page.tally)
}

/// Writes one batch. If the store refuses it as such, its rows go one by one,
/// and the one that is meant is left as it is and listed.
async fn write_batch(
    task: &TaskRun,
    page: &mut SealedPage,
    partition: &Partition,
    batch: Vec<NewCell>,
) -> Result<(), TaskError> {
    for cell in send(task, page, partition, batch).await? {
        let (record, write_time) = (cell.record.clone(), cell.write_time);
        if !send(task, page, partition, vec![cell]).await?.is_empty() {
            page.tally.quarantine(record, write_time, "store_refused");
        }
    }
    Ok(())
}

/// Sends one batch and gives it back if the store refuses it as such. Waits and
/// tries again while the store is away; what became too old by that is read
/// again before it is written (I4), and the TTLs are computed for each try.
async fn send(
    task: &TaskRun,
    page: &mut SealedPage,
    partition: &Partition,
    mut batch: Vec<NewCell>,
) -> Result<Vec<NewCell>, TaskError> {
    let shared = &task.shared;
    let mut wait = FIRST_WAIT;
    loop {
        if is_too_old(task, page) {
            batch = read_again(task, page, partition, batch).await?;
        }
        let writes = compose(task, page, &mut batch);
        if writes.is_empty() {
            return Ok(Vec::new());
        }
        match shared.store.write_cells(partition, &writes).await {
            Ok(()) => {
                page.tally.counts.rewritten += writes.len() as u64;
                return Ok(Vec::new());
            }
            Err(error) => match error.class {
                StoreErrorClass::Transient => {
                    tracing::warn!(%error, "the store did not take a batch; trying again");
                    shared.clock.sleep(wait.mul_f64(rand::random())).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                StoreErrorClass::Invalid => return Ok(batch),
                StoreErrorClass::Fatal => return Err(error.into()),
            },
        }
    }
}

/// Makes the statements as they are sent now. A cell whose time is over is
/// dropped from the batch and counted `expired`.
fn compose(task: &TaskRun, page: &mut SealedPage, batch: &mut Vec<NewCell>) -> Vec<CellWrite> {
    let now = task.shared.clock.wall();
    let (epoch, answered_at) = (page.epoch, page.answered_at);
    let ttl = |cell: &NewCell| match cell.expiry {
        None => Some(0),
        Some((at, read_epoch, read_ttl)) => {
            let read = read_ttl.map(|ttl| (read_epoch, ttl, answered_at));
            expiry::store_ttl(at, epoch, read, now)
        }
    };
    let before = batch.len();
    batch.retain(|cell| ttl(cell).is_some());
    page.tally.counts.expired += (before - batch.len()) as u64;
    batch
        .iter()
        .map(|cell| CellWrite {
            record: cell.record.clone(),
            cell: cell.cell.clone(),
            write_time: cell.write_time,
            ttl_s: ttl(cell).unwrap_or(0),
        })
        .collect()
}

fn is_too_old(task: &TaskRun, page: &SealedPage) -> bool {
    let now = task.shared.clock.boot();
    let row_age = task.shared.timing.row_age();
    now.since(page.read_at) >= row_age || now.since(page.view.read_at) >= row_age
}

/// Reads the rows of a batch again and keeps those that are still what they
/// were. A row that somebody changed is theirs now: if it should still be of an
/// old epoch, the proving scan finds it.
async fn read_again(
    task: &TaskRun,
    page: &mut SealedPage,
    partition: &Partition,
    batch: Vec<NewCell>,
) -> Result<Vec<NewCell>, TaskError> {
    let shared = &task.shared;
    let (org, channel) = (task.org.clone(), page.view.channel.clone());
    let view = patiently(&shared.clock, || shared.registry.view(&org, &channel)).await?;
    let read_at = shared.clock.boot();
    if !view.agrees_with(&page.view) {
        page.tally.counts.changed += batch.len() as u64;
        return Ok(Vec::new());
    }
    let mut kept = Vec::with_capacity(batch.len());
    for mut cell in batch {
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
            kept.push(cell);
        } else {
            page.tally.counts.changed += 1;
        }
    }
    page.view = Arc::new(view);
    page.read_at = read_at;
    page.answered_at = shared.clock.wall();
    Ok(kept)
}
