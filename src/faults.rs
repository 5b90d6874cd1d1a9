//! Faults that a process can be told to have, for `rekeyd chaos` and tests. They
//! are asked for by the environment, and left out of release builds, as the
//! points of `killpoint` are.
//!
//! | variable | what |
//! |---|---|
//! | `REKEYD_FAULT_CLOCK=<ms>:<every ms>` | the wall clock jumps by so much, forward and back, at each turn of the period |
//! | `REKEYD_FAULT_AUDIT=<n>` | the disk of the audit log is full after so many writes |
//! | `REKEYD_FAULT_STORE=<n>` | the disk of the embedded store is full after so many further pages |

use std::time::Duration;

/// The environment of [`wall_jump_us`].
pub const CLOCK: &str = "REKEYD_FAULT_CLOCK";
/// The environment of [`audit_writes`].
pub const AUDIT: &str = "REKEYD_FAULT_AUDIT";
/// The environment of [`store_pages`].
pub const STORE: &str = "REKEYD_FAULT_STORE";

/// Whether this build has faults at all.
pub const BUILT_IN: bool = cfg!(debug_assertions);

/// How far the wall clock is off now, in microseconds. `boot` is the clock that
/// only goes forward.
#[inline]
pub fn wall_jump_us(boot: Duration) -> i64 {
    #[cfg(debug_assertions)]
    return asked::clock().map_or(0, |(far_ms, every_ms)| jump_us(far_ms, every_ms, boot));
    #[cfg(not(debug_assertions))]
    {
        let _ = boot;
        0
    }
}

/// After how many writes the audit log's disk is full.
pub fn audit_writes() -> Option<u32> {
    #[cfg(debug_assertions)]
    return asked::number(AUDIT);
    #[cfg(not(debug_assertions))]
    None
}

/// After how many further pages the embedded store's disk is full.
pub fn store_pages() -> Option<u32> {
    #[cfg(debug_assertions)]
    return asked::number(STORE);
    #[cfg(not(debug_assertions))]
    None
}

#[cfg(debug_assertions)]
fn jump_us(far_ms: i64, every_ms: u64, boot: Duration) -> i64 {
    let turn = boot.as_millis() / u128::from(every_ms.max(1));
    let sign = if turn.is_multiple_of(2) { 1 } else { -1 };
    sign * far_ms * 1000
}

#[cfg(debug_assertions)]
mod asked {
    use std::sync::OnceLock;

    pub fn clock() -> Option<(i64, u64)> {
        static CLOCK: OnceLock<Option<(i64, u64)>> = OnceLock::new();
        *CLOCK.get_or_init(|| {
            let text = std::env::var(super::CLOCK).ok()?;
            let (far, every) = text.split_once(':')?;
            Some((far.parse().ok()?, every.parse().ok()?))
        })
    }

    pub fn number(variable: &str) -> Option<u32> {
        std::env::var(variable).ok()?.parse().ok()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn the_clock_jumps_forward_and_back() {
        let at = |ms| jump_us(90, 700, Duration::from_millis(ms));
        assert_eq!([at(0), at(699)], [90_000; 2]);
        assert_eq!([at(700), at(1399)], [-90_000; 2]);
        assert_eq!(at(1400), 90_000);
    }
}
