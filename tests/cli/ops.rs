//! The commands of whoever operates a worker: doctor, healthcheck, iam-policy.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Bench;
use crate::{CONFIG, DONE, NOT_FOUND, NOT_SET_UP, USAGE};

const UNAVAILABLE: i32 = 7;
const UNFIT: i32 = 9;

/// The checks of a part in a state.
fn checks<'a>(report: &'a Value, part: &str, state: &str) -> Vec<&'a Value> {
    let all = report["checks"].as_array().unwrap();
    all.iter()
        .filter(|c| c["part"] == part && c["state"] == state)
        .collect()
}

fn text<'a>(check: &'a Value, field: &str) -> &'a str {
    check[field].as_str().unwrap_or_default()
}

fn file(b: &Bench, name: &str, body: &str) -> String {
    let path = b.dir().join(name);
    std::fs::write(&path, body).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_healthy_store_is_ok_in_both_modes_and_is_left_as_it_was() {
    let b = Bench::new();
    let (old, new) = b.acme();
    let registry = b.run(DONE, &["org", "show", "acme", "--output", "json"]);
    for mode in ["reencrypt", "rewrap"] {
        let report = b.json(DONE, &["doctor", "--mode", mode]);
        assert_eq!(report["wrong"], 0, "{report}");
        // The old one: described, and its canary. The new one is tried as a
        // target too.
        for (cmk, count) in [(&old, 2), (&new, 3)] {
            let ok = checks(&report, "kms", "ok");
            let of = ok.iter().filter(|c| c["cmk"] == **cmk).count();
            assert_eq!(of, count, "{mode}: {report}");
        }
        for part in [
            "store",
            "timing",
            "queue",
            "audit",
            "worker",
            "configuration",
        ] {
            assert!(!checks(&report, part, "ok").is_empty(), "{part}: {report}");
        }
    }
    // The other CMK could be a target by asking; as a source no key is made
    // under it.
    let calls = b.json(DONE, &["kms", "log", "--tail", "100"]);
    let by_worker = calls["calls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|c| c["caller"] == "rekeyd-worker" && c["operation"] == "GenerateDataKey");
    for call in by_worker {
        assert_eq!(call["cmk"], new.as_str());
        assert_eq!(call["context"]["kind"], "canary");
    }
    assert_eq!(
        b.run(DONE, &["org", "show", "acme", "--output", "json"]),
        registry
    );
    b.run(DONE, &["audit", "verify"]);
    let shown = b.run(DONE, &["doctor"]);
    assert!(shown.contains(" 0 wrong"), "{shown}");
    b.run(UNFIT, &["doctor", "--org", "nobody"]);
    b.run(USAGE, &["doctor", "--timeout", "0"]);
}

#[test]
fn a_disabled_cmk_is_named_with_its_fix_and_the_rest_is_looked_at() {
    let b = Bench::new();
    let (old, new) = b.acme();
    b.run(DONE, &["kms", "disable", &new]);
    let report = b.json(UNFIT, &["doctor"]);
    let wrong = checks(&report, "kms", "wrong");
    assert_eq!(wrong.len(), 1, "{report}");
    assert_eq!(wrong[0]["cmk"], new.as_str());
    assert_eq!(wrong[0]["org"], "acme");
    assert!(text(wrong[0], "says").contains("it is disabled"));
    assert_eq!(text(wrong[0], "fix"), format!("rekeyd kms enable {new}"));
    // What depends on it is not called ok, and the other CMK is still tried.
    let unchecked = checks(&report, "kms", "not_checked");
    assert_eq!(
        unchecked
            .iter()
            .filter(|c| c["cmk"] == new.as_str())
            .count(),
        2
    );
    let ok = checks(&report, "kms", "ok");
    assert_eq!(ok.iter().filter(|c| c["cmk"] == old.as_str()).count(), 2);
    b.run(DONE, &["kms", "enable", &new]);
    b.run(DONE, &["doctor"]);
    b.run(DONE, &["kms", "schedule-deletion", &old, "--days", "7"]);
    let report = b.json(UNFIT, &["doctor"]);
    let fix = text(checks(&report, "kms", "wrong")[0], "fix").to_owned();
    assert!(
        fix.contains(&format!("rekeyd kms cancel-deletion {old}")),
        "{fix}"
    );
}

#[test]
fn a_denied_canary_is_named_with_its_fix() {
    let b = Bench::new();
    let (old, _) = b.acme();
    let deny = [
        "kms",
        "deny",
        "add",
        "no",
        "--context",
        "kind=canary",
        "--cmk",
        &old,
    ];
    b.run(DONE, &deny);
    let report = b.json(UNFIT, &["doctor"]);
    let wrong = checks(&report, "kms", "wrong");
    assert_eq!(wrong.len(), 1, "{report}");
    assert_eq!(wrong[0]["cmk"], old.as_str());
    assert!(text(wrong[0], "says").starts_with("does not open its canary"));
    assert!(text(wrong[0], "fix").contains("rekeyd kms deny list"));
}

#[tokio::test]
async fn a_store_without_its_waits_is_named_with_its_fix() {
    use rekeyd::store::{Applied, ControlTable, ControlWrite, Expect};
    let b = Bench::new();
    b.acme();
    let config = rekeyd::config::Config::default_for(&b.dir().join("data")).unwrap();
    let clock = rekeyd::clock::SystemClock::shared();
    let store = rekeyd::wiring::store(&config, &clock).await.unwrap();
    let rows = store
        .control_get(ControlTable::Timing, "store", &["timing"])
        .await
        .unwrap();
    let gone = ControlWrite {
        id: "timing".to_owned(),
        expect: Expect::Rev(rows[0].rev),
        body: None,
    };
    let applied = store
        .control_apply(ControlTable::Timing, "store", &[gone])
        .await;
    assert_eq!(applied.unwrap(), Applied::Yes);
    let report = b.json(UNFIT, &["doctor"]);
    let wrong = checks(&report, "timing", "wrong");
    assert!(text(wrong[0], "fix").contains("rekeyd init"), "{report}");
    // What is allowed stands there too.
    assert!(
        !checks(&report, "clock", "not_checked").is_empty(),
        "{report}"
    );
    assert!(!checks(&report, "kms", "ok").is_empty(), "{report}");
}

#[test]
fn without_an_audit_log_no_key_is_tried() {
    let b = Bench::new();
    b.acme();
    let calls = || {
        b.json(DONE, &["kms", "log", "--tail", "1000"])["calls"]
            .as_array()
            .unwrap()
            .len()
    };
    let before = calls();
    // Under a file there is no directory, whoever runs the test.
    let dir = b.dir().join("data/store.db/audit");
    let config = file(&b, "audit.toml", &format!("[audit]\ndir = {dir:?}\n"));
    let report = b.json(UNFIT, &["doctor", "--config", &config]);
    let wrong = checks(&report, "audit", "wrong");
    assert!(text(wrong[0], "fix").contains("audit.dir"), "{report}");
    let unchecked = checks(&report, "kms", "not_checked");
    assert!(text(unchecked[0], "says").contains("audit log"), "{report}");
    assert!(checks(&report, "kms", "ok").is_empty(), "{report}");
    assert!(!checks(&report, "store", "ok").is_empty(), "{report}");
    assert_eq!(calls(), before);
}

#[test]
fn where_nothing_is_set_up_nothing_is_called_ok_that_was_not_seen() {
    let b = Bench::new();
    let report = b.json(UNFIT, &["doctor"]);
    let wrong = checks(&report, "store", "wrong");
    assert!(text(wrong[0], "fix").contains("rekeyd init"), "{report}");
    for part in ["timing", "worker", "kms"] {
        assert!(checks(&report, part, "ok").is_empty(), "{part}: {report}");
        assert!(
            !checks(&report, part, "not_checked").is_empty(),
            "{part}: {report}"
        );
    }
    assert_eq!(checks(&report, "queue", "wrong").len(), 1, "{report}");
    // A ring that is not there, with a store that is.
    b.run(DONE, &["init", "--timing", "demo"]);
    std::fs::remove_dir_all(b.dir().join("data/keyring")).unwrap();
    let report = b.json(UNFIT, &["doctor"]);
    assert_eq!(checks(&report, "kms", "wrong").len(), 1, "{report}");
    assert!(
        !checks(&report, "kms", "not_checked").is_empty(),
        "{report}"
    );
    assert!(!checks(&report, "timing", "ok").is_empty(), "{report}");
}

#[test]
fn a_worker_of_the_same_name_that_is_at_work_is_told() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let config = file(&b, "named.toml", "[worker]\nid = \"w1\"\n");
    let free = b.json(DONE, &["doctor", "--config", &config]);
    assert_eq!(checks(&free, "worker", "ok").len(), 1, "{free}");
    // A job that waits in `draining` or before is driven by somebody.
    b.enqueue("acme", &new);
    let worker = b.worker_with(&["--config", &config]);
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let report = b.json(DONE, &["doctor", "--config", &config]);
        if let [taken] = checks(&report, "worker", "warning")[..] {
            assert!(text(taken, "says").contains("`w1` drives job"), "{report}");
            assert!(text(taken, "fix").contains("worker.id"), "{report}");
            break;
        }
        assert!(Instant::now() < end, "nobody drives the job: {report}");
    }
    worker.stop();
}

#[test]
fn a_health_check_asks_the_worker_that_runs() {
    let b = Bench::new();
    b.run(CONFIG, &["healthcheck"]);
    b.acme();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = file(
        &b,
        "m.toml",
        &format!("[metrics]\nlisten = \"0.0.0.0:{port}\"\n"),
    );
    let ask = ["healthcheck", "--config", &config];
    let shown = b.run(UNAVAILABLE, &ask);
    assert!(shown.contains("rekeyd doctor"), "{shown}");
    let worker = b.worker_with(&["--config", &config]);
    let address = Path::new("127.0.0.1").display().to_string() + &format!(":{port}");
    let end = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < end, "the worker does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(b.json(DONE, &ask)["address"], address);
    b.run(DONE, &["healthcheck", "--answers", &address]);
    // Ready once its queue has answered, which takes a look of a few seconds.
    while b.code(&[&ask[..], &["--ready"]].concat()) != DONE {
        assert!(Instant::now() < end, "the worker does not become ready");
        std::thread::sleep(Duration::from_millis(100));
    }
    worker.stop();
    b.run(UNAVAILABLE, &ask);
    b.run(UNAVAILABLE, &["healthcheck", "--answers", &address]);
}

#[test]
fn policies_are_printed_to_be_pasted() {
    use rekeyd::iam::Policy;
    let b = Bench::new();
    b.run(
        NOT_SET_UP,
        &["iam-policy", "--org", "acme", "--mode", "rewrap"],
    );
    let (old, new) = b.acme();
    let role = "arn:aws:iam::111122223333:role/rekeyd-worker";
    let customer = "arn:aws:iam::444455556666:role/rekeyd-access";
    let whole = [
        "iam-policy",
        "--org",
        "acme",
        "--mode",
        "reencrypt",
        "--worker-role-arn",
        role,
        "--role-arn",
        customer,
        "--external-id",
        "tenant-7",
        "--queue-arn",
        "arn:aws:sqs:eu-west-1:111122223333:jobs",
    ];
    let printed = b.json(DONE, &whole);
    assert_eq!(printed["old"], serde_json::json!([old]));
    assert_eq!(printed["new"], serde_json::json!([new]));
    assert_eq!(printed["caller"], customer);
    assert_eq!(printed["notes"], serde_json::json!([]));
    for name in [
        "role_policy",
        "assume_role_policy",
        "trust_policy",
        "queue_policy",
    ] {
        let policy: Policy = serde_json::from_value(printed[name].clone()).unwrap();
        assert_eq!(printed["chars"][name], policy.chars(), "{name}");
    }
    let keys = printed["key_policies"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        serde_json::from_value::<Policy>(key["policy"].clone()).unwrap();
    }
    assert_eq!(
        printed["trust_policy"]["Statement"][0]["Principal"]["AWS"],
        role
    );

    let least = [
        "iam-policy",
        "--org",
        "acme",
        "--mode",
        "verifier",
        "--output",
        "table",
    ];
    let shown = b.run(DONE, &least);
    assert!(
        shown.contains("# permissions of arn:aws:iam::000000000000:role/rekeyd-verifier"),
        "{shown}"
    );
    assert!(shown.contains(&format!("# key policy of {new}")), "{shown}");
    assert!(
        !shown.contains(&format!("# key policy of {old}")),
        "{shown}"
    );
    assert!(
        shown.contains("note: ") && shown.contains("placeholder"),
        "{shown}"
    );
    let rewrap = ["iam-policy", "--org", "acme", "--mode", "rewrap"];
    b.run(NOT_FOUND, &[&rewrap[..], &["--to", crate::NO_CMK]].concat());
    b.run(USAGE, &[&rewrap[..], &["--worker-role-arn", "*"]].concat());
    b.run(USAGE, &[&rewrap[..], &["--external-id", "x1"]].concat());
    // What the registry has needs no flag.
    for cmk in [&old, &new] {
        let with_role = ["--role-arn", customer, "--external-id", "tenant-9"];
        b.run(
            DONE,
            &[&["org", "allow-cmk", "acme", cmk][..], &with_role].concat(),
        );
    }
    let printed = b.json(DONE, &rewrap);
    assert_eq!(printed["caller"], customer, "{printed}");
    let asks = &printed["trust_policy"]["Statement"][0]["Condition"]["StringEquals"];
    assert_eq!(asks["sts:ExternalId"], "tenant-9");
    assert!(!b.run(DONE, &rewrap).contains("different roles"));
    b.run(DONE, &["org", "allow-cmk", "acme", &old, "--no-role"]);
    assert!(b.run(DONE, &rewrap).contains("different roles"));
    // A CMK of two organizations is told.
    b.run(DONE, &["org", "add", "beta", "--cmk", &old]);
    let shown = b.run(DONE, &rewrap);
    assert!(shown.contains("is on the list of beta too"), "{shown}");
}

/// A worker dies with a task, and so does the next one: the log says from whom it
/// was taken, and the status counts it before the round is over.
#[test]
fn a_takeover_is_logged_and_counted_at_once() {
    let mut b = Bench::new();
    let (_, new) = b.acme();
    let export = crate::sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export], &place[..]].concat(),
    );
    let job = b.enqueue("acme", &new);
    b.set(("REKEYD_KILL_AT", "task_after_claim"));
    b.dies(&["worker"]);
    let status = b.json(DONE, &["status", &job]);
    assert_eq!(status["takeovers"], 0);
    let first = status["driven_by"].as_str().unwrap().to_owned();
    b.set(("REKEYD_KILL_AT", "checkpoint_before"));
    b.spawn(&["worker"], "second.log").wait().unwrap();
    b.unset("REKEYD_KILL_AT");
    let log = std::fs::read_to_string(b.dir().join("second.log")).unwrap();
    for what in ["takeover of a task", "takeover of a job's drive"] {
        let line = log.lines().find(|line| line.contains(what));
        let line = line.unwrap_or_else(|| panic!("no {what}: {log}"));
        for field in [&first, &job, "token=", "over_ms="] {
            assert!(line.contains(field), "{field}: {line}");
        }
    }
    let status = b.json(DONE, &["status", &job]);
    assert_eq!(status["takeovers"], 1, "of the open round");
}
