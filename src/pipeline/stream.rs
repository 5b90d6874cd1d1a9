//! Reads the pages of many slices at once and sorts their cells.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use crate::crypto::CellError;
use crate::ids::ChannelId;
use crate::job::{Counts, Effort, Mode, Pass, SliceId};
use crate::pipeline::patience::patiently;
use crate::pipeline::targets;
use crate::pipeline::triage::{Looking, Triage, triage};
use crate::pipeline::work::{Cell, Page, Slice, SliceTicket, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::planted::{self, Bug};
use crate::registry::{ChannelView, RegistryError};
use crate::store::{Consistency, PageLimit, StoredCell};
use crate::telemetry::metrics::STORE_READ_SECONDS;

/// Reads up to `limits.slices` slices at once. Pages with work go to `work`,
/// the others straight to `done`.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut tickets: mpsc::Receiver<SliceTicket>,
    work: mpsc::Sender<Page>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let under_way = AtomicUsize::new(0);
    let mut reading = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            Some(read) = reading.next(), if !reading.is_empty() => {
                read?;
                under_way.store(reading.len(), Ordering::Relaxed);
            }
            ticket = tickets.recv(), if more && reading.len() < task.shared.limits.slices => {
                match ticket {
                    Some(ticket) => reading.push(read_slice(&task, ticket, &under_way, &work, &done)),
                    None => more = false,
                }
                under_way.store(reading.len(), Ordering::Relaxed);
            }
            else => return Ok(()),
        }
    }
}

async fn read_slice(
    task: &TaskRun,
    ticket: SliceTicket,
    under_way: &AtomicUsize,
    work: &mpsc::Sender<Page>,
    done: &mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let shared = &task.shared;
    let limits = &shared.limits;
    // What is sealed and not written yet is done again after a kill, and that
    // shall be one batch of a slice at most. So a page that is rewritten has no
    // more rows than a batch; of a slice one is under way, or two halves, and the
    // next is read meanwhile. Throughput comes from the number of slices.
    let rewrites = match task.pass {
        Pass::Rewrite => task.mode() == Mode::Reencrypt,
        Pass::Copy | Pass::Sweep => true,
        Pass::Verify | Pass::Drain => false,
    };
    let limit = PageLimit {
        rows: if rewrites {
            limits.page_rows.min(limits.batch_rows)
        } else {
            limits.page_rows
        },
        bytes: if rewrites {
            limits.page_bytes.min(limits.batch_bytes)
        } else {
            limits.page_bytes
        },
    };
    let consistency = match task.pass {
        Pass::Rewrite | Pass::Verify | Pass::Copy => Consistency::Quorum,
        Pass::Drain | Pass::Sweep => Consistency::All,
    };
    let turn = Arc::new(Semaphore::new(WHOLE as usize));
    let slice = Arc::new(Slice::new(&task.org, &ticket, turn));
    let channel = &ticket.slice.channel;
    let Some(mut view) = view_of(task, channel).await? else {
        // Its key rows stay, as all do; what they were for went with the copy
        // that was called off.
        let _ = done.send(Tally::of_nothing(slice)).await;
        return Ok(());
    };
    let mut after = ticket.resume_after.clone();
    let mut page_number = 0;
    loop {
        // Before the view is looked at, which must be young for what follows.
        let throttles = &shared.throttles;
        let allowed = throttles.rows(&task.org, task.job, limit.rows, &task.stop);
        let Some(allowed) = allowed.await else {
            let _ = done.send(Tally::cut_short(slice, page_number, after)).await;
            return Ok(());
        };
        // The view is as old as the oldest write made by it may be (I4).
        if shared.clock.boot().since(view.read_at) >= shared.timing.row_age() / 2 {
            match view_of(task, channel).await? {
                Some(young) => view = young,
                None => {
                    let mut tally = Tally::of_nothing(slice);
                    (tally.page, tally.after) = (page_number, after);
                    let _ = done.send(tally).await;
                    return Ok(());
                }
            }
        }
        // Room for a full page is taken before it is read; what it does not use
        // is given back at once. So memory stays bounded whatever comes.
        let page_kib = limit
            .bytes
            .div_ceil(1024)
            .min(limits.task_bytes / 1024)
            .max(1);
        let mut room = task
            .room
            .clone()
            .acquire_many_owned(page_kib as u32)
            .await
            .map_err(|_| TaskError::Compute)?;
        let partition = view.partition(ticket.slice.hour);
        let read_at = shared.clock.boot();
        let page = patiently(&shared.clock, || {
            shared
                .store
                .read_page(&partition, after.as_ref(), limit, consistency)
        })
        .await?;
        let answered_at = shared.clock.wall();
        metrics::histogram!(STORE_READ_SECONDS).record(shared.clock.boot().since(read_at));
        let bytes: usize = page.cells.iter().map(|c| c.cell.len()).sum();
        let used_kib = bytes.div_ceil(1024).clamp(1, page_kib);
        drop(room.split(page_kib - used_kib));

        let rows = page.cells.len() + usize::try_from(page.empty_rows).unwrap_or(usize::MAX);
        allowed.read(rows);

        let complete = page.next.is_none();
        let ends = complete || task.stopping();
        // Where few slices are under way, none may wait for its own write: one
        // half is sealed while the other is written. It is not known between
        // which cells the empty rows are, so a page with some stays whole.
        let halves = rewrites
            && !(complete && page_number == 0)
            && page.empty_rows == 0
            && under_way.load(Ordering::Relaxed) < FEW_SLICES;
        let parts = if halves {
            in_halves(page.cells, limit)
        } else {
            vec![page.cells]
        };
        let (share, last_part) = (if halves { HALF } else { WHOLE }, parts.len() - 1);
        for (n, part) in parts.into_iter().enumerate() {
            let is_last = n == last_part;
            let bytes: usize = part.iter().map(|c| c.cell.len()).sum();
            let its_room = if is_last {
                room.split(room.num_permits())
            } else {
                room.split(bytes.div_ceil(1024).min(room.num_permits()))
            };
            let last_cell = part.last().map(|c| c.record.clone());
            let (next, empty_rows) = if is_last {
                (page.next.clone().or(last_cell), page.empty_rows)
            } else {
                (last_cell, 0)
            };
            let mut tally = Tally {
                slice: slice.clone(),
                page: page_number,
                last_page: is_last && ends,
                complete: is_last && complete,
                after: after.take(),
                last_record: next.clone(),
                counts: Counts {
                    scanned: part.len() as u64 + empty_rows,
                    empty: empty_rows,
                    ..Counts::default()
                },
                effort: Effort {
                    slices: u64::from(is_last && complete),
                    bytes: bytes as u64,
                    ..Effort::default()
                },
                bad: Vec::new(),
                blocked: None,
                room: its_room,
                turn: None,
            };
            after = next;
            page_number += 1;
            let mut cells = Vec::new();
            for stored in part {
                let looking = Looking {
                    pass: task.pass,
                    mode: task.mode(),
                    job_epoch: task.epoch,
                };
                let mut what = triage(&looking, &view, &stored.cell, stored.ttl_s, answered_at);
                if matches!(what, Triage::AboveNewest(_)) {
                    // A job that was activated since the view was read may have
                    // given this epoch out.
                    view = task.views.fresh(shared, &task.org, channel).await?;
                    what = triage(&looking, &view, &stored.cell, stored.ttl_s, answered_at);
                }
                let scans = matches!(task.pass, Pass::Verify | Pass::Drain);
                if scans && tally.page > 0 && planted::is(Bug::ScanSkipsAPage) {
                    what = Triage::Current;
                }
                match what {
                    Triage::Work(header) => cells.push(Cell {
                        record: stored.record,
                        cell: stored.cell,
                        header,
                        write_time: stored.write_time,
                        ttl_s: stored.ttl_s,
                    }),
                    Triage::Current => tally.counts.current += 1,
                    Triage::Expired => tally.counts.expired += 1,
                    Triage::Find => match left_alone(task, &ticket.slice, &stored).await? {
                        Some(code) => tally.quarantine(stored.record, stored.write_time, code),
                        // Somebody wrote it after it was gone through.
                        None => {
                            tally.counts.changed += 1;
                            tally.effort.finds += 1;
                        }
                    },
                    Triage::AboveNewest(error) | Triage::Bad(error) => {
                        quarantine(&mut tally, stored.record, stored.write_time, &error);
                    }
                }
            }
            let sent = if cells.is_empty() {
                done.send(tally).await.is_ok()
            } else {
                if rewrites {
                    let turn = slice.turn.clone().acquire_many_owned(share).await;
                    tally.turn = Some(turn.map_err(|_| TaskError::Compute)?);
                }
                let page = Page {
                    tally,
                    view: view.clone(),
                    read_at,
                    answered_at,
                    cells,
                };
                work.send(page).await.is_ok()
            };
            if !sent {
                return Ok(());
            }
        }
        if ends {
            return Ok(());
        }
        after = page.next;
    }
}

/// A young view of the slice's channel; `None` if the channel is there no more:
/// it was the destination of a copy that was called off. A copy goes on only
/// while it is under way, and by the place that it began with.
async fn view_of(
    task: &TaskRun,
    channel: &ChannelId,
) -> Result<Option<Arc<ChannelView>>, TaskError> {
    match task.views.young(&task.shared, &task.org, channel).await {
        Ok(view) => targets::check_source(task, &view).map(|()| Some(view)),
        Err(TaskError::Registry(RegistryError::UnknownChannel { .. })) => match task.pass {
            Pass::Copy | Pass::Sweep => Err(TaskError::CalledOff(task.job)),
            Pass::Rewrite | Pass::Verify | Pass::Drain => Ok(None),
        },
        Err(error) => Err(error),
    }
}

/// A slice's whole turn, and half of it.
const WHOLE: u32 = 2;
const HALF: u32 = 1;

/// With fewer slices than this under way their pages go on in halves.
const FEW_SLICES: usize = 8;

/// Cuts the cells of a page into parts of half its limits, or of one cell where
/// that is larger.
fn in_halves(cells: Vec<StoredCell>, limit: PageLimit) -> Vec<Vec<StoredCell>> {
    let (most_rows, most_bytes) = (limit.rows.div_ceil(2), limit.bytes / 2);
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for cell in cells {
        let size = cell.cell.len();
        if let Some(part) = parts.last_mut()
            && (part.is_empty() || (part.len() < most_rows && bytes + size <= most_bytes))
        {
            bytes += size;
            part.push(cell);
        } else {
            bytes = size;
            parts.push(vec![cell]);
        }
    }
    parts
}

/// Why the last rewriting round left this very cell as it is, if it did: a cell
/// that cannot be rewritten is not found anew by each scan.
async fn left_alone(
    task: &TaskRun,
    slice: &SliceId,
    stored: &StoredCell,
) -> Result<Option<String>, TaskError> {
    let shared = &task.shared;
    let listed = patiently(&shared.clock, || {
        shared.book.is_quarantined(task.job, slice, &stored.record)
    })
    .await?;
    Ok(listed
        .filter(|row| row.round >= task.rewrite_round && row.write_time == stored.write_time.0)
        .map(|row| row.code))
}

fn quarantine(
    tally: &mut Tally,
    record: crate::ids::RecordId,
    write_time: crate::clock::WriteTime,
    error: &CellError,
) {
    tally.quarantine(record, write_time, error.code());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WriteTime;
    use crate::ids::RecordId;
    use proptest::prelude::*;

    proptest! {
        /// Two parts that are under way at once are never more than one batch,
        /// but for single cells that are larger than half of one.
        #[test]
        fn halves_hold_every_cell_in_order_and_two_of_them_are_one_batch(
            sizes in prop::collection::vec(1usize..70, 0..100),
        ) {
            let limit = PageLimit { rows: 100, bytes: 120 };
            let cells: Vec<StoredCell> = sizes
                .iter()
                .enumerate()
                .map(|(n, size)| StoredCell {
                    record: RecordId::new(vec![n as u8]).unwrap(),
                    cell: vec![0; *size],
                    write_time: WriteTime(0),
                    ttl_s: None,
                })
                .collect();
            let parts = in_halves(cells.clone(), limit);
            prop_assert_eq!(parts.concat(), cells);
            for part in &parts {
                let bytes: usize = part.iter().map(|c| c.cell.len()).sum();
                prop_assert!(part.len() <= 50);
                prop_assert!(bytes <= 60 || part.len() == 1);
                prop_assert!(!part.is_empty() || parts.len() == 1);
            }
        }
    }
}
