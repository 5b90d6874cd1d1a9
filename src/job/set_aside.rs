//! What is set aside at the end of a rekey, and what a retire has done, as rows
//! in the store. docs/format.md lists the table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::ids::OrgId;
use crate::job::rows::SliceId;

/// What a rekey set aside at its end, as its job's row says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAside {
    /// When it is deleted, Unix milliseconds.
    pub until_ms: u64,
    /// Old data keys that are set aside.
    pub keys: u64,
    /// Old data keys that could not be, by the reason's stable code. A retire
    /// leaves them where they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
}

impl SetAside {
    /// Old data keys that could not be set aside.
    pub fn refused_keys(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Adds a channel.
    pub fn add(&mut self, channel: &AsideChannel) {
        self.keys += channel.keys;
        for (code, n) in &channel.refused {
            *self.refused.entry(code.clone()).or_default() += n;
        }
    }
}

/// What a retire deletes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireCounts {
    /// Keys that no cell names, with all their wraps.
    pub keys: u64,
    /// Wraps of these keys.
    pub wraps: u64,
    /// Older wraps of keys that have a newer one.
    pub superseded: u64,
}

impl RetireCounts {
    /// Rows of key wraps.
    pub fn rows(&self) -> u64 {
        self.wraps + self.superseded
    }

    /// Adds another count to this one.
    pub fn add(&mut self, other: &RetireCounts) {
        self.keys += other.keys;
        self.wraps += other.wraps;
        self.superseded += other.superseded;
    }
}

/// That a job was retired, as its row says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// When it had been drained, Unix milliseconds: its end as a job.
    pub drained_ms: u64,
    /// What was deleted.
    pub deleted: RetireCounts,
    /// Old wraps that stayed: older CMKs still open them.
    #[serde(default)]
    pub kept: u64,
}

/// Row `head` of a job: that something is set aside, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsideHead {
    /// The job's organization.
    pub org: OrgId,
    /// When it is deleted, Unix milliseconds. Fixed by the first who began.
    pub until_ms: u64,
}

/// Row `channel/<channel>` of a job: how far the channel is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsideChannel {
    /// Every old key of the channel was looked at.
    pub done: bool,
    /// Keys that are set aside; so far, where it is not done.
    pub keys: u64,
    /// Keys that could not be, by the reason's stable code.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    /// Calls of the KMS that it took.
    pub kms_calls: u64,
}

/// How far the setting aside is, in all channels together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AsideSoFar {
    /// Keys that are set aside. Saved every few seconds, so it may be more.
    pub keys: u64,
    /// Keys that could not be.
    pub refused: u64,
    /// Channels of which every old key was looked at.
    pub channels_done: u64,
}

/// Row `key` of a job and a channel: the data key that the channel's old keys
/// are sealed with, as the KMS wrapped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AsideSeal {
    /// A key row of docs/format.md, hexadecimal.
    pub row_hex: String,
}

/// Row `<hour>/<key id>` of a job and a channel: one old key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AsideKey {
    /// Sealed by us, in a re-encryption.
    Sealed {
        /// What the key commits to, hexadecimal.
        commitment_hex: String,
        /// The bytes of its scope, hexadecimal.
        scope_hex: String,
        /// The epoch of the wrap that was opened.
        wrap_epoch: Epoch,
        /// When that wrap was made, Unix milliseconds.
        created_ms: u64,
        /// A cell of docs/format.md whose text is the 32 bytes of the key,
        /// hexadecimal.
        cell_hex: String,
    },
    /// Wrapped anew by the KMS, in a rewrap.
    Wrapped {
        /// A key row of docs/format.md, hexadecimal; its wrap epoch is the job's.
        row_hex: String,
        /// The epoch of the wrap that it was made of.
        wrap_epoch: Epoch,
    },
}

/// Row `retire` of a job: how far its retire is. Counted before it is deleted, so
/// that whoever goes on after a kill counts nothing twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireProgress {
    /// When it began, Unix milliseconds.
    pub begun_ms: u64,
    /// What was deleted, the run of slices below among it.
    pub counts: RetireCounts,
    /// The first slice that may not be finished; `None` before the first.
    pub from: Option<SliceId>,
    /// The last slice that is counted.
    pub counted_to: Option<SliceId>,
}
