//! `rekeyd init`

use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::registry::Timing;
use crate::wiring;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  rekeyd init --data-dir trial --timing demo")]
pub(super) struct Arguments {
    /// Which waits a new store gets; one that stands keeps its own.
    #[arg(long, value_enum, default_value = "embedded")]
    timing: Waits,
}

#[derive(Clone, Copy, ValueEnum)]
enum Waits {
    /// In earnest: a minute for clients to follow, leases of 30 s.
    Embedded,
    /// A second or two each: for a trial.
    Demo,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let config = context.config();
    let asked = match arguments.timing {
        Waits::Embedded => Timing::embedded(),
        Waits::Demo => Timing::demo(),
    };
    let is_cluster = config.store.kind.is_cluster();
    let store = match is_cluster {
        true => PathBuf::from(&config.store.keyspace),
        false => config.store.path.clone(),
    };
    let parts = [
        ("store", store),
        ("queue", config.queue.path.clone()),
        ("key ring", config.kms.ring.join("ring.json")),
    ];
    let stood: Vec<bool> = parts
        .iter()
        .map(|(name, path)| (is_cluster && *name == "store") || path.exists())
        .collect();
    let made = context.run(async { Ok(wiring::init(config, &asked, &context.clock).await?) });
    let timing = made.map_err(|failure| match is_cluster {
        true => {
            failure.or_help("the tables and waits of a cluster are made by `rekeyd schema apply`")
        }
        false => failure,
    })?;

    let shown: Vec<serde_json::Value> = parts
        .iter()
        .zip(&stood)
        .map(|((name, path), stood)| json!({"part": name, "path": path, "made": !stood}))
        .collect();
    let programs = json!({"data_dir": config.data_dir, "parts": shown, "timing": timing});
    context.out.show(&programs, || {
        let mut text = String::new();
        for ((name, path), stood) in parts.iter().zip(&stood) {
            let did = if *stood { "stands" } else { "made  " };
            text += &format!("{did}  {name:<8}  {}\n", path.display());
        }
        text += &format!(
            "waits   {} ms for clients to follow, leases of {} ms, {} ms to drain\n",
            timing.status_time_ms, timing.lease_ms, timing.drain_ms
        );
        if timing != asked {
            text += "        as the store had them: all processes on it must agree\n";
        }
        text += "\nnext: rekeyd kms create-key, then rekeyd org add <ORG> --cmk <ARN>";
        text
    })?;
    Ok(Exit::Done)
}
