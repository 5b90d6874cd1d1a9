//! Whose turn it is at a partition of control rows.
//!
//! Conditional writes and serial reads are rounds of Paxos, and rounds of one
//! partition that run side by side make each other start anew: with a hundred at
//! once nothing gets done. So of one process one request at a time goes to each
//! partition, in the order in which they came.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Line, OwnedMutexGuard};

use crate::store::ControlTable;

/// So many lines may be known before those in which nobody stands are forgotten.
const MANY: usize = 1024;

/// A line is forgotten when nobody stands in it.
type Known = HashMap<(ControlTable, String), Weak<Line<()>>>;

/// The lines of all partitions.
#[derive(Default)]
pub(super) struct Lines {
    known: Mutex<Known>,
}

impl Lines {
    /// Waits for its turn, which lasts until the answer is dropped.
    pub async fn turn(&self, table: ControlTable, partition: &str) -> OwnedMutexGuard<()> {
        self.line(table, partition).lock_owned().await
    }

    fn line(&self, table: ControlTable, partition: &str) -> Arc<Line<()>> {
        // Nothing that is done under the lock can panic.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MANY {
            known.retain(|_, line| line.strong_count() > 0);
        }
        let line = known.entry((table, partition.to_owned())).or_default();
        line.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Line::new(()));
            *line = Arc::downgrade(&new);
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_goes_to_a_partition_and_lines_that_are_empty_are_forgotten() {
        let lines = Lines::default();
        let first = lines.turn(ControlTable::Jobs, "acme").await;
        let mut second = Box::pin(lines.turn(ControlTable::Jobs, "acme"));
        assert!((&mut second).now_or_never().is_none());
        // Another table, another partition: other lines.
        assert!(
            lines
                .turn(ControlTable::Tasks, "acme")
                .now_or_never()
                .is_some()
        );
        assert!(
            lines
                .turn(ControlTable::Jobs, "beta")
                .now_or_never()
                .is_some()
        );
        drop(first);
        drop(second.await);
        for n in 0..3 * MANY {
            drop(lines.turn(ControlTable::Jobs, &n.to_string()).await);
        }
        assert!(lines.known.lock().unwrap().len() <= MANY);
    }
}
