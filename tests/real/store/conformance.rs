//! The contract's suite, unchanged, and the promise it is there for, with live
//! clients.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rekeyd::clock::{Clock, SystemClock, WallTime, WriteTime};
use rekeyd::store::conformance::{StoreHarness, run_all};
use rekeyd::store::{CellWrite, Consistency, PageLimit, SharedStore};

use super::{new_store, partition, record};
use crate::services::cassandra;

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

struct OnCassandra {
    store: SharedStore,
    keyspace: String,
}

#[async_trait::async_trait]
impl StoreHarness for OnCassandra {
    async fn fresh(&self) -> SharedStore {
        self.store.clone()
    }

    fn now(&self) -> WallTime {
        SystemClock.wall()
    }

    async fn pass(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    fn turns_the_hands(&self) -> bool {
        false
    }

    async fn flush_and_compact(&self) {
        cassandra().flush_and_compact(&self.keyspace).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_of_a_store() {
    let (store, config) = new_store().await;
    let keyspace = config.keyspace;
    run_all(&OnCassandra { store, keyspace }).await;
}

/// What a record must show in the end: the client's last word on it.
type Expected = BTreeMap<u32, Option<Vec<u8>>>;

/// A worker rewrites every cell at the time it read, over and over, while clients
/// edit, delete and let expire. Whatever the interleaving, the clients' last
/// words stand, and each is either as the client wrote it or rewritten from that.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewriter_never_wins_over_live_clients() {
    const RECORDS: u32 = 60;
    const CLIENTS: u32 = 3;
    let (store, config) = new_store().await;
    let partition = partition();
    let start = SystemClock.wall().0;
    let first: Vec<_> = (0..RECORDS).map(|n| put(n, start, b"first", 0)).collect();
    store
        .write_cells(&partition, &first)
        .await
        .expect("written");

    let done = Arc::new(AtomicBool::new(false));
    let rewriter = {
        let (store, partition, done) = (store.clone(), partition.clone(), done.clone());
        tokio::spawn(async move {
            let mut rewritten = 0u64;
            // At least one whole pass after the clients have ended.
            loop {
                let was_done = done.load(Ordering::SeqCst);
                rewritten += rewrite(&store, &partition).await;
                if was_done {
                    return rewritten;
                }
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (store, partition) = (store.clone(), partition.clone());
            tokio::spawn(async move {
                let mut expected = Expected::new();
                for round in 0..12u32 {
                    // Each client has records of its own.
                    for n in (0..RECORDS).filter(|n| n % CLIENTS == client) {
                        let at = SystemClock.wall().0;
                        let text = format!("{client}:{n}:{round}").into_bytes();
                        match (n + round) % 5 {
                            0 => {
                                let at = WriteTime(at);
                                store
                                    .delete_row(&partition, &record(n), at)
                                    .await
                                    .expect("deleted");
                                expected.insert(n, None);
                            }
                            1 => {
                                let at = WriteTime(at);
                                store
                                    .delete_cell(&partition, &record(n), at)
                                    .await
                                    .expect("deleted");
                                expected.insert(n, None);
                            }
                            2 if round == 11 => {
                                let write = put(n, at, &text, 1);
                                store
                                    .write_cells(&partition, &[write])
                                    .await
                                    .expect("written");
                                expected.insert(n, None);
                            }
                            _ => {
                                let write = put(n, at, &text, 0);
                                store
                                    .write_cells(&partition, &[write])
                                    .await
                                    .expect("written");
                                expected.insert(n, Some(text));
                            }
                        }
                    }
                }
                expected
            })
        })
        .collect();
    let mut expected = Expected::new();
    for client in clients {
        expected.extend(client.await.expect("a client"));
    }
    // The last values that expire have a TTL of 1 s, and what rewrites them 6 s
    // from when that is written, which on a busy machine is later than it was read.
    let waited = tokio::time::timeout(PATIENCE, async {
        while all(&store, &partition)
            .await
            .iter()
            .any(|cell| cell.ttl_s.is_some())
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert!(waited.await.is_ok(), "something never expires");
    done.store(true, Ordering::SeqCst);
    let rewritten = rewriter.await.expect("the rewriter");
    assert!(rewritten > 0, "the rewriter did nothing");
    cassandra().flush_and_compact(&config.keyspace).await;

    let mut found = BTreeMap::new();
    for cell in all(&store, &partition).await {
        let n = u32::from_be_bytes(cell.record.as_bytes().try_into().expect("4 bytes"));
        assert_eq!(
            cell.cell[0], 1,
            "record {n} was left behind by the last pass"
        );
        found.insert(n, cell.cell[1..].to_vec());
    }
    for (n, expected) in expected {
        assert_eq!(found.get(&n), expected.as_ref(), "record {n}");
    }
}

/// A cell whose first byte says whether it is rewritten, as an epoch would.
fn put(n: u32, at: i64, text: &[u8], ttl_s: u32) -> CellWrite {
    let mut cell = vec![0];
    cell.extend_from_slice(text);
    CellWrite {
        record: record(n),
        cell: cell.into(),
        write_time: WriteTime(at),
        ttl_s,
    }
}

async fn all(
    store: &SharedStore,
    partition: &rekeyd::store::Partition,
) -> Vec<rekeyd::store::StoredCell> {
    let limit = PageLimit {
        rows: 1000,
        bytes: 1 << 20,
    };
    let page = store
        .read_page(partition, None, limit, Consistency::All)
        .await
        .expect("read");
    assert_eq!(page.next, None);
    page.cells
}

/// One pass: every old cell is written again at its own time, expiring ones with
/// a later end.
async fn rewrite(store: &SharedStore, partition: &rekeyd::store::Partition) -> u64 {
    let old = all(store, partition).await;
    let writes: Vec<_> = old
        .into_iter()
        .filter(|cell| cell.cell[0] == 0)
        .map(|mut cell| {
            cell.cell[0] = 1;
            CellWrite {
                record: cell.record,
                cell: cell.cell.into(),
                write_time: cell.write_time,
                ttl_s: cell.ttl_s.map_or(0, |ttl| ttl + 5),
            }
        })
        .collect();
    store
        .write_cells(partition, &writes)
        .await
        .expect("written");
    writes.len() as u64
}
