//! Jobs that overlap, repeat, turn back or are cancelled.

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::JobId;
use rekeyd::job::{BookError, JobMessage, JobState, Mode, Recorded};
use rekeyd::kms::local::NewKey;

use crate::rig::Rig;

fn recipe() -> Recipe {
    Recipe {
        seed: 5,
        messages: 2_000,
        shape: Shape::Realistic,
        expiries_from_s: None,
    }
}

async fn only_epoch(rig: &Rig) -> u32 {
    let epochs = rig.epochs().await;
    assert_eq!(epochs.len(), 1, "{epochs:?}");
    epochs.into_keys().next().unwrap().get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_the_same_message_ten_times_is_one_job() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let request = rig.request(&rig.new, Mode::Reencrypt);
    for _ in 0..10 {
        rig.enqueue(request.clone()).await;
    }
    let worker = rig.worker().await;
    rig.wait_state(request.job_id, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(rig.book.jobs(&rig.org).await.unwrap().len(), 1);
    assert_eq!(
        rig.registry.org(&rig.org).await.unwrap().last_epoch,
        Epoch::new(2).unwrap()
    );
    assert!(rig.queue.dead_letters(10).await.unwrap().is_empty());
    // The same id with another body is no duplicate.
    let mut other = request;
    other.requested_by = "somebody else".to_owned();
    rig.queue
        .send(&JobMessage::Rekey(other).to_json())
        .await
        .unwrap();
    let worker = rig.worker().await;
    while rig.queue.dead_letters(10).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    worker.stop().await;
    let letters = rig.queue.dead_letters(10).await.unwrap();
    assert!(
        letters[0].reason.starts_with("job_id_taken"),
        "{}",
        letters[0].reason
    );
}

/// I3: a second job while one runs takes the next epoch; both come to their end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i03_two_jobs_at_once_both_end_and_the_newest_epoch_stands() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let third = rig
        .ring
        .create_key(&rekeyd::wiring::unlock(&rig.config), &NewKey::default());
    let third = third.unwrap();
    rig.allow(&third).await;
    let worker = rig.worker().await;
    let first = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait(first, "the first job's activation", |row| {
        row.activated.is_some()
    })
    .await;
    let second = rig.enqueue(rig.request(&third, Mode::Reencrypt)).await;
    let one = rig.wait_state(first, JobState::Drained).await;
    let two = rig.wait_state(second, JobState::Drained).await;
    worker.stop().await;
    assert!(one.activated.unwrap().epoch < two.activated.unwrap().epoch);
    assert_eq!(only_epoch(&rig).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_back_to_the_old_key_makes_the_first_verdict_lapse() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let worker = rig.worker().await;
    let there = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait(there, "activation", |row| row.activated.is_some())
        .await;
    let back = rig.enqueue(rig.request(&rig.old, Mode::Reencrypt)).await;
    let first = rig.wait_state(there, JobState::Drained).await;
    let second = rig.wait_state(back, JobState::Drained).await;
    worker.stop().await;
    let verdict = first.verdict.unwrap();
    assert!(verdict.contains("must not be disabled"), "{verdict}");
    let verdict = second.verdict.unwrap();
    assert!(
        verdict.contains(rig.new.as_str()) && verdict.contains("may be disabled"),
        "{verdict}"
    );
    assert_eq!(only_epoch(&rig).await, 3);
}

/// The old key is not active at the end, but it was meanwhile: what was written
/// then is newer than the first job, whose scans say nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_active_in_between_makes_the_first_verdict_lapse() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let third = rig
        .ring
        .create_key(&rekeyd::wiring::unlock(&rig.config), &NewKey::default());
    let third = third.unwrap();
    rig.allow(&third).await;
    let worker = rig.worker().await;
    let mut jobs = Vec::new();
    for to in [&rig.new, &rig.old, &third] {
        let job = rig.enqueue(rig.request(to, Mode::Reencrypt)).await;
        rig.wait(job, "activation", |row| row.activated.is_some())
            .await;
        jobs.push(job);
    }
    let mut verdicts = Vec::new();
    for job in jobs {
        let row = rig.wait_state(job, JobState::Drained).await;
        verdicts.push(row.verdict.unwrap());
    }
    worker.stop().await;
    assert!(
        verdicts[0].contains("must not be disabled"),
        "{}",
        verdicts[0]
    );
    for (verdict, old) in verdicts[1..].iter().zip([&rig.new, &rig.old]) {
        let good = format!("no live cell or key needs {old}");
        assert!(verdict.starts_with(&good), "{verdict}");
    }
    assert_eq!(only_epoch(&rig).await, 4);
}

/// Tasks are filed by job id: two organizations must not share one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_id_is_taken_for_one_organization() {
    let rig = Rig::new().await;
    let request = rig.request(&rig.new, Mode::Reencrypt);
    let mut other = request.clone();
    other.org = rekeyd::ids::OrgId::new("other").unwrap();
    for (request, expected) in [
        (&request, Recorded::New),
        (&other, Recorded::Taken),
        (&request, Recorded::Before),
    ] {
        let recorded = rig
            .book
            .record(&JobMessage::Rekey(request.clone()), "hash", "a test")
            .await
            .unwrap();
        assert_eq!(recorded, expected, "{}", request.org);
    }
    let of_other = rig.book.get(&other.org, other.job_id).await.unwrap();
    assert!(of_other.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_leaves_a_readable_store_and_a_later_job_finishes_it() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let worker = rig.worker().await;
    let first = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait_state(first, JobState::Settling).await;
    cancel(&rig, first).await;
    assert_eq!(rig.epochs().await.values().sum::<u64>(), rows);
    // New writes go under the new key already; a job from there to a third
    // finishes what the first began.
    let third = rig
        .ring
        .create_key(&rekeyd::wiring::unlock(&rig.config), &NewKey::default());
    let third = third.unwrap();
    rig.allow(&third).await;
    let later = rig.enqueue(rig.request(&third, Mode::Reencrypt)).await;
    let row = rig.wait_state(later, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.proof.scanned, rows);
    assert_eq!(only_epoch(&rig).await, 3);
    // The first job never came to say so of its own old key.
    let verdict = row.verdict.clone().unwrap();
    let also = format!("The same holds for {}", rig.old);
    assert!(
        verdict.contains(rig.new.as_str()) && verdict.contains(&also),
        "{verdict}"
    );
    assert_eq!(row.freed, std::slice::from_ref(&rig.old));
    let list = rig.registry.allow_list(&rig.org).await.unwrap();
    assert!(!list.may_target(&rig.old) && !list.may_target(&rig.new));
    let cancelled = rig.book.get(&rig.org, first).await.unwrap().unwrap().row;
    assert_eq!(cancelled.state, JobState::Cancelled);
}

/// A CMK that was left and that an operator has entered anew since stays a target
/// whatever job ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cmk_that_is_entered_anew_stays_a_target() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let worker = rig.worker().await;
    let first = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait_state(first, JobState::Settling).await;
    cancel(&rig, first).await;
    rig.allow(&rig.old).await;
    let unlock = rekeyd::wiring::unlock(&rig.config);
    let third = rig.ring.create_key(&unlock, &NewKey::default()).unwrap();
    rig.allow(&third).await;
    let later = rig.enqueue(rig.request(&third, Mode::Reencrypt)).await;
    let row = rig.wait_state(later, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.freed, []);
    assert!(!row.verdict.unwrap().contains(rig.old.as_str()));
    let list = rig.registry.allow_list(&rig.org).await.unwrap();
    assert!(list.may_target(&rig.old) && !list.may_target(&rig.new));
}

async fn cancel(rig: &Rig, job: JobId) {
    loop {
        let mut row = rig.book.get(&rig.org, job).await.unwrap().unwrap();
        match rig
            .book
            .transition(&mut row, JobState::Cancelled, "test", "a test")
            .await
        {
            Ok(_) => return,
            Err(BookError::Overtaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
