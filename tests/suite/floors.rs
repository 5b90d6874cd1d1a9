//! What a finished job leaves behind cannot be put back, but through the window
//! for a backup.

use std::collections::BTreeMap;

use rekeyd::client::{ReasonCode, Use};
use rekeyd::clock::WriteTime;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, Hour, RecordId};
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::local::NewKey;
use rekeyd::registry::RestoreWindow;
use rekeyd::store::CellWrite;
use rekeyd::verify::Scan;
use rekeyd::wiring;

use crate::holding::{ask, cells, hours, name, request};
use crate::rig::{Rig, short_waits};

fn epoch(n: u32) -> Epoch {
    Epoch::new(n).unwrap()
}

/// A store with few messages, of one channel.
async fn filled() -> (Rig, ChannelId) {
    let rig = Rig::with_timing(&short_waits()).await;
    let recipe = Recipe {
        seed: 23,
        messages: 40,
        shape: Shape::Even { per_slice: 20 },
        expiries_from_s: None,
    };
    rig.fill(&recipe).await;
    let channel = recipe.plan().next().unwrap().channel();
    (rig, channel)
}

async fn rekeyed(rig: &Rig, request: rekeyd::job::RekeyRequest) {
    let worker = rig.worker().await;
    let job = rig.enqueue(request).await;
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
}

/// What a fresh client says of a message: its length, or the code of its error.
async fn read(
    rig: &Rig,
    channel: &ChannelId,
    (hour, record): &(Hour, RecordId),
) -> Result<usize, &'static str> {
    let why = Use::new(ReasonCode::MessageRead, "test");
    let client = rig.client().await;
    let org = client.organization(&rig.org);
    match org
        .channel(&rig.workspace, channel)
        .read(*hour, record, &why)
        .await
    {
        Ok(message) => Ok(message.expect("it is there").text().len()),
        Err(error) => Err(error.code()),
    }
}

/// Cells that a scan would have readers refuse, were the window closed.
async fn refused(rig: &Rig) -> BTreeMap<String, u64> {
    let (store, clock, org) = (rig.store.clone(), rig.clock.clone(), rig.org.clone());
    let scan = Scan::new(store, clock, None, org, None).await.unwrap();
    let found = scan.as_after_the_window().run(|_| {}).await.unwrap();
    let quarantined = found.quarantined.into_iter();
    quarantined
        .map(|(code, wrong)| (code.to_string(), wrong.cells))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_cell_that_is_put_back_is_refused_but_in_the_window_for_a_backup() {
    let (rig, channel) = filled().await;
    let view = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!(
        (view.floor(), view.wrap_floor()),
        (Epoch::ZERO, Epoch::ZERO)
    );
    let hour = hours(&rig, &rig.org, &channel).await[0];
    let old = cells(&rig, &view.partition(hour)).await.remove(0);
    rekeyed(&rig, rig.request(&rig.new, Mode::Reencrypt)).await;
    let now = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!((now.floor(), now.wrap_floor()), (epoch(2), epoch(2)));

    // As a backup does: the bytes of then, written now.
    let at = (hour, old.record.clone());
    assert!(read(&rig, &channel, &at).await.is_ok());
    let put_back = CellWrite {
        record: old.record,
        cell: old.cell.into(),
        write_time: WriteTime(rig.clock.wall().0),
        ttl_s: 0,
    };
    rig.store
        .write_cells(&now.partition(hour), &[put_back])
        .await
        .unwrap();
    assert_eq!(read(&rig, &channel, &at).await, Err("epoch_below_floor"));

    let window = RestoreWindow {
        floor: Epoch::ZERO,
        opened_by: "test".to_owned(),
        opened_ms: 1,
        reason: "a backup".to_owned(),
    };
    rig.registry
        .open_restore_window(&rig.org, &window)
        .await
        .unwrap();
    let twice = rig.registry.open_restore_window(&rig.org, &window).await;
    assert!(twice.is_err(), "it is open already");
    assert!(read(&rig, &channel, &at).await.is_ok());
    let one = BTreeMap::from([("epoch_below_floor".to_owned(), 1)]);
    assert_eq!(refused(&rig).await, one);

    // The next rekey makes it current, and raises the floors meanwhile.
    let unlock = wiring::unlock(&rig.config);
    let third = rig.ring.create_key(&unlock, &NewKey::default()).unwrap();
    rig.allow(&third).await;
    rekeyed(&rig, rig.request(&third, Mode::Reencrypt)).await;
    assert_eq!(refused(&rig).await, BTreeMap::new());
    let open = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!(
        (open.floor(), open.org_row.cell_floor),
        (Epoch::ZERO, epoch(3))
    );
    rig.registry.close_restore_window(&rig.org).await.unwrap();
    assert!(rig.registry.close_restore_window(&rig.org).await.is_err());
    let closed = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!((closed.floor(), closed.wrap_floor()), (epoch(3), epoch(3)));
    assert!(read(&rig, &channel, &at).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrap_raises_the_floor_of_wraps_alone() {
    let (rig, channel) = filled().await;
    rekeyed(&rig, rig.request(&rig.new, Mode::Rewrap)).await;
    let view = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!((view.floor(), view.wrap_floor()), (Epoch::ZERO, epoch(2)));
    assert_eq!(refused(&rig).await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_raises_the_floor_of_the_channel_it_led_to() {
    let (rig, channel) = filled().await;
    let worker = rig.worker().await;
    let from = name(&rig, "w1", &channel);
    let in_place = name(&rig, "w2", &channel);
    let copied = name(&rig, "w3", &ChannelId::new("elsewhere").unwrap());
    for (n, from, to) in [(2, from, &in_place), (3, in_place.clone(), &copied)] {
        let job = ask(&rig, &request(&from, to)).await;
        rig.wait_state(job, JobState::Drained).await;
        let view = rig.registry.view(&rig.org, &to.channel).await.unwrap();
        assert_eq!(view.channel_row.floor, epoch(n), "{to}");
        assert_eq!(view.org_row.cell_floor, Epoch::ZERO);
    }
    worker.stop().await;
    let left = rig.registry.view(&rig.org, &channel).await.unwrap();
    assert_eq!(
        left.channel_row.floor,
        epoch(2),
        "the source stays as it was"
    );
    assert_eq!(refused(&rig).await, BTreeMap::new());
}
