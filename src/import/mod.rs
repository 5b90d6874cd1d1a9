//! Bringing messages in from elsewhere. A reader only reads: it yields messages
//! in clear, and the loader encrypts and writes them.
//!
//! | file | what |
//! |---|---|
//! | `load` | encrypts messages and writes them |
//! | `progress` | how far an import has come, in a file |
//! | `report` | what a reader read, and what it could not read and why |
//! | `slack` | Slack exports, as a folder or a ZIP file |

pub mod load;
pub mod progress;
pub mod report;
pub mod slack;

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::WriteTime;
use crate::ids::{ChannelId, Hour, RecordId};

pub use report::{Example, ImportReport, SkipReason, Skipped, Subject};

/// Largest message that is imported, in bytes of its JSON. A cell holds no
/// more (docs/format.md).
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// One message, ready to be encrypted under the scope of its channel and hour.
pub struct ImportedMessage {
    /// The channel.
    pub channel: ChannelId,
    /// The hour of the message's creation; an edit keeps it.
    pub hour: Hour,
    /// The record's id.
    pub record: RecordId,
    /// When the message was last written. It comes from the message and not
    /// from a clock, so that importing twice writes the same thing twice.
    pub write_time: WriteTime,
    /// The message itself: the plaintext of its cell.
    pub json: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ImportedMessage {
    /// Where the message is and how long; never what it says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportedMessage")
            .field("channel", &self.channel)
            .field("hour", &self.hour)
            .field("record", &self.record)
            .field("write_time", &self.write_time)
            .field("json_bytes", &self.json.len())
            .finish()
    }
}

/// How far an import has come: every day up to and with this one was handed
/// over. Days are in ascending order of (folder, day), by bytes. Keep it once
/// the messages handed over before it are durable (I7), and pass it to the next
/// run over the same export.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportProgress {
    /// The channel's folder in the export.
    pub folder: String,
    /// The day, `YYYY-MM-DD`, as its file is called.
    pub day: String,
}

/// What a reader hands to its sink, in order.
#[derive(Debug)]
pub enum Imported {
    /// A message.
    Message(ImportedMessage),
    /// A day is over. What cannot be read of it is in the report and will not
    /// be read by trying again.
    DayDone(ImportProgress),
}

/// Why an import could not begin, or had to end. One bad message or file never
/// ends an import; it is counted in the [`ImportReport`].
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder or file cannot be opened, or the folder cannot be listed.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// What was to be read.
        path: String,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a ZIP file, or its directory is damaged.
    #[error("`{path}` is not a ZIP file that can be read: {source}. Fetch the export again")]
    Zip {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: zip::result::ZipError,
    },
    /// Nothing that lists channels is there.
    #[error(
        "this is no Slack export: there is no channels.json, groups.json, mpims.json or dms.json \
         at its top. Give the folder or the ZIP file that holds them"
    )]
    NotAnExport,
}
