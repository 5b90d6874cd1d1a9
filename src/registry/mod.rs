//! The registry: what should be. A job first changes the registry, then
//! rewrites until what is agrees with it.
//!
//! | file | what |
//! |---|---|
//! | `rows` | the rows of an organization's partition |
//! | `timing` | the waits that workers and clients share |
//! | `view` | what a reader of the registry knows, and from when |

mod rows;
mod timing;
mod view;

pub use rows::{
    ACTIVATION_PREFIX, ActivationRow, CHANNEL_PREFIX, CMK_PREFIX, ChannelRow, CmkRole, CmkRow,
    ORG_ROW, OrgRow,
};
pub use timing::{Timing, TimingError};
pub use view::{AllowList, ChannelView, Desired};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::SharedClock;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, JobId, OrgId, Place, WorkspaceId};
use crate::job::Mode;
use crate::store::{
    Applied, ControlRow, ControlTable, ControlWrite, Expect, SharedStore, StoreError,
    StoreErrorClass,
};

/// Partition and id of the timing row.
const TIMING_PARTITION: &str = "store";
const TIMING_ROW: &str = "timing";

/// How often a conditional write is tried again with fresh rows before the
/// registry is called contended. Each loss means that somebody else's write won.
const CONTENTION_TRIES: usize = 50;

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such organization.
    #[error(
        "organization `{0}` is not in the registry; enter it with `rekeyd org add {0} --cmk <ARN>`"
    )]
    UnknownOrg(OrgId),
    /// The organization stands already.
    #[error("organization `{0}` is in the registry already; see `rekeyd org show {0}`")]
    OrgExists(OrgId),
    /// There is no such channel.
    #[error("organization `{org}` has no channel `{channel}` in the registry")]
    UnknownChannel {
        /// The organization.
        org: OrgId,
        /// The channel.
        channel: ChannelId,
    },
    /// The channel stands under another workspace.
    #[error("channel `{channel}` of `{org}` is in workspace `{has}`, not `{asked}`")]
    WrongWorkspace {
        /// The organization.
        org: OrgId,
        /// The channel.
        channel: ChannelId,
        /// Where the channel is.
        has: WorkspaceId,
        /// Where it was said to be.
        asked: WorkspaceId,
    },
    /// The CMK is not on the allow-list as a target.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The store has no timing row.
    #[error(
        "the store has no timing row: it was not set up by `rekeyd`, or its set-up was interrupted; create it again"
    )]
    NoTiming,
    /// The timing row breaks a rule.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// A row does not parse.
    #[error(
        "registry row `{row}` of `{partition}` does not parse ({why}); it was written by another version or by hand"
    )]
    Malformed {
        /// The organization.
        partition: String,
        /// The row.
        row: String,
        /// What is wrong.
        why: String,
    },
    /// Too many others write the same rows.
    #[error("the registry of `{0}` is changed by others all the time; try again")]
    Contended(OrgId),
}

/// Why a job may not do what it asks for. No KMS call is made to find out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The organization is not known.
    #[error("unknown_org: organization `{0}` is not in the registry")]
    UnknownOrg(OrgId),
    /// The target CMK is not on the allow-list.
    #[error(
        "cmk_not_allowed: `{cmk}` is not on the allow-list of `{org}`; an operator enters it with `rekeyd org allow-cmk {org} {cmk}`"
    )]
    NotAllowed {
        /// The organization.
        org: OrgId,
        /// The CMK asked for.
        cmk: CmkArn,
    },
    /// The target CMK may only be read from.
    #[error(
        "cmk_source_only: `{cmk}` was left by a finished rekey of `{org}` and is no target any more; an operator may enter it again with `rekeyd org allow-cmk {org} {cmk}`"
    )]
    SourceOnly {
        /// The organization.
        org: OrgId,
        /// The CMK asked for.
        cmk: CmkArn,
    },
    /// The job names another active CMK than the registry.
    #[error(
        "from_mismatch: the job says that `{given}` is active, but `{org}` is under `{active}`"
    )]
    FromMismatch {
        /// The organization.
        org: OrgId,
        /// What the job says.
        given: CmkArn,
        /// What the registry says.
        active: CmkArn,
    },
    /// The target is the CMK that is active already.
    #[error("same_cmk: `{org}` is under `{cmk}` already")]
    SameCmk {
        /// The organization.
        org: OrgId,
        /// The CMK.
        cmk: CmkArn,
    },
    /// A rewrap cannot cross regions.
    #[error(
        "rewrap_across_regions: a rewrap stays in one region, and `{from}` and `{to}` are in two; ask for mode reencrypt"
    )]
    RewrapAcrossRegions {
        /// The active CMK.
        from: CmkArn,
        /// The target.
        to: CmkArn,
    },
    /// The counter of epochs has come to its end.
    #[error("epoch_exhausted: `{0}` has used up its epochs")]
    EpochExhausted(OrgId),
}

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
        let now = self.clock.wall().unix_ms();
        let row = OrgRow {
            cell_epoch: Epoch::FIRST,
            wrap_epoch: Epoch::FIRST,
            last_epoch: Epoch::FIRST,
            cmk: cmk.clone(),
            cell_floor: Epoch::ZERO,
            wrap_floor: Epoch::ZERO,
            created_ms: now,
        };
        let cmk_row = self.cmk_row(canary, who);
        let writes = [insert(ORG_ROW, &row), insert(&cmk_id(cmk), &cmk_row)];
        match self.apply(org, &writes).await? {
            Applied::Yes => Ok(()),
            Applied::No => Err(RegistryError::OrgExists(org.clone())),
        }
    }

    fn cmk_row(&self, canary: &[u8], who: &str) -> CmkRow {
        CmkRow {
            role: CmkRole::Target,
            canary_hex: hex::encode(canary),
            entered_by: who.to_owned(),
            entered_ms: self.clock.wall().unix_ms(),
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
        let id = cmk_id(cmk);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &id]).await?;
            if find(&rows, ORG_ROW).is_none() {
                return Err(RegistryError::UnknownOrg(org.clone()));
            }
            let row = self.cmk_row(canary, who);
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
        };
        let write = insert(&channel_id(channel), &row);
        // Losing the race is fine: the winner's row is read below.
        let _ = self.apply(org, &[write]).await?;
        check_workspace(self.view(org, channel).await?, workspace)
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

    /// May a job of this organization make this CMK active at all? Asked when a
    /// message comes in, before anything is recorded. Makes no KMS call (I15).
    pub async fn authorize_target(&self, org: &OrgId, to: &CmkArn) -> Result<(), RegistryError> {
        let (_, cmk_row) = self.org_and_cmk(org, to).await?;
        may_target(org, cmk_row.as_ref(), to)?;
        Ok(())
    }

    /// May a rekey do what it asks for, as the organization is now? Asked again
    /// in the batch that activates it. Makes no KMS call (I15).
    pub async fn authorize_rekey(
        &self,
        org: &OrgId,
        from: Option<&CmkArn>,
        to: &CmkArn,
        mode: Mode,
    ) -> Result<OrgRow, RegistryError> {
        let (org_row, cmk_row) = self.org_and_cmk(org, to).await?;
        may_rekey(org, &org_row, cmk_row.as_ref(), from, to, mode)?;
        Ok(org_row)
    }

    async fn org_and_cmk(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
    ) -> Result<(OrgRow, Option<CmkRow>), RegistryError> {
        let id = cmk_id(cmk);
        let rows = self.get(org, &[ORG_ROW, &id]).await?;
        let Some(org_row) = find(&rows, ORG_ROW) else {
            return Err(Refusal::UnknownOrg(org.clone()).into());
        };
        let cmk_row = find(&rows, &id)
            .map(|row| parse(org.as_str(), row))
            .transpose()?;
        Ok((parse(org.as_str(), org_row)?, cmk_row))
    }

    /// Activates a rekey: takes the next epoch, makes the target the active CMK
    /// and records the job's activation, all in one conditional batch. If the
    /// job was activated before, its activation is returned unchanged.
    pub async fn activate_rekey(
        &self,
        org: &OrgId,
        job: JobId,
        from: Option<&CmkArn>,
        to: &CmkArn,
        mode: Mode,
    ) -> Result<ActivationRow, RegistryError> {
        let activation_id = format!("{ACTIVATION_PREFIX}{job}");
        let cmk_id = cmk_id(to);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &cmk_id, &activation_id]).await?;
            if let Some(row) = find(&rows, &activation_id) {
                return parse(org.as_str(), row);
            }
            let Some(old_org) = find(&rows, ORG_ROW) else {
                return Err(Refusal::UnknownOrg(org.clone()).into());
            };
            let mut org_row: OrgRow = parse(org.as_str(), old_org)?;
            let old_cmk = find(&rows, &cmk_id);
            let cmk_row: Option<CmkRow> = match old_cmk {
                Some(row) => Some(parse(org.as_str(), row)?),
                None => None,
            };
            may_rekey(org, &org_row, cmk_row.as_ref(), from, to, mode)?;
            let (Some(old_cmk), Some(cmk_row)) = (old_cmk, cmk_row) else {
                // `may_rekey` has refused a CMK without a row.
                continue;
            };
            let epoch = org_row
                .last_epoch
                .next()
                .ok_or_else(|| Refusal::EpochExhausted(org.clone()))?;
            let activation = ActivationRow {
                job,
                epoch,
                mode,
                from_cmk: org_row.cmk.clone(),
                to_cmk: to.clone(),
                at_ms: self.clock.wall().unix_ms(),
            };
            org_row.last_epoch = epoch;
            org_row.wrap_epoch = epoch;
            if mode == Mode::Reencrypt {
                org_row.cell_epoch = epoch;
            }
            org_row.cmk = to.clone();
            // The CMK's row is written back as it is, so that an allow-list
            // changed at this moment makes the batch fail.
            let writes = [
                update(old_org, &org_row),
                insert(&activation_id, &activation),
                update(old_cmk, &cmk_row),
            ];
            if self.apply(org, &writes).await? == Applied::Yes {
                return Ok(activation);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Every activation of an organization, in order of job ids. Each names the
    /// CMK of its epoch (I3).
    pub async fn activations(&self, org: &OrgId) -> Result<Vec<ActivationRow>, RegistryError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let rows = self
                .store
                .control_list(
                    ControlTable::Registry,
                    org.as_str(),
                    ACTIVATION_PREFIX,
                    after.as_deref(),
                    500,
                )
                .await?;
            let Some(last) = rows.last() else {
                return Ok(all);
            };
            after = Some(last.id.clone());
            for row in &rows {
                all.push(parse(org.as_str(), row)?);
            }
        }
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

/// The rules of authority: these two functions and nothing else decide whether
/// a job may do what its message asks for. Pure.
fn may_target(org: &OrgId, cmk_row: Option<&CmkRow>, to: &CmkArn) -> Result<(), Refusal> {
    match cmk_row.map(|row| row.role) {
        None => Err(Refusal::NotAllowed {
            org: org.clone(),
            cmk: to.clone(),
        }),
        Some(CmkRole::SourceOnly) => Err(Refusal::SourceOnly {
            org: org.clone(),
            cmk: to.clone(),
        }),
        Some(CmkRole::Target) => Ok(()),
    }
}

fn may_rekey(
    org: &OrgId,
    org_row: &OrgRow,
    cmk_row: Option<&CmkRow>,
    from: Option<&CmkArn>,
    to: &CmkArn,
    mode: Mode,
) -> Result<(), Refusal> {
    may_target(org, cmk_row, to)?;
    if let Some(given) = from
        && *given != org_row.cmk
    {
        return Err(Refusal::FromMismatch {
            org: org.clone(),
            given: given.clone(),
            active: org_row.cmk.clone(),
        });
    }
    if *to == org_row.cmk {
        return Err(Refusal::SameCmk {
            org: org.clone(),
            cmk: to.clone(),
        });
    }
    if mode == Mode::Rewrap && to.region() != org_row.cmk.region() {
        return Err(Refusal::RewrapAcrossRegions {
            from: org_row.cmk.clone(),
            to: to.clone(),
        });
    }
    Ok(())
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

impl RegistryError {
    /// True where the same call may succeed after a wait.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Store(e) => e.class == StoreErrorClass::Transient,
            RegistryError::Contended(_) => true,
            _ => false,
        }
    }
}
