//! `rekeyd enqueue rekey`

use clap::ValueEnum;

use super::{Common, other_kind, read};
use crate::cli::context::who;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::{CmkArn, JobId, OrgId, Sha256Hex};
use crate::job::{JobMessage, Mode, RekeyRequest};

#[derive(clap::Args)]
pub(in crate::cli) struct Rekey {
    /// The organization.
    #[arg(long, required_unless_present = "file")]
    org: Option<OrgId>,
    /// The CMK to go to; it must be on the organization's allow-list.
    #[arg(long, value_name = "ARN", required_unless_present = "file")]
    to: Option<CmkArn>,
    /// The CMK that must be active when the job begins.
    #[arg(long, value_name = "ARN")]
    from: Option<CmkArn>,
    /// How: seal every cell anew, or only wrap its data keys anew. A rewrap must
    /// say its cause.
    #[arg(long, value_enum, default_value = "reencrypt", conflicts_with = "file")]
    mode: ModeName,
    /// A Deny of the old CMK's key policy that may be lifted, by the SHA-256 that
    /// `rekeyd plan` shows. As often as there are some.
    #[arg(long, value_name = "SHA256", conflicts_with = "file")]
    accept_lifted_deny: Vec<Sha256Hex>,
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Reencrypt,
    Rewrap,
}

impl Rekey {
    pub(super) fn message(&self) -> Result<JobMessage, Failure> {
        let common = &self.common;
        if let Some(path) = &common.file {
            let message = read(path)?;
            return match message {
                JobMessage::Rekey(_) => Ok(message),
                JobMessage::Move(_) => Err(other_kind(path, "a move of a channel", "move")),
            };
        }
        let (Some(org), Some(to_cmk)) = (self.org.clone(), self.to.clone()) else {
            // clap asks for both where there is no file.
            return Err(Failure::new(Exit::Usage, "--org and --to are needed"));
        };
        let request = RekeyRequest {
            job_id: common.job_id.unwrap_or_else(JobId::random),
            org,
            from_cmk: self.from.clone(),
            to_cmk,
            mode: match self.mode {
                ModeName::Reencrypt => Mode::Reencrypt,
                ModeName::Rewrap => Mode::Rewrap,
            },
            requested_by: common.requested_by.clone().unwrap_or_else(who),
            reason: common.reason.clone(),
            cause: common.cause.map(Into::into),
            not_before: common.not_before,
            not_after: common.not_after,
            window: common.window.clone(),
            priority: common.priority,
            plan: None,
            accept_lifted_denies: self.accept_lifted_deny.clone(),
        };
        common.checked(JobMessage::Rekey(request))
    }
}
