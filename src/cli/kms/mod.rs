//! `rekeyd kms`: administration of the local key ring.
//!
//! | file | what |
//! |---|---|
//! | `keys` | make, list, enable, disable, delete |
//! | `deny` | deny rules |
//! | `fault` | latency, throttling, errors |
//! | `log` | the call log |
//! | `serve` | the ring over HTTP, as AWS KMS |

mod deny;
mod fault;
mod keys;
mod log;
mod serve;

use clap::Subcommand;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::CmkArn;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a CMK and print its ARN.
    #[command(after_help = "Example:\n  OLD=$(rekeyd kms create-key)")]
    CreateKey(keys::Create),
    /// List the CMKs and their states.
    #[command(after_help = "Example:\n  rekeyd kms list")]
    List,
    /// Enable a CMK that is disabled.
    #[command(after_help = "Example:\n  rekeyd kms enable $OLD")]
    Enable {
        /// The CMK.
        #[arg(value_name = "ARN")]
        cmk: CmkArn,
    },
    /// Disable a CMK: from the next call on it can neither wrap nor unwrap.
    #[command(after_help = "Example:\n  rekeyd kms disable $OLD")]
    Disable {
        /// The CMK.
        #[arg(value_name = "ARN")]
        cmk: CmkArn,
    },
    /// Schedule a CMK's deletion. From now on it cannot be used.
    #[command(after_help = "Example:\n  rekeyd kms schedule-deletion $OLD --days 30")]
    ScheduleDeletion {
        /// The CMK.
        #[arg(value_name = "ARN")]
        cmk: CmkArn,
        /// Days until then, 7 to 30.
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Take a scheduled deletion back. The CMK is disabled then.
    #[command(after_help = "Example:\n  rekeyd kms cancel-deletion $OLD")]
    CancelDeletion {
        /// The CMK.
        #[arg(value_name = "ARN")]
        cmk: CmkArn,
    },
    /// Deny rules: a customer's key policy in small.
    #[command(subcommand)]
    Deny(deny::Command),
    /// Delay every answer; 0 ends it.
    #[command(after_help = "Example:\n  rekeyd kms latency 10")]
    Latency {
        /// Milliseconds.
        ms: u64,
    },
    /// Limit the calls per second over all processes; 0 ends it.
    #[command(after_help = "Example:\n  rekeyd kms throttle 500")]
    Throttle {
        /// Calls per second.
        rate_per_s: f64,
    },
    /// Latency, throttling and errors for some operations or callers.
    #[command(subcommand)]
    Fault(fault::Command),
    /// Show the last calls.
    #[command(
        after_help = "Example:\n  rekeyd kms log --tail 5\n  rekeyd kms log --cloudtrail trail.json.gz"
    )]
    Log(log::Arguments),
    /// Let the key ring answer as AWS KMS over HTTP, for trials with a client of
    /// AWS. Signatures are not checked.
    Serve(serve::Arguments),
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::CreateKey(a) => keys::create(context, a),
        Command::List => keys::list(context),
        Command::Enable { cmk } => keys::enable(context, cmk),
        Command::Disable { cmk } => keys::disable(context, cmk),
        Command::ScheduleDeletion { cmk, days } => keys::schedule_deletion(context, cmk, *days),
        Command::CancelDeletion { cmk } => keys::cancel_deletion(context, cmk),
        Command::Deny(c) => deny::run(context, c),
        Command::Latency { ms } => fault::latency(context, *ms),
        Command::Throttle { rate_per_s } => fault::throttle(context, *rate_per_s),
        Command::Fault(c) => fault::run(context, c),
        Command::Log(a) => log::run(context, a),
        Command::Serve(a) => serve::run(context, a),
    }?;
    Ok(Exit::Done)
}
