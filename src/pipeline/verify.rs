//! The proof: every cell of the job's epoch opens under its key.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::crypto::cell::{self, Scratch};
use crate::pipeline::crossing::cross;
use crate::pipeline::work::{OpenablePage, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::scope::Locus;

/// The stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    pages: mpsc::Receiver<OpenablePage>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let pool = task.shared.compute.clone();
    cross(pool, pages, done, move |page| one_page(&task, page)).await
}

fn one_page(task: &TaskRun, openable: OpenablePage) -> Tally {
    let OpenablePage { page, keys, .. } = openable;
    let mut tally = page.tally;
    let mut scratch = Scratch::default();
    for (stored, key) in page.cells.into_iter().zip(&keys) {
        let locus = Locus::Message {
            org: &task.org,
            channel: &page.view.channel,
            record: &stored.record,
        };
        match cell::open_into(key, &locus, &stored.cell, &mut scratch) {
            Ok(_) => tally.counts.current += 1,
            Err(error) => tally.quarantine(stored.record, stored.write_time, error.code()),
        }
    }
    tally
}
