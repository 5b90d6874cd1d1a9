//! Holding a job or a task for a bounded time.
//!
//! A claim is a conditional write that raises the fencing token and says until
//! when the row is held. The holder writes only while it trusts its lease, that
//! is until `start of the last good write + lease - margin` on the clock that
//! runs through suspend; others take the row when its wall-clock end has passed.
//! A holder that was frozen and woke up finds the row's revision changed and
//! cannot write (I6).

use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::audit::{AuditLog, StreamRef};
use crate::clock::{BootTime, SharedClock};
use crate::job::book::{BookError, JobBook, Versioned};
use crate::job::rows::{JobRow, Lease, TaskRow, Transition};
use crate::job::state::JobState;
use crate::planted::{self, Bug};
use crate::registry::Timing;
use crate::store::{ControlTable, StoreErrorClass};
use crate::telemetry::waiting::Waiting;

#[cfg(test)]
mod tests;

/// A worker process, as leases name it.
#[derive(Clone)]
pub struct WorkerName {
    /// Unique among all workers that ever ran.
    pub worker: String,
    /// The process's audit stream. How far it was is noted with every write, so
    /// that a stream that is missing or cut off shows.
    pub audit: AuditLog,
    /// What the process waits for, to be noted with every write.
    pub waiting: Waiting,
}

/// Why a held row could not be written.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The lease ran out or the row was taken. Stop; somebody else goes on.
    #[error("the lease on `{0}` is lost")]
    Lost(String),
    /// Somebody else changed the row while the lease held: read it again.
    #[error("`{0}` was changed by somebody else")]
    Changed(String),
    /// The row or the store is not as it should be.
    #[error(transparent)]
    Book(#[from] BookError),
}

/// A row that can be held.
pub trait Leased: Clone + serde::Serialize + serde::de::DeserializeOwned + Send + Sync {
    /// The table it stands in.
    const TABLE: ControlTable;
    /// Who holds it.
    fn lease(&self) -> Option<&Lease>;
    /// Sets who holds it.
    fn set_lease(&mut self, lease: Option<Lease>);
    /// Its fencing token.
    fn token(&self) -> u64;
    /// Notes a claim: raises the token.
    fn claimed(&mut self, was_taken_over: bool);
    /// The audit streams of those who held it.
    fn streams_mut(&mut self) -> &mut Vec<StreamRef>;
}

impl Leased for JobRow {
    const TABLE: ControlTable = ControlTable::Jobs;

    fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
    fn set_lease(&mut self, lease: Option<Lease>) {
        self.lease = lease;
    }
    fn token(&self) -> u64 {
        self.token
    }
    fn claimed(&mut self, _: bool) {
        self.token += 1;
    }
    fn streams_mut(&mut self) -> &mut Vec<StreamRef> {
        &mut self.streams
    }
}

impl Leased for TaskRow {
    const TABLE: ControlTable = ControlTable::Tasks;

    fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
    fn set_lease(&mut self, lease: Option<Lease>) {
        self.lease = lease;
    }
    fn token(&self) -> u64 {
        self.token
    }
    fn claimed(&mut self, was_taken_over: bool) {
        self.token += 1;
        self.takeovers += u32::from(was_taken_over);
    }
    fn streams_mut(&mut self) -> &mut Vec<StreamRef> {
        &mut self.streams
    }
}

/// Notes how far a stream is known to go.
pub fn note_stream(streams: &mut Vec<StreamRef>, newest: StreamRef) {
    match streams.iter_mut().find(|s| s.stream == newest.stream) {
        Some(known) if known.seq >= newest.seq => {}
        Some(known) => *known = newest,
        None => streams.push(newest),
    }
}

/// Whether a row may be claimed now: nobody holds it, or its end has passed.
pub fn is_free<T: Leased>(row: &T, now_ms: u64) -> bool {
    row.lease().is_none_or(|lease| lease.until_ms <= now_ms)
}

/// A row that this process holds.
pub struct Hold<T> {
    book: JobBook,
    clock: SharedClock,
    timing: Timing,
    me: WorkerName,
    partition: String,
    inner: Mutex<Versioned<T>>,
    trusted_until: watch::Sender<BootTime>,
}

/// A task that this process holds.
pub type TaskHold = Hold<TaskRow>;
/// A job that this process drives.
pub type JobHold = Hold<JobRow>;

impl<T: Leased> Hold<T> {
    /// Tries to take a row that was read as `seen`. `None` if another was faster.
    pub async fn claim(
        book: &JobBook,
        clock: &SharedClock,
        timing: &Timing,
        me: &WorkerName,
        partition: &str,
        seen: Versioned<T>,
    ) -> Result<Option<Self>, BookError> {
        let start = clock.boot();
        let mut taken = seen;
        let was_held = taken.row.lease().is_some();
        taken.row.claimed(was_held);
        sign(&mut taken.row, book, clock, timing, me);
        match book.write_back(T::TABLE, partition, &mut taken).await {
            Ok(()) => Ok(Some(Self {
                book: book.clone(),
                clock: clock.clone(),
                timing: *timing,
                me: me.clone(),
                partition: partition.to_owned(),
                inner: Mutex::new(taken),
                trusted_until: watch::Sender::new(start.plus(timing.trust())),
            })),
            Err(BookError::Overtaken(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The row as this process last wrote or read it.
    pub async fn row(&self) -> T {
        self.inner.lock().await.row.clone()
    }

    /// The row's id.
    pub async fn id(&self) -> String {
        self.inner.lock().await.id.clone()
    }

    /// Whether the lease may still be trusted.
    pub fn is_trusted(&self) -> bool {
        self.clock.boot() < *self.trusted_until.borrow() || planted::is(Bug::NoFencing)
    }

    /// Changes the row and renews the lease with the same write. Tries again
    /// while the store is away and the lease holds.
    pub async fn save(&self, change: impl FnOnce(&mut T)) -> Result<(), HoldError> {
        let mut held = self.inner.lock().await;
        let mut next = held.clone();
        change(&mut next.row);
        loop {
            if !self.is_trusted() {
                return Err(HoldError::Lost(held.id.clone()));
            }
            let start = self.clock.boot();
            sign(
                &mut next.row,
                &self.book,
                &self.clock,
                &self.timing,
                &self.me,
            );
            match self
                .book
                .write_back(T::TABLE, &self.partition, &mut next)
                .await
            {
                Ok(()) => {
                    *held = next;
                    self.trusted_until
                        .send_replace(start.plus(self.timing.trust()));
                    return Ok(());
                }
                Err(BookError::Overtaken(_)) if planted::is(Bug::NoFencing) => {
                    let fresh: Option<Versioned<T>> =
                        self.book.read(T::TABLE, &self.partition, &held.id).await?;
                    next.rev = fresh.map_or(next.rev, |fresh| fresh.rev);
                    self.clock.sleep(self.retry_wait()).await;
                }
                Err(BookError::Overtaken(id)) => return Err(HoldError::Changed(id)),
                Err(BookError::Store(e)) if e.class == StoreErrorClass::Transient => {
                    self.clock.sleep(self.retry_wait()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the row again after somebody else changed it. `Lost` if it is no
    /// longer held with this token.
    pub async fn reload(&self) -> Result<T, HoldError> {
        let mut held = self.inner.lock().await;
        self.read_into(&mut held).await?;
        Ok(held.row.clone())
    }

    async fn read_into(&self, held: &mut Versioned<T>) -> Result<(), HoldError> {
        let fresh: Option<Versioned<T>> =
            self.book.read(T::TABLE, &self.partition, &held.id).await?;
        match fresh {
            Some(fresh)
                if fresh.row.token() == held.row.token()
                    && fresh
                        .row
                        .lease()
                        .is_some_and(|l| l.worker == self.me.worker) =>
            {
                *held = fresh;
                Ok(())
            }
            _ => {
                self.trusted_until.send_replace(BootTime(Duration::ZERO));
                Err(HoldError::Lost(held.id.clone()))
            }
        }
    }

    /// Renews the lease at a third of its span until it is lost. Run beside the
    /// work; when it returns, the work must stop.
    pub async fn keep(&self) -> HoldError {
        loop {
            let third = self.timing.lease() / 3;
            let renewed = self
                .trusted_until
                .borrow()
                .0
                .saturating_sub(self.timing.trust());
            let due = BootTime(renewed).plus(third);
            let now = self.clock.boot();
            if now < due {
                self.clock.sleep(due.since(now)).await;
                continue;
            }
            if let Err(error) = self.save(|_| {}).await {
                return error;
            }
        }
    }

    /// Changes the row a last time and lets it go. A row that was changed under
    /// the same token is read again first: the change may be our own renewal,
    /// dropped after it was sent, and should not cost the rest of the lease.
    pub async fn release(&self, change: impl Fn(&mut T)) -> Result<(), HoldError> {
        let mut held = self.inner.lock().await;
        loop {
            if !self.is_trusted() {
                return Err(HoldError::Lost(held.id.clone()));
            }
            let mut next = held.clone();
            change(&mut next.row);
            next.row.set_lease(None);
            note_stream(
                next.row.streams_mut(),
                StreamRef::from(&self.me.audit.head()),
            );
            match self
                .book
                .write_back(T::TABLE, &self.partition, &mut next)
                .await
            {
                Ok(()) => {
                    *held = next;
                    self.trusted_until.send_replace(BootTime(Duration::ZERO));
                    return Ok(());
                }
                Err(BookError::Overtaken(_)) => self.read_into(&mut held).await?,
                Err(BookError::Store(e)) if e.class == StoreErrorClass::Transient => {
                    self.clock.sleep(self.retry_wait()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn retry_wait(&self) -> Duration {
        (self.timing.lease() / 20).min(Duration::from_secs(1))
    }
}

impl Hold<JobRow> {
    /// Moves the job from the state that was decided on to another, with
    /// whatever else `change` does to it. `Changed` if it is no longer there: an
    /// operator moved it, and the keeper of the lease has read it again since.
    pub async fn transition(
        &self,
        seen: &JobRow,
        to: JobState,
        why: &str,
        change: impl FnOnce(&mut JobRow),
    ) -> Result<Transition, HoldError> {
        let mut held = self.inner.lock().await;
        if held.row.transitions != seen.transitions {
            return Err(HoldError::Changed(held.id.clone()));
        }
        let mut next = held.clone();
        change(&mut next.row);
        loop {
            if !self.is_trusted() {
                return Err(HoldError::Lost(held.id.clone()));
            }
            let start = self.clock.boot();
            sign(
                &mut next.row,
                &self.book,
                &self.clock,
                &self.timing,
                &self.me,
            );
            match self
                .book
                .transition(&mut next, to, &self.me.worker, why)
                .await
            {
                Ok(step) => {
                    *held = next;
                    self.trusted_until
                        .send_replace(start.plus(self.timing.trust()));
                    return Ok(step);
                }
                Err(BookError::Overtaken(id)) => return Err(HoldError::Changed(id)),
                Err(BookError::Store(e)) if e.class == StoreErrorClass::Transient => {
                    self.clock.sleep(self.retry_wait()).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Notes who writes the row, and until when it is held.
fn sign<T: Leased>(
    row: &mut T,
    book: &JobBook,
    clock: &SharedClock,
    timing: &Timing,
    me: &WorkerName,
) {
    row.set_lease(Some(Lease {
        worker: me.worker.clone(),
        until_ms: clock.wall().plus(timing.lease()).unix_ms(),
        waits: me.waiting.of_jobs(),
        intake_waits: me.waiting.of_intake(),
        slowed: book.slowed(),
    }));
    note_stream(row.streams_mut(), StreamRef::from(&me.audit.head()));
}
