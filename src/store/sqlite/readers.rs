//! A few threads that read, each with its own connection, so that no call opens
//! one. A job reads in one short transaction and then lets go of the log.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{errors, schema, spawn};
use crate::store::StoreResult;

/// Threads that read. Reads are mostly from memory; more than a few only
/// contend for it.
const THREADS: usize = 3;
/// Reads that may wait before their callers do.
const QUEUE: usize = 256;
/// Page cache of one connection, KiB.
const CACHE_KIB: u32 = 8 * 1024;

type Job = Box<dyn FnOnce(&Connection) + Send>;

pub(super) struct Readers {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

/// Jobs that wait for a thread. A thread that is busy takes the next job
/// without having slept; with small reads the wake-ups are most of the cost.
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<(Job, OwnedSemaphorePermit)>,
    closed: bool,
}

impl Readers {
    pub(super) fn start(path: &Path) -> StoreResult<Self> {
        let queue = Queue {
            state: Mutex::default(),
            arrived: Condvar::new(),
        };
        let mut readers = Self {
            queue: Arc::new(queue),
            room: Arc::new(Semaphore::new(QUEUE)),
            threads: Vec::new(),
        };
        for n in 0..THREADS {
            let conn = schema::connect(path)?;
            conn.execute_batch(&format!(
                "PRAGMA query_only = ON; PRAGMA cache_size = -{CACHE_KIB};"
            ))
            .map_err(errors::of)?;
            let queue = Arc::clone(&readers.queue);
            readers
                .threads
                .push(spawn(format!("store-read-{n}"), move || {
                    queue.serve(&conn)
                })?);
        }
        Ok(readers)
    }

    /// Runs `read` on a reading thread.
    pub(super) async fn run<T, F>(&self, read: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(read(conn).map_err(errors::of));
        });
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_| errors::stopped())?;
        self.queue.lock().jobs.push_back((job, permit));
        self.queue.arrived.notify_one();
        answered.await.map_err(|_| errors::stopped())?
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, conn: &Connection) {
        let mut state = self.lock();
        loop {
            if let Some((job, permit)) = state.jobs.pop_front() {
                drop(state);
                job(conn);
                drop(permit);
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state = self
                    .arrived
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}
