//! `rekeyd enqueue`
//!
//! | file | what |
//! |---|---|
//! | `rekey` | a rekey of an organization |
//! | `channel_move` | a move of a channel |
//! | `check` | whether a worker would take it |

mod channel_move;
mod check;
mod rekey;

pub(super) use channel_move::InWorkspace;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use self::check::Checked;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::planned;
use crate::cli::report::{self, Failure};
use crate::ids::JobId;
use crate::job::{Cause, JobMessage, Window};
use crate::queue::MAX_BODY_BYTES;
use crate::wiring;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Ask for a rekey of an organization.
    #[command(
        after_help = "Examples:\n  rekeyd enqueue rekey --org acme --to $NEW --reason 'yearly rotation'\n  \
                      rekeyd enqueue rekey --org acme --to $NEW --window '0 22 * * 1-5 Europe/Berlin 8h' --plan plan.json\n  \
                      rekeyd enqueue rekey --file job.json\n  \
                      rekeyd enqueue rekey --org acme --to $NEW --queue-url https://sqs.eu-west-1.amazonaws.com/111122223333/rekeyd-jobs"
    )]
    Rekey(Box<rekey::Rekey>),
    /// Ask for a move of a channel to another workspace, channel id or organization.
    #[command(
        after_help = "The same channel id in the same organization is moved in place; another id or \
                      organization is copied, in phases, while people go on writing. Another \
                      organization needs the consent of both: rekeyd help org consent-move\n\n\
                      Examples:\n  rekeyd enqueue move --org acme --from w1/c1 --to w2/c1\n  \
                      rekeyd enqueue move --org acme --from w1/c1 --to w2/c7 --reason 'teams merge'\n  \
                      rekeyd enqueue move --org acme --from w1/c1 --to-org other --to w9/c1\n  \
                      rekeyd enqueue move --file move.json"
    )]
    Move(Box<channel_move::Move>),
}

/// What every request may say, whatever it asks for.
#[derive(clap::Args)]
struct Common {
    /// Why, in one word.
    #[arg(long, value_enum)]
    cause: Option<CauseName>,
    /// Who asks; the current user if not given.
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Why, in words.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Do not begin before this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_before: Option<jiff::Timestamp>,
    /// Do not begin at or after this time (RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = time)]
    not_after: Option<jiff::Timestamp>,
    /// Act only from these times on, for so long each: a cron expression of five
    /// fields, a time zone and a length.
    #[arg(long, value_name = "CRON TZ LENGTH", value_parser = window)]
    window: Option<Window>,
    /// Among the jobs of the organization: the higher, the sooner its tasks are
    /// taken. From -100 to 100; 0 if not given.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-100..=100))]
    priority: Option<i8>,
    /// The plan it was asked for with: its hash, or the file that
    /// `rekeyd plan --output json` wrote. Shown beside what happens.
    #[arg(long, value_name = "HASH|FILE")]
    plan: Option<String>,
    /// The job's id; made if not given. An id is taken once.
    #[arg(long, value_name = "UUID")]
    job_id: Option<JobId>,
    /// Send to this SQS queue, whatever queue is configured.
    #[arg(long, value_name = "URL")]
    queue_url: Option<String>,
    /// Send it without asking the registry whether a worker would take it.
    #[arg(long)]
    unchecked: bool,
    /// Send the message in this file instead; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "org", "to", "from", "cause", "requested_by", "reason", "not_before", "not_after", "job_id",
        "window", "priority", "plan",
    ])]
    file: Option<PathBuf>,
}

impl Common {
    /// The message, checked by the same rules that the worker goes by.
    fn checked(&self, message: JobMessage) -> Result<JobMessage, Failure> {
        let mut message = JobMessage::parse(&message.to_json())?;
        if let Some(named) = &self.plan {
            let plan = planned::named(named, &message)?;
            match &mut message {
                JobMessage::Rekey(request) => request.plan = Some(plan),
                JobMessage::Move(request) => request.plan = Some(plan),
            }
        }
        Ok(message)
    }
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum CauseName {
    Scheduled,
    CustomerRequest,
    SuspectedCompromise,
    Migration,
}

impl From<CauseName> for Cause {
    fn from(name: CauseName) -> Self {
        match name {
            CauseName::Scheduled => Cause::Scheduled,
            CauseName::CustomerRequest => Cause::CustomerRequest,
            CauseName::SuspectedCompromise => Cause::SuspectedCompromise,
            CauseName::Migration => Cause::Migration,
        }
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let (common, message) = match command {
        Command::Rekey(rekey) => (&rekey.common, rekey.message()?),
        Command::Move(asked) => (&asked.common, asked.message()?),
    };
    let (message_id, checked) = context.run(async {
        let queue = match &common.queue_url {
            Some(url) => wiring::queue_at(url, context.config(), &context.clock).await?,
            None => context.queue().await?,
        };
        // The store of this configuration need not be that of another queue.
        let checked = match common.unchecked || common.queue_url.is_some() {
            true => None,
            false => Some(check::check(context, &message).await?),
        };
        Ok((queue.send(&message.to_json()).await?, checked))
    })?;
    let job = message.job_id();
    let moves = message.channel_move();
    let programs = json!({
        "job_id": job, "message_id": message_id, "org": message.org(),
        "to_cmk": message.rekey().map(|rekey| &rekey.to_cmk), "mode": message.mode(),
        "from": moves.map(|m| m.source()), "to": moves.map(|m| m.destination()),
        "move": moves.map(|m| m.kind()), "body_sha256": message.body_sha256(),
        "checked": matches!(checked, Some(Checked::Good)),
        "not_checked": match &checked {
            Some(Checked::NotAnswered(why)) => Some(why),
            _ => None,
        },
    });
    context.out.show(&programs, || {
        let mut text = format!(
            "{job}\n\nasked for: {}. A running worker takes it up; start one with `rekeyd worker`",
            message.what()
        );
        if let Some(m) = moves.filter(|m| m.org != *m.to_org()) {
            text += &format!(
                "\nit needs the consent of both organizations: `rekeyd org show {}` and `rekeyd org show {}` list them",
                m.org,
                m.to_org()
            );
        }
        if let Some(Checked::NotAnswered(why)) = &checked {
            text += &format!("\nit is not known whether a worker will take it: {}", figures::printable(why));
        }
        text + &format!("\nnext: rekeyd status {job} --watch")
    })?;
    Ok(Exit::Done)
}

/// Reads a window: `0 22 * * 1-5 Europe/Berlin 8h`.
fn window(text: &str) -> Result<Window, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [cron @ .., zone, length] = words.as_slice() else {
        return Err("write such as `0 22 * * 1-5 Europe/Berlin 8h`".to_owned());
    };
    let length = figures::parse_span(length).map_err(|_| {
        format!(
            "the last word is how long it is open, and `{length}` is no span: write such as \
             `0 22 * * 1-5 Europe/Berlin 8h`"
        )
    })?;
    let length = length.as_secs();
    if length % 60 != 0 {
        return Err("a window is open for whole minutes".to_owned());
    }
    let minutes = u32::try_from(length / 60).unwrap_or(u32::MAX);
    Window::new(&cron.join(" "), zone, minutes)
}

fn time(text: &str) -> Result<jiff::Timestamp, String> {
    let how = "write such as 2026-11-26T21:00:00Z, or with an offset: 2026-11-26T22:00+01:00";
    text.parse().map_err(|_| how.to_owned())
}

/// Reads at most a little more than a message may have, so that a wrong file
/// (or a device) is refused by its size.
fn read(path: &Path) -> Result<JobMessage, Failure> {
    let limit = MAX_BODY_BYTES as u64 + 1;
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    read.map_err(|e| {
        let exit = match e.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        report::system(&format!("cannot read `{}`", path.display()), e).exiting(exit)
    })?;
    Ok(JobMessage::parse(&text)?)
}

/// A file with the other kind of message: nothing is sent that was not asked for.
fn other_kind(path: &Path, holds: &str, command: &str) -> Failure {
    let path = path.display();
    Failure::new(
        Exit::Usage,
        format!("the message in `{path}` asks for {holds}; nothing was sent"),
    )
    .help(format!(
        "send it with `rekeyd enqueue {command} --file {path}`"
    ))
}
