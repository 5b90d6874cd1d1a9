use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::clock::FakeClock;
use crate::queue::SharedQueue;
use crate::queue::conformance::{self, Harness};

struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<FakeClock>,
    made: AtomicU32,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: FakeClock::at(WallTime(1_700_000_000_000_000)),
            made: AtomicU32::new(0),
        }
    }

    fn open(&self, name: &str) -> SqliteQueue {
        SqliteQueue::open(&self.dir.path().join(name), 3, self.clock.clone()).unwrap()
    }
}

#[async_trait::async_trait]
impl Harness for Bench {
    async fn queue(&self) -> SharedQueue {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        Arc::new(self.open(&format!("queue-{n}")))
    }
    fn max_receives(&self) -> u32 {
        3
    }
    async fn pass(&self, span: Duration) {
        self.clock.advance(span);
    }
}

#[tokio::test]
async fn conforms() {
    conformance::all(&Bench::new()).await;
}

#[tokio::test]
async fn a_stale_receipt_settles_nothing() {
    let bench = Bench::new();
    let queue = bench.open("q");
    queue.send("job").await.unwrap();
    let hidden = Duration::from_secs(2);
    let stale = queue
        .receive(1, hidden, Duration::ZERO)
        .await
        .unwrap()
        .remove(0);
    bench.clock.advance(hidden);
    let expired = |result| matches!(result, Err(QueueError::ReceiptExpired));
    assert!(
        expired(queue.extend(&stale.receipt, hidden).await),
        "its time is up"
    );
    let current = queue
        .receive(1, hidden, Duration::ZERO)
        .await
        .unwrap()
        .remove(0);
    assert!(expired(queue.delete_one(&stale.receipt).await));
    assert!(expired(queue.refuse(&stale, "no").await));
    assert!(expired(queue.extend(&stale.receipt, hidden).await));
    assert!(queue.dead_letters(1).await.unwrap().is_empty());
    queue.extend(&current.receipt, hidden).await.unwrap();
    // Lapsed, but not handed to another: settling it still counts.
    bench.clock.advance(hidden);
    queue.delete_one(&current.receipt).await.unwrap();
    assert!(
        queue
            .receive(1, hidden, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(expired(queue.delete_one("nonsense").await));
}

#[tokio::test]
async fn waiting_ends_with_a_message_or_in_time() {
    let bench = Bench::new();
    let (consumer, sender) = (Arc::new(bench.open("q")), bench.open("q"));
    let hidden = Duration::from_secs(60);
    let wait = |wait| {
        let consumer = consumer.clone();
        tokio::spawn(async move { consumer.receive(1, hidden, wait).await.unwrap() })
    };
    let turn = async |task: &tokio::task::JoinHandle<_>| {
        let mut turned = Duration::ZERO;
        while !task.is_finished() {
            let step = Duration::from_millis(50);
            bench.clock.advance(step);
            turned += step;
            // The transaction is on another thread; give it the time it takes.
            tokio::task::spawn_blocking(std::thread::yield_now)
                .await
                .unwrap();
        }
        turned
    };
    let idle = wait(Duration::from_secs(20));
    assert!(turn(&idle).await >= Duration::from_secs(20));
    assert!(idle.await.unwrap().is_empty());

    let served = wait(Duration::from_secs(1_000_000));
    sender.send("late").await.unwrap();
    turn(&served).await;
    assert_eq!(served.await.unwrap()[0].body, "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_of_several_connections_share_without_doubles() {
    let bench = Bench::new();
    let hidden = Duration::from_secs(600);
    let mut tasks = tokio::task::JoinSet::new();
    for who in 0..4 {
        let queue = bench.open("q");
        tasks.spawn(async move {
            for n in 0..20 {
                queue.send(&format!("{who}-{n}")).await.unwrap();
            }
            let mut got = Vec::new();
            for _ in 0..20 {
                for delivery in queue.receive(3, hidden, Duration::ZERO).await.unwrap() {
                    queue.delete_one(&delivery.receipt).await.unwrap();
                    got.push(delivery.body);
                }
            }
            got
        });
    }
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(got) = tasks.join_next().await {
        for body in got.unwrap() {
            *seen.entry(body).or_default() += 1;
        }
    }
    let queue = bench.open("q");
    loop {
        let rest = queue.receive(10, hidden, Duration::ZERO).await.unwrap();
        if rest.is_empty() {
            break;
        }
        for delivery in rest {
            *seen.entry(delivery.body).or_default() += 1;
        }
    }
    assert_eq!(seen.len(), 80);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
}

#[tokio::test]
async fn messages_outlive_the_process() {
    let bench = Bench::new();
    let id = bench.open("q").send("job").await.unwrap();
    let got = bench
        .open("q")
        .receive(1, Duration::from_secs(1), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(got[0].message_id, id);
}

#[test]
fn what_is_no_database_is_refused() {
    let bench = Bench::new();
    std::fs::write(
        bench.dir.path().join("q"),
        "not a database, but long enough to look",
    )
    .unwrap();
    let opened = SqliteQueue::open(&bench.dir.path().join("q"), 3, bench.clock.clone());
    assert!(matches!(opened, Err(QueueError::Fatal(_))));
}

#[test]
fn many_open_a_new_file_at_once() {
    let bench = Bench::new();
    for round in 0..40 {
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| bench.open(&format!("new-{round}")));
            }
        });
    }
}
