//! Data keys and the index of slices.

use super::{StoreHarness, new_org};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId};
use crate::scope::Kind;
use crate::store::{KeyRow, SliceKey, StoreErrorClass};

fn slice(org: &OrgId, channel: &str, hour: u64) -> SliceKey {
    let channel = ChannelId::new(channel).expect("a channel id");
    let hour = Hour::of_unix_seconds(1_550_077_200 + hour * 3600).expect("an hour");
    SliceKey::messages(org, &channel, hour)
}

fn key(id: u8, wrap_epoch: u32, row: &[u8]) -> KeyRow {
    KeyRow {
        key_id: KeyId([id; 16]),
        wrap_epoch: Epoch::new(wrap_epoch).expect("an epoch"),
        row: row.to_vec(),
    }
}

pub(super) async fn keys_are_inserted_once(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let org = new_org();
    let here = slice(&org, "c1", 0);
    assert_eq!(store.read_keys(&here).await.expect("read_keys"), []);
    let rows = [
        key(0xfe, 3, b"e"),
        key(1, 2, b"a"),
        key(1, 300, b"c"),
        key(1, 9, b"b"),
        key(0, 1, b"\0\xff"),
    ];
    for row in rows.iter().chain(&rows) {
        store
            .insert_key(&here, row)
            .await
            .expect("the same row again is no error");
    }
    store
        .insert_key(&slice(&org, "c1", 1), &key(7, 1, b"other"))
        .await
        .expect("insert_key");
    // By key id, highest wrap epoch first.
    let expected = [
        key(0, 1, b"\0\xff"),
        key(1, 300, b"c"),
        key(1, 9, b"b"),
        key(1, 2, b"a"),
        key(0xfe, 3, b"e"),
    ];
    assert_eq!(store.read_keys(&here).await.expect("read_keys"), expected);
}

pub(super) async fn another_row_at_the_same_address_is_refused(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let here = slice(&new_org(), "c1", 0);
    store
        .insert_key(&here, &key(1, 1, b"one"))
        .await
        .expect("insert_key");
    let refused = store.insert_key(&here, &key(1, 1, b"two")).await;
    // Only a store that looks first can tell; one that cannot answers `Ok`, and
    // its own tests say which of the rows stays.
    if let Err(err) = refused {
        assert_eq!(err.class, StoreErrorClass::Invalid);
        assert_eq!(
            store.read_keys(&here).await.expect("read_keys"),
            [key(1, 1, b"one")]
        );
    }
}

pub(super) async fn one_wrap_is_deleted_and_no_other(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let org = new_org();
    let (here, beside) = (slice(&org, "c1", 0), slice(&org, "c1", 1));
    let rows = [key(1, 9, b"b"), key(1, 2, b"a"), key(2, 2, b"c")];
    for row in &rows {
        for slice in [&here, &beside] {
            store.insert_key(slice, row).await.expect("insert_key");
        }
    }
    let delete = async |key: &KeyRow| {
        // What is gone is gone: a retire that was killed deletes it again.
        for _ in 0..2 {
            store
                .delete_key(&here, key.key_id, key.wrap_epoch)
                .await
                .expect("delete_key");
            harness.flush_and_compact().await;
        }
    };
    delete(&rows[1]).await;
    let left = [rows[0].clone(), rows[2].clone()];
    assert_eq!(store.read_keys(&here).await.expect("read_keys"), left);
    delete(&rows[2]).await;
    delete(&rows[0]).await;
    assert_eq!(store.read_keys(&here).await.expect("read_keys"), []);
    assert_eq!(store.read_keys(&beside).await.expect("read_keys"), rows);
    // A slice without a key is none.
    let listed = store
        .list_slices(&org, Kind::Message, "c1", None, 10)
        .await
        .expect("list_slices");
    assert_eq!(listed, std::slice::from_ref(&beside.slice));
    // What is inserted afterwards stands, at the same address too.
    harness.pass(std::time::Duration::from_secs(2)).await;
    store.insert_key(&here, &rows[1]).await.expect("insert_key");
    assert_eq!(
        store.read_keys(&here).await.expect("read_keys"),
        [rows[1].clone()]
    );
}

pub(super) async fn slices_are_listed_in_order(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let org = new_org();
    let mut expected = Vec::new();
    for hour in [5, 1, 30, 0, 12] {
        let here = slice(&org, "c1", hour);
        for id in 0..3 {
            store
                .insert_key(&here, &key(id, 1, b"row"))
                .await
                .expect("insert_key");
        }
        expected.push(here.slice);
    }
    expected.sort();
    // None of these may show: another channel, organization, kind.
    store
        .insert_key(&slice(&org, "c2", 2), &key(1, 1, b"row"))
        .await
        .expect("insert_key");
    store
        .insert_key(&slice(&new_org(), "c1", 3), &key(1, 1, b"row"))
        .await
        .expect("insert_key");
    let file = SliceKey {
        org: org.clone(),
        kind: Kind::File,
        group: "c1".to_owned(),
        slice: "s".to_owned(),
    };
    store
        .insert_key(&file, &key(1, 1, b"row"))
        .await
        .expect("insert_key");

    for limit in [1, 2, 5, 100] {
        let mut found: Vec<String> = Vec::new();
        loop {
            let after = found.last().map(String::as_str);
            let more = store
                .list_slices(&org, Kind::Message, "c1", after, limit)
                .await
                .expect("list_slices");
            assert!(more.len() <= limit);
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        assert_eq!(found, expected, "{limit} at a time");
    }
}
