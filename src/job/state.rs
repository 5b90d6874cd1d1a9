//! The states of a job and every way from one to another. docs/state-machine.md
//! is this table in words; a test holds the two together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Recorded; waits for its time.
    Queued,
    /// The CMKs and the organization are tried; nothing has changed yet.
    Preflight,
    /// The registry is being changed.
    Activating,
    /// Waits until no writer can still follow the old state.
    Settling,
    /// Tasks rewrite.
    Rewriting,
    /// An independent scan looks for what is left.
    Verifying,
    /// The scan found nothing; late writes may still land.
    Verified,
    /// Waits out the life of a late write, then scans again.
    Draining,
    /// The end: nothing live needs the old CMK.
    Drained,
    /// Something waits for a person or a customer: blocked slices, quarantined
    /// cells, a CMK that cannot be used. Tried again by itself and by `retry`.
    Blocked,
    /// Refused or broken before activation; nothing was changed.
    Failed,
    /// Stopped by an operator. The store is readable; a later job finishes it.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 12] = [
        JobState::Queued,
        JobState::Preflight,
        JobState::Activating,
        JobState::Settling,
        JobState::Rewriting,
        JobState::Verifying,
        JobState::Verified,
        JobState::Draining,
        JobState::Drained,
        JobState::Blocked,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// The states a job may go to from this one.
    pub fn next(self) -> &'static [JobState] {
        use JobState::*;
        match self {
            Queued => &[Preflight, Failed, Cancelled],
            Preflight => &[Activating, Blocked, Failed, Cancelled],
            // Not cancelled: the driver may be about to change the registry, and
            // a job that was told to have ended must not do that.
            Activating => &[Settling, Failed],
            Settling => &[Rewriting, Cancelled],
            Rewriting => &[Verifying, Blocked, Cancelled],
            Verifying => &[Rewriting, Verified, Blocked, Cancelled],
            Verified => &[Draining, Cancelled],
            Draining => &[Rewriting, Drained, Blocked, Cancelled],
            Blocked => &[Preflight, Rewriting, Verifying, Cancelled],
            Drained | Failed | Cancelled => &[],
        }
    }

    /// Whether a job may go from this state to another.
    pub fn may_become(self, to: JobState) -> bool {
        self.next().contains(&to)
    }

    /// Whether nothing more happens by itself or by command.
    pub fn is_final(self) -> bool {
        self.next().is_empty()
    }

    /// Whether tasks of the job may be claimed.
    pub fn has_tasks(self) -> bool {
        matches!(
            self,
            JobState::Rewriting | JobState::Verifying | JobState::Draining | JobState::Blocked
        )
    }

    /// The word used in rows, commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Preflight => "preflight",
            JobState::Activating => "activating",
            JobState::Settling => "settling",
            JobState::Rewriting => "rewriting",
            JobState::Verifying => "verifying",
            JobState::Verified => "verified",
            JobState::Draining => "draining",
            JobState::Drained => "drained",
            JobState::Blocked => "blocked",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no state of a job"))
    }
}
