//! `rekeyd config`

use clap::Subcommand;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Show every setting as it takes effect, and where it came from.
    #[command(
        after_help = "A configuration that is not valid ends with exit code 3 and says all that is wrong.\n\n\
                      Example:\n  rekeyd config check --config /etc/rekeyd.toml"
    )]
    Check,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let Command::Check = command;
    // Loading it has checked it.
    let loaded = &context.loaded;
    let programs = json!({"settings": loaded.effective().iter().map(|s| json!({
        "name": s.name, "value": s.value, "source": s.source.to_string(),
    })).collect::<Vec<_>>()});
    context
        .out
        .show(&programs, || loaded.to_toml().trim_start().to_owned())?;
    Ok(Exit::Done)
}
