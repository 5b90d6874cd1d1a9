//! What commands print for programs, against docs/schemas: each command once, on
//! one small store, and each that only looks again in every situation of every
//! page that is played.

use rekeyd::cli::reference;
use serde_json::Value;

use crate::schema;
use crate::shell::Shell;

/// Commands that change nothing and end by themselves: whenever a page shows
/// one, it is run once more for programs.
const LOOK: [&str; 26] = [
    "audit reconcile",
    "audit verify",
    "config check",
    "dlq list",
    "dlq show",
    "doctor",
    "explain",
    "failures",
    "history",
    "inspect",
    "jobs",
    "kms deny list",
    "kms fault list",
    "kms list",
    "kms log",
    "org list",
    "org show",
    "plan move",
    "plan rekey",
    "report",
    "schema check",
    "schema job",
    "status",
    "throttle show",
    "verify",
    "workers",
];

/// Prints text only.
const WITHOUT_JSON: &str = "demo";
/// Held to their schemas by other tests, since they run for long or need a cluster.
const ELSEWHERE: [(&str, &str); 3] = [
    ("chaos", "tests/chaos"),
    ("schema print", "tests/real"),
    ("schema apply", "tests/real"),
];

/// Each command once: how it ends, and the line. What does not begin with
/// `rekeyd` sets the scene.
const ONCE: &[(i32, &str)] = &[
    (0, "rekeyd init --timing demo"),
    (
        0,
        "OLD=$(rekeyd kms create-key); NEW=$(rekeyd kms create-key)",
    ),
    (0, "rekeyd kms create-key"),
    (0, "rekeyd org add acme --cmk $OLD"),
    (0, "rekeyd org allow-cmk acme $NEW"),
    (
        0,
        "rekeyd import slack-export examples/slack-export --org acme --workspace w1",
    ),
    (0, "rekeyd org add other --cmk $OLD"),
    (0, "TOMORROW=$(date -u -d tomorrow +%FT%TZ)"),
    (
        0,
        "rekeyd org consent-move acme --from acme/w1/C0GENERAL --to other/w1/C0GENERAL --until $TOMORROW",
    ),
    (0, "rekeyd org list"),
    (0, "rekeyd org show acme"),
    (0, "rekeyd kms latency 0"),
    (0, "rekeyd kms throttle 5000"),
    (
        0,
        "rekeyd kms fault set slow --operation Decrypt --latency-ms 1",
    ),
    (
        0,
        "rekeyd kms fault set away --operation Decrypt --error X --caller nobody",
    ),
    (0, "rekeyd kms fault list"),
    (0, "rekeyd kms fault clear slow"),
    (
        0,
        "rekeyd kms deny add other --cmk $OLD --operation Decrypt --caller nobody",
    ),
    (0, "rekeyd kms deny add hold --context channel=C0SUPPORT"),
    (0, "rekeyd kms deny list"),
    (0, "rekeyd kms deny remove other"),
    (0, "SPARE=$(rekeyd kms create-key)"),
    (0, "rekeyd kms schedule-deletion $SPARE --days 7"),
    (0, "rekeyd kms list"),
    (0, "rekeyd kms cancel-deletion $SPARE"),
    (0, "rekeyd kms enable $SPARE"),
    (0, "rekeyd kms disable $SPARE"),
    (0, "rekeyd kms log"),
    // One that is refused, one that will be blocked, one that moves.
    (0, "rekeyd plan rekey --org acme --to $NEW"),
    (
        0,
        "rekeyd plan move --org acme --from w1/C0GENERAL --to w2/C0ALL",
    ),
    (6, "rekeyd plan rekey --org acme --to $SPARE"),
    (
        0,
        "rekeyd policy revoke --org acme --channel C0SUPPORT --from 2026-03-01 --to 2026-03-02T12:00 --tz Europe/Berlin",
    ),
    (0, "rekeyd enqueue rekey --org acme --to $SPARE --unchecked"),
    (
        0,
        "JOB=$(rekeyd enqueue rekey --org acme --to $NEW --reason why | head -n 1)",
    ),
    (
        0,
        "MOVE=$(rekeyd enqueue move --org acme --from w1/C0GENERAL --to w2/C0ALL | head -n 1)",
    ),
    (
        0,
        "rekeyd enqueue move --org acme --from w1/C9 --to w2/C9 --unchecked",
    ),
    (5, "rekeyd status $JOB"),
    (
        0,
        "rekeyd worker --ui 127.0.0.1:0 --output json >worker.json 2>worker.log &",
    ),
    (
        0,
        "until rekeyd jobs --kind rekey --state blocked | grep -q \"$JOB\"; do sleep 0.1; done",
    ),
    (0, "cat worker.json # worker"),
    (0, "rekeyd workers"),
    (
        0,
        "rekeyd throttle set --job $JOB --rows-per-s 5 --kms-per-s 100 --tasks 1 --for 1h --reason x",
    ),
    (0, "rekeyd throttle show"),
    (0, "rekeyd status $JOB"),
    (0, "rekeyd throttle clear --job $JOB"),
    (0, "rekeyd failures $JOB"),
    (0, "rekeyd retry $JOB --blocked --reason x"),
    (0, "rekeyd pause $JOB --reason x"),
    (0, "rekeyd status $JOB"),
    (0, "rekeyd jobs --all"),
    (0, "rekeyd resume $JOB --reason x"),
    (0, "rekeyd history $JOB"),
    (0, "rekeyd report $JOB"),
    (0, "rekeyd report new-key report.key"),
    (0, "export REKEYD_REPORT__SIGNING_KEY_FILE=report.key"),
    (0, "rekeyd report $JOB --output json >report.json"),
    (0, "cat report.json # report"),
    (0, "rekeyd report check report.json"),
    (0, "rekeyd cancel $JOB --reason x"),
    (0, "rekeyd status $MOVE"),
    (0, "rekeyd jobs"),
    (8, "rekeyd verify --org acme"),
    (8, "rekeyd verify --org acme --sample 1000"),
    (
        8,
        "rekeyd verify --org acme --resume scan.json --rows-per-s 1000",
    ),
    (8, "rekeyd verify --job $JOB"),
    (
        0,
        "MESSAGE=$(rekeyd dlq list | tail -n 1 | cut -d ' ' -f 3)",
    ),
    (0, "rekeyd dlq list"),
    (0, "rekeyd dlq show $MESSAGE"),
    (0, "rekeyd dlq redrive $MESSAGE"),
    (
        0,
        "rekeyd inspect --org acme --channel C0SUPPORT --hour 2026-03-02T09 --record-text 1772443000.000100",
    ),
    (0, "rekeyd restore-window open acme --reason x"),
    (0, "rekeyd org show acme"),
    (6, "rekeyd restore-window open acme --reason x"),
    (0, "rekeyd restore-window close acme --reason x"),
    (0, "rekeyd audit verify"),
    (0, "rekeyd kms log --cloudtrail trail.json"),
    (
        0,
        "rekeyd audit reconcile --cloudtrail trail.json --slack 0",
    ),
    (0, "rekeyd config check"),
    (0, "rekeyd doctor"),
    (0, "rekeyd iam-policy --org acme --mode reencrypt"),
    (
        0,
        "rekeyd iam-policy --org acme --mode rewrap --to $NEW --role-arn arn:aws:iam::111122223333:role/r --external-id 4711 --queue-arn arn:aws:sqs:eu-west-1:111122223333:q --dead-letter-arn arn:aws:sqs:eu-west-1:111122223333:d",
    ),
    // A rekey that comes to its end, once nothing holds the move.
    (0, "rekeyd kms deny remove hold"),
    (0, "rekeyd kms enable $SPARE"),
    (0, "rekeyd org allow-cmk acme $SPARE"),
    (
        0,
        "until rekeyd jobs --org acme | grep -q 'no unfinished jobs'; do sleep 0.1; done",
    ),
    (
        0,
        "LAST=$(rekeyd enqueue rekey --org acme --to $SPARE | head -n 1)",
    ),
    (
        0,
        "until rekeyd jobs --all | grep $LAST | grep -q drained; do sleep 0.1; done",
    ),
    (6, "rekeyd retire $LAST --dry-run"),
    (0, "export REKEYD_RETIRE__WAIT_S=0"),
    (0, "rekeyd retire $LAST --dry-run"),
    (2, "rekeyd retire $LAST"),
    (0, "rekeyd retire $LAST --confirm acme"),
    (6, "rekeyd retire $LAST --confirm acme"),
    (0, "rekeyd status $LAST"),
    (0, "rekeyd explain"),
    (0, "rekeyd completions bash"),
    (0, "rekeyd man"),
    (0, "rekeyd man --dir man"),
    (0, "rekeyd schema check"),
    (0, "rekeyd schema job"),
    (
        0,
        "rekeyd kms serve --listen 127.0.0.1:0 --output json >serve.json 2>serve.log &",
    ),
    (0, "until test -s serve.json; do sleep 0.1; done"),
    (0, "cat serve.json # kms serve"),
    (0, "SERVED=$(grep -o '127[^\"]*' serve.json)"),
    (0, "rekeyd healthcheck --answers $SERVED"),
];

fn file_of(command: &str) -> String {
    format!("{}.json", command.replace(' ', "-"))
}

/// The command of a line, if it is a plain one of ours.
fn command_of(line: &str) -> Option<String> {
    let rest = line.strip_prefix("rekeyd ")?;
    if rest.contains(['|', '&', ';', '<', '>', '`']) || rest.contains("$(") {
        return None;
    }
    let of_line = |command: &String| {
        rest.strip_prefix(command.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\\']))
    };
    // `report check` is not `report`.
    let commands = reference::commands().into_iter();
    commands.filter(of_line).max_by_key(String::len)
}

/// What is wrong with what a command printed for programs.
fn wrong_with(command: &str, printed: &str) -> Option<String> {
    let value: Value = match serde_json::from_str(printed.trim()) {
        Ok(value) => value,
        Err(error) => return Some(format!("not one JSON document: {error}")),
    };
    let file = match value.get("error") {
        Some(_) => "error.json".to_owned(),
        None => file_of(command),
    };
    schema::misfit(&file, &value)
}

/// Runs a page's command once more, for programs, and tells what is wrong with
/// what it prints; `None` for a command that does more than look.
pub fn look_again(shell: &mut Shell, line: &str) -> Option<Option<String>> {
    let line = line.split(" | ").next().unwrap_or_default();
    let command = command_of(line).filter(|command| LOOK.contains(&command.as_str()))?;
    if line.contains("--wait") || line.contains("--watch") {
        return None;
    }
    let ended = shell.run(&format!("{line} --output json"), false)?;
    let wrong = wrong_with(&command, &ended.printed);
    Some(wrong.map(|wrong| format!("{line} --output json: {wrong}")))
}

#[test]
fn every_command_prints_what_its_schema_says() {
    let (dir, stage) = crate::stage();
    let mut shell = Shell::start(&stage, dir.path());
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for (exit, line) in ONCE {
        let noted = line
            .split_once(" # ")
            .map(|(_, command)| command.to_owned());
        let command = command_of(line);
        let line = match &command {
            Some(_) => format!("{line} --output json"),
            None => (*line).to_owned(),
        };
        let ended = shell
            .run(&line, false)
            .unwrap_or_else(|| panic!("has no end: {line}"));
        if ended.exit != *exit {
            let said = &ended.printed;
            wrong.push(format!(
                "{line}: ended with {}, not {exit}\n{said}",
                ended.exit
            ));
        }
        if let Some(command) = command.or(noted) {
            wrong
                .extend(wrong_with(&command, &ended.printed).map(|what| format!("{line}: {what}")));
            seen.push(command);
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));

    let commands = reference::commands();
    for command in &commands {
        let elsewhere = ELSEWHERE.iter().any(|(name, _)| name == command);
        assert!(
            (elsewhere || command == WITHOUT_JSON) != seen.contains(command),
            "`rekeyd {command}` is to be run here, or to stand among those that are not"
        );
    }
    for (command, tests) in ELSEWHERE {
        let held = format!("\"{}\"", file_of(command));
        let folder = std::fs::read_dir(crate::root().join(tests)).unwrap();
        let mut texts = folder.map(|entry| std::fs::read_to_string(entry.unwrap().path()));
        assert!(
            texts.any(|text| text.is_ok_and(|text| text.contains(&held))),
            "{tests} is to hold `rekeyd {command}` to its schema"
        );
    }
    for name in LOOK {
        assert!(seen.iter().any(|command| command == name), "{name}");
    }
    for entry in std::fs::read_dir(schema::folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let of_command = commands.iter().any(|command| file_of(command) == name);
        assert!(
            of_command || ["common.json", "error.json"].contains(&name.as_str()),
            "docs/schemas/{name} is of no command"
        );
    }
}

#[test]
fn a_field_that_is_missing_new_or_of_another_kind_is_told() {
    let good = r#"{"cmks": [{"cmk": "arn:aws:kms:local:0:key/a", "created_ms": 1,
                   "deletion_ms": null, "state": "enabled"}]}"#;
    assert_eq!(wrong_with("kms list", good), None);
    for (from, to) in [
        ("\"created_ms\"", "\"made_ms\""),
        ("\"created_ms\": 1,", ""),
        ("null", "\"never\""),
        ("arn:aws:kms", "alias"),
        ("1,", "-1,"),
        ("]}", "]} {}"),
        ("{\"cmks\"", "{\"more\": 1, \"cmks\""),
    ] {
        assert!(
            wrong_with("kms list", &good.replace(from, to)).is_some(),
            "{from}"
        );
    }
}
