//! The names things go by. Each is a type of its own, so that a channel cannot
//! be passed where a workspace is meant, and each is checked where it enters.
//!
//! Organizations, workspaces, channels, files and indexes share one grammar,
//! `^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$`: these ids travel in encryption
//! contexts, where `*`, `?` and `$` would mean something to a key policy.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An id, ARN or hour that does not follow its grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{given}` is not valid: {rule}")]
pub struct InvalidId {
    /// What the text was read as, for example `organization id`.
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub given: String,
    /// The rule it breaks, in words.
    pub rule: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, given: &str, rule: &'static str) -> Self {
        Self {
            what,
            given: given.chars().take(80).collect(),
            rule,
        }
    }
}

const SCOPE_ID_RULE: &str = "an id has 1 to 64 characters, starts with a letter or digit, \
     and goes on with letters, digits, `.`, `_`, `:` or `-`";

fn is_scope_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the text against the grammar.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidId::new($what, &text, $rule))
                }
            }

            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

mod digest;
mod role;

pub use digest::Sha256Hex;
pub use role::{ExternalId, RoleArn};

text_id!(
    /// An organization: the customer who owns the master keys.
    OrgId, "organization id", is_scope_id, SCOPE_ID_RULE
);
text_id!(
    /// A workspace of an organization.
    WorkspaceId, "workspace id", is_scope_id, SCOPE_ID_RULE
);
text_id!(
    /// A channel, unique within its organization.
    ChannelId, "channel id", is_scope_id, SCOPE_ID_RULE
);
text_id!(
    /// A file of an organization.
    FileId, "file id", is_scope_id, SCOPE_ID_RULE
);

const PLACE_RULE: &str = "a place is 32 lower-case hexadecimal digits";

fn is_place(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

text_id!(
    /// A random id in the data's partition key. The registry maps a channel to
    /// its place; a place is never used again for another channel (I14).
    Place, "place", is_place, PLACE_RULE
);

impl Place {
    /// A new place from 128 bits of the operating system's randomness.
    pub fn random() -> Self {
        let bytes: [u8; 16] = crate::replay::random();
        Self(hex::encode(bytes))
    }
}

const ARN_RULE: &str = "a CMK is named by its full key ARN, \
     `arn:<partition>:kms:<region>:<account>:key/<id>`, never by an alias";

fn is_key_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let plain =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    text.len() <= 256
        && parts.len() == 6
        && parts[0] == "arn"
        && plain(parts[1])
        && parts[2] == "kms"
        && plain(parts[3])
        && plain(parts[4])
        && parts[5].strip_prefix("key/").is_some_and(plain)
}

text_id!(
    /// A customer master key, named by its full ARN. An alias is refused: it can
    /// be pointed at another key without anyone being told.
    CmkArn, "CMK ARN", is_key_arn, ARN_RULE
);

impl CmkArn {
    fn part(&self, n: usize) -> &str {
        self.0.split(':').nth(n).unwrap_or_default()
    }

    /// The region part of the ARN.
    pub fn region(&self) -> &str {
        self.part(3)
    }

    /// The account part of the ARN.
    pub fn account(&self) -> &str {
        self.part(4)
    }
}

/// A job's id, chosen by whoever asks for the job and taken once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(uuid::Uuid);

impl JobId {
    /// An id that no job has: it stands for any.
    pub const NIL: Self = Self(uuid::Uuid::nil());

    /// A new random id.
    pub fn random() -> Self {
        Self(uuid::Builder::from_random_bytes(crate::replay::random()).into_uuid())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidId::new("job id", text, "a job id is a UUID"))
    }
}

/// The application's own id of a record: opaque bytes, 1 to 256 of them. Shared:
/// it goes from the read to the write through several hands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(Arc<[u8]>);

impl RecordId {
    /// Longest record id, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// Checks the length.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, InvalidId> {
        Self::from_slice(&bytes.into())
    }

    /// As [`RecordId::new`], for who has the bytes in a place of another's.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, InvalidId> {
        if (1..=Self::MAX_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err(InvalidId::new(
                "record id",
                &format!("{} bytes", bytes.len()),
                "a record id has 1 to 256 bytes",
            ))
        }
    }

    /// The bytes of the id.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RecordId {
    /// Lower-case hexadecimal: the form commands print and take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordId({self})")
    }
}

impl FromStr for RecordId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let bytes = hex::decode(text).map_err(|_| {
            InvalidId::new("record id", text, "a record id is written in hexadecimal")
        })?;
        Self::new(bytes)
    }
}

impl Serialize for RecordId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An hour of UTC, `YYYY-MM-DDTHH`: the slice of a message's creation. Ordered
/// by time; years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hour(u32);

const HOUR_RULE: &str = "an hour is written `YYYY-MM-DDTHH` in UTC, years 1970 to 9999";

impl Hour {
    /// Hours from 1970 to the end of 9999.
    const LIMIT: u64 = 70_389_528;

    /// The hour that holds a time in Unix seconds.
    pub fn of_unix_seconds(seconds: u64) -> Result<Self, InvalidId> {
        let hours = seconds / 3600;
        if hours < Self::LIMIT {
            Ok(Self(hours as u32))
        } else {
            Err(InvalidId::new("hour", &seconds.to_string(), HOUR_RULE))
        }
    }

    /// The first second of the hour, in Unix seconds.
    pub fn start_unix_seconds(self) -> u64 {
        u64::from(self.0) * 3600
    }

    /// The hour before this one; none before 1970.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }

    /// The hour after this one; the last hour of 9999 is its own successor.
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(Self::LIMIT as u32 - 1))
    }
}

impl fmt::Display for Hour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hour) = (i64::from(self.0) / 24, self.0 % 24);
        // Civil date from days since 1970-01-01 (H. Hinnant's days_from_civil,
        // inverted); kept here because it runs once per row of every listing.
        let z = days + 719_468;
        let era = z / 146_097;
        let doe = z % 146_097;
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}")
    }
}

impl FromStr for Hour {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("hour", text, HOUR_RULE);
        let b = text.as_bytes();
        let shape = b.len() == 13
            && b.iter().enumerate().all(|(i, c)| match i {
                4 | 7 => *c == b'-',
                10 => *c == b'T',
                _ => c.is_ascii_digit(),
            });
        if !shape {
            return Err(invalid());
        }
        let digits = |range: std::ops::Range<usize>| {
            b[range]
                .iter()
                .fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'))
        };
        let (year, month, day, hour) = (digits(0..4), digits(5..7), digits(8..10), digits(11..13));
        if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 {
            return Err(invalid());
        }
        // Days since 1970-01-01 (H. Hinnant's days_from_civil); here because it
        // runs several times for every slice.
        let y = if month <= 2 { year - 1 } else { year };
        let (era, yoe) = (y / 400, y % 400);
        let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
        let days = era * 146_097 + doe - 719_468;
        let hour = Self::of_unix_seconds((days * 24 + hour) * 3600).map_err(|_| invalid())?;
        // `2019-02-30T01` must not quietly become another day.
        if hour.to_string() == text {
            Ok(hour)
        } else {
            Err(invalid())
        }
    }
}

impl TryFrom<String> for Hour {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Hour> for String {
    fn from(hour: Hour) -> String {
        hour.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_grammar() {
        for good in ["a", "acme", "T024BE7LD", "a.b_c:d-e", &"x".repeat(64)] {
            assert!(OrgId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "a*",
            "a?",
            "a$",
            "é",
            "a b",
            &"x".repeat(65),
        ] {
            assert!(OrgId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cmk_is_an_arn_and_not_an_alias() {
        let arn = CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab").unwrap();
        assert_eq!(arn.region(), "eu-west-1");
        assert_eq!(arn.account(), "111122223333");
        for bad in [
            "alias/mine",
            "arn:aws:kms:eu-west-1:111122223333:alias/mine",
            "1234abcd-12ab",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:eu-west-1:111122223333:key/*",
        ] {
            assert!(CmkArn::new(bad).is_err(), "{bad}");
        }
    }

    /// Against another implementation of the calendar.
    #[test]
    fn hours_are_those_of_the_calendar() {
        let first = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
        // A step that comes to every hour of the day and every day of the year.
        for n in (0..Hour::LIMIT).step_by(1_009) {
            let at = first
                .checked_add(jiff::Span::new().hours(n as i64))
                .unwrap();
            let hour = Hour(n as u32);
            assert_eq!(hour.to_string(), at.strftime("%Y-%m-%dT%H").to_string());
            assert_eq!(hour.to_string().parse::<Hour>().unwrap(), hour);
        }
    }

    #[test]
    fn hours_print_and_parse() {
        for (seconds, text) in [
            (0, "1970-01-01T00"),
            (1_550_077_323, "2019-02-13T17"),
            (951_782_400, "2000-02-29T00"),
            (4_102_444_799, "2099-12-31T23"),
            (253_402_300_799, "9999-12-31T23"),
        ] {
            let hour = Hour::of_unix_seconds(seconds).unwrap();
            assert_eq!(hour.to_string(), text);
            assert_eq!(text.parse::<Hour>().unwrap(), hour);
        }
        for bad in [
            "2019-02-30T01",
            "2019-02-13T24",
            "2019-2-13T01",
            "2019-02-13",
            "2019-02-13T17Z",
            "1969-12-31T23",
        ] {
            assert!(bad.parse::<Hour>().is_err(), "{bad}");
        }
    }
}
