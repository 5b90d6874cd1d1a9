//! The one thread of a process that writes, and its group commit: all requests
//! that wait are executed in one transaction and share its sync to the disk.

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::mutate::{Outcome, Request};
use super::schema::{self, BUSY_WAIT};
use super::turn::Turnstile;
use super::{errors, spawn};
use crate::clock::SharedClock;
use crate::store::{StoreError, StoreErrorClass, StoreResult};

/// How often a writer that waits looks again.
pub(super) const POLL: Duration = Duration::from_micros(250);

/// Requests that may wait before their callers do.
const QUEUE: usize = 256;
/// A transaction takes no further request beyond these, so that other processes
/// get their turn. A single larger request is done whole.
const GROUP_ROWS: usize = 4000;
const GROUP_BYTES: usize = 4 << 20;
const GROUP_TIME: Duration = Duration::from_millis(25);

/// Page cache of the writing connection, KiB.
const CACHE_KIB: u32 = 32 * 1024;
/// A log beyond this is emptied while writers and readers wait. SQLite empties
/// it by itself at 32 MiB unless readers or other writers are always in it.
const LOG_LIMIT_BYTES: u64 = 256 << 20;

struct Job {
    request: Request,
    answer: oneshot::Sender<StoreResult<Outcome>>,
}

pub(super) struct Writer {
    // `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path, clock: SharedClock) -> StoreResult<Self> {
        let mut conn = schema::connect(path)?;
        let polls = BUSY_WAIT.as_micros() / POLL.as_micros();
        conn.busy_handler(Some(move |tried: i32| {
            thread::sleep(POLL);
            u128::from(tried.unsigned_abs()) < polls
        }))
        .map_err(errors::of)?;
        conn.execute_batch(&format!("PRAGMA cache_size = -{CACHE_KIB};"))
            .map_err(errors::of)?;
        let thread = Thread {
            conn,
            clock,
            turns: Turnstile::beside(path)?,
            log: schema::beside(path, "-wal"),
        };
        let (jobs, queue) = mpsc::channel(QUEUE);
        let thread = spawn("store-write".to_owned(), move || thread.serve(queue))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Answers once the request is on the disk, or has failed.
    pub(super) async fn run(&self, request: Request) -> StoreResult<Outcome> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(errors::stopped)?;
        jobs.send(Job { request, answer })
            .await
            .map_err(|_| errors::stopped())?;
        answered.await.map_err(|_| errors::stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

struct Thread {
    conn: Connection,
    clock: SharedClock,
    turns: Turnstile,
    log: PathBuf,
}

type Answered = (oneshot::Sender<StoreResult<Outcome>>, StoreResult<Outcome>);

impl Thread {
    fn serve(self, mut queue: mpsc::Receiver<Job>) {
        while let Some(first) = queue.blocking_recv() {
            let group = match self.begin() {
                Ok(()) => self.execute_and_commit(first, &mut queue),
                Err(err) => vec![(first.answer, Err(err))],
            };
            for (answer, result) in group {
                // Whoever asked may have gone meanwhile.
                let _ = answer.send(result);
            }
            self.bound_log();
        }
    }

    fn begin(&self) -> StoreResult<()> {
        let deadline = Instant::now() + BUSY_WAIT;
        // Held until SQLite's own lock is ours, and no longer.
        let _turn = self.turns.wait(deadline);
        loop {
            match self
                .conn
                .prepare_cached("BEGIN IMMEDIATE")
                .and_then(|mut begin| begin.execute([]))
            {
                Ok(_) => return Ok(()),
                Err(err) => {
                    let err = errors::of(err);
                    // SQLite answers busy without waiting where another process
                    // is recovering or closing the log.
                    if err.class != StoreErrorClass::Transient || Instant::now() >= deadline {
                        return Err(err);
                    }
                    thread::sleep(POLL);
                }
            }
        }
    }

    fn execute_and_commit(&self, first: Job, queue: &mut mpsc::Receiver<Job>) -> Vec<Answered> {
        let began = Instant::now();
        let (mut rows, mut bytes) = (0, 0);
        let mut group = Vec::new();
        let mut next = Some(first);
        while let Some(Job { request, answer }) = next.take() {
            let result = request.execute(&self.conn, self.clock.wall());
            group.push((answer, result));
            if self.conn.is_autocommit() {
                // Out of space, an I/O error: SQLite has undone it all.
                return undone(group);
            }
            let (more_rows, more_bytes) = request.size();
            rows += more_rows;
            bytes += more_bytes;
            if rows < GROUP_ROWS && bytes < GROUP_BYTES && began.elapsed() < GROUP_TIME {
                next = queue.try_recv().ok();
            }
        }
        match self
            .conn
            .prepare_cached("COMMIT")
            .and_then(|mut commit| commit.execute([]))
        {
            Ok(_) => group,
            Err(err) => {
                if !self.conn.is_autocommit() {
                    // If even this fails the next BEGIN says so.
                    let _ = self.conn.execute_batch("ROLLBACK");
                }
                let err = errors::of(err);
                fail_all(group, &err)
            }
        }
    }

    fn bound_log(&self) {
        if std::fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES) {
            // Best effort: if others are in the way, the next commit tries again.
            let _ = self
                .conn
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
}

/// Answers of a transaction that SQLite has undone: nobody's request stands.
fn undone(group: Vec<Answered>) -> Vec<Answered> {
    let cause = group
        .iter()
        .rev()
        .find_map(|(_, result)| result.as_ref().err().map(errors::again));
    // SQLite undoes a transaction by itself only with an error.
    let cause = cause.unwrap_or_else(|| {
        StoreError::new(
            StoreErrorClass::Transient,
            "the transaction was undone; it will be tried again",
        )
    });
    fail_all(group, &cause)
}

fn fail_all(group: Vec<Answered>, cause: &StoreError) -> Vec<Answered> {
    group
        .into_iter()
        .map(|(answer, result)| (answer, result.and_then(|_| Err(errors::again(cause)))))
        .collect()
}
