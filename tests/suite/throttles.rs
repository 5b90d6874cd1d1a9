//! An operator's throttle takes effect, outlives the worker that kept it, and
//! ends by itself.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::job::{JobState, Mode, ThrottleLimits, ThrottleTarget};
use rekeyd::store::{ControlTable, ControlWrite, Expect};

use crate::pauses::work_elsewhere;
use crate::rig::{PATIENCE, Rig};
use crate::watched::{Event, Nothing, Watched};

const PER_SLICE: u64 = 20;

fn recipe() -> Recipe {
    Recipe {
        seed: 22,
        messages: 400,
        shape: Shape::Even {
            per_slice: PER_SLICE as u32,
        },
        expiries_from_s: None,
    }
}

/// So slow that the second page is due hours after the first: what is counted
/// does not depend on how fast the machine is.
const CREEP: ThrottleLimits = ThrottleLimits {
    rows_per_s: Some(0.001),
    kms_per_s: None,
    tasks: None,
};

async fn throttle(rig: &Rig, limits: ThrottleLimits, span: Duration) {
    let target = ThrottleTarget::Org(rig.org.clone());
    let until = rig.clock.wall().plus(span);
    let set = rig
        .book
        .set_throttle(target, limits, until, "ops", "a test");
    set.await.unwrap();
}

/// Rows that were sent to the store so far.
fn sent(watched: &Watched<Nothing>) -> u64 {
    let events = watched.events();
    let sent = events.iter().map(|event| match event {
        Event::WriteSent { writes, .. } => writes.len() as u64,
        _ => 0,
    });
    sent.sum()
}

async fn until_sent(watched: &Arc<Watched<Nothing>>, rows: u64) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while sent(watched) < rows {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("rows are sent to the store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_job_creeps_whatever_worker_comes_and_goes_on_when_it_ends() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    throttle(&rig, CREEP, Duration::from_secs(3600)).await;
    let watched = Watched::around(rig.store.clone(), Nothing);
    let worker = rig.worker_on(watched.clone()).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    until_sent(&watched, PER_SLICE).await;
    // The workers have had every chance to go on with it.
    work_elsewhere(&rig, "other").await;
    assert_eq!(sent(&watched), PER_SLICE, "one page, and no more");
    let seen = rig.seen(job).await.unwrap();
    assert_eq!(seen.state, JobState::Rewriting);
    // A worker that is held back stops when it is asked to.
    worker.stop().await;

    // Another one reads the throttle before it begins anything. It does not know
    // what the first one has read, so it has a page of its own.
    let worker = rig.worker_on(watched.clone()).await;
    until_sent(&watched, 2 * PER_SLICE).await;
    work_elsewhere(&rig, "third").await;
    assert_eq!(sent(&watched), 2 * PER_SLICE);
    assert_eq!(rig.seen(job).await.unwrap().state, JobState::Rewriting);

    // It ends by itself.
    throttle(&rig, CREEP, Duration::from_millis(300)).await;
    let done = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert!(done.rewriting.balances());
    assert_eq!(done.rewriting.scanned, rows, "what was done stays done");
    assert_eq!(rig.epochs().await.len(), 1);
    let events = rig.book.throttle_events().await.unwrap();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|e| e.who == "ops" && e.set.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_begun_under_a_throttle_that_cannot_be_read() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let write = |expect, body: Option<&str>| ControlWrite {
        id: "set/org/acme".to_owned(),
        expect,
        body: body.map(str::to_owned),
    };
    let newer = r#"{"target":"org/acme","limits":{"bytes_per_s":5}}"#;
    let writes = [write(Expect::Absent, Some(newer))];
    let apply = rig
        .store
        .control_apply(ControlTable::Jobs, "~throttles", &writes);
    let _ = apply.await.unwrap();
    let watched = Watched::around(rig.store.clone(), Nothing);
    let worker = rig.worker_on(watched.clone()).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    work_elsewhere(&rig, "other").await;
    let row = rig.seen(job).await.unwrap();
    assert_eq!(row.rewriting.scanned, 0);
    assert_eq!(sent(&watched), 0, "nothing was begun");

    // Cleared by an operator, whatever it said.
    let target = ThrottleTarget::Org(rig.org.clone());
    let cleared = rig.book.clear_throttle(target, "ops", "a test").await;
    assert!(cleared.unwrap());
    let done = rig.wait_state(job, JobState::Drained).await;
    assert_eq!(done.rewriting.rewritten, rows);
    worker.stop().await;
}

/// Answers every question with a status, which can be changed.
async fn endpoint(status: tokio::sync::watch::Receiver<u16>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let answer = format!("HTTP/1.1 {} X\r\n\r\n", *status.borrow());
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/room")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_without_room_holds_the_worker_which_says_so() {
    let (say, status) = tokio::sync::watch::channel(503);
    let mut rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    rig.config.worker.health_url = Some(endpoint(status).await);
    rig.config.worker.health_poll_ms = 50;
    rig.config.worker.health_grace_ms = 0;
    let watched = Watched::around(rig.store.clone(), Nothing);
    let worker = rig.worker_on(watched.clone()).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let says = "waits for the service to have room";
    let waits = |row: &rekeyd::job::JobRow| {
        let lease = row.lease.as_ref();
        lease.and_then(|lease| lease.waits.clone())
    };
    rig.wait(job, says, |row| {
        waits(row).is_some_and(|words| words.contains(says) && words.contains("answers 503"))
    })
    .await;
    assert_eq!(sent(&watched), 0);
    say.send_replace(200);
    let done = rig.wait_state(job, JobState::Drained).await;
    assert_eq!(done.rewriting.rewritten, rows);
    worker.stop().await;
}
