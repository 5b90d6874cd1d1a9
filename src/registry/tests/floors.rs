//! Floors rise, and not while a late write may still be carried over.

use super::bench::{Bench, acme, channel, other, request};
use crate::epoch::Epoch;
use crate::ids::JobId;
use crate::job::Mode;
use crate::registry::{CopyPhase, Raised, RegistryError, RestoreWindow};

fn epoch(n: u32) -> Epoch {
    Epoch::new(n).unwrap()
}

async fn floors(b: &Bench) -> (u32, u32) {
    let row = b.registry.org(&acme()).await.unwrap();
    (row.cell_floor.get(), row.wrap_floor.get())
}

async fn raise(b: &Bench, mode: Mode, n: u32) -> Raised {
    let raised = b
        .registry
        .raise_floors(&acme(), JobId::random(), (mode, epoch(n)), || true)
        .await;
    raised.unwrap()
}

#[tokio::test]
async fn they_only_rise_and_only_for_who_drives_the_job() {
    let b = Bench::new().await;
    assert_eq!(raise(&b, Mode::Rewrap, 3).await, Raised::Yes);
    assert_eq!(floors(&b).await, (0, 3));
    assert_eq!(raise(&b, Mode::Reencrypt, 2).await, Raised::Yes);
    assert_eq!(floors(&b).await, (2, 3));
    let job = JobId::random();
    let by_another = b
        .registry
        .raise_floors(&acme(), job, (Mode::Reencrypt, epoch(9)), || false)
        .await;
    assert!(matches!(by_another, Err(RegistryError::NotMine(id)) if id == job));
    assert_eq!(floors(&b).await, (2, 3));
}

#[tokio::test]
async fn they_wait_for_every_copy_of_the_organization_to_be_closed() {
    let b = Bench::new().await;
    let away = request("acme/w1/c1", "acme/w2/c2");
    let row = b.copied_to(&away, CopyPhase::Moved).await;
    let to_be = Raised::CopyUnderWay(channel("c1"));
    assert_eq!(raise(&b, Mode::Reencrypt, 5).await, to_be);
    let (org, c2) = (acme(), channel("c2"));
    let of_channel = async || {
        let raised = b
            .registry
            .raise_channel_floor((&org, &c2), away.job_id, row.epoch, || true)
            .await;
        raised.unwrap()
    };
    assert_eq!(of_channel().await, Raised::CopyUnderWay(channel("c2")));
    assert_eq!(floors(&b).await, (0, 0));

    b.registry.release_destination(&away).await.unwrap();
    b.advance(&away, CopyPhase::Closed).await;
    assert_eq!(of_channel().await, Raised::Yes);
    assert_eq!(b.row(&acme(), "c2").await.floor, row.epoch);
    assert_eq!(raise(&b, Mode::Reencrypt, 5).await, Raised::Yes);
    assert_eq!(floors(&b).await, (5, 5));
}

#[tokio::test]
async fn they_wait_for_copies_that_come_from_another_organization_too() {
    let b = Bench::new().await;
    // A channel goes to another organization and comes back under another id.
    let there = request("acme/w1/c1", "other/w1/c9");
    b.consent(&acme(), &there, 60_000).await;
    b.consent(&other(), &there, 60_000).await;
    b.copied_to(&there, CopyPhase::Moved).await;
    b.registry.release_destination(&there).await.unwrap();
    let back = request("other/w1/c9", "acme/w1/c3");
    b.consent(&acme(), &back, 60_000).await;
    b.consent(&other(), &back, 60_000).await;
    b.copied_to(&back, CopyPhase::Moved).await;
    b.registry.release_destination(&back).await.unwrap();
    assert_ne!(raise(&b, Mode::Reencrypt, 5).await, Raised::Yes);
    b.advance(&there, CopyPhase::Closed).await;
    // c3 was brought by a copy that is not closed.
    let waits = Raised::CopyUnderWay(channel("c3"));
    assert_eq!(raise(&b, Mode::Reencrypt, 5).await, waits);
    b.advance(&back, CopyPhase::Closed).await;
    assert_eq!(raise(&b, Mode::Reencrypt, 5).await, Raised::Yes);
}

/// What readers accept is no part of what should be: a write goes on by a view of
/// before.
#[tokio::test]
async fn a_floor_or_a_window_makes_no_view_another() {
    let b = Bench::new().await;
    let view = async || b.registry.view(&acme(), &channel("c1")).await.unwrap();
    let before = view().await;
    assert_eq!(raise(&b, Mode::Reencrypt, 1).await, Raised::Yes);
    let job = JobId::random();
    let raised = b
        .registry
        .raise_channel_floor((&acme(), &channel("c1")), job, epoch(1), || true)
        .await;
    assert_eq!(raised.unwrap(), Raised::Yes);
    let window = RestoreWindow {
        floor: Epoch::ZERO,
        opened_by: "test".to_owned(),
        opened_ms: 1,
        reason: "a backup".to_owned(),
    };
    b.registry
        .open_restore_window(&acme(), &window)
        .await
        .unwrap();
    let after = view().await;
    assert_ne!(before.floor(), after.org_row.cell_floor);
    assert!(after.agrees_with(&before));
    let mut moved = after.clone();
    moved.channel_row.epoch = epoch(2);
    assert!(!moved.agrees_with(&after));
    let mut rekeyed = after.clone();
    rekeyed.org_row.wrap_epoch = epoch(2);
    assert!(!rekeyed.agrees_with(&after));
}
