//! Virtual time: a heap of what will happen, and the loop that makes it happen.
//!
//! The code under test runs on tokio's scheduler for one thread. Whenever every
//! task waits, the scheduler is about to park; instead the next event of the heap
//! takes place, and time is what that event says. So nothing waits in earnest,
//! and one seed makes one order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// Virtual time, shared by everything in one history.
#[derive(Clone)]
pub(super) struct Time(Arc<Shared>);

struct Shared {
    heap: Mutex<Heap>,
    // Told after every event, so that the scheduler never parks in earnest.
    happened: Notify,
}

struct Heap {
    now: Duration,
    next: u64,
    events: BinaryHeap<Event>,
    trace: u64,
    // There was nothing left to happen.
    stuck: bool,
}

struct Event {
    at: Duration,
    number: u64,
    run: Box<dyn FnOnce() + Send>,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    /// The heap gives the greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl Time {
    fn new() -> Self {
        Self(Arc::new(Shared {
            heap: Mutex::new(Heap {
                now: Duration::ZERO,
                next: 0,
                events: BinaryHeap::new(),
                trace: 0xcbf2_9ce4_8422_2325,
                stuck: false,
            }),
            happened: Notify::new(),
        }))
    }

    fn heap(&self) -> MutexGuard<'_, Heap> {
        // Nothing that holds the lock can panic half way through a change.
        self.0.heap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the history began.
    pub(super) fn now(&self) -> Duration {
        self.heap().now
    }

    /// Has something happen after a while.
    pub(super) fn after(&self, wait: Duration, run: impl FnOnce() + Send + 'static) {
        let mut heap = self.heap();
        let (at, number) = (heap.now + wait, heap.next);
        heap.next += 1;
        let run = Box::new(run);
        heap.events.push(Event { at, number, run });
    }

    /// Waits.
    pub(super) async fn sleep(&self, wait: Duration) {
        let (done, over) = oneshot::channel();
        self.after(wait, move || {
            // Who waited may be gone.
            let _ = done.send(());
        });
        // The heap lives as long as `self`.
        let _ = over.await;
    }

    /// Mixes what happened into a number that two equal histories share.
    pub(super) fn trace(&self, what: &[u8]) {
        let mut heap = self.heap();
        let mut trace = heap.trace ^ heap.now.as_nanos() as u64;
        for byte in what {
            trace = (trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        heap.trace = trace;
    }

    /// That number, and how many events there were.
    pub(super) fn traced(&self) -> (u64, u64) {
        let heap = self.heap();
        (heap.trace, heap.next)
    }

    /// Makes the next event happen.
    fn go_on(&self) {
        let next = {
            let mut heap = self.heap();
            let next = heap.events.pop();
            match &next {
                Some(event) => heap.now = event.at,
                None => heap.stuck = true,
            }
            next
        };
        if let Some(event) = next {
            (event.run)();
        }
        self.0.happened.notify_one();
    }
}

/// Runs a history on this thread. `None` if everything waits for something that
/// will not happen.
pub(super) fn run<T, F>(history: impl FnOnce(Time) -> F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let time = Time::new();
    let ours = time.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || ours.go_on())
        .build();
    // Without drivers there is nothing that can fail.
    let runtime = runtime.expect("a runtime without drivers");
    let done = runtime.block_on(async {
        let mut playing = tokio::spawn(history(time.clone()));
        loop {
            tokio::select! {
                biased;
                // A panic of the history is one of its thread.
                done = &mut playing => match done {
                    Ok(done) => return Some(done),
                    Err(died) => std::panic::resume_unwind(died.into_panic()),
                },
                () = time.0.happened.notified() => {
                    if time.heap().stuck {
                        return None;
                    }
                }
            }
        }
    });
    // What is left of the history is dropped here, while its thread still is a
    // simulation.
    drop(runtime);
    done
}
