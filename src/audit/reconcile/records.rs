//! Calls to the KMS as the audit log has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BadLine, CALLS, ReconcileError, io_error};
use crate::audit::verify::{MAX_LINE_BYTES, files_of};
use crate::kms::codes::{RESPONSE_MISMATCH, UNREADABLE_RESPONSE};

/// A call, as recorded.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Call {
    /// When it was recorded: after the answer.
    pub ts: Timestamp,
    /// The stream that the record is in.
    pub stream: String,
    /// Its number there.
    pub seq: u64,
    #[serde(rename(deserialize = "type"), skip_serializing)]
    kind: String,
    /// The operation.
    pub action: String,
    #[serde(default, skip_serializing)]
    outcome: Option<String>,
    /// The code, if it failed.
    #[serde(default)]
    pub code: Option<String>,
    /// The CMK.
    #[serde(default)]
    pub cmk: Option<String>,
    #[serde(default, skip_serializing)]
    cmk_to: Option<String>,
    /// The encryption context.
    #[serde(default)]
    pub context: BTreeMap<String, String>,
    /// The id that the KMS gave to the request.
    #[serde(default)]
    pub kms_request_id: Option<String>,
    /// Who called.
    #[serde(default)]
    pub principal: Option<String>,
    /// For which job.
    #[serde(default)]
    pub job_id: Option<String>,
}

impl Call {
    /// Whether it was refused or failed.
    pub(super) fn failed(&self) -> bool {
        let ours = [RESPONSE_MISMATCH, UNREADABLE_RESPONSE];
        self.outcome.as_deref() != Some("ok")
            // The KMS did it; what it answered was of no use to us.
            && !self.code.as_deref().is_some_and(|code| ours.contains(&code))
    }

    /// The CMKs it used.
    pub(super) fn cmks(&self) -> impl Iterator<Item = &str> {
        [&self.cmk, &self.cmk_to]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    fn is_of_the_kms(&self) -> bool {
        self.kind == "kms" && CALLS.contains(&self.action.as_str())
    }
}

/// A line.
pub(super) enum Line {
    /// A call to the KMS.
    Call(Box<Call>),
    /// Another record.
    Other(Timestamp),
    /// Not a record.
    Bad(BadLine),
}

/// Reads a directory of streams, or one. Half a line at the end of a stream is what
/// a crash leaves, and no record.
pub(super) fn read(path: &Path, mut take: impl FnMut(Line)) -> Result<(), ReconcileError> {
    for file in files_of(path).map_err(io_error(path))? {
        let mut input = BufReader::new(File::open(&file).map_err(io_error(&file))?);
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let mut limited = input.by_ref().take(MAX_LINE_BYTES);
            limited
                .read_until(b'\n', &mut line)
                .map_err(io_error(&file))?;
            let bad = |why: String| {
                Line::Bad(BadLine {
                    file: file.clone(),
                    at: format!("line {number}"),
                    why,
                })
            };
            if line.last() != Some(&b'\n') {
                if line.len() as u64 == MAX_LINE_BYTES {
                    take(bad("it is too long for a record".to_owned()));
                }
                break;
            }
            take(match serde_json::from_slice::<Call>(&line) {
                Ok(call) if call.is_of_the_kms() => Line::Call(Box::new(call)),
                Ok(other) => Line::Other(other.ts),
                Err(error) => bad(format!("it is not an audit record: {error}")),
            });
        }
    }
    Ok(())
}
