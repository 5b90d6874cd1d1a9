//! The message that asks for a job. It is untrusted: it grants nothing, and
//! whatever this version does not know is refused, not ignored.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::envelope;
use crate::queue::MAX_BODY_BYTES;

/// How a rekey is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// New data keys under the new CMK, every cell opened and sealed again.
    #[default]
    Reencrypt,
    /// The same data keys wrapped anew inside the KMS; cells untouched.
    Rewrap,
}

impl Mode {
    /// The word used in messages and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Reencrypt => "reencrypt",
            Mode::Rewrap => "rewrap",
        }
    }
}

/// Why a job is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A rotation by calendar.
    Scheduled,
    /// The customer asked.
    CustomerRequest,
    /// A key may have leaked. A rewrap does not cure that.
    SuspectedCompromise,
    /// A move of accounts or regions.
    Migration,
}

/// A rekey of an organization, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RekeyRequest {
    /// Chosen by whoever asks; taken once.
    pub job_id: JobId,
    /// The organization.
    pub org: OrgId,
    /// The CMK that must be active when the job begins, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_cmk: Option<CmkArn>,
    /// The CMK to go to.
    pub to_cmk: CmkArn,
    /// How.
    #[serde(default)]
    pub mode: Mode,
    /// Who asks, 1 to 200 characters.
    pub requested_by: String,
    /// Why, in words, at most 200 characters.
    #[serde(default)]
    pub reason: String,
    /// Why, in one word. A rewrap must say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Do not begin before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<jiff::Timestamp>,
    /// Do not begin at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<jiff::Timestamp>,
}

/// A message of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobMessage {
    /// A rekey.
    Rekey(RekeyRequest),
}

/// Why a message is refused. The text goes to the dead letters; it repeats ids
/// and field names of the message but not its whole body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Wrapped in something this version does not open.
    #[error("unknown_envelope: {0}")]
    Envelope(String),
    /// Too large.
    #[error("too_large: the message has {0} bytes, at most 65536 are read")]
    TooLarge(usize),
    /// Not a JSON object.
    #[error("not_json: the message is not a JSON object ({0})")]
    NotJson(String),
    /// Another version.
    #[error("unknown_version: this rekeyd reads version 1, the message says {0}")]
    Version(String),
    /// Another kind.
    #[error("unknown_kind: this rekeyd does `rekey`, the message says {0}")]
    Kind(String),
    /// A field is missing, unknown or wrong.
    #[error("bad_field: {0}")]
    Field(String),
    /// The fields contradict each other.
    #[error("bad_request: {0}")]
    Contradiction(&'static str),
}

impl JobMessage {
    /// Reads and checks a message.
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        if text.len() > MAX_BODY_BYTES {
            return Err(MessageError::TooLarge(text.len()));
        }
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| MessageError::NotJson(e.to_string()))?;
        let serde_json::Value::Object(mut fields) = value else {
            return Err(MessageError::NotJson(
                "it is another kind of value".to_owned(),
            ));
        };
        match fields.remove("v") {
            Some(v) if v == 1 => {}
            Some(v) => return Err(MessageError::Version(short(&v))),
            None => return Err(MessageError::Version("nothing".to_owned())),
        }
        match fields.remove("kind") {
            Some(kind) if kind == "rekey" => {}
            Some(kind) => return Err(MessageError::Kind(short(&kind))),
            None => return Err(MessageError::Kind("nothing".to_owned())),
        }
        let request: RekeyRequest = serde_json::from_value(serde_json::Value::Object(fields))
            .map_err(|e| MessageError::Field(e.to_string()))?;
        request.check()?;
        Ok(JobMessage::Rekey(request))
    }

    /// Reads a message as it comes from a queue: alone, or in the envelope of
    /// SNS or EventBridge.
    pub fn receive(text: &str) -> Result<Self, MessageError> {
        match envelope::open(text)? {
            Some(inner) => Self::parse(&inner),
            None => Self::parse(text),
        }
    }

    /// The message as it is sent.
    pub fn to_json(&self) -> String {
        let JobMessage::Rekey(request) = self;
        let mut value = serde_json::to_value(request)
            .expect("a request is plain data with string keys and serializes");
        if let Some(fields) = value.as_object_mut() {
            fields.insert("v".to_owned(), 1.into());
            fields.insert("kind".to_owned(), "rekey".into());
        }
        value.to_string()
    }

    /// The request in it.
    pub fn request(&self) -> &RekeyRequest {
        let JobMessage::Rekey(request) = self;
        request
    }

    /// SHA-256 of the parsed fields as canonical JSON (keys sorted, no space,
    /// defaults filled in), in hexadecimal. Two messages with one job id are the
    /// same request exactly if this is equal.
    pub fn body_sha256(&self) -> String {
        // serde_json's map is a BTreeMap: keys come out sorted.
        hex::encode(Sha256::digest(self.to_json().as_bytes()))
    }
}

impl RekeyRequest {
    fn check(&self) -> Result<(), MessageError> {
        let refuse = |why| Err(MessageError::Contradiction(why));
        if !(1..=200).contains(&self.requested_by.chars().count()) {
            return refuse("requested_by must have 1 to 200 characters");
        }
        if self.reason.chars().count() > 200 {
            return refuse("reason must have at most 200 characters");
        }
        let control = |s: &str| s.chars().any(char::is_control);
        if control(&self.requested_by) || control(&self.reason) {
            return refuse("requested_by and reason must not hold control characters");
        }
        if self.from_cmk.as_ref() == Some(&self.to_cmk) {
            return refuse("from_cmk and to_cmk are the same key");
        }
        if let (Some(begin), Some(end)) = (self.not_before, self.not_after)
            && begin >= end
        {
            return refuse("not_before is not before not_after");
        }
        match (self.mode, self.cause) {
            (Mode::Rewrap, None) => refuse("a rewrap must say its cause"),
            (Mode::Rewrap, Some(Cause::SuspectedCompromise)) => refuse(
                "a rewrap keeps the data keys and does not cure a suspected compromise; \
                 ask for mode reencrypt",
            ),
            _ => Ok(()),
        }
    }
}

fn short(value: &serde_json::Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "arn:aws:kms:local:000000000000:key/a";
    const B: &str = "arn:aws:kms:local:000000000000:key/b";

    fn message(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> String {
        let mut value = serde_json::json!({
            "v": 1, "kind": "rekey", "job_id": "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
            "org": "acme", "from_cmk": A, "to_cmk": B, "requested_by": "ops@acme",
        });
        change(value.as_object_mut().unwrap());
        value.to_string()
    }

    #[test]
    fn a_good_message_parses_and_prints_the_same_request() {
        let text = message(|m| {
            m.insert("not_before".into(), "2026-01-01T00:00:00Z".into());
        });
        let parsed = JobMessage::parse(&text).unwrap();
        assert_eq!(JobMessage::parse(&parsed.to_json()).unwrap(), parsed);
        assert_eq!(parsed.request().mode, Mode::Reencrypt);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let cases: Vec<(String, &str)> = vec![
            ("{".into(), "not_json"),
            ("[]".into(), "not_json"),
            ("x".repeat(MAX_BODY_BYTES + 1), "too_large"),
            (
                message(|m| {
                    m.insert("v".into(), 2.into());
                }),
                "unknown_version",
            ),
            (
                message(|m| {
                    m.remove("v");
                }),
                "unknown_version",
            ),
            (
                message(|m| {
                    m.insert("kind".into(), "wipe".into());
                }),
                "unknown_kind",
            ),
            (
                message(|m| {
                    m.insert("urgent".into(), true.into());
                }),
                "bad_field",
            ),
            (
                message(|m| {
                    m.remove("to_cmk");
                }),
                "bad_field",
            ),
            (
                message(|m| {
                    m.insert("to_cmk".into(), "alias/x".into());
                }),
                "bad_field",
            ),
            (
                message(|m| {
                    m.insert("org".into(), "a*".into());
                }),
                "bad_field",
            ),
            (
                message(|m| {
                    m.insert("mode".into(), "fast".into());
                }),
                "bad_field",
            ),
            (
                message(|m| {
                    m.insert("to_cmk".into(), A.into());
                }),
                "bad_request",
            ),
            (
                message(|m| {
                    m.insert("mode".into(), "rewrap".into());
                }),
                "bad_request",
            ),
            (
                message(|m| {
                    m.insert("mode".into(), "rewrap".into());
                    m.insert("cause".into(), "suspected_compromise".into());
                }),
                "bad_request",
            ),
            (
                message(|m| {
                    m.insert("requested_by".into(), "".into());
                }),
                "bad_request",
            ),
            (
                message(|m| {
                    m.insert("reason".into(), "a\nb".into());
                }),
                "bad_request",
            ),
        ];
        for (text, code) in cases {
            let error = JobMessage::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(code), "{code}: {error}");
        }
    }

    #[test]
    fn the_hash_is_of_the_request_and_not_of_its_spelling() {
        let spelled = |text: &str| JobMessage::parse(text).unwrap().body_sha256();
        let plain = message(|_| {});
        let explicit = message(|m| {
            m.insert("mode".into(), "reencrypt".into());
        });
        let spaced = serde_json::to_string_pretty(
            &serde_json::from_str::<serde_json::Value>(&plain).unwrap(),
        )
        .unwrap();
        let other = message(|m| {
            m.insert("requested_by".into(), "eve".into());
        });
        assert_eq!(spelled(&plain), spelled(&explicit));
        assert_eq!(spelled(&plain), spelled(&spaced));
        assert_ne!(spelled(&plain), spelled(&other));
    }
}
