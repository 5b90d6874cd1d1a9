//! `rekeyd retry`
//!
//! | file | what |
//! |---|---|
//! | `leave_behind` | a copy goes on without the cells that wait for a key |

mod leave_behind;

use serde_json::json;

use crate::audit::Record;
use crate::cli::context::{self, Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::ids::JobId;
use crate::job::{
    BookError, JobBook, JobRow, JobState, Pass, TaskRow, TaskState, Transition, Versioned, is_free,
    note_stream,
};
use crate::kms::Use;
use crate::store::ControlTable;

/// How often a change by a worker at the same moment is waited out.
const TRIES: usize = 100;

#[derive(clap::Args)]
#[command(
    after_help = "Blocked slices are tried again by themselves; this does it at once.\n\n\
                  Examples:\n  rekeyd kms enable $OLD && rekeyd retry $JOB\n  \
                  rekeyd retry $MOVE --leave-behind --reason 'revoked for good, ticket 4711'"
)]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
    /// Of a move that copies and is blocked: go on without the cells that wait
    /// for a key. They stay in the old place, and are tried again before the end.
    #[arg(long, requires = "reason")]
    leave_behind: bool,
    /// Why, for the history and the audit log.
    #[arg(long, value_name = "TEXT", requires = "leave_behind")]
    reason: Option<String>,
}

/// What was done.
enum Did {
    /// Preflight is tried again.
    Preflight,
    /// So many slices are tried again.
    Slices(u64),
    /// Nothing waits for a key; the whole is gone through anew.
    Anew(Transition),
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    if let Some(reason) = &arguments.reason {
        return context.run(leave_behind::run(context, arguments.job, reason));
    }
    context.run(async {
        let book = context.book().await?;
        let who = who();
        let (job, did) = retry(&book, arguments.job, &who, context.clock.wall()).await?;
        note(context, &job, &did, who).await?;
        let (what, slices) = match &did {
            Did::Preflight => ("preflight", None),
            Did::Slices(n) => ("slices", Some(*n)),
            Did::Anew(_) => ("rewriting", None),
        };
        let id = arguments.job;
        let programs = json!({"job_id": id, "retried": what, "slices": slices});
        context.out.show(&programs, || {
            let did = match &did {
                Did::Preflight => "preflight is tried again at once".to_owned(),
                Did::Slices(n) => format!("{} tried again at once", are(*n)),
                Did::Anew(_) => {
                    "no slice waits for a key; every slice is gone through again, so that what \
                     was mended or deleted meanwhile counts"
                        .to_owned()
                }
            };
            format!("{did}\nnext: rekeyd status {id} --watch")
        })?;
        Ok(Exit::Done)
    })
}

fn are(slices: u64) -> String {
    let verb = if slices == 1 { "is" } else { "are" };
    format!("{} {verb}", figures::count(slices, "slice"))
}

async fn retry(
    book: &JobBook,
    id: JobId,
    who: &str,
    now: WallTime,
) -> Result<(JobRow, Did), Failure> {
    for _ in 0..TRIES {
        let mut job = context::job(book, id).await?;
        let org = job.row.request.org().clone();
        let overtaken = |done: Result<Did, BookError>| match done {
            Ok(did) => Ok(Some(did)),
            Err(BookError::Overtaken(_)) => Ok(None),
            Err(error) => Err(Failure::from(error)),
        };
        let done = match (job.row.state, job.row.round) {
            (JobState::Blocked, _) if job.row.activated.is_none() => {
                job.row.retry_ms = Some(0);
                let written = book
                    .write_back(ControlTable::Jobs, org.as_str(), &mut job)
                    .await;
                overtaken(written.map(|()| Did::Preflight))?
            }
            (state, Some(round)) if state.has_tasks() => {
                let tasks = book.tasks(id, round.number).await?;
                let released = release(book, id, &tasks, now).await?;
                if released > 0 {
                    Some(Did::Slices(released))
                } else if state == JobState::Blocked
                    // The sweep of a left place has nothing that could be gone
                    // through anew; its driver goes on by itself.
                    && round.pass != Pass::Sweep
                    && tasks.iter().all(|t| t.row.state == TaskState::Done)
                {
                    overtaken(anew(book, &mut job, &tasks, who).await.map(Did::Anew))?
                } else {
                    return Err(nothing(&job.row));
                }
            }
            _ => return Err(nothing(&job.row)),
        };
        if let Some(did) = done {
            return Ok((job.row, did));
        }
    }
    Err(BookError::Overtaken(id.to_string()).into())
}

fn nothing(job: &JobRow) -> Failure {
    let id = job.request.job_id();
    Failure::new(
        Exit::Conflict,
        format!(
            "nothing of job {id} waits to be tried again: it is {}",
            job.state
        ),
    )
    .help(match job.state {
        JobState::Paused => format!("let it go on first: `rekeyd resume {id}`"),
        _ => format!("see `rekeyd status {id}`"),
    })
}

/// Lets parked slices be tried now. A task that a worker holds is being tried
/// as it is, and a write to it would only disturb.
async fn release(
    book: &JobBook,
    id: JobId,
    tasks: &[Versioned<TaskRow>],
    now: WallTime,
) -> Result<u64, Failure> {
    let mut slices = 0;
    for task in tasks {
        let mut task = task.clone();
        if task.row.state != TaskState::Parked {
            continue;
        }
        if is_free(&task.row, now.unix_ms()) {
            for blocked in &mut task.row.blocked {
                blocked.retry_ms = 0;
            }
            match book
                .write_back(ControlTable::Tasks, &id.to_string(), &mut task)
                .await
            {
                // Somebody has just taken it up.
                Ok(()) | Err(BookError::Overtaken(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        slices += task.row.blocked.len() as u64;
    }
    Ok(slices)
}

/// Goes through everything again. The round that is left is closed as the
/// driver closes one, so that its effort and its audit streams are not lost.
async fn anew(
    book: &JobBook,
    job: &mut Versioned<JobRow>,
    tasks: &[Versioned<TaskRow>],
    who: &str,
) -> Result<Transition, BookError> {
    for task in tasks {
        job.row.effort.add(&task.row.effort);
        job.row.takeovers += u64::from(task.row.takeovers);
        for stream in &task.row.streams {
            note_stream(&mut job.row.streams, stream.clone());
        }
    }
    job.row.round = None;
    job.row.blocked_slices = 0;
    job.row.verdict = None;
    book.transition(job, JobState::Rewriting, who, "an operator asked to retry")
        .await
}

async fn note(context: &Context, job: &JobRow, did: &Did, who: String) -> Result<(), Failure> {
    let audit = context.audit(OPERATOR)?;
    let mut why = Use::new(job.request.reason_code(), "an operator asked to retry");
    why.job = Some(job.request.job_id());
    why.requested_by = Some(who);
    let org = job.request.org();
    audit.record(match did {
        Did::Anew(step) => {
            Record::transition(org, Some(step.from.as_str()), step.to.as_str(), &why)
        }
        Did::Preflight | Did::Slices(_) => {
            let mut record = Record::new(crate::audit::RecordType::Job, "retry").because(&why);
            record.org = Some(org.clone());
            record
        }
    });
    audit.close().await?;
    Ok(())
}
