//! `rekeyd chaos` as its user runs it: its exit code, its last line, what it
//! leaves behind, and that a loss is found.

#[path = "../schema/mod.rs"]
mod schema;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rand::Rng;
use rekeyd::clock::SystemClock;
use rekeyd::config;
use rekeyd::ids::OrgId;
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::registry::Registry;
use rekeyd::store::{Consistency, PageLimit};
use rekeyd::wiring;
use serde_json::Value;

const DONE: i32 = 0;
const CONFLICT: i32 = 6;
const UNAVAILABLE: i32 = 7;
const BAD_DATA: i32 = 14;
const INTERRUPTED: i32 = 130;

/// Runs one seed again.
const SEED: &str = "REKEYD_TEST_SEED";

fn chaos(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command.arg("chaos").arg("--dir").arg(dir);
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn workers_that_die_freeze_and_ail_lose_nothing() {
    let seed = std::env::var(SEED).unwrap_or_else(|_| rand::rng().next_u64().to_string());
    // Shown by the test runner if the test fails.
    println!("{SEED}={seed}");
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("chaos");
    let mut command = chaos(&dir);
    let output = command
        .args(["--kills", "6", "--seed", &seed])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(DONE), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("chaos: seed {seed}, 6 kills, ")),
        "{text}"
    );
    assert!(
        last.ends_with(": nothing lost, revived, overwritten or undecryptable."),
        "{text}"
    );
    for row in ["takeover time", "rows under old keys", "jobs stuck"] {
        assert!(text.contains(row), "`{row}` is missing in:\n{text}");
    }
    assert!(!dir.exists(), "the directory is removed");
}

#[test]
fn what_it_prints_for_programs_is_what_its_schema_says() {
    let temp = tempfile::tempdir().unwrap();
    let output = chaos(&temp.path().join("chaos"))
        .args(["--kills", "1", "--messages", "200", "--output", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(DONE), "{}", text(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema::misfit("chaos.json", &answer), None, "{answer}");
    assert_eq!(answer["report"]["kills"], 1, "{answer}");
    assert_eq!(answer["holds"], true, "{answer}");
}

/// Starts a run that waits before its last judgement, until it does.
fn held(dir: &Path, hold: &Path) -> (std::process::Child, impl Iterator<Item = String> + use<>) {
    let mut command = chaos(dir);
    let mut child = command
        .args(["--kills", "1", "--seed", "5", "--messages", "200"])
        .arg("--hold")
        .arg(hold)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let waits = lines.by_ref().any(|line| line.starts_with("waiting for "));
    assert!(waits, "it comes to its last judgement");
    (child, lines)
}

/// Deletes one row of those that are there, behind everybody's back.
async fn lose_one(dir: &Path) -> String {
    let config = config::load(Some(&dir.join("rekeyd.toml")), [], [])
        .unwrap()
        .config;
    let clock = SystemClock::shared();
    let store = wiring::store(&config, &clock).await.unwrap();
    let registry = Registry::new(store.clone(), clock);
    let org = OrgId::new("acme").unwrap();
    let mut walk = SliceWalk::new(store.clone(), registry.clone(), org.clone(), None, None);
    let limit = PageLimit {
        rows: 10,
        bytes: 1 << 20,
    };
    while let Some(slice) = walk.next().await.unwrap() {
        let view = registry.view(&org, &slice.channel).await.unwrap();
        let partition = view.partition(slice.hour);
        let page = store
            .read_page(&partition, None, limit, Consistency::All)
            .await
            .unwrap();
        // A lasting one, or its time may come first.
        if let Some(cell) = page.cells.iter().find(|cell| cell.ttl_s.is_none()) {
            store
                .delete_cell(&partition, &cell.record, cell.write_time)
                .await
                .unwrap();
            return cell.record.to_string();
        }
    }
    panic!("there is a lasting message");
}

#[tokio::test]
async fn a_message_that_is_lost_is_found_and_the_evidence_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, hold) = (temp.path().join("chaos"), temp.path().join("go"));
    let (mut child, lines) = held(&dir, &hold);
    let record = lose_one(&dir).await;
    fs::write(&hold, "").unwrap();
    let said: Vec<String> = lines.collect();
    let status = child.wait().unwrap();
    let said = said.join("\n");
    assert_eq!(status.code(), Some(BAD_DATA), "{said}");
    assert!(said.ends_with("VIOLATED: 1 lost."), "{said}");
    assert!(
        said.contains("again  rekeyd chaos --kills 1 --seed 5"),
        "{said}"
    );
    let evidence = fs::read_to_string(dir.join("violations.txt")).unwrap();
    assert!(evidence.contains("Lost"), "{evidence}");
    assert!(evidence.contains(&record), "{record}: {evidence}");
    for file in ["ledger.jsonl", "worker-1.log", "rekeyd.toml"] {
        assert!(dir.join(file).exists(), "{file} is kept");
    }
    let mark: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("chaos.json")).unwrap()).unwrap();
    assert_eq!(mark["seed"], 5);
}

#[test]
fn ctrl_c_ends_the_workers_and_removes_everything() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, hold) = (temp.path().join("chaos"), temp.path().join("never"));
    let (mut child, _lines) = held(&dir, &hold);
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(INTERRUPTED));
    assert!(!dir.exists(), "the directory is removed");
}

#[test]
fn what_it_did_not_make_it_does_not_touch() {
    let temp = tempfile::tempdir().unwrap();
    let theirs: PathBuf = temp.path().join("theirs");
    fs::write(&theirs, "x").unwrap();
    let output = chaos(temp.path()).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(CONFLICT), "{text}");
    assert!(text.contains("has something in it"), "{text}");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "x");
}

#[test]
fn a_cluster_that_is_not_there_leaves_nothing_behind() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("chaos");
    let output = chaos(&dir)
        .args(["--store", "scylla", "--nodes", "127.0.0.1:1"])
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{text}");
    assert!(text.contains("127.0.0.1:1"), "{text}");
    assert!(!dir.exists(), "the directory is removed");
}
