//! What is packaged names commands and settings that there are: Dockerfile,
//! compose.yaml, the systemd unit, the Helm chart (which `packaging/helm/check` lints).

use std::process::Command;

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_rekeyd");
const PROGRAM: &str = "/usr/local/bin/rekeyd";

fn file(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The lists of words in a text, `["a", "b"]`, each on one line.
fn lists(text: &str) -> Vec<Vec<String>> {
    let list = |line: &str| {
        let (from, to) = (line.find("[\"")?, line.rfind(']')?);
        serde_json::from_str(&line[from..=to]).ok()
    };
    text.lines().filter_map(list).collect()
}

/// The commands of rekeyd among lists of words.
fn commands(lists: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let only = |list: Vec<String>| {
        let from = list.iter().position(|word| word == PROGRAM);
        match from {
            Some(from) => Some(list[from + 1..].to_vec()),
            // What the image's entry point is given; others have no such words.
            None => list[0]
                .chars()
                .all(|c| c.is_ascii_lowercase())
                .then_some(list),
        }
    };
    lists
        .into_iter()
        .filter_map(only)
        .filter(|words| !words.is_empty())
        .collect()
}

/// A command with all that is said, short of being done.
fn is_understood(words: &[String]) {
    let output = Command::new(BINARY).args(words).arg("--help").output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
}

/// The settings of an environment, as they take effect.
fn settings(variables: &[(String, String)]) -> Value {
    assert!(!variables.is_empty());
    let mut command = Command::new(BINARY);
    command.env_clear().envs(variables.iter().cloned());
    let output = command
        .args(["config", "check", "--output", "json"])
        .output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A setting as a configuration file would have it, without quotes.
fn value<'a>(settings: &'a Value, name: &str) -> &'a str {
    let mut all = settings["settings"].as_array().unwrap().iter();
    let found = all.find(|setting| setting["name"] == name);
    let found = &found.unwrap_or_else(|| panic!("{name}: {settings}"))["value"];
    found.as_str().unwrap().trim_matches('"')
}

/// `NAME=value` or `NAME: value` of our variables, in the order of the text. Of one
/// that is given twice the first stays.
fn variables(text: &str, between: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        let Some(from) = line.find("REKEYD_") else {
            continue;
        };
        let Some((name, value)) = line[from..].split_once(between) else {
            continue;
        };
        let value = value.trim_end_matches('\\').trim().trim_matches('"');
        if found.iter().all(|(known, _)| known != name) {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn the_image_runs_a_command_with_settings_that_there_are() {
    let text = file("Dockerfile");
    let commands = commands(lists(&text));
    assert_eq!(commands, [vec!["healthcheck"], vec!["worker"]]);
    commands.iter().for_each(|words| is_understood(words));
    let settings = settings(&variables(&text, "="));
    assert_eq!(value(&settings, "log.format"), "json");
    // What the health check asks.
    assert_eq!(value(&settings, "metrics.listen"), "127.0.0.1:9464");
}

#[test]
fn the_compose_file_runs_commands_with_settings_that_there_are() {
    let text = file("compose.yaml");
    let commands = commands(lists(&text));
    for first in ["init", "kms", "healthcheck", "schema", "worker", "help"] {
        let is_there = commands.iter().any(|words| words[0] == first);
        assert!(is_there, "{first}: {commands:?}");
    }
    // `help` takes a command in place of an option.
    let all = commands.iter().filter(|words| words[0] != "help");
    all.for_each(|words| is_understood(words));
    let settings = settings(&variables(&text, ": "));
    assert_eq!(value(&settings, "store.kind"), "scylla");
    assert_eq!(value(&settings, "queue.kind"), "sqs");
    assert_eq!(value(&settings, "kms.kind"), "aws");
    // The queues that the stand-in makes, by the names that it is asked for.
    let made = file("packaging/compose/elasticmq.conf");
    for setting in ["queue.url", "queue.dead_letter_url"] {
        let url = value(&settings, setting);
        let name = url.rsplit('/').next().unwrap();
        assert!(made.contains(name), "{name}");
    }
}

#[test]
fn the_unit_starts_a_command_with_the_sample_that_it_names() {
    let text = file("packaging/rekeyd.service");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words: Vec<String> = line.unwrap().split(' ').map(str::to_owned).collect();
    assert_eq!(words[0], PROGRAM);
    is_understood(&words[1..]);
    // The credential that the unit loads is where the sample looks for it.
    let loaded = text
        .lines()
        .find_map(|line| line.strip_prefix("LoadCredential="));
    let (name, _) = loaded.unwrap().split_once(':').unwrap();
    let there = format!("/run/credentials/rekeyd.service/{name}");
    assert!(
        file("config/scylla-sqs-kms.toml").contains(&there),
        "{there}"
    );
    // What a restart does not mend: docs/cli.md has the codes.
    assert!(text.contains("RestartPreventExitStatus=2 3 4\n"));
}

/// A part of the chart.
fn chart(name: &str) -> String {
    file(&format!("packaging/helm/rekeyd/{name}"))
}

/// The text of a key of the chart's values that is written as a block.
fn block(key: &str) -> String {
    let values = chart("values.yaml");
    let after = values.split(&format!("\n{key}: |\n")).nth(1).unwrap();
    let inside = |line: &&str| line.is_empty() || line.starts_with("  ");
    after
        .lines()
        .take_while(inside)
        .map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned() + "\n")
        .collect()
}

#[test]
fn the_chart_runs_commands_with_a_configuration_that_is_understood() {
    for template in ["statefulset.yaml", "doctor.yaml"] {
        let text = chart(&format!("templates/{template}"));
        let commands = commands(lists(&text));
        assert_eq!(commands.len(), 1, "{template}");
        is_understood(&commands[0]);
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("rekeyd.toml");
    std::fs::write(&path, block("config")).unwrap();
    let mut command = Command::new(BINARY);
    command.env_clear().args(["config", "check", "--config"]);
    let output = command.arg(&path).args(["--output", "json"]).output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let settings: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value(&settings, "store.kind"), "scylla");
    assert_eq!(value(&settings, "kms.kind"), "aws");
    // Secrets are where the chart mounts them.
    assert!(value(&settings, "store.password_file").starts_with("/etc/rekeyd/secrets/"));
    assert!(chart("templates/_helpers.tpl").contains("mountPath: /etc/rekeyd/secrets\n"));
}

#[test]
fn the_charts_variables_are_settings_that_there_are() {
    let text = chart("templates/_helpers.tpl") + &chart("templates/statefulset.yaml");
    let mut variables = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((_, name)) = line.split_once("- name: REKEYD_") else {
            continue;
        };
        let (_, value) = lines.next().unwrap().split_once("value: ").unwrap();
        // What helm works out: the share of the KMS calls.
        let value = if value.starts_with("{{") { "83" } else { value };
        variables.push((format!("REKEYD_{name}"), value.to_owned()));
    }
    let settings = settings(&variables);
    assert_eq!(value(&settings, "kms.rate_per_s"), "83");
    assert_eq!(value(&settings, "log.format"), "json");
    // The port that the probes and Prometheus ask.
    assert_eq!(value(&settings, "metrics.listen"), "0.0.0.0:9464");
    assert!(chart("templates/statefulset.yaml").contains("containerPort: 9464\n"));
}
