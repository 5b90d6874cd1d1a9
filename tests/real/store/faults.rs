//! A network that fails: conditional writes whose answers are cut off, a node
//! that cannot be reached.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::config::StoreConfig;
use rekeyd::store::{Applied, ControlTable, ControlWrite, Expect, SharedStore, StoreErrorClass};

use super::{new_keyspace, open};
use crate::services::{Mode, Proxy, cassandra};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
const ID: &str = "n";

/// A store behind a proxy, and the proxy.
async fn behind_a_proxy(config: &StoreConfig) -> (SharedStore, Arc<Proxy>) {
    let proxy = Arc::new(Proxy::start(cassandra().node()));
    let mut config = config.clone();
    config.nodes = Some(proxy.addr().to_string());
    (Arc::new(open(&config).await), proxy)
}

async fn value(store: &SharedStore) -> Option<(u64, u64)> {
    let rows = store
        .control_get(ControlTable::Jobs, "p", &[ID])
        .await
        .expect("read");
    let row = rows.first()?;
    Some((row.rev, row.body.parse().expect("a number")))
}

/// One step from what stands; `None` if the store does not know what became of it.
async fn step(store: &SharedStore, from: Option<(u64, u64)>) -> Option<Applied> {
    let (expect, body) = match from {
        None => (Expect::Absent, 1),
        Some((rev, n)) => (Expect::Rev(rev), n + 1),
    };
    let write = ControlWrite {
        id: ID.to_owned(),
        expect,
        body: Some(body.to_string()),
    };
    match store.control_apply(ControlTable::Jobs, "p", &[write]).await {
        Ok(applied) => Some(applied),
        Err(error) => {
            assert_eq!(error.class, StoreErrorClass::Transient, "{error}");
            None
        }
    }
}

/// Waits until something that moves by itself is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "waited in vain: {what}");
}

/// The answer to each conditional write is cut in its middle. The one writer
/// there is must learn each time that its write was applied, and exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_cut_off_is_known_again() {
    let config = new_keyspace().await;
    let (store, proxy) = behind_a_proxy(&config).await;
    let direct: SharedStore = Arc::new(open(&config).await);
    for n in 0..5u64 {
        let from = value(&direct).await;
        assert_eq!(from.map_or(0, |(_, n)| n), n);
        let resets = proxy.resets();
        proxy.set(Mode::ResetAfter(3));
        let writing = {
            let store = store.clone();
            tokio::spawn(async move { step(&store, from).await })
        };
        // Its answer, or what was left of it, is gone.
        until("a reset", async || proxy.resets() > resets).await;
        until("the write", async || value(&direct).await != from).await;
        proxy.set(Mode::Pass);
        let applied = writing.await.expect("a task");
        assert_eq!(applied, Some(Applied::Yes), "write {n}");
    }
    assert_eq!(value(&direct).await, Some((5, 5)));
}

/// As above, and another writer has the next step done before the first can look:
/// it must not be told No. Nor Yes without knowing.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_overtaken_meanwhile_is_not_denied() {
    let config = new_keyspace().await;
    let (store, proxy) = behind_a_proxy(&config).await;
    let direct: SharedStore = Arc::new(open(&config).await);
    let resets = proxy.resets();
    proxy.set(Mode::ResetAfter(3));
    let writing = {
        let store = store.clone();
        tokio::spawn(async move { step(&store, None).await })
    };
    until("a reset", async || proxy.resets() > resets).await;
    until("the write", async || value(&direct).await.is_some()).await;
    let from = value(&direct).await;
    assert_eq!(step(&direct, from).await, Some(Applied::Yes));
    proxy.set(Mode::Pass);
    assert_eq!(writing.await.expect("a task"), None);
    assert_eq!(value(&direct).await, Some((2, 2)));
}

/// Two writers on one row, one of them behind a network that breaks all the time:
/// what they were told adds up.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_counted_twice_or_lost_while_connections_break() {
    let config = new_keyspace().await;
    let (behind, proxy) = behind_a_proxy(&config).await;
    let direct: SharedStore = Arc::new(open(&config).await);
    assert_eq!(step(&direct, None).await, Some(Applied::Yes));
    let writers: Vec<_> = [behind, direct.clone()]
        .into_iter()
        .map(|store| {
            let direct = direct.clone();
            tokio::spawn(async move {
                let (mut yes, mut unknown) = (0u64, 0u64);
                while yes + unknown < 25 {
                    match step(&store, value(&direct).await).await {
                        Some(Applied::Yes) => yes += 1,
                        Some(Applied::No) => {}
                        None => unknown += 1,
                    }
                }
                (yes, unknown)
            })
        })
        .collect();
    let breaking = tokio::spawn(async move {
        loop {
            proxy.set(Mode::ResetAfter(40));
            tokio::time::sleep(Duration::from_millis(30)).await;
            proxy.set(Mode::Pass);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let (mut yes, mut unknown) = (1, 0);
    for writer in writers {
        let told = writer.await.expect("a writer");
        yes += told.0;
        unknown += told.1;
    }
    breaking.abort();
    let (rev, n) = value(&direct).await.expect("it stands");
    assert_eq!(rev, n);
    assert!(
        (yes..=yes + unknown).contains(&n),
        "{yes} were told Yes, {unknown} nothing, and it stands at {n}"
    );
}

/// A node that cannot be reached is named, and no more when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_named_until_it_is_back() {
    let config = new_keyspace().await;
    let (store, proxy) = behind_a_proxy(&config).await;
    let away = async || store.away().await.expect("it answers");
    assert_eq!(away().await, [] as [String; 0]);
    proxy.set(Mode::Cut);
    until("the node is away", async || !away().await.is_empty()).await;
    let named = away().await;
    assert!(named[0].contains("datacenter1"), "{named:?}");
    let error = store
        .control_get(ControlTable::Jobs, "p", &[ID])
        .await
        .expect_err("nobody to ask");
    assert_eq!(error.class, StoreErrorClass::Transient, "{error}");
    proxy.set(Mode::Pass);
    until("the node is back", async || away().await.is_empty()).await;

    // The same when it is gone without a word.
    proxy.set(Mode::HalfOpen);
    until("the silent node is away", async || !away().await.is_empty()).await;
    proxy.set(Mode::Pass);
    until("the silent node is back", async || away().await.is_empty()).await;
}
