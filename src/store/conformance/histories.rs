//! Random histories of writes and deletions, sent to the store and to the pure
//! model of the merge order, which must show the same after each step.
//!
//! Few records and few write times, so that ties are the rule. A failure prints
//! the seed and the history; `REKEYD_TEST_SEED` runs one seed again.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{NO_LIMIT, StoreHarness, cell_write, new_partition, read_all, record};
use crate::clock::WriteTime;
use crate::ids::RecordId;
use crate::store::merge::{Cell, Content, Deletion, Row, Rows};
use crate::store::{PageLimit, Partition, SharedStore, StoredCell};

/// Histories in one round. They run side by side, each on its own partition.
const SIDE_BY_SIDE: usize = 8;
const STEPS: usize = 30;
/// The clock's step. TTLs are multiples of it, so that values written at
/// different times come to expire in the same second.
const TICK_S: u32 = 10;
/// Where the clock is the server's: TTLs so far apart that the seconds the
/// history takes cannot change their order.
const FAR_S: u32 = 10_000;

#[derive(Debug, Clone)]
enum Op {
    Put {
        id: u8,
        at: i64,
        ttl_s: u32,
        cell: Vec<u8>,
    },
    DeleteCell {
        id: u8,
        at: i64,
    },
    DeleteRow {
        id: u8,
        at: i64,
    },
    DeletePartition {
        at: i64,
    },
}

struct History {
    partition: Partition,
    model: Rows,
    log: String,
    sent: Vec<Op>,
}

pub(super) async fn stores_agree_with_the_model(harness: &dyn StoreHarness) {
    let given = std::env::var("REKEYD_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let rounds = if given.is_some() { 1 } else { 30 };
    for _ in 0..rounds {
        round(harness, given.unwrap_or_else(rand::random)).await;
    }
}

async fn round(harness: &dyn StoreHarness, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = harness.fresh().await;
    let turns = harness.turns_the_hands();
    // Write times in the past, so that a server's guards hold.
    let start = harness.now().0 - 1_000_000_000;
    let mut histories: Vec<_> = (0..SIDE_BY_SIDE)
        .map(|_| History {
            partition: new_partition(),
            model: Rows::default(),
            log: String::new(),
            sent: Vec::new(),
        })
        .collect();
    for step in 0..STEPS {
        if turns && rng.random_bool(0.2) {
            harness.pass(Duration::from_secs(u64::from(TICK_S))).await;
        }
        if rng.random_bool(if turns { 0.1 } else { 0.02 }) {
            harness.flush_and_compact().await;
        }
        let now_s = harness.now().unix_seconds();
        let sends = histories.iter_mut().map(|history| {
            let op = match history.sent.len() {
                sent if sent > 0 && rng.random_bool(0.15) => {
                    history.sent[rng.random_range(0..sent)].clone()
                }
                _ => any_op(&mut rng, start, turns),
            };
            // Writing to a string does not fail.
            let _ = writeln!(history.log, "  second {now_s}: {op:?}");
            history.model = std::mem::take(&mut history.model).merge(meaning(&op, now_s));
            history.sent.push(op.clone());
            send(&store, &history.partition, op)
        });
        join_all(sends).await;
        if turns || step + 1 == STEPS {
            for history in &histories {
                compare(harness, &store, history, seed, &mut rng).await;
            }
        }
    }
}

fn any_op(rng: &mut StdRng, start: i64, turns: bool) -> Op {
    let id = rng.random_range(0..3);
    let at = start + rng.random_range(0..4);
    match rng.random_range(0..20) {
        0 => Op::DeletePartition { at: at - 1 },
        1 | 2 => Op::DeleteRow { id, at: at - 1 },
        3 | 4 => Op::DeleteCell { id, at },
        5..=11 => {
            let cell = (0..rng.random_range(0..3))
                .map(|_| rng.random_range(0..3))
                .collect();
            Op::Put {
                id,
                at,
                ttl_s: 0,
                cell,
            }
        }
        _ if turns => {
            let cell = (0..rng.random_range(0..2))
                .map(|_| rng.random_range(0..3))
                .collect();
            Op::Put {
                id,
                at,
                ttl_s: TICK_S * rng.random_range(1..4),
                cell,
            }
        }
        _ => {
            let n = rng.random_range(1..4u8);
            Op::Put {
                id,
                at,
                ttl_s: FAR_S * u32::from(n),
                cell: vec![n],
            }
        }
    }
}

fn id_of(id: u8) -> RecordId {
    record(&[id])
}

/// What the op is to the model, if the store gets it at `now_s`.
fn meaning(op: &Op, now_s: i64) -> Rows {
    let row_of = |id: u8, at: i64, content: Content| {
        Rows::of_row(
            id_of(id),
            Row::of_cell(Cell {
                write_time: WriteTime(at),
                content,
            }),
        )
    };
    let deletion = |at: i64| Deletion {
        at: WriteTime(at),
        deleted_s: now_s,
    };
    match op {
        Op::Put {
            id,
            at,
            ttl_s: 0,
            cell,
        } => row_of(
            *id,
            *at,
            Content::Lasting {
                bytes: cell.clone(),
            },
        ),
        Op::Put {
            id,
            at,
            ttl_s,
            cell,
        } => {
            let expiry_s = now_s + i64::from(*ttl_s);
            row_of(
                *id,
                *at,
                Content::Expiring {
                    expiry_s,
                    ttl_s: Reverse(*ttl_s),
                    bytes: cell.clone(),
                },
            )
        }
        Op::DeleteCell { id, at } => row_of(*id, *at, Content::Tombstone { deleted_s: now_s }),
        Op::DeleteRow { id, at } => Rows::of_row(id_of(*id), Row::of_deletion(deletion(*at))),
        Op::DeletePartition { at } => Rows::of_deletion(deletion(*at)),
    }
}

async fn send(store: &SharedStore, partition: &Partition, op: Op) {
    match op {
        Op::Put {
            id,
            at,
            ttl_s,
            cell,
        } => {
            store
                .write_cells(partition, &[cell_write(&[id], at, ttl_s, &cell)])
                .await
        }
        Op::DeleteCell { id, at } => {
            store
                .delete_cell(partition, &id_of(id), WriteTime(at))
                .await
        }
        Op::DeleteRow { id, at } => store.delete_row(partition, &id_of(id), WriteTime(at)).await,
        Op::DeletePartition { at } => store.delete_partition(partition, WriteTime(at)).await,
    }
    .expect("a write");
}

async fn compare(
    harness: &dyn StoreHarness,
    store: &SharedStore,
    history: &History,
    seed: u64,
    rng: &mut StdRng,
) {
    let limit = if rng.random_bool(0.5) {
        NO_LIMIT
    } else {
        PageLimit { rows: 1, bytes: 1 }
    };
    let (found, _) = read_all(store, &history.partition, limit).await;
    let now_s = harness.now().unix_seconds();
    let expected: Vec<StoredCell> = history
        .model
        .live_at(now_s)
        .map(|(record, cell)| StoredCell {
            record: record.clone(),
            cell: cell.live_at(now_s).unwrap_or_default().to_vec(),
            write_time: cell.write_time,
            ttl_s: cell.ttl_left_s(now_s),
        })
        .collect();
    assert!(
        agree(&found, &expected, harness.turns_the_hands()),
        "seed {seed}: the store shows {found:?}, the model {expected:?}, after\n{}",
        history.log
    );
    let id = id_of(rng.random_range(0..3));
    let one = store
        .read_cell(&history.partition, &id)
        .await
        .expect("read_cell");
    let same: Vec<_> = expected
        .into_iter()
        .filter(|cell| cell.record == id)
        .collect();
    let one: Vec<_> = one.into_iter().collect();
    assert!(
        agree(&one, &same, harness.turns_the_hands()),
        "seed {seed}: a single read shows {one:?}, the model {same:?}, after\n{}",
        history.log
    );
}

/// Equal; where the clock is the server's, a TTL may differ by the seconds the
/// history took.
fn agree(found: &[StoredCell], expected: &[StoredCell], exact: bool) -> bool {
    let near = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) < FAR_S / 10,
        (a, b) => a == b,
    };
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(a, b)| {
            if exact {
                return a == b;
            }
            (&a.record, &a.cell, a.write_time) == (&b.record, &b.cell, b.write_time)
                && near(a.ttl_s, b.ttl_s)
        })
}
