//! What is handed to Prometheus and Grafana names metrics, labels and runbooks
//! that there are, and docs/metrics.md has them all.
//! `UPDATE_DOCS=1 cargo test --test suite monitoring` writes the tables of that page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex_lite::Regex;
use rekeyd::clock::Clock;
use rekeyd::job::{BlockedSlice, JobState, Lease, Pass, Round, TaskState};
use rekeyd::telemetry::metrics::{METRICS, Metric, MetricKind};
use rekeyd::worker::{COUNTED_JOBS, waiting_tasks};
use serde_json::Value;

use crate::page::{Site, task};

const PAGE: &str = "docs/metrics.md";
const ALERTS: &str = "packaging/prometheus/alerts.yaml";
const DASHBOARD: &str = "packaging/grafana/rekeyd.json";
/// Where runbooks are, until somebody puts in their own place.
const RUNBOOKS: &str = "https://rekeyd.example/";

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One alert, as its lines say.
#[derive(Default)]
struct Alert {
    name: String,
    expr: String,
    severity: String,
    annotations: BTreeMap<String, String>,
}

impl Alert {
    fn runbook(&self) -> &str {
        let url = self.annotations.get("runbook_url").map_or("", |u| u);
        url.strip_prefix(RUNBOOKS)
            .unwrap_or_else(|| panic!("{}: its runbook_url is `{url}`", self.name))
    }
}

/// The alerts of our file. It is read by lines, as we write it; whether it is good
/// YAML and good PromQL is for promtool to say, in `.ci/run`.
fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let text = file(ALERTS);
    let mut lines = text.lines().map(str::trim).peekable();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert {
                name: name.to_owned(),
                ..Alert::default()
            });
        }
        let (Some((key, value)), Some(alert)) = (line.split_once(": "), alerts.last_mut()) else {
            continue;
        };
        match key {
            "expr" if value == ">-" => {
                while let Some(more) = lines.next_if(|line| !line.starts_with("for:")) {
                    alert.expr += more;
                    alert.expr += " ";
                }
            }
            "expr" => alert.expr = value.to_owned(),
            "labels" => {
                let severity = value.strip_prefix("{severity: ");
                let severity = severity.and_then(|rest| rest.strip_suffix('}'));
                alert.severity = severity.unwrap_or(value).to_owned();
            }
            "summary" | "description" | "runbook_url" => {
                let twice = alert.annotations.insert(key.to_owned(), value.to_owned());
                assert!(twice.is_none(), "{}: {key} stands twice", alert.name);
            }
            _ => {}
        }
    }
    alerts
}

/// The panels of the dashboard, and their expressions.
fn dashboard() -> Vec<(Value, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&file(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let expressions = |panel: &Value| -> Vec<String> {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets
            .map(|target| target["expr"].as_str().unwrap().to_owned())
            .collect()
    };
    panels.map(|p| (p.clone(), expressions(p))).collect()
}

fn of_series(series: &str) -> Option<&'static Metric> {
    METRICS
        .iter()
        .find(|metric| metric.series().iter().any(|name| name == series))
}

/// What is wrong with an expression, and which metrics it names.
fn look_at(expr: &str) -> (Vec<String>, BTreeSet<&'static str>) {
    let (mut wrong, mut named) = (Vec::new(), BTreeSet::new());
    // Of whoever fetches; `le` is of histograms.
    let around = ["job", "instance", "le"];
    let selector = Regex::new(r"\b([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"([a-z_]+)(?:=~|!~|!=|=)"([^"]*)""#).unwrap();
    for found in selector.captures_iter(expr) {
        let name = &found[1];
        let matchers = found.get(2).map_or("", |m| m.as_str());
        if !name.starts_with("rekeyd_") {
            if found.get(2).is_some() && name != "up" {
                wrong.push(format!("{name} is none of ours"));
            }
            continue;
        }
        let Some(metric) = of_series(name) else {
            wrong.push(format!("there is no {name}"));
            continue;
        };
        named.insert(metric.name);
        for found in matcher.captures_iter(matchers) {
            let (label, values) = (&found[1], &found[2]);
            match metric.labels.iter().find(|(of, _)| *of == label) {
                Some((_, there)) => wrong.extend(
                    values
                        .split('|')
                        .filter(|value| !there.contains(value))
                        .map(|value| format!("{name} has no {label}=\"{value}\"")),
                ),
                None if around.contains(&label) => {}
                None => wrong.push(format!("{name} has no label {label}")),
            }
        }
    }
    let by = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    for found in by.captures_iter(expr) {
        for label in found[1].split(", ").filter(|label| !around.contains(label)) {
            let has = |name: &&&str| {
                let metric = METRICS.iter().find(|m| m.name == **name).unwrap();
                metric.labels.iter().any(|(of, _)| *of == label)
            };
            if named.iter().find(has).is_none() {
                wrong.push(format!("nothing in it has the label {label}"));
            }
        }
    }
    (wrong, named)
}

#[test]
fn monitoring_alerts_name_what_there_is() {
    let alerts = alerts();
    assert!(
        alerts.len() >= 15,
        "only {} alerts were found",
        alerts.len()
    );
    let mut names = BTreeSet::new();
    for alert in &alerts {
        let name = &alert.name;
        assert!(name.starts_with("Rekeyd") && names.insert(name), "{name}");
        let (wrong, named) = look_at(&alert.expr);
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        let of_scraping = alert.expr.contains("up{job=\"rekeyd\"}");
        assert!(of_scraping || !named.is_empty(), "{name}: {}", alert.expr);
        assert!(
            ["page", "ticket"].contains(&alert.severity.as_str()),
            "{name}: severity `{}`",
            alert.severity
        );
        let said: Vec<&str> = alert.annotations.keys().map(String::as_str).collect();
        assert_eq!(said, ["description", "runbook_url", "summary"], "{name}");
        let runbook = alert.runbook();
        assert!(runbook.starts_with("runbooks/"), "{name}: {runbook}");
        assert!(!file(runbook).is_empty());
    }
}

#[test]
fn monitoring_dashboard_shows_every_metric_and_no_other() {
    let panels = dashboard();
    let mut shown = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (panel, expressions) in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let at = &panel["gridPos"];
        let right = at["x"].as_u64().unwrap() + at["w"].as_u64().unwrap();
        assert!(right <= 24, "{title} is too wide");
        assert_eq!(panel["type"] == "row", expressions.is_empty(), "{title}");
        for expr in expressions {
            // What the dashboard fills in is not of a metric.
            let (wrong, named) = look_at(&expr.replace("job=~\"$job\"", "job=\"rekeyd\""));
            assert!(wrong.is_empty(), "{title}: {wrong:?}");
            assert!(!named.is_empty(), "{title}: {expr}");
            shown.extend(named);
        }
    }
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let left_out: Vec<&&str> = all.difference(&shown).collect();
    assert!(left_out.is_empty(), "no panel shows {left_out:?}");
}

#[test]
fn monitoring_with_a_wrong_name_is_found_out() {
    for good in [
        "sum(rate(rekeyd_rows_total{result=\"rewritten\"}[5m]))",
        "histogram_quantile(0.9, sum by (le) (rate(rekeyd_kms_call_seconds_bucket[5m])))",
        "up{job=\"rekeyd\"} == 0",
    ] {
        assert_eq!(look_at(good).0, Vec::<String>::new(), "{good}");
    }
    for bad in [
        "rekeyd_row_total",
        "rekeyd_kms_call_seconds",
        "rekeyd_rows_total_bucket",
        "rekeyd_rows_total{result=\"lost\"}",
        "rekeyd_rows_total{result=~\"rewritten|lost\"}",
        "rekeyd_rows_total{org=\"acme\"}",
        "sum by (operation) (rekeyd_rows_total)",
        "node_load1{job=\"rekeyd\"}",
    ] {
        assert!(!look_at(bad).0.is_empty(), "{bad}");
    }
}

fn table_of_metrics() -> String {
    let mut table =
        "| metric | type | unit | labels | what it is |\n|---|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels = metric.labels.iter().map(|(label, values)| match *label {
            // Otherwise each release would change the page.
            "version" => "`version`: one".to_owned(),
            label => format!("`{label}`: {}", values.join(", ")),
        });
        table += &format!(
            "| `{}` | {kind} | {} | {} | {} |\n",
            metric.name,
            metric.unit(),
            labels.collect::<Vec<_>>().join("; "),
            metric.help
        );
    }
    table
}

fn table_of_alerts() -> String {
    let mut table = "| alert | severity | runbook |\n|---|---|---|\n".to_owned();
    for alert in alerts() {
        let runbook = alert.runbook();
        let title = file(runbook);
        let title = title.lines().next().unwrap().trim_start_matches("# ");
        table += &format!(
            "| `{}`: {} | {} | [{title}](../{runbook}) |\n",
            alert.name,
            // The description: a summary has values filled in.
            alert.annotations["description"],
            alert.severity,
        );
    }
    table
}

#[test]
fn monitoring_docs_have_every_metric_and_alert_as_it_is() {
    let mut text = file(PAGE);
    for table in [table_of_metrics(), table_of_alerts()] {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let head = table.lines().next().unwrap();
            let from = text.find(head).unwrap();
            let old: usize = text[from..]
                .split_inclusive('\n')
                .take_while(|line| line.starts_with('|'))
                .map(str::len)
                .sum();
            text.replace_range(from..from + old, &table);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
            std::fs::write(path, &text).unwrap();
        }
        assert!(
            text.contains(&table),
            "{PAGE} should have this table; UPDATE_DOCS=1 cargo test --test suite monitoring \
             writes it:\n{table}"
        );
    }
    let first = format!("the first {COUNTED_JOBS} jobs");
    let waiting = METRICS.iter().find(|m| m.name == "rekeyd_tasks_waiting");
    assert!(waiting.unwrap().help.contains(&first) && text.contains(&first));
}

#[tokio::test]
async fn monitoring_counts_the_tasks_that_wait() {
    let site = Site::new().await;
    let now = site.clock.wall();
    let mut job = site.job("acme", "").await;
    let id = job.row.request.job_id();
    job.row.state = JobState::Rewriting;
    job.row.round = Some(Round {
        number: 1,
        pass: Pass::Rewrite,
        tasks: Some(5),
        slices: 50,
    });
    let lease = |until_ms| {
        Some(Lease {
            worker: "w".to_owned(),
            until_ms,
            waits: None,
            intake_waits: None,
            slowed: None,
        })
    };
    let parked = |retry_ms| {
        let mut row = task("c1", 10, 9);
        row.state = TaskState::Parked;
        row.blocked = vec![BlockedSlice {
            slice: row.from.clone(),
            code: "revoked".to_owned(),
            message: String::new(),
            after: None,
            counts: Default::default(),
            tries: 1,
            retry_ms,
        }];
        row
    };
    let [free, mut held, mut lapsed, mut done] = [0; 4].map(|_| task("c1", 10, 0));
    held.lease = lease(now.unix_ms() + 1);
    lapsed.lease = lease(now.unix_ms());
    done.state = TaskState::Done;
    let (waits, due) = (parked(now.unix_ms() + 1), parked(now.unix_ms()));
    let tasks = [free, held, lapsed, done, waits, due];
    site.book.add_tasks(id, 1, 0, &tasks).await.unwrap();
    let count = async |jobs: &[_]| waiting_tasks(&site.book, jobs, now).await.unwrap();
    let jobs = [job];
    // The free one, the one whose lease has run out, the one whose slice is due.
    assert_eq!(count(&jobs).await, 3);
    let [mut job] = jobs;
    job.row.state = JobState::Paused;
    assert_eq!(count(&[job]).await, 0);
    assert_eq!(count(&[]).await, 0);
}
