//! The truth about what traffic did, kept beside the store, and the judgement
//! of what a reader sees against it.
//!
//! An operation is entered before it is sent and again when it is answered. One
//! that was never answered (an error after sending, a killed process) may have
//! happened or not; the ledger allows both and nothing else.
//!
//! Which of several writes to a record must show follows from the write times
//! alone, as it does in the store. So the rule is short: what a reader sees is
//! the newest operation that was acknowledged before it began to read, or one
//! begun before it ended that may have a write time at least as high.

mod file;
mod judge;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::{WallTime, WriteTime};
use crate::ids::{ChannelId, Hour, OrgId, RecordId, WorkspaceId};
use file::{Event, EventFile};

/// A message, by its full address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageName {
    /// The organization.
    pub org: OrgId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The channel.
    pub channel: ChannelId,
    /// The hour of creation.
    pub hour: Hour,
    /// The record id.
    pub record: RecordId,
}

impl fmt::Display for MessageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            org,
            workspace,
            channel,
            hour,
            record,
        } = self;
        write!(f, "{org}/{workspace}/{channel}/{hour}/{record}")
    }
}

/// What a text is known by: half of its SHA-256, and its length. The ledger
/// keeps no text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TextId {
    digest: String,
    bytes: u32,
}

impl TextId {
    /// Of a text.
    pub fn of(text: &[u8]) -> Self {
        Self {
            digest: hex::encode(&Sha256::digest(text)[..16]),
            bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        }
    }
}

/// When a text that was written vanishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vanishes {
    /// Never.
    Never,
    /// At this time, in Unix seconds.
    At(u32),
    /// An edit keeps what was; the answer tells.
    AsBefore,
}

impl From<Option<u32>> for Vanishes {
    fn from(expires_at_s: Option<u32>) -> Self {
        expires_at_s.map_or(Vanishes::Never, Vanishes::At)
    }
}

/// What an operation does to its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A write or an edit.
    Put {
        /// The text.
        text: TextId,
        /// When it vanishes.
        vanishes: Vanishes,
    },
    /// A delete.
    Delete,
}

/// How an operation was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It happened, at this write time.
    Acknowledged {
        /// The write time.
        at: WriteTime,
        /// For a write or edit: when the text vanishes.
        vanishes: Vanishes,
    },
    /// Something was sent and not answered. If it happened, then at this time,
    /// where that is known.
    Unsure {
        /// The write time.
        at: Option<WriteTime>,
    },
    /// Nothing was sent.
    NotDone,
}

/// An operation's number in its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(u64);

/// What a reader saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// No message.
    Absent,
    /// A message.
    Present {
        /// Its text.
        text: TextId,
        /// Its write time.
        at: WriteTime,
    },
    /// A message that does not open, with the code of the failure.
    Undecryptable {
        /// The code.
        code: String,
    },
}

/// How what was seen breaks the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wrong {
    /// An acknowledged message is not there.
    Lost,
    /// A deleted or vanished message is there again, or one nobody wrote.
    Revived,
    /// An older text stands where a newer one was acknowledged, or the text
    /// stands at another write time than it was written with.
    Overwritten,
    /// It does not open.
    Undecryptable,
    /// A text that nobody wrote to this record.
    Torn,
}

/// One broken promise. Names the record and write times, never a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The message.
    pub name: MessageName,
    /// What is wrong.
    pub wrong: Wrong,
    /// What was seen and what should have been.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.wrong, self.name, self.detail)
    }
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    /// See [`Wrong::Lost`].
    pub lost: Vec<Violation>,
    /// See [`Wrong::Revived`].
    pub revived: Vec<Violation>,
    /// See [`Wrong::Overwritten`].
    pub overwritten: Vec<Violation>,
    /// See [`Wrong::Undecryptable`].
    pub undecryptable: Vec<Violation>,
    /// See [`Wrong::Torn`].
    pub torn: Vec<Violation>,
}

impl Violations {
    /// Adds one.
    pub fn push(&mut self, violation: Violation) {
        match violation.wrong {
            Wrong::Lost => self.lost.push(violation),
            Wrong::Revived => self.revived.push(violation),
            Wrong::Overwritten => self.overwritten.push(violation),
            Wrong::Undecryptable => self.undecryptable.push(violation),
            Wrong::Torn => self.torn.push(violation),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.lost
            .iter()
            .chain(&self.revived)
            .chain(&self.overwritten)
            .chain(&self.undecryptable)
            .chain(&self.torn)
    }

    /// Whether every promise was kept.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// When a read began and ended. Made by [`Ledger::reading`].
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Events entered before the read began.
    seq: u64,
    /// The wall clock then.
    since: WallTime,
}

#[derive(Debug, Clone)]
struct Op {
    id: OpId,
    effect: Effect,
    outcome: Option<Outcome>,
    /// Where in the order of events it was answered.
    answered: u64,
}

impl Op {
    /// When the text vanishes: what the answer said, or what was asked for.
    fn vanishes(&self) -> Vanishes {
        match (&self.outcome, &self.effect) {
            (Some(Outcome::Acknowledged { vanishes, .. }), _) => *vanishes,
            (_, Effect::Put { vanishes, .. }) => *vanishes,
            (_, Effect::Delete) => Vanishes::Never,
        }
    }

    /// The write time, where it is known.
    fn at(&self) -> Option<WriteTime> {
        match self.outcome {
            Some(Outcome::Acknowledged { at, .. }) => Some(at),
            Some(Outcome::Unsure { at }) => at,
            Some(Outcome::NotDone) | None => None,
        }
    }
}

/// What was done, by everyone who shares it. Threads may share one; processes
/// write one file each, and a checker reads them together.
pub struct Ledger {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    records: HashMap<MessageName, Vec<Op>>,
    names: HashMap<OpId, MessageName>,
    events: u64,
    next_op: u64,
    file: Option<EventFile>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// A ledger in memory.
    pub fn new() -> Self {
        Self {
            book: Mutex::default(),
        }
    }

    /// A ledger that also writes every event to a new file, one JSON object a
    /// line, before it returns: what a killed process had entered can be read.
    ///
    /// # Errors
    /// If the file cannot be made, or exists.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        let ledger = Self::new();
        ledger.book().file = Some(EventFile::create(path)?);
        Ok(ledger)
    }

    /// Reads the files of one or more processes that have ended. A last line
    /// that was cut by a kill is left out: what it said was not begun yet, or
    /// counts as not answered.
    ///
    /// # Errors
    /// If a file cannot be read or a line within it does not parse.
    pub fn load<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> io::Result<Self> {
        let ledger = Self::new();
        for path in paths {
            let mut ids = HashMap::new();
            for event in file::read(path.as_ref())? {
                let mut book = ledger.book();
                match event {
                    Event::Begun { op, name, effect } => {
                        ids.insert(op, book.begin(name, effect));
                    }
                    Event::Answered { op, outcome } => {
                        if let Some(op) = ids.get(&op) {
                            book.answer(*op, outcome);
                        }
                    }
                }
            }
        }
        Ok(ledger)
    }

    /// Enters an operation that is about to be sent.
    ///
    /// # Errors
    /// If the file cannot be written; then do not send it.
    pub fn begin(&self, name: &MessageName, effect: Effect) -> io::Result<OpId> {
        let mut book = self.book();
        let op = book.begin(name.clone(), effect.clone());
        book.write(&Event::Begun {
            op,
            name: name.clone(),
            effect,
        })?;
        Ok(op)
    }

    /// Enters the answer to an operation.
    ///
    /// # Errors
    /// If the file cannot be written: the operation counts as answered in this
    /// process and as unanswered for who reads the file.
    pub fn answer(&self, op: OpId, outcome: Outcome) -> io::Result<()> {
        let mut book = self.book();
        book.answer(op, outcome);
        book.write(&Event::Answered { op, outcome })
    }

    /// Enters a message that was there before the traffic began.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn loaded(
        &self,
        name: &MessageName,
        text: TextId,
        vanishes: Vanishes,
        at: WriteTime,
    ) -> io::Result<()> {
        let op = self.begin(name, Effect::Put { text, vanishes })?;
        self.answer(op, Outcome::Acknowledged { at, vanishes })
    }

    /// Call this before a read, and [`Ledger::judge`] after it.
    pub fn reading(&self, now: WallTime) -> Reading {
        Reading {
            seq: self.book().events,
            since: now,
        }
    }

    /// Judges one read that was just made.
    pub fn judge(
        &self,
        name: &MessageName,
        seen: &Observed,
        began: Reading,
        now: WallTime,
    ) -> Option<Violation> {
        let book = self.book();
        let ops = book.records.get(name).map_or(&[][..], Vec::as_slice);
        let (wrong, detail) = judge::judge(ops, seen, began, now)?;
        Some(Violation {
            name: name.clone(),
            wrong,
            detail,
        })
    }

    /// Judges a reading of everything, made after all traffic had ended: a
    /// message of the ledger that is not among `observed` counts as absent.
    pub fn check(
        &self,
        observed: impl IntoIterator<Item = (MessageName, Observed)>,
        began: Reading,
        now: WallTime,
    ) -> Violations {
        let mut observed: HashMap<MessageName, Observed> = observed.into_iter().collect();
        for name in self.names() {
            observed.entry(name).or_insert(Observed::Absent);
        }
        let mut found: Vec<Violation> = observed
            .iter()
            .filter_map(|(name, seen)| self.judge(name, seen, began, now))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut violations = Violations::default();
        for violation in found {
            violations.push(violation);
        }
        violations
    }

    /// Every message that was ever touched, ascending.
    pub fn names(&self) -> Vec<MessageName> {
        let mut names: Vec<MessageName> = self.book().records.keys().cloned().collect();
        names.sort();
        names
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing that holds the lock can panic half way through a change.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn begin(&mut self, name: MessageName, effect: Effect) -> OpId {
        let id = OpId(self.next_op);
        self.next_op += 1;
        self.events += 1;
        self.names.insert(id, name.clone());
        self.records.entry(name).or_default().push(Op {
            id,
            effect,
            outcome: None,
            answered: u64::MAX,
        });
        id
    }

    /// A second answer to one operation is ignored.
    fn answer(&mut self, id: OpId, outcome: Outcome) {
        self.events += 1;
        let events = self.events;
        let Some(name) = self.names.remove(&id) else {
            return;
        };
        let ops = self.records.get_mut(&name);
        if let Some(op) = ops.and_then(|ops| ops.iter_mut().rev().find(|op| op.id == id)) {
            op.outcome = Some(outcome);
            op.answered = events;
        }
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.append(event),
            None => Ok(()),
        }
    }
}
