//! A directory with a store of its own, and the binary run in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_rekeyd");

pub struct Bench {
    dir: tempfile::TempDir,
    variables: BTreeMap<String, String>,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            variables: BTreeMap::new(),
        }
    }

    /// Sets a variable of the environment for what is run from now on.
    pub fn set(&mut self, (name, value): (&str, &str)) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    pub fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .current_dir(self.dir())
            .env("REKEYD_DATA_DIR", self.dir().join("data"))
            .env("REKEYD_WORKER__POLL_MS", "50")
            .env("REKEYD_WORKER__CHECKPOINT_MS", "50")
            .env_remove("REKEYD_CONFIG")
            .env("NO_COLOR", "1")
            .envs(&self.variables);
        command
    }

    fn output(&self, code: i32, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panic"), "{arguments:?}: {errors}");
        output
    }

    /// How a command ends.
    pub fn code(&self, arguments: &[&str]) -> i32 {
        let output = self.command(arguments).output().unwrap();
        output.status.code().unwrap()
    }

    /// What a command prints, however it ends.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command under way; what it says goes to a file of this name.
    pub fn spawn(&self, arguments: &[&str], said: &str) -> Child {
        let mut command = self.command(arguments);
        let said = std::fs::File::create(self.dir().join(said)).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said);
        command.spawn().unwrap()
    }

    /// Runs a command that must be killed by a signal.
    pub fn dies(&self, arguments: &[&str]) {
        let status = self.command(arguments).output().unwrap().status;
        assert_eq!(status.code(), None, "{arguments:?}: {status}");
    }

    /// All audit records.
    pub fn audit(&self) -> String {
        let streams = std::fs::read_dir(self.dir().join("data/audit")).unwrap();
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(file.unwrap().path()).unwrap_or_default()
        };
        streams.map(read).collect()
    }

    /// Runs a command that must end with this code; everything it says.
    pub fn run(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(code, arguments);
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    /// The same for programs: standard output is one JSON document.
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.output(code, &[arguments, &["--output", "json"]].concat());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {output:?}"))
    }

    pub fn create_key(&self) -> String {
        let output = self.output(0, &["kms", "create-key"]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Sets up an organization that may go from the first CMK to the second.
    pub fn acme(&self) -> (String, String) {
        self.run(0, &["init", "--timing", "demo"]);
        let (old, new) = (self.create_key(), self.create_key());
        self.run(0, &["org", "add", "acme", "--cmk", &old]);
        self.run(0, &["org", "allow-cmk", "acme", &new]);
        (old, new)
    }

    pub fn enqueue(&self, org: &str, to: &str) -> String {
        let sent = self.json(0, &["enqueue", "rekey", "--org", org, "--to", to]);
        sent["job_id"].as_str().unwrap().to_owned()
    }

    pub fn worker(&self) -> Worker {
        self.worker_with(&[])
    }

    /// The same, with flags.
    pub fn worker_with(&self, flags: &[&str]) -> Worker {
        let mut command = self.command(&[&["worker"], flags].concat());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Worker(command.spawn().unwrap())
    }

    /// A worker whose clock is ahead by so much.
    pub fn worker_ahead(&self, by: std::time::Duration) -> Worker {
        let mut command = self.command(&["worker"]);
        // It jumps back after one turn of the period, which never ends.
        let fault = format!("{}:{}", by.as_millis(), u64::MAX);
        command.env(rekeyd::faults::CLOCK, fault);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Worker(command.spawn().unwrap())
    }

    /// Changes one character of one record.
    pub fn spoil_audit(&self) {
        let streams = std::fs::read_dir(self.dir().join("data/audit")).unwrap();
        let file: PathBuf = streams.map(|e| e.unwrap().path()).min().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let spoiled = text.replacen("\"outcome\":\"ok\"", "\"outcome\":\"OK\"", 1);
        assert_ne!(text, spoiled);
        std::fs::write(&file, spoiled).unwrap();
    }

    pub fn run_into_a_closed_pipe(&self, arguments: &[&str]) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = self.command(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

/// A worker process; ends with the test whatever happens.
pub struct Worker(Child);

impl Worker {
    /// SIGTERM, and a clean end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails if it has ended already, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A small export: two channels, seven messages that can be read and one that
/// cannot.
pub fn sample_export(dir: &Path) -> String {
    let root = dir.join("export");
    let write = |name: &str, value: Value| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    let message = |ts: &str| json!({"type": "message", "ts": ts, "text": "marked text"});
    write(
        "channels.json",
        json!([{"id": "C1", "name": "general"}, {"id": "C2", "name": "random"}]),
    );
    write(
        "general/2019-02-13.json",
        json!([
            message("1550077323.000200"),
            message("1550077324.000200"),
            {"type": "message", "text": "marked text without a time"},
            message("1550081000.000100"),
        ]),
    );
    write(
        "general/2019-02-14.json",
        json!([message("1550150000.000100"), message("1550150001.000100")]),
    );
    write(
        "random/2019-02-13.json",
        json!([message("1550077323.000300"), message("1550090000.000100")]),
    );
    root.to_str().unwrap().to_owned()
}
