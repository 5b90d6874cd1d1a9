//! Every planted bug is found by the simulation, within a budget of histories:
//! `cargo test --features planted-bugs --test planted`.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rekeyd::planted::{Bug, plant};
use rekeyd::sim;

/// Histories in which a bug must show itself. Without a bug none of them breaks
/// a promise: tests/sim plays fresh ones all the time.
const BUDGET: u64 = 4_000;

/// The first history, in the order of seeds tried, that shows the bug, and what
/// is wrong in it.
fn found(bug: Bug, first: u64) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _planted = plant(bug);
                while let n = next.fetch_add(1, Ordering::Relaxed)
                    && n < BUDGET
                {
                    if found.lock().unwrap().is_some() {
                        return;
                    }
                    let outcome = sim::play(first + n);
                    if let Some(wrong) = outcome.wrong.first() {
                        found
                            .lock()
                            .unwrap()
                            .get_or_insert((n + 1, format!("seed {}: {wrong}", outcome.seed)));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// By hand, which the test runner does not capture: CI shows what was found.
fn say(what: &str) {
    std::io::stderr()
        .write_all(format!("{what}\n").as_bytes())
        .unwrap();
}

#[test]
fn the_simulation_finds_every_planted_bug() {
    let first = rand::random::<u64>() >> 1;
    say(&format!("planted bugs: seeds from {first}"));
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match found(*bug, first) {
            Some((histories, wrong)) => {
                let wrong: String = wrong.chars().take(160).collect();
                say(&format!(
                    "{:<28} after {histories:>4} histories: {wrong}",
                    bug.name()
                ));
            }
            None => missed.push(bug.name()),
        }
    }
    assert!(Bug::ALL.len() >= 8);
    assert!(
        missed.is_empty(),
        "not found in {BUDGET} histories: {missed:?}"
    );
}
