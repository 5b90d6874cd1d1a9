//! `rekeyd schema`

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::cli::schema_job;
use crate::registry::{Registry, RegistryError, Timing};
use crate::store::cql::{Cluster, CqlStore, Replication, Schema};
use crate::store::{SharedStore, StoreHealth, StoreProblem};
use crate::wiring;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the statements that make keyspace and tables.
    #[command(
        after_help = "Example:\n  rekeyd schema print --replication \"{'class': 'NetworkTopologyStrategy', 'dc1': 3}\""
    )]
    Print(Copies),
    /// Make what is missing of keyspace, tables and waits. What stands is never altered.
    #[command(
        after_help = "Example:\n  rekeyd schema apply --replication \"{'class': 'NetworkTopologyStrategy', 'dc1': 3}\""
    )]
    Apply {
        #[command(flatten)]
        copies: Copies,
        /// Which waits a new store gets; one that stands keeps its own.
        #[arg(long, value_enum, default_value = "production")]
        timing: Waits,
    },
    /// Look at tables, settings, clocks and nodes: what must be mended, and how.
    #[command(after_help = "Example:\n  rekeyd schema check")]
    Check,
    /// Print the JSON Schema of the message that asks for a job.
    #[command(after_help = schema_job::EXAMPLE)]
    Job,
}

#[derive(clap::Args)]
pub(super) struct Copies {
    /// How the keyspace is replicated, as CQL writes it. Needed to make it.
    #[arg(long, value_name = "MAP", value_parser = Replication::parse, conflicts_with = "replication_factor")]
    replication: Option<Replication>,
    /// So many copies in the one datacenter there is.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    replication_factor: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Waits {
    /// Late writes may land for as long as the tables keep deletes.
    Production,
    /// No late writes: all replicas are up, always. For one node.
    Embedded,
    /// A second or two each: for a trial.
    Demo,
}

impl Waits {
    fn timing(self, gc_grace_s: u64) -> Timing {
        match self {
            Waits::Production => Timing {
                drain_ms: gc_grace_s.saturating_mul(1000),
                ..Timing::production()
            },
            Waits::Embedded => Timing::embedded(),
            Waits::Demo => Timing::demo(),
        }
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Print(copies) => print(context, copies),
        Command::Apply { copies, timing } => apply(context, copies, *timing),
        Command::Check => check(context),
        Command::Job => schema_job::run(context),
    }
}

/// The embedded store is made by `init`, tables and all.
fn must_be_a_cluster(context: &Context) -> Result<(), Failure> {
    if context.config().store.kind.is_cluster() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Usage,
        "store.kind is `sqlite`: the embedded store has no schema to apply",
    )
    .help("`rekeyd init` makes it. For a cluster set store.kind to `scylla` or `cassandra`, and store.nodes"))
}

fn print(context: &Context, copies: &Copies) -> Result<Exit, Failure> {
    must_be_a_cluster(context)?;
    let config = &context.config().store;
    let replication = copies.replication.clone().or_else(|| {
        let datacenter = config.datacenter.as_deref().unwrap_or("<datacenter>");
        Some(Replication::of(datacenter, copies.replication_factor?))
    });
    let text = Schema::print(&config.keyspace, replication.as_ref(), None);
    context
        .out
        .show(&json!({"keyspace": config.keyspace, "cql": text}), || {
            text.clone()
        })?;
    Ok(Exit::Done)
}

fn apply(context: &Context, copies: &Copies, waits: Waits) -> Result<Exit, Failure> {
    must_be_a_cluster(context)?;
    let (done, timing, asked) = context.run(async {
        let cluster = wiring::cluster(context.config(), &context.clock).await?;
        let replication = match copies.replication_factor {
            None => copies.replication.clone(),
            Some(n) => Some(cluster.in_one_datacenter(n)?),
        };
        let done = Schema::apply(&cluster, replication.as_ref()).await?;
        if !done.problems.is_empty() {
            return Ok((done, None, None));
        }
        let asked = waits.timing(done.gc_grace_s);
        let store: SharedStore = std::sync::Arc::new(CqlStore::on(cluster).await?);
        let registry = Registry::new(store, context.clock.clone());
        let timing = registry.init_timing(&asked).await?;
        Ok((done, Some(timing), Some(asked)))
    })?;
    let programs = json!({
        "made": done.made, "stood": done.stood, "problems": done.problems, "timing": timing,
    });
    context.out.show(&programs, || {
        let mut text = String::new();
        for name in &done.made {
            text += &format!("made    {name}\n");
        }
        for name in &done.stood {
            text += &format!("stands  {name}\n");
        }
        if let Some(timing) = &timing {
            text += &format!(
                "waits   {} ms for clients to follow, leases of {} ms, {} ms to drain\n",
                timing.status_time_ms, timing.lease_ms, timing.drain_ms
            );
        }
        if timing != asked {
            text += "        as the store had them: all processes on it must agree\n";
        }
        let ours = context.config().store.request_timeout_ms;
        if let Some(most) = timing.map(|t| t.request_timeout_ms).filter(|most| ours > *most) {
            text += &format!(
                "next    set `store.request_timeout_ms` to {most} or less: it is {ours}, and longer than these waits allow\n"
            );
        }
        text + &listed(&done.problems)
    })?;
    if done.problems.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::new(
        Exit::Conflict,
        "what stands is not as it must be; it was left as it is",
    )
    .help("mend what is listed above, then run `rekeyd schema apply` again"))
}

fn check(context: &Context) -> Result<Exit, Failure> {
    let (health, away) = context.run(async {
        if !context.config().store.kind.is_cluster() {
            let store = context.store().await?;
            return Ok((look(context, store.clone()).await?, store.away().await?));
        }
        let cluster = wiring::cluster(context.config(), &context.clock).await?;
        let problems = Schema::check(&cluster).await?;
        if !problems.is_empty() {
            return Ok((bare(&cluster, problems), Vec::new()));
        }
        let store: SharedStore = std::sync::Arc::new(CqlStore::on(cluster).await?);
        Ok((look(context, store.clone()).await?, store.away().await?))
    })?;
    let programs = json!({
        "server": health.server, "problems": health.problems,
        "clock_offset_ms": health.clock_offset_ms, "away": away,
    });
    context.out.show(&programs, || {
        let mut text = format!(
            "server  {}\nclock   {} ms from ours\n",
            health.server, health.clock_offset_ms
        );
        for node in &away {
            text += &format!("away    {node}\n");
        }
        text += &listed(&health.problems);
        if health.problems.is_empty() {
            text += "ok      tables, settings, conditional writes and clocks are as they must be\n";
        }
        text
    })?;
    match health.problems.len() {
        0 => Ok(Exit::Done),
        n => Err(Failure::new(
            Exit::Conflict,
            format!("{n} to be mended before a job may run"),
        )
        .help("each is listed above with its fix")),
    }
}

/// What is known of a cluster whose tables cannot be worked with.
fn bare(cluster: &Cluster, problems: Vec<StoreProblem>) -> StoreHealth {
    StoreHealth {
        server: cluster.server().to_string(),
        problems,
        clock_offset_ms: 0,
    }
}

/// The store's health, and whether it has its waits.
async fn look(context: &Context, store: SharedStore) -> Result<StoreHealth, Failure> {
    let mut health = store.health().await?;
    let registry = Registry::new(store, context.clock.clone());
    match registry.timing().await {
        Ok(timing) => {
            if health.clock_offset_ms.unsigned_abs() > timing.max_skew_ms {
                health.problems.push(StoreProblem {
                    what: format!(
                        "a node's clock is {} ms from ours, and {} ms is the most",
                        health.clock_offset_ms, timing.max_skew_ms
                    ),
                    fix: "set the clocks of nodes and workers by NTP".to_owned(),
                });
            }
        }
        Err(RegistryError::NoTiming) => health.problems.push(StoreProblem {
            what: "the store has no waits: its `timing` row is missing".to_owned(),
            fix: "rekeyd schema apply".to_owned(),
        }),
        Err(error) => return Err(error.into()),
    }
    Ok(health)
}

fn listed(problems: &[StoreProblem]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let rows = problems
        .iter()
        .map(|problem| [problem.what.clone(), problem.fix.clone()]);
    format!("\n{}\n", out::table(["WRONG", "FIX"], rows))
}
