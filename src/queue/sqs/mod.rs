//! The queue on Amazon SQS, standard or FIFO.
//!
//! | file | what |
//! |---|---|
//! | `address` | what a queue's URL tells |
//! | `text` | what SQS takes as text |
//! | `errors` | which error passes, and what can be done about the others |
//! | `dead` | the dead-letter queue: looking, putting in, putting back |
//!
//! One attempt a call: the caller retries. On a FIFO queue each message is a
//! group of its own, with a new deduplication id: jobs need no order, and a
//! message that waits must not hold up others, nor may one that is sent again
//! be dropped.

mod address;
mod dead;
mod errors;
mod text;

use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Config;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName,
    QueueAttributeName,
};
use tokio::sync::OnceCell;

use super::{DeadLetter, Delivery, MAX_BODY_BYTES, Queue, QueueError, Which};
use crate::aws::{Credentials, SdkConfig, TimeLimits, sdk_config_as};
use crate::clock::SharedClock;
use address::{Address, QueueArn};
use errors::Asked;

/// Most messages of one call.
const BATCH: usize = 10;
/// Longest wait of one receive call that SQS allows.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Longest time SQS hides a message.
const LONGEST_VISIBILITY: Duration = Duration::from_secs(12 * 3600);

/// Which queue, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SqsSettings {
    /// Where credentials come from.
    pub credentials: Credentials,
    /// The queue's URL.
    pub url: String,
    /// The URL of the queue for refused messages; from the queue's redrive
    /// policy if not set.
    pub dead_letter_url: Option<String>,
    /// Where SQS is; if not set, what the environment says
    /// (`AWS_ENDPOINT_URL_SQS`), else the host in the URL.
    pub endpoint: Option<String>,
    /// The region; if not set, the one in the URL, else the environment's.
    pub region: Option<String>,
}

/// What [`SqsQueue::check`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqsFacts {
    /// Whether the queue is first in, first out.
    pub fifo: bool,
    /// Deliveries until SQS itself moves a message to the dead letters; `None`
    /// without a redrive policy.
    pub max_receives: Option<u32>,
    /// Where refused messages go.
    pub dead_letter_url: String,
}

/// Makes a queue of this name, and one for its refused messages (`<name>-dead`),
/// where the settings' endpoint is, and returns its URL: for demos and trials.
/// Elsewhere a queue is made by its operator; see docs/queue-sqs.md.
///
/// # Errors
/// As any call.
pub async fn create_for_trial(
    settings: &SqsSettings,
    name: &str,
    clock: SharedClock,
) -> Result<String, QueueError> {
    let queue = SqsQueue::connect(settings.clone(), clock).await?;
    let failed = |what: &str, error: &dyn std::fmt::Debug| {
        tracing::debug!(?error, "a queue for a trial");
        QueueError::Transient(format!("cannot {what} at {:?}", settings.endpoint))
    };
    let dead = format!("{name}-dead");
    let made = queue.client.create_queue().queue_name(&dead).send().await;
    let made = made.map_err(|e| failed("create the queue for refused messages", &e))?;
    let asked = queue
        .client
        .get_queue_attributes()
        .queue_url(made.queue_url().unwrap_or_default())
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .map_err(|e| failed("look at the queue for refused messages", &e))?;
    let arn = asked
        .attributes()
        .and_then(|all| all.get(&QueueAttributeName::QueueArn))
        .cloned()
        .unwrap_or_default();
    let redrive = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": "5"});
    let made = queue
        .client
        .create_queue()
        .queue_name(name)
        .attributes(QueueAttributeName::RedrivePolicy, redrive.to_string())
        .send()
        .await
        .map_err(|e| failed("create the queue", &e))?;
    Ok(made.queue_url().unwrap_or_default().to_owned())
}

/// Removes what [`create_for_trial`] made.
///
/// # Errors
/// As any call.
pub async fn remove_for_trial(
    settings: &SqsSettings,
    clock: SharedClock,
) -> Result<(), QueueError> {
    let queue = SqsQueue::connect(settings.clone(), clock).await?;
    for url in [settings.url.clone(), format!("{}-dead", settings.url)] {
        let removed = queue.client.delete_queue().queue_url(&url).send().await;
        removed.map_err(|error| {
            tracing::debug!(?error, "a queue for a trial");
            QueueError::Transient(format!("cannot remove the queue {url}"))
        })?;
    }
    Ok(())
}

/// A queue of Amazon SQS.
pub struct SqsQueue {
    client: Client,
    address: Address,
    /// Found at the first need: whoever only sends has no right to ask.
    dead_letter_url: OnceCell<String>,
    clock: SharedClock,
}

impl SqsQueue {
    /// Sets the client up. Nothing is asked of SQS yet.
    ///
    /// # Errors
    /// [`QueueError::Settings`] if a URL is none of a queue, or no region is known.
    pub async fn connect(settings: SqsSettings, clock: SharedClock) -> Result<Self, QueueError> {
        let address = parse(&settings.url, "queue.url")?;
        let region = settings.region.as_deref().or(address.region.as_deref());
        let shared = sdk_config_as(
            &settings.credentials,
            region,
            settings.endpoint.as_deref(),
            TimeLimits::PROMPT,
        )
        .await
        .map_err(|e| QueueError::Settings(e.to_string()))?;
        Self::with(settings, &shared, clock)
    }

    /// As [`SqsQueue::connect`], with a set-up of the caller's: other
    /// credentials. Its region and endpoint stand before those of the settings.
    pub fn with(
        settings: SqsSettings,
        shared: &SdkConfig,
        clock: SharedClock,
    ) -> Result<Self, QueueError> {
        let address = parse(&settings.url, "queue.url")?;
        let dead_letter_url = OnceCell::new();
        if let Some(url) = &settings.dead_letter_url {
            let dead = parse(url, "queue.dead_letter_url")?;
            if dead.is_fifo() != address.is_fifo() {
                return Err(QueueError::Settings(format!(
                    "queue.dead_letter_url {url}: the dead letters of a FIFO queue go to a FIFO \
                     queue, those of a standard queue to a standard one"
                )));
            }
            if let (Some(here), Some(there)) = (&address.region, &dead.region)
                && here != there
            {
                return Err(QueueError::Settings(format!(
                    "queue.dead_letter_url {url}: the dead letters of a queue in {here} go to a \
                     queue in {here}"
                )));
            }
            // New, so it cannot be set already.
            let _ = dead_letter_url.set(url.clone());
        }
        if shared.region().is_none() {
            return Err(QueueError::Settings(format!(
                "no region is known for {}: its host names none; set queue.region or AWS_REGION",
                settings.url
            )));
        }
        let mut config = aws_sdk_sqs::config::Builder::from(shared);
        let elsewhere = |name| std::env::var_os(name).is_some();
        if shared.endpoint_url().is_none() && !elsewhere("AWS_ENDPOINT_URL_SQS") {
            config = config.endpoint_url(&address.origin);
        }
        Ok(Self {
            client: Client::from_conf(config.build()),
            address,
            dead_letter_url,
            clock,
        })
    }

    /// Looks whether the queue is as a worker needs it: it exists, we may read
    /// it, and there is a place for refused messages.
    ///
    /// # Errors
    /// [`QueueError::Fatal`] with what to set; [`QueueError::Transient`] if SQS
    /// does not answer.
    pub async fn check(&self) -> Result<SqsFacts, QueueError> {
        let policy = self.redrive_policy().await?;
        let dead_letter_url = self.dead_letter_url().await?.to_owned();
        Ok(SqsFacts {
            fifo: self.address.is_fifo(),
            max_receives: policy.and_then(|p| p.max_receives),
            dead_letter_url,
        })
    }

    fn asked(&self, action: &'static str) -> Asked<'_> {
        Asked {
            action,
            queue: &self.address.url,
        }
    }

    async fn redrive_policy(&self) -> Result<Option<RedrivePolicy>, QueueError> {
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(&self.address.url)
            .attribute_names(QueueAttributeName::RedrivePolicy)
            .send()
            .await
            .map_err(|e| errors::error(self.asked("GetQueueAttributes"), &e))?;
        let text = answer
            .attributes()
            .and_then(|all| all.get(&QueueAttributeName::RedrivePolicy));
        Ok(text.and_then(|text| RedrivePolicy::parse(text)))
    }

    /// Where refused messages go: as set, else where the queue itself moves what
    /// was delivered too often.
    async fn dead_letter_url(&self) -> Result<&str, QueueError> {
        let find = || async {
            let policy = self.redrive_policy().await?.ok_or_else(|| {
                QueueError::Settings(format!(
                    "{} has no redrive policy, so there is no place for refused messages: give \
                     the queue a RedrivePolicy, or set queue.dead_letter_url",
                    self.address.url
                ))
            })?;
            let answer = self
                .client
                .get_queue_url()
                .queue_name(&policy.target.name)
                .queue_owner_aws_account_id(&policy.target.account)
                .send()
                .await;
            let asked = Asked {
                action: "GetQueueUrl",
                queue: &policy.target.name,
            };
            let answer = answer.map_err(|e| errors::error(asked, &e))?;
            answer.queue_url().map(str::to_owned).ok_or_else(|| {
                QueueError::Fatal(format!(
                    "SQS gives no URL for {}; set queue.dead_letter_url",
                    policy.target.name
                ))
            })
        };
        Ok(self.dead_letter_url.get_or_try_init(find).await?)
    }

    /// Sends a body to one of the two queues.
    async fn put(
        &self,
        url: &str,
        body: &str,
        attributes: &[(&str, String)],
    ) -> Result<String, PutError> {
        let asked = Asked {
            action: "SendMessage",
            queue: url,
        };
        let mut call = self
            .client
            .send_message()
            .queue_url(url)
            .message_body(text::json(body));
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .map_err(|e| QueueError::Fatal(format!("attribute {name}: {e}")))?;
            call = call.message_attributes(*name, value);
        }
        if address::is_fifo(url) {
            let id = uuid::Uuid::new_v4().to_string();
            call = call.message_group_id(&id).message_deduplication_id(id);
        }
        match call.send().await {
            Ok(answer) => Ok(answer.message_id().unwrap_or_default().to_owned()),
            Err(e) if errors::is_bad_value(&e) => Err(PutError::NotTaken),
            Err(e) => Err(errors::error(asked, &e).into()),
        }
    }

    /// Takes messages of one of the two queues.
    async fn take(
        &self,
        url: &str,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Message>, QueueError> {
        let wait = wait.min(LONGEST_WAIT);
        let limits = TimeLimits::PROMPT.and_waiting(wait);
        let answer = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(i32::try_from(max.clamp(1, BATCH)).unwrap_or(1))
            .visibility_timeout(seconds(visibility))
            .wait_time_seconds(seconds(wait))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names(dead::REASON)
            .message_attribute_names(dead::REFUSED_AT)
            .message_attribute_names(dead::MESSAGE_ID)
            .customize()
            .config_override(Config::builder().timeout_config(limits.into()))
            .send()
            .await;
        let asked = Asked {
            action: "ReceiveMessage",
            queue: url,
        };
        Ok(answer
            .map_err(|e| errors::error(asked, &e))?
            .messages
            .unwrap_or_default())
    }

    /// Deletes at most [`BATCH`] messages of one of the two queues.
    async fn remove(&self, url: &str, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        let asked = Asked {
            action: "DeleteMessage",
            queue: url,
        };
        let mut call = self.client.delete_message_batch().queue_url(url);
        for (n, receipt) in receipts.iter().enumerate() {
            match DeleteMessageBatchRequestEntry::builder()
                .id(n.to_string())
                .receipt_handle(*receipt)
                .build()
            {
                Ok(entry) => call = call.entries(entry),
                Err(_) => return each(receipts, || QueueError::ReceiptExpired),
            }
        }
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(e) => return each(receipts, || errors::error(asked, &e)),
        };
        let mut answers: Vec<Result<(), QueueError>> = receipts.iter().map(|_| Ok(())).collect();
        for failed in answer.failed() {
            let answer = match failed.code() {
                // Expired, on a FIFO queue.
                code if errors::is_bad_value_code(code) => Err(QueueError::ReceiptExpired),
                code => {
                    let status = if failed.sender_fault() { 400 } else { 500 };
                    let says = failed.message().unwrap_or_default();
                    match errors::by_code(asked, code, status, says) {
                        // Deleted before, or another consumer has it by now; SQS
                        // does not say which. What was done is done either way.
                        QueueError::ReceiptExpired => Ok(()),
                        error => Err(error),
                    }
                }
            };
            let n: Option<usize> = failed.id().parse().ok();
            if let Some(entry) = n.and_then(|n| answers.get_mut(n)) {
                *entry = answer;
            }
        }
        answers
    }
}

/// Why a message was not put into a queue.
enum PutError {
    /// SQS does not take such a message.
    NotTaken,
    Queue(QueueError),
}

impl From<QueueError> for PutError {
    fn from(error: QueueError) -> Self {
        PutError::Queue(error)
    }
}

/// Where SQS itself moves what was delivered too often.
#[derive(Debug)]
struct RedrivePolicy {
    target: QueueArn,
    max_receives: Option<u32>,
}

impl RedrivePolicy {
    fn parse(text: &str) -> Option<Self> {
        let policy: serde_json::Value = serde_json::from_str(text).ok()?;
        // A number, or a number as a text: both are in use.
        let max_receives = &policy["maxReceiveCount"];
        let max_receives = match max_receives.as_str() {
            Some(text) => text.parse().ok(),
            None => max_receives.as_u64().and_then(|n| u32::try_from(n).ok()),
        };
        Some(Self {
            target: QueueArn::parse(policy["deadLetterTargetArn"].as_str()?)?,
            max_receives,
        })
    }
}

fn parse(url: &str, setting: &str) -> Result<Address, QueueError> {
    Address::parse(url).ok_or_else(|| {
        QueueError::Settings(format!(
            "{setting} `{url}` is no URL of an SQS queue; it looks like \
             https://sqs.<region>.amazonaws.com/<account>/<name>"
        ))
    })
}

fn each(receipts: &[&str], error: impl Fn() -> QueueError) -> Vec<Result<(), QueueError>> {
    receipts.iter().map(|_| Err(error())).collect()
}

/// Whole seconds, rounded up, of what SQS allows.
fn seconds(span: Duration) -> i32 {
    let span = span.min(LONGEST_VISIBILITY);
    let rounded = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    i32::try_from(rounded).unwrap_or(i32::MAX)
}

fn delivery(message: Message) -> Delivery {
    let receive_count = message
        .attributes()
        .and_then(|all| all.get(&MessageSystemAttributeName::ApproximateReceiveCount))
        .and_then(|count| count.parse().ok())
        .unwrap_or(1);
    Delivery {
        message_id: message.message_id.unwrap_or_default(),
        receipt: message.receipt_handle.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        receive_count,
    }
}

#[async_trait::async_trait]
impl Queue for SqsQueue {
    async fn send(&self, body: &str) -> Result<String, QueueError> {
        let url = &self.address.url;
        if !(1..=MAX_BODY_BYTES).contains(&body.len()) {
            return Err(QueueError::BodySize(body.len()));
        }
        self.put(url, body, &[]).await.map_err(|e| match e {
            PutError::Queue(error) => error,
            PutError::NotTaken => QueueError::Fatal(format!(
                "SendMessage at {url}: the queue does not take this message of {} bytes; see its \
                 MaximumMessageSize",
                body.len()
            )),
        })
    }

    async fn receive(
        &self,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        let messages = self.take(&self.address.url, max, visibility, wait).await?;
        Ok(messages.into_iter().map(delivery).collect())
    }

    async fn extend(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError> {
        let answer = self
            .client
            .change_message_visibility()
            .queue_url(&self.address.url)
            .receipt_handle(receipt)
            .visibility_timeout(seconds(visibility))
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            // Deleted, or more than twelve hours since it was received.
            Err(e) if errors::is_bad_value(&e) => Err(QueueError::ReceiptExpired),
            Err(e) => Err(errors::error(self.asked("ChangeMessageVisibility"), &e)),
        }
    }

    async fn delete(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        let mut answers = Vec::with_capacity(receipts.len());
        for batch in receipts.chunks(BATCH) {
            answers.extend(self.remove(&self.address.url, batch).await);
        }
        answers
    }

    async fn refuse(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        self.put_among_dead(&delivery.body, reason, Some(&delivery.message_id))
            .await?;
        let answers = self.delete(&[&delivery.receipt]).await;
        answers.into_iter().collect()
    }

    async fn bury(&self, body: &str, reason: &str) -> Result<(), QueueError> {
        self.put_among_dead(body, reason, None).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.look_at_dead(limit).await
    }

    async fn redrive(&self, which: Which<'_>) -> Result<Vec<String>, QueueError> {
        self.put_back(which).await
    }
}

#[cfg(test)]
mod tests;
