//! What a copy finds in the other place.

use std::collections::HashMap;

use crate::clock::{BootTime, WallTime, WriteTime};
use crate::crypto::Header;
use crate::epoch::Epoch;
use crate::ids::RecordId;
use crate::job::Pass;
use crate::pipeline::patience::patiently;
use crate::pipeline::work::Cell;
use crate::pipeline::{TaskError, TaskRun};
use crate::store::{Consistency, PageLimit, Partition};

/// What a place shows of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// When it was written.
    pub(super) write_time: WriteTime,
    /// Its epoch; 0 if its header does not parse.
    pub(super) epoch: Epoch,
    /// Seconds to live.
    pub(super) ttl_s: Option<u32>,
}

/// What a place shows.
pub(super) struct Look {
    shown: HashMap<RecordId, Shown>,
    /// When the first answer was asked for.
    pub(super) read_at: BootTime,
    /// When the last answer came.
    pub(super) answered_at: WallTime,
}

impl Look {
    /// What it shows of a record, if it has a live cell.
    pub(super) fn of(&self, record: &RecordId) -> Option<Shown> {
        self.shown.get(record).copied()
    }
}

/// Looks at a place's rows for the records of a page: those after `after`, up to
/// and with the last of `cells`. They are read in pages, since a copy that is
/// done anew finds nearly all of them there.
pub(super) async fn look(
    task: &TaskRun,
    partition: &Partition,
    after: Option<&RecordId>,
    cells: &[Cell],
) -> Result<Look, TaskError> {
    let shared = &task.shared;
    let limit = PageLimit {
        rows: shared.limits.page_rows,
        bytes: shared.limits.batch_bytes,
    };
    let read_at = shared.clock.boot();
    let mut shown = HashMap::new();
    let mut after = after.cloned();
    while let Some(last) = cells.last().map(|cell| &cell.record) {
        let page = patiently(&shared.clock, || {
            let after = after.as_ref();
            shared
                .store
                .read_page(partition, after, limit, Consistency::Quorum)
        })
        .await?;
        let is_last = page.next.as_ref().is_none_or(|next| next >= last);
        shown.extend(page.cells.into_iter().map(|stored| {
            let epoch = Header::parse(&stored.cell).map_or(Epoch::ZERO, |header| header.epoch);
            let shown = Shown {
                write_time: stored.write_time,
                epoch,
                ttl_s: stored.ttl_s,
            };
            (stored.record, shown)
        }));
        if is_last {
            break;
        }
        after = page.next;
    }
    Ok(Look {
        shown,
        read_at,
        answered_at: shared.clock.wall(),
    })
}

/// Whether a place needs nothing of a source's cell.
///
/// What was written there later has replaced it. At the same write time it is
/// the same write: a cell below the epoch that the organization wants by now is
/// left to the rekey that wants it. One below the copy's own epoch is none that
/// a follower of the copy wrote; the proof would find it, so it is copied over.
/// A sweep may have to look in places of other organizations, whose epochs say
/// nothing here.
pub(super) fn is_there(pass: Pass, copy_epoch: Epoch, cell: &Cell, shown: Option<Shown>) -> bool {
    shown.is_some_and(|shown| {
        shown.write_time > cell.write_time
            || (shown.write_time == cell.write_time
                && (pass == Pass::Sweep || shown.epoch >= copy_epoch))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::KeyId;

    #[test]
    fn a_place_needs_what_it_shows_neither_as_it_is_nor_newer() {
        let epoch = |n| Epoch::new(n).unwrap();
        let cell = Cell {
            record: RecordId::new("r").unwrap(),
            cell: Vec::new(),
            header: Header {
                epoch: epoch(9),
                key_id: KeyId([1; 16]),
                expiry: None,
            },
            write_time: WriteTime(10),
            ttl_s: None,
        };
        // Write time and epoch that are shown; is it there for a copy of epoch 3,
        // and for a sweep?
        type Case = (Option<(i64, u32)>, bool, bool);
        let cases: [Case; 7] = [
            (None, false, false),
            (Some((9, 9)), false, false),
            (Some((10, 2)), false, true),
            (Some((10, 3)), true, true),
            (Some((10, 4)), true, true),
            (Some((11, 1)), true, true),
            (Some((11, 4)), true, true),
        ];
        for (shown, for_copy, for_sweep) in cases {
            let shown = shown.map(|(at, e)| Shown {
                write_time: WriteTime(at),
                epoch: epoch(e),
                ttl_s: None,
            });
            assert_eq!(
                is_there(Pass::Copy, epoch(3), &cell, shown),
                for_copy,
                "{shown:?}"
            );
            assert_eq!(
                is_there(Pass::Sweep, epoch(3), &cell, shown),
                for_sweep,
                "{shown:?}"
            );
        }
    }
}
