//! What an import read, and what it could not read and why. Nothing is skipped
//! silently (I13), and no message text gets in here.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What kind of thing was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// One message of a day file.
    Message,
    /// A file, or the rest of one.
    File,
    /// A folder with all its days.
    Folder,
    /// An entry of a list of channels.
    Entry,
}

/// Why something was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// An element of a day file is no JSON object.
    NotAnObject,
    /// An element of a day file is not valid JSON, or not UTF-8.
    BadJson,
    /// The message has no `ts`.
    NoTimestamp,
    /// The message's `ts` is not of the form `1550077323.000200`.
    BadTimestamp,
    /// The message's `ts` is later than now.
    FutureTimestamp,
    /// The message is larger than 1 MiB.
    TooLarge,
    /// The file is no JSON array from this byte on. What stood before was read.
    Broken,
    /// The file could not be opened, or not read beyond this byte.
    Unreadable,
    /// The file holds no day of messages (users, canvases, attachments).
    NotADay,
    /// A link, a device or a name that could lead out of the export.
    RefusedName,
    /// The ZIP file holds two files of one name; the later one was taken.
    DuplicateFile,
    /// No list of channels names the folder.
    NoEntry,
    /// The channel's id breaks the grammar of ids.
    BadChannelId,
    /// Two channels claim the folder.
    AmbiguousFolder,
    /// An entry of a list of channels has no id, or is no JSON object.
    BadEntry,
}

impl SkipReason {
    /// What is skipped for this reason.
    pub fn subject(self) -> Subject {
        match self {
            Self::NotAnObject
            | Self::BadJson
            | Self::NoTimestamp
            | Self::BadTimestamp
            | Self::FutureTimestamp
            | Self::TooLarge => Subject::Message,
            Self::Broken
            | Self::Unreadable
            | Self::NotADay
            | Self::RefusedName
            | Self::DuplicateFile => Subject::File,
            Self::NoEntry | Self::BadChannelId | Self::AmbiguousFolder => Subject::Folder,
            Self::BadEntry => Subject::Entry,
        }
    }

    /// The reason in words, to follow a count and a subject.
    pub fn explain(self) -> &'static str {
        match self {
            Self::NotAnObject => "not a JSON object",
            Self::BadJson => "not valid JSON",
            Self::NoTimestamp => "no `ts`",
            Self::BadTimestamp => "`ts` is not a time like `1550077323.000200`",
            Self::FutureTimestamp => "`ts` is later than this machine's clock",
            Self::TooLarge => "larger than 1 MiB",
            Self::Broken => "no JSON array from this byte on; what stands before was read",
            Self::Unreadable => "could not be read from this byte on",
            Self::NotADay => "not a day of messages",
            Self::RefusedName => "a link, a device or an unsafe name",
            Self::DuplicateFile => "two files of one name; the later one was taken",
            Self::NoEntry => "named by no list of channels",
            Self::BadChannelId => "the channel's id is not valid here",
            Self::AmbiguousFolder => "claimed by two channels",
            Self::BadEntry => "an entry without an id",
        }
    }
}

/// Where something was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The file or folder, relative to the export. Control characters are
    /// escaped, for the name may come from a stranger's ZIP file.
    pub file: String,
    /// Which element of the file's array, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Which byte of the file, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte: Option<u64>,
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(index) = self.index {
            write!(f, " [{index}]")?;
        }
        if let Some(byte) = self.byte {
            write!(f, " at byte {byte}")?;
        }
        Ok(())
    }
}

/// How often something was skipped for one reason, and where first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Skipped {
    /// How often.
    pub count: u64,
    /// The first [`Skipped::MAX_EXAMPLES`] places.
    pub examples: Vec<Example>,
}

impl Skipped {
    /// Examples kept for one reason.
    pub const MAX_EXAMPLES: usize = 20;
}

/// The account of one run of an import. For messages it always holds that
/// `elements = messages + duplicates + unreadable messages`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ImportReport {
    /// Complete elements met in the arrays of day files.
    pub elements: u64,
    /// Messages handed over.
    pub messages: u64,
    /// Bytes of JSON handed over.
    pub bytes: u64,
    /// Messages not handed over because one of the same `ts` in the same
    /// channel, written at the same time or later, was handed over before.
    pub duplicates: u64,
    /// Messages handed over that are a later edit of one handed over before.
    pub replacements: u64,
    /// Messages handed over whose `edited.ts` cannot be read or is later than
    /// now; they count as written at their `ts`.
    pub edits_ignored: u64,
    /// Folders of which at least one day was opened.
    pub channels: u64,
    /// Of these, folders that no list names and whose name is a Slack id.
    pub unlisted_channels: u64,
    /// Day files opened.
    pub days: u64,
    /// Day files passed over because an earlier run had done them.
    pub days_resumed: u64,
    /// What was skipped, by reason.
    pub skipped: BTreeMap<SkipReason, Skipped>,
    /// The sink asked to stop before the end.
    pub stopped: bool,
}

impl ImportReport {
    /// Messages that could not be read. Those in the part of a file that is
    /// [`SkipReason::Broken`] or [`SkipReason::Unreadable`] cannot be counted.
    pub fn unreadable_messages(&self) -> u64 {
        self.skipped
            .iter()
            .filter(|(reason, _)| reason.subject() == Subject::Message)
            .map(|(_, skipped)| skipped.count)
            .sum()
    }

    /// How often something was skipped for a reason.
    pub fn skipped_for(&self, reason: SkipReason) -> u64 {
        self.skipped.get(&reason).map_or(0, |s| s.count)
    }

    pub(super) fn skip(
        &mut self,
        reason: SkipReason,
        file: &str,
        index: Option<u64>,
        byte: Option<u64>,
    ) {
        let skipped = self.skipped.entry(reason).or_default();
        skipped.count += 1;
        if skipped.examples.len() < Skipped::MAX_EXAMPLES {
            skipped.examples.push(Example {
                file: printable(file),
                index,
                byte,
            });
        }
    }
}

/// A name without characters that could steer a terminal.
fn printable(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_bounded_and_their_names_printable() {
        let mut report = ImportReport::default();
        for n in 0..1000 {
            report.skip(
                SkipReason::BadJson,
                "a\u{1b}[2J/é.json",
                Some(n),
                Some(n * 10),
            );
        }
        report.skip(SkipReason::NotADay, "users.json", None, None);
        let bad = &report.skipped[&SkipReason::BadJson];
        assert_eq!(
            (bad.count, bad.examples.len()),
            (1000, Skipped::MAX_EXAMPLES)
        );
        assert_eq!(
            bad.examples[1].to_string(),
            "a\\u{1b}[2J/é.json [1] at byte 10"
        );
        assert_eq!(
            report.unreadable_messages(),
            1000,
            "files do not count as messages"
        );
    }
}
