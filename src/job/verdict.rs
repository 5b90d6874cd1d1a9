//! The sentence at the end: whether the old CMK may be disabled.

use crate::ids::CmkArn;

/// What a job can say about the CMK it leads away from.
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
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::NotNeeded { old, after } => {
                write!(
                    f,
                    "{old} is no longer needed by live data; disable it after {after}"
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
                let slices = if *blocked_slices == 1 {
                    "slice"
                } else {
                    "slices"
                };
                let cells = if *quarantined == 1 { "cell" } else { "cells" };
                write!(
                    f,
                    "{old} must not be disabled: {blocked_slices} {slices} blocked, \
                     {quarantined} {cells} quarantined"
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
        }
    }
}
