//! The plan that a job was asked for with, beside what happened.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::plan;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::ids::Sha256Hex;
use crate::job::{Estimate, JobMessage, JobRow, PlanRef};
use crate::plan::{Plan, PlanFile};

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

/// For programs; null where the job has no plan.
pub(super) fn for_programs(job: &JobRow, now: WallTime) -> Value {
    let Some(plan) = job.request.plan() else {
        return Value::Null;
    };
    json!({
        "sha256": plan.sha256, "planned": plan.estimate, "at_preflight": job.estimate,
        "happened": happened(job, now),
    })
}

/// What came of it so far. Slices and calls are those of finished rounds.
fn happened(job: &JobRow, now: WallTime) -> Value {
    json!({
        "slices": job.round.map(|round| round.slices),
        "kms_calls": job.effort.kms_calls,
        "seconds": seconds(job, now),
    })
}

/// Since preflight had passed; nothing before it was planned.
fn seconds(job: &JobRow, now: WallTime) -> Option<u64> {
    let began = job.activated.as_ref()?.at_ms;
    let until = job.ended_ms().unwrap_or_else(|| now.unix_ms());
    Some(until.saturating_sub(began).div_ceil(1000))
}

/// For people, in one line.
pub(super) fn in_words(job: &JobRow, now: WallTime) -> Option<String> {
    let plan = job.request.plan()?;
    let figures = |e: &Estimate| {
        format!(
            "{}, {}, {}",
            figures::count(e.slices, "slice"),
            figures::count(e.kms_calls, "KMS call"),
            figures::span(Duration::from_secs(e.seconds))
        )
    };
    let planned = match &plan.estimate {
        Some(estimate) => format!("planned {}", figures(estimate)),
        None => "known by its hash alone".to_owned(),
    };
    let so_far = match seconds(job, now) {
        Some(seconds) => {
            let slices = job.round.map_or(0, |round| round.slices);
            figures(&Estimate {
                slices,
                kms_calls: job.effort.kms_calls,
                seconds,
            })
        }
        None => "not begun".to_owned(),
    };
    let when = match job.state.is_final() {
        true => "happened",
        false => "so far",
    };
    let sha256 = &plan.sha256.to_string()[..12];
    Some(format!("{sha256}…: {planned}; {when} {so_far}"))
}
