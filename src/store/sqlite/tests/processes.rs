//! Several processes on one file, one of them killed at work.
//!
//! The children are this test program, started again with this test's name and
//! an environment variable that gives them their part.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::store::{ControlRow, Expect};

const PART: &str = "REKEYD_STORE_TEST_PART";
const FOLDER: &str = "REKEYD_STORE_TEST_FOLDER";
const NAME: &str =
    "store::sqlite::tests::processes::what_was_acknowledged_survives_a_killed_process";
/// What each surviving process does before it ends.
const STEPS: u32 = 60;
/// After how many acknowledgements the victim is killed.
const KILL_AFTER: usize = 41;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_process() {
    if let (Ok(part), Ok(folder)) = (std::env::var(PART), std::env::var(FOLDER)) {
        return work(part.parse().unwrap(), Path::new(&folder)).await;
    }
    let folder = folder();
    let store = open(folder.path());

    // The victim has no end of its own.
    let mut victim = start(0, folder.path());
    let survivors = [start(1, folder.path()), start(2, folder.path())];
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut acknowledged: Vec<String> = lines
        .by_ref()
        .map(Result::unwrap)
        .filter(|line| is_ack(line))
        .take(KILL_AFTER)
        .collect();
    assert_eq!(
        acknowledged.len(),
        KILL_AFTER,
        "the victim ended before it was killed"
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    // What it had written to the pipe by then; a torn line is no acknowledgement.
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    acknowledged.extend(rest.into_iter().filter(|line| is_ack(line)));
    for survivor in survivors {
        let output = survivor.wait_with_output().unwrap();
        assert!(output.status.success(), "a survivor failed: {output:?}");
        let output = String::from_utf8(output.stdout).unwrap();
        acknowledged.extend(
            output
                .lines()
                .filter(|line| is_ack(line))
                .map(str::to_owned),
        );
    }

    let mut increments = 0;
    for line in &acknowledged {
        let mut words = line.split(' ').skip(1);
        let what = words.next().unwrap();
        let (part, step): (u32, u32) = (
            words.next().unwrap().parse().unwrap(),
            words.next().unwrap().parse().unwrap(),
        );
        if what == "cell" {
            let cell = store
                .read_cell(&partition(), &id(part, step))
                .await
                .unwrap();
            assert!(cell.is_some(), "lost: {line}");
        } else {
            increments += 1;
        }
    }
    assert!(
        increments > u64::from(2 * STEPS),
        "the survivors' and some of the victim's"
    );
    let rows = counters(&store).await;
    let (own, all): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.id != "all");
    let own: u64 = own.iter().map(|row| number(row)).sum();
    assert_eq!(number(all[0]), own, "a batch was half applied");
    assert!(
        (increments..=increments + 1).contains(&own),
        "{increments} increments were acknowledged, {own} are there; one may have been under way"
    );
}

fn is_ack(line: &str) -> bool {
    line.starts_with("ack ") && line.ends_with(" .")
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open_or_create(folder.join("store.db"), SystemClock::shared()).unwrap()
}

fn start(part: u32, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(PART, part.to_string())
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn id(part: u32, step: u32) -> RecordId {
    record(part << 24 | step)
}

fn number(row: &ControlRow) -> u64 {
    row.body.parse().unwrap()
}

async fn counters(store: &SqliteStore) -> Vec<ControlRow> {
    store
        .control_list(ControlTable::Jobs, "p", "", None, 10)
        .await
        .unwrap()
}

/// A child: writes a cell and raises two counters in one batch, again and again,
/// and says so after each acknowledgement.
async fn work(part: u32, folder: &Path) {
    let store = open(folder);
    let steps = if part == 0 { u32::MAX >> 8 } else { STEPS };
    for step in 0..steps {
        let cell = CellWrite {
            record: id(part, step),
            cell: vec![1; 600].into(),
            write_time: WriteTime(1),
            ttl_s: 0,
        };
        store.write_cells(&partition(), &[cell]).await.unwrap();
        say(&format!("ack cell {part} {step} ."));
        while increment(&store, part).await == Applied::No {}
        say(&format!("ack count {part} {step} ."));
    }
}

async fn increment(store: &SqliteStore, part: u32) -> Applied {
    let own = format!("part-{part}");
    let rows = store
        .control_get(ControlTable::Jobs, "p", &["all", &own])
        .await
        .unwrap();
    let raised = ["all", &own].map(|id| {
        let row = rows.iter().find(|row| row.id == id);
        ControlWrite {
            id: id.to_owned(),
            expect: row.map_or(Expect::Absent, |row| Expect::Rev(row.rev)),
            body: Some((row.map_or(0, number) + 1).to_string()),
        }
    });
    store
        .control_apply(ControlTable::Jobs, "p", &raised)
        .await
        .unwrap()
}

/// Past the test harness's capture, and at once: one write to the pipe. The
/// harness may have left its own line open.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}
