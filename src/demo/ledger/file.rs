//! The ledger on disk: one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Effect, MessageName, OpId, Outcome};

#[derive(Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    Begun {
        op: OpId,
        name: MessageName,
        effect: Effect,
    },
    Answered {
        op: OpId,
        outcome: Outcome,
    },
}

/// Each line is one write to the operating system, which keeps it when the
/// process is killed. A power failure is not what these tests are about.
pub(super) struct EventFile(File);

impl EventFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)?;
        Ok(Self(file))
    }

    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

pub(super) fn read(path: &Path) -> io::Result<Vec<Event>> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut events = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Ok(events);
        }
        let event = serde_json::from_str(&line).map_err(|e| {
            let line = events.len() + 1;
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} line {line}: {e}", path.display()),
            )
        })?;
        events.push(event);
    }
}
