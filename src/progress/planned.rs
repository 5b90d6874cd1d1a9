//! The plan that a job was asked for with, beside what happened, in words.

use std::time::Duration;

use super::figures;
use crate::clock::WallTime;
use crate::job::{Estimate, JobRow};

/// How long it has taken so far, or in all. Since preflight had passed; nothing
/// before it was planned.
pub fn seconds(job: &JobRow, now: WallTime) -> Option<u64> {
    let began = job.activated.as_ref()?.at_ms;
    let until = job.ended_ms().unwrap_or_else(|| now.unix_ms());
    Some(until.saturating_sub(began).div_ceil(1000))
}

/// For people, in one line; `None` if it was asked for without a plan. `job` with
/// its open round ([`JobRow::so_far`]).
pub fn in_words(job: &JobRow, now: WallTime) -> Option<String> {
    let plan = job.request.plan()?;
    let figures = |slices: String, kms_calls: u64, seconds: u64| {
        format!(
            "{slices}, {}, {}",
            figures::count(kms_calls, "KMS call"),
            figures::span(Duration::from_secs(seconds))
        )
    };
    let planned = match &plan.estimate {
        Some(Estimate {
            slices,
            kms_calls,
            seconds,
        }) => {
            let slices = figures::count(*slices, "slice");
            format!("planned {}", figures(slices, *kms_calls, *seconds))
        }
        None => "known by its hash alone".to_owned(),
    };
    let so_far = match seconds(job, now) {
        Some(seconds) => {
            let slices = figures::count(job.effort.slices, "slice") + " in all passes";
            figures(slices, job.effort.kms_calls, seconds)
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
