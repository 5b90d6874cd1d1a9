//! A job from the queue to its verdict, in both modes.

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::job::{JobState, Mode};

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
