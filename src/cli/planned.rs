//! The plan that a job was asked for with, beside what happened.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::exit::Exit;
use crate::cli::plan;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::ids::Sha256Hex;
use crate::job::{JobMessage, JobRow, PlanRef};
use crate::plan::{Plan, PlanFile};
use crate::progress::planned::seconds;

pub(super) use crate::progress::planned::in_words;

/// Longest plan that is read from a file.
const PLAN_BYTES: u64 = 4 << 20;

/// The plan that `--plan` names: a hash, or a file with a plan of this very job.
pub(super) fn named(named: &str, message: &JobMessage) -> Result<PlanRef, Failure> {
    if let Ok(sha256) = named.parse::<Sha256Hex>() {
        return Ok(PlanRef {
            sha256,
            estimate: None,
        });
    }
    let text = plan::read(Path::new(named), PLAN_BYTES)?;
    let refuse = |why: String| {
        Failure::new(Exit::Usage, format!("`{named}`: {why}; nothing was sent"))
            .help("make it with `rekeyd plan … --output json`")
    };
    let file = PlanFile::parse(&text).map_err(refuse)?;
    let asked = Plan::of_job(message);
    if file.plan.job != asked {
        return Err(refuse(format!(
            "it is the plan of another job: {}, and this one is {asked}",
            file.plan.job
        )));
    }
    Ok(PlanRef {
        sha256: file.sha256,
        estimate: Some(file.plan.estimate()),
    })
}

/// For programs; null where the job has no plan. `job` with its open round
/// ([`JobRow::so_far`]).
pub(super) fn for_programs(job: &JobRow, now: WallTime) -> Value {
    let Some(plan) = job.request.plan() else {
        return Value::Null;
    };
    json!({
        "sha256": plan.sha256, "planned": plan.estimate, "at_preflight": job.estimate,
        "happened": happened(job, now),
    })
}

/// What came of it so far. Slices count once in each pass.
fn happened(job: &JobRow, now: WallTime) -> Value {
    json!({
        "slices": job.effort.slices,
        "kms_calls": job.effort.kms_calls,
        "seconds": seconds(job, now),
    })
}
