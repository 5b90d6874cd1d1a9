//! Where messages, data keys and control rows are: one trait, and the backends
//! that keep its promises.
//!
//! | file | what |
//! |---|---|
//! | `merge` | the rule by which a store picks one of two writes, as a pure function |
//! | `conformance` | the contract as a suite of tests, run on every backend |
//! | `noted` | decorator: notes that the store is away, for the status |
//! | `cql` | ScyllaDB and Cassandra, by the `scylla` driver |
//! | `sqlite` | the embedded store: one SQLite file, any number of processes |

pub mod conformance;
pub mod cql;
pub mod merge;
pub mod noted;
pub mod sqlite;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::WriteTime;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId, Place, RecordId};
use crate::scope::Kind;

/// A store that several parts share.
pub type SharedStore = Arc<dyn Store>;

/// The partition of `cells` that holds one slice: `(org, place, hour)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    /// The organization.
    pub org: OrgId,
    /// The place of the channel, from the registry.
    pub place: Place,
    /// The hour of the records' creation.
    pub hour: Hour,
}

/// One live cell as the store returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCell {
    /// The record.
    pub record: RecordId,
    /// The blob. Encrypted; see docs/format.md.
    pub cell: Vec<u8>,
    /// The write time the store keeps for the value (`WRITETIME`).
    pub write_time: WriteTime,
    /// Seconds the store will still keep the value, or `None` if it is lasting.
    pub ttl_s: Option<u32>,
}

/// What a page of a partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Live cells in ascending order of record id.
    pub cells: Vec<StoredCell>,
    /// Rows met that have no live cell (a row whose value is gone).
    pub empty_rows: u64,
    /// Where to go on: pass it as `after`. `None` at the end of the partition.
    pub next: Option<RecordId>,
}

/// How much one page may hold. At least one row is returned whatever its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Rows at most, those without a live cell included where the store meets
    /// them: a page may hold few cells or none and still have a `next`.
    pub rows: usize,
    /// Bytes of cells at most.
    pub bytes: usize,
}

/// How many replicas must answer a read of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// A quorum in the home datacenter. On one node: the node.
    Quorum,
    /// Every replica: the last scan before the verdict.
    All,
}

/// One value to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellWrite {
    /// The record.
    pub record: RecordId,
    /// The blob. Shared, so that a batch that may have to be sent again costs no
    /// copy.
    pub cell: Bytes,
    /// The write time to give it. The worker gives the one it read (I2).
    pub write_time: WriteTime,
    /// Seconds to live, counted by the store from when it gets the statement;
    /// 0 means lasting. Every write names it.
    pub ttl_s: u32,
}

/// The address of the data keys of one slice: `(org, kind, group)`, `slice`.
/// For messages the group is the channel and the slice the hour, so this table
/// is also the index of slices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceKey {
    /// The organization.
    pub org: OrgId,
    /// What the slice holds.
    pub kind: Kind,
    /// The channel, for messages.
    pub group: String,
    /// The hour, for messages.
    pub slice: String,
}

impl SliceKey {
    /// The address of a channel-hour.
    pub fn messages(org: &OrgId, channel: &ChannelId, hour: Hour) -> Self {
        Self {
            org: org.clone(),
            kind: Kind::Message,
            group: channel.as_str().to_owned(),
            slice: hour.to_string(),
        }
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.org, self.kind, self.group, self.slice
        )
    }
}

/// One wrap of one data key. `row` is the blob of docs/format.md; the columns
/// beside it are the row's address and stand in the blob as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// The key the cells name.
    pub key_id: KeyId,
    /// The wrap epoch.
    pub wrap_epoch: Epoch,
    /// The blob.
    pub row: Vec<u8>,
}

/// The tables of control rows. docs/format.md lists their partitions and ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlTable {
    /// What should be. Partition: organization.
    Registry,
    /// Jobs and their history. Partition: organization.
    Jobs,
    /// Tasks. Partition: job.
    Tasks,
    /// Cells and keys left untouched. Partition: job.
    Quarantine,
    /// Old data keys under the new CMK, kept for a time after a rekey. Partition:
    /// the job, or the job and a channel.
    SetAside,
    /// The waits of the store: one row. Partition: `store`.
    Timing,
}

impl ControlTable {
    /// The table's name in a store.
    pub fn as_str(self) -> &'static str {
        match self {
            ControlTable::Registry => "registry",
            ControlTable::Jobs => "jobs",
            ControlTable::Tasks => "tasks",
            ControlTable::Quarantine => "quarantine",
            ControlTable::SetAside => "set_aside",
            ControlTable::Timing => "timing",
        }
    }
}

/// A control row as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRow {
    /// The row's id within its partition.
    pub id: String,
    /// The revision: 1 when the row was made, one more with each change.
    pub rev: u64,
    /// JSON. Holds ids, numbers and times; never a secret.
    pub body: String,
}

/// What must be so for a control write to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// The row is at this revision.
    Rev(u64),
}

/// One change of a conditional batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlWrite {
    /// The row's id.
    pub id: String,
    /// The condition.
    pub expect: Expect,
    /// The new body, or `None` to delete the row.
    pub body: Option<String>,
}

/// The answer to a conditional batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Applied {
    /// Every change was made.
    Yes,
    /// A condition did not hold; nothing was changed. Read the rows again.
    No,
}

/// How an error of the store is to be treated (design: error classes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorClass {
    /// Timeout, overload, node down: try again after a wait.
    Transient,
    /// The store refused this statement as such; sending it again is no use. Of
    /// a batch, its rows are tried one by one and the culprit is quarantined.
    Invalid,
    /// Wrong schema, wrong file, no space: stop and say what to do.
    Fatal,
}

/// An error of the store. Names no key and no message text.
#[derive(Debug, thiserror::Error)]
#[error("store: {message}")]
pub struct StoreError {
    /// How to treat it.
    pub class: StoreErrorClass,
    /// What happened and, where it is fatal, what to do next.
    pub message: String,
    /// There is nothing to work on yet: no keyspace, no table.
    pub is_not_set_up: bool,
    /// The backend's own error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error of a class, without a source.
    pub fn new(class: StoreErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            is_not_set_up: false,
            source: None,
        }
    }

    /// There is nothing to work on yet; the message says what to run.
    pub fn not_set_up(message: impl Into<String>) -> Self {
        Self {
            is_not_set_up: true,
            ..Self::new(StoreErrorClass::Fatal, message)
        }
    }
}

/// Something about the tables or the servers that would break a promise of
/// [`Store`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreProblem {
    /// What is wrong, with the table or node.
    pub what: String,
    /// How to mend it.
    pub fix: String,
}

/// What a store's servers say of themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StoreHealth {
    /// What it is, with its version: `SQLite 3.50`, `ScyllaDB 2025.1`.
    pub server: String,
    /// What has to be mended before a job may change anything.
    pub problems: Vec<StoreProblem>,
    /// How far the servers' clock is from ours, milliseconds, where the two
    /// differ at all (positive: theirs is ahead).
    pub clock_offset_ms: i64,
}

/// How fast a store lets itself be asked, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StorePace {
    /// Requests under way at a time, now at most.
    pub limit: usize,
    /// The same, when nothing slows it down.
    pub ceiling: usize,
    /// Why it is below the ceiling, in words for people: `overloaded`, `slow`.
    pub reason: Option<String>,
}

/// Result of a store call.
pub type StoreResult<T> = Result<T, StoreError>;

/// A store of cells, data keys and control rows.
///
/// # Contract
///
/// **Data** (`cells`). Of two writes to one record the store keeps the one that
/// [`merge`] prefers, in whatever order they arrive and however often. A write
/// is durable when the call returns. Within one call each row is written for
/// itself: after an error any subset of the rows may have been written, and the
/// caller may send all of them again (rows with a TTL: with the TTL computed
/// again). The store never invents a write time and never reads the caller's
/// clock. No conditional write touches data.
///
/// **Data keys.** Rows are only inserted, until a retire deletes them one by one
/// ([`Store::delete_key`]). Inserting a row that stands already,
/// byte for byte, is no error; another row at the same address is `Invalid`
/// where the store can tell. A row is durable when the call returns: its user
/// may then write cells that name it (I11).
///
/// **Control rows.** [`Store::control_apply`] is atomic for one partition of one
/// table and linearizable with every other control call on it. It is never half
/// applied. An ambiguous answer of the backend is read back before this trait
/// answers, so `Yes` and `No` are facts. Rows of different partitions have no
/// order among them.
///
/// **Who retries.** The caller. A backend does not retry by itself, except for a
/// busy lock it can wait out.
///
/// **Cancelling.** Dropping a future may leave its write done or not done.
#[async_trait::async_trait]
pub trait Store: Send + Sync {
    /// Reads live cells of a partition in ascending order of record id, from
    /// just after `after`. Cells whose time to live has run out are not live.
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page>;

    /// Reads one record; `None` if it has no live cell.
    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>>;

    /// Writes values, each at its own write time and with its own TTL.
    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()>;

    /// Deletes a record's row: what was written at or before `at` is gone.
    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()>;

    /// Deletes only a record's value, at or before `at`.
    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()>;

    /// Deletes a whole partition: what was written at or before `at` is gone.
    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()>;

    /// Adds a wrap of a data key.
    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()>;

    /// Deletes one wrap of a data key, by its full address. What is not there is
    /// deleted already. Only a retire calls it: everywhere else rows are only
    /// inserted (I1). A row that is inserted after the call returned stands.
    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()>;

    /// All wraps of all keys of a slice, by key id, highest wrap epoch first.
    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>>;

    /// Slices of a group that have at least one key row, ascending, from just
    /// after `after`, at most `limit`.
    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>>;

    /// Reads control rows in one statement; rows that are not there are left out.
    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>>;

    /// Control rows whose id starts with `prefix`, ascending, from just after
    /// `after`, at most `limit`.
    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>>;

    /// The partitions of a control table, ascending, from just after `after`.
    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>>;

    /// Makes all changes if all conditions hold, else none.
    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied>;

    /// Looks at tables, settings and clock of the servers.
    async fn health(&self) -> StoreResult<StoreHealth>;

    /// Nodes that hold data and cannot be reached now. While one is away, a scan
    /// of all replicas cannot be made, and hints wait for it.
    async fn away(&self) -> StoreResult<Vec<String>>;

    /// How fast it lets itself be asked; `None` where it does not slow down.
    fn pace(&self) -> Option<StorePace>;
}
