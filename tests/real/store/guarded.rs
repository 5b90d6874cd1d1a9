//! A node whose clients must show who they are: TLS with certificates of both
//! sides, a user with no more rights than docs/store-scylla.md names, and every
//! compression on the wire.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rekeyd::clock::SystemClock;
use rekeyd::config::{Compression, StoreConfig, Switch};
use rekeyd::store::cql::{Cluster, CqlStore, Password, Schema};
use rekeyd::store::{
    Applied, Consistency, ControlTable, ControlWrite, Expect, PageLimit, Store, StoreErrorClass,
    StoreResult,
};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::{one_copy, partition, settings, write};
use crate::services::Cassandra;

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The settings of a client that shows all that is asked for.
fn known(node: &str, certificates: &Path) -> StoreConfig {
    let file = |name: &str| Some(certificates.join(name));
    let mut config = settings(node, "guarded");
    config.user = Some("rekeyd".to_owned());
    config.tls = Switch::On;
    config.tls_ca = file("ca.pem");
    config.tls_cert = file("client.pem");
    config.tls_key = file("client-key.pem");
    config
}

async fn connect(config: &StoreConfig, password: &str) -> StoreResult<Cluster> {
    let password = Some(Password::new(password));
    Cluster::connect(config, password, SystemClock::shared()).await
}

async fn refused(config: &StoreConfig, password: &str) -> (StoreErrorClass, String) {
    let error = connect(config, password).await.err().expect("refused");
    (error.class, error.to_string())
}

/// A session of the node's first user, who is made a moment after its start.
async fn superuser(node: &str) -> Session {
    let begin = Instant::now();
    loop {
        let session = SessionBuilder::new()
            .known_node(node)
            .user("cassandra", "cassandra")
            .build()
            .await;
        match session {
            Ok(session) => return session,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_login_rights_and_compression_are_as_configured() {
    let started = tokio::task::spawn_blocking(Cassandra::start_guarded);
    let (node, certificates) = started.await.expect("it starts");
    let operator = superuser(&node.node()).await;
    let run = async |statement: &str| {
        let done = operator.query_unpaged(statement, ()).await;
        done.unwrap_or_else(|e| panic!("{statement}: {e}"));
    };
    run("CREATE ROLE rekeyd WITH PASSWORD = 'hunter2' AND LOGIN = true").await;
    let good = known(&node.node(), &certificates);

    who_is_not_known_is_refused_with_what_to_set(&good, &certificates).await;

    // Without a right it is said that rights are missing, and where they stand.
    let cluster = connect(&good, "hunter2").await.expect("connected");
    let denied = Schema::apply(&cluster, Some(&one_copy())).await;
    let denied = denied.expect_err("it may not make a keyspace");
    assert_eq!(denied.class, StoreErrorClass::Fatal, "{denied}");
    assert!(denied.message.contains("grant it"), "{denied}");

    // The rights of who applies the schema, then those of everybody else.
    run("GRANT CREATE ON ALL KEYSPACES TO rekeyd").await;
    let done = Schema::apply(&cluster, Some(&one_copy())).await;
    assert_eq!(done.expect("applied").problems, []);
    run("REVOKE CREATE ON ALL KEYSPACES FROM rekeyd").await;
    run("REVOKE ALL PERMISSIONS ON KEYSPACE guarded FROM rekeyd").await;
    for table in [
        "cells",
        "data_keys",
        "registry",
        "jobs",
        "tasks",
        "quarantine",
        "set_aside",
        "timing",
    ] {
        // Who makes a table has all rights on it.
        run(&format!(
            "REVOKE ALL PERMISSIONS ON guarded.{table} FROM rekeyd"
        ))
        .await;
    }
    let opened = CqlStore::on(connect(&good, "hunter2").await.expect("connected")).await;
    let store = opened.expect("statements are prepared without rights");
    let denied = store.control_get(ControlTable::Jobs, "p", &["a"]).await;
    let denied = denied.expect_err("it may not read");
    assert_eq!(denied.class, StoreErrorClass::Fatal, "{denied}");
    assert!(denied.message.contains("grant it"), "{denied}");
    for right in ["SELECT", "MODIFY"] {
        run(&format!("GRANT {right} ON KEYSPACE guarded TO rekeyd")).await;
    }

    for (n, compression) in [Compression::None, Compression::Lz4, Compression::Snappy]
        .into_iter()
        .enumerate()
    {
        let mut config = good.clone();
        config.compression = compression;
        // A password in a file, with the line's end that editors leave.
        config.password_file = Some(password_file(&certificates));
        let store = CqlStore::open(&config, None, SystemClock::shared()).await;
        works(&store.expect("opened"), n).await;
    }

    // All of rekeyd's connections were encrypted.
    let clients =
        "SELECT ssl_enabled FROM system_views.clients WHERE username = 'rekeyd' ALLOW FILTERING";
    let open = connect(&good, "hunter2").await.expect("connected");
    let rows = operator.query_unpaged(clients, ()).await.expect("read");
    let rows = rows.into_rows_result().expect("rows");
    let encrypted: Vec<bool> = rows
        .rows::<(bool,)>()
        .expect("booleans")
        .map(|row| row.expect("a boolean").0)
        .collect();
    assert!(
        !encrypted.is_empty() && encrypted.iter().all(|is| *is),
        "{encrypted:?}"
    );
    drop(open);
}

/// Each thing that is wrong, alone.
async fn who_is_not_known_is_refused_with_what_to_set(good: &StoreConfig, certificates: &Path) {
    let (class, said) = refused(good, "hunter3").await;
    assert_eq!(class, StoreErrorClass::Fatal, "{said}");
    assert!(said.contains("REKEYD_STORE_PASSWORD"), "{said}");

    let mut nobody = good.clone();
    nobody.user = None;
    let connected = Cluster::connect(&nobody, None, SystemClock::shared()).await;
    let error = connected.err().expect("refused");
    assert_eq!(error.class, StoreErrorClass::Fatal, "{error}");
    assert!(error.message.contains("store.user"), "{error}");

    let mut deceived = good.clone();
    deceived.tls_ca = Some(certificates.join("stranger.pem"));
    let (class, said) = refused(&deceived, "hunter2").await;
    assert_eq!(class, StoreErrorClass::Fatal, "{said}");
    assert!(said.contains("store.tls_ca"), "{said}");

    let mut anonymous = good.clone();
    (anonymous.tls_cert, anonymous.tls_key) = (None, None);
    let (class, said) = refused(&anonymous, "hunter2").await;
    // The node's last word may be lost with the connection that it closes: then
    // nobody can know that it was about a certificate.
    let is_known = said.contains("store.tls_cert");
    assert_eq!(is_known, class == StoreErrorClass::Fatal, "{said}");
    let is_lost = said.contains("reset") || said.contains("roken");
    assert!(is_known || is_lost, "{said}");
}

fn password_file(certificates: &Path) -> PathBuf {
    let path = certificates.join("password");
    std::fs::write(&path, "hunter2\n").expect("written");
    path
}

/// Data and a control row, written and read.
async fn works(store: &CqlStore, n: usize) {
    let partition = partition();
    // What compresses well and is more than a frame.
    let writes: Vec<_> = (0..300).map(|n| write(n, 7, vec![3; 900])).collect();
    store
        .write_cells(&partition, &writes)
        .await
        .expect("written");
    let limit = PageLimit {
        rows: 1000,
        bytes: 1 << 20,
    };
    let page = store.read_page(&partition, None, limit, Consistency::Quorum);
    let cells = page.await.expect("read").cells;
    assert_eq!(cells.len(), 300);
    assert!(cells.iter().all(|cell| cell.cell == [3; 900]));
    let row = [ControlWrite {
        id: format!("row-{n}"),
        expect: Expect::Absent,
        body: Some("{}".to_owned()),
    }];
    let applied = store.control_apply(ControlTable::Jobs, "p", &row).await;
    assert_eq!(applied.expect("an answer"), Applied::Yes);
    assert_eq!(store.health().await.expect("it answers").problems, []);
}
