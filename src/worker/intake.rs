//! Queue messages become recorded jobs, or dead letters with the reason.
//!
//! Recorded, then deleted: a kill between the two delivers the message again,
//! and it is found to be recorded. A message that asks for what it may not have
//! costs one read of the registry, no KMS call and no write but its refusal.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::audit::{Outcome, Record, RecordType};
use crate::clock::SharedClock;
use crate::ids::JobId;
use crate::job::{JobMessage, Recorded};
use crate::killpoint;
use crate::kms::Use;
use crate::queue::{Delivery, QueueError, SharedQueue};
use crate::registry::RegistryError;
use crate::telemetry::metrics::{JOB_TRANSITIONS, QUEUE_MESSAGES};
use crate::telemetry::pulse::{Beat, Reached};
use crate::telemetry::waiting::Part;
use crate::worker::{Worker, WorkerError};

/// Messages asked for at once.
const AT_ONCE: usize = 10;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Its job was recorded now.
    Recorded(JobId),
    /// Its job had been recorded before.
    Before(JobId),
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
    let mut is_away = false;
    while !*stop.borrow() {
        worker.pulse.beat(Beat::Intake);
        let pace = &worker.pace;
        // A queue that is back is heard of at once, not when a long wait for a
        // message is over.
        let wait = match is_away {
            true => Duration::ZERO,
            false => pace.receive_wait,
        };
        let received = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            received = worker.queue.receive(AT_ONCE, pace.visibility, wait) => received,
        };
        let waiting = &worker.name.waiting;
        let deliveries = match received {
            Ok(deliveries) => deliveries,
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(error) => {
                is_away = true;
                waiting.note(Part::Queue, &error.to_string());
                tracing::warn!(%error, "the queue is away; jobs that are recorded go on");
                worker.pause(&mut stop).await;
                continue;
            }
        };
        is_away = false;
        waiting.clear(Part::Queue);
        worker.pulse.reached(Reached::Queue);
        intake.take_all(&deliveries).await?;
    }
    Ok(())
}

/// Keeps deliveries hidden while they are worked on, however long that takes.
/// One that is lost or settled is let go.
async fn keep_hidden(
    queue: &SharedQueue,
    clock: &SharedClock,
    deliveries: &[Delivery],
    visibility: Duration,
) -> Infallible {
    let mut receipts: Vec<&str> = deliveries.iter().map(|d| d.receipt.as_str()).collect();
    loop {
        // Two may fail before a third is too late.
        clock.sleep(visibility / 3).await;
        let extended = receipts.iter().map(|r| queue.extend(r, visibility));
        let answers = futures::future::join_all(extended).await;
        let mut answers = answers.into_iter();
        receipts.retain(|_| !matches!(answers.next(), Some(Err(QueueError::ReceiptExpired))));
    }
}

impl Intake<'_> {
    /// Takes messages in: first each is recorded or refused, then those that are
    /// recorded are deleted, all at once. They stay hidden until then.
    ///
    /// # Errors
    /// What ends the worker. What may pass leaves the message for later.
    pub async fn take_all(&self, deliveries: &[Delivery]) -> Result<(), WorkerError> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let worker = self.worker;
        let (clock, visibility) = (&worker.shared.clock, worker.pace.visibility);
        let recorded = tokio::select! {
            biased;
            never = keep_hidden(&worker.queue, clock, deliveries, visibility) => match never {},
            recorded = self.record_all(deliveries) => recorded?,
        };
        if recorded.is_empty() {
            return Ok(());
        }
        killpoint::reach("intake_before_delete");
        let receipts: Vec<&str> = recorded.iter().map(|d| d.receipt.as_str()).collect();
        let answers = worker.queue.delete(&receipts).await;
        for (delivery, answer) in recorded.iter().zip(answers) {
            match answer {
                Ok(()) | Err(QueueError::ReceiptExpired) => {}
                Err(error) if error.is_fatal() => return Err(error.into()),
                // It will be delivered again, and found to be recorded.
                Err(error) => tracing::warn!(
                    %error, message = %delivery.message_id, "a recorded message was not deleted"
                ),
            }
        }
        Ok(())
    }

    /// Records or refuses each, and returns those that are to be deleted.
    async fn record_all<'d>(
        &self,
        deliveries: &'d [Delivery],
    ) -> Result<Vec<&'d Delivery>, WorkerError> {
        let mut recorded = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            self.worker.pulse.beat(Beat::Intake);
            match self.take(delivery).await {
                Ok(taken) => {
                    let result = match &taken {
                        Taken::Recorded(_) => "recorded",
                        Taken::Before(_) => "duplicate",
                        Taken::Refused(_) => "refused",
                    };
                    metrics::counter!(QUEUE_MESSAGES, "result" => result).increment(1);
                    if matches!(taken, Taken::Recorded(_)) {
                        metrics::counter!(JOB_TRANSITIONS, "to" => "queued").increment(1);
                    }
                    let message = &delivery.message_id;
                    match taken {
                        Taken::Recorded(job) | Taken::Before(job) => {
                            tracing::info!(%message, %job, result, "message taken");
                            recorded.push(delivery);
                        }
                        // Why was said when it was refused.
                        Taken::Refused(_) => tracing::info!(%message, result, "message taken"),
                    }
                }
                // It will be delivered again.
                Err(error) if error.may_pass() => {
                    metrics::counter!(QUEUE_MESSAGES, "result" => "error").increment(1);
                    tracing::warn!(%error, message = %delivery.message_id, "message left for later");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(recorded)
    }

    /// Records one message, or refuses it. What was recorded is not deleted yet.
    async fn take(&self, delivery: &Delivery) -> Result<Taken, WorkerError> {
        let worker = self.worker;
        let shared = &worker.shared;
        let message = match JobMessage::receive(&delivery.body) {
            Ok(message) => message,
            Err(error) => return self.refuse(delivery, None, error.to_string()).await,
        };
        let request = &message;
        let authorized = match request {
            JobMessage::Rekey(rekey) => {
                let registry = &shared.registry;
                registry.authorize_target(&rekey.org, &rekey.to_cmk).await
            }
            JobMessage::Move(request) => shared.registry.authorize_move(request).await,
        };
        match authorized {
            Ok(()) => {}
            Err(RegistryError::Refused(refusal)) => {
                return self
                    .refuse(delivery, Some(request), refusal.to_string())
                    .await;
            }
            Err(error) => return Err(error.into()),
        }
        let body_sha256 = message.body_sha256();
        let mut queued = Record::transition(request.org(), None, "queued", &because(request));
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
                request.job_id()
            );
            return self.refuse(delivery, Some(request), why).await;
        }
        if recorded == Recorded::New {
            shared.audit.record(queued);
            shared.audit.durable().await?;
        }
        Ok(if recorded == Recorded::New {
            Taken::Recorded(request.job_id())
        } else {
            Taken::Before(request.job_id())
        })
    }

    async fn refuse(
        &self,
        delivery: &Delivery,
        request: Option<&JobMessage>,
        reason: String,
    ) -> Result<Taken, WorkerError> {
        let code = reason.split(':').next().unwrap_or_default().to_owned();
        let mut record = Record::new(RecordType::Job, "refuse").ended(Outcome::Fatal, Some(code));
        if let Some(request) = request {
            record = record.because(&because(request));
            record.org = Some(request.org().clone());
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

fn because(request: &JobMessage) -> Use {
    let mut why = Use::new(request.reason_code(), request.reason());
    why.job = Some(request.job_id());
    why.requested_by = Some(request.requested_by().to_owned());
    why
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootTime, Clock, FakeClock, WallTime};
    use crate::queue::sqlite::SqliteQueue;

    /// A fake clock that tells when somebody falls asleep. On a runtime of one
    /// thread whoever is told runs only once the sleeper waits for its clock.
    struct Telling {
        fake: Arc<FakeClock>,
        asleep: tokio::sync::Notify,
    }

    #[async_trait::async_trait]
    impl Clock for Telling {
        fn wall(&self) -> WallTime {
            self.fake.wall()
        }
        fn boot(&self) -> BootTime {
            self.fake.boot()
        }
        async fn sleep(&self, span: Duration) {
            self.asleep.notify_one();
            self.fake.sleep(span).await;
        }
    }

    #[tokio::test]
    async fn what_is_being_recorded_stays_hidden_and_what_is_settled_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let fake = FakeClock::at(WallTime(1_700_000_000_000_000));
        let telling = Arc::new(Telling {
            fake: fake.clone(),
            asleep: tokio::sync::Notify::new(),
        });
        let clock: SharedClock = telling.clone();
        let queue: SharedQueue =
            Arc::new(SqliteQueue::open(&dir.path().join("q"), 3, clock.clone()).unwrap());
        for _ in 0..2 {
            queue.send("job").await.unwrap();
        }
        let visibility = Duration::from_secs(30);
        let deliveries = queue.receive(10, visibility, Duration::ZERO).await.unwrap();
        assert_eq!(deliveries.len(), 2);
        let keeper = {
            let (queue, clock, deliveries) = (queue.clone(), clock.clone(), deliveries.clone());
            tokio::spawn(async move {
                keep_hidden(&queue, &clock, &deliveries, visibility).await;
            })
        };
        queue
            .delete(&[&deliveries[0].receipt])
            .await
            .remove(0)
            .unwrap();
        // Ten times as long as one visibility.
        for _ in 0..30 {
            telling.asleep.notified().await;
            fake.advance(visibility / 3);
        }
        telling.asleep.notified().await;
        let seen = queue.receive(10, visibility, Duration::ZERO).await.unwrap();
        assert!(seen.is_empty(), "still hidden");
        keeper.abort();
        assert!(keeper.await.unwrap_err().is_cancelled());
        fake.advance(visibility);
        let seen = queue.receive(10, visibility, Duration::ZERO).await.unwrap();
        assert_eq!(seen.len(), 1, "one was settled, the other is there again");
        assert_eq!(seen[0].message_id, deliveries[1].message_id);
    }
}
