//! Keys whose rows are gone and that a rekey has set aside.
//!
//! A message that comes back from a backup after its old key was retired is
//! rewritten like any other. That is all this is for:
//!
//! - only while an operator has opened the window for a backup. Without it a cell
//!   that comes back is one that was rolled back, and a key that is gone stays so;
//! - only for a task that rewrites. Readers never look here, and a proof takes the
//!   key rows as they are;
//! - by the rules of a key row: the CMK is on the allow-list, the wrap that was set
//!   aside is not below the floor, and its scope fits the question;
//! - what is sealed only for a cell that stays in its scope. It opens without the
//!   KMS being told the hour; so the new cell's key, which names the hour, has to
//!   be of the very same scope, or a move would lift a revocation.

use std::sync::Arc;

use crate::audit::{Record, RecordType};
use crate::crypto::aside::{Bundle, open};
use crate::crypto::{
    CellError, CellKey, Commitment, Header, KeyId, KeyRowBody, MessageLocus, scope_fits,
};
use crate::epoch::Epoch;
use crate::ids::{Hour, JobId};
use crate::job::{AsideKey, Effort, Mode, Pass};
use crate::keys::SliceKeys;
use crate::pipeline::patience::patiently;
use crate::pipeline::unwrap::{KeyFault, Opened, unwrap_row};
use crate::pipeline::{TaskError, TaskRun, wraps};
use crate::registry::ChannelView;
use crate::scope::Scope;
use crate::store::{KeyRow, SliceKey};

/// A key that was set aside, and may be used.
pub(super) enum Kept {
    /// With a wrap of the KMS, which is as good as a row.
    Wrapped(KeyRowBody),
    /// Sealed with a key of the job that set it aside.
    Sealed(Box<Sealed>),
}

/// What a re-encryption has kept of a key.
pub(super) struct Sealed {
    job: JobId,
    id: KeyId,
    commitment: Commitment,
    scope: Scope,
    cell: Vec<u8>,
}

/// A key as it stands there, with the epochs of the job and of its old wrap.
struct Candidate {
    job_epoch: Epoch,
    old_epoch: Epoch,
    what: What,
}

enum What {
    /// A key row; its wrap epoch is the job's.
    Wrapped(Vec<u8>),
    Sealed(Box<Sealed>),
}

/// Looks for a key that has no row. `KeyRowMissing`: it is not set aside either,
/// or may not be used here.
pub(super) async fn find(
    task: &TaskRun,
    view: &ChannelView,
    hour: Hour,
    id: KeyId,
) -> Result<Result<Kept, CellError>, TaskError> {
    let missing = || Ok(Err(CellError::KeyRowMissing(id)));
    let proves = matches!(task.pass, Pass::Verify | Pass::Drain);
    if view.org_row.restore_window.is_none() || proves || view.org != task.org {
        return missing();
    }
    let Some(found) = newest(task, view, (hour, id)).await? else {
        return missing();
    };
    let (epoch, floor) = (found.old_epoch, view.wrap_floor());
    if epoch < floor {
        return Ok(Err(CellError::WrapBelowFloor { epoch, floor }));
    }
    let asked = MessageLocus {
        org: &view.org,
        channel: &view.channel,
        hour,
    };
    Ok(match found.what {
        What::Wrapped(row) => match chosen(task, view, id, found.job_epoch, row).await? {
            Ok(row) => scope_fits(&row.scope, &asked, &view.channel_row.workspaces_had)
                .map(|()| Kept::Wrapped(row)),
            Err(error) => Err(error),
        },
        What::Sealed(sealed) if task.pass == Pass::Rewrite && sealed.scope == view.scope(hour) => {
            Ok(Kept::Sealed(sealed))
        }
        What::Sealed(_) => Err(CellError::KeyRowMissing(id)),
    })
}

/// Of what several jobs have set aside the newest: it is under the newest CMK. If
/// the KMS refuses that, no older one is tried, as with wraps. A rewrap may not
/// decrypt, and passes over what is sealed.
async fn newest(
    task: &TaskRun,
    view: &ChannelView,
    at: (Hour, KeyId),
) -> Result<Option<Candidate>, TaskError> {
    let (book, clock) = (&task.shared.book, &task.shared.clock);
    // What a job sets aside while this task runs still has its key rows.
    let jobs = task
        .asides
        .get_or_try_init(|| patiently(clock, || book.set_asides_of(&view.org)))
        .await?;
    let mut newest: Option<Candidate> = None;
    for (job, _) in jobs {
        let Some(key) = patiently(clock, || book.aside_key(*job, &view.channel, at)).await? else {
            continue;
        };
        let candidate = Candidate::of(*job, at.1, key).filter(|candidate| {
            task.mode() == Mode::Reencrypt || matches!(candidate.what, What::Wrapped(_))
        });
        if let Some(candidate) = candidate
            && newest
                .as_ref()
                .is_none_or(|newest| newest.job_epoch < candidate.job_epoch)
        {
            newest = Some(candidate);
        }
    }
    Ok(newest)
}

impl Candidate {
    /// `None` if the row does not parse: then it is as if it were not there.
    fn of(job: JobId, id: KeyId, key: AsideKey) -> Option<Self> {
        match key {
            AsideKey::Wrapped {
                row_hex,
                wrap_epoch,
            } => {
                let row = hex::decode(row_hex).ok()?;
                Some(Self {
                    job_epoch: KeyRowBody::decode(&row).ok()?.wrap_epoch,
                    old_epoch: wrap_epoch,
                    what: What::Wrapped(row),
                })
            }
            AsideKey::Sealed {
                commitment_hex,
                scope_hex,
                wrap_epoch,
                cell_hex,
                ..
            } => {
                let mut commitment = [0; 32];
                hex::decode_to_slice(commitment_hex, &mut commitment).ok()?;
                let cell = hex::decode(cell_hex).ok()?;
                Some(Self {
                    job_epoch: Header::parse(&cell).ok()?.epoch,
                    old_epoch: wrap_epoch,
                    what: What::Sealed(Box::new(Sealed {
                        job,
                        id,
                        commitment: Commitment(commitment),
                        scope: Scope::from_bytes(&hex::decode(scope_hex).ok()?).ok()?,
                        cell,
                    })),
                })
            }
        }
    }
}

impl Sealed {
    /// Opens it with one call of the KMS, for the key that it is sealed with.
    pub(super) async fn open(
        &self,
        task: &TaskRun,
        view: &ChannelView,
        hour: Hour,
        effort: &mut Effort,
    ) -> Opened {
        let with = match self.sealing_key(task, view, effort).await? {
            Ok(with) => with,
            Err(fault) => return Ok(Err(fault)),
        };
        let bundle = Bundle {
            org: &view.org,
            channel: &view.channel,
            hour,
            key_id: self.id,
        };
        let opened: Result<CellKey, CellError> =
            open(&with, &bundle, &self.scope, &self.commitment, &self.cell);
        if opened.is_ok() {
            note(task, view, hour, self.id);
        }
        Ok(opened.map(Arc::new).map_err(KeyFault::from))
    }

    async fn sealing_key(&self, task: &TaskRun, view: &ChannelView, effort: &mut Effort) -> Opened {
        let (book, clock) = (&task.shared.book, &task.shared.clock);
        let seal = patiently(clock, || book.aside_seal(self.job, &view.channel)).await?;
        let row = seal.and_then(|seal| hex::decode(seal.row_hex).ok());
        let body = row.and_then(|row| Some((KeyRowBody::decode(&row).ok()?, row)));
        let Some((body, row)) = body else {
            return Ok(Err(CellError::KeyRowMissing(self.id).into()));
        };
        let scope = Scope::SetAside {
            org: view.org.clone(),
            channel: view.channel.clone(),
            job: self.job,
        };
        if body.scope != scope {
            return Ok(Err(CellError::ScopeMismatch.into()));
        }
        match chosen(task, view, body.key_id(), body.wrap_epoch, row).await? {
            Ok(row) => unwrap_row(task, &row, &row.key_id(), effort).await,
            Err(error) => Ok(Err(error.into())),
        }
    }
}

/// Takes a key row that stands among what is set aside by the rules of those that
/// stand in their own table.
async fn chosen(
    task: &TaskRun,
    view: &ChannelView,
    key_id: KeyId,
    wrap_epoch: Epoch,
    row: Vec<u8>,
) -> Result<Result<KeyRowBody, CellError>, TaskError> {
    let row = KeyRow {
        key_id,
        wrap_epoch,
        row,
    };
    wraps::choose(task, &SliceKeys::parse(&[row]), view, key_id).await
}

/// That a key came from there, for the audit log, beside the calls it took.
pub(super) fn record(task: &TaskRun, view: &ChannelView, hour: Hour, id: KeyId) -> Record {
    let mut why = task.why();
    why.key_id = Some(id);
    let address = SliceKey::messages(&view.org, &view.channel, hour);
    Record::new(RecordType::Slice, "set_aside_used")
        .because(&why)
        .on((&address).into())
}

/// Notes that a key came from there.
pub(super) fn note(task: &TaskRun, view: &ChannelView, hour: Hour, id: KeyId) {
    task.shared.audit.record(record(task, view, hour, id));
    tracing::info!(
        channel = %view.channel, %hour, key = %id,
        "the row of this key is gone: what was set aside of it is used"
    );
}
