//! Pages finish in any order; a checkpoint may only cover what lies before it
//! without a gap. Pure.

use std::collections::BTreeMap;

/// Gives back what was pushed, in order, as far as it is without a gap. The
/// order is by slice, then by page; the last page of a slice says so.
pub struct InOrder<T> {
    next: (u64, u64),
    waiting: BTreeMap<(u64, u64), (bool, T)>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> InOrder<T> {
    /// Nothing seen yet: slice 0, page 0 is next.
    pub fn new() -> Self {
        Self {
            next: (0, 0),
            waiting: BTreeMap::new(),
        }
    }

    /// Takes a page in.
    pub fn push(&mut self, slice: u64, page: u64, last_page: bool, item: T) {
        self.waiting.insert((slice, page), (last_page, item));
    }

    /// The next page in order, if it is there.
    pub fn pop(&mut self) -> Option<T> {
        let (last_page, item) = self.waiting.remove(&self.next)?;
        self.next = if last_page {
            (self.next.0 + 1, 0)
        } else {
            (self.next.0, self.next.1 + 1)
        };
        Some(item)
    }

    /// Whether nothing waits for a gap to be filled.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the order of arrival, pages come out in order, all of them,
        /// and never before those ahead of them.
        #[test]
        fn pages_come_out_in_order(
            shape in prop::collection::vec(1u64..5, 1..8),
            seed in any::<u64>(),
        ) {
            use rand::seq::SliceRandom;
            use rand::SeedableRng;
            let all: Vec<(u64, u64, bool)> = shape
                .iter()
                .enumerate()
                .flat_map(|(s, n)| (0..*n).map(move |p| (s as u64, p, p + 1 == *n)))
                .collect();
            let mut arrivals = all.clone();
            arrivals.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
            let mut order = InOrder::new();
            let mut out = Vec::new();
            let mut arrived = std::collections::BTreeSet::new();
            for (s, p, last) in arrivals {
                arrived.insert((s, p));
                order.push(s, p, last, (s, p));
                while let Some(item) = order.pop() {
                    prop_assert!(arrived.contains(&item));
                    out.push(item);
                }
            }
            let expected: Vec<(u64, u64)> = all.iter().map(|(s, p, _)| (*s, *p)).collect();
            prop_assert_eq!(out, expected);
            prop_assert!(order.is_empty());
        }
    }
}
