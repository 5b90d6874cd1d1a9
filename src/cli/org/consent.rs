//! `rekeyd org consent-move`: an operator's word that a channel may go from one
//! organization to another. A move needs it in the registries of both.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::Record;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::ids::OrgId;
use crate::kms::{ReasonCode, Use};
use crate::registry::{ChannelName, ConsentRow};

/// How far ahead a consent may reach. Who forgets one should not find it valid
/// years later.
const LONGEST: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(clap::Args)]
#[command(
    after_help = "It is needed in both organizations, and only for moves between two. A later one \
                  for the same channels replaces it.\n\n\
                  Example:\n  rekeyd org consent-move acme --from acme/w1/c1 --to other/w9/c1 --until 2026-12-24T00:00:00Z\n  \
                  rekeyd org consent-move other --from acme/w1/c1 --to other/w9/c1 --until 2026-12-24T00:00:00Z"
)]
pub(in crate::cli) struct ConsentMove {
    /// The organization that consents: the source's or the destination's.
    org: OrgId,
    /// The channel as it is now.
    #[arg(long, value_name = "ORG/WORKSPACE/CHANNEL")]
    from: ChannelName,
    /// The channel as it is to be.
    #[arg(long, value_name = "ORG/WORKSPACE/CHANNEL")]
    to: ChannelName,
    /// Until when a move may begin by it (RFC 3339), at most 90 days ahead.
    #[arg(long, value_name = "TIME")]
    until: jiff::Timestamp,
}

pub(super) async fn run(context: &Context, asked: &ConsentMove) -> Result<Exit, Failure> {
    let ConsentMove {
        org,
        from,
        to,
        until,
    } = asked;
    let now = context.clock.wall();
    let expires_ms = u64::try_from(until.as_millisecond()).unwrap_or(0);
    let usage = |what: String| Err(Failure::new(Exit::Usage, what));
    if from.org == to.org {
        return usage(format!(
            "`{from}` and `{to}` are of one organization: such a move needs no consent"
        ));
    }
    if *org != from.org && *org != to.org {
        return usage(format!(
            "`{org}` is neither where the channel is (`{from}`) nor where it is to go (`{to}`)"
        ));
    }
    if expires_ms <= now.unix_ms() {
        return usage(format!("--until {until} is past"));
    }
    if expires_ms > now.plus(LONGEST).unix_ms() {
        return usage(format!("--until {until} is more than 90 days ahead"));
    }
    let registry = context.registry().await?;
    // A command that cannot succeed leaves no record of a consent.
    registry.org(org).await?;
    let who = who();
    let row = ConsentRow {
        from: from.clone(),
        to: to.clone(),
        expires_ms,
        entered_by: who.clone(),
        entered_ms: now.unix_ms(),
    };
    let words = format!("`{from}` may go to `{to}` until {until}");
    let mut why = Use::new(ReasonCode::ChannelMove, words);
    why.requested_by = Some(who.clone());
    let body = Sha256::digest(crate::registry::body(&row).as_bytes());
    let record = Record::registry(org, "consent_move", Some(body.into()), &why);
    let audit = context.audit(OPERATOR)?;
    audit.record(record.clone().intended());
    audit.durable().await?;
    let entered = registry.consent_to_move(org, &row).await;
    if entered.is_ok() {
        audit.record(record);
    }
    audit.close().await?;
    entered?;

    let other = if *org == from.org { &to.org } else { &from.org };
    let programs = json!({
        "org": org, "from": from, "to": to, "until_ms": expires_ms, "by": who,
    });
    context.out.show(&programs, || {
        format!(
            "{org} consents that {from} goes to {to}, for moves that begin before {}\n\nnext: \
             rekeyd org consent-move {other} --from {from} --to {to} --until {until}, then rekeyd \
             enqueue move --org {} --from {}/{} --to-org {} --to {}/{}",
            figures::time(expires_ms),
            from.org,
            from.workspace,
            from.channel,
            to.org,
            to.workspace,
            to.channel,
        )
    })?;
    Ok(Exit::Done)
}
