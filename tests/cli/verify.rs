//! `verify`: parts, samples and what a job promised.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bench::{Bench, sample_export};
use super::{BAD_DATA, CONFLICT, DONE, KMS_REFUSED, MUST_NOT_DISABLE, NOT_FOUND, USAGE};

/// Hours that have two messages each: as many slices.
const HOURS: u64 = 40;
const INTERRUPTED: i32 = 130;
/// What a command under way says.
const SAID: &str = "said.txt";

/// An organization with one message twice an hour, in one channel.
fn hourly() -> (Bench, String, String) {
    let b = Bench::new();
    let (old, new) = b.acme();
    let root = b.dir().join("hourly");
    std::fs::create_dir_all(root.join("general")).unwrap();
    let channels = json!([{"id": "C1", "name": "general"}]);
    std::fs::write(root.join("channels.json"), channels.to_string()).unwrap();
    let message = |hour: u64, n: u64| {
        let ts = format!("{}.00000{n}", 1_550_077_200 + hour * 3600 + n);
        json!({"type": "message", "ts": ts, "text": "marked text"})
    };
    let all: Vec<Value> = (0..HOURS)
        .flat_map(|hour| [message(hour, 1), message(hour, 2)])
        .collect();
    let day = root.join("general/2019-02-13.json");
    std::fs::write(day, Value::from(all).to_string()).unwrap();
    import(&b, root.to_str().unwrap());
    (b, old, new)
}

fn import(b: &Bench, export: &str) {
    let import = ["import", "slack-export", export];
    b.run(
        DONE,
        &[&import[..], &["--org", "acme", "--workspace", "T1"]].concat(),
    );
}

/// Flips a bit of the cell of one record.
fn spoil(b: &Bench, record: &str) {
    let store = rusqlite::Connection::open(b.dir().join("data/store.db")).unwrap();
    let record = record.as_bytes();
    let get = "SELECT cell FROM cells WHERE record = ?1";
    let mut cell: Vec<u8> = store.query_row(get, [record], |row| row.get(0)).unwrap();
    *cell.last_mut().unwrap() ^= 1;
    let set = "UPDATE cells SET cell = ?1 WHERE record = ?2";
    assert_eq!(store.execute(set, (&cell[..], record)).unwrap(), 1);
}

/// Runs a slow scan until its file says that some slices are through and others
/// are not, then ends it by `signal`.
fn stopped_half_way(b: &Bench, signal: rustix::process::Signal) -> std::process::ExitStatus {
    let slow = [
        "verify",
        "--org",
        "acme",
        "--rows-per-s",
        "8",
        "--resume",
        "scan.json",
    ];
    let mut child = b.spawn(&slow, SAID);
    let file = b.dir().join("scan.json");
    let slices = |file: &std::path::Path| {
        let kept: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        kept["found"]["slices"].as_u64()
    };
    let before = slices(&file).unwrap_or(0);
    let begun = Instant::now();
    while slices(&file).unwrap_or(0) <= before {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "nothing was kept"
        );
        if let Some(status) = child.try_wait().unwrap() {
            let said = std::fs::read_to_string(b.dir().join(SAID)).unwrap_or_default();
            panic!("it ended by itself, {status}, after {before} slices: {said}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, signal).unwrap();
    let status = child.wait().unwrap();
    let kept = slices(&file).unwrap();
    assert!(kept < HOURS, "it was through: {kept}");
    status
}

#[test]
fn a_scan_that_was_killed_and_stopped_goes_on_and_finds_what_one_run_does() {
    let (b, _, _) = hourly();
    spoil(&b, "1550077201.000001");
    spoil(&b, &format!("{}.000002", 1_550_077_202 + 35 * 3600));
    let whole = b.json(BAD_DATA, &["verify", "--org", "acme"]);
    assert_eq!(whole["found"]["slices"], HOURS);
    assert_eq!(whole["found"]["opened"], 2 * HOURS - 2);
    assert_eq!(whole["is_proof"], true);
    assert_eq!(whole["parts"].as_array().unwrap().len(), 1);

    stopped_half_way(&b, rustix::process::Signal::KILL);
    let status = stopped_half_way(&b, rustix::process::Signal::TERM);
    assert_eq!(status.code(), Some(INTERRUPTED));

    // What was asked differently does not go on from it.
    let resume = ["--resume", "scan.json"];
    for other in [
        &["--no-open"][..],
        &["--channel", "C1"],
        &["--all-replicas"],
    ] {
        let asked = [&["verify", "--org", "acme"][..], &resume, other].concat();
        let said = b.run(CONFLICT, &asked);
        assert!(said.contains("of another scan"), "{said}");
    }
    let again = [&["verify", "--org", "acme"][..], &resume].concat();
    let parts = b.json(BAD_DATA, &again);
    assert_eq!(parts["found"], whole["found"]);
    let kept = parts["parts"].as_array().unwrap();
    assert_eq!(kept.len(), 3, "{kept:?}");
    for pair in kept.windows(2) {
        assert!(pair[0]["to_ms"].as_u64() <= pair[1]["from_ms"].as_u64());
    }
    assert!(!b.dir().join("scan.json").exists(), "it is at its end");
    // So the same command begins anew.
    assert_eq!(
        b.json(BAD_DATA, &again)["parts"].as_array().unwrap().len(),
        1
    );
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn parts_are_said_and_an_older_epoch_or_a_damaged_file_is_refused() {
    let (b, _, new) = hourly();
    stopped_half_way(&b, rustix::process::Signal::KILL);
    let half = std::fs::read(b.dir().join("scan.json")).unwrap();
    let again = ["verify", "--org", "acme", "--resume", "scan.json"];
    let said = b.run(DONE, &again);
    assert!(said.contains("every live cell opens"), "{said}");
    assert!(said.contains("read in 2 parts:"), "{said}");
    assert!(
        said.contains("each slice is as it was when it was read"),
        "{said}"
    );

    std::fs::write(b.dir().join("scan.json"), &half[..half.len() / 2]).unwrap();
    let said = b.run(BAD_DATA, &again);
    assert!(said.contains("is not of a scan"), "{said}");

    std::fs::write(b.dir().join("scan.json"), &half).unwrap();
    let worker = b.worker();
    let job = b.enqueue("acme", &new);
    b.run(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    worker.stop();
    let said = b.run(CONFLICT, &again);
    assert!(said.contains("began at epoch 1"), "{said}");
}

#[test]
fn a_sample_is_bounded_repeats_by_its_seed_and_is_never_called_a_proof() {
    let (b, _, _) = hourly();
    let sample = ["verify", "--org", "acme", "--sample", "5"];
    let drawn = b.json(DONE, &sample);
    assert_eq!(drawn["found"]["slices"], 5);
    assert_eq!(drawn["found"]["opened"], 10);
    assert_eq!(drawn["sample"]["of"], HOURS);
    assert_eq!(drawn["is_proof"], false);
    assert_eq!(drawn["proof"], Value::Null);
    let channel = b.json(DONE, &[&sample[..], &["--channel", "C1"]].concat());
    assert_eq!(channel["proof"], Value::Null);
    let said = b.run(DONE, &sample);
    assert!(
        said.contains("a sample, and no proof: 5 of 40 slices"),
        "{said}"
    );
    assert!(!said.contains("every live cell"), "{said}");

    // One bad cell in forty slices: some seeds see it, others do not, and each
    // says the same again.
    spoil(&b, "1550077201.000001");
    let ends: Vec<i32> = ["1", "2", "3", "4", "5", "6", "7", "8"]
        .iter()
        .map(|seed| b.code(&[&sample[..], &["--seed", seed]].concat()))
        .collect();
    let again: Vec<i32> = ["1", "2", "3", "4", "5", "6", "7", "8"]
        .iter()
        .map(|seed| b.code(&[&sample[..], &["--seed", seed]].concat()))
        .collect();
    assert_eq!(ends, again);
    assert!(
        ends.iter().all(|end| [DONE, BAD_DATA].contains(end)),
        "{ends:?}"
    );
    assert!(ends.contains(&DONE), "a sample of all: {ends:?}");
    // With more asked for than there are it reads all, and is a sample still.
    let all = b.json(BAD_DATA, &["verify", "--org", "acme", "--sample", "1000"]);
    assert_eq!(all["sample"]["slices"], HOURS);
    assert_eq!(all["is_proof"], false);
    b.run(BAD_DATA, &["verify", "--org", "acme"]);

    for refused in [
        &["--sample", "0"][..],
        &["--sample", "5", "--resume", "x"],
        &["--seed", "5"],
        &["--rows-per-s", "0"],
        &["--job", super::NO_JOB],
    ] {
        b.run(USAGE, &[&["verify", "--org", "acme"][..], refused].concat());
    }
    b.run(USAGE, &["verify"]);
}

#[test]
fn what_a_job_promised_is_held_against_the_store() {
    let b = Bench::new();
    let (old, new) = b.acme();
    import(&b, &sample_export(b.dir()));
    let job = b.enqueue("acme", &new);
    let verify = ["verify", "--job", &job];
    // Not before it is there.
    b.run(NOT_FOUND, &verify);
    let worker = b.worker();
    b.run(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    let held = b.json(DONE, &verify);
    assert_eq!(held["org"], "acme");
    assert_eq!(held["job"]["holds"], true);
    assert_eq!(held["job"]["old_cmks"][0], Value::from(old.as_str()));
    let said = b.run(DONE, &verify);
    let holds = format!("what job {job} promised holds: no live cell needs {old}");
    assert!(said.contains(&holds), "{said}");
    for no_proof in [&["--no-open"][..], &["--sample", "2"]] {
        let looked = b.json(DONE, &[&verify[..], no_proof].concat());
        assert_eq!(looked["job"]["holds"], Value::Null, "{no_proof:?}");
        assert_eq!(looked["is_proof"], false);
    }

    // A cell from before the job comes back: by a backup, say.
    let store = rusqlite::Connection::open(b.dir().join("data/store.db")).unwrap();
    let get = "SELECT cell FROM cells WHERE record = ?1";
    let record = b"1550077323.000200";
    let now: Vec<u8> = store
        .query_row(get, [&record[..]], |row| row.get(0))
        .unwrap();
    b.run(DONE, &["org", "allow-cmk", "acme", &old]);
    let back = b.enqueue("acme", &old);
    b.run(DONE, &["status", &back, "--wait", "--timeout", "60"]);
    // The first job's word is taken back by the second, which puts the old CMK to
    // use again.
    let lapsed = b.json(MUST_NOT_DISABLE, &verify);
    assert_eq!(lapsed["job"]["holds"], false);
    b.run(DONE, &["verify", "--job", &back]);
    let set = "UPDATE cells SET cell = ?1 WHERE record = ?2";
    assert_eq!(store.execute(set, (&now[..], &record[..])).unwrap(), 1);
    b.run(
        DONE,
        &["restore-window", "open", "acme", "--reason", "a test"],
    );
    let restored = b.json(MUST_NOT_DISABLE, &["verify", "--job", &back]);
    assert_eq!(restored["job"]["below_epoch"], 1);
    assert_eq!(restored["whole"], true, "it opens all the same");
    worker.stop();
    b.run(DONE, &["kms", "disable", &new]);
    b.run(KMS_REFUSED, &["verify", "--job", &back]);
}
