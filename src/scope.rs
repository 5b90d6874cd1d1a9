//! What a data key is for (scope), how the KMS is told (encryption context),
//! and where a record is (locus). docs/format.md gives every byte.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{ChannelId, FileId, Hour, InvalidId, JobId, OrgId, RecordId, WorkspaceId};

/// What a slice holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The messages of one channel in one hour.
    Message,
    /// One file.
    File,
    /// One search index.
    Search,
}

impl Kind {
    /// The word used in encryption contexts, loci and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::File => "file",
            Kind::Search => "search",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a data key is for. Its pairs are exactly what the KMS is sent as
/// encryption context with every call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The messages of one channel in one hour.
    Message {
        /// Owner of the master key.
        org: OrgId,
        /// The workspace the channel is in, or was in when the key was made.
        workspace: WorkspaceId,
        /// The channel.
        channel: ChannelId,
        /// UTC hour of the records' creation; an edit keeps it.
        hour: Hour,
    },
    /// One file.
    File {
        /// Owner of the master key.
        org: OrgId,
        /// The file.
        file: FileId,
    },
    /// The search indexes of one organization.
    Search {
        /// Owner of the master key.
        org: OrgId,
    },
    /// A canary: shows that a CMK answers, holds no data.
    Canary {
        /// Owner of the master key.
        org: OrgId,
    },
    /// The old data keys of one channel that a rekey set aside. The channel is
    /// among the pairs so that who denies a channel denies its old keys too.
    SetAside {
        /// Owner of the master key.
        org: OrgId,
        /// The channel whose keys they are.
        channel: ChannelId,
        /// The job that set them aside.
        job: JobId,
    },
}

/// The pairs sent to the KMS, in ascending order of their keys. Ids only: the
/// context appears in clear in the KMS's log.
pub type EncryptionContext = BTreeMap<String, String>;

/// `u8 n ‖ n × (LP(key) ‖ LP(value))`, keys ascending, of at most 255 pairs.
pub(crate) fn context_bytes(pairs: &EncryptionContext) -> Vec<u8> {
    debug_assert!(pairs.len() <= usize::from(u8::MAX));
    let mut out = vec![pairs.len() as u8];
    for (key, value) in pairs {
        put_lp(&mut out, key.as_bytes());
        put_lp(&mut out, value.as_bytes());
    }
    out
}

/// A scope's bytes that do not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The bytes end before a length says they do, or go on after the last pair.
    #[error("scope bytes are cut short or have bytes after the last pair")]
    Length,
    /// A key or value is not UTF-8.
    #[error("scope bytes hold text that is not UTF-8")]
    NotUtf8,
    /// Keys are not in strictly ascending order.
    #[error("scope keys are not in ascending order, or one stands twice")]
    Order,
    /// The pairs are not those of any kind of scope.
    #[error("scope pairs are not those of a known kind")]
    Pairs,
    /// A value breaks the grammar of its id.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

impl ScopeError {
    /// The stable name of the failure, as tests/vectors use it.
    pub fn code(&self) -> &'static str {
        match self {
            ScopeError::Length => "scope_length",
            ScopeError::NotUtf8 => "scope_not_utf8",
            ScopeError::Order => "scope_order",
            ScopeError::Pairs => "scope_pairs",
            ScopeError::Id(_) => "scope_id",
        }
    }
}

impl Scope {
    /// The organization that owns the scope.
    pub fn org(&self) -> &OrgId {
        match self {
            Scope::Message { org, .. }
            | Scope::File { org, .. }
            | Scope::Search { org }
            | Scope::Canary { org }
            | Scope::SetAside { org, .. } => org,
        }
    }

    /// The pairs, keys in ascending byte order.
    pub fn context(&self) -> EncryptionContext {
        let mut pairs = EncryptionContext::new();
        let mut put = |k: &str, v: &str| {
            pairs.insert(k.to_owned(), v.to_owned());
        };
        put("organization", self.org().as_str());
        match self {
            Scope::Message {
                workspace,
                channel,
                hour,
                ..
            } => {
                put("kind", "message");
                put("workspace", workspace.as_str());
                put("channel", channel.as_str());
                put("hour", &hour.to_string());
            }
            Scope::File { file, .. } => {
                put("kind", "file");
                put("file", file.as_str());
            }
            Scope::Search { .. } => put("kind", "search"),
            Scope::Canary { .. } => put("kind", "canary"),
            Scope::SetAside { channel, job, .. } => {
                put("kind", "set_aside");
                put("channel", channel.as_str());
                put("job", &job.to_string());
            }
        }
        pairs
    }

    /// `u8 n ‖ n × (LP(key) ‖ LP(value))`, keys ascending.
    pub fn to_bytes(&self) -> Vec<u8> {
        context_bytes(&self.context())
    }

    /// Reads what [`Scope::to_bytes`] writes, and nothing else: another order, a
    /// duplicate, an unknown pair or a trailing byte is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ScopeError> {
        let (&n, mut rest) = bytes.split_first().ok_or(ScopeError::Length)?;
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(usize::from(n));
        for _ in 0..n {
            let key = take_lp(&mut rest).ok_or(ScopeError::Length)?;
            let value = take_lp(&mut rest).ok_or(ScopeError::Length)?;
            let key = std::str::from_utf8(key).map_err(|_| ScopeError::NotUtf8)?;
            let value = std::str::from_utf8(value).map_err(|_| ScopeError::NotUtf8)?;
            if pairs.last().is_some_and(|(last, _)| *last >= key) {
                return Err(ScopeError::Order);
            }
            pairs.push((key, value));
        }
        if !rest.is_empty() {
            return Err(ScopeError::Length);
        }
        match pairs.as_slice() {
            [
                ("channel", channel),
                ("hour", hour),
                ("kind", "message"),
                ("organization", org),
                ("workspace", workspace),
            ] => Ok(Scope::Message {
                org: OrgId::new(*org)?,
                workspace: WorkspaceId::new(*workspace)?,
                channel: ChannelId::new(*channel)?,
                hour: hour.parse()?,
            }),
            [("file", file), ("kind", "file"), ("organization", org)] => Ok(Scope::File {
                org: OrgId::new(*org)?,
                file: FileId::new(*file)?,
            }),
            [("kind", "search"), ("organization", org)] => Ok(Scope::Search {
                org: OrgId::new(*org)?,
            }),
            [("kind", "canary"), ("organization", org)] => Ok(Scope::Canary {
                org: OrgId::new(*org)?,
            }),
            [
                ("channel", channel),
                ("job", job),
                ("kind", "set_aside"),
                ("organization", org),
            ] => Ok(Scope::SetAside {
                org: OrgId::new(*org)?,
                channel: ChannelId::new(*channel)?,
                job: canonical(job)?,
            }),
            _ => Err(ScopeError::Pairs),
        }
    }
}

/// A job id as [`Scope::to_bytes`] writes it: a UUID can be written in several
/// ways, and a scope in one.
fn canonical(text: &str) -> Result<JobId, ScopeError> {
    let job: JobId = text.parse()?;
    match job.to_string() == text {
        true => Ok(job),
        false => Err(ScopeError::Id(InvalidId {
            what: "job id",
            given: text.chars().take(80).collect(),
            rule: "in a scope a job id is a UUID in lower case, with hyphens",
        })),
    }
}

/// Where a record is, as the reader asked for it. It is bound into every cell,
/// so a cell copied to another row does not open there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Locus<'a> {
    /// A message.
    Message {
        /// The organization asked for.
        org: &'a OrgId,
        /// The channel asked for.
        channel: &'a ChannelId,
        /// The record asked for.
        record: &'a RecordId,
    },
    /// A data key that a rekey set aside.
    SetAside {
        /// The organization.
        org: &'a OrgId,
        /// The channel whose key it is.
        channel: &'a ChannelId,
        /// The hour whose key it is.
        hour: Hour,
        /// The id of the key.
        key_id: &'a [u8; 16],
    },
}

impl Locus<'_> {
    /// `u8 n ‖ n × LP(part)`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.append_to(&mut out);
        out
    }

    /// Appends the bytes to a buffer that is used again for each cell.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Locus::Message {
                org,
                channel,
                record,
            } => {
                out.push(4);
                put_lp(out, b"message");
                put_lp(out, org.as_str().as_bytes());
                put_lp(out, channel.as_str().as_bytes());
                put_lp(out, record.as_bytes());
            }
            Locus::SetAside {
                org,
                channel,
                hour,
                key_id,
            } => {
                out.push(5);
                put_lp(out, b"set_aside");
                put_lp(out, org.as_str().as_bytes());
                put_lp(out, channel.as_str().as_bytes());
                put_lp(out, hour.to_string().as_bytes());
                put_lp(out, *key_id);
            }
        }
    }
}

/// Appends `LP(x)`: the length in two bytes, big-endian, and the bytes.
///
/// # Panics
/// If `x` is longer than 65,535 bytes; every caller has a smaller limit.
pub(crate) fn put_lp(out: &mut Vec<u8>, x: &[u8]) {
    let n = u16::try_from(x.len()).expect("a length-prefixed part is at most 65,535 bytes");
    out.extend_from_slice(&n.to_be_bytes());
    out.extend_from_slice(x);
}

/// Takes one `LP(x)` off the front of `rest`; `None` if it is cut short.
pub(crate) fn take_lp<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (n, tail) = rest.split_first_chunk::<2>()?;
    let n = usize::from(u16::from_be_bytes(*n));
    if tail.len() < n {
        return None;
    }
    let (x, tail) = tail.split_at(n);
    *rest = tail;
    Some(x)
}
