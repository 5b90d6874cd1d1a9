//! Decorator: notes that the store is away, and that it is back, for the status.

use super::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SharedStore, SliceKey, Store, StoreErrorClass, StoreHealth, StorePace,
    StoreResult, StoredCell,
};
use crate::clock::WriteTime;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;
use crate::telemetry::pulse::{Pulse, Reached};
use crate::telemetry::waiting::{Part, Waiting};

/// A store whose absences are noted.
pub struct Noted {
    inner: SharedStore,
    waiting: Waiting,
    pulse: Pulse,
}

impl Noted {
    /// Notes the absences of `inner` on the board, and its answers in the pulse.
    pub fn new(inner: SharedStore, waiting: Waiting, pulse: Pulse) -> Self {
        Self {
            inner,
            waiting,
            pulse,
        }
    }

    fn seen<T>(&self, answer: StoreResult<T>) -> StoreResult<T> {
        match &answer {
            Err(error) if error.class == StoreErrorClass::Transient => {
                self.waiting.note(Part::Store, &error.message);
            }
            _ => {
                self.waiting.clear(Part::Store);
                self.pulse.reached(Reached::Store);
            }
        }
        answer
    }
}

#[async_trait::async_trait]
impl Store for Noted {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        self.seen(
            self.inner
                .read_page(partition, after, limit, consistency)
                .await,
        )
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        self.seen(self.inner.read_cell(partition, record).await)
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        self.seen(self.inner.write_cells(partition, writes).await)
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.seen(self.inner.delete_row(partition, record, at).await)
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.seen(self.inner.delete_cell(partition, record, at).await)
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        self.seen(self.inner.delete_partition(partition, at).await)
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        self.seen(self.inner.insert_key(slice, key).await)
    }

    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        self.seen(self.inner.delete_key(slice, key_id, wrap_epoch).await)
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        self.seen(self.inner.read_keys(slice).await)
    }

    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.seen(self.inner.list_slices(org, kind, group, after, limit).await)
    }

    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        self.seen(self.inner.control_get(table, partition, ids).await)
    }

    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        self.seen(
            self.inner
                .control_list(table, partition, prefix, after, limit)
                .await,
        )
    }

    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.seen(self.inner.control_partitions(table, after, limit).await)
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        self.seen(self.inner.control_apply(table, partition, writes).await)
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        self.seen(self.inner.health().await)
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        self.seen(self.inner.away().await)
    }

    fn pace(&self) -> Option<StorePace> {
        self.inner.pace()
    }
}
