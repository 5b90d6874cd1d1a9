//! Keys whose rows are gone and that a rekey has set aside.
//!
//! A message that comes back from a backup after its old key was retired is
//! rewritten like any other. Only a task that rewrites looks here; readers never
//! do. What holds of a key row holds here: its CMK is on the allow-list, its wrap
//! is not below the floor, its scope fits the question, and where the KMS refuses
//! it nothing else is tried. The new cell needs a key of its own scope under the
//! CMK that is active now: whoever has revoked that has revoked this way, too.

use std::sync::Arc;

use crate::audit::{Record, RecordType};
use crate::crypto::aside::{Bundle, open};
use crate::crypto::{
    CellError, Commitment, KeyId, KeyRowBody, KeyRowError, MessageLocus, scope_fits,
};
use crate::epoch::Epoch;
use crate::ids::{Hour, JobId};
use crate::job::{AsideKey, Effort, Pass};
use crate::keys::SliceKeys;
use crate::pipeline::patience::patiently;
use crate::pipeline::unwrap::{KeyFault, Opened, unwrap_row};
use crate::pipeline::{TaskError, TaskRun, wraps};
use crate::registry::ChannelView;
use crate::scope::Scope;
use crate::store::{KeyRow, SliceKey};

/// A key that was set aside.
pub(super) enum Aside {
    /// With a wrap of the KMS, which is as good as a row. The scope is not
    /// checked yet.
    Wrapped(KeyRowBody),
    /// Sealed with a key of the job that set it aside.
    Sealed(Box<Sealed>),
}

/// What a re-encryption has kept of a key.
pub(super) struct Sealed {
    job: JobId,
    hour: Hour,
    id: KeyId,
    commitment: Commitment,
    scope: Scope,
    wrap_epoch: Epoch,
    cell: Vec<u8>,
}

/// Looks for a key that has no row. `KeyRowMissing`: it is not set aside either.
pub(super) async fn find(
    task: &TaskRun,
    view: &ChannelView,
    hour: Hour,
    id: KeyId,
) -> Result<Result<Aside, CellError>, TaskError> {
    // A proof takes the key rows as they are.
    if matches!(task.pass, Pass::Verify | Pass::Drain) {
        return Ok(Err(CellError::KeyRowMissing(id)));
    }
    let (book, clock) = (&task.shared.book, &task.shared.clock);
    let at = (hour, id);
    // Of several jobs the last: it has the key under the newest CMK.
    for (job, _) in patiently(clock, || book.set_asides_of(&view.org)).await? {
        let found = patiently(clock, || book.aside_key(job, &view.channel, at)).await?;
        return Ok(match found {
            None => continue,
            Some(AsideKey::Wrapped { row_hex }) => {
                let row = chosen(task, view, Some(id), &row_hex).await?;
                row.map(Aside::Wrapped)
            }
            Some(AsideKey::Sealed {
                commitment_hex,
                scope_hex,
                wrap_epoch,
                cell_hex,
                ..
            }) => parsed([&commitment_hex, &scope_hex, &cell_hex])
                .map(|(commitment, scope, cell)| Sealed {
                    job,
                    hour,
                    id,
                    commitment,
                    scope,
                    wrap_epoch,
                    cell,
                })
                .map(|sealed| Aside::Sealed(Box::new(sealed)))
                .ok_or(CellError::KeyRowMalformed(KeyRowError::Length)),
        });
    }
    Ok(Err(CellError::KeyRowMissing(id)))
}

impl Sealed {
    /// Opens it with one call of the KMS, for the key that it is sealed with.
    pub(super) async fn open(
        &self,
        task: &TaskRun,
        view: &ChannelView,
        effort: &mut Effort,
    ) -> Opened {
        let floor = view.wrap_floor();
        if self.wrap_epoch < floor {
            let epoch = self.wrap_epoch;
            return Ok(Err(CellError::WrapBelowFloor { epoch, floor }.into()));
        }
        let asked = MessageLocus {
            org: &view.org,
            channel: &view.channel,
            hour: self.hour,
        };
        if let Err(error) = scope_fits(&self.scope, &asked, &view.channel_row.workspaces_had) {
            return Ok(Err(error.into()));
        }
        let with = match self.sealing_key(task, view, effort).await? {
            Ok(with) => with,
            Err(fault) => return Ok(Err(fault)),
        };
        let bundle = Bundle {
            org: &view.org,
            channel: &view.channel,
            hour: self.hour,
            key_id: self.id,
        };
        let opened = open(&with, &bundle, &self.scope, &self.commitment, &self.cell);
        if opened.is_ok() {
            note(task, view, self.hour, self.id);
        }
        Ok(opened.map(Arc::new).map_err(KeyFault::from))
    }

    async fn sealing_key(&self, task: &TaskRun, view: &ChannelView, effort: &mut Effort) -> Opened {
        let (book, clock) = (&task.shared.book, &task.shared.clock);
        let seal = patiently(clock, || book.aside_seal(self.job, &view.channel)).await?;
        let Some(seal) = seal else {
            // Its time is just over, and it is being deleted.
            return Ok(Err(CellError::KeyRowMissing(self.id).into()));
        };
        let row = match chosen(task, view, None, &seal.row_hex).await? {
            Ok(row) => row,
            Err(error) => return Ok(Err(error.into())),
        };
        let scope = Scope::SetAside {
            org: view.org.clone(),
            channel: view.channel.clone(),
            job: self.job,
        };
        if row.scope != scope {
            return Ok(Err(CellError::ScopeMismatch.into()));
        }
        unwrap_row(task, &row, &row.key_id(), effort).await
    }
}

/// Parses a key row that stands among what is set aside, and takes it by the rules
/// of those that stand in their own table.
async fn chosen(
    task: &TaskRun,
    view: &ChannelView,
    id: Option<KeyId>,
    row_hex: &str,
) -> Result<Result<KeyRowBody, CellError>, TaskError> {
    let decoded = hex::decode(row_hex)
        .map_err(|_| KeyRowError::Length)
        .and_then(|row| Ok((KeyRowBody::decode(&row)?, row)));
    let (body, row) = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return Ok(Err(error.into())),
    };
    let key_id = id.unwrap_or_else(|| body.key_id());
    let row = KeyRow {
        key_id,
        wrap_epoch: body.wrap_epoch,
        row,
    };
    wraps::choose(task, &SliceKeys::parse(&[row]), view, key_id).await
}

fn parsed([commitment, scope, cell]: [&String; 3]) -> Option<(Commitment, Scope, Vec<u8>)> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(commitment, &mut bytes).ok()?;
    let scope = Scope::from_bytes(&hex::decode(scope).ok()?).ok()?;
    Some((Commitment(bytes), scope, hex::decode(cell).ok()?))
}

/// That a key came from there is in the audit log, beside the calls it took.
pub(super) fn note(task: &TaskRun, view: &ChannelView, hour: Hour, id: KeyId) {
    let mut why = task.why();
    why.key_id = Some(id);
    let address = SliceKey::messages(&view.org, &view.channel, hour);
    let record = Record::new(RecordType::Slice, "set_aside_used").because(&why);
    task.shared.audit.record(record.on((&address).into()));
    tracing::info!(channel = %view.channel, %hour, key = %id, "the row of this key is gone: what was set aside of it is used");
}
