//! `rekeyd demo`: a rekey of a live store, with real worker processes, one of
//! which is killed. docs/demo.md tells what there is to see.
//!
//! | file | what |
//! |---|---|
//! | `place` | the directory it all happens in |
//! | `scene` | key ring, store, organization, and the application's client |
//! | `fill` | the messages that are there before |
//! | `workers` | the worker processes |
//! | `follow` | watches the job, and kills a worker half way |
//! | `read` | reads everything as the application would, and judges it by the ledger |
//! | `report` | the figures at the end |
//! | `show` | what goes to the terminal |

mod fill;
mod follow;
mod place;
mod read;
mod report;
mod scene;
mod show;
mod workers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use workers::end_with;

use crate::audit;
use crate::client::{Client, ClientError, ErrorKind};
use crate::demo::generate::{Recipe, Shape};
use crate::demo::ledger::Ledger;
use crate::demo::traffic::{self, Target, Traffic};
use crate::ids::{Hour, InvalidId, JobId};
use crate::import::ImportError;
use crate::job::{BookError, JobMessage, JobRow, JobState, Mode, RekeyRequest};
use crate::kms::local::RingError;
use crate::kms::{KmsError, ReasonCode, Use};
use crate::scope::Scope;
use crate::store::StoreError;
use crate::verify::{Found, Scan};
use fill::Filled;
use follow::Followed;
use place::Place;
use read::Reader;
use report::{Report, by_code, traffic_between};
use scene::{APP, Part, Scene, WORKER};
use show::{Show, count, number};
use workers::Workers;

/// Channels that new messages of the live traffic go to.
const TRAFFIC_CHANNELS: usize = 8;
/// Hours of each that get new messages: old ones, so that writers and workers
/// meet in a slice.
const TRAFFIC_HOURS: usize = 12;

/// What the demo is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Messages to generate.
    pub messages: u32,
    /// A Slack export to take instead.
    pub slack_export: Option<PathBuf>,
    /// Where; a new temporary directory if not given.
    pub dir: Option<PathBuf>,
    /// Leave the directory there.
    pub keep: bool,
    /// Another seed gives other messages and other traffic.
    pub seed: u64,
    /// Operations of live traffic a second; 0 for none.
    pub traffic_per_s: f64,
    /// Worker processes at the start.
    pub workers: usize,
    /// Kill one when so many percent of the slices are rewritten.
    pub kill_at_percent: u8,
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A part could not be put together.
    #[error(transparent)]
    Wiring(#[from] crate::wiring::WiringError),
    /// The demo's own configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The key ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] crate::queue::QueueError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// The jobs.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The KMS.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] audit::AuditError),
    /// The client's keys.
    #[error("the client's key service cannot be made: {0}")]
    Client(ErrorKind),
    /// The client.
    #[error(transparent)]
    ClientCall(#[from] ClientError),
    /// The messages could not be written.
    #[error(transparent)]
    Load(#[from] crate::import::load::LoadError),
    /// The scan could not go on.
    #[error(transparent)]
    Scan(#[from] crate::pipeline::TaskError),
    /// The Slack export.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// There was nothing in it.
    #[error("there is no message in {0}; the demo needs some")]
    NoMessages(String),
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// A file or a process.
    #[error("cannot {what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The directory is somebody's.
    #[error("{0} has something in it; the demo needs a directory of its own")]
    NotEmpty(PathBuf),
    /// A worker ended by itself.
    #[error("{name} ended with {status}; its log is {log}")]
    WorkerEnded {
        /// Which.
        name: String,
        /// How.
        status: ExitStatus,
        /// Where it says why.
        log: PathBuf,
    },
    /// Nothing moves.
    #[error("nothing moved for a minute; the job is {0}")]
    Stuck(&'static str),
    /// The job did not end well.
    #[error("the job is {state}: {why}")]
    JobEnded {
        /// Where it is.
        state: &'static str,
        /// Why, in words.
        why: String,
    },
    /// A task of the demo itself.
    #[error("a task of the demo ended early: {0}")]
    Task(String),
    /// The checks ran, and not all passed.
    #[error("not every check passed; see above")]
    ChecksFailed,
}

impl DemoError {
    fn io(what: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            error,
        }
    }
}

/// Runs the demo, and tells it on standard output. Dropping the future ends the
/// workers and removes the directory. Run it by `block_on` on the main thread:
/// workers end with the thread that starts them.
///
/// # Errors
/// If it could not go on or a check failed; the directory is kept then.
pub async fn run(options: &Options) -> Result<(), DemoError> {
    let mut show = Show::new();
    let mut place = Place::make(options.dir.as_deref(), options.keep)?;
    let outcome = story(options, &place, &mut show).await;
    if outcome.is_err() {
        place.keep();
    }
    if place.is_kept() {
        let dir = place.path().display();
        show.plain(&format!("The directory is kept: {dir}"));
        show.plain(&format!(
            "Look into it, for example: rekeyd --config {dir}/rekeyd.toml jobs --all"
        ));
    }
    outcome
}

async fn story(options: &Options, place: &Place, show: &mut Show) -> Result<(), DemoError> {
    let mut report = Report::default();
    let scene = set_up(place, show).await?;
    let ledger = Arc::new(Ledger::new());

    let begun = Instant::now();
    let filled = fill(options, &scene, &ledger, show).await?;
    report.took("fill", begun.elapsed());
    report.figure(
        "messages before the rekey",
        filled.rows,
        format!("in {}", slices_of(&filled)),
    );

    let app = scene.part(APP)?;
    let client = scene.client(&app).await?;
    let traffic = start_traffic(options, &scene, &client, &ledger, &filled, show).await?;
    let before = traffic.counts();

    let witness = cfg!(debug_assertions).then(|| place.path().join("sealed"));
    let mut workers = Workers::new(place.path(), &scene.config_file, witness.clone())?;
    let job = enqueue(&scene, options, &mut workers, show).await?;
    let followed = follow::follow(&scene, job, &mut workers, options.kill_at_percent, show).await?;
    let during = traffic.counts();
    workers.stop().await?;
    tell_job(&mut report, &scene, job, &followed, witness.as_deref()).await?;
    let (operations, kinds) = traffic_between(&before, &during);
    report.figure("live operations meanwhile", operations, kinds);

    let begun = Instant::now();
    check_scan(&mut report, &scene, show).await?;
    check_traffic(&mut report, traffic, show).await?;
    check_ledger(&mut report, &scene, client, &ledger, show).await?;
    app.audit.close().await?;
    check_without_old(&mut report, &scene, &ledger, show).await?;
    check_audit(&mut report, &scene, &followed.job, show).await?;
    report.took("checks", begun.elapsed());
    report.show(show);
    if report.holds() {
        Ok(())
    } else {
        Err(DemoError::ChecksFailed)
    }
}

async fn set_up(place: &Place, show: &mut Show) -> Result<Arc<Scene>, DemoError> {
    show.step(
        "SET UP",
        "an organization, acme, and two customer master keys (CMKs)",
    );
    let scene = Arc::new(Scene::make(place.path()).await?);
    show.detail(&format!("directory  {}", place.path().display()));
    show.detail(&format!("old CMK    {}", scene.old));
    show.detail(&format!("new CMK    {}", scene.new));
    Ok(scene)
}

async fn fill(
    options: &Options,
    scene: &Arc<Scene>,
    ledger: &Arc<Ledger>,
    show: &mut Show,
) -> Result<Filled, DemoError> {
    show.step(
        "FILL",
        "messages, each slice (a channel's hour) sealed with a data key of its own",
    );
    let mut seen = |rows| show.live(&format!("{} written", count(rows, "message", "messages")));
    let filled = match &options.slack_export {
        Some(path) => fill::slack_export(scene, ledger, path, &mut seen).await?,
        None => {
            let recipe = Recipe {
                seed: options.seed,
                messages: options.messages,
                shape: Shape::Realistic,
                expiries_from_s: u32::try_from(scene.clock.wall().unix_seconds()).ok(),
            };
            fill::generated(scene, ledger, recipe, &mut seen).await?
        }
    };
    if filled.rows == 0 {
        let from = match &options.slack_export {
            Some(path) => path.display().to_string(),
            None => "the wish for 0 messages".to_owned(),
        };
        return Err(DemoError::NoMessages(from));
    }
    show.note(&format!(
        "{} in {} of {}, all under the old CMK",
        count(filled.rows, "message", "messages"),
        slices_of(&filled),
        count(filled.slices.len() as u64, "channel", "channels"),
    ));
    if let Some(report) = &filled.report {
        let skipped: u64 = report.skipped.values().map(|skipped| skipped.count).sum();
        if skipped > 0 || report.duplicates > 0 {
            show.detail(&format!(
                "of the export, {} could not be read and {} met twice",
                count(skipped, "thing", "things"),
                count(report.duplicates, "message was", "messages were"),
            ));
        }
        for (reason, skipped) in &report.skipped {
            show.detail(&format!(
                "  {}: {}",
                number(skipped.count),
                reason.explain()
            ));
        }
    }
    Ok(filled)
}

fn slices_of(filled: &Filled) -> String {
    let slices = filled.slice_count();
    format!(
        "{} ({:.1} a slice)",
        count(slices, "slice", "slices"),
        filled.rows as f64 / slices.max(1) as f64
    )
}

/// Starts the live traffic, and waits until it is under way.
async fn start_traffic(
    options: &Options,
    scene: &Scene,
    client: &Client,
    ledger: &Arc<Ledger>,
    filled: &Filled,
    show: &mut Show,
) -> Result<Traffic, DemoError> {
    let now_s = u64::try_from(scene.clock.wall().unix_seconds()).unwrap_or(0);
    let this_hour = Hour::of_unix_seconds(now_s)?;
    let targets = filled.slices.iter().take(TRAFFIC_CHANNELS);
    let targets = targets.map(|(channel, hours)| Target {
        org: scene.org.clone(),
        workspace: scene.workspace.clone(),
        channel: channel.clone(),
        hours: hours
            .iter()
            .copied()
            .take(TRAFFIC_HOURS)
            .chain([this_hour])
            .collect(),
    });
    let plan = traffic::Plan::busy(options.seed, options.traffic_per_s, targets.collect());
    let traffic = Traffic::start(
        client.clone(),
        ledger.clone(),
        scene.clock.clone(),
        plan,
        CancellationToken::new(),
    );
    if options.traffic_per_s <= 0.0 {
        show.step("TRAFFIC", "none, as asked");
        return Ok(traffic);
    }
    show.step(
        "TRAFFIC",
        &format!(
            "{} operations a second through the client library, until the end:",
            options.traffic_per_s
        ),
    );
    show.detail("readers, writers, editors, deleters, and writers of messages that vanish;");
    show.detail("a ledger beside the store knows what each of them did");
    // Under way before the rekey begins. A slow machine need not reach it.
    let first = traffic.reached(options.traffic_per_s.ceil() as u64);
    let _ = tokio::time::timeout(Duration::from_secs(3), first).await;
    Ok(traffic)
}

/// Asks for the rekey, as an operator would, and starts the workers.
async fn enqueue(
    scene: &Scene,
    options: &Options,
    workers: &mut Workers,
    show: &mut Show,
) -> Result<JobId, DemoError> {
    let request = RekeyRequest {
        job_id: JobId::random(),
        org: scene.org.clone(),
        from_cmk: Some(scene.old.clone()),
        to_cmk: scene.new.clone(),
        mode: Mode::Reencrypt,
        requested_by: "demo".to_owned(),
        reason: "the customer wants a new master key".to_owned(),
        cause: None,
        not_before: None,
        not_after: None,
    };
    let job = request.job_id;
    scene
        .queue
        .send(&JobMessage::Rekey(request).to_json())
        .await?;
    show.step("REKEY", &format!("job {job} is on the queue"));
    for _ in 0..options.workers {
        let started = workers.start()?;
        show.detail(&format!("{} is process {}", started.name, started.pid()));
    }
    Ok(job)
}

/// Puts what the job did into the report.
async fn tell_job(
    report: &mut Report,
    scene: &Scene,
    job: JobId,
    followed: &Followed,
    witness: Option<&Path>,
) -> Result<(), DemoError> {
    let row = &followed.job;
    for (part, time) in times(scene, job).await? {
        report.took(part, time);
    }
    report.figure(
        "messages rewritten",
        row.rewriting.rewritten,
        format!("and {} were new already", number(row.rewriting.current)),
    );
    let mut calls: BTreeMap<String, u64> = BTreeMap::new();
    scene.ring.each_call(|call| {
        if call.caller == WORKER {
            *calls.entry(call.operation).or_default() += 1;
        }
    })?;
    let by_operation: Vec<String> = calls
        .iter()
        .map(|(operation, n)| format!("{} {operation}", number(*n)))
        .collect();
    report.figure(
        "KMS calls of the workers",
        calls.values().sum(),
        by_operation.join(", "),
    );
    report.figure("kills survived", followed.kills, "");
    report.figure(
        "takeovers",
        followed.takeovers,
        "of the job and its tasks, after a lease ran out",
    );
    match witness {
        Some(path) => {
            let sealed = sealed(path)?;
            let twice = sealed.saturating_sub(row.rewriting.rewritten);
            report.figure(
                "rework, at most",
                twice,
                "messages that the dead worker sealed after its last checkpoint",
            );
        }
        None => report.remark("rework", "not counted in a release build"),
    }
    report.check(followed.kills == 1, || "no worker was killed".to_owned());
    report.check(row.rewriting.balances() && row.proof.balances(), || {
        "the job's counts do not sum to the rows scanned".to_owned()
    });
    report.check(verdict_is_good(row, scene), || {
        format!(
            "the verdict is: {}",
            row.verdict.as_deref().unwrap_or("none")
        )
    });
    report.verdict(row.verdict.clone());
    Ok(())
}

fn verdict_is_good(row: &JobRow, scene: &Scene) -> bool {
    let good = format!("no live cell or key needs {}", scene.old);
    row.verdict.as_ref().is_some_and(|v| v.starts_with(&good))
}

/// How long the job was in its states.
async fn times(scene: &Scene, job: JobId) -> Result<Vec<(&'static str, Duration)>, DemoError> {
    let history = scene.book.history(&scene.org, job).await?;
    let mut times: Vec<(&'static str, Duration)> = Vec::new();
    for pair in history.windows(2) {
        let part = match pair[0].to {
            JobState::Settling => "settle",
            JobState::Rewriting => "rewrite",
            JobState::Verifying => "verify",
            JobState::Draining => "drain",
            _ => continue,
        };
        let time = Duration::from_millis(pair[1].at_ms.saturating_sub(pair[0].at_ms));
        match times.iter_mut().find(|(name, _)| *name == part) {
            Some((_, sum)) => *sum += time,
            None => times.push((part, time)),
        }
    }
    Ok(times)
}

/// Rows that the workers sealed, as they noted it themselves before each batch.
fn sealed(path: &Path) -> Result<u64, DemoError> {
    let text = std::fs::read_to_string(path).map_err(|e| DemoError::io("read", path, e))?;
    let rows = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    Ok(text.lines().filter_map(rows).sum())
}

async fn check_scan(report: &mut Report, scene: &Scene, show: &mut Show) -> Result<(), DemoError> {
    show.step("PROOF", "a scan of its own looks at every stored message");
    // Without a KMS: it goes by the stored bytes alone. That everything opens
    // is for the readers below to show.
    let scan = Scan::new(
        scene.store.clone(),
        scene.clock.clone(),
        None,
        scene.org.clone(),
        None,
    );
    let mut seen = |so_far: &Found| {
        show.live(&format!(
            "{} seen",
            count(so_far.cells, "message", "messages")
        ))
    };
    let found = scan.await?.at_all_replicas().run(&mut seen).await?;
    let (left, moved) = (found.cells_under(&scene.old), found.cells_under(&scene.new));
    show.note(&format!(
        "{} under the new CMK, {} under the old one",
        number(moved),
        number(left)
    ));
    report.figure(
        "messages under the old CMK",
        left,
        format!("{} are under the new one", number(moved)),
    );
    report.check(left == 0, || {
        format!(
            "{} still need the old CMK",
            count(left, "message", "messages")
        )
    });
    report.check(found.is_whole(), || {
        format!("the scan found bad cells: {:?}", found.quarantined)
    });
    // Every live cell is under one of the two, or nothing is proven.
    report.check(
        moved > 0 && moved + left + found.expired == found.cells,
        || format!("of {} cells, some are under no CMK known here", found.cells),
    );
    Ok(())
}

async fn check_traffic(
    report: &mut Report,
    traffic: Traffic,
    show: &mut Show,
) -> Result<(), DemoError> {
    let ended = traffic
        .stop()
        .await
        .map_err(|e| DemoError::io("write", Path::new("the ledger"), e))?;
    let total: u64 = ended.counts.done.values().sum();
    show.note(&format!(
        "live traffic ends after {}; {} of its reads saw what they should not",
        count(total, "operation", "operations"),
        number(ended.counts.violations),
    ));
    if !ended.counts.errors.is_empty() {
        show.detail(&format!(
            "errors it was given, and the ledger reckons with: {}",
            by_code(&ended.counts.errors)
        ));
    }
    report.check(ended.counts.violations == 0, || {
        let mut text = format!("{} in live reads", number(ended.counts.violations));
        for violation in ended.violations.iter().take(5) {
            text += &format!("\n    {violation}");
        }
        text
    });
    Ok(())
}

async fn check_ledger(
    report: &mut Report,
    scene: &Scene,
    client: Client,
    ledger: &Arc<Ledger>,
    show: &mut Show,
) -> Result<(), DemoError> {
    let reader = Reader {
        client,
        ledger: ledger.clone(),
        clock: scene.clock.clone(),
        why: Use::new(ReasonCode::MessageRead, "demo check"),
    };
    let mut seen = |n| show.live(&format!("{} read", count(n, "message", "messages")));
    let found = reader.everything(&mut seen).await?;
    let read = found.present + found.absent;
    let wrong = found.violations.iter().count() as u64;
    show.note(&format!(
        "{} compared with the ledger: {} there, {} deleted or vanished, {} wrong",
        count(read, "message", "messages"),
        number(found.present),
        number(found.absent),
        number(wrong),
    ));
    report.figure(
        "compared with the ledger",
        read,
        format!(
            "{} lost, {} revived, {} overwritten, {} undecryptable",
            found.violations.lost.len(),
            found.violations.revived.len(),
            found.violations.overwritten.len() + found.violations.torn.len(),
            found.violations.undecryptable.len()
        ),
    );
    report.check_read("after the rekey", &found);
    Ok(())
}

/// Disables the old CMK, and reads everything once more without any cached key.
async fn check_without_old(
    report: &mut Report,
    scene: &Scene,
    ledger: &Arc<Ledger>,
    show: &mut Show,
) -> Result<(), DemoError> {
    scene.ring.disable(&scene.old)?;
    let app: Part = scene.part(APP)?;
    let why = Use::new(ReasonCode::MessageRead, "demo check, old CMK disabled");
    let scope = Scope::Canary {
        org: scene.org.clone(),
    };
    let refused = app
        .kms
        .generate_data_key(&scene.old, &scope, &why)
        .await
        .err();
    let words = match &refused {
        Some(error) => format!("the KMS now refuses it ({})", error.code),
        None => "THE KMS STILL ANSWERS FOR IT".to_owned(),
    };
    show.step("DISABLE", &format!("the old CMK is disabled; {words}"));
    report.check(refused.is_some(), || {
        "the KMS still answers for the disabled CMK".to_owned()
    });
    let reader = Reader {
        client: scene.client(&app).await?,
        ledger: ledger.clone(),
        clock: scene.clock.clone(),
        why,
    };
    let mut seen = |n| show.live(&format!("{} read again", count(n, "message", "messages")));
    let found = reader.everything(&mut seen).await?;
    show.note(&format!(
        "{} read again by a new client with no cached key",
        count(found.present, "message", "messages"),
    ));
    report.figure(
        "read with the old CMK disabled",
        found.present,
        format!(
            "{} refused, {} wrong",
            number(found.refused.values().sum()),
            number(found.violations.iter().count() as u64)
        ),
    );
    report.check_read("with the old CMK disabled", &found);
    app.audit.close().await?;
    Ok(())
}

/// Verifies every chain of the audit log, and that the workers' chains reach as
/// far as the job's end says they do.
async fn check_audit(
    report: &mut Report,
    scene: &Scene,
    job: &JobRow,
    show: &mut Show,
) -> Result<(), DemoError> {
    show.live("verifying the audit log");
    let heads: Result<Vec<audit::Head>, String> =
        job.streams.iter().cloned().map(TryInto::try_into).collect();
    report.check(heads.is_ok(), || {
        "the job names an audit stream in a way that is not understood".to_owned()
    });
    let heads = heads.unwrap_or_default();
    let dir = scene.config.audit.dir.clone();
    let verified = tokio::task::spawn_blocking(move || {
        audit::verify(&dir, &heads).map_err(|e| DemoError::io("read", &dir, e))
    });
    let found = verified
        .await
        .map_err(|e| DemoError::Task(e.to_string()))??;
    let records: u64 = found.streams.iter().map(|stream| stream.records).sum();
    let open = found
        .streams
        .iter()
        .filter(|stream| stream.ending == audit::Ending::Open)
        .count() as u64;
    let streams = found.streams.len() as u64;
    let state = if found.is_intact() {
        "intact"
    } else {
        "BROKEN"
    };
    let ends = match open {
        0 => "each ended in order".to_owned(),
        _ => format!("{} without an end, as a kill leaves it", number(open)),
    };
    show.step(
        "AUDIT",
        &format!(
            "{} in {}, every chain {state}; {ends}",
            count(records, "record", "records"),
            count(streams, "stream", "streams")
        ),
    );
    report.figure("audit records", records, format!("every chain {state}"));
    report.check(found.is_intact(), || {
        let broken = found
            .streams
            .iter()
            .find_map(|s| Some(format!("{}: {}", s.file.display(), s.broken.as_ref()?)));
        format!(
            "the audit log does not verify: {}",
            broken.unwrap_or_else(|| format!("{} streams are missing", found.missing.len()))
        )
    });
    Ok(())
}
