//! One organization with two CMKs on a store whose calls can be met half way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::audit::{AuditLog, Origin, Sink};
use crate::client::{Channel, Client, InProcessKeys, ReasonCode, Use};
use crate::clock::{Clock, FakeClock, WallTime, WriteTime};
use crate::crypto::{Header, KeyId, KeyRowBody, Provider};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, Hour, JobId, OrgId, RecordId, WorkspaceId};
use crate::job::Mode;
use crate::kms::audited::Audited;
use crate::kms::local::{DenyRule, Effect, Fault, LocalKeyRing, NewKey, RingAdmin, Unlock};
use crate::kms::{
    Answered, CmkDescription, Dek, GeneratedKey, KmsBackend, KmsError, SharedKms, Wrapped,
};
use crate::registry::{Registry, Timing};
use crate::scope::{Kind, Scope};
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Applied, CellWrite, Consistency, ControlRow, ControlTable, ControlWrite, KeyRow, Page,
    PageLimit, Partition, SharedStore, SliceKey, Store, StoreHealth, StorePace, StoreResult,
    StoredCell,
};

/// What happens at a point of a call, once.
pub type Hook = Box<dyn FnOnce() -> futures::future::BoxFuture<'static, StoreResult<()>> + Send>;

/// Something happens at one of the next requests.
#[derive(Default)]
pub struct AtRequest {
    /// Requests to let pass first.
    pub skip: u32,
    /// Before the store has it.
    pub before: Option<Hook>,
    /// After the store has answered. What advances a client's clock by more than
    /// a request may take belongs here: the answer is there when it looks.
    pub after: Option<Hook>,
}

#[derive(Default)]
pub struct Taps {
    pub at_request: Mutex<Option<AtRequest>>,
    /// The same for reads of one record or a page.
    pub at_read: Mutex<Option<AtRequest>>,
    pub after_write: Mutex<Option<Hook>>,
    pub after_delete: Mutex<Option<Hook>>,
    pub in_kms: Mutex<Option<Hook>>,
    pub counts: Mutex<Counts>,
}

#[derive(Default, Clone, Copy, Debug)]
pub struct Counts {
    pub writes: u32,
    pub deletes: u32,
    pub generated: u32,
    pub decrypted: u32,
    pub views: u32,
}

async fn run(hook: &Mutex<Option<Hook>>) -> StoreResult<()> {
    let hook = hook.lock().unwrap().take();
    match hook {
        Some(hook) => hook().await,
        None => Ok(()),
    }
}

impl AtRequest {
    /// The hooks for this request, if it is the one: before, and after.
    fn of(armed: &Mutex<Option<AtRequest>>) -> (Option<Hook>, Option<Hook>) {
        let mut armed = armed.lock().unwrap();
        match armed.as_mut() {
            Some(at) if at.skip > 0 => {
                at.skip -= 1;
                (None, None)
            }
            Some(_) => armed
                .take()
                .map_or((None, None), |at| (at.before, at.after)),
            None => (None, None),
        }
    }
}

async fn run_now(hook: Option<Hook>) -> StoreResult<()> {
    match hook {
        Some(hook) => hook().await,
        None => Ok(()),
    }
}

struct TappedStore(SharedStore, Arc<Taps>);

#[async_trait::async_trait]
impl Store for TappedStore {
    async fn read_page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        let (before, and_then) = AtRequest::of(&self.1.at_read);
        run_now(before).await?;
        let page = self.0.read_page(partition, after, limit, consistency).await;
        run_now(and_then).await?;
        page
    }
    async fn read_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let (before, after) = AtRequest::of(&self.1.at_read);
        run_now(before).await?;
        let stored = self.0.read_cell(partition, record).await;
        run_now(after).await?;
        stored
    }
    async fn write_cells(&self, partition: &Partition, writes: &[CellWrite]) -> StoreResult<()> {
        self.1.counts.lock().unwrap().writes += 1;
        let (before, after) = AtRequest::of(&self.1.at_request);
        run_now(before).await?;
        self.0.write_cells(partition, writes).await?;
        run_now(after).await?;
        run(&self.1.after_write).await
    }
    async fn delete_row(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.1.counts.lock().unwrap().deletes += 1;
        let (before, after) = AtRequest::of(&self.1.at_request);
        run_now(before).await?;
        self.0.delete_row(partition, record, at).await?;
        run_now(after).await?;
        run(&self.1.after_delete).await
    }
    async fn delete_cell(
        &self,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        self.0.delete_cell(partition, record, at).await
    }
    async fn delete_partition(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        self.0.delete_partition(partition, at).await
    }
    async fn insert_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        self.0.insert_key(slice, key).await
    }
    async fn delete_key(&self, slice: &SliceKey, id: KeyId, epoch: Epoch) -> StoreResult<()> {
        self.0.delete_key(slice, id, epoch).await
    }
    async fn read_keys(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        self.0.read_keys(slice).await
    }
    async fn list_slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.0.list_slices(org, kind, group, after, limit).await
    }
    async fn control_get(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        if table == ControlTable::Registry && ids.len() == 2 {
            self.1.counts.lock().unwrap().views += 1;
        }
        self.0.control_get(table, partition, ids).await
    }
    async fn control_list(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        self.0
            .control_list(table, partition, prefix, after, limit)
            .await
    }
    async fn control_partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        self.0.control_partitions(table, after, limit).await
    }
    async fn control_apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        self.0.control_apply(table, partition, writes).await
    }

    async fn health(&self) -> StoreResult<StoreHealth> {
        self.0.health().await
    }

    async fn away(&self) -> StoreResult<Vec<String>> {
        self.0.away().await
    }

    fn pace(&self) -> Option<StorePace> {
        self.0.pace()
    }
}

struct TappedKms(LocalKeyRing, Arc<Taps>);

#[async_trait::async_trait]
impl KmsBackend for TappedKms {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<GeneratedKey>, KmsError> {
        self.1.counts.lock().unwrap().generated += 1;
        run(&self.1.in_kms).await.unwrap();
        self.0.generate_data_key(cmk, scope).await
    }
    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<Answered<Dek>, KmsError> {
        self.1.counts.lock().unwrap().decrypted += 1;
        run(&self.1.in_kms).await.unwrap();
        self.0.decrypt(cmk, wrapped, scope).await
    }
    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<Wrapped>, KmsError> {
        self.0.re_encrypt(from, wrapped, to, scope).await
    }
    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
    ) -> Result<Answered<CmkDescription>, KmsError> {
        self.0.describe(cmk, org).await
    }
    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId) -> Result<Answered<String>, KmsError> {
        self.0.key_policy(cmk, org).await
    }
}

/// The audit log's lines, in memory.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Sink for Lines {
    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(lines);
        Ok(())
    }
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub struct Bench {
    pub clock: Arc<FakeClock>,
    pub admin: RingAdmin,
    pub kms: SharedKms,
    pub store: SharedStore,
    pub registry: Registry,
    pub taps: Arc<Taps>,
    pub a: CmkArn,
    pub b: CmkArn,
    pub keys: InProcessKeys,
    pub client: Client,
    audit: AuditLog,
    lines: Lines,
    _dir: tempfile::TempDir,
}

pub fn org() -> OrgId {
    OrgId::new("acme").unwrap()
}

/// Another organization, with the same two CMKs.
pub fn other_org() -> OrgId {
    OrgId::new("other").unwrap()
}

pub fn w1() -> WorkspaceId {
    WorkspaceId::new("w1").unwrap()
}

pub fn hour(n: u64) -> Hour {
    Hour::of_unix_seconds(1_550_077_200 + n * 3600).unwrap()
}

pub fn record(name: &str) -> RecordId {
    RecordId::new(name).unwrap()
}

pub fn why(code: ReasonCode) -> Use {
    Use::new(code, "a test")
}

pub fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Bench {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::at(WallTime(1_790_000_000_000_000));
        let taps = Arc::new(Taps::default());
        let ring = dir.path().join("ring");
        let kms = LocalKeyRing::create_with_key_file(&ring, "app").unwrap();
        let admin = RingAdmin::open(&ring).unwrap();
        let unlock = Unlock::KeyFile(admin.default_key_file());
        let new_cmk = || admin.create_key(&unlock, &NewKey::default()).unwrap();
        let (a, b) = (new_cmk(), new_cmk());

        let lines = Lines::default();
        let origin = Origin::here("client test", "app", None);
        let audit = AuditLog::with_sink(Box::new(lines.clone()), origin, clock.clone()).unwrap();
        let tapped = TappedKms(kms, taps.clone());
        let kms: SharedKms = Arc::new(Audited::new(tapped, audit.clone(), None));

        let store = SqliteStore::create(dir.path().join("store.db"), clock.clone()).unwrap();
        let store: SharedStore = Arc::new(TappedStore(Arc::new(store), taps.clone()));
        let registry = Registry::new(store.clone(), clock.clone());
        registry.init_timing(&Timing::embedded()).await.unwrap();
        for org in [org(), other_org()] {
            registry.add_org(&org, &a, b"canary", "test").await.unwrap();
            registry
                .allow_cmk(&org, &b, b"canary", "test")
                .await
                .unwrap();
        }
        for channel in ["c1", "c2"] {
            let channel = ChannelId::new(channel).unwrap();
            registry
                .ensure_channel(&org(), &w1(), &channel)
                .await
                .unwrap();
        }
        let keys = InProcessKeys::builder(
            store.clone(),
            kms.clone(),
            Provider::LocalRing,
            audit.clone(),
            clock.clone(),
        );
        let keys = keys.build().await.unwrap();
        let client = Client::builder(store.clone(), Arc::new(keys.clone())).clock(clock.clone());
        Self {
            client: client.build().await.unwrap(),
            clock,
            admin,
            kms,
            store,
            registry,
            taps,
            a,
            b,
            keys,
            audit,
            lines,
            _dir: dir,
        }
    }

    /// A client with caches of its own, as another process has.
    pub async fn other_client(&self) -> Client {
        self.client_with_capacity(1000).await.0
    }

    pub async fn client_with_capacity(&self, capacity: usize) -> (Client, InProcessKeys) {
        self.client_on(self.clock.clone(), capacity).await
    }

    /// A client with a clock of its own: one that can be stopped alone.
    pub async fn client_on(
        &self,
        clock: Arc<FakeClock>,
        capacity: usize,
    ) -> (Client, InProcessKeys) {
        let keys = InProcessKeys::builder(
            self.store.clone(),
            self.kms.clone(),
            Provider::LocalRing,
            self.audit.clone(),
            clock.clone(),
        );
        let keys = keys.capacity(capacity).build().await.unwrap();
        let client = Client::builder(self.store.clone(), Arc::new(keys.clone()));
        let client = client.clock(clock).build().await.unwrap();
        (client, keys)
    }

    pub fn c1(&self) -> Channel {
        channel_of(&self.client, "c1")
    }

    pub fn c2(&self) -> Channel {
        channel_of(&self.client, "c2")
    }

    pub fn counts(&self) -> Counts {
        *self.taps.counts.lock().unwrap()
    }

    /// Lets nobody use a key for one channel.
    pub fn deny(&self, channel: &str) {
        self.admin
            .add_deny(DenyRule {
                id: "revoked".to_owned(),
                cmks: Vec::new(),
                permissions: Vec::new(),
                context: [("channel".to_owned(), channel.to_owned())].into(),
                callers: Vec::new(),
                reason: String::new(),
            })
            .unwrap();
    }

    pub fn allow_again(&self) {
        self.admin.remove_deny("revoked").unwrap();
    }

    pub fn fail_kms(&self, code: &str) {
        self.admin
            .set_fault(Fault {
                id: "fault".to_owned(),
                operations: Vec::new(),
                callers: Vec::new(),
                effect: Effect::Error {
                    code: code.to_owned(),
                    message: String::new(),
                },
            })
            .unwrap();
    }

    pub async fn activate(&self, mode: Mode) {
        activate(&self.registry, &self.b, mode).await;
    }

    /// Lets the client take a view of `c1` and makes it 55 s old. A request has
    /// 10 s, a view 60: it can run out while a request is under way.
    pub async fn age_view(&self) {
        let why = why(ReasonCode::MessageRead);
        let nothing = self.c1().read(hour(99), &record("m"), &why).await;
        assert!(nothing.unwrap().is_none());
        self.clock.advance(s(55));
    }

    /// At the point of a call: time passes, and a rekey to the second CMK is
    /// activated.
    pub fn overtake(&self, after_s: u64) -> Hook {
        let (clock, registry, b) = (self.clock.clone(), self.registry.clone(), self.b.clone());
        Box::new(move || {
            Box::pin(async move {
                clock.advance(s(after_s));
                activate(&registry, &b, Mode::Reencrypt).await;
                Ok(())
            })
        })
    }

    pub async fn stored(&self, channel: &str, hour: Hour, record: &RecordId) -> StoredCell {
        let channel = ChannelId::new(channel).unwrap();
        let view = self.registry.view(&org(), &channel).await.unwrap();
        let from = view.partition(hour);
        let cell = self.store.read_cell(&from, record).await;
        cell.unwrap().expect("the cell is there")
    }

    pub async fn put_raw(&self, channel: &str, hour: Hour, record: &RecordId, cell: &StoredCell) {
        let channel = ChannelId::new(channel).unwrap();
        let view = self.registry.view(&org(), &channel).await.unwrap();
        let write = CellWrite {
            record: record.clone(),
            cell: cell.cell.clone().into(),
            write_time: WriteTime(cell.write_time.0 + 1),
            ttl_s: 0,
        };
        let to = view.partition(hour);
        self.store.write_cells(&to, &[write]).await.unwrap();
    }

    pub async fn rows(&self, channel: &str, hour: Hour) -> Vec<KeyRowBody> {
        let rows = self.store.read_keys(&slice(channel, hour)).await.unwrap();
        rows.iter()
            .map(|row| KeyRowBody::decode(&row.row).unwrap())
            .collect()
    }

    pub async fn put_row(&self, channel: &str, hour: Hour, body: &KeyRowBody) {
        let row = KeyRow {
            key_id: body.key_id(),
            wrap_epoch: body.wrap_epoch,
            row: body.encode().unwrap(),
        };
        let slice = slice(channel, hour);
        self.store.insert_key(&slice, &row).await.unwrap();
    }

    /// Adds the wrap that a rewrap to the second CMK would add.
    pub async fn rewrap(&self, channel: &str, hour: Hour, row: &KeyRowBody, epoch: u32) {
        let why = why(ReasonCode::Rekey);
        let wrapped = self
            .kms
            .re_encrypt(&row.cmk, &row.wrapped, &self.b, &row.scope, &why);
        let body = KeyRowBody {
            wrap_epoch: Epoch::new(epoch).unwrap(),
            cmk: self.b.clone(),
            wrapped: wrapped.await.unwrap().bytes,
            ..row.clone()
        };
        self.put_row(channel, hour, &body).await;
    }

    /// Everything that was audited, closing the log.
    pub async fn audited(&self) -> Vec<serde_json::Value> {
        self.audit.close().await.unwrap();
        let bytes = self.lines.0.lock().unwrap().clone();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn now_s(&self) -> u32 {
        self.clock.wall().unix_seconds() as u32
    }
}

async fn activate(registry: &Registry, to: &CmkArn, mode: Mode) {
    registry
        .activate_rekey(&org(), JobId::random(), None, to, mode, || true)
        .await
        .unwrap();
}

pub fn channel_of(client: &Client, channel: &str) -> Channel {
    client
        .organization(&org())
        .channel(&w1(), &ChannelId::new(channel).unwrap())
}

pub fn slice(channel: &str, hour: Hour) -> SliceKey {
    SliceKey::messages(&org(), &ChannelId::new(channel).unwrap(), hour)
}

pub fn header(cell: &StoredCell) -> (u32, KeyId) {
    let header = Header::parse(&cell.cell).unwrap();
    (header.epoch.get(), header.key_id)
}
