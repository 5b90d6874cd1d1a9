//! Which of two writes stays, in both orders of arrival.

use super::{StoreHarness, cell_write, new_partition, record};
use crate::clock::WriteTime;
use crate::store::{Partition, SharedStore};

#[derive(Debug, Clone, Copy)]
enum Op {
    Put {
        at: i64,
        ttl_s: u32,
        cell: &'static [u8],
    },
    DeleteCell(i64),
    DeleteRow(i64),
    DeletePartition(i64),
}

async fn send(store: &SharedStore, partition: &Partition, op: Op) {
    let r = record(b"r");
    match op {
        Op::Put { at, ttl_s, cell } => {
            store
                .write_cells(partition, &[cell_write(b"r", at, ttl_s, cell)])
                .await
        }
        Op::DeleteCell(at) => store.delete_cell(partition, &r, WriteTime(at)).await,
        Op::DeleteRow(at) => store.delete_row(partition, &r, WriteTime(at)).await,
        Op::DeletePartition(at) => store.delete_partition(partition, WriteTime(at)).await,
    }
    .expect("a write");
}

/// Sends both, once with everything in memory and once with a flush between
/// them, in both orders; the live value must be `expected`.
async fn check(harness: &dyn StoreHarness, one: Op, other: Op, expected: Option<&[u8]>) {
    for (first, second) in [(one, other), (other, one)] {
        for flush in [false, true] {
            let store = harness.fresh().await;
            let partition = new_partition();
            send(&store, &partition, first).await;
            if flush {
                harness.flush_and_compact().await;
            }
            send(&store, &partition, second).await;
            if flush {
                harness.flush_and_compact().await;
            }
            let cell = store
                .read_cell(&partition, &record(b"r"))
                .await
                .expect("read_cell");
            let found = cell.as_ref().map(|cell| cell.cell.as_slice());
            assert_eq!(
                found, expected,
                "{first:?}, then {second:?}, flush: {flush}"
            );
        }
    }
}

pub(super) async fn the_preferred_write_stays_in_either_order(harness: &dyn StoreHarness) {
    let put = |at, ttl_s, cell| Op::Put { at, ttl_s, cell };
    // Real write times, so that a server's guards on old and future ones hold.
    let t = harness.now().0;
    let cases: [(Op, Op, Option<&[u8]>); 9] = [
        // The later write, whatever it is.
        (put(t, 0, b"a"), put(t - 1, 0, b"z"), Some(b"a")),
        (put(t, 0, b"a"), put(t - 1, 2000, b"z"), Some(b"a")),
        (put(t, 0, b"a"), Op::DeleteCell(t - 1), Some(b"a")),
        // At one write time: a tombstone, then what expires, then the bytes.
        (Op::DeleteCell(t), put(t, 0, b"z"), None),
        (Op::DeleteCell(t), put(t, 2000, b"z"), None),
        (put(t, 2000, b"a"), put(t, 0, b"z"), Some(b"a")),
        (put(t, 4000, b"a"), put(t, 2000, b"z"), Some(b"a")),
        (
            put(t, 0, b"\0\0\x02\x2c."),
            put(t, 0, b"\0\0\x02\x2bz"),
            Some(b"\0\0\x02\x2c."),
        ),
        (put(t, 0, b"ab"), put(t, 0, b"a"), Some(b"ab")),
    ];
    for (one, other, expected) in cases {
        check(harness, one, other, expected).await;
    }
}

pub(super) async fn tombstones_cover_what_is_not_newer(harness: &dyn StoreHarness) {
    let t = harness.now().0;
    for ttl_s in [0, 2000] {
        for delete in [Op::DeleteCell, Op::DeleteRow, Op::DeletePartition] {
            for (offset, survives) in [(-1, false), (0, false), (1, true)] {
                let value = Op::Put {
                    at: t + offset,
                    ttl_s,
                    cell: b"x",
                };
                let expected: Option<&[u8]> = survives.then_some(b"x");
                check(harness, value, delete(t), expected).await;
            }
        }
    }
    // The later of two tombstones counts, of whatever level.
    let store = harness.fresh().await;
    for deletes in [
        [Op::DeletePartition(t), Op::DeleteRow(t + 5)],
        [Op::DeleteRow(t + 5), Op::DeletePartition(t)],
        [Op::DeleteRow(t + 5), Op::DeleteRow(t)],
        [Op::DeleteCell(t + 5), Op::DeleteRow(t)],
        [Op::DeletePartition(t + 5), Op::DeleteCell(t)],
    ] {
        let partition = new_partition();
        for delete in deletes {
            send(&store, &partition, delete).await;
        }
        for (at, live) in [(t + 5, false), (t + 6, true)] {
            send(
                &store,
                &partition,
                Op::Put {
                    at,
                    ttl_s: 0,
                    cell: b"x",
                },
            )
            .await;
            let cell = store
                .read_cell(&partition, &record(b"r"))
                .await
                .expect("read_cell");
            assert_eq!(
                cell.is_some(),
                live,
                "{deletes:?}, then a write at {}",
                at - t
            );
        }
    }
}
