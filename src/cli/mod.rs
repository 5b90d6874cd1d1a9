//! The command line: what is asked for, and what people see. No rule of the
//! data or of jobs is decided here.
//!
//! One file a command. Beside them:
//!
//! | file | what |
//! |---|---|
//! | `context` | what every command starts from |
//! | `exit` | the exit codes |
//! | `report` | the library's errors, turned into what people see |
//! | `out` | tables, lines and JSON on standard output |
//! | `figures` | numbers, spans and times as people read them |
//! | `progress` | how far a job is, in numbers and in one line |

mod context;
mod demo;
mod enqueue;
pub mod exit;
mod figures;
mod init;
mod jobs;
mod kms;
mod org;
mod out;
mod progress;
mod report;
mod status;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Loaded};
use context::Context;
use exit::Exit;
use out::{Form, Out};
use report::Failure;

/// Moves a live, encrypted message store from one customer master key to another.
#[derive(Parser)]
#[command(
    name = "rekeyd",
    version,
    about,
    after_help = "Each command has its own help with an example: rekeyd help enqueue rekey"
)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "REKEYD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where store, queue, key ring and audit log are, unless set one by one.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Tables for people, or JSON for programs.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM"
    )]
    output: Form,
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
    /// Enter organizations and the CMKs they may be under.
    #[command(subcommand)]
    Org(org::Command),
    /// Administer the local key ring.
    #[command(subcommand)]
    Kms(kms::Command),
    /// Ask for a job.
    #[command(subcommand)]
    Enqueue(enqueue::Command),
    /// List jobs.
    Jobs(jobs::Arguments),
    /// Show how far a job is; follow it or wait for its end.
    Status(status::Arguments),
}

impl Command {
    fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Command::Demo(a) => demo::run(context, a),
            Command::Init(a) => init::run(context, a),
            Command::Worker(a) => worker::run(context, a),
            Command::Org(c) => org::run(context, c),
            Command::Kms(c) => kms::run(context, c),
            Command::Enqueue(c) => enqueue::run(context, c),
            Command::Jobs(a) => jobs::run(context, a),
            Command::Status(a) => status::run(context, a),
        }
    }
}

impl Arguments {
    fn load(&self) -> Result<Loaded, Failure> {
        let flags = self.data_dir.iter().map(|dir| ("data_dir", dir.as_str()));
        Ok(config::load(
            self.config.as_deref(),
            std::env::vars_os(),
            flags,
        )?)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    crate::telemetry::quiet_panics();
    report::set_up();
    let out = Out::new(arguments.output);
    let ended = arguments
        .load()
        .and_then(|loaded| arguments.command.run(&Context::new(loaded, out)));
    match ended {
        Ok(exit) => exit,
        Err(failure) => failure.show(out.is_json()),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    /// Finds arguments that contradict each other, in every command.
    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_that_does_something_shows_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.get_subcommands().next().is_none() {
                let help = command
                    .get_after_help()
                    .map(|h| h.to_string())
                    .unwrap_or_default();
                assert!(help.contains("Example"), "`{path}` has no example");
            }
            command.get_subcommands().for_each(|c| walk(c, &path));
        }
        for command in super::Arguments::command().get_subcommands() {
            walk(command, "rekeyd");
        }
    }
}
