//! `rekeyd kms fault`, `latency` and `throttle`

use clap::{ArgGroup, Subcommand};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::figures::printable;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::kms::local::{Effect, Fault};

#[derive(Subcommand)]
pub(in crate::cli) enum Command {
    /// Set a fault; one of the same name is replaced.
    #[command(
        after_help = "Example:\n  rekeyd kms fault set flaky --operation Decrypt --error KMSInternalException"
    )]
    Set(Set),
    /// List the faults.
    #[command(after_help = "Example:\n  rekeyd kms fault list")]
    List,
    /// Clear a fault.
    #[command(after_help = "Example:\n  rekeyd kms fault clear flaky")]
    Clear {
        /// The fault's name.
        id: String,
    },
}

#[derive(clap::Args)]
#[command(group = ArgGroup::new("effect").required(true))]
pub(in crate::cli) struct Set {
    /// The fault's name, for `fault clear`.
    id: String,
    /// Operations it is about; all if not given.
    #[arg(long, value_name = "NAME")]
    operation: Vec<String>,
    /// Callers it is about; `*` stands for any text. Everyone if not given.
    #[arg(long, value_name = "PATTERN")]
    caller: Vec<String>,
    /// Answers come so much later.
    #[arg(long, group = "effect", value_name = "MS")]
    latency_ms: Option<u64>,
    /// More calls a second than this are throttled.
    #[arg(long, group = "effect", value_name = "PER_S")]
    throttle: Option<f64>,
    /// How many calls may come at once after a pause.
    #[arg(long, requires = "throttle", default_value_t = 1)]
    burst: u32,
    /// Calls fail with this code.
    #[arg(long, group = "effect", value_name = "CODE")]
    error: Option<String>,
    /// The message of the error.
    #[arg(long, requires = "error", default_value = "")]
    message: String,
}

impl Set {
    fn effect(&self) -> Effect {
        match (self.latency_ms, self.throttle, &self.error) {
            (Some(ms), _, _) => Effect::LatencyMs(ms),
            (None, Some(rate_per_s), _) => Effect::Throttle {
                rate_per_s,
                burst: self.burst,
            },
            // clap has seen to it that one of the three is given.
            (None, None, code) => Effect::Error {
                code: code.clone().unwrap_or_default(),
                message: self.message.clone(),
            },
        }
    }
}

pub(super) fn run(context: &Context, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Set(set) => {
            let fault = Fault {
                id: set.id.clone(),
                operations: set.operation.clone(),
                callers: set.caller.clone(),
                effect: set.effect(),
            };
            context.ring()?.set_fault(fault.clone())?;
            context.out.show(&json!({"set": fault}), || {
                format!("{0} is set; `rekeyd kms fault clear {0}` ends it", fault.id)
            })
        }
        Command::List => list(context),
        Command::Clear { id } => {
            context.ring()?.clear_fault(id)?;
            context
                .out
                .show(&json!({"cleared": id}), || format!("{id} is cleared"))
        }
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let faults = context.ring()?.faults()?;
    context.out.show(&json!({"faults": faults}), || {
        if faults.is_empty() {
            return "no fault is set".to_owned();
        }
        let or_all = |items: &[String]| match items.is_empty() {
            true => "all".to_owned(),
            false => printable(&items.join(", ")),
        };
        out::table(
            ["fault", "effect", "operations", "callers"],
            faults.iter().map(|fault| {
                let effect = match &fault.effect {
                    Effect::LatencyMs(ms) => format!("latency {ms} ms"),
                    Effect::Throttle { rate_per_s, burst } => {
                        format!("at most {rate_per_s}/s, {burst} at once")
                    }
                    Effect::Error { code, .. } => printable(&format!("error {code}")),
                };
                [
                    fault.id.clone(),
                    effect,
                    or_all(&fault.operations),
                    or_all(&fault.callers),
                ]
            }),
        )
    })
}

pub(super) fn latency(context: &Context, ms: u64) -> Result<(), Failure> {
    context.ring()?.set_latency_ms(ms)?;
    context.out.show(&json!({"latency_ms": ms}), || match ms {
        0 => "answers come at once".to_owned(),
        ms => format!("every answer comes {ms} ms later; `rekeyd kms latency 0` ends it"),
    })
}

pub(super) fn throttle(context: &Context, rate_per_s: f64) -> Result<(), Failure> {
    context.ring()?.set_throttle(rate_per_s)?;
    context.out.show(&json!({"rate_per_s": rate_per_s}), || {
        if rate_per_s == 0.0 {
            "calls are not limited".to_owned()
        } else {
            format!("at most {rate_per_s} calls a second; `rekeyd kms throttle 0` ends it")
        }
    })
}
