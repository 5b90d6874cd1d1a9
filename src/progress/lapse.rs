//! A verdict that a later job made untrue.

use crate::ids::CmkArn;
use crate::job::{JobRow, Verdict};
use crate::registry::ActivationRow;

/// A verdict holds until a later job makes the old CMK active again, whatever
/// became of that job. From then on the row says so in place of what its end
/// said. `activations` are those of the job's organization.
pub fn lapse(job: &mut JobRow, activations: &[ActivationRow]) -> bool {
    let Some(own) = &job.activated else {
        return false;
    };
    // A move says where a channel is, not what a CMK is needed for.
    if !job.state.is_drained() || job.request.rekey().is_none() {
        return false;
    }
    let is_active_again = |cmk: &&CmkArn| {
        activations
            .iter()
            .any(|later| later.epoch > own.epoch && later.to_cmk == **cmk)
    };
    let old = std::iter::once(&own.from_cmk)
        .chain(&job.freed)
        .find(is_active_again)
        .cloned();
    let Some(old) = old else {
        return false;
    };
    let verdict = Verdict::Lapsed { old }.to_string();
    job.why.clone_from(&verdict);
    job.verdict = Some(verdict);
    true
}
