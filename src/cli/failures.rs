//! `rekeyd failures`

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{BlockedSlice, JobState, Pass, QuarantineRow};
use crate::progress;

/// Of each reason, so many are listed for people; JSON has all of them.
const SHOWN: usize = 20;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  rekeyd failures $JOB")]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(async {
        let book = context.book().await?;
        let id = arguments.job;
        let mut job = context::job(&book, id).await?.row;
        context::verdict_of_today(&book, &context.registry().await?, &mut job).await?;
        let tasks = context::tasks(&book, &job).await?;
        let parked = progress::has_parked(&tasks);
        let mut blocked: BTreeMap<String, Vec<BlockedSlice>> = BTreeMap::new();
        for slice in tasks.into_iter().flat_map(|task| task.blocked) {
            blocked.entry(slice.code.clone()).or_default().push(slice);
        }
        let mut quarantined: BTreeMap<String, Vec<QuarantineRow>> = BTreeMap::new();
        for cell in book.quarantined(&job).await? {
            quarantined.entry(cell.code.clone()).or_default().push(cell);
        }
        let programs = json!({
            "job_id": id, "state": job.state, "why": job.why, "rounds": job.rounds,
            "blocked": blocked, "quarantined": quarantined,
            "retry": {
                "blocked": progress::retry(&job, "blocked", parked),
                "quarantined": progress::retry(&job, "quarantined", blocked.is_empty() && !quarantined.is_empty()),
            },
        });
        context.out.show(&programs, || {
            let mut text = String::new();
            for (code, slices) in &blocked {
                text += &blocked_lines(context, code, slices);
            }
            for (code, cells) in &quarantined {
                text += &quarantined_lines(code, cells);
            }
            if text.is_empty() {
                return format!(
                    "job {id} lists no failures; it is {}: {}",
                    job.state,
                    figures::printable(&job.why)
                );
            }
            if job.state == JobState::Paused {
                text += &format!("it is paused; let it go on first: rekeyd resume {id} --reason <TEXT>\n");
            } else if !job.state.is_final() {
                if let Some(command) = progress::retry(&job, "blocked", parked) {
                    text += &format!("when the cause is gone, at once: {command}\n");
                } else if !blocked.is_empty() {
                    text += "their tasks are still gone through, and then try them again by \
                             themselves: `rekeyd retry` has nothing to do yet\n";
                }
                if !quarantined.is_empty() {
                    text += &match progress::retry(&job, "quarantined", blocked.is_empty()) {
                        Some(command) => {
                            format!("when the cells are mended or deleted: {command}\n")
                        }
                        None if blocked.is_empty() => "the job is not at the end of its round yet: \
                                 what is quarantined can be tried again when it is blocked\n"
                            .to_owned(),
                        None => "the quarantined cells can be tried again when no slice waits \
                                 for a key any more\n"
                            .to_owned(),
                    };
                }
                if job.round.is_some_and(|r| r.pass == Pass::Copy) && !blocked.is_empty() {
                    text += &format!(
                        "to go on without what waits for a key: rekeyd retry {id} --leave-behind --reason <TEXT>\n"
                    );
                }
            }
            text
        })?;
        Ok(Exit::Done)
    })
}

fn blocked_lines(context: &Context, code: &str, slices: &[BlockedSlice]) -> String {
    let mut text = format!(
        "blocked: {}: {}\n",
        figures::printable(code),
        figures::count(slices.len() as u64, "slice")
    );
    if let Some(message) = slices.first().map(|s| &s.message) {
        text += &format!("  the KMS says: {}\n", figures::printable(message));
    }
    let now = context.clock.wall();
    for slice in slices.iter().take(SHOWN) {
        let next = match figures::until(slice.retry_ms, now) {
            Some(left) => format!("again in {}", figures::span(left)),
            None => "is due".to_owned(),
        };
        let tries = match slice.tries {
            1 => "tried once".to_owned(),
            n => format!("tried {n} times"),
        };
        text += &format!("  {}  {tries}, {next}\n", slice.slice);
    }
    more(&mut text, slices.len());
    text + "\n"
}

fn quarantined_lines(code: &str, cells: &[QuarantineRow]) -> String {
    let mut text = format!(
        "quarantined: {}: {}, left as found\n",
        figures::printable(code),
        figures::count(cells.len() as u64, "cell")
    );
    for cell in cells.iter().take(SHOWN) {
        text += &format!(
            "  {} {} {}  found {} by round {}\n",
            cell.slice.channel,
            cell.slice.hour,
            cell.record,
            figures::time(cell.found_ms),
            cell.round
        );
    }
    more(&mut text, cells.len());
    text + "\n"
}

fn more(text: &mut String, all: usize) {
    if all > SHOWN {
        *text += &format!("  … and {} more; --output json has all\n", all - SHOWN);
    }
}
