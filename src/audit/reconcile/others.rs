//! Calls by others to the same CMKs, counted by who, what and how it ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::Event;

/// As many are told apart; a CMK that more use is used by anybody.
const MOST: usize = 10_000;

/// What one principal did, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Other {
    /// Who.
    pub principal: String,
    /// What.
    pub operation: String,
    /// How often.
    pub calls: u64,
    /// How many of these failed.
    pub failed: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

/// The count.
#[derive(Default)]
pub(super) struct Others {
    told: BTreeMap<(String, String), Other>,
    untold: u64,
}

impl Others {
    pub fn take(&mut self, event: &Event) {
        let key = (event.principal.clone(), event.operation.clone());
        if self.told.len() >= MOST && !self.told.contains_key(&key) {
            self.untold += 1;
            return;
        }
        let other = self.told.entry(key).or_insert_with(|| Other {
            principal: event.principal.clone(),
            operation: event.operation.clone(),
            calls: 0,
            failed: 0,
            first: event.time,
            last: event.time,
        });
        other.calls += 1;
        other.failed += u64::from(event.error.is_some());
        other.first = other.first.min(event.time);
        other.last = other.last.max(event.time);
    }

    /// By who and what; and how many calls were of those who are too many.
    pub fn finish(self) -> (Vec<Other>, u64) {
        (self.told.into_values().collect(), self.untold)
    }
}
