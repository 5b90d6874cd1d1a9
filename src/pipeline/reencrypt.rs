//! Opens each cell under its old key and seals it under the new one.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::crypto::{NonceSource, cell};
use crate::epoch::Epoch;
use crate::killpoint;
use crate::pipeline::crossing::cross;
use crate::pipeline::work::{NewCell, OpenablePage, SealedPage};
use crate::pipeline::{TaskError, TaskRun};
use crate::scope::Locus;

/// The stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    pages: mpsc::Receiver<OpenablePage>,
    out: mpsc::Sender<SealedPage>,
) -> Result<(), TaskError> {
    let pool = task.shared.compute.clone();
    cross(pool, pages, out, move |page| one_page(&task, page)).await
}

fn one_page(task: &TaskRun, openable: OpenablePage) -> SealedPage {
    let OpenablePage { page, keys, seal } = openable;
    let mut tally = page.tally;
    let mut cells = Vec::with_capacity(page.cells.len());
    // A page without a sealing key has no cells: unwrap has counted them.
    let epoch = seal.as_ref().map_or(Epoch::ZERO, |(_, epoch)| *epoch);
    if let Some((seal_key, epoch)) = &seal {
        // Seeded from the operating system for each page.
        let mut nonces = NonceSource::new();
        for (old, key) in page.cells.into_iter().zip(&keys) {
            let locus = Locus::Message {
                org: &task.org,
                channel: &page.view.channel,
                record: &old.record,
            };
            let made = cell::open(key, &locus, &old.cell).and_then(|plaintext| {
                let new = cell::seal(
                    seal_key,
                    *epoch,
                    old.header.expiry,
                    &nonces.next(),
                    &locus,
                    plaintext.as_bytes(),
                )?;
                // I9: no cell is written that was not opened and compared.
                let back = cell::open(seal_key, &locus, &new)?;
                if back.as_bytes() == plaintext.as_bytes() {
                    Ok(new)
                } else {
                    Err(crate::crypto::CellError::TagMismatch)
                }
            });
            match made {
                Ok(new) => cells.push(NewCell {
                    record: old.record,
                    cell: new,
                    write_time: old.write_time,
                    expiry: old.header.expiry.map(|h| (h, old.header.epoch, old.ttl_s)),
                    replaces: old.header,
                }),
                Err(error) => tally.quarantine(old.record, old.write_time, error.code()),
            }
        }
        killpoint::witness_sealed(&tally.slice.id, cells.len());
    }
    SealedPage {
        tally,
        view: page.view,
        read_at: page.read_at,
        answered_at: page.answered_at,
        epoch,
        cells,
    }
}
