//! A rekey while the network between the worker and each server fails: cut,
//! slow, half open, reset in the middle of an answer.

use std::process::Stdio;
use std::time::Duration;

use rekeyd::job::{JobState, Lease, Mode};

use crate::process::Process;
use crate::rig::patiently;
use crate::services::{self, Mode as Network, Proxy};
use crate::site::{Site, Template};

/// How long each fault lasts.
const LASTS: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rekey_outlives_every_fault_of_the_network() {
    let template = Template::new().await;
    let site = Site::new(&template, false).await;
    let rig = &site.rig;
    let store = Proxy::start(services::cassandra().node());
    let sqs = Proxy::start(services::sqs().endpoint().trim_start_matches("http://"));
    let kms = Proxy::start(rig.backend.kms_address());
    let traffic = site.traffic(5).await;
    let job = rig.enqueue(rig.request(&rig.new, Mode::Reencrypt)).await;
    rig.backend.redirect(
        &store.addr().to_string(),
        &sqs.addr().to_string(),
        &kms.addr().to_string(),
    );

    // Slow from the beginning, so that the job is under way for long enough.
    kms.set(Network::Delay(Duration::from_millis(20)));
    let worker = Process::start(rig, "worker-0", None);
    rig.wait(job, "tasks", |row| {
        row.state == JobState::Rewriting && row.round.is_some_and(|r| r.tasks.is_some())
    })
    .await;

    // What the worker waits for stands in the rows that it holds.
    kms.set(Network::Cut);
    says(&site, job, "waits for the KMS").await;
    kms.set(Network::HalfOpen);
    tokio::time::sleep(LASTS).await;
    kms.set(Network::ResetAfter(300));
    tokio::time::sleep(LASTS).await;
    kms.set(Network::Delay(Duration::from_millis(20)));

    sqs.set(Network::Cut);
    intake_says(&site, job, "waits for the queue").await;
    // The job goes on without it.
    let said = status(&site, job).await;
    assert!(!said.contains("waits for the queue"), "{said}");
    sqs.set(Network::HalfOpen);
    tokio::time::sleep(LASTS).await;
    sqs.set(Network::ResetAfter(100));
    tokio::time::sleep(LASTS).await;
    sqs.set(Network::Pass);

    for fault in [
        Network::ResetAfter(2_000),
        Network::Delay(Duration::from_millis(100)),
        Network::HalfOpen,
        Network::Cut,
    ] {
        store.set(fault);
        tokio::time::sleep(LASTS).await;
        if fault == Network::Cut {
            // Nobody can read what the worker waits for; whoever asks is told
            // that it is the store.
            let said = status(&site, job).await;
            assert!(said.contains("store"), "{said}");
        }
        store.set(Network::Pass);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    kms.set(Network::Pass);
    assert!(store.resets() > 0 && kms.resets() > 0 && sqs.resets() > 0);

    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    // Each fault may cost the batches that were in flight, as a death does.
    site.check(traffic, &row, 12).await;
}

/// Waits until a lease says what its holder waits for, and `status` shows it.
async fn says(site: &Site, job: rekeyd::ids::JobId, what: &str) {
    let found = tokio::time::timeout(crate::rig::PATIENCE, async {
        while !waits(site, job, |lease| lease.waits).await.contains(what) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Between two looks a task may be given back or taken up, and then waits
        // for nothing for a moment.
        while !status(site, job).await.contains(what) {}
    });
    let found = found.await.is_ok();
    assert!(
        found,
        "{what}: the leases say `{}`, and the status: {}",
        waits(site, job, |lease| lease.waits).await,
        status(site, job).await
    );
}

/// Waits until a lease says what the taking in of jobs waits for.
async fn intake_says(site: &Site, job: rekeyd::ids::JobId, what: &str) {
    let found = tokio::time::timeout(crate::rig::PATIENCE, async {
        while !waits(site, job, |lease| lease.intake_waits)
            .await
            .contains(what)
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert!(found.await.is_ok(), "{what}: no lease says so");
}

/// What the leases of a job say, all together.
async fn waits(
    site: &Site,
    job: rekeyd::ids::JobId,
    of: impl Fn(Lease) -> Option<String>,
) -> String {
    let rig = &site.rig;
    let Some(row) = rig.seen(job).await else {
        return String::new();
    };
    let mut all: Vec<String> = row.lease.into_iter().filter_map(&of).collect();
    if let Some(round) = row.round {
        let tasks = patiently(|| rig.book.tasks(job, round.number)).await;
        let leases = tasks.into_iter().filter_map(|task| task.row.lease);
        all.extend(leases.filter_map(&of));
    }
    all.join("\n")
}

/// What `rekeyd status` says, by the same network as the worker.
async fn status(site: &Site, job: rekeyd::ids::JobId) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command.arg("status").arg(job.to_string());
    site.rig.backend.tell(&mut command);
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
