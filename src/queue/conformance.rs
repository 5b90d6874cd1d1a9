//! One suite for every queue backend: what the rest of rekeyd relies on.
//!
//! Every function panics with the rule that is broken.

use std::time::Duration;

use super::{Delivery, MAX_BODY_BYTES, QueueError, SharedQueue, Which};

/// A backend, and the power over its time.
#[async_trait::async_trait]
pub trait Harness: Send + Sync {
    /// A queue of its own, empty.
    async fn queue(&self) -> SharedQueue;
    /// How often that queue hands a message out before it goes to the dead
    /// letters.
    fn max_receives(&self) -> u32;
    /// Lets the queue's time pass: turns a fake clock, or waits.
    async fn pass(&self, span: Duration);
}

/// A visibility that ends within the suite. Real queues count in whole seconds.
const SHORT: Duration = Duration::from_secs(2);
/// One that does not.
const LONG: Duration = Duration::from_secs(600);
/// After this a message with [`SHORT`] visibility is there again.
const AFTER_SHORT: Duration = Duration::from_millis(2500);

async fn now(queue: &SharedQueue, visibility: Duration) -> Vec<Delivery> {
    queue
        .receive(10, visibility, Duration::ZERO)
        .await
        .expect("receive")
}

async fn one(queue: &SharedQueue, visibility: Duration) -> Delivery {
    let mut got = now(queue, visibility).await;
    assert_eq!(got.len(), 1, "one message is visible");
    got.remove(0)
}

async fn delete(queue: &SharedQueue, receipt: &str) -> Result<(), QueueError> {
    let mut answers = queue.delete(&[receipt]).await;
    assert_eq!(answers.len(), 1, "one answer for each receipt");
    answers.remove(0)
}

/// All of it.
pub async fn all(harness: &dyn Harness) {
    delivery(harness).await;
    visibility(harness).await;
    settling(harness).await;
    settling_many(harness).await;
    dead_letters(harness).await;
    redrive(harness).await;
    sizes(harness).await;
}

async fn delivery(harness: &dyn Harness) {
    let queue = harness.queue().await;
    assert!(now(&queue, LONG).await.is_empty(), "a new queue is empty");
    let mut sent = Vec::new();
    for n in 0..25 {
        let body = format!("{{\"n\":{n},\"text\":\"é\\n\"}}");
        sent.push((queue.send(&body).await.expect("send"), body));
    }
    let mut received = Vec::new();
    loop {
        let batch = now(&queue, LONG).await;
        if batch.is_empty() {
            break;
        }
        assert!(batch.len() <= 10, "at most as many as asked for");
        received.extend(batch);
    }
    assert!(
        received.iter().all(|d| d.receive_count == 1),
        "each was handed out once"
    );
    let mut received: Vec<_> = received
        .into_iter()
        .map(|d| (d.message_id, d.body))
        .collect();
    received.sort();
    sent.sort();
    assert_eq!(
        received, sent,
        "everything that was sent is received as it was sent"
    );
}

async fn visibility(harness: &dyn Harness) {
    let queue = harness.queue().await;
    let id = queue.send("job").await.expect("send");
    let first = one(&queue, SHORT).await;
    assert!(
        now(&queue, SHORT).await.is_empty(),
        "what was received is hidden"
    );
    harness.pass(AFTER_SHORT).await;
    let second = one(&queue, SHORT).await;
    assert_eq!(
        (&first.message_id, &second.message_id),
        (&id, &id),
        "the id stays"
    );
    assert_eq!(second.receive_count, 2, "each delivery counts");
    assert_ne!(
        first.receipt, second.receipt,
        "each delivery has its own receipt"
    );

    queue.extend(&second.receipt, LONG).await.expect("extend");
    harness.pass(AFTER_SHORT).await;
    assert!(
        now(&queue, SHORT).await.is_empty(),
        "what was extended stays hidden"
    );
    delete(&queue, &second.receipt).await.expect("delete");
    assert!(
        matches!(
            queue.extend(&second.receipt, LONG).await,
            Err(QueueError::ReceiptExpired)
        ),
        "what is gone cannot be extended"
    );
}

async fn settling(harness: &dyn Harness) {
    let queue = harness.queue().await;
    queue.send("job").await.expect("send");
    let delivery = one(&queue, SHORT).await;
    delete(&queue, &delivery.receipt).await.expect("delete");
    delete(&queue, &delivery.receipt)
        .await
        .expect("deleting twice is no error");
    harness.pass(AFTER_SHORT).await;
    assert!(
        now(&queue, SHORT).await.is_empty(),
        "what was deleted stays away"
    );

    queue.send("job").await.expect("send");
    let stale = one(&queue, SHORT).await;
    harness.pass(AFTER_SHORT).await;
    let current = one(&queue, LONG).await;
    // A backend may not notice a stale receipt; it must not fail otherwise.
    let answer = delete(&queue, &stale.receipt).await;
    assert!(
        matches!(answer, Ok(()) | Err(QueueError::ReceiptExpired)),
        "{answer:?}"
    );
    delete(&queue, &current.receipt)
        .await
        .expect("the current receipt is good");
    assert!(
        queue
            .dead_letters(10)
            .await
            .expect("dead letters")
            .is_empty()
    );
}

async fn settling_many(harness: &dyn Harness) {
    let queue = harness.queue().await;
    assert!(queue.delete(&[]).await.is_empty(), "nothing to delete");
    for n in 0..3 {
        queue.send(&format!("job {n}")).await.expect("send");
    }
    let mut deliveries = Vec::new();
    while deliveries.len() < 3 {
        deliveries.extend(now(&queue, LONG).await);
    }
    let kept = deliveries.pop().expect("three");
    queue.extend(&kept.receipt, SHORT).await.expect("extend");
    let receipts: Vec<_> = deliveries.iter().map(|d| d.receipt.as_str()).collect();
    let answers = queue.delete(&receipts).await;
    assert_eq!(answers.len(), 2, "one answer for each receipt");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    harness.pass(AFTER_SHORT).await;
    let left = one(&queue, LONG).await;
    assert_eq!(left.body, kept.body, "only what was named is deleted");
}

async fn dead_letters(harness: &dyn Harness) {
    let queue = harness.queue().await;
    let id = queue.send("refused").await.expect("send");
    let delivery = one(&queue, LONG).await;
    queue
        .refuse(&delivery, "unknown version 9")
        .await
        .expect("refuse");
    assert!(
        now(&queue, LONG).await.is_empty(),
        "what was refused is not in the queue"
    );
    let letters = queue.dead_letters(10).await.expect("dead letters");
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (
            letters[0].message_id.as_str(),
            letters[0].body.as_str(),
            letters[0].reason.as_str()
        ),
        (id.as_str(), "refused", "unknown version 9")
    );

    queue
        .bury("buried", "preflight failed")
        .await
        .expect("bury");
    let letters = queue.dead_letters(10).await.expect("dead letters");
    let bodies: Vec<_> = letters.iter().map(|l| l.body.as_str()).collect();
    assert_eq!(bodies, ["refused", "buried"], "oldest first");
    assert_eq!(
        queue.dead_letters(1).await.expect("dead letters").len(),
        1,
        "at most the limit"
    );

    queue.send("poison").await.expect("send");
    for n in 1..=harness.max_receives() {
        assert_eq!(one(&queue, SHORT).await.receive_count, n);
        harness.pass(AFTER_SHORT).await;
    }
    assert!(
        now(&queue, SHORT).await.is_empty(),
        "not handed out once more than allowed"
    );
    let letters = queue.dead_letters(10).await.expect("dead letters");
    let last = letters.last().expect("the poison");
    assert_eq!(last.body, "poison");
    assert!(!last.reason.is_empty(), "it says why");
}

async fn redrive(harness: &dyn Harness) {
    let queue = harness.queue().await;
    for body in ["one", "two", "three"] {
        queue
            .bury(body, "no such organization")
            .await
            .expect("bury");
        // Letters are told apart by the millisecond.
        harness.pass(Duration::from_millis(5)).await;
    }
    let letters = queue.dead_letters(10).await.expect("dead letters");
    let nobody = ["nobody".to_owned()];
    let back = queue.redrive(Which::Ids(&nobody)).await.expect("redrive");
    assert!(back.is_empty(), "no such letter");

    let second = [letters[1].message_id.clone()];
    let back = queue.redrive(Which::Ids(&second)).await.expect("redrive");
    assert_eq!(back, second, "it says what was put back");
    let delivery = one(&queue, LONG).await;
    assert_eq!((delivery.body.as_str(), delivery.receive_count), ("two", 1));
    let left = queue.dead_letters(10).await.expect("dead letters");
    let bodies: Vec<_> = left.iter().map(|l| l.body.as_str()).collect();
    assert_eq!(bodies, ["one", "three"], "the others are as they were");

    let mut back = queue.redrive(Which::All).await.expect("redrive");
    back.sort();
    let mut others = vec![letters[0].message_id.clone(), letters[2].message_id.clone()];
    others.sort();
    assert_eq!(back, others);
    let left = queue.dead_letters(10).await.expect("dead letters");
    assert!(left.is_empty(), "none is left: {left:?}");
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        bodies.extend(now(&queue, LONG).await.into_iter().map(|d| d.body));
    }
    bodies.sort();
    assert_eq!(bodies, ["one", "three"]);
}

async fn sizes(harness: &dyn Harness) {
    let queue = harness.queue().await;
    let largest = "x".repeat(MAX_BODY_BYTES);
    queue.send(&largest).await.expect("the largest body");
    assert_eq!(one(&queue, LONG).await.body, largest);
    for bad in [0, MAX_BODY_BYTES + 1] {
        let answer = queue.send(&"x".repeat(bad)).await;
        assert!(
            matches!(answer, Err(QueueError::BodySize(n)) if n == bad),
            "{bad} bytes"
        );
    }
}
