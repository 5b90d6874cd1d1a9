//! Three nodes, of which one is killed and comes back.

use std::error::Error;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::{Consistency, Statement};

use crate::services::Cluster;

fn at(consistency: Consistency, cql: &str) -> Statement {
    let mut statement = Statement::new(cql);
    statement.set_consistency(consistency);
    statement.set_is_idempotent(true);
    statement
}

async fn ids(session: &Session, consistency: Consistency) -> Result<Vec<i32>, Box<dyn Error>> {
    let select = at(consistency, "select id from k.t where p = 0");
    let rows = session
        .query_unpaged(select, ())
        .await?
        .into_rows_result()?;
    let ids: Result<Vec<_>, _> = rows.rows::<(i32,)>()?.collect();
    Ok(ids?.into_iter().map(|(id,)| id).collect())
}

#[tokio::test]
async fn a_quorum_goes_on_without_a_node_and_all_agree_when_it_is_back()
-> Result<(), Box<dyn Error>> {
    let mut cluster = Cluster::start(3).await;
    let session = SessionBuilder::new()
        .known_nodes(cluster.nodes())
        .build()
        .await?;
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 3}";
    let ddl = format!("create keyspace k with replication = {replication}");
    session.query_unpaged(ddl, ()).await?;
    let ddl = "create table k.t (p int, id int, primary key (p, id))";
    session.query_unpaged(ddl, ()).await?;
    let insert = "insert into k.t (p, id) values (0, ?)";
    session
        .query_unpaged(at(Consistency::All, insert), (1,))
        .await?;

    cluster.kill(1);
    session
        .query_unpaged(at(Consistency::Quorum, insert), (2,))
        .await?;
    assert_eq!(ids(&session, Consistency::Quorum).await?, [1, 2]);
    let all = ids(&session, Consistency::All).await;
    assert!(all.is_err(), "a killed node answered: {all:?}");

    cluster.restart(1);
    cluster.all_up().await;
    assert_eq!(ids(&session, Consistency::All).await?, [1, 2]);
    Ok(())
}
