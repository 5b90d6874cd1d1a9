//! The slices of a job as a map of few cells, made from its tasks: each task is a
//! run of slices, of which it says how many there are and how far it is. So a
//! million slices cost a few thousand rows, and what is shown stays small.

use crate::job::{TaskRow, TaskState};
use crate::progress::slices_done;

/// Rows and cells of a row at most; neighbours are put together beyond it.
const ROWS: usize = 32;
const CELLS: usize = 48;

/// A run of slices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cell {
    /// The first slice, `channel/hour`.
    pub from: String,
    /// The slice after the last, or empty at the end.
    pub to: String,
    /// Slices planned.
    pub planned: u64,
    /// Slices gone through.
    pub done: u64,
    /// Slices that wait for a key.
    pub blocked: u64,
    /// Whether a worker is at it.
    pub held: bool,
}

/// One channel, or a run of channels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Row {
    /// Its first channel.
    pub first: String,
    /// Its last channel.
    pub last: String,
    /// In order of hours.
    pub cells: Vec<Cell>,
}

impl Cell {
    /// Tenths of it that are done, rounded down: 10 is said when all is.
    pub fn tenths(&self) -> u64 {
        (self.done * 10).checked_div(self.planned).unwrap_or(10)
    }

    fn add(&mut self, other: &Cell) {
        self.to.clone_from(&other.to);
        self.planned += other.planned;
        self.done += other.done;
        self.blocked += other.blocked;
        self.held |= other.held;
    }
}

impl Row {
    /// Slices done and planned.
    pub fn sums(&self) -> (u64, u64) {
        let cells = self.cells.iter();
        cells.fold((0, 0), |(done, planned), cell| {
            (done + cell.done, planned + cell.planned)
        })
    }
}

/// The map of a round's tasks, in their order.
pub(super) fn map(tasks: &[TaskRow], now_ms: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for task in tasks {
        let first = task.from.channel.to_string();
        // The first slice of the next task may be the next channel's first.
        let last = match &task.to {
            Some(to) => to.channel.to_string(),
            None => first.clone(),
        };
        let cell = Cell {
            from: task.from.to_string(),
            to: task
                .to
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            planned: task.planned,
            done: slices_done(task),
            blocked: task.blocked.len() as u64,
            held: task.state != TaskState::Done
                && task
                    .lease
                    .as_ref()
                    .is_some_and(|lease| lease.until_ms > now_ms),
        };
        match rows.last_mut() {
            Some(row) if row.first == first => {
                row.last = last;
                row.cells.push(cell);
            }
            _ => rows.push(Row {
                first,
                last,
                cells: vec![cell],
            }),
        }
    }
    let mut rows = together(rows, ROWS, |row, next| {
        row.last.clone_from(&next.last);
        row.cells.extend(next.cells.iter().cloned());
    });
    for row in &mut rows {
        row.cells = together(std::mem::take(&mut row.cells), CELLS, Cell::add);
    }
    rows
}

/// Puts neighbours together until there are at most `most`.
fn together<T>(all: Vec<T>, most: usize, mut add: impl FnMut(&mut T, &T)) -> Vec<T> {
    let size = all.len().div_ceil(most).max(1);
    let mut kept: Vec<T> = Vec::with_capacity(most);
    for (n, next) in all.into_iter().enumerate() {
        match kept.last_mut() {
            Some(last) if n % size > 0 => add(last, &next),
            _ => kept.push(next),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Counts, Effort, SliceId};

    /// A task of `planned` slices, `done` of them gone through, and where the
    /// next one begins.
    fn task(from: (&str, &str), to: Option<(&str, &str)>, planned: u64, done: u64) -> TaskRow {
        let slice = |(channel, hour): (&str, &str)| SliceId {
            channel: channel.parse().unwrap(),
            hour: hour.parse().unwrap(),
        };
        TaskRow {
            from: slice(from),
            to: to.map(slice),
            planned,
            state: if done == planned {
                TaskState::Done
            } else {
                TaskState::Open
            },
            token: 1,
            lease: None,
            takeovers: 0,
            checkpoint: None,
            counts: Counts::default(),
            effort: Effort {
                slices: done,
                ..Effort::default()
            },
            blocked: Vec::new(),
            streams: Vec::new(),
        }
    }

    #[test]
    fn a_row_is_a_channel_and_a_cell_a_task() {
        let tasks = [
            task(
                ("c1", "2019-02-13T00"),
                Some(("c1", "2019-03-01T00")),
                256,
                256,
            ),
            task(
                ("c1", "2019-03-01T00"),
                Some(("c2", "2019-02-13T00")),
                256,
                100,
            ),
            task(("c2", "2019-02-13T00"), None, 10, 0),
        ];
        let rows = map(&tasks, 0);
        let cells: Vec<Vec<u64>> = rows
            .iter()
            .map(|row| row.cells.iter().map(Cell::tenths).collect())
            .collect();
        assert_eq!(cells, [vec![10, 3], vec![0]]);
        assert_eq!((rows[0].first.as_str(), rows[0].sums()), ("c1", (356, 512)));
        assert_eq!(rows[1].cells[0].to, "");
    }

    #[test]
    fn a_million_slices_are_few_cells_and_none_is_lost() {
        let tasks: Vec<TaskRow> = (0..4000)
            .map(|n| {
                let channel = format!("c{:04}", n / 10);
                let hour = format!("2019-02-{:02}T{:02}", 1 + n % 10, n % 24);
                task((&channel, &hour), Some((&channel, &hour)), 256, n % 257)
            })
            .collect();
        for tasks in [&tasks[..], &tasks[..10], &[]] {
            let rows = map(tasks, 0);
            assert!(rows.len() <= ROWS, "{}", rows.len());
            assert!(rows.iter().all(|row| row.cells.len() <= CELLS));
            let (done, planned) = rows
                .iter()
                .map(Row::sums)
                .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert_eq!(planned, 256 * tasks.len() as u64);
            assert_eq!(done, tasks.iter().map(slices_done).sum::<u64>());
        }
    }
}
