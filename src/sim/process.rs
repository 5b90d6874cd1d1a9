//! A process of a history: what can be killed, frozen and woken.
//!
//! Everything that a process does to the world goes through [`Process::gate`],
//! on its way out and on its way back. A dead process never comes through, a
//! frozen one only when it is woken. What it computes in between nobody can see,
//! so this is a death, or a freeze, between any two of its calls.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::time::Time;
use crate::clock::{BootTime, Clock, WallTime};

/// When every history begins: 2026-01-01T00:00:00Z, Unix microseconds.
const BEGINNING_US: i64 = 1_767_225_600_000_000;

/// A process.
pub(super) struct Process {
    pub(super) name: String,
    time: Time,
    state: Mutex<State>,
    changed: Notify,
    died: Notify,
    clock_off_us: AtomicI64,
}

#[derive(Clone, Copy)]
struct State {
    life: Life,
    // What happens at a gate, and how many gates there are before it.
    fate: Option<(u32, Fate)>,
    // What happens when it is about to change data.
    fate_of_write: Option<Fate>,
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    Runs,
    Frozen,
    Dead,
}

/// What is to happen to a process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// SIGKILL.
    Dies,
    /// SIGSTOP, and SIGCONT after this long.
    Freezes(Duration),
}

impl Process {
    pub(super) fn new(time: &Time, name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            time: time.clone(),
            state: Mutex::new(State {
                life: Life::Runs,
                fate: None,
                fate_of_write: None,
            }),
            changed: Notify::new(),
            died: Notify::new(),
            clock_off_us: AtomicI64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes through while the process runs.
    pub(super) async fn gate(self: &Arc<Self>) {
        self.meet_fate();
        self.awake().await;
    }

    /// Waits while the process is frozen; for ever if it is dead.
    async fn awake(&self) {
        loop {
            let changed = self.changed.notified();
            let life = self.state().life;
            match life {
                Life::Runs => return,
                Life::Frozen => changed.await,
                Life::Dead => std::future::pending().await,
            }
        }
    }

    fn meet_fate(self: &Arc<Self>) {
        let fate = {
            let mut state = self.state();
            match &mut state.fate {
                Some((0, fate)) => {
                    let fate = *fate;
                    state.fate = None;
                    fate
                }
                Some((left, _)) => {
                    *left -= 1;
                    return;
                }
                None => return,
            }
        };
        self.meet(fate);
    }

    fn meet(self: &Arc<Self>, fate: Fate) {
        self.time.trace(self.name.as_bytes());
        match fate {
            Fate::Dies => self.die(),
            Fate::Freezes(span) => {
                self.state().life = Life::Frozen;
                let frozen = self.clone();
                self.time.after(span, move || frozen.wake());
            }
        }
    }

    fn wake(&self) {
        let mut state = self.state();
        if state.life == Life::Frozen {
            state.life = Life::Runs;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Kills it now.
    pub(super) fn die(&self) {
        self.state().life = Life::Dead;
        self.died.notify_one();
    }

    /// Something happens to it after so many more gates.
    pub(super) fn doom(&self, gates: u32, fate: Fate) {
        self.state().fate = Some((gates, fate));
    }

    /// Nothing will happen to it after all.
    pub(super) fn spare(&self) {
        let mut state = self.state();
        (state.fate, state.fate_of_write) = (None, None);
    }

    /// Something happens to it when it is about to change data.
    pub(super) fn doom_a_write(&self, fate: Fate) {
        self.state().fate_of_write = Some(fate);
    }

    /// As [`Process::gate`], for a change of data.
    pub(super) async fn gate_of_write(self: &Arc<Self>) {
        let fate = self.state().fate_of_write.take();
        if let Some(fate) = fate {
            self.meet(fate);
        }
        self.gate().await;
    }

    /// Waits for its death.
    pub(super) async fn died(&self) {
        self.died.notified().await;
    }

    /// Sets how far its wall clock is from the true time.
    pub(super) fn set_clock(&self, off_ms: i64) {
        self.clock_off_us.store(off_ms * 1000, Ordering::Relaxed);
    }
}

/// The clocks of a process.
pub(super) struct ProcessClock(pub(super) Arc<Process>);

#[async_trait::async_trait]
impl Clock for ProcessClock {
    fn wall(&self) -> WallTime {
        let off = self.0.clock_off_us.load(Ordering::Relaxed);
        WallTime(true_time(&self.0.time).0 + off)
    }

    fn boot(&self) -> BootTime {
        // Not zero: some code tells "never" by it.
        BootTime(self.0.time.now() + Duration::from_secs(1000))
    }

    async fn sleep(&self, span: Duration) {
        // A process that is frozen begins to wait when it is woken: a timeout is set
        // by an instruction that comes after the freeze.
        self.0.awake().await;
        self.0.time.sleep(span).await;
        self.0.gate().await;
    }
}

/// The time by which the store counts.
pub(super) fn true_time(time: &Time) -> WallTime {
    WallTime(BEGINNING_US + time.now().as_micros() as i64)
}
