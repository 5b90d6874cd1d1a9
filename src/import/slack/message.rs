//! What of a Slack message the store must know: which record it is, of which
//! hour, and when it was last written. The rest is nobody's business here:
//! thread replies, bots, tombstones and subtypes no one has heard of are all
//! messages with a `ts`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::clock::WriteTime;
use crate::ids::{Hour, RecordId};
use crate::import::SkipReason;

/// Text, or something else where text was due. What else it is is read over and
/// not kept: it may be as long as the message, or as an entry of a list of
/// channels, and many times as long once it is taken apart.
pub(super) enum Text<'a> {
    Is(Cow<'a, str>),
    IsNot,
}

impl Text<'_> {
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Text::Is(text) => Some(text),
            Text::IsNot => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text::Is(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text::Is(Cow::Owned(text.to_owned())))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Text::IsNot)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Text::IsNot)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Text::IsNot)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Text::IsNot)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Text::IsNot)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(seq).map(|_| Text::IsNot)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Text::IsNot)
    }
}

/// When a message was edited; `None` if `edited` does not say so, once.
struct Edited<'a>(Option<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Edited<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(EditedVisitor)
    }
}

struct EditedVisitor;

impl<'de> Visitor<'de> for EditedVisitor {
    type Value = Edited<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Edited(None))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Edited(None))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Edited(None))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Edited(None))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Edited(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(seq).map(|_| Edited(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut ts, mut times) = (None, 0);
        while let Some(name) = map.next_key::<Text<'de>>()? {
            if name.as_str() == Some("ts") {
                ts = Some(map.next_value()?);
                times += 1;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Edited(ts.filter(|_| times == 1)))
    }
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    ts: Option<Text<'a>>,
    #[serde(borrow)]
    edited: Option<Edited<'a>>,
}

/// Where and when a message belongs.
#[derive(Debug, PartialEq)]
pub(super) struct Stamp {
    pub record: RecordId,
    pub hour: Hour,
    pub write_time: WriteTime,
    /// `edited` is there but says no usable time.
    pub edit_ignored: bool,
}

/// Reads a message's stamp and checks that the message is valid JSON.
///
/// A time after `latest` is refused: the store would keep that write over every
/// edit and delete the application makes until then.
pub(super) fn stamp(json: &[u8], latest: WriteTime) -> Result<Stamp, SkipReason> {
    // The parser does not look into strings it has no use for.
    let json = std::str::from_utf8(json).map_err(|_| SkipReason::BadJson)?;
    if !json.starts_with('{') {
        return Err(SkipReason::NotAnObject);
    }
    let fields: Fields<'_> = serde_json::from_str(json).map_err(|_| SkipReason::BadJson)?;
    let ts = fields.ts.ok_or(SkipReason::NoTimestamp)?;
    let ts = ts.as_str().ok_or(SkipReason::BadTimestamp)?;
    let created = micros(ts).ok_or(SkipReason::BadTimestamp)?;
    if created > latest {
        return Err(SkipReason::FutureTimestamp);
    }
    let edited = match &fields.edited {
        None => None,
        Some(Edited(ts)) => {
            let ts = ts.as_ref().and_then(Text::as_str);
            Some(ts.and_then(micros).filter(|at| *at <= latest))
        }
    };
    Ok(Stamp {
        record: RecordId::new(ts.as_bytes()).map_err(|_| SkipReason::BadTimestamp)?,
        hour: u64::try_from(created.0 / 1_000_000)
            .ok()
            .and_then(|seconds| Hour::of_unix_seconds(seconds).ok())
            .ok_or(SkipReason::BadTimestamp)?,
        write_time: edited.flatten().unwrap_or(created),
        edit_ignored: edited == Some(None),
    })
}

/// Reads `1550077323.000200`, Unix seconds with exactly six decimals or none,
/// as microseconds. No floats: an f64 has no room for all of its digits. Other
/// spellings of a time are refused, so that one time within a channel has one
/// record id.
pub(super) fn micros(ts: &str) -> Option<WriteTime> {
    let (seconds, fraction) = ts.split_once('.').unwrap_or((ts, "000000"));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let shape = (1..=11).contains(&seconds.len())
        && !seconds.starts_with('0')
        && fraction.len() == 6
        && digits(seconds)
        && digits(fraction);
    if !shape {
        return None;
    }
    // 17 digits at most, so neither step can overflow.
    let seconds: i64 = seconds.parse().ok()?;
    let fraction: i64 = fraction.parse().ok()?;
    Some(WriteTime(seconds * 1_000_000 + fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WriteTime = WriteTime(1_700_000_000_000_000);

    #[test]
    fn times_are_read_to_the_microsecond() {
        for (text, at) in [
            ("1550077323.000200", Some(1_550_077_323_000_200)),
            ("1550077323.999999", Some(1_550_077_323_999_999)),
            // As a float this one would be ...400195.
            ("99999999999.400193", Some(99_999_999_999_400_193)),
            ("1.000000", Some(1_000_000)),
            ("1550077323", Some(1_550_077_323_000_000)),
            ("", None),
            (".", None),
            ("0000000000.000000", None),
            ("01550077323.000200", None),
            ("1550077323.", None),
            ("1550077323.0002", None),
            ("1550077323.0002000", None),
            ("1550077323.00020x", None),
            ("1550077323.000+20", None),
            ("+550077323.000200", None),
            ("-1.000000", None),
            ("155007732300.000200", None),
            ("1550077323.000200 ", None),
            ("1550077323.000.200", None),
            ("१५५.000200", None),
        ] {
            assert_eq!(micros(text), at.map(WriteTime), "{text:?}");
        }
    }

    #[test]
    fn a_message_is_stamped_or_refused() {
        let ts = 1_550_077_323_000_200;
        let plain =
            |json: &str| stamp(json.as_bytes(), NOW).map(|s| (s.write_time.0, s.edit_ignored));
        for (json, want) in [
            (r#"{"ts":"1550077323.000200"}"#, Ok((ts, false))),
            (
                r#"{"text":{"deep":[[{}]]},"ts":"1550077323.000200","x":1e999}"#,
                Ok((ts, false)),
            ),
            (r#"{"ts":"1550077323\u002e000200"}"#, Ok((ts, false))),
            (
                r#"{"ts":"1550077323.000200","edited":{"user":"U1","ts":"1550077400.000000"}}"#,
                Ok((1_550_077_400_000_000, false)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":null}"#,
                Ok((ts, false)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":true}"#,
                Ok((ts, true)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":{"user":"U1"}}"#,
                Ok((ts, true)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":{"ts":7}}"#,
                Ok((ts, true)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":{"ts":"9000000000.000000"}}"#,
                Ok((ts, true)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":["1550077400.000000"]}"#,
                Ok((ts, true)),
            ),
            (
                r#"{"ts":"1550077323.000200","edited":{"ts":"1550077400.000000","ts":"1"}}"#,
                Ok((ts, true)),
            ),
            (r#"{"text":"x"}"#, Err(SkipReason::NoTimestamp)),
            (r#"{"ts":null}"#, Err(SkipReason::NoTimestamp)),
            (r#"{"ts":1550077323.000200}"#, Err(SkipReason::BadTimestamp)),
            (r#"{"ts":{"a":1}}"#, Err(SkipReason::BadTimestamp)),
            (r#"{"ts":"yesterday"}"#, Err(SkipReason::BadTimestamp)),
            (
                r#"{"ts":"1700000000.000001"}"#,
                Err(SkipReason::FutureTimestamp),
            ),
            (
                r#"{"ts":"1550077323.000200","ts":"1"}"#,
                Err(SkipReason::BadJson),
            ),
            (r#"{"ts":"1550077323.000200",}"#, Err(SkipReason::BadJson)),
            (
                "{\"ts\":\"1550077323.000200\",\"text\":\"a\nb\"}",
                Err(SkipReason::BadJson),
            ),
            (
                r#"["1550077323.000200",null]"#,
                Err(SkipReason::NotAnObject),
            ),
            ("7", Err(SkipReason::NotAnObject)),
        ] {
            assert_eq!(plain(json), want, "{json}");
        }
        let not_utf8 = b"{\"ts\":\"1550077323.000200\",\"text\":\"\xff\"}";
        assert_eq!(stamp(not_utf8, NOW), Err(SkipReason::BadJson));
    }

    #[test]
    fn the_record_is_the_text_of_ts_and_an_edit_keeps_the_hour() {
        let json = br#"{"ts":"1550077323.000200","edited":{"ts":"1550099999.000000"}}"#;
        let stamp = stamp(json, NOW).unwrap();
        assert_eq!(stamp.record.as_bytes(), b"1550077323.000200");
        assert_eq!(stamp.hour.to_string(), "2019-02-13T17");
    }
}
