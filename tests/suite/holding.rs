//! What a channel holds, read by hand: every cell of its place opened by the
//! rules of docs/format.md, without the client library.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rekeyd::clock::WriteTime;
use rekeyd::crypto::{
    CellKey, Header, KeyRowBody, MessageLocus, NonceSource, cell, check_commitment, expiry,
    scope_fits,
};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, CmkArn, Hour, JobId, OrgId, RecordId, WorkspaceId};
use rekeyd::job::{JobMessage, MoveFrom, MoveRequest, MoveTo};
use rekeyd::kms::local::{DenyRule, NewKey, Permission};
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::registry::{ChannelName, ChannelView, ConsentRow};
use rekeyd::scope::{Kind, Locus, Scope};
use rekeyd::store::{CellWrite, Consistency, KeyRow, PageLimit, Partition, SliceKey, StoredCell};
use rekeyd::wiring;

use crate::rig::Rig;

/// A message as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub text: Vec<u8>,
    pub write_time: WriteTime,
    pub expiry: Option<u32>,
}

/// A message with what it is sealed under.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub message: Message,
    pub epoch: Epoch,
    pub scope: Scope,
    pub cmk: CmkArn,
}

/// Messages of a channel by hour and record.
pub type Messages = BTreeMap<(Hour, RecordId), Sealed>;

/// Only what the application sees.
pub fn seen(messages: &Messages) -> BTreeMap<(Hour, RecordId), Message> {
    let of = |(at, sealed): (&(Hour, RecordId), &Sealed)| (at.clone(), sealed.message.clone());
    messages.iter().map(of).collect()
}

/// A name in the rig's organization.
pub fn name(rig: &Rig, workspace: &str, channel: &ChannelId) -> ChannelName {
    ChannelName {
        org: rig.org.clone(),
        workspace: WorkspaceId::new(workspace).unwrap(),
        channel: channel.clone(),
    }
}

/// A request to move a channel.
pub fn request(from: &ChannelName, to: &ChannelName) -> MoveRequest {
    MoveRequest {
        job_id: JobId::random(),
        org: from.org.clone(),
        from: MoveFrom {
            workspace: from.workspace.clone(),
            channel: from.channel.clone(),
        },
        to: MoveTo {
            org: (to.org != from.org).then(|| to.org.clone()),
            workspace: to.workspace.clone(),
            channel: to.channel.clone(),
        },
        requested_by: "test".to_owned(),
        reason: "a test".to_owned(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
    }
}

/// Sends a request for a move and returns its job id.
pub async fn ask(rig: &Rig, request: &MoveRequest) -> JobId {
    let body = JobMessage::Move(request.clone()).to_json();
    rig.queue.send(&body).await.unwrap();
    request.job_id
}

/// Enters another organization with a CMK of its own.
pub async fn second_org(rig: &Rig, org: &str) -> (OrgId, CmkArn) {
    let org = OrgId::new(org).unwrap();
    let unlock = wiring::unlock(&rig.config);
    let cmk = rig.ring.create_key(&unlock, &NewKey::default()).unwrap();
    let scope = Scope::Canary { org: org.clone() };
    let why = Use::new(ReasonCode::Enrol, "test");
    let canary = rig.kms.generate_data_key(&cmk, &scope, &why).await.unwrap();
    rig.registry
        .add_org(&org, &cmk, &canary.wrapped.bytes, "test")
        .await
        .unwrap();
    (org, cmk)
}

/// Enters the consent of both organizations.
pub async fn consent(rig: &Rig, from: &ChannelName, to: &ChannelName) {
    let now_ms = rig.clock.wall().unix_ms();
    for org in [&from.org, &to.org] {
        let consent = ConsentRow {
            from: from.clone(),
            to: to.clone(),
            expires_ms: now_ms + 3_600_000,
            entered_by: "test".to_owned(),
            entered_ms: now_ms,
        };
        rig.registry.consent_to_move(org, &consent).await.unwrap();
    }
}

/// Refuses to open keys of one context under a CMK.
pub fn deny(pairs: &[(&str, &str)], cmk: &CmkArn) -> DenyRule {
    DenyRule {
        id: "revoked".to_owned(),
        cmks: vec![cmk.clone()],
        permissions: vec![Permission::Decrypt],
        context: pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        callers: Vec::new(),
        reason: "the customer said so".to_owned(),
    }
}

/// The hours of a channel that have a key.
pub async fn hours(rig: &Rig, org: &OrgId, channel: &ChannelId) -> Vec<Hour> {
    let names = rig
        .store
        .list_slices(org, Kind::Message, channel.as_str(), None, 10_000)
        .await
        .unwrap();
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The live cells of a partition.
pub async fn cells(rig: &Rig, partition: &Partition) -> Vec<StoredCell> {
    let limit = PageLimit {
        rows: 10_000,
        bytes: 64 << 20,
    };
    let page = rig
        .store
        .read_page(partition, None, limit, Consistency::All)
        .await
        .unwrap();
    assert_eq!(page.next, None, "one page holds a slice of these tests");
    page.cells
}

/// How many live cells a channel's place has, the place being that of a view.
pub async fn live(rig: &Rig, view: &ChannelView) -> usize {
    let mut live = 0;
    for hour in hours(rig, &view.org, &view.channel).await {
        live += cells(rig, &view.partition(hour)).await.len();
    }
    live
}

/// Opens every message of a channel where it is, under its own names.
pub async fn messages(rig: &Rig, view: &ChannelView) -> Messages {
    let mut all = Messages::new();
    for hour in hours(rig, &view.org, &view.channel).await {
        let address = SliceKey::messages(&view.org, &view.channel, hour);
        let rows = rig.store.read_keys(&address).await.unwrap();
        let mut keys: BTreeMap<_, (CellKey, KeyRowBody)> = BTreeMap::new();
        for stored in cells(rig, &view.partition(hour)).await {
            let header = Header::parse(&stored.cell).unwrap();
            if let Entry::Vacant(unknown) = keys.entry(header.key_id) {
                unknown.insert(open_key(rig, view, hour, &rows, &header).await);
            }
            let (key, row) = &keys[&header.key_id];
            let locus = Locus::Message {
                org: &view.org,
                channel: &view.channel,
                record: &stored.record,
            };
            let text = cell::open(key, &locus, &stored.cell).unwrap();
            let message = Message {
                text: text.as_bytes().to_vec(),
                write_time: stored.write_time,
                expiry: header.expiry,
            };
            let sealed = Sealed {
                message,
                epoch: header.epoch,
                scope: row.scope.clone(),
                cmk: row.cmk.clone(),
            };
            all.insert((hour, stored.record), sealed);
        }
    }
    all
}

async fn open_key(
    rig: &Rig,
    view: &ChannelView,
    hour: Hour,
    rows: &[KeyRow],
    header: &Header,
) -> (CellKey, KeyRowBody) {
    let row = rows
        .iter()
        .find(|row| row.key_id == header.key_id)
        .expect("the key row of every cell is there (I11)");
    let body = KeyRowBody::decode(&row.row).unwrap();
    let asked = MessageLocus {
        org: &view.org,
        channel: &view.channel,
        hour,
    };
    scope_fits(&body.scope, &asked, &view.channel_row.workspaces_had).unwrap();
    let why = Use::new(ReasonCode::Verify, "test");
    let dek = rig
        .kms
        .decrypt(&body.cmk, &body.wrapped, &body.scope, &why)
        .await
        .unwrap();
    let key = CellKey::derive(dek, &body.scope);
    check_commitment(&key, &body, &header.key_id).unwrap();
    (key, body)
}

/// Writes a message into a channel's place as a client with this view would, at
/// a write time of the caller's choice.
pub async fn write(
    rig: &Rig,
    view: &ChannelView,
    hour: Hour,
    record: &RecordId,
    text: &[u8],
    at: WriteTime,
    expires_s: Option<u32>,
) {
    let (desired, scope) = (view.desired(), view.scope(hour));
    let why = Use::new(ReasonCode::MessageWrite, "test");
    let made = rig.kms.generate_data_key(&desired.cmk, &scope, &why).await;
    let made = made.unwrap();
    let key = CellKey::derive(made.dek, &scope);
    let body = KeyRowBody {
        wrap_epoch: desired.wrap_epoch,
        provider: wiring::provider(&rig.config),
        commitment: key.commitment().clone(),
        created_ms: rig.clock.wall().unix_ms(),
        cmk: made.wrapped.cmk,
        key_material_id: None,
        scope,
        wrapped: made.wrapped.bytes,
    };
    let row = KeyRow {
        key_id: key.key_id(),
        wrap_epoch: desired.wrap_epoch,
        row: body.encode().unwrap(),
    };
    let address = SliceKey::messages(&view.org, &view.channel, hour);
    rig.store.insert_key(&address, &row).await.unwrap();
    let locus = Locus::Message {
        org: &view.org,
        channel: &view.channel,
        record,
    };
    let epoch = desired.cell_epoch;
    let nonce = NonceSource::new().next();
    let sealed = cell::seal(&key, epoch, expires_s, &nonce, &locus, text).unwrap();
    let now = rig.clock.wall();
    let write = CellWrite {
        record: record.clone(),
        cell: sealed.into(),
        write_time: at,
        ttl_s: expires_s.map_or(0, |s| expiry::store_ttl(s, epoch, None, now).unwrap()),
    };
    rig.store
        .write_cells(&view.partition(hour), &[write])
        .await
        .unwrap();
}
