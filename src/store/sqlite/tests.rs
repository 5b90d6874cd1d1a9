//! Tests of what is particular to the embedded store: the file and its
//! neighbours, several processes, purging. What every store must do is in
//! `store::conformance`.

mod processes;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, FakeClock, SystemClock};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, Place};
use crate::store::conformance::{self, StoreHarness};
use crate::store::{SharedStore, StoreError, StoreErrorClass};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn partition() -> Partition {
    Partition {
        org: OrgId::new("acme").unwrap(),
        place: Place::new("00112233445566778899aabbccddeeff").unwrap(),
        hour: Hour::of_unix_seconds(1_550_077_323).unwrap(),
    }
}

fn record(n: u32) -> RecordId {
    RecordId::new(n.to_be_bytes()).unwrap()
}

fn write(n: u32, at: i64, ttl_s: u32) -> CellWrite {
    CellWrite {
        record: record(n),
        cell: vec![n as u8; 20].into(),
        write_time: WriteTime(at),
        ttl_s,
    }
}

async fn all(store: &SqliteStore) -> Page {
    let limit = PageLimit {
        rows: usize::MAX,
        bytes: usize::MAX,
    };
    store
        .read_page(&partition(), None, limit, Consistency::Quorum)
        .await
        .unwrap()
}

fn refusal(opened: StoreResult<SqliteStore>) -> StoreError {
    opened.err().expect("it should be refused")
}

#[tokio::test]
async fn a_store_is_for_its_owner_and_survives_closing() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let store = SqliteStore::create(&path, SystemClock::shared()).unwrap();
    store
        .write_cells(&partition(), &[write(1, 5, 0), write(2, 5, 100)])
        .await
        .unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
    drop(store);
    let store = SqliteStore::open(&path, SystemClock::shared()).unwrap();
    assert_eq!(all(&store).await.cells.len(), 2);
}

#[tokio::test]
async fn what_is_not_a_store_is_refused_and_left_alone() {
    let folder = folder();
    let clock = SystemClock::shared;
    let path = folder.path().join("store.db");

    let err = refusal(SqliteStore::open(&path, clock()));
    assert_eq!(err.class, StoreErrorClass::Fatal);
    assert!(err.message.contains("there is no store here"), "{err}");
    assert!(!path.exists());

    for content in [
        &b""[..],
        b"some notes of mine, kept in a file of more than one hundred bytes, so that \
        it could be taken for a database's header if nobody looked",
    ] {
        std::fs::write(&path, content).unwrap();
        for opened in [
            SqliteStore::open(&path, clock()),
            SqliteStore::open_or_create(&path, clock()),
        ] {
            let err = refusal(opened);
            assert_eq!(err.class, StoreErrorClass::Fatal);
            assert!(err.message.contains("not a rekeyd store"), "{err}");
        }
        assert!(
            refusal(SqliteStore::create(&path, clock()))
                .message
                .contains("already")
        );
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    std::fs::remove_file(&path).unwrap();
    drop(SqliteStore::create(&path, clock()).unwrap());
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    let err = refusal(SqliteStore::open(&path, clock()));
    assert_eq!(err.class, StoreErrorClass::Fatal);
    assert!(err.message.contains("schema version 99"), "{err}");
}

#[test]
fn the_log_of_a_deleted_store_is_not_taken_over() {
    let folder = folder();
    let path = folder.path().join("store.db");
    std::fs::write(folder.path().join("store.db-wal"), b"old").unwrap();
    let err = refusal(SqliteStore::open_or_create(&path, SystemClock::shared()));
    assert!(err.message.contains("-wal"), "{err}");
    assert!(!path.exists());
}

#[tokio::test]
async fn many_may_make_one_store_at_once() {
    let folder = folder();
    let path: Arc<Path> = folder.path().join("store.db").into();
    let makers: Vec<_> = (0..8)
        .map(|n| {
            let path = Arc::clone(&path);
            tokio::task::spawn_blocking(move || {
                (
                    n,
                    SqliteStore::open_or_create(path, SystemClock::shared()).unwrap(),
                )
            })
        })
        .collect();
    for maker in makers {
        let (n, store) = maker.await.unwrap();
        store
            .write_cells(&partition(), &[write(n, 5, 0)])
            .await
            .unwrap();
    }
    let store = SqliteStore::open(path, SystemClock::shared()).unwrap();
    assert_eq!(all(&store).await.cells.len(), 8);
}

#[tokio::test]
async fn purging_waits_a_day_and_leaves_what_still_counts() {
    let folder = folder();
    let clock = FakeClock::at(WallTime(1_800_000_000_000_000));
    let store = SqliteStore::create(folder.path().join("s"), clock.clone()).unwrap();
    let p = partition();
    store
        .write_cells(
            &p,
            &[
                write(1, 5, 0),
                write(2, 5, 60),
                write(3, 5, 0),
                write(4, 5, 0),
            ],
        )
        .await
        .unwrap();
    clock.advance(Duration::from_secs(60));
    store
        .delete_cell(&p, &record(3), WriteTime(5))
        .await
        .unwrap();
    store
        .delete_row(&p, &record(4), WriteTime(5))
        .await
        .unwrap();

    // One second short of a day after the three were gone: all still win.
    clock.advance(Duration::from_secs(86_399));
    store.purge(clock.wall()).await.unwrap();
    store
        .write_cells(&p, &[write(2, 5, 0), write(3, 5, 0), write(4, 5, 0)])
        .await
        .unwrap();
    assert_eq!(all(&store).await.cells.len(), 1);

    clock.advance(Duration::from_secs(1));
    assert_eq!(store.purge(clock.wall()).await.unwrap(), 3, "the three");
    assert_eq!(store.purge(clock.wall()).await.unwrap(), 0);
    store
        .write_cells(&p, &[write(2, 5, 0), write(3, 5, 0), write(4, 5, 0)])
        .await
        .unwrap();
    assert_eq!(
        all(&store).await.cells.len(),
        4,
        "nothing is left of the three"
    );
}

#[tokio::test]
async fn purging_forgets_a_partition_tombstone_with_its_rows() {
    let folder = folder();
    let clock = FakeClock::at(WallTime(1_800_000_000_000_000));
    let store = SqliteStore::create(folder.path().join("s"), clock.clone()).unwrap();
    let p = partition();
    store
        .write_cells(&p, &[write(1, 5, 0), write(2, 5, 0), write(3, 9, 0)])
        .await
        .unwrap();
    store.delete_partition(&p, WriteTime(5)).await.unwrap();

    assert_eq!(
        store.purge(clock.wall()).await.unwrap(),
        2,
        "the rows at once"
    );
    store.write_cells(&p, &[write(1, 5, 0)]).await.unwrap();
    assert_eq!(
        all(&store).await.cells.len(),
        1,
        "the tombstone still counts"
    );

    clock.advance(Duration::from_secs(86_400));
    assert_eq!(store.purge(clock.wall()).await.unwrap(), 1, "the tombstone");
    store.write_cells(&p, &[write(1, 5, 0)]).await.unwrap();
    assert_eq!(all(&store).await.cells.len(), 2);
}

/// Two handles on one file, as two processes have them, handed out in turn.
/// "Compacting" is purging, which must never show.
struct Harness {
    _folder: TempDir,
    clock: Arc<FakeClock>,
    stores: [Arc<SqliteStore>; 2],
    next: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl StoreHarness for Harness {
    async fn fresh(&self) -> SharedStore {
        let n = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.stores[n % 2].clone()
    }

    fn now(&self) -> WallTime {
        self.clock.wall()
    }

    async fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }

    fn turns_the_hands(&self) -> bool {
        true
    }

    async fn flush_and_compact(&self) {
        self.stores[0].purge(self.clock.wall()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let clock = FakeClock::at(WallTime(1_800_000_000_000_000));
    let open = || Arc::new(SqliteStore::open_or_create(&path, clock.clone()).unwrap());
    let stores = [open(), open()];
    let harness = Harness {
        _folder: folder,
        clock,
        stores,
        next: 0.into(),
    };
    conformance::run_all(&harness).await;
}

/// Where the store can tell, it must: this one can.
#[tokio::test]
async fn another_key_at_the_same_address_is_invalid_and_harms_no_other_request() {
    let folder = folder();
    let store = SqliteStore::create(folder.path().join("s"), SystemClock::shared()).unwrap();
    let slice = SliceKey::messages(
        &partition().org,
        &ChannelId::new("c1").unwrap(),
        partition().hour,
    );
    let key = |row: &[u8]| KeyRow {
        key_id: KeyId([1; 16]),
        wrap_epoch: Epoch::FIRST,
        row: row.to_vec(),
    };
    store.insert_key(&slice, &key(b"one")).await.unwrap();
    let cells = [write(1, 5, 0)];
    // The three wait together, so they share a transaction.
    let p = partition();
    let (other, bad_ttl, good) = (key(b"two"), [write(2, 5, u32::MAX)], &cells);
    let (a, b, c) = tokio::join!(
        store.insert_key(&slice, &other),
        store.write_cells(&p, &bad_ttl),
        store.write_cells(&p, good),
    );
    assert_eq!(a.unwrap_err().class, StoreErrorClass::Invalid);
    assert_eq!(b.unwrap_err().class, StoreErrorClass::Invalid);
    c.unwrap();
    assert_eq!(store.read_keys(&slice).await.unwrap(), [key(b"one")]);
    assert_eq!(all(&store).await.cells.len(), 1);
}
