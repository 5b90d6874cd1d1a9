//! How much there is: slices are counted, and a bounded number of them is looked
//! into.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::crypto::Header;
use crate::ids::{ChannelId, OrgId, RecordId, Sha256Hex};
use crate::job::SliceId;
use crate::pipeline::plan::SliceWalk;
use crate::pipeline::{TaskError, patiently};
use crate::registry::Registry;
use crate::store::{Consistency, PageLimit, SharedStore, SliceKey};

/// Pages of one slice that are read, at most: a slice may be very large.
const PAGES: usize = 20;

/// A number, and whether it was counted or reckoned from a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The number.
    pub value: u64,
    /// It was counted, in every slice and to the end.
    pub exact: bool,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// Slices: counted, for the rows of data keys are their index.
    pub slices: u64,
    /// Slices that were looked into.
    pub sampled: u64,
    /// Data keys that have a row, those of before an earlier rekey among them.
    pub keys: Figure,
    /// Of these, the ones that live cells name.
    pub named_keys: Figure,
    /// Live cells.
    pub cells: Figure,
    /// Bytes of them.
    pub bytes: Figure,
    /// How long one read took, microseconds, one after the other.
    pub read_us: u64,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Slices that are looked into, at most.
    pub slices: usize,
    /// How much of one is read at once.
    pub page: PageLimit,
}

/// Surveys an organization, or one channel of it. Reads only.
///
/// Which slices are looked into depends on their names alone, so two surveys of
/// the same data look into the same.
///
/// # Errors
/// If the organization is not known, or the store or the registry fails.
pub async fn survey(
    store: &SharedStore,
    registry: &Registry,
    org: &OrgId,
    channel: Option<&ChannelId>,
    sample: Sample,
) -> Result<Survey, TaskError> {
    // The organization must be known, or the count of nothing would look fine.
    registry.org(org).await?;
    let (slices, chosen) = choose(store, registry, org, channel, sample.slices).await?;
    let mut seen = Seen::default();
    for slice in &chosen {
        look_into(store, registry, org, slice, sample.page, &mut seen).await?;
    }
    let sampled = chosen.len() as u64;
    let whole = |n: u64, to_the_end: bool| Figure {
        value: reckoned(n, slices, sampled),
        exact: sampled == slices && to_the_end,
    };
    Ok(Survey {
        slices,
        sampled,
        keys: whole(seen.keys, true),
        named_keys: whole(seen.named_keys, seen.cut == 0),
        cells: whole(seen.cells, seen.cut == 0),
        bytes: whole(seen.bytes, seen.cut == 0),
        read_us: seen.took_us.checked_div(seen.reads).unwrap_or(0),
    })
}

fn reckoned(n: u64, slices: u64, sampled: u64) -> u64 {
    let all = (u128::from(n) * u128::from(slices)).checked_div(u128::from(sampled));
    u64::try_from(all.unwrap_or(0)).unwrap_or(u64::MAX)
}

/// Counts the slices and chooses those with the lowest hashes.
async fn choose(
    store: &SharedStore,
    registry: &Registry,
    org: &OrgId,
    channel: Option<&ChannelId>,
    most: usize,
) -> Result<(u64, Vec<SliceId>), TaskError> {
    let mut walk = SliceWalk::new(
        store.clone(),
        registry.clone(),
        org.clone(),
        channel.cloned(),
        None,
    );
    let mut slices = 0;
    let mut chosen: BTreeSet<(Sha256Hex, SliceId)> = BTreeSet::new();
    while let Some(slice) = walk.next().await? {
        slices += 1;
        chosen.insert((Sha256Hex::of(slice.to_string().as_bytes()), slice));
        if chosen.len() > most {
            chosen.pop_last();
        }
    }
    Ok((slices, chosen.into_iter().map(|(_, slice)| slice).collect()))
}

#[derive(Default)]
struct Seen {
    keys: u64,
    named_keys: u64,
    cells: u64,
    bytes: u64,
    reads: u64,
    took_us: u64,
    /// Slices that were not read to their end.
    cut: u64,
}

async fn look_into(
    store: &SharedStore,
    registry: &Registry,
    org: &OrgId,
    slice: &SliceId,
    limit: PageLimit,
    seen: &mut Seen,
) -> Result<(), TaskError> {
    let clock = registry.clock();
    let view = patiently(clock, || registry.view(org, &slice.channel)).await?;
    let address = SliceKey::messages(org, &slice.channel, slice.hour);
    let keys = patiently(clock, || store.read_keys(&address)).await?;
    let ids: BTreeSet<String> = keys.iter().map(|key| key.key_id.to_string()).collect();
    seen.keys += ids.len() as u64;
    let partition = view.partition(slice.hour);
    let mut named = BTreeSet::new();
    let mut after: Option<RecordId> = None;
    for _ in 0..PAGES {
        let began = clock.boot();
        let page = patiently(clock, || {
            store.read_page(&partition, after.as_ref(), limit, Consistency::Quorum)
        })
        .await?;
        seen.took_us += u64::try_from(clock.boot().since(began).as_micros()).unwrap_or(u64::MAX);
        seen.reads += 1;
        seen.cells += page.cells.len() as u64;
        let bytes = page.cells.iter().map(|cell| cell.cell.len() as u64);
        seen.bytes += bytes.sum::<u64>();
        // What is no cell names no key, and is counted by whoever scans.
        let headers = page
            .cells
            .iter()
            .filter_map(|c| Header::parse(&c.cell).ok());
        named.extend(headers.map(|header| header.key_id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    seen.named_keys += named.len() as u64;
    seen.cut += u64::from(after.is_some());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_all() {
        assert_eq!(reckoned(0, 0, 0), 0);
        assert_eq!(reckoned(30, 3, 3), 30);
        assert_eq!(reckoned(30, 3_000, 3), 30_000);
        assert_eq!(reckoned(u64::MAX, u64::MAX, 1), u64::MAX);
    }
}
