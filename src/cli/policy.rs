//! `rekeyd policy`

use clap::Subcommand;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out::Out;
use crate::cli::report::Failure;
use crate::iam::revoke::{Hours, revocation};
use crate::ids::{ChannelId, OrgId};

/// Said with every revocation.
const BOTH_CMKS: &str = "put it into the key policy of the CMK; from the activation of a rekey to the \
                         retirement of its old CMK, into the key policies of both, or the other one \
                         still opens what is under it";

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the Deny that revokes one channel for a span of hours.
    #[command(
        after_help = "Hours of the encryption context are UTC. An hour that the span touches is revoked as \
                      a whole. A date alone is its midnight: --from 2019-02-13 --to 2019-02-14 is one day.\n\n\
                      Example:\n  rekeyd policy revoke --org acme --channel c1 \
                      --from 2019-02-13T09:00 --to 2019-02-14T18:00 --tz Europe/Berlin"
    )]
    Revoke(Revoke),
}

#[derive(clap::Args)]
pub(in crate::cli) struct Revoke {
    /// The channel.
    #[arg(long)]
    channel: ChannelId,
    /// The organization; every one that is under the CMK if not given.
    #[arg(long)]
    org: Option<OrgId>,
    /// From when on, by the clocks of the time zone.
    #[arg(long, value_name = "TIME")]
    from: DateTime,
    /// Up to when, by the clocks of the time zone; not with it.
    #[arg(long, value_name = "TIME")]
    to: DateTime,
    /// The time zone, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE")]
    tz: String,
}

/// Runs without a configuration: it calls nothing.
pub(super) fn run(out: Out, command: &Command) -> Result<Exit, Failure> {
    let Command::Revoke(asked) = command;
    let zone = TimeZone::get(&asked.tz).map_err(|_| {
        let zone = figures::printable(&asked.tz);
        Failure::new(Exit::Usage, format!("`{zone}` is no time zone"))
            .help("name one of the IANA database, such as `Europe/Berlin` or `UTC`")
    })?;
    let hours =
        Hours::of(asked.from, asked.to, &zone).map_err(|why| Failure::new(Exit::Usage, why))?;
    let statement = revocation(asked.org.as_ref(), &asked.channel, &hours);
    let programs = json!({"statement": statement, "hours": hours, "apply": BOTH_CMKS});
    if !out.is_json() {
        eprintln!(
            "{} UTC, {} up to {}: {}{BOTH_CMKS}",
            figures::count(hours.hours, "hour"),
            hours.from,
            hours.to,
            match hours.rounded {
                true => "the span begins or ends within an hour, which is revoked as a whole; ",
                false => "",
            }
        );
    }
    out.show(&programs, || {
        serde_json::to_string_pretty(&statement).unwrap_or_default()
    })?;
    Ok(Exit::Done)
}
