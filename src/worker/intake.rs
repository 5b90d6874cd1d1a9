//! Queue messages become recorded jobs, or dead letters with the reason.
//!
//! Recorded, then deleted: a kill between the two delivers the message again,
//! and it is found to be recorded. A message that asks for what it may not have
//! costs one read of the registry, no KMS call and no write but its refusal.

use std::sync::Arc;

use tokio::sync::watch;

use crate::audit::{Outcome, Record, RecordType};
use crate::job::{JobMessage, Recorded, RekeyRequest};
use crate::killpoint;
use crate::kms::{ReasonCode, Use};
use crate::queue::{Delivery, QueueError};
use crate::registry::RegistryError;
use crate::telemetry::metrics::{JOB_TRANSITIONS, QUEUE_MESSAGES};
use crate::worker::{Worker, WorkerError};

/// Messages asked for at once.
const AT_ONCE: usize = 10;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Its job was recorded now.
    Recorded,
    /// Its job had been recorded before.
    Before,
    /// It was refused for this reason.
    Refused(String),
}

/// Takes messages in for a worker.
pub struct Intake<'a> {
    /// The worker.
    pub worker: &'a Worker,
}

pub(super) async fn run(
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let intake = Intake { worker: &worker };
    while !*stop.borrow() {
        let pace = &worker.pace;
        let received = tokio::select! {
            received = worker.queue.receive(AT_ONCE, pace.visibility, pace.receive_wait) => received,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let deliveries = match received {
            Ok(deliveries) => deliveries,
            Err(error @ QueueError::Fatal(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "the queue is away; jobs that are recorded go on");
                worker.pause(&mut stop).await;
                continue;
            }
        };
        for delivery in &deliveries {
            match intake.take(delivery).await {
                Ok(taken) => {
                    let result = match &taken {
                        Taken::Recorded => "recorded",
                        Taken::Before => "duplicate",
                        Taken::Refused(_) => "refused",
                    };
                    metrics::counter!(QUEUE_MESSAGES, "result" => result).increment(1);
                    if taken == Taken::Recorded {
                        metrics::counter!(JOB_TRANSITIONS, "to" => "queued").increment(1);
                    }
                    tracing::info!(message = %delivery.message_id, ?taken, "message taken");
                }
                // It will be delivered again.
                Err(error) if error.may_pass() => {
                    metrics::counter!(QUEUE_MESSAGES, "result" => "error").increment(1);
                    tracing::warn!(%error, message = %delivery.message_id, "message left for later");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

impl Intake<'_> {
    /// Takes one message in.
    pub async fn take(&self, delivery: &Delivery) -> Result<Taken, WorkerError> {
        let worker = self.worker;
        let shared = &worker.shared;
        let message = match JobMessage::parse(&delivery.body) {
            Ok(message) => message,
            Err(error) => return self.refuse(delivery, None, error.to_string()).await,
        };
        let request = message.request();
        match shared
            .registry
            .authorize_target(&request.org, &request.to_cmk)
            .await
        {
            Ok(()) => {}
            Err(RegistryError::Refused(refusal)) => {
                return self
                    .refuse(delivery, Some(request), refusal.to_string())
                    .await;
            }
            Err(error) => return Err(error.into()),
        }
        let body_sha256 = message.body_sha256();
        let mut queued = Record::transition(&request.org, None, "queued", &because(request));
        queued.body_sha256 = Some(body_sha256.clone());
        // Before and after: a kill in between leaves no job without a record.
        shared.audit.record(queued.clone().intended());
        shared.audit.durable().await?;
        killpoint::reach("intake_before_record");
        let recorded = shared
            .book
            .record(request, &body_sha256, "taken from the queue")
            .await?;
        if recorded == Recorded::Taken {
            let why = format!(
                "job_id_taken: job {} was asked for with another body",
                request.job_id
            );
            return self.refuse(delivery, Some(request), why).await;
        }
        if recorded == Recorded::New {
            shared.audit.record(queued);
            shared.audit.durable().await?;
        }
        killpoint::reach("intake_before_delete");
        match worker.queue.delete(&delivery.receipt).await {
            Ok(()) | Err(QueueError::ReceiptExpired) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(if recorded == Recorded::New {
            Taken::Recorded
        } else {
            Taken::Before
        })
    }

    async fn refuse(
        &self,
        delivery: &Delivery,
        request: Option<&RekeyRequest>,
        reason: String,
    ) -> Result<Taken, WorkerError> {
        let code = reason.split(':').next().unwrap_or_default().to_owned();
        let mut record = Record::new(RecordType::Job, "refuse").ended(Outcome::Fatal, Some(code));
        if let Some(request) = request {
            record = record.because(&because(request));
            record.org = Some(request.org.clone());
        }
        self.worker.shared.audit.record(record);
        self.worker.shared.audit.durable().await?;
        tracing::warn!(message = %delivery.message_id, %reason, "message refused");
        match self.worker.queue.refuse(delivery, &reason).await {
            Ok(()) | Err(QueueError::ReceiptExpired) => Ok(Taken::Refused(reason)),
            Err(error) => Err(error.into()),
        }
    }
}

fn because(request: &RekeyRequest) -> Use {
    let mut why = Use::new(ReasonCode::Rekey, request.reason.clone());
    why.job = Some(request.job_id);
    why.requested_by = Some(request.requested_by.clone());
    why
}
