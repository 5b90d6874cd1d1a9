//! Messages that vanish. The authenticated header says when; readers enforce it.
//! The store's time to live only cleans up, and is chosen so that of two writes
//! at one write time the newer epoch always wins (I4): a store prefers a later
//! expiry before it looks at the bytes.

use crate::clock::WallTime;
use crate::crypto::CellError;
use crate::epoch::Epoch;

/// The latest expiry a cell may have: 2037-01-01T00:00:00Z in Unix seconds. With
/// the padding of the highest epoch (2^20 × 5 s, 61 days) it stays below
/// 2038-01-19, where 32-bit expiries of some stores end.
pub const LATEST: u32 = 2_114_380_800;

/// How far ahead a new expiry may lie: ten years of 365.25 days, in seconds.
/// Stores refuse a time to live above 20 years.
pub const MAX_AHEAD_S: i64 = 315_576_000;

/// Seconds by which the store's expiry lies later for each epoch. A constant of
/// the format: it covers a clock 1 s off on either side, the store's rounding to
/// whole seconds, and a second on the way.
pub const PADDING_S: i64 = 5;

const MICROS: i64 = 1_000_000;

/// Checks the expiry of a message that is about to be written for the first
/// time. `expiry` and `now_unix_s` are in Unix seconds.
///
/// # Errors
/// `BadExpiry` if it is 0, which means none, or later than
/// min(now + [`MAX_AHEAD_S`], [`LATEST`]).
pub fn check_new_expiry(expiry: u32, now_unix_s: i64) -> Result<(), CellError> {
    let latest = now_unix_s
        .saturating_add(MAX_AHEAD_S)
        .clamp(0, i64::from(LATEST));
    if expiry != 0 && i64::from(expiry) <= latest {
        Ok(())
    } else {
        Err(CellError::BadExpiry {
            expiry,
            latest: latest as u32,
        })
    }
}

/// Whether a cell is past its expiry (Unix seconds) and so absent.
pub fn is_expired(header_expiry: u32, now: WallTime) -> bool {
    now.0 >= i64::from(header_expiry) * MICROS
}

/// Checks that header and store agree on whether a cell vanishes. `ttl_s` is
/// what the store still keeps it for.
///
/// A header with an expiry over a store without is no error: the header rules,
/// and the next write gives the store its expiry back.
///
/// # Errors
/// `TtlMismatch` if the header says that the cell lasts and the store does not:
/// somebody who cannot open cells wants this one to vanish.
pub fn check_store_ttl(header_expiry: Option<u32>, ttl_s: Option<u32>) -> Result<(), CellError> {
    match (header_expiry, ttl_s) {
        (None, Some(_)) => Err(CellError::TtlMismatch),
        _ => Ok(()),
    }
}

/// The time to live, in seconds, for a cell of `epoch` whose header says
/// `header_expiry` (Unix seconds). `None`: its time is over, do not write it and
/// count it `expired`.
///
/// `read` is what is to be replaced, if it was read: its epoch, the time to live
/// the store gave with it in seconds, and the wall time of that answer. A writer
/// that was frozen between computing and sending has left an expiry later than
/// its epoch should have; the term catches up with it.
///
/// Compute it when the statement is sent, and again before it is sent again: the
/// store counts from when it gets the statement.
pub fn store_ttl(
    header_expiry: u32,
    epoch: Epoch,
    read: Option<(Epoch, u32, WallTime)>,
    now: WallTime,
) -> Option<u32> {
    let padded = |e: Epoch| (i64::from(header_expiry) + PADDING_S * i64::from(e.get())) * MICROS;
    let mut until = padded(epoch);
    if let Some((epoch_read, ttl_s, answered_at)) = read {
        let stored = answered_at.0.saturating_add(i64::from(ttl_s) * MICROS);
        if stored > padded(epoch_read) + PADDING_S * MICROS {
            let newer = i64::from(epoch.get()) - i64::from(epoch_read.get());
            until = until.max(stored.saturating_add(newer * PADDING_S * MICROS));
        }
    }
    let left = until.saturating_sub(now.0);
    if left <= 0 {
        return None;
    }
    // Rounded up: rounding down could give back the second that the padding won.
    let ttl_s = (left - 1) / MICROS + 1;
    Some(u32::try_from(ttl_s).unwrap_or(u32::MAX))
}
