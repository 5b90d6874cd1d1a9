//! CMKs that cannot be used now, so that one refusal does not become thousands
//! in the customer's log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{BootTime, SharedClock};
use crate::ids::CmkArn;
use crate::pipeline::work::Blocked;

/// How often a CMK's canary is tried at most.
const CANARY_EVERY: Duration = Duration::from_secs(60);

/// What is known of a CMK's canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// It answers: a refusal is about the scope.
    Answers,
    /// It is refused: the whole CMK is.
    Refused,
}

struct Entry {
    parked: Option<(BootTime, Blocked)>,
    refusals: u32,
    canary: Option<(BootTime, Canary)>,
}

/// The CMKs that are parked, and what their canaries said.
pub struct Parking {
    clock: SharedClock,
    cmks: Mutex<HashMap<CmkArn, Entry>>,
}

impl Parking {
    /// Nothing is parked.
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            cmks: Mutex::default(),
        }
    }

    /// Why a CMK is parked, if it is.
    pub fn why(&self, cmk: &CmkArn) -> Option<Blocked> {
        let now = self.clock.boot();
        self.with(cmk, |entry| {
            entry
                .parked
                .as_ref()
                .filter(|(until, _)| now < *until)
                .map(|(_, why)| why.clone())
        })
    }

    /// Parks a CMK. `wait` gives the span for the n-th refusal in a row.
    pub fn park(&self, cmk: &CmkArn, why: Blocked, wait: impl Fn(u32) -> Duration) {
        let now = self.clock.boot();
        self.with(cmk, |entry| {
            // Calls that were in flight when it was parked tell nothing new.
            if entry.parked.as_ref().is_none_or(|(until, _)| now >= *until) {
                entry.refusals += 1;
            }
            entry.parked = Some((now.plus(wait(entry.refusals)), why));
        });
    }

    /// A call succeeded: the CMK can be used.
    pub fn answered(&self, cmk: &CmkArn) {
        self.with(cmk, |entry| {
            entry.parked = None;
            entry.refusals = 0;
            // A canary that answered is still right: without it, each revoked
            // scope would call it again between the successes of the others.
            entry.canary = entry.canary.filter(|(_, said)| *said == Canary::Answers);
        });
    }

    /// What the canary said within the last minute.
    pub fn canary(&self, cmk: &CmkArn) -> Option<Canary> {
        let now = self.clock.boot();
        self.with(cmk, |entry| {
            entry
                .canary
                .filter(|(at, _)| now.since(*at) < CANARY_EVERY)
                .map(|(_, said)| said)
        })
    }

    /// Notes what the canary said.
    pub fn note_canary(&self, cmk: &CmkArn, said: Canary) {
        let now = self.clock.boot();
        self.with(cmk, |entry| entry.canary = Some((now, said)));
    }

    /// The CMKs that are parked now, for the status line.
    pub fn parked(&self) -> Vec<(CmkArn, String)> {
        let now = self.clock.boot();
        let cmks = self.cmks.lock().unwrap_or_else(PoisonError::into_inner);
        cmks.iter()
            .filter_map(|(cmk, entry)| match &entry.parked {
                Some((until, why)) if now < *until => Some((cmk.clone(), why.code.clone())),
                _ => None,
            })
            .collect()
    }

    fn with<T>(&self, cmk: &CmkArn, f: impl FnOnce(&mut Entry) -> T) -> T {
        let mut cmks = self.cmks.lock().unwrap_or_else(PoisonError::into_inner);
        f(cmks.entry(cmk.clone()).or_insert(Entry {
            parked: None,
            refusals: 0,
            canary: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{FakeClock, WallTime};

    #[test]
    fn a_parked_cmk_is_tried_again_after_its_wait_and_forgotten_when_it_answers() {
        let clock = FakeClock::at(WallTime(0));
        let parking = Parking::new(clock.clone());
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap();
        let why = Blocked {
            code: "cmk_disabled".into(),
            message: String::new(),
        };
        let wait = |n: u32| Duration::from_secs(10 << n);
        parking.park(&cmk, why.clone(), wait);
        parking.park(&cmk, why.clone(), wait);
        assert_eq!(parking.why(&cmk), Some(why.clone()));
        clock.advance(Duration::from_secs(20));
        assert_eq!(parking.why(&cmk), None);
        parking.park(&cmk, why.clone(), wait);
        clock.advance(Duration::from_secs(39));
        assert_eq!(parking.why(&cmk), Some(why.clone()));
        parking.answered(&cmk);
        assert_eq!(parking.why(&cmk), None);
        parking.park(&cmk, why, wait);
        clock.advance(Duration::from_secs(20));
        assert_eq!(parking.why(&cmk), None);
    }

    #[test]
    fn a_canary_is_believed_for_a_minute() {
        let clock = FakeClock::at(WallTime(0));
        let parking = Parking::new(clock.clone());
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap();
        parking.note_canary(&cmk, Canary::Refused);
        clock.advance(Duration::from_secs(59));
        assert_eq!(parking.canary(&cmk), Some(Canary::Refused));
        clock.advance(Duration::from_secs(1));
        assert_eq!(parking.canary(&cmk), None);
    }

    #[test]
    fn a_success_contradicts_a_refused_canary_only() {
        let clock = FakeClock::at(WallTime(0));
        let parking = Parking::new(clock);
        let cmk = CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap();
        for (said, after) in [
            (Canary::Refused, None),
            (Canary::Answers, Some(Canary::Answers)),
        ] {
            parking.note_canary(&cmk, said);
            parking.answered(&cmk);
            assert_eq!(parking.canary(&cmk), after);
        }
    }
}
