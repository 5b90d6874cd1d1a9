//! The command line: what is asked for, and what people see. No rule of the
//! data or of jobs is decided here.

mod demo;
mod init;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Loaded};

/// Moves a live, encrypted message store from one customer master key to another.
#[derive(Parser)]
#[command(name = "rekeyd", version, about)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "REKEYD_CONFIG", value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Where store, queue, key ring and audit log are, unless set one by one.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch a rekey of a live store, with real worker processes.
    Demo(demo::Arguments),
    /// Make a data directory: store, queue and key ring.
    Init(init::Arguments),
    /// Run a worker until it is asked to stop (SIGTERM, Ctrl-C).
    Worker(worker::Arguments),
}

impl Arguments {
    fn load(&self) -> Result<Loaded, config::ConfigError> {
        let flags = self.data_dir.iter().map(|dir| ("data_dir", dir.as_str()));
        config::load(self.config.as_deref(), std::env::vars_os(), flags)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    crate::telemetry::quiet_panics();
    let outcome = arguments
        .load()
        .map_err(miette_of)
        .and_then(|loaded| match &arguments.command {
            Command::Demo(a) => demo::run(a),
            Command::Init(a) => init::run(&loaded.config, a),
            Command::Worker(a) => worker::run(&loaded.config, a),
        });
    match outcome {
        Ok(code) => code,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::FAILURE
        }
    }
}

fn miette_of(error: impl std::error::Error + Send + Sync + 'static) -> miette::Report {
    miette::Report::msg(error.to_string())
}
