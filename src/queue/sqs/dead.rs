//! The dead-letter queue. SQS has no way to look at a queue without receiving
//! from it, so whoever looks receives, and lets go at the end: the messages are
//! hidden from others for that moment, and their receive counts grow.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName,
};

use super::errors::{self, Asked};
use super::{BATCH, PutError, SqsQueue, text};
use crate::queue::{DeadLetter, MAX_BODY_BYTES, QueueError, Which};

/// Attribute: why rekeyd refused the message.
pub(super) const REASON: &str = "rekeyd-reason";
/// Attribute: when, RFC 3339.
pub(super) const REFUSED_AT: &str = "rekeyd-refused-at";
/// Attribute: the message's id in the queue it was refused from.
pub(super) const MESSAGE_ID: &str = "rekeyd-message-id";

/// Most messages held at a time: 64 MiB of bodies at the largest.
const MOST: usize = 1000;
/// How long they are hidden while they are held: long enough to look at or move
/// [`MOST`], short enough that a crash hides them for a moment only.
const HELD: Duration = Duration::from_secs(120);
/// A long poll asks all servers of SQS; a short one would miss messages.
const WAIT: Duration = Duration::from_secs(1);

/// A dead letter that is hidden from others until it is let go.
struct Held {
    receipt: String,
    letter: DeadLetter,
}

impl SqsQueue {
    /// Puts a body among the dead letters with the reason.
    pub(super) async fn put_among_dead(
        &self,
        body: &str,
        reason: &str,
        message_id: Option<&str>,
    ) -> Result<(), QueueError> {
        let url = self.dead_letter_url().await?;
        let mut attributes = vec![
            (REASON, text::reason(reason)),
            (REFUSED_AT, self.clock.wall().to_string()),
        ];
        if let Some(id) = message_id.filter(|id| !id.is_empty()) {
            attributes.push((MESSAGE_ID, id.to_owned()));
        }
        // None of ours is longer; the reason says how long this one was.
        let body = text::cut(body, MAX_BODY_BYTES);
        match self.put(url, body, &attributes).await {
            Ok(_) => Ok(()),
            Err(PutError::Queue(error)) => Err(error),
            Err(PutError::NotTaken) => Err(errors::not_buried(Asked {
                action: "SendMessage",
                queue: url,
            })),
        }
    }

    pub(super) async fn look_at_dead(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let url = self.dead_letter_url().await?;
        let (held, failed) = self.hold(url, limit.min(MOST)).await;
        self.let_go(url, &held).await;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut letters: Vec<_> = held.into_iter().map(|held| held.letter).collect();
        letters.sort_by_key(|letter| letter.at_ms);
        letters.truncate(limit);
        Ok(letters)
    }

    /// First all are held, then those that are meant are moved: a worker may
    /// refuse one again at once, and it is not moved a second time.
    pub(super) async fn put_back(&self, which: Which<'_>) -> Result<Vec<String>, QueueError> {
        let url = self.dead_letter_url().await?;
        let (held, mut failed) = self.hold(url, MOST).await;
        let (meant, others): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|held| which.means(&held.letter.message_id));
        let mut back = Vec::new();
        let mut left = others;
        for held in meant {
            if failed.is_some() {
                left.push(held);
                continue;
            }
            match self.move_back(url, &held).await {
                Ok(()) => back.push(held.letter.message_id),
                Err(error) => {
                    failed = Some(error);
                    left.push(held);
                }
            }
        }
        self.let_go(url, &left).await;
        match failed {
            Some(error) => Err(error),
            None => Ok(back),
        }
    }

    /// Sent, then deleted: a crash in between leaves it in both, which is
    /// harmless, and never in neither.
    async fn move_back(&self, url: &str, held: &Held) -> Result<(), QueueError> {
        let asked = self.asked("SendMessage");
        match self.put(&self.address.url, &held.letter.body, &[]).await {
            Ok(_) => {}
            Err(PutError::Queue(error)) => return Err(error),
            Err(PutError::NotTaken) => {
                return Err(QueueError::Fatal(format!(
                    "{}: message {} cannot be put back: the queue does not take it; see its \
                     MaximumMessageSize",
                    asked.queue, held.letter.message_id
                )));
            }
        }
        for answer in self.remove(url, &[&held.receipt]).await {
            match answer {
                Ok(()) | Err(QueueError::ReceiptExpired) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Receives until nothing more comes, or `most` are held. An error ends it;
    /// what is held by then is the caller's to let go.
    async fn hold(&self, url: &str, most: usize) -> (Vec<Held>, Option<QueueError>) {
        // Delivered twice, a message is held by its last receipt.
        let mut held: HashMap<String, Held> = HashMap::new();
        while held.len() < most {
            let room = (most - held.len()).min(BATCH);
            let messages = match self.take(url, room, HELD, WAIT).await {
                Ok(messages) => messages,
                Err(error) => return (held.into_values().collect(), Some(error)),
            };
            let before = held.len();
            for message in messages {
                let own = message.message_id.clone().unwrap_or_default();
                held.insert(own, hold_of(message));
            }
            // Nothing, or nothing new.
            if held.len() == before {
                break;
            }
        }
        (held.into_values().collect(), None)
    }

    /// Others may see them again. If this fails they do so by themselves soon.
    async fn let_go(&self, url: &str, held: &[Held]) {
        for batch in held.chunks(BATCH) {
            let entries: Result<Vec<_>, _> = batch
                .iter()
                .enumerate()
                .map(|(n, held)| {
                    ChangeMessageVisibilityBatchRequestEntry::builder()
                        .id(n.to_string())
                        .receipt_handle(&held.receipt)
                        .visibility_timeout(0)
                        .build()
                })
                .collect();
            let Ok(entries) = entries else { return };
            let call = self
                .client
                .change_message_visibility_batch()
                .queue_url(url)
                .set_entries(Some(entries));
            if let Err(error) = call.send().await {
                let asked = Asked {
                    action: "ChangeMessageVisibility",
                    queue: url,
                };
                let error = errors::error(asked, &error);
                tracing::warn!(%error, "dead letters stay hidden for {} s", HELD.as_secs());
                return;
            }
        }
    }
}

fn hold_of(message: Message) -> Held {
    let attribute = |name: &str| {
        message
            .message_attributes()
            .and_then(|all| all.get(name))
            .and_then(|value| value.string_value())
    };
    let system = |name: MessageSystemAttributeName| {
        message
            .attributes()
            .and_then(|all| all.get(&name))
            .and_then(|value| value.parse::<u64>().ok())
    };
    let refused_ms = attribute(REFUSED_AT)
        .and_then(|at| at.parse::<jiff::Timestamp>().ok())
        .and_then(|at| u64::try_from(at.as_millisecond()).ok());
    let sent_ms = system(MessageSystemAttributeName::SentTimestamp);
    let reason = attribute(REASON).map_or_else(
        || "moved by the queue itself: received too often and never settled".to_owned(),
        str::to_owned,
    );
    let message_id = attribute(MESSAGE_ID)
        .or(message.message_id())
        .unwrap_or_default()
        .to_owned();
    Held {
        receipt: message.receipt_handle.clone().unwrap_or_default(),
        letter: DeadLetter {
            message_id,
            reason,
            at_ms: refused_ms.or(sent_ms).unwrap_or(0),
            body: message.body.unwrap_or_default(),
        },
    }
}
