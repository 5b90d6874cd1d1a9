//! Watching and steering: history, workers, failures, retries and throttles.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::{Bench, sample_export};
use crate::{CONFLICT, DONE, MUST_NOT_DISABLE, NO_JOB, NOT_FOUND, TIMEOUT, USAGE};

pub fn with_messages(b: &Bench) -> String {
    let (_, new) = b.acme();
    let export = sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export], &place[..]].concat(),
    );
    new
}

pub fn list<'a>(document: &'a Value, name: &str) -> &'a Vec<Value> {
    document[name].as_array().unwrap()
}

#[test]
fn failures_name_their_retry_and_the_history_says_who_and_why() {
    let b = Bench::new();
    let new = with_messages(&b);
    b.run(
        DONE,
        &["kms", "deny", "add", "revoked", "--context", "channel=C2"],
    );
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    let wait = ["status", &job, "--wait", "--timeout", "1m"];
    b.run(MUST_NOT_DISABLE, &wait);
    let failures = b.json(DONE, &["failures", &job]);
    let command = format!("rekeyd retry {job} --blocked --reason <TEXT>");
    assert_eq!(
        failures["retry"],
        json!({"blocked": command, "quarantined": null})
    );
    let shown = b.run(DONE, &["failures", &job]);
    assert!(shown.contains("blocked: revoked: 2 slices"), "{shown}");
    assert!(shown.contains(&command), "{shown}");
    for state in ["blocked", "paused"] {
        let found = b.json(DONE, &["jobs", "--state", state, "--kind", "rekey"]);
        assert_eq!(list(&found, "jobs").len(), usize::from(state == "blocked"));
    }

    let shown = b.run(CONFLICT, &["retry", &job, "--quarantined"]);
    assert!(
        shown.contains("2 slices") && shown.contains("--blocked"),
        "{shown}"
    );
    b.run(USAGE, &["retry", &job, "--blocked", "--quarantined"]);
    b.run(USAGE, &["retry", &job, "--reason", "a\nb"]);
    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    let reason = ["--reason", "the policy is mended"];
    let retried = b.json(DONE, &[&["retry", &job, "--blocked"], &reason[..]].concat());
    assert_eq!(retried["retried"], "slices");
    b.run(DONE, &[&wait[..], &["--through-blocked"]].concat());
    worker.stop();

    let history = b.json(DONE, &["history", &job]);
    assert_eq!(history["state"], "drained");
    let steps = list(&history, "history");
    assert_eq!(
        (&steps[0]["from"], &steps[0]["to"]),
        (&json!("queued"), &json!("preflight"))
    );
    assert_eq!(steps[steps.len() - 1]["to"], "drained");
    for pair in steps.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"], "{pair:?}");
    }
    let told = |s: &Value, field: &str| !s[field].as_str().unwrap().is_empty();
    assert!(steps.iter().all(|s| told(s, "who") && told(s, "why")));
    let notes: Vec<&Value> = steps.iter().filter(|s| s["from"] == s["to"]).collect();
    assert_eq!(notes.len(), 1);
    let why = notes[0]["why"].as_str().unwrap();
    assert!(why.ends_with(": the policy is mended"), "{why}");
    let shown = b.run(DONE, &["history", &job]);
    for says in [
        "WHEN",
        "recorded",
        "queued -> preflight",
        "stays blocked",
        "mended",
    ] {
        assert!(shown.contains(says), "no `{says}`: {shown}");
    }
    b.run(NOT_FOUND, &["history", NO_JOB]);

    let count = |arguments: &[&str]| {
        let found = b.json(DONE, &[&["jobs"], arguments].concat());
        list(&found, "jobs").len()
    };
    assert_eq!(count(&[]), 0);
    assert_eq!(count(&["--state", "drained"]), 1);
    assert_eq!(count(&["--all", "--kind", "move"]), 0);
    assert_eq!(count(&["--all", "--since", "1h"]), 1);
    assert_eq!(count(&["--all", "--since", "2100-01-01T00:00:00Z"]), 0);
    let shown = b.run(USAGE, &["jobs", "--state", "drianed"]);
    assert!(shown.contains("did you mean `drained`?"), "{shown}");
    b.run(USAGE, &["jobs", "--since", "yesterday"]);
}

/// Looks until it is as it should be; panics after a minute.
pub fn until(what: &str, mut look: impl FnMut() -> Option<Value>) -> Value {
    let begun = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if begun.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            None => panic!("waited in vain for {what}"),
        }
    }
}

#[test]
fn a_throttle_is_set_shown_kept_and_cleared() {
    let b = Bench::new();
    let new = with_messages(&b);
    let rate = ["--all", "--rows-per-s", "0.001"];
    let span = ["--for", "1h", "--reason", "evening peak"];
    for (code, arguments) in [
        (
            USAGE,
            vec!["--rows-per-s", "5", "--for", "1h", "--reason", "x"],
        ),
        (
            USAGE,
            vec![
                "--all", "--org", "acme", "--tasks", "1", "--for", "1h", "--reason", "x",
            ],
        ),
        (USAGE, vec!["--all", "--for", "1h", "--reason", "x"]),
        (
            USAGE,
            vec!["--all", "--rows-per-s", "0", "--for", "1h", "--reason", "x"],
        ),
        (
            USAGE,
            vec!["--all", "--tasks", "0", "--for", "1h", "--reason", "x"],
        ),
        (
            USAGE,
            vec!["--all", "--tasks", "1", "--for", "0", "--reason", "x"],
        ),
        (
            USAGE,
            vec!["--all", "--tasks", "1", "--for", "60d", "--reason", "x"],
        ),
        (USAGE, vec!["--all", "--tasks", "1", "--reason", "x"]),
        (USAGE, vec!["--all", "--tasks", "1", "--for", "1h"]),
        (
            USAGE,
            vec!["--all", "--tasks", "1", "--for", "1h", "--reason", " "],
        ),
        (
            NOT_FOUND,
            vec![
                "--org", "acne", "--tasks", "1", "--for", "1h", "--reason", "x",
            ],
        ),
        (
            NOT_FOUND,
            vec![
                "--job", NO_JOB, "--tasks", "1", "--for", "1h", "--reason", "x",
            ],
        ),
    ] {
        b.run(code, &[&["throttle", "set"], &arguments[..]].concat());
    }
    assert_eq!(
        b.json(DONE, &["throttle", "show"]),
        json!({"throttles": [], "unreadable": []})
    );
    let shown = b.run(DONE, &["throttle", "show"]);
    assert_eq!(shown, "no throttle holds\n");

    let set = b.json(DONE, &[&["throttle", "set"], &rate[..], &span[..]].concat());
    let throttle = &set["throttle"];
    assert_eq!(throttle["target"], "all");
    assert_eq!(throttle["limits"], json!({"rows_per_s": 0.001}));
    let (set_ms, until_ms) = (throttle["set_ms"].as_u64(), throttle["until_ms"].as_u64());
    let lasts = until_ms.unwrap() - set_ms.unwrap();
    assert!((3_590_000..=3_600_000).contains(&lasts), "{lasts}");
    assert!(
        throttle["why"]
            .as_str()
            .unwrap()
            .ends_with(": evening peak")
    );

    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    let held = until("a task that is held", || {
        let seen = b.json(DONE, &["workers"]);
        let held = list(&seen, "workers").iter().any(|w| {
            let holds = list(w, "holds");
            holds.iter().any(|held| held["task"].is_string())
        });
        held.then_some(seen)
    });
    let of = &list(&held, "workers")[0];
    assert!(of["heartbeat_ms"].as_u64().unwrap() > 0);
    assert!(list(of, "holds").iter().all(|held| held["job_id"] == *job));
    assert_eq!(list(&held, "throttles").len(), 1);
    let shown = b.run(DONE, &["workers", "--org", "acme"]);
    for says in [
        "WORKER",
        "HEARTBEAT",
        "LEASE LEFT",
        "throttled: all to 0.001 rows/s in each worker",
    ] {
        assert!(shown.contains(says), "no `{says}`: {shown}");
    }
    b.run(NOT_FOUND, &["workers", "--org", "acne"]);

    // It goes on, slowly, and nothing says that it stands still.
    let status = b.json(DONE, &["status", &job]);
    assert_eq!(status["progress"]["throttles"][0]["target"], "all");
    assert_eq!(status["progress"]["eta_s"], Value::Null);
    let shown = b.run(DONE, &["status", &job]);
    for says in [
        "throttled to 0.001 rows/s in each worker",
        "ETA unknown",
        "evening peak",
    ] {
        assert!(shown.contains(says), "no `{says}`: {shown}");
    }
    b.run(TIMEOUT, &["status", &job, "--wait", "--timeout", "1s"]);
    b.run(USAGE, &["status", &job, "--wait", "--timeout", "soon"]);

    let shown = b.run(
        DONE,
        &["throttle", "clear", "--all", "--reason", "it is over"],
    );
    assert!(shown.contains("is cleared"), "{shown}");
    b.run(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    worker.stop();
    b.run(NOT_FOUND, &["throttle", "clear", "--all"]);
    b.run(DONE, &["throttle", "show", "--job", &job]);
    let history = b.json(DONE, &["history", &job]);
    // Set before the job was there, cleared while it was.
    let events = list(&history, "throttles");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["set"], Value::Null);
    assert!(events[0]["why"].as_str().unwrap().ends_with(": it is over"));
    let shown = b.run(DONE, &["history", &job]);
    assert!(shown.contains("throttle all: cleared"), "{shown}");
    assert_eq!(b.json(DONE, &["workers"])["workers"], json!([]));
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn a_code_is_explained_and_a_mistyped_name_is_answered_with_the_right_one() {
    let b = Bench::new();
    // Without a store.
    let shown = b.run(DONE, &["explain", "tag_mismatch"]);
    for says in [
        "tag_mismatch: ",
        "where",
        "cause",
        "next",
        "rekeyd retry <JOB> --quarantined",
    ] {
        assert!(shown.contains(says), "no `{says}`: {shown}");
    }
    let found = b.json(DONE, &["explain", "10"]);
    assert_eq!(found["codes"][0]["code"], "must_not_disable");
    assert_eq!(found["codes"][0]["where"], "command");
    assert!(list(&b.json(DONE, &["explain"]), "codes").len() > 80);
    let shown = b.run(NOT_FOUND, &["explain", "tag_mismach"]);
    assert!(shown.contains("did you mean `tag_mismatch`?"), "{shown}");

    // Nor a configuration that is right.
    std::fs::write(b.dir().join("bad.toml"), "[worker]\npage_row = 3\n").unwrap();
    let bad = ["--config", "bad.toml"];
    b.run(DONE, &[&bad[..], &["explain", "config"]].concat());
    let script = b.run(DONE, &["completions", "zsh"]);
    assert!(script.starts_with("#compdef rekeyd") && script.contains("_rekeyd__subcmd__throttle"));
    let written = b.json(DONE, &["man", "--dir", "man"]);
    assert!(list(&written, "pages").contains(&json!("rekeyd-throttle-set.1")));
    let page = std::fs::read_to_string(b.dir().join("man/rekeyd-throttle-set.1")).unwrap();
    assert!(page.contains(".TH rekeyd-throttle-set 1"), "{page}");

    let (_, new) = b.acme();
    let shown = b.run(NOT_FOUND, &["org", "show", "acne"]);
    assert!(shown.contains("did you mean `acme`?"), "{shown}");
    // It is not begun, so it stands whatever time this takes.
    let later = ["--not-before", "2100-01-01T00:00:00Z"];
    let asked = ["enqueue", "rekey", "--org", "acme", "--to", &new];
    let sent = b.json(DONE, &[&asked[..], &later].concat());
    let job = sent["job_id"].as_str().unwrap().to_owned();
    let worker = b.worker();
    until("the job", || {
        let jobs = b.json(DONE, &["jobs", "--all"]);
        (!list(&jobs, "jobs").is_empty()).then_some(jobs)
    });
    worker.stop();
    let last = if job.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &job[..job.len() - 1]);
    let shown = b.run(NOT_FOUND, &["history", &mistyped]);
    assert!(shown.contains(&format!("did you mean `{job}`?")), "{shown}");
    let shown = b.run(USAGE, &["histroy", &job]);
    assert!(shown.contains("history"), "{shown}");
}
