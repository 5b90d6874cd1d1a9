//! The statement by which a customer revokes one channel for a span of hours.
//! Pure.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::document::{Effect, OneOrMany, Principal, Statement};
use crate::ids::{ChannelId, Hour, OrgId, Sha256Hex};

/// Patterns of hours that one statement names, at most: a key policy has 32 KiB.
const PATTERNS: usize = 1000;

/// What uses data of a channel, by wildcards where AWS may add a sibling.
const USES: [&str; 3] = ["kms:Decrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"];

/// Hours of the encryption context, which are UTC.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hours {
    /// The first hour.
    pub from: String,
    /// The first hour that is not among them.
    pub to: String,
    /// How many.
    pub hours: u64,
    /// They are more than the span: it begins or ends within an hour.
    pub rounded: bool,
    /// What matches them and nothing else: single hours, and `*` for whole days.
    pub patterns: Vec<String>,
}

impl Hours {
    /// The hours of a span that begins and ends by the clocks of a time zone. An
    /// hour that is touched is covered as a whole. A time that the clocks show
    /// twice or never is taken so that more is covered.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn of(from: DateTime, to: DateTime, zone: &TimeZone) -> Result<Self, String> {
        let away = |time: DateTime| format!("{time} is too far away");
        let begin = zone.to_ambiguous_timestamp(from).earlier();
        let end = zone.to_ambiguous_timestamp(to).later();
        let begin = begin.map_err(|_| away(from))?;
        let end = end.map_err(|_| away(to))?;
        if begin >= end {
            return Err(format!("{from} is not before {to}"));
        }
        let first = begin.as_second().div_euclid(3600);
        let in_part = end.as_second().rem_euclid(3600) != 0 || end.subsec_nanosecond() != 0;
        let last = end.as_second().div_euclid(3600) + i64::from(in_part);
        let cut = begin.as_second().rem_euclid(3600) != 0 || begin.subsec_nanosecond() != 0;
        let mut patterns = Vec::new();
        let mut at = first;
        while at < last {
            let name = hour(at)?;
            if at.rem_euclid(24) == 0 && at + 24 <= last {
                // `2019-02-13T00`: the day is all before the hour.
                patterns.push(format!("{}*", &name[..name.len() - 2]));
                at += 24;
            } else {
                patterns.push(name);
                at += 1;
            }
            if patterns.len() > PATTERNS {
                return Err(format!(
                    "the span has more than {PATTERNS} days and hours; a key policy has no room \
                     for them. Revoke the channel as a whole instead"
                ));
            }
        }
        Ok(Self {
            from: hour(first)?,
            to: hour(last)?,
            hours: u64::try_from(last - first).unwrap_or_default(),
            rounded: cut || in_part,
            patterns,
        })
    }
}

fn hour(number: i64) -> Result<String, String> {
    let seconds = number.checked_mul(3600).and_then(|s| u64::try_from(s).ok());
    let hour = seconds.and_then(|s| Hour::of_unix_seconds(s).ok());
    hour.map(|hour| hour.to_string())
        .ok_or_else(|| "the span is outside of the years that hours are named in".to_owned())
}

/// Denies everyone the use of a channel's data in these hours; of one
/// organization, if given.
pub fn revocation(org: Option<&OrgId>, channel: &ChannelId, hours: &Hours) -> Statement {
    let mut statement = Statement::new("", Effect::Deny, USES).on(["*"]).only_if(
        "StringEquals",
        "kms:EncryptionContext:channel",
        [channel],
    );
    if let Some(org) = org {
        statement = statement.only_if("StringEquals", "kms:EncryptionContext:organization", [org]);
    }
    statement = statement.only_if(
        "StringLike",
        "kms:EncryptionContext:hour",
        hours.patterns.iter(),
    );
    statement.principal = Some(Principal {
        aws: OneOrMany::One("*".to_owned()),
    });
    // By what it says: the same revocation has the same name, another has another.
    let body = serde_json::to_value(&statement).unwrap_or_default();
    let hash = Sha256Hex::of_json(&body).to_string();
    statement.sid = format!("RekeydRevoke{}", &hash[..8]);
    statement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iam::Policy;
    use crate::iam::evaluate::{Decision, Request, decide};
    use crate::ids::WorkspaceId;
    use crate::scope::Scope;

    fn of(from: &str, to: &str, zone: &str) -> Result<Hours, String> {
        let zone = TimeZone::get(zone).unwrap();
        Hours::of(from.parse().unwrap(), to.parse().unwrap(), &zone)
    }

    #[test]
    fn hours_are_those_of_utc_and_whole_days_are_one_pattern() {
        // Berlin is an hour ahead of UTC in February.
        let day = of("2019-02-13T00:00", "2019-02-14T00:00", "Europe/Berlin").unwrap();
        assert_eq!(day.patterns.len(), 24);
        assert_eq!(day.patterns[0], "2019-02-12T23");
        assert_eq!(day.patterns[23], "2019-02-13T22");
        let utc = of("2019-02-13T00:00", "2019-02-14T00:00", "UTC").unwrap();
        assert_eq!(utc.patterns, ["2019-02-13T*"]);
        let long = of("2019-02-12T22:00", "2019-02-15T02:00", "UTC").unwrap();
        assert_eq!(
            long.patterns,
            [
                "2019-02-12T22",
                "2019-02-12T23",
                "2019-02-13T*",
                "2019-02-14T*",
                "2019-02-15T00",
                "2019-02-15T01"
            ]
        );
        assert_eq!((long.hours, long.rounded), (52, false));
        assert_eq!(long.to, "2019-02-15T02");
    }

    #[test]
    fn what_is_touched_is_covered() {
        let minute = of("2019-02-13T17:59", "2019-02-13T18:01", "UTC").unwrap();
        assert_eq!(minute.patterns, ["2019-02-13T17", "2019-02-13T18"]);
        assert!(minute.rounded);
        // India is half an hour off.
        let half = of("2019-02-13T17:00", "2019-02-13T18:00", "Asia/Kolkata").unwrap();
        assert_eq!(half.patterns, ["2019-02-13T11", "2019-02-13T12"]);
        // 02:30 is there twice on this day: both are covered.
        let twice = of("2026-10-25T02:00", "2026-10-25T03:00", "Europe/Berlin").unwrap();
        assert_eq!(twice.patterns, ["2026-10-25T00", "2026-10-25T01"]);
        for (from, to) in [
            ("2019-02-13T18:00", "2019-02-13T18:00"),
            ("2019-02-14T18:00", "2019-02-13T18:00"),
            ("1960-01-01T00:00", "1960-01-02T00:00"),
            ("2000-01-01T00:00", "2019-01-01T00:00"),
        ] {
            assert!(of(from, to, "UTC").is_err(), "{from} {to}");
        }
    }

    #[test]
    fn the_statement_denies_these_hours_of_this_channel_and_nothing_else() {
        let org = OrgId::new("acme").unwrap();
        let channel = ChannelId::new("c1").unwrap();
        let hours = of("2019-02-13T00:00", "2019-02-14T02:00", "UTC").unwrap();
        let statement = revocation(Some(&org), &channel, &hours);
        let policy = Policy::of(None, vec![statement.clone()]);
        let ask = |org: &str, channel: &str, hour: &str, action: &str| {
            let scope = Scope::Message {
                org: OrgId::new(org).unwrap(),
                workspace: WorkspaceId::new("w1").unwrap(),
                channel: ChannelId::new(channel).unwrap(),
                hour: hour.parse().unwrap(),
            };
            // The evaluator knows principals by their ARN alone.
            let request = Request::new("*", action, "arn:aws:kms:eu-west-1:1:key/a");
            decide([&policy], &request.under(&scope.context())).unwrap()
        };
        let denied = Decision::Denied(statement.sid.clone());
        for action in [
            "kms:Decrypt",
            "kms:GenerateDataKey",
            "kms:ReEncryptFrom",
            "kms:ReEncryptTo",
        ] {
            for hour in ["2019-02-13T00", "2019-02-13T23", "2019-02-14T01"] {
                assert_eq!(ask("acme", "c1", hour, action), denied, "{action} {hour}");
            }
        }
        for (org, channel, hour) in [
            ("acme", "c1", "2019-02-12T23"),
            ("acme", "c1", "2019-02-14T02"),
            ("acme", "c2", "2019-02-13T12"),
            ("other", "c1", "2019-02-13T12"),
        ] {
            let said = ask(org, channel, hour, "kms:Decrypt");
            assert_eq!(said, Decision::NotAllowed, "{org} {channel} {hour}");
        }
    }
}
