//! Calls to the KMS as CloudTrail has them.
//!
//! What its files look like is in AWS's documentation: the [record], the
//! [identity], and the [events of the KMS]. A file is one JSON document,
//! `{"Records": [...]}`, packed with gzip. Plain files, several documents one after
//! the other, and one event a line are read too. Of an event only what is named
//! here is looked at, so new versions of the form that add fields are read.
//!
//! A call to a CMK of another account is in both accounts' trails; if access was
//! denied, in the caller's alone.
//!
//! [record]: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
//! [identity]: https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-user-identity.html
//! [events of the KMS]: https://docs.aws.amazon.com/kms/latest/developerguide/logging-using-cloudtrail.html

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{BadLine, ReconcileError, io_error};

/// The `eventSource` of the KMS.
const KMS: &str = "kms.amazonaws.com";
/// Longest event on a line of its own, in bytes. CloudTrail's are 256 KB at most,
/// and those that were enlarged 1 MB.
const MAX_LINE_BYTES: u64 = 2 << 20;
/// So much of a file says which form it has.
const LOOK_BYTES: u64 = 256;

/// One event of the KMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it was completed, to the second.
    pub time: Timestamp,
    /// The operation.
    pub operation: String,
    /// The id of the request; an event of the KMS's own has none.
    pub request_id: Option<String>,
    /// Who called: of a role the role, else the ARN or the name.
    pub principal: String,
    /// Who called, with the session.
    #[serde(skip)]
    pub session: String,
    /// The code, if it failed.
    pub error: Option<String>,
    /// The CMKs.
    pub cmks: Vec<String>,
    /// The encryption context.
    pub context: BTreeMap<String, String>,
}

impl Event {
    /// The last moment that its time may stand for.
    pub(super) fn latest(&self) -> Timestamp {
        let end = self.time.checked_add(999_999_i64.microseconds());
        end.unwrap_or(self.time)
    }

    fn of(event: &Value) -> Result<Line, String> {
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        let needs = |name: &str| text(name).ok_or_else(|| format!("it has no `{name}`"));
        let at = needs("eventTime")?;
        let time: Timestamp = at
            .parse()
            .map_err(|_| "its `eventTime` is no time".to_owned())?;
        if needs("eventSource")? != KMS {
            return Ok(Line::Other(time));
        }
        let identity = &event["userIdentity"];
        let name = |value: &Value| value.as_str().map(str::to_owned);
        let session = ["arn", "userName", "invokedBy", "principalId", "type"]
            .into_iter()
            .find_map(|field| name(&identity[field]))
            .unwrap_or_else(|| "unknown".to_owned());
        let role = name(&identity["sessionContext"]["sessionIssuer"]["arn"]);
        let asked = &event["requestParameters"];
        let resources = event["resources"].as_array().into_iter().flatten();
        let mut cmks: Vec<String> = resources.filter_map(|r| name(&r["ARN"])).collect();
        for field in ["keyId", "sourceKeyId", "destinationKeyId"] {
            cmks.extend(name(&asked[field]).filter(|key| !cmks.contains(key)));
        }
        let context = ["encryptionContext", "sourceEncryptionContext"]
            .into_iter()
            .find_map(|field| asked[field].as_object());
        let pairs = context.into_iter().flatten();
        Ok(Line::Kms(Event {
            time,
            operation: needs("eventName")?,
            request_id: text("requestID"),
            principal: role.unwrap_or_else(|| session.clone()),
            session,
            error: text("errorCode"),
            cmks,
            context: pairs
                .filter_map(|(key, value)| Some((key.clone(), name(value)?)))
                .collect(),
        }))
    }
}

/// What stands in a file.
pub(super) enum Line {
    /// An event of the KMS.
    Kms(Event),
    /// One of another service.
    Other(Timestamp),
    /// Not an event.
    Bad(BadLine),
}

/// The files that a path names: itself, or all below it that may be CloudTrail's.
///
/// # Errors
/// If it cannot be read.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?.path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        // Beside the events are digests of their files.
        if entry.is_dir() && !name.starts_with("CloudTrail-") {
            files.extend(files_of(&entry)?);
        } else if [".json", ".json.gz", ".jsonl", ".jsonl.gz"]
            .iter()
            .any(|e| name.ends_with(e))
        {
            files.push(entry);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a file.
pub(super) fn read(path: &Path, take: impl FnMut(Line)) -> Result<(), ReconcileError> {
    let open = || -> io::Result<Box<dyn Read>> {
        let mut file = BufReader::new(File::open(path)?);
        Ok(match file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            true => Box::new(MultiGzDecoder::new(file)),
            false => Box::new(file),
        })
    };
    let input = open().map_err(io_error(path))?;
    read_from(path, input, take).map_err(io_error(path))
}

fn read_from(path: &Path, mut input: Box<dyn Read>, mut take: impl FnMut(Line)) -> io::Result<()> {
    let mut start = Vec::new();
    input.by_ref().take(LOOK_BYTES).read_to_end(&mut start)?;
    let looks_like_a_document = {
        let mut words = start
            .split(|b| b.is_ascii_whitespace() || *b == b'{')
            .filter(|w| !w.is_empty());
        words
            .next()
            .is_some_and(|word| word.starts_with(b"\"Records\""))
    };
    let input = BufReader::new(Cursor::new(start).chain(input));
    let mut take = |at: String, event: Result<Value, String>| {
        let line = event.and_then(|event| Event::of(&event));
        take(line.unwrap_or_else(|why| {
            let file = path.to_owned();
            Line::Bad(BadLine { file, at, why })
        }));
    };
    match looks_like_a_document {
        true => documents(input, &mut take),
        false => lines(input, &mut take),
    }
}

/// What takes an event, or why there is none, and where that is.
type Take<'a> = dyn FnMut(String, Result<Value, String>) + 'a;

fn lines(mut input: impl BufRead, take: &mut Take<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let n = input
            .by_ref()
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        let at = format!("line {number}");
        if n as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            take(
                at,
                Err("it is too long for an event; the rest was not read".to_owned()),
            );
            break;
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            let event = serde_json::from_slice(&line);
            take(
                at,
                event.map_err(|e| format!("it is not JSON: {}", what(&e))),
            );
        }
    }
    Ok(())
}

/// Documents one after the other, as `zcat` of several files makes them.
fn documents(input: impl BufRead, take: &mut Take<'_>) -> io::Result<()> {
    let mut json = serde_json::Deserializer::from_reader(input);
    let mut document = Document {
        begun: false,
        events: 0,
        take,
    };
    loop {
        document.begun = false;
        match (&mut document).deserialize(&mut json) {
            Ok(true) => {}
            Ok(false) => {
                let at = format!("after event {}", document.events);
                let why = "it is a document without `Records`".to_owned();
                (document.take)(at, Err(why));
            }
            Err(error) if error.is_eof() && !document.begun => return Ok(()),
            Err(error) if error.is_io() => return Err(error.into()),
            Err(error) => {
                let at = format!("line {}, column {}", error.line(), error.column());
                let why = format!("it is not JSON: {}; the rest was not read", what(&error));
                (document.take)(at, Err(why));
                return Ok(());
            }
        }
    }
}

/// What serde says without where, which is said in another way.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => what.to_owned(),
        None => text,
    }
}

/// Reads one document, event by event, so that it need not be held. Says whether
/// it had any `Records`.
struct Document<'a, 'b> {
    begun: bool,
    events: u64,
    take: &'a mut Take<'b>,
}

impl<'de> DeserializeSeed<'de> for &mut Document<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Document<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document of CloudTrail")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        self.begun = true;
        let mut has_records = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "Records" {
                has_records = true;
                map.next_value_seed(Records(self))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(has_records)
    }
}

struct Records<'a, 'b, 'c>(&'a mut Document<'b, 'c>);

impl<'de> DeserializeSeed<'de> for Records<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<(), A::Error> {
        while let Some(event) = events.next_element::<Value>()? {
            self.0.events += 1;
            (self.0.take)(format!("event {}", self.0.events), Ok(event));
        }
        Ok(())
    }
}
