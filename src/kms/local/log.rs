//! The call log: one JSON object a line, appended by every process that uses the
//! ring. What CloudTrail is to AWS KMS. Never a key's bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ids::CmkArn;
use crate::scope::EncryptionContext;

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// When the answer was given: RFC 3339, UTC, microseconds.
    pub ts: String,
    /// The id that the answer carried.
    pub request_id: String,
    /// The operation, for example `Decrypt`.
    pub operation: String,
    /// The CMK asked; for `ReEncrypt` the one unwrapped with.
    pub cmk: CmkArn,
    /// For `ReEncrypt`, the CMK wrapped with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmk_to: Option<CmkArn>,
    /// The encryption context as it was sent.
    pub context: EncryptionContext,
    /// Who called.
    pub caller: String,
    /// `ok`, or the error's code.
    pub result: String,
    /// From call to answer, in microseconds.
    pub latency_us: u64,
}

/// The log of a ring, held open for appending.
pub(super) struct CallLog {
    file: File,
}

impl CallLog {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    /// Appends a record. One write on a file opened for appending: lines of
    /// several processes do not mix.
    pub fn append(&self, record: &CallRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
        line.push(b'\n');
        (&self.file).write_all(&line)
    }
}

/// The last `count` records, oldest first. A line that does not parse (cut off by
/// a full disk) is left out.
pub(super) fn tail(path: &Path, count: usize) -> io::Result<Vec<CallRecord>> {
    const BLOCK: u64 = 64 * 1024;
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut start = file.metadata()?.len();
    let mut text: Vec<u8> = Vec::new();
    // One line more than asked for, because the first may be cut.
    while start > 0 && text.iter().filter(|b| **b == b'\n').count() <= count {
        let size = start.min(BLOCK);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or_default()];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        block.append(&mut text);
        text = block;
    }
    let lines: Vec<&[u8]> = text
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let skip = lines.len().saturating_sub(count);
    Ok(lines[skip..]
        .iter()
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Every record, oldest first, without holding more than one. A line that does
/// not parse (cut off by a full disk) is left out.
pub(super) fn each(path: &Path, mut take: impl FnMut(CallRecord)) -> io::Result<()> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(record) = serde_json::from_slice(&line?) {
            take(record);
        }
    }
    Ok(())
}
