//! The policies that AWS IAM and KMS need so that a role can do its part and no
//! more: built from the registry, and judged by an evaluator of the same grammar.
//!
//! Pure: nothing here calls anything. docs/iam.md says where each document goes.
//!
//! | file | what |
//! |---|---|
//! | `calls` | which KMS permissions each role uses, on which CMK, under which context |
//! | `policies` | the documents that allow exactly these |
//! | `document` | the JSON of a policy, as far as ours go |
//! | `drift` | which Denies of one key policy another lacks |
//! | `revoke` | the statement that revokes one channel for a span of hours |
//! | `evaluate` | IAM's rules for such a document: allowed or denied, and by what |

mod calls;
mod document;
pub mod drift;
pub mod evaluate;
mod policies;
pub mod revoke;
#[cfg(test)]
mod tests;

pub use calls::{Call, calls};
pub use document::{Condition, Effect, OneOrMany, Policy, Principal, Statement};
pub use policies::{
    Cast, KEY_POLICY_BYTES, KeyPolicy, MANAGED_POLICY_CHARS, Queues, TRUST_POLICY_CHARS,
    assume_role, key_policies, queue_policy, role_policy, trust_policy,
};

use crate::ids::CmkArn;
use crate::registry::{AllowList, CmkRole, OrgRow};

/// Whose policy it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The worker of jobs in mode `reencrypt`.
    Reencrypt,
    /// The worker of jobs in mode `rewrap`: it never gets a data key.
    Rewrap,
    /// Who opens what a rewrap has left, independently of the worker.
    Verifier,
}

impl Role {
    /// The word of `--mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reencrypt => "reencrypt",
            Role::Rewrap => "rewrap",
            Role::Verifier => "verifier",
        }
    }
}

/// The CMKs of an organization by what a worker may do with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    /// Opened only: data is or may be under them.
    pub old: Vec<CmkArn>,
    /// Opened, and new keys are made or wrapped under them.
    pub new: Vec<CmkArn>,
}

impl Sides {
    /// Tells the CMKs of an allow-list apart.
    ///
    /// New is what `asked` names. Else it is each target that is not active,
    /// and the active one while a job that made it active is unfinished
    /// (`is_moving`). Where that leaves none, no rekey is in sight, and the
    /// active one is new. Everything else on the list is old.
    ///
    /// # Errors
    /// The first of `asked` that is not on the list as a target.
    pub fn of(
        org: &OrgRow,
        list: &AllowList,
        asked: &[CmkArn],
        is_moving: bool,
    ) -> Result<Self, CmkArn> {
        let is_target = |cmk: &CmkArn| list.get(cmk).is_some_and(|row| row.role == CmkRole::Target);
        if let Some(cmk) = asked.iter().find(|cmk| !is_target(cmk)) {
            return Err(cmk.clone());
        }
        let is_new = |cmk: &CmkArn| {
            if asked.is_empty() {
                is_target(cmk) && (*cmk != org.cmk || is_moving)
            } else {
                asked.contains(cmk)
            }
        };
        let (mut new, mut old): (Vec<_>, Vec<_>) =
            list.iter().map(|(cmk, _)| cmk.clone()).partition(is_new);
        if new.is_empty() {
            old.retain(|cmk| *cmk != org.cmk);
            new.push(org.cmk.clone());
        }
        Ok(Self { old, new })
    }

    /// All of them, old first.
    pub fn all(&self) -> impl Iterator<Item = &CmkArn> {
        self.old.iter().chain(&self.new)
    }
}
