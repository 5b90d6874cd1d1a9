//! `rekeyd dlq`

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::job::JobMessage;
use crate::queue::{DeadLetter, Which};

/// Dead letters that are looked through for an id.
const ALL: usize = 10_000;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the messages that were refused, oldest first, with the reason.
    #[command(after_help = "Example:\n  rekeyd dlq list --limit 20")]
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show one of them with its body.
    #[command(after_help = "Example:\n  rekeyd dlq show 2a9c2c0b-29cc-405d-ab99-4d76b14071bd")]
    Show {
        /// The message's id, as `dlq list` shows it.
        #[arg(value_name = "MESSAGE")]
        id: String,
    },
    /// Put messages back into the queue, each as a new message: once what they
    /// were refused for is mended.
    #[command(
        after_help = "Examples:\n  rekeyd dlq redrive 2a9c2c0b-29cc-405d-ab99-4d76b14071bd\n  \
                      rekeyd dlq redrive --all"
    )]
    Redrive {
        /// The messages' ids, as `dlq list` shows them.
        #[arg(value_name = "MESSAGE", required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them; on SQS at most 1,000 at a time.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::List { limit } => list(context, *limit),
        Command::Show { id } => show(context, id),
        Command::Redrive { ids, all } => {
            let which = if *all { Which::All } else { Which::Ids(ids) };
            redrive(context, which)
        }
    }
}

fn letters(context: &Context, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
    context.run(async {
        let queue = context.queue().await?;
        Ok(queue.dead_letters(limit).await?)
    })
}

fn for_programs(letter: &DeadLetter) -> Value {
    json!({
        "message_id": letter.message_id, "at_ms": letter.at_ms, "reason": letter.reason,
        "body": letter.body,
    })
}

/// The job a letter asks for. The body is anybody's; only an id that parses is
/// shown.
fn job(letter: &DeadLetter) -> String {
    JobMessage::receive(&letter.body).map_or_else(|_| "-".to_owned(), |m| m.job_id().to_string())
}

fn list(context: &Context, limit: usize) -> Result<Exit, Failure> {
    let letters = letters(context, limit)?;
    let programs = json!({"dead_letters": letters.iter().map(for_programs).collect::<Vec<_>>()});
    context.out.show(&programs, || {
        if letters.is_empty() {
            return "no message was refused".to_owned();
        }
        out::table(
            ["time", "message", "job", "reason"],
            letters.iter().map(|letter| {
                [
                    figures::time(letter.at_ms),
                    figures::printable(&letter.message_id),
                    job(letter),
                    figures::printable(&letter.reason),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}

fn show(context: &Context, id: &str) -> Result<Exit, Failure> {
    let letters = letters(context, ALL)?;
    let letter = letters
        .iter()
        .find(|letter| letter.message_id == id)
        .ok_or_else(|| unknown(id))?;
    context.out.show(&for_programs(letter), || {
        format!(
            "message  {}\ntime     {}\njob      {}\nreason   {}\n\n{}",
            figures::printable(&letter.message_id),
            figures::time(letter.at_ms),
            job(letter),
            figures::printable(&letter.reason),
            figures::printable(&letter.body),
        )
    })?;
    Ok(Exit::Done)
}

fn redrive(context: &Context, which: Which<'_>) -> Result<Exit, Failure> {
    let back = context.run(async {
        let queue = context.queue().await?;
        Ok(queue.redrive(which).await?)
    })?;
    if let Which::Ids(ids) = which
        && let Some(id) = ids.iter().find(|id| !back.contains(id))
    {
        let failure = unknown(id);
        return Err(if back.is_empty() {
            failure
        } else {
            failure.help(format!("put back: {}", back.join(", ")))
        });
    }
    context
        .out
        .show(&json!({"redriven": back}), || match back.len() {
            0 => "no message was refused".to_owned(),
            1 => "put back: 1 message".to_owned(),
            n => format!("put back: {n} messages"),
        })?;
    Ok(Exit::Done)
}

fn unknown(id: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("no refused message has the id {}", figures::printable(id)),
    )
    .help("`rekeyd dlq list` shows those there are")
}
