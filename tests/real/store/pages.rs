//! Pages by bytes, batches, classes of errors.

use std::time::Duration;

use rekeyd::clock::SystemClock;
use rekeyd::store::cql::{Cluster, CqlStore, Password};
use rekeyd::store::{Consistency, ControlTable, PageLimit, Store, StoreErrorClass, StoreResult};

use super::{new_keyspace, new_store, open, partition, record, session, settings, write};
use crate::services::cassandra;

fn class<T>(answer: StoreResult<T>) -> (StoreErrorClass, String) {
    let error = answer.err().expect("an error");
    (error.class, error.to_string())
}

/// Small cells, then large ones: every page keeps its bytes, but for a cell that
/// is larger alone, and together they are the partition.
#[tokio::test]
async fn pages_keep_their_bytes_whatever_the_cells_are() {
    const LARGE: usize = 300_000;
    let (store, _) = new_store().await;
    let partition = partition();
    let small: Vec<_> = (0..400).map(|n| write(n, 5, vec![1; 200])).collect();
    store
        .write_cells(&partition, &small)
        .await
        .expect("written");
    for n in 400..420 {
        let large = [write(n, 5, vec![2; LARGE])];
        store
            .write_cells(&partition, &large)
            .await
            .expect("written");
    }
    for bytes in [1_000, 100_000, 1_000_000] {
        let limit = PageLimit { rows: 150, bytes };
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store
                .read_page(&partition, after.as_ref(), limit, Consistency::Quorum)
                .await
                .expect("read");
            let size: usize = page.cells.iter().map(|cell| cell.cell.len()).sum();
            assert!(
                size <= bytes || page.cells.len() == 1,
                "{} cells of {size} bytes in a page of {bytes}",
                page.cells.len()
            );
            assert!(page.cells.len() <= limit.rows);
            found.extend(page.cells.into_iter().map(|cell| cell.record));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let expected: Vec<_> = (0..420).map(record).collect();
        assert_eq!(found, expected, "pages of {bytes} bytes");
    }
}

/// More than fits one batch goes in several; what one batch may hold is known.
#[tokio::test]
async fn a_large_write_is_cut_into_batches() {
    let config = new_keyspace().await;
    let store = open(&config).await;
    assert_eq!(store.batch_limit(), (100, 128 << 10));
    let partition = partition();
    let writes: Vec<_> = (0..1234).map(|n| write(n, 7, vec![3; 900])).collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("written");
    let limit = PageLimit {
        rows: 5000,
        bytes: 10 << 20,
    };
    let page = store
        .read_page(&partition, None, limit, Consistency::All)
        .await
        .expect("read");
    assert_eq!((page.cells.len(), page.next), (1234, None));
    assert!(page.cells.iter().all(|cell| cell.write_time.0 == 7));
    let pace = store.pace().expect("it has one");
    assert!(pace.limit >= 1 && pace.limit <= pace.ceiling);
}

/// One row that is refused, refuses its batch as invalid; the others go alone.
/// A batch that was refused makes the next ones smaller.
#[tokio::test]
async fn a_refused_batch_is_invalid_and_makes_the_next_smaller() {
    let config = new_keyspace().await;
    let store = open(&config).await;
    let partition = partition();
    let mut writes: Vec<_> = (0..10).map(|n| write(n, 7, vec![3; 10])).collect();
    // Beyond what the server can keep, and within what a TTL can say.
    writes[4].ttl_s = 630_000_000;
    let (class_of, said) = class(store.write_cells(&partition, &writes).await);
    assert_eq!(class_of, StoreErrorClass::Invalid, "{said}");
    assert_eq!(store.batch_limit(), (50, 64 << 10));
    for write in writes {
        let bad = write.ttl_s > 0;
        assert_eq!(store.write_cells(&partition, &[write]).await.is_err(), bad);
    }
}

/// A caller that has begun requests and does not look at them keeps nobody
/// waiting.
#[tokio::test]
async fn a_request_that_nobody_looks_at_takes_no_turn_for_good() {
    let mut config = new_keyspace().await;
    config.requests_in_flight = 2;
    let store = open(&config).await;
    let partition = partition();
    let limit = PageLimit {
        rows: 10,
        bytes: 1000,
    };
    let read = || Box::pin(store.read_page(&partition, None, limit, Consistency::Quorum));
    let mut begun: Vec<_> = (0..4).map(|_| read()).collect();
    for request in &mut begun {
        assert!(futures::poll!(request).is_pending());
    }
    let another = tokio::time::timeout(Duration::from_secs(30), read()).await;
    another.expect("it gets its turn").expect("read");
    for request in begun {
        request.await.expect("read");
    }
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let node = cassandra();
    let no_keyspace = settings(&node.node(), "nowhere");
    let opened = CqlStore::open(&no_keyspace, None, SystemClock::shared()).await;
    let (class_of, said) = class(opened);
    assert_eq!(class_of, StoreErrorClass::Fatal, "{said}");
    assert!(said.contains("rekeyd schema"), "{said}");

    let mut nobody = settings("127.0.0.1:1", "nowhere");
    nobody.connect_timeout_ms = 500;
    let opened = Cluster::connect(&nobody, None, SystemClock::shared()).await;
    let (class_of, said) = class(opened);
    assert_eq!(class_of, StoreErrorClass::Transient, "{said}");
    assert!(said.contains("127.0.0.1:1"), "{said}");

    let mut elsewhere = settings(&node.node(), "nowhere");
    elsewhere.datacenter = Some("mars".to_owned());
    let opened = Cluster::connect(&elsewhere, None, SystemClock::shared()).await;
    let (class_of, said) = class(opened);
    assert_eq!(class_of, StoreErrorClass::Fatal, "{said}");
    assert!(
        said.contains("mars") && said.contains("datacenter1"),
        "{said}"
    );

    let mut nameless = settings(&node.node(), "nowhere");
    nameless.user = Some("rekeyd".to_owned());
    let opened = Cluster::connect(&nameless, None, SystemClock::shared()).await;
    let (class_of, said) = class(opened);
    assert_eq!(class_of, StoreErrorClass::Fatal, "{said}");
    assert!(said.contains("REKEYD_STORE_PASSWORD"), "{said}");
    // A node that asks for none takes any.
    let password = Some(Password::new("hunter2"));
    Cluster::connect(&nameless, password, SystemClock::shared())
        .await
        .expect("connected");
}

/// A table that is dropped under a running process stops it with the fix, and
/// does not look like a network that is slow.
#[tokio::test]
async fn a_table_that_goes_away_is_fatal() {
    let config = new_keyspace().await;
    let store = open(&config).await;
    let session = session().await;
    {
        let _alone = cassandra().schema_lock().await;
        let drop = format!("DROP TABLE {}.jobs", config.keyspace);
        session.query_unpaged(drop, ()).await.expect("dropped");
    }
    let rows = store.control_get(ControlTable::Jobs, "p", &["a"]).await;
    let (class_of, said) = class(rows);
    assert_eq!(class_of, StoreErrorClass::Fatal, "{said}");
    assert!(said.contains("rekeyd schema"), "{said}");
}
