//! Which revocations a rekey would lift: what the old CMK's key policy denies and
//! the new one's does not.

use crate::iam::drift::{Keyed, Lifted, lifted};
use crate::ids::{CmkArn, OrgId, Sha256Hex};
use crate::job::JobMessage;
use crate::kms::{KmsClass, KmsError};
use crate::worker::WorkerError;
use crate::worker::preflight::Preflight;

/// Denies that a reason names; the plan shows all.
const NAMED: usize = 3;

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// The key policies were compared: these Denies the new one lacks.
    Compared(Vec<Lifted>),
    /// Nobody could look, and why.
    NotLooked(String),
    /// Not now; begins with a code.
    Wait(String),
    /// It is no rekey: a move changes the scope, and Denies by the scope do not
    /// follow.
    NotOfThisJob,
}

/// Compares the key policies of a rekey's CMKs, as far as the KMS lets us read
/// them.
///
/// # Errors
/// If the registry cannot be read, or the KMS cannot be called at all.
pub async fn look(preflight: &Preflight<'_>) -> Result<Drift, WorkerError> {
    let JobMessage::Rekey(request) = preflight.message else {
        return Ok(Drift::NotOfThisJob);
    };
    let active = preflight.registry.org(&request.org).await?.cmk;
    let old = match policy(preflight, &request.org, &active).await? {
        Ok(text) => text,
        Err(drift) => return Ok(drift),
    };
    let new = match policy(preflight, &request.org, &request.to_cmk).await? {
        Ok(text) => text,
        Err(drift) => return Ok(drift),
    };
    Ok(compare(&active, &old, &request.to_cmk, &new))
}

/// Compares two policies that were read or given.
pub fn compare(old: &CmkArn, old_policy: &str, new: &CmkArn, new_policy: &str) -> Drift {
    let old = Keyed {
        cmk: old,
        policy: old_policy,
    };
    let new = Keyed {
        cmk: new,
        policy: new_policy,
    };
    match lifted(old, new) {
        Ok(lifted) => Drift::Compared(lifted),
        Err(why) => Drift::NotLooked(why),
    }
}

async fn policy(
    preflight: &Preflight<'_>,
    org: &OrgId,
    cmk: &CmkArn,
) -> Result<Result<String, Drift>, WorkerError> {
    let answer = preflight.kms.key_policy(cmk, org, &preflight.why).await;
    match answer {
        Ok(text) => Ok(Ok(text)),
        Err(error) => without(cmk, error).map(Err),
    }
}

fn without(cmk: &CmkArn, error: KmsError) -> Result<Drift, WorkerError> {
    match error.class {
        KmsClass::FatalWorker => Err(error.into()),
        KmsClass::Unavailable | KmsClass::Transient { .. } => Ok(Drift::Wait(format!(
            "kms_unavailable: the key policy of `{cmk}` could not be read ({})",
            error.code
        ))),
        _ => Ok(Drift::NotLooked(format!(
            "GetKeyPolicy of `{cmk}` answers {}",
            error.code
        ))),
    }
}

/// Those of the Denies that the request does not accept.
pub fn open<'a>(message: &JobMessage, lifted: &'a [Lifted]) -> Vec<&'a Lifted> {
    let accepted: &[Sha256Hex] = match message {
        JobMessage::Rekey(request) => &request.accept_lifted_denies,
        JobMessage::Move(_) => &[],
    };
    let open = lifted.iter().filter(|one| !accepted.contains(&one.sha256));
    open.collect()
}

/// Why a job does not start, and what helps, unless every Deny is accepted.
pub fn not_accepted(message: &JobMessage, lifted: &[Lifted]) -> Option<String> {
    let JobMessage::Rekey(request) = message else {
        return None;
    };
    let open = open(message, lifted);
    if open.is_empty() {
        return None;
    }
    let named: Vec<String> = open.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match open.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    let (org, to, job) = (&request.org, &request.to_cmk, request.job_id);
    Some(format!(
        "policy_drift: the rekey would lift what only the old CMK denies: {}{more}. Carry each \
         over to `{to}` and run `rekeyd retry {job}`, or cancel and ask again with \
         `--accept-lifted-deny <SHA-256>`; `rekeyd plan rekey --org {org} --to {to}` lists them",
        named.join("; ")
    ))
}
