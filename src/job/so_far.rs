//! What a job has done, its open round included.

use crate::job::lease::note_stream;
use crate::job::rows::{JobRow, Pass, TaskRow};

impl JobRow {
    /// The row with what the tasks of its open round have done so far. A round is
    /// added to the job's row only at its end, which may be days away where slices
    /// wait for a key.
    ///
    /// `proof` stays that of the last scan that was finished: half of one proves
    /// nothing.
    pub fn so_far<'a>(&self, tasks: impl IntoIterator<Item = &'a TaskRow>) -> Self {
        let mut row = self.clone();
        let rewrites = self
            .round
            .is_some_and(|round| matches!(round.pass, Pass::Rewrite | Pass::Copy));
        for task in tasks {
            row.effort.add(&task.effort);
            row.takeovers += u64::from(task.takeovers);
            if rewrites {
                row.rewriting.add(&task.counts);
            }
            for stream in &task.streams {
                note_stream(&mut row.streams, stream.clone());
            }
        }
        row
    }
}
