//! Planning and scheduling: plans, policy drift, revocations, windows, priorities.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::bench::{Bench, sample_export};
use crate::steer::{list, until, with_messages};
use crate::{CONFLICT, DONE, NO_CMK, NOT_FOUND, USAGE};

const UTC: TimeZone = TimeZone::UTC;

/// Waits for the state of a job that a worker was asked for.
fn state(b: &Bench, job: &str, wanted: &str) -> Value {
    until(wanted, || {
        let found = b.json(DONE, &["jobs", "--all"]);
        let jobs = list(&found, "jobs").iter();
        jobs.clone()
            .find(|row| row["job_id"] == job && row["state"] == wanted)
            .cloned()
    })
}

fn enqueue(b: &Bench, new: &str, flags: &[&str]) -> String {
    let base = ["enqueue", "rekey", "--org", "acme", "--to", new];
    let sent = b.json(DONE, &[&base, flags].concat());
    sent["job_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_plan_counts_prices_and_names_its_bottleneck_and_stands_beside_what_happened() {
    let b = Bench::new();
    let new = with_messages(&b);
    let asked = ["plan", "rekey", "--org", "acme", "--to", &new];
    let made = b.json(DONE, &asked);
    let plan = &made["plan"];
    // The sample export: 7 messages of two channels.
    let slices = plan["size"]["slices"].as_u64().unwrap();
    assert_eq!(
        plan["size"]["sampled"], slices,
        "few enough to look into all"
    );
    assert_eq!(plan["size"]["cells"], json!({"value": 7, "exact": true}));
    assert_eq!(plan["size"]["keys"]["value"], slices);
    assert!(plan["size"]["bytes"]["value"].as_u64().unwrap() > 7 * 40);
    assert_eq!(
        plan["kms"]["calls"],
        json!({"generate_data_key": slices, "decrypt": 3 * slices, "re_encrypt": 0})
    );
    assert_eq!(plan["kms"]["usd"], "0.01");
    assert_eq!(plan["time"]["bottleneck"], "settle");
    assert_eq!(plan["drift"], json!({"looked": true, "lifted": []}));
    assert_eq!(plan["obstacles"], json!([]));
    let rewrap = b.json(DONE, &[&asked[..], &["--mode", "rewrap"]].concat());
    assert_eq!(rewrap["plan"]["kms"]["calls"]["re_encrypt"], 2 * slices);
    let sampled = b.json(DONE, &[&asked[..], &["--sample", "1"]].concat());
    assert_eq!(sampled["plan"]["size"]["cells"]["exact"], false);
    assert_eq!(
        sampled["plan"]["size"]["slices"], slices,
        "counted all the same"
    );
    let shown = b.run(DONE, &[&asked[..], &["--sample", "1"]].concat());
    for says in [
        "(counted)",
        "(from a sample)",
        "GenerateDataKey",
        "list price of 2026-06-13",
        "bound by the settle",
        "next        rekeyd enqueue",
    ] {
        assert!(shown.contains(says), "no `{says}`: {shown}");
    }
    let moved = [
        "plan", "move", "--org", "acme", "--from", "T1/C1", "--to", "T2/C1",
    ];
    let moved = b.json(DONE, &moved);
    assert_eq!(moved["plan"]["size"]["cells"]["value"], 5, "of one channel");
    assert_eq!(
        moved["plan"]["job"]["to"],
        json!({"workspace": "T2", "channel": "C1"})
    );

    // It changed nothing and asked for nothing.
    assert_eq!(list(&b.json(DONE, &["jobs", "--all"]), "jobs").len(), 0);
    // The plan goes along with the job it is of, and with no other.
    let file = b.dir().join("plan.json");
    let file = file.to_str().unwrap();
    std::fs::write(file, made.to_string()).unwrap();
    let other = b.create_key();
    b.run(DONE, &["org", "allow-cmk", "acme", &other]);
    let base = ["enqueue", "rekey", "--org", "acme", "--plan", file];
    let said = b.run(USAGE, &[&base[..], &["--to", &other]].concat());
    assert!(said.contains("the plan of another job"), "{said}");
    let changed = b.dir().join("changed.json");
    std::fs::write(&changed, made.to_string().replace("0.01", "0.02")).unwrap();
    let changed = ["--plan", changed.to_str().unwrap()];
    let base_to = ["enqueue", "rekey", "--org", "acme", "--to", &new];
    let said = b.run(USAGE, &[&base_to[..], &changed].concat());
    assert!(said.contains("it was changed"), "{said}");
    let job = enqueue(&b, &new, &["--plan", file]);
    let worker = b.worker();
    b.run(DONE, &["status", &job, "--wait", "--timeout", "1m"]);
    worker.stop();
    for command in ["status", "history"] {
        let seen = b.json(DONE, &[command, &job]);
        let beside = &seen["plan"];
        assert_eq!(beside["sha256"], made["sha256"]);
        assert_eq!(beside["planned"]["kms_calls"], 4 * slices);
        assert_eq!(beside["at_preflight"]["kms_calls"], 4 * slices);
        // And a key for each of two channels, with which its old keys are set aside.
        let calls = 4 * slices + 2;
        assert_eq!(beside["happened"]["kms_calls"], calls, "{beside}");
        let shown = b.run(DONE, &[command, &job]);
        assert!(shown.contains("happened"), "{shown}");
    }

    // The job is not retired: what is left of it is reckoned as it comes about.
    let moved = [
        "plan", "move", "--org", "acme", "--from", "T1/C1", "--to", "T2/C1",
    ];
    let moved = b.json(DONE, &moved);
    let of_c1 = moved["plan"]["size"]["slices"].as_u64().unwrap();
    assert_eq!(moved["plan"]["size"]["keys"]["value"], 2 * of_c1);
    assert_eq!(moved["plan"]["kms"]["total"], 3 * of_c1);
    for (mode, calls, seals) in [("reencrypt", 5 * slices, 2), ("rewrap", 4 * slices, 2)] {
        let third = b.create_key();
        b.run(DONE, &["org", "allow-cmk", "acme", &third]);
        let to = ["--to", &third, "--mode", mode];
        let again = b.json(
            DONE,
            &[&["plan", "rekey", "--org", "acme"], &to[..]].concat(),
        );
        assert_eq!(again["plan"]["kms"]["total"], calls, "{mode}");
        let flags = ["--mode", mode, "--cause", "scheduled"];
        let job = enqueue(&b, &third, &flags);
        let worker = b.worker();
        b.run(DONE, &["status", &job, "--wait", "--timeout", "1m"]);
        worker.stop();
        let done = b.json(DONE, &["report", &job])["certificate"]["done"].clone();
        let made = done["kms_calls"].as_u64().unwrap();
        assert!((calls..=calls + seals).contains(&made), "{mode}: {done}");
    }
}

#[test]
fn a_plan_names_what_cannot_be_done_without_calling_a_cmk_it_may_not_use() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let asked = ["plan", "rekey", "--org", "acme", "--to"];
    let refused = b.json(CONFLICT, &[&asked[..], &[NO_CMK]].concat());
    let obstacles = list(&refused["plan"], "obstacles");
    assert_eq!(obstacles.len(), 1, "{obstacles:?}");
    assert!(
        obstacles[0]
            .as_str()
            .unwrap()
            .starts_with("cmk_not_allowed: ")
    );
    assert_eq!(refused["plan"]["drift"]["looked"], false);
    let log = b.run(DONE, &["kms", "log", "--tail", "50"]);
    assert!(!log.contains(NO_CMK), "{log}");
    b.run(DONE, &["kms", "disable", &new]);
    let refused = b.json(CONFLICT, &[&asked[..], &[&new]].concat());
    let obstacle = refused["plan"]["obstacles"][0].as_str().unwrap();
    assert!(obstacle.starts_with("target_not_enabled: "), "{obstacle}");
    let unknown = ["plan", "rekey", "--org", "acmee", "--to", &new];
    let said = b.run(NOT_FOUND, &unknown);
    assert!(said.contains("did you mean `acme`?"), "{said}");
}

#[test]
fn drift_holds_a_job_until_it_is_carried_over_or_accepted() {
    let b = Bench::new();
    let (old, new) = b.acme();
    let export = sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export], &place[..]].concat(),
    );
    // The application may not open it any more; the worker may.
    let deny = |id: &str, cmk: &str| {
        let rule = ["kms", "deny", "add", id, "--cmk", cmk];
        let what = ["--context", "channel=C2", "--operation", "Decrypt"];
        b.run(DONE, &[&rule[..], &what, &["--caller", "app*"]].concat());
    };
    deny("revoked", &old);
    let asked = ["plan", "rekey", "--org", "acme", "--to", &new];
    let plan = b.json(CONFLICT, &asked)["plan"].clone();
    let lifted = list(&plan["drift"], "lifted");
    assert_eq!(lifted.len(), 1);
    assert_eq!(lifted[0]["denies"], json!(["kms:Decrypt"]));
    let hash = lifted[0]["sha256"].as_str().unwrap();
    let obstacle = plan["obstacles"][0].as_str().unwrap();
    assert!(obstacle.starts_with("policy_drift: ") && obstacle.contains(hash));

    let job = enqueue(&b, &new, &[]);
    let worker = b.worker();
    state(&b, &job, "blocked");
    let status = b.json(DONE, &["status", &job]);
    let why = status["why"].as_str().unwrap();
    assert!(
        why.starts_with("policy_drift: ") && why.contains(hash),
        "{why}"
    );
    assert!(why.contains("--accept-lifted-deny"), "{why}");
    assert_eq!(status["activated"], Value::Null, "nothing was changed");
    let explained = b.run(DONE, &["explain", "policy_drift"]);
    assert!(explained.contains("lift"), "{explained}");
    // Another hash than that of what is lifted does not help.
    let wrong = "0".repeat(64);
    let unhelped = enqueue(&b, &new, &["--accept-lifted-deny", &wrong]);
    state(&b, &unhelped, "blocked");
    b.run(DONE, &["cancel", &unhelped, "--reason", "a test"]);

    // Carried over: the job that waits goes on by itself, or at once.
    deny("carried", &new);
    b.run(DONE, &["retry", &job, "--reason", "carried over"]);
    state(&b, &job, "drained");
    worker.stop();

    // Back to the first one, which does not deny it any more: accepted.
    b.run(DONE, &["org", "allow-cmk", "acme", &old]);
    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    let back = ["plan", "rekey", "--org", "acme", "--to", &old];
    let plan = b.json(CONFLICT, &back)["plan"].clone();
    let hash = plan["drift"]["lifted"][0]["sha256"].as_str().unwrap();
    let accepted = enqueue(&b, &old, &["--accept-lifted-deny", hash]);
    let worker = b.worker();
    state(&b, &accepted, "drained");
    worker.stop();
}

#[test]
fn where_nobody_may_look_at_the_policies_it_is_said_and_the_job_goes_on() {
    let b = Bench::new();
    let (old, new) = b.acme();
    for (id, what) in [("unseen", "GetKeyPolicy"), ("revoked", "Decrypt")] {
        let rule = ["kms", "deny", "add", id, "--cmk", &old, "--operation", what];
        let whom = match id {
            "unseen" => "rekeyd-worker",
            _ => "application",
        };
        b.run(DONE, &[&rule[..], &["--caller", whom]].concat());
    }
    let asked = ["plan", "rekey", "--org", "acme", "--to", &new];
    let plan = b.json(DONE, &asked);
    assert_eq!(plan["plan"]["drift"]["looked"], false);
    let shown = b.run(DONE, &asked);
    assert!(
        shown.contains("drift       was not looked at: GetKeyPolicy"),
        "{shown}"
    );
    // The documents themselves, given as files.
    let deny = json!({
        "Sid": "NoMore", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt",
        "Resource": "*", "Condition": {"StringEquals": {"kms:EncryptionContext:channel": "C2"}},
    });
    let write = |name: &str, statements: Value| {
        let path = b.dir().join(name);
        let policy = json!({"Version": "2012-10-17", "Statement": statements});
        std::fs::write(&path, policy.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (with, without) = (
        write("with.json", json!([deny])),
        write("none.json", json!([])),
    );
    let files = |a: &str, b: &str| -> Vec<String> {
        ["--old-policy", a, "--new-policy", b]
            .map(str::to_owned)
            .into()
    };
    for (code, given) in [
        (CONFLICT, files(&with, &without)),
        (DONE, files(&with, &with)),
    ] {
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let plan = b.json(code, &[&asked[..], &given].concat());
        assert_eq!(plan["plan"]["drift"]["looked"], true);
    }
    let job = enqueue(&b, &new, &[]);
    let worker = b.worker();
    state(&b, &job, "drained");
    worker.stop();
    let history = b.json(DONE, &["history", &job]);
    let said = list(&history, "history").iter().any(|s| {
        s["why"]
            .as_str()
            .unwrap()
            .contains("; drift was not looked at: GetKeyPolicy")
    });
    assert!(said, "{history}");
}

#[test]
fn a_revocation_is_printed_in_hours_of_utc() {
    let b = Bench::new();
    let revoke = |from: &str, to: &str| {
        let channel = ["policy", "revoke", "--channel", "c1", "--org", "acme"];
        let span = ["--from", from, "--to", to, "--tz", "Europe/Berlin"];
        b.json(DONE, &[&channel[..], &span].concat())
    };
    let printed = revoke("2019-02-13T01:00", "2019-02-14T02:00");
    let condition = &printed["statement"]["Condition"];
    assert_eq!(
        condition["StringLike"]["kms:EncryptionContext:hour"],
        json!(["2019-02-13T*", "2019-02-14T00"])
    );
    assert_eq!(
        condition["StringEquals"]["kms:EncryptionContext:channel"],
        "c1"
    );
    assert_eq!(printed["statement"]["Effect"], "Deny");
    assert_eq!(printed["hours"]["rounded"], false);
    assert_eq!(
        revoke("2019-02-13T01:20", "2019-02-13T01:30")["hours"]["rounded"],
        true
    );
    // For people the statement stands alone on standard output.
    let day = ["--from", "2019-02-13", "--to", "2019-02-14"];
    let shown = b.run(
        DONE,
        &[
            &["policy", "revoke", "--channel", "c1", "--tz", "UTC"],
            &day[..],
        ]
        .concat(),
    );
    assert!(
        shown.contains("both") && shown.contains("2019-02-13T*"),
        "{shown}"
    );
    for (tz, span) in [
        ("Berlin", &day),
        ("UTC", &["--from", "2019-02-14", "--to", "2019-02-13"]),
    ] {
        b.run(
            USAGE,
            &[
                &["policy", "revoke", "--channel", "c1", "--tz", tz],
                &span[..],
            ]
            .concat(),
        );
    }
}

#[test]
fn a_closed_window_holds_a_job_and_the_status_says_until_when() {
    let b = Bench::new();
    let new = with_messages(&b);
    // Some hours from now on, every day, wherever the test runs.
    let now = UTC.to_datetime(jiff::Timestamp::now());
    let hour = (now.hour() + 6) % 24;
    let window = format!("0 {hour} * * * UTC 1h");
    let held = enqueue(&b, &new, &["--window", &window, "--priority", "-3"]);
    let worker = b.worker();
    state(&b, &held, "queued");
    // One without a window goes by.
    let other = b.create_key();
    b.run(DONE, &["org", "allow-cmk", "acme", &other]);
    let open = format!("0 {} * * * UTC 3h", (now.hour() + 23) % 24);
    let free = enqueue(&b, &other, &["--window", &open]);
    state(&b, &free, "drained");
    let status = b.json(DONE, &["status", &held]);
    assert_eq!(status["state"], "queued");
    assert_eq!(status["progress"]["waits"]["code"], "window");
    assert_eq!(status["window"]["cron"], format!("0 {hour} * * *"));
    assert_eq!(status["priority"], -3);
    let opens = status["progress"]["waits"]["until_ms"].as_i64().unwrap();
    let opens = jiff::Timestamp::from_millisecond(opens).unwrap();
    assert_eq!(UTC.to_datetime(opens).hour(), hour);
    let shown = b.run(DONE, &["status", &held]);
    assert!(shown.contains("its window is closed until"), "{shown}");
    let listed = b.run(DONE, &["jobs"]);
    assert!(listed.contains("waits for 2"), "{listed}");
    b.run(DONE, &["cancel", &held, "--reason", "a test"]);
    worker.stop();
    for window in [
        "0 22 * * * UTC",
        "61 22 * * * UTC 1h",
        "0 22 * * * Nowhere 1h",
        "x",
    ] {
        let asked = [
            "enqueue", "rekey", "--org", "acme", "--to", &new, "--window", window,
        ];
        b.run(USAGE, &asked);
    }
}

#[test]
fn a_window_that_closes_stops_a_job_and_one_that_opens_lets_it_go_on() {
    let b = Bench::new();
    let new = with_messages(&b);
    let (old_of_beta, new_of_beta) = (b.create_key(), b.create_key());
    b.run(DONE, &["org", "add", "beta", "--cmk", &old_of_beta]);
    b.run(DONE, &["org", "allow-cmk", "beta", &new_of_beta]);
    let rule = ["kms", "deny", "add", "revoked", "--context", "channel=C2"];
    b.run(DONE, &rule);
    let now = jiff::Timestamp::now();
    let hour = (UTC.to_datetime(now).hour() + 6) % 24;
    let job = enqueue(&b, &new, &["--window", &format!("0 {hour} * * * UTC 2h")]);
    // Half an hour after it opens.
    let in_hour = now.as_second().rem_euclid(3600);
    let ahead = Duration::from_secs(6 * 3600 + 1800) - Duration::from_secs(in_hour as u64);
    let inside = b.worker_ahead(ahead);
    state(&b, &job, "blocked");
    inside.stop();
    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    b.run(DONE, &["retry", &job, "--reason", "lifted"]);

    // By this one's clock it is closed: what is due is not taken, though the
    // worker has nothing else to do once it is done with another job.
    let outside = b.worker();
    let base = ["enqueue", "rekey", "--org", "beta", "--to", &new_of_beta];
    let other = b.json(DONE, &base)["job_id"].as_str().unwrap().to_owned();
    state(&b, &other, "drained");
    let failures = b.json(DONE, &["failures", &job]);
    assert_eq!(
        failures["blocked"]["revoked"].as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(b.json(DONE, &["status", &job])["state"], "blocked");
    outside.stop();
    let inside = b.worker_ahead(ahead);
    state(&b, &job, "drained");
    inside.stop();
}

#[test]
fn a_job_is_not_begun_too_early_or_too_late() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let later = "2100-01-01T00:00:00Z";
    let early = enqueue(&b, &new, &["--not-before", later]);
    let late = enqueue(&b, &new, &["--not-after", "2020-01-01T00:00:00Z"]);
    let worker = b.worker();
    let failed = state(&b, &late, "failed");
    assert!(
        failed["why"].as_str().unwrap().starts_with("too_late: "),
        "{failed}"
    );
    let status = b.json(DONE, &["status", &early]);
    assert_eq!(status["progress"]["waits"]["code"], "not_before");
    worker.stop();
}
