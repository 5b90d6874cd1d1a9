//! Why the demo could not go on, or did not hold.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::audit;
use crate::client::{ClientError, ErrorKind};
use crate::ids::InvalidId;
use crate::import::ImportError;
use crate::job::BookError;
use crate::kms::KmsError;
use crate::kms::local::RingError;
use crate::store::StoreError;

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
    /// The cluster is not one that a demo can run on.
    #[error("the cluster is not as it must be: {0}")]
    Unfit(String),
    /// The keyspace is somebody's.
    #[error(
        "keyspace {keyspace} is there already, and `rekeyd {owner}` did not make it: it has no \
         table made_by_rekeyd_{owner}. Nothing was touched; name one that is not there yet"
    )]
    Foreign {
        /// The keyspace.
        keyspace: String,
        /// Who was to use it.
        owner: &'static str,
    },
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
    pub(crate) fn io(what: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io {
            what,
            path: path.to_owned(),
            error,
        }
    }
}
