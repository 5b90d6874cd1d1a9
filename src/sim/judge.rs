//! What must be true at the end of a history.

use std::time::Duration;

use super::history::Operator;
use super::process::{Process, true_time};
use super::replicas::REPLICAS;
use super::world::World;
use crate::clock::SharedClock;
use crate::crypto::{Header, KeyRowBody, expiry};
use crate::demo::traffic::read_back;
use crate::ids::ChannelId;
use crate::job::{JobRow, JobState};
use crate::kms::{ReasonCode, Use};
use crate::registry::{ChannelView, CopyPhase};
use crate::store::merge::{Cell, Content};
use crate::store::{Partition, SliceKey};

/// All that is wrong, in words.
pub(super) async fn all(operator: &Operator, jobs: &[JobRow], quiet: bool) -> Vec<String> {
    let mut wrong = operator.world.replicas.broken();
    for job in jobs {
        let what = job.request.what();
        operator
            .world
            .say(&format!("{what}: {}, {:?}", job.state, job.rewriting));
        // A target that its owner disabled at the wrong moment is refused, and
        // nothing has been changed.
        if job.state == JobState::Failed
            && job.activated.is_none()
            && job.why.starts_with("target_")
        {
            continue;
        }
        if !job.state.is_drained() {
            wrong.push(format!("{what} ended {}: {}", job.state, job.why));
        }
        if job.verdict.is_none() {
            wrong.push(format!("{what} has no verdict"));
        }
        // I13.
        if !job.rewriting.balances() || !job.proof.balances() {
            wrong.push(format!(
                "{what}: rows do not sum: {:?}, {:?}",
                job.rewriting, job.proof
            ));
        }
        // Where no write can come late, all that a scan finds was left out.
        if quiet && job.effort.finds > 0 {
            wrong.push(format!(
                "{what}: the scan found {} rows left as they were",
                job.effort.finds
            ));
        }
        if job.rewriting.quarantined + job.proof.quarantined > 0 {
            wrong.push(format!("{what}: quarantined rows, of which there are none"));
        }
    }
    if wrong.is_empty() {
        wrong.extend(nothing_is_old(operator).await);
        wrong.extend(the_ledger_is_kept(operator).await);
    }
    wrong
}

/// I8: no live cell and no key it names is below what should be, and nothing is
/// left where a channel was.
async fn nothing_is_old(operator: &Operator) -> Vec<String> {
    let (world, registry) = (&operator.world, &operator.registry);
    let every: Vec<usize> = (0..REPLICAS).collect();
    let now_s = true_time(&world.time).unix_seconds();
    let mut wrong = Vec::new();
    let mut channels = Vec::new();
    let mut after: Option<ChannelId> = None;
    loop {
        let page = match registry.channels(&world.org, after.as_ref(), 100).await {
            Ok(page) => page,
            Err(error) => return vec![format!("channels cannot be listed: {error}")],
        };
        let Some(last) = page.last() else { break };
        after = Some(last.0.clone());
        channels.extend(page.into_iter().map(|(channel, _)| channel));
    }
    let mut places = Vec::new();
    for channel in &channels {
        let view = match registry.view(&world.org, channel).await {
            Ok(view) => view,
            Err(error) => return vec![format!("{channel} cannot be looked at: {error}")],
        };
        places.push((view.channel_row.place.clone(), view));
    }
    for partition in world.replicas.partitions() {
        let rows = world.replicas.partition(&partition, &every);
        for (record, cell) in rows.live_at(now_s) {
            let Some(bytes) = cell.live_at(now_s) else {
                continue;
            };
            let Ok(header) = Header::parse(bytes) else {
                wrong.push(format!("{record:?} does not parse"));
                continue;
            };
            if header.expiry.is_some_and(|at| i64::from(at) <= now_s) {
                continue;
            }
            let at = |what: &str| format!("{} {record:?}: {what}", place_of(&partition));
            let is_there = |view: &ChannelView| {
                let copied = view.channel_row.outgoing.as_ref();
                copied.is_none_or(|copy| copy.phase < CopyPhase::Moved)
            };
            let Some((_, view)) = places
                .iter()
                .find(|(place, view)| *place == partition.place && is_there(view))
            else {
                wrong.push(at("left where its channel is no more"));
                continue;
            };
            let desired = view.desired();
            if let Some(late) = too_early(cell, &header) {
                wrong.push(at(&late));
            }
            if header.epoch < desired.cell_epoch {
                wrong.push(at(&format!(
                    "epoch {} below {}",
                    header.epoch, desired.cell_epoch
                )));
                continue;
            }
            let slice = SliceKey::messages(&world.org, &view.channel, partition.hour);
            let wraps = world.replicas.keys(&slice, &every);
            let good = wraps
                .iter()
                .filter(|w| w.key_id == header.key_id)
                .any(|wrap| {
                    wrap.wrap_epoch >= desired.wrap_epoch
                        && KeyRowBody::decode(&wrap.row).is_ok_and(|body| {
                            body.cmk == desired.cmk && body.scope == view.scope(partition.hour)
                        })
                });
            if !good {
                wrong.push(at(&format!(
                    "no wrap of epoch {} for its key",
                    desired.wrap_epoch
                )));
            }
        }
    }
    wrong
}

/// I4: whoever writes an epoch gives the store an expiry that is later by 5 s for
/// each epoch, so that the newer one wins. `None` if it is as it should be.
fn too_early(cell: &Cell, header: &Header) -> Option<String> {
    let (Some(expiry), Content::Expiring { expiry_s, .. }) = (header.expiry, &cell.content) else {
        return None;
    };
    let least = i64::from(expiry) + expiry::PADDING_S * i64::from(header.epoch.get());
    // Clocks differ by a second.
    (*expiry_s < least - 1).then(|| format!("the store's expiry {expiry_s} is below {least}"))
}

fn place_of(partition: &Partition) -> String {
    format!("{}/{}", &partition.place.as_str()[..6], partition.hour)
}

/// Everything reads as the ledger says, and no CMK but the active one is needed.
async fn the_ledger_is_kept(operator: &Operator) -> Vec<String> {
    let world = &operator.world;
    let active = match operator.registry.org(&world.org).await {
        Ok(row) => row.cmk,
        Err(error) => return vec![format!("the organization cannot be read: {error}")],
    };
    for n in 0..10 {
        let cmk = World::cmk(n);
        if cmk != active {
            world.keys.disable(&cmk);
        }
    }
    let process = Process::new(&world.time, "reader");
    let clock: SharedClock = std::sync::Arc::new(super::process::ProcessClock(process.clone()));
    // Nobody has a view of the registry any more from before the end.
    clock.sleep(Duration::from_secs(120)).await;
    let Some(client) = world.client(&process).await else {
        return vec!["no client at the end".to_owned()];
    };
    let why = Use::new(ReasonCode::Verify, "read back");
    let found = read_back(&client, &world.ledger, &clock, &why, 1).await;
    let mut wrong: Vec<String> = found.violations.iter().map(|v| format!("{v:?}")).collect();
    if !found.refused.is_empty() {
        wrong.push(format!(
            "cannot be read without the old CMKs: {:?}",
            found.refused
        ));
    }
    wrong
}
