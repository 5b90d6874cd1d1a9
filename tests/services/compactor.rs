//! A process that flushes and compacts keyspaces of a node.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::cassandra::Place;
use super::installed::{here, installed};

/// Kept for the life of a node. It ends when its input does, so also with us.
pub struct Compactor {
    child: Child,
    names: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Compactor {
    pub fn start(place: &Place) -> Self {
        let installed = installed();
        let script = here().join("cassandra/compactor");
        let log = std::fs::File::create(place.dir.join("compactor.log")).unwrap();
        let mut child = Command::new(&script)
            .arg(installed.cassandra.join("lib"))
            .arg(&place.dir)
            .arg(&installed.java)
            .arg(place.jmx_port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", script.display()));
        Self {
            names: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Flushes and compacts one keyspace, and waits for it.
    pub fn run(&mut self, keyspace: &str) {
        let asked = writeln!(self.names, "{keyspace}");
        let mut answer = String::new();
        let answered = self.answers.read_line(&mut answer);
        assert!(
            asked.is_ok() && answered.is_ok() && answer.trim() == "done",
            "the compactor of keyspace {keyspace} said `{}` and is {:?}; see compactor.log in the node's folder",
            answer.trim(),
            self.child.try_wait(),
        );
    }
}
