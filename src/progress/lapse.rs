//! Verdicts that later jobs made untrue, or have a better answer to.

use crate::ids::{CmkArn, JobId};
use crate::job::{JobRow, JobState, Verdict};
use crate::registry::ActivationRow;

/// A verdict holds until a later job makes the old CMK active again, whatever
/// became of that job. From then on the row says so in place of what its end
/// said. `activations` are those of the job's organization.
pub fn lapse(job: &mut JobRow, activations: &[ActivationRow]) -> bool {
    let Some(old) = lapsed(job, activations) else {
        return false;
    };
    say(job, Verdict::Lapsed { old }.to_string());
    true
}

fn say(job: &mut JobRow, verdict: String) {
    job.why.clone_from(&verdict);
    job.verdict = Some(verdict);
}

/// The CMK by which its verdict has lapsed.
fn lapsed(job: &JobRow, activations: &[ActivationRow]) -> Option<CmkArn> {
    // A move says where a channel is, not what a CMK is needed for.
    if !job.state.is_drained() || job.request.rekey().is_none() {
        return None;
    }
    let mut led_away = led_away(job);
    led_away.find(|cmk| is_active_after(job, cmk, activations))
}

/// The CMKs that its verdict is about.
fn led_away(job: &JobRow) -> impl Iterator<Item = CmkArn> {
    let own = job.activated.iter().map(|own| own.from_cmk.clone());
    own.chain(job.freed.iter().cloned())
}

/// Whether a later job made the CMK active.
fn is_active_after(job: &JobRow, cmk: &CmkArn, activations: &[ActivationRow]) -> bool {
    let Some(own) = &job.activated else {
        return false;
    };
    let mut later = activations.iter().filter(|later| later.epoch > own.epoch);
    later.any(|later| later.to_cmk == *cmk)
}

/// The CMK of a bad verdict that a later job may have an answer to: of a job that
/// was cancelled, or whose verdict has lapsed.
fn in_question(job: &JobRow, activations: &[ActivationRow]) -> Option<CmkArn> {
    if job.state == JobState::Cancelled && job.request.rekey().is_some() {
        return led_away(job).next();
    }
    lapsed(job, activations)
}

/// The jobs that may have the answer of today to a bad verdict of the past, the
/// latest first: those to be read for [`answer`]. None where there is no question.
pub fn later(job: &JobRow, activations: &[ActivationRow]) -> Vec<JobId> {
    let (Some(own), Some(_)) = (&job.activated, in_question(job, activations)) else {
        return Vec::new();
    };
    let mut later: Vec<_> = activations.iter().filter(|a| a.epoch > own.epoch).collect();
    later.sort_by_key(|a| std::cmp::Reverse(a.epoch));
    later.iter().map(|a| a.job).collect()
}

/// Has a bad verdict of the past point to the job that has the answer of today: a
/// later one that is drained, led away from the same CMK, and holds. The bad
/// verdict stays one. `later` are the rows of [`later`], in that order.
pub fn answer(job: &mut JobRow, later: &[JobRow], activations: &[ActivationRow]) -> Option<JobId> {
    let old = in_question(job, activations)?;
    let own = job.activated.as_ref()?.epoch;
    let by = later.iter().find(|by| {
        by.state.is_drained()
            && by.request.rekey().is_some()
            && by.activated.as_ref().is_some_and(|a| a.epoch > own)
            && led_away(by).any(|cmk| cmk == old)
            && lapsed(by, activations).is_none()
    })?;
    let by = by.request.job_id();
    let today = format!("job {by}, drained since, has the answer of today: `rekeyd status {by}`");
    let verdict = match job.state {
        JobState::Cancelled => {
            let then = job.verdict.as_deref().unwrap_or(&job.why);
            format!("at its end: {then}; {today}")
        }
        _ => format!("a later job made {old} active again after the end of this one; {today}"),
    };
    say(job, verdict);
    Some(by)
}
