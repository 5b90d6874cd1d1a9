//! The rows of the registry: what should be, one partition per organization.

use serde::{Deserialize, Serialize};

use crate::epoch::Epoch;
use crate::ids::{
    ChannelId, CmkArn, ExternalId, InvalidId, JobId, OrgId, Place, RoleArn, WorkspaceId,
};
use crate::job::{Mode, MoveKind};

/// Row id of the organization itself.
pub const ORG_ROW: &str = "org";
/// Prefix of the rows of channels; the channel id follows.
pub const CHANNEL_PREFIX: &str = "channel/";
/// Prefix of the rows of allowed CMKs; the ARN follows.
pub const CMK_PREFIX: &str = "cmk/";
/// Prefix of the rows of activated rekeys; the job id follows.
pub const ACTIVATION_PREFIX: &str = "activation/";
/// Prefix of the rows of activated moves; the job id follows. A move to another
/// organization has one in both.
pub const MOVE_PREFIX: &str = "move/";
/// Prefix of the rows that consent to a move between two organizations; see
/// [`ConsentRow`].
pub const CONSENT_PREFIX: &str = "consent/";

/// The organization: its epochs, its CMK, its floors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgRow {
    /// Cells should be at this epoch or a newer one.
    pub cell_epoch: Epoch,
    /// Keys should be wrapped at this epoch or a newer one.
    pub wrap_epoch: Epoch,
    /// The newest epoch given out; activation gives out the next.
    pub last_epoch: Epoch,
    /// The CMK that wraps new data keys.
    pub cmk: CmkArn,
    /// Readers refuse cells below this epoch as rolled back.
    pub cell_floor: Epoch,
    /// Readers refuse wraps below this epoch as rolled back.
    pub wrap_floor: Epoch,
    /// When the organization was entered, Unix milliseconds.
    pub created_ms: u64,
    /// While it is there, readers accept what the floors would refuse; see
    /// [`RestoreWindow`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_window: Option<RestoreWindow>,
}

impl OrgRow {
    /// A floor as readers go by it now.
    pub(super) fn in_force(&self, floor: Epoch) -> Epoch {
        match &self.restore_window {
            Some(window) => floor.min(window.floor),
            None => floor,
        }
    }

    /// Readers refuse wraps below this epoch as rolled back.
    pub fn wrap_floor_in_force(&self) -> Epoch {
        self.in_force(self.wrap_floor)
    }
}

/// Opened by an operator who brings in a backup from before a rekey: until it is
/// closed, readers accept cells and wraps from `floor` on. The floors themselves
/// stay, and may rise meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreWindow {
    /// The epoch from which on cells and wraps are accepted.
    pub floor: Epoch,
    /// Who opened it.
    pub opened_by: String,
    /// When, Unix milliseconds.
    pub opened_ms: u64,
    /// Why.
    pub reason: String,
}

/// A channel: where it belongs and where its records are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRow {
    /// The workspace the channel is in.
    pub workspace: WorkspaceId,
    /// The place its records are in.
    pub place: Place,
    /// Cells of this channel should be at this epoch or a newer one; 0 for a
    /// channel that never moved.
    pub epoch: Epoch,
    /// Readers refuse cells of this channel below this epoch as rolled back.
    pub floor: Epoch,
    /// Every workspace the channel has been in, the present one included. A key
    /// made for any of them may still be named by a cell.
    pub workspaces_had: Vec<WorkspaceId>,
    /// When the channel was entered, Unix milliseconds.
    pub created_ms: u64,
    /// A copy of this channel to another place that is under way or was made.
    /// The copy's phase stands here and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outgoing: Option<Outgoing>,
    /// The copy that this channel is the destination of, until every client is
    /// in phase `moved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<Incoming>,
    /// Channels this one was copied from, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub came_from: Vec<Origin>,
    /// Places this channel id has had before the present one. None is ever used
    /// again (I14).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places_had: Vec<Place>,
}

/// Where clients read, write and delete while a channel is copied. Neighbouring
/// phases are compatible (I14): a client that learns of a phase late does no
/// harm to one that follows it.
///
/// | phase | read | write | delete |
/// |---|---|---|---|
/// | announced | source | source | destination, then source |
/// | mirrored | source | destination, then source | destination, then source |
/// | switched | destination | destination, then source | destination, then source |
/// | moved | destination | destination | destination |
/// | closed | destination | destination | destination |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyPhase {
    /// Deletes go to both places.
    Announced,
    /// Writes too. The worker copies.
    Mirrored,
    /// Reads come from the destination. The worker copies once more.
    Switched,
    /// The source is left. The worker waits for late writes and sweeps it.
    Moved,
    /// The source is empty.
    Closed,
}

impl CopyPhase {
    /// All phases, in their order.
    pub const ALL: [CopyPhase; 5] = [
        CopyPhase::Announced,
        CopyPhase::Mirrored,
        CopyPhase::Switched,
        CopyPhase::Moved,
        CopyPhase::Closed,
    ];

    /// The word used in rows, commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            CopyPhase::Announced => "announced",
            CopyPhase::Mirrored => "mirrored",
            CopyPhase::Switched => "switched",
            CopyPhase::Moved => "moved",
            CopyPhase::Closed => "closed",
        }
    }

    /// Whether the copy may still be called off: nobody reads from the
    /// destination yet.
    pub fn may_be_cancelled(self) -> bool {
        self < CopyPhase::Switched
    }
}

impl std::fmt::Display for CopyPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A channel by all that an application names it with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelName {
    /// The organization.
    pub org: OrgId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The channel.
    pub channel: ChannelId,
}

impl std::fmt::Display for ChannelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.org, self.workspace, self.channel)
    }
}

impl std::str::FromStr for ChannelName {
    type Err = InvalidId;

    /// Reads `organization/workspace/channel`, as it is printed.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default();
        Ok(Self {
            org: OrgId::new(part())?,
            workspace: WorkspaceId::new(part())?,
            channel: ChannelId::new(part())?,
        })
    }
}

/// In the source's row: where its records are copied to, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outgoing {
    /// The job.
    pub job: JobId,
    /// How far it is.
    pub phase: CopyPhase,
    /// The destination.
    pub to: ChannelName,
}

/// In the destination's row: whose copy it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// The job.
    pub job: JobId,
    /// The organization of the source.
    pub org: OrgId,
    /// The source.
    pub channel: ChannelId,
}

/// Where a channel was copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The job.
    pub job: JobId,
    /// The channel as it was named.
    pub from: ChannelName,
    /// The place its records were in.
    pub place: Place,
}

/// A move that has changed the registry. Written in the same batch as the
/// change, so a takeover cannot activate twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRow {
    /// The job.
    pub job: JobId,
    /// How.
    pub kind: MoveKind,
    /// The epoch it was given, by the destination's organization.
    pub epoch: Epoch,
    /// From where.
    pub from: ChannelName,
    /// To where.
    pub to: ChannelName,
    /// The destination's place.
    pub place: Place,
    /// The CMK that was active in the destination's organization.
    pub cmk: CmkArn,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// An operator's consent that a channel may go from one organization to another.
/// It stands in the registries of both, under
/// `consent/<source org>/<channel>/<destination org>/<channel>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentRow {
    /// From where.
    pub from: ChannelName,
    /// To where.
    pub to: ChannelName,
    /// Until when a move may be activated by it, Unix milliseconds.
    pub expires_ms: u64,
    /// Who entered it.
    pub entered_by: String,
    /// When, Unix milliseconds.
    pub entered_ms: u64,
}

/// What an allowed CMK may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CmkRole {
    /// Old wraps may be opened, and a rekey may go to it.
    Target,
    /// Old wraps may be opened; no job may make it active again, so a replayed
    /// message cannot send anything back to it.
    SourceOnly,
}

/// A CMK on the organization's allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmkRow {
    /// What it may be used for.
    pub role: CmkRole,
    /// A data key wrapped under the canary context by whoever entered the CMK,
    /// in hexadecimal. Preflight opens it to see that the CMK answers.
    pub canary_hex: String,
    /// Who entered it.
    pub entered_by: String,
    /// When, Unix milliseconds.
    pub entered_ms: u64,
    /// The role in the customer's account that is assumed to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_arn: Option<RoleArn>,
    /// What that role asks for besides our identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<ExternalId>,
}

/// How a CMK in a customer's account is reached. `Default` is as ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CmkAccess {
    /// The role that is assumed.
    pub role_arn: Option<RoleArn>,
    /// What it asks for besides our identity.
    pub external_id: Option<ExternalId>,
}

/// A job that has changed the registry. Written in the same batch as the
/// change, so a takeover cannot activate twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationRow {
    /// The job.
    pub job: JobId,
    /// The epoch it was given. One epoch names one (CMK, scope) of a channel.
    pub epoch: Epoch,
    /// How it rewrites.
    pub mode: Mode,
    /// The CMK that was active before.
    pub from_cmk: CmkArn,
    /// The CMK that is active from here on.
    pub to_cmk: CmkArn,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_named_as_it_is_printed() {
        let name: ChannelName = "acme/w1/c1".parse().unwrap();
        assert_eq!(name.to_string(), "acme/w1/c1");
        for bad in [
            "acme/w1",
            "acme",
            "",
            "acme/w1/c1/x",
            "acme//c1",
            "a*/w1/c1",
        ] {
            assert!(bad.parse::<ChannelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rows_of_before_there_were_roles_are_read_and_written_as_they_were() {
        let old = r#"{"role":"target","canary_hex":"00","entered_by":"ops","entered_ms":7}"#;
        let row: CmkRow = serde_json::from_str(old).unwrap();
        assert_eq!((&row.role_arn, &row.external_id), (&None, &None));
        assert_eq!(serde_json::to_string(&row).unwrap(), old);
        let row = CmkRow {
            role_arn: Some(RoleArn::new("arn:aws:iam::111122223333:role/x").unwrap()),
            external_id: Some(ExternalId::new("T0P-secret").unwrap()),
            ..row
        };
        assert!(!format!("{row:?}").contains("T0P-secret"));
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<CmkRow>(&text).unwrap(), row);
    }
}
