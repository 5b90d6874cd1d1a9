//! Retiring a job: what is refused, what is asked, what is deleted, and a death
//! in the middle of it.

use serde_json::{Value, json};

use crate::bench::{Bench, sample_export};
use crate::{CONFLICT, DONE, NOT_FOUND, USAGE};

const NO_WAIT: (&str, &str) = ("REKEYD_RETIRE__WAIT_S", "0");

/// A small store, drained from one CMK to another; and the job.
fn drained() -> (Bench, String, String, String) {
    let b = Bench::new();
    let (old, new) = b.acme();
    let export = sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export], &place[..]].concat(),
    );
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    b.run(DONE, &["status", &job, "--wait", "--timeout", "1m"]);
    worker.stop();
    (b, job, old, new)
}

fn wraps(b: &Bench, cmk: &str) -> Value {
    b.json(DONE, &["verify", "--org", "acme"])["found"]["by_cmk"][cmk]["wraps"].clone()
}

#[test]
fn a_job_is_retired_once_it_may_be_and_somebody_said_so() {
    let (mut b, job, old, new) = drained();
    let retire = |b: &Bench, code, more: &[&str]| b.run(code, &[&["retire", &job], more].concat());
    retire(&b, USAGE, &["--confirm", "acme", "--dry-run"]);
    b.run(NOT_FOUND, &["retire", crate::NO_JOB, "--dry-run"]);
    let told = retire(&b, CONFLICT, &["--confirm", "acme"]);
    assert!(told.contains("it may be retired from"), "{told}");
    b.set(NO_WAIT);

    // Nobody is there to be asked; another organization was meant.
    let told = retire(&b, USAGE, &[]);
    assert!(told.contains("--confirm acme"), "{told}");
    retire(&b, USAGE, &["--confirm", "umbrella"]);

    // Another job is unfinished.
    let third = b.create_key();
    b.run(DONE, &["org", "allow-cmk", "acme", &third]);
    let later = [
        "enqueue",
        "rekey",
        "--org",
        "acme",
        "--to",
        &third,
        "--not-before",
        "2099-01-01T00:00:00Z",
    ];
    let later = b.json(DONE, &later)["job_id"].as_str().unwrap().to_owned();
    let worker = b.worker();
    while !b.run(DONE, &["jobs", "--state", "queued"]).contains(&later) {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    worker.stop();
    let told = retire(&b, CONFLICT, &["--confirm", "acme"]);
    assert!(told.contains(&later), "{told}");
    let told = b.run(CONFLICT, &["retire", &later, "--confirm", "acme"]);
    assert!(told.contains("is queued"), "{told}");
    b.run(DONE, &["cancel", &later]);

    // A restore window is open.
    let window = |what| b.run(DONE, &["restore-window", what, "acme", "--reason", "x"]);
    window("open");
    let told = retire(&b, CONFLICT, &["--confirm", "acme"]);
    assert!(told.contains("restore window"), "{told}");
    window("close");

    let before = wraps(&b, &old);
    let shown = b.json(DONE, &["retire", &job, "--dry-run"]);
    assert_eq!(shown["found"]["wraps"], before);
    assert_eq!(
        (&shown["deleted"], &shown["state"]),
        (&json!(null), &json!("drained"))
    );
    assert_eq!(wraps(&b, &old), before, "a dry run deletes nothing");
    b.run(DONE, &["kms", "disable", &old]);
    let done = [
        "retire",
        &job,
        "--confirm",
        "acme",
        "--reason",
        "all is well",
        "--rate",
        "1000",
    ];
    let done = b.json(DONE, &done);
    assert_eq!(
        (&done["deleted"], &done["state"]),
        (&shown["found"], &json!("retired"))
    );
    assert_eq!(wraps(&b, &old), json!(null), "no wrap is under the old CMK");
    assert!(wraps(&b, &new).as_u64() > Some(0));

    let status = b.run(DONE, &["status", &job, "--wait"]);
    assert!(status.contains("retired"), "{status}");
    let history = b.run(DONE, &["history", &job]);
    assert!(history.contains("drained -> retired"), "{history}");
    assert!(history.contains("all is well"), "{history}");
    let told = retire(&b, CONFLICT, &["--confirm", "acme"]);
    assert!(told.contains("retired already"), "{told}");
    b.run(DONE, &["audit", "verify"]);
    let audit = b.audit();
    for said in [
        "\"action\":\"set_aside\"",
        "\"action\":\"retire\"",
        "\"reason_code\":\"retire\"",
    ] {
        assert!(audit.contains(said), "no record with {said}");
    }
}

#[test]
fn a_death_in_the_middle_is_gone_on_from_and_counted_once() {
    for point in [
        "retire_before_delete",
        "retire_after_delete:2",
        "retire_before_end",
    ] {
        let (mut b, job, old, _) = drained();
        b.set(NO_WAIT);
        let found = b.json(DONE, &["retire", &job, "--dry-run"])["found"].clone();
        b.set(("REKEYD_KILL_AT", point));
        b.dies(&["retire", &job, "--confirm", "acme"]);
        b.unset("REKEYD_KILL_AT");
        let shown = b.json(DONE, &["status", &job, "--wait"]);
        assert_eq!(shown["state"], "drained", "{point}");
        // Counted before they go, so that nothing is counted twice.
        assert_eq!(shown["retiring"]["deleted"], found, "{point}");
        let said = b.run(DONE, &["status", &job]);
        let next = format!("rekeyd retire {job} --confirm acme");
        assert!(said.contains("gone") && said.contains(&next), "{said}");
        assert!(!said.contains("\n\n"), "{said}");
        let history = b.run(DONE, &["history", &job]);
        assert!(history.contains("retire begun"), "{history}");
        let done = b.json(DONE, &["retire", &job, "--confirm", "acme"]);
        assert_eq!(done["deleted"], found, "{point}");
        assert_eq!(wraps(&b, &old), json!(null), "{point}");
        b.run(DONE, &["verify", "--org", "acme"]);
    }
}

#[test]
fn a_lapsed_job_and_a_move_are_not_retired() {
    let (mut b, job, old, new) = drained();
    b.set(NO_WAIT);
    b.run(DONE, &["org", "allow-cmk", "acme", &old]);
    let back = b.enqueue("acme", &old);
    let moved = [
        "enqueue", "move", "--org", "acme", "--from", "T1/C1", "--to", "T2/C1",
    ];
    let worker = b.worker();
    b.run(DONE, &["status", &back, "--wait", "--timeout", "1m"]);
    let moved = b.json(DONE, &moved)["job_id"].as_str().unwrap().to_owned();
    b.run(DONE, &["status", &moved, "--wait", "--timeout", "1m"]);
    worker.stop();
    let told = b.run(CONFLICT, &["retire", &job, "--confirm", "acme"]);
    assert!(told.contains("no good verdict"), "{told}");
    let told = b.run(CONFLICT, &["retire", &moved, "--confirm", "acme"]);
    assert!(told.contains("is a move"), "{told}");
    // The later one takes what the first one left under the old CMK with it.
    b.run(DONE, &["retire", &back, "--confirm", "acme"]);
    assert_eq!(wraps(&b, &new), json!(null));
    b.run(DONE, &["verify", "--org", "acme"]);
}
