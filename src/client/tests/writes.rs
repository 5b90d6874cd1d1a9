//! Writes, edits and deletes, and what they do when the registry changes under
//! them.

use std::sync::Arc;

use super::bench::{Bench, channel_of, header, hour, record, s, why};
use crate::client::{EditLifetime, ErrorClass, Lifetime, PageLimit, ReasonCode};
use crate::clock::{Clock, WriteTime};
use crate::store::{CellWrite, StoreError, StoreErrorClass};

const READ: ReasonCode = ReasonCode::MessageRead;
const WRITE: ReasonCode = ReasonCode::MessageWrite;
const EDIT: ReasonCode = ReasonCode::MessageEdit;

#[tokio::test]
async fn what_is_written_is_read_edited_listed_and_deleted() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m1"));
    let first = c1
        .write(hour(0), &r, b"first words", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    let message = c1.read(hour(0), &r, &why(READ)).await.unwrap().unwrap();
    assert_eq!(message.text(), b"first words");
    assert_eq!(message.write_time(), first.write_time);
    assert!(!format!("{message:?}").contains("first"));

    let edited = c1
        .edit(hour(0), &r, b"two", EditLifetime::Keep, &why(EDIT))
        .await
        .unwrap();
    assert!(edited.write_time > first.write_time);
    for name in ["m2", "m3"] {
        c1.write(hour(0), &record(name), b"x", Lifetime::Lasting, &why(WRITE))
            .await
            .unwrap();
    }
    let limit = PageLimit {
        rows: 2,
        bytes: 1 << 20,
    };
    let page = c1.list(hour(0), None, limit, &why(READ)).await.unwrap();
    assert_eq!(page.messages.len(), 2);
    assert_eq!(page.messages[0].1.as_ref().unwrap().text(), b"two");
    let rest = c1
        .list(hour(0), page.next.as_ref(), limit, &why(READ))
        .await
        .unwrap();
    assert_eq!(rest.messages.len(), 1);

    c1.delete(hour(0), &r).await.unwrap();
    assert!(c1.read(hour(0), &r, &why(READ)).await.unwrap().is_none());
    let error = c1
        .edit(hour(0), &r, b"3", EditLifetime::Keep, &why(EDIT))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "absent");
    assert_eq!(error.perhaps_written, None);
    // One slice, one key: two more uses of the KMS would be two too many.
    assert_eq!(bench.counts().generated, 1);
    assert_eq!(bench.counts().decrypted, 0);
}

#[tokio::test]
async fn a_vanishing_message_keeps_its_expiry_unless_told_otherwise() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    let until = bench.now_s() + 100;
    c1.write(hour(0), &r, b"1", Lifetime::Until(until), &why(WRITE))
        .await
        .unwrap();
    let kept = c1
        .edit(hour(0), &r, b"2", EditLifetime::Keep, &why(EDIT))
        .await
        .unwrap();
    assert_eq!(kept.expires_at_s, Some(until));
    bench.clock.advance(s(99));
    let lasting = EditLifetime::Set(Lifetime::Lasting);
    c1.edit(hour(0), &r, b"3", lasting, &why(EDIT))
        .await
        .unwrap();
    bench.clock.advance(s(1));
    assert!(c1.read(hour(0), &r, &why(READ)).await.unwrap().is_some());

    for (lifetime, code) in [
        (Lifetime::Until(bench.now_s()), "expiry_past"),
        (Lifetime::Until(u32::MAX), "bad_expiry"),
        (Lifetime::Until(0), "bad_expiry"),
    ] {
        let result = c1.write(hour(0), &r, b"4", lifetime, &why(WRITE)).await;
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.class()), (code, ErrorClass::Invalid));
    }
}

/// The registry changes between the write and its acknowledgement: the cell ends
/// at the new epoch, at the same write time.
#[tokio::test]
async fn i5_a_write_that_was_overtaken_is_repeated_at_its_own_time() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    bench.age_view().await;
    *bench.taps.after_write.lock().unwrap() = Some(bench.overtake(5));
    let written = c1
        .write(hour(0), &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    let stored = bench.stored("c1", hour(0), &r).await;
    assert_eq!(stored.write_time, written.write_time);
    let (epoch, key_id) = header(&stored);
    assert_eq!(epoch, 2);
    let rows = bench.rows("c1", hour(0)).await;
    let row = rows.iter().find(|row| row.key_id() == key_id).unwrap();
    assert_eq!((row.wrap_epoch.get(), &row.cmk), (2, &bench.b));
    assert_eq!(bench.counts().writes, 2);
    let read = c1.read(hour(0), &r, &why(READ)).await.unwrap().unwrap();
    assert_eq!(read.text(), b"x");
}

/// The view runs out while the KMS takes its time: nothing is sealed by it.
#[tokio::test]
async fn i5_a_write_whose_view_ran_out_before_sealing_follows_the_new_one() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    *bench.taps.in_kms.lock().unwrap() = Some(bench.overtake(60));
    c1.write(hour(0), &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    assert_eq!(header(&bench.stored("c1", hour(0), &r).await).0, 2);
    assert_eq!(bench.counts().writes, 1);
}

#[tokio::test]
async fn a_vanishing_write_that_was_overtaken_still_wins_its_tie() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    bench.age_view().await;
    *bench.taps.after_write.lock().unwrap() = Some(bench.overtake(5));
    let until = bench.now_s() + 1000;
    c1.write(hour(0), &r, b"x", Lifetime::Until(until), &why(WRITE))
        .await
        .unwrap();
    assert_eq!(header(&bench.stored("c1", hour(0), &r).await).0, 2);
}

#[tokio::test]
async fn a_view_that_ran_out_and_still_holds_repeats_nothing() {
    let bench = Bench::new().await;
    bench.age_view().await;
    let clock = bench.clock.clone();
    *bench.taps.after_write.lock().unwrap() = Some(Box::new(move || {
        Box::pin(async move {
            clock.advance(s(5));
            Ok(())
        })
    }));
    let written = bench
        .c1()
        .write(hour(0), &record("m"), b"x", Lifetime::Lasting, &why(WRITE))
        .await;
    assert!(written.is_ok());
    assert_eq!(bench.counts().writes, 1);
}

#[tokio::test]
async fn a_delete_that_was_overtaken_is_repeated_at_its_own_time() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    c1.write(hour(0), &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    bench.clock.advance(s(55));
    *bench.taps.after_delete.lock().unwrap() = Some(bench.overtake(5));
    c1.delete(hour(0), &r).await.unwrap();
    assert_eq!(bench.counts().deletes, 2);
    assert!(c1.read(hour(0), &r, &why(READ)).await.unwrap().is_none());
}

#[tokio::test]
async fn an_unanswered_write_says_under_which_time_it_may_stand() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    let lost_answer = || StoreError::new(StoreErrorClass::Transient, "no answer");
    *bench.taps.after_write.lock().unwrap() = Some(Box::new(move || {
        Box::pin(async move { Err(lost_answer()) })
    }));
    let error = c1
        .write(hour(0), &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "unavailable");
    let stored = bench.stored("c1", hour(0), &r).await;
    assert_eq!(error.perhaps_written, Some(stored.write_time));
}

/// Another's clock was ahead. An edit or delete by who has read the message must
/// still be on top of it.
#[tokio::test]
async fn an_edit_is_above_what_it_read_whatever_the_clock_says() {
    let bench = Bench::new().await;
    let (c1, r) = (bench.c1(), record("m"));
    c1.write(hour(0), &r, b"x", Lifetime::Lasting, &why(WRITE))
        .await
        .unwrap();
    let stored = bench.stored("c1", hour(0), &r).await;
    let ahead = WriteTime(bench.clock.wall().0 + 3_600_000_000);
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
        write_time: ahead,
        ttl_s: 0,
    };
    let to = view.partition(hour(0));
    bench.store.write_cells(&to, &[write]).await.unwrap();

    let edited = c1
        .edit(hour(0), &r, b"y", EditLifetime::Keep, &why(EDIT))
        .await
        .unwrap();
    assert!(edited.write_time > ahead);
    let deleted = c1.delete(hour(0), &r).await.unwrap();
    assert!(deleted.write_time > edited.write_time);
    assert!(c1.read(hour(0), &r, &why(READ)).await.unwrap().is_none());
}

#[tokio::test]
async fn concurrent_clients_agree_and_make_one_key_each_at_most() {
    let bench = Bench::new().await;
    let clients = [bench.client.clone(), bench.other_client().await];
    let mut writers = tokio::task::JoinSet::new();
    for (n, client) in clients.iter().enumerate() {
        let channel = Arc::new(channel_of(client, "c1"));
        for i in 0..10 {
            let channel = channel.clone();
            writers.spawn(async move {
                let (r, text) = (record(&format!("{n}-{i}")), [n as u8, i]);
                channel
                    .write(hour(0), &r, &text, Lifetime::Lasting, &why(WRITE))
                    .await
                    .unwrap();
            });
        }
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert!(bench.counts().generated <= 2, "{:?}", bench.counts());
    for client in &clients {
        for n in 0..2u8 {
            for i in 0..10u8 {
                let r = record(&format!("{n}-{i}"));
                let read = channel_of(client, "c1").read(hour(0), &r, &why(READ)).await;
                assert_eq!(read.unwrap().unwrap().text(), [n, i]);
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_channel_or_workspace_is_not_found() {
    let bench = Bench::new().await;
    let r = record("m");
    let unknown = channel_of(&bench.client, "nowhere");
    let error = unknown.read(hour(0), &r, &why(READ)).await.unwrap_err();
    assert_eq!(error.code(), "not_found");
    let elsewhere = bench.client.organization(&super::bench::org()).channel(
        &crate::ids::WorkspaceId::new("w2").unwrap(),
        &crate::ids::ChannelId::new("c1").unwrap(),
    );
    let error = elsewhere.read(hour(0), &r, &why(READ)).await.unwrap_err();
    assert_eq!(error.code(), "not_found");
}
