//! A store that notes what is done to it, in order, and lets a test step in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rekeyd::clock::{Clock, SystemClock, WallTime, WriteTime};
use rekeyd::crypto::KeyId;
use rekeyd::epoch::Epoch;
use rekeyd::ids::{OrgId, RecordId};
use rekeyd::scope::Kind;
use rekeyd::store::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SharedStore, SliceKey, Store, StoreHealth, StorePace, StoreResult,
    StoredCell,
};

/// What a test does before a call goes to the store. An error is the answer of
/// the call then.
#[async_trait::async_trait]
pub trait StepIn: Send + Sync {
    /// Before values are written.
    async fn before_write(&self, _: &Partition, _: &[CellWrite]) -> StoreResult<()> {
        Ok(())
    }

    /// Before a control row is changed.
    async fn before_control(&self, _: ControlTable, _: &ControlWrite) {}

    /// Before control rows are read.
    fn before_control_read(&self, _: ControlTable) {}

    /// Before a row is deleted.
    async fn before_delete(&self, _: &Partition, _: &RecordId) -> StoreResult<()> {
        Ok(())
    }

    /// Before a wrap is deleted.
    async fn before_key_goes(&self, _: &SliceKey, _: KeyId) -> StoreResult<()> {
        Ok(())
    }

    /// Before a wrap is added.
    async fn before_key(&self, _: &SliceKey, _: &KeyRow) -> StoreResult<()> {
        Ok(())
    }
}

/// Watches only.
pub struct Nothing;

impl StepIn for Nothing {}

/// What was done, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// A write was sent to the store, by when, and how long after its rows were
    /// last read, where they were.
    WriteSent {
        at: WallTime,
        writes: Vec<CellWrite>,
        oldest_read: Option<std::time::Duration>,
    },
    /// A write was acknowledged.
    WriteDone(Partition),
    /// A row was deleted as of this time.
    Deleted(Partition, RecordId, WriteTime),
    /// A wrap was acknowledged.
    KeyDone(KeyRow),
    /// A control row was changed, or was to be.
    Control(ControlTable, String),
    /// A single record was read.
    ReadCell,
}

/// The store.
pub struct Watched<S> {
    inner: SharedStore,
    step_in: S,
    events: Mutex<Vec<Event>>,
    read_at: Mutex<HashMap<(Partition, RecordId), Instant>>,
}

impl<S: StepIn + 'static> Watched<S> {
    pub fn around(inner: SharedStore, step_in: S) -> Arc<Self> {
        Arc::new(Self {
            inner,
            step_in,
            events: Mutex::default(),
            read_at: Mutex::default(),
        })
    }

    pub fn step_in(&self) -> &S {
        &self.step_in
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    fn was_read(&self, partition: &Partition, record: &RecordId, at: Instant) {
        let key = (partition.clone(), record.clone());
        self.read_at.lock().unwrap().insert(key, at);
    }
}

#[async_trait::async_trait]
impl<S: StepIn + 'static> Store for Watched<S> {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        let begun = Instant::now();
        let page = self
            .inner
            .read_page(partition, after, limit, consistency)
            .await?;
        for cell in &page.cells {
            self.was_read(partition, &cell.record, begun);
        }
        Ok(page)
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let begun = Instant::now();
        let cell = self.inner.read_cell(partition, record).await?;
        self.was_read(partition, record, begun);
        self.note(Event::ReadCell);
        Ok(cell)
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        let oldest_read = {
            let read_at = self.read_at.lock().unwrap();
            let age = |w: &CellWrite| read_at.get(&(partition.clone(), w.record.clone()));
            writes.iter().filter_map(age).map(Instant::elapsed).max()
        };
        let at = SystemClock.wall();
        self.step_in.before_write(partition, writes).await?;
        self.note(Event::WriteSent {
            at,
            writes: writes.to_vec(),
            oldest_read,
        });
        self.inner.write_cells(partition, writes).await?;
        self.note(Event::WriteDone(partition.clone()));
        Ok(())
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.step_in.before_delete(partition, record).await?;
        self.inner.delete_row(partition, record, at).await?;
        self.note(Event::Deleted(partition.clone(), record.clone(), at));
        Ok(())
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.inner.delete_cell(partition, record, at).await
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        self.inner.delete_partition(partition, at).await
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        self.step_in.before_key(slice, key).await?;
        self.inner.insert_key(slice, key).await?;
        self.note(Event::KeyDone(key.clone()));
        Ok(())
    }

    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        self.step_in.before_key_goes(slice, key_id).await?;
        self.inner.delete_key(slice, key_id, wrap_epoch).await
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        self.inner.read_keys(slice).await
    }

    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.inner.list_slices(org, kind, group, after, limit).await
    }

    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        self.step_in.before_control_read(table);
        self.inner.control_get(table, partition, ids).await
    }

    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        self.step_in.before_control_read(table);
        self.inner
            .control_list(table, partition, prefix, after, limit)
            .await
    }

    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.step_in.before_control_read(table);
        self.inner.control_partitions(table, after, limit).await
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        for write in writes {
            self.step_in.before_control(table, write).await;
            let body = write.body.clone().unwrap_or_default();
            self.note(Event::Control(table, body));
        }
        self.inner.control_apply(table, partition, writes).await
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        self.inner.health().await
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        self.inner.away().await
    }

    fn pace(&self) -> Option<StorePace> {
        self.inner.pace()
    }
}
