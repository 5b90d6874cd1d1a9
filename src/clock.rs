//! Time, as an argument. Nothing in the core asks the operating system for the
//! time; it asks a [`Clock`], so that tests can turn the hands.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A write time as the store keeps it: microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteTime(pub i64);

impl fmt::Display for WriteTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall time: microseconds since 1970, UTC. It can jump; it is compared only
/// where two processes must agree (leases, `not_before`, expiry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

impl WallTime {
    /// Whole seconds since 1970, rounded down.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Milliseconds since 1970, rounded down; 0 before 1970.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// This time and a span later.
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// The span from `earlier` to this time; zero if it is not earlier.
    pub fn since(self, earlier: WallTime) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for WallTime {
    /// RFC 3339 in UTC with microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t:.6}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// A point on a clock that only goes forward and runs through suspend
/// (`CLOCK_BOOTTIME`). Leases, key ages and view ages are measured on it, so
/// that a laptop that slept does not trust a view from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// This point and a span later.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// The span from `earlier` to this point; zero if it is not earlier.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from.
#[async_trait::async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn wall(&self) -> WallTime;
    /// The clock that only goes forward.
    fn boot(&self) -> BootTime;
    /// Waits for a span of this clock's time.
    async fn sleep(&self, span: Duration);
}

/// A clock that many parts share.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The system's clock, ready to share.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let jump_us = crate::faults::wall_jump_us(self.boot().0);
        WallTime(t.tv_sec * 1_000_000 + t.tv_nsec / 1000 + jump_us)
    }

    fn boot(&self) -> BootTime {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
    }

    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// A clock for tests: it stands still until [`FakeClock::advance`] moves it.
#[derive(Debug)]
pub struct FakeClock {
    now: tokio::sync::watch::Sender<Duration>,
    epoch: WallTime,
}

impl FakeClock {
    /// A clock that shows `wall` and has just booted.
    pub fn at(wall: WallTime) -> Arc<Self> {
        Arc::new(Self {
            now: tokio::sync::watch::Sender::new(Duration::ZERO),
            epoch: wall,
        })
    }

    /// Moves both clocks forward and wakes who waits for that.
    pub fn advance(&self, span: Duration) {
        self.now.send_modify(|now| *now += span);
    }
}

#[async_trait::async_trait]
impl Clock for FakeClock {
    fn wall(&self) -> WallTime {
        self.epoch.plus(*self.now.borrow())
    }

    fn boot(&self) -> BootTime {
        BootTime(*self.now.borrow())
    }

    async fn sleep(&self, span: Duration) {
        let mut seen = self.now.subscribe();
        let until = *seen.borrow_and_update() + span;
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = seen.wait_for(|now| *now >= until).await;
    }
}
