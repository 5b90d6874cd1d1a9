//! The handle everyone holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, WaitTimeoutResult};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use ulid::Ulid;

use super::cache_hits::{CacheHits, CachedUse};
use super::chain::{Chain, Head, Origin};
use super::record::{Record, RecordType};
use super::writer::{self, FileSink, Sink, Writer};
use crate::clock::{SharedClock, WallTime};
use crate::kms::Use;
use crate::replay;

/// Records that may wait to be written. About 8 MiB at the usual size.
pub const QUEUE_RECORDS: usize = 8192;

/// The log cannot keep its promise; whoever relies on it stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// A write or sync failed. What was recorded since the last good sync may
    /// not be on disk, and nothing is written any more.
    #[error(
        "the audit log {path} cannot be written: {error}. \
         Work has stopped: nothing goes on unaudited. Free or repair the disk and start again"
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: Arc<str>,
    },
    /// The file could not be made.
    #[error("cannot make the audit log {path}: {error}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        error: Arc<str>,
    },
    /// The log was closed before this was recorded.
    #[error("the audit log {path} is closed")]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

/// What [`AuditLog::record`] returns: wait for it with
/// [`AuditLog::durable_up_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Of a record that was not taken: waiting for it fails.
    const REFUSED: Ticket = Ticket(u64::MAX);
}

/// A record that waits for the writer.
pub struct Pending {
    pub at: WallTime,
    pub record: Record,
}

/// Whether and how the stream is being ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    No,
    /// In order: the last record says `stop`.
    Closed,
    /// The last handle was dropped: what waits is written, without a `stop`.
    Dropped,
}

pub struct State {
    pub queue: Vec<Pending>,
    /// Records up to here (not including) have been asked to be durable.
    pub sync_wanted: u64,
    pub ending: Ending,
    next_seq: u64,
    hits: CacheHits,
    /// As in [`Progress`]; here so that recorders that wait for room see it.
    failed: bool,
}

impl State {
    fn push(&mut self, at: WallTime, record: Record) -> Ticket {
        let ticket = Ticket(self.next_seq);
        self.next_seq += 1;
        self.queue.push(Pending { at, record });
        ticket
    }

    pub fn take_queue(&mut self) -> Vec<Pending> {
        std::mem::take(&mut self.queue)
    }

    pub fn move_due_hits(&mut self, now: WallTime) {
        for record in self.hits.take_due(now) {
            self.push(now, record);
        }
    }
}

#[derive(Clone)]
struct Progress {
    /// Records up to here (not including) are durable.
    durable: u64,
    head: [u8; 32],
    failed: Option<Arc<str>>,
    ended: bool,
}

/// What the handles and the writer share.
pub struct Shared {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    progress: watch::Sender<Progress>,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait_for_work<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        at_most: Duration,
    ) -> (MutexGuard<'a, State>, WaitTimeoutResult) {
        self.work
            .wait_timeout(state, at_most)
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn room_made(&self) {
        self.room.notify_all();
    }

    pub fn synced(&self, durable: u64, head: [u8; 32]) {
        self.progress.send_modify(|p| {
            p.durable = durable;
            p.head = head;
        });
    }

    pub fn ended(&self) {
        self.progress.send_modify(|p| p.ended = true);
    }

    pub fn failed(&self, error: &io::Error) {
        // Published before a record is refused for it, so that whoever sees the
        // refusal also finds the reason.
        self.progress.send_modify(|p| {
            p.failed.get_or_insert_with(|| error.to_string().into());
        });
        let mut state = self.lock();
        state.failed = true;
        state.queue = Vec::new();
        drop(state);
        self.room.notify_all();
    }
}

struct Inner {
    shared: Arc<Shared>,
    clock: SharedClock,
    stream: String,
    path: PathBuf,
    writer: Mutex<Hand>,
}

/// Who writes.
enum Hand {
    /// A thread of the log's own.
    OfAThread(Option<JoinHandle<()>>),
    /// Whoever records, before it goes on: in a simulation, which has one thread.
    OfTheCaller(Writer),
}

impl Inner {
    /// There is something to write.
    fn wake_the_writer(&self) {
        if !replay::is_on() {
            self.shared.work.notify_one();
            return;
        }
        let mut hand = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Hand::OfTheCaller(writer) = &mut *hand {
            let mut state = self.shared.lock();
            if state.failed {
                return;
            }
            let (batch, ending) = (state.take_queue(), state.ending);
            drop(state);
            writer.write_out(batch, true, ending, &self.shared);
        }
    }
}

/// One stream of the audit log: one file, one hash chain, one process. A handle
/// is cheap to clone.
///
/// # Contract
///
/// [`AuditLog::record`] takes a record and returns; the writer thread writes it
/// at once and syncs it when somebody waits, within a second otherwise. Records
/// are written in the order in which they were taken.
///
/// Whoever makes something durable that depends on a record (a checkpoint, a
/// state, an answer to a caller) awaits [`AuditLog::durable`] first. After the
/// first failed write every wait fails, and so does [`AuditLog::check`].
///
/// Dropping the last handle writes what waits, but only [`AuditLog::close`] ends
/// the stream in order, with a `stop` record.
#[derive(Clone)]
pub struct AuditLog(Arc<Inner>);

impl AuditLog {
    /// Starts a stream in `dir`, in a file of its own named
    /// `<utc date>-<service>-<stream>.jsonl`. Returns once the `start` record is
    /// durable: a process that cannot audit does not start.
    ///
    /// Blocks for one sync; meant for the start of a process.
    pub fn open(dir: &Path, origin: Origin, clock: SharedClock) -> Result<Self, AuditError> {
        let now = clock.wall();
        let stream = Ulid::from_parts(now.unix_ms(), replay::random()).to_string();
        let path = dir.join(file_name(now, &origin.service, &stream));
        let sink = FileSink::create(&path).map_err(|e| AuditError::Open {
            path: path.clone(),
            error: e.to_string().into(),
        })?;
        Self::start(path, stream, writer::sink(sink), origin, clock)
    }

    /// Starts a stream on a sink of the caller's.
    pub fn with_sink(
        sink: Box<dyn Sink>,
        origin: Origin,
        clock: SharedClock,
    ) -> Result<Self, AuditError> {
        let stream = Ulid::from_parts(clock.wall().unix_ms(), replay::random()).to_string();
        Self::start(PathBuf::from("(sink)"), stream, sink, origin, clock)
    }

    fn start(
        path: PathBuf,
        stream: String,
        mut sink: Box<dyn Sink>,
        origin: Origin,
        clock: SharedClock,
    ) -> Result<Self, AuditError> {
        let mut chain = Chain::new(stream.clone(), origin);
        let mut line = Vec::new();
        let thread = chain
            .push(
                clock.wall(),
                Record::new(RecordType::Start, "start"),
                &mut line,
            )
            .map_err(io::Error::from)
            .and_then(|()| sink.append(&line))
            .and_then(|()| sink.sync())
            .and_then(|()| {
                let shared = Arc::new(Shared {
                    state: Mutex::new(State {
                        queue: Vec::new(),
                        sync_wanted: chain.next_seq(),
                        ending: Ending::No,
                        next_seq: chain.next_seq(),
                        hits: CacheHits::default(),
                        failed: false,
                    }),
                    work: Condvar::new(),
                    room: Condvar::new(),
                    progress: watch::Sender::new(Progress {
                        durable: chain.next_seq(),
                        head: chain.head(),
                        failed: None,
                        ended: false,
                    }),
                });
                let writer = Writer { chain, sink };
                if replay::is_on() {
                    return Ok((shared, Hand::OfTheCaller(writer)));
                }
                let (theirs, their_clock) = (shared.clone(), clock.clone());
                std::thread::Builder::new()
                    .name("audit".to_owned())
                    .spawn(move || writer.run(theirs, their_clock))
                    .map(|thread| (shared, Hand::OfAThread(Some(thread))))
            });
        match thread {
            Ok((shared, hand)) => Ok(Self(Arc::new(Inner {
                shared,
                clock,
                stream,
                path,
                writer: Mutex::new(hand),
            }))),
            Err(e) => Err(AuditError::Failed {
                path,
                error: e.to_string().into(),
            }),
        }
    }

    /// The stream's id. Every claimed task names it, so that a stream whose file
    /// is missing shows.
    pub fn stream(&self) -> &str {
        &self.0.stream
    }

    /// The stream's file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Takes a record. Does not wait for the disk, except that while 8,192
    /// records wait to be written it holds its caller back; the writer is a
    /// thread of its own and needs nothing of the caller's to go on.
    pub fn record(&self, record: Record) -> Ticket {
        let shared = &self.0.shared;
        let mut state = shared.lock();
        while state.queue.len() >= QUEUE_RECORDS && !state.failed && state.ending == Ending::No {
            state = shared
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed || state.ending != Ending::No {
            return Ticket::REFUSED;
        }
        // The time is read under the lock, so that it rises with the number.
        let ticket = state.push(self.0.clock.wall(), record);
        drop(state);
        self.0.wake_the_writer();
        ticket
    }

    /// Counts a use of a cached key. It is written, with others of its kind,
    /// when the minute is over, and when the log is closed.
    pub fn cache_hit(&self, used: CachedUse<'_>, why: &Use) {
        let mut state = self.0.shared.lock();
        if state.failed || state.ending != Ending::No {
            return;
        }
        let now = self.0.clock.wall();
        state.move_due_hits(now);
        state.hits.hit(now, used, why);
    }

    /// Waits until everything recorded so far is on disk.
    pub async fn durable(&self) -> Result<(), AuditError> {
        let newest = Ticket(self.0.shared.lock().next_seq - 1);
        self.durable_up_to(newest).await
    }

    /// Waits until a record and all before it are on disk. One sync serves all
    /// who wait.
    pub async fn durable_up_to(&self, ticket: Ticket) -> Result<(), AuditError> {
        if ticket == Ticket::REFUSED {
            self.check()?;
            return Err(AuditError::Closed {
                path: self.0.path.clone(),
            });
        }
        let shared = &self.0.shared;
        let want = ticket.0 + 1;
        {
            let mut state = shared.lock();
            if state.sync_wanted < want {
                state.sync_wanted = want;
                drop(state);
                self.0.wake_the_writer();
            }
        }
        self.wait(|p| p.durable >= want).await
    }

    /// Fails if the log has failed. For places that must not begin something
    /// they could not record: before each call to a KMS.
    pub fn check(&self) -> Result<(), AuditError> {
        match &self.0.shared.progress.borrow().failed {
            None => Ok(()),
            Some(error) => Err(self.failure(error.clone())),
        }
    }

    /// The newest durable record, for the record of a job's end.
    pub fn head(&self) -> Head {
        let progress = self.0.shared.progress.borrow();
        Head {
            stream: self.0.stream.clone(),
            seq: progress.durable - 1,
            hash: progress.head,
        }
    }

    /// Ends the stream in order: writes the counted cache hits and a `stop`
    /// record, and waits until they are on disk. What is recorded later is
    /// refused. Closing twice is no error.
    pub async fn close(&self) -> Result<Head, AuditError> {
        let shared = &self.0.shared;
        {
            let mut state = shared.lock();
            if state.ending == Ending::No && !state.failed {
                let now = self.0.clock.wall();
                for record in state.hits.take_all() {
                    state.push(now, record);
                }
                state.push(now, Record::new(RecordType::Stop, "stop"));
                state.ending = Ending::Closed;
            }
        }
        self.0.wake_the_writer();
        self.wait(|p| p.ended).await?;
        Ok(self.head())
    }

    /// Records that wait to be written.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.0.shared.lock().queue.len()
    }

    async fn wait(&self, done: impl Fn(&Progress) -> bool) -> Result<(), AuditError> {
        let mut seen = self.0.shared.progress.subscribe();
        // The sender lives as long as `self`, so waiting itself cannot fail.
        let progress = match seen
            .wait_for(|p| done(p) || p.failed.is_some() || p.ended)
            .await
        {
            Ok(progress) => progress.clone(),
            Err(_) => {
                return Err(AuditError::Closed {
                    path: self.0.path.clone(),
                });
            }
        };
        match progress.failed {
            Some(error) => Err(self.failure(error)),
            None if done(&progress) => Ok(()),
            None => Err(AuditError::Closed {
                path: self.0.path.clone(),
            }),
        }
    }

    fn failure(&self, error: Arc<str>) -> AuditError {
        AuditError::Failed {
            path: self.0.path.clone(),
            error,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.ending == Ending::No {
            let now = self.clock.wall();
            for record in state.hits.take_all() {
                state.push(now, record);
            }
            state.ending = Ending::Dropped;
        }
        drop(state);
        self.wake_the_writer();
        let hand = self
            .writer
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Hand::OfAThread(thread) = hand
            && let Some(thread) = thread.take()
        {
            // A panic of the writer has already failed every waiter.
            let _ = thread.join();
        }
    }
}

/// `2026-11-22-rekeyd-worker-01J….jsonl`.
fn file_name(now: WallTime, service: &str, stream: &str) -> String {
    let date: String = now.to_string().chars().take(10).collect();
    let service: String = service
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("{date}-{service}-{stream}.jsonl")
}
