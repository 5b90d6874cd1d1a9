//! I4: expiry from the header; the store's is later for a newer epoch.

use proptest::prelude::*;

use crate::clock::WallTime;
use crate::crypto::expiry::{
    LATEST, MAX_AHEAD_S, check_new_expiry, check_store_ttl, is_expired, store_ttl,
};
use crate::epoch::Epoch;

const S: i64 = 1_000_000;

fn e(n: u32) -> Epoch {
    Epoch::new(n).unwrap()
}

/// What a store makes of a time to live: it counts whole seconds, from when it
/// gets the statement by its own clock.
fn store_expiry_s(arrives_us: i64, ttl_s: u32) -> i64 {
    arrives_us.div_euclid(S) + i64::from(ttl_s)
}

/// What a store says is left, by its own clock.
fn ttl_left(expiry_s: i64, store_now_us: i64) -> u32 {
    u32::try_from(expiry_s - store_now_us.div_euclid(S)).unwrap()
}

const START_S: i64 = 1_700_000_000;

prop_compose! {
    /// An expiry and two epochs, the second newer, with its start well before.
    fn two_epochs()(
        ahead in 100_i64..100_000_000,
        older in 1_u32..1000,
        gap in 1_u32..1000,
    ) -> (u32, u32, u32) {
        (u32::try_from(START_S + ahead).unwrap(), older, older + gap)
    }
}

proptest! {
    /// Neither has read the other's write: the padding alone must do. The bounds
    /// are those the padding is made for: clocks within 1 s of the store's, at
    /// most 1 s from computing to arrival, whenever each is sent.
    #[test]
    fn a_newer_epoch_expires_later_whenever_it_is_sent(
        (header, older, newer) in two_epochs(),
        sent in prop::array::uniform2(0..90 * S),
        skew in prop::array::uniform2(-S..=S),
        way in prop::array::uniform2(0..=S),
    ) {
        let expiry = |epoch, i: usize| {
            let computed = START_S * S + sent[i];
            let ttl = store_ttl(header, e(epoch), None, WallTime(computed)).unwrap();
            store_expiry_s(computed + skew[i] + way[i], ttl)
        };
        prop_assert!(expiry(newer, 1) > expiry(older, 0));
    }

    /// The older writer was frozen for any time between computing and sending.
    /// The newer one reads its write first. Its own expiry is then later, or the
    /// same with a smaller or equal TTL, and the newer epoch's bytes decide.
    #[test]
    fn a_frozen_writer_is_caught_up_with(
        (header, older, newer) in two_epochs(),
        frozen in 0..40_000_000 * S,
        skew_old in -S..=S,
        skew_new in -S..=S,
        answer in 0..2 * S,
        think in 0..60 * S,
        way in 0..=S,
    ) {
        let computed = START_S * S;
        let ttl_old = store_ttl(header, e(older), None, WallTime(computed)).unwrap();
        let landed = computed + skew_old + frozen;
        let stored = store_expiry_s(landed, ttl_old);

        // Two hundred milliseconds later the store answers a read.
        let read_at = landed + 200_000;
        let answered = read_at + answer - skew_new;
        let now = answered + think;
        let arrives = now + skew_new + way;
        prop_assume!(stored > read_at.div_euclid(S) && stored > arrives.div_euclid(S));
        let read = (e(older), ttl_left(stored, read_at), WallTime(answered));
        let Some(ttl_new) = store_ttl(header, e(newer), Some(read), WallTime(now)) else {
            return Err(TestCaseError::fail("a live cell was given up"));
        };
        let new = store_expiry_s(arrives, ttl_new);
        prop_assert!(new > stored || (new == stored && ttl_new <= ttl_old));
    }

    /// The store never cleans up what a reader would still show.
    #[test]
    fn the_store_keeps_a_cell_at_least_as_long_as_its_header(
        (header, _, epoch) in two_epochs(),
        now in START_S * S..(START_S + 100) * S,
        way in 0..=S,
    ) {
        let ttl = store_ttl(header, e(epoch), None, WallTime(now)).unwrap();
        prop_assert!(store_expiry_s(now + way, ttl) >= i64::from(header));
    }

    /// Rewritten by the same clock without delay, the padding does not pile up.
    #[test]
    fn the_catch_up_leaves_a_good_expiry_alone(
        (header, older, newer) in two_epochs(),
        now in START_S * S..(START_S + 50) * S,
    ) {
        let ttl = store_ttl(header, e(older), None, WallTime(now)).unwrap();
        let read = (e(older), ttl, WallTime(now));
        let without = store_ttl(header, e(newer), None, WallTime(now));
        prop_assert_eq!(store_ttl(header, e(newer), Some(read), WallTime(now)), without);
    }
}

#[test]
fn what_is_over_is_not_written() {
    let header = 1_893_456_000;
    let end = (i64::from(header) + 5 * 3) * S;
    assert_eq!(store_ttl(header, e(3), None, WallTime(end - 1)), Some(1));
    assert_eq!(store_ttl(header, e(3), None, WallTime(end)), None);
    assert_eq!(store_ttl(header, e(3), None, WallTime(end + S)), None);
    assert_eq!(store_ttl(header, e(3), None, WallTime(i64::MAX)), None);
    // The exact second is not rounded up to the next.
    assert_eq!(
        store_ttl(header, e(3), None, WallTime(end - 10 * S)),
        Some(10)
    );
    assert_eq!(
        store_ttl(header, e(3), None, WallTime(end - 10 * S - 1)),
        Some(11)
    );
}

#[test]
fn new_expiries_have_a_latest() {
    let now = START_S;
    for (expiry, now, ok) in [
        (1, now, true),
        (0, now, false),
        (now + MAX_AHEAD_S, now, true),
        (now + MAX_AHEAD_S + 1, now, false),
        (i64::from(LATEST), 2_000_000_000, true),
        (i64::from(LATEST) + 1, 2_000_000_000, false),
        (i64::from(LATEST), i64::MAX, true),
        (1, i64::MIN, false),
    ] {
        let expiry = u32::try_from(expiry).unwrap();
        assert_eq!(
            check_new_expiry(expiry, now).is_ok(),
            ok,
            "{expiry} at {now}"
        );
    }
    let latest: jiff::Timestamp = "2037-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(latest.as_second(), i64::from(LATEST));
}

#[test]
fn readers_go_by_the_header() {
    assert!(!is_expired(100, WallTime(100 * S - 1)));
    assert!(is_expired(100, WallTime(100 * S)));
}

#[test]
fn a_lasting_header_over_a_ttl_is_quarantined() {
    assert_eq!(
        check_store_ttl(None, Some(9)).unwrap_err().code(),
        "ttl_mismatch"
    );
    for (header, ttl) in [(None, None), (Some(9), Some(9)), (Some(9), None)] {
        assert!(check_store_ttl(header, ttl).is_ok());
    }
}
