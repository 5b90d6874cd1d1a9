//! `rekeyd workers`

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::ids::OrgId;
use crate::job::{JobBook, Throttle};
use crate::progress::throttles::in_words;
use crate::progress::{self, Seen};
use crate::registry::{Registry, Timing};

#[derive(clap::Args)]
#[command(
    after_help = "What stands in the leases of unfinished jobs and their tasks. A worker that \
                  holds nothing now is not listed.\n\n\
                  Examples:\n  rekeyd workers\n  rekeyd workers --org acme --output json"
)]
pub(super) struct Arguments {
    /// What is held of this organization only.
    #[arg(long)]
    org: Option<OrgId>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(async {
        let store = context.store().await?;
        let registry = Registry::new(store.clone(), context.clock.clone());
        if let Some(org) = &arguments.org {
            // A name that nobody entered is a slip, not an empty list.
            registry.org(org).await?;
        }
        let timing = registry.timing().await?;
        let book = JobBook::new(store, context.clock.clone());
        let workers = find(&book, arguments.org.as_ref()).await?;
        let now = context.clock.wall();
        let throttles = book.throttles().await?.live(now);
        let programs = for_programs(&workers, &throttles, &timing, now);
        context
            .out
            .show(&programs, || for_people(&workers, &throttles, &timing, now))?;
        Ok(Exit::Done)
    })
}

async fn find(book: &JobBook, only: Option<&OrgId>) -> Result<BTreeMap<String, Seen>, Failure> {
    let mut workers: BTreeMap<String, Seen> = BTreeMap::new();
    for (org, id) in book.open_everywhere().await? {
        if only.is_some_and(|only| *only != org) {
            continue;
        }
        let Some(job) = book.get(&org, id).await? else {
            continue;
        };
        let job = job.row;
        let tasks = match job.round.filter(|_| job.state.has_tasks()) {
            Some(round) => book.tasks(id, round.number).await?,
            None => Vec::new(),
        };
        let tasks = tasks.into_iter().map(|task| (task.id, task.row));
        progress::held(&mut workers, &job, tasks);
    }
    Ok(workers)
}

fn for_programs(
    workers: &BTreeMap<String, Seen>,
    throttles: &[Throttle],
    timing: &Timing,
    now: WallTime,
) -> serde_json::Value {
    let left = |until_ms: u64| until_ms.saturating_sub(now.unix_ms());
    json!({
        "workers": workers.iter().map(|(name, seen)| json!({
            "worker": name,
            "heartbeat_ms": seen.heartbeat_ms(timing),
            "lapsed": left(seen.newest_until_ms) == 0,
            "waits": seen.waits, "slowed": seen.slowed,
            "holds": seen.held.iter().map(|held| json!({
                "job_id": held.job, "org": held.org,
                "task": held.task.as_ref().map(|(id, _)| id),
                "planned": held.task.as_ref().map(|(_, row)| row.planned),
                "slices_done": held.task.as_ref().map(|(_, row)| progress::slices_done(row)),
                "token": held.task.as_ref().map(|(_, row)| row.token),
                "heartbeat_ms": held.heartbeat_ms(timing),
                "lease_left_ms": left(held.until_ms),
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "throttles": throttles,
    })
}

fn for_people(
    workers: &BTreeMap<String, Seen>,
    throttles: &[Throttle],
    timing: &Timing,
    now: WallTime,
) -> String {
    let mut text = if workers.is_empty() {
        "no worker holds a job or a task now; one that has nothing to do is not listed".to_owned()
    } else {
        let rows = workers.iter().flat_map(|(name, seen)| {
            seen.held.iter().map(move |held| {
                [
                    figures::printable(name),
                    held.job.to_string(),
                    held.org.to_string(),
                    held.what.clone(),
                    figures::time(held.heartbeat_ms(timing)),
                    match figures::until(held.until_ms, now) {
                        Some(left) => figures::span(left),
                        None => "run out; others may take it".to_owned(),
                    },
                ]
            })
        });
        let head = ["worker", "job", "org", "holds", "heartbeat", "lease left"];
        out::table(head, rows)
    };
    // What a worker said last, as long as it is there to mean it.
    let heard = |seen: &&Seen| figures::until(seen.newest_until_ms, now).is_some();
    for (name, seen) in workers.iter().filter(|(_, seen)| heard(seen)) {
        for said in [&seen.waits, &seen.slowed].into_iter().flatten() {
            text += &format!(
                "\n{}: {}",
                figures::printable(name),
                figures::printable(said)
            );
        }
    }
    for row in throttles {
        text += &format!("\nthrottled: {}", in_words(row, now));
    }
    text
}
