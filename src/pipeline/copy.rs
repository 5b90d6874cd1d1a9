//! Copies cells to another place (being written).

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::pipeline::work::{Page, Tally};
use crate::pipeline::{TaskError, TaskRun};

/// The stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<Page>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let _ = (task, pages.recv().await, done);
    unimplemented!("copies are not written yet")
}
