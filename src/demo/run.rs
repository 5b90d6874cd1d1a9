//! `rekeyd demo`: a rekey of a live store, with real worker processes, one of
//! which is killed. docs/demo.md tells what there is to see.
//!
//! | file | what |
//! |---|---|
//! | `place` | the directory it all happens in |
//! | `scene` | key ring, store, organization, and the application's client |
//! | `parts` | what it runs on: everything embedded, or a cluster |
//! | `fill` | the messages that are there before |
//! | `workers` | the worker processes |
//! | `follow` | watches a job, and kills a worker half way |
//! | `read` | reads everything as the application would, and judges it by the ledger |
//! | `check` | what is checked when the job has ended |
//! | `error` | why the demo could not go on |
//! | `report` | the figures at the end |
//! | `show` | what goes to the terminal |

mod check;
mod error;
pub(crate) mod fill;
mod follow;
pub(crate) mod parts;
pub(crate) mod place;
pub(crate) mod read;
mod report;
pub(crate) mod scene;
pub(crate) mod show;
pub(crate) mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use error::DemoError;
pub use parts::Parts;
pub use workers::end_with;

use crate::client::Client;
use crate::demo::generate::{Recipe, Shape};
use crate::demo::ledger::Ledger;
use crate::demo::traffic::{self, Traffic};
use crate::ids::{ChannelId, JobId, WorkspaceId};
use crate::job::{JobMessage, Mode, MoveFrom, MoveRequest, MoveTo, RekeyRequest};
use crate::registry::Timing;
use fill::Filled;
use parts::Owner;
use place::Place;
use report::{Report, traffic_between};
use scene::{APP, Scene};
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
    /// What it runs on.
    pub parts: Parts,
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

/// Runs the demo, and tells it on standard output. Dropping the future ends the
/// workers and removes the directory. Run it by `block_on` on the main thread:
/// workers end with the thread that starts them.
///
/// # Errors
/// If it could not go on or a check failed; the directory is kept then.
pub async fn run(options: &Options) -> Result<(), DemoError> {
    let mut show = Show::new();
    let mut place = Place::make("demo", options.dir.as_deref(), options.keep)?;
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

fn owner() -> Owner {
    Owner {
        name: "demo",
        embedded: Timing::demo(),
    }
}

async fn story(options: &Options, place: &Place, show: &mut Show) -> Result<(), DemoError> {
    let mut report = Report::default();
    let scene = set_up(options, place, show).await?;
    let ledger = Arc::new(Ledger::new());

    let begun = Instant::now();
    let filled = fill(options, &scene, &ledger, show).await?;
    report.took("fill", begun.elapsed());
    report.figure(
        "messages before the rekey",
        filled.rows,
        format!("in {}", slices_of(&filled)),
    );

    let app = scene.part(APP).await?;
    let client = scene.client(&app).await?;
    let traffic = start_traffic(options, &scene, &client, &ledger, &filled, show).await?;
    let before = traffic.counts();

    let witness = cfg!(debug_assertions).then(|| place.path().join("sealed"));
    let mut workers = Workers::new(place.path(), &scene.made.file, witness.clone())?;
    let job = enqueue(&scene, options, &mut workers, show).await?;
    let kill_at = options.kill_at_percent;
    let followed = follow::follow(&scene, job, &mut workers, kill_at, show).await?;
    let during = traffic.counts();
    check::job(&mut report, &scene, job, &followed, witness.as_deref()).await?;
    let (operations, kinds) = traffic_between(&before, &during);
    report.figure("live operations meanwhile", operations, kinds);

    let request = move_channel(&scene, &filled, show).await?;
    let moved = follow::follow(&scene, request.job_id, &mut workers, kill_at, show).await?;
    let after = traffic.counts();
    workers.stop().await?;
    check::moved(&mut report, &scene, &request, &moved).await?;
    let (operations, kinds) = traffic_between(&during, &after);
    report.figure("live operations during the move", operations, kinds);

    let begun = Instant::now();
    check::scan(&mut report, &scene, show).await?;
    check::traffic(&mut report, traffic, show).await?;
    check::ledger(&mut report, &scene, client, &ledger, show).await?;
    app.audit.close().await?;
    check::without_old(&mut report, &scene, &ledger, show).await?;
    check::audit_log(&mut report, &scene, &[&followed.job, &moved.job], show).await?;
    report.took("checks", begun.elapsed());
    report.show(show);
    if report.holds() && !place.is_kept() {
        parts::remove(&owner(), &scene.config, &scene.clock).await?;
    }
    if report.holds() {
        Ok(())
    } else {
        Err(DemoError::ChecksFailed)
    }
}

async fn set_up(
    options: &Options,
    place: &Place,
    show: &mut Show,
) -> Result<Arc<Scene>, DemoError> {
    show.step(
        "SET UP",
        "an organization, acme, and two customer master keys (CMKs)",
    );
    let scene = Arc::new(Scene::make(&owner(), &options.parts, place.path()).await?);
    show.detail(&format!("directory  {}", place.path().display()));
    if let Some(keyspace) = &scene.made.keyspace {
        let queue = scene
            .config
            .queue
            .url
            .as_deref()
            .unwrap_or("the embedded one");
        show.detail(&format!("keyspace   {keyspace}"));
        show.detail(&format!("queue      {queue}"));
        show.detail("KMS        a key ring, by AWS KMS's protocol");
    }
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
    let targets = filled.targets(scene, TRAFFIC_CHANNELS, TRAFFIC_HOURS)?;
    let plan = traffic::Plan::busy(options.seed, options.traffic_per_s, targets);
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
        window: None,
        priority: None,
        plan: None,
        accept_lifted_denies: Vec::new(),
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

/// Asks for a move of the channel with the most slices of those that the traffic
/// writes to: to another workspace and another channel id, so that all of it is
/// copied.
async fn move_channel(
    scene: &Scene,
    filled: &Filled,
    show: &mut Show,
) -> Result<MoveRequest, DemoError> {
    let busiest = filled
        .slices
        .iter()
        .take(TRAFFIC_CHANNELS)
        .max_by_key(|(_, hours)| hours.len());
    let Some((channel, hours)) = busiest else {
        return Err(DemoError::NoMessages("a store without channels".to_owned()));
    };
    let request = MoveRequest {
        job_id: JobId::random(),
        org: scene.org.clone(),
        from: MoveFrom {
            workspace: scene.workspace.clone(),
            channel: channel.clone(),
        },
        // Fixed names that fit the grammar of ids.
        to: MoveTo {
            org: None,
            workspace: WorkspaceId::new("project")?,
            channel: ChannelId::new("moved")?,
        },
        requested_by: "demo".to_owned(),
        reason: "the channel belongs to another workspace now".to_owned(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
    };
    let message = JobMessage::Move(request.clone());
    scene.queue.send(&message.to_json()).await?;
    show.step("MOVE", &format!("job {} is on the queue", request.job_id));
    show.detail(&format!(
        "`{}`, {}, becomes `{}`",
        request.source(),
        count(hours.len() as u64, "slice", "slices"),
        request.destination()
    ));
    show.detail("while the traffic goes on in it, by its old name");
    Ok(request)
}
