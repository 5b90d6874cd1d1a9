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
    /// When it was refused, microseconds: several may be in one millisecond.
    at_us: u64,
    letter: DeadLetter,
}

/// In the order in which they were refused. SQS has none.
fn oldest_first(held: HashMap<String, Held>) -> Vec<Held> {
    let mut held: Vec<Held> = held.into_values().collect();
    held.sort_by(|a, b| {
        let key = |held: &Held| (held.at_us, held.letter.message_id.clone());
        key(a).cmp(&key(b))
    });
    held
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
                Err(error) => return (oldest_first(held), Some(error)),
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
        (oldest_first(held), None)
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
    let refused_us = attribute(REFUSED_AT)
        .and_then(|at| at.parse::<jiff::Timestamp>().ok())
        .and_then(|at| u64::try_from(at.as_microsecond()).ok());
    let sent_us =
        system(MessageSystemAttributeName::SentTimestamp).map(|ms| ms.saturating_mul(1000));
    let at_us = refused_us.or(sent_us).unwrap_or(0);
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
        at_us,
        letter: DeadLetter {
            message_id,
            reason,
            at_ms: at_us / 1000,
            body: message.body.unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    fn refused(id: &str, at: &str) -> Held {
        let at = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(at)
            .build()
            .unwrap();
        let message = Message::builder().message_id(id);
        hold_of(message.message_attributes(REFUSED_AT, at).build())
    }

    #[test]
    fn letters_of_one_millisecond_are_in_the_order_of_their_microseconds() {
        let of = |ids: &[u32]| {
            let each = ids.iter().map(|n| {
                // The id says nothing of the order.
                let id = format!("letter {}", 100 - n);
                let held = refused(&id, &format!("2026-11-23T10:00:00.000{n:03}Z"));
                (id, held)
            });
            let sorted = oldest_first(each.collect());
            assert!(
                sorted
                    .iter()
                    .all(|held| held.letter.at_ms == 1_795_428_000_000)
            );
            sorted
                .into_iter()
                .map(|held| held.at_us % 1000)
                .collect::<Vec<_>>()
        };
        let ids: Vec<u32> = (0..50).rev().collect();
        assert_eq!(of(&ids), (0..50).collect::<Vec<u64>>());
    }
}
