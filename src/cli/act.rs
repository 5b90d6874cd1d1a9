//! An operator's change of a job's state: tried again while a worker is faster,
//! and in the audit log before and after it is made (I16).

use crate::audit::{AuditLog, Record};
use crate::cli::context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{BookError, JobBook, JobRow, JobState, Transition, Versioned};
use crate::kms::Use;
use crate::worker::audit_counts;

/// How often a change by a worker at the same moment is waited out.
const TRIES: usize = 100;

/// The longest reason that is kept, in characters.
const REASON_CHARS: usize = 200;

/// An operator's reason as histories and the audit log keep it, or `otherwise`
/// where none was given.
///
/// # Errors
/// If it is given and empty, or has control characters, which could steer the
/// terminal of who reads it.
pub(super) fn reason(given: Option<&str>, otherwise: &str) -> Result<String, Failure> {
    let Some(given) = given else {
        return Ok(otherwise.to_owned());
    };
    let given = given.trim();
    if given.is_empty() || given.chars().any(char::is_control) {
        let what = "--reason is to say why, without control characters";
        return Err(Failure::new(Exit::Usage, what));
    }
    Ok(given.chars().take(REASON_CHARS).collect())
}

/// Who acts, and why.
pub(super) struct Act<'a> {
    pub book: &'a JobBook,
    pub audit: &'a AuditLog,
    pub job: JobId,
    pub who: &'a str,
    /// Why, as the job's row and its history say it.
    pub why: &'a str,
}

impl Act<'_> {
    /// Moves the job to the state that `decide` finds for its row, which it may
    /// change as well. `None` leaves it where it is: somebody was faster, and its
    /// last change is the answer.
    pub async fn go(
        &self,
        mut decide: impl AsyncFnMut(&mut Versioned<JobRow>) -> Result<Option<JobState>, Failure>,
    ) -> Result<(JobRow, Transition), Failure> {
        let mut tries = 0;
        loop {
            let mut job = context::job(self.book, self.job).await?;
            let Some(to) = decide(&mut job).await? else {
                let history = self.book.history(job.row.request.org(), self.job).await?;
                let last = history.into_iter().next_back();
                let step = last.ok_or_else(|| Failure::no_job(self.job))?;
                return Ok((job.row, step));
            };
            let from = job.row.state;
            self.audit
                .record(self.record(&job.row, from, to).intended());
            self.audit.durable().await?;
            match self.book.transition(&mut job, to, self.who, self.why).await {
                Ok(step) => {
                    self.audit.record(self.record(&job.row, from, to));
                    return Ok((job.row, step));
                }
                // What the other wrote is read and counts.
                Err(BookError::Overtaken(_)) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn record(&self, job: &JobRow, from: JobState, to: JobState) -> Record {
        let mut why = Use::new(job.request.reason_code(), self.why);
        why.job = Some(self.job);
        why.requested_by = Some(self.who.to_owned());
        let org = job.request.org();
        let mut record = Record::transition(org, Some(from.as_str()), to.as_str(), &why);
        if to.is_final() {
            record.counts = Some(audit_counts(&job.rewriting));
            record.streams = job.streams.clone();
        }
        record
    }
}
