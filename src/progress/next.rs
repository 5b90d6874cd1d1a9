//! What a person can do for a job, as commands.

use crate::job::{JobRow, JobState, Pass, TaskRow, TaskState};

/// What an operator can do for a job that waits for one.
pub fn next(job: &JobRow) -> Option<String> {
    let id = job.request.job_id();
    match job.state {
        JobState::Paused => Some(format!("rekeyd resume {id}")),
        // Nothing was begun: no slice waits, and the reason has its own command.
        JobState::Blocked if job.activated.is_none() => {
            Some(format!("when the cause is gone, rekeyd retry {id}"))
        }
        JobState::Blocked => {
            let mut next =
                format!("rekeyd failures {id}; when the cause is gone, rekeyd retry {id}");
            if job.round.is_some_and(|round| round.pass == Pass::Copy) {
                next += "; or go on without what waits for a key: with --leave-behind --reason";
            }
            Some(next)
        }
        _ => None,
    }
}

/// Whether slices wait in a task that is otherwise through: those can be tried
/// again. The slices of a task that is still gone through are tried at its end.
pub fn has_parked(tasks: &[TaskRow]) -> bool {
    let mut parked = tasks.iter().filter(|t| t.state == TaskState::Parked);
    parked.any(|task| !task.blocked.is_empty())
}

/// The command that tries a kind of failures again, where it would do something.
pub fn retry(job: &JobRow, kind: &str, there_are: bool) -> Option<String> {
    // What does not open is gone through anew only from the end of a round.
    let may = match kind {
        "blocked" => job.state.has_tasks(),
        _ => job.state == JobState::Blocked,
    };
    let id = job.request.job_id();
    (there_are && may).then(|| format!("rekeyd retry {id} --{kind} --reason <TEXT>"))
}
