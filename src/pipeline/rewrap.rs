//! The rewrap: each key that a cell names gets a wrap under the new CMK, made
//! inside the KMS; cells stay as they are. The proving pass has each new wrap
//! opened by the KMS, by wrapping it again under its own CMK.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::crypto::{CellError, KeyId, KeyRowBody, MessageLocus, scope_fits};
use crate::ids::CmkArn;
use crate::job::{Effort, Pass};
use crate::killpoint;
use crate::kms::codes::Side;
use crate::kms::{CmkState, KmsClass, KmsError};
use crate::pipeline::aside::{self, Kept};
use crate::pipeline::parking::Canary;
use crate::pipeline::unwrap::{self, KeyFault};
use crate::pipeline::work::{Page, Tally, key_ids};
use crate::pipeline::wraps;
use crate::pipeline::{TaskError, TaskRun};

/// The stage, for both passes.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<Page>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let mut working = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            Some(tally) = working.next(), if !working.is_empty() => {
                if done.send(tally?).await.is_err() {
                    return Ok(());
                }
            }
            page = pages.recv(), if more && working.len() < task.shared.limits.kms => match page {
                Some(page) => working.push(one_page(&task, page)),
                None => more = false,
            },
            else => return Ok(()),
        }
    }
}

async fn one_page(task: &TaskRun, mut page: Page) -> Result<Tally, TaskError> {
    let mut effort = Effort::default();
    let mut answers: HashMap<KeyId, Result<(), KeyFault>> = HashMap::new();
    for id in key_ids(&page.cells) {
        let answer = one_key(task, &page, id, &mut effort).await?;
        answers.insert(id, answer);
    }
    for cell in std::mem::take(&mut page.cells) {
        match answers.get(&cell.header.key_id) {
            Some(Ok(())) => page.tally.counts.current += 1,
            Some(Err(KeyFault::Blocked(why))) => page.tally.block(1, why.clone()),
            Some(Err(KeyFault::Bad(code))) => {
                page.tally
                    .quarantine(cell.record, cell.write_time, code.clone());
            }
            Some(Err(KeyFault::Find)) | None => {
                page.tally.counts.changed += 1;
                page.tally.effort.finds += 1;
            }
        }
    }
    page.tally.effort.add(&effort);
    Ok(page.tally)
}

async fn one_key(
    task: &TaskRun,
    page: &Page,
    id: KeyId,
    effort: &mut Effort,
) -> Result<Result<(), KeyFault>, TaskError> {
    let keys = &page.tally.slice.keys;
    // Pages of one slice mostly name the same key: the first to come does the
    // work, the others wait for it and see its answer.
    let mut answers = keys.answers().await;
    if let Some(answer) = answers.get(&id) {
        return Ok(answer.clone());
    }
    let rows = keys.rows(task, Some(id)).await?;
    let row = match wraps::choose(task, &rows, &page.view, id).await? {
        Ok(row) => row,
        Err(error) => match put_back(task, page, id, error).await? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error.into())),
        },
    };
    let asked = MessageLocus {
        org: &task.org,
        channel: &page.view.channel,
        hour: page.tally.slice.id.hour,
    };
    let answer = match scope_fits(&row.scope, &asked, &page.view.channel_row.workspaces_had) {
        Err(error) => Err(error.into()),
        Ok(()) => match task.pass {
            Pass::Rewrite => wrap_anew(task, page, &row, effort).await?,
            _ => prove(task, page, &row, effort).await?,
        },
    };
    answers.insert(id, answer.clone());
    Ok(answer)
}

/// Puts a row that is gone back as a rewrap has set it aside, and goes on with it.
/// What a re-encryption has set aside cannot be used here: it takes a Decrypt.
async fn put_back(
    task: &TaskRun,
    page: &Page,
    id: KeyId,
    error: CellError,
) -> Result<Result<KeyRowBody, CellError>, TaskError> {
    let CellError::KeyRowMissing(_) = error else {
        return Ok(Err(error));
    };
    let slice = &page.tally.slice;
    let (view, hour) = (&page.view, slice.id.hour);
    let row = match aside::find(task, view, hour, id).await? {
        Ok(Kept::Wrapped(row)) => row,
        Ok(Kept::Sealed(_)) => return Ok(Err(error)),
        Err(error) => return Ok(Err(error)),
    };
    // On disk before the row is (I16).
    let intended = aside::record(task, view, hour, id).intended();
    task.shared.audit.record(intended);
    if slice.keys.insert(task, &row).await? {
        aside::note(task, view, hour, id);
    }
    // Another worker may have put it back, and wrapped it anew.
    let rows = slice.keys.rows(task, None).await?;
    wraps::choose(task, &rows, view, id).await
}

async fn wrap_anew(
    task: &TaskRun,
    page: &Page,
    row: &KeyRowBody,
    effort: &mut Effort,
) -> Result<Result<(), KeyFault>, TaskError> {
    let shared = &task.shared;
    let desired = page.view.desired();
    if row.wrap_epoch >= desired.wrap_epoch {
        return Ok(Ok(()));
    }
    for cmk in [&row.cmk, &desired.cmk] {
        if let Some(why) = shared.parking.why(cmk) {
            return Ok(Err(KeyFault::Blocked(why)));
        }
    }
    let mut why = task.why();
    why.key_id = Some(row.key_id());
    effort.kms_calls += 1;
    let answer = shared
        .kms
        .re_encrypt(&row.cmk, &row.wrapped, &desired.cmk, &row.scope, &why)
        .await;
    let wrapped = match answer {
        Ok(wrapped) => wrapped,
        Err(error) => {
            let at_fault = side_at_fault(task, &error, &row.cmk, &desired.cmk, effort).await?;
            return Ok(Err(
                unwrap::fault(task, &task.org, at_fault, error, effort).await?
            ));
        }
    };
    killpoint::reach("key_after_generate");
    let body = KeyRowBody {
        wrap_epoch: desired.wrap_epoch,
        provider: shared.provider,
        cmk: wrapped.cmk,
        key_material_id: wrapped.key_material_id,
        wrapped: wrapped.bytes,
        ..row.clone()
    };
    let is_ours = page.tally.slice.keys.insert(task, &body).await?;
    killpoint::reach("key_after_insert");
    if is_ours {
        effort.keys_rewrapped += 1;
        return Ok(Ok(()));
    }
    // Another worker wrapped it at the same moment, which is as good; or
    // somebody put a row there that no scan would ever accept.
    let rows = page.tally.slice.keys.rows(task, None).await?;
    Ok(
        match wraps::choose(task, &rows, &page.view, row.key_id()).await? {
            Ok(now) if now.wrap_epoch >= desired.wrap_epoch => Ok(()),
            Ok(_) => Err(KeyFault::Bad("wrap_place_taken".to_owned())),
            Err(error) => Err(error.into()),
        },
    )
}

/// Which of the two CMKs a refused ReEncrypt is about: the one that the error
/// names, else the one that is not enabled, else, where a policy refuses, the
/// target if it refuses its own canary too.
async fn side_at_fault<'a>(
    task: &TaskRun,
    error: &KmsError,
    from: &'a CmkArn,
    to: &'a CmkArn,
    effort: &mut Effort,
) -> Result<&'a CmkArn, TaskError> {
    match error.side(from, to) {
        Some(Side::Source) => return Ok(from),
        Some(Side::Target) => return Ok(to),
        None => {}
    }
    let kms = &task.shared.kms;
    for cmk in [to, from] {
        effort.kms_calls += 1;
        match kms.describe(cmk, &task.org, &task.why()).await {
            Ok(about) if about.state == CmkState::Enabled => {}
            _ => return Ok(cmk),
        }
    }
    if error.class != KmsClass::Denied {
        return Ok(from);
    }
    Ok(match unwrap::canary(task, &task.org, to, effort).await? {
        Canary::Refused => to,
        Canary::Answers => from,
    })
}

async fn prove(
    task: &TaskRun,
    page: &Page,
    row: &KeyRowBody,
    effort: &mut Effort,
) -> Result<Result<(), KeyFault>, TaskError> {
    if let Err(fault) =
        wraps::is_as_the_job_left_it(task, &page.view, page.tally.slice.id.hour, row).await?
    {
        return Ok(Err(fault));
    }
    let shared = &task.shared;
    if let Some(why) = shared.parking.why(&row.cmk) {
        return Ok(Err(KeyFault::Blocked(why)));
    }
    let mut why = task.why();
    why.key_id = Some(row.key_id());
    effort.kms_calls += 1;
    match shared
        .kms
        .re_encrypt(&row.cmk, &row.wrapped, &row.cmk, &row.scope, &why)
        .await
    {
        Ok(_) => Ok(Ok(())),
        Err(error) => Ok(Err(
            unwrap::fault(task, &task.org, &row.cmk, error, effort).await?
        )),
    }
}
