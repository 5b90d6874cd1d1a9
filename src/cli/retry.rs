//! `rekeyd retry`
//!
//! | file | what |
//! |---|---|
//! | `leave_behind` | a copy goes on without the cells that wait for a key |

mod leave_behind;

use serde_json::json;

use crate::audit::Record;
use crate::cli::act;
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
                  Examples:\n  rekeyd kms enable $OLD && rekeyd retry $JOB --reason 'enabled again'\n  \
                  rekeyd retry $JOB --blocked\n  rekeyd retry $JOB --quarantined\n  \
                  rekeyd retry $MOVE --leave-behind --reason 'revoked for good, ticket 4711'"
)]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
    /// Only what waits for a key: slices, or the CMK that preflight tries.
    #[arg(long)]
    blocked: bool,
    /// Only where cells were left as they are: go through every slice anew, so
    /// that what was mended or deleted counts.
    #[arg(long, conflicts_with = "blocked")]
    quarantined: bool,
    /// Of a move that copies and is blocked: go on without the cells that wait
    /// for a key. They stay in the old place, and are tried again before the end.
    #[arg(long, requires = "reason", conflicts_with_all = ["blocked", "quarantined"])]
    leave_behind: bool,
    /// Why, for the history and the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Who retries what, and why.
struct Asked<'a> {
    job: JobId,
    blocked: bool,
    quarantined: bool,
    who: &'a str,
    why: &'a str,
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
    if let (true, Some(reason)) = (arguments.leave_behind, &arguments.reason) {
        return context.run(leave_behind::run(context, arguments.job, reason));
    }
    let reason = act::reason(arguments.reason.as_deref(), "an operator asked to retry")?;
    context.run(async {
        let book = context.book().await?;
        let who = who();
        let asked = Asked {
            job: arguments.job,
            blocked: arguments.blocked,
            quarantined: arguments.quarantined,
            who: &who,
            why: &format!("retry by {who}: {reason}"),
        };
        let (job, did) = retry(&book, &asked, context.clock.wall()).await?;
        note(context, &job, &did, &asked).await?;
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

async fn retry(book: &JobBook, asked: &Asked<'_>, now: WallTime) -> Result<(JobRow, Did), Failure> {
    for _ in 0..TRIES {
        let mut job = context::job(book, asked.job).await?;
        let did = match once(book, asked, &mut job, now).await {
            Ok(did) => did,
            // What the other wrote is read and counts.
            Err(Refused::Overtaken) => continue,
            Err(Refused::For(failure)) => return Err(failure),
        };
        return Ok((job.row, did));
    }
    Err(BookError::Overtaken(asked.job.to_string()).into())
}

/// Why one attempt did nothing.
enum Refused {
    /// A worker was faster.
    Overtaken,
    For(Failure),
}

impl From<BookError> for Refused {
    fn from(error: BookError) -> Self {
        match error {
            BookError::Overtaken(_) => Refused::Overtaken,
            error => Refused::For(error.into()),
        }
    }
}

async fn once(
    book: &JobBook,
    asked: &Asked<'_>,
    job: &mut Versioned<JobRow>,
    now: WallTime,
) -> Result<Did, Refused> {
    let id = asked.job;
    match (job.row.state, job.row.round) {
        (JobState::Blocked, _) if job.row.activated.is_none() && !asked.quarantined => {
            job.row.retry_ms = Some(0);
            book.note(job, asked.who, asked.why).await?;
            Ok(Did::Preflight)
        }
        (state, Some(round)) if state.has_tasks() => {
            let tasks = book.tasks(id, round.number).await?;
            let parked = tasks.iter().filter(|t| t.row.state == TaskState::Parked);
            let waiting: u64 = parked.map(|t| t.row.blocked.len() as u64).sum();
            if waiting > 0 {
                if asked.quarantined {
                    return Err(Refused::For(still_blocked(id, waiting)));
                }
                // First who asked and why, then what was asked for.
                book.note(job, asked.who, asked.why).await?;
                let released = release(book, id, &tasks, now).await;
                return Ok(Did::Slices(released.map_err(Refused::For)?));
            }
            let may = state == JobState::Blocked
                // The sweep of a left place has nothing that could be gone
                // through anew; its driver goes on by itself.
                && round.pass != Pass::Sweep
                && tasks.iter().all(|t| t.row.state == TaskState::Done);
            if asked.blocked || !may {
                return Err(Refused::For(nothing(&job.row)));
            }
            Ok(Did::Anew(anew(book, job, &tasks, asked).await?))
        }
        _ => Err(Refused::For(nothing(&job.row))),
    }
}

fn still_blocked(id: JobId, slices: u64) -> Failure {
    let verb = if slices == 1 { "waits" } else { "wait" };
    Failure::new(
        Exit::Conflict,
        format!(
            "{} of job {id} still {verb} for a key; what is quarantined is gone through again after them",
            figures::count(slices, "slice")
        ),
    )
    .help(format!("when the cause is gone: `rekeyd retry {id} --blocked`"))
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
        state if state.has_tasks() => format!(
            "slices that wait are tried again by themselves when their task is through; see \
             `rekeyd failures {id}`"
        ),
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
    asked: &Asked<'_>,
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
    book.transition(job, JobState::Rewriting, asked.who, asked.why)
        .await
}

async fn note(
    context: &Context,
    job: &JobRow,
    did: &Did,
    asked: &Asked<'_>,
) -> Result<(), Failure> {
    let audit = context.audit(OPERATOR)?;
    let mut why = Use::new(job.request.reason_code(), asked.why);
    why.job = Some(job.request.job_id());
    why.requested_by = Some(asked.who.to_owned());
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
