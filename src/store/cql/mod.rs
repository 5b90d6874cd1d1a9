//! The store on ScyllaDB and Cassandra, by the `scylla` driver.
//!
//! | file | what |
//! |---|---|
//! | `connect` | a session: nodes, login, TLS, home datacenter, timeouts |
//! | `server` | which server it is, and what its version can do |
//! | `schema` | the tables: as files, applied, compared with what stands |
//! | `tables` | the tables as the servers describe them |
//! | `health` | what would break a promise: settings, guardrails, clocks, nodes |
//! | `statements` | every statement, prepared |
//! | `read`, `write`, `keys`, `control` | the calls of the trait |
//! | `ambiguity` | a conditional write without an answer: was it applied? |
//! | `limiter` | how many requests may be under way |
//! | `sizes` | how many rows to ask for |
//! | `batch_size` | how large a batch may be |
//! | `errors` | the driver's errors, turned into the store's |
//!
//! Data is read and written at `LOCAL_QUORUM`, control rows by conditional
//! writes and `LOCAL_SERIAL` reads in the home datacenter. The driver retries
//! nothing; see [`Store`] for who does.

mod ambiguity;
mod batch_size;
mod connect;
mod control;
mod errors;
mod health;
mod keys;
mod limiter;
mod read;
mod schema;
mod server;
mod sizes;
mod statements;
mod tables;
mod write;

use crate::clock::{SharedClock, WriteTime};
use crate::config::StoreConfig;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;

use super::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SliceKey, Store, StoreHealth, StorePace, StoreResult, StoredCell,
};
use batch_size::BatchSize;
use limiter::Limiter;
use sizes::Sizes;
use statements::Statements;

pub use connect::{Cluster, Password};
pub use schema::{Done, Replication, Schema};
pub use server::Server;

/// A store on a cluster that speaks CQL. Any number of processes may use it.
pub struct CqlStore {
    cluster: Cluster,
    statements: Statements,
    limiter: Limiter,
    batch_size: BatchSize,
    sizes: Sizes,
}

impl CqlStore {
    /// Connects and prepares every statement.
    ///
    /// # Errors
    /// `Fatal`, with what to do, if the configuration or the tables are not as
    /// they must be; `Transient` if no node can be reached.
    pub async fn open(
        config: &StoreConfig,
        password: Option<Password>,
        clock: SharedClock,
    ) -> StoreResult<Self> {
        Self::on(Cluster::connect(config, password, clock).await?).await
    }

    /// A store on a cluster that is connected already.
    pub async fn on(cluster: Cluster) -> StoreResult<Self> {
        let statements = Statements::prepare(&cluster).await?;
        Ok(Self {
            limiter: Limiter::new(cluster.requests_in_flight),
            batch_size: BatchSize::new(),
            sizes: Sizes::default(),
            statements,
            cluster,
        })
    }

    /// What a batch may hold now: rows, bytes.
    pub fn batch_limit(&self) -> (usize, usize) {
        self.batch_size.now()
    }
}

#[async_trait::async_trait]
impl Store for CqlStore {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        self.page(partition, after, limit, consistency).await
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        self.cell(partition, record).await
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        self.write(partition, writes).await
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let statement = &self.statements.delete_row;
        self.delete(statement, partition, record, at).await
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let statement = &self.statements.delete_cell;
        self.delete(statement, partition, record, at).await
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        self.delete_all(partition, at).await
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        self.add_key(slice, key).await
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        self.keys_of(slice).await
    }

    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.slices(org, kind, group, after, limit).await
    }

    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        self.rows(table, partition, ids).await
    }

    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        self.rows_from(table, partition, prefix, after, limit).await
    }

    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.partitions(table, after, limit).await
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        self.apply(table, partition, writes).await
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        self.look().await
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        Ok(self.cluster.away())
    }

    fn pace(&self) -> Option<StorePace> {
        Some(self.limiter.pace())
    }
}
