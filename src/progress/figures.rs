//! Numbers, spans and times as people read them.

use std::time::Duration;

use crate::clock::WallTime;

/// `950`, `18.3 k`, `18.3 M`: three digits are enough to follow progress.
pub fn amount(n: u64) -> String {
    // Casts are exact below 2^53; beyond it three digits are still right.
    scaled(n as f64)
}

/// A rate, such as `31.2 k`.
pub fn rate(per_s: f64) -> String {
    if per_s < 10.0 {
        format!("{per_s:.1}")
    } else {
        scaled(per_s)
    }
}

fn scaled(x: f64) -> String {
    // Rounded before the unit is chosen, so that 999.96 k is 1.0 M.
    match x {
        x if x < 999.5 => format!("{x:.0}"),
        x if x < 999_950.0 => format!("{:.1} k", x / 1e3),
        x if x < 999_950_000.0 => format!("{:.1} M", x / 1e6),
        x => format!("{:.1} G", x / 1e9),
    }
}

/// A span in its largest unit: `41 s`, `14 m`, `3 h 20 m`, `2 d 4 h`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs() + u64::from(d.subsec_nanos() > 0);
    match s {
        0..=99 => format!("{s} s"),
        100..=5999 => format!("{} m", s.div_ceil(60)),
        6000..=172_799 => format!("{} h {} m", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// A time to the second, UTC.
pub fn time(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(t) => format!("{t:.0}"),
        Err(_) => format!("{unix_ms} ms"),
    }
}

/// The span until a time, or `None` if it has come.
pub fn until(unix_ms: u64, now: WallTime) -> Option<Duration> {
    let left = unix_ms.saturating_sub(now.unix_ms());
    (left > 0).then(|| Duration::from_millis(left))
}

/// Reads a span: `90` or `90s` (seconds), `30m`, `2h`, `1d`, `1h30m`.
///
/// # Errors
/// In words, for the command line.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("`{text}` is no span: give seconds, or such as 90s, 30m, 2h, 1d, 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total: u64 = 0;
    let mut number = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit: u64 = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(refuse()),
        };
        let n: u64 = std::mem::take(&mut number).parse().map_err(|_| refuse())?;
        let more = n.checked_mul(unit).ok_or_else(refuse)?;
        total = total.checked_add(more).ok_or_else(refuse)?;
    }
    if !number.is_empty() || text.is_empty() {
        return Err(refuse());
    }
    Ok(Duration::from_secs(total))
}

/// `1 slice`, `2 slices`.
pub fn count(n: u64, one: &str) -> String {
    if n == 1 {
        format!("{n} {one}")
    } else {
        format!("{n} {one}s")
    }
}

/// What follows for a customer from old wraps that a retire kept; `None` of none.
pub fn both_cmks(kept: u64) -> Option<&'static str> {
    (kept > 0).then_some(
        "a revocation has to be applied to both CMKs until a later job's retire has deleted them",
    )
}

/// Text of unknown origin without characters that could steer a terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let amounts = [
            (0, "0"),
            (999, "999"),
            (1000, "1.0 k"),
            (18_349, "18.3 k"),
            (999_949, "999.9 k"),
            (999_951, "1.0 M"),
            (18_300_000, "18.3 M"),
            (2_100_000_000, "2.1 G"),
        ];
        for (n, text) in amounts {
            assert_eq!(amount(n), text);
        }
        let spans = [
            (0, "0 s"),
            (41, "41 s"),
            (99, "99 s"),
            (100, "2 m"),
            (840, "14 m"),
            (12_000, "3 h 20 m"),
            (187_200, "2 d 4 h"),
        ];
        for (s, text) in spans {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
        for (text, s) in [
            ("0", 0),
            ("90", 90),
            ("90s", 90),
            ("30m", 1800),
            ("1h30m", 5400),
            ("2d", 172_800),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_secs(s)), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "1.5h",
            "30m5",
            "2 h",
            "1w",
            "99999999999999999999d",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!(rate(0.25), "0.2");
        assert_eq!(rate(31_249.0), "31.2 k");
        assert_eq!(time(1_550_077_323_000), "2019-02-13T17:02:03Z");
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
    }
}
