//! When a job may act: a maintenance window, opened by a cron expression in a
//! time zone and open for a given length. Pure.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::job::cron::Cron;

/// A window is open for a week at most: for longer, there is no window.
const MAX_MINUTES: u32 = 7 * 24 * 60;

/// Of a window that is open for longer than this from now on, seconds, the end is
/// not looked for.
const ENOUGH_S: i64 = 24 * 3600;

/// How far ahead an opening is looked for, days. February 29th may be eight
/// years away.
const LOOK_AHEAD_DAYS: i64 = 9 * 366;

/// A maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Window {
    written: Written,
    cron: Cron,
    zone: TimeZone,
}

/// A window as messages and rows have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    cron: String,
    tz: String,
    length_minutes: u32,
}

/// Whether a window is open at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It is, and closes then.
    OpenUntil(Timestamp),
    /// It is not, and opens then.
    ClosedUntil(Timestamp),
}

impl Window {
    /// A window that opens when `cron` says so in the time zone `tz` (a name of
    /// the IANA database such as `Europe/Berlin`), for so many minutes.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn new(cron: &str, tz: &str, length_minutes: u32) -> Result<Self, String> {
        Self::try_from(Written {
            cron: cron.to_owned(),
            tz: tz.to_owned(),
            length_minutes,
        })
    }

    /// Whether it is open at a time, and until when. Windows that overlap or
    /// touch are one.
    pub fn at(&self, now: Timestamp) -> Opening {
        let length = i64::from(self.written.length_minutes).minutes();
        let earliest = now.checked_sub(length).unwrap_or(now);
        let mut open: Option<Timestamp> = None;
        for begin in self.openings_after(earliest) {
            match open {
                // The next begins after the last has closed, or after now.
                None if begin > now => return Opening::ClosedUntil(begin),
                Some(end) if begin > end => break,
                _ => {}
            }
            let end = begin.checked_add(length).unwrap_or(Timestamp::MAX);
            open = Some(end);
            // For long enough: it is looked at again before that.
            if end.as_second() - now.as_second() > ENOUGH_S {
                break;
            }
        }
        match open {
            Some(end) => Opening::OpenUntil(end),
            None => Opening::ClosedUntil(Timestamp::MAX),
        }
    }

    /// When it opens, from just after a time on.
    fn openings_after(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> {
        // An hour that the clocks leave out is moved to after it, so an opening
        // may be a day later or earlier in UTC than its date says.
        let first = self.zone.to_datetime(after).date();
        (-1..LOOK_AHEAD_DAYS)
            .map_while(move |days| first.checked_add(days.days()).ok())
            .filter(|date| self.cron.fits(*date))
            .flat_map(|date| {
                let times = self.cron.times();
                times.map(move |(hour, minute)| date.at(hour, minute, 0, 0))
            })
            .filter_map(|time| {
                let opened = self.zone.to_ambiguous_timestamp(time).compatible();
                opened.ok()
            })
            .filter(move |begin| *begin > after)
    }
}

impl TryFrom<Written> for Window {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let named = !written.tz.is_empty()
            && written.tz.len() <= 64
            && written
                .tz
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b));
        let zone = named.then(|| TimeZone::get(&written.tz).ok()).flatten();
        let Some(zone) = zone else {
            let short: String = written.tz.chars().take(64).collect();
            return Err(format!(
                "`{short}` is no time zone; name one such as `Europe/Berlin` or `UTC`"
            ));
        };
        if !(1..=MAX_MINUTES).contains(&written.length_minutes) {
            return Err(format!(
                "a window is open for 1 to {MAX_MINUTES} minutes, not {}",
                written.length_minutes
            ));
        }
        Ok(Self {
            cron: Cron::parse(&written.cron)?,
            zone,
            written,
        })
    }
}

impl From<Window> for Written {
    fn from(window: Window) -> Self {
        window.written
    }
}

/// As `0 22 * * 1-5 Europe/Berlin, 480 minutes`.
impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Written {
            cron,
            tz,
            length_minutes,
        } = &self.written;
        write!(f, "{cron} {tz}, {length_minutes} minutes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn berlin_nights() -> Window {
        Window::new("0 22 * * 1-5", "Europe/Berlin", 480).unwrap()
    }

    #[test]
    fn it_is_open_from_its_opening_on_for_its_length() {
        let open = |now, until| (now, Opening::OpenUntil(at(until)));
        let closed = |now, until| (now, Opening::ClosedUntil(at(until)));
        // 2026-11-25 is a Wednesday; Berlin is an hour ahead of UTC.
        for (now, expected) in [
            closed("2026-11-25T20:59:59Z", "2026-11-25T21:00:00Z"),
            open("2026-11-25T21:00:00Z", "2026-11-26T05:00:00Z"),
            open("2026-11-26T04:59:59Z", "2026-11-26T05:00:00Z"),
            closed("2026-11-26T05:00:00Z", "2026-11-26T21:00:00Z"),
            // Friday's window ends on Saturday, and none begins there.
            open("2026-11-28T04:00:00Z", "2026-11-28T05:00:00Z"),
            closed("2026-11-28T05:00:00Z", "2026-11-30T21:00:00Z"),
            // In summer it is two hours.
            closed("2026-07-01T12:00:00Z", "2026-07-01T20:00:00Z"),
        ] {
            assert_eq!(berlin_nights().at(at(now)), expected, "{now}");
        }
    }

    #[test]
    fn windows_that_touch_are_one_and_one_that_never_closes_is_open() {
        let twice = Window::new("0 1,2 * * *", "UTC", 60).unwrap();
        let end = at("2026-11-25T03:00:00Z");
        assert_eq!(
            twice.at(at("2026-11-25T01:30:00Z")),
            Opening::OpenUntil(end)
        );
        let always = Window::new("* * * * *", "UTC", 60).unwrap();
        let now = at("2026-11-25T01:30:00Z");
        assert!(matches!(always.at(now), Opening::OpenUntil(end) if end > now));
    }

    #[test]
    fn an_hour_that_the_clocks_leave_out_or_have_twice_opens_once() {
        let two = Window::new("30 2 * * *", "Europe/Berlin", 10).unwrap();
        // 2026-03-29: 02:30 is not there, and 03:30 is meant.
        let spring = two.at(at("2026-03-29T00:00:00Z"));
        assert_eq!(spring, Opening::ClosedUntil(at("2026-03-29T01:30:00Z")));
        // 2026-10-25: 02:30 is there twice, and the first is meant.
        let autumn = two.at(at("2026-10-25T00:00:00Z"));
        assert_eq!(autumn, Opening::ClosedUntil(at("2026-10-25T00:30:00Z")));
        let after = two.at(at("2026-10-25T01:00:00Z"));
        assert_eq!(after, Opening::ClosedUntil(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn a_leap_day_is_waited_for_and_what_is_no_window_is_refused() {
        let leap = Window::new("0 0 29 2 *", "UTC", 60).unwrap();
        let next = leap.at(at("2097-01-01T00:00:00Z"));
        assert_eq!(next, Opening::ClosedUntil(at("2104-02-29T00:00:00Z")));
        for (cron, tz, minutes) in [
            ("0 22 * *", "UTC", 60),
            ("0 22 * * *", "Berlin", 60),
            ("0 22 * * *", "", 60),
            ("0 22 * * *", "../etc/passwd", 60),
            ("0 22 * * *", "UTC", 0),
            ("0 22 * * *", "UTC", MAX_MINUTES + 1),
        ] {
            assert!(
                Window::new(cron, tz, minutes).is_err(),
                "{cron} {tz} {minutes}"
            );
        }
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        let text = r#"{"cron":"0 22 * * 1-5","length_minutes":480,"tz":"Europe/Berlin"}"#;
        let read: Window = serde_json::from_str(text).unwrap();
        assert_eq!(read, berlin_nights());
        assert_eq!(serde_json::to_value(read).unwrap().to_string(), text);
    }
}
