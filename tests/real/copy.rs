//! Copies what is in a store into an empty one, by the trait alone.

use futures::StreamExt;
use futures::stream;
use rekeyd::clock::SystemClock;
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::registry::Registry;
use rekeyd::store::{
    CellWrite, Consistency, ControlTable, ControlWrite, Expect, PageLimit, SharedStore, SliceKey,
};

use crate::rig::patiently;

/// Slices that are copied at once.
const AT_ONCE: usize = 32;
const PAGE: usize = 500;

/// Copies all but the waits, which the other store has of its own.
pub async fn store(from: &SharedStore, to: &SharedStore) {
    for table in [
        ControlTable::Registry,
        ControlTable::Jobs,
        ControlTable::Tasks,
        ControlTable::Quarantine,
        ControlTable::SetAside,
    ] {
        control_rows(table, from, to).await;
    }
    let registry = Registry::new(from.clone(), SystemClock::shared());
    for org in patiently(|| registry.orgs(None, PAGE)).await {
        let mut walk = SliceWalk::new(from.clone(), registry.clone(), org.clone(), None, None);
        let mut slices = Vec::new();
        while let Some(slice) = walk.next().await.unwrap() {
            slices.push(slice);
        }
        let (org, registry) = (&org, &registry);
        stream::iter(slices)
            .for_each_concurrent(AT_ONCE, |slice| async move {
                let address = SliceKey::messages(org, &slice.channel, slice.hour);
                for key in patiently(|| from.read_keys(&address)).await {
                    patiently(|| to.insert_key(&address, &key)).await;
                }
                let view = patiently(|| registry.view(org, &slice.channel)).await;
                cells(&view.partition(slice.hour), from, to).await;
            })
            .await;
    }
}

async fn cells(partition: &rekeyd::store::Partition, from: &SharedStore, to: &SharedStore) {
    let limit = PageLimit {
        rows: 100,
        bytes: 128 << 10,
    };
    let mut after = None;
    loop {
        let quorum = Consistency::Quorum;
        let read = || from.read_page(partition, after.as_ref(), limit, quorum);
        let page = patiently(read).await;
        let writes: Vec<CellWrite> = page
            .cells
            .into_iter()
            .map(|cell| CellWrite {
                record: cell.record,
                cell: cell.cell.into(),
                write_time: cell.write_time,
                ttl_s: cell.ttl_s.unwrap_or(0),
            })
            .collect();
        patiently(|| to.write_cells(partition, &writes)).await;
        after = page.next;
        if after.is_none() {
            return;
        }
    }
}

async fn control_rows(table: ControlTable, from: &SharedStore, to: &SharedStore) {
    let partitions = patiently(|| from.control_partitions(table, None, PAGE)).await;
    assert!(partitions.len() < PAGE, "a rig is small");
    for partition in partitions {
        let list = || from.control_list(table, &partition, "", None, PAGE);
        let rows = patiently(list).await;
        assert!(rows.len() < PAGE, "a rig is small");
        for row in rows {
            let write = ControlWrite {
                id: row.id,
                expect: Expect::Absent,
                body: Some(row.body),
            };
            // A row that a try made whose answer was lost is there already.
            let write = [write];
            let _ = patiently(|| to.control_apply(table, &partition, &write)).await;
        }
    }
}
