//! A death before and after every durable step of a channel's move.

use std::collections::BTreeMap;

use futures::StreamExt;
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::ids::{ChannelId, Hour, RecordId};
use rekeyd::job::{JobState, MoveRequest};
use rekeyd::killpoint::{MOVE_POINTS, POINTS};
use rekeyd::registry::{ChannelName, ChannelView};

use crate::holding::{Message, ask, hours, live, messages, name, request, seen};
use crate::kill_points::{ONLY, dies};
use crate::process::{Process, witness_file};
use crate::rig::{Rig, short_waits};

/// Scenarios at once: most of their time is waiting.
const AT_ONCE: usize = 6;
/// Rows that a worker seals and writes at a time.
const BATCH_ROWS: u64 = 100;

/// How workers die in a scenario.
#[derive(Debug, Clone)]
struct Scenario {
    copy: bool,
    /// `name` or `name:n` of a kill point.
    point: String,
    /// How many workers die there one after the other.
    deaths: usize,
}

/// Points that need a cell which does not open.
fn needs_damage(point: &str) -> bool {
    point.starts_with("quarantine")
}

/// Points of the stage that rewrites in place.
fn needs_rewriting(point: &str) -> bool {
    point.starts_with("cells_")
}

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |copy, point: &str, deaths| {
        all.push(Scenario {
            copy,
            point: point.to_owned(),
            deaths,
        });
    };
    // Each transition of the job is the last of some worker.
    add(true, "job_after_transition", 13);
    add(false, "job_before_transition:2", 7);
    // The steps of the copy's phase, one worker each.
    add(true, "move_before_phase:2", 3);
    add(true, "move_after_phase:2", 3);
    let is_ours = |point: &&&str| !needs_damage(point) && !point.starts_with("set_aside");
    for point in POINTS.iter().filter(is_ours) {
        if !needs_rewriting(point) {
            add(true, point, 1);
        }
    }
    for point in MOVE_POINTS {
        add(true, point, 1);
    }
    // Not the first time, but in the midst.
    for point in [
        "copy_before_write",
        "copy_after_write",
        "sweep_before_purge",
        "sweep_after_purge",
    ] {
        add(true, &format!("{point}:4"), 2);
    }
    for point in [
        "job_before_activate",
        "job_after_activate",
        "cells_before_write",
        "cells_after_write",
    ] {
        add(false, point, 1);
    }
    all
}

struct Template {
    rig: Rig,
    from: ChannelName,
    before: BTreeMap<(Hour, RecordId), Message>,
}

/// Slices of one batch and of several.
fn recipes(rig: &Rig) -> [Recipe; 2] {
    [40, 250].map(|per_slice| Recipe {
        seed: u64::from(per_slice),
        messages: per_slice * 4,
        shape: Shape::Even { per_slice },
        expiries_from_s: Some(rig.clock.wall().unix_seconds() as u32),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_every_point_of_a_move_loses_nothing() {
    let rig = Rig::with_timing(&short_waits()).await;
    for recipe in recipes(&rig) {
        rig.fill(&recipe).await;
    }
    let channel = recipes(&rig)[0].plan().next().unwrap().channel();
    let from = name(&rig, "w1", &channel);
    let view = rig.registry.view(&from.org, &from.channel).await.unwrap();
    let before = seen(&messages(&rig, &view).await);
    let template = &Template { rig, from, before };
    let only = std::env::var(ONLY).ok();
    let ended: Vec<Option<String>> = futures::stream::iter(scenarios())
        .filter(|s| std::future::ready(only.as_ref().is_none_or(|o| s.point.contains(o.as_str()))))
        .map(|scenario| async move {
            let rig = template.rig.copy().await;
            let name = format!("{scenario:?}");
            let (from, before) = (template.from.clone(), template.before.clone());
            let ended = tokio::spawn(run(rig, from, before, scenario)).await;
            eprintln!("{name}: {}", if ended.is_ok() { "ok" } else { "FAILED" });
            ended.err().map(|_| name)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let failed: Vec<String> = ended.into_iter().flatten().collect();
    assert!(failed.is_empty(), "see above: {failed:#?}");
}

async fn run(
    rig: Rig,
    from: ChannelName,
    before: BTreeMap<(Hour, RecordId), Message>,
    scenario: Scenario,
) {
    let Scenario {
        copy,
        point,
        deaths,
    } = scenario;
    let to = match copy {
        true => name(&rig, "w2", &ChannelId::new("moved").unwrap()),
        false => name(&rig, "w2", &from.channel),
    };
    let old = rig.registry.view(&from.org, &from.channel).await.unwrap();
    let asked = request(&from, &to);
    let job = ask(&rig, &asked).await;
    for n in 0..deaths {
        let mut worker = Process::start(&rig, &format!("worker-{n}"), Some(&point));
        dies(&rig, &mut worker, job, &point).await;
    }
    let found = rig.book.get(&rig.org, job).await.unwrap();
    let is_over = found.is_some_and(|found| found.row.state.is_final());
    let last = (!is_over).then(|| Process::start(&rig, "last", None));
    let row = rig.wait_state(job, JobState::Drained).await;
    if let Some(last) = last {
        last.stop().await;
    }
    check(&rig, &asked, &old, &before).await;
    assert!(row.rewriting.balances(), "I13: {:?}", row.rewriting);
    check_rework(&rig, &old, &before, deaths as u64).await;
    assert!(rig.queue.dead_letters(10).await.unwrap().is_empty());
}

async fn check(
    rig: &Rig,
    request: &MoveRequest,
    old: &ChannelView,
    before: &BTreeMap<(Hour, RecordId), Message>,
) {
    let to = request.destination();
    let now = rig.registry.view(&to.org, &to.channel).await.unwrap();
    let found = messages(rig, &now).await;
    assert!(seen(&found) == *before, "every message, as it was");
    for sealed in found.values() {
        let context = sealed.scope.context();
        assert_eq!(context["workspace"], to.workspace.as_str());
        assert_eq!(context["channel"], to.channel.as_str());
    }
    if now.channel_row.place != old.channel_row.place {
        assert_eq!(live(rig, old).await, 0, "the old place is empty");
    }
}

/// A death costs at most one batch in each slice that was in flight.
async fn check_rework(
    rig: &Rig,
    old: &ChannelView,
    before: &BTreeMap<(Hour, RecordId), Message>,
    deaths: u64,
) {
    let mut sealed: BTreeMap<String, u64> = BTreeMap::new();
    let witness = std::fs::read_to_string(witness_file(rig)).unwrap_or_default();
    for line in witness.lines() {
        let (slice, rows) = line.rsplit_once(' ').unwrap();
        *sealed.entry(slice.to_owned()).or_default() += rows.parse::<u64>().unwrap();
    }
    for hour in hours(rig, &old.org, &old.channel).await {
        let rows = before.keys().filter(|(h, _)| *h == hour).count() as u64;
        let slice = format!("{}/{hour}", old.channel);
        let again = sealed
            .get(&slice)
            .copied()
            .unwrap_or(0)
            .saturating_sub(rows);
        assert!(
            again <= deaths * BATCH_ROWS,
            "{slice}: {again} rows of {rows} sealed again, after {deaths} deaths"
        );
    }
}
