//! Calls and seconds, from counts, budgets and waits. Pure.

use serde::{Deserialize, Serialize};

use super::survey::Survey;
use crate::job::{Estimate, JobMessage, Mode, MoveKind};
use crate::registry::Timing;

/// Rows of one batch, at most.
const BATCH_ROWS: u64 = 100;

/// How a job goes through the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A rekey that seals every cell anew.
    Reencrypt,
    /// A rekey that wraps every data key anew.
    Rewrap,
    /// A move that stays in its place.
    MoveInPlace,
    /// A move to another place.
    Copy,
}

impl Way {
    /// That of a request.
    pub fn of(message: &JobMessage) -> Self {
        match message {
            JobMessage::Rekey(request) => match request.mode {
                Mode::Reencrypt => Way::Reencrypt,
                Mode::Rewrap => Way::Rewrap,
            },
            JobMessage::Move(request) => match request.kind() {
                MoveKind::InPlace => Way::MoveInPlace,
                MoveKind::Copy => Way::Copy,
            },
        }
    }

    /// Settles of a job: a copy has one after each of its four phases.
    fn settles(self) -> u64 {
        match self {
            Way::Reencrypt | Way::Rewrap | Way::MoveInPlace => 1,
            Way::Copy => 4,
        }
    }

    /// How often each row is read and written. A rekey reads to rewrite, to prove
    /// and after the drain. A copy reads its source for two rounds and a sweep,
    /// looks at the destination each time and once after it has written, and is
    /// proven there; it writes each row once and purges it once.
    fn passes(self) -> (u64, u64) {
        match self {
            Way::Reencrypt | Way::MoveInPlace => (3, 1),
            Way::Rewrap => (2, 0),
            Way::Copy => (8, 2),
        }
    }
}

/// Calls of the KMS by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmsCalls {
    /// Data keys made.
    pub generate_data_key: u64,
    /// Data keys opened.
    pub decrypt: u64,
    /// Data keys wrapped anew inside the KMS.
    pub re_encrypt: u64,
}

impl KmsCalls {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.generate_data_key + self.decrypt + self.re_encrypt
    }
}

/// The calls for so many slices with so many data keys, of which live cells name
/// some: the others are of before an earlier rekey that is not retired. Those that
/// preflight makes to try the CMKs, about ten, are not among them, nor is the key
/// that the old keys of each channel are set aside under, nor are calls that are
/// made again after a failure.
pub fn calls(way: Way, slices: u64, named_keys: u64, keys: u64) -> KmsCalls {
    match way {
        // Rewriting opens each key that a cell names and makes one for each slice;
        // the proof opens what was made. A rekey opens each old key, named or not,
        // to set it aside.
        Way::Reencrypt => KmsCalls {
            generate_data_key: slices,
            decrypt: named_keys + slices + keys,
            re_encrypt: 0,
        },
        // A copy's second round finds what is there and needs none.
        Way::MoveInPlace | Way::Copy => KmsCalls {
            generate_data_key: slices,
            decrypt: named_keys + slices,
            re_encrypt: 0,
        },
        // Each key that a cell names once to wrap it and once to prove it; the others
        // once, to set them aside.
        Way::Rewrap => KmsCalls {
            re_encrypt: 2 * named_keys + keys.saturating_sub(named_keys),
            ..KmsCalls::default()
        },
    }
}

/// The calls for what a survey has found.
pub fn of_survey(way: Way, survey: &Survey) -> KmsCalls {
    let (named_keys, keys) = (survey.named_keys.value, survey.keys.value);
    calls(way, survey.slices, named_keys, keys)
}

/// What a job waits for however little there is to do, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waits {
    /// Until every client follows, all settles together.
    pub settle_ms: u64,
    /// Until no write of before can land any more, before the proof.
    pub verify_ms: u64,
    /// Until no hint can come any more (L).
    pub drain_ms: u64,
}

impl Waits {
    /// The waits of a job in a store.
    pub fn of(way: Way, timing: &Timing) -> Self {
        Self {
            settle_ms: way.settles() * timing.settle_ms(),
            verify_ms: timing.row_age_ms + timing.request_timeout_ms,
            drain_ms: timing.drain_ms,
        }
    }

    /// All of them.
    pub fn total_ms(&self) -> u64 {
        self.settle_ms + self.verify_ms + self.drain_ms
    }
}

/// What workers may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Workers that share the job.
    pub workers: u64,
    /// Calls of the KMS a second, of all workers together.
    pub kms_per_s: u64,
    /// Rows a second that a throttle lets through, of all workers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_s: Option<u64>,
    /// Requests to the store at a time, of all workers together.
    pub store_at_once: u64,
    /// Rows of one read.
    pub page_rows: u64,
}

/// What takes the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Calls of the KMS, at its budget.
    Kms,
    /// Reads and writes.
    Store,
    /// The waits until every client follows.
    Settle,
    /// The wait for late writes.
    Drain,
}

/// How long a job takes, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// The calls of the KMS at their budget.
    pub kms_s: u64,
    /// Reads and writes, at the pace at which the sample was read. At least: nobody
    /// measured writes, or how the store does under load.
    pub store_s: u64,
    /// Settles.
    pub settle_s: u64,
    /// The wait before the proof.
    pub verify_s: u64,
    /// The drain.
    pub drain_s: u64,
    /// Waits, and the longer of store and KMS: they are used at the same time.
    pub total_s: u64,
    /// The longest of them.
    pub bottleneck: Bottleneck,
}

impl Time {
    /// The time of a job over what a survey has found.
    pub fn of(way: Way, survey: &Survey, waits: &Waits, budgets: &Budgets) -> Self {
        let kms_calls = of_survey(way, survey).total();
        let kms_s = kms_calls.div_ceil(budgets.kms_per_s.max(1));
        let store_s = store_s(way, survey, budgets);
        let whole = |ms: u64| ms.div_ceil(1000);
        let (settle_s, drain_s) = (whole(waits.settle_ms), whole(waits.drain_ms));
        let longest = [
            (kms_s, Bottleneck::Kms),
            (store_s, Bottleneck::Store),
            (settle_s, Bottleneck::Settle),
            (drain_s, Bottleneck::Drain),
        ];
        // Of equals the first.
        let longest = longest.into_iter().rev().max_by_key(|(s, _)| *s);
        Self {
            kms_s,
            store_s,
            settle_s,
            verify_s: whole(waits.verify_ms),
            drain_s,
            total_s: kms_s.max(store_s) + whole(waits.total_ms()),
            bottleneck: longest.map_or(Bottleneck::Settle, |(_, what)| what),
        }
    }
}

fn store_s(way: Way, survey: &Survey, budgets: &Budgets) -> u64 {
    let (reads, writes) = way.passes();
    let (slices, cells) = (survey.slices, survey.cells.value);
    // A slice has a page at least, and its key rows.
    let pages = slices.max(cells.div_ceil(budgets.page_rows.max(1)));
    let batches = slices.max(cells.div_ceil(BATCH_ROWS));
    let requests = reads * (pages + slices) + writes * (batches + slices);
    let us = u128::from(requests) * u128::from(survey.read_us);
    let at_once = u128::from(budgets.store_at_once.max(1));
    let paced = us.div_ceil(at_once).div_ceil(1_000_000);
    let throttled = budgets
        .rows_per_s
        .map_or(0, |rows| (reads * cells).div_ceil(rows.max(1)));
    u64::try_from(paced).unwrap_or(u64::MAX).max(throttled)
}

/// What preflight notes of a job: it has counted the slices and looked into none.
pub fn estimate(way: Way, slices: u64, timing: &Timing, kms_per_s: f64) -> Estimate {
    let kms_calls = calls(way, slices, slices, slices).total();
    let at_budget_s = kms_calls as f64 / kms_per_s.max(0.001);
    let waits_ms = Waits::of(way, timing).total_ms();
    Estimate {
        slices,
        kms_calls,
        seconds: at_budget_s.ceil() as u64 + waits_ms.div_ceil(1000),
    }
}

/// A price of 10,000 calls, in millionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price(u64);

impl Price {
    /// Reads an amount such as `0.03`.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || whole.len() > 6 || part.len() > 6 {
            return None;
        }
        let whole: u64 = whole.parse().ok()?;
        let part: u64 = format!("{part:0<6}").parse().ok()?;
        Some(Self(whole * 1_000_000 + part))
    }

    /// What so many calls cost, US dollars: `12.50`, to the cent, rounded up.
    pub fn of(self, calls: u64) -> String {
        let millionths = u128::from(calls) * u128::from(self.0) / 10_000;
        let cents = millionths.div_ceil(10_000);
        format!("{}.{:02}", cents / 100, cents % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::survey::Figure;

    fn survey(slices: u64, keys: u64, cells: u64, read_us: u64) -> Survey {
        let figure = |value| Figure { value, exact: true };
        Survey {
            slices,
            sampled: slices,
            keys: figure(keys),
            named_keys: figure(keys),
            cells: figure(cells),
            bytes: figure(cells * 600),
            read_us,
        }
    }

    const BUDGETS: Budgets = Budgets {
        workers: 1,
        kms_per_s: 100,
        rows_per_s: None,
        store_at_once: 10,
        page_rows: 500,
    };

    #[test]
    fn calls_are_counted_by_kind() {
        let expect = |way, generate_data_key, decrypt, re_encrypt| {
            let expected = KmsCalls {
                generate_data_key,
                decrypt,
                re_encrypt,
            };
            assert_eq!(calls(way, 10, 12, 30), expected, "{way:?}");
        };
        expect(Way::Reencrypt, 10, 12 + 10 + 30, 0);
        expect(Way::MoveInPlace, 10, 22, 0);
        expect(Way::Copy, 10, 22, 0);
        expect(Way::Rewrap, 0, 0, 12 + 12 + 18);
    }

    #[test]
    fn the_bottleneck_is_what_takes_longest() {
        let waits = Waits {
            settle_ms: 72_000,
            verify_ms: 70_000,
            drain_ms: 0,
        };
        let time = |survey: &Survey, waits: &Waits| {
            let time = Time::of(Way::Reencrypt, survey, waits, &BUDGETS);
            (time.bottleneck, time.total_s)
        };
        // 400 calls at 100 a second, and waits.
        let small = survey(100, 100, 600, 1000);
        assert_eq!(time(&small, &waits), (Bottleneck::Settle, 4 + 142));
        let many = survey(100_000, 100_000, 600_000, 1000);
        assert_eq!(time(&many, &waits), (Bottleneck::Kms, 4000 + 142));
        // 3 x (200,000 + 1) reads and 1,000,001 writes, 1 ms each, ten at once.
        let large = survey(1, 1, 100_000_000, 1000);
        assert_eq!(time(&large, &waits), (Bottleneck::Store, 161 + 142));
        let drained = Waits {
            drain_ms: 864_000_000,
            ..waits
        };
        assert_eq!(time(&small, &drained).0, Bottleneck::Drain);
    }

    #[test]
    fn a_throttle_of_rows_and_more_workers_count() {
        let waits = Waits {
            settle_ms: 0,
            verify_ms: 0,
            drain_ms: 0,
        };
        let found = survey(10, 10, 100_000, 0);
        let throttled = Budgets {
            rows_per_s: Some(100),
            ..BUDGETS
        };
        let time = Time::of(Way::Reencrypt, &found, &waits, &throttled);
        assert_eq!((time.store_s, time.bottleneck), (3000, Bottleneck::Store));
    }

    #[test]
    fn a_copy_settles_four_times_and_preflight_reckons_alike() {
        let timing = Timing::embedded();
        let (once, copy) = (
            Waits::of(Way::MoveInPlace, &timing),
            Waits::of(Way::Copy, &timing),
        );
        assert_eq!(copy.settle_ms, 4 * once.settle_ms);
        let noted = estimate(Way::Reencrypt, 1000, &timing, 100.0);
        assert_eq!((noted.slices, noted.kms_calls), (1000, 4000));
        let budgets = Budgets {
            store_at_once: 1_000_000,
            ..BUDGETS
        };
        let found = survey(1000, 1000, 0, 0);
        let time = Time::of(Way::Reencrypt, &found, &once, &budgets);
        assert_eq!(noted.seconds, time.total_s);
    }

    #[test]
    fn a_price_is_exact_to_the_cent() {
        let price = Price::parse("0.03").unwrap();
        assert_eq!(price.of(0), "0.00");
        assert_eq!(price.of(1), "0.01");
        assert_eq!(price.of(10_000), "0.03");
        assert_eq!(price.of(30_000_000), "90.00");
        assert_eq!(Price::parse("1").unwrap().of(10_000), "1.00");
        for text in [
            "",
            ".",
            "-1",
            "1.",
            ".5",
            "0.0000001",
            "1e3",
            "0,03",
            "1234567",
        ] {
            assert_eq!(Price::parse(text), None, "{text}");
        }
    }
}
