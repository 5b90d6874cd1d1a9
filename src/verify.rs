//! A scan that is independent of any job: reads every live cell of an
//! organization, looks at its key's wrap, opens it, and counts what is under
//! which CMK. It changes nothing.
//!
//! It goes by the same steps as a reader (docs/format.md), so what it passes a
//! reader can read. It streams: a page per slice in flight is all it holds.
//!
//! | file | what |
//! |---|---|
//! | `found` | what a scan found |
//! | `moved` | whether a channel's moves are at their end |
//! | `pace` | so many rows a second at most |
//! | `promise` | whether what a job promised holds |
//! | `resume` | how far a scan has come, in a file of the operator's |
//! | `sample` | a few slices drawn from all, for a quick look |

mod found;
mod moved;
mod pace;
mod promise;
mod resume;
mod sample;

pub use found::{Found, Place, UnderCmk, Wrong};
pub use moved::{OldPlace, Proof, Standing};
pub use promise::{Looked, Promise};
pub use resume::{Asked, Kept, Part, ResumeError, ResumeFile};
pub use sample::Sample;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::stream::{FuturesOrdered, StreamExt};
use tokio::sync::RwLock;

use crate::clock::SharedClock;
use crate::crypto::{
    Admission, CellError, CellKey, Header, KeyId, MessageLocus, admit_cell, cell, check_commitment,
    expiry, scope_fits,
};
use crate::ids::{ChannelId, CmkArn, OrgId, RecordId, WorkspaceId};
use crate::job::SliceId;
use crate::keys::SliceKeys;
use crate::kms::{KmsClass, KmsError, ReasonCode, SharedKms, Use};
use crate::pipeline::TaskError;
use crate::pipeline::plan::SliceWalk;
use crate::registry::{AllowList, ChannelView, Registry};
use crate::scope::{Locus, Scope};
use crate::store::{Consistency, Page, PageLimit, Partition, SharedStore, SliceKey, StoredCell};
use pace::RowPace;

/// Slices read at once.
const SLICES_IN_FLIGHT: usize = 64;
/// The same at a given rate: many would share it, each be through late, and what
/// is kept to go on from would stand still meanwhile.
const PACED_IN_FLIGHT: usize = 4;
const PAGE: PageLimit = PageLimit {
    rows: 500,
    bytes: 1 << 20,
};
/// Examples kept for each thing that is wrong.
const EXAMPLES: usize = 20;

/// What is scanned, and with what.
pub struct Scan {
    store: SharedStore,
    registry: Registry,
    clock: SharedClock,
    /// `None`: headers and key rows only, no call to the KMS.
    kms: Option<SharedKms>,
    org: OrgId,
    channel: Option<ChannelId>,
    consistency: Consistency,
    as_after_the_window: bool,
    pace: Option<RowPace>,
    allow_list: RwLock<AllowList>,
    why: Use,
}

/// One slice as a scan has seen it: what is wrong in it, its key rows, and the
/// keys that its cells name, also those that vanished or are not as they should
/// be.
pub(crate) struct SliceLook {
    pub(crate) found: Found,
    pub(crate) keys: SliceKeys,
    pub(crate) named: BTreeSet<KeyId>,
}

/// Why a cell was not opened.
#[derive(Clone)]
enum Fault {
    Bad(&'static str),
    Blocked(String),
}

impl From<CellError> for Fault {
    fn from(error: CellError) -> Self {
        Fault::Bad(error.code())
    }
}

/// A key that cells of a slice name: the CMK of the wrap that a reader would
/// use, and the key or why there is none. No key where nothing is to be opened.
#[derive(Clone)]
struct Known {
    cmk: Option<CmkArn>,
    workspace: Option<WorkspaceId>,
    key: Result<Option<Arc<CellKey>>, Fault>,
}

/// How far a scan has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last slice of those that are through; `None` before the first.
    pub last: Option<SliceId>,
    /// What was found in all of them.
    pub found: Found,
}

/// Which slices are gone through.
enum Slices {
    /// All, from the one that was looked at already.
    Walked(Option<SliceId>, Box<SliceWalk>),
    /// These.
    Drawn(std::vec::IntoIter<SliceId>),
}

impl Slices {
    async fn next(&mut self) -> Result<Option<SliceId>, TaskError> {
        match self {
            Slices::Drawn(slices) => Ok(slices.next()),
            Slices::Walked(ahead, walk) => match ahead.take() {
                Some(slice) => Ok(Some(slice)),
                None => walk.next().await,
            },
        }
    }
}

/// One slice while it is read.
struct SliceScan<'a> {
    scan: &'a Scan,
    id: SliceId,
    address: SliceKey,
    view: ChannelView,
    rows: SliceKeys,
    known: HashMap<KeyId, Known>,
    named: BTreeSet<KeyId>,
    found: Found,
}

impl Scan {
    /// A scan of an organization, or of one channel of it. With `kms` every
    /// cell is opened.
    ///
    /// # Errors
    /// If the organization is not known or the registry cannot be read.
    pub async fn new(
        store: SharedStore,
        clock: SharedClock,
        kms: Option<SharedKms>,
        org: OrgId,
        channel: Option<ChannelId>,
    ) -> Result<Self, TaskError> {
        let registry = Registry::new(store.clone(), clock.clone());
        match &channel {
            Some(channel) => drop(registry.view(&org, channel).await?),
            None => drop(registry.org(&org).await?),
        }
        Ok(Self {
            allow_list: RwLock::new(registry.allow_list(&org).await?),
            store,
            registry,
            clock,
            kms,
            org,
            channel,
            consistency: Consistency::Quorum,
            as_after_the_window: false,
            pace: None,
            why: Use::new(ReasonCode::Verify, "a scan on its own"),
        })
    }

    /// Asks every replica.
    #[must_use]
    pub fn at_all_replicas(mut self) -> Self {
        self.consistency = Consistency::All;
        self
    }

    /// Goes by the organization's floors even while its restore window is open:
    /// what will be refused once it is closed counts as quarantined.
    #[must_use]
    pub fn as_after_the_window(mut self) -> Self {
        self.as_after_the_window = true;
        self
    }

    /// Reads so many rows a second at most, over all slices at once.
    #[must_use]
    pub fn at_rows_per_s(mut self, rows_per_s: u32) -> Self {
        self.pace = Some(RowPace::new(rows_per_s, self.clock.clone()));
        self
    }

    async fn view(&self, channel: &ChannelId) -> Result<ChannelView, TaskError> {
        let mut view = self.registry.view(&self.org, channel).await?;
        if self.as_after_the_window {
            view.org_row.restore_window = None;
        }
        Ok(view)
    }

    /// Scans to the end. `progress` is told now and then what was found so far.
    ///
    /// # Errors
    /// If the store or the registry fails, or the KMS refuses this caller as
    /// such. What is wrong with the data is no error: it is in the answer.
    pub async fn run(&self, mut progress: impl FnMut(&Found)) -> Result<Found, TaskError> {
        let begin = Reached::default();
        let end = self.run_from(begin, |reached| progress(&reached.found));
        Ok(end.await?.found)
    }

    /// Scans on from where another run came to. After each slice `progress` is
    /// told how far the scan is: every slice up to there is in what was found, and
    /// none behind it. So a scan that goes on from what it was last told finds
    /// what one run would have.
    ///
    /// # Errors
    /// As [`Scan::run`].
    pub async fn run_from(
        &self,
        from: Reached,
        progress: impl FnMut(&Reached),
    ) -> Result<Reached, TaskError> {
        let mut walk = self.walk(from.last.as_ref());
        // The walk begins with the slice that is through already.
        let mut ahead = walk.next().await?;
        if ahead == from.last {
            ahead = walk.next().await?;
        }
        let slices = Slices::Walked(ahead, Box::new(walk));
        self.over(slices, from, progress).await
    }

    fn walk(&self, from: Option<&SliceId>) -> SliceWalk {
        SliceWalk::new(
            self.store.clone(),
            self.registry.clone(),
            self.org.clone(),
            self.channel.clone(),
            from,
        )
    }

    /// Goes through slices, many at once; what comes of them is taken in order.
    async fn over(
        &self,
        mut slices: Slices,
        mut reached: Reached,
        mut progress: impl FnMut(&Reached),
    ) -> Result<Reached, TaskError> {
        let mut flying = FuturesOrdered::new();
        let at_once = match self.pace {
            Some(_) => PACED_IN_FLIGHT,
            None => SLICES_IN_FLIGHT,
        };
        let mut more = true;
        while more || !flying.is_empty() {
            while more && flying.len() < at_once {
                match slices.next().await? {
                    Some(slice) => flying.push_back(self.slice(slice)),
                    None => more = false,
                }
            }
            if let Some(slice) = flying.next().await {
                let (id, found) = slice?;
                reached.found.add(found);
                reached.last = Some(id);
                progress(&reached);
            }
        }
        Ok(reached)
    }

    async fn slice(&self, id: SliceId) -> Result<(SliceId, Found), TaskError> {
        let found = self.look(id.clone()).await?.found;
        Ok((id, found))
    }

    /// Scans one slice.
    pub(crate) async fn look(&self, id: SliceId) -> Result<SliceLook, TaskError> {
        let view = self.view(&id.channel).await?;
        let address = SliceKey::messages(&self.org, &id.channel, id.hour);
        let rows = SliceKeys::parse(&self.store.read_keys(&address).await?);
        let mut slice = SliceScan {
            scan: self,
            id: id.clone(),
            address,
            view,
            rows,
            known: HashMap::new(),
            named: BTreeSet::new(),
            found: Found {
                slices: 1,
                ..Found::default()
            },
        };
        slice.read().await?;
        slice.count_keys();
        Ok(SliceLook {
            found: slice.found,
            keys: slice.rows,
            named: slice.named,
        })
    }
}

impl Scan {
    /// A page of a slice, when it is due.
    async fn page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
    ) -> Result<Page, TaskError> {
        let read = |limit| {
            self.store
                .read_page(partition, after, limit, self.consistency)
        };
        let Some(pace) = &self.pace else {
            return Ok(read(PAGE).await?);
        };
        let turn = pace.turn().await;
        let page = read(pace.within(PAGE)).await?;
        turn.took(page.cells.len() as u64 + page.empty_rows);
        Ok(page)
    }
}

impl SliceScan<'_> {
    async fn read(&mut self) -> Result<(), TaskError> {
        let mut after: Option<RecordId> = None;
        loop {
            let partition = self.view.partition(self.id.hour);
            let page = self.scan.page(&partition, after.as_ref()).await?;
            self.found.empty += page.empty_rows;
            for cell in page.cells {
                self.cell(cell).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    async fn cell(&mut self, stored: StoredCell) -> Result<(), TaskError> {
        self.found.cells += 1;
        if let Ok(header) = Header::parse(&stored.cell) {
            self.named.insert(header.key_id);
        }
        let header = match self.admit(&stored).await? {
            Ok(Some(header)) => header,
            Ok(None) => {
                self.found.expired += 1;
                return Ok(());
            }
            Err(fault) => {
                self.wrong(stored.record, fault);
                return Ok(());
            }
        };
        let epoch = header.epoch.get();
        *self.found.by_epoch.entry(epoch).or_default() += 1;
        let known = self.key(header.key_id).await?;
        if let Some(cmk) = known.cmk {
            self.found.by_cmk.entry(cmk).or_default().cells += 1;
        }
        if let Some(workspace) = known.workspace {
            *self.found.by_workspace.entry(workspace).or_default() += 1;
        }
        let opened = known.key.and_then(|key| {
            let Some(key) = key else {
                return Ok(false);
            };
            let locus = Locus::Message {
                org: &self.scan.org,
                channel: &self.id.channel,
                record: &stored.record,
            };
            cell::open(&key, &locus, &stored.cell)?;
            Ok(true)
        });
        match opened {
            Ok(opened) => self.found.opened += u64::from(opened),
            Err(fault) => self.wrong(stored.record, fault),
        }
        Ok(())
    }

    /// Step 1 of opening; `None` for a cell past its expiry.
    async fn admit(
        &mut self,
        stored: &StoredCell,
    ) -> Result<Result<Option<Header>, Fault>, TaskError> {
        let mut fresh = false;
        loop {
            let newest = self.view.org_row.last_epoch;
            let now = self.scan.clock.wall();
            match admit_cell(&stored.cell, now, self.view.floor(), newest) {
                Err(error) => return Ok(Err(error.into())),
                Ok(Admission::Expired) => return Ok(Ok(None)),
                Ok(Admission::Ok(header)) => {
                    let agree = expiry::check_store_ttl(header.expiry, stored.ttl_s);
                    return Ok(agree.map(|()| Some(header)).map_err(Fault::from));
                }
                // Given out since the view was read?
                Ok(Admission::AboveNewest(_)) if !fresh => {
                    self.view = self.scan.view(&self.id.channel).await?;
                    fresh = true;
                }
                // By nobody.
                Ok(Admission::AboveNewest(header)) => {
                    let epoch = header.epoch;
                    return Ok(Err(CellError::EpochAboveNewest { epoch, newest }.into()));
                }
            }
        }
    }

    /// Steps 2 to 6 for a key that a cell names: the CMK whose wrap a reader
    /// would use, and the key, or why there is none.
    async fn key(&mut self, id: KeyId) -> Result<Known, TaskError> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        let known = self.look_up(id).await?;
        self.known.insert(id, known.clone());
        Ok(known)
    }

    async fn look_up(&mut self, id: KeyId) -> Result<Known, TaskError> {
        let scan = self.scan;
        if !self.rows.rows().iter().any(|row| row.key_id() == id) {
            // A client may have added it since.
            self.rows = SliceKeys::parse(&scan.store.read_keys(&self.address).await?);
        }
        let floor = self.view.wrap_floor();
        let choose =
            |rows: &SliceKeys, list: &AllowList| rows.wrap_to_open(id, list, floor).cloned();
        let mut row = choose(&self.rows, &*scan.allow_list.read().await);
        if let Err(CellError::CmkNotAllowed(_)) = row {
            *scan.allow_list.write().await = scan.registry.allow_list(&scan.org).await?;
            row = choose(&self.rows, &*scan.allow_list.read().await);
        }
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                return Ok(Known {
                    cmk: None,
                    workspace: None,
                    key: Err(error.into()),
                });
            }
        };
        let workspace = match &row.scope {
            Scope::Message { workspace, .. } => Some(workspace.clone()),
            _ => None,
        };
        let with = |key| Known {
            cmk: Some(row.cmk.clone()),
            workspace: workspace.clone(),
            key,
        };
        let asked = MessageLocus {
            org: &scan.org,
            channel: &self.id.channel,
            hour: self.id.hour,
        };
        if let Err(error) = scope_fits(&row.scope, &asked, &self.view.channel_row.workspaces_had) {
            return Ok(with(Err(error.into())));
        }
        let Some(kms) = &scan.kms else {
            return Ok(with(Ok(None)));
        };
        let mut why = scan.why.clone();
        why.key_id = Some(id);
        let key = match kms.decrypt(&row.cmk, &row.wrapped, &row.scope, &why).await {
            Ok(dek) => CellKey::derive(dek, &row.scope),
            Err(error) => return Ok(with(Err(refusal(error)?))),
        };
        Ok(with(
            check_commitment(&key, &row, &id)
                .map(|()| Some(Arc::new(key)))
                .map_err(Fault::from),
        ))
    }

    fn wrong(&mut self, record: RecordId, fault: Fault) {
        let (list, code) = match fault {
            Fault::Bad(code) => (&mut self.found.quarantined, code.to_owned()),
            Fault::Blocked(code) => (&mut self.found.blocked, code),
        };
        let wrong = list.entry(code).or_default();
        wrong.cells += 1;
        if wrong.examples.len() < EXAMPLES {
            wrong.examples.push(Place {
                channel: self.id.channel.clone(),
                hour: self.id.hour,
                record,
            });
        }
    }

    fn count_keys(&mut self) {
        for row in self.rows.rows() {
            self.found.by_cmk.entry(row.cmk.clone()).or_default().wraps += 1;
        }
        let named: BTreeSet<(&KeyId, &CmkArn)> = self
            .known
            .iter()
            .filter_map(|(id, known)| Some((id, known.cmk.as_ref()?)))
            .collect();
        for (_, cmk) in named {
            self.found.by_cmk.entry(cmk.clone()).or_default().keys += 1;
        }
    }
}

/// What an answer of the KMS means for the cells of a key.
fn refusal(error: KmsError) -> Result<Fault, TaskError> {
    match error.class {
        KmsClass::FatalWorker => Err(error.into()),
        // Nothing was said of the key: it would be the same with the next one.
        KmsClass::Transient { .. } | KmsClass::Unavailable => Err(error.into()),
        KmsClass::QuarantinedKey => Ok(Fault::Bad("key_quarantined")),
        _ => Ok(Fault::Blocked(error.blocked_reason().map_or_else(
            || error.code.clone(),
            std::borrow::Cow::into_owned,
        ))),
    }
}
