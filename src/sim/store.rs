//! The store as one process of a history sees it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::process::{Process, true_time};
use super::replicas::{KeyAddress, Mutation, Replicas, Written};
use crate::clock::WriteTime;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;
use crate::store::merge::{Cell, Content, Deletion, Row, Rows};
use crate::store::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SliceKey, Store, StoreError, StoreErrorClass, StoreHealth, StorePace,
    StoreResult, StoredCell,
};

/// How long a client of the store waits for an answer, as a driver does.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest TTL of the real stores, seconds.
const MAX_TTL_S: u32 = 630_720_000;
/// Their latest expiry, Unix seconds: 2038-01-19T03:14:06Z.
const LATEST_EXPIRY_S: i64 = 2_147_483_646;

/// A connection to the replicas.
pub(super) struct SimStore {
    pub(super) replicas: Arc<Replicas>,
    pub(super) process: Arc<Process>,
}

impl SimStore {
    async fn call<T: Send + 'static>(
        &self,
        send: impl FnOnce(&Arc<Replicas>, oneshot::Sender<StoreResult<T>>) + Send,
    ) -> StoreResult<T> {
        self.process.gate().await;
        let (tell, answer) = oneshot::channel();
        self.replicas.time.trace(self.process.name.as_bytes());
        send(&self.replicas, tell);
        let answered = tokio::select! {
            biased;
            answer = answer => answer,
            () = self.replicas.time.sleep(REQUEST_TIMEOUT) => Ok(Err(StoreError::new(
                StoreErrorClass::Transient,
                "no answer in time",
            ))),
        };
        self.process.gate().await;
        // Whoever was to answer always does.
        answered.unwrap_or_else(|_| Err(StoreError::new(StoreErrorClass::Transient, "gone away")))
    }

    async fn mutate(
        &self,
        mutations: impl FnOnce(i64) -> Vec<Mutation> + Send + 'static,
    ) -> StoreResult<()> {
        self.process.gate_of_write().await;
        self.call(|replicas, tell| replicas.write(mutations, tell))
            .await
    }

    async fn key_written(
        &self,
        slice: &SliceKey,
        address: KeyAddress,
        deleted: bool,
        row: Vec<u8>,
    ) -> StoreResult<()> {
        let slice = slice.clone();
        let at = true_time(&self.replicas.time).0;
        let written = Written { at, deleted, row };
        self.mutate(move |_| vec![Mutation::Key(slice, address, written)])
            .await
    }

    async fn one_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        row: impl FnOnce(i64) -> Row + Send + 'static,
    ) -> StoreResult<()> {
        let (partition, record) = (partition.clone(), record.clone());
        self.mutate(move |now_s| {
            let rows = Rows::of_row(record, row(now_s));
            vec![Mutation::Cells(partition, rows)]
        })
        .await
    }
}

fn stored(record: &RecordId, cell: &Cell, now_s: i64) -> Option<StoredCell> {
    Some(StoredCell {
        record: record.clone(),
        cell: cell.live_at(now_s)?.to_vec(),
        write_time: cell.write_time,
        ttl_s: cell.ttl_left_s(now_s),
    })
}

fn page(rows: &Rows, after: Option<&RecordId>, limit: PageLimit, now_s: i64) -> Page {
    let mut page = Page::default();
    let mut bytes = 0;
    for (record, cell) in rows.live_at(now_s) {
        if after.is_some_and(|after| record <= after) {
            continue;
        }
        let size = cell.live_at(now_s).map_or(0, <[u8]>::len);
        let full = page.cells.len() >= limit.rows.max(1)
            || (!page.cells.is_empty() && bytes + size > limit.bytes);
        if full {
            page.next = page
                .cells
                .last()
                .map(|cell: &StoredCell| cell.record.clone());
            return page;
        }
        if let Some(cell) = stored(record, cell, now_s) {
            bytes += size;
            page.cells.push(cell);
        }
    }
    page
}

#[async_trait::async_trait]
impl Store for SimStore {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        let (partition, after) = (partition.clone(), after.cloned());
        let look = move |replicas: &Replicas, of: &[usize]| {
            let now_s = true_time(&replicas.time).unix_seconds();
            page(
                &replicas.partition(&partition, of),
                after.as_ref(),
                limit,
                now_s,
            )
        };
        self.call(|replicas, tell| replicas.read(consistency, look, tell))
            .await
    }

    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let (partition, record) = (partition.clone(), record.clone());
        let look = move |replicas: &Replicas, of: &[usize]| {
            let now_s = true_time(&replicas.time).unix_seconds();
            let rows = replicas.partition(&partition, of);
            let cell = rows.rows.get(&record).and_then(|row| row.cell.as_ref());
            cell.and_then(|cell| stored(&record, cell, now_s))
        };
        self.call(|replicas, tell| replicas.read(Consistency::Quorum, look, tell))
            .await
    }

    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        if writes.is_empty() {
            return Ok(());
        }
        let (partition, writes) = (partition.clone(), writes.to_vec());
        let now_s = true_time(&self.replicas.time).unix_seconds();
        let too_late = |ttl_s: u32| ttl_s > MAX_TTL_S || now_s + i64::from(ttl_s) > LATEST_EXPIRY_S;
        if writes.iter().any(|write| too_late(write.ttl_s)) {
            let what = "a TTL that cannot be kept";
            return Err(StoreError::new(StoreErrorClass::Invalid, what));
        }
        self.mutate(move |now_s| {
            // A row each, so that an error may leave any of them written.
            let rows = writes.into_iter().map(|write| {
                let bytes = write.cell.to_vec();
                let content = match write.ttl_s {
                    0 => Content::Lasting { bytes },
                    ttl_s => Content::Expiring {
                        expiry_s: now_s + i64::from(ttl_s),
                        ttl_s: Reverse(ttl_s),
                        bytes,
                    },
                };
                let cell = Cell {
                    write_time: write.write_time,
                    content,
                };
                Mutation::Cells(
                    partition.clone(),
                    Rows::of_row(write.record, Row::of_cell(cell)),
                )
            });
            rows.collect()
        })
        .await
    }

    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.one_row(partition, record, move |deleted_s| {
            Row::of_deletion(Deletion { at, deleted_s })
        })
        .await
    }

    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.one_row(partition, record, move |deleted_s| {
            Row::of_cell(Cell {
                write_time: at,
                content: Content::Tombstone { deleted_s },
            })
        })
        .await
    }

    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        let partition = partition.clone();
        self.mutate(move |deleted_s| {
            let rows = Rows::of_deletion(Deletion { at, deleted_s });
            vec![Mutation::Cells(partition, rows)]
        })
        .await
    }

    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        let address = (key.key_id, Reverse(key.wrap_epoch));
        self.key_written(slice, address, false, key.row.clone())
            .await
    }

    async fn delete_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        let address = (key_id, Reverse(wrap_epoch));
        self.key_written(slice, address, true, Vec::new()).await
    }

    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        let slice = slice.clone();
        let look = move |replicas: &Replicas, of: &[usize]| replicas.keys(&slice, of);
        self.call(|replicas, tell| replicas.read(Consistency::Quorum, look, tell))
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
        let (org, group, after) = (org.clone(), group.to_owned(), after.map(str::to_owned));
        let look = move |replicas: &Replicas, of: &[usize]| {
            let asked = |slice: &SliceKey| {
                slice.org == org
                    && slice.kind == kind
                    && slice.group == group
                    && after.as_ref().is_none_or(|after| slice.slice > *after)
            };
            let slices = replicas.slices(of).into_iter().filter(asked);
            slices.map(|slice| slice.slice).take(limit).collect()
        };
        self.call(|replicas, tell| replicas.read(Consistency::Quorum, look, tell))
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
        self.call(|replicas, tell| {
            replicas.control(
                move |rows| {
                    let none = BTreeMap::new();
                    let held = rows.partition(table, &partition).unwrap_or(&none);
                    let found = ids.iter().filter_map(|id| Some((id, held.get(id)?)));
                    found.map(control_row).collect()
                },
                tell,
            );
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
        let (partition, prefix) = (partition.to_owned(), prefix.to_owned());
        let after = after.map(str::to_owned);
        self.call(|replicas, tell| {
            replicas.control(
                move |rows| {
                    let none = BTreeMap::new();
                    let held = rows.partition(table, &partition).unwrap_or(&none);
                    let asked = |(id, _): &(&String, &(u64, String))| {
                        id.starts_with(&prefix) && after.as_ref().is_none_or(|after| *id > after)
                    };
                    held.iter()
                        .filter(asked)
                        .take(limit)
                        .map(control_row)
                        .collect()
                },
                tell,
            );
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
        self.call(|replicas, tell| {
            replicas.control(
                move |rows| {
                    let mut all = rows.partitions(table);
                    all.retain(|name| after.as_ref().is_none_or(|after| name > after));
                    all.truncate(limit);
                    all
                },
                tell,
            );
        })
        .await
    }

    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        let (partition, writes) = (partition.to_owned(), writes.to_vec());
        self.call(|replicas, tell| {
            replicas.control(move |rows| rows.apply(table, &partition, &writes), tell);
        })
        .await
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        Ok(StoreHealth {
            server: "simulated".to_owned(),
            ..StoreHealth::default()
        })
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        self.process.gate().await;
        let down = self.replicas.down().into_iter();
        Ok(down.map(|n| format!("replica {n}")).collect())
    }

    fn pace(&self) -> Option<StorePace> {
        None
    }
}

fn control_row((id, (rev, body)): (&String, &(u64, String))) -> ControlRow {
    ControlRow {
        id: id.clone(),
        rev: *rev,
        body: body.clone(),
    }
}
