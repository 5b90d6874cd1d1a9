//! `rekeyd chaos`

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::chaos::{self, EVIDENCE, Ended, Figures, Options, Report};
use crate::cli::context::Context;
use crate::cli::demo::Store;
use crate::cli::exit::Exit;
use crate::cli::out;
use crate::cli::report::{self, Failure};
use crate::config::{Compression, StoreConfig, Switch};
use crate::demo::run::parts::quoted;
use crate::demo::run::{DemoError, Parts};
use crate::telemetry;

#[derive(clap::Args)]
#[command(
    after_help = "The seed repeats the choices: what is killed, when, in which order. It does not \
                  repeat the operating system's schedule.\n\n\
                  Examples:\n  rekeyd chaos --kills 20\n  rekeyd chaos --kills 20 --seed 42\n  \
                  rekeyd chaos --kills 1000\n  \
                  rekeyd chaos --kills 20 --store cassandra --nodes 127.0.0.1:9042\n  \
                  rekeyd chaos --kills 20 --config cluster.toml"
)]
pub(super) struct Arguments {
    /// Workers to kill with SIGKILL.
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    kills: u32,
    /// Repeats the choices of an earlier run; drawn if not given, and printed.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where the messages are: in a directory of chaos' own, or on a cluster, in
    /// a keyspace of its own. That of the configuration if not given.
    #[arg(long, value_enum, value_name = "STORE")]
    store: Option<Store>,
    /// Nodes of the cluster, host:port with commas between; those of the
    /// configuration if not given.
    #[arg(long, value_name = "NODES")]
    nodes: Option<String>,
    /// The keyspace to make, use and remove; one of a new name if not given. One
    /// that is there and that chaos did not make is refused.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    /// Where a stand-in for SQS is; the embedded queue if not given.
    #[arg(long, value_name = "URL")]
    sqs_endpoint: Option<String>,
    /// Messages that are there before.
    #[arg(long, value_name = "N", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    messages: u32,
    /// Operations of live traffic a second.
    #[arg(long, value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    traffic_per_s: u32,
    /// Where to do it: a directory that is empty or not there yet. A new one
    /// among the temporary files if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave directory and keyspace there, to look into them.
    #[arg(long)]
    keep: bool,
    /// Wait for this file before the last judgement. For tests.
    #[arg(long, value_name = "FILE", hide = true)]
    hold: Option<PathBuf>,
}

impl Arguments {
    fn parts(&self, context: &Context) -> Result<Parts, Failure> {
        let config = &context.config().store;
        let cluster = match self.store {
            Some(store) => store != Store::Sqlite,
            None => config.kind.is_cluster() || self.nodes.is_some(),
        };
        if !cluster {
            let given = [&self.nodes, &self.keyspace, &self.sqs_endpoint];
            if given.iter().any(|option| option.is_some()) {
                return Err(Failure::new(
                    Exit::Usage,
                    "--nodes, --keyspace and --sqs-endpoint are for --store cassandra and --store scylla",
                ));
            }
            return Ok(Parts::Embedded);
        }
        let nodes = self.nodes.clone().or_else(|| config.nodes.clone());
        let Some(nodes) = nodes else {
            return Err(Failure::new(
                Exit::Usage,
                "which cluster? name its nodes with --nodes, or with store.nodes in the configuration",
            ));
        };
        Ok(Parts::Cluster {
            nodes,
            settings: settings(config),
            keyspace: self.keyspace.clone(),
            sqs_endpoint: self.sqs_endpoint.clone(),
        })
    }

    /// The command that does the same again.
    fn again(&self, seed: u64) -> String {
        let mut words = format!(
            "rekeyd chaos --kills {} --seed {seed} --messages {} --traffic-per-s {}",
            self.kills, self.messages, self.traffic_per_s
        );
        if let Some(store) = self.store.and_then(|s| s.to_possible_value()) {
            words += &format!(" --store {}", store.get_name());
        }
        for (name, value) in [
            ("nodes", &self.nodes),
            ("keyspace", &self.keyspace),
            ("sqs-endpoint", &self.sqs_endpoint),
        ] {
            if let Some(value) = value {
                words += &format!(" --{name} {value}");
            }
        }
        words
    }
}

/// How the cluster of the configuration is reached, besides its nodes. The
/// keyspace is never that of the configuration.
fn settings(config: &StoreConfig) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            text += &format!("{name} = {}\n", quoted(value));
        }
    };
    line("datacenter", config.datacenter.as_deref());
    line("user", config.user.as_deref());
    if config.tls == Switch::On {
        line("tls", Some("on"));
    }
    match config.compression {
        Compression::None => {}
        Compression::Lz4 => line("compression", Some("lz4")),
        Compression::Snappy => line("compression", Some("snappy")),
    }
    for (name, path) in [
        ("password_file", &config.password_file),
        ("tls_ca", &config.tls_ca),
        ("tls_cert", &config.tls_cert),
        ("tls_key", &config.tls_key),
    ] {
        // Workers run where this does, but their file is elsewhere.
        let path = path
            .as_deref()
            .and_then(|path| std::path::absolute(path).ok());
        line(name, path.as_deref().and_then(Path::to_str));
    }
    text
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let options = Options {
        parts: arguments.parts(context)?,
        kills: arguments.kills as usize,
        seed,
        messages: arguments.messages,
        traffic_per_s: f64::from(arguments.traffic_per_s),
        dir: arguments.dir.clone(),
        keep: arguments.keep,
        hold: arguments.hold.clone(),
    };
    // The application that it plays holds keys.
    telemetry::harden();
    let ended = context.run_on_all_cores(async {
        let on = |kind| signal(kind).map_err(|e| report::system("cannot listen for signals", e));
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut terminate = on(SignalKind::terminate())?;
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            asked.cancel();
        });
        let mut say = |text: &str| {
            let _ = context.out.say(text);
        };
        Ok(chaos::run(&options, stop, &mut say).await)
    })?;
    match ended {
        Ok(Some(ended)) => told(context, arguments, seed, &ended),
        Ok(None) => {
            eprintln!("\ninterrupted; the workers are ended, and what was made is removed");
            Ok(Exit::Interrupted)
        }
        Err((error, kept)) => Err(failure(error, kept, &arguments.again(seed))),
    }
}

/// Prints the end.
fn told(
    context: &Context,
    arguments: &Arguments,
    seed: u64,
    ended: &Ended,
) -> Result<Exit, Failure> {
    let report = &ended.report;
    let (holds, line) = (report.holds(), report.line());
    let again = arguments.again(seed);
    let programs = json!({
        "report": report, "holds": holds, "line": line, "kept": ended.kept, "again": again,
    });
    context.out.show(&programs, || {
        let mut text = format!("\n{}\n\n{}\n\n", done(&report.figures), found(report));
        for violation in report.violations.iter().take(10) {
            text += &format!("{violation}\n");
        }
        if let Some(dir) = &ended.kept {
            text += &format!("kept   {}\n", dir.display());
        }
        if !holds {
            if let Some(dir) = &ended.kept {
                text += &format!(
                    "       {EVIDENCE}: all that was found; ledger.jsonl; worker-*.log; {}: the script\n",
                    chaos::MARK
                );
                text += &format!("look   rekeyd --config {}/rekeyd.toml jobs --all\n", dir.display());
            }
            text += &format!("again  {again}\n");
        }
        text + &line
    })?;
    Ok(if holds { Exit::Done } else { Exit::BadData })
}

/// What was done.
fn done(f: &Figures) -> String {
    let by = |all: &std::collections::BTreeMap<&'static str, u64>| {
        let parts: Vec<String> = all.iter().map(|(name, n)| format!("{n} {name}")).collect();
        parts.join(", ")
    };
    let row = |what: &str, n: u64, how: String| [what.to_owned(), n.to_string(), how];
    let rows = [
        row("rounds", f.rounds, format!("in {:.0} s", f.seconds)),
        row("jobs", f.jobs, by(&f.jobs_by_kind)),
        row(
            "messages doubled",
            f.duplicates,
            "sent again, in any order".to_owned(),
        ),
        row(
            "kills",
            f.kills,
            format!(
                "{} at a named point, {} instead of one that was not reached",
                f.kills_at_points, f.points_not_reached
            ),
        ),
        row(
            "zombies",
            f.zombies,
            "frozen beyond their leases, and woken".to_owned(),
        ),
        row(
            "clocks that jump",
            f.clock_jumps,
            "within the allowed skew".to_owned(),
        ),
        row(
            "full audit disks",
            f.audit_full[0],
            format!("{} stopped by it", f.audit_full[1]),
        ),
        row(
            "full store disks",
            f.store_full[0],
            format!("{} stopped by it", f.store_full[1]),
        ),
        row(
            "faults of the KMS",
            f.kms_faults.values().sum(),
            by(&f.kms_faults),
        ),
        row(
            "faults of the queue",
            f.queue_faults,
            "nobody could reach it for a while".to_owned(),
        ),
        row(
            "live operations",
            f.operations,
            match f.traffic_errors.is_empty() {
                true => String::new(),
                false => format!("and errors: {}", by(&f.traffic_errors)),
            },
        ),
        row(
            "compared",
            f.compared,
            format!("{} there, the rest deleted or vanished", f.present),
        ),
        row("audit records", f.audit_records, String::new()),
    ];
    out::table(["done", "n", "how"], rows)
}

/// What was found.
fn found(report: &Report) -> String {
    let f = &report.figures;
    let row = |what: &str, n: u64, note: String| {
        let holds = if n == 0 { "ok" } else { "VIOLATED" };
        [what.to_owned(), n.to_string(), holds.to_owned(), note]
    };
    let rework = match f.rework_rows {
        Some(rows) => {
            let per_kill = rows as f64 / f.kills.max(1) as f64;
            format!("{rows} rows sealed in vain, {per_kill:.1} a kill")
        }
        None => "not counted in a release build".to_owned(),
    };
    let mut rows = vec![
        row("lost", f.lost, String::new()),
        row("revived", f.revived, String::new()),
        row("overwritten", f.overwritten, String::new()),
        row("undecryptable", f.undecryptable, String::new()),
        row("rows under old keys", f.old_key_rows, String::new()),
        row(
            "slices with rework beyond a batch a death",
            f.rework_excess,
            rework,
        ),
        row("jobs stuck", f.stuck, String::new()),
        row(
            "workers ended by themselves",
            f.ended_unasked,
            String::new(),
        ),
        row(
            "other",
            f.others,
            "counts, old places, audit chains".to_owned(),
        ),
    ];
    let takeover = match f.takeover_ms() {
        Some([least, middle, most]) => format!(
            "of {}: least {least} ms, median {middle} ms, longest {most} ms",
            f.takeovers_ms.len()
        ),
        None => "no dead worker held anything".to_owned(),
    };
    rows.push([
        "takeover time".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
        takeover,
    ]);
    out::table(["guarantee", "violations", "holds", "note"], rows)
}

fn failure(error: DemoError, kept: Option<PathBuf>, again: &str) -> Failure {
    let failure = match error {
        DemoError::Wiring(error) => error.into(),
        DemoError::NotEmpty(_) | DemoError::Foreign { .. } => {
            Failure::new(Exit::Conflict, error.to_string())
        }
        _ => Failure::new(Exit::Failed, error.to_string()),
    };
    match (failure.exit, kept) {
        (_, Some(dir)) => failure.help(format!("its files are in {}; again: {again}", dir.display())),
        (Exit::Conflict, None) => failure.help(
            "chaos removes what it works on, so it takes only what is not there yet: name another directory or keyspace, or none",
        ),
        _ => failure,
    }
}
