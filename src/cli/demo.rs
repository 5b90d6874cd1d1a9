//! `rekeyd demo`

use std::path::PathBuf;

use clap::ValueEnum;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::demo::run::{self, DemoError, Options, Parts};
use crate::telemetry;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rekeyd demo\n  rekeyd demo --messages 20000 --keep\n  \
                        rekeyd demo --slack-export my-export.zip\n  \
                        rekeyd demo --store cassandra --nodes 127.0.0.1:9042"
)]
pub(super) struct Arguments {
    /// Messages to generate.
    #[arg(long, value_name = "N", default_value_t = 100_000, conflicts_with = "slack_export",
          value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    messages: u32,
    /// Take the messages of this Slack export (folder or ZIP file) instead.
    #[arg(long, value_name = "PATH")]
    slack_export: Option<PathBuf>,
    /// Where the messages are: in the demo's own directory, or on a cluster that
    /// runs already (needs --nodes).
    #[arg(long, value_enum, default_value = "sqlite", value_name = "STORE")]
    store: Store,
    /// Nodes of the cluster, host:port with commas between. The demo makes a
    /// keyspace of its own there and removes it.
    #[arg(long, value_name = "NODES", required_if_eq_any = [("store", "cassandra"), ("store", "scylla")])]
    nodes: Option<String>,
    /// Where a stand-in for SQS is; the embedded queue if not given.
    #[arg(long, value_name = "URL", requires = "nodes")]
    sqs_endpoint: Option<String>,
    /// Operations of live traffic a second; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    traffic_per_s: u32,
    /// Worker processes at the start; one of them is killed.
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=32))]
    workers: u8,
    /// Kill one when so many percent of the slices are rewritten.
    #[arg(long, value_name = "PERCENT", default_value_t = 50,
          value_parser = clap::value_parser!(u8).range(0..=99))]
    kill_after: u8,
    /// Another seed gives other messages and other traffic.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to do it: a directory that is empty or not there yet. A new one
    /// among the temporary files if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the directory there, to look into it.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Store {
    /// The embedded store.
    Sqlite,
    /// A ScyllaDB cluster.
    Scylla,
    /// A Cassandra cluster.
    Cassandra,
}

impl Arguments {
    fn parts(&self) -> Result<Parts, Failure> {
        match (self.store, &self.nodes) {
            (Store::Sqlite, None) => Ok(Parts::Embedded),
            (Store::Sqlite, Some(_)) => Err(Failure::new(
                Exit::Usage,
                "--nodes is for --store cassandra and --store scylla",
            )),
            (_, Some(nodes)) => Ok(Parts::Cluster {
                nodes: nodes.clone(),
                settings: String::new(),
                keyspace: None,
                sqs_endpoint: self.sqs_endpoint.clone(),
            }),
            // clap asks for them.
            (_, None) => Err(Failure::new(Exit::Usage, "--nodes is needed")),
        }
    }
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let options = Options {
        parts: arguments.parts()?,
        messages: arguments.messages,
        slack_export: arguments.slack_export.clone(),
        dir: arguments.dir.clone(),
        keep: arguments.keep,
        seed: arguments.seed,
        traffic_per_s: f64::from(arguments.traffic_per_s),
        workers: usize::from(arguments.workers),
        kill_at_percent: arguments.kill_after,
    };
    // The application that it plays holds keys.
    telemetry::harden();
    context.run_on_all_cores(async {
        let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut terminate = on(SignalKind::terminate())?;
        tokio::select! {
            outcome = run::run(&options) => match outcome {
                Ok(()) => Ok(Exit::Done),
                Err(error) => Err(failure(error)),
            },
            _ = interrupt.recv() => Ok(interrupted()),
            _ = terminate.recv() => Ok(interrupted()),
        }
    })
}

/// By now the workers are ended and the directory is removed.
fn interrupted() -> Exit {
    eprintln!("\ninterrupted; the workers are ended");
    Exit::Interrupted
}

fn failure(error: DemoError) -> Failure {
    let exit = match &error {
        DemoError::ChecksFailed => Exit::BadData,
        DemoError::NotEmpty(_) | DemoError::Foreign { .. } => Exit::Conflict,
        DemoError::JobEnded { .. } => Exit::JobFailed,
        DemoError::Import(_) | DemoError::NoMessages(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
