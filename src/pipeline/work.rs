//! What travels between the stages.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::{BootTime, WallTime, WriteTime};
use crate::crypto::{CellKey, Header, KeyId};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, OrgId, RecordId};
use crate::job::{Counts, Effort, SliceId};
use crate::pipeline::unwrap::SliceKeyRing;
use crate::registry::ChannelView;

/// A slice that the plan stage hands out. `number` counts the slices of the
/// task in order; the checkpoint goes by it.
#[derive(Debug, Clone)]
pub struct SliceTicket {
    /// Its place in the task's order.
    pub number: u64,
    /// The slice.
    pub slice: SliceId,
    /// Records up to and with this one are done.
    pub resume_after: Option<RecordId>,
}

/// A slice in flight: what its pages share.
pub struct Slice {
    /// Its place in the task's order.
    pub number: u64,
    /// The slice.
    pub id: SliceId,
    /// Its data keys, opened once for all pages.
    pub keys: SliceKeyRing,
    /// The keys of the places that it is copied to, by organization and channel.
    pub keys_elsewhere: std::sync::Mutex<HashMap<(OrgId, ChannelId), Arc<SliceKeyRing>>>,
    /// Its pages are sealed and written one at a time, or two halves of one, so
    /// that a kill costs at most one batch.
    pub turn: Arc<Semaphore>,
}

impl Slice {
    /// A slice of a channel that nothing is known of yet.
    pub fn new(org: &OrgId, ticket: &SliceTicket, turn: Arc<Semaphore>) -> Self {
        let id = ticket.slice.clone();
        Self {
            number: ticket.number,
            keys: SliceKeyRing::new(org, &id.channel, id.hour),
            keys_elsewhere: std::sync::Mutex::default(),
            id,
            turn,
        }
    }

    /// The keys of the same hour of a channel that it is copied to.
    pub fn keys_of(&self, view: &ChannelView) -> Arc<SliceKeyRing> {
        let mut rings = self
            .keys_elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (org, channel) = (&view.org, &view.channel);
        rings
            .entry((org.clone(), channel.clone()))
            .or_insert_with(|| Arc::new(SliceKeyRing::new(org, channel, self.id.hour)))
            .clone()
    }
}

/// A cell that needs work.
pub struct Cell {
    /// The record.
    pub record: RecordId,
    /// The blob as read.
    pub cell: Vec<u8>,
    /// Its header.
    pub header: Header,
    /// The write time as read; the new cell gets the same (I2).
    pub write_time: WriteTime,
    /// Seconds to live as read.
    pub ttl_s: Option<u32>,
}

/// A cell that is left as it is.
#[derive(Debug, Clone)]
pub struct Bad {
    /// The record.
    pub record: RecordId,
    /// Why, as a stable code.
    pub code: String,
    /// Its write time.
    pub write_time: WriteTime,
}

/// Why cells of a slice have to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Stable code: `revoked`, `cmk_disabled`, ….
    pub code: String,
    /// The KMS's words.
    pub message: String,
}

/// What is known of a page when it reaches the checkpoint. It is filled on the
/// way.
pub struct Tally {
    /// The slice.
    pub slice: Arc<Slice>,
    /// Number of the page within the slice, from 0.
    pub page: u64,
    /// Whether no page of the slice comes after it in this run.
    pub last_page: bool,
    /// Whether the slice ends with it. A worker that is stopping ends earlier.
    pub complete: bool,
    /// The record after which the page begins, if not at the slice's start.
    pub after: Option<RecordId>,
    /// The last record of the page.
    pub last_record: Option<RecordId>,
    /// What became of its rows.
    pub counts: Counts,
    /// What it took.
    pub effort: Effort,
    /// Cells left as they are.
    pub bad: Vec<Bad>,
    /// Why some of its cells wait, if some do.
    pub blocked: Option<Blocked>,
    /// Room in memory, given back when the page is done.
    pub room: Option<OwnedSemaphorePermit>,
    /// The slice's turn, while it rewrites; passed on when the page is done.
    pub turn: Option<OwnedSemaphorePermit>,
}

impl Tally {
    /// The end of a slice that has no rows.
    pub fn of_nothing(slice: Arc<Slice>) -> Self {
        Self {
            slice,
            page: 0,
            last_page: true,
            complete: true,
            after: None,
            last_record: None,
            counts: Counts::default(),
            effort: Effort {
                slices: 1,
                ..Effort::default()
            },
            bad: Vec::new(),
            blocked: None,
            room: None,
            turn: None,
        }
    }

    /// A slice that is left off before a page, because the worker is stopping:
    /// the records up to and with `after` are done.
    pub fn cut_short(slice: Arc<Slice>, page: u64, after: Option<RecordId>) -> Self {
        Self {
            page,
            complete: false,
            after: after.clone(),
            last_record: after,
            effort: Effort::default(),
            ..Self::of_nothing(slice)
        }
    }

    /// One line of the log for the batch, for somebody who looks closely.
    pub fn tell(&self) {
        let c = &self.counts;
        tracing::debug!(
            slice = %self.slice.id, page = self.page, rows = c.scanned, rewritten = c.rewritten,
            current = c.current, changed = c.changed, expired = c.expired, empty = c.empty,
            blocked = c.blocked, quarantined = c.quarantined, "batch done"
        );
    }

    /// Counts cells that wait for a key.
    pub fn block(&mut self, rows: u64, why: Blocked) {
        self.counts.blocked += rows;
        self.blocked.get_or_insert(why);
    }

    /// Counts a cell that is left as it is.
    pub fn quarantine(&mut self, record: RecordId, write_time: WriteTime, code: impl Into<String>) {
        self.counts.quarantined += 1;
        self.bad.push(Bad {
            record,
            code: code.into(),
            write_time,
        });
    }
}

/// A page of a slice with the cells in it that need work.
pub struct Page {
    /// What is known of it.
    pub tally: Tally,
    /// The registry as it was when the page was read.
    pub view: Arc<ChannelView>,
    /// When the read was begun; bounds the age of the write (I4).
    pub read_at: BootTime,
    /// When it was answered; the TTLs count from here.
    pub answered_at: WallTime,
    /// The cells that need work.
    pub cells: Vec<Cell>,
}

/// A page whose cells can be opened.
pub struct OpenablePage {
    /// The page.
    pub page: Page,
    /// The key of each cell, by its place in `page.cells`.
    pub keys: Vec<Arc<CellKey>>,
    /// The key that new cells are sealed with, and their epoch.
    pub seal: Option<(Arc<CellKey>, Epoch)>,
}

/// A new cell, opened and compared, that waits to be written.
pub struct NewCell {
    /// The record.
    pub record: RecordId,
    /// The blob.
    pub cell: Bytes,
    /// Its write time.
    pub write_time: WriteTime,
    /// Expiry in the header, and the epoch and TTL that were read.
    pub expiry: Option<(u32, Epoch, Option<u32>)>,
    /// The header of the cell that it replaces, to see a change meanwhile.
    pub replaces: Header,
}

/// A page whose new cells wait to be written.
pub struct SealedPage {
    /// What is known of it.
    pub tally: Tally,
    /// The registry as it was when the page was read.
    pub view: Arc<ChannelView>,
    /// When the read was begun.
    pub read_at: BootTime,
    /// When it was answered.
    pub answered_at: WallTime,
    /// The epoch of the new cells.
    pub epoch: Epoch,
    /// The new cells.
    pub cells: Vec<NewCell>,
}

/// The distinct keys that cells name.
pub fn key_ids(cells: &[Cell]) -> std::collections::BTreeSet<KeyId> {
    cells.iter().map(|cell| cell.header.key_id).collect()
}
