//! The sentence at the end: whether the old CMK may be disabled, or where a
//! channel is.

use crate::ids::{CmkArn, WorkspaceId};
use crate::registry::ChannelName;

/// What a job can say at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing live needs it, but a late write may still land.
    NotNeeded {
        /// The old CMK.
        old: CmkArn,
        /// When the drain ends, for people.
        after: String,
    },
    /// The good end.
    MayBeDisabled {
        /// The old CMK.
        old: CmkArn,
        /// CMKs that cancelled jobs before this one led away from.
        also: Vec<CmkArn>,
        /// Replicas of a multi-Region key.
        replicas: Vec<CmkArn>,
    },
    /// The bad end, until somebody acts.
    MustNotBeDisabled {
        /// The old CMK.
        old: CmkArn,
        /// Slices that wait for a key.
        blocked_slices: u64,
        /// Cells that were left as they are.
        quarantined: u64,
    },
    /// A later job made the old CMK active again.
    Lapsed {
        /// The old CMK.
        old: CmkArn,
    },
    /// The job was stopped after its activation.
    Unfinished {
        /// The old CMK.
        old: CmkArn,
        /// The CMK that new writes are under.
        active: CmkArn,
    },
    /// A move is proven, but a late write may still land.
    MoveProven {
        /// From where.
        from: ChannelName,
        /// To where.
        to: ChannelName,
        /// When the drain ends, for people.
        after: String,
    },
    /// The good end of a move.
    Moved {
        /// From where.
        from: ChannelName,
        /// To where.
        to: ChannelName,
        /// Cells that stay in the old place because nobody can open them.
        left_behind: u64,
    },
    /// A move waits for somebody.
    MoveWaits {
        /// From where.
        from: ChannelName,
        /// To where.
        to: ChannelName,
        /// Slices that wait for a key.
        blocked_slices: u64,
        /// Cells that were left as they are.
        quarantined: u64,
    },
    /// A later move in place took the channel on.
    MoveSuperseded {
        /// From where.
        from: ChannelName,
        /// The workspace it is in now.
        now_in: WorkspaceId,
    },
    /// A copy was called off before anybody read from the destination.
    MoveCalledOff {
        /// The channel, which stays.
        from: ChannelName,
    },
    /// A move in place was stopped after its activation.
    MoveUnfinished {
        /// From where.
        from: ChannelName,
        /// The workspace it is in now.
        now_in: WorkspaceId,
    },
}

/// `1 cell`, `2 cells`.
fn count(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::NotNeeded { old, after } => {
                write!(
                    f,
                    "live data no longer needs {old}, but the end of this job does: it may be \
                     disabled once the job is drained, {after} at the earliest"
                )
            }
            Verdict::MayBeDisabled {
                old,
                also,
                replicas,
            } => {
                write!(
                    f,
                    "no live cell or key needs {old}: it may be disabled. \
                     Backups older than this still need it; disable it and watch \
                     before you schedule its deletion"
                )?;
                if !also.is_empty() {
                    let list: Vec<&str> = also.iter().map(CmkArn::as_str).collect();
                    write!(f, ". The same holds for {}", list.join(", "))?;
                }
                if !replicas.is_empty() {
                    let list: Vec<&str> = replicas.iter().map(CmkArn::as_str).collect();
                    write!(f, ". It has replicas: {}", list.join(", "))?;
                }
                Ok(())
            }
            Verdict::MustNotBeDisabled {
                old,
                blocked_slices,
                quarantined,
            } => {
                write!(
                    f,
                    "{old} must not be disabled: {} blocked, {} quarantined",
                    count(*blocked_slices, "slice"),
                    count(*quarantined, "cell")
                )
            }
            Verdict::Lapsed { old } => write!(
                f,
                "{old} must not be disabled: a later job made it active again"
            ),
            Verdict::Unfinished { old, active } => write!(
                f,
                "{old} must not be disabled: the job was cancelled and part of the data is \
                 still under it. New writes go under {active}; a later job finishes the rest"
            ),
            Verdict::MoveProven { from, to, after } => write!(
                f,
                "every message of {to} opens under its own scope. Writes to {from} that were \
                 sent before may still land; they are carried over until {after}"
            ),
            Verdict::Moved {
                from,
                to,
                left_behind: 0,
            } => write!(
                f,
                "{from} is {to} now: no live message is under the old scope or in an old place"
            ),
            Verdict::Moved {
                from,
                to,
                left_behind,
            } => write!(
                f,
                "{from} is {to} now, {} left behind: nobody can open them, and they stay in the \
                 old place",
                count(*left_behind, "cell")
            ),
            Verdict::MoveWaits {
                from,
                to,
                blocked_slices,
                quarantined,
            } => write!(
                f,
                "the move of {from} to {to} is not at its end: {} blocked, {} quarantined",
                count(*blocked_slices, "slice"),
                count(*quarantined, "cell")
            ),
            Verdict::MoveSuperseded { from, now_in } => write!(
                f,
                "{from} is in workspace {now_in} now, by a later move; this one has nothing left \
                 to do"
            ),
            Verdict::MoveCalledOff { from } => write!(
                f,
                "{from} stays where it was, with every message; the copy was called off"
            ),
            Verdict::MoveUnfinished { from, now_in } => write!(
                f,
                "{from} is in workspace {now_in} now, and part of its messages is still under the \
                 old scope: the move was cancelled. All of it stays readable; a later move or \
                 rekey finishes the rest"
            ),
        }
    }
}
