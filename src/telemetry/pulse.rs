//! Whether the worker's own loops move, and when it last reached what it works
//! with: what `/healthz` and `/readyz` answer from.
//!
//! A loop that waits for the store, the queue or the KMS still moves: each of its
//! calls ends in time, with an answer or an error. A loop that does not move is a
//! fault of this process, and a new process mends it. So liveness asks for nothing
//! but that, and readiness for the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::clock::{BootTime, SharedClock};

/// A loop that has not moved for so long is stuck. Far above the longest single
/// call (a request to the store, a long poll of the queue), so that a slow
/// backend gets no worker killed.
pub const STUCK_AFTER: Duration = Duration::from_secs(120);
/// What was not reached for so long is away. Above the longest time for which an
/// idle worker asks nothing: a long poll of the queue.
pub const AWAY_AFTER: Duration = Duration::from_secs(60);

/// A loop of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Takes messages in.
    Intake,
    /// Looks for jobs that nobody drives.
    Sweeper,
    /// Looks for tasks that nobody holds.
    Claims,
}

impl Beat {
    const ALL: [Beat; 3] = [Beat::Intake, Beat::Sweeper, Beat::Claims];

    fn as_str(self) -> &'static str {
        match self {
            Beat::Intake => "intake",
            Beat::Sweeper => "sweeper",
            Beat::Claims => "claims",
        }
    }
}

/// What a worker cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The store answered.
    Store,
    /// The queue answered.
    Queue,
}

impl Reached {
    const ALL: [Reached; 2] = [Reached::Store, Reached::Queue];

    fn as_str(self) -> &'static str {
        match self {
            Reached::Store => "store",
            Reached::Queue => "queue",
        }
    }
}

/// How long ago something was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Age {
    /// The loop, or what was reached.
    pub name: &'static str,
    /// Milliseconds since; `None` if it never was.
    pub ms: Option<u64>,
}

/// The pulse of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Pulse(Arc<Inner>);

struct Inner {
    clock: SharedClock,
    begun: BootTime,
    // Milliseconds from `begun`, plus one; 0 means never.
    beats: [AtomicU64; Beat::ALL.len()],
    reached: [AtomicU64; Reached::ALL.len()],
    stops: AtomicBool,
}

impl Pulse {
    /// The pulse of a process that begins now. Its loops have as long for their
    /// first turn as for any.
    pub fn new(clock: SharedClock) -> Self {
        let begun = clock.boot();
        Self(Arc::new(Inner {
            clock,
            begun,
            beats: [const { AtomicU64::new(1) }; Beat::ALL.len()],
            reached: Default::default(),
            stops: AtomicBool::new(false),
        }))
    }

    /// A loop has moved.
    pub fn beat(&self, which: Beat) {
        self.0.beats[which as usize].store(self.mark(), Ordering::Relaxed);
    }

    /// An answer came, even if it was that something is not so.
    pub fn reached(&self, what: Reached) {
        self.0.reached[what as usize].store(self.mark(), Ordering::Relaxed);
    }

    /// The process was asked to stop: its loops end, which is not being stuck.
    pub fn stops(&self) {
        self.0.stops.store(true, Ordering::Relaxed);
    }

    /// When each loop last moved.
    pub fn loops(&self) -> Vec<Age> {
        let ages = Beat::ALL.iter().zip(&self.0.beats);
        ages.map(|(beat, at)| self.age(beat.as_str(), at)).collect()
    }

    /// When each of what it works with last answered.
    pub fn reaches(&self) -> Vec<Age> {
        let ages = Reached::ALL.iter().zip(&self.0.reached);
        ages.map(|(what, at)| self.age(what.as_str(), at)).collect()
    }

    /// The loops that are stuck, each in words. None while it stops.
    pub fn stuck(&self) -> Vec<String> {
        if self.0.stops.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let stuck = |age: &Age| age.ms.is_none_or(|ms| ms >= STUCK_AFTER.as_millis() as u64);
        let loops = self.loops().into_iter().filter(stuck);
        loops
            .map(|age| format!("the loop `{}` has not moved {}", age.name, since(age.ms)))
            .collect()
    }

    /// Why it is not ready, each reason in words; empty if it is.
    pub fn unready(&self) -> Vec<String> {
        let mut why = self.stuck();
        if self.0.stops.load(Ordering::Relaxed) {
            why.push("it was asked to stop".to_owned());
        }
        let away = |age: &Age| age.ms.is_none_or(|ms| ms >= AWAY_AFTER.as_millis() as u64);
        let away = self.reaches().into_iter().filter(away);
        why.extend(away.map(|age| format!("the {} has not answered {}", age.name, since(age.ms))));
        why
    }

    fn mark(&self) -> u64 {
        let since = self.0.clock.boot().since(self.0.begun);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn age(&self, name: &'static str, at: &AtomicU64) -> Age {
        let at = at.load(Ordering::Relaxed);
        let ms = (at > 0).then(|| self.mark().saturating_sub(at));
        Age { name, ms }
    }
}

fn since(ms: Option<u64>) -> String {
    match ms {
        Some(ms) => format!("for {} s", ms / 1000),
        None => "yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, WallTime};

    fn pulse() -> (Arc<FakeClock>, Pulse) {
        let clock = FakeClock::at(WallTime(1_700_000_000_000_000));
        (clock.clone(), Pulse::new(clock))
    }

    #[test]
    fn a_loop_that_does_not_move_is_stuck_and_the_others_do_not_hide_it() {
        let (clock, pulse) = pulse();
        assert!(pulse.stuck().is_empty(), "it has only begun");
        clock.advance(STUCK_AFTER - Duration::from_secs(1));
        pulse.beat(Beat::Intake);
        pulse.beat(Beat::Claims);
        assert!(pulse.stuck().is_empty());
        clock.advance(Duration::from_secs(1));
        let stuck = pulse.stuck();
        assert_eq!(stuck, ["the loop `sweeper` has not moved for 120 s"]);
        assert!(pulse.unready().contains(&stuck[0]));
        pulse.beat(Beat::Sweeper);
        assert!(pulse.stuck().is_empty());
        clock.advance(STUCK_AFTER);
        assert_eq!(pulse.stuck().len(), 3);
        pulse.stops();
        assert!(pulse.stuck().is_empty(), "who stops is not stuck");
    }

    #[test]
    fn it_is_ready_while_store_and_queue_have_answered_lately() {
        let (clock, pulse) = pulse();
        let never = |what: &str| format!("the {what} has not answered yet");
        assert_eq!(pulse.unready(), [never("store"), never("queue")]);
        pulse.reached(Reached::Store);
        assert_eq!(pulse.unready(), [never("queue")]);
        pulse.reached(Reached::Queue);
        assert!(pulse.unready().is_empty());
        clock.advance(AWAY_AFTER);
        pulse.reached(Reached::Queue);
        assert_eq!(
            pulse.unready(),
            ["the store has not answered for 60 s"],
            "an old answer is none"
        );
        pulse.reached(Reached::Store);
        pulse.stops();
        assert_eq!(pulse.unready(), ["it was asked to stop"]);
    }
}
