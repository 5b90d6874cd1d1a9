//! Who may move what, the batches that begin a move, and each step of it.

use super::bench::{Bench, acme, channel, other, request, workspace};
use crate::epoch::Epoch;
use crate::registry::{CalledOff, CopyPhase, Incoming, Outgoing, Refusal, RegistryError, Stepped};

#[tokio::test]
async fn i3_an_activation_takes_one_epoch_however_often_it_is_made() {
    for to in ["acme/w2/c1", "acme/w2/c9"] {
        let bench = Bench::new().await;
        let move_it = request("acme/w1/c1", to);
        let row = bench.activate(&move_it).await;
        assert_eq!(row.epoch, Epoch::new(2).unwrap());
        let after = bench.registry.org(&acme()).await.unwrap();
        assert_eq!(after.last_epoch, row.epoch);
        // Only the channel's epoch is raised.
        assert_eq!(
            (after.cell_epoch, after.wrap_epoch),
            (Epoch::FIRST, Epoch::FIRST)
        );
        let source = bench.row(&acme(), "c1").await;
        for _ in 0..2 {
            assert_eq!(bench.activate(&move_it).await, row);
            bench.registry.authorize_move(&move_it).await.unwrap();
        }
        assert_eq!(bench.registry.org(&acme()).await.unwrap(), after);
        assert_eq!(bench.row(&acme(), "c1").await, source);
        let kept = bench.registry.move_row(&acme(), move_it.job_id).await;
        assert_eq!(kept.unwrap(), Some(row));
    }
}

#[tokio::test]
async fn a_move_in_place_keeps_the_place_and_a_second_supersedes_it() {
    let bench = Bench::new().await;
    let before = bench.row(&acme(), "c1").await;
    let first = bench.activate(&request("acme/w1/c1", "acme/w2/c1")).await;
    let second = bench.activate(&request("acme/w2/c1", "acme/w1/c1")).await;
    assert!(second.epoch > first.epoch);
    let row = bench.row(&acme(), "c1").await;
    assert_eq!(row.place, before.place);
    assert_eq!(row.epoch, second.epoch);
    assert_eq!(row.workspace, workspace("w1"));
    assert_eq!(row.workspaces_had, [workspace("w1"), workspace("w2")]);
    assert_eq!((row.outgoing, row.incoming), (None, None));
}

#[tokio::test]
async fn a_copy_has_a_new_place_an_epoch_and_its_origin() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "acme/w2/c9");
    let row = bench.activate(&move_it).await;
    let (source, destination) = (
        bench.row(&acme(), "c1").await,
        bench.row(&acme(), "c9").await,
    );
    let outgoing = Outgoing {
        job: move_it.job_id,
        phase: CopyPhase::Announced,
        to: move_it.destination(),
    };
    assert_eq!(source.outgoing, Some(outgoing));
    assert_eq!(source.epoch, Epoch::ZERO);
    let incoming = Incoming {
        job: move_it.job_id,
        org: acme(),
        channel: channel("c1"),
    };
    assert_eq!(destination.incoming, Some(incoming));
    assert_eq!(destination.epoch, row.epoch);
    assert_eq!(destination.place, row.place);
    assert_ne!(destination.place, source.place);
    assert_eq!(destination.came_from[0].place, source.place);
    assert_eq!(destination.came_from[0].from, move_it.source());
}

fn code(refusal: &Refusal) -> String {
    let text = refusal.to_string();
    text.split(':').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn i15_what_may_not_be_moved_is_refused_and_nothing_is_changed() {
    let bench = Bench::new().await;
    let entered = bench
        .registry
        .ensure_channel(&acme(), &workspace("w1"), &channel("busy"))
        .await;
    entered.unwrap();
    let unchanged = (
        bench.registry.org(&acme()).await.unwrap(),
        bench.registry.org(&other()).await.unwrap(),
        bench.row(&acme(), "c1").await,
    );
    for (from, to, expected) in [
        ("nobody/w1/c1", "nobody/w2/c1", "unknown_org"),
        ("acme/w1/nothing", "acme/w2/nothing", "unknown_channel"),
        ("acme/w1/nothing", "acme/w2/c9", "unknown_channel"),
        ("acme/w2/c1", "acme/w3/c1", "wrong_workspace"),
        ("acme/w2/c1", "acme/w2/c9", "wrong_workspace"),
        ("acme/w1/c1", "acme/w1/busy", "destination_exists"),
        ("acme/w1/c1", "other/w1/c1", "no_consent"),
        // Consent is asked before anything else is told.
        ("acme/w1/c1", "nobody/w1/c1", "no_consent"),
        ("acme/w1/nothing", "other/w1/c1", "no_consent"),
    ] {
        let refusal = bench.refused(&request(from, to)).await;
        assert_eq!(code(&refusal), expected, "{from} -> {to}");
    }
    assert_eq!(bench.registry.org(&acme()).await.unwrap(), unchanged.0);
    assert_eq!(bench.registry.org(&other()).await.unwrap(), unchanged.1);
    assert_eq!(bench.row(&acme(), "c1").await, unchanged.2);
    let no_such = bench.registry.view(&acme(), &channel("c9")).await;
    assert!(matches!(no_such, Err(RegistryError::UnknownChannel { .. })));
}

#[tokio::test]
async fn i15_both_organizations_consent_to_this_very_move_and_in_time() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "other/w2/c9");
    let lacks = async |org: &str| match bench.refused(&move_it).await {
        Refusal::NoConsent { org: lacking, .. } => assert_eq!(lacking.as_str(), org),
        other => panic!("{other}"),
    };
    lacks("acme").await;
    bench.consent(&acme(), &move_it, 1000).await;
    lacks("other").await;
    // To another workspace, and for the way back: not the same.
    bench
        .consent(&other(), &request("acme/w1/c1", "other/w3/c9"), 1000)
        .await;
    bench
        .consent(&other(), &request("other/w2/c9", "acme/w1/c1"), 1000)
        .await;
    lacks("other").await;
    bench.consent(&other(), &move_it, 500).await;
    bench.registry.authorize_move(&move_it).await.unwrap();
    bench.clock.advance(std::time::Duration::from_millis(500));
    lacks("other").await;
    bench.consent(&other(), &move_it, 500).await;
    let row = bench.activate(&move_it).await;
    // Once it has begun, the consent is not asked for again.
    bench.clock.advance(std::time::Duration::from_secs(5));
    assert_eq!(bench.activate(&move_it).await, row);
    assert_eq!(bench.registry.consents(&acme()).await.unwrap().len(), 1);
    assert_eq!(bench.registry.consents(&other()).await.unwrap().len(), 2);
}

/// The epoch and the CMK are the destination's. A driver that dies between the
/// two batches is followed by one that finds the first and makes the second.
#[tokio::test]
async fn a_death_between_the_batches_of_two_organizations_is_gone_on_from() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "other/w2/c9");
    for org in [acme(), other()] {
        bench.consent(&org, &move_it, 1000).await;
    }
    // It is still mine for the destination's batch and no more for the source's.
    let asked = std::cell::Cell::new(0);
    let died = bench
        .registry
        .activate_move(&move_it, || {
            asked.set(asked.get() + 1);
            asked.get() == 1
        })
        .await;
    assert!(matches!(died, Err(RegistryError::NotMine(job)) if job == move_it.job_id));
    let entered = bench.row(&other(), "c9").await;
    assert_eq!(bench.row(&acme(), "c1").await.outgoing, None);
    // Meanwhile the channel works where it is, and the name is taken.
    let second = request("acme/w1/c1", "other/w2/c9");
    for org in [acme(), other()] {
        bench.consent(&org, &second, 1000).await;
    }
    assert_eq!(code(&bench.refused(&second).await), "destination_exists");

    bench.clock.advance(std::time::Duration::from_secs(60));
    let row = bench.activate(&move_it).await;
    assert_eq!(bench.row(&other(), "c9").await, entered);
    assert_eq!((row.epoch, &row.place), (entered.epoch, &entered.place));
    let theirs = bench.registry.org(&other()).await.unwrap();
    let ours = bench.registry.org(&acme()).await.unwrap();
    assert_eq!((row.epoch, &row.cmk), (theirs.last_epoch, &theirs.cmk));
    assert_eq!(ours.last_epoch, Epoch::FIRST);
    for org in [acme(), other()] {
        let kept = bench.registry.move_row(&org, move_it.job_id).await;
        assert_eq!(kept.unwrap().as_ref(), Some(&row));
    }
}

#[tokio::test]
async fn a_destination_that_was_never_announced_is_taken_back() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "other/w2/c9");
    for org in [acme(), other()] {
        bench.consent(&org, &move_it, 1000).await;
    }
    let asked = std::cell::Cell::new(0);
    let died = bench
        .registry
        .activate_move(&move_it, || {
            asked.set(asked.get() + 1);
            asked.get() == 1
        })
        .await;
    assert!(died.is_err());
    let called_off = bench.registry.call_off_copy(&move_it).await;
    assert_eq!(called_off.unwrap(), CalledOff::Yes);
    let gone = bench.registry.view(&other(), &channel("c9")).await;
    assert!(matches!(gone, Err(RegistryError::UnknownChannel { .. })));
}

#[tokio::test]
async fn a_second_copy_waits_until_the_first_has_settled() {
    let bench = Bench::new().await;
    let first = request("acme/w1/c1", "acme/w2/c2");
    let away = request("acme/w1/c1", "acme/w2/c3");
    let in_place = request("acme/w1/c1", "acme/w3/c1");
    let on = request("acme/w2/c2", "acme/w2/c3");
    bench.activate(&first).await;
    for phase in [
        CopyPhase::Announced,
        CopyPhase::Mirrored,
        CopyPhase::Switched,
    ] {
        bench.advance(&first, phase).await;
        for other in [&away, &in_place, &on] {
            match bench.refused(other).await {
                Refusal::MoveRunning { job, .. } => assert_eq!(job, first.job_id, "{phase}"),
                refusal => panic!("{phase}: {refusal}"),
            }
        }
    }
    bench.advance(&first, CopyPhase::Moved).await;
    assert_eq!(code(&bench.refused(&away).await), "moved_away");
    assert_eq!(code(&bench.refused(&on).await), "move_running");
    bench.registry.release_destination(&first).await.unwrap();
    bench.registry.release_destination(&first).await.unwrap();
    bench.registry.authorize_move(&on).await.unwrap();
    // The old name is not free before it is empty.
    let back = request("acme/w2/c2", "acme/w1/c1");
    assert_eq!(code(&bench.refused(&back).await), "destination_exists");
    bench.advance(&first, CopyPhase::Closed).await;
    bench.registry.authorize_move(&back).await.unwrap();
    assert_eq!(code(&bench.refused(&away).await), "moved_away");
}

#[tokio::test]
async fn a_step_is_made_once_and_never_back() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "acme/w2/c9");
    assert_eq!(bench.registry.copy_phase(&move_it).await.unwrap(), None);
    bench.activate(&move_it).await;
    bench.advance(&move_it, CopyPhase::Switched).await;
    bench.advance(&move_it, CopyPhase::Mirrored).await;
    let phase = bench.registry.copy_phase(&move_it).await;
    assert_eq!(phase.unwrap(), Some(CopyPhase::Switched));
    let frozen = bench
        .registry
        .advance_copy(&move_it, CopyPhase::Moved, || false)
        .await;
    assert!(matches!(frozen, Err(RegistryError::NotMine(_))));
    let stranger = request("acme/w1/c1", "acme/w2/c9");
    let stepped = bench
        .registry
        .advance_copy(&stranger, CopyPhase::Moved, || true)
        .await;
    assert_eq!(stepped.unwrap(), Stepped::CalledOff);
    let phase = bench.registry.copy_phase(&move_it).await;
    assert_eq!(phase.unwrap(), Some(CopyPhase::Switched));
}

#[tokio::test]
async fn a_copy_is_called_off_before_it_is_read_from_and_not_after() {
    for phase in CopyPhase::ALL {
        let bench = Bench::new().await;
        let before = bench.row(&acme(), "c1").await;
        let move_it = request("acme/w1/c1", "acme/w2/c9");
        bench.copied_to(&move_it, phase).await;
        for _ in 0..2 {
            let result = bench.registry.call_off_copy(&move_it).await.unwrap();
            if phase.may_be_cancelled() {
                assert_eq!(result, CalledOff::Yes);
                assert_eq!(bench.row(&acme(), "c1").await, before);
                let gone = bench.registry.view(&acme(), &channel("c9")).await;
                assert!(gone.is_err(), "{phase}");
            } else {
                assert_eq!(result, CalledOff::TooLate(phase));
                assert!(bench.row(&acme(), "c9").await.came_from.len() == 1);
            }
        }
        if phase.may_be_cancelled() {
            let stepped = bench
                .registry
                .advance_copy(&move_it, CopyPhase::Switched, || true)
                .await;
            assert_eq!(stepped.unwrap(), Stepped::CalledOff);
            // The epoch stays spent, and the next copy gets another place.
            let again = bench.activate(&request("acme/w1/c1", "acme/w2/c9")).await;
            assert_eq!(again.epoch, Epoch::new(3).unwrap());
        }
    }
}

#[tokio::test]
async fn release_and_call_off_touch_only_their_own_copy() {
    let bench = Bench::new().await;
    let move_it = request("acme/w1/c1", "acme/w2/c9");
    bench.copied_to(&move_it, CopyPhase::Mirrored).await;
    let rows = (
        bench.row(&acme(), "c1").await,
        bench.row(&acme(), "c9").await,
    );
    let stranger = request("acme/w1/c1", "acme/w2/c9");
    bench.registry.release_destination(&stranger).await.unwrap();
    let called_off = bench.registry.call_off_copy(&stranger).await;
    assert_eq!(called_off.unwrap(), CalledOff::Yes);
    assert_eq!(bench.row(&acme(), "c1").await, rows.0);
    assert_eq!(bench.row(&acme(), "c9").await, rows.1);
}

#[tokio::test]
async fn the_last_epoch_is_not_given_out() {
    let bench = Bench::new().await;
    let mut spent = bench.registry.org(&acme()).await.unwrap();
    while let Some(next) = spent.last_epoch.next() {
        spent.last_epoch = next;
    }
    bench.put_org(&acme(), &spent).await;
    for to in ["acme/w2/c1", "acme/w2/c9"] {
        let refused = bench
            .registry
            .activate_move(&request("acme/w1/c1", to), || true)
            .await;
        match refused {
            Err(RegistryError::Refused(refusal)) => assert_eq!(code(&refusal), "epoch_exhausted"),
            other => panic!("{other:?}"),
        }
    }
}
