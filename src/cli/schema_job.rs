//! `rekeyd schema job`

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::{self, Failure};
use crate::job::MESSAGE_SCHEMA;

pub(super) const EXAMPLE: &str = "Example:\n  rekeyd schema job > job.schema.json";

/// The schema is JSON for people and for programs alike.
pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let schema: serde_json::Value =
        serde_json::from_str(MESSAGE_SCHEMA).map_err(|e| report::system("the schema", e))?;
    context
        .out
        .show(&schema, || MESSAGE_SCHEMA.trim_end().to_owned())?;
    Ok(Exit::Done)
}
