//! A look at every cell that shares nothing with the worker's: it counts what
//! CMK each message depends on, from the stored bytes alone.

use std::collections::BTreeMap;

use futures::StreamExt;

use super::DemoError;
use super::scene::Scene;
use crate::crypto::Header;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, Hour};
use crate::keys::SliceKeys;
use crate::registry::ChannelView;
use crate::scope::Kind;
use crate::store::{Consistency, PageLimit, SliceKey};

/// Slices read at once.
const SLICES_AT_ONCE: usize = 32;
/// Names of slices read at once, and rows.
const PAGE: usize = 1000;

/// What a scan counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Rows with a live cell.
    pub rows: u64,
    /// Of these, past the expiry in their header: absent to every reader.
    pub expired: u64,
    /// The other rows by the CMK that their key's newest wrap is under, and by
    /// their epoch.
    pub rows_under: BTreeMap<(CmkArn, Epoch), u64>,
    /// Rows whose cell does not parse, or whose key has no row.
    pub unreadable: u64,
    /// Key rows by CMK, in use or not.
    pub key_rows: BTreeMap<CmkArn, u64>,
}

impl Scan {
    /// Rows that a CMK is needed for.
    pub fn rows_needing(&self, cmk: &CmkArn) -> u64 {
        self.rows_under
            .iter()
            .filter(|((under, _), _)| under == cmk)
            .map(|(_, rows)| rows)
            .sum()
    }

    fn add(&mut self, other: Scan) {
        self.rows += other.rows;
        self.expired += other.expired;
        self.unreadable += other.unreadable;
        for (under, rows) in other.rows_under {
            *self.rows_under.entry(under).or_default() += rows;
        }
        for (cmk, rows) in other.key_rows {
            *self.key_rows.entry(cmk).or_default() += rows;
        }
    }
}

/// Scans every slice of the organization.
///
/// # Errors
/// If something cannot be read.
pub async fn scan(scene: &Scene) -> Result<Scan, DemoError> {
    let mut slices = Vec::new();
    let mut channel = None;
    while let Some((next, _)) = scene
        .registry
        .channels(&scene.org, channel.as_ref(), 1)
        .await?
        .pop()
    {
        let view = scene.registry.view(&scene.org, &next).await?;
        let mut after: Option<String> = None;
        loop {
            let names = scene
                .store
                .list_slices(
                    &scene.org,
                    Kind::Message,
                    next.as_str(),
                    after.as_deref(),
                    PAGE,
                )
                .await?;
            for name in &names {
                slices.push((view.clone(), name.parse::<Hour>()?));
            }
            let full = names.len() == PAGE;
            after = names.into_iter().next_back();
            if !full {
                break;
            }
        }
        channel = Some(next);
    }
    let mut scans = futures::stream::iter(slices)
        .map(|(view, hour)| async move { slice(scene, &view, hour).await })
        .buffer_unordered(SLICES_AT_ONCE);
    let mut all = Scan::default();
    while let Some(one) = scans.next().await {
        all.add(one?);
    }
    Ok(all)
}

async fn slice(scene: &Scene, view: &ChannelView, hour: Hour) -> Result<Scan, DemoError> {
    let mut found = Scan::default();
    let address = SliceKey::messages(&scene.org, &view.channel, hour);
    let limit = PageLimit {
        rows: PAGE,
        bytes: 1 << 20,
    };
    let mut headers = Vec::new();
    let mut after = None;
    loop {
        let page = scene
            .store
            .read_page(
                &view.partition(hour),
                after.as_ref(),
                limit,
                Consistency::All,
            )
            .await?;
        for cell in page.cells {
            headers.push(Header::parse(&cell.cell));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    // The keys after the cells: a key is durable before a cell names it (I11).
    let keys = SliceKeys::parse(&scene.store.read_keys(&address).await?);
    for row in keys.rows() {
        *found.key_rows.entry(row.cmk.clone()).or_default() += 1;
    }
    let now_s = scene.clock.wall().unix_seconds();
    for header in headers {
        found.rows += 1;
        let Ok(header) = header else {
            found.unreadable += 1;
            continue;
        };
        if header.expiry.is_some_and(|at| i64::from(at) <= now_s) {
            found.expired += 1;
            continue;
        }
        let newest = keys
            .rows()
            .iter()
            .filter(|row| row.key_id() == header.key_id)
            .max_by_key(|row| row.wrap_epoch);
        match newest {
            Some(row) => {
                *found
                    .rows_under
                    .entry((row.cmk.clone(), header.epoch))
                    .or_default() += 1;
            }
            None => found.unreadable += 1,
        }
    }
    Ok(found)
}
