//! `rekeyd worker`

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::{telemetry, wiring};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// End with this process, however it ends. For the demo's workers.
    #[arg(long, value_name = "PID", hide = true)]
    end_with: Option<u32>,
}

pub(super) fn run(config: &Config, arguments: &Arguments) -> miette::Result<ExitCode> {
    if let Some(parent) = arguments.end_with {
        crate::demo::run::end_with(parent).map_err(super::miette_of)?;
    }
    // Before any thread is started: what it forbids holds for all of them.
    let hardened = telemetry::harden();
    telemetry::init_logs(config.log.format, &config.log.filter).map_err(super::miette_of)?;
    tracing::info!(?hardened, "process hardened");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(super::miette_of)?;
    runtime.block_on(work(config))
}

async fn work(config: &Config) -> miette::Result<ExitCode> {
    telemetry::metrics::serve(config.metrics.listen).map_err(super::miette_of)?;
    let clock = SystemClock::shared();
    let parts = wiring::worker(config, &clock)
        .await
        .map_err(super::miette_of)?;
    let grace = Duration::from_millis(parts.worker.shared.timing.grace_ms);
    let (ask, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(super::miette_of)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(super::miette_of)?;
    let running = parts.worker.clone().run(stop);
    tokio::pin!(running);
    let outcome = tokio::select! {
        outcome = &mut running => outcome,
        _ = terminate.recv() => stop_within(&ask, running, grace).await,
        _ = interrupt.recv() => stop_within(&ask, running, grace).await,
    };
    // The stream ends in order even if the worker did not.
    parts.audit.close().await.map_err(super::miette_of)?;
    outcome.map_err(super::miette_of)?;
    Ok(ExitCode::SUCCESS)
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
