//! The schema: made twice, made at once, drifted, forbidden settings.

use rekeyd::clock::SystemClock;
use rekeyd::registry::{Registry, Timing};
use rekeyd::store::cql::{Replication, Schema};
use rekeyd::store::{ControlTable, StoreErrorClass, StoreProblem};

use super::{cluster_at, new_keyspace, new_store, one_copy, open, session, settings};
use crate::services::cassandra;

#[tokio::test]
async fn a_healthy_store_has_no_problem() {
    let (store, _) = new_store().await;
    let health = store.health().await.expect("it answers");
    assert_eq!(health.problems, []);
    assert!(
        health.server.starts_with("Cassandra 5."),
        "{}",
        health.server
    );
    // One machine, one clock.
    assert!(
        health.clock_offset_ms.abs() < 500,
        "{}",
        health.clock_offset_ms
    );
    assert_eq!(store.away().await.expect("it answers"), [] as [String; 0]);
    // The canaries leave nothing behind.
    let left = store
        .control_partitions(ControlTable::Timing, None, 10)
        .await
        .expect("it answers");
    assert_eq!(left, [] as [String; 0]);
}

#[tokio::test]
async fn it_may_be_applied_twice_and_needs_replication_once() {
    let node = cassandra();
    let config = settings(&node.node(), &node.keyspace_name());
    let _alone = node.schema_lock().await;
    let cluster = cluster_at(&config).await;
    let refused = Schema::apply(&cluster, None)
        .await
        .expect_err("no keyspace");
    assert_eq!(refused.class, StoreErrorClass::Fatal);
    assert!(refused.message.contains("--replication"), "{refused}");

    let copies = cluster.in_one_datacenter(1).expect("one datacenter");
    let first = Schema::apply(&cluster, Some(&copies))
        .await
        .expect("applied");
    assert_eq!((first.made.len(), first.stood.len()), (9, 0));
    assert_eq!((first.problems, first.gc_grace_s), (Vec::new(), 864_000));
    let second = Schema::apply(&cluster, None).await.expect("applied");
    assert_eq!((second.made.len(), second.stood.len()), (0, 9));
    assert_eq!(second.problems, []);

    // Another replication is said, not made.
    let other = Schema::apply(&cluster, Some(&one_copy()))
        .await
        .expect("looked at");
    assert_eq!(other.problems.len(), 1, "{:?}", other.problems);
    assert!(other.problems[0].what.contains("another replication"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_may_apply_it_at_once() {
    let node = cassandra();
    let config = settings(&node.node(), &node.keyspace_name());
    let _alone = node.schema_lock().await;
    let tasks: Vec<_> = (0..3)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move {
                let cluster = cluster_at(&config).await;
                Schema::apply(&cluster, Some(&one_copy()))
                    .await
                    .expect("applied")
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.expect("a task").problems, []);
    }
    // Whoever came second did not take the first one's waits.
    let mut timings = Vec::new();
    for timing in [Timing::demo(), Timing::production()] {
        let store = std::sync::Arc::new(open(&config).await);
        let registry = Registry::new(store, SystemClock::shared());
        timings.push(registry.init_timing(&timing).await.expect("written"));
    }
    assert_eq!(timings, [Timing::demo(), Timing::demo()]);
}

async fn spoilt(statements: &[&str]) -> (rekeyd::config::StoreConfig, Vec<StoreProblem>) {
    let config = new_keyspace().await;
    let session = session().await;
    let _alone = cassandra().schema_lock().await;
    for statement in statements {
        let text = statement.replace("{ks}", &config.keyspace);
        session.query_unpaged(text, ()).await.expect("altered");
    }
    let cluster = cluster_at(&config).await;
    let done = Schema::apply(&cluster, None).await.expect("looked at");
    assert_eq!(done.made, [] as [String; 0], "nothing is made");
    let problems = Schema::check(&cluster).await.expect("looked at");
    assert_eq!(done.problems, problems);
    // Mended as it says, it is well.
    for problem in &problems {
        session
            .query_unpaged(problem.fix.as_str(), ())
            .await
            .unwrap_or_else(|e| panic!("the fix `{}` does not work: {e}", problem.fix));
    }
    let left = Schema::check(&cluster).await.expect("looked at");
    assert_eq!(left, []);
    (config, problems)
}

#[tokio::test]
async fn each_forbidden_setting_is_named_with_a_fix_that_works() {
    let (config, problems) = spoilt(&[
        "ALTER TABLE {ks}.cells WITH default_time_to_live = 3600",
        "ALTER TABLE {ks}.cells WITH gc_grace_seconds = 3600",
        "ALTER TABLE {ks}.data_keys WITH read_repair = 'NONE'",
        "ALTER TABLE {ks}.data_keys WITH cdc = true",
        "ALTER TABLE {ks}.jobs WITH gc_grace_seconds = 0",
        "ALTER KEYSPACE {ks} WITH durable_writes = false",
    ])
    .await;
    let expected = [
        ("keyspace", "durable_writes"),
        ("cells", "default_time_to_live = 3600"),
        ("cells", "gc_grace_seconds = 3600"),
        ("data_keys", "CDC"),
        ("data_keys", "read_repair"),
        ("jobs", "gc_grace_seconds = 0"),
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for (problem, (table, what)) in problems.iter().zip(expected) {
        assert!(problem.what.contains(table), "{problem:?}");
        assert!(problem.what.contains(what), "{problem:?}");
    }
    drop(config);
}

#[tokio::test]
async fn drifted_columns_are_named_with_a_fix_that_works() {
    let (_, problems) = spoilt(&[
        "ALTER TABLE {ks}.tasks DROP op",
        "ALTER TABLE {ks}.timing ADD extra int",
    ])
    .await;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].what.contains("tasks has no column `op`"));
    assert!(problems[1].what.contains("`extra`"));
}

#[tokio::test]
async fn a_table_of_another_shape_is_left_alone_and_named() {
    let config = new_keyspace().await;
    let session = session().await;
    let _alone = cassandra().schema_lock().await;
    let ks = &config.keyspace;
    for text in [
        format!("DROP TABLE {ks}.cells"),
        format!(
            "CREATE TABLE {ks}.cells (org text, place text, hour text, record text, note text static, cell blob, PRIMARY KEY ((org, place), hour, record))"
        ),
    ] {
        session.query_unpaged(text, ()).await.expect("changed");
    }
    let cluster = cluster_at(&config).await;
    let done = Schema::apply(&cluster, None).await.expect("looked at");
    let all = format!("{:?}", done.problems);
    for what in ["static column, `note`", "`hour`", "`record`"] {
        assert!(all.contains(what), "{what}: {all}");
    }
    assert_eq!(done.made, [] as [String; 0]);
    let copies = Replication::of("datacenter1", 2);
    let done = Schema::apply(&cluster, Some(&copies))
        .await
        .expect("looked at");
    assert!(done.problems.len() > 3, "{:?}", done.problems);
}
