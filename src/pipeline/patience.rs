//! Trying again while the store is away.
//!
//! There is no limit here: a worker that cannot reach the store cannot renew its
//! lease either, and the loss of the lease drops the task with all its waits.

use std::time::Duration;

use crate::clock::SharedClock;
use crate::job::BookError;
use crate::registry::RegistryError;
use crate::replay;
use crate::store::{StoreError, StoreErrorClass};
use crate::telemetry::metrics::STORE_ERRORS;

/// Ceiling of the first wait.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Ceiling of the later ones.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// An error that may pass.
pub trait Passing: std::fmt::Display {
    /// True where the same call may succeed after a wait.
    fn may_pass(&self) -> bool;
}

impl Passing for StoreError {
    fn may_pass(&self) -> bool {
        self.class == StoreErrorClass::Transient
    }
}

impl Passing for RegistryError {
    fn may_pass(&self) -> bool {
        self.is_transient()
    }
}

impl Passing for BookError {
    fn may_pass(&self) -> bool {
        matches!(self, BookError::Store(e) if e.may_pass())
    }
}

/// Calls until it succeeds or fails for good, waiting longer each time, with
/// full jitter so that workers that failed together do not come back together.
pub async fn patiently<T, E, F>(clock: &SharedClock, mut call: impl FnMut() -> F) -> Result<T, E>
where
    E: Passing,
    F: Future<Output = Result<T, E>>,
{
    let mut ceiling = FIRST_WAIT;
    loop {
        match call().await {
            Err(error) if error.may_pass() => {
                metrics::counter!(STORE_ERRORS, "class" => "transient").increment(1);
                tracing::warn!(%error, "the store is away; trying again");
                clock.sleep(ceiling.mul_f64(replay::random())).await;
                ceiling = (ceiling * 2).min(LONGEST_WAIT);
            }
            answer => return answer,
        }
    }
}
