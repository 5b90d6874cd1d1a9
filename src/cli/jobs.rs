//! `rekeyd jobs`

use std::time::Duration;

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::{JobId, OrgId};
use crate::job::{JobRow, JobState, is_free};
use crate::progress;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  rekeyd jobs --org acme --all\n  \
                  rekeyd jobs --state blocked --state paused\n  \
                  rekeyd jobs --kind move --since 7d")]
pub(super) struct Arguments {
    /// Of this organization only.
    #[arg(long)]
    org: Option<OrgId>,
    /// Those that are at an end, too.
    #[arg(long)]
    all: bool,
    /// In this state only; may be given more than once. One that is an end needs
    /// no --all.
    #[arg(long, value_parser = state)]
    state: Vec<JobState>,
    /// Of this kind only.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Recorded since then: a time (RFC 3339), or a span back from now (2h, 7d).
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Since>,
}

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A rekey of an organization.
    Rekey,
    /// A move of a channel.
    Move,
}

impl Kind {
    fn of(job: &JobRow) -> Self {
        match job.request.channel_move() {
            Some(_) => Kind::Move,
            None => Kind::Rekey,
        }
    }
}

/// A moment, given as such or as a span back from now.
#[derive(Debug, Clone, Copy)]
enum Since {
    At(jiff::Timestamp),
    Ago(Duration),
}

impl Since {
    fn unix_ms(self, now_ms: u64) -> u64 {
        match self {
            Since::At(t) => u64::try_from(t.as_millisecond()).unwrap_or(0),
            Since::Ago(span) => {
                now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(span) = figures::parse_span(text) {
        return Ok(Since::Ago(span));
    }
    let time = text.parse().map(Since::At);
    time.map_err(|_| {
        format!("`{text}` is neither a time (2026-03-01T00:00:00Z) nor a span (2h, 7d)")
    })
}

fn state(text: &str) -> Result<JobState, String> {
    text.parse().map_err(|error| {
        let near = JobState::ALL
            .iter()
            .max_by(|a, b| {
                let near = |s: &JobState| strsim::jaro_winkler(text, s.as_str());
                near(a).total_cmp(&near(b))
            })
            .map_or("", |s| s.as_str());
        let all: Vec<&str> = JobState::ALL.iter().map(|s| s.as_str()).collect();
        format!(
            "{error}; did you mean `{near}`? There are {}",
            all.join(", ")
        )
    })
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
            let narrowed = arguments.kind.is_some() || arguments.since.is_some();
            return match (arguments.all, narrowed || !arguments.state.is_empty()) {
                (true, true) => "no such jobs".to_owned(),
                (true, false) => "no jobs".to_owned(),
                (false, true) => {
                    "no such unfinished jobs; `--all` looks at the others too".to_owned()
                }
                (false, false) => "no unfinished jobs; `--all` shows the others".to_owned(),
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
                    why(job, now_ms),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}

/// Why it is in its state, and until when it waits on purpose.
fn why(job: &JobRow, now_ms: u64) -> String {
    let why = figures::printable(&job.why);
    match job.rests_until_ms(now_ms).filter(|at| *at > now_ms) {
        Some(at) if job.state == JobState::Queued => {
            format!("waits for {}: {why}", figures::time(at))
        }
        _ => why,
    }
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
        let all: Vec<JobRow> = of_org.into_iter().map(|job| job.row).collect();
        jobs.extend(all.iter().map(|row| {
            let mut row = row.clone();
            progress::lapse(&mut row, &activations);
            let later = progress::later(&row, &activations);
            let of = |id: &JobId| all.iter().find(|job| job.request.job_id() == *id).cloned();
            let later: Vec<JobRow> = later.iter().filter_map(of).collect();
            progress::answer(&mut row, &later, &activations);
            row
        }));
    }
    let since_ms = arguments
        .since
        .map_or(0, |since| since.unix_ms(context.clock.wall().unix_ms()));
    jobs.retain(|job| {
        let state = match arguments.state.as_slice() {
            [] => arguments.all || !job.state.is_final(),
            asked => asked.contains(&job.state),
        };
        let kind = arguments.kind.is_none_or(|kind| kind == Kind::of(job));
        state && kind && job.recorded_ms >= since_ms
    });
    jobs.sort_by_key(|job| (job.recorded_ms, job.request.job_id()));
    Ok(jobs)
}
