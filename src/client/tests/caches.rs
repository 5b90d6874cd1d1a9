//! What a revocation means, to the second; what is remembered and for how long.

use super::bench::{Bench, channel_of, hour, record, s, slice, why};
use crate::client::{Channel, ErrorClass, Lifetime, ReasonCode};
use crate::clock::{Clock, WriteTime};
use crate::store::CellWrite;

const READ: ReasonCode = ReasonCode::MessageRead;
const WRITE: ReasonCode = ReasonCode::MessageWrite;

async fn write(channel: &Channel, n: u64, name: &str) {
    channel
        .write(hour(n), &record(name), b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
}

/// `ok`, or the code of the refusal.
async fn try_read(channel: &Channel, n: u64, name: &str) -> &'static str {
    match channel.read(hour(n), &record(name), &why(READ)).await {
        Ok(Some(_)) => "ok",
        Ok(None) => "absent",
        Err(error) => error.code(),
    }
}

async fn try_write(channel: &Channel, n: u64) -> &'static str {
    let lifetime = Lifetime::Lasting;
    match channel
        .write(hour(n), &record("w"), b"w", lifetime, &why(WRITE))
        .await
    {
        Ok(_) => "ok",
        Err(error) => {
            assert_eq!(error.perhaps_written, None);
            error.code()
        }
    }
}

#[tokio::test]
async fn a_revocation_is_complete_after_300_s_and_lifted_after_60() {
    let bench = Bench::new().await;
    let (c1, c2) = (bench.c1(), bench.c2());
    write(&c1, 0, "m").await;
    write(&c2, 0, "m").await;
    bench.deny("c1");
    bench.clock.advance(s(299));
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
    assert_eq!(try_write(&c1, 0).await, "ok");

    bench.clock.advance(s(1));
    assert_eq!(try_read(&c1, 0, "m").await, "revoked");
    assert_eq!(try_write(&c1, 0).await, "revoked");
    assert_eq!(try_read(&c2, 0, "m").await, "ok");
    let calls = bench.counts();
    bench.clock.advance(s(59));
    bench.allow_again();
    assert_eq!(try_read(&c1, 0, "m").await, "revoked");
    // A revoked scope is not asked about again and again.
    assert_eq!(bench.counts().decrypted, calls.decrypted);
    assert_eq!(bench.counts().generated, calls.generated);

    bench.clock.advance(s(1));
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
    assert_eq!(try_write(&c1, 0).await, "ok");
}

#[tokio::test]
async fn use_does_not_lengthen_a_keys_life() {
    let bench = Bench::new().await;
    let c1 = bench.c1();
    write(&c1, 0, "m").await;
    for _ in 0..5 {
        bench.clock.advance(s(59));
        assert_eq!(try_read(&c1, 0, "m").await, "ok");
    }
    assert_eq!(bench.counts().decrypted, 0);
    bench.clock.advance(s(5));
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
    assert_eq!(bench.counts().decrypted, 1);
}

#[tokio::test]
async fn a_keys_life_begins_with_the_call_and_not_with_the_answer() {
    let bench = Bench::new().await;
    write(&bench.c1(), 0, "m").await;
    let c1 = channel_of(&bench.other_client().await, "c1");
    let clock = bench.clock.clone();
    *bench.taps.in_kms.lock().unwrap() = Some(Box::new(move || {
        Box::pin(async move {
            clock.advance(s(200));
            Ok(())
        })
    }));
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
    bench.clock.advance(s(100));
    bench.deny("c1");
    assert_eq!(try_read(&c1, 0, "m").await, "revoked");
}

/// Two keys in one slice, one of them held. The refusal of the other is a
/// refusal of the scope: the held one goes at once.
#[tokio::test]
async fn a_refusal_drops_the_scopes_keys_at_once() {
    let bench = Bench::new().await;
    let c1 = bench.c1();
    write(&c1, 0, "mine").await;
    // Another process made its own key before it saw ours.
    let other = bench.other_client().await;
    let rows = bench.rows("c1", hour(0)).await;
    let second = bench
        .kms
        .generate_data_key(&bench.a, &rows[0].scope, &why(WRITE))
        .await
        .unwrap();
    let key = crate::crypto::CellKey::derive(second.dek, &rows[0].scope);
    let mut row = rows[0].clone();
    row.commitment = key.commitment().clone();
    row.wrapped = second.wrapped.bytes;
    row.created_ms += 1;
    bench.put_row("c1", hour(0), &row).await;
    write(&channel_of(&other, "c1"), 0, "theirs").await;

    bench.deny("c1");
    assert_eq!(try_read(&c1, 0, "mine").await, "ok");
    assert_eq!(try_read(&c1, 0, "theirs").await, "revoked");
    assert_eq!(try_read(&c1, 0, "mine").await, "revoked");
}

#[tokio::test]
async fn a_disabled_cmk_drops_all_its_keys_and_is_asked_again_after_30_s() {
    let bench = Bench::new().await;
    let (c1, c2) = (bench.c1(), bench.c2());
    write(&c1, 0, "m").await;
    write(&c2, 0, "m").await;
    bench.admin.disable(&bench.a).unwrap();
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
    // One call that the disabled CMK refuses ends the use of every key of it.
    assert_eq!(try_write(&c1, 1).await, "cmk_unusable");
    assert_eq!(try_read(&c1, 0, "m").await, "cmk_unusable");
    assert_eq!(try_read(&c2, 0, "m").await, "cmk_unusable");
    assert_eq!(bench.keys.held(), 0);
    bench.admin.enable(&bench.a).unwrap();
    bench.clock.advance(s(29));
    assert_eq!(try_read(&c1, 0, "m").await, "cmk_unusable");
    bench.clock.advance(s(1));
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
}

#[tokio::test]
async fn an_outage_is_unavailable_and_never_remembered() {
    let bench = Bench::new().await;
    write(&bench.c1(), 0, "m").await;
    let c1 = channel_of(&bench.other_client().await, "c1");
    bench.fail_kms("KMSInternalException");
    let error = c1
        .read(hour(0), &record("m"), &why(READ))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.class()),
        ("unavailable", ErrorClass::Transient)
    );
    bench.admin.clear_fault("fault").unwrap();
    assert_eq!(try_read(&c1, 0, "m").await, "ok");
}

#[tokio::test]
async fn many_who_miss_one_key_make_one_call() {
    let bench = Bench::new().await;
    write(&bench.c1(), 0, "m").await;
    let c1 = channel_of(&bench.other_client().await, "c1");
    let reads = (0..20).map(|_| try_read(&c1, 0, "m"));
    let answers = futures::future::join_all(reads).await;
    assert_eq!(answers, ["ok"; 20]);
    assert_eq!(bench.counts().decrypted, 1);
}

#[tokio::test]
async fn held_keys_are_bounded_and_wiped_when_their_time_is_over() {
    let bench = Bench::new().await;
    let (client, keys) = bench.client_with_capacity(3).await;
    let c1 = channel_of(&client, "c1");
    for n in 0..6 {
        write(&c1, n, "m").await;
    }
    assert_eq!(keys.held(), 3);
    for n in 0..6 {
        assert_eq!(try_read(&c1, n, "m").await, "ok");
    }
    bench.clock.advance(s(300));
    // The sweeper has been woken; it runs before this task is polled again.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(keys.held(), 0);
}

#[tokio::test]
async fn i16_every_use_is_audited_with_its_reason() {
    let bench = Bench::new().await;
    let c1 = bench.c1();
    write(&c1, 0, "m").await;
    for _ in 0..3 {
        assert_eq!(try_read(&c1, 0, "m").await, "ok");
    }
    write(&c1, 0, "m2").await;
    let records = bench.audited().await;
    let sum = |action: &str, reason: &str| -> u64 {
        records
            .iter()
            .filter(|r| r["action"] == action && r["reason_code"] == reason)
            .map(|r| r["count"].as_u64().unwrap_or(1))
            .sum()
    };
    assert_eq!(sum("GenerateDataKey", "message.write"), 1);
    assert_eq!(sum("cache_hit", "message.read"), 3);
    assert_eq!(sum("cache_hit", "message.write"), 1);
}

/// A vanished message is absent before any key is looked up, so it does not turn
/// into a refusal when its key is revoked.
#[tokio::test]
async fn a_vanished_message_is_absent_even_where_its_key_is_revoked() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    let until = bench.now_s() + 10;
    c1.write(hour(0), &r, b"x", Lifetime::Until(until), &why(WRITE))
        .await
        .unwrap();
    // As a store would still show it whose clean-up is late.
    let stored = bench.stored("c1", hour(0), &r).await;
    let view = bench
        .registry
        .view(
            &super::bench::org(),
            &crate::ids::ChannelId::new("c1").unwrap(),
        )
        .await
        .unwrap();
    let write = CellWrite {
        record: r.clone(),
        cell: stored.cell.into(),
        write_time: WriteTime(stored.write_time.0 + 1),
        ttl_s: 100_000,
    };
    let to = view.partition(hour(0));
    bench.store.write_cells(&to, &[write]).await.unwrap();
    bench.deny("c1");
    bench.clock.advance(s(400));
    assert!(bench.clock.wall().unix_seconds() > i64::from(until));
    assert_eq!(try_read(&c1, 0, "m").await, "absent");
    assert_eq!(bench.counts().decrypted, 0);
    assert!(
        !bench
            .store
            .read_keys(&slice("c1", hour(0)))
            .await
            .unwrap()
            .is_empty()
    );
}
