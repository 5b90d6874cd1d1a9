//! A store with traffic on it, and what must be true at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rekeyd::audit;
use rekeyd::client::{Lifetime, ReasonCode, Use};
use rekeyd::clock::{SharedClock, WriteTime};
use rekeyd::crypto::Header;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::demo::ledger::{Ledger, MessageName, TextId, Vanishes};
use rekeyd::demo::traffic::{Plan, Target, Traffic, read_back};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{Hour, RecordId};
use rekeyd::job::{JobRow, Mode, SliceId};
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::store::{CellWrite, Consistency, PageLimit, StoredCell};
use tokio_util::sync::CancellationToken;

use crate::process::witness_file;
use crate::rig::{PATIENCE, Rig, patiently, short_waits};

/// Rows that a worker seals and writes at a time: what one death may cost in
/// each slice that is in flight.
const BATCH_ROWS: u64 = 100;

/// What every site is filled with: two tasks of slices, some of them of several
/// batches.
pub fn recipe() -> Recipe {
    Recipe {
        seed: 11,
        messages: 2_000,
        shape: Shape::Realistic,
        expiries_from_s: None,
    }
}

/// A filled store to copy sites from, and what is in it.
pub struct Template {
    rig: Rig,
    messages: Vec<(MessageName, TextId, WriteTime)>,
}

impl Template {
    /// The recipe's messages, and some so large that their bytes and not their
    /// number fill a batch.
    pub async fn new() -> Self {
        Self::on(Rig::with_timing(&short_waits()).await).await
    }

    /// The same in a rig that is empty yet.
    pub async fn on(rig: Rig) -> Self {
        rig.fill(&recipe()).await;
        let mut messages = Vec::new();
        for generated in recipe().messages() {
            let message = generated.message;
            let name = MessageName {
                org: rig.org.clone(),
                workspace: rig.workspace.clone(),
                channel: message.channel.clone(),
                hour: message.hour,
                record: message.record.clone(),
            };
            messages.push((name, TextId::of(&message.json), message.write_time));
        }
        let large = messages[0].0.clone();
        let hour: Hour = "2019-01-01T00".parse().unwrap();
        let client = rig.client().await;
        let channel = client
            .organization(&rig.org)
            .channel(&rig.workspace, &large.channel);
        let why = Use::new(ReasonCode::MessageWrite, "fill");
        for n in 0..90 {
            let text = vec![b'x'; 4_000 + n];
            let record = RecordId::new(format!("large-{n:03}")).unwrap();
            let written = channel
                .write(hour, &record, &text, Lifetime::Lasting, &why)
                .await
                .unwrap();
            let name = MessageName {
                hour,
                record,
                ..large.clone()
            };
            messages.push((name, TextId::of(&text), written.write_time));
        }
        rig.audit.durable().await.unwrap();
        Self { rig, messages }
    }
}

/// A store with what was filled in and whatever traffic does to it.
pub struct Site {
    pub rig: Rig,
    pub ledger: Arc<Ledger>,
    clock: SharedClock,
    // Rows of the slices that were filled; traffic only takes away from them.
    filled: BTreeMap<String, u64>,
    damaged: Option<(SliceId, StoredCell)>,
}

impl Site {
    /// A copy of the template.
    pub async fn new(template: &Template, damage_one: bool) -> Self {
        let rig = template.rig.copy().await;
        let ledger = Arc::new(Ledger::new());
        let mut filled = BTreeMap::new();
        let mut damaged = None;
        for (name, text, at) in &template.messages {
            let slice = SliceId {
                channel: name.channel.clone(),
                hour: name.hour,
            };
            *filled.entry(slice.to_string()).or_default() += 1;
            if damage_one && damaged.is_none() {
                // Not in the ledger, so no traffic touches it.
                damaged = Some(damage(&rig, slice, &name.record).await);
                continue;
            }
            ledger
                .loaded(name, text.clone(), Vanishes::Never, *at)
                .unwrap();
        }
        Self {
            clock: rig.clock.clone(),
            rig,
            ledger,
            filled,
            damaged,
        }
    }

    /// Starts readers, writers, editors and deleters on all that is there, and
    /// on new messages in hours of their own.
    pub async fn traffic(&self, seed: u64) -> Traffic {
        let rig = &self.rig;
        let mut channels: Vec<_> = recipe().plan().map(|slice| slice.channel()).collect();
        channels.dedup();
        let now_s = self.clock.wall().unix_seconds() as u64;
        let hours = [0, 3600].map(|ago_s| Hour::of_unix_seconds(now_s - ago_s).unwrap());
        let targets = channels.into_iter().take(3).map(|channel| Target {
            org: rig.org.clone(),
            workspace: rig.workspace.clone(),
            channel,
            hours: hours.to_vec(),
        });
        let plan = Plan {
            vanish_after_s: 1..=8,
            ..Plan::busy(seed, 60.0, targets.collect())
        };
        Traffic::start(
            self.rig.client().await,
            self.ledger.clone(),
            self.clock.clone(),
            plan,
            CancellationToken::new(),
        )
    }

    /// Everything that must be true once a job is at its end and the traffic,
    /// which this ends, has gone on over it.
    pub async fn check(&self, traffic: Traffic, job: &JobRow, deaths: u64) {
        let before = traffic.counts().done.values().sum::<u64>();
        tokio::time::timeout(PATIENCE, traffic.reached(before + 30))
            .await
            .expect("traffic goes on after the job");
        let report = traffic.stop().await.unwrap();
        assert_eq!(report.violations, [], "what live readers saw");

        assert!(job.rewriting.balances(), "I13: {:?}", job.rewriting);
        assert!(job.proof.balances(), "I13: {:?}", job.proof);
        self.check_epochs(job).await;
        self.check_rework(deaths);
        self.check_damaged().await;

        // The old key is not needed: without it everything can be read.
        self.rig.ring.disable(&self.rig.old).unwrap();
        let fresh = self.rig.client().await;
        let why = Use::new(ReasonCode::Verify, "read back");
        let found = read_back(&fresh, &self.ledger, &self.clock, &why, 16).await;
        assert!(found.violations.is_empty(), "{:#?}", found.violations);
        assert_eq!(found.refused, BTreeMap::new(), "all can be read");
        assert!(found.present > 1_000, "{} present", found.present);

        self.rig.audit.durable().await.unwrap();
        let known: Vec<audit::Head> = job
            .streams
            .iter()
            .map(|stream| stream.clone().try_into().unwrap())
            .collect();
        let report = audit::verify(&self.rig.config.audit.dir, &known).unwrap();
        assert!(report.is_intact(), "{report:#?}");
    }

    /// Every cell that is not past its expiry is at the job's epoch; after a
    /// rewrap, every key that one names has a wrap of that epoch.
    async fn check_epochs(&self, job: &JobRow) {
        let epoch = job.activated.as_ref().unwrap().epoch;
        let rig = &self.rig;
        let mut walk = SliceWalk::new(
            rig.store.clone(),
            rig.registry.clone(),
            rig.org.clone(),
            None,
            None,
        );
        let mut wrong = Vec::new();
        while let Some(slice) = walk.next().await.unwrap() {
            let cells = self.cells(&slice).await;
            let address = rekeyd::store::SliceKey::messages(&rig.org, &slice.channel, slice.hour);
            let wraps = patiently(|| rig.store.read_keys(&address)).await;
            let now_s = self.clock.wall().unix_seconds();
            for cell in cells {
                if self.is_damaged(&slice, &cell) {
                    continue;
                }
                let header = Header::parse(&cell.cell).unwrap();
                if header.expiry.is_some_and(|at| i64::from(at) <= now_s) {
                    continue;
                }
                let good = match job.mode() {
                    Mode::Reencrypt => header.epoch == epoch,
                    Mode::Rewrap => {
                        header.epoch == Epoch::FIRST
                            && wraps
                                .iter()
                                .any(|w| w.key_id == header.key_id && w.wrap_epoch == epoch)
                    }
                };
                if !good {
                    wrong.push((slice.clone(), cell.record, header.epoch));
                }
            }
        }
        assert!(wrong.is_empty(), "not at epoch {epoch}: {wrong:?}");
    }

    /// A death costs at most one batch in each slice that was in flight. What
    /// the traffic does to filled slices only lowers the number of rows to seal.
    fn check_rework(&self, deaths: u64) {
        let mut sealed: BTreeMap<String, u64> = BTreeMap::new();
        let witness = std::fs::read_to_string(witness_file(&self.rig)).unwrap_or_default();
        for line in witness.lines() {
            let (slice, rows) = line.rsplit_once(' ').unwrap();
            *sealed.entry(slice.to_owned()).or_default() += rows.parse::<u64>().unwrap();
        }
        for (slice, rows) in &self.filled {
            let sealed = sealed.get(slice).copied().unwrap_or(0);
            let again = sealed.saturating_sub(*rows);
            assert!(
                again <= deaths * BATCH_ROWS,
                "{slice}: {sealed} rows sealed for {rows}, after {deaths} deaths"
            );
        }
    }

    async fn check_damaged(&self) {
        let Some((slice, cell)) = &self.damaged else {
            return;
        };
        let now = self.cells(slice).await;
        let now = now.iter().find(|c| c.record == cell.record).unwrap();
        assert_eq!(now.cell, cell.cell, "left as it was");
    }

    fn is_damaged(&self, slice: &SliceId, cell: &StoredCell) -> bool {
        let damaged = self.damaged.as_ref();
        damaged.is_some_and(|(s, c)| s == slice && c.record == cell.record)
    }

    async fn cells(&self, slice: &SliceId) -> Vec<StoredCell> {
        let rig = &self.rig;
        let view = patiently(|| rig.registry.view(&rig.org, &slice.channel)).await;
        let partition = view.partition(slice.hour);
        let limit = PageLimit {
            rows: 1000,
            bytes: 16 << 20,
        };
        let mut cells = Vec::new();
        let mut after = None;
        loop {
            let (store, all) = (&rig.store, Consistency::All);
            let read = || store.read_page(&partition, after.as_ref(), limit, all);
            let page = patiently(read).await;
            cells.extend(page.cells);
            after = page.next;
            if after.is_none() {
                return cells;
            }
        }
    }

    /// Tasks that a worker holds, by id, with their tokens.
    pub async fn held_by(&self, job: &JobRow, worker: &str) -> BTreeSet<(String, u64)> {
        let Some(round) = job.round else {
            return BTreeSet::new();
        };
        let (book, id) = (&self.rig.book, job.request.job_id());
        let tasks = patiently(|| book.tasks(id, round.number)).await;
        let held = tasks.into_iter().filter(|task| {
            let lease = task.row.lease.as_ref();
            lease.is_some_and(|lease| lease.worker == worker)
        });
        held.map(|task| (task.id, task.row.token)).collect()
    }

    /// Waits until nothing is held by a worker that is dead, and says how long
    /// that took.
    pub async fn taken_over(&self, job: rekeyd::ids::JobId, dead: &str) -> Duration {
        let start = tokio::time::Instant::now();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(row) = self.rig.seen(job).await {
                    let driven = row.state.is_final()
                        || row.lease.as_ref().is_some_and(|l| l.worker != dead);
                    if driven && self.held_by(&row, dead).await.is_empty() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(waited.is_ok(), "nobody took over from {dead}");
        start.elapsed()
    }
}

/// Spoils a cell's version: neither mode may go on with it.
async fn damage(rig: &Rig, slice: SliceId, record: &RecordId) -> (SliceId, StoredCell) {
    let view = patiently(|| rig.registry.view(&rig.org, &slice.channel)).await;
    let partition = view.partition(slice.hour);
    let found = patiently(|| rig.store.read_cell(&partition, record)).await;
    let mut cell = found.unwrap();
    cell.cell[4] = 99;
    cell.write_time = WriteTime(cell.write_time.0 + 1);
    let write = CellWrite {
        record: cell.record.clone(),
        cell: cell.cell.clone().into(),
        write_time: cell.write_time,
        ttl_s: 0,
    };
    let write = [write];
    patiently(|| rig.store.write_cells(&partition, &write)).await;
    (slice, cell)
}
