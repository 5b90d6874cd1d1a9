//! `rekeyd worker`

use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::retry::{Decision, RetryPolicy};
use crate::{telemetry, wiring};

#[derive(clap::Args)]
#[command(
    after_help = "Any number of workers may run on one store, and any of them may be killed.\n\n\
                  Example:\n  rekeyd worker --data-dir trial"
)]
pub(super) struct Arguments {
    /// End with this process, however it ends. For the demo's workers.
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<u32>,
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
    context.run_on_all_cores(work(context))
}

async fn work(context: &Context) -> Result<Exit, Failure> {
    let config = context.config();
    // First of all: who asks a worker to stop while it starts gets an orderly
    // end too.
    let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    telemetry::metrics::serve(config.metrics.listen)
        .map_err(|e| report::system("cannot serve the metrics", e))?;
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
    let name = &parts.worker.name.worker;
    let programs = json!({
        "worker": name, "data_dir": config.data_dir, "audit": parts.audit.path(),
        "pid": std::process::id(),
    });
    context.out.show(&programs, || {
        format!(
            "worker {name} works on {}; Ctrl-C or SIGTERM stops it",
            config.data_dir.display()
        )
    })?;
    let running = parts.worker.clone().run(stop);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        _ = terminate.recv() => stop_within(&ask, running, grace).await,
        _ = interrupt.recv() => stop_within(&ask, running, grace).await,
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

/// Asks the worker to stop and waits for it. After the grace time the process
/// ends as it is: that is no different from a kill, which it survives.
async fn stop_within(
    ask: &watch::Sender<bool>,
    running: impl Future<Output = Result<(), crate::worker::WorkerError>>,
    grace: Duration,
) -> Result<(), crate::worker::WorkerError> {
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
