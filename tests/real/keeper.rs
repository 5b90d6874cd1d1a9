//! No server outlives its test process.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::services::{moto, servers_dir};

/// Set in the process that is killed.
const VICTIM: &str = "REKEYD_TEST_VICTIM";

/// Begins the line in which the victim says what it started.
const STARTED: &str = "started ";

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a process is there and not a zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, which comes first, may hold brackets.
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| !rest.starts_with('Z'))
}

#[test]
fn servers_live_as_long_as_the_process_and_no_longer() {
    if std::env::var_os(VICTIM).is_some() {
        // They do not end with the thread that started them.
        let pid = std::thread::spawn(|| moto().server().pid()).join().unwrap();
        println!("\n{STARTED}{pid} {}", servers_dir().display());
        loop {
            std::thread::park();
        }
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("keeper::servers_live_as_long_as_the_process_and_no_longer")
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let said = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix(STARTED).map(str::to_owned))
        .expect("it says what it started");
    let (pid, dir) = said.split_once(' ').unwrap();
    assert!(is_alive(pid));
    assert!(std::path::Path::new(dir).is_dir());

    victim.kill().unwrap();
    victim.wait().unwrap();
    let begin = Instant::now();
    while is_alive(pid) || std::path::Path::new(dir).exists() {
        assert!(begin.elapsed() < PATIENCE, "process {pid} or {dir} is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}
