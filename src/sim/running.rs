//! The processes of a history that come and go: workers, and applications with
//! people at them. One that has died is followed by another.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Tally;
use super::history::{CHANNELS, channel};
use super::process::{Process, ProcessClock};
use super::world::{Disk, World};
use crate::clock::SharedClock;
use crate::demo::traffic::{Plan, Report, Target, Traffic};
use crate::ids::Hour;

/// The processes that may be hit, by what they are.
#[derive(Default)]
pub(super) struct Running {
    pub(super) workers: Mutex<Vec<(Arc<Process>, Arc<Disk>)>>,
    pub(super) clients: Mutex<Vec<Arc<Process>>>,
    pub(super) reports: Mutex<Vec<Report>>,
    pub(super) tally: Mutex<Tally>,
    // No write can come late in this history.
    pub(super) quiet: AtomicBool,
    // This history is about copies and about clients that stall.
    pub(super) copies: AtomicBool,
    pub(super) over: CancellationToken,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn fresh_worker(world: &World, name: &str) -> (Arc<Process>, Arc<Disk>) {
    (Process::new(&world.time, name), Arc::default())
}

/// Runs a worker, and another one when it has died.
pub(super) async fn keep_worker(world: Arc<World>, running: Arc<Running>, n: usize) {
    for life in 1.. {
        let (process, disk) = lock(&running.workers)[n].clone();
        let worker = world.worker(&process, disk);
        let (_ask, stop) = watch::channel(false);
        let mut works = tokio::spawn(worker.run(stop));
        tokio::select! {
            biased;
            () = process.died() => {
                world.say(&format!("{} is dead", process.name));
                lock(&running.tally).deaths += 1;
                works.abort();
                let _ = works.await;
            }
            ended = &mut works => {
                process.die();
                if let Ok(Err(error)) = ended {
                    world.say(&format!("{} ends: {error}", process.name));
                }
            }
            () = running.over.cancelled() => return works.abort(),
        }
        world.time.sleep(world.dice.span(100.0, 30_000.0)).await;
        lock(&running.workers)[n] = fresh_worker(&world, &format!("worker-{n}.{life}"));
    }
}

/// Runs an application's process, and another one when it has died.
pub(super) async fn keep_client(
    world: Arc<World>,
    running: Arc<Running>,
    n: usize,
    hours: Vec<Hour>,
) {
    for life in 1.. {
        let process = lock(&running.clients)[n].clone();
        // The clocks of two machines differ, by less than the bound.
        process.set_clock(world.dice.below(800) as i64 - 400);
        let clock: SharedClock = Arc::new(ProcessClock(process.clone()));
        let targets = (0..CHANNELS).map(|n| Target {
            org: world.org.clone(),
            workspace: world.workspace.clone(),
            channel: channel(n),
            hours: hours.clone(),
        });
        let plan = Plan {
            text_bytes: 5..=20,
            vanish_after_s: 5..=450,
            ..Plan::busy(world.dice.seed(), 0.6, targets.collect())
        };
        let begun = tokio::select! {
            biased;
            () = process.died() => None,
            client = world.client(&process) => client,
        };
        if let Some(client) = begun {
            let stop = CancellationToken::new();
            let traffic = Traffic::start(client, world.ledger.clone(), clock, plan, stop);
            let at_end = tokio::select! {
                biased;
                () = process.died() => false,
                () = running.over.cancelled() => true,
            };
            if at_end {
                let report = traffic.stop().await.unwrap_or_default();
                lock(&running.reports).push(report);
                return;
            }
            lock(&running.tally).deaths += 1;
            let violations = traffic.so_far().violations;
            if !violations.is_empty() {
                // It will have no other chance to say so.
                lock(&running.reports).push(Report {
                    violations,
                    ..Report::default()
                });
            }
        }
        world.time.sleep(world.dice.span(100.0, 10_000.0)).await;
        lock(&running.clients)[n] = Process::new(&world.time, &format!("client-{n}.{life}"));
    }
}
