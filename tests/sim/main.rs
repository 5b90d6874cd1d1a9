//! Simulated histories with fresh seeds. A seed that fails plays again exactly:
//! `REKEYD_TEST_SEED=<seed> cargo test --test sim`, or with its log
//! `cargo run --example simulate -- --histories 1 --seed <seed> --log`.

#![cfg(debug_assertions)]

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rekeyd::sim::{self, Outcome};

/// Environment: how many histories are played.
const HISTORIES: &str = "REKEYD_TEST_HISTORIES";
/// Environment: plays one seed again.
const SEED: &str = "REKEYD_TEST_SEED";
const BY_DEFAULT: u64 = 200;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn every_promise_is_kept_in_fresh_histories() {
    let given = number(SEED);
    let first = given.unwrap_or_else(|| rand::random::<u64>() >> 1);
    let count = match given {
        Some(_) => 1,
        None => number(HISTORIES).unwrap_or(BY_DEFAULT),
    };
    // By hand, which the test runner does not capture: a run that passes says which
    // seeds it had as well.
    let seeds = format!("simulation: seeds {first} to {}\n", first + (count - 1));
    std::io::stderr().write_all(seeds.as_bytes()).unwrap();
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let n = next.fetch_add(1, Ordering::Relaxed)
                    && n < count
                {
                    let outcome = sim::play(first + n);
                    if !outcome.wrong.is_empty() {
                        failed.lock().unwrap().push(outcome);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let told: Vec<String> = failed.iter().map(tell).collect();
    assert!(failed.is_empty(), "{}", told.join("\n\n"));
}

fn tell(outcome: &Outcome) -> String {
    let (wrong, log) = (&outcome.wrong, outcome.log.join("\n"));
    format!("seed {}: {wrong:#?}\n{log}", outcome.seed)
}

/// On another thread, with another seed before it: nothing but the seed counts.
#[test]
fn a_seed_is_one_history() {
    let seeds = [rand::random::<u64>() >> 1, rand::random::<u64>() >> 1];
    let there = std::thread::spawn(move || seeds.map(sim::play));
    let here = [seeds[1], seeds[0]].map(sim::play);
    let there = there.join().unwrap();
    for (a, b) in [(&here[1], &there[0]), (&here[0], &there[1])] {
        assert_eq!(a.seed, b.seed);
        assert_eq!(a.log, b.log, "seed {}", a.seed);
        assert_eq!((a.trace, a.events), (b.trace, b.events), "seed {}", a.seed);
    }
    assert_ne!(here[0].trace, here[1].trace);
}

/// A history in which nothing happens would keep every promise.
#[test]
fn histories_are_eventful() {
    let mut sum = sim::Tally::default();
    for seed in 0..10 {
        let tally = sim::play(seed).tally;
        assert!(
            tally.jobs > 0 && tally.operations > 100,
            "{seed}: {tally:?}"
        );
        sum.deaths += tally.deaths;
        sum.freezes += tally.freezes;
    }
    assert!(sum.deaths > 20 && sum.freezes > 20, "{sum:?}");
}
