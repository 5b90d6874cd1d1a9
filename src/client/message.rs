//! What goes into the client and what comes out of it.

use std::fmt;

use crate::clock::WriteTime;
use crate::crypto::Plaintext;
use crate::epoch::Epoch;
use crate::ids::RecordId;

/// A message as read. Its text is wiped when it is dropped and is not shown by
/// `Debug`.
pub struct Message {
    pub(super) text: Plaintext,
    pub(super) write_time: WriteTime,
    pub(super) expires_at_s: Option<u32>,
    pub(super) epoch: Epoch,
}

impl Message {
    /// The text, as bytes.
    pub fn text(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// When it was last written.
    pub fn write_time(&self) -> WriteTime {
        self.write_time
    }

    /// When it vanishes, in Unix seconds; `None` if it is lasting.
    pub fn expires_at_s(&self) -> Option<u32> {
        self.expires_at_s
    }

    /// The epoch it was sealed in.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("bytes", &self.text().len())
            .field("write_time", &self.write_time)
            .field("expires_at_s", &self.expires_at_s)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// How long a new message is to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Lasting,
    /// Until this time, in Unix seconds; then it is absent.
    Until(u32),
}

/// How long a message is to last after an edit. There is no default: an edit
/// that made a vanishing message last by oversight would be a leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditLifetime {
    /// As long as before the edit.
    Keep,
    /// As given.
    Set(Lifetime),
}

/// A write, edit or delete that the store has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The write time it has in the store.
    pub write_time: WriteTime,
    /// When the message vanishes, in Unix seconds; `None` if it is lasting, and
    /// for a delete.
    pub expires_at_s: Option<u32>,
}

/// One page of an hour.
#[derive(Debug, Default)]
pub struct Listing {
    /// The messages by ascending record id. One that does not open does not
    /// hide the others. What has vanished is left out.
    pub messages: Vec<(RecordId, Result<Message, super::ClientError>)>,
    /// Pass it as `after` for the next page; `None` at the end of the hour. A
    /// page may be empty and still have a next one.
    pub next: Option<RecordId>,
}
