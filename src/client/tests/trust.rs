//! What the client does not trust, each with the code it answers.

use super::bench::{Bench, hour, org, record, s, w1, why};
use crate::client::{Channel, ErrorClass, Lifetime, PageLimit, ReasonCode};
use crate::crypto::{CellKey, cell};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn};
use crate::kms::local::{NewKey, Unlock};
use crate::scope::{Locus, Scope};

const READ: ReasonCode = ReasonCode::MessageRead;

/// A bench with one message in `c1`, whose key has left the cache.
async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench
        .c1()
        .write(
            hour(0),
            &record("m"),
            b"secret",
            Lifetime::Lasting,
            &why(ReasonCode::MessageWrite),
        )
        .await
        .unwrap();
    bench.clock.advance(s(301));
    bench
}

async fn refused(channel: &Channel, n: u64, name: &str) -> &'static str {
    let error = channel
        .read(hour(n), &record(name), &why(READ))
        .await
        .expect_err("must not open");
    assert_eq!(error.class(), ErrorClass::Quarantined, "{error}");
    error.code()
}

#[tokio::test]
async fn a_cell_copied_with_its_key_row_to_another_channel_does_not_open() {
    let bench = bench().await;
    let stored = bench.stored("c1", hour(0), &record("m")).await;
    let row = bench.rows("c1", hour(0)).await[0].clone();
    bench.put_raw("c2", hour(0), &record("m"), &stored).await;
    assert_eq!(
        refused(&bench.c2(), 0, "m").await,
        "key_row_missing",
        "without its key row"
    );
    bench.put_row("c2", hour(0), &row).await;
    assert_eq!(refused(&bench.c2(), 0, "m").await, "scope_mismatch");
    // The same in another hour of its own channel.
    bench.put_raw("c1", hour(1), &record("m"), &stored).await;
    bench.put_row("c1", hour(1), &row).await;
    assert_eq!(refused(&bench.c1(), 1, "m").await, "scope_mismatch");
}

#[tokio::test]
async fn a_cell_copied_to_another_record_does_not_open_and_hides_no_other() {
    let bench = bench().await;
    let stored = bench.stored("c1", hour(0), &record("m")).await;
    bench.put_raw("c1", hour(0), &record("n"), &stored).await;
    assert_eq!(refused(&bench.c1(), 0, "n").await, "tag_mismatch");
    let limit = PageLimit {
        rows: 10,
        bytes: 1 << 20,
    };
    let page = bench.c1().list(hour(0), None, limit, &why(READ)).await;
    let page = page.unwrap().messages;
    assert_eq!(page[0].1.as_ref().unwrap().text(), b"secret");
    assert_eq!(page[1].1.as_ref().unwrap_err().code(), "tag_mismatch");
}

#[tokio::test]
async fn an_epoch_nobody_gave_out_is_refused_after_a_fresh_look() {
    let bench = bench().await;
    let mut stored = bench.stored("c1", hour(0), &record("m")).await;
    stored.cell[..4].copy_from_slice(&Epoch::new(2).unwrap().to_bytes());
    bench.put_raw("c1", hour(0), &record("m"), &stored).await;
    // A view that is current by its age is still not enough to refuse by.
    let _ = bench
        .c1()
        .read(hour(9), &record("m"), &why(READ))
        .await
        .unwrap();
    let before = bench.counts().views;
    assert_eq!(refused(&bench.c1(), 0, "m").await, "epoch_above_newest");
    assert_eq!(bench.counts().views, before + 1);
}

/// Whoever can write key rows puts a key of their own, wrapped properly, under
/// the key id that a cell names.
#[tokio::test]
async fn a_swapped_key_is_caught_by_its_commitment() {
    let bench = bench().await;
    let row = bench.rows("c1", hour(0)).await[0].clone();
    let other = bench
        .kms
        .generate_data_key(&bench.a, &row.scope, &why(READ))
        .await
        .unwrap();
    let mut swapped = row.clone();
    swapped.wrap_epoch = Epoch::new(2).unwrap();
    swapped.wrapped = other.wrapped.bytes;
    bench.put_row("c1", hour(0), &swapped).await;
    assert_eq!(refused(&bench.c1(), 0, "m").await, "commitment_mismatch");
    let calls = bench.counts().decrypted;
    assert_eq!(refused(&bench.c1(), 0, "m").await, "commitment_mismatch");
    assert_eq!(bench.counts().decrypted, calls, "asked once, remembered");
}

#[tokio::test]
async fn a_wrap_under_a_cmk_that_is_not_allowed_is_not_tried() {
    let bench = bench().await;
    let unlock = Unlock::KeyFile(bench.admin.default_key_file());
    let foreign: CmkArn = bench.admin.create_key(&unlock, &NewKey::default()).unwrap();
    let scope = Scope::Message {
        org: org(),
        workspace: w1(),
        channel: ChannelId::new("c2").unwrap(),
        hour: hour(0),
    };
    let made = bench
        .kms
        .generate_data_key(&foreign, &scope, &why(READ))
        .await
        .unwrap();
    let key = CellKey::derive(made.dek, &scope);
    let mut row = bench.rows("c1", hour(0)).await[0].clone();
    row.scope = scope;
    row.cmk = foreign;
    row.commitment = key.commitment().clone();
    row.wrapped = made.wrapped.bytes;
    bench.put_row("c2", hour(0), &row).await;
    let (o, c2, r) = (org(), ChannelId::new("c2").unwrap(), record("m"));
    let locus = Locus::Message {
        org: &o,
        channel: &c2,
        record: &r,
    };
    let mut stored = bench.stored("c1", hour(0), &r).await;
    stored.cell = cell::seal(&key, Epoch::FIRST, None, &[0; 12], &locus, b"planted").unwrap();
    bench.put_raw("c2", hour(0), &r, &stored).await;
    let calls = bench.counts().decrypted;
    assert_eq!(refused(&bench.c2(), 0, "m").await, "cmk_not_allowed");
    assert_eq!(bench.counts().decrypted, calls);
}

#[tokio::test]
async fn a_refused_wrap_is_not_answered_by_trying_a_lower_one() {
    let bench = bench().await;
    let row = bench.rows("c1", hour(0)).await[0].clone();
    bench.rewrap("c1", hour(0), &row, 2).await;
    bench.admin.disable(&bench.b).unwrap();
    let error = bench
        .c1()
        .read(hour(0), &record("m"), &why(READ))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "cmk_unusable");
    assert_eq!(bench.counts().decrypted, 1);
}
