//! What a scan found: counts, and where something is wrong.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::EXAMPLES;
use crate::ids::{ChannelId, CmkArn, Hour, RecordId, WorkspaceId};

/// What is under one CMK.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnderCmk {
    /// Live cells whose key is wrapped under it: by the wrap a reader uses.
    pub cells: u64,
    /// Keys that these cells name.
    pub keys: u64,
    /// All wraps under it, those that no reader uses included.
    pub wraps: u64,
}

/// Where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The channel.
    pub channel: ChannelId,
    /// The hour.
    pub hour: Hour,
    /// The record, in hexadecimal when printed.
    pub record: RecordId,
}

/// How often something is wrong, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wrong {
    /// Cells.
    pub cells: u64,
    /// The first few of them, in order of channel, hour and record.
    pub examples: Vec<Place>,
}

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Slices read.
    pub slices: u64,
    /// Live cells.
    pub cells: u64,
    /// Of these, opened. All the others are in `expired`, `quarantined` or
    /// `blocked`, unless nothing was to be opened.
    pub opened: u64,
    /// Past the expiry in their header: absent for every reader.
    pub expired: u64,
    /// Rows without a live cell.
    pub empty: u64,
    /// By CMK.
    pub by_cmk: BTreeMap<CmkArn, UnderCmk>,
    /// Live cells by cell epoch.
    pub by_epoch: BTreeMap<u32, u64>,
    /// Live cells by the workspace that their key was made for.
    pub by_workspace: BTreeMap<WorkspaceId, u64>,
    /// Cells that do not open or parse, by stable code.
    pub quarantined: BTreeMap<String, Wrong>,
    /// Cells whose key the KMS refuses now, by stable code.
    pub blocked: BTreeMap<String, Wrong>,
}

impl Found {
    /// Whether every live cell is as it should be.
    pub fn is_whole(&self) -> bool {
        self.quarantined.is_empty() && self.blocked.is_empty()
    }

    /// Live cells under a CMK.
    pub fn cells_under(&self, cmk: &CmkArn) -> u64 {
        self.by_cmk.get(cmk).map_or(0, |under| under.cells)
    }

    /// Takes in what another part of the scan found.
    pub(crate) fn add(&mut self, other: Found) {
        self.slices += other.slices;
        self.cells += other.cells;
        self.opened += other.opened;
        self.expired += other.expired;
        self.empty += other.empty;
        for (cmk, under) in other.by_cmk {
            let sum = self.by_cmk.entry(cmk).or_default();
            sum.cells += under.cells;
            sum.keys += under.keys;
            sum.wraps += under.wraps;
        }
        for (epoch, n) in other.by_epoch {
            *self.by_epoch.entry(epoch).or_default() += n;
        }
        for (workspace, n) in other.by_workspace {
            *self.by_workspace.entry(workspace).or_default() += n;
        }
        for (mine, theirs) in [
            (&mut self.quarantined, other.quarantined),
            (&mut self.blocked, other.blocked),
        ] {
            for (code, wrong) in theirs {
                let sum = mine.entry(code).or_default();
                sum.cells += wrong.cells;
                // Slices are through in any order; the same cells are named each time.
                sum.examples.extend(wrong.examples);
                sum.examples.sort();
                sum.examples.truncate(EXAMPLES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cells_that_are_named_do_not_depend_on_the_order_of_slices() {
        let slice = |hour: u32| {
            let place = Place {
                channel: "c1".parse().unwrap(),
                hour: format!("2019-02-13T{hour:02}").parse().unwrap(),
                record: RecordId::new("r").unwrap(),
            };
            let wrong = Wrong {
                cells: 2,
                examples: vec![place.clone(), place],
            };
            let mut found = Found::default();
            found.blocked.insert("revoked".to_owned(), wrong);
            found
        };
        let scanned = |order: &mut dyn Iterator<Item = u32>| {
            let mut sum = Found::default();
            order.for_each(|hour| sum.add(slice(hour)));
            sum
        };
        let forward = scanned(&mut (0..24));
        assert_eq!(forward, scanned(&mut (0..24).rev()));
        let named = &forward.blocked["revoked"];
        assert_eq!((named.cells, named.examples.len()), (48, EXAMPLES));
        assert_eq!(named.examples[0].hour, "2019-02-13T00".parse().unwrap());
    }
}
