//! The worker: takes jobs in, drives them, and works on their tasks. Any number
//! of workers share one store; any of them may be killed at any instruction.
//!
//! | file | what |
//! |---|---|
//! | `intake` | queue messages become recorded jobs, or dead letters |
//! | `open_jobs` | the jobs that are not at an end |
//! | `service_health` | the operator's endpoint that says whether the service has room |
//! | `sweeper` | finds jobs that nobody drives |
//! | `drive` | one job from state to state |
//! | `preflight` | is everything as the job needs it, before anything changes |
//! | `drift` | which revocations a rekey would lift |
//! | `plan_round` | writes the tasks of a round |
//! | `claims` | finds free tasks, going round the organizations, and runs them |
//! | `backlog` | how many tasks wait, counted for the metrics |

mod backlog;
mod claims;
pub mod drift;
mod drive;
mod intake;
mod open_jobs;
mod plan_round;
pub mod preflight;
mod service_health;
mod sweeper;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::{AuditError, Record};
use crate::job::{BookError, HoldError, JobRow, JobState, OpenJobs, Transition, WorkerName};
use crate::kms::{KmsError, Use};
use crate::pipeline::{Shared, TaskError};
use crate::queue::{QueueError, SharedQueue};
use crate::registry::RegistryError;
use crate::telemetry::metrics::JOB_TRANSITIONS;
use crate::telemetry::pulse::Pulse;

pub use backlog::{COUNTED_JOBS, waiting_tasks};
pub use intake::{Intake, Taken};
pub use service_health::ServiceHealth;

/// Throttles are read this often at least.
const LOOK_AT_THROTTLES: Duration = Duration::from_secs(2);

/// How a worker paces itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Tasks worked on at once.
    pub tasks: usize,
    /// Shortest wait between two looks for work, milliseconds.
    pub poll_ms: u64,
    /// How long a queue message stays hidden while it is recorded.
    pub visibility: Duration,
    /// Longest wait for a queue message.
    pub receive_wait: Duration,
    /// KMS calls a second that estimates reckon with.
    pub kms_rate_per_s: f64,
    /// How long old keys are kept that a rekey set aside, seconds.
    pub set_aside_s: u64,
}

/// A worker and what it works with.
pub struct Worker {
    /// What its tasks share.
    pub shared: Arc<Shared>,
    /// Where jobs come from.
    pub queue: SharedQueue,
    /// Its name.
    pub name: WorkerName,
    /// Its pace.
    pub pace: Pace,
    /// Whom it asks whether the service has room, if anybody.
    pub health: Option<ServiceHealth>,
    /// Whether its loops move.
    pub pulse: Pulse,
    /// The unfinished jobs as it last read them.
    pub open: OpenJobs,
}

/// Why a worker ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The jobs.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// What cannot be recorded is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The KMS refuses this worker as such.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// A task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A held row.
    #[error(transparent)]
    Hold(#[from] HoldError),
}

impl WorkerError {
    /// Whether the worker may go on: somebody else was faster, or something is
    /// away that may come back.
    fn may_pass(&self) -> bool {
        use crate::pipeline::Passing;
        match self {
            WorkerError::Registry(e) => e.may_pass(),
            WorkerError::Book(e) | WorkerError::Hold(HoldError::Book(e)) => {
                e.may_pass() || matches!(e, BookError::Overtaken(_))
            }
            WorkerError::Hold(_) => true,
            WorkerError::Queue(e) => {
                matches!(e, QueueError::Transient(_) | QueueError::ReceiptExpired)
            }
            WorkerError::Audit(_) | WorkerError::Kms(_) => false,
            WorkerError::Task(e) => match e {
                TaskError::Store(e) => e.may_pass(),
                TaskError::Registry(e) => e.may_pass(),
                TaskError::Book(e) => e.may_pass() || matches!(e, BookError::Overtaken(_)),
                TaskError::Hold(HoldError::Book(e)) => e.may_pass(),
                TaskError::Hold(_) => true,
                // One page that trips a bug must not end worker after worker.
                TaskError::Compute => true,
                // The driver learns of it as well and ends the job.
                TaskError::CalledOff(_) => true,
                TaskError::Audit(_) | TaskError::Kms(_) => false,
            },
        }
    }
}

/// What a job or task that ran by itself came to. Its panic is ours.
fn joined(
    ended: Result<Result<(), WorkerError>, tokio::task::JoinError>,
) -> Result<(), WorkerError> {
    match ended {
        Ok(ended) => ended,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only this loop cancels them, by ending.
            Err(_) => Ok(()),
        },
    }
}

impl Worker {
    /// Works until asked to stop: then nothing new is begun, batches in flight
    /// are finished, checkpoints written and leases given back. Ends early with
    /// an error that no retry can mend.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<bool>) -> Result<(), WorkerError> {
        tracing::info!(worker = %self.name.worker, stream = %self.name.audit.stream(), "worker starts");
        let intake = intake::run(self.clone(), stop.clone());
        let sweeper = sweeper::run(self.clone(), stop.clone());
        let claims = claims::run(self.clone(), stop.clone());
        let shared = self.shared.clone();
        let throttles = async {
            let every = Duration::from_millis(self.pace.poll_ms).min(LOOK_AT_THROTTLES);
            let keep = shared.throttles.keep(&shared.book, every, stop.clone());
            let health = async {
                if let Some(asked) = &self.health {
                    service_health::run(&self, asked, stop).await;
                }
            };
            tokio::join!(keep, health);
            Ok(())
        };
        let outcome = tokio::try_join!(intake, sweeper, claims, throttles).map(|_| ());
        match &outcome {
            Ok(()) => tracing::info!(worker = %self.name.worker, "worker stops as asked"),
            Err(error) => tracing::error!(worker = %self.name.worker, %error, "worker stops"),
        }
        outcome
    }

    /// Waits for the poll interval, or until asked to stop.
    async fn pause(&self, stop: &mut watch::Receiver<bool>) {
        let clock = &self.shared.clock;
        tokio::select! {
            biased;
            // The sender ends with the process.
            _ = stop.wait_for(|stop| *stop) => {}
            () = clock.sleep(Duration::from_millis(self.pace.poll_ms)) => {}
        }
    }

    /// Puts into the audit log that a job is about to be moved: a kill between
    /// the change and its own record then leaves no change without any (I16).
    fn note_intent(&self, job: &JobRow, to: JobState, why: &str) {
        let record = transition_record(job, job.state, to, why);
        self.shared.audit.record(record.intended());
    }

    /// Puts a transition into the audit log and the other log.
    fn note_transition(&self, job: &JobRow, step: &Transition) {
        let request = &job.request;
        let mut record = transition_record(job, step.from, step.to, &step.why);
        if step.to.is_final() {
            record.counts = Some((&job.rewriting).into());
            record.streams = job.streams.clone();
        }
        self.shared.audit.record(record);
        metrics::counter!(JOB_TRANSITIONS, "to" => step.to.as_str()).increment(1);
        tracing::info!(
            org = %request.org(), job = %request.job_id(), from = step.from.as_str(),
            to = step.to.as_str(), why = %step.why, "job goes on"
        );
    }
}

fn transition_record(job: &JobRow, from: JobState, to: JobState, why: &str) -> Record {
    let request = &job.request;
    let mut because = Use::new(request.reason_code(), why);
    because.job = Some(request.job_id());
    because.requested_by = Some(request.requested_by().to_owned());
    Record::transition(request.org(), Some(from.as_str()), to.as_str(), &because)
}
