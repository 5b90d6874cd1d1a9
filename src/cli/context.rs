//! What every command starts from: the configuration, the clock, and the parts
//! it asks for.

use std::time::Duration;

use crate::audit::AuditLog;
use crate::cli::exit::Exit;
use crate::cli::out::Out;
use crate::cli::report::{self, Failure};
use crate::clock::{SharedClock, SystemClock};
use crate::config::{Config, KmsKind, Loaded, QueueKind};
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{JobBook, JobRow, TaskRow, Versioned};
use crate::kms::SharedKms;
use crate::kms::local::{RingAdmin, RingError};
use crate::progress;
use crate::queue::SharedQueue;
use crate::registry::{CmkAccess, Registry};
use crate::store::SharedStore;
use crate::telemetry::waiting::Waiting;
use crate::wiring;

/// The caller that the KMS and the audit log see when an operator acts.
pub(super) const OPERATOR: &str = "operator";
/// The caller of an import.
pub(super) const IMPORTER: &str = "importer";

/// How long a command tries a KMS that does not answer; the last try comes on top.
const GIVE_UP_S: u64 = 20;
/// How often a command looks whether it has to say what it waits for.
const LOOK: Duration = Duration::from_secs(1);

/// One run of a command.
pub(super) struct Context {
    pub loaded: Loaded,
    pub out: Out,
    pub clock: SharedClock,
}

impl Context {
    pub fn new(loaded: Loaded, out: Out) -> Self {
        Self {
            loaded,
            out,
            clock: SystemClock::shared(),
        }
    }

    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// Runs to the end on this thread: most commands ask a few questions.
    pub fn run<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| report::system("cannot start the runtime", e))?
            .block_on(work)
    }

    /// Runs to the end on a thread per core.
    pub fn run_on_all_cores<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|e| report::system("cannot start the runtime", e))?
            .block_on(work)
    }

    pub async fn store(&self) -> Result<SharedStore, Failure> {
        if !self.config().store.kind.is_cluster() {
            self.must_stand(&self.config().store.path, "store")?;
        }
        Ok(wiring::store(self.config(), &self.clock).await?)
    }

    pub async fn queue(&self) -> Result<SharedQueue, Failure> {
        if self.config().queue.kind == QueueKind::Sqlite {
            self.must_stand(&self.config().queue.path, "queue")?;
        }
        Ok(wiring::queue(self.config(), &self.clock).await?)
    }

    fn must_stand(&self, path: &std::path::Path, what: &str) -> Result<(), Failure> {
        if path.exists() {
            return Ok(());
        }
        let what = format!("there is no {what} at {}", path.display());
        Err(Failure::new(Exit::NotSetUp, what).help(
            "make one with `rekeyd init`, or name the right place with `--data-dir` or `--config`",
        ))
    }

    pub async fn registry(&self) -> Result<Registry, Failure> {
        Ok(Registry::new(self.store().await?, self.clock.clone()))
    }

    pub async fn book(&self) -> Result<JobBook, Failure> {
        Ok(JobBook::new(self.store().await?, self.clock.clone()))
    }

    pub fn ring(&self) -> Result<RingAdmin, Failure> {
        let opened = RingAdmin::open(&self.config().kms.ring);
        // It may stand all the same, and be served as a KMS.
        if let (KmsKind::Aws, Err(RingError::NotARing { .. })) = (self.config().kms.kind, &opened) {
            let what = "this is for the local key ring, and there is none: kms.kind is `aws`";
            return Err(Failure::new(Exit::NotSetUp, what).help(
                "the KMS's own tools list its keys and change them, such as `aws kms list-keys`; \
                 `rekeyd org show <ORG>` lists the CMKs of an organization",
            ));
        }
        Ok(opened?)
    }

    /// Starts an audit stream for this command, as `caller`.
    pub fn audit(&self, caller: &str) -> Result<AuditLog, Failure> {
        let service = format!("rekeyd {caller}");
        Ok(wiring::audit_as(
            self.config(),
            &service,
            caller,
            None,
            &self.clock,
        )?)
    }

    /// The KMS, for a command that somebody waits for: it says what it waits for,
    /// and tries each call for so many seconds at most.
    pub async fn kms_within(
        &self,
        give_up_s: u64,
        caller: &str,
        audit: &AuditLog,
    ) -> Result<SharedKms, Failure> {
        let config = self.giving_up_after(give_up_s);
        let waiting = self.telling();
        let made = wiring::kms_noting(&config, caller, audit, &self.clock, waiting).await?;
        Ok(made.0)
    }

    /// As [`Context::kms_within`], as patient as a worker: for what takes long.
    pub async fn patient_kms(&self, caller: &str, audit: &AuditLog) -> Result<SharedKms, Failure> {
        let (config, waiting) = (self.config(), self.telling());
        let made = wiring::kms_noting(config, caller, audit, &self.clock, waiting).await?;
        Ok(made.0)
    }

    fn giving_up_after(&self, seconds: u64) -> Config {
        let mut config = self.config().clone();
        config.kms.give_up_s = config.kms.give_up_s.min(seconds);
        config
    }

    /// A board; what stands on it for a while is said on standard error.
    fn telling(&self) -> Waiting {
        let board = Waiting::default();
        if !self.out.is_json() {
            let (clock, shown) = (self.clock.clone(), board.clone());
            // Ends with the command.
            tokio::spawn(async move {
                let mut said = false;
                loop {
                    clock.sleep(LOOK).await;
                    let words = shown.words();
                    if let (Some(words), false) = (&words, said) {
                        eprintln!("{words}; it is tried again");
                    }
                    said = words.is_some();
                }
            });
        }
        board
    }

    /// As [`Context::kms_within`], for entering a CMK that is not in the registry yet.
    pub async fn kms_entering(
        &self,
        caller: &str,
        audit: &AuditLog,
        entering: (&OrgId, &CmkArn, &CmkAccess),
    ) -> Result<SharedKms, Failure> {
        let (config, clock) = (self.giving_up_after(GIVE_UP_S), &self.clock);
        let waiting = self.telling();
        Ok(wiring::kms_entering(&config, caller, audit, clock, entering, waiting).await?)
    }
}

/// Who acts, as registry rows and job histories name them.
pub(super) fn who() -> String {
    match std::env::var("USER") {
        Ok(user) if !user.is_empty() && !user.chars().any(char::is_control) => {
            user.chars().take(64).collect()
        }
        _ => OPERATOR.to_owned(),
    }
}

/// The tasks of a job's open round; none between rounds.
pub(super) async fn tasks(book: &JobBook, job: &JobRow) -> Result<Vec<TaskRow>, Failure> {
    let Some(round) = job.round else {
        return Ok(Vec::new());
    };
    let tasks = book.tasks(job.request.job_id(), round.number).await?;
    Ok(tasks.into_iter().map(|task| task.row).collect())
}

/// Puts the verdict of a job at its end right by what later jobs did: whether it
/// has lapsed, and which job has the answer of today, where one has a better one.
pub(super) async fn verdict_of_today(
    book: &JobBook,
    registry: &Registry,
    job: &mut JobRow,
) -> Result<(bool, Option<JobId>), Failure> {
    if !job.state.is_final() {
        return Ok((false, None));
    }
    let org = job.request.org().clone();
    let activations = registry.activations(&org).await?;
    let lapsed = progress::lapse(job, &activations);
    let mut rows = Vec::new();
    for id in progress::later(job, &activations) {
        rows.extend(book.get(&org, id).await?.map(|later| later.row));
    }
    Ok((lapsed, progress::answer(job, &rows, &activations)))
}

/// A job that must be there.
pub(super) async fn job(book: &JobBook, id: JobId) -> Result<Versioned<JobRow>, Failure> {
    book.find(id).await?.ok_or_else(|| Failure::no_job(id))
}
