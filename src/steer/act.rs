//! A change of a job's state.

use super::{SteerError, unless_overtaken};
use crate::audit::{AuditLog, Record};
use crate::ids::JobId;
use crate::job::{JobBook, JobRow, JobState, Transition, Versioned};
use crate::kms::Use;

/// Who acts, and why.
pub struct Act<'a> {
    /// The jobs.
    pub book: &'a JobBook,
    /// Where it is recorded.
    pub audit: &'a AuditLog,
    /// The job.
    pub job: JobId,
    /// Who.
    pub who: &'a str,
    /// Why, as the job's row and its history say it.
    pub why: &'a str,
}

impl Act<'_> {
    /// Moves the job to the state that `decide` finds for its row, which it may
    /// change as well. `None` leaves it where it is: somebody was faster, and its
    /// last change is the answer.
    ///
    /// # Errors
    /// What `decide` says, and whatever keeps the change from being made.
    pub async fn go<E: From<SteerError>>(
        &self,
        mut decide: impl AsyncFnMut(&mut Versioned<JobRow>) -> Result<Option<JobState>, E>,
    ) -> Result<(JobRow, Transition), E> {
        let mut tries = 0;
        loop {
            let mut job = self.find().await?;
            let Some(to) = decide(&mut job).await? else {
                let last = self.last(&job.row).await?;
                return Ok((job.row, last));
            };
            if let Some(step) = self.make(&mut job, to, &mut tries).await? {
                return Ok((job.row, step));
            }
        }
    }

    /// The same where the row alone says which state. (A future of [`Act::go`]
    /// cannot go from thread to thread, as a server's must.)
    async fn to(
        &self,
        state: impl Fn(&JobRow) -> Result<JobState, SteerError>,
    ) -> Result<(JobRow, Transition), SteerError> {
        let mut tries = 0;
        loop {
            let mut job = self.find().await?;
            let to = state(&job.row)?;
            if let Some(step) = self.make(&mut job, to, &mut tries).await? {
                return Ok((job.row, step));
            }
        }
    }

    async fn find(&self) -> Result<Versioned<JobRow>, SteerError> {
        let found = self.book.find(self.job).await?;
        found.ok_or(SteerError::NoJob(self.job))
    }

    /// Makes the change, with a record before and after it; `None` if somebody was
    /// faster: what the other wrote is read and counts.
    async fn make(
        &self,
        job: &mut Versioned<JobRow>,
        to: JobState,
        tries: &mut usize,
    ) -> Result<Option<Transition>, SteerError> {
        let from = job.row.state;
        self.audit
            .record(self.record(&job.row, from, to).intended());
        self.audit.durable().await?;
        let made = self.book.transition(job, to, self.who, self.why).await;
        let step = unless_overtaken(made, tries)?;
        if step.is_some() {
            self.audit.record(self.record(&job.row, from, to));
        }
        Ok(step)
    }

    async fn last(&self, job: &JobRow) -> Result<Transition, SteerError> {
        let history = self.book.history(job.request.org(), self.job).await?;
        let last = history.into_iter().next_back();
        last.ok_or(SteerError::NoJob(self.job))
    }

    fn record(&self, job: &JobRow, from: JobState, to: JobState) -> Record {
        let mut why = Use::new(job.request.reason_code(), self.why);
        why.job = Some(self.job);
        why.requested_by = Some(self.who.to_owned());
        let org = job.request.org();
        let mut record = Record::transition(org, Some(from.as_str()), to.as_str(), &why);
        if to.is_final() {
            record.counts = Some((&job.rewriting).into());
            record.streams = job.streams.clone();
        }
        record
    }
}

/// Batches in flight are finished, and nothing new is begun.
///
/// # Errors
/// If the job is paused already, at its end, or in one of the two states that last
/// for a few calls.
pub async fn pause(act: &Act<'_>) -> Result<(JobRow, Transition), SteerError> {
    act.to(|row| match row.state {
        JobState::Paused => Err(SteerError::Refused {
            job: row.request.job_id(),
            what: "is paused already".to_owned(),
            is_paused: true,
        }),
        state if state.may_pause() => Ok(JobState::Paused),
        JobState::Preflight | JobState::Activating => Err(refused(
            row,
            "cannot be paused at this moment, which lasts for a few calls; try again",
        )),
        _ => Err(at_its_end(row)),
    })
    .await
}

/// The job goes on where it was.
///
/// # Errors
/// If it is not paused.
pub async fn resume(act: &Act<'_>) -> Result<(JobRow, Transition), SteerError> {
    act.to(|row| match (row.state, row.paused_from) {
        (JobState::Paused, Some(from)) => Ok(from),
        (state, _) if state.is_final() => Err(at_its_end(row)),
        (_, _) => Err(refused(row, "is not paused")),
    })
    .await
}

fn at_its_end(job: &JobRow) -> SteerError {
    refused(job, &format!("is at its end: {}", job.state))
}

fn refused(job: &JobRow, what: &str) -> SteerError {
    SteerError::Refused {
        job: job.request.job_id(),
        what: what.to_owned(),
        is_paused: false,
    }
}
