//! `rekeyd worker`

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::config::Config;
use crate::retry::{Decision, RetryPolicy};
use crate::telemetry::pulse::Pulse;
use crate::ui::{self, Machines, Running, TokenError, UiError};
use crate::worker::Worker;
use crate::{telemetry, wiring};

#[derive(clap::Args)]
#[command(
    after_help = "Any number of workers may run on one store, and any of them may be killed.\n\n\
                  With --ui it serves the status page, for this machine only; from elsewhere: \
                  ssh -L 9480:127.0.0.1:9480 HOST. It changes nothing.\n\n\
                  Examples:\n  rekeyd worker --data-dir trial\n  rekeyd worker --ui"
)]
pub(super) struct Arguments {
    /// Serve the status page, on 127.0.0.1:9480 or another address; as ui.listen.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        num_args = 0..=1,
        default_missing_value = "127.0.0.1:9480"
    )]
    ui: Option<SocketAddr>,
    /// End with this process, however it ends. For the demo's workers.
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<u32>,
}

/// Where the data is, for people.
fn store(config: &Config) -> String {
    let store = &config.store;
    match store.kind.is_cluster() {
        true => {
            let nodes: Vec<&str> = store.hosts().collect();
            format!("keyspace {} at {}", store.keyspace, nodes.join(", "))
        }
        false => config.data_dir.display().to_string(),
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    if let Some(parent) = arguments.end_with {
        crate::demo::run::end_with(parent)
            .map_err(|e| report::system("cannot end with another process", e))?;
    }
    // Before any thread is started: what it forbids holds for all of them.
    let hardened = telemetry::harden();
    let log = &context.config().log;
    telemetry::init_logs(log.format, &log.filter)?;
    tracing::info!("process hardened: {hardened}");
    context.run_on_all_cores(work(context, arguments.ui))
}

async fn work(context: &Context, page: Option<SocketAddr>) -> Result<Exit, Failure> {
    let config = context.config();
    // First of all: who asks a worker to stop while it starts gets an orderly
    // end too.
    let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    let worker = Arc::new(OnceLock::new());
    if let Some(address) = config.metrics.listen {
        serve_machines(address, worker.clone()).await?;
    }
    // Taken before anything is opened, so that an address that is taken is told
    // first; answered when there is something to show.
    let page = match page.or(config.ui.listen) {
        Some(address) => {
            let hosts = ui::Hosts::of(address, config.ui.names()).map_err(unservable)?;
            let token = match &config.ui.token_file {
                Some(path) => Some(ui::Token::read(path).map_err(|e| unusable(path, &e))?),
                None => None,
            };
            let listener = ui::listen("ui.listen", address).await.map_err(unservable)?;
            Some((listener, hosts, token))
        }
        None => None,
    };
    let ready = until_there(START, async || {
        // Asked by this name, so that a wrong directory is told as such.
        let store = context.store().await?;
        Ok(wiring::worker_on(store, config, &context.clock).await?)
    });
    let parts = tokio::select! {
        biased;
        _ = terminate.recv() => return Ok(Exit::Done),
        _ = interrupt.recv() => return Ok(Exit::Done),
        parts = ready => parts?,
    };
    let grace = Duration::from_millis(parts.worker.shared.timing.grace_ms);
    let (ask, stop) = watch::channel(false);
    let pulse = parts.worker.pulse.clone();
    let running = Running {
        name: parts.worker.name.worker.clone(),
        pulse: pulse.clone(),
        waiting: parts.worker.name.waiting.clone(),
    };
    let page = match page {
        Some((listener, hosts, token)) => {
            Some(serve_page(listener, hosts, token, &parts.worker, &running)?)
        }
        None => None,
    };
    if config.metrics.listen.is_some() {
        let counting = parts.worker.clone();
        tokio::spawn(async move { counting.count_backlog().await });
    }
    // Nothing else fills it.
    let running = worker.get_or_init(|| running);
    let name = &running.name;
    let programs = json!({
        "worker": name, "data_dir": config.data_dir, "audit": parts.audit.path(),
        "pid": std::process::id(), "ui": page,
    });
    context.out.show(&programs, || {
        let page = page.as_ref().map(|url| format!("\nstatus page: {url}"));
        format!(
            "worker {name} works on {}; Ctrl-C or SIGTERM stops it{}",
            store(config),
            page.unwrap_or_default()
        )
    })?;
    let running = parts.worker.clone().run(stop);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        _ = terminate.recv() => stop_within(&ask, &pulse, running, grace).await,
        _ = interrupt.recv() => stop_within(&ask, &pulse, running, grace).await,
    };
    // The stream ends in order even if the worker did not.
    parts.audit.close().await?;
    outcome?;
    Ok(Exit::Done)
}

/// How long a store or a queue that does not answer is waited for at the start.
/// Workers are mostly started together with what they need, or while a node of it
/// is away.
const START: RetryPolicy = RetryPolicy {
    base_ms: 500,
    cap_ms: 10_000,
    give_up_after: Duration::from_secs(120),
};

/// Tries until it works, or fails with what waiting does not mend.
async fn until_there<T>(
    policy: RetryPolicy,
    mut open: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let begun = tokio::time::Instant::now();
    let mut failures = 0;
    loop {
        let failure = match open().await {
            Err(failure) if failure.exit == Exit::Unavailable => failure,
            other => return other,
        };
        failures += 1;
        match policy.decide(failures, begun.elapsed(), rand::random()) {
            Decision::GiveUp => return Err(failure),
            Decision::Wait(wait) => {
                tracing::warn!(%failure, "the worker cannot start yet; it tries again");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

fn unservable(error: UiError) -> Failure {
    match &error {
        UiError::Open(_) => Failure::new(Exit::Config, error.to_string()).help(
            "keep the page on a loopback address and forward a port to it, or set ui.hosts and \
             put something in front that asks who is there",
        ),
        UiError::Listen { setting, .. } => {
            let variable = setting.to_uppercase().replace('.', "__");
            report::system("cannot serve HTTP", &error).help(format!(
                "if another worker of this machine has it, give this one another: \
                 REKEYD_{variable}=<HOST:PORT>"
            ))
        }
    }
}

fn unusable(path: &Path, error: &TokenError) -> Failure {
    let what = format!("ui.token_file `{}`: {error}", path.display());
    Failure::new(Exit::Config, what)
        .help("make one that only this user can read: `(umask 077; openssl rand -hex 24 >FILE)`")
}

/// Answers machines from now on: the process is alive while it still starts.
async fn serve_machines(
    address: SocketAddr,
    worker: Arc<OnceLock<Running>>,
) -> Result<(), Failure> {
    let listener = ui::listen("metrics.listen", address)
        .await
        .map_err(unservable)?;
    let exposition =
        telemetry::metrics::install().map_err(|e| report::system("cannot serve the metrics", e))?;
    tokio::spawn(exposition.clone().keep_small());
    let machines = ui::machines(Machines { exposition, worker });
    tokio::spawn(ui::serve(listener, machines));
    Ok(())
}

/// Answers people, and tells by which address.
fn serve_page(
    listener: TcpListener,
    hosts: ui::Hosts,
    token: Option<ui::Token>,
    worker: &Worker,
    running: &Running,
) -> Result<String, Failure> {
    let address = listener.local_addr();
    let address = address.map_err(|e| report::system("cannot serve the status page", e))?;
    let shared = &worker.shared;
    let source = ui::Source {
        book: shared.book.clone(),
        registry: shared.registry.clone(),
        clock: shared.clock.clone(),
        timing: shared.timing,
        open: worker.open.clone(),
        running: running.clone(),
        steers: token.is_some(),
    };
    let steering = token.map(|token| ui::Steering {
        token,
        audit: shared.audit.clone(),
    });
    tokio::spawn(ui::serve(listener, ui::page(source, steering, hosts)));
    Ok(format!("http://{address}/"))
}

/// Asks the worker to stop and waits for it. After the grace time the process
/// ends as it is: that is no different from a kill, which it survives.
async fn stop_within(
    ask: &watch::Sender<bool>,
    pulse: &Pulse,
    running: impl Future<Output = Result<(), crate::worker::WorkerError>>,
    grace: Duration,
) -> Result<(), crate::worker::WorkerError> {
    pulse.stops();
    ask.send_replace(true);
    match tokio::time::timeout(grace, running).await {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::warn!("the grace time is over; what is in flight is left to others");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_on_a_cluster_says_which() {
        let load = |flags: &[(&str, &str)]| {
            let none = std::iter::empty::<(std::ffi::OsString, std::ffi::OsString)>();
            crate::config::load(None, none, flags.iter().copied()).unwrap()
        };
        let one = load(&[("data_dir", "here")]);
        assert_eq!(store(&one.config), "here");
        let cluster = load(&[
            ("store.kind", "cassandra"),
            ("store.nodes", "n1,n2"),
            ("store.keyspace", "messages"),
        ]);
        assert_eq!(store(&cluster.config), "keyspace messages at n1, n2");
    }

    const QUICK: RetryPolicy = RetryPolicy {
        base_ms: 1,
        cap_ms: 1,
        give_up_after: Duration::from_millis(200),
    };

    fn away() -> Failure {
        Failure::new(Exit::Unavailable, "the store does not answer")
    }

    #[tokio::test]
    async fn a_store_that_comes_back_is_waited_for_and_nothing_else_is() {
        let mut tries = 0;
        let opened = until_there(QUICK, async || {
            tries += 1;
            if tries < 4 { Err(away()) } else { Ok(tries) }
        });
        assert_eq!(opened.await.unwrap(), 4);

        let mut tries = 0;
        let wrong = until_there::<()>(QUICK, async || {
            tries += 1;
            Err(Failure::new(Exit::Config, "no such keyspace"))
        });
        assert_eq!(wrong.await.unwrap_err().exit, Exit::Config);
        assert_eq!(tries, 1);

        let never = until_there::<()>(QUICK, async || Err(away()));
        assert_eq!(never.await.unwrap_err().exit, Exit::Unavailable);
    }
}
