//! `rekeyd org show` and `rekeyd org list`

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::{ChannelId, OrgId};
use crate::job::JobBook;
use crate::registry::{ChannelRow, CmkRole, CopyPhase, Registry};

/// Rows read at once.
const PAGE: usize = 500;
/// Channels that are listed for people; JSON has all of them.
const CHANNELS_SHOWN: usize = 20;

fn role(role: CmkRole, active: bool) -> &'static str {
    match (active, role) {
        (true, _) => "active",
        (false, CmkRole::Target) => "target",
        (false, CmkRole::SourceOnly) => "source_only",
    }
}

pub(super) async fn one(context: &Context, org: &OrgId) -> Result<Exit, Failure> {
    let registry = context.registry().await?;
    let row = registry.org(org).await?;
    let list = registry.allow_list(org).await?;
    let channels = channels(&registry, org).await?;
    let consents = registry.consents(org).await?;
    let now_ms = context.clock.wall().unix_ms();
    let open = JobBook::new(context.store().await?, context.clock.clone())
        .open(org)
        .await?;

    let cmks: Vec<_> = list
        .iter()
        .map(|(cmk, c)| {
            json!({"cmk": cmk, "role": role(c.role, *cmk == row.cmk), "entered_by": c.entered_by, "entered_ms": c.entered_ms,
                "role_arn": c.role_arn, "has_external_id": c.external_id.is_some()})
        })
        .collect();
    let programs = json!({
        "org": org, "cmk": row.cmk,
        "cell_epoch": row.cell_epoch, "wrap_epoch": row.wrap_epoch, "last_epoch": row.last_epoch,
        "cell_floor": row.cell_floor, "wrap_floor": row.wrap_floor,
        "restore_window": row.restore_window,
        "created_ms": row.created_ms, "cmks": cmks, "open_jobs": open,
        "channels": channels.iter().map(|(id, c)| json!({
            "channel": id, "workspace": c.workspace, "place": c.place, "epoch": c.epoch, "floor": c.floor,
            "outgoing": c.outgoing, "incoming": c.incoming, "came_from": c.came_from,
        })).collect::<Vec<_>>(),
        "consents": consents.iter().map(|c| json!({
            "from": c.from, "to": c.to, "until_ms": c.expires_ms, "valid": c.expires_ms > now_ms,
            "entered_by": c.entered_by, "entered_ms": c.entered_ms,
        })).collect::<Vec<_>>(),
    });
    context.out.show(&programs, || {
        let mut text = format!(
            "{org}, since {}\n\nepochs: cells {}, wraps {}, newest {}; readers refuse cells below {} and wraps below {}\n\n",
            figures::time(row.created_ms), row.cell_epoch, row.wrap_epoch, row.last_epoch,
            row.cell_floor, row.wrap_floor,
        );
        if let Some(window) = &row.restore_window {
            text += &format!(
                "a restore window is open since {}: readers accept what is older, from epoch {} on\n\
                 opened by {}: {}\n\n",
                figures::time(window.opened_ms),
                window.floor,
                figures::printable(&window.opened_by),
                figures::printable(&window.reason),
            );
        }
        let mut by_time: Vec<_> = list.iter().collect();
        by_time.sort_by_key(|(cmk, c)| (**cmk != row.cmk, c.entered_ms));
        text += &out::table(
            ["cmk", "role", "entered", "by"],
            by_time.into_iter().map(|(cmk, c)| {
                [
                    cmk.to_string(),
                    role(c.role, *cmk == row.cmk).to_owned(),
                    figures::time(c.entered_ms),
                    figures::printable(&c.entered_by),
                ]
            }),
        );
        for (cmk, c) in list.iter() {
            if let Some(role) = &c.role_arn {
                let with = if c.external_id.is_some() { "with" } else { "without" };
                text += &format!("\n{cmk} is used as {role}, {with} an external id");
            }
        }
        text += &format!("\n\n{}", figures::count(channels.len() as u64, "channel"));
        if !channels.is_empty() {
            text += "\n";
            text += &out::table(
                ["channel", "workspace", ""],
                channels
                    .iter()
                    .take(CHANNELS_SHOWN)
                    .map(|(id, c)| [id.to_string(), c.workspace.to_string(), on_the_move(c)]),
            );
        }
        if channels.len() > CHANNELS_SHOWN {
            text += &format!(
                "\n… and {} more; --output json has all",
                channels.len() - CHANNELS_SHOWN
            );
        }
        if !consents.is_empty() {
            text += "\n\n";
            text += &out::table(
                ["consent to move", "to", "until", "by"],
                consents.iter().map(|c| {
                    let over = if c.expires_ms > now_ms { "" } else { ", over" };
                    [
                        c.from.to_string(),
                        c.to.to_string(),
                        figures::time(c.expires_ms) + over,
                        figures::printable(&c.entered_by),
                    ]
                }),
            );
        }
        for job in &open {
            text += &format!("\n\nunfinished: rekeyd status {job}");
        }
        text
    })?;
    Ok(Exit::Done)
}

/// What a copy makes of a channel, for people.
fn on_the_move(channel: &ChannelRow) -> String {
    match (&channel.outgoing, &channel.incoming) {
        (Some(out), None) if out.phase >= CopyPhase::Switched => {
            format!("has gone to {} (phase {})", out.to, out.phase)
        }
        (Some(out), None) => format!("is copied to {} (phase {})", out.to, out.phase),
        (_, Some(incoming)) => {
            format!("is the copy of {}/{}", incoming.org, incoming.channel)
        }
        (None, None) => String::new(),
    }
}

async fn channels(
    registry: &Registry,
    org: &OrgId,
) -> Result<Vec<(ChannelId, ChannelRow)>, Failure> {
    let mut all: Vec<(ChannelId, ChannelRow)> = Vec::new();
    loop {
        let after = all.last().map(|(id, _)| id.clone());
        let page = registry.channels(org, after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let registry = context.registry().await?;
    let mut rows = Vec::new();
    let mut after: Option<OrgId> = None;
    loop {
        let page = registry.orgs(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for org in page {
            let row = registry.org(&org).await?;
            rows.push((org, row));
        }
    }
    let programs = json!({"orgs": rows.iter().map(|(org, row)| json!({
        "org": org, "cmk": row.cmk, "cell_epoch": row.cell_epoch, "wrap_epoch": row.wrap_epoch,
    })).collect::<Vec<_>>()});
    context.out.show(&programs, || {
        if rows.is_empty() {
            return "no organizations yet; enter one with `rekeyd org add <ORG> --cmk <ARN>`"
                .to_owned();
        }
        out::table(
            ["org", "cmk", "cell epoch", "wrap epoch"],
            rows.iter().map(|(org, row)| {
                [
                    org.to_string(),
                    row.cmk.to_string(),
                    row.cell_epoch.to_string(),
                    row.wrap_epoch.to_string(),
                ]
            }),
        )
    })?;
    Ok(Exit::Done)
}
