//! The documents. Each allows what `calls` lists and nothing else.
//!
//! **What binds a call to the organization.** `StringEquals` on
//! `kms:EncryptionContext:organization` fails where the pair is missing, so a
//! call without a context is not allowed. IAM compares the name of the pair
//! without regard to case, while the KMS binds it exactly; therefore the names of
//! all pairs are held to ours as well (`ForAllValues:StringEquals` on
//! `kms:EncryptionContextKeys`). `ForAllValues` alone would hold for a call
//! without any context, so it never stands alone.
//!
//! **Why there is a Deny too.** Other policies of the role, a grant or a later
//! edit may allow more; a Deny wins over all of them. `StringNotEquals` holds
//! where the pair is missing, so one statement denies both another organization
//! and no organization. `DescribeKey` and `GetKeyPolicy` send no context
//! and stand apart from both.

use crate::ids::{CmkArn, OrgId};

use super::calls::LOOKS;
use super::document::{Effect, OneOrMany, Policy, Statement};
use super::{Role, Sides};

/// Most characters of a managed policy, white space not counted (IAM's quota).
pub const MANAGED_POLICY_CHARS: usize = 6_144;
/// Most bytes of a key policy (KMS's quota).
pub const KEY_POLICY_BYTES: usize = 32_768;
/// Most characters of a role's trust policy, unless the quota was raised.
pub const TRUST_POLICY_CHARS: usize = 2_048;

/// The pair that every context has.
const ORGANIZATION: &str = "kms:EncryptionContext:organization";
/// The names of the pairs of a call.
const PAIR_NAMES: &str = "kms:EncryptionContextKeys";
/// Every pair that a scope may have.
const PAIRS: [&str; 7] = [
    "channel",
    "file",
    "hour",
    "job",
    "kind",
    "organization",
    "workspace",
];
/// The statement that denies a role every action which it has no use for.
pub(super) const NOTHING_ELSE: &str = "RekeydNothingElse";
/// What uses a CMK under a context, by wildcards where AWS may add a sibling.
const USES: [&str; 4] = [
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
];

/// Who is meant by the documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// The role that the process runs as.
    pub process_role: String,
    /// The role in the customer's account that it assumes, if there is one. It
    /// then calls the KMS as this one.
    pub customer_role: Option<String>,
    /// What the customer's role wants to be told.
    pub external_id: Option<String>,
}

impl Cast {
    /// The role that the KMS sees.
    pub fn caller(&self) -> &str {
        self.customer_role.as_deref().unwrap_or(&self.process_role)
    }
}

/// The queues of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queues {
    /// ARN of the queue that jobs come from.
    pub jobs: String,
    /// ARN of the queue for refused messages.
    pub dead_letters: Option<String>,
}

/// The statements of a key policy for one CMK.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KeyPolicy {
    /// The CMK.
    pub cmk: CmkArn,
    /// Whether new keys are made or wrapped under it.
    pub is_new: bool,
    /// A document with the statements to add to the CMK's own policy.
    pub policy: Policy,
}

/// The identity policy of the role that calls the KMS.
pub fn role_policy(role: Role, org: &OrgId, sides: &Sides) -> Policy {
    let rights = role.rights();
    let mut statements = Vec::new();
    for (sid, actions, cmks) in [
        (
            "UseAllUnderTheOrganization",
            rights.on_all,
            sides.all().collect::<Vec<_>>(),
        ),
        (
            "UseNewUnderTheOrganization",
            rights.on_new,
            sides.new.iter().collect(),
        ),
    ] {
        if !actions.is_empty() && !cmks.is_empty() {
            let statement = Statement::new(sid, Effect::Allow, actions).on(cmks);
            statements.push(within(statement, org));
        }
    }
    let touched: Vec<&CmkArn> = match role {
        Role::Verifier => sides.new.iter().collect(),
        Role::Reencrypt | Role::Rewrap => sides.all().collect(),
    };
    if rights.describes {
        statements.push(Statement::new("Describe", Effect::Allow, LOOKS).on(&touched));
    }
    statements.push(
        Statement::new("DenyOutsideTheOrganization", Effect::Deny, USES)
            .on(&touched)
            .only_if("StringNotEquals", ORGANIZATION, [org]),
    );
    Policy::of(None, statements)
}

/// What the owner of each CMK adds to its key policy.
///
/// Beside what it allows, it denies the role everything else: whatever our own
/// account's policies say, the role gets no more from the customer's key.
pub fn key_policies(role: Role, org: &OrgId, sides: &Sides, cast: &Cast) -> Vec<KeyPolicy> {
    let rights = role.rights();
    let old = sides.old.iter().map(|cmk| (cmk, false));
    let new = sides.new.iter().map(|cmk| (cmk, true));
    let mut all = Vec::new();
    for (cmk, is_new) in old.chain(new) {
        let mut uses: Vec<&str> = rights.on_all.to_vec();
        if is_new {
            uses.extend(rights.on_new);
        }
        if uses.is_empty() {
            // The verifier and an old CMK: it has nothing to do there.
            continue;
        }
        let caller = cast.caller();
        // In a key policy `*` is the CMK that it belongs to.
        let here = ["*"];
        let use_it = Statement::new("RekeydUse", Effect::Allow, &uses)
            .about(caller)
            .on(here);
        let mut statements = vec![within(use_it, org)];
        let mut permitted = uses.clone();
        if rights.describes {
            permitted.extend(LOOKS);
            let describe = Statement::new("RekeydDescribe", Effect::Allow, LOOKS);
            statements.push(describe.about(caller).on(here));
        }
        statements.push(
            Statement::new("RekeydOnlyInItsOrganization", Effect::Deny, USES)
                .about(caller)
                .on(here)
                .only_if("StringNotEquals", ORGANIZATION, [org]),
        );
        // With the one above: a context that names its organization and has a pair
        // that is none of ours, or ours in other letters.
        statements.push(
            Statement::new("RekeydOnlyItsPairs", Effect::Deny, USES)
                .about(caller)
                .on(here)
                .only_if("ForAnyValue:StringNotEquals", PAIR_NAMES, PAIRS),
        );
        statements.push(Statement {
            action: None,
            not_action: Some(OneOrMany::of(permitted)),
            ..Statement::new::<&str>(NOTHING_ELSE, Effect::Deny, [])
                .about(caller)
                .on(here)
        });
        let id = Some(format!("rekeyd-{}-{org}", role.as_str()));
        all.push(KeyPolicy {
            cmk: cmk.clone(),
            is_new,
            policy: Policy::of(id, statements),
        });
    }
    all
}

/// What a worker does with its queues: takes jobs, and puts what it refuses
/// among the dead letters. Sending jobs and looking at dead letters is for
/// whoever operates it.
pub fn queue_policy(queues: &Queues) -> Policy {
    let take = [
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:ReceiveMessage",
    ];
    let mut statements = vec![Statement::new("TakeJobs", Effect::Allow, take).on([&queues.jobs])];
    if let Some(dead_letters) = &queues.dead_letters {
        // Its URL is asked for where the configuration does not have it.
        let refuse = ["sqs:GetQueueUrl", "sqs:SendMessage"];
        statements.push(Statement::new("RefuseJobs", Effect::Allow, refuse).on([dead_letters]));
    }
    Policy::of(None, statements)
}

/// Lets the process take on the customer's role.
pub fn assume_role(cast: &Cast) -> Option<Policy> {
    let role = cast.customer_role.as_ref()?;
    let assume = Statement::new("AssumeTheCustomersRole", Effect::Allow, ["sts:AssumeRole"]);
    Some(Policy::of(None, vec![assume.on([role])]))
}

/// The trust policy of the customer's role: our process, and only when it says
/// the external id that the customer gave for this organization. A missing id
/// fails `StringEquals`.
pub fn trust_policy(cast: &Cast) -> Option<Policy> {
    cast.customer_role.as_ref()?;
    let mut assume =
        Statement::new("TrustRekeyd", Effect::Allow, ["sts:AssumeRole"]).about(&cast.process_role);
    if let Some(id) = &cast.external_id {
        assume = assume.only_if("StringEquals", "sts:ExternalId", [id]);
    }
    Some(Policy::of(None, vec![assume]))
}

/// Only under a context of this organization.
fn within(statement: Statement, org: &OrgId) -> Statement {
    statement
        .only_if("StringEquals", ORGANIZATION, [org])
        .only_if("ForAllValues:StringEquals", PAIR_NAMES, PAIRS)
}
