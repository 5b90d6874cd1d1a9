//! `rekeyd verify`

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::{ChannelId, OrgId};
use crate::registry::Registry;
use crate::verify::{Found, Proof, Scan, Wrong};

#[derive(clap::Args)]
#[command(
    after_help = "It reads only, and needs no job: what it passes, a reader can read. Of one channel \
                  it says besides whether its moves are proven to be at their end.\n\n\
                  Examples:\n  rekeyd verify --org acme\n  \
                  rekeyd verify --org acme --channel c2 --all-replicas"
)]
pub(super) struct Arguments {
    /// The organization.
    #[arg(long)]
    org: OrgId,
    /// This channel only.
    #[arg(long)]
    channel: Option<ChannelId>,
    /// Look at headers and key rows only; no call to the KMS.
    #[arg(long)]
    no_open: bool,
    /// Ask every replica for each row, not a quorum.
    #[arg(long)]
    all_replicas: bool,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run_on_all_cores(async {
        let store = context.store().await?;
        let registry = Registry::new(store.clone(), context.clock.clone());
        let active = registry.org(&arguments.org).await?.cmk;
        let (audit, kms) = match arguments.no_open {
            true => (None, None),
            false => {
                let caller = &context.config().kms.caller;
                let audit = context.audit(caller)?;
                let kms = context.kms(caller, &audit).await?;
                (Some(audit), Some(kms))
            }
        };
        let (org, channel) = (arguments.org.clone(), arguments.channel.clone());
        let mut scan = Scan::new(store, context.clock.clone(), kms, org, channel).await?;
        if arguments.all_replicas {
            scan = scan.at_all_replicas();
        }
        let found = scan.run(|_| {}).await?;
        let proof = scan.proof(&found).await?;
        if let Some(audit) = audit {
            audit.close().await?;
        }
        let whole = found.is_whole();
        let programs = json!({
            "org": arguments.org, "channel": arguments.channel, "active_cmk": active,
            "opened": !arguments.no_open, "whole": whole, "found": found,
            "proof": proof,
        });
        context.out.show(&programs, || {
            let mut text = for_people(&found, &active);
            text += match (whole, arguments.no_open) {
                (true, false) => "\nevery live cell opens",
                (true, true) => {
                    "\nevery live cell parses and has a key that is allowed; none was opened"
                }
                (false, _) => "\nnot everything opens: see above",
            };
            if let Some(proof) = &proof {
                text += &old_places(proof);
                text += &format!("\n{proof}");
            }
            text
        })?;
        Ok(if !found.quarantined.is_empty() {
            Exit::BadData
        } else if !whole {
            Exit::KmsRefused
        } else if proof.is_some_and(|proof| proof.proven == Some(false)) {
            Exit::MoveUnfinished
        } else {
            Exit::Done
        })
    })
}

fn old_places(proof: &Proof) -> String {
    let mut text = String::new();
    for old in &proof.old_places {
        text += &format!(
            "\nthe old place of {}: {} in {}",
            old.from,
            figures::count(old.live, "live cell"),
            figures::count(old.slices, "slice")
        );
        for place in &old.examples {
            text += &format!("\n  {} {} {}", place.channel, place.hour, place.record);
        }
    }
    text
}

fn for_people(found: &Found, active: &crate::ids::CmkArn) -> String {
    let mut text = format!(
        "{}, {} ({} past their expiry), {} rows without a value\n\n",
        figures::count(found.slices, "slice"),
        figures::count(found.cells, "cell"),
        found.expired,
        found.empty,
    );
    let mut by_cmk: Vec<_> = found.by_cmk.iter().collect();
    by_cmk.sort_by_key(|(cmk, _)| *cmk != active);
    text += &out::table(
        ["cmk", "cells", "keys", "wraps", ""],
        by_cmk.into_iter().map(|(cmk, under)| {
            [
                cmk.to_string(),
                under.cells.to_string(),
                under.keys.to_string(),
                under.wraps.to_string(),
                if cmk == active { "active" } else { "" }.to_owned(),
            ]
        }),
    );
    text += "\n\n";
    text += &out::table(
        ["cell epoch", "cells"],
        found
            .by_epoch
            .iter()
            .map(|(epoch, n)| [epoch.to_string(), n.to_string()]),
    );
    text += "\n\n";
    text += &out::table(
        ["keys of workspace", "cells"],
        found
            .by_workspace
            .iter()
            .map(|(workspace, n)| [workspace.to_string(), n.to_string()]),
    );
    for (what, list) in [
        ("quarantined", &found.quarantined),
        ("blocked", &found.blocked),
    ] {
        for (code, wrong) in list {
            text += &wrong_lines(what, code, wrong);
        }
    }
    text + "\n"
}

fn wrong_lines(what: &str, code: &str, wrong: &Wrong) -> String {
    let mut text = format!(
        "\n\n{what}: {code}: {}",
        figures::count(wrong.cells, "cell")
    );
    for place in &wrong.examples {
        text += &format!("\n  {} {} {}", place.channel, place.hour, place.record);
    }
    let more = wrong.cells.saturating_sub(wrong.examples.len() as u64);
    if more > 0 {
        text += &format!("\n  … and {more} more");
    }
    text
}
