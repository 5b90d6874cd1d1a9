//! Brings cells to another place, each at its own write time, and looks whether
//! they are there. The sweep does the same with what is left in the old place,
//! and empties it.
//!
//! Writers go to the destination first. So the source is read before the
//! destination: of a write that the source shows, the destination shows that or
//! a later one already, unless it was made before the copy began.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::clock::{BootTime, WriteTime};
use crate::crypto::{CellError, CellKey, expiry};
use crate::epoch::Epoch;
use crate::ids::RecordId;
use crate::job::{Effort, Pass};
use crate::killpoint;
use crate::pipeline::compare::{Look, is_there, look};
use crate::pipeline::crossing::cross_once;
use crate::pipeline::patience::patiently;
use crate::pipeline::reencrypt::{Forge, Seal};
use crate::pipeline::triage::{Looking, Triage, triage};
use crate::pipeline::unwrap::{KeyFault, open_keys, sealing_key};
use crate::pipeline::work::{Blocked, Cell, NewCell, Page, Tally};
use crate::pipeline::write::{Batch, Sent, send};
use crate::pipeline::{TaskError, TaskRun, sweep, targets};
use crate::registry::{ChannelView, Places, RegistryError};
use crate::scope::Locus;

/// The stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<Page>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let mut copying = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            Some(tally) = copying.next(), if !copying.is_empty() => {
                let mut tally: Tally = tally?;
                // Not by way of the checkpoint, which may be busy saving one.
                tally.room = None;
                tally.turn = None;
                if done.send(tally).await.is_err() {
                    return Ok(());
                }
            }
            page = pages.recv(), if more && copying.len() < task.shared.limits.kms => match page {
                Some(page) => copying.push(copy_page(&task, page)),
                None => more = false,
            },
            else => return Ok(()),
        }
    }
}

/// Cells of the source and the age of what is known of them.
struct Source {
    view: Arc<ChannelView>,
    read_at: BootTime,
    cells: Vec<Cell>,
}

/// A cell on its way.
struct Carried {
    cell: Cell,
    /// The new cells, one for each place that is written.
    new: Vec<Bytes>,
}

/// Rows that the source no longer needs: the destination has them, or has
/// replaced them.
type Settled = Vec<(RecordId, WriteTime)>;

async fn copy_page(task: &TaskRun, page: Page) -> Result<Tally, TaskError> {
    let mut tally = page.tally;
    let partition = page.view.partition(tally.slice.id.hour);
    let mut settled = Settled::new();
    let mut source = Source {
        view: page.view,
        read_at: page.read_at,
        cells: page.cells,
    };
    loop {
        let too_old = carry(task, &mut tally, &mut settled, source).await?;
        if too_old.is_empty() {
            break;
        }
        source = read_again(task, &mut tally, too_old).await?;
    }
    if task.pass == Pass::Sweep && !settled.is_empty() {
        sweep::purge(task, &partition, settled).await?;
    }
    Ok(tally)
}

/// Brings cells to the destination as far as it does not have them. Gives back
/// those that became too old on the way (I4).
async fn carry(
    task: &TaskRun,
    tally: &mut Tally,
    settled: &mut Settled,
    source: Source,
) -> Result<Vec<Cell>, TaskError> {
    let places = task.targets.young(task).await?;
    let hour = tally.slice.id.hour;
    let mut looks = Vec::with_capacity(places.write.len());
    for place in &places.write {
        let partition = place.partition(hour);
        looks.push(look(task, &partition, tally.after.as_ref(), &source.cells).await?);
    }
    let (there, needed): (Vec<Cell>, Vec<Cell>) = source.cells.into_iter().partition(|cell| {
        looks
            .iter()
            .all(|look| is_there(task.pass, task.epoch, cell, look.of(&cell.record)))
    });
    tally.counts.current += there.len() as u64;
    settled.extend(there.into_iter().map(|cell| (cell.record, cell.write_time)));
    let mut carried = renew(task, tally, &source.view, &places, needed).await?;
    if carried.is_empty() {
        return Ok(Vec::new());
    }
    let read_at = looks
        .iter()
        .map(|look| look.read_at)
        .fold(source.read_at.min(source.view.read_at), Ord::min)
        .min(places.read_at);
    killpoint::reach("copy_before_write");
    for (n, (place, look)) in places.write.iter().zip(&looks).enumerate() {
        let batch = Batch {
            partition: place.partition(hour),
            read_at,
            answered_at: look.answered_at,
            epoch: place.desired().cell_epoch,
            cells: carried.iter().map(|c| new_cell(c, n, look)).collect(),
        };
        if let Sent::TooOld = write(task, tally, &mut carried, batch).await? {
            return Ok(carried.into_iter().map(|carried| carried.cell).collect());
        }
    }
    killpoint::reach("copy_after_write");
    confirm(task, tally, settled, &places.read, carried).await?;
    Ok(Vec::new())
}

/// Opens cells and seals them for each place that is written. No key is used
/// unless a cell needs it, and none is made unless a cell can be opened.
async fn renew(
    task: &TaskRun,
    tally: &mut Tally,
    source: &Arc<ChannelView>,
    places: &Arc<Places>,
    cells: Vec<Cell>,
) -> Result<Vec<Carried>, TaskError> {
    if cells.is_empty() {
        return Ok(Vec::new());
    }
    let slice = tally.slice.clone();
    let mut effort = Effort::default();
    let opened = open_keys(task, &slice.keys, source, &cells, &mut effort).await?;
    let mut openable: Vec<(Cell, Arc<CellKey>)> = Vec::with_capacity(cells.len());
    for cell in cells {
        match opened.get(&cell.header.key_id) {
            Some(Ok(key)) => openable.push((cell, key.clone())),
            Some(Err(KeyFault::Blocked(why))) => tally.block(1, why.clone()),
            Some(Err(KeyFault::Bad(code))) => {
                tally.quarantine(cell.record, cell.write_time, code.clone());
            }
            Some(Err(KeyFault::Find)) | None => {
                let missing = CellError::KeyRowMissing(cell.header.key_id);
                tally.quarantine(cell.record, cell.write_time, missing.code());
            }
        }
    }
    let mut seals = Vec::with_capacity(places.write.len());
    let mut fault = None;
    if !openable.is_empty() {
        for place in &places.write {
            let ring = slice.keys_of(place);
            match sealing_key(task, &ring, place, openable.len() as u32, &mut effort).await? {
                Ok(key) => seals.push(key),
                Err(why) => {
                    fault = Some(why);
                    break;
                }
            }
        }
    }
    tally.effort.add(&effort);
    match fault {
        None => {}
        // The cells are good: they wait for the destination's key.
        Some(KeyFault::Blocked(why)) => {
            tally.block(openable.len() as u64, why);
            return Ok(Vec::new());
        }
        Some(KeyFault::Bad(code)) => {
            let message = String::new();
            tally.block(openable.len() as u64, Blocked { code, message });
            return Ok(Vec::new());
        }
        Some(KeyFault::Find) => return Ok(Vec::new()),
    }
    if openable.is_empty() {
        return Ok(Vec::new());
    }
    let (source, places) = (source.clone(), places.clone());
    let (carried, bad) = cross_once(&task.shared.compute, move || {
        seal_all(&source, &places, &seals, openable)
    })
    .await?;
    killpoint::witness_sealed(&slice.id, carried.len());
    for (cell, error) in bad {
        tally.quarantine(cell.record, cell.write_time, error.code());
    }
    Ok(carried)
}

/// On the compute threads.
fn seal_all(
    source: &ChannelView,
    places: &Places,
    keys: &[Arc<CellKey>],
    cells: Vec<(Cell, Arc<CellKey>)>,
) -> (Vec<Carried>, Vec<(Cell, CellError)>) {
    let mut forge = Forge::new();
    let (mut carried, mut bad) = (Vec::with_capacity(cells.len()), Vec::new());
    for (cell, key) in cells {
        let record = cell.record.clone();
        let from = locus(source, &record);
        let to: Vec<Locus<'_>> = places.write.iter().map(|to| locus(to, &record)).collect();
        let seals: Vec<Seal<'_>> = places
            .write
            .iter()
            .zip(keys)
            .zip(&to)
            .map(|((place, key), locus)| Seal {
                key,
                epoch: place.desired().cell_epoch,
                locus,
            })
            .collect();
        match forge.renew(&key, &from, &cell, &seals) {
            Ok(new) => carried.push(Carried {
                cell,
                new: new.into_iter().map(Bytes::from).collect(),
            }),
            Err(error) => bad.push((cell, error)),
        }
    }
    (carried, bad)
}

fn locus<'a>(view: &'a ChannelView, record: &'a RecordId) -> Locus<'a> {
    Locus::Message {
        org: &view.org,
        channel: &view.channel,
        record,
    }
}

/// The `n`-th new cell of one that is carried. Its store expiry has to be later
/// than that of the cell it replaces, and at its own write time it may replace
/// one that is there.
fn new_cell(carried: &Carried, n: usize, look: &Look) -> NewCell {
    let cell = &carried.cell;
    let replaced = look
        .of(&cell.record)
        .filter(|shown| shown.write_time == cell.write_time);
    let (epoch, ttl_s) = replaced.map_or((Epoch::ZERO, None), |r| (r.epoch, r.ttl_s));
    NewCell {
        record: cell.record.clone(),
        cell: carried.new[n].clone(),
        write_time: cell.write_time,
        expiry: cell.header.expiry.map(|at| (at, epoch, ttl_s)),
        replaces: cell.header,
    }
}

/// Writes one batch. If the store refuses it as such, its rows go one by one,
/// and the one that is meant stays where it is and is listed. What is refused or
/// expires is no longer carried.
async fn write(
    task: &TaskRun,
    tally: &mut Tally,
    carried: &mut Vec<Carried>,
    mut batch: Batch,
) -> Result<Sent, TaskError> {
    let mut expired = HashSet::new();
    let mut refused = HashSet::new();
    let mut sent = send(task, &mut batch, |cell| {
        expired.insert(cell.record);
    })
    .await?;
    if let Sent::Refused = sent {
        for cell in std::mem::take(&mut batch.cells) {
            let record = cell.record.clone();
            let mut alone = batch.with(vec![cell]);
            sent = send(task, &mut alone, |cell| {
                expired.insert(cell.record);
            })
            .await?;
            match sent {
                Sent::Done => {}
                Sent::Refused => {
                    refused.insert(record);
                }
                Sent::TooOld => break,
            }
        }
        if let Sent::Refused = sent {
            sent = Sent::Done;
        }
    }
    carried.retain(|carried| {
        let cell = &carried.cell;
        if expired.contains(&cell.record) {
            tally.counts.expired += 1;
            false
        } else if refused.contains(&cell.record) {
            tally.quarantine(cell.record.clone(), cell.write_time, "store_refused");
            false
        } else {
            true
        }
    });
    Ok(sent)
}

/// Looks whether the destination shows what it has acknowledged. If it does not,
/// a newer write, delete or expiry was there first: a new place has no tombstone
/// that is older than the copy (I14).
async fn confirm(
    task: &TaskRun,
    tally: &mut Tally,
    settled: &mut Settled,
    place: &ChannelView,
    carried: Vec<Carried>,
) -> Result<(), TaskError> {
    let cells: Vec<Cell> = carried.into_iter().map(|carried| carried.cell).collect();
    let partition = place.partition(tally.slice.id.hour);
    let now_there = look(task, &partition, tally.after.as_ref(), &cells).await?;
    for cell in cells {
        let is_expired = cell
            .header
            .expiry
            .is_some_and(|at| expiry::is_expired(at, now_there.answered_at));
        match now_there.of(&cell.record) {
            Some(shown) if shown.write_time == cell.write_time => {
                tally.counts.rewritten += 1;
                if task.pass == Pass::Sweep {
                    // It came late: more may.
                    tally.effort.finds += 1;
                }
            }
            None if is_expired => {
                tally.counts.expired += 1;
                continue;
            }
            _ => tally.counts.changed += 1,
        }
        settled.push((cell.record, cell.write_time));
    }
    Ok(())
}

/// Reads cells of the source again, and takes them as they are now: one that was
/// sealed anew meanwhile, or written anew.
async fn read_again(
    task: &TaskRun,
    tally: &mut Tally,
    cells: Vec<Cell>,
) -> Result<Source, TaskError> {
    let shared = &task.shared;
    let slice = tally.slice.id.clone();
    let view = match task.views.fresh(shared, &task.org, &slice.channel).await {
        Err(TaskError::Registry(RegistryError::UnknownChannel { .. })) => {
            return Err(TaskError::CalledOff(task.job));
        }
        view => view?,
    };
    targets::check_source(task, &view)?;
    let partition = view.partition(slice.hour);
    let read_at = shared.clock.boot();
    let looking = Looking {
        pass: task.pass,
        mode: task.mode(),
        job_epoch: task.epoch,
    };
    let mut now = Vec::with_capacity(cells.len());
    for cell in cells {
        let found = patiently(&shared.clock, || {
            shared.store.read_cell(&partition, &cell.record)
        })
        .await?;
        let Some(found) = found else {
            // Deletes go to the destination first.
            tally.counts.changed += 1;
            continue;
        };
        let at = shared.clock.wall();
        match triage(&looking, &view, &found.cell, found.ttl_s, at) {
            Triage::Work(header) => now.push(Cell {
                record: found.record,
                cell: found.cell,
                header,
                write_time: found.write_time,
                ttl_s: found.ttl_s,
            }),
            Triage::Expired => tally.counts.expired += 1,
            Triage::AboveNewest(error) | Triage::Bad(error) => {
                tally.quarantine(found.record, found.write_time, error.code());
            }
            Triage::Current | Triage::Find => tally.counts.current += 1,
        }
    }
    Ok(Source {
        view,
        read_at,
        cells: now,
    })
}
