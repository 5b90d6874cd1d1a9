//! What the operating system decides in earnest and a simulation has to decide
//! from its seed: chance, and which thread computes.
//!
//! In a release build, and on every thread where no simulation runs, this is the
//! operating system's randomness and nothing else. [`from_seed`] and all that
//! follows from it are left out of release builds: a nonce that can be foretold
//! must not be a matter of one call.

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
#[cfg(debug_assertions)]
use rand::{RngExt, SeedableRng};

#[cfg(debug_assertions)]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<StdRng>> = const { std::cell::RefCell::new(None) };
}

/// A random value: an id, or how far into a wait to come back.
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(debug_assertions)]
    if let Some(value) = seeded(|rng| rng.random()) {
        return value;
    }
    rand::random()
}

/// Puts items into any order.
pub fn shuffle<T>(items: &mut [T]) {
    #[cfg(debug_assertions)]
    if seeded(|rng| items.shuffle(rng)).is_some() {
        return;
    }
    items.shuffle(&mut rand::rng());
}

/// A generator for the nonces of a slice, if this thread is a simulation.
pub(crate) fn generator() -> Option<StdRng> {
    #[cfg(debug_assertions)]
    if let Some(seed) = seeded(|rng| rng.random::<[u8; 32]>()) {
        return Some(StdRng::from_seed(seed));
    }
    None
}

/// Whether this thread is a simulation. It has no other threads: what is meant
/// for one is done at once.
pub(crate) fn is_on() -> bool {
    #[cfg(debug_assertions)]
    return SEEDED.with_borrow(Option::is_some);
    #[cfg(not(debug_assertions))]
    false
}

#[cfg(debug_assertions)]
fn seeded<T>(with: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    SEEDED.with_borrow_mut(|rng| rng.as_mut().map(with))
}

/// Makes this thread a simulation until what it returns is dropped.
#[cfg(debug_assertions)]
pub(crate) fn from_seed(seed: u64) -> Replaying {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
    Replaying(std::marker::PhantomData)
}

/// While this lives, its thread is a simulation.
#[cfg(debug_assertions)]
// Not `Send`: it belongs to its thread.
pub(crate) struct Replaying(std::marker::PhantomData<*const ()>);

#[cfg(debug_assertions)]
impl Drop for Replaying {
    fn drop(&mut self) {
        SEEDED.set(None);
    }
}
