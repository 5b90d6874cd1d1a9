//! Several Cassandra nodes, to be killed and started again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Consistency;

use super::cassandra::{Node, Place, Sizing};
use super::server::{PATIENCE, Server};
use super::{keeper, ports};

/// A cluster on 127.0.0.1, 127.0.0.2 and so on. All nodes use one port, by which
/// a driver finds the others from one of them. They are killed when it is dropped.
pub struct Cluster {
    nodes: Vec<Node>,
    killed: Vec<bool>,
}

impl Cluster {
    /// Starts `n` nodes side by side and waits until each sees all others.
    ///
    /// # Panics
    ///
    /// If they do not start, with the end of a node's log.
    pub async fn start(n: usize) -> Self {
        let nodes = tokio::task::spawn_blocking(move || {
            Server::start_on_free_ports(
                || Self::nodes_of(n),
                |nodes| nodes.iter_mut().map(|node| &mut node.server).collect(),
                |nodes| nodes.iter().all(Node::answers),
            )
        })
        .await
        .unwrap();
        let mut cluster = Self {
            killed: vec![false; nodes.len()],
            nodes,
        };
        // A schema change before they know each other would be one node's alone.
        cluster.each(Self::knows_all).await;
        cluster.make_probe().await;
        cluster.all_up().await;
        cluster
    }

    fn nodes_of(n: usize) -> Vec<Node> {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let addresses: Vec<String> = (1..=n).map(|i| format!("127.0.0.{i}")).collect();
        let listed: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let (port, storage_port) = (ports::free(&listed), ports::free(&listed));
        let dir = keeper::dir().join(format!(
            "cluster-{}",
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        let place = |i: usize| Place {
            dir: dir.join(format!("node-{i}")),
            address: addresses[i].clone(),
            port,
            storage_port,
            // Cassandra has JMX on 127.0.0.1, whatever the node's address is.
            jmx_port: ports::free(&["127.0.0.1"]),
            // With one seed a node that starts before it joins nothing.
            seeds: addresses.join(","),
            token: token(i, n),
            sizing: Sizing::SMALL,
            guard: None,
        };
        (0..n).map(|i| Node::start(place(i))).collect()
    }

    /// Where the nodes listen for CQL: `ADDRESS:PORT`, also of those killed.
    pub fn nodes(&self) -> Vec<String> {
        self.nodes.iter().map(Node::address).collect()
    }

    /// The process of node `i`, from 0.
    pub fn server(&self, i: usize) -> &Server {
        &self.nodes[i].server
    }

    /// Kills node `i`, from 0, with SIGKILL. The others take some seconds to see
    /// that it is gone.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].server.kill();
        self.killed[i] = true;
    }

    /// Starts node `i`, from 0, again with the data that it had. It does not
    /// answer yet: see [`Cluster::all_up`].
    pub fn restart(&mut self, i: usize) {
        assert!(self.killed[i], "node {i} runs");
        self.nodes[i] = Node::start(self.nodes[i].place.clone());
        self.killed[i] = false;
    }

    /// Waits until all nodes are up in the view of each: each, as coordinator,
    /// reads from all of them.
    ///
    /// # Panics
    ///
    /// If a node has ended or is killed, or if it takes too long.
    pub async fn all_up(&mut self) {
        self.each(Self::reads_from_all).await;
    }

    /// Waits until `check` holds for each node.
    async fn each(&mut self, check: impl AsyncFn(&Self, &Session) -> Result<(), String>) {
        let begin = Instant::now();
        for i in 0..self.nodes.len() {
            assert!(!self.killed[i], "node {i} is killed: restart it first");
            while let Err(reason) = self.ask(i, &check).await {
                let server = &mut self.nodes[i].server;
                server.assert_runs();
                assert!(
                    begin.elapsed() < PATIENCE,
                    "node {i} does not see all nodes after {PATIENCE:?}: {reason}\n{}",
                    server.last_words()
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Asks one node, with a new session: an old one waits before it comes back
    /// to a node that was killed.
    async fn ask(
        &self,
        i: usize,
        check: impl AsyncFn(&Self, &Session) -> Result<(), String>,
    ) -> Result<(), String> {
        let address = self.nodes[i].address();
        let node = NodeIdentifier::NodeAddress(address.parse().unwrap());
        let profile = ExecutionProfile::builder()
            .load_balancing_policy(SingleTargetLoadBalancingPolicy::new(node, None))
            .consistency(Consistency::All)
            .request_timeout(Some(Duration::from_secs(5)))
            .build();
        let session = SessionBuilder::new()
            .known_node(&address)
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await
            .map_err(|e| e.to_string())?;
        check(self, &session).await
    }

    async fn knows_all(&self, session: &Session) -> Result<(), String> {
        let select = "select tokens from system.peers";
        let read = session.query_unpaged(select, ()).await;
        let rows = read.map_err(|e| e.to_string())?.into_rows_result();
        let rows = rows.map_err(|e| e.to_string())?;
        let peers = rows.rows::<(Option<Vec<String>>,)>();
        // A peer that has not joined the ring yet has no tokens.
        let joined = peers.map_err(|e| e.to_string())?;
        let joined = joined.filter(|peer| matches!(peer, Ok((Some(_),)))).count();
        if joined + 1 < self.nodes.len() {
            return Err(format!("it knows of {joined} others"));
        }
        let agreed = session.await_schema_agreement().await;
        agreed.map(drop).map_err(|e| e.to_string())
    }

    async fn reads_from_all(&self, session: &Session) -> Result<(), String> {
        let select = "select id from services.probe where id = 0";
        let read = session.query_unpaged(select, ()).await;
        read.map(drop).map_err(|e| e.to_string())
    }

    /// A table with a replica on every node.
    async fn make_probe(&self) {
        let session = SessionBuilder::new()
            .known_nodes(self.nodes())
            .build()
            .await
            .expect("the nodes answer");
        let n = self.nodes.len();
        let keyspace = format!(
            "create keyspace services with replication = \
             {{'class': 'SimpleStrategy', 'replication_factor': {n}}}"
        );
        for ddl in [
            keyspace.as_str(),
            "create table services.probe (id int primary key)",
        ] {
            session.query_unpaged(ddl, ()).await.expect(ddl);
        }
    }
}

/// Where the range of node `i` of `n` ends: the ring is cut into equal parts.
fn token(i: usize, n: usize) -> i64 {
    let part = (1_i128 << 64) / i128::try_from(n).unwrap();
    let token = i128::from(i64::MIN) + part * i128::try_from(i).unwrap();
    i64::try_from(token).unwrap()
}
