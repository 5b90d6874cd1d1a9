//! `audit reconcile` on the local key ring, whose call log is written in the form
//! of CloudTrail.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::bench::{Bench, sample_export};
use super::{BAD_DATA, CONFLICT, DONE, NOT_FOUND, USAGE};

/// A finished job, and the trail of all that the ring was asked.
fn worked() -> (Bench, PathBuf) {
    let b = Bench::new();
    let (_, new) = b.acme();
    let export = sample_export(b.dir());
    let import = [
        "import",
        "slack-export",
        &export,
        "--org",
        "acme",
        "--workspace",
        "T1",
    ];
    b.run(DONE, &import);
    let worker = b.worker();
    let job = b.enqueue("acme", &new);
    b.run(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    worker.stop();
    b.run(DONE, &["kms", "log", "--cloudtrail", "trail.json"]);
    let trail = b.dir().join("trail.json");
    (b, trail)
}

const RECONCILE: [&str; 6] = [
    "audit",
    "reconcile",
    "--slack",
    "0",
    "--cloudtrail",
    "trail.json",
];

fn read(trail: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(trail).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["Records"].as_array().unwrap().clone()
}

fn write(trail: &Path, events: &[Value]) {
    std::fs::write(trail, json!({"Records": events}).to_string()).unwrap();
}

/// Takes the record of one request out of the audit log.
fn forget(b: &Bench, request: &str) -> u32 {
    let mut taken = 0;
    for entry in std::fs::read_dir(b.dir().join("data/audit")).unwrap() {
        let file = entry.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| !line.contains(request))
            .collect();
        taken += (text.lines().count() - kept.len()) as u32;
        std::fs::write(&file, kept.join("\n") + "\n").unwrap();
    }
    taken
}

#[test]
fn every_call_of_a_job_is_joined_with_its_record() {
    let (b, trail) = worked();
    let done = b.json(DONE, &RECONCILE);
    let calls = read(&trail).len() as u64;
    assert!(calls > 20, "{calls}");
    assert_eq!(done["all_joined"], true);
    assert_eq!(done["joined"], calls);
    assert_eq!(done["records"], calls);
    assert_eq!(done["others"], json!([]));
    let said = b.run(DONE, &RECONCILE);
    assert!(
        said.contains("every call that was judged has its record"),
        "{said}"
    );

    // Packed, and in a directory, it is the same.
    std::fs::create_dir(b.dir().join("trail")).unwrap();
    b.run(DONE, &["kms", "log", "--cloudtrail", "trail/a.json.gz"]);
    let packed = [
        "audit",
        "reconcile",
        "--slack",
        "0",
        "--cloudtrail",
        "trail",
    ];
    assert_eq!(b.json(DONE, &packed)["joined"], calls);
    b.run(CONFLICT, &["kms", "log", "--cloudtrail", "trail.json"]);
    b.run(USAGE, &["kms", "log", "--cloudtrail", "x", "--tail", "5"]);
    b.run(USAGE, &["audit", "reconcile"]);
    b.run(
        NOT_FOUND,
        &["audit", "reconcile", "--cloudtrail", "none.json"],
    );
}

#[test]
fn a_record_that_is_taken_out_shows_as_a_call_without_one() {
    let (b, trail) = worked();
    let call = read(&trail)
        .into_iter()
        .find(|e| e["eventName"] == "Decrypt")
        .unwrap();
    let request = call["requestID"].as_str().unwrap();
    assert_eq!(forget(&b, request), 1);
    let done = b.json(BAD_DATA, &RECONCILE);
    assert_eq!(done["calls_without_record"]["count"], 1);
    assert_eq!(
        done["calls_without_record"]["listed"][0]["request_id"],
        request
    );
    assert_eq!(done["records_without_call"]["count"], 0);
    let said = b.run(BAD_DATA, &RECONCILE);
    assert!(said.contains("calls without a record: 1"), "{said}");
    assert!(said.contains(request), "{said}");
}

#[test]
fn a_call_that_is_taken_out_shows_as_a_record_without_one() {
    let (b, trail) = worked();
    let mut events = read(&trail);
    let gone = events.remove(events.len() / 2);
    // And somebody else used the key, of which no record can be.
    let mut other = events[0].clone();
    other["requestID"] = json!("somebody-elses");
    other["userIdentity"] = json!({"type": "IAMUser", "arn": "arn:aws:iam::1:user/auditor"});
    events.push(other);
    write(&trail, &events);
    let done = b.json(BAD_DATA, &RECONCILE);
    assert_eq!(done["records_without_call"]["count"], 1);
    let named = &done["records_without_call"]["listed"][0];
    assert_eq!(named["kms_request_id"], gone["requestID"]);
    assert_eq!(named["action"], gone["eventName"]);
    assert_eq!(done["calls_without_record"]["count"], 0);
    assert_eq!(
        done["others"][0]["principal"],
        "arn:aws:iam::1:user/auditor"
    );
    let said = b.run(BAD_DATA, &RECONCILE);
    assert!(said.contains("records without a call: 1"), "{said}");
    assert!(said.contains("others who called for these CMKs"), "{said}");
    // With the time in which CloudTrail may still deliver, it is not missed yet.
    let waits = ["audit", "reconcile", "--cloudtrail", "trail.json"];
    assert_eq!(b.json(DONE, &waits)["not_yet_delivered"], 1);
}
