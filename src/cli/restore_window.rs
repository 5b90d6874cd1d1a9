//! `rekeyd restore-window`: lets readers accept a backup from before a rekey
//! while it is brought in.

use serde_json::json;

use crate::audit::Record;
use crate::cli::act;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, JobId, OrgId};
use crate::kms::{ReasonCode, Use};
use crate::registry::{CmkRole, Registry, RestoreWindow};
use crate::verify::{Found, Scan};

/// The codes of what is refused for its age alone.
const ROLLED_BACK: [&str; 2] = ["epoch_below_floor", "wrap_below_floor"];

/// The code of what only a key that was set aside opens.
const KEY_GONE: &str = "key_row_missing";

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Let readers accept old cells and keys of an organization for now.
    #[command(
        after_help = "A finished rekey makes readers refuse what is older than it: it could only have \
                      been put back. Open the window before a backup from before the rekey is put \
                      back, send a rekey to a new CMK afterwards, and close the window at its end.\n\n\
                      Example:\n  rekeyd restore-window open acme --reason 'backup of 1 March after the loss of c1'"
    )]
    Open {
        /// The organization.
        org: OrgId,
        /// Refuse what is below this epoch all the same.
        #[arg(long, default_value_t = 0, value_name = "EPOCH")]
        from_epoch: u32,
        /// Why, for the registry and the audit log.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Refuse again what a finished rekey left behind.
    #[command(
        after_help = "It looks first for what would be refused, and leaves the window open if there \
                      is any: a rekey makes it current.\n\n\
                      Example:\n  rekeyd restore-window close acme --reason 'the rekey after the restore is drained'"
    )]
    Close {
        /// The organization.
        org: OrgId,
        /// Close it although messages will be refused that can be read now.
        #[arg(long)]
        give_up_refused: bool,
        /// Why, for the audit log.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    context.run_on_all_cores(async {
        match command {
            Command::Open {
                org,
                from_epoch,
                reason,
            } => open(context, org, *from_epoch, reason).await,
            Command::Close {
                org,
                give_up_refused,
                reason,
            } => close(context, org, *give_up_refused, reason).await,
        }
    })
}

async fn open(
    context: &Context,
    org: &OrgId,
    from_epoch: u32,
    reason: &str,
) -> Result<Exit, Failure> {
    let reason = act::reason(Some(reason), "")?;
    let floor = Epoch::new(from_epoch)
        .map_err(|e| Failure::new(Exit::Usage, format!("--from-epoch {from_epoch}: {e}")))?;
    let registry = context.registry().await?;
    // A command that cannot succeed leaves no record.
    let newest = registry.org(org).await?.last_epoch;
    if floor > newest {
        let what = format!("--from-epoch {floor}: the newest epoch of {org} is {newest}");
        return Err(Failure::new(Exit::Usage, what));
    }
    let window = RestoreWindow {
        floor,
        opened_by: who(),
        opened_ms: context.clock.wall().unix_ms(),
        reason: reason.clone(),
    };
    let record = record(org, "restore_window_open", &reason);
    let audit = context.audit(OPERATOR)?;
    audit.record(record.clone().intended());
    audit.durable().await?;
    let opened = registry.open_restore_window(org, &window).await;
    if opened.is_ok() {
        audit.record(record);
    }
    audit.close().await?;
    let row = opened?;

    let left = left_cmks(&registry, org).await?;
    let asides = asides(context, org).await?;
    let timing = registry.timing().await?;
    let follow_ms = timing.status_time_ms;
    let programs = json!({
        "org": org, "floor": floor, "cell_floor": row.cell_floor, "wrap_floor": row.wrap_floor,
        "opened_by": window.opened_by, "opened_ms": window.opened_ms, "reason": reason,
        "readers_follow_within_ms": follow_ms, "left_cmks": left,
        "set_aside": asides.iter().map(|(job, until_ms, cmk)| json!({
            "job_id": job, "until_ms": until_ms, "cmk": cmk,
        })).collect::<Vec<_>>(),
    });
    context.out.show(&programs, || {
        let mut text = format!(
            "readers of {org} accept cells and keys from epoch {floor} on, within {}",
            figures::span(std::time::Duration::from_millis(follow_ms))
        );
        if !left.is_empty() {
            text += "\n\nwhat the backup holds may be under a CMK that a rekey led away from. Until a \
                     rekey after the restore is drained, none of these may be disabled, whatever an \
                     earlier job said:";
            for cmk in &left {
                text += &format!("\n  {cmk}");
            }
        }
        text += "\n\nif a job was retired since the backup, the store has the backup's data keys no \
                 more: bring them along, written anew";
        if !asides.is_empty() {
            text += ". If it is one of these, cells alone are enough: a job of mode reencrypt opens \
                     them with what it set aside, as long as the CMK it led to is enabled, and they \
                     can be read once it has rewritten them";
            for (job, until_ms, cmk) in &asides {
                text += &format!("\n  {job}, to {cmk}, until {}", figures::time(*until_ms));
            }
        }
        text += &format!(
            "\n\nnext: put the backup back, `rekeyd verify --org {org}`, rekey to a new CMK, then \
             rekeyd restore-window close {org} --reason …"
        );
        text
    })?;
    Ok(Exit::Done)
}

async fn close(
    context: &Context,
    org: &OrgId,
    give_up_refused: bool,
    reason: &str,
) -> Result<Exit, Failure> {
    let reason = act::reason(Some(reason), "")?;
    let registry = context.registry().await?;
    if registry.org(org).await?.restore_window.is_none() {
        return Err(crate::registry::RegistryError::NoWindow(org.clone()).into());
    }
    let store = context.store().await?;
    // No key is opened for it: ages stand in headers and key rows.
    let scan = Scan::new(store, context.clock.clone(), None, org.clone(), None).await?;
    let found = scan.as_after_the_window().run(|_| {}).await?;
    let refused = refused(&found);
    if refused > 0 && !give_up_refused {
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "the window stays open: {} of {org} would be refused as older than the last \
                 finished rekey{}",
                figures::count(refused, "cell"),
                place_of(&found, &ROLLED_BACK)
            ),
        )
        .help(format!(
            "make them current with `rekeyd enqueue rekey --org {org} --to <a new CMK>` and wait \
             until it is drained; `--give-up-refused` closes it all the same"
        )));
    }
    let missing = found
        .quarantined
        .get(KEY_GONE)
        .map_or(0, |wrong| wrong.cells);
    if missing > 0 && !give_up_refused && !asides(context, org).await?.is_empty() {
        let what = format!(
            "the window stays open: the data keys of {} of {org} are gone, and what was set aside \
             of them is used only while it is open{}",
            figures::count(missing, "cell"),
            place_of(&found, &[KEY_GONE]),
        );
        return Err(Failure::new(Exit::Conflict, what).help(format!(
            "have them rewritten with `rekeyd enqueue rekey --org {org} --to <a new CMK>` and wait \
             until it is drained; `--give-up-refused` closes it all the same"
        )));
    }
    let record = record(org, "restore_window_close", &reason);
    let audit = context.audit(OPERATOR)?;
    audit.record(record.clone().intended());
    audit.durable().await?;
    let closed = registry.close_restore_window(org).await;
    if closed.is_ok() {
        audit.record(record);
    }
    audit.close().await?;
    let (window, row) = closed?;
    let programs = json!({
        "org": org, "cell_floor": row.cell_floor, "wrap_floor": row.wrap_floor,
        "opened_by": window.opened_by, "opened_ms": window.opened_ms, "reason": reason,
        "refused_cells": refused,
    });
    context.out.show(&programs, || {
        format!(
            "closed; readers of {org} refuse cells below epoch {} and wraps below {}: {}",
            row.cell_floor,
            row.wrap_floor,
            match refused {
                0 => "there are none".to_owned(),
                n => format!("{} that could be read before", figures::count(n, "cell")),
            }
        )
    })?;
    Ok(Exit::Done)
}

/// Where one cell with one of these codes is.
fn place_of(found: &Found, codes: &[&str]) -> String {
    let first = codes
        .iter()
        .find_map(|code| found.quarantined.get(*code)?.examples.first());
    first.map_or_else(String::new, |place| {
        format!(
            "; one is in channel {}, hour {}, record {}",
            place.channel, place.hour, place.record
        )
    })
}

fn refused(found: &Found) -> u64 {
    ROLLED_BACK
        .iter()
        .filter_map(|code| found.quarantined.get(*code))
        .map(|wrong| wrong.cells)
        .sum()
}

/// Jobs whose old keys are set aside, until when, and the CMK that each led to.
async fn asides(context: &Context, org: &OrgId) -> Result<Vec<(JobId, u64, CmkArn)>, Failure> {
    let book = context.book().await?;
    let mut asides = Vec::new();
    for (job, until_ms) in book.set_asides_of(org).await? {
        let row = book.get(org, job).await?;
        let cmk = row.and_then(|found| Some(found.row.request.rekey()?.to_cmk.clone()));
        asides.extend(cmk.map(|cmk| (job, until_ms, cmk)));
    }
    Ok(asides)
}

/// CMKs that finished rekeys led away from.
async fn left_cmks(registry: &Registry, org: &OrgId) -> Result<Vec<CmkArn>, Failure> {
    let list = registry.allow_list(org).await?;
    let left = list
        .iter()
        .filter(|(_, row)| row.role == CmkRole::SourceOnly)
        .map(|(cmk, _)| cmk.clone());
    Ok(left.collect())
}

fn record(org: &OrgId, action: &'static str, reason: &str) -> Record {
    let mut why = Use::new(ReasonCode::Rekey, reason);
    why.requested_by = Some(who());
    Record::registry(org, action, None, &why)
}
