//! Deterministic simulation: the worker, the client library and what they are
//! made of, on a store of three replicas, a queue, a KMS and clocks that a seed
//! decides about, in one thread.
//!
//! The code under test is the product's own, from the queue's consumer to the
//! pipeline and from a channel's handle to the key cache. Simulated are only the
//! traits behind it. What is not simulated, other tests run for real: processes,
//! disks, servers, drivers and threads.
//!
//! | file | what |
//! |---|---|
//! | `time` | virtual time, and the loop that makes things happen |
//! | `chance` | the dice of a history |
//! | `weather` | what goes wrong, and how often |
//! | `process` | what can be killed, frozen and woken; its clocks |
//! | `replicas` | the servers of the store |
//! | `store` | the store, as a process sees it |
//! | `kms` | the KMS |
//! | `queue` | the queue |
//! | `world` | all of it together, and processes on it |
//! | `running` | workers and applications, each followed by another when it dies |
//! | `harm` | what is done to them |
//! | `history` | one history from the first message to the last |
//! | `judge` | what must be true at its end |
//!
//! It is left out of release builds: it can foretell nonces.

mod chance;
mod harm;
mod history;
mod judge;
mod kms;
mod process;
mod queue;
mod replicas;
mod running;
mod store;
#[cfg(test)]
mod tests;
mod time;
mod weather;
mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::replay;

/// How much happened in a history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs that were asked for.
    pub jobs: u64,
    /// Processes that died.
    pub deaths: u64,
    /// Processes that were frozen.
    pub freezes: u64,
    /// Reads, writes, edits and deletes that succeeded.
    pub operations: u64,
}

/// What a history came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed that plays it again.
    pub seed: u64,
    /// What is wrong, in words. Empty: every promise was kept.
    pub wrong: Vec<String>,
    /// What happened, a line for each thing that was done to it.
    pub log: Vec<String>,
    /// How much happened.
    pub tally: Tally,
    /// How long it lasted, in its own time.
    pub lasted: Duration,
    /// Things that happened one after the other.
    pub events: u64,
    /// A hash of them: equal for equal histories.
    pub trace: u64,
}

/// Plays the history of a seed, on this thread.
///
/// # Panics
/// If a thread for computing, which is not used, cannot be made.
pub fn play(seed: u64) -> Outcome {
    let _replaying = replay::from_seed(seed);
    let compute = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let compute = Arc::new(compute.expect("a thread"));
    let outcome = time::run(|time| history::play(time, seed, compute));
    outcome.unwrap_or_else(|| Outcome {
        seed,
        wrong: vec!["everything waits for what does not happen".to_owned()],
        log: Vec::new(),
        tally: Tally::default(),
        lasted: Duration::ZERO,
        events: 0,
        trace: 0,
    })
}
