//! Deaths at any instant, and zombies: workers that are frozen beyond their
//! leases and go on where they were, while others have done their work.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rekeyd::job::{JobState, Mode};
use rustix::process::Signal;

use crate::backend::KILLS_BY_DEFAULT;
use crate::process::Process;
use crate::rig::{PATIENCE, short_waits};
use crate::site::{Site, Template};

/// Environment: how many workers are killed at random. A long run has hundreds.
pub const KILLS: &str = "REKEYD_TEST_KILLS";
/// Environment: runs one seed again.
pub const SEED: &str = "REKEYD_TEST_SEED";

const WORKERS: usize = 3;

pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_and_zombies_at_any_instant_lose_nothing() {
    let seed = number(SEED).unwrap_or_else(|| rand::rng().next_u64());
    let kills = number(KILLS).unwrap_or(KILLS_BY_DEFAULT);
    // Shown by the test runner if the test fails.
    println!("{SEED}={seed} {KILLS}={kills}");
    let mut random = StdRng::seed_from_u64(seed);
    let template = Template::new().await;
    let mut left = kills;
    let mut mode = Mode::Reencrypt;
    while left > 0 {
        let deaths = left.min(3);
        let site = Site::new(&template, false).await;
        storm(site, mode, deaths, &mut random).await;
        left -= deaths;
        mode = match mode {
            Mode::Reencrypt => Mode::Rewrap,
            Mode::Rewrap => Mode::Reencrypt,
        };
    }
}

/// One job under so many deaths, and one worker that is a zombie meanwhile.
async fn storm(site: Site, mode: Mode, deaths: u64, random: &mut StdRng) {
    let rig = &site.rig;
    let traffic = site.traffic(random.next_u64()).await;
    let mut started = 0;
    let mut start = |workers: &mut Vec<Process>| {
        started += 1;
        workers.push(Process::start(rig, &format!("worker-{started}"), None));
    };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        start(&mut workers);
    }
    let job = rig.enqueue(rig.request(&rig.new, mode)).await;
    let lease = short_waits().lease();
    for n in 0..deaths {
        if n == 1 {
            let zombie = &workers[random.random_range(0..workers.len())];
            zombie.signal(Signal::STOP);
            tokio::time::sleep(lease + between(random, 50, 400)).await;
            zombie.signal(Signal::CONT);
        }
        // The instants lie over the job's whole length, whatever that is here.
        tokio::time::sleep(between(random, 20, 1_500)).await;
        let victim = workers.remove(random.random_range(0..workers.len()));
        victim.kill().await;
        start(&mut workers);
    }
    let row = rig.wait_state(job, JobState::Drained).await;
    for worker in workers {
        worker.stop().await;
    }
    // A zombie's sealed pages are work done in vain as well.
    site.check(traffic, &row, deaths + 1).await;
}

pub fn between(random: &mut StdRng, from_ms: u64, to_ms: u64) -> Duration {
    let span = Duration::from_millis(random.random_range(from_ms..to_ms));
    debug_assert!(span < PATIENCE);
    span
}
