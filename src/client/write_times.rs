//! The write times a client gives: microseconds, unique and rising.
//!
//! The store keeps, of two writes to a record, the one with the higher time. So
//! a client's times for one record must rise even where its clock stands still
//! or is set back, and two clients must not give one record the same time for
//! two values. The low bits of each time are the client's own, drawn at random;
//! the rest is the clock.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::{WallTime, WriteTime};
use crate::store::Partition;

use crate::ids::RecordId;

/// Bits of a write time that name the client. With 5 of them a time lies at most
/// 31 us after the clock, less than a durable write takes: a client that acts
/// after another's acknowledgement gets the later time. More bits would bend
/// the order of fast successive writers, fewer would let clients meet.
const CLIENT_BITS: u32 = 5;
const STEP: i64 = 1 << CLIENT_BITS;

/// Records whose last time is remembered. For a record beyond them the order
/// rests on the clock, as it does between two processes.
const REMEMBERED: usize = 1 << 16;

pub(super) struct WriteTimes {
    client: i64,
    hash: RandomState,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    seen: HashMap<u64, WriteTime>,
    order: VecDeque<u64>,
}

impl Last {
    fn raise(&mut self, record: u64, to: WriteTime) {
        match self.seen.get_mut(&record) {
            Some(last) => *last = (*last).max(to),
            None => {
                if self.order.len() == REMEMBERED
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.seen.remove(&oldest);
                }
                self.order.push_back(record);
                self.seen.insert(record, to);
            }
        }
    }
}

impl WriteTimes {
    /// For a new client, with a random id.
    pub(super) fn new() -> Self {
        Self::for_client(crate::replay::random())
    }

    fn for_client(id: u64) -> Self {
        Self {
            client: (id % STEP as u64) as i64,
            hash: RandomState::new(),
            last: Mutex::default(),
        }
    }

    /// A time for a write to a record in these places: not before the clock,
    /// above every time this client has given or seen for the record in any of
    /// them, or in the places they were copied from. So times rise through the
    /// phases of a copy, whose places change.
    pub(super) fn next(
        &self,
        now: WallTime,
        places: &[Partition],
        origins: &[Partition],
        record: &RecordId,
    ) -> WriteTime {
        let name = |place| self.name(place, record);
        let mut last = self.lock();
        let above = places
            .iter()
            .chain(origins)
            .filter_map(|place| last.seen.get(&name(place)))
            .map(|t| t.0.saturating_add(1))
            .max();
        let at = self.own(now.0.max(above.unwrap_or(i64::MIN)));
        for place in places {
            last.raise(name(place), at);
        }
        at
    }

    /// The client has read a record with this write time. In a copy it stands in
    /// all of these places, or will.
    pub(super) fn saw(&self, places: &[Partition], record: &RecordId, at: WriteTime) {
        let mut last = self.lock();
        for place in places {
            last.raise(self.name(place, record), at);
        }
    }

    /// The first time at or after `least` that has this client's low bits.
    fn own(&self, least: i64) -> WriteTime {
        let ahead = (self.client - least).rem_euclid(STEP);
        WriteTime(least.saturating_add(ahead))
    }

    /// Two records under one hash share a floor, which is only ever too high.
    fn name(&self, place: &Partition, record: &RecordId) -> u64 {
        self.hash.hash_one((place, record))
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        // Nothing that holds the lock can panic half way through a change.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Hour, OrgId, Place};
    use proptest::prelude::*;

    fn place() -> Partition {
        Partition {
            org: OrgId::new("acme").unwrap(),
            place: Place::new("0".repeat(32)).unwrap(),
            hour: Hour::of_unix_seconds(0).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn times_rise_for_a_record_whatever_the_clock_does(
            client in any::<u64>(),
            steps in prop::collection::vec((0i64..2_000_000_000_000_000, any::<bool>()), 1..50),
        ) {
            let times = WriteTimes::for_client(client);
            let (place, record) = ([place()], RecordId::new(*b"r").unwrap());
            let mut floor = i64::MIN;
            for (n, read) in steps {
                if read {
                    times.saw(&place, &record, WriteTime(n));
                    floor = floor.max(n);
                } else {
                    let at = times.next(WallTime(n), &place, &[], &record);
                    prop_assert!(at.0 > floor);
                    prop_assert!(at.0 >= n);
                    prop_assert_eq!(at.0.rem_euclid(STEP), times.client);
                    prop_assert!(at.0 < n.max(floor + 1) + STEP);
                    floor = at.0;
                }
            }
        }

        #[test]
        fn two_clients_never_give_one_time(a in 0u64..32, b in 0u64..32, n in 0i64..1 << 50) {
            prop_assume!(a != b);
            let at = |c| WriteTimes::for_client(c).own(n);
            prop_assert_ne!(at(a), at(b));
        }
    }

    /// The clock is set back while a channel is copied: the record's times rise
    /// from phase to phase all the same.
    #[test]
    fn times_rise_through_the_places_of_a_copy() {
        let place_of = |digit: &str| Partition {
            place: Place::new(digit.repeat(32)).unwrap(),
            ..place()
        };
        let (source, destination, third) = (place_of("1"), place_of("2"), place_of("3"));
        let record = RecordId::new(*b"r").unwrap();
        let times = WriteTimes::new();
        let both = [destination.clone(), source.clone()];
        let next = |now, places: &[Partition], origins: &[Partition]| {
            times.next(WallTime(now), places, origins, &record)
        };
        let announced = next(9_000, std::slice::from_ref(&source), &[]);
        let mirrored = next(1_000, &both, &[]);
        assert!(mirrored > announced);
        times.saw(&both, &record, WriteTime(20_000));
        let moved = next(500, std::slice::from_ref(&destination), &[]);
        assert!(moved.0 > 20_000);
        // A client that slept through the phases of the next copy.
        let copied_on = next(100, std::slice::from_ref(&third), &[destination]);
        assert!(copied_on > moved);
    }

    #[test]
    fn memory_is_bounded() {
        let times = WriteTimes::new();
        for n in 0..REMEMBERED as u64 + 100 {
            let record = RecordId::new(n.to_be_bytes()).unwrap();
            times.saw(&[place()], &record, WriteTime(1));
        }
        let last = times.lock();
        assert_eq!(last.seen.len(), REMEMBERED);
        assert_eq!(last.order.len(), REMEMBERED);
    }
}
