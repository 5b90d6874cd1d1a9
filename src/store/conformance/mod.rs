//! The contract of [`Store`](super::Store) as a suite of tests: one suite, run
//! on every backend. It is in the library so that the tests of any backend, in
//! whatever test program, can call it; nothing else does.
//!
//! | file | what |
//! |---|---|
//! | `data` | reading by pages, single cells, sizes, TTLs |
//! | `ties` | which of two writes stays, in both orders of arrival |
//! | `keys` | data keys and the index of slices |
//! | `control` | conditional batches and listings of control rows |
//! | `histories` | random histories, compared with the pure model |
//!
//! Blobs differ in bytes below 0x80 only: that is all the format relies on (the
//! epoch's four bytes), and whether a server compares bytes as signed is its own
//! matter.

mod control;
mod data;
mod histories;
mod keys;
mod ties;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{CellWrite, Consistency, Page, PageLimit, Partition, SharedStore, StoredCell};
use crate::clock::{WallTime, WriteTime};
use crate::ids::{Hour, OrgId, Place, RecordId};

/// What the suite needs of a backend under test.
#[async_trait::async_trait]
pub trait StoreHarness: Send + Sync {
    /// A store that holds nothing the suite could meet. It may be one store for
    /// all cases: each case makes its own organizations, places and partitions.
    async fn fresh(&self) -> SharedStore;

    /// The time by which the store counts TTLs.
    fn now(&self) -> WallTime;

    /// Lets the store's time pass: turns the hands, or waits.
    async fn pass(&self, span: Duration);

    /// Whether [`StoreHarness::pass`] turns the hands, at no cost and with
    /// nothing else moving them. Histories then cover expiry and TTLs to the
    /// second.
    fn turns_the_hands(&self) -> bool;

    /// Makes the store do what may bring two writes together in another place
    /// than memory: flush, compact. Nothing where there is nothing of the kind.
    async fn flush_and_compact(&self);
}

type Case = for<'h> fn(&'h dyn StoreHarness) -> BoxFuture<'h, ()>;

macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($case)), |harness| {
            Box::pin($module::$case(harness))
        })),*]
    };
}

/// Every case by its name.
const CASES: &[(&str, Case)] = cases![
    data::an_unknown_partition_is_empty,
    data::pages_cover_a_partition_once,
    data::a_page_is_bounded_by_bytes,
    data::a_page_goes_on_after_rows_that_are_gone,
    data::rows_without_a_value_are_counted_at_most_once,
    data::record_ids_are_opaque_bytes,
    data::partitions_are_apart,
    data::large_cells_come_back,
    data::a_call_may_be_sent_twice,
    data::a_ttl_counts_down_and_ends,
    data::impossible_ttls_are_refused,
    data::many_writers_lose_nothing,
    ties::the_preferred_write_stays_in_either_order,
    ties::tombstones_cover_what_is_not_newer,
    keys::keys_are_inserted_once,
    keys::another_row_at_the_same_address_is_refused,
    keys::one_wrap_is_deleted_and_no_other,
    keys::slices_are_listed_in_order,
    control::a_row_is_made_once_and_changed_by_revision,
    control::a_batch_applies_whole_or_not_at_all,
    control::concurrent_increments_lose_nothing,
    control::one_of_many_makes_a_row,
    control::rows_are_read_in_one_statement,
    control::listings_go_by_prefix_in_order,
    control::partitions_are_listed_per_table,
    histories::stores_agree_with_the_model,
];

/// Runs all cases and panics with the names of those that failed.
///
/// # Panics
/// If the store does not keep its contract.
pub async fn run_all(harness: &dyn StoreHarness) {
    let mut failed = Vec::new();
    for (name, case) in CASES {
        if let Err(panic) = AssertUnwindSafe(case(harness)).catch_unwind().await {
            failed.push(format!("{name}: {}", said(panic.as_ref())));
        }
    }
    assert!(
        failed.is_empty(),
        "the store breaks its contract:\n{}",
        failed.join("\n")
    );
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked without a message")
}

/// Everything in a page.
const NO_LIMIT: PageLimit = PageLimit {
    rows: 1 << 20,
    bytes: 1 << 30,
};

/// A partition that no other case uses.
fn new_partition() -> Partition {
    Partition {
        org: new_org(),
        place: Place::random(),
        hour: Hour::of_unix_seconds(1_550_077_323).expect("an hour of 2019"),
    }
}

fn new_org() -> OrgId {
    OrgId::new(format!("o-{}", uuid::Uuid::new_v4())).expect("a UUID follows the grammar")
}

fn record(bytes: &[u8]) -> RecordId {
    RecordId::new(bytes).expect("1 to 256 bytes")
}

fn cell_write(id: &[u8], at: i64, ttl_s: u32, cell: &[u8]) -> CellWrite {
    CellWrite {
        record: record(id),
        cell: bytes::Bytes::copy_from_slice(cell),
        write_time: WriteTime(at),
        ttl_s,
    }
}

async fn page(
    store: &SharedStore,
    partition: &Partition,
    after: Option<&RecordId>,
    limit: PageLimit,
) -> Page {
    store
        .read_page(partition, after, limit, Consistency::Quorum)
        .await
        .expect("read_page")
}

/// All live cells of a partition and the rows counted as empty, page by page.
async fn read_all(
    store: &SharedStore,
    partition: &Partition,
    limit: PageLimit,
) -> (Vec<StoredCell>, u64) {
    let (mut cells, mut empty_rows, mut after) = (Vec::new(), 0, None);
    loop {
        let page = page(store, partition, after.as_ref(), limit).await;
        cells.extend(page.cells);
        empty_rows += page.empty_rows;
        let Some(next) = page.next else {
            return (cells, empty_rows);
        };
        assert!(
            after.is_none_or(|after| after < next),
            "a listing goes forward"
        );
        after = Some(next);
    }
}
