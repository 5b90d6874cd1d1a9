//! Opens each cell under its old key and seals it under the new one.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::crypto::cell::{self, Scratch};
use crate::crypto::{CellError, CellKey, NonceSource};
use crate::epoch::Epoch;
use crate::killpoint;
use crate::pipeline::crossing::cross;
use crate::pipeline::work::{Cell, NewCell, OpenablePage, SealedPage};
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
    if let Some((key, epoch)) = &seal {
        let mut forge = Forge::new();
        for (old, old_key) in page.cells.into_iter().zip(&keys) {
            let locus = Locus::Message {
                org: &task.org,
                channel: &page.view.channel,
                record: &old.record,
            };
            let seal = Seal {
                key,
                epoch: *epoch,
                locus: &locus,
            };
            match forge.renew(old_key, &locus, &old, std::slice::from_ref(&seal)) {
                Ok(mut made) => cells.extend(made.pop().map(|cell| NewCell {
                    record: old.record,
                    cell: cell.into(),
                    write_time: old.write_time,
                    expiry: old.header.expiry.map(|h| (h, old.header.epoch, old.ttl_s)),
                    replaces: old.header,
                })),
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

/// What a new cell is sealed with, and for where.
pub(super) struct Seal<'a> {
    /// The key.
    pub(super) key: &'a CellKey,
    /// The epoch.
    pub(super) epoch: Epoch,
    /// Where the new cell will be.
    pub(super) locus: &'a Locus<'a>,
}

/// Makes new cells of old ones. Kept for a page: its room is used again.
pub(super) struct Forge {
    nonces: NonceSource,
    opened: Scratch,
    checked: Scratch,
}

impl Forge {
    /// Seeded from the operating system.
    pub(super) fn new() -> Self {
        Self {
            nonces: NonceSource::new(),
            opened: Scratch::default(),
            checked: Scratch::default(),
        }
    }

    /// Opens a cell where it is and seals it for each place that it goes to, with
    /// the expiry that it proves.
    pub(super) fn renew(
        &mut self,
        key: &CellKey,
        locus: &Locus<'_>,
        old: &Cell,
        seals: &[Seal<'_>],
    ) -> Result<Vec<Vec<u8>>, CellError> {
        let text = cell::open_into(key, locus, &old.cell, &mut self.opened)?;
        let expiry = old.header.expiry;
        let mut made = Vec::with_capacity(seals.len());
        for seal in seals {
            let nonce = self.nonces.next();
            let new = cell::seal(seal.key, seal.epoch, expiry, &nonce, seal.locus, text)?;
            made.push(compared(
                seal.key,
                seal.locus,
                new,
                text,
                &mut self.checked,
            )?);
        }
        Ok(made)
    }
}

/// I9: no cell is written that was not opened and compared.
fn compared(
    key: &CellKey,
    locus: &Locus<'_>,
    new: Vec<u8>,
    text: &[u8],
    scratch: &mut Scratch,
) -> Result<Vec<u8>, CellError> {
    if cell::open_into(key, locus, &new, scratch)? == text {
        Ok(new)
    } else {
        Err(CellError::TagMismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChannelId, OrgId, RecordId, WorkspaceId};
    use crate::kms::Dek;
    use crate::scope::Scope;

    /// What memory or a faulty processor could do to a new cell.
    #[test]
    fn i09_a_new_cell_that_does_not_hold_the_message_is_not_written() {
        let (org, channel) = (OrgId::new("acme").unwrap(), ChannelId::new("c1").unwrap());
        let record = RecordId::new("r1").unwrap();
        let scope = Scope::Message {
            org: org.clone(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: channel.clone(),
            hour: "2019-02-13T17".parse().unwrap(),
        };
        let key = CellKey::derive(Dek::new(zeroize::Zeroizing::new([7; 32])), &scope);
        let locus = Locus::Message {
            org: &org,
            channel: &channel,
            record: &record,
        };
        let epoch = Epoch::FIRST;
        let mut nonces = NonceSource::new();
        let mut seal =
            |text: &[u8]| cell::seal(&key, epoch, None, &nonces.next(), &locus, text).unwrap();
        let mut scratch = Scratch::default();
        let mut compare = |cell| compared(&key, &locus, cell, b"a message", &mut scratch);
        let good = seal(b"a message");
        assert!(compare(good.clone()).is_ok());
        assert!(compare(seal(b"b message")).is_err());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(compare(bad).is_err(), "bit {bit}");
        }
    }
}
