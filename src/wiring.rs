//! Which part meets which. Everything that knows a backend by name is here; the
//! rest of the crate knows traits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::{AuditError, AuditLog, Origin};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::crypto::Provider;
use crate::job::{JobBook, WorkerName};
use crate::kms::SharedKms;
use crate::kms::audited::Audited;
use crate::kms::budget::{BudgetSettings, Budgeted, Budgets, CallingAccount};
use crate::kms::local::{LocalKeyRing, RingAdmin, RingError, Unlock};
use crate::pipeline::{Limits, Parking, Shared};
use crate::queue::sqlite::SqliteQueue;
use crate::queue::{QueueError, SharedQueue};
use crate::registry::{Registry, RegistryError, Timing};
use crate::retry::RetryPolicy;
use crate::store::sqlite::SqliteStore;
use crate::store::{SharedStore, StoreError};
use crate::worker::{Pace, Worker};

/// The KMS that this build calls, as key rows name it.
pub const PROVIDER: Provider = Provider::LocalRing;

/// Variable with the passphrase of the key ring, where it has one.
pub const RING_PASSPHRASE: &str = "REKEYD_RING_PASSPHRASE";

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

/// Makes a new data directory: store with its timing row, queue and key ring.
/// What stands already is left as it is. Returns the waits that hold.
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
    let store: SharedStore = Arc::new(SqliteStore::open_or_create(
        &config.store.path,
        clock.clone(),
    )?);
    let timing = Registry::new(store, clock.clone())
        .init_timing(timing)
        .await?;
    queue(config, clock)?;
    if RingAdmin::open(&config.kms.ring).is_err() {
        match passphrase() {
            Some(unlock) => RingAdmin::create(&config.kms.ring, &unlock)?,
            None => RingAdmin::create_with_key_file(&config.kms.ring)?,
        };
    }
    Ok(timing)
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

/// Opens the store; it must have been made by [`init`].
pub fn store(config: &Config, clock: &SharedClock) -> Result<SharedStore, WiringError> {
    Ok(Arc::new(SqliteStore::open(
        &config.store.path,
        clock.clone(),
    )?))
}

/// Opens the queue, making its file if there is none.
pub fn queue(config: &Config, clock: &SharedClock) -> Result<SharedQueue, WiringError> {
    let queue = SqliteQueue::open(&config.queue.path, config.queue.max_receives, clock.clone())?;
    Ok(Arc::new(queue))
}

/// How the key ring is opened: by the passphrase in the environment, else by
/// the key file.
pub fn unlock(config: &Config) -> Unlock {
    passphrase().unwrap_or_else(|| {
        Unlock::KeyFile(
            config
                .kms
                .key_file
                .clone()
                .unwrap_or_else(|| config.kms.ring.join("ring.key")),
        )
    })
}

fn passphrase() -> Option<Unlock> {
    std::env::var(RING_PASSPHRASE)
        .ok()
        .map(|text| Unlock::Passphrase(text.into()))
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

/// Opens the KMS as `caller`: every attempt audited, all within the budget.
pub fn kms(
    config: &Config,
    caller: &str,
    audit: &AuditLog,
    clock: &SharedClock,
) -> Result<(SharedKms, Arc<Budgets>), WiringError> {
    let ring =
        LocalKeyRing::open_with_clock(&config.kms.ring, caller, &unlock(config), clock.clone())?;
    let account = config.kms.account.clone();
    let audited: SharedKms = Arc::new(Audited::new(ring, audit.clone(), Some(account.clone())));
    let rate = f64::from(config.kms.rate_per_s);
    let budgets = Arc::new(Budgets::new(
        BudgetSettings::per_second(rate),
        clock.clone(),
    ));
    let policy = RetryPolicy {
        give_up_after: Duration::from_secs(config.kms.give_up_s),
        ..RetryPolicy::KMS
    };
    let budgeted = Budgeted::new(
        audited,
        CallingAccount::Fixed(account),
        budgets.clone(),
        policy,
    );
    Ok((Arc::new(budgeted), budgets))
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

/// Puts a worker together.
pub async fn worker(config: &Config, clock: &SharedClock) -> Result<WorkerParts, WiringError> {
    worker_on(store(config, clock)?, config, clock).await
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
    let registry = Registry::new(store.clone(), clock.clone());
    let timing = registry.timing().await?;
    let queue = queue(config, clock)?;
    let audit = audit(config, "rekeyd worker", Some(name.clone()), clock)?;
    let (kms, budgets) = kms(config, &config.kms.caller, &audit, clock)?;
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
        provider: PROVIDER,
        audit: audit.clone(),
        clock: clock.clone(),
        timing,
        limits,
        parking: Parking::new(clock.clone()),
        compute: compute(w.rayon_threads)?,
        store,
    };
    let worker = Worker {
        shared: Arc::new(shared),
        queue,
        name: WorkerName {
            worker: name,
            audit: audit.clone(),
        },
        pace: Pace {
            tasks: w.tasks_in_flight,
            poll_ms: w.poll_ms,
            visibility: Duration::from_secs(config.queue.visibility_s),
            receive_wait: Duration::from_secs(5),
            kms_rate_per_s: f64::from(config.kms.rate_per_s),
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
