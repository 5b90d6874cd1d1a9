//! How large a batch may be: smaller after a warning or a timeout, larger again
//! bit by bit.

use std::sync::Mutex;

/// Rows of a batch at most.
pub(super) const MOST_ROWS: usize = 100;
/// Bytes of cells in a batch at most: where ScyllaDB begins to warn.
pub(super) const MOST_BYTES: usize = 128 << 10;
const FEWEST_ROWS: usize = 4;
const FEWEST_BYTES: usize = 8 << 10;
/// Batches that went well before the size grows by a tenth.
const STREAK: u32 = 50;

/// The size that batches have now.
#[derive(Debug)]
pub(super) struct BatchSize(Mutex<Size>);

#[derive(Debug, Clone, Copy)]
struct Size {
    rows: usize,
    bytes: usize,
    streak: u32,
}

impl BatchSize {
    pub fn new() -> Self {
        Self(Mutex::new(Size {
            rows: MOST_ROWS,
            bytes: MOST_BYTES,
            streak: 0,
        }))
    }

    /// Rows and bytes at most.
    pub fn now(&self) -> (usize, usize) {
        let size = self.lock();
        (size.rows, size.bytes)
    }

    /// A batch went well.
    pub fn went_well(&self) {
        let mut size = self.lock();
        size.streak += 1;
        if size.streak >= STREAK {
            size.streak = 0;
            size.rows = (size.rows + MOST_ROWS / 10).min(MOST_ROWS);
            size.bytes = (size.bytes + MOST_BYTES / 10).min(MOST_BYTES);
        }
    }

    /// The server warned of a batch, refused it as too large, or did not answer
    /// in time.
    pub fn was_too_large(&self) {
        let mut size = self.lock();
        size.streak = 0;
        size.rows = (size.rows / 2).max(FEWEST_ROWS);
        size.bytes = (size.bytes / 2).max(FEWEST_BYTES);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Size> {
        // Nothing that is done under the lock can panic.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Whether a warning of the server is about the size of a batch.
pub(super) fn is_about_size(warning: &str) -> bool {
    let warning = warning.to_ascii_lowercase();
    warning.contains("batch") && (warning.contains("size") || warning.contains("exceed"))
}

/// Cuts items into runs of at most `rows` items and `bytes` bytes, at least one
/// item each.
pub(super) fn cut<T>(
    mut items: &[T],
    rows: usize,
    bytes: usize,
    size_of: impl Fn(&T) -> usize,
) -> Vec<&[T]> {
    let mut runs = Vec::new();
    while !items.is_empty() {
        let mut sum = 0;
        let fit = items
            .iter()
            .take(rows)
            .take_while(|item| {
                sum += size_of(item);
                sum <= bytes
            })
            .count()
            .max(1);
        let (run, rest) = items.split_at(fit);
        runs.push(run);
        items = rest;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_and_recovers_slowly() {
        let size = BatchSize::new();
        assert_eq!(size.now(), (100, 128 << 10));
        size.was_too_large();
        assert_eq!(size.now(), (50, 64 << 10));
        for _ in 0..STREAK - 1 {
            size.went_well();
        }
        assert_eq!(size.now().0, 50);
        size.went_well();
        assert_eq!(size.now().0, 60);
        for _ in 0..STREAK * 10 {
            size.went_well();
        }
        assert_eq!(size.now(), (MOST_ROWS, MOST_BYTES));
        for _ in 0..20 {
            size.was_too_large();
        }
        assert_eq!(size.now(), (FEWEST_ROWS, FEWEST_BYTES));
    }

    #[test]
    fn runs_keep_both_bounds_and_lose_nothing() {
        let sizes: Vec<usize> = vec![10, 20, 30, 500, 1, 1, 1, 1, 1];
        let runs = cut(&sizes, 4, 60, |n| *n);
        let expected: Vec<&[usize]> = vec![&[10, 20, 30], &[500], &[1, 1, 1, 1], &[1]];
        assert_eq!(runs, expected);
        assert!(cut(&[] as &[usize], 4, 60, |n| *n).is_empty());
    }

    #[test]
    fn warnings_about_other_things_change_nothing() {
        assert!(is_about_size(
            "Batch for [ks.cells] is of size 70.000KiB, exceeding specified threshold"
        ));
        assert!(!is_about_size(
            "Aggregation query used without partition key"
        ));
    }
}
