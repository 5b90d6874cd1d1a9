//! Conditional batches and listings of control rows.

use super::StoreHarness;
use crate::store::{Applied, ControlRow, ControlTable, ControlWrite, Expect, SharedStore};

fn new_partition() -> String {
    format!("p-{}", uuid::Uuid::new_v4())
}

fn change(id: &str, expect: Expect, body: Option<&str>) -> ControlWrite {
    ControlWrite {
        id: id.to_owned(),
        expect,
        body: body.map(str::to_owned),
    }
}

fn row(id: &str, rev: u64, body: &str) -> ControlRow {
    ControlRow {
        id: id.to_owned(),
        rev,
        body: body.to_owned(),
    }
}

async fn apply(store: &SharedStore, partition: &str, writes: &[ControlWrite]) -> Applied {
    store
        .control_apply(ControlTable::Registry, partition, writes)
        .await
        .expect("control_apply")
}

async fn get(store: &SharedStore, partition: &str, id: &str) -> Option<ControlRow> {
    store
        .control_get(ControlTable::Registry, partition, &[id])
        .await
        .expect("control_get")
        .pop()
}

pub(super) async fn a_row_is_made_once_and_changed_by_revision(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let p = new_partition();
    let steps = [
        (Expect::Rev(1), Some("no"), Applied::No, None),
        (Expect::Absent, Some("{}"), Applied::Yes, Some((1, "{}"))),
        (Expect::Absent, Some("no"), Applied::No, Some((1, "{}"))),
        (Expect::Rev(0), Some("no"), Applied::No, Some((1, "{}"))),
        (Expect::Rev(2), Some("no"), Applied::No, Some((1, "{}"))),
        (
            Expect::Rev(1),
            Some("{\"a\":1}"),
            Applied::Yes,
            Some((2, "{\"a\":1}")),
        ),
        (Expect::Rev(1), None, Applied::No, Some((2, "{\"a\":1}"))),
        // A change to the same body is a change.
        (
            Expect::Rev(2),
            Some("{\"a\":1}"),
            Applied::Yes,
            Some((3, "{\"a\":1}")),
        ),
        (Expect::Rev(3), None, Applied::Yes, None),
        (
            Expect::Absent,
            Some("again"),
            Applied::Yes,
            Some((1, "again")),
        ),
    ];
    for (n, (expect, body, applied, after)) in steps.into_iter().enumerate() {
        assert_eq!(
            apply(&store, &p, &[change("r", expect, body)]).await,
            applied,
            "step {n}"
        );
        let after = after.map(|(rev, body)| row("r", rev, body));
        assert_eq!(get(&store, &p, "r").await, after, "step {n}");
    }
    // The same id elsewhere is another row.
    assert_eq!(get(&store, &new_partition(), "r").await, None);
    let other_table = store
        .control_get(ControlTable::Jobs, &p, &["r"])
        .await
        .expect("control_get");
    assert_eq!(other_table, []);
}

pub(super) async fn a_batch_applies_whole_or_not_at_all(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let p = new_partition();
    let make = [
        change("a", Expect::Absent, Some("1")),
        change("b", Expect::Absent, Some("1")),
    ];
    assert_eq!(apply(&store, &p, &make).await, Applied::Yes);
    // The condition that fails stands first, in the middle, last.
    for failing in 0..3 {
        let mut batch = vec![
            change("a", Expect::Rev(1), Some("2")),
            change("b", Expect::Rev(1), None),
            change("c", Expect::Absent, Some("2")),
        ];
        batch[failing].expect = Expect::Rev(7);
        assert_eq!(apply(&store, &p, &batch).await, Applied::No, "{failing}");
        assert_eq!(get(&store, &p, "a").await, Some(row("a", 1, "1")));
        assert_eq!(get(&store, &p, "b").await, Some(row("b", 1, "1")));
        assert_eq!(get(&store, &p, "c").await, None);
    }
    let batch = [
        change("a", Expect::Rev(1), Some("2")),
        change("b", Expect::Rev(1), None),
        change("c", Expect::Absent, Some("2")),
    ];
    assert_eq!(apply(&store, &p, &batch).await, Applied::Yes);
    assert_eq!(get(&store, &p, "a").await, Some(row("a", 2, "2")));
    assert_eq!(get(&store, &p, "b").await, None);
    assert_eq!(get(&store, &p, "c").await, Some(row("c", 1, "2")));
    // A retry of what was applied finds its conditions gone.
    assert_eq!(apply(&store, &p, &batch).await, Applied::No);
}

pub(super) async fn concurrent_increments_lose_nothing(harness: &dyn StoreHarness) {
    const TASKS: u64 = 12;
    const EACH: u64 = 12;
    let store = harness.fresh().await;
    let p = new_partition();
    let make = [
        change("x", Expect::Absent, Some("0")),
        change("y", Expect::Absent, Some("0")),
    ];
    assert_eq!(apply(&store, &p, &make).await, Applied::Yes);
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, p) = (store.clone(), p.clone());
            tokio::spawn(async move {
                let mut done = 0;
                while done < EACH {
                    let rows = store
                        .control_get(ControlTable::Registry, &p, &["x", "y"])
                        .await
                        .expect("control_get");
                    // Read in one statement and written in one batch: never apart.
                    assert_eq!(rows[0].body, rows[1].body, "the two rows have come apart");
                    let n: u64 = rows[0].body.parse().expect("a number");
                    let body = (n + 1).to_string();
                    let batch = [
                        change("x", Expect::Rev(rows[0].rev), Some(&body)),
                        change("y", Expect::Rev(rows[1].rev), Some(&body)),
                    ];
                    if apply(&store, &p, &batch).await == Applied::Yes {
                        done += 1;
                        let seen = get(&store, &p, "x").await.expect("it is there");
                        assert!(
                            seen.rev >= rows[0].rev + 1,
                            "a read after an answer sees it"
                        );
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let total = TASKS * EACH;
    assert_eq!(
        get(&store, &p, "x").await,
        Some(row("x", total + 1, &total.to_string()))
    );
    assert_eq!(
        get(&store, &p, "y").await,
        Some(row("y", total + 1, &total.to_string()))
    );
}

pub(super) async fn one_of_many_makes_a_row(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let p = new_partition();
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let (store, p) = (store.clone(), p.clone());
            let batch = [change("one", Expect::Absent, Some(&n.to_string()))];
            tokio::spawn(async move { (n, apply(&store, &p, &batch).await) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        let (n, applied) = task.await.expect("a task");
        if applied == Applied::Yes {
            winners.push(n);
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(
        get(&store, &p, "one").await,
        Some(row("one", 1, &winners[0].to_string()))
    );
}

pub(super) async fn rows_are_read_in_one_statement(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let p = new_partition();
    let ids = ["org", "channel/c1", "it's \"odd\" %_", "ünï"];
    let batch: Vec<_> = ids
        .iter()
        .map(|id| change(id, Expect::Absent, Some(id)))
        .collect();
    assert_eq!(apply(&store, &p, &batch).await, Applied::Yes);
    let asked = ["ünï", "missing", "it's \"odd\" %_", "org"];
    let mut rows = store
        .control_get(ControlTable::Registry, &p, &asked)
        .await
        .expect("control_get");
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(
        rows,
        [
            row(ids[2], 1, ids[2]),
            row("org", 1, "org"),
            row("ünï", 1, "ünï")
        ]
    );
    let none = store
        .control_get(ControlTable::Registry, &p, &[])
        .await
        .expect("control_get");
    assert_eq!(none, []);
}

pub(super) async fn listings_go_by_prefix_in_order(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let p = new_partition();
    let mut ids = [
        "a", "job/", "job/1", "job/10", "job/2", "job/%", "job/é", "job0", "jo", "z",
    ];
    let batch: Vec<_> = ids
        .iter()
        .map(|id| change(id, Expect::Absent, Some("{}")))
        .collect();
    assert_eq!(apply(&store, &p, &batch).await, Applied::Yes);
    ids.sort_unstable();
    for prefix in ["", "job/", "job/1", "job", "job/%", "nothing", "z"] {
        let expected: Vec<_> = ids
            .iter()
            .filter(|id| id.starts_with(prefix))
            .copied()
            .collect();
        for limit in [1, 3, 100] {
            let mut found: Vec<String> = Vec::new();
            loop {
                let more = store
                    .control_list(
                        ControlTable::Registry,
                        &p,
                        prefix,
                        found.last().map(String::as_str),
                        limit,
                    )
                    .await
                    .expect("control_list");
                assert!(more.len() <= limit);
                if more.is_empty() {
                    break;
                }
                found.extend(more.into_iter().map(|row| row.id));
            }
            assert_eq!(found, expected, "prefix `{prefix}`, {limit} at a time");
        }
    }
    // `after` before and behind the prefix.
    let list = |after| store.control_list(ControlTable::Registry, &p, "job/", Some(after), 100);
    assert_eq!(list("a").await.expect("control_list").len(), 6);
    assert_eq!(list("z").await.expect("control_list").len(), 0);
}

pub(super) async fn partitions_are_listed_per_table(harness: &dyn StoreHarness) {
    let store = harness.fresh().await;
    let mut expected: Vec<String> = (0..5).map(|_| new_partition()).collect();
    for p in &expected {
        for id in ["1", "2", "3"] {
            let batch = [change(id, Expect::Absent, Some("{}"))];
            let applied = store
                .control_apply(ControlTable::Tasks, p, &batch)
                .await
                .expect("control_apply");
            assert_eq!(applied, Applied::Yes);
        }
    }
    expected.sort();
    let elsewhere = new_partition();
    assert_eq!(
        apply(
            &store,
            &elsewhere,
            &[change("1", Expect::Absent, Some("{}"))]
        )
        .await,
        Applied::Yes
    );
    for limit in [1, 2, 100] {
        let mut found: Vec<String> = Vec::new();
        loop {
            let after = found.last().map(String::as_str);
            let more = store
                .control_partitions(ControlTable::Tasks, after, limit)
                .await
                .expect("partitions");
            assert!(more.len() <= limit);
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        assert!(found.is_sorted(), "{found:?}");
        assert!(!found.contains(&elsewhere), "a partition of another table");
        // Other cases may have left theirs.
        found.retain(|p| expected.contains(p));
        assert_eq!(found, expected, "{limit} at a time");
    }
}
