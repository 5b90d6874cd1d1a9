//! Calling a copy off. The registry first: from then on no client reads or
//! writes the destination but those that have not learnt of it. A crash between
//! that and the job's row is finished by whoever drives the job.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::audit::{AuditLog, Record, RecordType};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::clock::WriteTime;
use crate::ids::Hour;
use crate::job::MoveRequest;
use crate::kms::{ReasonCode, Use};
use crate::registry::{CalledOff, Registry};
use crate::scope::Kind;
use crate::steer::Act;
use crate::store::{Partition, SharedStore};

/// Slices listed at once.
const PAGE: usize = 1000;

/// Brings the clients back to the source, unless they read from the destination
/// already.
pub(super) async fn clients(
    registry: &Registry,
    audit: &AuditLog,
    request: &MoveRequest,
    act: &Act<'_>,
) -> Result<(), Failure> {
    let record = Record::registry(&request.org, "call_off", None, &why(act));
    audit.record(record.clone().intended());
    audit.durable().await?;
    match registry.call_off_copy(request).await? {
        CalledOff::Yes => {
            audit.record(record);
            Ok(())
        }
        CalledOff::TooLate(phase) => Err(Failure::new(
            Exit::Conflict,
            format!(
                "job {} cannot be called off any more: it is in phase {phase}, and clients read \
                 `{}` where it went to",
                act.job,
                request.source()
            ),
        )
        .help(format!(
            "let it come to its end (`rekeyd status {} --wait`); the way back is then a move from \
             there back: `{}`{}",
            act.job,
            way_back(request),
            if request.org == *request.to_org() {
                ""
            } else {
                ", with the consent of both organizations for that way"
            }
        ))),
    }
}

/// The command that moves a channel back.
pub(super) fn way_back(request: &MoveRequest) -> String {
    let (from, to) = (request.destination(), request.source());
    let to_org = match from.org == to.org {
        true => String::new(),
        false => format!(" --to-org {}", to.org),
    };
    format!(
        "rekeyd enqueue move --org {} --from {}/{} --to {}/{}{to_org}",
        from.org, from.workspace, from.channel, to.workspace, to.channel
    )
}

/// What became of the cells that had been copied.
#[derive(Debug, Serialize)]
pub(super) struct Purged {
    /// Slices of the destination's place that were deleted.
    slices: u64,
    /// Why not all, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

impl fmt::Display for Purged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slices = figures::count(self.slices, "slice");
        match &self.failed {
            None => write!(
                f,
                "what had been copied is deleted: {slices} of the place that nobody uses again"
            ),
            Some(why) => write!(
                f,
                "what had been copied is deleted in part: {slices} ({why}). Nobody reads the rest, \
                 and that place is never used again"
            ),
        }
    }
}

/// Deletes what was copied. Nobody reads that place, and it is never used again
/// (I14), so the time of the delete may lie ahead: clients that learn late that
/// the copy was called off write there for as long as a settle.
pub(super) async fn purge(
    store: &SharedStore,
    registry: &Registry,
    audit: &AuditLog,
    request: &MoveRequest,
    act: &Act<'_>,
) -> Purged {
    let mut purged = Purged {
        slices: 0,
        failed: None,
    };
    if let Err(failure) = slices(store, registry, request, &mut purged.slices).await {
        purged.failed = Some(failure.to_string());
    }
    let mut why = why(act);
    let slices = figures::count(purged.slices, "slice");
    why.reason = format!("{slices} of a copy that was called off");
    let mut record = Record::new(RecordType::Slice, "purge").because(&why);
    record.org = Some(request.to_org().clone());
    audit.record(record);
    purged
}

async fn slices(
    store: &SharedStore,
    registry: &Registry,
    request: &MoveRequest,
    purged: &mut u64,
) -> Result<(), Failure> {
    let org = request.to_org();
    let Some(row) = registry.move_row(org, request.job_id).await? else {
        return Ok(());
    };
    let settle = Duration::from_millis(registry.timing().await?.settle_ms());
    let at = WriteTime(registry.clock().wall().plus(settle).0);
    let group = request.to.channel.as_str();
    let mut after: Option<String> = None;
    loop {
        let page = store
            .list_slices(org, Kind::Message, group, after.as_deref(), PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        for slice in page {
            let partition = Partition {
                org: org.clone(),
                place: row.place.clone(),
                hour: slice.parse::<Hour>()?,
            };
            store.delete_partition(&partition, at).await?;
            *purged += 1;
        }
    }
}

fn why(act: &Act<'_>) -> Use {
    let mut why = Use::new(ReasonCode::ChannelMove, act.why);
    why.job = Some(act.job);
    why.requested_by = Some(act.who.to_owned());
    why
}
