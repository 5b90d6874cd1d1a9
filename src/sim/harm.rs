//! What is done to the processes of a history: deaths, freezes, outages,
//! revocations, clocks, full disks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::history::{CHANNELS, CLIENTS, channel};
use super::kms::Denial;
use super::process::Fate;
use super::replicas::REPLICAS;
use super::running::{Running, lock};
use super::world::World;

/// A client stalls in the midst of a write while a copy begins, for more than a
/// phase or two: what it then writes goes by a route that is long over.
pub(super) fn stall_a_write(world: &Arc<World>, running: &Arc<Running>) {
    let (dice, running) = (&world.dice, running.clone());
    let (n, span) = (dice.below(CLIENTS), dice.span(70_000.0, 220_000.0));
    world.time.after(dice.span(1_000.0, 45_000.0), move || {
        lock(&running.clients)[n].doom_a_write(Fate::Freezes(span));
    });
}

/// Does harm for a while: deaths, freezes, outages, revocations.
pub(super) async fn spoil(world: Arc<World>, running: Arc<Running>) {
    let dice = &world.dice;
    let until = world.time.now() + dice.span(60_000.0, 1_200_000.0);
    while world.time.now() < until {
        world.time.sleep(dice.span(500.0, 30_000.0)).await;
        let worker = {
            let workers = lock(&running.workers);
            workers[dice.below(workers.len())].clone()
        };
        let client = lock(&running.clients)[dice.below(CLIENTS)].clone();
        let gates = dice.below(if dice.chance(0.5) { 8 } else { 200 }) as u32;
        let mut what = dice.below(100);
        if running.copies.load(Ordering::Relaxed) && dice.chance(0.6) {
            what = 55;
        }
        if running.quiet.load(Ordering::Relaxed) && (55..78).contains(&what) {
            continue;
        }
        match what {
            0..35 => {
                world.say(&format!("{} will die after {gates} calls", worker.0.name));
                worker.0.doom(gates, Fate::Dies);
            }
            35..55 => {
                let span = dice.span(5_000.0, 120_000.0);
                world.say(&format!("{} will freeze for {span:?}", worker.0.name));
                if dice.chance(0.3) {
                    worker.0.doom_a_write(Fate::Freezes(span));
                } else {
                    worker.0.doom(gates, Fate::Freezes(span));
                }
                lock(&running.tally).freezes += 1;
            }
            55..62 => {
                let span = dice.span(10_000.0, 120_000.0);
                world.say(&format!("{} will freeze for {span:?}", client.name));
                if dice.chance(0.7) {
                    client.doom_a_write(Fate::Freezes(span));
                } else {
                    client.doom(gates % 8, Fate::Freezes(span));
                }
                lock(&running.tally).freezes += 1;
            }
            62..66 => {
                world.say(&format!("{} will die", client.name));
                client.doom(gates % 8, Fate::Dies);
            }
            66..78 => {
                let replica = dice.below(REPLICAS);
                if world.replicas.down().is_empty() {
                    let span = dice.span(5_000.0, 100_000.0);
                    world.say(&format!("replica {replica} is down for {span:?}"));
                    world.replicas.set_down(replica, true);
                    let back = world.replicas.clone();
                    world
                        .time
                        .after(span, move || back.set_down(replica, false));
                }
            }
            78..86 => {
                let n = dice.below(CHANNELS);
                let span = dice.span(5_000.0, 150_000.0);
                world.say(&format!("channel c{n} is revoked for {span:?}"));
                for cmk in 0..5 {
                    world.keys.deny(Denial {
                        cmk: World::cmk(cmk),
                        key: "channel".to_owned(),
                        value: channel(n).as_str().to_owned(),
                    });
                }
                let keys = world.keys.clone();
                world.time.after(span, move || keys.allow_all());
            }
            86..90 => {
                let cmk = World::cmk(dice.below(2));
                let span = dice.span(5_000.0, 60_000.0);
                world.say(&format!("a CMK is disabled for {span:?}"));
                world.keys.disable(&cmk);
                let keys = world.keys.clone();
                world.time.after(span, move || keys.allow_all());
            }
            90..95 => {
                let off_ms = dice.below(800) as i64 - 400;
                world.say(&format!(
                    "the clock of {} is off by {off_ms} ms",
                    worker.0.name
                ));
                worker.0.set_clock(off_ms);
            }
            _ => {
                world.say(&format!("the disk of {} is full", worker.0.name));
                worker.1.fill_up();
            }
        }
    }
}
