//! Where the cells of a copy go, and whether the copy is still under way.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::ids::{JobId, Place};
use crate::job::{MoveRequest, Pass};
use crate::pipeline::patience::patiently;
use crate::pipeline::{Goal, TaskError, TaskRun};
use crate::registry::{ChannelRow, ChannelView, CopyPhase, Places, RegistryError};

/// The places of a copy's destination, as a task saw them last.
#[derive(Default)]
pub struct Targets(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    latest: Option<Arc<Places>>,
    // The place that the copy brought the channel to.
    place: Option<Place>,
}

impl Targets {
    /// The places, read now or a little ago, as with [`super::Views`].
    pub(super) async fn young(&self, task: &TaskRun) -> Result<Arc<Places>, TaskError> {
        let shared = &task.shared;
        // Held while they are read, so that pages which come together ask once.
        let mut seen = self.0.lock().await;
        if let Some(places) = &seen.latest
            && shared.clock.boot().since(places.read_at) < shared.timing.row_age() / 4
        {
            return Ok(places.clone());
        }
        let request = request(task)?;
        let read = match task.pass {
            Pass::Sweep => {
                let place = match &seen.place {
                    Some(place) => place.clone(),
                    None => place_of(task, request).await?,
                };
                seen.place = Some(place.clone());
                brought_to(task, request, place).await
            }
            _ => destination(task, request).await,
        };
        let places = Arc::new(match read {
            Err(RegistryError::UnknownChannel { .. }) => {
                return Err(TaskError::CalledOff(task.job));
            }
            read => read?,
        });
        seen.latest = Some(places.clone());
        Ok(places)
    }
}

fn request(task: &TaskRun) -> Result<&MoveRequest, TaskError> {
    match &task.goal {
        Goal::Copy(request) => Ok(request),
        Goal::Rekey { .. } | Goal::MoveInPlace => Err(TaskError::CalledOff(task.job)),
    }
}

/// The destination while it belongs to this copy.
async fn destination(task: &TaskRun, request: &MoveRequest) -> Result<Places, RegistryError> {
    let shared = &task.shared;
    let to = request.destination();
    let view = patiently(&shared.clock, || shared.registry.view(&to.org, &to.channel)).await?;
    let incoming = view.channel_row.incoming.as_ref();
    if incoming.is_some_and(|incoming| incoming.job == task.job) {
        Ok(Places::only(view))
    } else {
        // The name is somebody else's.
        Err(RegistryError::UnknownChannel {
            org: to.org,
            channel: to.channel,
        })
    }
}

/// The place that the copy brought the channel to, and not where later copies
/// have taken it: only that place knows what was deleted there. What the sweep
/// brings late, the next copy carries on; it does not end before this one.
async fn brought_to(
    task: &TaskRun,
    request: &MoveRequest,
    place: Place,
) -> Result<Places, RegistryError> {
    let shared = &task.shared;
    let to = request.destination();
    let view = patiently(&shared.clock, || shared.registry.view(&to.org, &to.channel)).await?;
    if view.channel_row.place == place {
        Ok(Places::only(view))
    } else {
        Err(RegistryError::UnknownChannel {
            org: to.org,
            channel: to.channel,
        })
    }
}

async fn place_of(task: &TaskRun, request: &MoveRequest) -> Result<Place, TaskError> {
    let shared = &task.shared;
    let row = patiently(&shared.clock, || {
        shared.registry.move_row(&request.org, task.job)
    })
    .await?;
    row.map(|row| row.place)
        .ok_or(TaskError::CalledOff(task.job))
}

/// Whether a copy may read or purge the source by this view of it. A place that
/// the channel's name has got since belongs to others, who never said that it
/// may be emptied.
///
/// # Errors
/// `CalledOff`.
pub(super) fn check_source(task: &TaskRun, view: &ChannelView) -> Result<(), TaskError> {
    if may_take(task.pass, task.job, &view.channel_row) {
        Ok(())
    } else {
        Err(TaskError::CalledOff(task.job))
    }
}

fn may_take(pass: Pass, job: JobId, row: &ChannelRow) -> bool {
    let phases = match pass {
        Pass::Copy => CopyPhase::Mirrored..=CopyPhase::Switched,
        Pass::Sweep => CopyPhase::Moved..=CopyPhase::Moved,
        Pass::Rewrite | Pass::Verify | Pass::Drain => return true,
    };
    let outgoing = row.outgoing.as_ref();
    // While another copy comes to the name, `outgoing` says where it led before.
    row.incoming.is_none()
        && outgoing.is_some_and(|out| out.job == job && phases.contains(&out.phase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::ids::{ChannelId, OrgId, WorkspaceId};
    use crate::registry::{ChannelName, Incoming, Outgoing};

    #[test]
    fn i14_a_copy_touches_its_source_only_in_its_own_phases() {
        use CopyPhase::*;
        let (ours, others) = (JobId::random(), JobId::random());
        let name = ChannelName {
            org: OrgId::new("acme").unwrap(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: ChannelId::new("c1").unwrap(),
        };
        let row = |outgoing: Option<(JobId, CopyPhase)>, incoming: bool| ChannelRow {
            workspace: name.workspace.clone(),
            place: Place::random(),
            epoch: Epoch::ZERO,
            floor: Epoch::ZERO,
            workspaces_had: vec![name.workspace.clone()],
            created_ms: 0,
            outgoing: outgoing.map(|(job, phase)| Outgoing {
                job,
                phase,
                to: name.clone(),
            }),
            incoming: incoming.then(|| Incoming {
                job: others,
                org: name.org.clone(),
                channel: name.channel.clone(),
            }),
            came_from: Vec::new(),
            places_had: Vec::new(),
        };
        for phase in CopyPhase::ALL {
            let mine = row(Some((ours, phase)), false);
            let copies = matches!(phase, Mirrored | Switched);
            assert_eq!(may_take(Pass::Copy, ours, &mine), copies, "{phase}");
            assert_eq!(may_take(Pass::Sweep, ours, &mine), phase == Moved);
            let not_mine = row(Some((others, phase)), false);
            let used_again = row(Some((ours, phase)), true);
            for pass in [Pass::Copy, Pass::Sweep] {
                assert!(!may_take(pass, ours, &not_mine), "{pass:?} {phase}");
                assert!(!may_take(pass, ours, &used_again), "{pass:?} {phase}");
                assert!(!may_take(pass, ours, &row(None, false)));
            }
        }
    }
}
