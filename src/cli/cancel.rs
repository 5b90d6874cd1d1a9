//! `rekeyd cancel`
//!
//! | file | what |
//! |---|---|
//! | `call_off` | a copy of a channel: clients first, then the job, then what was copied |

mod call_off;

use serde_json::json;

use crate::cli::act;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{Activated, JobMessage, JobRow, JobState, MoveKind, MoveRequest, Verdict};
use crate::registry::Registry;
use crate::steer::Act;
use call_off::Purged;

#[derive(clap::Args)]
#[command(
    after_help = "A copy of a channel can be called off until its phase is `switched`; after that \
                  the way back is a move back.\n\n\
                  Example:\n  rekeyd cancel $JOB --reason 'the customer asked to wait'"
)]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
    /// Why, for the history and the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(cancel(context, arguments))
}

async fn cancel(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let reason = act::reason(arguments.reason.as_deref(), "an operator stopped it")?;
    let book = context.book().await?;
    let registry = Registry::new(context.store().await?, context.clock.clone());
    let audit = context.audit(OPERATOR)?;
    let (id, who) = (arguments.job, who());
    let why = format!("by {who}: {reason}");
    let act = Act {
        book: &book,
        audit: &audit,
        job: id,
        who: &who,
        why: &why,
    };
    let mut called_off = false;
    let mut said = None;
    let acted = act
        .go(async |job| {
            let row = &mut job.row;
            // Its driver has met that the copy was called off, and ended it.
            if called_off && row.state == JobState::Cancelled {
                return Ok(None);
            }
            if row.state.is_final() {
                return Err(Failure::new(
                    Exit::Conflict,
                    format!("job {id} is at its end: {}", row.state),
                )
                .help(format!("see `rekeyd status {id}`")));
            }
            if let Some(activated) = row.activated.clone() {
                if let Some(request) = copied(row) {
                    call_off::clients(&registry, &audit, &request, &act).await?;
                    called_off = true;
                }
                let verdict = verdict(&registry, &row.request, activated).await?;
                row.verdict = Some(verdict.to_string());
                said = Some(verdict);
            }
            Ok(Some(JobState::Cancelled))
        })
        .await;
    let (job, step) = match acted {
        Ok(acted) => acted,
        Err(failure) => {
            audit.close().await?;
            return Err(failure);
        }
    };
    let purged = match copied(&job) {
        Some(request) if called_off => {
            let store = context.store().await?;
            Some(call_off::purge(&store, &registry, &audit, &request, &act).await)
        }
        _ => None,
    };
    audit.close().await?;

    let request = &job.request;
    let programs = json!({
        "job_id": id, "org": request.org(), "from": step.from, "to": step.to,
        "activated": job.activated, "verdict": job.verdict, "purged": purged,
    });
    context.out.show(&programs, || {
        for_people(&job, step.from, said.as_ref(), purged.as_ref())
    })?;
    Ok(Exit::Done)
}

/// The request of a copy.
fn copied(job: &JobRow) -> Option<MoveRequest> {
    let request = job.request.channel_move()?;
    (request.kind() == MoveKind::Copy).then(|| request.clone())
}

/// What is so once the job is cancelled after its activation.
async fn verdict(
    registry: &Registry,
    request: &JobMessage,
    activated: Activated,
) -> Result<Verdict, Failure> {
    let request = match request {
        JobMessage::Rekey(request) => {
            let active = registry.org(&request.org).await?.cmk;
            let old = activated.from_cmk;
            return Ok(if old == active {
                Verdict::Lapsed { old }
            } else {
                Verdict::Unfinished { old, active }
            });
        }
        JobMessage::Move(request) => request,
    };
    let from = request.source();
    if request.kind() == MoveKind::Copy {
        return Ok(Verdict::MoveCalledOff { from });
    }
    let view = registry.view(&request.org, &request.from.channel).await?;
    let now_in = view.channel_row.workspace;
    Ok(if now_in == request.to.workspace {
        Verdict::MoveUnfinished { from, now_in }
    } else {
        Verdict::MoveSuperseded { from, now_in }
    })
}

fn for_people(
    job: &JobRow,
    from: JobState,
    said: Option<&Verdict>,
    purged: Option<&Purged>,
) -> String {
    let (id, org) = (job.request.job_id(), job.request.org());
    let Some(verdict) = said else {
        return match from {
            // The driver may have been in the middle of it.
            JobState::Activating => format!(
                "job {id} is cancelled as it was being activated; `rekeyd org show {org}` says \
                 what is so"
            ),
            _ => format!("job {id} is cancelled; it had not changed anything"),
        };
    };
    match (&job.request, purged) {
        (JobMessage::Rekey(_), _) => format!(
            "job {id} is cancelled. The store stays readable as it is: part of it under the new \
             CMK, part under the old\n{verdict}\nnext: rekeyd enqueue rekey --org {org} --to <ARN> \
             finishes what is left, or goes back"
        ),
        (JobMessage::Move(_), Some(purged)) => {
            format!("job {id} is cancelled\n{verdict}\n{purged}")
        }
        (JobMessage::Move(_), None) if matches!(verdict, Verdict::MoveSuperseded { .. }) => {
            format!("job {id} is cancelled\n{verdict}")
        }
        (JobMessage::Move(request), None) => format!(
            "job {id} is cancelled\n{verdict}\nnext: {} goes back",
            call_off::way_back(request)
        ),
    }
}
