//! A job that is paused stands still, whatever workers there are, and goes on
//! where it was.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::ids::{ChannelId, JobId, OrgId, WorkspaceId};
use rekeyd::job::{
    BookError, JobMessage, JobRow, JobState, Mode, MoveFrom, MoveRequest, MoveTo, Pass,
    RekeyRequest,
};
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::registry::CopyPhase;
use rekeyd::scope::Scope;
use rekeyd::store::{CellWrite, Partition, StoreResult};
use tokio::sync::Semaphore;

use crate::rig::{PATIENCE, Rig};
use crate::watched::{Event, StepIn, Watched};

const PER_SLICE: u32 = 20;

fn recipe() -> Recipe {
    Recipe {
        seed: 21,
        messages: 1_200,
        shape: Shape::Even {
            per_slice: PER_SLICE,
        },
        expiries_from_s: None,
    }
}

/// Lets so many batches through to the store, and then none until it is opened.
struct Gate {
    room: Arc<Semaphore>,
    closed: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl StepIn for Gate {
    async fn before_write(&self, _: &Partition, _: &[CellWrite]) -> StoreResult<()> {
        match self.room.try_acquire() {
            Ok(room) => room.forget(),
            Err(_) => {
                self.closed.add_permits(1);
                self.room.acquire().await.unwrap().forget();
            }
        }
        Ok(())
    }
}

async fn step(rig: &Rig, job: JobId, to: JobState, why: &str) -> JobRow {
    loop {
        let mut row = rig.book.find(job).await.unwrap().unwrap();
        match rig.book.transition(&mut row, to, "an operator", why).await {
            Ok(_) => return row.row,
            Err(BookError::Overtaken(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Rows that were sent to the store so far.
fn sent(watched: &Watched<Gate>) -> u64 {
    let events = watched.events();
    let sent = events.iter().map(|event| match event {
        Event::WriteSent { writes, .. } => writes.len() as u64,
        _ => 0,
    });
    sent.sum()
}

/// Waits until nobody holds a task of the job's round.
async fn let_go(rig: &Rig, job: &JobRow) {
    let round = job.round.unwrap().number;
    let id = job.request.job_id();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let tasks = rig.book.tasks(id, round).await.unwrap();
            if tasks.iter().all(|task| task.row.lease.is_none()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("the tasks of a paused job are let go");
}

/// A job of another organization, from its begin to its end: the workers are at
/// work, and so had every chance to go on with the paused one.
pub async fn work_elsewhere(rig: &Rig, org: &str) {
    let other = OrgId::new(org).unwrap();
    let scope = Scope::Canary { org: other.clone() };
    let why = Use::new(ReasonCode::Enrol, "test");
    for (cmk, is_first) in [(&rig.old, true), (&rig.new, false)] {
        let made = rig.kms.generate_data_key(cmk, &scope, &why).await.unwrap();
        let canary = made.wrapped.bytes;
        if is_first {
            rig.registry.add_org(&other, cmk, &canary, "test").await
        } else {
            rig.registry.allow_cmk(&other, cmk, &canary, "test").await
        }
        .unwrap();
    }
    let request = RekeyRequest {
        org: other.clone(),
        ..rig.request(&rig.new, Mode::Reencrypt)
    };
    let job = rig.enqueue(request).await;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let row = rig.book.get(&other, job).await.unwrap();
            if row.is_some_and(|row| row.row.state == JobState::Drained) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("a job of another organization ends");
}

/// Pauses a job in the midst of a pass that writes, sees that it stands still,
/// and lets it go on. Gives its end and the rows that were sent to the store.
async fn pause_in_the_midst(rig: &Rig, message: JobMessage, pass: Pass) -> (JobRow, u64) {
    let job = message.job_id();
    let gate = Gate {
        room: Arc::new(Semaphore::new(5)),
        closed: Arc::new(Semaphore::new(0)),
    };
    let (room, closed) = (gate.room.clone(), gate.closed.clone());
    let watched = Watched::around(rig.store.clone(), gate);
    let worker = rig.worker_on(watched.clone()).await;
    rig.queue.send(&message.to_json()).await.unwrap();
    let full = tokio::time::timeout(PATIENCE, closed.acquire()).await;
    full.expect("the job writes").unwrap().forget();

    let paused = step(rig, job, JobState::Paused, "by test: enough for today").await;
    assert_eq!(paused.paused_from, Some(JobState::Rewriting));
    assert_eq!(paused.round.unwrap().pass, pass);
    assert!(paused.lease.is_none());
    // What is in flight is finished.
    room.add_permits(Semaphore::MAX_PERMITS / 2);
    let_go(rig, &paused).await;
    let stood = rig.book.find(job).await.unwrap().unwrap();
    let tasks = async || {
        let tasks = rig.book.tasks(job, paused.round.unwrap().number).await;
        let tasks = tasks.unwrap().into_iter();
        tasks.map(|task| (task.rev, task.row)).collect::<Vec<_>>()
    };
    let (rows, tasks_stood) = (sent(&watched), tasks().await);
    let checkpointed: u64 = tasks_stood.iter().map(|(_, t)| t.counts.scanned).sum();
    assert!(checkpointed > 0, "what was in flight is in a checkpoint");

    work_elsewhere(rig, "other").await;
    let still = rig.book.find(job).await.unwrap().unwrap();
    assert_eq!((still.rev, &still.row), (stood.rev, &stood.row));
    assert_eq!(sent(&watched), rows, "a paused job writes nothing");
    assert_eq!(tasks().await, tasks_stood, "nobody claims its tasks");

    let resumed = step(rig, job, JobState::Rewriting, "by test: on").await;
    assert_eq!(resumed.paused_from, None);
    assert_eq!(resumed.round, paused.round, "the round stays");
    let done = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let history = rig.book.history(&rig.org, job).await.unwrap();
    let ways: Vec<_> = history.iter().map(|step| (step.from, step.to)).collect();
    let there_and_back = [
        (JobState::Rewriting, JobState::Paused),
        (JobState::Paused, JobState::Rewriting),
    ];
    assert!(
        ways.windows(2).any(|pair| pair == there_and_back),
        "{ways:?}"
    );
    (done, sent(&watched))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_rekey_stands_still_and_goes_on_where_it_was() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let request = rig.request(&rig.new, Mode::Reencrypt);
    let message = JobMessage::Rekey(request);
    let (done, sent) = pause_in_the_midst(&rig, message, Pass::Rewrite).await;
    assert_eq!(done.rewriting.scanned, rows);
    assert!(done.rewriting.balances());
    // A slice of this store is less than a batch. What was in flight when it was
    // paused is finished and checkpointed, and not done again.
    assert_eq!(done.rewriting.rewritten, rows);
    assert!(
        sent <= rows + u64::from(PER_SLICE),
        "{sent} rows were sent for {rows}"
    );
    assert_eq!(rig.epochs().await.values().sum::<u64>(), rows);
    assert_eq!(rig.epochs().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_copy_keeps_its_phase_and_goes_on_where_it_was() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let from = recipe().plan().next().unwrap().channel();
    let slices = recipe().plan().filter(|s| s.channel() == from).count() as u64;
    let rows = slices * u64::from(PER_SLICE);
    let request = MoveRequest {
        job_id: JobId::random(),
        org: rig.org.clone(),
        from: MoveFrom {
            workspace: rig.workspace.clone(),
            channel: from.clone(),
        },
        to: MoveTo {
            org: None,
            workspace: WorkspaceId::new("w2").unwrap(),
            channel: ChannelId::new("there").unwrap(),
        },
        requested_by: "test".to_owned(),
        reason: "a test".to_owned(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
    };
    let message = JobMessage::Move(request.clone());
    let phase = rig.registry.copy_phase(&request).await.unwrap();
    assert_eq!(phase, None);
    let (done, sent) = pause_in_the_midst(&rig, message, Pass::Copy).await;
    let copy = done.copy.unwrap();
    assert_eq!((copy.phase, copy.left_behind), (CopyPhase::Closed, 0));
    assert!(done.rewriting.balances());
    assert_eq!(done.rewriting.rewritten, rows);
    assert!(
        sent <= rows + u64::from(PER_SLICE),
        "{sent} rows were sent for {rows}"
    );
}

/// A wait for writers to follow is made anew; a job that has not begun can be
/// paused, and cancelled from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_paused_while_it_waits_too() {
    let rig = Rig::new().await;
    rig.fill(&recipe()).await;
    let request = rig.request(&rig.new, Mode::Reencrypt);
    let job = rig.enqueue(request).await;
    let worker = rig.worker().await;
    rig.wait_state(job, JobState::Settling).await;
    step(&rig, job, JobState::Paused, "by test: wait").await;
    work_elsewhere(&rig, "other").await;
    let still = rig.book.find(job).await.unwrap().unwrap().row;
    assert_eq!(still.state, JobState::Paused);
    assert!(still.lease.is_none());
    // It goes back to where it was, and nowhere else.
    let mut row = rig.book.find(job).await.unwrap().unwrap();
    let elsewhere = rig
        .book
        .transition(&mut row, JobState::Rewriting, "an operator", "x");
    assert!(matches!(elsewhere.await, Err(BookError::NoSuchWay { .. })));
    let resumed = step(&rig, job, JobState::Settling, "by test: on").await;
    let rewriting = rig.wait(job, "rewriting", |row| row.rounds > 0).await;
    let settle = rig.registry.timing().await.unwrap().settle_ms();
    let history = rig.book.history(&rig.org, job).await.unwrap();
    let begun = history
        .iter()
        .find(|step| step.to == JobState::Rewriting)
        .unwrap();
    assert!(begun.at_ms >= resumed.since_ms + settle, "{rewriting:?}");
    worker.stop().await;

    let mut later = rig.request(&rig.old, Mode::Reencrypt);
    later.not_before = Some("2100-01-01T00:00:00Z".parse().unwrap());
    let message = JobMessage::Rekey(later);
    let hash = message.body_sha256();
    rig.book.record(&message, &hash, "a test").await.unwrap();
    let queued = step(&rig, message.job_id(), JobState::Paused, "by test: no").await;
    assert_eq!(queued.paused_from, Some(JobState::Queued));
    let gone = step(&rig, message.job_id(), JobState::Cancelled, "never").await;
    assert_eq!((gone.state, gone.paused_from), (JobState::Cancelled, None));
}
