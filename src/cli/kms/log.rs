//! `rekeyd kms log`

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::figures::printable;
use crate::cli::out;
use crate::cli::report::Failure;

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// How many calls.
    #[arg(long, default_value_t = 20, value_name = "N")]
    tail: usize,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let calls = context.ring()?.log_tail(arguments.tail)?;
    context.out.show(&json!({"calls": calls}), || {
        out::table(
            ["time", "operation", "result", "caller", "cmk", "context"],
            calls.iter().map(|call| {
                let pairs: Vec<String> = call
                    .context
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let cmk = match &call.cmk_to {
                    Some(to) => format!("{} -> {to}", call.cmk),
                    None => call.cmk.to_string(),
                };
                [
                    call.ts.clone(),
                    call.operation.clone(),
                    printable(&call.result),
                    printable(&call.caller),
                    cmk,
                    printable(&pairs.join(" ")),
                ]
            }),
        )
    })
}
