//! A few slices drawn from all, for a quick look. It proves nothing: what is wrong
//! in one slice of a million is hardly ever in the sample.
//!
//! Slices have names and no numbers, so none can be drawn without a list of all.
//! Names are cheap: a thousand come with one read, and no cell is read for them.
//! So all names are listed, and each slice has the same chance to be drawn, by a
//! reservoir that holds no more than the sample.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::{Reached, Scan, Slices};
use crate::job::SliceId;
use crate::pipeline::TaskError;

/// What was drawn, for who wants to draw it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Slices that were asked for.
    pub asked: u32,
    /// Slices that were drawn: fewer only if there are no more.
    pub slices: u64,
    /// Slices there are.
    pub of: u64,
    /// Where chance came from: the same seed draws the same from the same slices.
    pub seed: u32,
}

/// Draws from items that come one by one, each with the same chance.
struct Reservoir<T> {
    rng: StdRng,
    most: usize,
    seen: u64,
    drawn: Vec<T>,
}

impl<T: Ord> Reservoir<T> {
    fn new(most: usize, seed: u32) -> Self {
        Self {
            rng: StdRng::seed_from_u64(u64::from(seed)),
            most,
            seen: 0,
            drawn: Vec::new(),
        }
    }

    fn offer(&mut self, item: T) {
        self.seen += 1;
        if self.drawn.len() < self.most {
            self.drawn.push(item);
            return;
        }
        // The item stays with the chance most/seen, in place of any other.
        let at = self.rng.random_range(0..self.seen);
        if let Some(place) = usize::try_from(at)
            .ok()
            .and_then(|at| self.drawn.get_mut(at))
        {
            *place = item;
        }
    }

    /// In order.
    fn finish(mut self) -> (u64, Vec<T>) {
        self.drawn.sort();
        (self.seen, self.drawn)
    }
}

impl Scan {
    /// Scans slices that are drawn by chance, all of each. `progress` is told as in
    /// [`Scan::run_from`], and nothing while names are listed.
    ///
    /// # Errors
    /// As [`Scan::run`].
    pub async fn sample(
        &self,
        slices: u32,
        seed: u32,
        progress: impl FnMut(&Reached),
    ) -> Result<(Reached, Sample), TaskError> {
        let most = usize::try_from(slices).unwrap_or(usize::MAX);
        let mut reservoir: Reservoir<SliceId> = Reservoir::new(most, seed);
        let mut walk = self.walk(None);
        while let Some(slice) = walk.next().await? {
            reservoir.offer(slice);
        }
        let (of, drawn) = reservoir.finish();
        let sample = Sample {
            asked: slices,
            slices: drawn.len() as u64,
            of,
            seed,
        };
        let slices = Slices::Drawn(drawn.into_iter());
        let reached = self.over(slices, Reached::default(), progress).await?;
        Ok((reached, sample))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(of: u32, most: usize, seed: u32) -> Vec<u32> {
        let mut reservoir = Reservoir::new(most, seed);
        (0..of).for_each(|item| reservoir.offer(item));
        let (seen, drawn) = reservoir.finish();
        assert_eq!(seen, u64::from(of));
        drawn
    }

    #[test]
    fn a_seed_draws_the_same_and_never_more_than_there_are() {
        assert_eq!(draw(1000, 10, 7), draw(1000, 10, 7));
        assert_ne!(draw(1000, 10, 7), draw(1000, 10, 8));
        assert_eq!(draw(3, 10, 7), [0, 1, 2]);
        assert!(draw(0, 10, 7).is_empty());
        let mut drawn = draw(1000, 10, 7);
        drawn.dedup();
        assert_eq!(drawn.len(), 10);
    }

    #[test]
    fn each_has_the_same_chance_the_first_and_the_last_too() {
        let mut times = [0_u32; 40];
        for seed in 0..4000 {
            for item in draw(40, 4, seed) {
                times[item as usize] += 1;
            }
        }
        // 400 each, give or take five times the deviation of 19.
        assert!(times.iter().all(|n| (305..=495).contains(n)), "{times:?}");
    }
}
