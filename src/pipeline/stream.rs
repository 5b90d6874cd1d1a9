//! Reads the pages of many slices at once and sorts their cells.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Semaphore, mpsc};

use crate::crypto::CellError;
use crate::job::{Counts, Effort, Mode, Pass, SliceId};
use crate::pipeline::patience::patiently;
use crate::pipeline::triage::{Looking, Triage, triage};
use crate::pipeline::unwrap::SliceKeyRing;
use crate::pipeline::work::{Cell, Page, Slice, SliceTicket, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::registry::ChannelView;
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
    let mut reading = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            ticket = tickets.recv(), if more && reading.len() < task.shared.limits.slices => {
                match ticket {
                    Some(ticket) => reading.push(read_slice(&task, ticket, &work, &done)),
                    None => more = false,
                }
            }
            Some(read) = reading.next(), if !reading.is_empty() => read?,
            else => return Ok(()),
        }
    }
}

async fn read_slice(
    task: &TaskRun,
    ticket: SliceTicket,
    work: &mpsc::Sender<Page>,
    done: &mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let shared = &task.shared;
    let limits = &shared.limits;
    // What is sealed and not written yet is done again after a kill. So a page
    // that is rewritten has no more rows than a batch, and a slice has one such
    // page under way; the next is read meanwhile. Throughput comes from the
    // number of slices.
    let rewrites = task.pass == Pass::Rewrite && task.mode == Mode::Reencrypt;
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
        Pass::Rewrite | Pass::Verify => Consistency::Quorum,
        Pass::Drain => Consistency::All,
    };
    let mut view = read_view(task, &ticket).await?;
    let slice = Arc::new(Slice {
        number: ticket.number,
        keys: SliceKeyRing::new(&task.org, &ticket.slice),
        id: ticket.slice.clone(),
        turn: Arc::new(Semaphore::new(1)),
    });
    let mut after = ticket.resume_after.clone();
    for page_number in 0.. {
        // The view is as old as the oldest write made by it may be (I4).
        if shared.clock.boot().since(view.read_at) >= shared.timing.row_age() / 2 {
            view = read_view(task, &ticket).await?;
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

        let last_page = page.next.is_none() || task.stopping();
        let complete = page.next.is_none();
        let mut tally = Tally {
            slice: slice.clone(),
            page: page_number,
            last_page,
            complete,
            after: after.take(),
            last_record: page
                .next
                .clone()
                .or(page.cells.last().map(|c| c.record.clone())),
            counts: Counts {
                scanned: page.cells.len() as u64 + page.empty_rows,
                empty: page.empty_rows,
                ..Counts::default()
            },
            effort: Effort {
                slices: u64::from(complete),
                bytes: bytes as u64,
                ..Effort::default()
            },
            bad: Vec::new(),
            blocked: None,
            room: Some(room),
            turn: None,
        };
        after = page.next;
        let mut cells = Vec::new();
        for stored in page.cells {
            let looking = Looking {
                pass: task.pass,
                mode: task.mode,
                job_epoch: task.epoch,
            };
            let mut what = triage(&looking, &view, &stored.cell, stored.ttl_s, answered_at);
            if matches!(what, Triage::AboveNewest(_)) {
                // A job that was activated since the view was read may have
                // given this epoch out.
                view = read_view(task, &ticket).await?;
                what = triage(&looking, &view, &stored.cell, stored.ttl_s, answered_at);
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
                let turn = slice.turn.clone().acquire_owned().await;
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
        if last_page || !sent {
            return Ok(());
        }
    }
    Ok(())
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

async fn read_view(task: &TaskRun, ticket: &SliceTicket) -> Result<Arc<ChannelView>, TaskError> {
    let shared = &task.shared;
    let view = patiently(&shared.clock, || {
        shared.registry.view(&task.org, &ticket.slice.channel)
    })
    .await?;
    Ok(Arc::new(view))
}

fn quarantine(
    tally: &mut Tally,
    record: crate::ids::RecordId,
    write_time: crate::clock::WriteTime,
    error: &CellError,
) {
    tally.quarantine(record, write_time, error.code());
}
