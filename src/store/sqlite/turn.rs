//! Whose turn it is to write.
//!
//! SQLite lets one process write at a time and has no queue: who asks again
//! first gets the lock, and that is usually who just gave it back. So a writer
//! holds this lock while it waits for SQLite's, and only then. The one who just
//! committed stands behind whoever waits, and at most one process polls.
//!
//! It is for fairness only. SQLite's own lock is what keeps writers apart, so a
//! process that cannot get its turn in time tries without. The kernel drops the
//! lock of a process that dies.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};

use super::errors;
use super::schema::beside;
use super::writer::POLL;
use crate::store::StoreResult;

pub(super) struct Turnstile {
    file: File,
}

/// The turn; dropping it hands it on.
pub(super) struct Turn<'a> {
    file: &'a File,
}

impl Turnstile {
    /// Opens the lock file beside the store.
    pub(super) fn beside(store: &Path) -> StoreResult<Self> {
        let path = beside(store, "-turn");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|err| errors::fatal_at(&path, &format!("cannot open the lock file: {err}")))?;
        Ok(Self { file })
    }

    /// Waits for the turn; `None` if it did not come in time.
    pub(super) fn wait(&self, deadline: Instant) -> Option<Turn<'_>> {
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Turn { file: &self.file }),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if Instant::now() < deadline =>
                {
                    thread::sleep(POLL);
                }
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Unlocking an open file that we hold locked does not fail.
        let _ = flock(self.file, FlockOperation::Unlock);
    }
}
