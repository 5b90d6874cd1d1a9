//! A death before and after every durable step.

use std::time::Duration;

use futures::StreamExt;
use rekeyd::job::{JobState, Mode};
use rekeyd::killpoint::POINTS;

use crate::backend::KILL_POINTS_ONE_IN;
use crate::process::Process;
use crate::rig::{PATIENCE, Rig, patiently, short_waits};
use crate::site::{Site, Template};

/// Scenarios at once: most of their time is waiting.
const AT_ONCE: usize = 6;

/// Environment: runs only the scenarios whose point contains this.
pub const ONLY: &str = "RECOVERY_ONLY";
/// Environment: dies at every point, also where a few are enough by default.
const ALL: &str = "RECOVERY_ALL";

/// How a worker dies in a scenario.
#[derive(Debug, Clone)]
struct Scenario {
    mode: Mode,
    /// `name` or `name:n` of a kill point.
    point: String,
    /// How many workers die there one after the other.
    deaths: usize,
}

/// Points that only re-encryption comes to.
fn needs_reencrypt(point: &str) -> bool {
    // Of a key that a cell names a rewrap has its new wrap already.
    point.starts_with("cells_") || point == "set_aside_after_keys"
}

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |mode, point: &str, deaths| {
        all.push(Scenario {
            mode,
            point: point.to_owned(),
            deaths,
        });
    };
    for mode in [Mode::Reencrypt, Mode::Rewrap] {
        // Each transition of a job is the last of some worker.
        add(mode, "job_before_transition:2", 7);
        add(mode, "job_after_transition", 8);
        for point in POINTS {
            if mode == Mode::Reencrypt || !needs_reencrypt(point) {
                add(mode, point, 1);
            }
        }
        // Not the first time, but in the midst: the second and third round, a
        // task that has checkpoints, a slice with others in flight.
        for point in ["plan_before_commit:2", "plan_after_commit:3"] {
            add(mode, point, 1);
        }
        for point in ["task_after_claim:3", "task_before_done:3"] {
            add(mode, point, 1);
        }
        for point in ["key_after_insert:40", "checkpoint_before:3"] {
            add(mode, point, 1);
        }
    }
    add(Mode::Reencrypt, "cells_before_write:60", 1);
    if std::env::var_os(ALL).is_none() && std::env::var_os(ONLY).is_none() {
        // Others each time, so that all are met in time.
        let first = rand::random_range(0..KILL_POINTS_ONE_IN);
        all = all
            .into_iter()
            .skip(first)
            .step_by(KILL_POINTS_ONE_IN)
            .collect();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_every_point_loses_nothing() {
    let template = &Template::new().await;
    let only = std::env::var(ONLY).ok();
    let ended: Vec<Option<String>> = futures::stream::iter(scenarios())
        .filter(|s| std::future::ready(only.as_ref().is_none_or(|o| s.point.contains(o.as_str()))))
        .map(|scenario| async move {
            let damaged = scenario.point.starts_with("quarantine");
            let site = Site::new(template, damaged).await;
            let name = format!("{scenario:?}");
            let ended = tokio::spawn(run(site, scenario)).await;
            eprintln!("{name}: {}", if ended.is_ok() { "ok" } else { "FAILED" });
            ended.err().map(|_| name)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed: Vec<String> = ended.into_iter().flatten().collect();
    assert!(failed.is_empty(), "see above: {failed:#?}");
}

async fn run(site: Site, scenario: Scenario) {
    let Scenario {
        mode,
        point,
        deaths,
    } = scenario;
    let damaged = point.starts_with("quarantine");
    let traffic = site.traffic(point.len() as u64).await;
    traffic.reached(20).await;
    let rig = &site.rig;
    let job = rig.enqueue(rig.request(&rig.new, mode)).await;
    let limit = short_waits().lease() + Duration::from_secs(10);
    let mut dead: Option<String> = None;
    for n in 0..deaths {
        let name = format!("worker-{n}");
        let mut worker = Process::start(rig, &name, Some(&point));
        if let Some(dead) = &dead {
            let took = site.taken_over(job, dead).await;
            assert!(took <= limit, "{mode:?} {point}: taken over after {took:?}");
        }
        dies(rig, &mut worker, job, &point).await;
        dead = Some(name);
    }
    let is_over = rig.seen(job).await.is_some_and(|row| row.state.is_final());
    let last = (!is_over).then(|| Process::start(rig, "last", None));
    let took = site.taken_over(job, &dead.unwrap()).await;
    assert!(took <= limit, "{mode:?} {point}: taken over after {took:?}");
    let end = if damaged {
        JobState::Blocked
    } else {
        JobState::Drained
    };
    let row = rig.wait_state(job, end).await;
    if damaged {
        let verdict = row.verdict.as_deref().unwrap();
        assert!(
            verdict.ends_with("must not be disabled: 0 slices blocked, 1 cell quarantined"),
            "{verdict}"
        );
    }
    let jobs = patiently(|| rig.book.jobs(&rig.org)).await;
    assert_eq!(jobs.len(), 1);
    if let Some(last) = last {
        last.stop().await;
    }
    site.check(traffic, &row, deaths as u64).await;
    assert!(rig.queue.dead_letters(10).await.unwrap().is_empty());
}

/// Waits until a worker has killed itself. If the job comes to its end first,
/// the point was never reached.
pub async fn dies(rig: &Rig, worker: &mut Process, job: rekeyd::ids::JobId, point: &str) {
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            tokio::select! {
                ended = worker.ended() => return Some(ended),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            if rig.seen(job).await.is_some_and(|row| row.state.is_final()) {
                // It may be on its way to a point after the end.
                let last = Duration::from_secs(2);
                return tokio::time::timeout(last, worker.ended()).await.ok();
            }
        }
    })
    .await
    .ok()
    .flatten();
    match ended {
        Some(status) if Process::was_killed(status) => {}
        Some(status) => panic!("{point}: ended with {status}\n{}", worker.last_words()),
        None => panic!("{point} was never reached\n{}", worker.last_words()),
    }
}
