//! `rekeyd dlq`

use clap::Subcommand;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::job::JobMessage;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the messages that were refused, oldest first, with the reason.
    #[command(after_help = "Example:\n  rekeyd dlq list --limit 20")]
    List {
        /// How many at most.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let Command::List { limit } = command;
    let letters = context.run(async {
        let queue = context.queue().await?;
        Ok(queue.dead_letters(*limit).await?)
    })?;
    let programs = json!({"dead_letters": letters.iter().map(|letter| json!({
        "message_id": letter.message_id, "at_ms": letter.at_ms, "reason": letter.reason,
        "body": letter.body,
    })).collect::<Vec<_>>()});
    context.out.show(&programs, || {
        if letters.is_empty() {
            return "no message was refused".to_owned();
        }
        out::table(
            ["time", "job", "reason"],
            letters.iter().map(|letter| {
                // The body is anybody's; only an id that parses is shown.
                let job = JobMessage::parse(&letter.body)
                    .map_or_else(|_| "-".to_owned(), |m| m.request().job_id.to_string());
                [
                    figures::time(letter.at_ms),
                    job,
                    figures::printable(&letter.reason),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}
