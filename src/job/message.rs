//! The message that asks for a job. It is untrusted: it grants nothing, and
//! whatever this version does not know is refused, not ignored.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ChannelId, CmkArn, JobId, OrgId, Sha256Hex, WorkspaceId};
use crate::job::envelope;
use crate::job::rows::Estimate;
use crate::job::window::Window;
use crate::kms::ReasonCode;
use crate::queue::MAX_BODY_BYTES;

/// The kinds of messages, as they are named in them.
const REKEY: &str = "rekey";
const MOVE: &str = "channel_move";

/// Denies that one request may accept, at most.
const MAX_DENIES: usize = 100;

/// What is said of a field that is wrong, at most.
const MAX_ERROR_CHARS: usize = 300;

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

/// The plan that a job was asked for with, to be shown beside what happened. It is
/// said by whoever asks, and nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRef {
    /// The plan's hash, as `rekeyd plan` printed it.
    pub sha256: Sha256Hex,
    /// What it expected, where whoever asked had the plan and not only its hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
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
    /// Act only while this is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Among the jobs of the organization: the higher, the sooner its tasks are
    /// taken; 0 if not given. From -100 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// The plan that was looked at before it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRef>,
    /// Denies of the old CMK's key policy, each by the SHA-256 of its statement,
    /// that may be lifted: the new CMK need not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_lifted_denies: Vec<Sha256Hex>,
}

/// Where a channel is to be moved from. Its organization is the request's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveFrom {
    /// The workspace it is in when the job begins.
    pub workspace: WorkspaceId,
    /// The channel.
    pub channel: ChannelId,
}

/// Where a channel is to be moved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveTo {
    /// The organization; the source's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The channel's id there.
    pub channel: ChannelId,
}

/// A move of a channel to another workspace, channel id or organization, as
/// asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    /// Chosen by whoever asks; taken once.
    pub job_id: JobId,
    /// The organization the channel is in.
    pub org: OrgId,
    /// From where.
    pub from: MoveFrom,
    /// To where.
    pub to: MoveTo,
    /// Who asks, 1 to 200 characters.
    pub requested_by: String,
    /// Why, in words, at most 200 characters.
    #[serde(default)]
    pub reason: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Do not begin before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<jiff::Timestamp>,
    /// Do not begin at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<jiff::Timestamp>,
    /// Act only while this is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Among the jobs of the organization: the higher, the sooner its tasks are
    /// taken; 0 if not given. From -100 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// The plan that was looked at before it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRef>,
}

/// How a channel is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveKind {
    /// Same organization and channel id: the channel's row gets the new
    /// workspace, its records stay where they are and are rewritten there.
    InPlace,
    /// Another channel id or organization: the records are copied to a new
    /// place, in phases.
    Copy,
}

impl MoveRequest {
    /// The organization the channel goes to.
    pub fn to_org(&self) -> &OrgId {
        self.to.org.as_ref().unwrap_or(&self.org)
    }

    /// How it is to be done: decided by the request alone.
    pub fn kind(&self) -> MoveKind {
        if *self.to_org() == self.org && self.to.channel == self.from.channel {
            MoveKind::InPlace
        } else {
            MoveKind::Copy
        }
    }

    fn check(&self) -> Result<(), MessageError> {
        check_words(&self.requested_by, &self.reason)?;
        check_times(self.not_before, self.not_after)?;
        check_priority(self.priority)?;
        if self.kind() == MoveKind::InPlace && self.to.workspace == self.from.workspace {
            return Err(MessageError::Contradiction(
                "from and to are the same channel of the same workspace",
            ));
        }
        Ok(())
    }
}

/// A message of version 1: what a job was asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobMessage {
    /// A rekey.
    Rekey(RekeyRequest),
    /// A move of a channel.
    Move(MoveRequest),
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
    #[error("unknown_kind: this rekeyd does `rekey` and `channel_move`, the message says {0}")]
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
        let kind = fields
            .remove("kind")
            .ok_or_else(|| MessageError::Kind("nothing".to_owned()))?;
        let given = serde_json::Value::Object(fields.clone());
        let message = Self::of_fields(&kind, fields)?;
        if let Some(name) = written_otherwise(&given, &message.to_value()) {
            let why = format!("`{name}` is not written as version 1 writes it");
            return Err(MessageError::Field(why));
        }
        match &message {
            JobMessage::Rekey(request) => request.check()?,
            JobMessage::Move(request) => request.check()?,
        }
        Ok(message)
    }

    fn of_fields(
        kind: &serde_json::Value,
        fields: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, MessageError> {
        let fields = serde_json::Value::Object(fields);
        // It repeats the value that is wrong, which may be as long as the message.
        let wrong = |e: serde_json::Error| {
            MessageError::Field(e.to_string().chars().take(MAX_ERROR_CHARS).collect())
        };
        match kind.as_str() {
            Some(REKEY) => serde_json::from_value(fields)
                .map(JobMessage::Rekey)
                .map_err(wrong),
            Some(MOVE) => serde_json::from_value(fields)
                .map(JobMessage::Move)
                .map_err(wrong),
            _ => Err(MessageError::Kind(short(kind))),
        }
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
        self.to_value().to_string()
    }

    /// The message as a JSON object.
    pub fn to_value(&self) -> serde_json::Value {
        let (value, kind) = match self {
            JobMessage::Rekey(request) => (serde_json::to_value(request), REKEY),
            JobMessage::Move(request) => (serde_json::to_value(request), MOVE),
        };
        let mut value = value.expect("a request is plain data with string keys and serializes");
        if let Some(fields) = value.as_object_mut() {
            fields.insert("v".to_owned(), 1.into());
            fields.insert("kind".to_owned(), kind.into());
        }
        value
    }

    /// The job's id.
    pub fn job_id(&self) -> JobId {
        match self {
            JobMessage::Rekey(request) => request.job_id,
            JobMessage::Move(request) => request.job_id,
        }
    }

    /// The organization whose job it is: of a move, the channel's.
    pub fn org(&self) -> &OrgId {
        match self {
            JobMessage::Rekey(request) => &request.org,
            JobMessage::Move(request) => &request.org,
        }
    }

    /// Who asks.
    pub fn requested_by(&self) -> &str {
        match self {
            JobMessage::Rekey(request) => &request.requested_by,
            JobMessage::Move(request) => &request.requested_by,
        }
    }

    /// Why, in words.
    pub fn reason(&self) -> &str {
        match self {
            JobMessage::Rekey(request) => &request.reason,
            JobMessage::Move(request) => &request.reason,
        }
    }

    /// Before when it is not to begin.
    pub fn not_before(&self) -> Option<jiff::Timestamp> {
        match self {
            JobMessage::Rekey(request) => request.not_before,
            JobMessage::Move(request) => request.not_before,
        }
    }

    /// From when on it is not to begin any more.
    pub fn not_after(&self) -> Option<jiff::Timestamp> {
        match self {
            JobMessage::Rekey(request) => request.not_after,
            JobMessage::Move(request) => request.not_after,
        }
    }

    /// When it may act, if not always.
    pub fn window(&self) -> Option<&Window> {
        match self {
            JobMessage::Rekey(request) => request.window.as_ref(),
            JobMessage::Move(request) => request.window.as_ref(),
        }
    }

    /// Its rank among the jobs of its organization: the higher, the sooner.
    pub fn priority(&self) -> i8 {
        match self {
            JobMessage::Rekey(request) => request.priority,
            JobMessage::Move(request) => request.priority,
        }
        .unwrap_or(0)
    }

    /// The plan it was asked for with.
    pub fn plan(&self) -> Option<&PlanRef> {
        match self {
            JobMessage::Rekey(request) => request.plan.as_ref(),
            JobMessage::Move(request) => request.plan.as_ref(),
        }
    }

    /// What is asked for, in one line.
    pub fn what(&self) -> String {
        match self {
            JobMessage::Rekey(request) => format!(
                "rekey of {} to {} ({})",
                request.org,
                request.to_cmk,
                request.mode.as_str()
            ),
            JobMessage::Move(request) => format!(
                "move of {} to {} ({})",
                request.source(),
                request.destination(),
                match request.kind() {
                    MoveKind::InPlace => "in place",
                    MoveKind::Copy => "copy",
                }
            ),
        }
    }

    /// The rekey, if it is one.
    pub fn rekey(&self) -> Option<&RekeyRequest> {
        match self {
            JobMessage::Rekey(request) => Some(request),
            JobMessage::Move(_) => None,
        }
    }

    /// The move, if it is one.
    pub fn channel_move(&self) -> Option<&MoveRequest> {
        match self {
            JobMessage::Move(request) => Some(request),
            JobMessage::Rekey(_) => None,
        }
    }

    /// How cells are rewritten. A move always re-encrypts: its scope changes.
    pub fn mode(&self) -> Mode {
        match self {
            JobMessage::Rekey(request) => request.mode,
            JobMessage::Move(_) => Mode::Reencrypt,
        }
    }

    /// For which reason its uses of keys are audited.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            JobMessage::Rekey(_) => ReasonCode::Rekey,
            JobMessage::Move(_) => ReasonCode::ChannelMove,
        }
    }

    /// SHA-256 of the parsed fields as canonical JSON (keys sorted, no space,
    /// defaults filled in), in hexadecimal. Two messages with one job id are the
    /// same request exactly if this is equal.
    pub fn body_sha256(&self) -> String {
        // serde_json's map is a BTreeMap: keys come out sorted.
        hex::encode(Sha256::digest(self.to_json().as_bytes()))
    }
}

/// In rows a request stands as the message that asked for it. Rows of versions
/// that knew only rekeys name no kind.
impl Serialize for JobMessage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JobMessage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = serde_json::Map::deserialize(deserializer)?;
        fields.remove("v");
        let kind = fields.remove("kind").unwrap_or_else(|| REKEY.into());
        Self::of_fields(&kind, fields).map_err(serde::de::Error::custom)
    }
}

fn check_words(requested_by: &str, reason: &str) -> Result<(), MessageError> {
    let refuse = |why| Err(MessageError::Contradiction(why));
    if !(1..=200).contains(&requested_by.chars().count()) {
        return refuse("requested_by must have 1 to 200 characters");
    }
    if reason.chars().count() > 200 {
        return refuse("reason must have at most 200 characters");
    }
    let control = |s: &str| s.chars().any(char::is_control);
    if control(requested_by) || control(reason) {
        return refuse("requested_by and reason must not hold control characters");
    }
    Ok(())
}

fn check_times(
    begin: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
) -> Result<(), MessageError> {
    if let (Some(begin), Some(end)) = (begin, end)
        && begin >= end
    {
        return Err(MessageError::Contradiction(
            "not_before is not before not_after",
        ));
    }
    Ok(())
}

fn check_priority(priority: Option<i8>) -> Result<(), MessageError> {
    match priority {
        Some(priority) if !(-100..=100).contains(&priority) => Err(MessageError::Contradiction(
            "priority must be from -100 to 100",
        )),
        _ => Ok(()),
    }
}

impl RekeyRequest {
    fn check(&self) -> Result<(), MessageError> {
        let refuse = |why| Err(MessageError::Contradiction(why));
        check_words(&self.requested_by, &self.reason)?;
        check_times(self.not_before, self.not_after)?;
        check_priority(self.priority)?;
        let denies = &self.accept_lifted_denies;
        if denies.len() > MAX_DENIES {
            return refuse("accept_lifted_denies has more than 100 entries");
        }
        if (1..denies.len()).any(|n| denies[n..].contains(&denies[n - 1])) {
            return refuse("accept_lifted_denies has an entry twice");
        }
        if self.from_cmk.as_ref() == Some(&self.to_cmk) {
            return refuse("from_cmk and to_cmk are the same key");
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

/// A field that was taken though version 1 writes it otherwise: serde reads an
/// object from a list too, a word from an object, nothing where a field may be
/// left out, and a UUID in several spellings. One request has one form, which is
/// also what the JSON Schema says.
fn written_otherwise(given: &serde_json::Value, sent: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let (Value::Object(given), Value::Object(sent)) = (given, sent) else {
        return None;
    };
    given.iter().find_map(|(name, value)| {
        let same = match (value, sent.get(name)) {
            (Value::String(given), Some(Value::String(sent))) => {
                name != "job_id" || given.eq_ignore_ascii_case(sent)
            }
            (Value::Object(_), Some(there @ Value::Object(_))) => {
                return written_otherwise(value, there).map(|inner| format!("{name}.{inner}"));
            }
            (Value::Number(given), Some(Value::Number(sent))) => given == sent,
            (Value::Array(given), Some(Value::Array(sent))) => given == sent,
            _ => false,
        };
        (!same).then(|| name.clone())
    })
}

fn short(value: &serde_json::Value) -> String {
    value.to_string().chars().take(80).collect()
}

#[cfg(test)]
mod tests;
