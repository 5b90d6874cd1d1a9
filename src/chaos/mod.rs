//! `rekeyd chaos`: jobs on a live store while workers die, freeze and ail and the
//! KMS fails, and a judgement of every record and every guarantee at the end.
//! docs/chaos.md says what it does and what it cannot.
//!
//! | file | what |
//! |---|---|
//! | `script` | what is to happen, from the seed alone |
//! | `stage` | what it happens on, round after round |
//! | `asks` | the jobs of a round, as messages |
//! | `storm` | plays one round |
//! | `faults` | what the KMS does meanwhile |
//! | `judge` | holds what is there against the ledger and the guarantees |
//! | `figures` | what was done and what was found |
//!
//! Store, workers, traffic and ledger are those of the demo.

mod asks;
mod faults;
mod figures;
mod judge;
pub mod script;
mod stage;
mod storm;

use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

pub use figures::{Figures, Report};

use crate::clock::SystemClock;
use crate::config;
use crate::demo::run::parts::{self, Owner};
use crate::demo::run::place::Place;
use crate::demo::run::{DemoError, Parts};
use crate::registry::Timing;
use script::{Means, Script};
use stage::Stage;

/// The mark of a directory that chaos made: which run it is of.
pub const MARK: &str = "chaos.json";
/// All that the traffic did.
const LEDGER: &str = "ledger.jsonl";
/// What was found wrong, in a directory that was kept.
pub const EVIDENCE: &str = "violations.txt";

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it runs on.
    pub parts: Parts,
    /// Workers to kill.
    pub kills: usize,
    /// The seed of the script, the messages and the traffic.
    pub seed: u64,
    /// Messages that are there before.
    pub messages: u32,
    /// Operations of live traffic a second.
    pub traffic_per_s: f64,
    /// Where; a new directory among the temporary files if not given.
    pub dir: Option<PathBuf>,
    /// Leave directory and keyspace there.
    pub keep: bool,
    /// Wait for this file before the last judgement: tests spoil something then.
    pub hold: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// What was done and found.
    pub report: Report,
    /// The directory, if it was kept.
    pub kept: Option<PathBuf>,
}

/// Runs it; `say` gets a line now and then. When `stop` is cancelled, it ends the
/// workers and cleans up. Run it by `block_on` on the main thread: workers end
/// with the thread that starts them.
///
/// # Errors
/// If it could not go on: nothing is said about guarantees then. `None` for a run
/// that was stopped.
pub async fn run(
    options: &Options,
    stop: CancellationToken,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Ended>, (DemoError, Option<PathBuf>)> {
    let place = Place::make(OWNER, options.dir.as_deref(), options.keep);
    let mut place = place.map_err(|error| (error, None))?;
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        outcome = story(options, place.path(), say) => Some(outcome),
    };
    let failed = match &outcome {
        Some(Ok(report)) => !report.holds(),
        // Before its first message there is nothing to look into.
        Some(Err(_)) => place.path().join(LEDGER).exists(),
        None => false,
    };
    if failed {
        place.keep();
    }
    let foreign = matches!(&outcome, Some(Err(DemoError::Foreign { .. })));
    let kept = place.is_kept().then(|| place.path().to_owned());
    // What could not be reached to begin with is not reached now.
    let reached = !matches!(&outcome, Some(Err(_)));
    if kept.is_none()
        && !foreign
        && let Err(error) = clean_up(place.path()).await
        && reached
    {
        say(&format!(
            "what was made on the servers is left there: {error}"
        ));
    }
    match outcome {
        None => Ok(None),
        Some(Ok(report)) => Ok(Some(Ended { report, kept })),
        Some(Err(error)) => Err((error, kept)),
    }
}

/// The name that everything is signed with.
const OWNER: &str = "chaos";

fn owner() -> Owner {
    Owner {
        name: OWNER,
        embedded: waits(),
    }
}

/// Waits of the embedded store: shorter than the demo's, since most of a round is
/// waiting, but with a skew that clocks can jump in.
fn waits() -> Timing {
    let mut waits = Timing {
        status_time_ms: 400,
        request_timeout_ms: 400,
        max_skew_ms: 200,
        row_age_ms: 400,
        lease_ms: 1_400,
        margin_ms: 450,
        grace_ms: 1_400,
        drain_ms: 0,
        blocked_retry_ms: 500,
        blocked_retry_max_ms: 4_000,
    };
    waits.drain_ms = waits.settle_ms();
    waits
}

async fn story(
    options: &Options,
    dir: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Report, DemoError> {
    let begun = Instant::now();
    let means = Means {
        inside: crate::faults::BUILT_IN,
        embedded: matches!(options.parts, Parts::Embedded),
        embedded_queue: match &options.parts {
            Parts::Embedded => true,
            Parts::Cluster { sqs_endpoint, .. } => sqs_endpoint.is_none(),
        },
    };
    let script = Script::new(options.seed, options.kills, means);
    mark(options, dir, &script)?;
    if !means.inside {
        say(
            "a release build has no kill points, no faults inside of workers and no count of rework: kills are at random instants only",
        );
    }
    let mut stage = Stage::set(options, dir, say).await?;
    for (n, round) in script.rounds.iter().enumerate() {
        let jobs = storm::play(&mut stage, n, round).await?;
        judge::round(&mut stage, n, round, &jobs).await?;
        say(&format!(
            "round {} of {}: {}",
            n + 1,
            script.rounds.len(),
            stage.report.figures.in_short()
        ));
        if stage.report.figures.stuck > 0 {
            break;
        }
    }
    let mut report = judge::end(stage, options, say).await?;
    report.figures.seconds = begun.elapsed().as_secs_f64();
    if !report.holds() {
        let path = dir.join(EVIDENCE);
        let text = report.violations.join("\n") + "\n";
        std::fs::write(&path, text).map_err(|e| DemoError::io("write", &path, e))?;
    }
    Ok(report)
}

/// Writes down whose directory this is, and what is to happen in it.
fn mark(options: &Options, dir: &Path, script: &Script) -> Result<(), DemoError> {
    let path = dir.join(MARK);
    let mark = serde_json::json!({
        "made_by": "rekeyd chaos",
        "version": env!("CARGO_PKG_VERSION"),
        "seed": options.seed,
        "kills": options.kills,
        "messages": options.messages,
        "traffic_per_s": options.traffic_per_s,
        "script": script,
    });
    let text = format!("{mark:#}\n");
    std::fs::write(&path, text).map_err(|e| DemoError::io("write", &path, e))
}

/// Removes what is on the servers.
async fn clean_up(dir: &Path) -> Result<(), DemoError> {
    let file = dir.join("rekeyd.toml");
    if !file.exists() {
        return Ok(());
    }
    let config = config::load(Some(&file), [], [])?.config;
    parts::remove(&owner(), &config, &SystemClock::shared()).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_waits_keep_the_rules() {
        super::waits().check().unwrap();
    }
}
