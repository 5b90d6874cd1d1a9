//! Slack exports. The input is a ZIP file, or the files of a folder one after
//! the other, each after a line `== its path`.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::ops::ControlFlow;

use rekeyd::clock::{WallTime, WriteTime};
use rekeyd::import::slack::{ExportSource, Listing, ZipSource, read};
use rekeyd::import::{ImportProgress, ImportReport, Imported, MAX_MESSAGE_BYTES};
use serde_json::Value;

use super::is_short;

const NOW: WallTime = WallTime(1_700_000_000_000_000);

/// Takes the input as an export. Answers whether a message came out of it.
pub fn run(input: &[u8]) -> bool {
    if input.starts_with(b"PK") {
        let open = || ZipSource::new(Cursor::new(input));
        return match open() {
            Ok(mut zip) => {
                let (all, _) = import(&mut zip, None);
                let (again, _) = import(&mut open().expect("it was opened"), None);
                assert_eq!(again, all, "an import can be repeated");
                all.is_some_and(|all| !all.messages.is_empty())
            }
            Err(error) => {
                is_short(&error);
                false
            }
        };
    }
    let mut files = Files::of(input, usize::MAX);
    let (all, report) = import(&mut files, None);
    let (Some(all), Some(report)) = (all, report) else {
        return false;
    };
    // However the bytes come, the same comes out.
    let (drip, _) = import(&mut Files::of(input, 7), None);
    assert_eq!(drip.as_ref(), Some(&all));
    says_nothing(&files, &all, &report);
    for (message, _) in all.messages.iter().zip(0..20) {
        let json = &message.json;
        let stands = |file: &Vec<u8>| file.windows(json.len()).any(|bytes| bytes == json);
        assert!(files.files.values().any(stands), "as it stands in a file");
    }
    resumes(input, &all);
    !all.messages.is_empty()
}

#[derive(Debug, PartialEq)]
struct Message {
    channel: String,
    record: Vec<u8>,
    write_time: WriteTime,
    json: Vec<u8>,
}

#[derive(Debug, Default, PartialEq)]
struct All {
    messages: Vec<Message>,
    days: Vec<ImportProgress>,
}

/// Imports, and checks each message and the account at the end.
fn import(
    source: &mut dyn ExportSource,
    resume: Option<&ImportProgress>,
) -> (Option<All>, Option<ImportReport>) {
    let mut all = All::default();
    let mut bytes = 0;
    let read = read(source, NOW, resume, &mut |imported| {
        match imported {
            Imported::DayDone(day) => all.days.push(day),
            Imported::Message(message) => {
                let shown = format!("{message:?}");
                assert!(shown.len() < 2000, "a message shows what it says");
                bytes += message.json.len() as u64;
                assert!(message.json.len() <= MAX_MESSAGE_BYTES);
                assert!(message.write_time <= WriteTime(NOW.0));
                let record = std::str::from_utf8(message.record.as_bytes()).unwrap();
                let created: u64 = record.split('.').next().unwrap().parse().unwrap();
                assert_eq!(message.hour.start_unix_seconds(), created / 3600 * 3600);
                if let Some(json) = value(&message.json) {
                    assert_eq!(json["ts"].as_str(), Some(record));
                }
                let message = Message {
                    channel: message.channel.as_str().to_owned(),
                    record: message.record.as_bytes().to_vec(),
                    write_time: message.write_time,
                    json: message.json.to_vec(),
                };
                all.messages.push(message);
            }
        }
        ControlFlow::Continue(())
    });
    let report = match read {
        Ok(report) => report,
        Err(error) => {
            is_short(&error);
            return (None, None);
        }
    };
    assert_eq!(report.messages, all.messages.len() as u64);
    assert_eq!(report.bytes, bytes);
    assert_eq!(
        report.elements,
        report.messages + report.duplicates + report.unreadable_messages(),
        "no message is skipped silently"
    );
    assert_eq!(report.days, all.days.len() as u64);
    assert!(all.days.is_sorted(), "days come in order");
    assert!(!report.stopped);
    (Some(all), Some(report))
}

/// What a message says. It is JSON by its grammar, and that is all an import asks
/// for: half an emoji (`\ud83d` alone) has no value, and is kept as it stands.
fn value(json: &[u8]) -> Option<Value> {
    let by_grammar = serde_json::from_slice::<serde::de::IgnoredAny>(json);
    by_grammar.expect("a message is JSON");
    serde_json::from_slice(json).ok()
}

/// No text of a message gets into the account.
fn says_nothing(files: &Files, all: &All, report: &ImportReport) {
    let told = serde_json::to_string(report).unwrap();
    for message in &all.messages {
        let json = value(&message.json).unwrap_or_default();
        if let Some(text) = json["text"].as_str().filter(|text| text.len() >= 24) {
            let is_a_name = files.files.keys().any(|path| path.contains(text));
            assert!(is_a_name || !told.contains(text), "{told}");
        }
    }
}

/// An import that was stopped after a day goes on with the next one: no day is
/// read twice and none is left out.
fn resumes(input: &[u8], all: &All) {
    let Some(day) = all.days.get(all.days.len() / 2) else {
        return;
    };
    let (rest, _) = import(&mut Files::of(input, usize::MAX), Some(day));
    let rest = rest.expect("it was an export");
    let left: Vec<_> = all.days.iter().filter(|other| *other > day).collect();
    assert_eq!(rest.days.iter().collect::<Vec<_>>(), left);
}

/// An export in memory. It gives at most `step` bytes at a time.
struct Files {
    files: BTreeMap<String, Vec<u8>>,
    step: usize,
}

impl Files {
    fn of(input: &[u8], step: usize) -> Self {
        let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut path = None;
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            if let Some(name) = line.strip_prefix(b"== ") {
                let name = String::from_utf8_lossy(name);
                let parts: Vec<&str> = name
                    .trim()
                    .split('/')
                    .filter(|part| !part.is_empty())
                    .collect();
                path = (!parts.is_empty()).then(|| parts.join("/"));
                if let Some(path) = &path {
                    files.entry(path.clone()).or_default();
                }
            } else if let Some(path) = &path
                && let Some(file) = files.get_mut(path)
            {
                file.extend_from_slice(line);
            }
        }
        Self { files, step }
    }
}

impl ExportSource for Files {
    fn list(&mut self, folder: &str) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for path in self.files.keys() {
            let rest = match folder {
                "" => path.as_str(),
                folder => match path.strip_prefix(&format!("{folder}/")) {
                    Some(rest) => rest,
                    None => continue,
                },
            };
            match rest.split_once('/') {
                None => listing.files.push(rest.to_owned()),
                Some((name, _)) => listing.folders.push(name.to_owned()),
            }
        }
        listing.files.sort_unstable();
        listing.folders.sort_unstable();
        listing.folders.dedup();
        Ok(listing)
    }

    fn open(&mut self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        let file = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(Drip(file, self.step)))
    }
}

struct Drip<'a>(&'a [u8], usize);

impl Read for Drip<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(to.len());
        self.0.read(&mut to[..n])
    }
}
