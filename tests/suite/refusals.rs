//! What may not be done is refused with a reason, among the dead letters, with
//! no call to the KMS beyond what the refusal needs and no write to data.

use std::time::Duration;

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{CmkArn, OrgId};
use rekeyd::job::{JobMessage, JobState, Mode};
use rekeyd::kms::local::NewKey;

use crate::rig::{PATIENCE, Rig};

fn few() -> Recipe {
    Recipe {
        seed: 3,
        messages: 60,
        shape: Shape::Even { per_slice: 20 },
        expiries_from_s: None,
    }
}

async fn dead_letter(rig: &Rig, reason: &str) {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let letters = rig.queue.dead_letters(100).await.unwrap();
            if let Some(letter) = letters.into_iter().find(|l| l.reason.starts_with(reason)) {
                return letter;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    if found.is_err() {
        let all = rig.queue.dead_letters(100).await.unwrap();
        panic!("no dead letter says {reason}; there are {all:#?}");
    }
}

/// I15, I12: authority comes from the registry, not from the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i15_a_message_without_authority_makes_no_kms_call_and_writes_nothing() {
    let rig = Rig::new().await;
    rig.fill(&few()).await;
    let unlisted = rig
        .ring
        .create_key(&rekeyd::wiring::unlock(&rig.config), &NewKey::default());
    let unlisted = unlisted.unwrap();
    let calls_before = rig.ring.log_tail(usize::MAX).unwrap().len();
    let before = rig.epochs().await;

    let good = JobMessage::Rekey(rig.request(&rig.new, Mode::Reencrypt)).to_json();
    let with = |key: &str, value: serde_json::Value| {
        let mut message: serde_json::Value = serde_json::from_str(&good).unwrap();
        message[key] = value;
        message.to_string()
    };
    let mut stranger = rig.request(&rig.new, Mode::Reencrypt);
    stranger.org = OrgId::new("nobody").unwrap();
    let foreign = CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/not-ours").unwrap();
    let cases = [
        ("{\"v\":1".to_owned(), "not_json"),
        (with("v", 2.into()), "unknown_version"),
        (with("kind", "erase".into()), "unknown_kind"),
        (with("force", true.into()), "bad_field"),
        (JobMessage::Rekey(stranger).to_json(), "unknown_org"),
        (
            JobMessage::Rekey(rig.request(&unlisted, Mode::Reencrypt)).to_json(),
            "cmk_not_allowed",
        ),
        (
            JobMessage::Rekey(rig.request(&foreign, Mode::Reencrypt)).to_json(),
            "cmk_not_allowed",
        ),
    ];
    let worker = rig.worker().await;
    for (body, reason) in &cases {
        rig.queue.send(body).await.unwrap();
        dead_letter(&rig, reason).await;
    }
    worker.stop().await;
    assert_eq!(
        rig.ring.log_tail(usize::MAX).unwrap().len(),
        calls_before,
        "no KMS call"
    );
    assert_eq!(rig.epochs().await, before);
    assert!(
        rig.book.orgs().await.unwrap().is_empty(),
        "no job was recorded"
    );
    assert_eq!(
        rig.registry.org(&rig.org).await.unwrap().last_epoch,
        Epoch::FIRST
    );
}

/// A message that is too large never gets into the embedded queue.
#[tokio::test]
async fn a_message_that_is_too_large_is_refused_at_once() {
    let rig = Rig::new().await;
    let error = rig
        .queue
        .send(&"x".repeat(70_000))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("65,536"), "{error}");
}

/// A disabled target costs one DescribeKey and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_target_is_refused_before_anything_changes() {
    let rig = Rig::new().await;
    rig.fill(&few()).await;
    rig.ring.disable(&rig.new).unwrap();
    let calls_before = rig.ring.log_tail(usize::MAX).unwrap().len();
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let row = rig.wait_state(job, JobState::Failed).await;
    dead_letter(&rig, "target_not_enabled").await;
    worker.stop().await;
    assert!(row.why.contains("Disabled"), "{}", row.why);
    let calls = rig.ring.log_tail(usize::MAX).unwrap();
    let made: Vec<&str> = calls[calls_before..]
        .iter()
        .map(|call| call.operation.as_str())
        .collect();
    assert_eq!(made, ["DescribeKey"]);
    assert_eq!(
        rig.registry.org(&rig.org).await.unwrap().last_epoch,
        Epoch::FIRST
    );
    assert_eq!(
        rig.epochs().await.into_keys().collect::<Vec<_>>(),
        [Epoch::FIRST]
    );
}

/// A CMK left by a finished rekey is no target any more: a replayed message
/// cannot send anything back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i15_a_finished_source_is_no_target_until_an_operator_says_so() {
    let rig = Rig::new().await;
    rig.fill(&few()).await;
    let worker = rig.worker().await;
    let there = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait_state(there, JobState::Drained).await;
    rig.enqueue(rig.request(&rig.old, Mode::Reencrypt)).await;
    dead_letter(&rig, "cmk_source_only").await;
    // An ordinary job with a newer epoch, once an operator has said so.
    rig.allow(&rig.old).await;
    let back = rig.enqueue(rig.request(&rig.old, Mode::Reencrypt)).await;
    let row = rig.wait_state(back, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.activated.unwrap().epoch, Epoch::new(3).unwrap());
    assert_eq!(
        rig.epochs().await.into_keys().collect::<Vec<_>>(),
        [Epoch::new(3).unwrap()]
    );
}
