//! The command line as people and scripts use it: the real binary in a
//! directory of its own, its exit codes and its JSON.

mod bench;
mod certificate;
mod moves;
mod ops;
mod packaging;
mod plan;
mod reconcile;
mod restore;
mod retire;
mod steer;
mod verify;

use bench::{Bench, sample_export};
use serde_json::Value;

const DONE: i32 = 0;
const USAGE: i32 = 2;
const CONFIG: i32 = 3;
const NOT_SET_UP: i32 = 4;
const NOT_FOUND: i32 = 5;
const CONFLICT: i32 = 6;
const UNAVAILABLE: i32 = 7;
const KMS_REFUSED: i32 = 8;
const MUST_NOT_DISABLE: i32 = 10;
const JOB_FAILED: i32 = 11;
const JOB_CANCELLED: i32 = 12;
const TIMEOUT: i32 = 13;
const BAD_DATA: i32 = 14;
const MOVE_UNFINISHED: i32 = 15;

const NO_JOB: &str = "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69";
const NO_CMK: &str = "arn:aws:kms:local:000000000000:key/none";

#[test]
fn an_organization_goes_from_one_cmk_to_another() {
    let b = Bench::new();
    b.run(DONE, &["init", "--timing", "demo"]);
    let old = b.create_key();
    let new = b.create_key();
    b.run(DONE, &["org", "add", "acme", "--cmk", &old]);
    b.run(DONE, &["org", "allow-cmk", "acme", &new]);
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
    let imported = b.json(DONE, &import);
    assert_eq!(imported["loaded"]["messages"], 7);
    assert_eq!(imported["read"]["skipped"]["no_timestamp"]["count"], 1);
    // Twice is the same, by the keys that stand already.
    let again = b.json(DONE, &import);
    assert_eq!(again["loaded"]["messages"], 7);
    assert_eq!(again["loaded"]["keys_made"], 0);

    let before = b.json(DONE, &["verify", "--org", "acme"]);
    assert_eq!(before["found"]["by_cmk"][&old]["cells"], 7);
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    let status = b.json(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    assert_eq!(status["state"], "drained");
    assert_eq!(status["rewriting"]["rewritten"], 7);
    assert_eq!(status["proof"]["current"], 7);
    worker.stop();

    let after = b.json(DONE, &["verify", "--org", "acme"]);
    assert_eq!(after["whole"], true);
    assert_eq!(after["found"]["opened"], 7);
    assert_eq!(after["found"]["by_cmk"][&old]["cells"], 0);
    assert_eq!(after["found"]["by_cmk"][&new]["cells"], 7);
    let headers = b.json(
        DONE,
        &["verify", "--org", "acme", "--channel", "C1", "--no-open"],
    );
    assert_eq!(headers["found"]["opened"], 0);
    assert_eq!(headers["found"]["cells"], 5);

    let record = [
        "inspect",
        "--org",
        "acme",
        "--channel",
        "C1",
        "--hour",
        "2019-02-13T17",
    ];
    let seen = b.json(
        DONE,
        &[&record[..], &["--record-text", "1550077323.000200"]].concat(),
    );
    assert_eq!(seen["cmk"], Value::from(new.as_str()));
    assert_eq!(seen["epoch"], 2);
    assert_eq!(seen["current"], true);
    let shown = b.run(
        DONE,
        &[&record[..], &["--record-text", "1550077323.000200"]].concat(),
    );
    assert!(!shown.contains("marked"), "never the text: {shown}");
    b.run(NOT_FOUND, &[&record[..], &["--record", "ff"]].concat());

    // What the verdict says holds: the old CMK can go.
    b.run(DONE, &["kms", "disable", &old]);
    b.run(DONE, &["verify", "--org", "acme"]);
    b.run(DONE, &["audit", "verify"]);

    // A finished job answers every command with its own words.
    b.run(CONFLICT, &["cancel", &job]);
    b.run(CONFLICT, &["retry", &job]);
    assert_eq!(
        b.json(DONE, &["failures", &job])["blocked"],
        serde_json::json!({})
    );
    assert_eq!(b.json(DONE, &["jobs"])["jobs"].as_array().unwrap().len(), 0);
    assert_eq!(
        b.json(DONE, &["jobs", "--all"])["jobs"][0]["state"],
        "drained"
    );

    b.spoil_audit();
    b.run(BAD_DATA, &["audit", "verify"]);
}

#[test]
fn a_revoked_scope_blocks_is_listed_and_goes_on_after_retry() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let export = sample_export(b.dir());
    b.run(
        DONE,
        &[
            "import",
            "slack-export",
            &export,
            "--org",
            "acme",
            "--workspace",
            "T1",
        ],
    );
    b.run(
        DONE,
        &["kms", "deny", "add", "revoked", "--context", "channel=C2"],
    );
    b.run(KMS_REFUSED, &["verify", "--org", "acme"]);
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    let blocked = b.json(
        MUST_NOT_DISABLE,
        &["status", &job, "--wait", "--timeout", "60"],
    );
    assert_eq!(blocked["state"], "blocked");
    assert!(
        blocked["verdict"]
            .as_str()
            .unwrap()
            .contains("must not be disabled")
    );
    let failures = b.json(DONE, &["failures", &job]);
    let slices = failures["blocked"]["revoked"].as_array().unwrap();
    assert_eq!(slices.len(), 2);
    assert_eq!(slices[0]["slice"]["channel"], "C2");

    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    b.run(DONE, &["retry", &job]);
    let wait = [
        "status",
        &job,
        "--wait",
        "--through-blocked",
        "--timeout",
        "60",
    ];
    assert_eq!(b.json(DONE, &wait)["state"], "drained");
    worker.stop();
}

#[test]
fn a_cancelled_job_says_what_it_leaves() {
    let b = Bench::new();
    let (old, new) = b.acme();
    let export = sample_export(b.dir());
    b.run(
        DONE,
        &[
            "import",
            "slack-export",
            &export,
            "--org",
            "acme",
            "--workspace",
            "T1",
        ],
    );
    b.run(
        DONE,
        &["kms", "deny", "add", "revoked", "--context", "channel=C2"],
    );
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    b.run(
        MUST_NOT_DISABLE,
        &["status", &job, "--wait", "--timeout", "60"],
    );
    let cancelled = b.json(DONE, &["cancel", &job, "--reason", "enough"]);
    let verdict = cancelled["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with(&old) && verdict.contains(&new),
        "{verdict}"
    );
    b.run(JOB_CANCELLED, &["status", &job, "--wait"]);
    let shown = b.run(CONFLICT, &["retire", &job, "--dry-run"]);
    assert!(shown.contains("never be retired"), "{shown}");
    assert!(!shown.contains("--wait"), "{shown}");

    // A later job finishes what it left.
    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    let third = b.create_key();
    b.run(DONE, &["org", "allow-cmk", "acme", &third]);
    let later = b.enqueue("acme", &third);
    b.run(DONE, &["status", &later, "--wait", "--timeout", "60"]);
    let status = b.json(JOB_CANCELLED, &["status", &job, "--wait"]);
    let now = status["verdict"].as_str().unwrap();
    assert!(now.starts_with(&format!("at its end: {verdict}")), "{now}");
    assert!(
        now.contains(&format!("job {later}, drained since")),
        "{now}"
    );
    let shown = b.run(CONFLICT, &["retire", &job, "--dry-run"]);
    assert!(shown.contains(&format!("rekeyd retire {later}")), "{shown}");
    worker.stop();
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn a_verdict_lapses_for_good_when_the_old_cmk_was_active_again() {
    let b = Bench::new();
    let (old, new) = b.acme();
    let third = b.create_key();
    b.run(DONE, &["org", "allow-cmk", "acme", &third]);
    let export = sample_export(b.dir());
    b.run(
        DONE,
        &[
            "import",
            "slack-export",
            &export,
            "--org",
            "acme",
            "--workspace",
            "T1",
        ],
    );
    let worker = b.worker();
    let first = b.enqueue("acme", &new);
    b.run(DONE, &["status", &first, "--wait", "--timeout", "60"]);

    // Two jobs that are stopped in the midst: back to the old CMK, and on to a
    // third. The old one is not active then, and data is under it all the same.
    b.run(DONE, &["org", "allow-cmk", "acme", &old]);
    b.run(
        DONE,
        &["kms", "deny", "add", "revoked", "--context", "channel=C2"],
    );
    for to in [&old, &third] {
        let job = b.enqueue("acme", to);
        b.run(
            MUST_NOT_DISABLE,
            &["status", &job, "--wait", "--timeout", "60"],
        );
        b.run(DONE, &["cancel", &job]);
        let status = b.json(MUST_NOT_DISABLE, &["status", &first, "--wait"]);
        let verdict = status["verdict"].as_str().unwrap();
        assert!(
            verdict.starts_with(&format!("{old} must not be disabled")),
            "{verdict}"
        );
    }
    for arguments in [
        &["status", &first][..],
        &["failures", &first],
        &["jobs", "--all"],
    ] {
        let shown = b.run(DONE, arguments);
        assert!(!shown.contains("may be disabled"), "{shown}");
    }
    let shown = b.run(CONFLICT, &["retire", &first, "--dry-run"]);
    assert!(shown.contains("never be retired"), "{shown}");

    // A job that leads away from it again has the answer; the old verdict says
    // which, and stays as bad as it was.
    b.run(DONE, &["kms", "deny", "remove", "revoked"]);
    b.run(DONE, &["org", "allow-cmk", "acme", &new]);
    let last = b.enqueue("acme", &new);
    b.run(DONE, &["status", &last, "--wait", "--timeout", "60"]);
    worker.stop();
    let points_on = format!("job {last}, drained since, has the answer of today");
    let status = b.json(MUST_NOT_DISABLE, &["status", &first, "--wait"]);
    let verdict = status["verdict"].as_str().unwrap();
    assert!(verdict.contains(&points_on), "{verdict}");
    assert!(!verdict.contains("must not be disabled"), "{verdict}");
    for arguments in [&["status", &first][..], &["jobs", "--all"]] {
        let shown = b.run(DONE, arguments);
        assert!(shown.contains(&points_on), "{shown}");
    }
    let shown = b.run(CONFLICT, &["retire", &first, "--dry-run"]);
    assert!(shown.contains(&format!("rekeyd retire {last}")), "{shown}");
}

#[test]
fn refused_messages_are_told_to_who_waits_for_them() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let unlisted = b.create_key();
    let ask = ["enqueue", "rekey", "--org", "acme", "--to", &unlisted];
    // Whoever asks here hears of it at once.
    let shown = b.run(CONFLICT, &ask);
    assert!(shown.contains("nothing was sent"), "{shown}");
    assert!(shown.contains("rekeyd org allow-cmk acme"), "{shown}");
    let shown = b.run(
        NOT_FOUND,
        &["enqueue", "rekey", "--org", "acne", "--to", &unlisted],
    );
    assert!(shown.contains("did you mean `acme`?"), "{shown}");
    let sent = b.json(DONE, &[&ask[..], &["--unchecked"]].concat());
    assert_eq!(sent["checked"], false);
    let job = sent["job_id"].as_str().unwrap().to_owned();
    b.run(NOT_FOUND, &["status", &job]);
    b.run(TIMEOUT, &["status", &job, "--wait", "--timeout", "0"]);
    let mut worker = b.spawn(&["worker"], "worker.log");
    let shown = b.run(JOB_FAILED, &["status", &job, "--wait", "--timeout", "60"]);
    assert!(shown.contains("cmk_not_allowed"), "{shown}");
    let good = b.enqueue("acme", &new);
    b.run(DONE, &["status", &good, "--wait", "--timeout", "60"]);
    worker.kill().unwrap();
    worker.wait().unwrap();
    // The log says once why, and of what was taken which job it is.
    let log = std::fs::read_to_string(b.dir().join("worker.log")).unwrap();
    assert_eq!(log.matches("cmk_not_allowed").count(), 1, "{log}");
    let taken = |line: &&str| line.contains("message taken") && line.contains(&good);
    assert_eq!(log.lines().filter(taken).count(), 1, "{log}");
    let letters = b.json(DONE, &["dlq", "list"]);
    let reason = letters["dead_letters"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("cmk_not_allowed"), "{reason}");
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let mut b = Bench::new();
    b.run(NOT_SET_UP, &["jobs"]);
    b.run(NOT_SET_UP, &["kms", "list"]);
    b.set(("REKEYD_KMS__KIND", "aws"));
    let shown = b.run(NOT_SET_UP, &["kms", "list"]);
    assert!(shown.contains("kms.kind is `aws`"), "{shown}");
    assert!(!shown.contains("rekeyd init"), "{shown}");
    b.unset("REKEYD_KMS__KIND");
    b.run(NOT_SET_UP, &["worker"]);
    let (old, new) = b.acme();
    let rewrap = [
        "enqueue", "rekey", "--org", "acme", "--to", &new, "--mode", "rewrap",
    ];
    let cases: [(i32, &[&str], &str); 17] = [
        (USAGE, &["stats"], "status"),
        (USAGE, &["status", "twelve"], "UUID"),
        (
            USAGE,
            &["org", "add", "no spaces", "--cmk", &old],
            "organization id",
        ),
        (
            USAGE,
            &["org", "add", "beta", "--cmk", "alias/x"],
            "never by an alias",
        ),
        (USAGE, &rewrap, "cause"),
        (USAGE, &["kms", "deny", "add", "all"], "names no CMK"),
        (
            USAGE,
            &[
                "kms",
                "fault",
                "set",
                "f",
                "--operation",
                "Sign",
                "--error",
                "X",
            ],
            "Sign",
        ),
        (NOT_FOUND, &["status", NO_JOB], "rekeyd jobs"),
        (NOT_FOUND, &["retry", NO_JOB], "rekeyd jobs"),
        (NOT_FOUND, &["org", "show", "beta"], "rekeyd org add beta"),
        (NOT_FOUND, &["verify", "--org", "beta"], "rekeyd org list"),
        (NOT_FOUND, &["kms", "disable", NO_CMK], "rekeyd kms list"),
        (
            NOT_FOUND,
            &[
                "import",
                "slack-export",
                "nowhere",
                "--org",
                "acme",
                "--workspace",
                "T1",
            ],
            "nowhere",
        ),
        (USAGE, &["verify"], "--org <ORG>|--job <JOB>"),
        (
            NOT_FOUND,
            &["enqueue", "rekey", "--file", "missing.json"],
            "cannot read `missing.json`",
        ),
        (CONFLICT, &["org", "add", "acme", "--cmk", &old], "already"),
        (
            CONFIG,
            &["config", "check", "--config", "bad.toml"],
            "did you mean `worker.page_rows`?",
        ),
    ];
    std::fs::write(b.dir().join("bad.toml"), "[worker]\npage_row = 3\n").unwrap();
    for (code, arguments, says) in cases {
        let shown = b.run(code, arguments);
        assert!(
            shown.contains(says),
            "{arguments:?} does not say `{says}`:\n{shown}"
        );
    }
    b.run(DONE, &["kms", "disable", &old]);
    b.run(KMS_REFUSED, &["org", "add", "beta", "--cmk", &old]);

    // The same for programs.
    let shown = b.run(NOT_FOUND, &["status", NO_JOB, "--output", "json"]);
    let error: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(error["error"]["code"], "not_found");
    assert_eq!(error["error"]["exit"], NOT_FOUND);
    assert!(error["error"]["help"].is_string());
    let shown = b.run(USAGE, &["--output", "json", "stats"]);
    let error: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(error["error"]["exit"], USAGE);
    let said = error["error"]["message"].as_str().unwrap();
    assert!(said.starts_with("unrecognized subcommand"), "{said}");
}

#[test]
fn set_up_twice_changes_nothing_and_every_listing_is_json() {
    let b = Bench::new();
    let made = b.json(DONE, &["init", "--timing", "demo"]);
    assert_eq!(made["parts"][0]["made"], true);
    let cmk = b.create_key();
    let stood = b.json(DONE, &["init", "--timing", "embedded"]);
    assert_eq!(stood["parts"][0]["made"], false);
    assert_eq!(stood["timing"], made["timing"]);
    b.run(DONE, &["org", "add", "acme", "--cmk", &cmk]);
    b.run(DONE, &["kms", "latency", "1"]);
    b.run(DONE, &["kms", "throttle", "500"]);
    b.run(
        DONE,
        &[
            "kms",
            "fault",
            "set",
            "slow",
            "--latency-ms",
            "2",
            "--caller",
            "x*",
        ],
    );
    b.run(
        DONE,
        &[
            "kms",
            "deny",
            "add",
            "d",
            "--operation",
            "ReEncrypt",
            "--caller",
            "y",
        ],
    );
    for arguments in [
        &["kms", "list"][..],
        &["kms", "log", "--tail", "3"],
        &["kms", "fault", "list"],
        &["kms", "deny", "list"],
        &["org", "list"],
        &["org", "show", "acme"],
        &["jobs", "--all"],
        &["dlq", "list"],
        &["config", "check"],
        &["audit", "verify"],
    ] {
        b.json(DONE, arguments);
        b.run(DONE, arguments);
    }
    for arguments in [
        &["kms", "fault", "clear", "slow"][..],
        &["kms", "schedule-deletion", &cmk, "--days", "7"],
        &["kms", "cancel-deletion", &cmk],
        &["kms", "enable", &cmk],
    ] {
        b.json(DONE, arguments);
    }
    b.run(CONFLICT, &["kms", "cancel-deletion", &cmk]);
}

#[test]
fn a_store_that_does_not_answer_is_waited_for_until_the_time_is_over() {
    let mut b = Bench::new();
    b.set(("REKEYD_STORE__KIND", "cassandra"));
    // Nothing listens there.
    b.set(("REKEYD_STORE__NODES", "127.0.0.1:1"));
    for how in ["--wait", "--watch"] {
        let shown = b.run(TIMEOUT, &["status", NO_JOB, how, "--timeout", "3"]);
        assert_eq!(shown.matches("it is tried again").count(), 1, "{shown}");
        assert!(shown.contains("the store does not answer"), "{shown}");
    }
    // Who does not wait is told at once.
    b.run(UNAVAILABLE, &["status", NO_JOB]);
}

#[test]
fn a_kms_that_does_not_answer_is_named_in_plain_words_and_not_waited_for_long() {
    let mut b = Bench::new();
    let (_, new) = b.acme();
    let export = sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export][..], &place].concat(),
    );
    // Nothing listens there.
    for variable in [
        ("REKEYD_KMS__KIND", "aws"),
        ("REKEYD_KMS__ENDPOINT", "http://127.0.0.1:1"),
        ("REKEYD_KMS__STS_ENDPOINT", "http://127.0.0.1:1"),
        ("REKEYD_KMS__GIVE_UP_S", "3"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "eu-west-1"),
    ] {
        b.set(variable);
    }
    // First STS is asked, then, where the account is set, the KMS itself.
    for account in ["000000000000", "111122223333"] {
        b.set(("REKEYD_KMS__ACCOUNT", account));
        for arguments in [
            &["verify", "--org", "acme", "--sample", "2"][..],
            &["org", "allow-cmk", "acme", &new],
        ] {
            let shown = b.run(UNAVAILABLE, arguments);
            assert!(shown.contains("waits for the KMS"), "{shown}");
            assert!(shown.contains("Connection refused"), "{shown}");
            assert!(!shown.contains("ConnectorError"), "{shown}");
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let b = Bench::new();
    b.acme();
    b.run_into_a_closed_pipe(&["config", "check"]);
    b.run_into_a_closed_pipe(&["org", "list", "--output", "json"]);
}
