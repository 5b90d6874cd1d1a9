//! What of a rekey's old keys is set aside and for how long, and who cannot get at
//! it: the rules around `retire`, on the embedded parts only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rekeyd::clock::{FakeClock, SharedClock};
use rekeyd::crypto::KeyId;
use rekeyd::epoch::Epoch;
use rekeyd::ids::ChannelId;
use rekeyd::job::{AsideSoFar, JobState, Mode, RetireCounts};
use rekeyd::kms::local::{DenyRule, Permission};
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::registry::RestoreWindow;
use rekeyd::retire::{NotNow, Retire, RetireError};
use rekeyd::store::{
    Applied, ControlTable, ControlWrite, Expect, SliceKey, StoreError, StoreErrorClass, StoreResult,
};

use crate::holding::{ask, name, request};
use crate::retire::{
    PutBack, SLICES, TEXT, comes_back, delete, drained, filled, keys, opened, retire, slices,
};
use crate::watched::{StepIn, Watched};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_revoked_do_not_hold_the_job_and_stay_where_they_are() {
    let (rig, ..) = filled().await;
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait(job, "the drain", |row| row.state >= JobState::Verified)
        .await;
    // The first verdict says when it may be disabled, and somebody is too early.
    rig.ring.disable(&rig.old).unwrap();
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let aside = row.set_aside.unwrap();
    let expected = BTreeMap::from([("cmk_disabled".to_owned(), SLICES + 1)]);
    assert_eq!((aside.keys, aside.refused), (0, expected));
    assert!(row.why.contains("could not be set aside"), "{}", row.why);
    assert!(row.verdict.unwrap().contains("it may be disabled"));

    let retire = retire(&rig, job, Mode::Reencrypt).await;
    let survey = retire.survey().await.unwrap();
    assert_eq!(survey.counts, RetireCounts::default());
    assert_eq!(survey.kept.not_set_aside, SLICES + 1);
    let nothing = delete(&rig, &retire).await.unwrap();
    assert_eq!(nothing, RetireCounts::default());
    for slice in slices(&rig).await {
        let rows = keys(&rig, &slice).await;
        assert!(rows.iter().any(|row| row.wrap_epoch == Epoch::FIRST));
    }
}

/// A store that fails every other delete, or all of them.
struct Away {
    deletes: AtomicU64,
    for_good: bool,
}

#[async_trait::async_trait]
impl StepIn for Away {
    async fn before_key_goes(&self, _: &SliceKey, _: KeyId) -> StoreResult<()> {
        let n = self.deletes.fetch_add(1, Ordering::Relaxed);
        match self.for_good || n.is_multiple_of(2) {
            true => Err(StoreError::new(StoreErrorClass::Transient, "away")),
            false => Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retire_is_patient_with_a_store_that_is_away() {
    let (rig, ..) = filled().await;
    let job = drained(&rig, Mode::Reencrypt).await;
    let why = Use::new(ReasonCode::Retire, "test");
    // Away for good: tried again for a while by its clock, said once, then given up.
    for for_good in [true, false] {
        let deletes = AtomicU64::new(0);
        let store = Watched::around(rig.store.clone(), Away { deletes, for_good });
        let fake = FakeClock::at(rig.clock.wall());
        let clock: SharedClock = fake.clone();
        let at = (
            (rig.org.clone(), job),
            (Mode::Reencrypt, Epoch::new(2).unwrap()),
        );
        let retire = Retire::new(store.clone(), clock, at.0, at.1).await.unwrap();
        let found = retire.survey().await.unwrap().counts;
        let said = AtomicU64::new(0);
        let hear = |_: &RetireError| {
            said.fetch_add(1, Ordering::Relaxed);
        };
        let deleting = retire.delete(100_000, &rig.audit, &why, hear);
        let passing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                fake.advance(Duration::from_secs(1));
            }
        };
        let ended = tokio::select! {
            ended = deleting => ended,
            () = passing => unreachable!(),
        };
        let said = said.load(Ordering::Relaxed);
        match for_good {
            true => {
                assert!(matches!(ended, Err(RetireError::Store(_))), "{ended:?}");
                assert_eq!((said, retire.gone()), (1, 0));
                let tries = store.step_in().deletes.load(Ordering::Relaxed);
                assert!(tries > 5, "{tries}");
            }
            false => {
                assert_eq!(ended.unwrap(), found, "counted once");
                assert_eq!(retire.gone(), found.rows());
                assert!(said > 0);
            }
        }
    }
}

/// How far it is can be seen while it goes on. What a worker that died had saved of
/// a channel is for those who look: the channel is not done for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setting_aside_shows_how_far_it_is_and_half_a_channel_is_not_done() {
    let (rig, slice, _) = filled().await;
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait(job, "the proof", |row| row.state >= JobState::Verified)
        .await;
    assert_eq!(rig.book.aside_so_far(job).await.unwrap(), None);
    let half = ControlWrite {
        id: format!("channel/{}", slice.channel),
        expect: Expect::Absent,
        body: Some(r#"{"done":false,"keys":0,"kms_calls":3}"#.to_owned()),
    };
    let (table, partition) = (ControlTable::SetAside, job.to_string());
    let applied = rig.store.control_apply(table, &partition, &[half]).await;
    assert_eq!(applied.unwrap(), Applied::Yes);
    // The slice with two keys is done later than the others.
    rig.ring.set_latency_ms(1500).unwrap();
    let mut seen = Vec::new();
    rig.wait(job, "keys that are set aside", |row| {
        row.state == JobState::Draining
    })
    .await;
    loop {
        let so_far = rig.book.aside_so_far(job).await.unwrap();
        seen.extend(so_far.filter(|so_far| seen.last() != Some(so_far)));
        let row = rig.wait(job, "any state", |_| true).await;
        if row.state == JobState::Drained {
            let aside = row.set_aside.unwrap();
            assert_eq!((aside.keys, aside.refused_keys()), (SLICES + 1, 0));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    worker.stop().await;
    let channels = rig.registry.count_channels(&rig.org).await.unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.keys, last.channels_done), (SLICES + 1, channels));
    let half = |so_far: &&AsideSoFar| so_far.keys > 0 && so_far.channels_done == 0;
    assert!(seen.iter().any(|so_far| half(&so_far)), "{seen:?}");
    assert!(seen.is_sorted_by_key(|so_far| so_far.keys), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_while_readers_may_need_it() {
    let (rig, ..) = filled().await;
    let job = drained(&rig, Mode::Reencrypt).await;
    let retire = retire(&rig, job, Mode::Reencrypt).await;
    let window = RestoreWindow {
        floor: Epoch::ZERO,
        opened_by: "test".to_owned(),
        opened_ms: 1,
        reason: "a backup".to_owned(),
    };
    let open = rig.registry.open_restore_window(&rig.org, &window);
    open.await.unwrap();
    assert_eq!(retire.may_go().await.unwrap(), Err(NotNow::Window));
    let refused = delete(&rig, &retire).await;
    assert!(matches!(refused, Err(RetireError::NotNow(NotNow::Window))));
    rig.registry.close_restore_window(&rig.org).await.unwrap();
    assert_eq!(retire.may_go().await.unwrap(), Ok(()));
    // An epoch that the floors have not come to: a copy was under way.
    let later = Retire::new(
        rig.store.clone(),
        rig.clock.clone(),
        (rig.org.clone(), job),
        (Mode::Reencrypt, Epoch::new(3).unwrap()),
    );
    let later = later.await.unwrap().may_go().await.unwrap();
    assert_eq!(later, Err(NotNow::Floors));
    for slice in slices(&rig).await {
        let rows = keys(&rig, &slice).await;
        assert!(rows.iter().any(|row| row.wrap_epoch == Epoch::FIRST));
    }
}

/// As `i10_what_comes_back_after_a_retire`, of what a rewrap has set aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_rewrap_set_aside_comes_back_by_either_mode() {
    for second in [Mode::Rewrap, Mode::Reencrypt] {
        comes_back(Mode::Rewrap, second).await;
    }
}

/// Without a window for a backup, or with one that begins later, what comes back was
/// rolled back. That its key was set aside makes no difference, whatever the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_back_without_a_window_stays_shut() {
    let second = Epoch::new(2).unwrap();
    // A rewrap's proof, which looks at key rows alone, has the last word.
    for (mode, window, by_rewrap, by_reencrypt) in [
        (Mode::Rewrap, None, "key_row_missing", "key_row_missing"),
        (
            Mode::Rewrap,
            Some(second),
            "key_row_missing",
            "wrap_below_floor",
        ),
        (
            Mode::Reencrypt,
            None,
            "epoch_below_floor",
            "epoch_below_floor",
        ),
    ] {
        let back = PutBack::with(mode, window).await;
        let rig = &back.rig;
        let third = back.third().await;
        let worker = rig.worker().await;
        let fourth = back.third().await;
        for (again, to, code) in [
            (Mode::Rewrap, third, by_rewrap),
            (Mode::Reencrypt, fourth, by_reencrypt),
        ] {
            let job = rig.enqueue(rig.request(&to, again)).await;
            let left = back.left(job, JobState::Blocked).await;
            assert_eq!(left, [code], "{mode:?} {window:?} {again:?}");
        }
        worker.stop().await;
        assert!(back.read().await.is_err());
    }
}

/// A move gives a message another scope. What opens without its hour must not be
/// the way to that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_does_not_open_what_was_sealed() {
    // What a copy cannot open is left behind and said.
    for (workspace, channel, end) in [
        ("w2", None, JobState::Blocked),
        ("w3", Some("elsewhere"), JobState::Drained),
    ] {
        let back = PutBack::after(Mode::Reencrypt).await;
        let rig = &back.rig;
        let to = channel.map_or(back.channel.clone(), |c| ChannelId::new(c).unwrap());
        let (from, to) = (name(rig, "w1", &back.channel), name(rig, workspace, &to));
        let worker = rig.worker().await;
        let job = ask(rig, &request(&from, &to)).await;
        assert_eq!(back.left(job, end).await, ["key_row_missing"], "{to}");
        worker.stop().await;
    }
}

/// A rewrap may not decrypt, so it cannot open what a re-encryption sealed. It says
/// what is missing, and the verdict is not good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrap_leaves_what_only_a_reencryption_can_bring_back() {
    let back = PutBack::after(Mode::Reencrypt).await;
    let rig = &back.rig;
    let third = back.third().await;
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&third, Mode::Rewrap)).await;
    let row = rig.wait_state(job, JobState::Blocked).await;
    assert!(row.verdict.unwrap().contains("must not be disabled"));
    let left = back.left(job, JobState::Blocked).await;
    assert_eq!(left, ["key_row_missing"]);
    assert_eq!(back.wrong().await, ["key_row_missing"]);
    let next = back.third().await;
    let job = rig.enqueue(rig.request(&next, Mode::Reencrypt)).await;
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(back.read().await.as_deref(), Ok(TEXT));
}

/// Revoking works on this way as on any other: on the key that it is sealed with
/// (the channel), and on the key that the new cell needs (the hour).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_does_not_come_back_by_what_was_set_aside() {
    for (key, value) in [("kind", "set_aside"), ("hour", "2017-07-14T02")] {
        let back = PutBack::after(Mode::Reencrypt).await;
        let rig = &back.rig;
        let third = back.third().await;
        let rule = DenyRule {
            id: "revoked".to_owned(),
            cmks: Vec::new(),
            permissions: vec![Permission::Decrypt, Permission::GenerateDataKey],
            context: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            callers: Vec::new(),
            reason: "the customer said so".to_owned(),
        };
        rig.ring.add_deny(rule).unwrap();
        let worker = rig.worker().await;
        let job = rig.enqueue(rig.request(&third, Mode::Reencrypt)).await;
        let row = rig.wait_state(job, JobState::Blocked).await;
        assert_eq!(row.blocked_slices, 1, "{key}");
        assert_eq!(back.read().await, Err("key_row_missing"), "{key}");
        rig.ring.remove_deny("revoked").unwrap();
        rig.wait_state(job, JobState::Drained).await;
        worker.stop().await;
        assert_eq!(back.read().await.as_deref(), Ok(TEXT), "{key}");
    }
}

/// The time of what was set aside is over: workers delete it, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_is_deleted_when_its_time_is_over() {
    let (mut rig, slice, unnamed) = filled().await;
    rig.config.retire.set_aside_s = 0;
    let job = drained(&rig, Mode::Reencrypt).await;
    assert!(opened(&rig, job, &slice, unnamed).await.is_some());
    let worker = rig.worker().await;
    let gone = async {
        while opened(&rig, job, &slice, unnamed).await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::rig::PATIENCE, gone)
        .await
        .unwrap();
    worker.stop().await;
    let rows = keys(&rig, &slice).await;
    assert!(
        rows.iter().any(|row| row.key_id == unnamed),
        "key rows stay"
    );
    // A retire finds nothing set aside, and leaves what only the old CMK opens.
    let retire = retire(&rig, job, Mode::Reencrypt).await;
    let survey = retire.survey().await.unwrap();
    assert_eq!(survey.counts, RetireCounts::default());
    assert!(survey.kept.not_set_aside > 0);
}
