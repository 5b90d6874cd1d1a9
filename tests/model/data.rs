//! What a rekey does to cells: two records, clients that write, edit and delete
//! them, a worker that goes through them in passes, zombies, and time.
//!
//! The real code under test: which of two writes stays ([`Row::merge`]), what a
//! pass does with a cell ([`triage`]), what a cell's leading bytes are
//! ([`Header`]), and the waits ([`Timing`]). The model adds who writes when.
//!
//! A cell has the bytes of a real one but for its ciphertext, which only says
//! which of the client's writes it is. The organization is at epoch 2 when the
//! job takes epoch 3 at time 0; the records are of epoch 1.

use rekeyd::clock::{BootTime, WallTime, WriteTime};
use rekeyd::crypto::Header;
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, CmkArn, OrgId, Place, WorkspaceId};
use rekeyd::job::{JobState, Mode, Pass};
use rekeyd::pipeline::triage::{Looking, Triage, triage};
use rekeyd::registry::{ChannelRow, ChannelView, OrgRow, Timing};
use rekeyd::store::merge::{Cell, Content, Deletion, Row};

use crate::search::{Model, Steps, search};

/// The records' first write.
const FIRST: u8 = 10;
const JOB_EPOCH: u8 = 3;
const OLD_EPOCH: u8 = 2;
const RECORDS: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// The worker writes one microsecond later than it read.
    WriteTimePlusOne,
    /// A newer epoch makes smaller bytes.
    EpochDoesNotLead,
    /// The checkpoint passes a record before its write is acknowledged.
    CheckpointFirst,
    /// A proving scan passes over the last record.
    ScanSkips,
    /// Progress is taken for a proof.
    NoScan,
}

struct Data {
    timing: Timing,
    /// The waits that the job keeps, in milliseconds. They follow from `timing`,
    /// if nothing else is planted.
    settle_ms: u64,
    drain_ms: u64,
    /// Writes may land as late as `timing.drain_ms` after they were sent: from a
    /// frozen process, or from a node's hints.
    late: bool,
    writes: u8,
    planted: Planted,
    view: ChannelView,
}

/// Small waits that keep every rule.
fn timing() -> Timing {
    let timing = Timing {
        status_time_ms: 2,
        request_timeout_ms: 1,
        max_skew_ms: 1,
        row_age_ms: 1,
        lease_ms: 9,
        margin_ms: 3,
        grace_ms: 9,
        drain_ms: 8,
        blocked_retry_ms: 1,
        blocked_retry_max_ms: 1,
    };
    timing.check().unwrap();
    timing
}

/// Writes that land while they are waited for, or are lost.
fn prompt(planted: Planted) -> Data {
    Data {
        timing: timing(),
        settle_ms: timing().settle_ms(),
        drain_ms: 0,
        late: false,
        writes: 2,
        planted,
        view: view(),
    }
}

/// Writes that land when nobody waits for them any more.
fn late(planted: Planted) -> Data {
    let timing = timing();
    Data {
        drain_ms: timing.drain_ms + 2 * timing.max_skew_ms,
        late: true,
        writes: 1,
        ..prompt(planted)
    }
}

fn view() -> ChannelView {
    let workspace = WorkspaceId::new("w1").unwrap();
    let epoch = |n: u8| Epoch::new(n.into()).unwrap();
    ChannelView {
        org: OrgId::new("acme").unwrap(),
        channel: ChannelId::new("c1").unwrap(),
        org_row: OrgRow {
            cell_epoch: epoch(JOB_EPOCH),
            wrap_epoch: epoch(JOB_EPOCH),
            last_epoch: epoch(JOB_EPOCH),
            cmk: CmkArn::new("arn:aws:kms:local:000000000000:key/b").unwrap(),
            cell_floor: Epoch::ZERO,
            wrap_floor: Epoch::ZERO,
            created_ms: 0,
            restore_window: None,
        },
        channel_row: ChannelRow {
            workspace: workspace.clone(),
            place: Place::new("0123456789abcdef0123456789abcdef").unwrap(),
            epoch: Epoch::ZERO,
            floor: Epoch::ZERO,
            workspaces_had: vec![workspace],
            created_ms: 0,
            outgoing: None,
            incoming: None,
            came_from: Vec::new(),
            places_had: Vec::new(),
        },
        read_at: BootTime(std::time::Duration::ZERO),
    }
}

/// What a write makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Write {
    /// A cell: its write time, its epoch, which of the client's texts it holds.
    Cell {
        at: u8,
        epoch: u8,
        text: u8,
    },
    Delete {
        at: u8,
    },
}

/// A record: up to where it is deleted, and its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Record {
    deleted: Option<u8>,
    cell: Option<(u8, u8, u8)>,
}

impl Record {
    fn is_old(&self) -> bool {
        self.cell.is_some_and(|(_, epoch, _)| epoch < JOB_EPOCH)
    }
}

/// A write on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Flight {
    record: u8,
    write: Write,
    /// Milliseconds within which it lands or is lost.
    left: u8,
}

impl Flight {
    /// Whether it would leave a cell that is older than the job.
    fn is_old(&self) -> bool {
        matches!(self.write, Write::Cell { epoch, .. } if epoch < JOB_EPOCH)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    job: JobState,
    /// Milliseconds that the job still waits before it begins with this state.
    wait: u8,
    /// Records that the pass has durably gone through.
    passed: u8,
    /// The pass has found a record that is older than the job.
    found: bool,
    /// A record as it was read to be rewritten, and for how long it may be.
    hand: Option<(u8, Write, u8)>,
    records: [Record; RECORDS],
    /// The client's newest write to each record that has landed: its time and
    /// text, or no text for a deletion.
    truth: [(u8, Option<u8>); RECORDS],
    /// For how long the client may still go by the registry of before.
    old_view: Option<u8>,
    /// Writes that the client has sent.
    sent: u8,
    flights: Vec<Flight>,
    zombies: u8,
}

impl Data {
    fn bytes(&self, epoch: u8, text: u8) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        if self.planted == Planted::EpochDoesNotLead {
            bytes.push(255 - epoch);
        }
        bytes.extend(Epoch::new(epoch.into()).unwrap().to_bytes());
        bytes.extend([1, 1]);
        bytes.extend([epoch; 16]);
        bytes.extend([0; 4]);
        bytes.extend([0; 12]);
        bytes.push(text);
        bytes.extend([0; 16]);
        bytes
    }

    /// The bytes without what may have been put before them.
    fn cell<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        match self.planted {
            Planted::EpochDoesNotLead => &bytes[1..],
            _ => bytes,
        }
    }

    fn row(&self, record: Record) -> Row {
        Row {
            deletion: record.deleted.map(deletion),
            cell: record.cell.map(|(at, epoch, text)| Cell {
                write_time: WriteTime(at.into()),
                content: Content::Lasting {
                    bytes: self.bytes(epoch, text),
                },
            }),
        }
    }

    /// What the store has after a write, by the rule that backends keep.
    fn merge(&self, record: Record, write: Write) -> Record {
        let write = match write {
            Write::Cell { at, epoch, text } => self.row(Record {
                deleted: None,
                cell: Some((at, epoch, text)),
            }),
            Write::Delete { at } => Row::of_deletion(deletion(at)),
        };
        let row = self.row(record).merge(write);
        Record {
            deleted: row.deletion.map(|deletion| deletion.at.0 as u8),
            cell: row.cell.map(|cell| {
                let Content::Lasting { bytes } = cell.content else {
                    unreachable!("no cell of this model expires")
                };
                let bytes = self.cell(&bytes);
                let header = Header::parse(bytes).unwrap();
                let text = bytes[38];
                (cell.write_time.0 as u8, header.epoch.get() as u8, text)
            }),
        }
    }

    /// What a pass does with a record.
    fn look(&self, pass: Pass, record: Record) -> Option<Triage> {
        let (_, epoch, text) = record.cell?;
        let looking = Looking {
            pass,
            mode: Mode::Reencrypt,
            job_epoch: Epoch::new(JOB_EPOCH.into()).unwrap(),
        };
        let bytes = self.bytes(epoch, text);
        let now = WallTime(1_000_000_000);
        Some(triage(&looking, &self.view, self.cell(&bytes), None, now))
    }

    /// For how long a write that is sent now may land.
    fn life(&self) -> u8 {
        match self.late {
            true => self.timing.drain_ms as u8,
            false => self.timing.request_timeout_ms as u8,
        }
    }

    fn go(&self, state: &State, to: JobState, wait: u64) -> State {
        assert!(state.job.may_become(to), "{} to {to}", state.job);
        State {
            job: to,
            wait: wait as u8,
            passed: 0,
            found: false,
            hand: None,
            ..state.clone()
        }
    }

    /// Before a scan that proves: a zombie may write for as long as its reads
    /// are good.
    fn verify_wait(&self) -> u64 {
        self.timing.row_age_ms + self.timing.request_timeout_ms
    }

    fn of_worker(&self, state: &State, steps: &mut Steps<State>) {
        if state.wait > 0 {
            return;
        }
        match state.job {
            JobState::Settling => {
                steps.live("rewriting", self.go(state, JobState::Rewriting, 0));
            }
            JobState::Rewriting => self.rewrite(state, steps),
            JobState::Verifying => self.scan(state, Pass::Verify, steps),
            JobState::Draining => self.scan(state, Pass::Drain, steps),
            JobState::Verified => {
                let next = self.go(state, JobState::Draining, self.drain_ms);
                steps.live("draining", next);
            }
            _ => {}
        }
    }

    fn rewrite(&self, state: &State, steps: &mut Steps<State>) {
        if let Some((record, write, _)) = state.hand {
            let mut next = state.clone();
            next.hand = None;
            let at = &mut next.records[record as usize];
            *at = self.merge(*at, write);
            next.passed = next.passed.max(record + 1);
            steps.live("a rewritten cell is acknowledged", next);
            // Its worker is frozen and will write when it wakes up, or it dies
            // with the write on its way. Another goes on from the checkpoint.
            if state.zombies > 0 {
                let mut next = state.clone();
                next.hand = None;
                next.zombies -= 1;
                self.send(&mut next, record, write);
                steps.chance("the worker is frozen", next);
            }
            let mut next = state.clone();
            next.hand = None;
            steps.chance("the worker dies", next);
            return;
        }
        let n = usize::from(state.passed);
        if n == RECORDS {
            if self.planted == Planted::NoScan {
                let verifying = self.go(state, JobState::Verifying, 0);
                let next = self.go(&verifying, JobState::Verified, 0);
                steps.live("verified", next);
            } else {
                let next = self.go(state, JobState::Verifying, self.verify_wait());
                steps.live("verifying", next);
            }
            return;
        }
        let mut next = state.clone();
        match (
            self.look(Pass::Rewrite, state.records[n]),
            state.records[n].cell,
        ) {
            (Some(Triage::Work(_)), Some((at, _, text))) => {
                let at = at + u8::from(self.planted == Planted::WriteTimePlusOne);
                let write = Write::Cell {
                    at,
                    epoch: JOB_EPOCH,
                    text,
                };
                let age = self.timing.row_age_ms + self.timing.request_timeout_ms;
                next.hand = Some((n as u8, write, age as u8));
                if self.planted == Planted::CheckpointFirst {
                    next.passed += 1;
                }
                steps.live("a record is read to be rewritten", next);
            }
            (Some(Triage::Current) | None, _) => {
                next.passed += 1;
                steps.live("a record is passed", next);
            }
            (other, _) => unreachable!("a rewrite meets {other:?}"),
        }
    }

    fn scan(&self, state: &State, pass: Pass, steps: &mut Steps<State>) {
        let n = usize::from(state.passed);
        let skips = self.planted == Planted::ScanSkips && n + 1 == RECORDS;
        if n < RECORDS && !skips {
            let mut next = state.clone();
            match self.look(pass, state.records[n]) {
                Some(Triage::Find) => next.found = true,
                Some(Triage::Work(_)) | None => {}
                other => unreachable!("a scan meets {other:?}"),
            }
            next.passed += 1;
            steps.live("a record is scanned", next);
            return;
        }
        let to = match (state.found, pass) {
            (true, _) => JobState::Rewriting,
            (false, Pass::Verify) => JobState::Verified,
            (false, _) => JobState::Drained,
        };
        steps.live("the scan ends", self.go(state, to, 0));
    }

    fn send(&self, state: &mut State, record: u8, write: Write) {
        let left = self.life();
        state.flights.push(Flight {
            record,
            write,
            left,
        });
        state.flights.sort_unstable();
    }

    /// The client edits or deletes a record, by the registry as it knows it.
    fn of_client(&self, state: &State, steps: &mut Steps<State>) {
        if state.old_view.is_some() {
            let mut next = state.clone();
            next.old_view = None;
            steps.live("the client reads the registry", next);
        }
        // Nothing that a client sends after the settle is old; that the worker
        // keeps it is seen well enough by what it sends before the verdict.
        if state.sent == self.writes || state.job == JobState::Drained {
            return;
        }
        let at = FIRST + 1 + state.sent;
        let epoch = match state.old_view {
            Some(_) => OLD_EPOCH,
            None => JOB_EPOCH,
        };
        let text = 1 + state.sent;
        for record in 0..RECORDS as u8 {
            for write in [Write::Cell { at, epoch, text }, Write::Delete { at }] {
                let mut next = state.clone();
                next.sent += 1;
                self.send(&mut next, record, write);
                steps.chance("the client sends a write", next);
            }
        }
    }

    fn of_flights(&self, state: &State, steps: &mut Steps<State>) {
        for (n, flight) in state.flights.iter().enumerate() {
            let mut next = state.clone();
            next.flights.remove(n);
            steps.live("a write is lost", next.clone());
            let record = usize::from(flight.record);
            next.records[record] = self.merge(next.records[record], flight.write);
            let told = match flight.write {
                Write::Cell { at, text, .. } => (at, Some(text)),
                Write::Delete { at } => (at, None),
            };
            // What a zombie carries is what it read, and no news.
            if told.1 != Some(0) {
                next.truth[record] = next.truth[record].max(told);
            }
            steps.live("a write lands", next);
        }
    }

    fn tick(&self, state: &State, steps: &mut Steps<State>) {
        if state.flights.iter().any(|flight| flight.left == 0) {
            return;
        }
        let mut next = state.clone();
        next.wait = next.wait.saturating_sub(1);
        next.old_view = next.old_view.and_then(|left| left.checked_sub(1));
        next.hand = next
            .hand
            .and_then(|(record, write, left)| Some((record, write, left.checked_sub(1)?)));
        for flight in &mut next.flights {
            flight.left -= 1;
        }
        steps.live("a millisecond", next);
    }
}

fn deletion(at: u8) -> Deletion {
    Deletion {
        at: WriteTime(at.into()),
        deleted_s: 0,
    }
}

const LOST: &str = "a record does not show the client's newest write";
const TORN_SETTLE: &str = "a write of before may land while it is rewritten";
const EARLY_CHECKPOINT: &str = "a checkpoint covers a record that is not rewritten";
const FALSE_VERIFIED: &str = "verified, and a cell is older than the job";
const FALSE_DRAINED: &str = "drained, and a cell is older than the job or may come to be";

impl Model for Data {
    type State = State;

    fn initial(&self) -> Vec<State> {
        let records = [Record {
            deleted: None,
            cell: Some((FIRST, 1, 0)),
        }; RECORDS];
        let state = State {
            job: JobState::Settling,
            wait: self.settle_ms as u8,
            passed: 0,
            found: false,
            hand: None,
            records,
            truth: [(FIRST, Some(0)); RECORDS],
            old_view: Some(self.timing.status_time_ms as u8),
            sent: 0,
            flights: Vec::new(),
            zombies: 1,
        };
        // With a zombie of the job before: it had read the first record, checked
        // all there is to check, and was frozen before it wrote.
        let mut haunted = state.clone();
        let write = Write::Cell {
            at: FIRST,
            epoch: OLD_EPOCH,
            text: 0,
        };
        self.send(&mut haunted, 0, write);
        haunted.flights[0].left += self.timing.row_age_ms as u8;
        vec![state, haunted]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        self.of_worker(state, steps);
        self.of_client(state, steps);
        self.of_flights(state, steps);
        self.tick(state, steps);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        for (record, (at, text)) in state.records.iter().zip(&state.truth) {
            let shown = record.cell.map(|(_, _, text)| text);
            let newer = record.cell.is_some_and(|(cell_at, ..)| cell_at < *at);
            if shown != *text || newer {
                return Some(LOST);
            }
        }
        let old_flight = state.flights.iter().any(Flight::is_old);
        let old_cell = state.records.iter().any(Record::is_old);
        if !self.late {
            let settled = !matches!(state.job, JobState::Settling);
            if settled && (old_flight || state.old_view.is_some()) {
                return Some(TORN_SETTLE);
            }
            let passed = &state.records[..usize::from(state.passed).min(RECORDS)];
            if state.job == JobState::Rewriting && passed.iter().any(Record::is_old) {
                return Some(EARLY_CHECKPOINT);
            }
            if matches!(state.job, JobState::Verified) && old_cell {
                return Some(FALSE_VERIFIED);
            }
        }
        let settled = old_flight || old_cell || state.old_view.is_some();
        (state.job == JobState::Drained && settled).then_some(FALSE_DRAINED)
    }

    fn is_end(&self, state: &State) -> bool {
        state.job == JobState::Drained
    }
}

#[test]
fn verified_is_true_where_writes_land_in_time() {
    search(&prompt(Planted::Nothing)).holds("prompt writes");
}

#[test]
fn drained_is_true_whenever_writes_land() {
    search(&late(Planted::Nothing)).holds("late writes");
}

#[test]
fn each_rule_of_the_data_is_needed() {
    let found = |name: &str, model: &Data, promise: &str| {
        search(model).breaks(name, promise);
    };
    let plus_one = prompt(Planted::WriteTimePlusOne);
    found("the worker writes at w + 1", &plus_one, LOST);
    let first = prompt(Planted::CheckpointFirst);
    found("a checkpoint before its data", &first, EARLY_CHECKPOINT);
    let mut short = prompt(Planted::Nothing);
    short.settle_ms = short.timing.status_time_ms;
    found("a settle without the request's time", &short, TORN_SETTLE);

    // A node's hints make old cells of what was rewritten already.
    let skips = late(Planted::ScanSkips);
    found("scans that skip a record", &skips, FALSE_DRAINED);
    let mut early = late(Planted::Nothing);
    early.drain_ms = 0;
    found("no drain", &early, FALSE_DRAINED);
}

/// A short settle alone is made good by the scan, and a missing scan alone by
/// the settle. Without both, `verified` is not true.
#[test]
fn verified_is_false_without_settle_and_scan() {
    let mut model = prompt(Planted::NoScan);
    model.settle_ms = 0;
    let found = search(&Unsettled(model));
    found.breaks("no settle and no scan", FALSE_VERIFIED);
}

/// The store keeps the older cell, so the worker can rewrite for ever.
#[test]
fn without_the_epoch_in_front_a_job_does_not_end() {
    let model = prompt(Planted::EpochDoesNotLead);
    let found = search(&Unsettled(model));
    found.is_stuck("an epoch that does not lead");
}

/// Looks at the verdict alone.
struct Unsettled(Data);

impl Model for Unsettled {
    type State = State;

    fn initial(&self) -> Vec<State> {
        self.0.initial()
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        self.0.steps(state, steps);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let false_verdict = [FALSE_VERIFIED, FALSE_DRAINED];
        let verdict =
            matches!(state.job, JobState::Verified) && { state.records.iter().any(Record::is_old) };
        if verdict {
            return Some(FALSE_VERIFIED);
        }
        self.0
            .broken(state)
            .filter(|promise| false_verdict.contains(promise))
    }

    fn is_end(&self, state: &State) -> bool {
        self.0.is_end(state)
    }
}
