//! One task, from its first slice to its last checkpoint.
//!
//! ```text
//! rewrite, reencrypt   plan -> stream -> unwrap -> reencrypt -> write -> checkpoint
//! rewrite, rewrap      plan -> stream -> rewrap ----------------------> checkpoint
//! verify,  reencrypt   plan -> stream -> unwrap -> verify ------------> checkpoint
//! verify,  rewrap      plan -> stream -> rewrap ----------------------> checkpoint
//! drain                plan -> stream -> wraps -----------------------> checkpoint
//! copy                 plan -> stream -> copy ------------------------> checkpoint
//! sweep                plan -> stream -> copy (-> sweep) -------------> checkpoint
//! ```
//!
//! A copy reads and writes two places, and what it does with a page depends on
//! what it finds in the other one. So a page goes through `compare`, `unwrap`,
//! `reencrypt` and `write` within one stage, as often as it takes.
//!
//! Each stage is a file and runs on its own; bounded channels join them, so a
//! slow stage slows down those before it. The async runtime does I/O; rayon does
//! the cryptography, and `crossing` is the only place where work goes from one
//! to the other and back.
//!
//! Many slices are in flight at once, because real slices are small and each
//! costs calls to the KMS. Memory is bounded by the bytes of cells in flight,
//! whatever a partition holds.

mod aside;
mod checkpoint;
mod compare;
mod copy;
mod crossing;
pub mod order;
mod parking;
mod patience;
pub mod plan;
mod reencrypt;
mod rewrap;
mod stream;
mod sweep;
mod targets;
pub mod triage;
mod unwrap;
mod verify;
mod views;
mod work;
mod wraps;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OnceCell, RwLock, Semaphore, mpsc, watch};

pub use parking::Parking;
pub use patience::{Passing, patiently};
pub use targets::Targets;
pub use views::{AllowLists, Views};

use crate::audit::{AuditError, AuditLog};
use crate::clock::SharedClock;
use crate::crypto::Provider;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, JobId, OrgId};
use crate::job::{
    BookError, HoldError, JobBook, JobMessage, Mode, MoveKind, MoveRequest, Pass, TaskHold,
    Throttles,
};
use crate::kms::{KmsError, ReasonCode, SharedKms, Use};
use crate::registry::{Registry, RegistryError, Timing};
use crate::store::{SharedStore, StoreError};

/// How much may be in flight at once, per worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Slices of one task.
    pub slices: usize,
    /// Bytes of cells of one task. A share each, so that pages which wait for the
    /// KMS of one organization do not take the room of another's.
    pub task_bytes: usize,
    /// Pages of one task that wait for the KMS.
    pub kms: usize,
    /// Pages of one task that are being written.
    pub writes: usize,
    /// Rows of one page.
    pub page_rows: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// Rows of one batch.
    pub batch_rows: usize,
    /// Bytes of one batch.
    pub batch_bytes: usize,
    /// Shortest time between two checkpoints of a task.
    pub checkpoint_ms: u64,
    /// Slices of one task at most.
    pub task_slices: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slices: 64,
            task_bytes: 8 << 20,
            kms: 128,
            writes: 64,
            page_rows: 400,
            page_bytes: 256 << 10,
            batch_rows: 100,
            batch_bytes: 128 << 10,
            checkpoint_ms: 500,
            task_slices: plan::SLICES_PER_TASK,
        }
    }
}

/// What all tasks of one worker share.
pub struct Shared {
    /// The store.
    pub store: SharedStore,
    /// The registry in it.
    pub registry: Registry,
    /// The jobs in it.
    pub book: JobBook,
    /// The KMS, audited and within its budget.
    pub kms: SharedKms,
    /// Which KMS it is, as key rows say it.
    pub provider: Provider,
    /// The audit log of this process.
    pub audit: AuditLog,
    /// Time.
    pub clock: SharedClock,
    /// The waits of the store.
    pub timing: Timing,
    /// How much may be in flight.
    pub limits: Limits,
    /// CMKs that cannot be used now.
    pub parking: Parking,
    /// What operators slow this process down by.
    pub throttles: Throttles,
    /// The compute threads.
    pub compute: Arc<rayon::ThreadPool>,
}

impl Limits {
    /// Room for the cells of one task.
    pub fn room(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new((self.task_bytes / 1024).max(1)))
    }
}

/// What a job is for, as its tasks see it.
#[derive(Debug, Clone)]
pub enum Goal {
    /// All cells or all keys are to be of the job's epoch, under its CMK.
    Rekey {
        /// How it rewrites.
        mode: Mode,
        /// The CMK of the job's epoch.
        to_cmk: CmkArn,
    },
    /// All cells of a channel are to be sealed for the workspace it is in now.
    MoveInPlace,
    /// All cells of a channel are to be in another place.
    Copy(Arc<MoveRequest>),
}

impl Goal {
    /// What a request is for.
    pub fn of(request: &JobMessage) -> Self {
        match request {
            JobMessage::Rekey(rekey) => Goal::Rekey {
                mode: rekey.mode,
                to_cmk: rekey.to_cmk.clone(),
            },
            JobMessage::Move(request) => match request.kind() {
                MoveKind::InPlace => Goal::MoveInPlace,
                MoveKind::Copy => Goal::Copy(Arc::new(request.clone())),
            },
        }
    }
}

/// A task as the pipeline sees it.
pub struct TaskRun {
    /// What all tasks share.
    pub shared: Arc<Shared>,
    /// The job.
    pub job: JobId,
    /// The organization it goes through.
    pub org: OrgId,
    /// The only channel of it that it goes through, if there is one.
    pub channel: Option<ChannelId>,
    /// Who asked for the job.
    pub requested_by: String,
    /// What the job is for.
    pub goal: Goal,
    /// The job's epoch.
    pub epoch: Epoch,
    /// What the task does.
    pub pass: Pass,
    /// The round it belongs to.
    pub round: u32,
    /// The job's last rewriting round: what was left as it is since then cannot
    /// be rewritten now.
    pub rewrite_round: u32,
    /// The task's row id, for audit records.
    pub task_id: String,
    /// The fencing token of this claim.
    pub token: u64,
    /// Room in memory, in units of 1 KiB.
    pub room: Arc<Semaphore>,
    /// The task's row, held.
    pub hold: Arc<TaskHold>,
    /// The registry's rows of its channels.
    pub views: Views,
    /// Where a copy's cells go.
    pub targets: Targets,
    /// The CMKs that may be used, read again when one is missing.
    pub allow_lists: AllowLists,
    /// Jobs that have set keys aside, and until when; read when a key is missed.
    pub asides: OnceCell<Vec<(JobId, u64)>>,
    /// The CMKs of epochs, as later jobs have named them; read when one is met.
    pub later_epochs: RwLock<BTreeMap<Epoch, CmkArn>>,
    /// Turns true when the worker is asked to stop: finish what is in flight,
    /// begin nothing new.
    pub stop: watch::Receiver<bool>,
}

impl TaskRun {
    /// Why this task uses keys, for the audit.
    pub fn why(&self) -> Use {
        let code = match (self.pass, &self.goal) {
            (Pass::Verify | Pass::Drain, _) => ReasonCode::Verify,
            (Pass::Rewrite | Pass::Copy | Pass::Sweep, Goal::Rekey { .. }) => ReasonCode::Rekey,
            (Pass::Rewrite | Pass::Copy | Pass::Sweep, _) => ReasonCode::ChannelMove,
        };
        let mut why = Use::new(code, "");
        why.job = Some(self.job);
        why.requested_by = Some(self.requested_by.clone());
        why.task = Some((self.task_id.clone(), self.token));
        why
    }

    /// How it rewrites. A move always re-encrypts.
    pub fn mode(&self) -> Mode {
        match &self.goal {
            Goal::Rekey { mode, .. } => *mode,
            Goal::MoveInPlace | Goal::Copy(_) => Mode::Reencrypt,
        }
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All its slices were gone through.
    Through,
    /// The worker was asked to stop; the rest is for another.
    Stopped,
}

/// Why a task could not go on. What is durable stays; another worker, or this
/// one, takes the task up again at its checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The store failed for good.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A row could not be read or changed.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The lease is lost.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// What cannot be recorded is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The KMS refuses this worker or this job as such.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The copy that the task is for is under way no more: it was called off, or
    /// others have taken it further.
    #[error("the copy of job {0} is not under way any more")]
    CalledOff(JobId),
    /// A compute thread panicked over a page. The log names the place; the task
    /// is taken up again at its checkpoint.
    #[error("a compute thread panicked; see the line before this one for the place")]
    Compute,
}

/// Items that wait between two stages.
const BETWEEN_STAGES: usize = 32;

/// Runs a task to its end. Dropping the future stops it anywhere; nothing is
/// lost by that (I7).
pub async fn run(task: Arc<TaskRun>) -> Result<Ended, TaskError> {
    let (tickets_in, tickets) = mpsc::channel(BETWEEN_STAGES);
    let (pages_in, pages) = mpsc::channel(BETWEEN_STAGES);
    let (done_in, done) = mpsc::channel(4 * BETWEEN_STAGES);

    let plan = plan::slices_of_task(task.clone(), tickets_in);
    let stream = stream::run(task.clone(), tickets, pages_in, done_in.clone());
    let checkpoint = checkpoint::run(task.clone(), done);

    match (task.pass, task.mode()) {
        (Pass::Rewrite, Mode::Reencrypt) => {
            let (openable_in, openable) = mpsc::channel(BETWEEN_STAGES);
            let (sealed_in, sealed) = mpsc::channel(BETWEEN_STAGES);
            let unwrap = unwrap::run(task.clone(), pages, openable_in, done_in.clone());
            let reencrypt = reencrypt::run(task.clone(), openable, sealed_in);
            let write = write::run(task.clone(), sealed, done_in);
            tokio::try_join!(plan, stream, unwrap, reencrypt, write, checkpoint)?;
        }
        (Pass::Verify, Mode::Reencrypt) => {
            let (openable_in, openable) = mpsc::channel(BETWEEN_STAGES);
            let unwrap = unwrap::run(task.clone(), pages, openable_in, done_in.clone());
            let verify = verify::run(task.clone(), openable, done_in);
            tokio::try_join!(plan, stream, unwrap, verify, checkpoint)?;
        }
        (Pass::Rewrite | Pass::Verify, Mode::Rewrap) => {
            let rewrap = rewrap::run(task.clone(), pages, done_in);
            tokio::try_join!(plan, stream, rewrap, checkpoint)?;
        }
        (Pass::Copy | Pass::Sweep, _) => {
            let copy = copy::run(task.clone(), pages, done_in);
            tokio::try_join!(plan, stream, copy, checkpoint)?;
        }
        (Pass::Drain, _) => {
            let wraps = wraps::run(task.clone(), pages, done_in);
            tokio::try_join!(plan, stream, wraps, checkpoint)?;
        }
    }
    Ok(if task.stopping() {
        Ended::Stopped
    } else {
        Ended::Through
    })
}
