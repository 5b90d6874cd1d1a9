//! Epochs: the numbers that order the states an organization has been in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number per organization that only grows (I3). It starts at 1; activation
/// refuses 2^20. The wire form has room to 2^28, so that a bug in the counter
/// shows as an error and not as a wrapped number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Epoch(u32);

/// An epoch outside 0..2^28.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {0} does not fit the format (it must be below 2^28)")]
pub struct EpochTooLarge(pub u32);

impl Epoch {
    /// The epoch an organization is created with.
    pub const FIRST: Epoch = Epoch(1);
    /// Below every epoch: the floor of an organization that never raised one.
    pub const ZERO: Epoch = Epoch(0);
    /// Activation refuses this epoch and above (`epoch_exhausted`).
    pub const EXHAUSTED: u32 = 1 << 20;
    /// First number the four bytes cannot hold.
    pub const LIMIT: u32 = 1 << 28;

    /// Checks the range.
    pub fn new(n: u32) -> Result<Self, EpochTooLarge> {
        if n < Self::LIMIT {
            Ok(Self(n))
        } else {
            Err(EpochTooLarge(n))
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one, or `None` where activation must refuse it.
    pub fn next(self) -> Option<Self> {
        (self.0 + 1 < Self::EXHAUSTED).then_some(Self(self.0 + 1))
    }

    /// Four bytes of base 128, most significant first, each below 0x80. They
    /// lead every cell, so that of two cells of one write time the store keeps
    /// the one of the newer epoch (docs/format.md).
    pub fn to_bytes(self) -> [u8; 4] {
        let e = self.0;
        [
            (e >> 21) as u8 & 0x7f,
            (e >> 14) as u8 & 0x7f,
            (e >> 7) as u8 & 0x7f,
            e as u8 & 0x7f,
        ]
    }

    /// Reads the four bytes; `None` if one of them is 0x80 or above.
    pub fn from_bytes(b: [u8; 4]) -> Option<Self> {
        if b.iter().any(|x| *x >= 0x80) {
            return None;
        }
        Some(Self(b.iter().fold(0, |n, x| (n << 7) | u32::from(*x))))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for Epoch {
    type Error = EpochTooLarge;
    fn try_from(n: u32) -> Result<Self, EpochTooLarge> {
        Self::new(n)
    }
}

impl From<Epoch> for u32 {
    fn from(e: Epoch) -> u32 {
        e.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base_128_and_order_like_the_numbers() {
        assert_eq!(Epoch(300).to_bytes(), [0, 0, 2, 0x2c]);
        let mut last = [0; 4];
        for n in [
            1,
            2,
            127,
            128,
            129,
            300,
            16_383,
            16_384,
            (1 << 20) - 1,
            (1 << 28) - 1,
        ] {
            let bytes = Epoch(n).to_bytes();
            assert!(bytes > last, "{n}");
            assert_eq!(Epoch::from_bytes(bytes), Some(Epoch(n)));
            last = bytes;
        }
        assert_eq!(Epoch::from_bytes([0, 0, 0x80, 0]), None);
    }

    #[test]
    fn the_counter_ends_before_two_to_the_twenty() {
        assert_eq!(Epoch(1).next(), Some(Epoch(2)));
        assert_eq!(Epoch(Epoch::EXHAUSTED - 1).next(), None);
    }
}
