//! What a reader of the registry knows, and from when.

use std::collections::BTreeMap;

use crate::clock::BootTime;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, Hour, OrgId};
use crate::registry::{ChannelRow, CmkRole, CmkRow, OrgRow};
use crate::scope::Scope;
use crate::store::Partition;

/// What every slice of a channel should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Cells should be at this epoch or a newer one.
    pub cell_epoch: Epoch,
    /// Keys should be wrapped at this epoch or a newer one.
    pub wrap_epoch: Epoch,
    /// Keys with an older wrap than this do not seal: they are of an older
    /// generation of the organization. A move raises `cell_epoch` and not this,
    /// for its keys are told apart by their scope.
    pub key_epoch: Epoch,
    /// The CMK that wraps them.
    pub cmk: CmkArn,
}

/// Organization and channel as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelView {
    /// The organization.
    pub org: OrgId,
    /// The channel.
    pub channel: ChannelId,
    /// The organization's row.
    pub org_row: OrgRow,
    /// The channel's row.
    pub channel_row: ChannelRow,
    /// When the read was begun. A view's age counts from here.
    pub read_at: BootTime,
}

impl ChannelView {
    /// What should be.
    pub fn desired(&self) -> Desired {
        Desired {
            cell_epoch: self.org_row.cell_epoch.max(self.channel_row.epoch),
            wrap_epoch: self.org_row.wrap_epoch,
            key_epoch: self.org_row.cell_epoch,
            cmk: self.org_row.cmk.clone(),
        }
    }

    /// The scope a new data key of an hour is made for.
    pub fn scope(&self, hour: Hour) -> Scope {
        Scope::Message {
            org: self.org.clone(),
            workspace: self.channel_row.workspace.clone(),
            channel: self.channel.clone(),
            hour,
        }
    }

    /// The partition that holds an hour.
    pub fn partition(&self, hour: Hour) -> Partition {
        Partition {
            org: self.org.clone(),
            place: self.channel_row.place.clone(),
            hour,
        }
    }

    /// Cells below this epoch are refused as rolled back.
    pub fn floor(&self) -> Epoch {
        let floor = self.org_row.cell_floor.max(self.channel_row.floor);
        self.org_row.in_force(floor)
    }

    /// Wraps below this epoch are refused as rolled back.
    pub fn wrap_floor(&self) -> Epoch {
        self.org_row.wrap_floor_in_force()
    }

    /// Whether another view says the same of what should be and where. Its age does
    /// not count, and neither does what readers accept: a floor that rises or a
    /// window that is opened makes no write wrong.
    pub fn agrees_with(&self, other: &ChannelView) -> bool {
        let whatever_is_accepted = |view: &ChannelView| ChannelRow {
            floor: Epoch::ZERO,
            ..view.channel_row.clone()
        };
        self.desired() == other.desired()
            && whatever_is_accepted(self) == whatever_is_accepted(other)
    }
}

/// The CMKs of an organization that may be used at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(BTreeMap<CmkArn, CmkRow>);

impl AllowList {
    /// Whether old wraps under this CMK may be opened.
    pub fn may_open(&self, cmk: &CmkArn) -> bool {
        self.0.contains_key(cmk)
    }

    /// Whether a rekey may go to this CMK.
    pub fn may_target(&self, cmk: &CmkArn) -> bool {
        self.0
            .get(cmk)
            .is_some_and(|row| row.role == CmkRole::Target)
    }

    /// The row of a CMK.
    pub fn get(&self, cmk: &CmkArn) -> Option<&CmkRow> {
        self.0.get(cmk)
    }

    /// All of them, by ARN.
    pub fn iter(&self) -> impl Iterator<Item = (&CmkArn, &CmkRow)> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, cmk: CmkArn, row: CmkRow) {
        self.0.insert(cmk, row);
    }
}

impl FromIterator<(CmkArn, CmkRow)> for AllowList {
    fn from_iter<I: IntoIterator<Item = (CmkArn, CmkRow)>>(rows: I) -> Self {
        Self(rows.into_iter().collect())
    }
}
