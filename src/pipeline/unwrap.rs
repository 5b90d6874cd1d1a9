//! Opens the data keys that the cells of a page name, and makes the key that
//! the new cells are sealed with. One call to the KMS per key, not per cell.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Mutex, mpsc};

use crate::crypto::{
    CellError, CellKey, KeyId, KeyRowBody, MessageLocus, check_commitment, scope_fits,
};
use crate::ids::{ChannelId, CmkArn, Hour, OrgId};
use crate::job::{Effort, Mode, Pass};
use crate::keys::SliceKeys;
use crate::killpoint;
use crate::kms::{KmsClass, KmsError};
use crate::pipeline::aside::{self, Kept};
use crate::pipeline::parking::Canary;
use crate::pipeline::patience::patiently;
use crate::pipeline::work::{Blocked, Cell, OpenablePage, Page, Tally, key_ids};
use crate::pipeline::wraps;
use crate::pipeline::{Goal, TaskError, TaskRun};
use crate::planted::{self, Bug};
use crate::registry::{ChannelView, Desired};
use crate::scope::Scope;
use crate::store::{KeyRow, SliceKey, StoreErrorClass};

/// Why a key cannot be used.
#[derive(Debug, Clone)]
pub enum KeyFault {
    /// It waits for a customer or an operator.
    Blocked(Blocked),
    /// It or its cells are bad.
    Bad(String),
    /// Its wrap is not what the job must leave behind; a proving scan found it.
    Find,
}

impl From<CellError> for KeyFault {
    fn from(error: CellError) -> Self {
        KeyFault::Bad(error.code().to_owned())
    }
}

/// An opened key, or why there is none; or a failure of the task itself.
pub(super) type Opened = Result<Result<Arc<CellKey>, KeyFault>, TaskError>;

/// The data keys of one slice at one address, opened once and kept until the
/// slice is done. A copy has a ring for each place that it reads or writes.
pub struct SliceKeyRing {
    address: SliceKey,
    hour: Hour,
    state: Mutex<State>,
    answers: Mutex<Answers>,
}

/// What came of the keys that a rewrap has dealt with.
pub type Answers = HashMap<KeyId, Result<(), KeyFault>>;

#[derive(Default)]
struct State {
    rows: Option<Arc<SliceKeys>>,
    opened: HashMap<KeyId, Result<Arc<CellKey>, KeyFault>>,
    sealing: Option<(Sealing, Result<Arc<CellKey>, KeyFault>)>,
}

/// What a sealing key was chosen for.
struct Sealing {
    desired: Desired,
    scope: Scope,
}

impl SliceKeyRing {
    /// Nothing is opened yet.
    pub fn new(org: &OrgId, channel: &ChannelId, hour: Hour) -> Self {
        Self {
            address: SliceKey::messages(org, channel, hour),
            hour,
            state: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// The keys that a rewrap has dealt with. Held while one is dealt with, so
    /// that no key is wrapped twice.
    pub async fn answers(&self) -> tokio::sync::MutexGuard<'_, Answers> {
        self.answers.lock().await
    }

    /// Reads the key rows, again if `key_id` is not among those read before: a
    /// client may have added it since.
    pub async fn rows(
        &self,
        task: &TaskRun,
        key_id: Option<KeyId>,
    ) -> Result<Arc<SliceKeys>, TaskError> {
        let mut state = self.state.lock().await;
        self.load(task, &mut state, key_id).await?;
        Ok(state.rows.clone().unwrap_or_default())
    }

    async fn load(
        &self,
        task: &TaskRun,
        state: &mut State,
        key_id: Option<KeyId>,
    ) -> Result<(), TaskError> {
        let known = state.rows.as_ref().is_some_and(|rows| {
            key_id.is_none_or(|id| rows.rows().iter().any(|row| row.key_id() == id))
        });
        if !known {
            let shared = &task.shared;
            let rows = patiently(&shared.clock, || shared.store.read_keys(&self.address)).await?;
            state.rows = Some(Arc::new(SliceKeys::parse(&rows)));
        }
        Ok(())
    }

    /// Adds a key row, durable before this returns (I11). False if another row
    /// stands at that address: it stays.
    pub async fn insert(&self, task: &TaskRun, body: &KeyRowBody) -> Result<bool, TaskError> {
        let shared = &task.shared;
        let row = KeyRow {
            key_id: body.key_id(),
            wrap_epoch: body.wrap_epoch,
            row: body.encode().map_err(CellError::from).map_err(|e| {
                crate::store::StoreError::new(StoreErrorClass::Fatal, e.to_string())
            })?,
        };
        // The record of the call is on disk before what follows from it (I16).
        shared.audit.durable().await?;
        let inserted = patiently(&shared.clock, || {
            shared.store.insert_key(&self.address, &row)
        })
        .await;
        let is_ours = match inserted {
            Err(e) if e.class == StoreErrorClass::Invalid => false,
            other => other.map(|()| true)?,
        };
        self.state.lock().await.rows = None;
        Ok(is_ours)
    }
}

/// The stage. Pages with no cell left to work on go straight to `done`.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut pages: mpsc::Receiver<Page>,
    out: mpsc::Sender<OpenablePage>,
    done: mpsc::Sender<Tally>,
) -> Result<(), TaskError> {
    let mut opening = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            Some(opened) = opening.next(), if !opening.is_empty() => {
                let page: OpenablePage = opened?;
                let sent = if page.page.cells.is_empty() {
                    done.send(page.page.tally).await.is_ok()
                } else {
                    out.send(page).await.is_ok()
                };
                if !sent {
                    return Ok(());
                }
            }
            page = pages.recv(), if more && opening.len() < task.shared.limits.kms => match page {
                Some(page) => opening.push(open_page(&task, page)),
                None => more = false,
            },
            else => return Ok(()),
        }
    }
}

async fn open_page(task: &TaskRun, mut page: Page) -> Result<OpenablePage, TaskError> {
    let slice = page.tally.slice.clone();
    let mut effort = Effort::default();
    let opened = open_keys(task, &slice.keys, &page.view, &page.cells, &mut effort).await?;
    let desired = page.view.desired();
    let mut seal = None;
    if task.pass == Pass::Rewrite {
        // A key is only made if a cell can be opened: a revoked slice costs
        // nothing under the new CMK.
        let openable = page
            .cells
            .iter()
            .filter(|cell| matches!(opened.get(&cell.header.key_id), Some(Ok(_))))
            .count();
        if openable > 0 {
            let seals = openable as u32;
            seal = Some(sealing_key(task, &slice.keys, &page.view, seals, &mut effort).await?);
        }
    }
    let mut keys = Vec::with_capacity(page.cells.len());
    let mut kept = Vec::with_capacity(page.cells.len());
    for cell in page.cells {
        let key = match (opened.get(&cell.header.key_id), &seal) {
            (Some(Ok(key)), None | Some(Ok(_))) => Ok(key.clone()),
            (Some(Ok(_)), Some(Err(fault))) | (Some(Err(fault)), _) => Err(fault.clone()),
            (None, _) => Err(CellError::KeyRowMissing(cell.header.key_id).into()),
        };
        match key {
            Ok(key) => {
                keys.push(key);
                kept.push(cell);
            }
            Err(KeyFault::Blocked(why)) => page.tally.block(1, why),
            Err(KeyFault::Bad(code)) => page.tally.quarantine(cell.record, cell.write_time, code),
            Err(KeyFault::Find) => {
                page.tally.counts.changed += 1;
                page.tally.effort.finds += 1;
            }
        }
    }
    page.cells = kept;
    page.tally.effort.add(&effort);
    let seal = match seal {
        Some(Ok(key)) => Some((key, desired.cell_epoch)),
        _ => None,
    };
    Ok(OpenablePage { page, keys, seal })
}

/// The keys that cells name, by id; each is opened once for the whole slice.
pub(super) async fn open_keys(
    task: &TaskRun,
    ring: &SliceKeyRing,
    view: &ChannelView,
    cells: &[Cell],
    effort: &mut Effort,
) -> Result<HashMap<KeyId, Result<Arc<CellKey>, KeyFault>>, TaskError> {
    let mut state = ring.state.lock().await;
    let mut keys = HashMap::new();
    for id in key_ids(cells) {
        let opened = match state.opened.get(&id) {
            Some(opened) => opened.clone(),
            None => {
                let opened = open_key(task, ring, &mut state, view, id, effort).await?;
                state.opened.insert(id, opened.clone());
                opened
            }
        };
        keys.insert(id, opened);
    }
    Ok(keys)
}

/// Opens one key by the steps of docs/format.md.
async fn open_key(
    task: &TaskRun,
    ring: &SliceKeyRing,
    state: &mut State,
    view: &ChannelView,
    id: KeyId,
    effort: &mut Effort,
) -> Opened {
    ring.load(task, state, Some(id)).await?;
    let rows = state.rows.clone().unwrap_or_default();
    let row = match wraps::choose(task, &rows, view, id).await? {
        Ok(row) => row,
        Err(CellError::KeyRowMissing(_)) => {
            return match aside::find(task, view, ring.hour, id).await? {
                Ok(Kept::Sealed(sealed)) => sealed.open(task, view, ring.hour, effort).await,
                Ok(Kept::Wrapped(row)) => {
                    let opened = unwrap_row(task, &row, &id, effort).await?;
                    if opened.is_ok() {
                        aside::note(task, view, ring.hour, id);
                    }
                    Ok(opened)
                }
                Err(error) => Ok(Err(error.into())),
            };
        }
        Err(error) => return Ok(Err(error.into())),
    };
    let asked = MessageLocus {
        org: &view.org,
        channel: &view.channel,
        hour: ring.hour,
    };
    if let Err(error) = scope_fits(&row.scope, &asked, &view.channel_row.workspaces_had) {
        return Ok(Err(error.into()));
    }
    if task.pass == Pass::Verify
        && let Err(fault) = wraps::is_as_the_job_left_it(task, view, asked.hour, &row).await?
    {
        return Ok(Err(fault));
    }
    unwrap_row(task, &row, &id, effort).await
}

/// Unwraps the key of a row and checks that it is the one the row commits to.
pub(super) async fn unwrap_row(
    task: &TaskRun,
    row: &KeyRowBody,
    named: &KeyId,
    effort: &mut Effort,
) -> Opened {
    let shared = &task.shared;
    if let Some(why) = shared.parking.why(&row.cmk) {
        return Ok(Err(KeyFault::Blocked(why)));
    }
    let mut why = task.why();
    why.key_id = Some(*named);
    effort.kms_calls += 1;
    match shared
        .kms
        .decrypt(&row.cmk, &row.wrapped, &row.scope, &why)
        .await
    {
        Ok(dek) => {
            shared.parking.answered(&row.cmk);
            let key = CellKey::derive(dek, &row.scope);
            Ok(match check_commitment(&key, row, named) {
                Ok(()) => Ok(Arc::new(key)),
                Err(error) => Err(error.into()),
            })
        }
        Err(error) => Ok(Err(
            fault(task, row.scope.org(), &row.cmk, error, effort).await?
        )),
    }
}

/// What an error of the KMS means for the slice. A denial is looked into with
/// the CMK's canary: refused, the whole CMK is parked; answered, it is this
/// scope that was revoked.
pub(super) async fn fault(
    task: &TaskRun,
    org: &OrgId,
    cmk: &CmkArn,
    error: KmsError,
    effort: &mut Effort,
) -> Result<KeyFault, TaskError> {
    let parking = &task.shared.parking;
    let wait = |n| task.shared.timing.blocked_retry(n);
    let reason = error
        .blocked_reason()
        .map_or_else(|| error.code.clone(), |r| r.into_owned());
    let blocked = Blocked {
        code: reason,
        message: error.message.clone(),
    };
    Ok(match error.class {
        KmsClass::FatalWorker => return Err(error.into()),
        KmsClass::QuarantinedKey => KeyFault::Bad(format!("key_unwrap:{}", error.code)),
        KmsClass::Denied => match canary(task, org, cmk, effort).await? {
            Canary::Answers => KeyFault::Blocked(blocked),
            Canary::Refused => {
                let blocked = Blocked {
                    code: "cmk_denied".to_owned(),
                    ..blocked
                };
                parking.park(cmk, blocked.clone(), wait);
                KeyFault::Blocked(blocked)
            }
        },
        KmsClass::CmkUnusable | KmsClass::Unavailable | KmsClass::RoleDenied => {
            parking.park(cmk, blocked.clone(), wait);
            KeyFault::Blocked(blocked)
        }
        KmsClass::FatalJob | KmsClass::Unknown | KmsClass::Transient { .. } => {
            KeyFault::Blocked(blocked)
        }
    })
}

/// Tries the canary that was stored when the CMK was entered, once a minute at
/// most.
pub(super) async fn canary(
    task: &TaskRun,
    org: &OrgId,
    cmk: &CmkArn,
    effort: &mut Effort,
) -> Result<Canary, TaskError> {
    let shared = &task.shared;
    // Slices that are refused at the same moment ask once.
    let _one_asks = shared.parking.canary_turn().await;
    if let Some(said) = shared.parking.canary(cmk) {
        return Ok(said);
    }
    let list = task.allow_lists.known(shared, org).await?;
    let wrap = list
        .get(cmk)
        .and_then(|row| hex::decode(&row.canary_hex).ok());
    let said = match wrap {
        None => Canary::Refused,
        Some(wrap) => {
            let scope = Scope::Canary { org: org.clone() };
            let mut why = task.why();
            why.code = crate::kms::ReasonCode::Canary;
            effort.kms_calls += 1;
            let answer = match &task.goal {
                // The rewrap role has no Decrypt.
                Goal::Rekey {
                    mode: Mode::Rewrap,
                    to_cmk,
                } => shared
                    .kms
                    .re_encrypt(cmk, &wrap, to_cmk, &scope, &why)
                    .await
                    .map(drop),
                _ => shared.kms.decrypt(cmk, &wrap, &scope, &why).await.map(drop),
            };
            match answer {
                Ok(()) => Canary::Answers,
                Err(error) => match error.class {
                    KmsClass::Denied | KmsClass::CmkUnusable | KmsClass::QuarantinedKey => {
                        Canary::Refused
                    }
                    // No answer is no refusal: the slice waits, not the CMK.
                    _ => return Ok(Canary::Answers),
                },
            }
        }
    };
    shared.parking.note_canary(cmk, said);
    Ok(said)
}

/// The key that new cells of a slice are sealed with: one that stands and
/// qualifies, or a new one. `seals` are counted before any is made.
pub(super) async fn sealing_key(
    task: &TaskRun,
    ring: &SliceKeyRing,
    view: &ChannelView,
    seals: u32,
    effort: &mut Effort,
) -> Opened {
    let mut state = ring.state.lock().await;
    let state = &mut *state;
    let desired = view.desired();
    let scope = view.scope(ring.hour);
    if let Some((for_, key)) = &state.sealing
        && for_.desired == desired
        && for_.scope == scope
    {
        match key {
            Err(fault) => return Ok(Err(fault.clone())),
            Ok(key) if key.reserve_seals(seals).is_ok() => return Ok(Ok(key.clone())),
            // The key has sealed all that it may in this process: make another.
            Ok(_) => {
                let made = make_key(task, ring, state, &desired, &scope, effort).await?;
                return Ok(remember(state, Sealing { desired, scope }, made, seals));
            }
        }
    }
    ring.load(task, state, None).await?;
    let rows = state.rows.clone().unwrap_or_default();
    let found = match rows.sealing_key(&desired, &scope) {
        Some(row) => match unwrap_row(task, row, &row.key_id(), effort).await? {
            // Nobody's cells are worse for a bad key that stands here.
            Err(KeyFault::Bad(_)) => make_key(task, ring, state, &desired, &scope, effort).await?,
            found => found,
        },
        None => make_key(task, ring, state, &desired, &scope, effort).await?,
    };
    Ok(remember(state, Sealing { desired, scope }, found, seals))
}

fn remember(
    state: &mut State,
    sealing: Sealing,
    key: Result<Arc<CellKey>, KeyFault>,
    seals: u32,
) -> Result<Arc<CellKey>, KeyFault> {
    if let Ok(key) = &key {
        // A page has far fewer cells than a fresh key may seal.
        let _ = key.reserve_seals(seals);
    }
    state.sealing = Some((sealing, key.clone()));
    key
}

/// Makes a data key under the desired CMK and stores its wrap. The row is
/// durable before the key is given out (I11).
async fn make_key(
    task: &TaskRun,
    ring: &SliceKeyRing,
    state: &mut State,
    desired: &Desired,
    scope: &Scope,
    effort: &mut Effort,
) -> Opened {
    let shared = &task.shared;
    if let Some(why) = shared.parking.why(&desired.cmk) {
        return Ok(Err(KeyFault::Blocked(why)));
    }
    effort.kms_calls += 1;
    let made = match shared
        .kms
        .generate_data_key(&desired.cmk, scope, &task.why())
        .await
    {
        Ok(made) => made,
        Err(error) => {
            return Ok(Err(
                fault(task, scope.org(), &desired.cmk, error, effort).await?
            ));
        }
    };
    shared.parking.answered(&desired.cmk);
    killpoint::reach("key_after_generate");
    let key = CellKey::derive(made.dek, scope);
    let body = KeyRowBody {
        wrap_epoch: desired.wrap_epoch,
        provider: shared.provider,
        commitment: key.commitment().clone(),
        created_ms: shared.clock.wall().unix_ms(),
        cmk: made.wrapped.cmk,
        key_material_id: made.wrapped.key_material_id,
        scope: scope.clone(),
        wrapped: made.wrapped.bytes,
    };
    let row = KeyRow {
        key_id: key.key_id(),
        wrap_epoch: body.wrap_epoch,
        row: body
            .encode()
            .map_err(|e| crate::store::StoreError::new(StoreErrorClass::Fatal, e.to_string()))?,
    };
    // The record of the call is on disk before what follows from it (I16).
    shared.audit.durable().await?;
    if planted::is(Bug::KeyAfterCells) {
        let (late, address) = (task.shared.clone(), ring.address.clone());
        tokio::spawn(async move {
            late.clock.sleep(late.timing.request_timeout()).await;
            let _ = late.store.insert_key(&address, &row).await;
        });
        return Ok(Ok(Arc::new(key)));
    }
    patiently(&shared.clock, || {
        shared.store.insert_key(&ring.address, &row)
    })
    .await?;
    killpoint::reach("key_after_insert");
    effort.keys_made += 1;
    state.rows = None;
    Ok(Ok(Arc::new(key)))
}
