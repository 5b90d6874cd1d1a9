//! A data directory with an organization in it, and workers on it.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::audit::AuditLog;
use rekeyd::client::{Client, InProcessKeys};
use rekeyd::clock::{SharedClock, SystemClock};
use rekeyd::config::Config;
use rekeyd::crypto::{CellKey, KeyRowBody, NonceSource, cell, expiry};
use rekeyd::demo::generate::Recipe;
use rekeyd::epoch::Epoch;
use rekeyd::ids::{CmkArn, JobId, OrgId, WorkspaceId};
use rekeyd::job::{BookError, JobBook, JobMessage, JobRow, JobState, Mode, RekeyRequest};
use rekeyd::kms::local::{NewKey, RingAdmin};
use rekeyd::kms::{ReasonCode, SharedKms, Use};
use rekeyd::queue::SharedQueue;
use rekeyd::registry::{Registry, RegistryError, Timing};
use rekeyd::scope::{Locus, Scope};
use rekeyd::store::{CellWrite, KeyRow, SharedStore, SliceKey, StoreError, StoreErrorClass};
use rekeyd::wiring;
use rekeyd::worker::WorkerError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backend::{Backend, usual_waits};

// Not every program that has a rig uses both.
#[allow(unused_imports)]
pub use crate::backend::{PATIENCE, short_waits};

/// Everything a test needs, in a directory of its own.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub backend: Backend,
    pub config: Config,
    pub clock: SharedClock,
    pub store: SharedStore,
    pub queue: SharedQueue,
    pub registry: Registry,
    pub book: JobBook,
    pub audit: AuditLog,
    pub kms: SharedKms,
    pub ring: RingAdmin,
    pub org: OrgId,
    pub workspace: WorkspaceId,
    pub old: CmkArn,
    pub new: CmkArn,
}

impl Rig {
    /// An organization `acme` under one CMK, with a second one allowed.
    pub async fn new() -> Self {
        Self::with_timing(&usual_waits()).await
    }

    /// The same, in a store with other waits.
    pub async fn with_timing(timing: &Timing) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::new(dir.path(), timing).await;
        Self::on(dir, backend).await
    }

    /// The same on parts that were made already, in a directory.
    pub async fn on(dir: tempfile::TempDir, backend: Backend) -> Self {
        let config = backend.config();
        let ring = RingAdmin::open(&config.kms.ring).unwrap();
        let unlock = wiring::unlock(&config);
        let old = ring.create_key(&unlock, &NewKey::default()).unwrap();
        let new = ring.create_key(&unlock, &NewKey::default()).unwrap();
        let rig = Self::open(dir, backend, old, new).await;
        let canary = rig.canary(&rig.old).await;
        rig.registry
            .add_org(&rig.org, &rig.old, &canary, "test")
            .await
            .unwrap();
        rig.allow(&rig.new).await;
        rig
    }

    /// A client library of its own: nothing cached.
    pub async fn client(&self) -> Client {
        let (kms, _) = wiring::kms(
            &self.backend.config_of("application"),
            "application",
            &self.audit,
            &self.clock,
        )
        .await
        .unwrap();
        let keys = InProcessKeys::builder(
            self.store.clone(),
            kms,
            wiring::provider(&self.config),
            self.audit.clone(),
            self.clock.clone(),
        );
        let keys = Arc::new(keys.build().await.unwrap());
        Client::builder(self.store.clone(), keys)
            .build()
            .await
            .unwrap()
    }

    /// The same data in another directory. Filling a store costs many calls
    /// and commits; copying one costs nothing. Nobody may write to this one
    /// meanwhile.
    pub async fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backend = self
            .backend
            .copy(self.dir.path(), &self.store, dir.path())
            .await;
        Self::open(dir, backend, self.old.clone(), self.new.clone()).await
    }

    async fn open(dir: tempfile::TempDir, backend: Backend, old: CmkArn, new: CmkArn) -> Self {
        let clock = SystemClock::shared();
        let config = backend.config();
        let store = wiring::store(&config, &clock).await.unwrap();
        let audit = wiring::audit(&config, "rekeyd test", None, &clock).unwrap();
        let (kms, _) = wiring::kms(&backend.config_of("operator"), "operator", &audit, &clock)
            .await
            .unwrap();
        Self {
            registry: Registry::new(store.clone(), clock.clone()),
            book: JobBook::new(store.clone(), clock.clone()),
            queue: wiring::queue(&config, &clock).await.unwrap(),
            ring: RingAdmin::open(&config.kms.ring).unwrap(),
            org: OrgId::new("acme").unwrap(),
            workspace: WorkspaceId::new("w1").unwrap(),
            dir,
            backend,
            config,
            clock,
            store,
            audit,
            kms,
            old,
            new,
        }
    }

    /// Puts a CMK on the allow-list.
    pub async fn allow(&self, cmk: &CmkArn) {
        let canary = self.canary(cmk).await;
        self.registry
            .allow_cmk(&self.org, cmk, &canary, "test")
            .await
            .unwrap();
    }

    async fn canary(&self, cmk: &CmkArn) -> Vec<u8> {
        let scope = Scope::Canary {
            org: self.org.clone(),
        };
        let why = Use::new(ReasonCode::Enrol, "test");
        self.kms
            .generate_data_key(cmk, &scope, &why)
            .await
            .unwrap()
            .wrapped
            .bytes
    }

    /// Seals and writes messages under the active CMK, as a writer would.
    pub async fn fill(&self, recipe: &Recipe) -> u64 {
        let mut written = 0;
        for slice in recipe.plan() {
            let (channel, hour) = (slice.channel(), slice.hour());
            let view = self
                .registry
                .ensure_channel(&self.org, &self.workspace, &channel)
                .await
                .unwrap();
            let desired = view.desired();
            let scope = view.scope(hour);
            let why = Use::new(ReasonCode::Import, "test");
            let made = self
                .kms
                .generate_data_key(&desired.cmk, &scope, &why)
                .await
                .unwrap();
            let key = CellKey::derive(made.dek, &scope);
            let body = KeyRowBody {
                wrap_epoch: desired.wrap_epoch,
                provider: wiring::provider(&self.config),
                commitment: key.commitment().clone(),
                created_ms: self.clock.wall().unix_ms(),
                cmk: made.wrapped.cmk,
                key_material_id: None,
                scope,
                wrapped: made.wrapped.bytes,
            };
            let row = KeyRow {
                key_id: key.key_id(),
                wrap_epoch: desired.wrap_epoch,
                row: body.encode().unwrap(),
            };
            let address = SliceKey::messages(&self.org, &channel, hour);
            self.store.insert_key(&address, &row).await.unwrap();
            let mut nonces = NonceSource::new();
            let mut writes = Vec::new();
            for generated in slice.messages(recipe) {
                let message = generated.message;
                let locus = Locus::Message {
                    org: &self.org,
                    channel: &channel,
                    record: &message.record,
                };
                let at = generated.expiry_s;
                let now = self.clock.wall();
                let sealed = cell::seal(
                    &key,
                    desired.cell_epoch,
                    at,
                    &nonces.next(),
                    &locus,
                    &message.json,
                )
                .unwrap();
                writes.push(CellWrite {
                    record: message.record.clone(),
                    cell: sealed.into(),
                    write_time: message.write_time,
                    ttl_s: at.map_or(0, |at| {
                        expiry::store_ttl(at, desired.cell_epoch, None, now).unwrap()
                    }),
                });
            }
            for batch in writes.chunks(100) {
                self.store
                    .write_cells(&view.partition(hour), batch)
                    .await
                    .unwrap();
                written += batch.len() as u64;
            }
        }
        written
    }

    /// Starts a worker in this process.
    pub async fn worker(&self) -> RunningWorker {
        self.worker_on(self.store.clone()).await
    }

    /// The same, on a decorator around the store.
    pub async fn worker_on(&self, store: SharedStore) -> RunningWorker {
        let parts = wiring::worker_on(store, &self.config, &self.clock)
            .await
            .unwrap();
        let (ask, stop) = watch::channel(false);
        let running = tokio::spawn(parts.worker.clone().run(stop));
        RunningWorker {
            ask,
            running,
            audit: parts.audit,
        }
    }

    /// A request to rekey to a CMK.
    pub fn request(&self, to: &CmkArn, mode: Mode) -> RekeyRequest {
        let cause = (mode == Mode::Rewrap).then_some(rekeyd::job::Cause::Scheduled);
        RekeyRequest {
            job_id: JobId::random(),
            org: self.org.clone(),
            from_cmk: None,
            to_cmk: to.clone(),
            mode,
            requested_by: "test".to_owned(),
            reason: "a test".to_owned(),
            cause,
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
            accept_lifted_denies: Vec::new(),
        }
    }

    /// Sends a request and returns its job id.
    pub async fn enqueue(&self, request: RekeyRequest) -> JobId {
        let id = request.job_id;
        self.queue
            .send(&JobMessage::Rekey(request).to_json())
            .await
            .unwrap();
        id
    }

    /// What stands of a job.
    pub async fn seen(&self, job: JobId) -> Option<JobRow> {
        let found = patiently(|| self.book.get(&self.org, job)).await;
        found.map(|found| found.row)
    }

    /// Waits until a job satisfies a condition.
    pub async fn wait(&self, job: JobId, what: &str, until: impl Fn(&JobRow) -> bool) -> JobRow {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(row) = self.seen(job).await
                    && until(&row)
                {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        match waited {
            Ok(row) => row,
            Err(_) => {
                let last = self.seen(job).await;
                panic!("waited in vain for {what}; last seen: {last:#?}")
            }
        }
    }

    /// Waits until a job is in a state.
    pub async fn wait_state(&self, job: JobId, state: JobState) -> JobRow {
        self.wait(job, state.as_str(), |row| row.state == state)
            .await
    }

    /// The epochs of all cells, with how many cells have each.
    pub async fn epochs(&self) -> std::collections::BTreeMap<Epoch, u64> {
        use rekeyd::pipeline::plan::SliceWalk;
        use rekeyd::store::{Consistency, PageLimit};
        let mut epochs = std::collections::BTreeMap::new();
        let mut walk = SliceWalk::new(
            self.store.clone(),
            self.registry.clone(),
            self.org.clone(),
            None,
            None,
        );
        while let Some(slice) = walk.next().await.unwrap() {
            let view = patiently(|| self.registry.view(&self.org, &slice.channel));
            let partition = view.await.partition(slice.hour);
            let mut after = None;
            let limit = PageLimit {
                rows: 1000,
                bytes: 1 << 20,
            };
            loop {
                let (store, quorum) = (&self.store, Consistency::Quorum);
                let read = || store.read_page(&partition, after.as_ref(), limit, quorum);
                let page = patiently(read).await;
                for cell in page.cells {
                    let header = rekeyd::crypto::Header::parse(&cell.cell).unwrap();
                    *epochs.entry(header.epoch).or_default() += 1;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        epochs
    }
}

/// An error that may be of the moment only.
pub trait Passing: std::fmt::Display {
    /// Whether the store may answer when it is asked again.
    fn may_pass(&self) -> bool;
}

impl Passing for StoreError {
    fn may_pass(&self) -> bool {
        self.class == StoreErrorClass::Transient
    }
}

impl Passing for BookError {
    fn may_pass(&self) -> bool {
        matches!(self, BookError::Store(e) if e.may_pass())
    }
}

impl Passing for RegistryError {
    fn may_pass(&self) -> bool {
        matches!(self, RegistryError::Store(e) if e.may_pass())
    }
}

/// Asks the store until it answers, for what may be asked twice. A node may be
/// dead for a while, or late because the machine has too much to do: neither is
/// what a test is about.
pub async fn patiently<T, E, F>(mut ask: impl FnMut() -> F) -> T
where
    E: Passing,
    F: Future<Output = Result<T, E>>,
{
    let begin = tokio::time::Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.may_pass() && begin.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A worker that runs in this process.
pub struct RunningWorker {
    ask: watch::Sender<bool>,
    running: JoinHandle<Result<(), WorkerError>>,
    audit: AuditLog,
}

impl RunningWorker {
    /// Asks it to stop and waits for it.
    pub async fn stop(self) {
        self.ask.send_replace(true);
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .expect("the worker stops")
            .expect("the worker does not panic")
            .expect("the worker ends well");
        self.audit.close().await.unwrap();
    }
}
