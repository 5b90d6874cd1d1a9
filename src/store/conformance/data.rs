//! Reading by pages, single cells, sizes, TTLs.

use std::time::Duration;

use super::{NO_LIMIT, StoreHarness, cell_write, new_partition, page, read_all, record};
use crate::clock::WriteTime;
use crate::ids::{Hour, Place};
use crate::store::{Consistency, PageLimit, StoreErrorClass};

pub(super) async fn an_unknown_partition_is_empty(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    for consistency in [Consistency::Quorum, Consistency::All] {
        let page = store
            .read_page(&partition, None, NO_LIMIT, consistency)
            .await
            .expect("read_page");
        assert_eq!(page, Default::default());
    }
    assert_eq!(
        store
            .read_cell(&partition, &record(b"r"))
            .await
            .expect("read_cell"),
        None
    );
}

pub(super) async fn pages_cover_a_partition_once(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let mut writes: Vec<_> = (0..23u8)
        .map(|n| cell_write(&[n, 7], 1000 + i64::from(n), 0, &[n; 30]))
        .collect();
    // Arrival in another order than that of the ids.
    writes.rotate_left(11);
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    writes.sort_by(|a, b| a.record.cmp(&b.record));

    for rows in [1, 2, 7, 22, 23, 24, 1000] {
        let limit = PageLimit {
            rows,
            bytes: 1 << 20,
        };
        let (cells, empty) = read_all(&store, &partition, limit).await;
        assert_eq!(empty, 0);
        assert_eq!(cells.len(), writes.len(), "pages of {rows}");
        for (cell, write) in cells.iter().zip(&writes) {
            assert_eq!(cell.record, write.record);
            assert_eq!(cell.cell, write.cell);
            assert_eq!(cell.write_time, write.write_time);
            assert_eq!(cell.ttl_s, None);
        }
        let first = page(&store, &partition, None, limit).await;
        assert!(first.cells.len() <= rows);
    }

    // Any id will do to go on from, also one that is not there.
    let rest = page(&store, &partition, Some(&record(&[20, 7, 0])), NO_LIMIT).await;
    assert_eq!(rest.cells.len(), 2);
    assert_eq!(rest.next, None);
    let rest = page(&store, &partition, Some(&record(&[0xff])), NO_LIMIT).await;
    assert_eq!((rest.cells.len(), rest.next), (0, None));
}

pub(super) async fn a_page_is_bounded_by_bytes(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writes: Vec<_> = (0..6u8)
        .map(|n| cell_write(&[n], 1, 0, &[n; 1000]))
        .collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    for (bytes, at_most) in [(1, 1), (1000, 1), (2000, 2), (2999, 2), (6000, 6)] {
        let limit = PageLimit { rows: 100, bytes };
        let first = page(&store, &partition, None, limit).await;
        // One cell comes whatever its size.
        assert!(
            (1..=at_most).contains(&first.cells.len()),
            "{bytes} bytes: {}",
            first.cells.len()
        );
        assert_eq!(
            read_all(&store, &partition, limit).await.0.len(),
            6,
            "{bytes} bytes"
        );
    }
}

pub(super) async fn a_page_goes_on_after_rows_that_are_gone(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writes: Vec<_> = (0..40u8).map(|n| cell_write(&[n], 1, 0, b"x")).collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    for n in 0..39u8 {
        if n % 2 == 0 {
            store
                .delete_cell(&partition, &record(&[n]), WriteTime(2))
                .await
                .expect("delete_cell");
        } else {
            store
                .delete_row(&partition, &record(&[n]), WriteTime(2))
                .await
                .expect("delete_row");
        }
    }
    harness.flush_and_compact().await;
    for rows in [1, 3, 39, 40] {
        let (cells, _) = read_all(
            &store,
            &partition,
            PageLimit {
                rows,
                bytes: 1 << 20,
            },
        )
        .await;
        assert_eq!(cells.len(), 1, "pages of {rows}");
        assert_eq!(cells[0].record, record(&[39]));
    }
}

pub(super) async fn rows_without_a_value_are_counted_at_most_once(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writes: Vec<_> = (0..5u8).map(|n| cell_write(&[n], 1, 0, b"x")).collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    for n in 0..3u8 {
        store
            .delete_cell(&partition, &record(&[n]), WriteTime(2))
            .await
            .expect("delete_cell");
    }
    for rows in [1, 2, 100] {
        let (cells, empty) = read_all(
            &store,
            &partition,
            PageLimit {
                rows,
                bytes: 1 << 20,
            },
        )
        .await;
        assert_eq!(cells.len(), 2);
        // A server that keeps no trace of the row itself shows none.
        assert!(empty <= 3, "{empty}");
    }
}

pub(super) async fn record_ids_are_opaque_bytes(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    // Ascending, as unsigned bytes.
    let mut ids: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0, 0],
        vec![0, 0xff],
        vec![0x7f],
        vec![0x7f, 0x27, 0x5c],
        vec![0x80],
        vec![0xff],
        vec![0xff, 0],
        vec![0xff, 0xff],
        vec![0xff; 256],
    ];
    ids.sort();
    for id in ids.iter().rev() {
        store
            .write_cells(&partition, &[cell_write(id, 1, 0, id)])
            .await
            .expect("write_cells");
    }
    let (cells, _) = read_all(&store, &partition, PageLimit { rows: 1, bytes: 1 }).await;
    let found: Vec<_> = cells
        .iter()
        .map(|cell| cell.record.as_bytes().to_vec())
        .collect();
    assert_eq!(found, ids);
    for id in &ids {
        let cell = store
            .read_cell(&partition, &record(id))
            .await
            .expect("read_cell")
            .expect("it is there");
        assert_eq!(&cell.cell, id);
    }
}

pub(super) async fn partitions_are_apart(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let first = new_partition();
    let mut others = vec![first.clone(), first.clone(), first.clone()];
    others[0].org = new_partition().org;
    others[1].place = Place::random();
    others[2].hour = Hour::next(first.hour);
    store
        .write_cells(&first, &[cell_write(b"r", 5, 0, b"first")])
        .await
        .expect("write_cells");
    for other in &others {
        assert_eq!(page(&store, other, None, NO_LIMIT).await.cells, []);
        store
            .write_cells(other, &[cell_write(b"r", 5, 0, b"other")])
            .await
            .expect("write_cells");
        store
            .delete_partition(other, WriteTime(9))
            .await
            .expect("delete_partition");
    }
    let cell = store
        .read_cell(&first, &record(b"r"))
        .await
        .expect("read_cell")
        .expect("it is there");
    assert_eq!(cell.cell, b"first");
}

pub(super) async fn large_cells_come_back(harness: &dyn StoreHarness) {
    // The largest a message can be: 1 MiB of text and the cell's 54 bytes.
    let large: Vec<u8> = (0..(1u32 << 20) + 54).map(|n| (n % 251) as u8).collect();
    let store = harness.fresh().await;
    let partition = new_partition();
    for id in [b"a", b"b"] {
        store
            .write_cells(&partition, &[cell_write(id, 1, 0, &large)])
            .await
            .expect("write_cells");
    }
    store
        .write_cells(&partition, &[cell_write(b"c", 1, 0, b"")])
        .await
        .expect("write_cells");
    let (cells, _) = read_all(
        &store,
        &partition,
        PageLimit {
            rows: 100,
            bytes: 1 << 20,
        },
    )
    .await;
    let sizes: Vec<_> = cells.iter().map(|cell| cell.cell.len()).collect();
    assert_eq!(sizes, [large.len(), large.len(), 0]);
    assert!(cells[0].cell == large && cells[1].cell == large);
}

pub(super) async fn a_call_may_be_sent_twice(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writes: Vec<_> = (0..10u8).map(|n| cell_write(&[n], 1, 0, &[n])).collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    let before = read_all(&store, &partition, NO_LIMIT).await;
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    assert_eq!(read_all(&store, &partition, NO_LIMIT).await, before);
    store
        .write_cells(&partition, &[])
        .await
        .expect("nothing to write is no error");
}

pub(super) async fn a_ttl_counts_down_and_ends(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writes = [
        cell_write(b"long", 1, 1000, b"x"),
        cell_write(b"none", 1, 0, b"x"),
        cell_write(b"short", 1, 3, b"x"),
    ];
    store
        .write_cells(&partition, &writes)
        .await
        .expect("write_cells");
    let (cells, _) = read_all(&store, &partition, NO_LIMIT).await;
    assert_eq!(cells.len(), 3);
    assert_eq!(cells[1].ttl_s, None);
    assert!(
        cells[0]
            .ttl_s
            .is_some_and(|ttl_s| (900..=1000).contains(&ttl_s)),
        "{:?}",
        cells[0].ttl_s
    );
    assert!(
        cells[2].ttl_s.is_some_and(|ttl_s| (1..=3).contains(&ttl_s)),
        "{:?}",
        cells[2].ttl_s
    );

    harness.pass(Duration::from_secs(4)).await;
    let (cells, _) = read_all(&store, &partition, NO_LIMIT).await;
    assert_eq!(cells.len(), 2, "the short one has ended");
    assert!(
        cells[0]
            .ttl_s
            .is_some_and(|ttl_s| (800..=996).contains(&ttl_s)),
        "{:?}",
        cells[0].ttl_s
    );
    assert_eq!(
        store
            .read_cell(&partition, &record(b"short"))
            .await
            .expect("read_cell"),
        None
    );

    // It is still what was written at its time: nothing older comes to light.
    store
        .write_cells(&partition, &[cell_write(b"short", 1, 0, b"z")])
        .await
        .expect("write_cells");
    assert_eq!(
        store
            .read_cell(&partition, &record(b"short"))
            .await
            .expect("read_cell"),
        None
    );
    store
        .write_cells(&partition, &[cell_write(b"short", 2, 0, b"z")])
        .await
        .expect("write_cells");
    assert!(
        store
            .read_cell(&partition, &record(b"short"))
            .await
            .expect("read_cell")
            .is_some()
    );

    // A lasting value over one that expires: the end is gone.
    store
        .write_cells(&partition, &[cell_write(b"long", 2, 0, b"y")])
        .await
        .expect("write_cells");
    let cell = store
        .read_cell(&partition, &record(b"long"))
        .await
        .expect("read_cell")
        .expect("it is there");
    assert_eq!(cell.ttl_s, None);
}

pub(super) async fn impossible_ttls_are_refused(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    // The last is 2038-01-19T03:14:07Z, one second after the latest there is;
    // a server's clock may be some seconds off ours.
    let to_the_end = 2_147_483_647 - harness.now().unix_seconds() + 60;
    let to_the_end = u32::try_from(to_the_end).expect("this suite ends in 2038");
    for ttl_s in [630_720_001, u32::MAX >> 1, to_the_end] {
        let refused = store
            .write_cells(&partition, &[cell_write(b"r", 1, ttl_s, b"x")])
            .await;
        let class = refused.expect_err("a TTL that cannot be kept").class;
        assert_eq!(class, StoreErrorClass::Invalid, "{ttl_s}");
    }
    assert_eq!(page(&store, &partition, None, NO_LIMIT).await.cells, []);
    let latest = cell_write(b"r", 1, to_the_end - 120, b"x");
    store
        .write_cells(&partition, &[latest])
        .await
        .expect("a minute before the end is allowed");
}

pub(super) async fn many_writers_lose_nothing(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let partition = new_partition();
    let writers: Vec<_> = (0..16u8)
        .map(|writer| {
            let (store, partition) = (store.clone(), partition.clone());
            tokio::spawn(async move {
                for n in 0..25u8 {
                    let own = cell_write(&[1, writer, n], 1, 0, &[n]);
                    // All write this one; the greatest of their times stays.
                    let shared = cell_write(
                        &[0],
                        i64::from(n) * 100 + i64::from(writer),
                        0,
                        &[writer, n],
                    );
                    store
                        .write_cells(&partition, &[own, shared])
                        .await
                        .expect("write_cells");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let (cells, _) = read_all(&store, &partition, NO_LIMIT).await;
    assert_eq!(cells.len(), 1 + 16 * 25);
    assert_eq!(cells[0].write_time, WriteTime(2415));
    assert_eq!(cells[0].cell, [15, 24]);
}
