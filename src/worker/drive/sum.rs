//! The tasks of a round, added up.

use crate::audit::StreamRef;
use crate::job::{Counts, Effort, JobRow, TaskRow, TaskState, Versioned, note_stream};
use crate::planted::{self, Bug};

/// The tasks of a round, added up.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) open: usize,
    pub(super) parked: usize,
    pub(super) counts: Counts,
    pub(super) effort: Effort,
    pub(super) blocked_slices: u64,
    pub(super) takeovers: u64,
    codes: std::collections::BTreeMap<String, u64>,
    streams: Vec<StreamRef>,
}

impl Sum {
    pub(super) fn of(tasks: &[Versioned<TaskRow>]) -> Self {
        let mut sum = Self::default();
        for task in tasks.iter().map(|task| &task.row) {
            match task.state {
                TaskState::Open => sum.open += 1,
                TaskState::Parked if planted::is(Bug::BlockedIsDone) => {}
                TaskState::Parked => sum.parked += 1,
                TaskState::Done => {}
            }
            sum.counts.add(&task.counts);
            sum.effort.add(&task.effort);
            sum.blocked_slices += task.blocked.len() as u64;
            sum.takeovers += u64::from(task.takeovers);
            for stream in &task.streams {
                note_stream(&mut sum.streams, stream.clone());
            }
            for blocked in &task.blocked {
                *sum.codes.entry(blocked.code.clone()).or_default() += 1;
            }
        }
        sum
    }

    /// Why things wait, in one line.
    pub(super) fn reasons(&self) -> String {
        let mut parts: Vec<String> = self
            .codes
            .iter()
            .map(|(code, n)| format!("{n} slices {code}"))
            .collect();
        if self.counts.quarantined > 0 {
            parts.push(format!("{} cells quarantined", self.counts.quarantined));
        }
        if parts.is_empty() {
            parts.push("nothing waits any more".to_owned());
        }
        parts.join(", ")
    }

    /// Closes the round in the job's row, in the same write as the transition.
    pub(super) fn fold_into(&self, row: &mut JobRow) {
        row.effort.add(&self.effort);
        row.takeovers += self.takeovers;
        row.blocked_slices = 0;
        for stream in &self.streams {
            note_stream(&mut row.streams, stream.clone());
        }
        row.round = None;
    }
}
