//! Everything there is in a history, and processes put together as in earnest.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::chance::Dice;
use super::kms::{Keys, SimKms};
use super::process::{Process, ProcessClock};
use super::queue::{Letters, SimQueue};
use super::replicas::Replicas;
use super::store::SimStore;
use super::time::Time;
use crate::audit::{AuditLog, Origin, Sink};
use crate::client::{Client, InProcessKeys};
use crate::clock::SharedClock;
use crate::crypto::Provider;
use crate::demo::ledger::Ledger;
use crate::ids::{CmkArn, OrgId, WorkspaceId};
use crate::job::{JobBook, OpenJobs, Throttles, WorkerName};
use crate::kms::SharedKms;
use crate::kms::audited::Audited;
use crate::kms::budget::{BudgetSettings, Budgeted, Budgets};
use crate::kms::caller::{Caller, Callers};
use crate::pipeline::{Limits, Parking, Shared};
use crate::registry::{Registry, Timing};
use crate::retry::RetryPolicy;
use crate::store::SharedStore;
use crate::telemetry::pulse::Pulse;
use crate::telemetry::waiting::Waiting;
use crate::worker::{Pace, Worker};

/// The waits of every history: in the proportions of production, and shorter,
/// for a history costs what happens while it waits. L is longer than anything is
/// late.
pub(super) fn timing() -> Timing {
    Timing {
        status_time_ms: 20_000,
        request_timeout_ms: 10_000,
        row_age_ms: 20_000,
        lease_ms: 20_000,
        margin_ms: 4_000,
        grace_ms: 15_000,
        drain_ms: 300_000,
        blocked_retry_ms: 30_000,
        blocked_retry_max_ms: 300_000,
        ..Timing::production()
    }
}

/// The world of a history.
pub(super) struct World {
    pub(super) time: Time,
    pub(super) dice: Dice,
    pub(super) replicas: Arc<Replicas>,
    pub(super) keys: Arc<Keys>,
    pub(super) letters: Arc<Letters>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) compute: Arc<rayon::ThreadPool>,
    pub(super) org: OrgId,
    pub(super) workspace: WorkspaceId,
    said: Mutex<Vec<String>>,
}

impl World {
    pub(super) fn new(time: Time, dice: Dice, compute: Arc<rayon::ThreadPool>) -> Self {
        Self {
            replicas: Replicas::new(&time, &dice),
            keys: Arc::default(),
            letters: Arc::default(),
            ledger: Arc::new(Ledger::new()),
            compute,
            org: OrgId::new("acme").expect("an id"),
            workspace: WorkspaceId::new("w1").expect("an id"),
            said: Mutex::default(),
            time,
            dice,
        }
    }

    /// Enters a line in the log of the history.
    pub(super) fn say(&self, what: &str) {
        let line = format!("{:>10.3} s  {what}", self.time.now().as_secs_f64());
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn store(&self, process: &Arc<Process>) -> SharedStore {
        Arc::new(SimStore {
            replicas: self.replicas.clone(),
            process: process.clone(),
        })
    }

    pub(super) fn queue(&self, process: &Arc<Process>) -> Arc<SimQueue> {
        Arc::new(SimQueue {
            letters: self.letters.clone(),
            replicas: self.replicas.clone(),
            process: process.clone(),
        })
    }

    fn kms(&self, process: &Arc<Process>, audit: &AuditLog, clock: &SharedClock) -> SharedKms {
        let backend = SimKms {
            keys: self.keys.clone(),
            replicas: self.replicas.clone(),
            process: process.clone(),
        };
        let callers = Callers::Always(Caller::of_account("111122223333"));
        let audited = Audited::new(backend, audit.clone(), Some(callers.clone()));
        let settings = BudgetSettings::per_second(200.0);
        let budgets = Arc::new(Budgets::new(settings, clock.clone()));
        let policy = RetryPolicy {
            give_up_after: Duration::from_secs(60),
            ..RetryPolicy::KMS
        };
        Arc::new(Budgeted::new(Arc::new(audited), callers, budgets, policy))
    }

    fn audit(process: &Arc<Process>, clock: &SharedClock, disk: Arc<Disk>) -> AuditLog {
        let origin = Origin::here("rekeyd sim", "sim", Some(process.name.clone()));
        // The disk is good at the beginning.
        AuditLog::with_sink(Box::new(DiskSink(disk)), origin, clock.clone())
            .expect("the audit log starts")
    }

    /// A client library of its own, in a process of its own.
    pub(super) async fn client(&self, process: &Arc<Process>) -> Option<Client> {
        let clock: SharedClock = Arc::new(ProcessClock(process.clone()));
        let audit = Self::audit(process, &clock, Arc::default());
        let kms = self.kms(process, &audit, &clock);
        let store = self.store(process);
        for _ in 0..100 {
            let keys = InProcessKeys::builder(
                store.clone(),
                kms.clone(),
                Provider::LocalRing,
                audit.clone(),
                clock.clone(),
            );
            if let Ok(keys) = keys.build().await {
                let client = Client::builder(store.clone(), Arc::new(keys)).clock(clock.clone());
                if let Ok(client) = client.build().await {
                    return Some(client);
                }
            }
            clock.sleep(Duration::from_secs(1)).await;
        }
        None
    }

    /// A worker, in a process of its own, with a disk for its audit log.
    pub(super) fn worker(&self, process: &Arc<Process>, disk: Arc<Disk>) -> Arc<Worker> {
        let clock: SharedClock = Arc::new(ProcessClock(process.clone()));
        let audit = Self::audit(process, &clock, disk);
        let store = self.store(process);
        // Small pages and tasks: a few messages are many steps.
        let limits = Limits {
            slices: 3,
            kms: 4,
            writes: 3,
            page_rows: 3,
            batch_rows: 2,
            checkpoint_ms: 20,
            task_slices: 2,
            ..Limits::default()
        };
        let shared = Shared {
            book: JobBook::new(store.clone(), clock.clone()),
            registry: Registry::new(store.clone(), clock.clone()),
            kms: self.kms(process, &audit, &clock),
            provider: Provider::LocalRing,
            audit: audit.clone(),
            clock: clock.clone(),
            timing: timing(),
            limits,
            parking: Parking::new(clock.clone()),
            compute: self.compute.clone(),
            throttles: Throttles::new(clock.clone(), timing().max_skew_ms, Waiting::default()),
            store,
        };
        Arc::new(Worker {
            shared: Arc::new(shared),
            queue: self.queue(process),
            name: WorkerName {
                worker: process.name.clone(),
                audit,
                waiting: Waiting::default(),
            },
            pace: Pace {
                tasks: 2,
                poll_ms: 2_000,
                visibility: Duration::from_secs(60),
                receive_wait: Duration::from_secs(20),
                kms_rate_per_s: 200.0,
                set_aside_s: 7_776_000,
            },
            health: None,
            pulse: Pulse::new(clock.clone()),
            open: OpenJobs::default(),
        })
    }

    /// A CMK of this number.
    pub(super) fn cmk(n: usize) -> CmkArn {
        let arn =
            format!("arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-{n:012}");
        CmkArn::new(arn).expect("an ARN")
    }
}

/// The disk under an audit log, which may fill up. What is written to it is the
/// business of other tests.
#[derive(Default)]
pub(super) struct Disk(AtomicBool);

impl Disk {
    pub(super) fn fill_up(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct DiskSink(Arc<Disk>);

impl Sink for DiskSink {
    fn append(&mut self, _: &[u8]) -> io::Result<()> {
        if self.0.0.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left"));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}
