//! How many rows to ask for, so that an answer stays within its bytes.
//!
//! The protocol counts pages in rows, and cells are from 60 bytes to 1 MiB. So
//! the first question to a partition is for few rows, and the next are by the
//! sizes that came. What was learnt of a partition is kept while it is read.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use crate::store::{PageLimit, Partition};

/// Rows asked for of a partition that is not known: most slices have no more,
/// and should they all be of the largest size, they still fit in memory.
const FIRST_ROWS: usize = 32;
/// How much more to ask for than was seen.
const GROWTH: usize = 4;
/// Rows of one answer at most.
const MOST_ROWS: usize = 5000;
/// Partitions remembered. They are read a few at a time, one after the other.
const REMEMBERED: usize = 4096;

/// What was seen of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Rows.
    rows: usize,
    /// The largest of late, bytes.
    largest: usize,
}

impl Seen {
    /// Takes in the rows of one answer.
    pub fn add(&mut self, rows: usize, largest: usize) {
        self.rows += rows;
        // One large cell is not held against a partition for ever.
        let faded = self.largest - self.largest / 8;
        self.largest = largest.max(faded);
    }

    /// Rows to ask for next, where `rows` and `bytes` are left of the page.
    pub fn ask(&self, rows: usize, bytes: usize) -> usize {
        let grown = FIRST_ROWS.max(self.rows.saturating_mul(GROWTH));
        let by_size = match self.largest {
            0 => grown,
            largest => bytes / largest,
        };
        by_size.min(grown).min(rows).min(MOST_ROWS)
    }

    /// Whether a page that holds something is worth another question.
    pub fn is_worth_asking(&self, left_bytes: usize, limit: PageLimit) -> bool {
        left_bytes >= limit.bytes / 4 && left_bytes >= self.largest
    }
}

/// What was seen of the partitions that are being read.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<HashMap<u64, Seen>>);

impl Sizes {
    pub fn of(&self, partition: &Partition) -> Seen {
        let known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        known.get(&name(partition)).copied().unwrap_or_default()
    }

    /// Keeps what was learnt, if the partition goes on.
    pub fn keep(&self, partition: &Partition, seen: Seen, goes_on: bool) {
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if !goes_on {
            known.remove(&name(partition));
            return;
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name(partition), seen);
    }
}

fn name(partition: &Partition) -> u64 {
    let mut hasher = DefaultHasher::new();
    partition.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: PageLimit = PageLimit {
        rows: 10_000,
        bytes: 1 << 20,
    };

    #[test]
    fn an_unknown_partition_is_asked_for_little() {
        assert_eq!(Seen::default().ask(LIMIT.rows, LIMIT.bytes), FIRST_ROWS);
        assert_eq!(Seen::default().ask(5, LIMIT.bytes), 5);
    }

    #[test]
    fn questions_grow_with_what_was_seen_and_shrink_with_the_size() {
        let mut seen = Seen::default();
        seen.add(32, 600);
        assert_eq!(seen.ask(LIMIT.rows, LIMIT.bytes), 128);
        seen.add(128, 600);
        assert_eq!(seen.ask(LIMIT.rows, LIMIT.bytes), 640);
        seen.add(1, 1 << 20);
        assert_eq!(seen.ask(LIMIT.rows, LIMIT.bytes), 1);
        assert_eq!(seen.ask(LIMIT.rows, 1000), 0);
        assert!(!seen.is_worth_asking(1000, LIMIT));
        // It fades.
        for _ in 0..80 {
            seen.add(100, 600);
        }
        assert!(seen.ask(LIMIT.rows, LIMIT.bytes) > 1000);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        use crate::ids::{Hour, OrgId, Place};
        let sizes = Sizes::default();
        let at = |n: u64| Partition {
            org: OrgId::new("acme").unwrap(),
            place: Place::new("00112233445566778899aabbccddeeff").unwrap(),
            hour: Hour::of_unix_seconds(n * 3600).unwrap(),
        };
        let mut seen = Seen::default();
        seen.add(7, 70);
        for n in 0..10_000 {
            sizes.keep(&at(n), seen, true);
        }
        assert!(sizes.0.lock().unwrap().len() <= REMEMBERED);
        assert_eq!(sizes.of(&at(9_999)), seen);
        sizes.keep(&at(9_999), seen, false);
        assert_eq!(sizes.of(&at(9_999)), Seen::default());
    }
}
