//! The thread that writes the log, and the file it writes to. One sync serves
//! everyone who waited while the one before it ran (group commit).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chain::Chain;
use super::log::{Ending, Pending, Shared};
use crate::clock::SharedClock;
use crate::telemetry::metrics::{AUDIT_FAILURES, AUDIT_RECORDS, AUDIT_SYNC_SECONDS};

/// Where lines go. Called by one thread only.
pub trait Sink: Send {
    /// Appends whole lines. After an error the sink is never called again: a
    /// second write could join a torn line to a good one.
    fn append(&mut self, lines: &[u8]) -> io::Result<()>;

    /// Returns once everything appended so far survives a power failure.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that only grows.
pub struct FileSink(File);

impl FileSink {
    /// Makes the file, readable by its owner alone, and makes its name durable.
    /// The directory is made if it is missing, with mode 0700.
    pub fn create(path: &Path) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        // `create_new`: a stream id is used once, and a link that waits under
        // the name is not followed.
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        File::open(dir)?.sync_all()?;
        Ok(Self(file))
    }
}

impl Sink for FileSink {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.write_all(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A sink whose disk is full after so many writes, where a test asks for one.
struct Filling {
    sink: FileSink,
    left: u32,
}

impl Sink for Filling {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(left) = self.left.checked_sub(1) else {
            return Err(rustix::io::Errno::NOSPC.into());
        };
        self.left = left;
        self.sink.append(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sink.sync()
    }
}

/// The file as a log's sink.
pub fn sink(file: FileSink) -> Box<dyn Sink> {
    match crate::faults::audit_writes() {
        None => Box::new(file),
        Some(left) => Box::new(Filling { sink: file, left }),
    }
}

/// Nothing written stays unsynced longer than this, asked for or not; and counts
/// of cache hits are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Lines go to the sink in pieces of about this size.
const APPEND_BYTES: usize = 1 << 20;

/// The writing side of a log: chain and sink, and how far each is.
pub struct Writer {
    pub chain: Chain,
    pub sink: Box<dyn Sink>,
}

impl Writer {
    /// Writes until the log is closed or dropped, or the sink fails.
    pub fn run(mut self, shared: Arc<Shared>, clock: SharedClock) {
        // If this thread should ever panic, waiters must fail and not hang.
        let _guard = FailOnPanic(shared.clone());
        // The start record was synced before this thread was made.
        let mut synced = self.chain.next_seq();
        loop {
            let (batch, must_sync, ending) = {
                let mut state = shared.lock();
                loop {
                    let now = clock.wall();
                    state.move_due_hits(now);
                    let asked = state.sync_wanted > synced;
                    if !state.queue.is_empty() || asked || state.ending != Ending::No {
                        break (state.take_queue(), asked, state.ending);
                    }
                    let (next, wait) = shared.wait_for_work(state, TICK);
                    state = next;
                    let unsynced = self.chain.next_seq() > synced;
                    if wait.timed_out() && unsynced && state.queue.is_empty() {
                        break (Vec::new(), true, state.ending);
                    }
                }
            };
            shared.room_made();

            let must_sync = must_sync || ending != Ending::No;
            if !self.write_out(batch, must_sync, ending, &shared) {
                return;
            }
            if must_sync {
                synced = self.chain.next_seq();
            }
        }
    }

    /// Writes what waited and says how far it is. `false` when the log is at its
    /// end, in order or not.
    pub fn write_out(
        &mut self,
        batch: Vec<Pending>,
        must_sync: bool,
        ending: Ending,
        shared: &Shared,
    ) -> bool {
        let result = self
            .write(batch)
            .and_then(|()| if must_sync { self.sync() } else { Ok(()) });
        if let Err(error) = result {
            metrics::counter!(AUDIT_FAILURES).increment(1);
            shared.failed(&error);
            return false;
        }
        if must_sync {
            shared.synced(self.chain.next_seq(), self.chain.head());
        }
        if ending != Ending::No {
            shared.ended();
            return false;
        }
        true
    }

    fn sync(&mut self) -> io::Result<()> {
        let started = Instant::now();
        self.sink.sync()?;
        metrics::histogram!(AUDIT_SYNC_SECONDS).record(started.elapsed());
        Ok(())
    }

    fn write(&mut self, batch: Vec<Pending>) -> io::Result<()> {
        metrics::counter!(AUDIT_RECORDS).increment(batch.len() as u64);
        let mut lines = Vec::new();
        for pending in batch {
            self.chain.push(pending.at, pending.record, &mut lines)?;
            if lines.len() >= APPEND_BYTES {
                self.sink.append(&lines)?;
                lines.clear();
            }
        }
        if lines.is_empty() {
            Ok(())
        } else {
            self.sink.append(&lines)
        }
    }
}

struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .failed(&io::Error::other("the audit writer stopped unexpectedly"));
        }
    }
}
