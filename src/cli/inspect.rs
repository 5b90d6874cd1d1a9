//! `rekeyd inspect`

use clap::ArgGroup;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::crypto::{Header, cell};
use crate::ids::{ChannelId, Hour, OrgId, RecordId};
use crate::keys::SliceKeys;
use crate::registry::Registry;
use crate::store::SliceKey;

#[derive(clap::Args)]
#[command(
    group = ArgGroup::new("which").required(true),
    after_help = "It calls no KMS and never shows the message's text.\n\n\
                  Example, a message of a Slack export by its `ts`:\n  \
                  rekeyd inspect --org acme --channel C024BE91L --hour 2019-02-13T17 --record-text 1550077323.000200"
)]
pub(super) struct Arguments {
    /// The organization.
    #[arg(long)]
    org: OrgId,
    /// The channel.
    #[arg(long)]
    channel: ChannelId,
    /// The hour of the record's creation, UTC: 2019-02-13T17.
    #[arg(long)]
    hour: Hour,
    /// The record's id in hexadecimal.
    #[arg(long, group = "which", value_name = "HEX")]
    record: Option<RecordId>,
    /// The record's id as text.
    #[arg(long, group = "which", value_name = "TEXT")]
    record_text: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(inspect(context, arguments))
}

async fn inspect(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let Arguments {
        org, channel, hour, ..
    } = arguments;
    let record = match (&arguments.record, &arguments.record_text) {
        (Some(record), _) => record.clone(),
        (None, text) => RecordId::new(text.clone().unwrap_or_default())?,
    };
    let store = context.store().await?;
    let registry = Registry::new(store.clone(), context.clock.clone());
    let view = registry.view(org, channel).await?;
    let stored = store.read_cell(&view.partition(*hour), &record).await?;
    let Some(stored) = stored else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("channel `{channel}` of `{org}` has no live record {record} in the hour {hour}"),
        )
        .help("it was deleted, has expired, or lies in the hour of its creation; an edit keeps that hour"));
    };
    let header = Header::parse(&stored.cell).map_err(|error| {
        Failure::new(
            Exit::BadData,
            format!("record {record} is not a cell ({}): {error}", error.code()),
        )
    })?;
    let address = SliceKey::messages(org, channel, *hour);
    let keys = SliceKeys::parse(&store.read_keys(&address).await?);
    let list = registry.allow_list(org).await?;
    let wrap = keys.wrap_to_open(header.key_id, &list, view.wrap_floor());
    let desired = view.desired();
    let current = header.epoch >= desired.cell_epoch;
    let good = wrap.as_ref().ok();
    let scope = good.map(|row| row.scope.context());
    let written = WallTime(stored.write_time.0).to_string();
    let expiry = header.expiry.map(|s| figures::time(u64::from(s) * 1000));
    let text_bytes = stored.cell.len().saturating_sub(cell::OVERHEAD_BYTES);

    let programs = json!({
        "org": org, "channel": channel, "hour": hour, "record": record,
        "epoch": header.epoch, "desired_epoch": desired.cell_epoch, "current": current,
        "key_id": header.key_id, "cmk": good.map(|row| &row.cmk),
        "wrap_epoch": good.map(|row| row.wrap_epoch),
        "key_problem": wrap.as_ref().err().map(|e| e.code()),
        "scope": scope, "write_time_us": stored.write_time, "written": written,
        "expiry_s": header.expiry, "ttl_s": stored.ttl_s,
        "cell_bytes": stored.cell.len(), "text_bytes": text_bytes, "place": view.channel_row.place,
    });
    context.out.show(&programs, || {
        let key = match &wrap {
            Ok(row) => format!("{} (wrap epoch {})", row.cmk, row.wrap_epoch),
            Err(error) => format!("cannot be opened: {}: {error}", error.code()),
        };
        let scope = scope.map_or_else(String::new, |pairs| {
            let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(" ")
        });
        let as_it_should = match current {
            true => "as it should be".to_owned(),
            false => format!("should be {} or newer", desired.cell_epoch),
        };
        let expires = match (&expiry, stored.ttl_s) {
            (None, None) => "never".to_owned(),
            (header, ttl) => format!(
                "header {}, the store keeps it {}",
                header.as_deref().unwrap_or("never"),
                ttl.map_or("for good".to_owned(), |s| format!("{s} s more"))
            ),
        };
        format!(
            "record   {record}\nplace    {org} {channel} {hour}\nepoch    {} ({as_it_should})\n\
             key      {}\nCMK      {key}\nscope    {scope}\nwritten  {written}\nexpires  {expires}\n\
             size     {} bytes of text in {} bytes",
            header.epoch,
            header.key_id,
            text_bytes,
            stored.cell.len(),
        )
    })?;
    Ok(Exit::Done)
}
