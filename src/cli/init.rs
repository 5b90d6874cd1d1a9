//! `rekeyd init`

use std::process::ExitCode;

use clap::ValueEnum;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::registry::Timing;
use crate::wiring;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Which waits the new store gets.
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

pub(super) fn run(config: &Config, arguments: &Arguments) -> miette::Result<ExitCode> {
    let timing = match arguments.timing {
        Waits::Embedded => Timing::embedded(),
        Waits::Demo => Timing::demo(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(super::miette_of)?;
    runtime
        .block_on(wiring::init(config, &timing, &SystemClock::shared()))
        .map_err(super::miette_of)?;
    println!("made {}", config.data_dir.display());
    Ok(ExitCode::SUCCESS)
}
