//! The queue of the configuration.

use std::sync::Arc;

use super::WiringError;
use crate::clock::SharedClock;
use crate::config::{Config, QueueKind};
use crate::queue::sqlite::SqliteQueue;
use crate::queue::sqs::{SqsQueue, SqsSettings};
use crate::queue::{QueueError, SharedQueue};

/// Opens the queue. The embedded one is made if there is none; SQS is not asked
/// anything yet.
pub async fn queue(config: &Config, clock: &SharedClock) -> Result<SharedQueue, WiringError> {
    let q = &config.queue;
    match q.kind {
        QueueKind::Sqlite => {
            let queue = SqliteQueue::open(&q.path, q.max_receives, clock.clone())?;
            Ok(Arc::new(queue))
        }
        QueueKind::Sqs => Ok(Arc::new(sqs(config, clock).await?)),
    }
}

/// As [`queue`], for a worker: it does not start where it could not take a
/// message in, or could not refuse one. A queue that does not answer is waited
/// for once the worker runs.
pub(super) async fn queue_for_worker(
    config: &Config,
    clock: &SharedClock,
) -> Result<SharedQueue, WiringError> {
    if config.queue.kind != QueueKind::Sqs {
        return queue(config, clock).await;
    }
    let queue = sqs(config, clock).await?;
    match queue.check().await {
        Ok(facts) => {
            tracing::info!(fifo = facts.fifo, dead_letters = %facts.dead_letter_url, "queue found");
            if facts.max_receives.is_none() {
                tracing::warn!(
                    "the queue has no redrive policy: a message that can never be recorded is \
                     delivered again until its retention ends"
                );
            }
        }
        Err(error) if error.is_fatal() => return Err(error.into()),
        Err(error) => tracing::warn!(%error, "the queue does not answer yet"),
    }
    Ok(Arc::new(queue))
}

/// What SQS says of the configured queue, as a worker asks at its start: after
/// how many deliveries a message is moved away, if it is, and where refused
/// messages go.
pub async fn queue_facts(
    config: &Config,
    clock: &SharedClock,
) -> Result<(Option<u32>, String), WiringError> {
    let facts = sqs(config, clock).await?.check().await?;
    Ok((facts.max_receives, facts.dead_letter_url))
}

/// The SQS queue at `url`, whatever queue is configured: to send to it.
pub async fn queue_at(
    url: &str,
    config: &Config,
    clock: &SharedClock,
) -> Result<SharedQueue, WiringError> {
    let settings = SqsSettings {
        credentials: super::credentials(config),
        url: url.to_owned(),
        dead_letter_url: None,
        endpoint: config.queue.endpoint.clone(),
        region: config.queue.region.clone(),
    };
    Ok(Arc::new(SqsQueue::connect(settings, clock.clone()).await?))
}

async fn sqs(config: &Config, clock: &SharedClock) -> Result<SqsQueue, QueueError> {
    let q = &config.queue;
    let Some(url) = q.url.clone() else {
        return Err(QueueError::Settings(
            "queue.kind is `sqs`, and queue.url is not set: set it to the queue's URL, \
             https://sqs.<region>.amazonaws.com/<account>/<name>"
                .to_owned(),
        ));
    };
    let settings = SqsSettings {
        credentials: super::credentials(config),
        url,
        dead_letter_url: q.dead_letter_url.clone(),
        endpoint: q.endpoint.clone(),
        region: q.region.clone(),
    };
    SqsQueue::connect(settings, clock.clone()).await
}
