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
//! | `lines` | one request at a time to a partition of control rows |
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
mod lines;
mod read;
mod schema;
mod server;
mod sizes;
mod statements;
mod tables;
mod write;

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::clock::{SharedClock, WriteTime};
use crate::config::StoreConfig;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;

use super::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SliceKey, Store, StoreError, StoreErrorClass, StoreHealth, StorePace,
    StoreResult, StoredCell,
};
use batch_size::BatchSize;
use limiter::Limiter;
use lines::Lines;
use sizes::Sizes;
use statements::Statements;

pub use connect::{Cluster, Password};
pub use schema::{Done, Replication, Schema};
pub use server::Server;

/// A store on a cluster that speaks CQL. Any number of processes may use it.
pub struct CqlStore {
    requests: Arc<Requests>,
}

/// What each request needs; the files beside this one have them.
struct Requests {
    cluster: Cluster,
    statements: Statements,
    limiter: Limiter,
    lines: Lines,
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
        let requests = Requests {
            limiter: Limiter::new(cluster.requests_in_flight),
            lines: Lines::default(),
            batch_size: BatchSize::new(),
            sizes: Sizes::default(),
            statements,
            cluster,
        };
        Ok(Self {
            requests: Arc::new(requests),
        })
    }

    /// What a batch may hold now: rows, bytes.
    pub fn batch_limit(&self) -> (usize, usize) {
        self.requests.batch_size.now()
    }

    /// Runs a request as a task of its own, which ends with its answer or when
    /// nobody waits for that any more.
    ///
    /// It holds a turn: of the limiter, or at a partition. Were it to run only
    /// while its caller looks at it, a caller with many requests who waits for
    /// something else for a moment would keep all their turns, and what it waits
    /// for might need one.
    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = StoreResult<T>> + Send + 'static,
    ) -> StoreResult<T> {
        let task = tokio::spawn(request.in_current_span());
        match AbortOnDropHandle::new(task).await {
            Ok(answer) => answer,
            Err(end) => match end.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::new(
                    StoreErrorClass::Transient,
                    "the process is ending",
                )),
            },
        }
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
        let requests = Arc::clone(&self.requests);
        let partition = partition.clone();
        let after = after.cloned();
        self.run(async move {
            requests
                .page(&partition, after.as_ref(), limit, consistency)
                .await
        })
        .await
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let requests = Arc::clone(&self.requests);
        let (partition, record) = (partition.clone(), record.clone());
        self.run(async move { requests.cell(&partition, &record).await })
            .await
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let (partition, writes) = (partition.clone(), writes.to_vec());
        self.run(async move { requests.write(&partition, &writes).await })
            .await
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let (partition, record) = (partition.clone(), record.clone());
        self.run(async move {
            let statement = &requests.statements.delete_row;
            requests.delete(statement, &partition, &record, at).await
        })
        .await
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let (partition, record) = (partition.clone(), record.clone());
        self.run(async move {
            let statement = &requests.statements.delete_cell;
            requests.delete(statement, &partition, &record, at).await
        })
        .await
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let partition = partition.clone();
        self.run(async move { requests.delete_all(&partition, at).await })
            .await
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let (slice, key) = (slice.clone(), key.clone());
        self.run(async move { requests.add_key(&slice, &key).await })
            .await
    }

    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        let requests = Arc::clone(&self.requests);
        let slice = slice.clone();
        self.run(async move { requests.remove_key(&slice, key_id, wrap_epoch).await })
            .await
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        let requests = Arc::clone(&self.requests);
        let slice = slice.clone();
        self.run(async move { requests.keys_of(&slice).await })
            .await
    }

    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let requests = Arc::clone(&self.requests);
        let (org, group) = (org.clone(), group.to_owned());
        let after = after.map(str::to_owned);
        self.run(async move {
            requests
                .slices(&org, kind, &group, after.as_deref(), limit)
                .await
        })
        .await
    }

    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        let requests = Arc::clone(&self.requests);
        let partition = partition.to_owned();
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        self.run(async move {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            requests.rows(table, &partition, &ids).await
        })
        .await
    }

    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        let requests = Arc::clone(&self.requests);
        let (partition, prefix) = (partition.to_owned(), prefix.to_owned());
        let after = after.map(str::to_owned);
        self.run(async move {
            requests
                .rows_from(table, &partition, &prefix, after.as_deref(), limit)
                .await
        })
        .await
    }

    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.requests.partitions(table, after, limit).await
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        let requests = Arc::clone(&self.requests);
        let (partition, writes) = (partition.to_owned(), writes.to_vec());
        self.run(async move { requests.apply(table, &partition, &writes).await })
            .await
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        self.requests.look().await
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        Ok(self.requests.cluster.away())
    }

    fn pace(&self) -> Option<StorePace> {
        Some(self.requests.limiter.pace())
    }
}
