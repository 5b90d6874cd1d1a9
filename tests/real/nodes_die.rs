//! A rekey on three nodes with three copies of each row, under live traffic at
//! quorum, while one node is killed and comes back, and then another.

use std::time::Duration;

use rekeyd::job::{JobState, Mode};

use crate::backend::{Backend, Place, short_waits};
use crate::process::Process;
use crate::rig::Rig;
use crate::services::Cluster;
use crate::site::{Site, Template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_die_one_after_the_other_lose_nothing() {
    let mut cluster = Cluster::start(3).await;
    let place = Place {
        nodes: cluster.nodes(),
        copies: 3,
    };
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::at(place, dir.path(), &short_waits()).await;
    let template = Template::on(Rig::on(dir, backend).await).await;
    let site = Site::new(&template, false).await;
    let rig = &site.rig;
    let traffic = site.traffic(3).await;
    traffic.reached(20).await;

    let workers = ["worker-0", "worker-1"].map(|name| Process::start(rig, name, None));
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.wait(job, "the first rewritten rows", |row| {
        row.state == JobState::Rewriting && row.round.is_some_and(|r| r.tasks.is_some())
    })
    .await;
    cluster.kill(1);
    // Long enough for requests that were under way to end, and for new ones to
    // be answered by the other two.
    let before = traffic.counts().done.values().sum::<u64>();
    traffic.reached(before + 60).await;
    cluster.restart(1);
    cluster.all_up().await;

    cluster.kill(2);
    let row = rig.wait_state(job, JobState::Verified).await;
    assert!(row.proof.balances(), "proven at quorum: {:?}", row.proof);
    // The drain reads every replica, and hints wait for the dead one: the job
    // says so, and does not go on.
    let waits = |row: &rekeyd::job::JobRow| {
        let lease = row.lease.as_ref();
        lease
            .and_then(|lease| lease.waits.clone())
            .unwrap_or_default()
    };
    let row = rig
        .wait(job, "the word of the missing replica", |row| {
            waits(row).contains("waits for all replicas: 127.0.0.3")
        })
        .await;
    assert_eq!(row.state, JobState::Verified);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let row = rig.seen(job).await.expect("it is recorded");
    assert_eq!(row.state, JobState::Verified, "it waits: {}", waits(&row));

    cluster.restart(2);
    cluster.all_up().await;
    let row = rig.wait_state(job, JobState::Drained).await;
    for worker in workers {
        worker.stop().await;
    }
    // Nobody died but nodes; a batch that a dead node did not answer may have
    // been sealed again.
    site.check(traffic, &row, 2).await;
}
