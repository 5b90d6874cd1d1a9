//! Moves that overlap with other jobs, that are refused, and that are called off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rekeyd::clock::WriteTime;
use rekeyd::crypto::KeyRowBody;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, CmkArn, Hour, JobId, OrgId, RecordId};
use rekeyd::job::{JobMessage, JobRow, JobState, Mode, MoveRequest};
use rekeyd::kms::local::NewKey;
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::registry::{
    CalledOff, ChannelName, ChannelView, CopyPhase, Registry, RegistryError, Route,
};
use rekeyd::scope::Scope;
use rekeyd::store::{ControlTable, ControlWrite, KeyRow, SliceKey, StoreResult};

use crate::holding::{
    Message, ask, cells, consent, deny, hours, live, messages, name, request, second_org, seen,
    write,
};
use crate::rig::{PATIENCE, Rig, short_waits};
use crate::watched::{StepIn, Watched};

type Seen = BTreeMap<(Hour, RecordId), Message>;

/// A store with several channels.
async fn filled() -> (Rig, Vec<ChannelName>) {
    let rig = Rig::with_timing(&short_waits()).await;
    let recipe = Recipe {
        seed: 23,
        messages: 240,
        shape: Shape::Even { per_slice: 10 },
        expiries_from_s: Some(rig.clock.wall().unix_seconds() as u32),
    };
    rig.fill(&recipe).await;
    let channels: BTreeSet<ChannelId> = recipe.plan().map(|slice| slice.channel()).collect();
    let names = channels.iter().map(|id| name(&rig, "w1", id)).collect();
    (rig, names)
}

async fn view(rig: &Rig, of: &ChannelName) -> ChannelView {
    rig.registry.view(&of.org, &of.channel).await.unwrap()
}

async fn read(rig: &Rig, of: &ChannelName) -> Seen {
    seen(&messages(rig, &view(rig, of).await).await)
}

fn channel(id: &str) -> ChannelId {
    ChannelId::new(id).unwrap()
}

async fn third_key(rig: &Rig) -> CmkArn {
    let unlock = rekeyd::wiring::unlock(&rig.config);
    let third = rig.ring.create_key(&unlock, &NewKey::default()).unwrap();
    rig.allow(&third).await;
    third
}

async fn activated(rig: &Rig, job: JobId) -> JobRow {
    rig.wait(job, "activation", |row| row.activated.is_some())
        .await
}

/// All of a channel is under the scope of its name, under a CMK, and as it was.
async fn check(rig: &Rig, to: &ChannelName, before: &Seen, cmk: &CmkArn) {
    let found = messages(rig, &view(rig, to).await).await;
    assert_eq!(&seen(&found), before);
    for sealed in found.values() {
        let context = sealed.scope.context();
        assert_eq!(context["organization"], to.org.as_str());
        assert_eq!(context["workspace"], to.workspace.as_str());
        assert_eq!(context["channel"], to.channel.as_str());
        assert_eq!(&sealed.cmk, cmk);
    }
}

/// A move in place and a rekey, whichever is first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_in_place_and_a_rekey_at_once_both_end() {
    for (rekey_first, mode) in [
        (true, Mode::Reencrypt),
        (false, Mode::Reencrypt),
        (true, Mode::Rewrap),
        (false, Mode::Rewrap),
    ] {
        let (rig, names) = filled().await;
        let from = &names[0];
        let to = name(&rig, "w2", &from.channel);
        let before = read(&rig, from).await;
        let worker = rig.worker().await;
        let (a_move, a_rekey) = (request(from, &to), rig.request(&rig.new, mode));
        let (moved, rekeyed) = if rekey_first {
            let rekeyed = rig.enqueue(a_rekey).await;
            activated(&rig, rekeyed).await;
            (ask(&rig, &a_move).await, rekeyed)
        } else {
            let moved = ask(&rig, &a_move).await;
            activated(&rig, moved).await;
            (moved, rig.enqueue(a_rekey).await)
        };
        let one = rig.wait_state(moved, JobState::Drained).await;
        let two = rig.wait_state(rekeyed, JobState::Drained).await;
        worker.stop().await;
        assert_ne!(
            one.activated.unwrap().epoch,
            two.activated.as_ref().unwrap().epoch
        );
        let verdict = two.verdict.unwrap();
        assert!(verdict.contains("may be disabled"), "{verdict}");
        check_wraps(&rig, &to, &before, &two.activated.unwrap().epoch).await;
        // Nothing needs the old key.
        rig.ring.disable(&rig.old).unwrap();
        if mode == Mode::Reencrypt {
            check(&rig, &to, &before, &rig.new).await;
        }
    }
}

/// Each key that a cell names has a wrap at an epoch or above.
async fn check_wraps(rig: &Rig, of: &ChannelName, before: &Seen, epoch: &Epoch) {
    let view = view(rig, of).await;
    let mut n = 0;
    for hour in hours(rig, &of.org, &of.channel).await {
        let address = SliceKey::messages(&of.org, &of.channel, hour);
        let rows = rig.store.read_keys(&address).await.unwrap();
        for cell in cells(rig, &view.partition(hour)).await {
            n += 1;
            let header = rekeyd::crypto::Header::parse(&cell.cell).unwrap();
            let wraps = rows.iter().filter(|row| row.key_id == header.key_id);
            let bodies: Vec<KeyRowBody> = wraps
                .map(|row| KeyRowBody::decode(&row.row).unwrap())
                .collect();
            assert!(
                bodies
                    .iter()
                    .any(|body| body.wrap_epoch >= *epoch && body.cmk == rig.new)
            );
            assert!(
                bodies
                    .iter()
                    .all(|body| { body.scope.context()["workspace"] == of.workspace.as_str() })
            );
        }
    }
    assert_eq!(n, before.len());
}

/// A copy within the organization and a rekey of it, whichever is first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_and_a_rekey_at_once_both_end() {
    for (rekey_first, mode) in [
        (true, Mode::Reencrypt),
        (false, Mode::Reencrypt),
        (false, Mode::Rewrap),
    ] {
        let (rig, names) = filled().await;
        let from = &names[0];
        let old = view(&rig, from).await;
        let to = name(&rig, "w2", &channel("moved"));
        let before = read(&rig, from).await;
        let worker = rig.worker().await;
        let (a_move, a_rekey) = (request(from, &to), rig.request(&rig.new, mode));
        let (moved, rekeyed) = if rekey_first {
            let rekeyed = rig.enqueue(a_rekey).await;
            activated(&rig, rekeyed).await;
            (ask(&rig, &a_move).await, rekeyed)
        } else {
            let moved = ask(&rig, &a_move).await;
            rig.wait(moved, "mirrored", |row| {
                row.copy
                    .as_ref()
                    .is_some_and(|copy| copy.phase >= CopyPhase::Mirrored)
            })
            .await;
            (moved, rig.enqueue(a_rekey).await)
        };
        let one = rig.wait_state(moved, JobState::Drained).await;
        let two = rig.wait_state(rekeyed, JobState::Drained).await;
        worker.stop().await;
        assert!(one.verdict.unwrap().contains("no live message"));
        let verdict = two.verdict.unwrap();
        assert!(verdict.contains("may be disabled"), "{verdict}");
        assert_eq!(live(&rig, &old).await, 0);
        check_wraps(&rig, &to, &before, &two.activated.unwrap().epoch).await;
        rig.ring.disable(&rig.old).unwrap();
        if mode == Mode::Reencrypt {
            check(&rig, &to, &before, &rig.new).await;
        }
    }
}

/// Both organizations are rekeyed while a channel goes from one to the other:
/// each new cell is under the CMK that its organization has by then, and in the
/// end nothing needs the keys from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_to_another_organization_while_both_are_rekeyed() {
    let (rig, names) = filled().await;
    let from = &names[0];
    let (org, first) = second_org(&rig, "globex").await;
    let second = allow_another(&rig, &org).await;
    let old = view(&rig, from).await;
    let to = ChannelName {
        org: org.clone(),
        ..name(&rig, "w9", &channel("c9"))
    };
    consent(&rig, from, &to).await;
    let before = read(&rig, from).await;
    let worker = rig.worker().await;
    let moved = ask(&rig, &request(from, &to)).await;
    rig.wait(moved, "mirrored", |row| {
        row.copy
            .as_ref()
            .is_some_and(|copy| copy.phase >= CopyPhase::Mirrored)
    })
    .await;
    let here = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let mut there = rig.request(&second, Mode::Reencrypt);
    there.org = org.clone();
    let there = rig.enqueue(there).await;
    rig.wait_state(moved, JobState::Drained).await;
    rig.wait_state(here, JobState::Drained).await;
    let drained = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = rig.book.get(&org, there).await.unwrap();
            if let Some(found) = found.filter(|found| found.row.state == JobState::Drained) {
                return found.row;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let row = drained.await.expect("the other organization's rekey ends");
    worker.stop().await;
    assert!(row.verdict.unwrap().contains("may be disabled"));
    rig.ring.disable(&rig.old).unwrap();
    rig.ring.disable(&first).unwrap();
    check(&rig, &to, &before, &second).await;
    assert_eq!(live(&rig, &old).await, 0);
}

async fn allow_another(rig: &Rig, org: &OrgId) -> CmkArn {
    let unlock = rekeyd::wiring::unlock(&rig.config);
    let cmk = rig.ring.create_key(&unlock, &NewKey::default()).unwrap();
    let scope = Scope::Canary { org: org.clone() };
    let why = Use::new(ReasonCode::Enrol, "test");
    let made = rig.kms.generate_data_key(&cmk, &scope, &why).await.unwrap();
    rig.registry
        .allow_cmk(org, &cmk, &made.wrapped.bytes, "test")
        .await
        .unwrap();
    cmk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_channels_move_at_once_one_by_copy() {
    let (rig, names) = filled().await;
    let (one, two) = (&names[0], &names[1]);
    let to = [
        name(&rig, "w2", &one.channel),
        name(&rig, "w3", &channel("two")),
    ];
    let before = [read(&rig, one).await, read(&rig, two).await];
    let worker = rig.worker().await;
    let first = ask(&rig, &request(one, &to[0])).await;
    let second = ask(&rig, &request(two, &to[1])).await;
    rig.wait_state(first, JobState::Drained).await;
    rig.wait_state(second, JobState::Drained).await;
    worker.stop().await;
    for (to, before) in to.iter().zip(&before) {
        check(&rig, to, before, &rig.old).await;
    }
}

/// A move back is a move like any other; the one that it overtakes says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moves_in_place_supersede_each_other_and_come_back() {
    // There and back at once; and a chain.
    for last in ["w1", "w3"] {
        let (rig, names) = filled().await;
        let from = &names[0];
        let (mid, end) = (
            name(&rig, "w2", &from.channel),
            name(&rig, last, &from.channel),
        );
        let before = read(&rig, from).await;
        let worker = rig.worker().await;
        let there = ask(&rig, &request(from, &mid)).await;
        activated(&rig, there).await;
        let on = ask(&rig, &request(&mid, &end)).await;
        let first = rig.wait_state(there, JobState::Drained).await;
        let second = rig.wait_state(on, JobState::Drained).await;
        assert!(second.verdict.unwrap().contains("no live message"));
        let verdict = first.verdict.unwrap();
        assert!(verdict.contains("by a later move"), "{verdict}");
        check(&rig, &end, &before, &rig.old).await;
        // And the organization is taken to another key after it all.
        let rekeyed = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
        rig.wait_state(rekeyed, JobState::Drained).await;
        worker.stop().await;
        rig.ring.disable(&rig.old).unwrap();
        check(&rig, &end, &before, &rig.new).await;
    }
}

/// A rekey, a move, and a rekey back to the first key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_after_a_rekey_and_a_rekey_back_after_it() {
    let (rig, names) = filled().await;
    let from = &names[0];
    let to = name(&rig, "w2", &channel("moved"));
    let before = read(&rig, from).await;
    let worker = rig.worker().await;
    let there = rig.enqueue(rig.request(&rig.new, Mode::Rewrap)).await;
    rig.wait_state(there, JobState::Drained).await;
    let third = third_key(&rig).await;
    let moved = ask(&rig, &request(from, &to)).await;
    activated(&rig, moved).await;
    let back = rig.enqueue(rig.request(&third, Mode::Reencrypt)).await;
    rig.wait_state(moved, JobState::Drained).await;
    rig.wait_state(back, JobState::Drained).await;
    rig.allow(&rig.old).await;
    let back = rig.enqueue(rig.request(&rig.old, Mode::Reencrypt)).await;
    rig.wait_state(back, JobState::Drained).await;
    worker.stop().await;
    rig.ring.disable(&rig.new).unwrap();
    rig.ring.disable(&third).unwrap();
    check(&rig, &to, &before, &rig.old).await;
}

/// A second copy is refused until every client follows `moved`; then the channel
/// goes on while its first place is still being swept, to another organization
/// even, and what lands late in the first place comes to the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_copies_carries_late_writes_to_its_end() {
    let (rig, names) = filled().await;
    let from = &names[0];
    let (org, cmk) = second_org(&rig, "globex").await;
    let old = view(&rig, from).await;
    let mut before = read(&rig, from).await;
    let mid = name(&rig, "w2", &channel("c2"));
    let end = ChannelName {
        org,
        ..name(&rig, "w9", &channel("c3"))
    };
    consent(&rig, &mid, &end).await;
    let hour = hours(&rig, &from.org, &from.channel).await[0];
    let worker = rig.worker().await;
    let one = request(from, &mid);
    let first = ask(&rig, &one).await;
    rig.wait(first, "mirrored", |row| row.copy.is_some()).await;
    let early = request(&mid, &end);
    ask(&rig, &early).await;
    dead_letter(&rig, "move_running").await;
    rig.wait_state(first, JobState::Draining).await;
    let two = request(&mid, &end);
    let second = ask(&rig, &two).await;
    let phase = async |wanted: CopyPhase| {
        rig.wait(second, wanted.as_str(), |row| {
            row.copy.as_ref().is_some_and(|copy| copy.phase >= wanted)
        })
        .await
    };
    let mut n = 0;
    for at in [
        CopyPhase::Announced,
        CopyPhase::Mirrored,
        CopyPhase::Switched,
        CopyPhase::Moved,
    ] {
        phase(at).await;
        n += 1;
        let record = RecordId::new(format!("late-{n}")).unwrap();
        let now = rig.book.get(&rig.org, first).await.unwrap().unwrap().row;
        if now.state != JobState::Draining {
            break;
        }
        let message = Message {
            text: at.as_str().as_bytes().to_vec(),
            write_time: WriteTime(n),
            expiry: None,
        };
        // The first move waits anew for each of them, so it is there for all.
        write(
            &rig,
            &old,
            hour,
            &record,
            &message.text,
            message.write_time,
            None,
        )
        .await;
        before.insert((hour, record), message);
    }
    let one = rig.wait_state(first, JobState::Drained).await;
    rig.wait_state(second, JobState::Drained).await;
    worker.stop().await;
    assert!(n >= 2, "the chain has overlapped");
    assert!(one.effort.finds >= 1);
    check(&rig, &end, &before, &cmk).await;
    assert_eq!(live(&rig, &old).await, 0);
    assert_eq!(live(&rig, &view(&rig, &mid).await).await, 0);
}

/// Called off before anybody reads there, everything is back where it was, with
/// what was written meanwhile, and the channel may be moved again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_called_off_without_loss_until_it_is_switched() {
    for at in [CopyPhase::Announced, CopyPhase::Mirrored] {
        let (rig, names) = filled().await;
        let from = &names[0];
        let (org, _) = second_org(&rig, "globex").await;
        let to = ChannelName {
            org,
            ..name(&rig, "w2", &channel("c2"))
        };
        consent(&rig, from, &to).await;
        let mut before = read(&rig, from).await;
        let worker = rig.worker().await;
        let a_move = request(from, &to);
        let job = ask(&rig, &a_move).await;
        rig.wait(job, at.as_str(), |row| {
            row.copy.as_ref().is_some_and(|copy| copy.phase >= at)
        })
        .await;
        // As a client does in `mirrored`: there first, and then here.
        let (source, there) = (view(&rig, from).await, view(&rig, &to).await);
        let hour = hours(&rig, &from.org, &from.channel).await[0];
        let record = RecordId::new("meanwhile").unwrap();
        let message = Message {
            text: b"meanwhile".to_vec(),
            write_time: WriteTime(77),
            expiry: None,
        };
        for place in [&there, &source] {
            write(
                &rig,
                place,
                hour,
                &record,
                &message.text,
                message.write_time,
                None,
            )
            .await;
        }
        before.insert((hour, record), message);
        let answer = rig.registry.call_off_copy(&a_move).await.unwrap();
        assert_eq!(answer, CalledOff::Yes);
        let row = rig.wait_state(job, JobState::Cancelled).await;
        let verdict = row.verdict.unwrap();
        assert!(verdict.contains("stays where it was"), "{verdict}");
        check(&rig, from, &before, &rig.old).await;
        let gone = rig.registry.route(&to.org, &to.channel).await;
        assert!(matches!(gone, Err(RegistryError::UnknownChannel { .. })));
        let route = rig.registry.route(&from.org, &from.channel).await.unwrap();
        assert!(matches!(route, Route::Here(places) if !places.are_two()));
        // Again, to the end: the key rows of the first try are in nobody's way.
        let again = request(from, &to);
        let job = ask(&rig, &again).await;
        rig.wait_state(job, JobState::Drained).await;
        let answer = rig.registry.call_off_copy(&again).await.unwrap();
        assert_eq!(answer, CalledOff::TooLate(CopyPhase::Closed));
        worker.stop().await;
        let cmk = rig.registry.org(&to.org).await.unwrap().cmk;
        check(&rig, &to, &before, &cmk).await;
    }
}

/// Calls a copy off under a rekey: when its slices are in the rekey's plan, or
/// when the first key is made for one of them. Then the rekey is kept waiting
/// until all that it knows of the channel is old.
struct CallsOff {
    registry: Registry,
    request: MoveRequest,
    new: CmkArn,
    when_planned: bool,
    done: AtomicBool,
}

impl CallsOff {
    async fn call_off(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            let answer = self.registry.call_off_copy(&self.request).await.unwrap();
            assert_eq!(answer, CalledOff::Yes);
            tokio::time::sleep(short_waits().row_age() + Duration::from_millis(50)).await;
        }
    }
}

#[async_trait::async_trait]
impl StepIn for CallsOff {
    async fn before_control(&self, table: ControlTable, write: &ControlWrite) {
        let channel = format!("\"channel\":\"{}\"", self.request.to.channel);
        let body = write.body.as_deref().unwrap_or_default();
        // The copy's own tasks are of its source until it is switched.
        let is_planned = table == ControlTable::Tasks && body.contains(&channel);
        if self.when_planned && is_planned {
            self.call_off().await;
        }
    }

    async fn before_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        let body = KeyRowBody::decode(&key.row).unwrap();
        let is_rekey = slice.group == self.request.to.channel.as_str() && body.cmk == self.new;
        if !self.when_planned && is_rekey {
            self.call_off().await;
        }
        Ok(())
    }
}

/// A rekey goes over a channel that a copy brings, and that is called off under
/// it: neither the rekey nor its worker comes to harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rekey_survives_a_destination_that_is_called_off() {
    for when_planned in [true, false] {
        let (rig, names) = filled().await;
        let from = &names[0];
        // The first in order, so that the rekey comes to it first.
        let to = name(&rig, "w2", &channel("A-first"));
        let before = read(&rig, from).await;
        let hour = hours(&rig, &from.org, &from.channel).await[1].to_string();
        let pairs = [("channel", from.channel.as_str()), ("hour", &hour)];
        // Under both CMKs, as revocations are while there is a rekey.
        let mut rule = deny(&pairs, &rig.old);
        rule.cmks.push(rig.new.clone());
        rig.ring.add_deny(rule).unwrap();
        let a_move = request(from, &to);
        let calls_off = CallsOff {
            registry: rig.registry.clone(),
            request: a_move.clone(),
            new: rig.new.clone(),
            when_planned,
            done: AtomicBool::new(false),
        };
        let store = Watched::around(rig.store.clone(), calls_off);
        let worker = rig.worker_on(store.clone()).await;
        let job = ask(&rig, &a_move).await;
        rig.wait_state(job, JobState::Blocked).await;
        let rekeyed = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
        // Though its slices wait for a key, the move notices.
        rig.wait_state(job, JobState::Cancelled).await;
        assert!(store.step_in().done.load(Ordering::Relaxed));
        rig.ring.remove_deny("revoked").unwrap();
        let row = rig.wait_state(rekeyed, JobState::Drained).await;
        worker.stop().await;
        assert!(row.verdict.unwrap().contains("may be disabled"));
        rig.ring.disable(&rig.old).unwrap();
        check(&rig, from, &before, &rig.new).await;
    }
}

async fn dead_letter(rig: &Rig, reason: &str) {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let letters = rig.queue.dead_letters(100).await.unwrap();
            if letters.iter().any(|l| l.reason.starts_with(reason)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    if found.is_err() {
        let all = rig.queue.dead_letters(100).await.unwrap();
        panic!("no dead letter says {reason}; there are {all:#?}");
    }
}

/// I15: what may not be moved is refused by the registry alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i15_a_move_without_authority_makes_no_kms_call_and_changes_nothing() {
    let (rig, names) = filled().await;
    let (org, _) = second_org(&rig, "globex").await;
    let (from, other) = (&names[0], &names[1]);
    let elsewhere = |org: &rekeyd::ids::OrgId| ChannelName {
        org: org.clone(),
        ..name(&rig, "w1", &from.channel)
    };
    let nobody = rekeyd::ids::OrgId::new("nobody").unwrap();
    let of_nobody = ChannelName {
        org: nobody.clone(),
        ..from.clone()
    };
    let to = name(&rig, "w2", &channel("moved"));
    // Of two consents one is not enough.
    let half = rekeyd::registry::ConsentRow {
        from: from.clone(),
        to: elsewhere(&org),
        expires_ms: u64::MAX / 4,
        entered_by: "test".to_owned(),
        entered_ms: 0,
    };
    rig.registry.consent_to_move(&rig.org, &half).await.unwrap();
    let cases: [(MoveRequest, &str); 6] = [
        (
            request(&name(&rig, "w1", &channel("none")), &to),
            "unknown_channel",
        ),
        (
            request(&name(&rig, "w7", &from.channel), &to),
            "wrong_workspace",
        ),
        (
            request(from, &name(&rig, "w2", &other.channel)),
            "destination_exists",
        ),
        (request(from, &elsewhere(&org)), "no_consent"),
        (request(from, &elsewhere(&nobody)), "no_consent"),
        (
            request(
                &of_nobody,
                &ChannelName {
                    org: nobody.clone(),
                    ..to.clone()
                },
            ),
            "unknown_org",
        ),
    ];
    let registry = async || {
        let orgs = [rig.org.clone(), org.clone()];
        let mut all = Vec::new();
        for org in &orgs {
            all.push((
                rig.registry.org(org).await.unwrap(),
                rig.registry.channels(org, None, 100).await.unwrap(),
            ));
        }
        all
    };
    let (before, epochs) = (registry().await, rig.epochs().await);
    let calls_before = rig.ring.log_tail(usize::MAX).unwrap().len();
    let worker = rig.worker().await;
    for (request, reason) in &cases {
        ask(&rig, request).await;
        dead_letter(&rig, reason).await;
    }
    let nowhere = JobMessage::Move(request(from, from)).to_json();
    rig.queue.send(&nowhere).await.unwrap();
    dead_letter(&rig, "bad_request").await;
    worker.stop().await;
    let calls = rig.ring.log_tail(usize::MAX).unwrap().len();
    assert_eq!(calls, calls_before, "no KMS call");
    assert_eq!(registry().await, before);
    assert_eq!(rig.epochs().await, epochs);
    assert!(
        rig.book.orgs().await.unwrap().is_empty(),
        "no job was recorded"
    );
}
