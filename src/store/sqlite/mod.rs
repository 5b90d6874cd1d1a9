//! The embedded store: one SQLite file, any number of processes.
//!
//! | file | what |
//! |---|---|
//! | `schema` | the tables; making and opening the file |
//! | `mutate` | the statements that write; the merge order in SQL |
//! | `read` | the statements that read |
//! | `writer` | the one thread that writes, with group commit |
//! | `turn` | the queue of the processes that want to write |
//! | `readers` | the threads that read |
//! | `purge` | removal of old tombstones |
//! | `errors` | the class of each error of SQLite |
//!
//! Calls cost a hop to a thread and no more: connections and statements are made
//! once. Besides the file itself there are `-wal` and `-shm` (SQLite's log) and
//! `-turn` (an empty lock file). A copy of the file alone, made while processes
//! run, is not a backup.

mod errors;
mod mutate;
mod purge;
mod read;
mod readers;
mod schema;
#[cfg(test)]
mod tests;
mod turn;
mod writer;

use std::path::Path;
use std::thread::JoinHandle;

use self::mutate::{Outcome, Request};
use self::readers::Readers;
use self::writer::Writer;
use super::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SliceKey, Store, StoreHealth, StorePace, StoreResult, StoredCell,
};
use crate::clock::{SharedClock, WallTime, WriteTime};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;

pub use self::purge::KEPT_S;

/// A store in one SQLite file.
///
/// Making, opening and dropping it block for some milliseconds. Dropping waits
/// for the requests that are under way.
pub struct SqliteStore {
    readers: Readers,
    writer: Writer,
    clock: SharedClock,
}

impl SqliteStore {
    /// Makes a new, empty store, readable by the owner only, and opens it.
    /// `clock` tells by when values expire and when deletions were made.
    ///
    /// # Errors
    /// `Fatal` if something is at `path` already, or the file cannot be made.
    pub fn create(path: impl AsRef<Path>, clock: SharedClock) -> StoreResult<Self> {
        let path = path.as_ref();
        if !schema::create(path)? {
            return Err(errors::fatal_at(
                path,
                "there is a file here already; open it, or choose another path",
            ));
        }
        Self::open(path, clock)
    }

    /// Opens a store.
    ///
    /// # Errors
    /// `Fatal` if there is none at `path`, if the file is something else, or if
    /// it has another schema version; the file is then left as it is.
    pub fn open(path: impl AsRef<Path>, clock: SharedClock) -> StoreResult<Self> {
        let path = path.as_ref();
        let writer = Writer::start(path, SharedClock::clone(&clock))?;
        let readers = Readers::start(path)?;
        Ok(Self {
            readers,
            writer,
            clock,
        })
    }

    /// Opens the store at `path`, made now if there is none. Several processes
    /// may do so at once.
    ///
    /// # Errors
    /// Those of [`SqliteStore::create`] and [`SqliteStore::open`].
    pub fn open_or_create(path: impl AsRef<Path>, clock: SharedClock) -> StoreResult<Self> {
        let path = path.as_ref();
        schema::create(path)?;
        Self::open(path, clock)
    }

    fn now(&self) -> WallTime {
        self.clock.wall()
    }
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> StoreResult<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(run)
        .map_err(|err| {
            super::StoreError::new(
                super::StoreErrorClass::Fatal,
                format!("cannot start thread {name}: {err}"),
            )
        })
}

// On one node every consistency is the node's.
#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        _consistency: Consistency,
    ) -> StoreResult<Page> {
        let (partition, after, now) = (partition.clone(), after.cloned(), self.now());
        self.readers
            .run(move |conn| read::page(conn, &partition, after.as_ref(), limit, now))
            .await
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let (partition, record, now) = (partition.clone(), record.clone(), self.now());
        self.readers
            .run(move |conn| read::cell(conn, &partition, &record, now))
            .await
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let request = Request::Cells {
            partition: partition.clone(),
            writes: writes.to_vec(),
        };
        self.writer.run(request).await.map(drop)
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let request = Request::DeleteRow {
            partition: partition.clone(),
            record: record.clone(),
            at,
        };
        self.writer.run(request).await.map(drop)
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let request = Request::DeleteCell {
            partition: partition.clone(),
            record: record.clone(),
            at,
        };
        self.writer.run(request).await.map(drop)
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        self.writer
            .run(Request::DeletePartition {
                partition: partition.clone(),
                at,
            })
            .await
            .map(drop)
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        self.writer
            .run(Request::Key {
                slice: slice.clone(),
                key: key.clone(),
            })
            .await
            .map(drop)
    }

    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        self.writer
            .run(Request::DeleteKey {
                slice: slice.clone(),
                key_id,
                wrap_epoch,
            })
            .await
            .map(drop)
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        let slice = slice.clone();
        self.readers.run(move |conn| read::keys(conn, &slice)).await
    }

    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let (org, group, after) = (org.clone(), group.to_owned(), after.map(str::to_owned));
        self.readers
            .run(move |conn| read::slices(conn, &org, kind, &group, after.as_deref(), limit))
            .await
    }

    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        let partition = partition.to_owned();
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        self.readers
            .run(move |conn| read::control_get(conn, table, &partition, &ids))
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
        let (partition, prefix, after) = (
            partition.to_owned(),
            prefix.to_owned(),
            after.map(str::to_owned),
        );
        self.readers
            .run(move |conn| {
                read::control_list(conn, table, &partition, &prefix, after.as_deref(), limit)
            })
            .await
    }

    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let after = after.map(str::to_owned);
        self.readers
            .run(move |conn| read::control_partitions(conn, table, after.as_deref(), limit))
            .await
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        if writes.is_empty() {
            return Ok(Applied::Yes);
        }
        let request = Request::Control {
            table,
            partition: partition.to_owned(),
            writes: writes.to_vec(),
        };
        match self.writer.run(request).await? {
            Outcome::Control(applied) => Ok(applied),
            // The writer answers each request with its own outcome.
            Outcome::Done | Outcome::Forgotten(_) => Err(errors::stopped()),
        }
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        // The file, its schema and its settings were checked when it was opened;
        // its clock is ours.
        Ok(StoreHealth {
            server: format!("SQLite {}", rusqlite::version()),
            ..StoreHealth::default()
        })
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        Ok(Vec::new())
    }

    fn pace(&self) -> Option<StorePace> {
        None
    }
}
