//! The dice of a history.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Dice that everything in one history throws.
#[derive(Clone)]
pub(super) struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something with this probability happens.
    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng().random_bool(probability.min(1.0))
    }

    /// A number from 0 to `below - 1`.
    pub(super) fn below(&self, below: usize) -> usize {
        self.rng().random_range(0..below)
    }

    /// A span between two, in milliseconds, the shorter ones as likely as the
    /// longer ones on a logarithmic scale.
    pub(super) fn span(&self, from_ms: f64, to_ms: f64) -> Duration {
        let exponent = self.rng().random_range(from_ms.ln()..=to_ms.ln());
        Duration::from_secs_f64(exponent.exp() / 1000.0)
    }

    /// A seed for another generator.
    pub(super) fn seed(&self) -> u64 {
        self.rng().random()
    }
}
