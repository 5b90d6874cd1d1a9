//! What operators do to a job, by a command or on the status page: the same
//! changes, refused for the same reasons, and in the audit log before and after
//! they are made (I16).
//!
//! | file | what |
//! |---|---|
//! | `act` | a change of a job's state, tried again while a worker is faster |
//! | `throttle` | slowing down, and no more |

mod act;
mod throttle;

pub use act::{Act, pause, resume};
pub use throttle::{LONGEST, clear, throttle};

use crate::audit::AuditError;
use crate::ids::JobId;
use crate::job::{BookError, ThrottleTarget};

/// The longest reason that is kept, in characters.
const REASON_CHARS: usize = 200;
/// How often a change by somebody else at the same moment is waited out.
const TRIES: usize = 100;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// There is no such job.
    #[error("no job {0} is recorded")]
    NoJob(JobId),
    /// What state the job is in does not allow it.
    #[error("job {job} {what}")]
    Refused {
        /// The job.
        job: JobId,
        /// Why, as the rest of the sentence.
        what: String,
        /// It is paused, so there is a way on.
        is_paused: bool,
    },
    /// A reason is missing, or could steer the terminal of who reads it.
    #[error("the reason is to say why, without control characters")]
    Reason,
    /// No throttle has these limits.
    #[error("no throttle was set: {0}")]
    Limits(String),
    /// There is none.
    #[error("there is no throttle of `{0}`")]
    NoThrottle(ThrottleTarget),
    /// The job's rows.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

/// An operator's reason as histories and the audit log keep it.
///
/// # Errors
/// [`SteerError::Reason`].
pub fn reason(given: &str) -> Result<String, SteerError> {
    let given = given.trim();
    if given.is_empty() || given.chars().any(char::is_control) {
        return Err(SteerError::Reason);
    }
    Ok(given.chars().take(REASON_CHARS).collect())
}

/// What was done; `None` if somebody else changed the same row at this moment, and
/// it is to be tried again.
fn unless_overtaken<T>(
    done: Result<T, BookError>,
    tries: &mut usize,
) -> Result<Option<T>, SteerError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(BookError::Overtaken(_)) if *tries < TRIES => {
            *tries += 1;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
