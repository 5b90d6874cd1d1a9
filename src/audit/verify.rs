//! Reads a log back and finds the first place where it was changed.
//!
//! A chain by itself proves that nothing before its last line was changed,
//! removed, added or moved. That the last line is the last, and unchanged, only
//! a head that was kept elsewhere can prove: pass the heads that are known (a
//! job's last record names them) and they are checked too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::chain::{GENESIS, Head, VERSION};
use super::record::StreamRef;

/// Longest line that is read, in bytes. The log writes none near it.
pub(super) const MAX_LINE_BYTES: u64 = 1 << 20;

/// What a whole log, or one file of it, looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Each stream, in the order of the file names, which is that of time.
    pub streams: Vec<StreamReport>,
    /// Known heads whose stream has no file here. Empty for a single file.
    pub missing: Vec<Head>,
    /// Heads that proven records name (the record of a job's end does). To check
    /// the log against itself, verify once more with these as known; streams
    /// that were moved to other storage are then reported as missing.
    pub named: Vec<Head>,
}

impl Report {
    /// Nothing was changed and nothing that is known is missing. Streams that
    /// did not end in order (a process was killed) do not count against it.
    pub fn is_intact(&self) -> bool {
        self.missing.is_empty() && self.streams.iter().all(|s| s.broken.is_none())
    }
}

/// What one stream looks like, up to its first break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// The file.
    pub file: PathBuf,
    /// The stream's id, from the file's name.
    pub stream: String,
    /// The service, from the first record.
    pub service: String,
    /// Records that stand proven by the chain.
    pub records: u64,
    /// The time of the first one, as written.
    pub first_ts: Option<String>,
    /// The time of the last one, as written.
    pub last_ts: Option<String>,
    /// How the stream ends.
    pub ending: Ending,
    /// Bytes after the last whole line: a write that a crash cut short. Nothing
    /// that anything relied on is in them.
    pub torn_bytes: u64,
    /// The newest record; compare it with a head that was kept elsewhere.
    pub head: Option<Head>,
    /// The first place where the chain does not hold.
    pub broken: Option<Break>,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With a `stop` record.
    Stopped,
    /// Without one: the process still runs, or was killed.
    Open,
}

/// Where and how a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} (byte {offset}): {why}")]
pub struct Break {
    /// The line, from 1.
    pub line: u64,
    /// Where the line begins in the file.
    pub offset: u64,
    /// What does not hold there.
    pub why: Why,
}

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The file's name does not end in the id of a stream.
    #[error("the file is not named after a stream")]
    Name,
    /// Not a record of the version known here.
    #[error("the line is not an audit record: {0}")]
    Record(String),
    /// A record of another stream.
    #[error("the record belongs to stream {0}")]
    Stream(String),
    /// A gap or a repeat.
    #[error("record {expected} should be here, not {found}")]
    Seq {
        /// The number that follows.
        expected: u64,
        /// The number that stands there.
        found: u64,
    },
    /// The line before was changed, or this one is not the one that followed it.
    #[error("the record does not follow from the line before it: one of the two was changed")]
    Prev,
    /// The first record does not say `start`.
    #[error("the stream does not begin with a start record")]
    NoStart,
    /// There is more after the record that says `stop`.
    #[error("there is a record after the end of the stream")]
    AfterStop,
    /// A known head stands here with another hash.
    #[error("record {0} is not the one that was known: it was changed")]
    Head(u64),
    /// A known head lies past the end.
    #[error("the stream was cut off: record {0} was known")]
    Cut(u64),
}

#[derive(Deserialize)]
struct Line {
    v: u32,
    stream: String,
    seq: u64,
    prev: String,
    ts: String,
    #[serde(rename = "type")]
    kind: String,
    service: String,
    #[serde(default)]
    streams: Vec<StreamRef>,
}

/// Verifies a file, or every `*.jsonl` file of a directory, against itself and
/// against heads that are known from elsewhere.
///
/// # Errors
/// Only if something cannot be read. What is found wrong is in the report.
pub fn verify(path: &Path, known: &[Head]) -> io::Result<Report> {
    let files = files_of(path)?;
    let whole = path.is_dir();
    let mut streams = Vec::with_capacity(files.len());
    let mut named = Vec::new();
    for file in files {
        let input = BufReader::new(File::open(&file)?);
        streams.push(verify_stream(&file, input, known, &mut named)?);
    }
    let missing = known
        .iter()
        .filter(|head| whole && !streams.iter().any(|s| s.stream == head.stream))
        .cloned()
        .collect();
    Ok(Report {
        streams,
        missing,
        named,
    })
}

/// The streams that a path names: itself, or those in a directory, in the order of
/// time.
pub(super) fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "jsonl") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Verifies one stream from its bytes; `file` gives it its name only. Heads that
/// its records name are added to `named`.
pub(super) fn verify_stream(
    file: &Path,
    mut input: impl BufRead,
    known: &[Head],
    named: &mut Vec<Head>,
) -> io::Result<StreamReport> {
    let name = file
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stream = name.rsplit('-').next().unwrap_or_default().to_owned();
    let mut report = StreamReport {
        file: file.to_owned(),
        stream: stream.clone(),
        service: String::new(),
        records: 0,
        first_ts: None,
        last_ts: None,
        ending: Ending::Open,
        torn_bytes: 0,
        head: None,
        broken: None,
    };
    if ulid::Ulid::from_string(&stream).is_err() {
        report.broken = Some(Break {
            line: 1,
            offset: 0,
            why: Why::Name,
        });
        return Ok(report);
    }
    let mut heads: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
    for head in known.iter().filter(|h| h.stream == stream) {
        heads.insert(head.seq, head.hash);
    }

    let mut prev = GENESIS;
    let mut offset = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = input
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)? as u64;
        if n == 0 {
            break;
        }
        let whole = line.last() == Some(&b'\n');
        if !whole && n < MAX_LINE_BYTES {
            report.torn_bytes = n;
            break;
        }
        let checked = if whole {
            check(
                &line[..line.len() - 1],
                &mut report,
                &mut prev,
                &heads,
                named,
            )
        } else {
            Err(Why::Record(format!(
                "it is longer than {MAX_LINE_BYTES} bytes"
            )))
        };
        if let Err(why) = checked {
            report.broken = Some(Break {
                line: report.records + 1,
                offset,
                why,
            });
            return Ok(report);
        }
        offset += n;
    }
    if let Some((&seq, _)) = heads.range(report.records..).next() {
        report.broken = Some(Break {
            line: report.records + 1,
            offset,
            why: Why::Cut(seq),
        });
    }
    Ok(report)
}

/// Checks one line without its newline and takes it into the report.
fn check(
    bytes: &[u8],
    report: &mut StreamReport,
    prev: &mut [u8; 32],
    heads: &BTreeMap<u64, [u8; 32]>,
    named: &mut Vec<Head>,
) -> Result<(), Why> {
    // Checked in this order so that the message names the nearest cause: a line
    // that was removed shows as a gap, not as a hash that does not fit.
    let line: Line = serde_json::from_slice(bytes).map_err(|e| Why::Record(e.to_string()))?;
    if line.v != VERSION {
        return Err(Why::Record(format!("version {} is not known", line.v)));
    }
    if line.stream != report.stream {
        return Err(Why::Stream(line.stream));
    }
    if line.seq != report.records {
        return Err(Why::Seq {
            expected: report.records,
            found: line.seq,
        });
    }
    if line.prev != hex::encode(*prev) {
        return Err(Why::Prev);
    }
    if line.seq == 0 && line.kind != "start" {
        return Err(Why::NoStart);
    }
    if report.ending == Ending::Stopped {
        return Err(Why::AfterStop);
    }
    *prev = Sha256::digest(bytes).into();
    if heads.get(&line.seq).is_some_and(|known| known != prev) {
        return Err(Why::Head(line.seq));
    }
    for stream in line.streams {
        named.push(stream.try_into().map_err(Why::Record)?);
    }
    if line.kind == "stop" {
        report.ending = Ending::Stopped;
    }
    if line.seq == 0 {
        report.service = line.service;
        report.first_ts = Some(line.ts.clone());
    }
    report.last_ts = Some(line.ts);
    report.records += 1;
    report.head = Some(Head {
        stream: line.stream,
        seq: line.seq,
        hash: *prev,
    });
    Ok(())
}
