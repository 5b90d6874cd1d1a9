//! From a record to a line of the log. Pure: no clock, no file.

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::record::Record;
use crate::clock::WallTime;

/// The version of the record's form.
pub const VERSION: u32 = 1;

/// The `prev` of the first line.
pub const GENESIS: [u8; 32] = [0; 32];

/// Who writes a stream. Fixed for the life of the process.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// Who acts where a record does not say: the session's ARN or, on the local
    /// key ring, the caller's name.
    #[serde(skip)]
    pub principal: String,
    /// The part of rekeyd, for example `rekeyd worker`.
    pub service: String,
    /// Its version.
    pub version: String,
    /// The worker's id (internal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The machine's name (internal).
    pub host: String,
}

impl Origin {
    /// This program on this machine.
    pub fn here(
        service: impl Into<String>,
        principal: impl Into<String>,
        worker: Option<String>,
    ) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .ok()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned());
        Self {
            principal: principal.into(),
            service: service.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            worker,
            host,
        }
    }
}

/// The newest record of a stream. Kept elsewhere (a job's last record, a page of
/// paper), it proves later that nothing up to it was cut off or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The stream's id.
    pub stream: String,
    /// The record's number.
    pub seq: u64,
    /// SHA-256 of the record's line without the newline.
    pub hash: [u8; 32],
}

/// Numbers and links the lines of one stream.
#[derive(Debug)]
pub struct Chain {
    stream: String,
    origin: Origin,
    next_seq: u64,
    prev: [u8; 32],
}

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    stream: &'a str,
    seq: u64,
    prev: String,
    ts: String,
    #[serde(flatten)]
    record: &'a Record,
    #[serde(flatten)]
    origin: &'a Origin,
}

impl Chain {
    /// A chain without a line yet.
    pub fn new(stream: String, origin: Origin) -> Self {
        Self {
            stream,
            origin,
            next_seq: 0,
            prev: GENESIS,
        }
    }

    /// The number the next line gets.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The hash of the newest line.
    pub fn head(&self) -> [u8; 32] {
        self.prev
    }

    /// Appends the record's line, with its newline, to `out`. On an error
    /// nothing was appended and the chain stands where it stood.
    pub fn push(
        &mut self,
        at: WallTime,
        mut record: Record,
        out: &mut Vec<u8>,
    ) -> Result<(), serde_json::Error> {
        record.clip();
        if record.principal.is_none() {
            record.principal = Some(self.origin.principal.clone());
        }
        let line = serde_json::to_vec(&Line {
            v: VERSION,
            stream: &self.stream,
            seq: self.next_seq,
            prev: hex::encode(self.prev),
            ts: at.to_string(),
            record: &record,
            origin: &self.origin,
        })?;
        self.prev = Sha256::digest(&line).into();
        self.next_seq += 1;
        out.extend_from_slice(&line);
        out.push(b'\n');
        Ok(())
    }
}
