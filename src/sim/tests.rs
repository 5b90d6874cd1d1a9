//! The simulated store is a store: it keeps the contract that every backend
//! keeps. And it is one whose replicas differ.

use std::sync::Arc;
use std::time::Duration;

use super::chance::Dice;
use super::process::{Process, true_time};
use super::replicas::Replicas;
use super::store::SimStore;
use super::time::{self, Time};
use super::weather::Weather;
use crate::clock::{WallTime, WriteTime};
use crate::ids::{Hour, OrgId, Place, RecordId};
use crate::replay;
use crate::store::conformance::{StoreHarness, run_all};
use crate::store::{CellWrite, Consistency, PageLimit, Partition, SharedStore, Store};

struct Calm {
    time: Time,
    replicas: Arc<Replicas>,
}

impl Calm {
    fn store(&self) -> SimStore {
        SimStore {
            replicas: self.replicas.clone(),
            process: Process::new(&self.time, "a process"),
        }
    }
}

#[async_trait::async_trait]
impl StoreHarness for Calm {
    async fn fresh(&self) -> SharedStore {
        Arc::new(self.store())
    }

    fn now(&self) -> WallTime {
        true_time(&self.time)
    }

    async fn pass(&self, span: Duration) {
        self.time.sleep(span).await;
    }

    fn turns_the_hands(&self) -> bool {
        // Every call takes some time as well.
        false
    }

    async fn flush_and_compact(&self) {}
}

fn on(seed: u64) -> impl Fn(Time) -> Calm {
    move |time| Calm {
        replicas: Replicas::new(&time, &Dice::new(seed)),
        time,
    }
}

#[test]
fn the_simulated_store_keeps_the_contract_of_every_backend() {
    let _replaying = replay::from_seed(1);
    let harness = on(1);
    let done = time::run(|time| async move { run_all(&harness(time)).await });
    assert_eq!(done, Some(()));
}

/// If every replica had every write at once, no history could show what hints
/// and quorums are for.
#[test]
fn what_one_replica_has_not_yet_a_quorum_shows() {
    let _replaying = replay::from_seed(2);
    let harness = on(2);
    let done = time::run(|time| async move {
        let calm = harness(time);
        let store = calm.store();
        let partition = Partition {
            org: OrgId::new("acme").unwrap(),
            place: Place::random(),
            hour: Hour::of_unix_seconds(0).unwrap(),
        };
        let record = RecordId::new("r").unwrap();
        let write = CellWrite {
            record: record.clone(),
            cell: b"cell".to_vec().into(),
            write_time: WriteTime(1),
            ttl_s: 0,
        };
        calm.replicas.set_down(2, true);
        store.write_cells(&partition, &[write]).await.unwrap();
        let alone = |n: usize| calm.replicas.partition(&partition, &[n]).rows.len();
        assert_eq!([alone(0), alone(1), alone(2)], [1, 1, 0]);
        let limit = PageLimit {
            rows: 10,
            bytes: 1000,
        };
        let all = store.read_page(&partition, None, limit, Consistency::All);
        assert!(all.await.is_err(), "not while one is down");
        calm.replicas.set_down(2, false);
        assert!(!calm.replicas.is_quiet(), "a hint is on its way");
        let seen = store.read_cell(&partition, &record).await.unwrap();
        assert!(seen.is_some());
        calm.time.sleep(Duration::from_secs(600)).await;
        assert!(calm.replicas.is_quiet());
        assert_eq!(alone(2), 1, "the hint has come");
    });
    assert_eq!(done, Some(()));
}

/// Foul weather that were none would find nothing.
#[test]
fn weather_does_harm() {
    let _replaying = replay::from_seed(3);
    let harness = on(3);
    let failed = time::run(|time| async move {
        let calm = harness(time);
        calm.replicas.set_weather(Weather {
            refused: 0.5,
            ..Weather::CALM
        });
        let mut failed = 0;
        for _ in 0..100 {
            let asked = calm.store();
            failed += u32::from(
                asked
                    .control_partitions(crate::store::ControlTable::Jobs, None, 1)
                    .await
                    .is_err(),
            );
        }
        failed
    });
    assert!((20..80).contains(&failed.unwrap()), "{failed:?}");
}
