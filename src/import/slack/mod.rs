//! Reads a Slack export and yields its messages, one at a time and in clear.
//! docs/import.md tells operators what is read and what is skipped.
//!
//! | file | what |
//! |---|---|
//! | `source` | the export's files, from a folder |
//! | `archive` | the same from a ZIP file |
//! | `channels` | which channel a folder belongs to |
//! | `elements` | takes a day file apart, as a stream |
//! | `message` | a message's record id, hour and write time |

mod archive;
mod channels;
mod elements;
mod message;
mod source;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;

use zeroize::Zeroizing;

use self::channels::{Channels, LISTS};
use self::elements::{Buffers, Element, Elements, Fault};
use self::source::join;
use crate::clock::{WallTime, WriteTime};
use crate::ids::{ChannelId, RecordId};
use crate::import::{
    ImportError, ImportProgress, ImportReport, Imported, ImportedMessage, MAX_MESSAGE_BYTES,
    SkipReason,
};

pub use self::archive::ZipSource;
pub use self::source::{DirSource, ExportSource, Listing, open};

/// What [`read`] hands its output to. `Break` ends the import at that point.
pub type Sink<'a> = dyn FnMut(Imported) -> ControlFlow<()> + 'a;

/// Records of one channel whose duplicates are recognized, at most. Messages
/// stand in the order of their time, so duplicates stand close together.
const MAX_SEEN: usize = 1 << 18;

/// Reads an export and hands its messages to `sink`, folder by folder and day
/// by day, each in ascending order of names.
///
/// It blocks, so it runs on a thread of its own; a sink that blocks holds it
/// back, and at no time is there more than one message in its hands. With
/// `resume`, days up to and with that one are passed over. `now` bounds the
/// times it believes: a write from the future would win over every later edit.
///
/// Of two messages with one `ts` in a channel the later edit wins. The sink may
/// get both, but then with ascending write times, so the store keeps the right
/// one. Where they are equally old, the first one is handed over.
///
/// # Errors
/// Only if the export cannot be opened at all. What cannot be read within it is
/// counted in the report, with its place and reason.
pub fn read(
    source: &mut dyn ExportSource,
    now: WallTime,
    resume: Option<&ImportProgress>,
    sink: &mut Sink<'_>,
) -> Result<ImportReport, ImportError> {
    let mut report = ImportReport::default();
    let (root, top) = find_root(source, &mut report)?;
    for name in top
        .files
        .iter()
        .filter(|name| !LISTS.contains(&name.as_str()))
    {
        report.skip(SkipReason::NotADay, &join(&root, name), None, None);
    }
    let channels = Channels::load(source, &root, &top.files, &mut report);
    let mut reader = Reader {
        source,
        latest: WriteTime(now.0),
        resume,
        sink,
        report,
        buffers: Buffers::for_messages(MAX_MESSAGE_BYTES),
        seen: HashMap::new(),
    };
    for folder in &top.folders {
        if reader.read_folder(&root, folder, &channels).is_break() {
            reader.report.stopped = true;
            break;
        }
    }
    Ok(reader.report)
}

/// The folder that holds the lists of channels: the top or, since people pack
/// the folder and not what is in it, the only folder at the top.
fn find_root(
    source: &mut dyn ExportSource,
    report: &mut ImportReport,
) -> Result<(String, Listing), ImportError> {
    let mut root = String::new();
    for _ in 0..2 {
        let listing = source.list(&root).map_err(|e| ImportError::Io {
            path: if root.is_empty() {
                "the export".to_owned()
            } else {
                root.clone()
            },
            source: e,
        })?;
        for (name, reason) in &listing.refused {
            report.skip(*reason, &join(&root, name), None, None);
        }
        if listing
            .files
            .iter()
            .any(|name| LISTS.contains(&name.as_str()))
        {
            return Ok((root, listing));
        }
        let [only] = listing.folders.as_slice() else {
            break;
        };
        for name in &listing.files {
            report.skip(SkipReason::NotADay, &join(&root, name), None, None);
        }
        root = join(&root, only);
    }
    Err(ImportError::NotAnExport)
}

/// The name of a day file without its ending: `2019-02-13` of `2019-02-13.json`.
fn day_of(file: &str) -> Option<&str> {
    let day = file.strip_suffix(".json")?;
    let shape = day.len() == 10
        && day.bytes().enumerate().all(|(i, b)| match i {
            4 | 7 => b == b'-',
            _ => b.is_ascii_digit(),
        });
    shape.then_some(day)
}

struct Reader<'a, 's> {
    source: &'a mut dyn ExportSource,
    latest: WriteTime,
    resume: Option<&'a ImportProgress>,
    sink: &'a mut Sink<'s>,
    report: ImportReport,
    buffers: Buffers,
    /// The write time last handed over of each record of the folder.
    seen: HashMap<RecordId, WriteTime>,
}

impl Reader<'_, '_> {
    fn read_folder(&mut self, root: &str, folder: &str, channels: &Channels) -> ControlFlow<()> {
        if self
            .resume
            .is_some_and(|done| folder < done.folder.as_str())
        {
            return ControlFlow::Continue(());
        }
        let path = join(root, folder);
        let resolved = match channels.resolve(folder) {
            Ok(resolved) => resolved,
            Err(reason) => {
                self.report.skip(reason, &path, None, None);
                return ControlFlow::Continue(());
            }
        };
        let Ok(listing) = self.source.list(&path) else {
            self.report.skip(SkipReason::Unreadable, &path, None, None);
            return ControlFlow::Continue(());
        };
        for (name, reason) in &listing.refused {
            self.report.skip(*reason, &join(&path, name), None, None);
        }
        for name in &listing.folders {
            self.report
                .skip(SkipReason::NotADay, &join(&path, name), None, None);
        }
        self.seen.clear();
        let mut met = false;
        for file in &listing.files {
            let file_path = join(&path, file);
            let Some(day) = day_of(file) else {
                self.report
                    .skip(SkipReason::NotADay, &file_path, None, None);
                continue;
            };
            let done = |p: &ImportProgress| p.folder == folder && day <= p.day.as_str();
            if self.resume.is_some_and(done) {
                self.report.days_resumed += 1;
                continue;
            }
            if !met {
                met = true;
                self.report.channels += 1;
                self.report.unlisted_channels += u64::from(!resolved.listed);
            }
            self.read_day(&file_path, &resolved.channel)?;
            let progress = ImportProgress {
                folder: folder.to_owned(),
                day: day.to_owned(),
            };
            (self.sink)(Imported::DayDone(progress))?;
        }
        ControlFlow::Continue(())
    }

    fn read_day(&mut self, path: &str, channel: &ChannelId) -> ControlFlow<()> {
        self.report.days += 1;
        let Ok(read) = self.source.open(path) else {
            self.report
                .skip(SkipReason::Unreadable, path, None, Some(0));
            return ControlFlow::Continue(());
        };
        let mut elements = Elements::new(read, &mut self.buffers);
        loop {
            let fault = match elements.next() {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(element)) => {
                    self.report.elements += 1;
                    let (index, start) = (element.index, element.start);
                    let taken = take(
                        element,
                        channel,
                        self.latest,
                        &mut self.seen,
                        &mut self.report,
                    );
                    match taken {
                        Ok(Some(message)) => (self.sink)(Imported::Message(message))?,
                        Ok(None) => {}
                        Err(reason) => {
                            self.report.skip(reason, path, Some(index), Some(start));
                        }
                    }
                    continue;
                }
                Err(fault) => fault,
            };
            let (reason, byte) = match fault {
                Fault::Syntax { byte } => (SkipReason::Broken, byte),
                Fault::Io { byte } => (SkipReason::Unreadable, byte),
            };
            self.report.skip(reason, path, None, Some(byte));
        }
    }
}

/// Makes a message of an element; `None` if the sink has it, or a later edit.
fn take(
    element: Element<'_>,
    channel: &ChannelId,
    latest: WriteTime,
    seen: &mut HashMap<RecordId, WriteTime>,
    report: &mut ImportReport,
) -> Result<Option<ImportedMessage>, SkipReason> {
    let json = element.body.ok_or(SkipReason::TooLarge)?;
    let stamp = message::stamp(json, latest)?;
    if seen.len() >= MAX_SEEN {
        seen.clear();
    }
    match seen.insert(stamp.record.clone(), stamp.write_time) {
        Some(before) if before >= stamp.write_time => {
            seen.insert(stamp.record, before);
            report.duplicates += 1;
            return Ok(None);
        }
        Some(_) => report.replacements += 1,
        None => {}
    }
    report.messages += 1;
    report.bytes += json.len() as u64;
    report.edits_ignored += u64::from(stamp.edit_ignored);
    Ok(Some(ImportedMessage {
        channel: channel.clone(),
        hour: stamp.hour,
        record: stamp.record,
        write_time: stamp.write_time,
        json: Zeroizing::new(json.to_vec()),
    }))
}
