//! The invariants that no other file of this suite is named after, each with a
//! job that runs whole. I9 is tested beside its code, in `pipeline/reencrypt`;
//! I14 is about moves and tested in `moves`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rekeyd::audit;
use rekeyd::client::{Client, EditLifetime, ReasonCode, Use};
use rekeyd::clock::{Clock, FakeClock, SystemClock, WriteTime};
use rekeyd::crypto::{Header, KeyRowBody};
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, Hour, RecordId};
use rekeyd::job::{
    HoldError, JobHold, JobMessage, JobRow, JobState, Mode, SliceId, TaskRow, WorkerName, is_free,
};
use rekeyd::kms::local::CallRecord;
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::store::{
    CellWrite, Consistency, ControlTable, KeyRow, PageLimit, Partition, SliceKey, StoreError,
    StoreErrorClass, StoreResult, StoredCell,
};
use tokio::sync::Mutex;

use crate::rig::{Rig, short_waits};
use crate::watched::{Event, Nothing, StepIn, Watched};

fn slices_of_20(messages: u32) -> Recipe {
    Recipe {
        seed: 17,
        messages,
        shape: Shape::Even { per_slice: 20 },
        expiries_from_s: None,
    }
}

async fn rig() -> Rig {
    Rig::with_timing(&short_waits()).await
}

/// Everything in the store: cells and wraps, by slice.
type Contents = BTreeMap<SliceId, (Vec<StoredCell>, Vec<KeyRow>)>;

async fn contents(rig: &Rig) -> Contents {
    let mut all = BTreeMap::new();
    let mut walk = SliceWalk::new(
        rig.store.clone(),
        rig.registry.clone(),
        rig.org.clone(),
        None,
        None,
    );
    while let Some(slice) = walk.next().await.unwrap() {
        let partition = partition(rig, &slice).await;
        let limit = PageLimit {
            rows: 10_000,
            bytes: 64 << 20,
        };
        let page = rig
            .store
            .read_page(&partition, None, limit, Consistency::All)
            .await
            .unwrap();
        assert_eq!(page.next, None, "one page holds a slice of these tests");
        let address = SliceKey::messages(&rig.org, &slice.channel, slice.hour);
        let keys = rig.store.read_keys(&address).await.unwrap();
        all.insert(slice, (page.cells, keys));
    }
    all
}

async fn partition(rig: &Rig, slice: &SliceId) -> Partition {
    let view = rig.registry.view(&rig.org, &slice.channel).await.unwrap();
    view.partition(slice.hour)
}

/// Runs a job to its end on the given store and returns its row.
async fn run<S: StepIn + 'static>(
    rig: &Rig,
    mode: Mode,
    store: &std::sync::Arc<Watched<S>>,
) -> JobRow {
    let worker = rig.worker_on(store.clone()).await;
    let job = rig.enqueue(rig.request(&rig.new, mode)).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    row
}

/// I1: one cell per record; key rows are only inserted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i01_each_record_keeps_one_cell_and_key_rows_are_only_inserted() {
    for mode in [Mode::Reencrypt, Mode::Rewrap] {
        let rig = rig().await;
        rig.fill(&slices_of_20(200)).await;
        let before = contents(&rig).await;
        run(&rig, mode, &Watched::around(rig.store.clone(), Nothing)).await;
        let after = contents(&rig).await;
        assert_eq!(before.len(), after.len());
        for (slice, (cells, keys)) in &before {
            let (cells_now, keys_now) = &after[slice];
            let records = |cells: &[StoredCell]| -> Vec<RecordId> {
                cells.iter().map(|cell| cell.record.clone()).collect()
            };
            assert_eq!(records(cells), records(cells_now), "{mode:?} {slice}");
            assert!(keys_now.len() > keys.len(), "{mode:?} {slice}");
            for key in keys {
                assert!(keys_now.contains(key), "{mode:?} {slice}: byte for byte");
            }
        }
    }
}

/// I10: old wraps stay until retire: what was copied away before the job can
/// still be opened after it, for as long as the old CMK is enabled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_the_wraps_under_the_old_key_stay_and_open() {
    for mode in [Mode::Reencrypt, Mode::Rewrap] {
        let rig = rig().await;
        rig.fill(&slices_of_20(100)).await;
        let before = contents(&rig).await;
        run(&rig, mode, &Watched::around(rig.store.clone(), Nothing)).await;
        let after = contents(&rig).await;
        for (slice, (_, keys)) in &before {
            let old = keys[0].key_id;
            let wraps = after[slice].1.iter().filter(|key| key.key_id == old);
            let bodies = wraps.map(|key| KeyRowBody::decode(&key.row).unwrap());
            let body = bodies
                .into_iter()
                .find(|body| body.cmk == rig.old)
                .unwrap_or_else(|| panic!("{mode:?} {slice}: the old wrap is gone"));
            let why = Use::new(ReasonCode::Verify, "an old wrap");
            rig.kms
                .decrypt(&body.cmk, &body.wrapped, &body.scope, &why)
                .await
                .unwrap();
        }
    }
}

/// Edits one record and deletes another between the worker's read and write.
struct Meddler {
    client: Client,
    rig_org: rekeyd::ids::OrgId,
    workspace: rekeyd::ids::WorkspaceId,
    channel: ChannelId,
    done: Mutex<Option<(Hour, RecordId, RecordId)>>,
}

const EDIT: &[u8] = b"edited between read and write";

#[async_trait::async_trait]
impl StepIn for Meddler {
    async fn before_write(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        let mut done = self.done.lock().await;
        if done.is_some() {
            return Ok(());
        }
        let why = Use::new(ReasonCode::MessageEdit, "test");
        let channel = self
            .client
            .organization(&self.rig_org)
            .channel(&self.workspace, &self.channel);
        let (edited, deleted) = (&writes[0].record, &writes[1].record);
        let hour = partition.hour;
        channel
            .edit(hour, edited, EDIT, EditLifetime::Keep, &why)
            .await
            .unwrap();
        channel.delete(hour, deleted).await.unwrap();
        *done = Some((hour, edited.clone(), deleted.clone()));
        Ok(())
    }
}

/// I2: the worker writes at the timestamp it read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i02_write_times_stay_and_edits_and_deletes_between_read_and_write_win() {
    let rig = rig().await;
    // Few enough that there is one channel.
    rig.fill(&slices_of_20(60)).await;
    let before = contents(&rig).await;
    let channel = before.keys().next().unwrap().channel.clone();
    assert!(before.keys().all(|slice| slice.channel == channel));
    let meddler = Meddler {
        client: rig.client().await,
        rig_org: rig.org.clone(),
        workspace: rig.workspace.clone(),
        channel: channel.clone(),
        done: Mutex::default(),
    };
    let store = Watched::around(rig.store.clone(), meddler);
    run(&rig, Mode::Reencrypt, &store).await;
    let mut checked = 0;
    let after = contents(&rig).await;
    // What was meddled with is what differs.
    let (mut edited, mut gone) = (Vec::new(), Vec::new());
    for (slice, (cells, _)) in &before {
        for cell in cells {
            let now = after[slice].0.iter().find(|c| c.record == cell.record);
            match now {
                Some(now) if now.write_time == cell.write_time => {
                    assert_ne!(now.cell, cell.cell, "rewritten");
                    checked += 1;
                }
                Some(now) => {
                    assert!(now.write_time > cell.write_time);
                    edited.push((slice.hour, cell.record.clone()));
                }
                None => gone.push((slice.hour, cell.record.clone())),
            }
        }
    }
    assert_eq!((checked, edited.len(), gone.len()), (58, 1, 1));
    let (hour, record) = &edited[0];
    let why = Use::new(ReasonCode::MessageRead, "test");
    let channel = rig
        .client()
        .await
        .organization(&rig.org)
        .channel(&rig.workspace, &channel);
    let read = channel.read(*hour, record, &why).await.unwrap().unwrap();
    assert_eq!(read.text(), EDIT);
    let (hour, record) = &gone[0];
    assert!(channel.read(*hour, record, &why).await.unwrap().is_none());
}

/// Refuses all writes for a while, as a store that is overloaded.
struct Overloaded {
    first: Mutex<Option<Instant>>,
    span: Duration,
    only: Option<Partition>,
    refused: AtomicU32,
}

impl Overloaded {
    fn for_a(span: Duration, only: Option<Partition>) -> Self {
        Self {
            first: Mutex::default(),
            span,
            only,
            refused: AtomicU32::new(0),
        }
    }
}

#[async_trait::async_trait]
impl StepIn for Overloaded {
    async fn before_write(&self, partition: &Partition, _: &[CellWrite]) -> StoreResult<()> {
        if self.only.as_ref().is_some_and(|only| only != partition) {
            return Ok(());
        }
        let first = *self.first.lock().await.get_or_insert_with(Instant::now);
        if first.elapsed() < self.span {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let busy = StoreError::new(StoreErrorClass::Transient, "overloaded");
            return Err(busy);
        }
        Ok(())
    }
}

/// I4: a row is written within row_age of its read, or read again. A newer
/// epoch's expiry in the store is the later one, whenever it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i04_rows_are_written_fresh_or_read_again_and_expiries_are_padded_by_epoch() {
    let rig = rig().await;
    let recipe = Recipe {
        expiries_from_s: Some(SystemClock.wall().unix_seconds() as u32),
        ..slices_of_20(400)
    };
    rig.fill(&recipe).await;
    let row_age = short_waits().row_age();
    let store = Watched::around(
        rig.store.clone(),
        Overloaded::for_a(row_age + Duration::from_secs(1), None),
    );
    let job = run(&rig, Mode::Reencrypt, &store).await;
    assert_eq!(job.rewriting.rewritten, 400);
    let (mut written, mut read_again, mut expiring) = (0, 0, 0);
    for event in store.events() {
        match event {
            Event::ReadCell => read_again += 1,
            Event::WriteSent {
                at,
                writes,
                oldest_read,
            } => {
                // A little more than row_age, for a busy machine may stop the
                // worker between its check and its write. What was not read
                // again is older by as long as the store was away.
                let age = oldest_read.unwrap();
                assert!(age < row_age + Duration::from_millis(700), "{age:?} old");
                for write in writes {
                    written += 1;
                    let header = Header::parse(&write.cell).unwrap();
                    let Some(expiry) = header.expiry else {
                        assert_eq!(write.ttl_s, 0, "lasting cells say so");
                        continue;
                    };
                    expiring += 1;
                    let kept_until_us = at.0 + i64::from(write.ttl_s) * 1_000_000;
                    let padded_s = i64::from(expiry) + 5 * i64::from(header.epoch.get());
                    assert!(kept_until_us >= padded_s * 1_000_000, "padded by epoch");
                }
            }
            _ => {}
        }
    }
    assert_eq!(written, 400);
    assert!(read_again > 0, "the store was away for longer than row_age");
    assert!(expiring > 0, "some of these messages expire");
}

/// I5: settle before rewriting, drain before the verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i05_nothing_is_written_before_the_settle_and_no_verdict_before_the_drain() {
    let rig = rig().await;
    rig.fill(&slices_of_20(100)).await;
    let store = Watched::around(rig.store.clone(), Nothing);
    let job = run(&rig, Mode::Reencrypt, &store).await;
    let timing = short_waits();
    let activated_ms = job.activated.as_ref().unwrap().at_ms;
    let first_write = store.events().into_iter().find_map(|event| match event {
        Event::WriteSent { at, .. } => Some(at.unix_ms()),
        _ => None,
    });
    assert!(first_write.unwrap() >= activated_ms + timing.settle_ms());
    let history = rig.book.history(&rig.org, job.request.job_id()).await;
    let history = history.unwrap();
    let at = |state| history.iter().find(|step| step.to == state).unwrap().at_ms;
    assert!(at(JobState::Rewriting) >= at(JobState::Settling) + timing.settle_ms());
    let a_zombie_may_write = timing.row_age_ms + timing.request_timeout_ms;
    assert!(at(JobState::Verified) >= at(JobState::Verifying) + a_zombie_may_write);
    assert!(at(JobState::Drained) >= at(JobState::Verified) + timing.drain_ms);
}

/// I6: a holder that lost its lease cannot write control rows, even if its own
/// clock stood still and it believes in its lease.
#[tokio::test]
async fn i06_a_zombie_with_an_old_token_writes_no_control_row() {
    let rig = rig().await;
    let request = rig.request(&rig.new, Mode::Reencrypt);
    let id = request.job_id;
    rig.book
        .record(&JobMessage::Rekey(request), "hash", "test")
        .await
        .unwrap();
    let timing = short_waits();
    let name = |worker: &str| WorkerName {
        worker: worker.to_owned(),
        audit: rig.audit.clone(),
        waiting: Default::default(),
    };
    let seen = async || rig.book.get(&rig.org, id).await.unwrap().unwrap();
    let claim = async |clock, worker: &str| {
        let (me, row) = (name(worker), seen().await);
        let claimed = JobHold::claim(&rig.book, clock, &timing, &me, rig.org.as_str(), row).await;
        claimed.unwrap().expect("the row was just read")
    };
    let frozen: rekeyd::clock::SharedClock = FakeClock::at(rig.clock.wall());
    let zombie = claim(&frozen, "zombie").await;
    while !is_free(&seen().await.row, rig.clock.wall().unix_ms()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = claim(&rig.clock, "next").await;
    let (before, tokens) = (seen().await, (zombie.row().await, next.row().await));
    assert!(zombie.is_trusted(), "it does not know");
    assert!(
        tokens.0.token < tokens.1.token,
        "each claim raises the token"
    );

    let saved = zombie.save(|row| row.rounds = 99).await;
    assert!(matches!(saved, Err(HoldError::Changed(_))), "{saved:?}");
    let moved = zombie
        .transition(&tokens.0, JobState::Cancelled, "a zombie", |_| {})
        .await;
    assert!(matches!(moved, Err(HoldError::Changed(_))));
    let released = zombie.release(|_| {}).await;
    let refused = matches!(released, Err(HoldError::Changed(_) | HoldError::Lost(_)));
    assert!(refused, "{released:?}");
    // And what it learns by reading is that it has lost it.
    assert!(matches!(zombie.reload().await, Err(HoldError::Lost(_))));
    let after = seen().await;
    assert_eq!((before.rev, before.row), (after.rev, after.row));
    next.save(|row| row.rounds = 1).await.unwrap();
}

/// I7: a checkpoint moves only over what is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i07_no_checkpoint_passes_a_slice_whose_write_was_not_acknowledged() {
    let mut rig = rig().await;
    // A checkpoint as often as there can be one.
    rig.config.worker.checkpoint_ms = 0;
    rig.fill(&slices_of_20(400)).await;
    let before = contents(&rig).await;
    let slow = before.keys().nth(7).unwrap().clone();
    let slow_partition = partition(&rig, &slow).await;
    let span = Duration::from_millis(1_500);
    let step_in = Overloaded::for_a(span, Some(slow_partition.clone()));
    let store = Watched::around(rig.store.clone(), step_in);
    run(&rig, Mode::Reencrypt, &store).await;
    let mut held_back = 0;
    for event in store.events() {
        match event {
            Event::WriteDone(partition) if partition == slow_partition => break,
            Event::Control(ControlTable::Tasks, body) => {
                // Not a task: the row that says whose job it is.
                let Ok(row) = serde_json::from_str::<TaskRow>(&body) else {
                    continue;
                };
                if let Some(at) = row.checkpoint {
                    assert!(at.slice <= slow, "{} is past {slow}", at.slice);
                    held_back += 1;
                }
            }
            _ => {}
        }
    }
    assert!(
        held_back > 0,
        "slices before it were checkpointed meanwhile"
    );
}

/// I8: the proof is a scan, not what the job believes it did. A write under the
/// old epoch that lands late is found, and rewritten before the verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i08_a_late_write_under_the_old_epoch_is_found_before_the_verdict() {
    let rig = rig().await;
    rig.fill(&slices_of_20(100)).await;
    let before = contents(&rig).await;
    let (slice, (cells, _)) = before.iter().nth(2).unwrap();
    let late = CellWrite {
        record: cells[3].record.clone(),
        cell: cells[3].cell.clone().into(),
        write_time: WriteTime(cells[3].write_time.0 + 1),
        ttl_s: 0,
    };
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let verified = |row: &JobRow| matches!(row.state, JobState::Verified | JobState::Draining);
    rig.wait(job, "verified", verified).await;
    let place = partition(&rig, slice).await;
    rig.store
        .write_cells(&place, std::slice::from_ref(&late))
        .await
        .unwrap();
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let history = rig.book.history(&rig.org, job).await.unwrap();
    let back = |step: &rekeyd::job::Transition| {
        step.from == JobState::Draining && step.to == JobState::Rewriting
    };
    assert_eq!(history.iter().filter(|step| back(step)).count(), 1);
    assert_eq!(row.rewriting.rewritten, 101);
    let found = rig.store.read_cell(&place, &late.record).await.unwrap();
    let found = found.unwrap();
    assert_eq!(found.write_time, late.write_time);
    let epoch = Header::parse(&found.cell).unwrap().epoch;
    assert_eq!(epoch, Epoch::new(2).unwrap());
}

/// Takes its time to make a key row durable.
struct SlowKeys(AtomicBool);

#[async_trait::async_trait]
impl StepIn for SlowKeys {
    async fn before_key(&self, _: &SliceKey, _: &KeyRow) -> StoreResult<()> {
        self.0.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(())
    }
}

/// I11: a key row is durable before any cell that names its key is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_no_cell_is_written_before_its_key_row_is_durable() {
    let rig = rig().await;
    rig.fill(&slices_of_20(200)).await;
    let store = Watched::around(rig.store.clone(), SlowKeys(AtomicBool::new(false)));
    let job = run(&rig, Mode::Reencrypt, &store).await;
    assert_eq!(job.effort.keys_made, 10);
    let mut durable = BTreeSet::new();
    let mut written = 0;
    for event in store.events() {
        match event {
            Event::KeyDone(key) => {
                durable.insert(key.key_id);
            }
            Event::WriteSent { writes, .. } => {
                for write in writes {
                    let named = Header::parse(&write.cell).unwrap().key_id;
                    assert!(durable.contains(&named), "{named:?} is not durable yet");
                    written += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(written, 200);
}

/// I16: every call to the KMS that was answered is in the audit log, and so is
/// every transition; the chains hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i16_every_kms_call_and_every_transition_is_in_the_audit_log() {
    let rig = rig().await;
    rig.fill(&slices_of_20(100)).await;
    let job = run(
        &rig,
        Mode::Reencrypt,
        &Watched::around(rig.store.clone(), Nothing),
    )
    .await;
    rig.audit.durable().await.unwrap();

    let mut lines = Vec::new();
    for file in std::fs::read_dir(&rig.config.audit.dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let parsed = text.lines().map(serde_json::from_str::<serde_json::Value>);
        lines.extend(parsed.map(Result::unwrap));
    }
    let word =
        |line: &serde_json::Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    // Which calls there were, by what each side knows of them.
    type Calls = BTreeMap<(String, String, String, bool), u32>;
    let mut called = Calls::new();
    for call in rig.ring.log_tail(usize::MAX).unwrap() {
        let CallRecord {
            operation,
            cmk,
            context,
            result,
            ..
        } = call;
        let context = serde_json::to_string(&context).unwrap();
        let key = (operation, cmk.to_string(), context, result == "ok");
        *called.entry(key).or_default() += 1;
    }
    let mut audited = Calls::new();
    for line in lines.iter().filter(|line| line["type"] == "kms") {
        let context = match &line["context"] {
            serde_json::Value::Null => "{}".to_owned(),
            context => context.to_string(),
        };
        let ok = line["outcome"] == "ok";
        let key = (word(line, "action"), word(line, "cmk"), context, ok);
        *audited.entry(key).or_default() += 1;
        assert!(!word(line, "reason_code").is_empty(), "{line}");
    }
    assert!(called.values().sum::<u32>() > 15);
    assert_eq!(called, audited);

    let history = rig.book.history(&rig.org, job.request.job_id()).await;
    for step in history.unwrap() {
        let is_it = |line: &&serde_json::Value| {
            line["action"] == "transition"
                && line["from"] == step.from.as_str()
                && line["to"] == step.to.as_str()
                && line["job_id"] == job.request.job_id().to_string()
        };
        // Said before it was done, and after.
        let phases: Vec<String> = lines
            .iter()
            .filter(is_it)
            .map(|line| word(line, "phase"))
            .collect();
        assert_eq!(phases, ["intent", "result"], "{step:?}");
    }
    let known: Vec<audit::Head> = job
        .streams
        .iter()
        .map(|stream| stream.clone().try_into().unwrap())
        .collect();
    assert!(!known.is_empty());
    let report = audit::verify(&rig.config.audit.dir, &known).unwrap();
    assert!(report.is_intact(), "{report:#?}");
}
