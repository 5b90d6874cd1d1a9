//! The name of every metric, and the text that Prometheus fetches. docs/metrics.md
//! lists them.
//!
//! Labels have few values, all of them listed here: never an organization, a
//! job, a slice or a key, of which there is no end and some of which are the
//! customer's own. Those are in log lines and audit records.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// What a metric measures over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows; begins at 0 with the process.
    Counter,
    /// A value of now.
    Gauge,
    /// How values are spread.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it measures over time.
    pub kind: MetricKind,
    /// Its labels, each with every value it takes.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// What it counts or measures, with its unit.
    pub help: &'static str,
}

impl Metric {
    /// What its value is counted or measured in.
    pub fn unit(&self) -> &'static str {
        match self.name {
            BUILD_INFO | READY | SERVICE_HEALTHY => "0 or 1",
            name if name.ends_with("_seconds") => "seconds",
            _ => "count",
        }
    }

    /// The names of its series: a histogram has three.
    pub fn series(&self) -> Vec<String> {
        match self.kind {
            MetricKind::Histogram => ["_bucket", "_sum", "_count"]
                .map(|end| self.name.to_owned() + end)
                .to_vec(),
            _ => vec![self.name.to_owned()],
        }
    }
}

macro_rules! metrics {
    ($($const:ident $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $const: &str = $name;)*

        /// Every metric of rekeyd.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: MetricKind::$kind, labels: $labels, help: $help },)*
        ];
    };
}

const OPERATIONS: &[&str] = &[
    "GenerateDataKey",
    "Decrypt",
    "ReEncrypt",
    "DescribeKey",
    "GetKeyPolicy",
];
const OUTCOMES: &[&str] = &["ok", "transient", "blocked", "quarantined", "fatal"];

metrics! {
    BUILD_INFO Gauge "rekeyd_build_info" &[("version", &[env!("CARGO_PKG_VERSION")])],
        "Always 1; its label is the version that runs.";
    READY Gauge "rekeyd_ready" &[],
        "1 while /readyz says ready: its loops move, and store and queue have answered lately; else 0.";

    ROWS Counter "rekeyd_rows_total"
        &[("result", &["rewritten", "current", "changed", "expired", "empty", "blocked", "quarantined"])],
        "Rows scanned, by what became of them.";
    SLICES Counter "rekeyd_slices_total" &[("result", &["done", "blocked"])],
        "Slices worked on, by how they ended.";
    CHECKPOINTS Counter "rekeyd_checkpoints_total" &[], "Checkpoints made durable.";

    STORE_READ_SECONDS Histogram "rekeyd_store_read_seconds" &[],
        "How long a read of a page of cells took, in seconds.";
    STORE_WRITE_SECONDS Histogram "rekeyd_store_write_seconds" &[],
        "How long a write of a batch of cells took, in seconds.";
    STORE_ERRORS Counter "rekeyd_store_errors_total"
        &[("class", &["transient", "invalid"])],
        "Errors of the store that the worker went on after, by class.";

    KMS_CALLS Counter "rekeyd_kms_calls_total"
        &[("operation", OPERATIONS), ("outcome", OUTCOMES)],
        "Calls to a KMS, each attempt counted.";
    KMS_CALL_SECONDS Histogram "rekeyd_kms_call_seconds" &[("operation", OPERATIONS)],
        "How long a call to a KMS took, in seconds.";
    KMS_IN_FLIGHT Gauge "rekeyd_kms_calls_in_flight" &[], "Calls to a KMS under way.";
    KMS_THROTTLED Counter "rekeyd_kms_throttled_total" &[],
        "Calls that a KMS answered with throttling.";

    THROTTLES Gauge "rekeyd_throttles" &[("state", &["in_effect", "unreadable"])],
        "Throttles of operators as this worker last read them.";
    THROTTLE_WAIT_SECONDS Histogram "rekeyd_throttle_wait_seconds" &[("what", &["rows", "kms"])],
        "How long a page of rows or a call to a KMS was held back by an operator's throttle, in seconds.";

    SERVICE_HEALTHY Gauge "rekeyd_service_healthy" &[],
        "1 while worker.health_url lets the worker go on, 0 while it holds it; absent without one.";

    QUEUE_MESSAGES Counter "rekeyd_queue_messages_total"
        &[("result", &["recorded", "duplicate", "refused", "error"])],
        "Messages received, by what became of them.";
    JOB_TRANSITIONS Counter "rekeyd_job_transitions_total"
        &[("to", &["queued", "preflight", "activating", "settling", "rewriting", "verifying",
            "verified", "draining", "drained", "blocked", "failed", "cancelled"])],
        "Changes of a job's state, by the state it came to.";
    JOBS Gauge "rekeyd_jobs"
        &[("state", &["queued", "preflight", "activating", "settling", "rewriting", "verifying",
            "verified", "draining", "blocked", "paused"])],
        "Unfinished jobs by state, as this worker last read them; every worker shows the same.";
    JOBS_UNATTENDED Gauge "rekeyd_jobs_unattended" &[],
        "Unfinished jobs that have something to do now and that no worker drives.";
    OLDEST_UNATTENDED_SECONDS Gauge "rekeyd_oldest_unattended_job_seconds" &[],
        "Of the jobs that have something to do now and that no worker drives: seconds since the first of them came to its state, was due or lost its worker, whichever was last; 0 if there is none.";
    VERDICTS_BLOCKED Gauge "rekeyd_verdicts_blocked" &[],
        "Jobs whose verdict is held up by blocked slices or quarantined cells: their old CMK must not be disabled.";
    BLOCKED_SLICES Gauge "rekeyd_blocked_slices" &[],
        "Slices of unfinished jobs that wait for a key, as their jobs last counted them.";
    OLDEST_LEASE_SECONDS Gauge "rekeyd_oldest_lease_age_seconds" &[],
        "Of the jobs that are driven: seconds since the lease was renewed that was renewed longest ago.";
    TASKS_WAITING Gauge "rekeyd_tasks_waiting" &[],
        "Tasks that have something to do now and that no worker holds, as this worker last counted them; every worker shows about the same. Of the first 200 jobs that have any.";
    TASKS_HELD Gauge "rekeyd_tasks_held" &[], "Tasks this process holds a lease on.";
    TASKS_TAKEN_OVER Counter "rekeyd_tasks_taken_over_total" &[],
        "Tasks taken over from a worker whose lease ran out.";
    LEASES_LOST Counter "rekeyd_leases_lost_total" &[],
        "Leases this process lost before it was done.";

    AUDIT_RECORDS Counter "rekeyd_audit_records_total" &[], "Audit records written.";
    AUDIT_SYNC_SECONDS Histogram "rekeyd_audit_sync_seconds" &[],
        "How long a sync of the audit log took, in seconds.";
    AUDIT_FAILURES Counter "rekeyd_audit_failures_total" &[],
        "Failures of the audit log; after the first the process stops.";
}

/// How often what was counted is put together.
const UPKEEP: Duration = Duration::from_secs(5);

/// Upper ends of the histogram buckets, seconds: from a sync on a fast disk to a
/// KMS that is about to time out.
const SECONDS: [f64; 15] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// The metrics cannot be counted.
#[derive(Debug, thiserror::Error)]
#[error("the metrics cannot be counted: {0}")]
pub struct MetricsError(#[from] BuildError);

/// What was counted, ready to be fetched. Cheap to clone.
#[derive(Clone)]
pub struct Exposition(PrometheusHandle);

impl Exposition {
    /// The content type of [`Exposition::text`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        self.0.render()
    }

    /// Keeps what is held for the next fetch small, also where nobody fetches.
    /// Never returns.
    pub async fn keep_small(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.0.run_upkeep();
        }
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
}

/// Begins to count. Without this call nothing is counted.
///
/// # Errors
/// If it was called before.
pub fn install() -> Result<Exposition, MetricsError> {
    let handle = builder()?.install_recorder()?;
    describe();
    Ok(Exposition(handle))
}

/// Tells the recorder what each metric is, and begins the counters at 0, so that
/// an alert on a rise sees the first one.
fn describe() {
    for metric in METRICS {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
        if metric.kind == MetricKind::Counter {
            for labels in combinations(metric.labels) {
                metrics::counter!(metric.name, &labels).absolute(0);
            }
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

type Labels = Vec<(&'static str, &'static str)>;

fn combinations(labels: &[(&'static str, &'static [&'static str])]) -> Vec<Labels> {
    labels
        .iter()
        .fold(vec![Vec::new()], |all, (label, values)| {
            all.iter()
                .flat_map(|so_far: &Labels| {
                    values.iter().map(move |value| {
                        let mut next = so_far.clone();
                        next.push((*label, *value));
                        next
                    })
                })
                .collect()
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(name.starts_with("rekeyd_"), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{name}"
            );
            if metric.kind == MetricKind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(
                combinations(metric.labels).len() <= 32,
                "{name} has too many series"
            );
        }
    }

    #[test]
    fn every_metric_is_described_and_every_counter_begins_at_zero() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::counter!(ROWS, "result" => "rewritten").increment(7);
            metrics::histogram!(KMS_CALL_SECONDS, "operation" => "Decrypt").record(0.02);
        });
        let text = handle.render();
        for metric in METRICS.iter().filter(|m| m.kind == MetricKind::Counter) {
            let series = text.lines().filter(|l| {
                l.strip_prefix(metric.name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert_eq!(
                series.count(),
                combinations(metric.labels).len(),
                "{}",
                metric.name
            );
            assert!(
                text.contains(&format!("# HELP {} {}", metric.name, metric.help)),
                "{text}"
            );
            assert!(
                text.contains(&format!("# TYPE {} counter", metric.name)),
                "{text}"
            );
        }
        assert!(
            text.contains("rekeyd_rows_total{result=\"rewritten\"} 7"),
            "{text}"
        );
        assert!(
            text.contains("rekeyd_rows_total{result=\"blocked\"} 0"),
            "{text}"
        );
        let bucket = "rekeyd_kms_call_seconds_bucket{operation=\"Decrypt\",le=\"0.025\"} 1";
        assert!(text.contains(bucket), "{text}");
    }

    /// A state that is new would be left out.
    #[test]
    fn the_states_of_jobs_are_those_there_are() {
        use crate::job::JobState;
        let values = |name| {
            let metric = METRICS.iter().find(|m| m.name == name).unwrap();
            let values = metric.labels[0].1.iter().copied();
            values.collect::<BTreeSet<&str>>()
        };
        let states = |which: fn(&JobState) -> bool| {
            let states = JobState::ALL.into_iter().filter(which);
            states.map(JobState::as_str).collect::<BTreeSet<&str>>()
        };
        assert_eq!(values(JOBS), states(|state| !state.is_final()));
        // Only operators pause and retire.
        let by_workers = states(|state| !matches!(state, JobState::Paused | JobState::Retired));
        assert_eq!(values(JOB_TRANSITIONS), by_workers);
    }

    /// A metric that nothing counts would show a zero that is no measurement.
    #[test]
    fn every_metric_is_measured_somewhere() {
        fn sources(dir: &std::path::Path, all: &mut String) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    sources(&path, all);
                } else if !path.ends_with("telemetry/metrics.rs") {
                    all.push_str(&std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut all = String::new();
        sources(std::path::Path::new(root), &mut all);
        let mut seen = 0;
        for line in include_str!("metrics.rs").lines() {
            let mut words = line.trim().split(' ');
            let (Some(name), Some("Counter" | "Gauge" | "Histogram")) =
                (words.next(), words.next())
            else {
                continue;
            };
            seen += 1;
            let measured = ["counter!(", "gauge!(", "histogram!("]
                .iter()
                .any(|kind| all.contains(&format!("{kind}{name}")));
            assert!(measured || name == "BUILD_INFO", "nothing measures {name}");
        }
        assert_eq!(seen, METRICS.len());
    }
}
