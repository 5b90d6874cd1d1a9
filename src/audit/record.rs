//! The fields of an audit record, in the order in which they are written.
//!
//! No field can hold a key, a wrapped key, a nonce, message text, a file name, an
//! external id, a token or a credential: the types are ids, numbers, hashes and
//! words of our own. The commitment of a key appears only as its key id.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::Head;
use crate::clock::WallTime;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::kms::{KmsClass, ReasonCode, Use};
use crate::scope::{Kind, Scope};
use crate::store::SliceKey;

/// Longest reason, in characters; what is longer is cut when it is recorded.
pub const REASON_MAX_CHARS: usize = 200;

/// Fields that are for the operator alone. A customer's view is every other one.
pub const INTERNAL_FIELDS: [&str; 5] = ["worker", "host", "task", "token", "trace_id"];

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordType {
    /// A call to a KMS.
    Kms,
    /// Uses of a key from a cache, or a key dropped from it.
    Cache,
    /// A job changed its state.
    Job,
    /// A row of the registry changed.
    Registry,
    /// A slice was finished, parked or released.
    Slice,
    /// A cell or a key was found bad and left as it was.
    Quarantine,
    /// A scan that proves.
    Verify,
    /// The first record of a stream: a process started.
    Start,
    /// The last record of a stream that ended in order.
    Stop,
}

/// Whether something is about to be done or has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// About to be done; the result follows in a record of its own.
    Intent,
    /// Done, or refused.
    Result,
}

/// How it ended. The four bad ones are the error classes of the whole program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// It failed and is tried again.
    Transient,
    /// It was refused; the slice or the job waits.
    Blocked,
    /// The data is bad; it was left untouched and listed.
    Quarantined,
    /// The job or the process stops.
    Fatal,
}

impl Outcome {
    /// The word in the log, and in the label of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Transient => "transient",
            Outcome::Blocked => "blocked",
            Outcome::Quarantined => "quarantined",
            Outcome::Fatal => "fatal",
        }
    }
}

impl From<KmsClass> for Outcome {
    fn from(class: KmsClass) -> Self {
        match class {
            KmsClass::Transient { .. } => Outcome::Transient,
            // A code nobody knows is parked like a refusal, never dropped.
            KmsClass::Denied
            | KmsClass::RoleDenied
            | KmsClass::CmkUnusable
            | KmsClass::Unavailable
            | KmsClass::Unknown => Outcome::Blocked,
            KmsClass::QuarantinedKey => Outcome::Quarantined,
            KmsClass::FatalJob | KmsClass::FatalWorker => Outcome::Fatal,
        }
    }
}

/// What became of the rows of a slice or a job. All but `scanned` sum to it
/// (I13); the log records what it is given and does not correct it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Rewritten under the new epoch.
    pub rewritten: u64,
    /// At least as new as desired already.
    pub current: u64,
    /// Changed by the application meanwhile; its write won.
    pub changed: u64,
    /// Past their expiry.
    pub expired: u64,
    /// Rows without a live value.
    pub empty: u64,
    /// Parked.
    pub blocked: u64,
    /// Bad, left as they were.
    pub quarantined: u64,
    /// All rows seen.
    pub scanned: u64,
}

/// A chain that took part in a job, as the record of the job's end names it: if
/// its file is missing or cut, the two do not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamRef {
    /// The stream's id.
    pub stream: String,
    /// The number of the newest record known.
    pub seq: u64,
    /// The hash of that record's line, hexadecimal.
    pub head: String,
}

impl From<&Head> for StreamRef {
    fn from(head: &Head) -> Self {
        Self {
            stream: head.stream.clone(),
            seq: head.seq,
            head: hex::encode(head.hash),
        }
    }
}

impl TryFrom<StreamRef> for Head {
    type Error = String;

    fn try_from(named: StreamRef) -> Result<Self, String> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&named.head, &mut hash)
            .map_err(|_| "a stream's head is not 64 hexadecimal digits".to_owned())?;
        Ok(Self {
            stream: named.stream,
            seq: named.seq,
            hash,
        })
    }
}

/// The slice a record is about.
#[derive(Debug, Clone, Copy)]
pub struct SliceRef<'a> {
    /// The address of its data keys.
    pub slice: &'a SliceKey,
    /// The data key, where one is meant.
    pub key_id: Option<KeyId>,
}

impl<'a> From<&'a SliceKey> for SliceRef<'a> {
    fn from(slice: &'a SliceKey) -> Self {
        Self {
            slice,
            key_id: None,
        }
    }
}

/// One audit record. The log adds the rest of the line: version, stream, number,
/// hash, time, service, version, worker, host and, where it is not given, the
/// principal. Absent fields are left out of the line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// What kind of thing happened.
    #[serde(rename = "type")]
    pub kind_of_record: RecordType,
    /// Before or after the fact.
    pub phase: Phase,
    /// What was done: an operation of the KMS under the KMS's own name
    /// (`Decrypt`), or a word of ours (`cache_hit`, `transition`).
    pub action: Cow<'static, str>,
    /// How it ended; absent in an intent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The KMS's error code, or a code of ours for what blocked or quarantined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Which attempt this was, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// How many uses this record stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    pub first_ts: Option<WallTime>,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "rfc3339")]
    pub last_ts: Option<WallTime>,

    /// The organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// The encryption context, exactly as sent to the KMS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<BTreeMap<String, String>>,
    /// What the slice holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The slice, `org/kind/group/slice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// The data key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The cell epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell_epoch: Option<Epoch>,
    /// The wrap epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap_epoch: Option<Epoch>,
    /// The master key used; of two, the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmk: Option<CmkArn>,
    /// The target master key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmk_to: Option<CmkArn>,
    /// Which key material of the master key was used, where the KMS tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_material_id: Option<String>,
    /// The KMS's id of the request (`requestID` in CloudTrail).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_request_id: Option<String>,
    /// The region of the master key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The account that called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_account: Option<String>,
    /// How many records of the application it concerned. A number only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,

    /// Why, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<ReasonCode>,
    /// Why, in words, at most [`REASON_MAX_CHARS`] characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Who asked for the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Who approved it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Who acted; absent means the stream's own principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The application's opaque id of the person on whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    /// The task (internal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The fencing token of the task's holder (internal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// The trace this belongs to (internal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,

    /// The state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The state after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// SHA-256 of the job's body or the registry row's new body, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_sha256: Option<String>,
    /// What became of the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// At a job's end: the chains that took part in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamRef>,
}

impl Record {
    /// A result with an action and nothing else; the fields are public.
    pub fn new(kind_of_record: RecordType, action: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind_of_record,
            phase: Phase::Result,
            action: action.into(),
            outcome: Some(Outcome::Ok),
            code: None,
            attempt: None,
            latency_ms: None,
            count: None,
            first_ts: None,
            last_ts: None,
            org: None,
            context: None,
            kind: None,
            slice: None,
            key_id: None,
            cell_epoch: None,
            wrap_epoch: None,
            cmk: None,
            cmk_to: None,
            key_material_id: None,
            kms_request_id: None,
            region: None,
            caller_account: None,
            records: None,
            reason_code: None,
            reason: None,
            job_id: None,
            requested_by: None,
            approvers: Vec::new(),
            principal: None,
            end_user: None,
            task: None,
            token: None,
            trace_id: None,
            from: None,
            to: None,
            body_sha256: None,
            counts: None,
            streams: Vec::new(),
        }
    }

    /// A job went from one state to another. `from` is absent when the job is
    /// first recorded. At a job's end set `counts` and `streams` as well.
    pub fn transition(org: &OrgId, from: Option<&str>, to: &str, why: &Use) -> Self {
        let mut record = Self::new(RecordType::Job, "transition").because(why);
        record.org = Some(org.clone());
        record.from = from.map(str::to_owned);
        record.to = Some(to.to_owned());
        record
    }

    /// A registry row changed. `action` says what was done, for example
    /// `org_add`, `allow_cmk` or `activate`; `body_sha256` is of the new row.
    pub fn registry(
        org: &OrgId,
        action: &'static str,
        body_sha256: Option<[u8; 32]>,
        why: &Use,
    ) -> Self {
        let mut record = Self::new(RecordType::Registry, action).because(why);
        record.org = Some(org.clone());
        record.body_sha256 = body_sha256.map(hex::encode);
        record
    }

    /// A slice was finished (`done`), parked (`parked`) or set free
    /// (`released`), with what became of its rows.
    pub fn slice<'a>(
        slice: impl Into<SliceRef<'a>>,
        action: &'static str,
        counts: Counts,
        why: &Use,
    ) -> Self {
        let mut record = Self::new(RecordType::Slice, action)
            .because(why)
            .on(slice.into());
        record.counts = Some(counts);
        record
    }

    /// Cells or a key of a slice were found bad and left as they were. `code`
    /// is ours (`ttl_mismatch`) or the KMS's; `records` counts the cells.
    pub fn quarantine<'a>(
        slice: impl Into<SliceRef<'a>>,
        code: impl Into<String>,
        records: u64,
        why: &Use,
    ) -> Self {
        let mut record = Self::new(RecordType::Quarantine, "quarantine")
            .because(why)
            .on(slice.into())
            .ended(Outcome::Quarantined, Some(code.into()));
        record.records = Some(records);
        record
    }

    /// A scan ended. `action` is `scan` or `verdict`.
    pub fn verify(org: &OrgId, action: &'static str, counts: Counts, why: &Use) -> Self {
        let mut record = Self::new(RecordType::Verify, action).because(why);
        record.org = Some(org.clone());
        record.counts = Some(counts);
        record
    }

    /// Fills in why and for whom.
    #[must_use]
    pub fn because(mut self, why: &Use) -> Self {
        self.reason_code = Some(why.code);
        self.reason = (!why.reason.is_empty()).then(|| why.reason.clone());
        self.job_id = why.job;
        self.requested_by = why.requested_by.clone();
        self.end_user = why.end_user.clone();
        if let Some((task, token)) = &why.task {
            self.task = Some(task.clone());
            self.token = Some(*token);
        }
        self.key_id = why.key_id;
        self
    }

    /// Fills in the slice.
    #[must_use]
    pub fn on(mut self, at: SliceRef<'_>) -> Self {
        self.org = Some(at.slice.org.clone());
        self.kind = Some(at.slice.kind);
        self.slice = Some(at.slice.to_string());
        self.key_id = at.key_id.or(self.key_id);
        self
    }

    /// Fills in what the KMS is told of the scope: organization and context.
    #[must_use]
    pub fn under(mut self, scope: &Scope) -> Self {
        self.org = Some(scope.org().clone());
        self.context = Some(scope.context());
        self.kind = match scope {
            Scope::Message { .. } => Some(Kind::Message),
            Scope::File { .. } => Some(Kind::File),
            Scope::Search { .. } => Some(Kind::Search),
            Scope::Canary { .. } | Scope::SetAside { .. } => None,
        };
        self
    }

    /// Says how it ended.
    #[must_use]
    pub fn ended(mut self, outcome: Outcome, code: Option<String>) -> Self {
        self.outcome = Some(outcome);
        self.code = code;
        self
    }

    /// Makes an intent of it: about to be done, no outcome yet.
    #[must_use]
    pub fn intended(mut self) -> Self {
        self.phase = Phase::Intent;
        self.outcome = None;
        self
    }

    /// Cuts the reason to its limit. The log calls this on every record, so that
    /// no caller can forget it.
    pub(super) fn clip(&mut self) {
        if let Some(reason) = &mut self.reason
            && let Some((end, _)) = reason.char_indices().nth(REASON_MAX_CHARS)
        {
            reason.truncate(end);
        }
    }
}

fn rfc3339<S: serde::Serializer>(at: &Option<WallTime>, s: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => s.collect_str(at),
        None => s.serialize_none(),
    }
}
