//! A cron expression of five fields: minute, hour, day of month, month, day of
//! week. Strict: what is not in the table below is refused. Pure.
//!
//! | part | means |
//! |---|---|
//! | `*` | every value |
//! | `5`, `1-5`, `1,3,5` | a value, a range, a list of them |
//! | `*/15`, `8-18/2` | every so many values, from the first of the range on |
//! | `jan` to `dec`, `sun` to `sat` | months and days by name, in any case |
//!
//! Sunday is 0, and 7 too. As in every cron, a day fits if day of month and day
//! of week both do, or, where neither is `*`, if one of them does.
//!
//! The crates that read such expressions (croner, cronexpr, jiff-cron) are made
//! for another major version of jiff and would bring it along.

use jiff::civil::Date;

/// Longest expression that is read.
const MAX_CHARS: usize = 100;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A set of numbers below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Set(u64);

impl Set {
    fn has(self, n: u8) -> bool {
        self.0 & (1 << n) != 0
    }

    fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |n| self.has(*n))
    }
}

/// An expression that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    // A day has to fit both where one of the two is `*`, else one of them.
    both_days: bool,
}

impl Cron {
    /// Reads an expression.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || {
            "a window's cron has five fields: minute, hour, day of month, month, day of week, \
             such as `0 22 * * 1-5`"
                .to_owned()
        };
        if text.len() > MAX_CHARS {
            return Err(refuse());
        }
        // One space between two fields: one expression has one spelling.
        let fields: Vec<&str> = text.split(' ').collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(refuse());
        };
        let mut weekdays = field("day of week", weekday, 0, 7, &DAYS, 0)?;
        if weekdays.has(7) {
            weekdays.0 |= 1;
        }
        let cron = Self {
            minutes: field("minute", minute, 0, 59, &[], 0)?,
            hours: field("hour", hour, 0, 23, &[], 0)?,
            days: field("day of month", day, 1, 31, &[], 0)?,
            months: field("month", month, 1, 12, &MONTHS, 1)?,
            weekdays,
            both_days: *day == "*" || *weekday == "*",
        };
        if !cron.has_a_day() {
            return Err(format!("no year has a day that is `{day} {month}`"));
        }
        Ok(cron)
    }

    /// Whether a day of the months named is among the days of month named. A
    /// day of week falls on every day of a month in some year.
    fn has_a_day(&self) -> bool {
        let longest = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        !self.both_days
            || self.months.iter().any(|month| {
                let last = longest[usize::from(month) - 1];
                self.days.iter().any(|day| day <= last)
            })
    }

    /// Whether a day is one of its days.
    pub fn fits(&self, date: Date) -> bool {
        let number = |n: i8| u8::try_from(n).unwrap_or_default();
        let day = self.days.has(number(date.day()));
        let weekday = date.weekday().to_sunday_zero_offset();
        let weekday = self.weekdays.has(number(weekday));
        self.months.has(number(date.month()))
            && match self.both_days {
                true => day && weekday,
                false => day || weekday,
            }
    }

    /// Its times of a day, hour and minute, in order.
    pub fn times(&self) -> impl Iterator<Item = (i8, i8)> {
        let small = |n: u8| i8::try_from(n).unwrap_or_default();
        let hours = self.hours.iter();
        hours.flat_map(move |h| self.minutes.iter().map(move |m| (small(h), small(m))))
    }
}

fn field(
    what: &str,
    text: &str,
    min: u8,
    max: u8,
    names: &[&str],
    first: u8,
) -> Result<Set, String> {
    let refuse = || format!("`{text}` is no {what} of a cron expression ({min} to {max})");
    let number = |text: &str| -> Option<u8> {
        let small = text.to_ascii_lowercase();
        if let (Some(at), true) = (names.iter().position(|n| *n == small), text.len() == 3) {
            return u8::try_from(at).ok().map(|at| at + first);
        }
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let n: u8 = plain.then(|| text.parse().ok())??;
        (min..=max).contains(&n).then_some(n)
    };
    let mut set = Set::default();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let plain = step.bytes().all(|b| b.is_ascii_digit());
                let step: usize = step.parse().map_err(|_| refuse())?;
                if !plain || step == 0 || step > usize::from(max) || !range.contains(['*', '-']) {
                    return Err(refuse());
                }
                (range, step)
            }
            None => (part, 1),
        };
        let (from, to) = match (range, range.split_once('-')) {
            // A Sunday is 0 here, or `*/2` would have it twice.
            ("*", _) => (min, if names.len() == 7 { 6 } else { max }),
            (_, Some((from, to))) => (
                number(from).ok_or_else(refuse)?,
                number(to).ok_or_else(refuse)?,
            ),
            (one, None) => {
                let n = number(one).ok_or_else(refuse)?;
                (n, n)
            }
        };
        if from > to {
            return Err(refuse());
        }
        for n in (from..=to).step_by(step) {
            set.0 |= 1 << n;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn times(text: &str) -> Vec<(i8, i8)> {
        Cron::parse(text).unwrap().times().collect()
    }

    #[test]
    fn fields_are_read_as_every_cron_reads_them() {
        assert_eq!(times("0 22 * * *"), [(22, 0)]);
        assert_eq!(
            times("*/30 8-10/2 * * *"),
            [(8, 0), (8, 30), (10, 0), (10, 30)]
        );
        assert_eq!(times("5,7 1 * * *"), [(1, 5), (1, 7)]);
        // 2026-11-25 is a Wednesday.
        let days = |text: &str| -> Vec<i8> {
            let cron = Cron::parse(text).unwrap();
            let all = (22..=28).map(|day| date(2026, 11, day));
            all.filter(|day| cron.fits(*day)).map(Date::day).collect()
        };
        assert_eq!(days("0 0 * * 1-5"), [23, 24, 25, 26, 27]);
        assert_eq!(days("0 0 * * Mon-Fri"), [23, 24, 25, 26, 27]);
        assert_eq!(days("0 0 * * 0"), [22]);
        assert_eq!(days("0 0 * * 7"), [22]);
        assert_eq!(days("0 0 * * */2"), [22, 24, 26, 28]);
        assert_eq!(days("0 0 24 * *"), [24]);
        assert_eq!(
            days("0 0 24 nov 3"),
            [24, 25],
            "one of them, where both are named"
        );
        assert!(days("0 0 * jan *").is_empty());
    }

    #[test]
    fn what_is_not_one_is_refused() {
        for text in [
            "",
            "0 22 * *",
            "0 22 * * * *",
            "0  22 * * *",
            "60 0 * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "0 0 * * sunday",
            "+1 0 * * *",
            "5-1 0 * * *",
            "1/2 0 * * *",
            "*/0 0 * * *",
            "*/+1 0 * * *",
            "*/99999999999999999999 0 * * *",
            "1,,2 0 * * *",
            "@daily",
            "0 0 30 2 *",
            "0 0 31 2,4,6 *",
            "0 0 L * *",
            &"0,".repeat(60),
        ] {
            assert!(Cron::parse(text).is_err(), "{text}");
        }
        Cron::parse("0 0 29 2 *").unwrap();
        Cron::parse("0 0 30 2 1").unwrap();
    }
}
