//! What it happens on, round after round: store, channels, CMKs, traffic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::figures::Report;
use super::{LEDGER, Options, owner};
use crate::demo::generate::{Recipe, Shape};
use crate::demo::ledger::Ledger;
use crate::demo::run::DemoError;
use crate::demo::run::fill::{self, Filled};
use crate::demo::run::scene::{APP, OPERATOR, Part, Scene};
use crate::demo::run::workers::Workers;
use crate::demo::traffic::{Plan, Traffic};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn};
use crate::job::{BookError, JobRow};
use crate::kms::local::NewKey;
use crate::pipeline::TaskError;
use crate::queue::QueueError;
use crate::registry::ChannelName;
use crate::store::StoreErrorClass;
use crate::wiring;

/// Channels that are written to, moved and denied: few, so that these meet.
const CHANNELS: usize = 4;
/// Of each, old hours that get new messages, so that writers and workers meet in
/// a slice.
const OLD_HOURS: usize = 4;

/// How long a store may be late, or a node of it dead, before chaos itself cannot go
/// on.
const PATIENCE: Duration = Duration::from_secs(120);

/// A channel: its first name, by which the traffic goes on, and its name now.
pub(super) struct Channel {
    pub first: ChannelId,
    pub now: ChannelName,
}

/// Everything that lasts longer than a round.
pub(super) struct Stage {
    pub scene: Arc<Scene>,
    pub dir: PathBuf,
    pub workers: Workers,
    pub channels: Vec<Channel>,
    /// Three, of which one is active.
    pub cmks: Vec<CmkArn>,
    pub operator: Part,
    pub app: Part,
    pub ledger: Arc<Ledger>,
    pub traffic: Option<Traffic>,
    /// Jobs at their end.
    pub ended: Vec<JobRow>,
    /// No live cell may be of an older one: that of the last re-encryption.
    pub oldest: Option<Epoch>,
    pub report: Report,
}

impl Stage {
    /// Makes and fills it, and starts the traffic.
    pub async fn set(
        options: &Options,
        dir: &Path,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, DemoError> {
        let scene = Arc::new(Scene::make(&owner(), &options.parts, dir).await?);
        let third = scene
            .ring
            .create_key(&wiring::unlock(&scene.config), &NewKey::default())?;
        let operator = scene.part(OPERATOR).await?;
        let book = dir.join(LEDGER);
        let ledger = Ledger::in_file(&book).map_err(|e| DemoError::io("make", &book, e))?;
        let ledger = Arc::new(ledger);
        let recipe = Recipe {
            seed: options.seed,
            messages: options.messages,
            shape: Shape::Realistic,
            expiries_from_s: u32::try_from(scene.clock.wall().unix_seconds()).ok(),
        };
        let filled = fill::generated(&scene, &ledger, recipe, &mut |_| {}).await?;
        let app = scene.part(APP).await?;
        let traffic = start_traffic(options, &scene, &app, &ledger, &filled).await?;
        let on = scene.made.keyspace.clone();
        say(&format!(
            "{} messages in {} slices of {} channels, on {}; seed {}",
            filled.rows,
            filled.slice_count(),
            filled.slices.len(),
            on.map_or_else(
                || "the embedded store".to_owned(),
                |ks| format!("keyspace {ks}")
            ),
            options.seed,
        ));
        let channels = filled.slices.keys().take(CHANNELS).map(|first| Channel {
            first: first.clone(),
            now: ChannelName {
                org: scene.org.clone(),
                workspace: scene.workspace.clone(),
                channel: first.clone(),
            },
        });
        let mut report = Report::default();
        report.figures.seed = options.seed;
        report.figures.rework_rows = crate::faults::BUILT_IN.then_some(0);
        Ok(Self {
            channels: channels.collect(),
            workers: Workers::new(dir, &scene.made.file, None)?,
            cmks: vec![scene.old.clone(), scene.new.clone(), third],
            scene,
            dir: dir.to_owned(),
            operator,
            app,
            ledger,
            traffic: Some(traffic),
            ended: Vec::new(),
            oldest: None,
            report,
        })
    }

    /// Where the workers of a round note what they seal.
    pub fn witness(&self, round: usize) -> Option<PathBuf> {
        crate::faults::BUILT_IN.then(|| self.dir.join(format!("sealed-{round}")))
    }
}

/// Asks again what may be asked twice: the store may be late, or a node of it dead
/// for a while.
pub(super) async fn patiently<T>(
    mut ask: impl AsyncFnMut() -> Result<T, DemoError>,
) -> Result<T, DemoError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(error) if may_pass(&error) && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer => return answer,
        }
    }
}

fn may_pass(error: &DemoError) -> bool {
    match error {
        DemoError::Store(e)
        | DemoError::Book(BookError::Store(e))
        | DemoError::Scan(TaskError::Store(e)) => e.class == StoreErrorClass::Transient,
        DemoError::Registry(e) | DemoError::Scan(TaskError::Registry(e)) => e.is_transient(),
        DemoError::Queue(e) => matches!(e, QueueError::Transient(_)),
        _ => false,
    }
}

async fn start_traffic(
    options: &Options,
    scene: &Scene,
    app: &Part,
    ledger: &Arc<Ledger>,
    filled: &Filled,
) -> Result<Traffic, DemoError> {
    let targets = filled.targets(scene, CHANNELS, OLD_HOURS)?;
    let plan = Plan {
        // Some vanish while a worker is frozen, some just after.
        vanish_after_s: 1..=8,
        ..Plan::busy(options.seed, options.traffic_per_s, targets)
    };
    let traffic = Traffic::start(
        scene.client(app).await?,
        ledger.clone(),
        scene.clock.clone(),
        plan,
        CancellationToken::new(),
    );
    // Under way before the first job. A slow machine need not reach it.
    let _ = tokio::time::timeout(Duration::from_secs(5), traffic.reached(20)).await;
    Ok(traffic)
}
