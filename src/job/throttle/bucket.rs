//! When the next rows or calls are due at a rate. Pure; it takes the time as an
//! argument.
//!
//! It counts a debt: what was taken is owed, and the rate pays it off. Whoever
//! asks may take as long as nothing is owed, however much it is, so that a page
//! that is larger than a second's worth passes too, and is waited for after it.

use std::time::Duration;

use crate::clock::BootTime;

/// So much of a second may be saved up: it evens out timers.
const BURST_S: f64 = 0.1;

/// One rate that is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// What is owed; below 0 what was saved up.
    owed: f64,
    /// Up to when the debt is paid off.
    paid_at: BootTime,
}

impl Bucket {
    /// Nothing owed, nothing saved up.
    pub fn new(now: BootTime) -> Self {
        Self {
            owed: 0.0,
            paid_at: now,
        }
    }

    /// How long nothing may be taken yet at a rate a second; `None`: not at all.
    pub fn wait(&mut self, rate: f64, now: BootTime) -> Option<Duration> {
        self.owed -= rate * now.since(self.paid_at).as_secs_f64();
        self.owed = self.owed.max(-rate * BURST_S);
        self.paid_at = self.paid_at.max(now);
        // A year is for ever; more would be no duration.
        (self.owed > 0.0).then(|| Duration::from_secs_f64((self.owed / rate).min(3.2e7)))
    }

    /// Takes so much, after [`Bucket::wait`] has let it.
    pub fn take(&mut self, n: f64) {
        self.owed += n;
    }

    /// Gives back what was taken and not used.
    pub fn give_back(&mut self, n: f64) {
        self.owed -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Over any span no more is taken than the rate allows, but for one
        /// page and what may be saved up.
        #[test]
        fn no_more_is_taken_than_the_rate_allows(
            rate in 0.01f64..1000.0,
            steps in prop::collection::vec((0u64..5_000, 1u32..200, 0u32..200), 1..200),
        ) {
            let mut bucket = Bucket::new(BootTime(Duration::ZERO));
            let (mut now, mut taken) = (BootTime(Duration::ZERO), 0.0);
            for (ms, page, unused) in steps {
                now = now.plus(Duration::from_millis(ms));
                if bucket.wait(rate, now).is_some() {
                    continue;
                }
                bucket.take(f64::from(page));
                bucket.give_back(f64::from(unused.min(page)));
                taken += f64::from(page - unused.min(page));
                let allowed = rate * (now.0.as_secs_f64() + BURST_S) + 200.0;
                prop_assert!(taken <= allowed + 1e-6, "{taken} of {allowed}");
            }
        }
    }

    #[test]
    fn a_debt_is_waited_off_at_the_rate_of_now() {
        let at = |s| BootTime(Duration::from_secs(s));
        let mut bucket = Bucket::new(at(0));
        assert_eq!(bucket.wait(10.0, at(0)), None);
        bucket.take(100.0);
        assert_eq!(bucket.wait(10.0, at(0)), Some(Duration::from_secs(10)));
        bucket.give_back(50.0);
        assert_eq!(bucket.wait(10.0, at(1)), Some(Duration::from_secs(4)));
        // Half the rate is twice the wait, for what is still owed.
        assert_eq!(bucket.wait(5.0, at(1)), Some(Duration::from_secs(8)));
        assert_eq!(bucket.wait(5.0, at(9)), None);
    }
}
