//! Which throttles hold for a job, and a throttle in words.

use super::figures;
use crate::clock::WallTime;
use crate::ids::{JobId, OrgId};
use crate::job::{Throttle, ThrottleRows, ThrottleTarget};

/// A throttle in one line.
pub fn in_words(throttle: &Throttle, now: WallTime) -> String {
    let left = match figures::until(throttle.until_ms, now) {
        Some(left) => format!("for {} more", figures::span(left)),
        None => "ending".to_owned(),
    };
    format!(
        "{} to {} {left}, {}",
        throttle.target,
        throttle.limits,
        figures::printable(&throttle.why)
    )
}

/// The throttles that slow a job down now.
pub fn of_job(rows: &ThrottleRows, org: &OrgId, job: JobId, now: WallTime) -> Vec<Throttle> {
    let mut live = rows.live(now);
    live.retain(|throttle| throttle.target.applies_to(org, job));
    live
}

/// Names of throttles that cannot be read and may concern a job: it stands still
/// where no worker knows what they said.
pub fn unreadable_of_job(rows: &ThrottleRows, org: &OrgId, job: JobId) -> Vec<String> {
    let names = rows.unreadable().into_iter().map(|(name, _)| name);
    names
        .filter(|name| {
            let target = name.parse::<ThrottleTarget>();
            !target.is_ok_and(|target| !target.applies_to(org, job))
        })
        .collect()
}
