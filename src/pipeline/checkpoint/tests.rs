//! A model of a task: slices of rows, read page by page, with kills, stops and
//! keys that are refused for a while. Whatever happens, the task's row accounts
//! for exactly the rows that its checkpoint covers.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::*;
use crate::ids::{ChannelId, Hour, OrgId};
use crate::pipeline::unwrap::SliceKeyRing;
use crate::pipeline::work::Slice;

const ROWS_OF_A_PAGE: usize = 3;

#[derive(Debug, Clone)]
struct ModelSlice {
    rows: usize,
    /// The key of every other row is refused so many times.
    refusals: u32,
    /// Rows that do not open.
    broken: BTreeSet<usize>,
}

fn slices() -> impl Strategy<Value = Vec<ModelSlice>> {
    let slice = (
        0usize..10,
        0u32..4,
        prop::collection::btree_set(0usize..10, 0..3),
    );
    let slice = slice.prop_map(|(rows, refusals, broken)| ModelSlice {
        rows,
        refusals,
        broken,
    });
    prop::collection::vec(slice, 1..6)
}

struct Model {
    slices: Vec<ModelSlice>,
    /// Rows that were written back, by slice and row. They stay written whatever
    /// becomes of the process.
    written: BTreeSet<(usize, usize)>,
    row: TaskRow,
    random: StdRng,
}

fn id(slice: usize) -> SliceId {
    SliceId {
        channel: ChannelId::new("c1").unwrap(),
        hour: Hour::of_unix_seconds(3600 * slice as u64).unwrap(),
    }
}

fn record(row: usize) -> RecordId {
    RecordId::new(vec![row as u8]).unwrap()
}

fn number(record: &RecordId) -> usize {
    usize::from(record.as_bytes()[0])
}

fn hour_number(slice: &SliceId) -> usize {
    (slice.hour.start_unix_seconds() / 3600) as usize
}

impl Model {
    fn new(slices: Vec<ModelSlice>, seed: u64) -> Self {
        let row = TaskRow {
            from: id(0),
            to: None,
            planned: slices.len() as u64,
            state: TaskState::Open,
            token: 0,
            lease: None,
            takeovers: 0,
            checkpoint: None,
            counts: Counts::default(),
            effort: Effort::default(),
            blocked: Vec::new(),
            streams: Vec::new(),
        };
        Self {
            slices,
            written: BTreeSet::new(),
            row,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// What a claim goes through: slices, and the record each begins after.
    fn todo(&self) -> Vec<(usize, Option<RecordId>)> {
        if self.row.state == TaskState::Parked {
            let blocked = self.row.blocked.iter();
            return blocked
                .map(|b| (hour_number(&b.slice), b.after.clone()))
                .collect();
        }
        let (first, after) = match &self.row.checkpoint {
            None => (0, None),
            Some(at) => (hour_number(&at.slice), at.record.clone()),
        };
        let begin = |n| if n == first { after.clone() } else { None };
        (first..self.slices.len()).map(|n| (n, begin(n))).collect()
    }

    /// Reads and works on one page.
    fn page(&mut self, n: usize, slice: &Arc<Slice>, page: u64, first: usize) -> Tally {
        let model = self.slices[n].clone();
        let rows: Vec<usize> = (first..model.rows).take(ROWS_OF_A_PAGE).collect();
        let complete = first + ROWS_OF_A_PAGE >= model.rows;
        let mut tally = Tally {
            slice: slice.clone(),
            page,
            last_page: complete,
            complete,
            after: first.checked_sub(1).map(record),
            last_record: rows.last().map(|row| record(*row)),
            counts: Counts {
                scanned: rows.len() as u64,
                ..Counts::default()
            },
            effort: Effort {
                slices: u64::from(complete),
                ..Effort::default()
            },
            bad: Vec::new(),
            blocked: None,
            room: None,
            turn: None,
        };
        for row in rows {
            if self.written.contains(&(n, row)) {
                tally.counts.current += 1;
            } else if row % 2 == 0 && model.refusals > 0 {
                let why = Blocked {
                    code: "revoked".to_owned(),
                    message: String::new(),
                };
                tally.block(1, why);
            } else if model.broken.contains(&row) {
                tally.quarantine(record(row), crate::clock::WriteTime(1), "tag_mismatch");
            } else {
                self.written.insert((n, row));
                tally.counts.rewritten += 1;
            }
        }
        tally
    }

    /// One claim of the task, until it is through, stopped or killed.
    fn claim(&mut self) {
        let retrying = self.row.state == TaskState::Parked;
        let todo = self.todo();
        let mut tallies = Vec::new();
        let stop_at = self
            .random
            .random_bool(0.3)
            .then(|| self.random.random_range(0..30));
        let mut stopped = false;
        'all: for (order, (n, after)) in todo.iter().enumerate() {
            if stopped {
                break;
            }
            let slice = Arc::new(Slice {
                number: order as u64,
                id: id(*n),
                keys: SliceKeyRing::new(&OrgId::new("acme").unwrap(), &id(*n).channel, id(*n).hour),
                keys_elsewhere: std::sync::Mutex::default(),
                turn: Arc::new(tokio::sync::Semaphore::new(1)),
            });
            let mut first = after.as_ref().map_or(0, |record| number(record) + 1);
            for page in 0.. {
                let mut tally = self.page(*n, &slice, page, first);
                stopped |= stop_at.is_some_and(|at| tallies.len() >= at);
                // A stop request ends each slice with the page in flight.
                tally.last_page |= stopped;
                let last = tally.last_page;
                tallies.push(tally);
                if last {
                    // Slices in flight at a stop are all cut, not only the first.
                    if stopped && self.random.random_bool(0.5) {
                        break 'all;
                    }
                    break;
                }
                first += ROWS_OF_A_PAGE;
            }
            // A key is given back some time.
            self.slices[*n].refusals = self.slices[*n].refusals.saturating_sub(1);
        }
        tallies.shuffle(&mut self.random);
        let killed_at = self
            .random
            .random_bool(0.4)
            .then(|| self.random.random_range(0..=tallies.len()));
        let mut order = InOrder::new();
        let mut progress = Progress::new(retrying);
        for (arrived, tally) in tallies.into_iter().enumerate() {
            if killed_at == Some(arrived) {
                return;
            }
            order.push(tally.slice.number, tally.page, tally.last_page, tally);
            while let Some(tally) = order.pop() {
                progress.take(tally);
            }
            if progress.is_due() && self.random.random_bool(0.5) {
                self.save(&mut progress);
            }
        }
        assert!(order.is_empty());
        self.save(&mut progress);
        if !stopped {
            self.row.state = if self.row.blocked.is_empty() {
                TaskState::Done
            } else {
                TaskState::Parked
            };
        }
    }

    fn save(&mut self, progress: &mut Progress) {
        note(&Timing::demo(), &mut self.row, progress.hand_over(), 0);
        self.check();
    }

    /// The row accounts for the rows before its checkpoint, each once.
    fn check(&self) {
        let row = &self.row;
        assert!(row.counts.balances(), "{row:#?}");
        let rows_of = |n: usize| self.slices[n].rows;
        let covered: usize = match &row.checkpoint {
            None => 0,
            Some(at) => {
                let n = hour_number(&at.slice);
                let before: usize = (0..n).map(rows_of).sum();
                before + at.record.as_ref().map_or(0, |record| number(record) + 1)
            }
        };
        assert_eq!(row.counts.scanned, covered as u64, "{row:#?}");
        let waiting: u64 = row.blocked.iter().map(|b| b.counts.blocked).sum();
        assert_eq!(row.counts.blocked, waiting, "{row:#?}");
        let distinct: BTreeSet<&SliceId> = row.blocked.iter().map(|b| &b.slice).collect();
        assert_eq!(distinct.len(), row.blocked.len(), "a slice is listed twice");
        for blocked in &row.blocked {
            assert!(blocked.counts.balances() && blocked.counts.blocked > 0);
        }
    }
}

proptest! {
    #[test]
    fn counts_are_those_of_the_rows_covered(slices in slices(), seed in any::<u64>()) {
        let mut model = Model::new(slices.clone(), seed);
        let mut claims = 0;
        while model.row.state != TaskState::Done {
            model.claim();
            claims += 1;
            prop_assert!(claims < 1000, "the task does not end: {:#?}", model.row);
        }
        let rows: usize = slices.iter().map(|s| s.rows).sum();
        let broken: usize = slices
            .iter()
            .map(|s| s.broken.iter().filter(|row| **row < s.rows).count())
            .sum();
        let counts = model.row.counts;
        prop_assert_eq!(counts.scanned, rows as u64);
        prop_assert_eq!(counts.quarantined, broken as u64);
        prop_assert_eq!(counts.blocked, 0);
        prop_assert_eq!(counts.rewritten + counts.current, (rows - broken) as u64);
        prop_assert_eq!(model.row.effort.slices, slices.len() as u64);
    }
}
