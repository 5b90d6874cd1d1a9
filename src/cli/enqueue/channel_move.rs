//! `rekeyd enqueue move`

use std::str::FromStr;

use super::{Common, other_kind, read};
use crate::cli::context::who;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::{ChannelId, InvalidId, JobId, OrgId, WorkspaceId};
use crate::job::{JobMessage, MoveFrom, MoveRequest, MoveTo};

#[derive(clap::Args)]
pub(in crate::cli) struct Move {
    /// The organization the channel is in.
    #[arg(long, required_unless_present = "file")]
    org: Option<OrgId>,
    /// The workspace and the channel it is now.
    #[arg(
        long,
        value_name = "WORKSPACE/CHANNEL",
        required_unless_present = "file"
    )]
    from: Option<InWorkspace>,
    /// The workspace and the channel it is to be.
    #[arg(
        long,
        value_name = "WORKSPACE/CHANNEL",
        required_unless_present = "file"
    )]
    to: Option<InWorkspace>,
    /// The organization it is to be in, if another.
    #[arg(long, value_name = "ORG", conflicts_with = "file")]
    to_org: Option<OrgId>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// A channel of a workspace: `w1/c1`.
#[derive(Debug, Clone)]
pub(in crate::cli) struct InWorkspace {
    pub workspace: WorkspaceId,
    pub channel: ChannelId,
}

impl FromStr for InWorkspace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (workspace, channel) = text
            .split_once('/')
            .ok_or_else(|| "write the workspace and the channel: `w1/c1`".to_owned())?;
        let bad = |e: InvalidId| e.to_string();
        Ok(Self {
            workspace: WorkspaceId::new(workspace).map_err(bad)?,
            channel: ChannelId::new(channel).map_err(bad)?,
        })
    }
}

impl Move {
    pub(super) fn message(&self) -> Result<JobMessage, Failure> {
        let common = &self.common;
        if let Some(path) = &common.file {
            let message = read(path)?;
            return match message {
                JobMessage::Move(_) => Ok(message),
                JobMessage::Rekey(_) => Err(other_kind(path, "a rekey", "rekey")),
            };
        }
        let (Some(org), Some(from), Some(to)) = (&self.org, &self.from, &self.to) else {
            // clap asks for all three where there is no file.
            let what = "--org, --from and --to are needed";
            return Err(Failure::new(Exit::Usage, what));
        };
        let request = MoveRequest {
            job_id: common.job_id.unwrap_or_else(JobId::random),
            org: org.clone(),
            from: MoveFrom {
                workspace: from.workspace.clone(),
                channel: from.channel.clone(),
            },
            to: MoveTo {
                org: self.to_org.clone(),
                workspace: to.workspace.clone(),
                channel: to.channel.clone(),
            },
            requested_by: common.requested_by.clone().unwrap_or_else(who),
            reason: common.reason.clone(),
            cause: common.cause.map(Into::into),
            not_before: common.not_before,
            not_after: common.not_after,
            window: common.window.clone(),
            priority: common.priority,
            plan: None,
        };
        common.checked(JobMessage::Move(request))
    }
}
