//! `rekeyd schema`

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::cli::schema_job;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the JSON Schema of the message that asks for a job.
    #[command(after_help = schema_job::EXAMPLE)]
    Job,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Job => schema_job::run(context),
    }
}
