//! How the client follows a rekey.

use super::bench::{Bench, channel_of, header, hour, record, s, why};
use crate::client::{Lifetime, ReasonCode};
use crate::job::Mode;

const READ: ReasonCode = ReasonCode::MessageRead;
const WRITE: ReasonCode = ReasonCode::MessageWrite;

async fn write(bench: &Bench, name: &str) {
    bench
        .c1()
        .write(hour(0), &record(name), b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
}

async fn epoch_of(bench: &Bench, name: &str) -> u32 {
    header(&bench.stored("c1", hour(0), &record(name)).await).0
}

#[tokio::test]
async fn an_activation_is_followed_within_the_status_time() {
    let bench = Bench::new().await;
    write(&bench, "1").await;
    bench.activate(Mode::Reencrypt).await;
    bench.clock.advance(s(59));
    write(&bench, "2").await;
    assert_eq!(epoch_of(&bench, "2").await, 1);
    bench.clock.advance(s(1));
    write(&bench, "3").await;
    assert_eq!(epoch_of(&bench, "3").await, 2);
    for name in ["1", "2", "3"] {
        let read = bench
            .c1()
            .read(hour(0), &record(name), &why(READ))
            .await
            .unwrap();
        assert_eq!(read.unwrap().text(), b"x");
    }
}

#[tokio::test]
async fn a_key_that_was_only_rewrapped_does_not_seal_the_next_generation() {
    let bench = Bench::new().await;
    write(&bench, "old").await;
    let old = bench.rows("c1", hour(0)).await[0].clone();
    bench.activate(Mode::Reencrypt).await;
    bench.rewrap("c1", hour(0), &old, 2).await;
    bench.clock.advance(s(60));
    write(&bench, "new").await;
    let (epoch, key_id) = header(&bench.stored("c1", hour(0), &record("new")).await);
    assert_eq!(epoch, 2);
    assert_ne!(key_id, old.key_id());
    // The old one still opens what it sealed, by its new wrap.
    bench.admin.disable(&bench.a).unwrap();
    let c1 = channel_of(&bench.other_client().await, "c1");
    let read = c1.read(hour(0), &record("old"), &why(READ)).await.unwrap();
    assert_eq!(read.unwrap().text(), b"x");
}

#[tokio::test]
async fn after_a_rewrap_the_same_key_goes_on_sealing() {
    let bench = Bench::new().await;
    write(&bench, "1").await;
    let old = bench.rows("c1", hour(0)).await[0].clone();
    bench.activate(Mode::Rewrap).await;
    bench.rewrap("c1", hour(0), &old, 2).await;
    bench.clock.advance(s(60));
    write(&bench, "2").await;
    let (epoch, key_id) = header(&bench.stored("c1", hour(0), &record("2")).await);
    assert_eq!((epoch, key_id), (1, old.key_id()));
    assert_eq!(bench.counts().generated, 1);
}

/// The old CMK is shut while this client still goes by the old view.
#[tokio::test]
async fn a_cmk_that_was_left_and_shut_does_not_stop_writers() {
    let bench = Bench::new().await;
    write(&bench, "1").await;
    bench.activate(Mode::Reencrypt).await;
    bench.admin.disable(&bench.a).unwrap();
    let hour = hour(5);
    let c1 = bench.c1();
    let r = record("2");
    c1.write(hour, &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    assert_eq!(header(&bench.stored("c1", hour, &r).await).0, 2);
}

/// Another client knows of the activation already: its cells are above the
/// newest epoch of this one's view. One fresh look at the registry, not a
/// quarantine.
#[tokio::test]
async fn an_epoch_above_the_view_is_looked_up_before_it_is_refused() {
    let bench = Bench::new().await;
    write(&bench, "1").await;
    bench.activate(Mode::Reencrypt).await;
    let other = channel_of(&bench.other_client().await, "c1");
    let r = record("2");
    other
        .write(hour(0), &r, b"new", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    assert_eq!(epoch_of(&bench, "2").await, 2);
    let before = bench.counts().views;
    let read = bench.c1().read(hour(0), &r, &why(READ)).await.unwrap();
    assert_eq!(read.unwrap().text(), b"new");
    assert_eq!(bench.counts().views, before + 1);
}
