//! A job from the queue to its verdict, in both modes.

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::JobId;
use rekeyd::job::{JobMessage, JobState, Mode};
use rekeyd::store::{Applied, ControlTable, ControlWrite, Expect};

use crate::rig::Rig;

fn recipe(messages: u32) -> Recipe {
    Recipe {
        seed: 7,
        messages,
        shape: Shape::Realistic,
        expiries_from_s: Some(rekeyd_now_s()),
    }
}

fn rekeyd_now_s() -> u32 {
    use rekeyd::clock::{Clock, SystemClock};
    SystemClock.wall().unix_seconds() as u32
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reencrypt_ends_with_every_cell_under_the_new_key() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe(3_000)).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let worker = rig.worker().await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.rewriting.rewritten, rows);
    assert!(row.rewriting.balances() && row.proof.balances());
    assert_eq!(row.proof.scanned, rows);
    assert_eq!(
        rig.epochs().await.into_keys().collect::<Vec<_>>(),
        [Epoch::new(2).unwrap()]
    );
    let verdict = row.verdict.unwrap();
    assert!(
        verdict.starts_with(&format!("no live cell or key needs {}", rig.old)),
        "{verdict}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rewrap_leaves_cells_alone_and_needs_only_the_new_key() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe(1_000)).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Rewrap)).await;
    let worker = rig.worker().await;
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.rewriting.rewritten, 0);
    assert_eq!(row.rewriting.current, rows);
    assert_eq!(row.effort.keys_rewrapped, recipe(1_000).slices());
    assert_eq!(
        rig.epochs().await.into_keys().collect::<Vec<_>>(),
        [Epoch::FIRST]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_missing_on_the_list_or_unreadable_stops_nobody() {
    let rig = Rig::new().await;
    rig.fill(&Recipe {
        seed: 3,
        messages: 50,
        shape: Shape::Realistic,
        expiries_from_s: None,
    })
    .await;
    // Written by a version that this one does not understand.
    let strange = JobId::random();
    let row = ControlWrite {
        id: format!("job/{strange}"),
        expect: Expect::Absent,
        body: Some(r#"{"from":"the future"}"#.to_owned()),
    };
    let applied = rig
        .store
        .control_apply(ControlTable::Jobs, rig.org.as_str(), &[row])
        .await
        .unwrap();
    assert_eq!(applied, Applied::Yes);
    rig.book.index(&rig.org, strange).await.unwrap();

    let request = rig.request(&rig.new, Mode::Reencrypt);
    let job = request.job_id;
    rig.book
        .record(&JobMessage::Rekey(request), "hash", "test")
        .await
        .unwrap();
    rig.book.unindex(&rig.org, job).await.unwrap();
    let worker = rig.worker().await;
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    let open = rig.book.open_everywhere().await.unwrap();
    assert_eq!(
        open,
        [(rig.org.clone(), strange)],
        "ended jobs are taken off"
    );
}
