//! A channel's move from the queue to its end, in place and by copy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rekeyd::clock::WriteTime;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::ids::{ChannelId, Hour, JobId, Place, RecordId};
use rekeyd::job::{JobRow, JobState, LeaveBehind, Mode, MoveRequest};
use rekeyd::registry::{ChannelName, ChannelView, CopyPhase, Route};
use rekeyd::scope::Scope;
use rekeyd::store::{CellWrite, ControlTable, Partition, StoreError, StoreErrorClass, StoreResult};
use tokio::sync::Mutex;

use crate::holding::{
    Message, Messages, ask, cells, consent, deny, hours, live, messages, name, request, second_org,
    seen, write,
};
use crate::rig::{Rig, short_waits};
use crate::watched::{Event, StepIn, Watched};

fn recipe(rig: &Rig) -> Recipe {
    Recipe {
        seed: 11,
        messages: 240,
        shape: Shape::Even { per_slice: 30 },
        expiries_from_s: Some(rig.clock.wall().unix_seconds() as u32),
    }
}

/// A store with one channel that is to move, and others beside it.
async fn filled() -> (Rig, ChannelName) {
    let rig = Rig::with_timing(&short_waits()).await;
    rig.fill(&recipe(&rig)).await;
    let channel = recipe(&rig).plan().next().unwrap().channel();
    let from = name(&rig, "w1", &channel);
    (rig, from)
}

async fn view(rig: &Rig, of: &ChannelName) -> ChannelView {
    rig.registry.view(&of.org, &of.channel).await.unwrap()
}

fn channel(id: &str) -> ChannelId {
    ChannelId::new(id).unwrap()
}

async fn wait_phase(rig: &Rig, request: &MoveRequest, phase: CopyPhase) {
    rig.wait(request.job_id, phase.as_str(), |row| {
        row.copy.as_ref().is_some_and(|copy| copy.phase >= phase)
    })
    .await;
}

/// Everything is at the destination as it was at the source, under the new
/// scope, and nothing is left.
async fn check_moved(
    rig: &Rig,
    request: &MoveRequest,
    before: &BTreeMap<(Hour, RecordId), Message>,
    old: &ChannelView,
    row: &JobRow,
) -> Messages {
    let to = request.destination();
    let now_there = view(rig, &to).await;
    let found = messages(rig, &now_there).await;
    assert_eq!(&seen(&found), before, "text, write time and expiry");
    let desired = now_there.desired();
    for ((hour, record), sealed) in &found {
        let scope = Scope::Message {
            org: to.org.clone(),
            workspace: to.workspace.clone(),
            channel: to.channel.clone(),
            hour: *hour,
        };
        assert_eq!(sealed.scope, scope, "{record:?}");
        assert_eq!(sealed.cmk, desired.cmk, "{record:?}");
        assert!(sealed.epoch >= row.activated.as_ref().unwrap().epoch);
    }
    if old.channel_row.place != now_there.channel_row.place {
        assert_eq!(live(rig, old).await, 0, "nothing is live in the old place");
    }
    assert!(row.rewriting.balances(), "I13: {:?}", row.rewriting);
    assert!(row.proof.balances(), "I13: {:?}", row.proof);
    let verdict = row.verdict.clone().unwrap();
    let said = format!("{} is {to} now: no live message", request.source());
    assert!(verdict.starts_with(&said), "{verdict}");
    found
}

/// A move in place: the place stays, every cell is sealed for the workspace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_moves_to_another_workspace_in_its_place() {
    let (rig, from) = filled().await;
    let old = view(&rig, &from).await;
    let before = seen(&messages(&rig, &old).await);
    let others = rig.epochs().await.values().sum::<u64>() - before.len() as u64;
    let request = request(&from, &name(&rig, "w2", &from.channel));
    let worker = rig.worker().await;
    let job = ask(&rig, &request).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    check_moved(&rig, &request, &before, &old, &row).await;
    assert_eq!(row.rewriting.rewritten, before.len() as u64);
    assert_eq!(
        row.rewriting.scanned,
        before.len() as u64,
        "no other channel"
    );
    assert!(others > 0, "the other channels are as they were");
    let first = rekeyd::epoch::Epoch::FIRST;
    assert_eq!(rig.epochs().await[&first], others);
    let now = view(&rig, &from).await;
    assert_eq!(now.channel_row.place, old.channel_row.place);
}

/// A copy to another channel id of the organization. The old name leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_a_copy_to_another_channel_id_keeps_every_message_and_empties_the_old_place() {
    let (rig, from) = filled().await;
    let old = view(&rig, &from).await;
    let before = seen(&messages(&rig, &old).await);
    assert!(before.values().any(|m| m.expiry.is_some()));
    let to = name(&rig, "w2", &channel("moved"));
    let request = request(&from, &to);
    let worker = rig.worker().await;
    let job = ask(&rig, &request).await;
    // The old place is left empty before the wait, in which a store may forget
    // deletes that went to the destination alone.
    let waits = |row: &JobRow| row.state == JobState::Draining && row.drain_until_ms.is_some();
    let row = rig.wait(job, "the drain's wait", waits).await;
    assert!(row.drain_until_ms > Some(rig.clock.wall().unix_ms()));
    assert_eq!(live(&rig, &old).await, 0);
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    check_moved(&rig, &request, &before, &old, &row).await;
    let rows = before.len() as u64;
    // Copied once; there in the second pass; purged by the first sweep.
    assert_eq!(row.rewriting.rewritten, rows);
    assert_eq!(row.rewriting.current, 2 * rows);
    assert_eq!(row.proof.current, rows);
    assert_eq!(row.copy.as_ref().unwrap().phase, CopyPhase::Closed);
    let route = rig.registry.route(&from.org, &from.channel).await.unwrap();
    assert_eq!(route, Route::MovedTo(to.clone()));
    let now = view(&rig, &to).await;
    assert_ne!(now.channel_row.place, old.channel_row.place);
    assert_eq!(now.channel_row.came_from[0].place, old.channel_row.place);
}

/// A copy to another organization goes under its CMK, and each use of a key is
/// asked for in the name of the organization whose key it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_a_copy_to_another_organization_is_under_its_own_key() {
    let (rig, from) = filled().await;
    let (org, cmk) = second_org(&rig, "globex").await;
    let old = view(&rig, &from).await;
    let before = seen(&messages(&rig, &old).await);
    let to = ChannelName {
        org,
        ..name(&rig, "w9", &from.channel)
    };
    consent(&rig, &from, &to).await;
    let request = request(&from, &to);
    let calls_before = rig.ring.log_tail(usize::MAX).unwrap().len();
    let worker = rig.worker().await;
    let job = ask(&rig, &request).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let calls = rig
        .ring
        .log_tail(usize::MAX)
        .unwrap()
        .split_off(calls_before);
    check_moved(&rig, &request, &before, &old, &row).await;
    let mut by_org: BTreeMap<String, BTreeMap<String, u32>> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.operation != "DescribeKey") {
        let org = call.context["organization"].clone();
        let expected = if org == "globex" { &cmk } else { &rig.old };
        assert_eq!(&call.cmk, expected, "{call:?}");
        *by_org
            .entry(org)
            .or_default()
            .entry(call.operation.clone())
            .or_default() += 1;
    }
    let slices = hours(&rig, &from.org, &from.channel).await.len() as u32;
    // A canary each beside the slices.
    assert_eq!(by_org["acme"]["Decrypt"], slices + 1, "{by_org:?}");
    assert_eq!(
        by_org["globex"]["GenerateDataKey"],
        slices + 1,
        "{by_org:?}"
    );
    check_audit(&rig, &request, slices).await;
    assert!(
        !by_org["acme"].contains_key("GenerateDataKey"),
        "{by_org:?}"
    );
}

/// I16: each use of a key for the copy is recorded as such, under the
/// organization whose key it is; the proof's uses as the proof's.
async fn check_audit(rig: &Rig, request: &MoveRequest, slices: u32) {
    rig.audit.durable().await.unwrap();
    let mut uses: BTreeMap<(String, String, String), u32> = BTreeMap::new();
    for file in std::fs::read_dir(&rig.config.audit.dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["type"] == "kms" && line["job_id"] == request.job_id.to_string() {
                let word =
                    |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let org = word(&line["context"]["organization"]);
                let key = (org, word(&line["action"]), word(&line["reason_code"]));
                *uses.entry(key).or_default() += 1;
            }
        }
    }
    let count = |org: &str, action: &str, code: &str| {
        let key = (org.to_owned(), action.to_owned(), code.to_owned());
        uses.get(&key).copied().unwrap_or(0)
    };
    assert_eq!(count("acme", "Decrypt", "channel_move"), slices, "{uses:?}");
    let made = count("globex", "GenerateDataKey", "channel_move");
    assert_eq!(made, slices, "{uses:?}");
    assert_eq!(count("globex", "Decrypt", "verify"), slices, "{uses:?}");
}

/// Takes no write of the destination for longer than rows may be old, and has
/// the organization go to another key meanwhile.
struct RekeyedMeanwhile {
    rig: Arc<Rig>,
    source: Place,
    since: Mutex<Option<Instant>>,
}

#[async_trait::async_trait]
impl StepIn for RekeyedMeanwhile {
    async fn before_write(&self, partition: &Partition, _: &[CellWrite]) -> StoreResult<()> {
        assert_ne!(
            partition.place, self.source,
            "a copy does not write the source"
        );
        let mut since = self.since.lock().await;
        if since.is_none() {
            let (rig, job) = (&self.rig, JobId::random());
            rig.registry
                .activate_rekey(&rig.org, job, None, &rig.new, Mode::Reencrypt, || true)
                .await
                .unwrap();
        }
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() < short_waits().row_age() + Duration::from_millis(100) {
            let busy = StoreError::new(StoreErrorClass::Transient, "overloaded");
            return Err(busy);
        }
        Ok(())
    }
}

/// I4: what became too old on the way is read again in both places, and sealed
/// by what the destination's organization wants by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i04_a_copy_that_became_too_old_is_read_and_sealed_again() {
    let (rig, from) = filled().await;
    let rig = Arc::new(rig);
    let old = view(&rig, &from).await;
    let before = seen(&messages(&rig, &old).await);
    let to = name(&rig, "w2", &channel("moved"));
    let request = request(&from, &to);
    let meanwhile = RekeyedMeanwhile {
        rig: rig.clone(),
        source: old.channel_row.place.clone(),
        since: Mutex::default(),
    };
    let store = Watched::around(rig.store.clone(), meanwhile);
    let worker = rig.worker_on(store.clone()).await;
    let job = ask(&rig, &request).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let found = check_moved(&rig, &request, &before, &old, &row).await;
    let wanted = rig.registry.org(&rig.org).await.unwrap().cell_epoch;
    assert!(found.values().all(|sealed| sealed.epoch == wanted));
    let again = store
        .events()
        .iter()
        .filter(|event| matches!(event, Event::ReadCell))
        .count();
    assert!(again >= before.len(), "{again} rows were read again");
}

/// What lands in the old place late, at any time of the move, is carried over,
/// unless the destination has something newer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_late_writes_to_the_old_place_are_carried_over_and_deletes_stay() {
    let (rig, from) = filled().await;
    let old = view(&rig, &from).await;
    let mut expected = seen(&messages(&rig, &old).await);
    let to = name(&rig, "w2", &channel("moved"));
    let request = request(&from, &to);
    let hour = hours(&rig, &from.org, &from.channel).await[0];
    let record = |id: &str| RecordId::new(id).unwrap();
    let late = |text: &str, at: i64| Message {
        text: text.as_bytes().to_vec(),
        write_time: WriteTime(at),
        expiry: None,
    };
    let vanishes = rig.clock.wall().unix_seconds() as u32 + 3600;
    let worker = rig.worker().await;
    let job = ask(&rig, &request).await;

    // A delete that comes to the destination first is not undone by the copier.
    wait_phase(&rig, &request, CopyPhase::Announced).await;
    let there = view(&rig, &to).await;
    let (deleted_at, deleted) = expected
        .iter()
        .next()
        .map(|(at, m)| (at.clone(), m.clone()))
        .unwrap();
    let at = WriteTime(deleted.write_time.0 + 1);
    rig.store
        .delete_row(&there.partition(deleted_at.0), &deleted_at.1, at)
        .await
        .unwrap();
    expected.remove(&deleted_at);
    // And an edit that went there first stays.
    let (edited_at, edited) = expected
        .iter()
        .nth(1)
        .map(|(at, m)| (at.clone(), m.clone()))
        .unwrap();
    let edit = Message {
        text: b"edited there".to_vec(),
        write_time: WriteTime(edited.write_time.0 + 7),
        expiry: None,
    };
    write(
        &rig,
        &there,
        edited_at.0,
        &edited_at.1,
        &edit.text,
        edit.write_time,
        None,
    )
    .await;
    expected.insert(edited_at, edit);

    wait_phase(&rig, &request, CopyPhase::Mirrored).await;
    let one = late("late, before the switch", 1_000);
    write(
        &rig,
        &old,
        hour,
        &record("late-1"),
        &one.text,
        one.write_time,
        None,
    )
    .await;
    wait_phase(&rig, &request, CopyPhase::Switched).await;
    let two = late("late, after the switch", 2_000);
    write(
        &rig,
        &old,
        hour,
        &record("late-2"),
        &two.text,
        two.write_time,
        None,
    )
    .await;
    rig.wait(job, "the drain", |row| row.state == JobState::Draining)
        .await;
    let three = late("late, in phase moved", 3_000);
    write(
        &rig,
        &old,
        hour,
        &record("late-3"),
        &three.text,
        three.write_time,
        None,
    )
    .await;
    let four = Message {
        expiry: Some(vanishes),
        ..late("late, and vanishes", 4_000)
    };
    write(
        &rig,
        &old,
        hour,
        &record("late-4"),
        &four.text,
        four.write_time,
        four.expiry,
    )
    .await;

    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    for (id, message) in [
        ("late-1", one),
        ("late-2", two),
        ("late-3", three),
        ("late-4", four),
    ] {
        expected.insert((hour, record(id)), message);
    }
    check_moved(&rig, &request, &expected, &old, &row).await;
    assert!(row.rewriting.changed >= 1, "{:?}", row.rewriting);
    assert!(row.effort.finds >= 2, "{:?}", row.effort);
}

/// A late write that comes between the sweep's read of a row and its purge.
struct Latecomer {
    rig: Arc<Rig>,
    old: ChannelView,
    came: Mutex<Option<(Hour, RecordId, Message)>>,
}

#[async_trait::async_trait]
impl StepIn for Latecomer {
    async fn before_delete(&self, partition: &Partition, record: &RecordId) -> StoreResult<()> {
        let mut came = self.came.lock().await;
        if came.is_none() {
            let (hour, at) = (partition.hour, self.rig.clock.wall().0);
            let message = Message {
                text: b"between read and purge".to_vec(),
                write_time: WriteTime(at),
                expiry: None,
            };
            let (text, at) = (&message.text, message.write_time);
            write(&self.rig, &self.old, hour, record, text, at, None).await;
            *came = Some((hour, record.clone(), message));
        }
        Ok(())
    }
}

/// The source is purged at exactly the time that was read, after the destination
/// has acknowledged what is there: a write that is later stays and is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_a_row_is_purged_at_exactly_the_time_it_was_read() {
    let (rig, from) = filled().await;
    let rig = Arc::new(rig);
    let old = view(&rig, &from).await;
    let mut before = seen(&messages(&rig, &old).await);
    let to = name(&rig, "w2", &channel("moved"));
    let request = request(&from, &to);
    let latecomer = Latecomer {
        rig: rig.clone(),
        old: old.clone(),
        came: Mutex::default(),
    };
    let store = Watched::around(rig.store.clone(), latecomer);
    let worker = rig.worker_on(store.clone()).await;
    let job = ask(&rig, &request).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let there = view(&rig, &to).await;
    let mut written = BTreeMap::new();
    let mut purged = 0;
    for event in store.events() {
        match event {
            Event::WriteSent { writes, .. } => {
                written.extend(writes.into_iter().map(|w| (w.record.clone(), w.write_time)));
            }
            Event::Deleted(partition, record, at) => {
                assert_ne!(partition.place, there.channel_row.place);
                assert_eq!(written[&record], at, "what was written there before");
                purged += 1;
            }
            _ => {}
        }
    }
    assert_eq!(purged, before.len() + 1);
    let came = store.step_in().came.lock().await.clone();
    let (hour, record, message) = came.expect("a row is purged");
    before.insert((hour, record), message);
    check_moved(&rig, &request, &before, &old, &row).await;
    assert_eq!(row.effort.finds, 1);
}

/// Cells that wait for a key hold the move in `mirrored`, until they open or an
/// operator leaves them behind; then the sweep waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_hour_holds_the_move_until_it_opens_or_is_left_behind() {
    for leave in [false, true] {
        let (rig, from) = filled().await;
        let old = view(&rig, &from).await;
        let before = seen(&messages(&rig, &old).await);
        let hour = hours(&rig, &from.org, &from.channel).await[1];
        let pairs = [
            ("channel", from.channel.as_str()),
            ("hour", &hour.to_string()),
        ];
        rig.ring.add_deny(deny(&pairs, &rig.old)).unwrap();
        let to = name(&rig, "w2", &channel("moved"));
        let request = request(&from, &to);
        let worker = rig.worker().await;
        let job = ask(&rig, &request).await;
        let row = rig.wait_state(job, JobState::Blocked).await;
        assert!(row.why.contains("revoked"), "{}", row.why);
        assert_eq!(row.blocked_slices, 1);
        let phase = rig.registry.copy_phase(&request).await.unwrap();
        assert_eq!(phase, Some(CopyPhase::Mirrored));
        let verdict = row.verdict.unwrap();
        assert!(
            verdict.ends_with("1 slice blocked, 0 cells quarantined"),
            "{verdict}"
        );
        let there = view(&rig, &to).await;
        assert_eq!(
            live(&rig, &there).await,
            before.len() - 30,
            "the rest went on"
        );
        if leave {
            leave_behind(&rig, &request).await;
            let waits = |row: &JobRow| {
                let copy = row.copy.as_ref().unwrap();
                row.state == JobState::Blocked && copy.phase == CopyPhase::Moved
            };
            rig.wait(job, "the sweep waits", waits).await;
            assert_eq!(live(&rig, &old).await, 30, "they stay in the old place");
        }
        rig.ring.remove_deny("revoked").unwrap();
        let row = rig.wait_state(job, JobState::Drained).await;
        worker.stop().await;
        check_moved(&rig, &request, &before, &old, &row).await;
        assert_eq!(row.rewriting.blocked == 0, !leave, "{:?}", row.rewriting);
    }
}

async fn leave_behind(rig: &Rig, request: &MoveRequest) {
    loop {
        let mut job = rig
            .book
            .get(&rig.org, request.job_id)
            .await
            .unwrap()
            .unwrap();
        job.row.copy.as_mut().unwrap().leave_behind = Some(LeaveBehind {
            who: "test".to_owned(),
            why: "a test".to_owned(),
            at_ms: 1,
        });
        let written = rig
            .book
            .write_back(ControlTable::Jobs, rig.org.as_str(), &mut job)
            .await;
        match written {
            Ok(()) => return,
            Err(rekeyd::job::BookError::Overtaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Left behind, then deleted where the channel is by now, which is copied on;
/// then the key opens. The first copy's sweep brings the rest to the end of the
/// chain and not the deleted one: the place between knows of the delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i14_what_was_left_behind_and_deleted_between_two_copies_stays_deleted() {
    let (rig, from) = filled().await;
    let old = view(&rig, &from).await;
    let mut before = seen(&messages(&rig, &old).await);
    let hour = hours(&rig, &from.org, &from.channel).await[1];
    let pairs = [
        ("channel", from.channel.as_str()),
        ("hour", &hour.to_string()),
    ];
    rig.ring.add_deny(deny(&pairs, &rig.old)).unwrap();
    let mid = name(&rig, "w2", &channel("c2"));
    let end = name(&rig, "w3", &channel("c3"));
    let one = request(&from, &mid);
    let worker = rig.worker().await;
    let first = ask(&rig, &one).await;
    rig.wait_state(first, JobState::Blocked).await;
    leave_behind(&rig, &one).await;
    let waits = |row: &JobRow| {
        let copy = row.copy.as_ref().unwrap();
        row.state == JobState::Blocked && copy.phase == CopyPhase::Moved
    };
    rig.wait(first, "the sweep waits", waits).await;

    let deleted = before.keys().find(|(at, _)| *at == hour).unwrap().clone();
    let at = WriteTime(before[&deleted].write_time.0 + 1);
    let there = view(&rig, &mid).await.partition(hour);
    rig.store.delete_row(&there, &deleted.1, at).await.unwrap();
    before.remove(&deleted);

    let second = ask(&rig, &request(&mid, &end)).await;
    rig.wait(second, "the end of the chain", |row| {
        row.copy
            .as_ref()
            .is_some_and(|copy| copy.phase >= CopyPhase::Moved)
    })
    .await;
    rig.ring.remove_deny("revoked").unwrap();
    rig.wait_state(first, JobState::Drained).await;
    rig.wait_state(second, JobState::Drained).await;
    worker.stop().await;
    let found = seen(&messages(&rig, &view(&rig, &end).await).await);
    assert!(!found.contains_key(&deleted), "it came back");
    assert_eq!(found, before);
    assert_eq!(live(&rig, &old).await, 0);
    assert_eq!(live(&rig, &view(&rig, &mid).await).await, 0);
}

/// A cell that nobody can open stays where it is, and the verdict says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_a_damaged_cell_stays_in_the_old_place_and_is_named() {
    let (rig, from) = filled().await;
    let old = view(&rig, &from).await;
    let mut before = seen(&messages(&rig, &old).await);
    let hour = hours(&rig, &from.org, &from.channel).await[2];
    let partition = old.partition(hour);
    let victim = cells(&rig, &partition).await.swap_remove(3);
    let mut damaged = victim.cell.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let damage = CellWrite {
        record: victim.record.clone(),
        cell: damaged.clone().into(),
        write_time: WriteTime(victim.write_time.0 + 1),
        ttl_s: 0,
    };
    // A lasting one, for the store's expiry has to fit the header.
    assert_eq!(victim.ttl_s, None);
    rig.store.write_cells(&partition, &[damage]).await.unwrap();
    before.remove(&(hour, victim.record.clone()));

    let to = name(&rig, "w2", &channel("moved"));
    let request = request(&from, &to);
    let worker = rig.worker().await;
    let job = ask(&rig, &request).await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let verdict = row.verdict.clone().unwrap();
    assert!(verdict.contains("1 cell left behind"), "{verdict}");
    assert_eq!(row.copy.as_ref().unwrap().left_behind, 1);
    let now_there = view(&rig, &to).await;
    assert_eq!(seen(&messages(&rig, &now_there).await), before);
    assert_eq!(live(&rig, &old).await, 1);
    let left = cells(&rig, &partition).await;
    assert_eq!(left[0].cell, damaged, "left as it was");
    let listed = rig.book.quarantined(&row).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].record, victim.record);
}
