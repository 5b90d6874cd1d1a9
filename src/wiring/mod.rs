//! Which part meets which. Everything that knows a backend by name is here; the
//! rest of the crate knows traits.
//!
//! | file | what |
//! |---|---|
//! | `store` | the store of the configuration |
//! | `queue` | the queue |
//! | `kms` | the KMS, audited and within its budget |
//! | `roles` | how the KMS learns which role to assume |

mod kms;
mod queue;
mod roles;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{AuditError, AuditLog, Origin};
use crate::aws::Credentials;
use crate::clock::SharedClock;
use crate::config::{Config, KmsKind, QueueKind};
use crate::job::{JobBook, OpenJobs, Throttles, WorkerName};
use crate::kms::budget::Budgets;
use crate::kms::local::{RingAdmin, RingError};
use crate::kms::{Gated, KmsError};
use crate::pipeline::{Limits, Parking, Shared};
use crate::queue::QueueError;
use crate::registry::{Registry, RegistryError, Timing};
use crate::store::noted::Noted;
use crate::store::sqlite::SqliteStore;
use crate::store::{SharedStore, StoreError};
use crate::telemetry::logs::LogError;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::waiting::Waiting;
use crate::worker::{Pace, ServiceHealth, Worker};

pub use kms::{RING_PASSPHRASE, kms, kms_entering, kms_noting, provider, unlock};
pub use queue::{queue, queue_at, queue_facts};
pub use store::{STORE_PASSWORD, cluster, store};

/// Why the parts could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The key ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The environment asks for keys in the log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Requests to the store may take longer than its waits reckon with.
    #[error("store.request_timeout_ms is {ours}, and the waits of this store allow {most} at most")]
    RequestTimeout {
        /// The setting, milliseconds.
        ours: u64,
        /// What the store's waits allow, milliseconds.
        most: u64,
    },
    /// The account that calls KMS could not be found out.
    #[error(
        "cannot ask STS which account calls KMS: {0}; mend the credentials or the way to STS, \
         or set `kms.account`"
    )]
    WhoAmI(KmsError),
    /// A directory could not be made.
    #[error("cannot make the directory `{path}`: {error}")]
    Dir {
        /// The directory.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The compute threads could not be started.
    #[error("cannot start the compute threads: {0}")]
    Compute(#[from] rayon::ThreadPoolBuildError),
}

/// Makes a new data directory: store with its timing row, queue and, where it is
/// the KMS, key ring. What stands already is left as it is. Returns the waits
/// that hold. A cluster's tables and waits must stand: `rekeyd schema apply`
/// makes them.
pub async fn init(
    config: &Config,
    timing: &Timing,
    clock: &SharedClock,
) -> Result<Timing, WiringError> {
    for path in [
        Some(config.data_dir.as_path()),
        config.store.path.parent(),
        config.queue.path.parent(),
        Some(config.audit.dir.as_path()),
    ]
    .into_iter()
    .flatten()
    {
        make_dir(path)?;
    }
    let timing = if config.store.kind.is_cluster() {
        let store = store(config, clock).await?;
        Registry::new(store, clock.clone()).timing().await?
    } else {
        let store: SharedStore = Arc::new(SqliteStore::open_or_create(
            &config.store.path,
            clock.clone(),
        )?);
        let registry = Registry::new(store, clock.clone());
        registry.init_timing(timing).await?
    };
    queue(config, clock).await?;
    if config.kms.kind == KmsKind::Ring && RingAdmin::open(&config.kms.ring).is_err() {
        match kms::passphrase() {
            Some(unlock) => RingAdmin::create(&config.kms.ring, &unlock)?,
            None => RingAdmin::create_with_key_file(&config.kms.ring)?,
        };
    }
    Ok(timing)
}

fn credentials(config: &Config) -> Credentials {
    Credentials {
        profile: config.aws.profile.clone(),
        file: config.aws.credentials_file.clone(),
    }
}

fn make_dir(path: &Path) -> Result<(), WiringError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| WiringError::Dir {
            path: path.display().to_string(),
            error,
        })
}

/// Starts this process's audit stream.
pub fn audit(
    config: &Config,
    service: &str,
    worker: Option<String>,
    clock: &SharedClock,
) -> Result<AuditLog, WiringError> {
    audit_as(config, service, &config.kms.caller, worker, clock)
}

/// As [`audit`], for a process that acts as somebody else than the configured
/// caller: an operator's command, an import.
pub fn audit_as(
    config: &Config,
    service: &str,
    principal: &str,
    worker: Option<String>,
    clock: &SharedClock,
) -> Result<AuditLog, WiringError> {
    let origin = Origin::here(service, principal, worker);
    Ok(AuditLog::open(&config.audit.dir, origin, clock.clone())?)
}

/// A worker on the configured parts.
pub struct WorkerParts {
    /// The worker.
    pub worker: Arc<Worker>,
    /// Its audit log, to be closed at the end.
    pub audit: AuditLog,
    /// Its KMS budgets, for the status line.
    pub budgets: Arc<Budgets>,
}

/// Puts a worker together on a store that is open already, or on a decorator
/// around it.
pub async fn worker_on(
    store: SharedStore,
    config: &Config,
    clock: &SharedClock,
) -> Result<WorkerParts, WiringError> {
    let name = config.worker.id.clone().unwrap_or_else(|| {
        let origin = Origin::here("rekeyd worker", "", None);
        format!(
            "{}-{}-{:08x}",
            origin.host,
            std::process::id(),
            rand::random::<u32>()
        )
    });
    let waiting = Waiting::default();
    let pulse = Pulse::new(clock.clone());
    let store: SharedStore = Arc::new(Noted::new(store, waiting.clone(), pulse.clone()));
    let registry = Registry::new(store.clone(), clock.clone());
    let timing = registry.timing().await?;
    let queue = queue::queue_for_worker(config, clock).await?;
    let audit = audit(config, "rekeyd worker", Some(name.clone()), clock)?;
    let throttles = Throttles::new(clock.clone(), timing.max_skew_ms, waiting.clone());
    let (kms, budgets) = kms::kms_on(&registry, waiting.clone(), config, &audit, clock).await?;
    let kms = Arc::new(Gated::new(kms, Arc::new(throttles.clone())));
    let w = &config.worker;
    let limits = Limits {
        slices: w.slices_in_flight,
        task_bytes: w.bytes_in_flight / w.tasks_in_flight.max(1),
        kms: w.kms_in_flight,
        page_rows: w.page_rows,
        page_bytes: w.page_bytes,
        checkpoint_ms: w.checkpoint_ms,
        ..Limits::default()
    };
    let shared = Shared {
        book: JobBook::new(store.clone(), clock.clone()),
        registry,
        kms,
        provider: provider(config),
        audit: audit.clone(),
        clock: clock.clone(),
        timing,
        limits,
        parking: Parking::new(clock.clone()),
        throttles,
        compute: compute(w.rayon_threads)?,
        store,
    };
    let (every, grace) = (w.health_poll_ms, w.health_grace_ms);
    let (every, grace) = (Duration::from_millis(every), Duration::from_millis(grace));
    let health = w.health_url.as_deref();
    let health = health.and_then(|url| ServiceHealth::of(url, every, grace));
    if health.is_some() {
        shared.throttles.hold(Some("it was not asked yet"));
    }
    let worker = Worker {
        health,
        pulse,
        open: OpenJobs::default(),
        shared: Arc::new(shared),
        queue,
        name: WorkerName {
            worker: name,
            audit: audit.clone(),
            waiting,
        },
        pace: Pace {
            tasks: w.tasks_in_flight,
            poll_ms: w.poll_ms,
            visibility: Duration::from_secs(config.queue.visibility_s),
            receive_wait: Duration::from_secs(match config.queue.kind {
                QueueKind::Sqlite => 5,
                QueueKind::Sqs => config.queue.wait_s,
            }),
            kms_rate_per_s: f64::from(config.kms.rate_per_s),
            set_aside_s: config.retire.set_aside_s,
        },
    };
    Ok(WorkerParts {
        worker: Arc::new(worker),
        audit,
        budgets,
    })
}

/// The compute threads; 0 means one per core. A panic in one of them ends the
/// item it worked on, not the process: its task fails and is taken up again.
pub fn compute(threads: usize) -> Result<Arc<rayon::ThreadPool>, WiringError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|n| format!("compute-{n}"))
        .panic_handler(|_| tracing::error!("a compute thread panicked; its task is taken up again"))
        .build()?;
    Ok(Arc::new(pool))
}
