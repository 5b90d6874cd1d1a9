//! Is everything as a worker needs it? One look at each part, with what is wrong
//! and how to mend it. Nothing is changed; the only calls that leave a trace are
//! canaries to the KMS, which are audited.
//!
//! A part that cannot be reached makes what depends on it `not checked`, never
//! ok. A failed check does not end the look: all is told in one run.
//!
//! | file | what |
//! |---|---|
//! | `settings` | files that the configuration names, and the environment |
//! | `store` | the store: reachable, fit, all nodes there, its waits, its clock |
//! | `queue` | the queue |
//! | `keys` | each CMK of each organization, by canaries |
//! | `system` | this machine and process: memory, limits, disks, time service |

pub mod keys;
pub mod queue;
pub mod settings;
pub mod store;
pub mod system;

use std::time::Duration;

use serde::Serialize;

/// How a check ended, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be looked at; says why.
    NotChecked,
    /// Works, and is not as it should be.
    Warning,
    /// Has to be mended.
    Wrong,
}

impl State {
    /// As people read it.
    pub fn in_words(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::NotChecked => "not checked",
            State::Warning => "warning",
            State::Wrong => "wrong",
        }
    }
}

/// What a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The configuration and the environment.
    Configuration,
    /// The store.
    Store,
    /// The waits that all processes share.
    Timing,
    /// The clock.
    Clock,
    /// The queue.
    Queue,
    /// The audit log.
    Audit,
    /// A CMK, or the KMS.
    Kms,
    /// Memory and what keeps it private.
    Memory,
    /// Space on disks.
    Disk,
    /// The worker's name.
    Worker,
}

impl Part {
    /// As people and programs read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Configuration => "configuration",
            Part::Store => "store",
            Part::Timing => "timing",
            Part::Clock => "clock",
            Part::Queue => "queue",
            Part::Audit => "audit",
            Part::Kms => "kms",
            Part::Memory => "memory",
            Part::Disk => "disk",
            Part::Worker => "worker",
        }
    }
}

/// One thing that was looked at. Holds no secret: names, states, numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about.
    pub part: Part,
    /// How it ended.
    pub state: State,
    /// What was seen, in words.
    pub says: String,
    /// How to mend it, where there is something to mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The organization, for a check of one of its CMKs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The CMK, for a check of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmk: Option<String>,
}

impl Check {
    fn new(part: Part, state: State, says: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            part,
            state,
            says: says.into(),
            fix,
            org: None,
            cmk: None,
        }
    }

    /// As it should be.
    pub fn ok(part: Part, says: impl Into<String>) -> Self {
        Self::new(part, State::Ok, says, None)
    }

    /// Works, and is not as it should be.
    pub fn warning(part: Part, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(part, State::Warning, says, Some(fix.into()))
    }

    /// Has to be mended.
    pub fn wrong(part: Part, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(part, State::Wrong, says, Some(fix.into()))
    }

    /// Could not be looked at, and why.
    pub fn not_checked(part: Part, says: impl Into<String>) -> Self {
        Self::new(part, State::NotChecked, says, None)
    }
}

/// Why a part could not be put together, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What happened.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Broken {
    /// As a check.
    pub fn check(&self, part: Part) -> Check {
        Check::wrong(part, &self.what, &self.fix)
    }
}

/// The worst of the checks.
pub fn worst(checks: &[Check]) -> State {
    checks.iter().map(|c| c.state).max().unwrap_or(State::Ok)
}

/// Waits so long and no longer: a part that does not answer must not keep the
/// others from being looked at.
async fn within<T>(limit: Duration, question: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(limit, question)
        .await
        .map_err(|_| format!("no answer within {} s", limit.as_secs_f64()))
}
