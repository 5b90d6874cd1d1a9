//! The plan that a job was asked for with, beside what happened, in words.

use std::time::Duration;

use super::figures;
use crate::clock::WallTime;
use crate::job::{Estimate, JobRow};

/// How long it has taken so far, or in all. Since preflight had passed; nothing
/// before it was planned.
pub fn seconds(job: &JobRow, now: WallTime) -> Option<u64> {
    let began = job.activated.as_ref()?.at_ms;
    let until = match job.state.is_final() {
        true => job.since_ms,
        false => now.unix_ms(),
    };
    Some(until.saturating_sub(began).div_ceil(1000))
}

/// For people, in one line; `None` if it was asked for without a plan.
pub fn in_words(job: &JobRow, now: WallTime) -> Option<String> {
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
