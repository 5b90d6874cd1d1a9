//! What cannot be rewritten is parked or left as it is, and never hidden.

use rekeyd::clock::WriteTime;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::local::{DenyRule, Permission};
use rekeyd::store::{CellWrite, Consistency, PageLimit};

use crate::rig::Rig;

fn recipe() -> Recipe {
    Recipe {
        seed: 9,
        messages: 400,
        shape: Shape::Even { per_slice: 20 },
        expiries_from_s: None,
    }
}

/// Under every CMK, or the rekey would lift it.
fn deny(pairs: &[(&str, &str)]) -> DenyRule {
    DenyRule {
        id: "revoked".to_owned(),
        cmks: Vec::new(),
        permissions: vec![Permission::Decrypt],
        context: pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        callers: Vec::new(),
        reason: "the customer said so".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_scope_parks_while_the_rest_goes_on_and_ends_by_itself() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let slice = recipe().plan().next().unwrap();
    let hour = slice.hour().to_string();
    rig.ring
        .add_deny(deny(&[
            ("channel", slice.channel().as_str()),
            ("hour", &hour),
        ]))
        .unwrap();
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let row = rig.wait_state(job, JobState::Blocked).await;
    assert_eq!(row.blocked_slices, 1);
    assert!(row.why.contains("revoked"), "{}", row.why);
    let verdict = row.verdict.unwrap();
    assert!(
        verdict.ends_with("must not be disabled: 1 slice blocked, 0 cells quarantined"),
        "{verdict}"
    );
    let epochs = rig.epochs().await;
    assert_eq!(epochs[&Epoch::FIRST], 20);
    assert_eq!(epochs[&Epoch::new(2).unwrap()], rows - 20);
    rig.ring.remove_deny("revoked").unwrap();
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert!(row.rewriting.balances());
    assert_eq!(row.rewriting.scanned, rows);
    assert_eq!(row.rewriting.rewritten, rows);
    assert_eq!(row.rewriting.blocked, 0);
    assert_eq!(
        rig.epochs().await.into_keys().collect::<Vec<_>>(),
        [Epoch::new(2).unwrap()]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_source_parks_everything_with_few_calls_and_ends_by_itself() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait_state(job, JobState::Settling).await;
    rig.ring.disable(&rig.old).unwrap();
    let row = rig.wait_state(job, JobState::Blocked).await;
    assert!(row.why.contains("cmk_disabled"), "{}", row.why);
    assert_eq!(row.blocked_slices, 20);
    rig.ring.enable(&rig.old).unwrap();
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.rewriting.rewritten, rows);
}

/// I13: a damaged cell is left as it is, listed, and the verdict says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_a_damaged_cell_is_left_listed_and_in_the_verdict() {
    let rig = Rig::new().await;
    let rows = rig.fill(&recipe()).await;
    let slice = recipe().plan().next().unwrap();
    let view = rig.registry.view(&rig.org, &slice.channel()).await.unwrap();
    let partition = view.partition(slice.hour());
    let limit = PageLimit {
        rows: 1,
        bytes: 1 << 20,
    };
    let page = rig
        .store
        .read_page(&partition, None, limit, Consistency::Quorum)
        .await
        .unwrap();
    let victim = page.cells.into_iter().next().unwrap();
    let mut damaged = victim.cell.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let write = CellWrite {
        record: victim.record.clone(),
        cell: damaged.clone().into(),
        write_time: WriteTime(victim.write_time.0 + 1),
        ttl_s: 0,
    };
    rig.store.write_cells(&partition, &[write]).await.unwrap();

    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    let row = rig.wait_state(job, JobState::Blocked).await;
    worker.stop().await;
    let verdict = row.verdict.clone().unwrap();
    assert!(
        verdict.ends_with("must not be disabled: 0 slices blocked, 1 cell quarantined"),
        "{verdict}"
    );
    let listed = rig.book.quarantined(&row).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].record, victim.record);
    let now = rig
        .store
        .read_cell(&partition, &victim.record)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(now.cell, damaged, "left as it was");
    let epochs = rig.epochs().await;
    assert_eq!(epochs[&Epoch::new(2).unwrap()], rows - 1);
}
