//! So many rows a second at most, over all slices that are read at once.
//!
//! How many rows a page will bring is not known before it is read. So each takes
//! what the pages before it brought on average, and what it was wrong by is put
//! right when it is there. Over any longer span the rate holds; for a moment as
//! many rows may come as are asked for at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::SharedClock;
use crate::job::Bucket;
use crate::store::PageLimit;

/// Whoever waits looks again this often at least: another page may have brought
/// less than it took.
const LOOK: Duration = Duration::from_millis(50);

/// A rate that many readers keep together.
pub(super) struct RowPace {
    rows_per_s: u32,
    clock: SharedClock,
    state: Mutex<State>,
}

struct State {
    bucket: Bucket,
    pages: u64,
    rows: u64,
}

/// The right to read one page. Dropped without an answer, it took nothing.
pub(super) struct Turn<'a> {
    pace: &'a RowPace,
    taken: f64,
}

impl RowPace {
    pub fn new(rows_per_s: u32, clock: SharedClock) -> Self {
        let bucket = Bucket::new(clock.boot());
        Self {
            rows_per_s,
            clock,
            state: Mutex::new(State {
                bucket,
                pages: 0,
                rows: 0,
            }),
        }
    }

    /// A page of no more rows than a second lets through.
    pub fn within(&self, limit: PageLimit) -> PageLimit {
        let most = usize::try_from(self.rows_per_s).unwrap_or(usize::MAX);
        PageLimit {
            rows: limit.rows.min(most).max(1),
            ..limit
        }
    }

    /// Waits until a page may be read.
    pub async fn turn(&self) -> Turn<'_> {
        let rate = f64::from(self.rows_per_s);
        loop {
            let now = self.clock.boot();
            let wait = self.with(|state| match state.bucket.wait(rate, now) {
                Some(wait) => Err(wait),
                None => {
                    let taken = state.expected();
                    state.bucket.take(taken);
                    Ok(taken)
                }
            });
            match wait {
                Ok(taken) => return Turn { pace: self, taken },
                Err(wait) => self.clock.sleep(wait.min(LOOK)).await,
            }
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Rows that the next page is likely to bring.
    fn expected(&self) -> f64 {
        (self.rows as f64 / self.pages.max(1) as f64).max(1.0)
    }
}

impl Turn<'_> {
    /// The page brought so many rows.
    pub fn took(mut self, rows: u64) {
        self.pace.with(|state| {
            state.bucket.take(rows as f64);
            state.pages += 1;
            state.rows += rows;
            state.bucket.give_back(std::mem::take(&mut self.taken));
        });
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        self.pace.with(|state| state.bucket.give_back(taken));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::join_all;

    use super::*;
    use crate::clock::{Clock, FakeClock, WallTime};

    /// Seconds on a clock that only moves while everybody waits, for pages of so
    /// many rows, read by so many at once, each read taking 2 ms.
    async fn took(rows_per_s: u32, readers: usize, pages: &[u64]) -> f64 {
        let clock = FakeClock::at(WallTime(0));
        let pace = RowPace::new(rows_per_s, clock.clone());
        let next = Mutex::new(pages.iter());
        let read = join_all((0..readers).map(|_| async {
            while let Some(rows) = { next.lock().unwrap().next() } {
                let turn = pace.turn().await;
                clock.sleep(Duration::from_millis(2)).await;
                turn.took(*rows);
            }
        }));
        let moved: Arc<FakeClock> = clock.clone();
        tokio::select! {
            biased;
            _ = read => {}
            () = async { loop { moved.advance(Duration::from_millis(1)); tokio::task::yield_now().await; } } => {}
        }
        clock.boot().0.as_secs_f64()
    }

    #[tokio::test]
    async fn a_rate_is_kept_for_large_pages_and_reached_with_small_ones() {
        for (rate, readers, page, pages) in [
            (100, 1, 50, 20),
            (100, 8, 50, 40),
            (1000, 8, 5, 1000),
            (1000, 64, 3, 2000),
        ] {
            let rows = page * pages as u64;
            let spent = took(rate, readers, &vec![page; pages]).await;
            let due = rows as f64 / f64::from(rate);
            // What is in flight at the end is not waited for.
            let ahead = (readers as u64 * page) as f64 / f64::from(rate) + 0.1;
            assert!(spent >= due - ahead, "{rate}/s: {spent} s, not {due}");
            assert!(spent <= due * 1.3 + 0.2, "{rate}/s: {spent} s, not {due}");
        }
    }

    #[tokio::test]
    async fn a_page_that_failed_takes_nothing() {
        let clock = FakeClock::at(WallTime(0));
        let pace = RowPace::new(1, clock.clone());
        drop(pace.turn().await);
        // It would wait for the first one's row.
        pace.turn().await.took(1);
        assert_eq!(clock.boot().0, Duration::ZERO);
    }
}
