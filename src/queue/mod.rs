//! Job queues: one trait, and its backends.
//!
//! The queue is a hint (I12): at least once, unordered, untrusted. What a
//! message asks for is recorded in the store and worked from there, so a lost
//! message strands nothing and a doubled one changes nothing.

pub mod conformance;
pub mod sqlite;
pub mod sqs;

use std::sync::Arc;
use std::time::Duration;

/// A queue that several parts share.
pub type SharedQueue = Arc<dyn Queue>;

/// Longest message body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A message as it was handed out. The receipt is good until the visibility
/// timeout ends or another consumer gets the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id, the same at each delivery.
    pub message_id: String,
    /// What this delivery is settled with.
    pub receipt: String,
    /// The body as it was sent. Untrusted.
    pub body: String,
    /// How often the message has been handed out, this time included.
    pub receive_count: u32,
}

/// A message that was refused, or that nobody could settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's id.
    pub message_id: String,
    /// The body as it was sent. Untrusted.
    pub body: String,
    /// Why it was refused.
    pub reason: String,
    /// When, Unix milliseconds. Where the queue itself moved the message and
    /// does not say when: when it was sent.
    pub at_ms: u64,
}

/// Which dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// All that are there now.
    All,
    /// Those with one of these message ids.
    Ids(&'a [String]),
}

impl Which<'_> {
    /// Whether this message is meant.
    pub fn means(&self, message_id: &str) -> bool {
        match self {
            Which::All => true,
            Which::Ids(ids) => ids.iter().any(|id| id == message_id),
        }
    }
}

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Try again after a wait.
    #[error("queue: {0}")]
    Transient(String),
    /// The receipt is no longer good: the message was handed to another consumer
    /// or is gone. Treat it as lost; what was recorded stays recorded.
    #[error("queue: the receipt is no longer valid")]
    ReceiptExpired,
    /// The body is larger than [`MAX_BODY_BYTES`] or empty.
    #[error("queue: a message has 1 to 65,536 bytes, this one has {0}")]
    BodySize(usize),
    /// As [`QueueError::Fatal`], and it is the configuration that has to be
    /// mended: no such queue, no address of one.
    #[error("queue: {0}")]
    Settings(String),
    /// Stop and say what to do.
    #[error("queue: {0}")]
    Fatal(String),
}

impl QueueError {
    /// Whether trying again is of no use.
    pub fn is_fatal(&self) -> bool {
        matches!(self, QueueError::Settings(_) | QueueError::Fatal(_))
    }
}

/// A queue of job messages.
///
/// # Contract
///
/// Delivery is at least once and in no order. A message that was received is
/// hidden for `visibility`; unless it is deleted or refused by then it is handed
/// out again with a higher receive count. After `max_receives` deliveries
/// (a setting of the queue) the queue itself moves it to the dead letters. The
/// caller retries transient errors; an implementation makes one attempt.
#[async_trait::async_trait]
pub trait Queue: Send + Sync {
    /// Sends a message and returns its id. Durable when the call returns.
    async fn send(&self, body: &str) -> Result<String, QueueError>;

    /// Takes up to `max` messages (1 to 10), waiting up to `wait` for the first.
    async fn receive(
        &self,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Keeps a delivery hidden for `visibility` from now.
    async fn extend(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError>;

    /// Removes messages for good: one answer for each receipt, in their order.
    /// Each is removed or not by itself. Deleting twice is no error.
    async fn delete(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>>;

    /// Puts a message among the dead letters with the reason, and removes it
    /// from the queue. A crash between the two leaves it in both.
    async fn refuse(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError>;

    /// Puts a body among the dead letters that is no longer in the queue: a job
    /// that was recorded and then failed its preflight.
    async fn bury(&self, body: &str, reason: &str) -> Result<(), QueueError>;

    /// The dead letters, oldest first, at most `limit`. Where a queue cannot be
    /// looked at in order, which of them are left out is not said.
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Puts dead letters back into the queue, each as a new message with the
    /// body it had, and returns their ids as dead letters. What is refused while
    /// this runs is left. A crash may leave a message in both.
    async fn redrive(&self, which: Which<'_>) -> Result<Vec<String>, QueueError>;
}
