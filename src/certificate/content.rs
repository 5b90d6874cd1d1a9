//! What stands in a certificate. Fields are only ever added; a reader passes over
//! those it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::StreamRef;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::{
    BlockedSlice, Counts, Estimate, JobRow, JobState, QuarantineRow, ThrottleEvent, Transition,
};

/// The version of this form.
const VERSION: u32 = 1;

/// Everything that is said of a job. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The version of this form: 1.
    pub v: u32,
    /// The version of rekeyd that made it.
    pub rekeyd: String,
    /// When it was made.
    pub made_at: String,
    /// Who made it.
    pub made_by: String,
    /// The organization.
    pub org: OrgId,
    /// The job.
    pub job_id: JobId,
    /// What was asked for.
    pub asked: Asked,
    /// How it ended, or where it is.
    pub outcome: Outcome,
    /// When the registry was changed; absent before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// What was expected before it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// What it took.
    pub done: Done,
    /// What it rests on.
    pub evidence: Evidence,
    /// Each change of its state, and what operators did to it.
    pub history: Vec<Step>,
    /// Throttles that were set or cleared for it.
    pub throttles: Vec<Throttled>,
}

/// What was asked for, and by whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// In one line.
    pub what: String,
    /// The message, field by field.
    pub request: Value,
    /// SHA-256 of the message as canonical JSON, hexadecimal.
    pub request_sha256: String,
    /// Who asked.
    pub requested_by: String,
    /// Why.
    pub reason: String,
    /// When it was recorded.
    pub recorded_at: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The state.
    pub state: String,
    /// Since when.
    pub since: String,
    /// Whether nothing more happens by itself.
    pub at_its_end: bool,
    /// The verdict, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Of a rekey: whether the old CMK may be disabled, as known when this was
    /// made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_cmk_may_be_disabled: Option<bool>,
}

/// The change of the registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// The job's epoch.
    pub epoch: Epoch,
    /// The CMK before; of a move, the active one.
    pub from_cmk: CmkArn,
    /// The CMK after; absent of a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_cmk: Option<CmkArn>,
    /// When.
    pub at: String,
}

/// What preflight expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Slices.
    pub slices: u64,
    /// KMS calls.
    pub kms_calls: u64,
    /// Seconds.
    pub seconds: u64,
}

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Slices finished, each pass counted.
    pub slices: u64,
    /// Bytes of cells read.
    pub bytes: u64,
    /// KMS calls answered.
    pub kms_calls: u64,
    /// Data keys made.
    pub keys_made: u64,
    /// Wraps added by a rewrap.
    pub keys_rewrapped: u64,
    /// Seconds from its record to its end, or to now.
    pub seconds: u64,
    /// How often a worker took the job up.
    pub drivers: u64,
    /// Tasks taken over from a worker that died, froze or was slow.
    pub takeovers: u64,
}

/// What the verdict rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Rows of the passes that rewrite.
    pub rewriting: Counts,
    /// Rows of the last scan.
    pub proof: Counts,
    /// Whether what became of the rows sums to the rows scanned, in both.
    pub counts_balance: bool,
    /// Slices that wait for a key now, by reason.
    pub blocked_slices: BTreeMap<String, u64>,
    /// Cells left as they were found, by reason.
    pub quarantined_cells: BTreeMap<String, u64>,
    /// How often the job was blocked: a revocation, a CMK that could not be used,
    /// cells that did not open. The history has the reasons.
    pub times_blocked: u64,
    /// The audit streams of all who worked on it, each with the hash of its
    /// newest record then. `rekeyd audit verify` holds the streams against them.
    pub audit: Vec<StreamRef>,
}

/// A change of state, or a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: String,
    /// From which state.
    pub from: String,
    /// To which; the same in a note.
    pub to: String,
    /// Who: a worker or an operator.
    pub who: String,
    /// Why.
    pub why: String,
}

/// A throttle that was set or cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// When.
    pub at: String,
    /// What it slows down: `all`, `org/…`, `job/…`.
    pub target: String,
    /// How much, in words; absent where it was cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
}

/// What a certificate is made from.
pub struct Sources<'a> {
    /// The job with its open round ([`JobRow::so_far`]), its verdict put right where
    /// a later job has made it untrue.
    pub job: &'a JobRow,
    /// Whether one has.
    pub lapsed: bool,
    /// Its history.
    pub history: &'a [Transition],
    /// Throttles that concerned it.
    pub throttles: &'a [ThrottleEvent],
    /// Slices that wait for a key.
    pub blocked: &'a [BlockedSlice],
    /// Cells that were left as they are.
    pub quarantined: &'a [QuarantineRow],
    /// When it is made, Unix milliseconds.
    pub now_ms: u64,
    /// By whom.
    pub made_by: &'a str,
}

impl Certificate {
    /// Puts together what is known of a job.
    pub fn of(sources: &Sources<'_>) -> Self {
        let job = sources.job;
        let request = &job.request;
        let is_over = job.state.is_final();
        let end_ms = job.ended_ms().unwrap_or(sources.now_ms);
        let effort = &job.effort;
        Self {
            v: VERSION,
            rekeyd: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: time(sources.now_ms),
            made_by: sources.made_by.to_owned(),
            org: request.org().clone(),
            job_id: request.job_id(),
            asked: Asked {
                what: request.what(),
                request: request.to_value(),
                request_sha256: job.body_sha256.clone(),
                requested_by: request.requested_by().to_owned(),
                reason: request.reason().to_owned(),
                recorded_at: time(job.recorded_ms),
            },
            outcome: Outcome {
                state: job.state.to_string(),
                since: time(job.since_ms),
                at_its_end: is_over,
                verdict: job.verdict.clone(),
                old_cmk_may_be_disabled: request
                    .rekey()
                    .map(|_| job.state.is_drained() && !sources.lapsed),
            },
            activation: job.activated.as_ref().map(|activated| Activation {
                epoch: activated.epoch,
                from_cmk: activated.from_cmk.clone(),
                to_cmk: request.rekey().map(|rekey| rekey.to_cmk.clone()),
                at: time(activated.at_ms),
            }),
            plan: job.estimate.map(|estimate: Estimate| Plan {
                slices: estimate.slices,
                kms_calls: estimate.kms_calls,
                seconds: estimate.seconds,
            }),
            done: Done {
                slices: effort.slices,
                bytes: effort.bytes,
                kms_calls: effort.kms_calls,
                keys_made: effort.keys_made,
                keys_rewrapped: effort.keys_rewrapped,
                seconds: end_ms.saturating_sub(job.recorded_ms) / 1000,
                drivers: job.token,
                takeovers: job.takeovers,
            },
            evidence: Evidence {
                rewriting: job.rewriting,
                proof: job.proof,
                counts_balance: job.rewriting.balances() && job.proof.balances(),
                blocked_slices: by_code(sources.blocked.iter().map(|slice| &slice.code)),
                quarantined_cells: by_code(sources.quarantined.iter().map(|cell| &cell.code)),
                times_blocked: sources
                    .history
                    .iter()
                    .filter(|step| step.to == JobState::Blocked && !step.is_note())
                    .count() as u64,
                audit: job.streams.clone(),
            },
            history: sources.history.iter().map(step).collect(),
            throttles: sources.throttles.iter().map(throttled).collect(),
        }
    }
}

fn step(step: &Transition) -> Step {
    Step {
        at: time(step.at_ms),
        from: step.from.to_string(),
        to: step.to.to_string(),
        who: step.who.clone(),
        why: step.why.clone(),
    }
}

fn throttled(event: &ThrottleEvent) -> Throttled {
    Throttled {
        at: time(event.at_ms),
        target: event.target.to_string(),
        limits: event.set.as_ref().map(|set| set.limits.to_string()),
        who: event.who.clone(),
        why: event.why.clone(),
    }
}

fn by_code<'a>(codes: impl Iterator<Item = &'a String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for code in codes {
        *counts.entry(code.clone()).or_default() += 1;
    }
    counts
}

fn time(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{unix_ms} ms"),
    }
}
