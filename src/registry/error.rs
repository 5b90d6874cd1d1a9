//! Why the registry does not do what it is asked.

use crate::ids::{ChannelId, CmkArn, JobId, OrgId, WorkspaceId};
use crate::registry::{ChannelName, TimingError};
use crate::store::{StoreError, StoreErrorClass};

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
    Refused(Box<Refusal>),
    /// The store has no timing row.
    #[error(
        "the store has no timing row: it was not set up, or its set-up was interrupted; `rekeyd init` (embedded) or `rekeyd schema apply` (ScyllaDB, Cassandra) makes it"
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
    /// A backup is being brought in already.
    #[error("the restore window of `{org}` is open already: {by} opened it, {reason:?}")]
    WindowOpen {
        /// The organization.
        org: OrgId,
        /// Who opened it.
        by: String,
        /// Why.
        reason: String,
    },
    /// There is no window to close.
    #[error("the restore window of `{0}` is not open")]
    NoWindow(OrgId),
    /// The caller no longer drives the job.
    #[error("job {0} is driven by another worker now")]
    NotMine(JobId),
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
    /// There is no such channel.
    #[error("unknown_channel: organization `{org}` has no channel `{channel}` in the registry")]
    UnknownChannel {
        /// The organization.
        org: OrgId,
        /// The channel.
        channel: ChannelId,
    },
    /// The channel is not in the workspace that the move names.
    #[error(
        "wrong_workspace: channel `{}` of `{}` is in workspace `{has}`, not `{}`", channel.channel, channel.org, channel.workspace
    )]
    WrongWorkspace {
        /// The channel as the move names it.
        channel: ChannelName,
        /// Where it is.
        has: WorkspaceId,
    },
    /// The destination is a channel already.
    #[error(
        "destination_exists: `{0}` is a channel already; name a channel id that is not in use there"
    )]
    DestinationExists(ChannelName),
    /// The channel is being copied.
    #[error(
        "move_running: `{channel}` is being copied by job {job}; ask again when `rekeyd status {job}` says that it is draining and every client follows it, or cancel that job"
    )]
    MoveRunning {
        /// The channel.
        channel: ChannelName,
        /// The job that copies it.
        job: JobId,
    },
    /// The channel has gone to another name.
    #[error("moved_away: `{channel}` has gone to `{to}`; move it from there")]
    MovedAway {
        /// The channel.
        channel: ChannelName,
        /// Where it is. Boxed, as below: an error that is large costs every
        /// result that may be one.
        to: Box<ChannelName>,
    },
    /// One of two organizations has not consented.
    #[error(
        "no_consent: `{org}` has no valid consent to move `{from}` to `{to}`; an operator enters it with `rekeyd org consent-move {org} --from {from} --to {to} --until <TIME>`, in both organizations"
    )]
    NoConsent {
        /// The organization that has not.
        org: OrgId,
        /// From where.
        from: Box<ChannelName>,
        /// To where.
        to: Box<ChannelName>,
    },
    /// The counter of epochs has come to its end.
    #[error("epoch_exhausted: `{0}` has used up its epochs")]
    EpochExhausted(OrgId),
}

impl From<Refusal> for RegistryError {
    fn from(refusal: Refusal) -> Self {
        // Some name two channels in full; errors travel far.
        RegistryError::Refused(Box::new(refusal))
    }
}

impl RegistryError {
    /// True where the same call may succeed after a wait.
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Store(e) => e.class == StoreErrorClass::Transient,
            RegistryError::Contended(_) | RegistryError::NotMine(_) => true,
            _ => false,
        }
    }
}
