//! `rekeyd chaos` on Cassandra and SQS, in a keyspace of its own and in no other.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::services::{Cluster, cassandra, schema_lock, sqs};

const DONE: i32 = 0;
const CONFLICT: i32 = 6;

fn chaos(nodes: &str, keyspace: &str, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command
        .args(["chaos", "--store", "cassandra", "--nodes"])
        .arg(nodes)
        .args(["--keyspace", keyspace, "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn keyspaces(session: &Session) -> Vec<String> {
    let query = "SELECT keyspace_name FROM system_schema.keyspaces";
    let rows = session.query_unpaged(query, ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let names = rows.rows::<(String,)>().unwrap();
    names.map(|row| row.unwrap().0).collect()
}

async fn session() -> Session {
    let builder = SessionBuilder::new().known_node(cassandra().node());
    builder.build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_on_servers_loses_nothing_and_cleans_up() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, hold) = (temp.path().join("chaos"), temp.path().join("go"));
    let keyspace = format!("{}_chaos", cassandra().keyspace_name());
    let mut command = chaos(&cassandra().node(), &keyspace, &dir);
    command
        .args(["--kills", "2", "--messages", "200", "--traffic-per-s", "20"])
        .args(["--sqs-endpoint", &sqs().endpoint(), "--hold"])
        .arg(&hold);
    // It makes and drops its tables while other tests do so, too.
    let mut alone = Some(schema_lock().await);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(" messages in ") {
            alone = None;
        } else if line.starts_with("waiting for ") {
            alone = Some(schema_lock().await);
            std::fs::write(&hold, "").unwrap();
        }
        said += &line;
        said += "\n";
    }
    let output = child.wait_with_output().await.unwrap();
    drop(alone);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(DONE), "{said}{errors}");
    let last = said.lines().last().unwrap();
    assert!(
        last.ends_with(": nothing lost, revived, overwritten or undecryptable."),
        "{said}"
    );
    let left = keyspaces(&session().await).await;
    assert!(!left.contains(&keyspace), "{keyspace} is removed: {left:?}");
    assert!(!dir.exists(), "the directory is removed");
}

/// A node of three is killed and comes back while the workers die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing_when_a_node_dies_as_well() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("chaos");
    let mut cluster = Cluster::start(3).await;
    let mut command = chaos(&cluster.nodes().join(","), "rekeyd_chaos_nodes", &dir);
    command.args(["--kills", "2", "--messages", "100", "--traffic-per-s", "10"]);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let mut killed = false;
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(" messages in ") {
            // The first jobs are on their way.
            cluster.kill(2);
            tokio::time::sleep(Duration::from_secs(6)).await;
            cluster.restart(2);
            killed = true;
        }
        said += &line;
        said += "\n";
    }
    let output = child.wait_with_output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(DONE), "{said}{errors}");
    assert!(killed, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_leaves_a_keyspace_alone_that_it_did_not_make() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("chaos");
    let session = session().await;
    let keyspace = format!("{}_theirs", cassandra().keyspace_name());
    {
        let _alone = schema_lock().await;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        let make = format!("CREATE KEYSPACE {keyspace} WITH replication = {replication}");
        session.query_unpaged(make, ()).await.unwrap();
        let make = format!("CREATE TABLE {keyspace}.t (id int PRIMARY KEY)");
        session.query_unpaged(make, ()).await.unwrap();
    }
    let output = chaos(&cassandra().node(), &keyspace, &dir)
        .output()
        .await
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(CONFLICT), "{errors}");
    assert!(errors.contains(&keyspace), "{errors}");
    assert!(errors.contains("made_by_rekeyd_chaos"), "{errors}");
    let left = session
        .query_unpaged(format!("SELECT id FROM {keyspace}.t"), ())
        .await;
    assert!(left.is_ok(), "{left:?}");
    assert!(!dir.exists(), "nothing of it stays");
}
