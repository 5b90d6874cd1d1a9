//! The rule by which a store picks one of two writes, as pure functions.
//!
//! It is Apache Cassandra's (`db/rows/Cells.java`, `reconcile` and
//! `resolveRegular`; `db/DeletionTime.java`) and ScyllaDB's since 2023
//! (scylladb/scylladb#14183; before it, the bytes came ahead of the expiry). Of
//! two writes to a cell the higher write time wins. On a tie:
//!
//! 1. a tombstone beats a value;
//! 2. an expiring value beats a lasting one, also after it has expired, so that
//!    the outcome does not depend on when somebody looks (CASSANDRA-14592);
//! 3. of two of a kind, the later local time (expiry or deletion) wins;
//! 4. then the smaller TTL, that is the value written later (some versions go
//!    straight to the bytes; between cells of two epochs it never comes to that,
//!    for the newer one expires later);
//! 5. then the larger bytes. The epoch leads a cell's bytes, so a newer epoch
//!    wins here.
//!
//! The tombstone of a row or a partition covers every write at or before its
//! time.
//!
//! The embedded store does the same in SQL, and tests hold the two together. A
//! node may turn an expired value into a tombstone when it compacts; rule 2 then
//! becomes rule 1, and both say that the value is gone.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::clock::WriteTime;
use crate::ids::RecordId;

/// What one write made of a cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    // In the order in which they win a tie; `Ord` is derived from it.
    /// A value without an end.
    Lasting {
        /// The blob.
        bytes: Vec<u8>,
    },
    /// A value with an end. It goes on taking part in merges after it.
    Expiring {
        /// Not live from this Unix second on.
        expiry_s: i64,
        /// The TTL it was written with, seconds. The smaller wins.
        ttl_s: Reverse<u32>,
        /// The blob.
        bytes: Vec<u8>,
    },
    /// The cell was deleted.
    Tombstone {
        /// When, by the store's clock: Unix seconds.
        deleted_s: i64,
    },
}

/// A cell, as one write made it. The greater of two wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The write time.
    pub write_time: WriteTime,
    /// What was written.
    pub content: Content,
}

impl Cell {
    /// The blob, if the cell is live at a Unix second.
    pub fn live_at(&self, now_s: i64) -> Option<&[u8]> {
        match &self.content {
            Content::Lasting { bytes } => Some(bytes),
            Content::Expiring {
                expiry_s, bytes, ..
            } if now_s < *expiry_s => Some(bytes),
            Content::Expiring { .. } | Content::Tombstone { .. } => None,
        }
    }

    /// Seconds left at a Unix second; `None` if the cell does not expire or has.
    pub fn ttl_left_s(&self, now_s: i64) -> Option<u32> {
        match self.content {
            Content::Expiring { expiry_s, .. } if now_s < expiry_s => {
                u32::try_from(expiry_s - now_s).ok()
            }
            _ => None,
        }
    }
}

/// The tombstone of a row or of a partition. The greater of two wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deletion {
    /// It covers what was written at or before this time.
    pub at: WriteTime,
    /// When it was made, by the store's clock: Unix seconds.
    pub deleted_s: i64,
}

impl Deletion {
    /// Whether it covers a write.
    pub fn covers(self, write_time: WriteTime) -> bool {
        write_time <= self.at
    }
}

/// A row: what is left of all writes to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Its tombstone.
    pub deletion: Option<Deletion>,
    /// Its cell.
    pub cell: Option<Cell>,
}

/// A partition: what is left of all writes to it. It holds nothing that a
/// tombstone in it covers, so equal histories give equal values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// Its tombstone.
    pub deletion: Option<Deletion>,
    /// The rows that are not empty.
    pub rows: BTreeMap<RecordId, Row>,
}

/// Of two cells of one row, the one that is kept.
pub fn reconcile<'c>(left: &'c Cell, right: &'c Cell) -> &'c Cell {
    match left.cmp(right) {
        Ordering::Less => right,
        Ordering::Equal | Ordering::Greater => left,
    }
}

impl Row {
    /// A row with nothing but a cell.
    pub fn of_cell(cell: Cell) -> Self {
        Self {
            deletion: None,
            cell: Some(cell),
        }
    }

    /// A row with nothing but a tombstone.
    pub fn of_deletion(deletion: Deletion) -> Self {
        Self {
            deletion: Some(deletion),
            cell: None,
        }
    }

    /// What is left of both.
    #[must_use]
    pub fn merge(self, other: Row) -> Row {
        let mut row = Row {
            deletion: self.deletion.max(other.deletion),
            // `None` is below every cell.
            cell: self.cell.max(other.cell),
        };
        row.drop_covered(row.deletion);
        row
    }

    fn drop_covered(&mut self, deletion: Option<Deletion>) {
        let Some(deletion) = deletion else { return };
        if self
            .cell
            .as_ref()
            .is_some_and(|cell| deletion.covers(cell.write_time))
        {
            self.cell = None;
        }
    }
}

impl Rows {
    /// A partition with nothing but one row.
    pub fn of_row(record: RecordId, row: Row) -> Self {
        Self {
            deletion: None,
            rows: BTreeMap::from([(record, row)]),
        }
    }

    /// A partition with nothing but a tombstone.
    pub fn of_deletion(deletion: Deletion) -> Self {
        Self {
            deletion: Some(deletion),
            rows: BTreeMap::new(),
        }
    }

    /// What is left of both.
    #[must_use]
    pub fn merge(mut self, other: Rows) -> Rows {
        for (record, row) in other.rows {
            let mine = self.rows.remove(&record).unwrap_or_default();
            self.rows.insert(record, mine.merge(row));
        }
        self.deletion = self.deletion.max(other.deletion);
        let Some(deletion) = self.deletion else {
            return self;
        };
        self.rows.retain(|_, row| {
            row.drop_covered(Some(deletion));
            // A row's tombstone that the partition's covers adds nothing.
            row.deletion = row.deletion.filter(|row| !deletion.covers(row.at));
            *row != Row::default()
        });
        self
    }

    /// The live cells at a Unix second, in order of record id.
    pub fn live_at(&self, now_s: i64) -> impl Iterator<Item = (&RecordId, &Cell)> {
        self.rows.iter().filter_map(move |(record, row)| {
            let cell = row.cell.as_ref()?;
            cell.live_at(now_s)?;
            Some((record, cell))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn lasting(at: i64, bytes: &[u8]) -> Cell {
        Cell {
            write_time: WriteTime(at),
            content: Content::Lasting {
                bytes: bytes.to_vec(),
            },
        }
    }

    fn expiring(at: i64, expiry_s: i64, ttl_s: u32, bytes: &[u8]) -> Cell {
        let content = Content::Expiring {
            expiry_s,
            ttl_s: Reverse(ttl_s),
            bytes: bytes.to_vec(),
        };
        Cell {
            write_time: WriteTime(at),
            content,
        }
    }

    fn tombstone(at: i64, deleted_s: i64) -> Cell {
        Cell {
            write_time: WriteTime(at),
            content: Content::Tombstone { deleted_s },
        }
    }

    #[test]
    fn each_cell_beats_the_one_before_it() {
        let ascending = [
            tombstone(1, 99),
            lasting(2, b""),
            lasting(2, b"a"),
            lasting(2, b"aa"),
            lasting(2, b"b"),
            expiring(2, 50, 10, b"z"),
            expiring(2, 60, 20, b"z"),
            expiring(2, 60, 10, b"a"),
            expiring(2, 60, 10, b"b"),
            tombstone(2, 1),
            tombstone(2, 2),
            lasting(3, b""),
        ];
        for (n, winner) in ascending.iter().enumerate() {
            for loser in &ascending[..n] {
                assert_eq!(reconcile(winner, loser), winner);
                assert_eq!(reconcile(loser, winner), winner);
            }
        }
    }

    #[test]
    fn a_tombstone_covers_up_to_its_own_time() {
        let deletion = Deletion {
            at: WriteTime(5),
            deleted_s: 0,
        };
        for (at, gone) in [(4, true), (5, true), (6, false)] {
            let row = Row::of_cell(lasting(at, b"x")).merge(Row::of_deletion(deletion));
            assert_eq!(row.cell.is_none(), gone, "row, {at}");
            let record = RecordId::new(*b"r").unwrap();
            let rows = Rows::of_row(record, Row::of_cell(lasting(at, b"x")));
            let rows = rows.merge(Rows::of_deletion(deletion));
            assert_eq!(rows.rows.is_empty(), gone, "partition, {at}");
        }
    }

    // Few values, so that ties are the rule and not the exception.
    fn any_mutation() -> impl Strategy<Value = Rows> {
        let at = (0..4i64).prop_map(WriteTime);
        let cell = prop_oneof![
            vec(0..3u8, 0..2).prop_map(|bytes| Content::Lasting { bytes }),
            (0..3i64, 1..3u32, vec(0..3u8, 0..2)).prop_map(|(expiry_s, ttl_s, bytes)| {
                Content::Expiring {
                    expiry_s,
                    ttl_s: Reverse(ttl_s),
                    bytes,
                }
            }),
            (0..3i64).prop_map(|deleted_s| Content::Tombstone { deleted_s }),
        ];
        let deletion = (at.clone(), 0..3i64).prop_map(|(at, deleted_s)| Deletion { at, deleted_s });
        let row = prop_oneof![
            4 => (at, cell).prop_map(|(write_time, content)| Row::of_cell(Cell { write_time, content })),
            1 => deletion.clone().prop_map(Row::of_deletion),
        ];
        prop_oneof![
            6 => (0..3u8, row).prop_map(|(id, row)| {
                Rows::of_row(RecordId::new([id]).expect("one byte"), row)
            }),
            1 => deletion.prop_map(Rows::of_deletion),
        ]
    }

    fn any_rows() -> impl Strategy<Value = Rows> {
        vec(any_mutation(), 0..6).prop_map(|all| all.into_iter().fold(Rows::default(), Rows::merge))
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            a in any_rows(), b in any_rows(), c in any_rows()
        ) {
            let ab = a.clone().merge(b.clone());
            prop_assert_eq!(&ab, &b.clone().merge(a.clone()));
            prop_assert_eq!(
                ab.clone().merge(c.clone()),
                a.clone().merge(b.clone().merge(c))
            );
            prop_assert_eq!(&a, &a.clone().merge(a.clone()));
            prop_assert_eq!(&ab, &ab.clone().merge(b));
        }
    }
}
