//! The store on a real Cassandra node.
//!
//! | file | what |
//! |---|---|
//! | `conformance` | the contract's suite, unchanged, and live clients |
//! | `pages` | pages by bytes, batches, classes of errors |
//! | `guarded` | TLS, login and rights; compression |
//! | `schema` | made twice, made at once, drifted, forbidden settings |
//! | `faults` | conditional writes whose answers are cut off; nodes that go |

mod conformance;
mod faults;
mod guarded;
mod pages;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use rekeyd::clock::SystemClock;
use rekeyd::config::{Config, StoreConfig, StoreKind};
use rekeyd::ids::{Hour, OrgId, Place, RecordId};
use rekeyd::store::cql::{Cluster, CqlStore, Replication, Schema};
use rekeyd::store::{CellWrite, Partition, SharedStore};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::services::cassandra;

/// The settings of a store at an address.
fn settings(node: &str, keyspace: &str) -> StoreConfig {
    let mut config = Config::default_for(&PathBuf::from("unused"))
        .expect("the defaults are valid")
        .store;
    config.kind = StoreKind::Cassandra;
    config.nodes = Some(node.to_owned());
    config.keyspace = keyspace.to_owned();
    config.request_timeout_ms = 30_000;
    config
}

async fn cluster_at(config: &StoreConfig) -> Cluster {
    Cluster::connect(config, None, SystemClock::shared())
        .await
        .expect("the node answers")
}

async fn open(config: &StoreConfig) -> CqlStore {
    CqlStore::on(cluster_at(config).await)
        .await
        .expect("its tables stand")
}

fn one_copy() -> Replication {
    Replication::parse("{'class': 'SimpleStrategy', 'replication_factor': 1}").expect("a map")
}

/// A new keyspace with the tables in it.
async fn new_keyspace() -> StoreConfig {
    let node = cassandra();
    let config = settings(&node.node(), &node.keyspace_name());
    let _alone = node.schema_lock().await;
    let cluster = cluster_at(&config).await;
    let done = Schema::apply(&cluster, Some(&one_copy()))
        .await
        .expect("applied");
    assert_eq!(done.problems, []);
    config
}

async fn new_store() -> (SharedStore, StoreConfig) {
    let config = new_keyspace().await;
    (Arc::new(open(&config).await), config)
}

/// A session of the test's own, to look and to spoil.
async fn session() -> Session {
    SessionBuilder::new()
        .known_node(cassandra().node())
        .build()
        .await
        .expect("the node answers")
}

fn partition() -> Partition {
    Partition {
        org: OrgId::new("acme").expect("an id"),
        place: Place::random(),
        hour: Hour::of_unix_seconds(1_550_077_323).expect("an hour"),
    }
}

fn record(n: u32) -> RecordId {
    RecordId::new(n.to_be_bytes()).expect("4 bytes")
}

fn write(n: u32, at: i64, cell: Vec<u8>) -> CellWrite {
    CellWrite {
        record: record(n),
        cell: cell.into(),
        write_time: rekeyd::clock::WriteTime(at),
        ttl_s: 0,
    }
}
