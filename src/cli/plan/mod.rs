//! `rekeyd plan`
//!
//! | file | what |
//! |---|---|
//! | `gather` | reads and tries what the plan is made of |
//! | `show` | the plan for people |

mod gather;
mod show;

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::context::{Context, who};
use crate::cli::enqueue::InWorkspace;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{Cause, JobMessage, Mode, MoveFrom, MoveRequest, MoveTo, RekeyRequest};
use crate::plan::PlanFile;

/// Longest key policy that is read from a file: twice what AWS KMS takes.
const POLICY_BYTES: u64 = 65_536;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Say what a rekey would come to: size, calls and their price, time, obstacles.
    #[command(
        after_help = "Nothing is changed. The KMS is called with canaries, as the worker would be, and the \
                      audit log records each call. Ends with 6 if something keeps the job from \
                      being done.\n\n\
                      Examples:\n  rekeyd plan rekey --org acme --to $NEW\n  \
                      rekeyd plan rekey --org acme --to $NEW --output json > plan.json\n  \
                      rekeyd plan rekey --org acme --to $NEW --old-policy old.json --new-policy new.json"
    )]
    Rekey(Rekey),
    /// Say what a move of a channel would come to.
    #[command(
        after_help = "Nothing is changed. Ends with 6 if something keeps the job from being done.\n\n\
                      Example:\n  rekeyd plan move --org acme --from w1/c1 --to w2/c1"
    )]
    Move(Move),
}

#[derive(clap::Args)]
pub(in crate::cli) struct Rekey {
    /// The organization.
    #[arg(long)]
    org: OrgId,
    /// The CMK to go to.
    #[arg(long, value_name = "ARN")]
    to: CmkArn,
    /// The CMK that must be active when the job begins.
    #[arg(long, value_name = "ARN")]
    from: Option<CmkArn>,
    /// How: seal every cell anew, or only wrap its data keys anew.
    #[arg(long, value_enum, default_value = "reencrypt")]
    mode: ModeName,
    /// The old CMK's key policy, where the KMS does not let us read it.
    #[arg(long, value_name = "FILE", requires = "new_policy")]
    old_policy: Option<PathBuf>,
    /// The new CMK's key policy.
    #[arg(long, value_name = "FILE", requires = "old_policy")]
    new_policy: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Move {
    /// The organization the channel is in.
    #[arg(long)]
    org: OrgId,
    /// The workspace and the channel it is now.
    #[arg(long, value_name = "WORKSPACE/CHANNEL")]
    from: InWorkspace,
    /// The workspace and the channel it is to be.
    #[arg(long, value_name = "WORKSPACE/CHANNEL")]
    to: InWorkspace,
    /// The organization it is to be in, if another.
    #[arg(long, value_name = "ORG")]
    to_org: Option<OrgId>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Workers that are to run, each with the budgets of this configuration.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    workers: u64,
    /// Slices that are looked into, at most, to reckon cells and bytes.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    sample: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Reencrypt,
    Rewrap,
}

/// What a command asks to be planned.
struct Asked<'a> {
    message: JobMessage,
    /// The old and the new CMK's key policy, if they were given.
    policies: Option<(String, String)>,
    common: &'a Common,
}

impl Rekey {
    fn asked(&self) -> Result<Asked<'_>, Failure> {
        let mode = match self.mode {
            ModeName::Reencrypt => Mode::Reencrypt,
            ModeName::Rewrap => Mode::Rewrap,
        };
        let request = RekeyRequest {
            job_id: JobId::random(),
            org: self.org.clone(),
            from_cmk: self.from.clone(),
            to_cmk: self.to.clone(),
            mode,
            requested_by: who(),
            reason: String::new(),
            // A rewrap has to say one; a plan does not depend on it.
            cause: (mode == Mode::Rewrap).then_some(Cause::Scheduled),
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
            accept_lifted_denies: Vec::new(),
        };
        let policies = match (&self.old_policy, &self.new_policy) {
            (Some(old), Some(new)) => Some((read(old, POLICY_BYTES)?, read(new, POLICY_BYTES)?)),
            _ => None,
        };
        Ok(Asked {
            // Checked by the same rules that the worker goes by.
            message: JobMessage::parse(&JobMessage::Rekey(request).to_json())?,
            policies,
            common: &self.common,
        })
    }
}

impl Move {
    fn asked(&self) -> Result<Asked<'_>, Failure> {
        let request = MoveRequest {
            job_id: JobId::random(),
            org: self.org.clone(),
            from: MoveFrom {
                workspace: self.from.workspace.clone(),
                channel: self.from.channel.clone(),
            },
            to: MoveTo {
                org: self.to_org.clone(),
                workspace: self.to.workspace.clone(),
                channel: self.to.channel.clone(),
            },
            requested_by: who(),
            reason: String::new(),
            cause: None,
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
        };
        Ok(Asked {
            message: JobMessage::parse(&JobMessage::Move(request).to_json())?,
            policies: None,
            common: &self.common,
        })
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let asked = match command {
        Command::Rekey(rekey) => rekey.asked()?,
        Command::Move(asked) => asked.asked()?,
    };
    let plan = context.run(gather::plan(context, &asked))?;
    let can_be_done = plan.obstacles.is_empty();
    let file = PlanFile::of(plan);
    let programs = json!({"sha256": file.sha256, "plan": file.plan});
    context.out.show(&programs, || show::in_words(&file))?;
    Ok(match can_be_done {
        true => Exit::Done,
        false => Exit::Conflict,
    })
}

/// Reads a small file. One that is larger than it may be is refused by whoever
/// parses it, cut as it then is.
pub(super) fn read(path: &Path, limit: u64) -> Result<String, Failure> {
    use std::io::Read;
    let mut text = String::new();
    let opened = std::fs::File::open(path);
    let read = opened.and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    read.map_err(|e| report::system(&format!("cannot read `{}`", path.display()), e))?;
    Ok(text)
}
