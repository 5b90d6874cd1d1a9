//! Where nonces come from.

use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

/// Nonces for the cells of one slice, from a ChaCha generator seeded by the
/// operating system. Make a new one for each slice: a process image that was
/// copied (a snapshot of a virtual machine) then repeats nonces for one slice at
/// most, and a slice that is done twice gets other nonces.
///
/// The generator's state is not wiped when dropped. It is no key: it gives away
/// nonces, and those stand in clear in the cells.
pub struct NonceSource(StdRng);

impl NonceSource {
    /// A source with a seed of its own.
    ///
    /// # Panics
    /// If the operating system gives no randomness: nothing can be sealed then.
    pub fn new() -> Self {
        Self(crate::replay::generator().unwrap_or_else(|| {
            StdRng::try_from_rng(&mut SysRng)
                .expect("the operating system gives randomness; nothing is safe without")
        }))
    }

    /// The next nonce.
    #[allow(
        clippy::should_implement_trait,
        reason = "endless, so not an iterator of options"
    )]
    pub fn next(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        self.0.fill_bytes(&mut nonce);
        nonce
    }
}

impl Default for NonceSource {
    fn default() -> Self {
        Self::new()
    }
}
