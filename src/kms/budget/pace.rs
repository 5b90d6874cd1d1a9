//! The pace of calls: which moment a call may be sent at. Pure; it takes the time
//! as an argument.
//!
//! Slots are handed out ahead, each one interval after the one before it, by
//! schedule and not by when a caller woke up. So a timer that is late delays one
//! call and costs no rate.

use std::time::Duration;

use crate::clock::BootTime;

/// How a budget behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetSettings {
    /// Calls per second, never exceeded but for `burst_ms`.
    pub max_per_s: f64,
    /// Slots that went unused this recently may still be used, in milliseconds:
    /// it evens out timers and scheduling.
    pub burst_ms: u64,
    /// Seconds from nothing back to the maximum. The rate rises evenly.
    pub recover_s: f64,
}

impl BudgetSettings {
    /// A budget of so many calls per second, with the usual burst and recovery.
    pub fn per_second(max_per_s: f64) -> Self {
        Self {
            max_per_s,
            burst_ms: 20,
            recover_s: 60.0,
        }
    }

    /// The rate that throttling does not push below: a trickle, to learn when the
    /// KMS has room again.
    fn floor_per_s(&self) -> f64 {
        (self.max_per_s / 32.0).max(1.0).min(self.max_per_s)
    }
}

/// The pace of one budget.
#[derive(Debug)]
pub(super) struct Pace {
    settings: BudgetSettings,
    rate_per_s: f64,
    /// When the next slot is, if it is not taken late.
    next: BootTime,
    /// Up to when the recovery is counted.
    recovered_at: BootTime,
    halved_at: Option<BootTime>,
    generation: u64,
}

/// A moment to send one call at. Void if the pace was halved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub at: BootTime,
    generation: u64,
}

impl Pace {
    pub fn new(settings: BudgetSettings, now: BootTime) -> Self {
        Self {
            settings,
            rate_per_s: settings.max_per_s,
            next: now,
            recovered_at: now,
            halved_at: None,
            generation: 0,
        }
    }

    /// Takes the next free slot.
    pub fn reserve(&mut self, now: BootTime) -> Slot {
        self.recover(now);
        let burst = Duration::from_millis(self.settings.burst_ms);
        let earliest = BootTime(now.0.saturating_sub(burst));
        let at = self.next.max(earliest);
        self.next = at.plus(self.interval());
        Slot {
            at,
            generation: self.generation,
        }
    }

    /// The slot still holds. After a halving it does not: slots handed out at the
    /// old rate would bring on the next throttling.
    pub fn holds(&self, slot: Slot) -> bool {
        slot.generation == self.generation
    }

    /// The KMS throttled a call that was sent at `sent`. Answers to calls that
    /// were under way when the rate was halved say nothing about the new rate.
    pub fn throttled(&mut self, sent: BootTime, now: BootTime) {
        if self.halved_at.is_some_and(|at| sent < at) {
            return;
        }
        self.recover(now);
        self.rate_per_s = (self.rate_per_s / 2.0).max(self.settings.floor_per_s());
        self.halved_at = Some(now);
        self.generation += 1;
        self.next = now.plus(self.interval());
    }

    /// The rate now, in calls per second.
    pub fn rate_per_s(&mut self, now: BootTime) -> f64 {
        self.recover(now);
        self.rate_per_s
    }

    pub fn max_per_s(&self) -> f64 {
        self.settings.max_per_s
    }

    fn interval(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate_per_s)
    }

    fn recover(&mut self, now: BootTime) {
        let spent_s = now.since(self.recovered_at).as_secs_f64();
        let step = self.settings.max_per_s * spent_s / self.settings.recover_s;
        self.rate_per_s = (self.rate_per_s + step).min(self.settings.max_per_s);
        self.recovered_at = self.recovered_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at_us(us: u64) -> BootTime {
        BootTime(Duration::from_secs(1000) + Duration::from_micros(us))
    }

    proptest! {
        /// Whatever callers do, no window holds more slots than the maximum and
        /// the burst allow.
        #[test]
        fn never_above_the_maximum(
            gaps_us in proptest::collection::vec(0_u64..5000, 1..400),
            max_per_s in 1.0_f64..5000.0,
            throttle_each in 1_usize..50,
        ) {
            let settings = BudgetSettings::per_second(max_per_s);
            let mut pace = Pace::new(settings, at_us(0));
            let (mut now_us, mut sent) = (0, Vec::new());
            for (n, gap_us) in gaps_us.iter().enumerate() {
                now_us += gap_us;
                let now = at_us(now_us);
                let slot = pace.reserve(now);
                if slot.at <= now {
                    sent.push(now);
                } else {
                    sent.push(slot.at);
                }
                if n % throttle_each == 0 {
                    pace.throttled(now, now);
                    // Who holds a void slot asks again and does not send.
                    sent.retain(|at| *at <= now);
                }
                prop_assert!(pace.rate_per_s(now) <= max_per_s);
            }
            sent.sort();
            for (i, first) in sent.iter().enumerate() {
                for (j, last) in sent.iter().enumerate().skip(i) {
                    let window_s = last.since(*first).as_secs_f64() + 0.020;
                    prop_assert!((j - i) as f64 <= window_s * max_per_s + 1.0 + 1e-3);
                }
            }
        }
    }

    #[test]
    fn throttling_halves_once_for_all_calls_under_way_and_recovers_evenly() {
        let mut pace = Pace::new(BudgetSettings::per_second(600.0), at_us(0));
        let s = |s: u64| at_us(s * 1_000_000);
        pace.throttled(s(1), s(2));
        assert_eq!(pace.rate_per_s(s(2)), 300.0);
        pace.throttled(s(1), s(2));
        assert_eq!(pace.rate_per_s(s(2)), 300.0, "sent before the halving");
        assert_eq!(pace.rate_per_s(s(3)), 310.0, "600 a second in 60 s");
        pace.throttled(s(3), s(3));
        assert_eq!(pace.rate_per_s(s(3)), 155.0);
        for n in 0..20 {
            pace.throttled(s(4 + n), s(4 + n));
        }
        assert!(
            pace.rate_per_s(s(24)) >= 600.0 / 32.0,
            "never below the floor"
        );
        assert_eq!(pace.rate_per_s(s(200)), 600.0);
    }

    #[test]
    fn recent_slots_are_made_up_for_and_older_ones_are_lost() {
        let ready = |pause_us: u64| {
            let mut pace = Pace::new(BudgetSettings::per_second(1000.0), at_us(0));
            pace.reserve(at_us(0));
            let now = at_us(pause_us);
            (0..100).filter(|_| pace.reserve(now).at <= now).count()
        };
        assert_eq!(ready(500), 0, "the next slot is at 1 ms");
        assert_eq!(ready(15_000), 15, "all that went unused");
        assert_eq!(ready(5_000_000), 21, "20 ms worth, and the one that is due");
    }

    #[test]
    fn a_halving_voids_the_slots_of_the_old_rate() {
        let mut pace = Pace::new(BudgetSettings::per_second(100.0), at_us(0));
        let slots: Vec<Slot> = (0..50).map(|_| pace.reserve(at_us(0))).collect();
        pace.throttled(at_us(0), at_us(1000));
        assert!(slots.iter().all(|slot| !pace.holds(*slot)));
        let again = pace.reserve(at_us(1000));
        assert!(
            again.at <= at_us(1000 + 20_000),
            "and does not wait behind them"
        );
    }
}
