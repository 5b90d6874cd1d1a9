//! Encrypts messages that come in from elsewhere and writes them: the other half
//! of an import. The demo fills its store with it, too.
//!
//! It is a writer like every other: it follows the registry within the status
//! time, makes a slice's key durable before the first cell that uses it (I11),
//! opens each cell again before it is written (I9), and names the write time
//! that the message brings, so that loading twice writes the same thing twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::stream::{FuturesOrdered, Stream, StreamExt};
use tokio::sync::OnceCell;

use crate::audit::{AuditError, AuditLog};
use crate::clock::SharedClock;
use crate::crypto::{
    CellError, CellKey, KeyRowBody, KeyRowError, NonceSource, Provider, SealLimit, cell,
    check_commitment, expiry,
};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId, WorkspaceId};
use crate::import::ImportedMessage;
use crate::keys::SliceKeys;
use crate::kms::{KmsError, ReasonCode, SharedKms, Use};
use crate::pipeline::patiently;
use crate::registry::{ChannelView, Registry, RegistryError, Timing};
use crate::scope::Locus;
use crate::store::{CellWrite, KeyRow, SharedStore, SliceKey, StoreError};

/// Batches under way at once. Real slices are small, and each costs two durable
/// writes and a call to the KMS: only many at once keep store and KMS busy.
const BATCHES_IN_FLIGHT: usize = 512;
/// The view of a channel, once there is one.
type Latest = Arc<tokio::sync::Mutex<Option<Arc<ChannelView>>>>;

/// Bytes of messages in memory at once, apart from one batch.
const BYTES_IN_FLIGHT: usize = 64 << 20;
/// A batch ends with its slice, or at this size.
const BATCH_ROWS: usize = 200;
const BATCH_BYTES: usize = 1 << 20;
/// How often a batch is written again because the registry changed meanwhile or
/// the store was too slow.
const TRIES: usize = 20;

/// A message to be loaded.
pub struct LoadMessage {
    /// The message.
    pub message: ImportedMessage,
    /// When it is to vanish, Unix seconds; `None` for a lasting one.
    pub expiry_s: Option<u32>,
}

/// What a loader is given, in order.
pub enum Load<M> {
    /// A message.
    Message(LoadMessage),
    /// A point that the caller wants to know of when everything before it is
    /// durable (I7).
    Mark(M),
}

/// What was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LoadReport {
    /// Messages written.
    pub messages: u64,
    /// Their bytes in clear.
    pub bytes: u64,
    /// Messages not written because their time was over.
    pub expired: u64,
    /// Data keys made.
    pub keys_made: u64,
    /// Data keys that stood already and were opened.
    pub keys_opened: u64,
    /// Batches written again because the registry had changed meanwhile.
    pub repeated: u64,
}

impl LoadReport {
    fn add(&mut self, other: &LoadReport) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.expired += other.expired;
        self.keys_made += other.keys_made;
        self.keys_opened += other.keys_opened;
        self.repeated += other.repeated;
    }
}

/// Why loading ended early. What was marked durable stays; loading again is
/// safe.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The KMS.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// What cannot be recorded is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A message could not be sealed, or a key is not what its row says.
    #[error("slice {slice}: {error}")]
    Cell {
        /// The slice.
        slice: Box<SliceKey>,
        /// Why.
        error: CellError,
    },
    /// A sealed cell did not open to what was sealed: broken memory or a bug.
    #[error("slice {0}: a new cell did not open again; nothing of its batch was written")]
    SelfCheck(Box<SliceKey>),
    /// A key of the slice has sealed all it may.
    #[error(transparent)]
    Spent(#[from] SealLimit),
    /// A key row could not be made.
    #[error("a new key's row: {0}")]
    KeyRow(#[from] KeyRowError),
    /// The channel is being copied to another place, or was.
    #[error(
        "channel `{channel}` of `{org}` is being moved or has moved away; load again when the \
         move is at its end, under the name that the channel has then"
    )]
    BeingCopied {
        /// The organization.
        org: OrgId,
        /// The channel.
        channel: ChannelId,
    },
    /// The registry changed under every try.
    #[error("slice {0} could not be written in {TRIES} tries; is the store overloaded?")]
    Unsettled(Box<SliceKey>),
}

/// Loads messages into one workspace of one organization.
pub struct Loader {
    store: SharedStore,
    registry: Registry,
    kms: SharedKms,
    audit: AuditLog,
    clock: SharedClock,
    provider: Provider,
    org: OrgId,
    workspace: WorkspaceId,
    timing: Timing,
    why: Use,
    views: Mutex<HashMap<ChannelId, Latest>>,
    sealers: Mutex<Sealers>,
}

/// A slice's key for sealing.
struct Sealer {
    key: CellKey,
    nonces: Mutex<NonceSource>,
}

/// The sealers in use, by slice and desired epochs (cells, wraps).
type Sealers = HashMap<(SliceKey, Epoch, Epoch), Weak<OnceCell<Sealer>>>;

/// Messages of one slice.
struct Batch {
    channel: ChannelId,
    hour: Hour,
    messages: Vec<LoadMessage>,
    bytes: usize,
}

enum Done<M> {
    Batch(usize, Result<LoadReport, LoadError>),
    Mark(M),
}

impl Loader {
    /// A loader. It reads the store's waits. `kms` is to be audited and budgeted
    /// already; `provider` says which kind it is, for the key rows.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another part of the system"
    )]
    pub async fn new(
        store: SharedStore,
        registry: Registry,
        kms: SharedKms,
        audit: AuditLog,
        clock: SharedClock,
        provider: Provider,
        org: OrgId,
        workspace: WorkspaceId,
    ) -> Result<Self, LoadError> {
        let timing = registry.timing().await?;
        Ok(Self {
            store,
            registry,
            kms,
            audit,
            clock,
            provider,
            org,
            workspace,
            timing,
            why: Use::new(ReasonCode::Import, "messages are imported"),
            views: Mutex::default(),
            sealers: Mutex::default(),
        })
    }

    /// Loads a stream to its end. `reached` is told each mark, in order, once
    /// everything before it is durable, with the count so far; its error ends
    /// the loading.
    ///
    /// Messages of one slice should come one after another: each run of them is
    /// one batch, or a few.
    pub async fn load<M, E: From<LoadError>>(
        &self,
        input: impl Stream<Item = Load<M>>,
        mut reached: impl AsyncFnMut(M, &LoadReport) -> Result<(), E>,
    ) -> Result<LoadReport, E> {
        let mut input = std::pin::pin!(input);
        let mut flying = FuturesOrdered::new();
        let mut bytes_in_flight = 0;
        let mut batch: Option<Batch> = None;
        let mut report = LoadReport::default();
        let mut more = true;
        while more || !flying.is_empty() {
            let room = flying.len() < BATCHES_IN_FLIGHT && bytes_in_flight < BYTES_IN_FLIGHT;
            tokio::select! {
                next = input.next(), if more && room => {
                    let mut fly = |batch: Option<Batch>, mark: Option<M>| {
                        if let Some(batch) = batch {
                            bytes_in_flight += batch.bytes;
                            flying.push_back(futures::future::Either::Left(self.fly(batch)));
                        }
                        if let Some(mark) = mark {
                            let mark = std::future::ready(Done::Mark(mark));
                            flying.push_back(futures::future::Either::Right(mark));
                        }
                    };
                    match next {
                        Some(Load::Message(message)) => {
                            let full = Batch::push(&mut batch, message);
                            fly(full, None);
                        }
                        Some(Load::Mark(mark)) => fly(batch.take(), Some(mark)),
                        None => {
                            more = false;
                            fly(batch.take(), None);
                        }
                    }
                }
                Some(done) = flying.next(), if !flying.is_empty() => match done {
                    Done::Batch(bytes, loaded) => {
                        bytes_in_flight -= bytes;
                        report.add(&loaded?);
                    }
                    Done::Mark(mark) => {
                        // The uses of keys are on disk before anyone relies on
                        // what was written with them (I16).
                        self.audit.durable().await.map_err(LoadError::from)?;
                        reached(mark, &report).await?;
                    }
                },
            }
        }
        self.audit.durable().await.map_err(LoadError::from)?;
        Ok(report)
    }

    async fn fly<M>(&self, batch: Batch) -> Done<M> {
        let bytes = batch.bytes;
        Done::Batch(bytes, self.write(&batch).await)
    }

    /// Writes one batch by the registry as it is. If the view ran out before the
    /// store's acknowledgement and has changed, the same is written again by the
    /// new view, at the same write times: the newer epoch wins the tie.
    async fn write(&self, batch: &Batch) -> Result<LoadReport, LoadError> {
        let mut report = LoadReport::default();
        for _ in 0..TRIES {
            let view = self.view(&batch.channel).await?;
            let sealer = self.sealer(&view, batch.hour, &mut report).await?;
            // The key may have taken long; nothing is sealed by an old view.
            if !self.is_fresh(&view) {
                continue;
            }
            let mut once = LoadReport::default();
            let writes = self.seal(&view, sealer.get(), batch, &mut once)?;
            let partition = view.partition(batch.hour);
            let write = patiently(&self.clock, async || {
                self.store.write_cells(&partition, &writes).await
            });
            // A write that takes longer may land after the settle of a rekey, so
            // it is given up and done anew by a fresh view.
            let Ok(written) = tokio::time::timeout(self.timing.request_timeout(), write).await
            else {
                self.read_view(&batch.channel).await?;
                continue;
            };
            written?;
            if !self.is_fresh(&view) {
                let now = self.read_view(&batch.channel).await?;
                if !now.agrees_with(&view) {
                    report.repeated += 1;
                    continue;
                }
            }
            report.add(&once);
            return Ok(report);
        }
        let slice = SliceKey::messages(&self.org, &batch.channel, batch.hour);
        Err(LoadError::Unsettled(Box::new(slice)))
    }

    fn is_fresh(&self, view: &ChannelView) -> bool {
        self.clock.boot().since(view.read_at) < self.timing.status_time()
    }

    /// The channel's view, read again when half of its time is over.
    async fn view(&self, channel: &ChannelId) -> Result<Arc<ChannelView>, LoadError> {
        let half = self.timing.status_time() / 2;
        let is_young = |view: &ChannelView| self.clock.boot().since(view.read_at) < half;
        self.view_if(channel, is_young).await
    }

    /// A view that is read after this call, by this or another batch.
    async fn read_view(&self, channel: &ChannelId) -> Result<Arc<ChannelView>, LoadError> {
        let asked = self.clock.boot();
        self.view_if(channel, |view| view.read_at >= asked).await
    }

    /// The view that is known, if it will do, else a new one.
    async fn view_if(
        &self,
        channel: &ChannelId,
        will_do: impl Fn(&ChannelView) -> bool,
    ) -> Result<Arc<ChannelView>, LoadError> {
        let latest = {
            let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            views.entry(channel.clone()).or_default().clone()
        };
        // Held while it is read: hundreds of batches of one channel ask once.
        let mut latest = latest.lock().await;
        if let Some(view) = latest.as_ref().filter(|view| will_do(view)) {
            return Ok(view.clone());
        }
        let view = patiently(&self.clock, async || {
            self.registry
                .ensure_channel(&self.org, &self.workspace, channel)
                .await
        })
        .await?;
        // What is loaded goes to one place. What went there before the copy was
        // announced is copied with the rest.
        let row = &view.channel_row;
        if row.outgoing.is_some() || row.incoming.is_some() {
            return Err(LoadError::BeingCopied {
                org: view.org,
                channel: view.channel,
            });
        }
        let view = Arc::new(view);
        *latest = Some(view.clone());
        Ok(view)
    }

    /// The slice's key, made once for all batches of the slice that are under
    /// way: one call to the KMS for a slice.
    async fn sealer(
        &self,
        view: &ChannelView,
        hour: Hour,
        report: &mut LoadReport,
    ) -> Result<Held, LoadError> {
        let slice = SliceKey::messages(&self.org, &view.channel, hour);
        let desired = view.desired();
        let id = (slice.clone(), desired.key_epoch, desired.wrap_epoch);
        let cell = {
            let mut sealers = self.sealers.lock().unwrap_or_else(PoisonError::into_inner);
            if sealers.len() > 4 * BATCHES_IN_FLIGHT {
                sealers.retain(|_, sealer| sealer.strong_count() > 0);
            }
            match sealers.get(&id).and_then(Weak::upgrade) {
                Some(cell) => cell,
                None => {
                    let cell = Arc::new(OnceCell::new());
                    sealers.insert(id, Arc::downgrade(&cell));
                    cell
                }
            }
        };
        cell.get_or_try_init(|| self.find_or_make(view, hour, &slice, report))
            .await?;
        Ok(Held(cell))
    }

    async fn find_or_make(
        &self,
        view: &ChannelView,
        hour: Hour,
        slice: &SliceKey,
        report: &mut LoadReport,
    ) -> Result<Sealer, LoadError> {
        let (desired, scope) = (view.desired(), view.scope(hour));
        let rows = patiently(&self.clock, async || self.store.read_keys(slice).await).await?;
        let keys = SliceKeys::parse(&rows);
        let key = if let Some(row) = keys.sealing_key(&desired, &scope) {
            let mut why = self.why.clone();
            why.key_id = Some(row.key_id());
            let dek = self
                .kms
                .decrypt(&row.cmk, &row.wrapped, &row.scope, &why)
                .await?;
            let key = CellKey::derive(dek, &row.scope);
            check_commitment(&key, row, &row.key_id()).map_err(|error| LoadError::Cell {
                slice: Box::new(slice.clone()),
                error,
            })?;
            report.keys_opened += 1;
            key
        } else {
            let made = self
                .kms
                .generate_data_key(&desired.cmk, &scope, &self.why)
                .await?;
            let key = CellKey::derive(made.dek, &scope);
            let body = KeyRowBody {
                // At least the epoch of the cells it will seal, so that it is
                // found again for them.
                wrap_epoch: desired.wrap_epoch,
                provider: self.provider,
                commitment: key.commitment().clone(),
                created_ms: self.clock.wall().unix_ms(),
                cmk: made.wrapped.cmk,
                key_material_id: made.wrapped.key_material_id,
                scope,
                wrapped: made.wrapped.bytes,
            };
            let row = KeyRow {
                key_id: key.key_id(),
                wrap_epoch: body.wrap_epoch,
                row: body.encode()?,
            };
            // I11: durable before any cell names it.
            patiently(&self.clock, async || {
                self.store.insert_key(slice, &row).await
            })
            .await?;
            report.keys_made += 1;
            key
        };
        Ok(Sealer {
            key,
            nonces: Mutex::new(NonceSource::new()),
        })
    }

    fn seal(
        &self,
        view: &ChannelView,
        sealer: &Sealer,
        batch: &Batch,
        report: &mut LoadReport,
    ) -> Result<Vec<CellWrite>, LoadError> {
        let slice = || Box::new(SliceKey::messages(&self.org, &batch.channel, batch.hour));
        let bad = |error| LoadError::Cell {
            slice: slice(),
            error,
        };
        let epoch = view.desired().cell_epoch;
        sealer.key.reserve_seals(batch.messages.len() as u32)?;
        let mut nonces = sealer.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writes = Vec::with_capacity(batch.messages.len());
        for LoadMessage { message, expiry_s } in &batch.messages {
            let now = self.clock.wall();
            let ttl_s = match *expiry_s {
                None => 0,
                Some(at) => {
                    expiry::check_new_expiry(at, now.unix_seconds()).map_err(bad)?;
                    let ttl_s = expiry::store_ttl(at, epoch, None, now);
                    match ttl_s.filter(|_| !expiry::is_expired(at, now)) {
                        Some(ttl_s) => ttl_s,
                        None => {
                            report.expired += 1;
                            continue;
                        }
                    }
                }
            };
            let locus = Locus::Message {
                org: &self.org,
                channel: &batch.channel,
                record: &message.record,
            };
            let text: &[u8] = &message.json;
            let sealed = cell::seal(&sealer.key, epoch, *expiry_s, &nonces.next(), &locus, text)
                .map_err(bad)?;
            match cell::open(&sealer.key, &locus, &sealed) {
                Ok(again) if again.as_bytes() == text => {}
                _ => return Err(LoadError::SelfCheck(slice())),
            }
            report.messages += 1;
            report.bytes += text.len() as u64;
            writes.push(CellWrite {
                record: message.record.clone(),
                cell: sealed.into(),
                write_time: message.write_time,
                ttl_s,
            });
        }
        Ok(writes)
    }
}

/// A sealer that is there.
struct Held(Arc<OnceCell<Sealer>>);

impl Held {
    fn get(&self) -> &Sealer {
        self.0
            .get()
            .expect("a sealer is only held once it was made")
    }
}

impl Batch {
    /// Adds a message to the batch of its slice; gives the batch before it if
    /// that is full or another slice's.
    fn push(open: &mut Option<Batch>, message: LoadMessage) -> Option<Batch> {
        let m = &message.message;
        let ends = open.as_ref().is_some_and(|b| {
            b.channel != m.channel
                || b.hour != m.hour
                || b.messages.len() >= BATCH_ROWS
                || b.bytes + m.json.len() > BATCH_BYTES
        });
        let ended = if ends { open.take() } else { None };
        let batch = open.get_or_insert_with(|| Batch {
            channel: m.channel.clone(),
            hour: m.hour,
            messages: Vec::new(),
            bytes: 0,
        });
        batch.bytes += m.json.len();
        batch.messages.push(message);
        ended
    }
}
