//! The registry: what should be. A job first changes the registry, then
//! rewrites until what is agrees with it.
//!
//! | file | what |
//! |---|---|
//! | `authority` | who may ask for what, and the batch that makes it so |
//! | `error` | why the registry does not do what it is asked |
//! | `floors` | what readers refuse as rolled back, and the window for a backup |
//! | `moves` | the same as `authority` for channel moves, and the phases of a copy |
//! | `route` | where a channel's records are read, written and deleted now |
//! | `rows` | the rows of an organization's partition |
//! | `timing` | the waits that workers and clients share |
//! | `view` | what a reader of the registry knows, and from when |

mod authority;
mod error;
mod floors;
mod moves;
mod route;
mod rows;
#[cfg(test)]
mod tests;
mod timing;
mod view;

pub use error::{Refusal, RegistryError};
pub use floors::Raised;
pub use moves::{CalledOff, Stepped};
pub use route::{Places, Route};
pub use rows::{
    ACTIVATION_PREFIX, ActivationRow, CHANNEL_PREFIX, CMK_PREFIX, CONSENT_PREFIX, ChannelName,
    ChannelRow, CmkAccess, CmkRole, CmkRow, ConsentRow, CopyPhase, Incoming, MOVE_PREFIX, MoveRow,
    ORG_ROW, OrgRow, Origin, Outgoing, RestoreWindow,
};
pub use timing::{Timing, TimingError};
pub use view::{AllowList, ChannelView, Desired};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::SharedClock;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, OrgId, Place, WorkspaceId};
use crate::store::{Applied, ControlRow, ControlTable, ControlWrite, Expect, SharedStore};

/// Partition and id of the timing row.
const TIMING_PARTITION: &str = "store";
const TIMING_ROW: &str = "timing";

/// How often a conditional write is tried again with fresh rows before the
/// registry is called contended. Each loss means that somebody else's write won.
const CONTENTION_TRIES: usize = 50;
/// Channels read with one call where they are only counted.
const COUNTED_AT_ONCE: usize = 1000;

/// The registry of a store.
#[derive(Clone)]
pub struct Registry {
    store: SharedStore,
    clock: SharedClock,
}

impl Registry {
    /// The registry in a store.
    pub fn new(store: SharedStore, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Writes the timing row of a new store. An existing row is left as it is
    /// and returned: two set-ups cannot disagree.
    pub async fn init_timing(&self, timing: &Timing) -> Result<Timing, RegistryError> {
        timing.check()?;
        let write = insert(TIMING_ROW, timing);
        let _ = self
            .store
            .control_apply(ControlTable::Timing, TIMING_PARTITION, &[write])
            .await?;
        self.timing().await
    }

    /// Reads and checks the timing row.
    pub async fn timing(&self) -> Result<Timing, RegistryError> {
        let rows = self
            .store
            .control_get(ControlTable::Timing, TIMING_PARTITION, &[TIMING_ROW])
            .await?;
        let row = rows.first().ok_or(RegistryError::NoTiming)?;
        let timing: Timing = parse(TIMING_PARTITION, row)?;
        timing.check()?;
        Ok(timing)
    }

    /// Enters an organization with its first CMK, whose canary was wrapped by
    /// the caller.
    pub async fn add_org(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
        canary: &[u8],
        who: &str,
    ) -> Result<(), RegistryError> {
        let access = CmkAccess::default();
        self.add_org_with(org, cmk, &access, canary, who).await
    }

    /// As [`Registry::add_org`], with how the CMK is reached.
    pub async fn add_org_with(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
        access: &CmkAccess,
        canary: &[u8],
        who: &str,
    ) -> Result<(), RegistryError> {
        let now = self.clock.wall().unix_ms();
        let row = OrgRow {
            cell_epoch: Epoch::FIRST,
            wrap_epoch: Epoch::FIRST,
            last_epoch: Epoch::FIRST,
            cmk: cmk.clone(),
            cell_floor: Epoch::ZERO,
            wrap_floor: Epoch::ZERO,
            created_ms: now,
            restore_window: None,
        };
        let cmk_row = self.cmk_row(access, canary, who);
        let writes = [insert(ORG_ROW, &row), insert(&cmk_id(cmk), &cmk_row)];
        match self.apply(org, &writes).await? {
            Applied::Yes => Ok(()),
            Applied::No => Err(RegistryError::OrgExists(org.clone())),
        }
    }

    fn cmk_row(&self, access: &CmkAccess, canary: &[u8], who: &str) -> CmkRow {
        CmkRow {
            role: CmkRole::Target,
            canary_hex: hex::encode(canary),
            entered_by: who.to_owned(),
            entered_ms: self.clock.wall().unix_ms(),
            role_arn: access.role_arn.clone(),
            external_id: access.external_id.clone(),
        }
    }

    /// Puts a CMK on the allow-list as a target, or makes one that may only be
    /// read from a target again.
    pub async fn allow_cmk(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
        canary: &[u8],
        who: &str,
    ) -> Result<(), RegistryError> {
        let access = CmkAccess::default();
        self.allow_cmk_with(org, cmk, &access, canary, who).await
    }

    /// As [`Registry::allow_cmk`], with how the CMK is reached. It replaces how
    /// it was reached before.
    pub async fn allow_cmk_with(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
        access: &CmkAccess,
        canary: &[u8],
        who: &str,
    ) -> Result<(), RegistryError> {
        let id = cmk_id(cmk);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &id]).await?;
            if find(&rows, ORG_ROW).is_none() {
                return Err(RegistryError::UnknownOrg(org.clone()));
            }
            let row = self.cmk_row(access, canary, who);
            let write = match find(&rows, &id) {
                Some(old) => update(old, &row),
                None => insert(&id, &row),
            };
            if self.apply(org, &[write]).await? == Applied::Yes {
                return Ok(());
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Makes a CMK one that may only be read from, unless it is active again.
    /// Returns whether it now is.
    pub async fn make_source_only(&self, org: &OrgId, cmk: &CmkArn) -> Result<bool, RegistryError> {
        let id = cmk_id(cmk);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &id]).await?;
            let org_row =
                find(&rows, ORG_ROW).ok_or_else(|| RegistryError::UnknownOrg(org.clone()))?;
            let body: OrgRow = parse(org.as_str(), org_row)?;
            let Some(old) = find(&rows, &id) else {
                return Ok(false);
            };
            if body.cmk == *cmk {
                return Ok(false);
            }
            let mut row: CmkRow = parse(org.as_str(), old)?;
            if row.role == CmkRole::SourceOnly {
                return Ok(true);
            }
            row.role = CmkRole::SourceOnly;
            // The organization's row is written back as it is: an activation
            // that makes this CMK active again at this moment makes one of the
            // two batches fail.
            let writes = [update(old, &row), update(org_row, &body)];
            if self.apply(org, &writes).await? == Applied::Yes {
                return Ok(true);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// The row of a CMK on the organization's allow-list, if it is there.
    pub async fn cmk(&self, org: &OrgId, cmk: &CmkArn) -> Result<Option<CmkRow>, RegistryError> {
        let id = cmk_id(cmk);
        let rows = self.get(org, &[&id]).await?;
        find(&rows, &id)
            .map(|row| parse(org.as_str(), row))
            .transpose()
    }

    /// Organizations, ascending, from just after `after`.
    pub async fn orgs(
        &self,
        after: Option<&OrgId>,
        limit: usize,
    ) -> Result<Vec<OrgId>, RegistryError> {
        let names = self
            .store
            .control_partitions(ControlTable::Registry, after.map(OrgId::as_str), limit)
            .await?;
        names
            .into_iter()
            .map(|name| {
                OrgId::new(name.clone()).map_err(|e| RegistryError::Malformed {
                    partition: name,
                    row: String::new(),
                    why: e.to_string(),
                })
            })
            .collect()
    }

    /// The organization's row.
    pub async fn org(&self, org: &OrgId) -> Result<OrgRow, RegistryError> {
        let rows = self.get(org, &[ORG_ROW]).await?;
        let row = find(&rows, ORG_ROW).ok_or_else(|| RegistryError::UnknownOrg(org.clone()))?;
        parse(org.as_str(), row)
    }

    /// The allow-list of an organization.
    pub async fn allow_list(&self, org: &OrgId) -> Result<AllowList, RegistryError> {
        let mut list = AllowList::default();
        let mut after: Option<String> = None;
        loop {
            let rows = self
                .store
                .control_list(
                    ControlTable::Registry,
                    org.as_str(),
                    CMK_PREFIX,
                    after.as_deref(),
                    500,
                )
                .await?;
            let Some(last) = rows.last() else {
                return Ok(list);
            };
            after = Some(last.id.clone());
            for row in &rows {
                let arn = row.id.strip_prefix(CMK_PREFIX).unwrap_or_default();
                let arn = CmkArn::new(arn).map_err(|e| malformed(org.as_str(), row, e))?;
                list.insert(arn, parse(org.as_str(), row)?);
            }
        }
    }

    /// Reads organization and channel in one statement, so that the two never
    /// come from two different moments (I3).
    pub async fn view(
        &self,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<ChannelView, RegistryError> {
        let read_at = self.clock.boot();
        let id = channel_id(channel);
        let rows = self.get(org, &[ORG_ROW, &id]).await?;
        let org_row = find(&rows, ORG_ROW).ok_or_else(|| RegistryError::UnknownOrg(org.clone()))?;
        let channel_row = find(&rows, &id).ok_or_else(|| RegistryError::UnknownChannel {
            org: org.clone(),
            channel: channel.clone(),
        })?;
        Ok(ChannelView {
            org: org.clone(),
            channel: channel.clone(),
            org_row: parse(org.as_str(), org_row)?,
            channel_row: parse(org.as_str(), channel_row)?,
            read_at,
        })
    }

    /// Enters a channel, or finds it: its place is chosen once, by whoever
    /// comes first.
    pub async fn ensure_channel(
        &self,
        org: &OrgId,
        workspace: &WorkspaceId,
        channel: &ChannelId,
    ) -> Result<ChannelView, RegistryError> {
        match self.view(org, channel).await {
            Err(RegistryError::UnknownChannel { .. }) => {}
            other => return check_workspace(other?, workspace),
        }
        let row = ChannelRow {
            workspace: workspace.clone(),
            place: Place::random(),
            epoch: Epoch::ZERO,
            floor: Epoch::ZERO,
            workspaces_had: vec![workspace.clone()],
            created_ms: self.clock.wall().unix_ms(),
            outgoing: None,
            incoming: None,
            came_from: Vec::new(),
            places_had: Vec::new(),
        };
        let write = insert(&channel_id(channel), &row);
        // Losing the race is fine: the winner's row is read below.
        let _ = self.apply(org, &[write]).await?;
        check_workspace(self.view(org, channel).await?, workspace)
    }

    /// How many channels an organization has.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn count_channels(&self, org: &OrgId) -> Result<u64, RegistryError> {
        let mut n = 0;
        let mut after: Option<ChannelId> = None;
        loop {
            let page = self.channels(org, after.as_ref(), COUNTED_AT_ONCE).await?;
            n += page.len() as u64;
            match page.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => return Ok(n),
            }
        }
    }

    /// Channels of an organization, ascending, from just after `after`.
    pub async fn channels(
        &self,
        org: &OrgId,
        after: Option<&ChannelId>,
        limit: usize,
    ) -> Result<Vec<(ChannelId, ChannelRow)>, RegistryError> {
        let after = after.map(channel_id);
        let rows = self
            .store
            .control_list(
                ControlTable::Registry,
                org.as_str(),
                CHANNEL_PREFIX,
                after.as_deref(),
                limit,
            )
            .await?;
        rows.iter()
            .map(|row| {
                let id = row.id.strip_prefix(CHANNEL_PREFIX).unwrap_or_default();
                let id = ChannelId::new(id).map_err(|e| malformed(org.as_str(), row, e))?;
                Ok((id, parse(org.as_str(), row)?))
            })
            .collect()
    }

    async fn get(&self, org: &OrgId, ids: &[&str]) -> Result<Vec<ControlRow>, RegistryError> {
        Ok(self
            .store
            .control_get(ControlTable::Registry, org.as_str(), ids)
            .await?)
    }

    async fn apply(&self, org: &OrgId, writes: &[ControlWrite]) -> Result<Applied, RegistryError> {
        Ok(self
            .store
            .control_apply(ControlTable::Registry, org.as_str(), writes)
            .await?)
    }
}

fn check_workspace(view: ChannelView, asked: &WorkspaceId) -> Result<ChannelView, RegistryError> {
    if view.channel_row.workspace == *asked {
        Ok(view)
    } else {
        Err(RegistryError::WrongWorkspace {
            org: view.org.clone(),
            channel: view.channel.clone(),
            has: view.channel_row.workspace.clone(),
            asked: asked.clone(),
        })
    }
}

fn cmk_id(cmk: &CmkArn) -> String {
    format!("{CMK_PREFIX}{cmk}")
}

fn channel_id(channel: &ChannelId) -> String {
    format!("{CHANNEL_PREFIX}{channel}")
}

fn find<'a>(rows: &'a [ControlRow], id: &str) -> Option<&'a ControlRow> {
    rows.iter().find(|row| row.id == id)
}

fn malformed(partition: &str, row: &ControlRow, why: impl ToString) -> RegistryError {
    RegistryError::Malformed {
        partition: partition.to_owned(),
        row: row.id.clone(),
        why: why.to_string(),
    }
}

fn parse<T: DeserializeOwned>(partition: &str, row: &ControlRow) -> Result<T, RegistryError> {
    serde_json::from_str(&row.body).map_err(|e| malformed(partition, row, e))
}

/// The JSON of a control row's body. The rows are plain structs with string
/// keys, which serde_json cannot fail to write.
pub(crate) fn body<T: Serialize>(row: &T) -> String {
    serde_json::to_string(row).expect("a control row is plain data and serializes")
}

/// A conditional insert of a control row.
pub(crate) fn insert<T: Serialize>(id: &str, row: &T) -> ControlWrite {
    ControlWrite {
        id: id.to_owned(),
        expect: Expect::Absent,
        body: Some(body(row)),
    }
}

/// A conditional update of a control row that was read before.
pub(crate) fn update<T: Serialize>(old: &ControlRow, row: &T) -> ControlWrite {
    ControlWrite {
        id: old.id.clone(),
        expect: Expect::Rev(old.rev),
        body: Some(body(row)),
    }
}
