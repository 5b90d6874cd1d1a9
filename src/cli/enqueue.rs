//! `rekeyd enqueue`

use std::io::Read;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::context::{Context, who};
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{Cause, JobMessage, Mode, RekeyRequest};
use crate::queue::MAX_BODY_BYTES;
use crate::wiring;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Ask for a rekey of an organization.
    #[command(
        after_help = "Examples:\n  rekeyd enqueue rekey --org acme --to $NEW --reason 'yearly rotation'\n  \
                      rekeyd enqueue rekey --file job.json\n  \
                      rekeyd enqueue rekey --org acme --to $NEW --queue-url https://sqs.eu-west-1.amazonaws.com/111122223333/rekeyd-jobs"
    )]
    Rekey(Box<Rekey>),
}

#[derive(clap::Args)]
pub(super) struct Rekey {
    /// The organization.
    #[arg(long, required_unless_present = "file")]
    org: Option<OrgId>,
    /// The CMK to go to; it must be on the organization's allow-list.
    #[arg(long, value_name = "ARN", required_unless_present = "file")]
    to: Option<CmkArn>,
    /// The CMK that must be active when the job begins.
    #[arg(long, value_name = "ARN")]
    from: Option<CmkArn>,
    /// How: seal every cell anew, or only wrap its data keys anew.
    #[arg(long, value_enum, default_value = "reencrypt")]
    mode: ModeName,
    /// Why, in one word; a rewrap must say it.
    #[arg(long, value_enum)]
    cause: Option<CauseName>,
    /// Who asks; the current user if not given.
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Why, in words.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Do not begin before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    not_before: Option<jiff::Timestamp>,
    /// Do not begin at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    not_after: Option<jiff::Timestamp>,
    /// The job's id; made if not given. An id is taken once.
    #[arg(long, value_name = "UUID")]
    job_id: Option<JobId>,
    /// Send to this SQS queue, whatever queue is configured.
    #[arg(long, value_name = "URL")]
    queue_url: Option<String>,
    /// Send the message in this file instead; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "org", "to", "from", "mode", "cause", "requested_by", "reason", "not_before", "not_after", "job_id",
    ])]
    file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeName {
    Reencrypt,
    Rewrap,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum CauseName {
    Scheduled,
    CustomerRequest,
    SuspectedCompromise,
    Migration,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let Command::Rekey(rekey) = command;
    let message = match &rekey.file {
        Some(path) => read(path)?,
        None => compose(rekey)?,
    };
    let message_id = context.run(async {
        let queue = match &rekey.queue_url {
            Some(url) => wiring::queue_at(url, context.config(), &context.clock).await?,
            None => context.queue().await?,
        };
        Ok(queue.send(&message.to_json()).await?)
    })?;
    let job = message.job_id();
    let programs = json!({
        "job_id": job, "message_id": message_id, "org": message.org(),
        "to_cmk": message.rekey().map(|rekey| &rekey.to_cmk), "mode": message.mode(), "body_sha256": message.body_sha256(),
    });
    context.out.show(&programs, || {
        format!(
            "{job}\n\nasked for: {}. A running worker takes it up; \
             start one with `rekeyd worker`\nnext: rekeyd status {job} --watch",
            message.what()
        )
    })?;
    Ok(Exit::Done)
}

/// Reads at most a little more than a message may have, so that a wrong file
/// (or a device) is refused by its size.
fn read(path: &std::path::Path) -> Result<JobMessage, Failure> {
    let limit = MAX_BODY_BYTES as u64 + 1;
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|e| report::system(&format!("cannot read `{}`", path.display()), e))?;
    Ok(JobMessage::parse(&text)?)
}

fn compose(rekey: &Rekey) -> Result<JobMessage, Failure> {
    let (Some(org), Some(to_cmk)) = (rekey.org.clone(), rekey.to.clone()) else {
        // clap asks for both where there is no file.
        return Err(Failure::new(Exit::Usage, "--org and --to are needed"));
    };
    let request = RekeyRequest {
        job_id: rekey.job_id.unwrap_or_else(JobId::random),
        org,
        from_cmk: rekey.from.clone(),
        to_cmk,
        mode: match rekey.mode {
            ModeName::Reencrypt => Mode::Reencrypt,
            ModeName::Rewrap => Mode::Rewrap,
        },
        requested_by: rekey.requested_by.clone().unwrap_or_else(who),
        reason: rekey.reason.clone(),
        cause: rekey.cause.map(|cause| match cause {
            CauseName::Scheduled => Cause::Scheduled,
            CauseName::CustomerRequest => Cause::CustomerRequest,
            CauseName::SuspectedCompromise => Cause::SuspectedCompromise,
            CauseName::Migration => Cause::Migration,
        }),
        not_before: rekey.not_before,
        not_after: rekey.not_after,
    };
    // Checked by the same rules that the worker goes by.
    Ok(JobMessage::parse(&JobMessage::Rekey(request).to_json())?)
}
