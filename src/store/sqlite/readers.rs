//! A few threads that read, each with its own connection, so that no call opens
//! one. A job reads in one short transaction and then lets go of the log.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

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
    // `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(path: &Path) -> StoreResult<Self> {
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut readers = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
        };
        for n in 0..THREADS {
            let conn = schema::connect(path)?;
            conn.execute_batch(&format!(
                "PRAGMA query_only = ON; PRAGMA cache_size = -{CACHE_KIB};"
            ))
            .map_err(errors::of)?;
            let queue = Arc::clone(&queue);
            readers
                .threads
                .push(spawn(format!("store-read-{n}"), move || {
                    serve(&conn, &queue)
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
        let jobs = self.jobs.as_ref().ok_or_else(errors::stopped)?;
        jobs.send(job).await.map_err(|_| errors::stopped())?;
        answered.await.map_err(|_| errors::stopped())?
    }
}

fn serve(conn: &Connection, queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // One thread waits for the next job, the others for the lock.
        let job = queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .blocking_recv();
        match job {
            Some(job) => job(conn),
            None => return,
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}
