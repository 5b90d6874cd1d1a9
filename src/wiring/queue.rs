//! The queue of the configuration.

use std::sync::Arc;

use super::WiringError;
use crate::clock::SharedClock;
use crate::config::{Config, QueueKind};
use crate::queue::sqlite::SqliteQueue;
use crate::queue::{QueueError, SharedQueue};

/// Opens the queue, making its file if there is none.
pub async fn queue(config: &Config, clock: &SharedClock) -> Result<SharedQueue, WiringError> {
    let q = &config.queue;
    match q.kind {
        QueueKind::Sqlite => {
            let queue = SqliteQueue::open(&q.path, q.max_receives, clock.clone())?;
            Ok(Arc::new(queue))
        }
        QueueKind::Sqs => Err(QueueError::Fatal("this build has no SQS queue".to_owned()).into()),
    }
}
