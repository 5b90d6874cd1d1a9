//! The demo itself, as a person starts it: its exit code, what it says, and that
//! nothing of it stays behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest a test waits for a process to be gone.
const PATIENCE: Duration = Duration::from_secs(20);

fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command.arg("demo").arg("--dir").arg(dir);
    command
}

fn run(mut command: Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

/// The number in a line of the report.
fn figure(text: &str, label: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("  ")?.strip_prefix(label))
        .unwrap_or_else(|| panic!("no line `{label}` in:\n{text}"));
    let number = line.split_whitespace().next().unwrap().replace(',', "");
    number.parse().unwrap()
}

#[track_caller]
fn assert_success(output: &Output, text: &str) {
    assert!(
        output.status.success(),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn generated_messages_survive_a_killed_worker() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("demo");
    let mut command = demo(&dir);
    command.args(["--messages", "2000", "--traffic-per-s", "50"]);
    let (output, text) = run(command);
    assert_success(&output, &text);
    assert_eq!(figure(&text, "messages before the rekey"), 2000);
    assert_eq!(figure(&text, "kills survived"), 1);
    assert_eq!(figure(&text, "messages under the old CMK"), 0);
    // A few may have been edited under the new CMK before a worker came.
    let rewritten = figure(&text, "messages rewritten");
    assert!((1000..=2200).contains(&rewritten), "{rewritten}");
    assert!(figure(&text, "KMS calls of the workers") > 0);
    assert!(figure(&text, "live operations meanwhile") > 0);
    assert!(figure(&text, "compared with the ledger") >= 2000);
    for line in [
        "0 lost, 0 revived, 0 overwritten, 0 undecryptable",
        "the KMS now refuses it (DisabledException)",
        "0 refused, 0 wrong",
        "every chain intact",
        "  no live cell or key needs arn:",
        "Every check passed.",
    ] {
        assert!(text.contains(line), "`{line}` is missing in:\n{text}");
    }
    assert!(!dir.exists(), "the directory is removed");
}

#[test]
fn a_slack_export_takes_the_place_of_generated_messages() {
    let temp = tempfile::tempdir().unwrap();
    let export = temp.path().join("export");
    fs::create_dir_all(export.join("general")).unwrap();
    fs::create_dir_all(export.join("café")).unwrap();
    fs::write(
        export.join("channels.json"),
        r#"[{"id":"C0GENERAL1","name":"general"},{"id":"C0CAFE0001","name":"café"}]"#,
    )
    .unwrap();
    fs::write(
        export.join("general/2019-02-13.json"),
        r#"[{"type":"message","user":"U1","text":"hello","ts":"1550077323.000200"},
            {"type":"message","user":"U2","text":"better","ts":"1550077324.000100",
             "edited":{"user":"U2","ts":"1550077400.000000"}},
            {"type":"message","user":"U1","text":"an hour later","ts":"1550080923.000200"},
            {"type":"message","text":"no time"}]"#,
    )
    .unwrap();
    fs::write(
        export.join("café/2019-02-14.json"),
        r#"[{"type":"message","subtype":"bot_message","text":"☕","ts":"1550160000.000100"}]"#,
    )
    .unwrap();
    let dir = temp.path().join("demo");
    let mut command = demo(&dir);
    command.args(["--traffic-per-s", "20", "--keep", "--slack-export"]);
    command.arg(&export);
    let (output, text) = run(command);
    assert_success(&output, &text);
    assert_eq!(figure(&text, "messages before the rekey"), 4);
    assert!(text.contains("4 messages in 3 slices"), "{text}");
    assert!(text.contains("1: no `ts`"), "{text}");
    assert!(text.contains("Every check passed."), "{text}");
    assert!(dir.join("rekeyd.toml").exists(), "the directory is kept");
}

#[test]
fn what_is_in_the_directory_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("theirs"), "x").unwrap();
    let (output, _) = run(demo(temp.path()));
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("has something in it"), "{error}");
    assert!(temp.path().join("theirs").exists());
}

/// Starts a demo, and returns it with the process ids of its workers once it has
/// started them.
fn started(dir: &Path) -> (Child, Vec<u32>) {
    let mut command = demo(dir);
    command.args(["--messages", "500", "--traffic-per-s", "20"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut workers = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while workers.len() < 2 {
        let line = lines.next().expect("the demo starts workers").unwrap();
        if let Some((_, pid)) = line.split_once(" is process ") {
            workers.push(pid.trim().parse().unwrap());
        }
    }
    // Read to the end, or the demo would be writing to nobody.
    std::thread::spawn(move || lines.for_each(drop));
    (child, workers)
}

fn send(signal: &str, pid: u32) {
    let pid = pid.to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[track_caller]
fn assert_ends(pid: u32) {
    let since = Instant::now();
    while is_running(pid) {
        assert!(since.elapsed() < PATIENCE, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_worker_that_ends_by_itself_fails_the_demo_and_the_directory_stays() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("demo");
    let (child, workers) = started(&dir);
    send("KILL", workers[0]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("worker-1 ended with"), "{error}");
    assert!(dir.join("worker-1.log").exists());
    assert_ends(workers[1]);
}

#[test]
fn no_worker_outlives_the_demo() {
    for signal in ["INT", "KILL"] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("demo");
        let (mut child, workers) = started(&dir);
        send(signal, child.id());
        let status = child.wait().unwrap();
        if signal == "INT" {
            assert_eq!(status.code(), Some(130));
            assert!(!dir.exists(), "the directory is removed");
        }
        for worker in workers {
            assert_ends(worker);
        }
    }
}

/// Whether a process is there and not only waits to be reaped: the orphans of a
/// killed demo are reaped by whoever reaps here, in its own time.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
