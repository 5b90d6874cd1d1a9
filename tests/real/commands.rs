//! The commands of whoever sets up and runs a worker, on the real parts: `schema`,
//! `doctor`, `iam-policy`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use rekeyd::registry::Timing;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use serde_json::Value;

use crate::rig::Rig;
use crate::schema;
use crate::services::{cassandra, schema_lock};

/// Exit codes of docs/cli.md.
const DONE: i32 = 0;
const CONFIG: i32 = 3;
const NOT_SET_UP: i32 = 4;
const CONFLICT: i32 = 6;
const UNFIT: i32 = 9;

/// Runs a command that looks for nothing but its configuration, and returns what
/// it says to programs: its answer, or what it could not do.
async fn run(config: &Path, code: i32, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command
        .env_clear()
        .arg("--config")
        .arg(config)
        .args(["--output", "json"])
        .args(arguments)
        .stdin(Stdio::null());
    let said = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}: {text}{errors}");
    let answer = if text.is_empty() { &errors } else { &text };
    serde_json::from_str(answer).unwrap_or_else(|e| panic!("{said}: {e}: {text}{errors}"))
}

/// Runs statements as somebody does who pastes them into a shell.
async fn paste(session: &Session, text: &str) {
    let _alone = schema_lock().await;
    for statement in text.split(';') {
        let lines = statement.lines().filter(|line| !line.starts_with("--"));
        let statement = lines.collect::<Vec<_>>().join("\n");
        if statement.trim().is_empty() {
            continue;
        }
        let done = session.query_unpaged(statement.trim(), ()).await;
        done.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

fn problems(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = answer["problems"].as_array().unwrap().iter();
    all.map(|p| (text(&p["what"]), text(&p["fix"]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_printed_applied_checked_and_mended_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = cassandra();
    let keyspace = node.keyspace_name();
    let config = dir.path().join("rekeyd.toml");
    let text = format!(
        "data_dir = {:?}\n[store]\nkind = \"cassandra\"\nnodes = {:?}\nkeyspace = {keyspace:?}\nrequest_timeout_ms = 10000\n",
        dir.path(),
        node.node(),
    );
    std::fs::write(&config, text).unwrap();
    let session = SessionBuilder::new().known_node(node.node()).build().await;
    let session = session.unwrap();
    let replication = [
        "--replication",
        "{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}",
    ];
    let command = async |code: i32, arguments: &[&str]| {
        run(&config, code, &[&["schema"], arguments].concat()).await
    };

    // Nothing is there yet, and it is said what to run.
    let bare = problems(&command(CONFLICT, &["check"]).await);
    assert_eq!(bare.len(), 1, "{bare:?}");
    assert!(bare[0].0.contains(&keyspace) && bare[0].1.contains("schema apply"));
    for arguments in [&["jobs"][..], &["org", "list"], &["schema", "apply"]] {
        let error = run(&config, NOT_SET_UP, arguments).await;
        assert!(error.to_string().contains("schema apply"), "{error}");
    }

    // What is printed can be run by hand.
    let printed = command(DONE, &[&["print"], &replication[..]].concat()).await;
    assert_eq!(schema::misfit("schema-print.json", &printed), None);
    paste(&session, printed["cql"].as_str().unwrap()).await;
    let applied = {
        let _alone = schema_lock().await;
        command(DONE, &[&["apply"], &replication[..]].concat()).await
    };
    assert_eq!(schema::misfit("schema-apply.json", &applied), None);
    assert_eq!(applied["made"].as_array().unwrap().len(), 0, "{applied}");
    assert_eq!(applied["stood"].as_array().unwrap().len(), 9, "{applied}");
    // Late writes are waited for as long as the tables keep deletes.
    let mut waits = Timing::production();
    waits.drain_ms = 864_000_000;
    assert_eq!(applied["timing"], serde_json::to_value(waits).unwrap());
    assert_eq!(problems(&command(DONE, &["check"]).await), []);

    // What is forbidden is named with its table; it is left as it is, and the fix
    // that is named can be run as it stands.
    for (spoil, table, word) in [
        ("cdc = true", "cells", "CDC"),
        ("gc_grace_seconds = 3600", "data_keys", "gc_grace_seconds"),
        ("default_time_to_live = 60", "jobs", "default_time_to_live"),
    ] {
        paste(
            &session,
            &format!("ALTER TABLE {keyspace}.{table} WITH {spoil}"),
        )
        .await;
        for looks in ["check", "apply"] {
            let found = problems(&command(CONFLICT, &[looks]).await);
            assert_eq!(found.len(), 1, "{found:?}");
            let name = format!("{keyspace}.{table}");
            assert!(
                found[0].0.contains(&name) && found[0].0.contains(word),
                "{found:?}"
            );
        }
        let found = problems(&command(CONFLICT, &["check"]).await);
        paste(&session, &found[0].1).await;
        assert_eq!(problems(&command(DONE, &["check"]).await), []);
    }
    // Requests that take longer than the waits reckon with are a matter of the
    // configuration, and it is said which.
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("= 10000", "= 20000")).unwrap();
    let refused = run(&config, CONFIG, &["org", "list"]).await;
    let help = refused["error"]["help"].as_str().unwrap_or_default();
    assert!(
        help.contains("`store.request_timeout_ms` to 10000"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_looks_at_every_real_part_and_names_what_is_wrong() {
    let rig = Rig::new().await;
    let config = rig.backend.file();
    let of = |report: &Value, part: &str, state: &str| -> Vec<Value> {
        let all = report["checks"].as_array().unwrap().iter();
        let of = all.filter(|c| c["part"] == part && c["state"] == state);
        of.cloned().collect()
    };
    let report = run(&config, DONE, &["doctor"]).await;
    assert_eq!(report["wrong"], 0, "{report}");
    for part in [
        "store", "queue", "audit", "worker", "kms", "memory", "clock",
    ] {
        assert!(!of(&report, part, "ok").is_empty(), "{part}: {report}");
    }
    let store = of(&report, "store", "ok");
    assert!(
        store[0]["says"].as_str().unwrap().contains("Cassandra 5."),
        "{report}"
    );

    // A CMK that the customer has switched off.
    rig.ring.disable(&rig.new).unwrap();
    let report = run(&config, UNFIT, &["doctor"]).await;
    let wrong = of(&report, "kms", "wrong");
    assert_eq!(wrong.len(), 1, "{report}");
    assert_eq!(wrong[0]["cmk"], rig.new.as_str());
    assert!(
        wrong[0]["says"].as_str().unwrap().contains("disabled"),
        "{report}"
    );
    rig.ring.enable(&rig.new).unwrap();

    // Servers that nobody reaches: each is named, and the rest is looked at.
    let away = "127.0.0.1:1";
    rig.backend.redirect(away, away, rig.backend.kms_address());
    let report = run(&config, UNFIT, &["doctor", "--timeout", "15"]).await;
    for part in ["store", "queue"] {
        let wrong = of(&report, part, "wrong");
        assert!(!wrong.is_empty(), "{part}: {report}");
        let fix = wrong[0]["fix"].as_str().unwrap();
        assert!(!fix.is_empty(), "{part}: {report}");
    }
    assert!(!of(&report, "audit", "ok").is_empty(), "{report}");
    assert!(!of(&report, "kms", "not_checked").is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_printed_from_the_registry_on_the_cluster() {
    let rig = Rig::new().await;
    let config = rig.backend.file();
    for mode in ["reencrypt", "rewrap", "verifier"] {
        let arguments = ["iam-policy", "--org", "acme", "--mode", mode];
        let printed = run(&config, DONE, &arguments).await;
        let text = printed.to_string();
        for part in [rig.new.as_str(), "kms:EncryptionContext:organization"] {
            assert!(text.contains(part), "{mode} {part}: {text}");
        }
        let mut may = BTreeSet::new();
        allowed(&printed, &mut may);
        let calls: &[&str] = match mode {
            "reencrypt" => &[
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKey",
                "kms:GetKeyPolicy",
            ],
            "rewrap" => &[
                "kms:DescribeKey",
                "kms:GetKeyPolicy",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ],
            _ => &["kms:Decrypt"],
        };
        let calls: BTreeSet<String> = calls.iter().map(|call| (*call).to_owned()).collect();
        assert_eq!(may, calls, "{mode}: {text}");
    }
}

/// The actions that any statement in a document allows.
fn allowed(document: &Value, may: &mut BTreeSet<String>) {
    match document {
        Value::Array(all) => all.iter().for_each(|part| allowed(part, may)),
        Value::Object(parts) => {
            if parts.get("Effect").is_some_and(|effect| effect == "Allow") {
                let actions = match &parts["Action"] {
                    Value::Array(actions) => actions.as_slice(),
                    action => std::slice::from_ref(action),
                };
                may.extend(actions.iter().map(|a| a.as_str().unwrap().to_owned()));
            }
            parts.values().for_each(|part| allowed(part, may));
        }
        _ => {}
    }
}
