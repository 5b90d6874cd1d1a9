//! A copy of a channel to another place as the worker makes it, one step at a
//! time and in the test's own hands.

use std::time::Duration;

use super::bench::{Bench, org, why};
use crate::client::{InProcessKeys, KeyService, ReasonCode};
use crate::clock::{SharedClock, WriteTime};
use crate::crypto::{Header, Plaintext, cell, expiry};
use crate::ids::{ChannelId, Hour, JobId, OrgId, RecordId, WorkspaceId};
use crate::job::{MoveFrom, MoveRequest, MoveTo};
use crate::registry::{CalledOff, ChannelView, ConsentRow, CopyPhase, Registry, Stepped, Timing};
use crate::scope::Locus;
use crate::store::{CellWrite, Consistency, PageLimit, SharedStore};

const ALL: PageLimit = PageLimit {
    rows: 1000,
    bytes: 1 << 20,
};

/// How long after a phase's change every client follows it.
pub fn settle() -> Duration {
    Duration::from_millis(Timing::embedded().settle_ms())
}

pub struct Mover {
    registry: Registry,
    store: SharedStore,
    keys: InProcessKeys,
    clock: SharedClock,
    pub request: MoveRequest,
    /// Both ends as they were when the copy was announced: their places stay.
    ends: std::sync::Mutex<Option<(ChannelView, ChannelView)>>,
}

/// A source cell that the copier has read and not carried over yet.
pub struct Grabbed {
    record: RecordId,
    hour: Hour,
    write_time: WriteTime,
    expiry: Option<u32>,
    text: Plaintext,
}

pub fn w2() -> WorkspaceId {
    WorkspaceId::new("w2").unwrap()
}

pub fn channel_id(name: &str) -> ChannelId {
    ChannelId::new(name).unwrap()
}

impl Mover {
    /// From `c1` to `c9` of the same organization, into another workspace.
    pub async fn of_c1(bench: &Bench) -> Self {
        Self::new(bench, (&org(), "w1", "c1"), (&org(), "w2", "c9")).await
    }

    pub async fn new(bench: &Bench, from: (&OrgId, &str, &str), to: (&OrgId, &str, &str)) -> Self {
        let workspace = |name| WorkspaceId::new(name).unwrap();
        let (_, keys) = bench.client_with_capacity(1000).await;
        Self {
            registry: bench.registry.clone(),
            store: bench.store.clone(),
            keys,
            clock: bench.clock.clone(),
            request: MoveRequest {
                job_id: JobId::random(),
                org: from.0.clone(),
                from: MoveFrom {
                    workspace: workspace(from.1),
                    channel: channel_id(from.2),
                },
                to: MoveTo {
                    org: Some(to.0.clone()),
                    workspace: workspace(to.1),
                    channel: channel_id(to.2),
                },
                requested_by: "test".to_owned(),
                reason: String::new(),
                cause: None,
                not_before: None,
                not_after: None,
                window: None,
                priority: None,
                plan: None,
            },
            ends: std::sync::Mutex::default(),
        }
    }

    /// Activates the move, with consent where it needs it.
    pub async fn announce(&self) {
        let (from, to) = (self.request.source(), self.request.destination());
        if from.org != to.org {
            let consent = ConsentRow {
                from: from.clone(),
                to: to.clone(),
                expires_ms: u64::MAX,
                entered_by: "test".to_owned(),
                entered_ms: 0,
            };
            for org in [&from.org, &to.org] {
                let consented = self.registry.consent_to_move(org, &consent).await;
                consented.unwrap();
            }
        }
        let activated = self.registry.activate_move(&self.request, || true).await;
        activated.unwrap();
        let source = self.registry.view(&from.org, &from.channel).await.unwrap();
        let destination = self.registry.view(&to.org, &to.channel).await.unwrap();
        *self.ends.lock().unwrap() = Some((source, destination));
    }

    pub async fn advance(&self, to: CopyPhase) {
        let stepped = self.registry.advance_copy(&self.request, to, || true).await;
        assert_eq!(stepped.unwrap(), Stepped::Yes);
    }

    pub async fn call_off(&self) {
        let called_off = self.registry.call_off_copy(&self.request).await;
        assert_eq!(called_off.unwrap(), CalledOff::Yes);
    }

    pub async fn release(&self) {
        let released = self.registry.release_destination(&self.request).await;
        released.unwrap();
    }

    pub fn ends(&self) -> (ChannelView, ChannelView) {
        self.ends.lock().unwrap().clone().expect("it was announced")
    }

    /// Takes the copy through its steps up to this phase, each settled before
    /// the next. The phase itself has just begun.
    pub async fn up_to(&self, bench: &Bench, phase: CopyPhase, hours: &[Hour]) {
        self.announce().await;
        for next in &CopyPhase::ALL[1..] {
            if *next > phase {
                return;
            }
            bench.clock.advance(settle());
            self.before(*next, bench, hours).await;
            self.advance(*next).await;
        }
    }

    /// What the worker does before it goes on to a phase.
    pub async fn before(&self, next: CopyPhase, bench: &Bench, hours: &[Hour]) {
        match next {
            CopyPhase::Announced | CopyPhase::Mirrored => {}
            CopyPhase::Switched | CopyPhase::Moved => {
                for hour in hours {
                    self.copy(*hour).await;
                }
            }
            CopyPhase::Closed => {
                self.release().await;
                bench.clock.advance(settle());
                for hour in hours {
                    self.sweep(*hour).await;
                }
            }
        }
    }

    /// One pass of copying over an hour.
    pub async fn copy(&self, hour: Hour) {
        for record in self.records(hour).await {
            if let Some(grabbed) = self.grab(hour, &record).await {
                self.carry(&grabbed).await;
            }
        }
    }

    /// The same, and the source's cells are purged.
    pub async fn sweep(&self, hour: Hour) {
        for record in self.records(hour).await {
            if let Some(grabbed) = self.grab(hour, &record).await {
                self.carry(&grabbed).await;
                self.purge(&grabbed).await;
            }
        }
    }

    pub async fn records(&self, hour: Hour) -> Vec<RecordId> {
        let from = self.ends().0.partition(hour);
        let page = self.store.read_page(&from, None, ALL, Consistency::All);
        let cells = page.await.unwrap().cells;
        cells.into_iter().map(|cell| cell.record).collect()
    }

    /// Reads and opens a source cell. `None`: there is none, or it has vanished.
    pub async fn grab(&self, hour: Hour, record: &RecordId) -> Option<Grabbed> {
        let source = self.ends().0;
        let stored = self.store.read_cell(&source.partition(hour), record).await;
        let stored = stored.unwrap()?;
        let header = Header::parse(&stored.cell).unwrap();
        let now = self.clock.wall();
        if header.expiry.is_some_and(|at| expiry::is_expired(at, now)) {
            return None;
        }
        let why = why(ReasonCode::Rekey);
        let key = self.keys.opening_key(&source, hour, header.key_id, &why);
        let key = key.await.unwrap();
        let locus = locus(&source, record);
        Some(Grabbed {
            record: record.clone(),
            hour,
            write_time: stored.write_time,
            expiry: header.expiry,
            text: cell::open(&key, &locus, &stored.cell).unwrap(),
        })
    }

    /// Writes it to the destination at its own write time, unless the
    /// destination shows it, or something newer.
    pub async fn carry(&self, grabbed: &Grabbed) {
        let hour = grabbed.hour;
        let to = self.request.destination();
        let newest = self.registry.view(&to.org, &to.channel).await.unwrap();
        let mut view = self.ends().1;
        if newest.channel_row.place == view.channel_row.place {
            view = newest;
        }
        let epoch = view.desired().cell_epoch;
        let place = view.partition(hour);
        let there = self.store.read_cell(&place, &grabbed.record);
        let there = there.await.unwrap();
        let mut read = None;
        if let Some(there) = there {
            let header = Header::parse(&there.cell).unwrap();
            if there.write_time > grabbed.write_time
                || (there.write_time == grabbed.write_time && header.epoch >= epoch)
            {
                return;
            }
            if there.write_time == grabbed.write_time {
                let ttl_s = there.ttl_s.unwrap_or(0);
                read = Some((header.epoch, ttl_s, self.clock.wall()));
            }
        }
        let ttl_s = match grabbed.expiry {
            None => 0,
            Some(at) => match expiry::store_ttl(at, epoch, read, self.clock.wall()) {
                Some(ttl_s) => ttl_s,
                None => return,
            },
        };
        let why = why(ReasonCode::Rekey);
        let key = self.keys.sealing_key(&view, hour, &why).await.unwrap();
        let locus = locus(&view, &grabbed.record);
        let sealed = key.seal(epoch, grabbed.expiry, &locus, grabbed.text.as_bytes());
        let write = CellWrite {
            record: grabbed.record.clone(),
            cell: sealed.unwrap().into(),
            write_time: grabbed.write_time,
            ttl_s,
        };
        self.store.write_cells(&place, &[write]).await.unwrap();
    }

    /// Purges the source's cell at exactly the write time that was carried over.
    pub async fn purge(&self, grabbed: &Grabbed) {
        let from = self.ends().0.partition(grabbed.hour);
        let purged = self
            .store
            .delete_row(&from, &grabbed.record, grabbed.write_time);
        purged.await.unwrap();
    }
}

fn locus<'a>(view: &'a ChannelView, record: &'a RecordId) -> Locus<'a> {
    Locus::Message {
        org: &view.org,
        channel: &view.channel,
        record,
    }
}
