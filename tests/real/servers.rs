//! The servers do what the other tests rely on.

use scylla::client::session_builder::SessionBuilder;
use std::error::Error;

use crate::services::{cassandra, moto, sqs};

#[tokio::test]
async fn cassandra_keeps_a_row_through_flush_and_compaction() -> Result<(), Box<dyn Error>> {
    let node = cassandra();
    let session = SessionBuilder::new()
        .known_node(node.node())
        .build()
        .await?;
    let keyspace = node.keyspace_name();
    {
        let _alone = node.schema_lock().await;
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        let ddl = format!("create keyspace {keyspace} with replication = {replication}");
        session.query_unpaged(ddl, ()).await?;
        let ddl = format!("create table {keyspace}.t (id int primary key, v text)");
        session.query_unpaged(ddl, ()).await?;
    }
    let insert = format!("insert into {keyspace}.t (id, v) values (?, ?)");
    session.query_unpaged(insert, (1, "one")).await?;
    node.flush_and_compact(&keyspace).await;
    let select = format!("select v from {keyspace}.t where id = 1");
    let rows = session
        .query_unpaged(select, ())
        .await?
        .into_rows_result()?;
    assert_eq!(rows.single_row::<(String,)>()?.0, "one");
    Ok(())
}

#[test]
fn the_others_start() {
    assert!(sqs().endpoint().starts_with("http://127.0.0.1:"));
    assert!(moto().endpoint().starts_with("http://127.0.0.1:"));
}
