//! `rekeyd jobs`

use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::OrgId;
use crate::job::{JobRow, is_free};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  rekeyd jobs --org acme --all")]
pub(super) struct Arguments {
    /// Of this organization only.
    #[arg(long)]
    org: Option<OrgId>,
    /// Those that are at an end, too.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let jobs = context.run(find(context, arguments))?;
    let now_ms = context.clock.wall().unix_ms();
    let driven = |job: &JobRow| (!is_free(job, now_ms)).then(|| job.lease.clone());
    let programs = json!({"jobs": jobs.iter().map(|job| json!({
        "job_id": job.request.job_id(), "org": job.request.org(), "state": job.state,
        "since_ms": job.since_ms, "why": job.why, "recorded_ms": job.recorded_ms,
        "mode": job.request.mode(),
        "to_cmk": job.request.rekey().map(|rekey| &rekey.to_cmk),
        "from": job.request.channel_move().map(|m| m.source()),
        "to": job.request.channel_move().map(|m| m.destination()),
        "move": job.request.channel_move().map(|m| m.kind()),
        "copy": job.copy, "paused_from": job.paused_from,
        "from_cmk": job.activated.as_ref().map(|a| &a.from_cmk),
        "requested_by": job.request.requested_by(),
        "driven_by": driven(job).flatten().map(|lease| lease.worker),
        "verdict": job.verdict,
    })).collect::<Vec<_>>()});
    context.out.show(&programs, || {
        if jobs.is_empty() {
            return match arguments.all {
                true => "no jobs".to_owned(),
                false => "no unfinished jobs; `--all` shows the others".to_owned(),
            };
        }
        out::table(
            ["job", "state", "since", "what", "why"],
            jobs.iter().map(|job| {
                [
                    job.request.job_id().to_string(),
                    match job.copy.as_ref().filter(|_| !job.state.is_final()) {
                        Some(copy) => format!("{} ({})", job.state, copy.phase),
                        None => job.state.to_string(),
                    },
                    figures::time(job.since_ms),
                    job.request.what(),
                    figures::printable(&job.why),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}

async fn find(context: &Context, arguments: &Arguments) -> Result<Vec<JobRow>, Failure> {
    let book = context.book().await?;
    let registry = context.registry().await?;
    let orgs = match &arguments.org {
        Some(org) => {
            // A name that nobody entered is a slip, not an empty list.
            registry.org(org).await?;
            vec![org.clone()]
        }
        None => book.orgs().await?,
    };
    let mut jobs = Vec::new();
    for org in orgs {
        let of_org = book.jobs(&org).await?;
        let activations = registry.activations(&org).await?;
        jobs.extend(of_org.into_iter().map(|job| {
            let mut row = job.row;
            context::lapse(&mut row, &activations);
            row
        }));
    }
    jobs.retain(|job| arguments.all || !job.state.is_final());
    jobs.sort_by_key(|job| (job.recorded_ms, job.request.job_id()));
    Ok(jobs)
}
