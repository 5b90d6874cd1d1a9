//! `rekeyd pause` and `rekeyd resume`

use serde_json::json;

use crate::cli::act;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{JobRow, Transition};
use crate::steer::{self, Act, SteerError};

#[derive(clap::Args)]
#[command(
    after_help = "Batches in flight are finished, checkpoints stay, and nothing new is begun. The \
                  application goes on as it is; a channel that is being copied stays in the phase \
                  it is in.\n\n\
                  Example:\n  rekeyd pause $JOB --reason 'the cluster is repaired tonight'"
)]
pub(super) struct Pause {
    /// The job.
    job: JobId,
    /// Why: whoever meets the paused job reads it.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(clap::Args)]
#[command(
    after_help = "It goes on where it was. A wait for writers to follow begins anew; the end of a \
                  drain stays.\n\n\
                  Example:\n  rekeyd resume $JOB --reason 'the repair is done'"
)]
pub(super) struct Resume {
    /// The job.
    job: JobId,
    /// Why, for the history and the audit log.
    #[arg(long, default_value = "an operator let it go on", value_name = "TEXT")]
    reason: String,
}

pub(super) fn pause(context: &Context, arguments: &Pause) -> Result<Exit, Failure> {
    let id = arguments.job;
    let (job, step) = context.run(change(context, id, &arguments.reason, steer::pause))?;
    context.out.show(&programs(&job, &step), || {
        format!(
            "job {id} is paused; it was {}. The application goes on as it is{}\nnext: rekeyd resume {id}",
            step.from,
            in_phase(&job)
        )
    })?;
    Ok(Exit::Done)
}

pub(super) fn resume(context: &Context, arguments: &Resume) -> Result<Exit, Failure> {
    let id = arguments.job;
    let (job, step) = context.run(change(context, id, &arguments.reason, steer::resume))?;
    context.out.show(&programs(&job, &step), || {
        format!(
            "job {id} goes on: it is {}\nnext: rekeyd status {id} --watch",
            step.to
        )
    })?;
    Ok(Exit::Done)
}

async fn change(
    context: &Context,
    id: JobId,
    reason: &str,
    change: impl AsyncFnOnce(&Act<'_>) -> Result<(JobRow, Transition), SteerError>,
) -> Result<(JobRow, Transition), Failure> {
    let reason = act::reason(Some(reason), "")?;
    let book = context.book().await?;
    let audit = context.audit(OPERATOR)?;
    let who = who();
    let act = Act {
        book: &book,
        audit: &audit,
        job: id,
        who: &who,
        why: &format!("by {who}: {reason}"),
    };
    let acted = change(&act).await;
    audit.close().await?;
    Ok(acted?)
}

fn programs(job: &JobRow, step: &Transition) -> serde_json::Value {
    json!({
        "job_id": job.request.job_id(), "org": job.request.org(),
        "from": step.from, "to": step.to, "by": step.who, "why": step.why, "copy": job.copy,
    })
}

fn in_phase(job: &JobRow) -> String {
    job.copy.as_ref().map_or_else(String::new, |copy| {
        format!(", in phase {} of the copy", copy.phase)
    })
}
