//! The command line: what is asked for, and what people see. No rule of the
//! data or of jobs is decided here.
//!
//! One file a command. Beside them:
//!
//! | file | what |
//! |---|---|
//! | `act` | an operator's change of a job's state |
//! | `context` | what every command starts from |
//! | `exit` | the exit codes |
//! | `report` | the library's errors, turned into what people see |
//! | `out` | tables, lines and JSON on standard output |
//! | `near` | the name that was probably meant |
//! | `planned` | the plan a job was asked for with, beside what happened |
//! | `reference` | the command line as data, for its page and for tests of pages |
//!
//! How far a job is, and figures as people read them, are in `progress`, which
//! the status page uses too.

mod act;
mod audit;
mod cancel;
mod certificate;
mod chaos;
mod completions;
mod config;
mod context;
mod demo;
mod dlq;
mod doctor;
mod enqueue;
pub mod exit;
mod explain;
mod failures;
mod healthcheck;
mod history;
mod iam_policy;
mod import;
mod init;
mod inspect;
mod jobs;
mod kms;
mod man;
mod near;
mod org;
mod out;
mod pause;
mod plan;
mod planned;
mod policy;
pub mod reference;
mod report;
mod restore_window;
mod retire;
mod retry;
mod schema;
mod schema_job;
mod status;
mod throttle;
mod verify;
mod worker;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Loaded;
// Also as `cli::figures`.
use crate::progress::figures;
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
    /// Kill, freeze and starve workers on a live store, and prove that nothing is lost.
    Chaos(chaos::Arguments),
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
    /// Bring messages in from elsewhere.
    #[command(subcommand)]
    Import(import::Command),
    /// Say what a rekey or a move would come to, before it is asked for.
    #[command(subcommand)]
    Plan(plan::Command),
    /// Print what revokes data by key policy.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Ask for a rekey or for a move of a channel.
    #[command(subcommand)]
    Enqueue(enqueue::Command),
    /// List jobs.
    Jobs(jobs::Arguments),
    /// Show how far a job is; follow it or wait for its end.
    Status(status::Arguments),
    /// Show who did what to a job, when and why.
    History(history::Arguments),
    /// Show what each worker holds, and since when it was not heard of.
    Workers(workers::Arguments),
    /// Slow workers down for a while, or let them go on.
    #[command(subcommand)]
    Throttle(throttle::Command),
    /// Stop a job. The store stays readable; a later job finishes it.
    Cancel(cancel::Arguments),
    /// Halt a job until it is let go on.
    Pause(pause::Pause),
    /// Let a paused job go on where it was.
    Resume(pause::Resume),
    /// Try what is blocked again at once.
    Retry(retry::Arguments),
    /// List a job's blocked slices and quarantined cells by reason.
    Failures(failures::Arguments),
    /// Scan an organization: does every cell open, and under which CMK is it?
    Verify(verify::Arguments),
    /// Say in one signed document what a job was asked, what it did and what follows.
    Report(certificate::Arguments),
    /// Let a backup from before a rekey be brought in, for a while.
    #[command(subcommand)]
    RestoreWindow(restore_window::Command),
    /// Delete the old wraps that a finished rekey left behind. This is for good.
    Retire(retire::Arguments),
    /// Show one record: epoch, key, CMK, times; never its text.
    Inspect(inspect::Arguments),
    /// Check the audit log.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Show the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Look at everything a worker needs, and say what is wrong and how to mend it.
    Doctor(doctor::Arguments),
    /// Ask whether the worker of this configuration answers.
    Healthcheck(healthcheck::Arguments),
    /// Print the least policies for a role and for the customer's keys.
    IamPolicy(iam_policy::Arguments),
    /// Say what a code means, what brings it about and what to do next.
    Explain(explain::Arguments),
    /// Print what a shell needs to complete the command line.
    Completions(completions::Arguments),
    /// Print or write manual pages.
    Man(man::Arguments),
    /// Look at messages that were refused, and put them back.
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Make and check the tables of a cluster; print the schema of job messages.
    #[command(subcommand)]
    Schema(schema::Command),
}

impl Command {
    /// Runs a command that is of help when the configuration is what is wrong;
    /// `None` if it is another.
    fn run_without_settings(&self, out: Out) -> Option<Result<Exit, Failure>> {
        match self {
            Command::Explain(a) => Some(explain::run(out, a)),
            Command::Completions(a) => Some(completions::run(out, a)),
            Command::Man(a) => Some(man::run(out, a)),
            Command::Policy(c) => Some(policy::run(out, c)),
            _ => None,
        }
    }

    fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Command::Demo(a) => demo::run(context, a),
            Command::Chaos(a) => chaos::run(context, a),
            Command::Init(a) => init::run(context, a),
            Command::Worker(a) => worker::run(context, a),
            Command::Org(c) => org::run(context, c),
            Command::Kms(c) => kms::run(context, c),
            Command::Enqueue(c) => enqueue::run(context, c),
            Command::Plan(c) => plan::run(context, c),
            Command::Policy(c) => policy::run(context.out, c),
            Command::Jobs(a) => jobs::run(context, a),
            Command::Status(a) => status::run(context, a),
            Command::History(a) => history::run(context, a),
            Command::Workers(a) => workers::run(context, a),
            Command::Throttle(c) => throttle::run(context, c),
            Command::Import(c) => import::run(context, c),
            Command::Cancel(a) => cancel::run(context, a),
            Command::Pause(a) => pause::pause(context, a),
            Command::Resume(a) => pause::resume(context, a),
            Command::Retry(a) => retry::run(context, a),
            Command::Failures(a) => failures::run(context, a),
            Command::Verify(a) => verify::run(context, a),
            Command::Report(a) => certificate::run(context, a),
            Command::RestoreWindow(c) => restore_window::run(context, c),
            Command::Retire(a) => retire::run(context, a),
            Command::Inspect(a) => inspect::run(context, a),
            Command::Audit(c) => audit::run(context, c),
            Command::Config(c) => config::run(context, c),
            Command::Doctor(a) => doctor::run(context, a),
            Command::Healthcheck(a) => healthcheck::run(context, a),
            Command::IamPolicy(a) => iam_policy::run(context, a),
            Command::Explain(a) => explain::run(context.out, a),
            Command::Completions(a) => completions::run(context.out, a),
            Command::Man(a) => man::run(context.out, a),
            Command::Dlq(c) => dlq::run(context, c),
            Command::Schema(c) => schema::run(context, c),
        }
    }
}

impl Arguments {
    fn load(&self) -> Result<Loaded, Failure> {
        let flags = self.data_dir.iter().map(|dir| ("data_dir", dir.as_str()));
        Ok(crate::config::load(
            self.config.as_deref(),
            std::env::vars_os(),
            flags,
        )?)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    crate::telemetry::quiet_panics();
    report::set_up();
    let out = Out::new(arguments.output);
    let ended = match arguments.command.run_without_settings(out) {
        Some(ended) => ended,
        None => arguments.load().and_then(|loaded| {
            let context = Context::new(loaded, out);
            let ended = arguments.command.run(&context);
            ended.map_err(|failure| near::suggest(&context, failure))
        }),
    };
    match ended {
        Ok(exit) => exit,
        Err(failure) => failure.show(out.is_json()),
    }
    .into()
}

/// Ends a command line that is not valid, or asks for help. Whether it asks for
/// JSON has to be seen from its words.
fn refuse(error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--output=json")
        || words
            .windows(2)
            .any(|pair| pair[0] == "--output" && pair[1] == "json");
    if !json || !error.use_stderr() {
        error.exit();
    }
    let text = error.render().to_string();
    let what = text.trim().trim_start_matches("error: ");
    Failure::new(Exit::Usage, what).show(json).into()
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
