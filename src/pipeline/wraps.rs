//! Which wrap of a key is used, and whether it is what the job must leave
//! behind. The last scan before the verdict looks at wraps and epochs only and
//! calls no KMS.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::crypto::{CellError, KeyId, KeyRowBody};
use crate::epoch::Epoch;
use crate::ids::{CmkArn, Hour};
use crate::job::Mode;
use crate::keys::SliceKeys;
use crate::pipeline::patience::patiently;
use crate::pipeline::unwrap::KeyFault;
use crate::pipeline::work::{Page, Tally, key_ids};
use crate::pipeline::{Goal, TaskError, TaskRun};
use crate::registry::ChannelView;

/// The wrap of a key that is tried: the highest on the allow-list. The list is
/// read again before a CMK is called unlisted, because a later job may have
/// brought a new one.
pub(super) async fn choose(
    task: &TaskRun,
    rows: &SliceKeys,
    view: &ChannelView,
    id: KeyId,
) -> Result<Result<KeyRowBody, CellError>, TaskError> {
    let floor = view.wrap_floor();
    let known = task.allow_lists.known(&task.shared, &view.org).await?;
    match rows.wrap_to_open(id, &known, floor) {
        Err(CellError::CmkNotAllowed(_)) => {
            let fresh = task.allow_lists.fresh(&task.shared, &view.org).await?;
            Ok(rows.wrap_to_open(id, &fresh, floor).cloned())
        }
        answer => Ok(answer.cloned()),
    }
}

/// Whether a key's wrap is at the job's epoch or above and under the CMK that
/// its epoch names.
///
/// For a move it is the scope that counts: the key was made for the workspace
/// the channel is in. Not if a later move took the channel on: then some cells
/// are still of this one and some of that one, and that one will prove its own.
pub(super) async fn is_as_the_job_left_it(
    task: &TaskRun,
    view: &ChannelView,
    hour: Hour,
    row: &KeyRowBody,
) -> Result<Result<(), KeyFault>, TaskError> {
    let (mode, to_cmk) = match &task.goal {
        Goal::Rekey { mode, to_cmk } => (*mode, to_cmk),
        Goal::MoveInPlace | Goal::Copy(_) => {
            let is_latest = view.channel_row.epoch == task.epoch;
            return Ok(if is_latest && row.scope != view.scope(hour) {
                Err(KeyFault::Bad("scope_of_before_the_move".to_owned()))
            } else {
                Ok(())
            });
        }
    };
    if row.wrap_epoch < task.epoch {
        // A rewrap mends this. In a re-encryption no cell of the new epoch may
        // name such a key, so somebody put it there.
        return Ok(Err(match mode {
            Mode::Rewrap => KeyFault::Find,
            Mode::Reencrypt => KeyFault::Bad("wrap_below_job".to_owned()),
        }));
    }
    let code = match cmk_of(task, to_cmk, row.wrap_epoch).await? {
        Some(cmk) if cmk == row.cmk => return Ok(Ok(())),
        Some(_) => "wrap_under_other_cmk",
        // The epoch of a wrap is no proof: one that was never given out could
        // hide that the key is still under the old CMK.
        None => "wrap_epoch_unknown",
    };
    Ok(Err(KeyFault::Bad(code.to_owned())))
}

/// The CMK that an epoch names, by the activations of the organization. They
/// are read again before an epoch is called unknown: a later job may have been
/// activated since.
async fn cmk_of(task: &TaskRun, own: &CmkArn, epoch: Epoch) -> Result<Option<CmkArn>, TaskError> {
    if epoch == task.epoch {
        return Ok(Some(own.clone()));
    }
    if let Some(cmk) = task.later_epochs.read().await.get(&epoch) {
        return Ok(Some(cmk.clone()));
    }
    let shared = &task.shared;
    let fresh: BTreeMap<Epoch, CmkArn> =
        patiently(&shared.clock, || shared.registry.activations(&task.org))
            .await?
            .into_iter()
            .map(|activation| (activation.epoch, activation.to_cmk))
            .collect();
    let cmk = fresh.get(&epoch).cloned();
    *task.later_epochs.write().await = fresh;
    Ok(cmk)
}

/// The stage of the last scan: every key that a cell names has its wrap.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<Page>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    while let Some(mut page) = pages.recv().await {
        let slice = page.tally.slice.clone();
        let (keys, hour) = (&slice.keys, slice.id.hour);
        let mut faults = std::collections::HashMap::new();
        for id in key_ids(&page.cells) {
            let rows = keys.rows(&task, Some(id)).await?;
            let fault = match choose(&task, &rows, &page.view, id).await? {
                Err(error) => Some(KeyFault::from(error)),
                Ok(row) => is_as_the_job_left_it(&task, &page.view, hour, &row)
                    .await?
                    .err(),
            };
            faults.insert(id, fault);
        }
        for cell in std::mem::take(&mut page.cells) {
            match faults.get(&cell.header.key_id) {
                Some(None) => page.tally.counts.current += 1,
                Some(Some(KeyFault::Bad(code))) => {
                    page.tally
                        .quarantine(cell.record, cell.write_time, code.clone());
                }
                Some(Some(KeyFault::Blocked(why))) => page.tally.block(1, why.clone()),
                Some(Some(KeyFault::Find)) | None => {
                    page.tally.counts.changed += 1;
                    page.tally.effort.finds += 1;
                }
            }
        }
        if done.send(page.tally).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
