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
        if let Some(more) = crate::faults::store_pages() {
            let pages = |name: &str| {
                conn.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
            };
            let full = pages("page_count").map_err(errors::of)? + i64::from(more);
            pages(&format!("max_page_count = {full}")).map_err(errors::of)?;
        }
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
            self.bound_log(LOG_LIMIT_BYTES);
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

    fn bound_log(&self, limit_bytes: u64) {
        if std::fs::metadata(&self.log).is_ok_and(|log| log.len() > limit_bytes) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SystemClock, WriteTime};
    use crate::ids::{Hour, OrgId, Place, RecordId};
    use crate::store::{CellWrite, Partition};

    fn thread(path: &Path) -> Thread {
        schema::create(path).unwrap();
        Thread {
            conn: schema::connect(path).unwrap(),
            clock: SystemClock::shared(),
            turns: Turnstile::beside(path).unwrap(),
            log: schema::beside(path, "-wal"),
        }
    }

    fn cells(id: u8, bytes: usize) -> Request {
        Request::Cells {
            partition: Partition {
                org: OrgId::new("acme").unwrap(),
                place: Place::new("0".repeat(32)).unwrap(),
                hour: Hour::of_unix_seconds(0).unwrap(),
            },
            writes: vec![CellWrite {
                record: RecordId::new([id]).unwrap(),
                cell: vec![id; bytes].into(),
                write_time: WriteTime(1),
                ttl_s: 0,
            }],
        }
    }

    /// What the thread answers to requests that wait together.
    fn answers(thread: &Thread, requests: Vec<Request>) -> Vec<StoreResult<Outcome>> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        for request in requests {
            let (answer, _) = oneshot::channel();
            assert!(jobs.try_send(Job { request, answer }).is_ok());
        }
        let first = queue.try_recv().unwrap();
        thread.begin().unwrap();
        let group = thread.execute_and_commit(first, &mut queue);
        assert!(queue.try_recv().is_err(), "they shared one transaction");
        group.into_iter().map(|(_, result)| result).collect()
    }

    fn rows(thread: &Thread) -> i64 {
        thread
            .conn
            .query_row("SELECT count(*) FROM cells", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn a_full_disk_is_fatal_for_all_who_shared_the_transaction_and_harms_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let thread = thread(&folder.path().join("store.db"));
        assert!(answers(&thread, vec![cells(1, 100)])[0].is_ok());

        // SQLite's own limit gives the error of a full disk.
        thread
            .conn
            .execute_batch("PRAGMA max_page_count = 12")
            .unwrap();
        let all = answers(&thread, vec![cells(2, 100), cells(3, 1 << 20)]);
        assert_eq!(all.len(), 2);
        for result in all {
            let err = result.expect_err("nothing was committed");
            assert_eq!(err.class, StoreErrorClass::Fatal);
            assert!(err.message.contains("free space"), "{err}");
        }
        assert_eq!(rows(&thread), 1);

        thread
            .conn
            .execute_batch("PRAGMA max_page_count = 4294967294")
            .unwrap();
        assert!(
            answers(&thread, vec![cells(2, 100), cells(3, 1 << 20)])
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(rows(&thread), 3);
    }

    #[test]
    fn the_turn_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let (mine, theirs) = (
            Turnstile::beside(&path).unwrap(),
            Turnstile::beside(&path).unwrap(),
        );
        let turn = mine.wait(Instant::now()).unwrap();
        assert!(
            theirs
                .wait(Instant::now() + Duration::from_millis(2))
                .is_none()
        );
        drop(turn);
        assert!(theirs.wait(Instant::now()).is_some());
    }

    #[test]
    fn a_log_that_grew_too_long_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let thread = thread(&folder.path().join("store.db"));
        assert!(answers(&thread, vec![cells(1, 100)])[0].is_ok());
        assert!(std::fs::metadata(&thread.log).unwrap().len() > 0);
        thread.bound_log(0);
        assert_eq!(std::fs::metadata(&thread.log).unwrap().len(), 0);
        assert_eq!(rows(&thread), 1);
    }
}
