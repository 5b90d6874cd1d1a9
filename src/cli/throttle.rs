//! `rekeyd throttle`

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use crate::cli::act;
use crate::cli::context::{self, Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::{JobId, OrgId};
use crate::job::{JobBook, ThrottleLimits, ThrottleTarget};
use crate::progress::throttles::{in_words, of_job, unreadable_of_job};
use crate::registry::Registry;
use crate::steer;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Slow workers down for a while.
    #[command(
        after_help = "Each number holds in each worker process by itself: three workers with 100 \
                      rows/s read 300 a second. A throttle ends by itself; of those for a job, its \
                      organization and all jobs, each is kept. A new one replaces the one that \
                      stands for the same target.\n\n\
                      Examples:\n  rekeyd throttle set --all --rows-per-s 500 --for 2h --reason 'evening peak'\n  \
                      rekeyd throttle set --job $JOB --kms-per-s 20 --tasks 1 --for 30m --reason 'ticket 4711'"
    )]
    Set(Set),
    /// Let workers go on at full speed.
    #[command(after_help = "Example:\n  rekeyd throttle clear --all --reason 'the peak is over'")]
    Clear(Clear),
    /// Show the throttles that hold now.
    #[command(after_help = "Examples:\n  rekeyd throttle show\n  rekeyd throttle show --job $JOB")]
    Show(Show),
}

/// What is slowed down. One of them.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Whom {
    /// One job.
    #[arg(long)]
    job: Option<JobId>,
    /// The jobs of one organization.
    #[arg(long)]
    org: Option<OrgId>,
    /// All jobs.
    #[arg(long)]
    all: bool,
}

#[derive(clap::Args)]
pub(super) struct Set {
    #[command(flatten)]
    whom: Whom,
    /// Rows read per second, in each worker.
    #[arg(long, value_name = "N")]
    rows_per_s: Option<f64>,
    /// Calls to the KMS per second, in each worker; tries after a failure are not
    /// counted.
    #[arg(long, value_name = "N")]
    kms_per_s: Option<f64>,
    /// Tasks at a time, in each worker (concurrency). Those that are too many are
    /// given back after the batches in flight.
    #[arg(long, visible_alias = "concurrency", value_name = "N")]
    tasks: Option<u32>,
    /// For how long: 90s, 30m, 2h, at most 31d.
    #[arg(long = "for", value_name = "SPAN", value_parser = figures::parse_span)]
    span: Duration,
    /// Why: whoever meets the slow job reads it.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(clap::Args)]
pub(super) struct Clear {
    #[command(flatten)]
    whom: Whom,
    /// Why, for the history and the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(clap::Args)]
pub(super) struct Show {
    /// Those that this job is slowed down by.
    #[arg(long)]
    job: Option<JobId>,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    context.run(async {
        match command {
            Command::Set(arguments) => set(context, arguments).await,
            Command::Clear(arguments) => clear(context, arguments).await,
            Command::Show(arguments) => show(context, arguments).await,
        }
    })
}

/// The target, which must be there: a mistyped one would slow nothing down.
async fn target(context: &Context, book: &JobBook, whom: &Whom) -> Result<ThrottleTarget, Failure> {
    Ok(match (&whom.job, &whom.org) {
        (Some(job), _) => {
            context::job(book, *job).await?;
            ThrottleTarget::Job(*job)
        }
        (None, Some(org)) => {
            let registry = Registry::new(context.store().await?, context.clock.clone());
            registry.org(org).await?;
            ThrottleTarget::Org(org.clone())
        }
        (None, None) => ThrottleTarget::All,
    })
}

async fn set(context: &Context, arguments: &Set) -> Result<Exit, Failure> {
    let limits = ThrottleLimits {
        rows_per_s: arguments.rows_per_s,
        kms_per_s: arguments.kms_per_s,
        tasks: arguments.tasks,
    };
    let (who, reason) = (who(), act::reason(Some(&arguments.reason), "")?);
    let why = format!("by {who}: {reason}");
    let book = context.book().await?;
    let target = target(context, &book, &arguments.whom).await?;
    let audit = context.audit(OPERATOR)?;
    let parts = (&book, &audit, &context.clock);
    let done = steer::throttle(parts, &target, limits, arguments.span, (&who, &why)).await;
    audit.close().await?;
    let throttle = done?;
    context.out.show(&json!({ "throttle": throttle }), || {
        format!(
            "throttled until {}: {}\nWorkers follow within a few seconds. It ends by itself; sooner: rekeyd throttle clear {}",
            figures::time(throttle.until_ms),
            in_words(&throttle, context.clock.wall()),
            flag(&target)
        )
    })?;
    Ok(Exit::Done)
}

async fn clear(context: &Context, arguments: &Clear) -> Result<Exit, Failure> {
    let (who, reason) = (
        who(),
        act::reason(arguments.reason.as_deref(), "an operator cleared it")?,
    );
    let why = format!("by {who}: {reason}");
    let book = context.book().await?;
    let target = target(context, &book, &arguments.whom).await?;
    let audit = context.audit(OPERATOR)?;
    let done = steer::clear((&book, &audit), &target, (&who, &why)).await;
    audit.close().await?;
    done?;
    context
        .out
        .show(&json!({ "cleared": target, "by": who, "why": why }), || {
            format!("the throttle of {target} is cleared; workers follow within a few seconds")
        })?;
    Ok(Exit::Done)
}

async fn show(context: &Context, arguments: &Show) -> Result<Exit, Failure> {
    let book = context.book().await?;
    let rows = book.throttles().await?;
    let now = context.clock.wall();
    let (live, unreadable) = match arguments.job {
        Some(id) => {
            let job = context::job(&book, id).await?.row;
            let org = job.request.org();
            let names = unreadable_of_job(&rows, org, id);
            (of_job(&rows, org, id, now), names)
        }
        None => (
            rows.live(now),
            rows.unreadable()
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
        ),
    };
    let programs = json!({ "throttles": live, "unreadable": unreadable });
    context.out.show(&programs, || {
        let mut text = match live.is_empty() {
            true if unreadable.is_empty() => "no throttle holds".to_owned(),
            true => String::new(),
            false => out::table(
                ["target", "limits", "until", "left", "why"],
                live.iter().map(|throttle| {
                    [
                        throttle.target.to_string(),
                        throttle.limits.to_string(),
                        figures::time(throttle.until_ms),
                        figures::until(throttle.until_ms, now).map_or(String::new(), figures::span),
                        figures::printable(&throttle.why),
                    ]
                }),
            ),
        };
        for name in &unreadable {
            text += &format!(
                "\nthe throttle of `{}` cannot be read: workers keep what they last knew of it, or \
                 begin nothing. Set it anew or clear it",
                figures::printable(name)
            );
        }
        text
    })?;
    Ok(Exit::Done)
}

fn flag(target: &ThrottleTarget) -> String {
    match target {
        ThrottleTarget::All => "--all".to_owned(),
        ThrottleTarget::Org(org) => format!("--org {org}"),
        ThrottleTarget::Job(job) => format!("--job {job}"),
    }
}
