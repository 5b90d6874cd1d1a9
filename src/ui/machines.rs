//! What a worker answers to machines: `/metrics` to Prometheus, `/healthz` and
//! `/readyz` to whoever starts and watches processes.
//!
//! `/healthz` fails when a restart would help: a loop of the worker does not move.
//! `/readyz` fails while the worker cannot work: it has not read the waits of the
//! store yet, or store or queue have not answered lately. Killing it for that
//! would not help.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use crate::telemetry::metrics::{Exposition, READY};
use crate::telemetry::pulse::{AWAY_AFTER, Age, Pulse, STUCK_AFTER};
use crate::telemetry::waiting::Waiting;

/// A worker as machines are told of it.
#[derive(Clone)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Whether its loops move.
    pub pulse: Pulse,
    /// What it waits for.
    pub waiting: Waiting,
}

/// What the port answers from. The worker is filled in when its parts stand.
#[derive(Clone)]
pub struct Machines {
    /// The metrics.
    pub exposition: Exposition,
    /// The worker, once it has read the waits of the store.
    pub worker: Arc<OnceLock<Running>>,
}

/// The routes.
pub fn router(machines: Machines) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .merge(probes(machines.worker.clone()))
        .with_state(machines)
}

/// The routes of the probes alone.
pub fn probes<S: Clone + Send + Sync + 'static>(worker: Arc<OnceLock<Running>>) -> Router<S> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(worker)
}

async fn metrics(State(machines): State<Machines>) -> impl IntoResponse {
    let worker = machines.worker.get();
    let ready = worker.is_some_and(|running| running.pulse.unready().is_empty());
    metrics::gauge!(READY).set(f64::from(u8::from(ready)));
    let kind = HeaderValue::from_static(Exposition::CONTENT_TYPE);
    ([(header::CONTENT_TYPE, kind)], machines.exposition.text())
}

async fn healthz(State(worker): State<Arc<OnceLock<Running>>>) -> impl IntoResponse {
    let (loops, stuck) = match worker.get() {
        Some(running) => (running.pulse.loops(), running.pulse.stuck()),
        // It starts: there is no loop yet that could be stuck.
        None => (Vec::new(), Vec::new()),
    };
    answer(
        ["ok", "stuck"],
        &stuck,
        json!({"loops": ages(&loops), "stuck_after_ms": STUCK_AFTER.as_millis() as u64}),
    )
}

async fn readyz(State(worker): State<Arc<OnceLock<Running>>>) -> impl IntoResponse {
    let Some(running) = worker.get() else {
        let why = "it starts: the waits of the store (its timing row) were not read yet";
        return answer(["ready", "not_ready"], &[why.to_owned()], json!({}));
    };
    answer(
        ["ready", "not_ready"],
        &running.pulse.unready(),
        json!({
            "worker": running.name,
            "answered": ages(&running.pulse.reaches()),
            "away_after_ms": AWAY_AFTER.as_millis() as u64,
            "waits": running.waiting.words(),
        }),
    )
}

/// `{"store": 12, "queue": null}`: milliseconds since.
fn ages(ages: &[Age]) -> Value {
    ages.iter()
        .map(|age| (age.name.to_owned(), json!(age.ms)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// 200 and the first word where there is no reason against it, else 503 and the
/// second.
fn answer(
    words: [&str; 2],
    reasons: &[String],
    mut more: Value,
) -> (StatusCode, HeaderMap, String) {
    let good = reasons.is_empty();
    more["status"] = json!(words[usize::from(!good)]);
    more["reasons"] = json!(reasons);
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = match good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, headers, format!("{more}\n"))
}
