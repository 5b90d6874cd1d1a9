//! What a rekey sets aside at its end, and what a retire deletes.

use std::collections::{BTreeMap, BTreeSet};

use rekeyd::clock::WriteTime;
use rekeyd::crypto::aside::{self, Bundle};
use rekeyd::crypto::{CellKey, Commitment, KeyId, KeyRowBody};
use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::epoch::Epoch;
use rekeyd::ids::{ChannelId, CmkArn, Hour, JobId, RecordId};
use rekeyd::job::{AsideKey, JobState, Mode, RetireCounts, SliceId};
use rekeyd::kms::local::NewKey;
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::registry::RestoreWindow;
use rekeyd::retire::{Kept, Retire, RetireError, Survey};
use rekeyd::scope::Scope;
use rekeyd::store::{CellWrite, KeyRow, SliceKey};
use rekeyd::verify::Scan;
use rekeyd::wiring;

use crate::holding::{cells, write};
use crate::rig::{Rig, short_waits};

pub const SLICES: u64 = 5;
const RATE: u32 = 100_000;

/// A store of a few slices, and in the first of them a key of before the job
/// that no cell names: a writer met another, or the messages are gone.
pub async fn filled() -> (Rig, SliceId, KeyId) {
    let rig = Rig::with_timing(&short_waits()).await;
    let recipe = Recipe {
        seed: 31,
        messages: 20 * SLICES as u32,
        shape: Shape::Even { per_slice: 20 },
        expiries_from_s: None,
    };
    rig.fill(&recipe).await;
    let slice = slices(&rig).await.remove(0);
    let unnamed = add_key(&rig, &slice, &rig.old, Epoch::FIRST).await;
    (rig, slice, unnamed)
}

pub async fn slices(rig: &Rig) -> Vec<SliceId> {
    let (store, registry) = (rig.store.clone(), rig.registry.clone());
    let mut walk = SliceWalk::new(store, registry, rig.org.clone(), None, None);
    let mut all = Vec::new();
    while let Some(slice) = walk.next().await.unwrap() {
        all.push(slice);
    }
    all
}

fn address(rig: &Rig, slice: &SliceId) -> SliceKey {
    SliceKey::messages(&rig.org, &slice.channel, slice.hour)
}

pub async fn keys(rig: &Rig, slice: &SliceId) -> Vec<KeyRow> {
    rig.store.read_keys(&address(rig, slice)).await.unwrap()
}

/// A key that stands in a slice and that no cell names.
async fn add_key(rig: &Rig, slice: &SliceId, cmk: &CmkArn, epoch: Epoch) -> KeyId {
    let view = rig.registry.view(&rig.org, &slice.channel).await.unwrap();
    let scope = view.scope(slice.hour);
    let why = Use::new(ReasonCode::Import, "test");
    let made = rig.kms.generate_data_key(cmk, &scope, &why).await.unwrap();
    let key = CellKey::derive(made.dek, &scope);
    let body = KeyRowBody {
        wrap_epoch: epoch,
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
        wrap_epoch: epoch,
        row: body.encode().unwrap(),
    };
    rig.store
        .insert_key(&address(rig, slice), &row)
        .await
        .unwrap();
    key.key_id()
}

pub async fn drained(rig: &Rig, mode: Mode) -> JobId {
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&rig.new, mode)).await;
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    job
}

pub async fn retire(rig: &Rig, job: JobId, mode: Mode) -> Retire {
    let epoch = Epoch::new(2).unwrap();
    let (store, clock) = (rig.store.clone(), rig.clock.clone());
    Retire::new(store, clock, (rig.org.clone(), job), (mode, epoch))
        .await
        .unwrap()
}

pub async fn delete(rig: &Rig, retire: &Retire) -> Result<RetireCounts, RetireError> {
    let why = Use::new(ReasonCode::Retire, "test");
    retire.delete(RATE, &rig.audit, &why, |_| {}).await
}

/// Everything opens, with the old CMK gone.
async fn is_whole(rig: &Rig) -> bool {
    let (store, clock) = (rig.store.clone(), rig.clock.clone());
    let scan = Scan::new(store, clock, Some(rig.kms.clone()), rig.org.clone(), None);
    let found = scan.await.unwrap().run(|_| {}).await.unwrap();
    assert_eq!(found.cells, 20 * SLICES);
    found.is_whole() && found.opened == found.cells
}

/// Opens what a job has set aside of a key, with the CMK it led to alone.
pub async fn opened(rig: &Rig, job: JobId, slice: &SliceId, id: KeyId) -> Option<KeyId> {
    let why = Use::new(ReasonCode::Verify, "test");
    let at = (slice.hour, id);
    match rig.book.aside_key(job, &slice.channel, at).await.unwrap()? {
        AsideKey::Wrapped { row_hex, .. } => {
            let row = KeyRowBody::decode(&hex::decode(row_hex).unwrap()).unwrap();
            assert_eq!(row.cmk, rig.new);
            let dek = rig.kms.decrypt(&row.cmk, &row.wrapped, &row.scope, &why);
            Some(CellKey::derive(dek.await.unwrap(), &row.scope).key_id())
        }
        AsideKey::Sealed {
            commitment_hex,
            scope_hex,
            cell_hex,
            ..
        } => {
            let seal = rig.book.aside_seal(job, &slice.channel).await.unwrap();
            let seal = hex::decode(seal.unwrap().row_hex).unwrap();
            let seal = KeyRowBody::decode(&seal).unwrap();
            assert_eq!(seal.cmk, rig.new);
            let dek = rig.kms.decrypt(&seal.cmk, &seal.wrapped, &seal.scope, &why);
            let with = CellKey::derive(dek.await.unwrap(), &seal.scope);
            let bundle = Bundle {
                org: &rig.org,
                channel: &slice.channel,
                hour: slice.hour,
                key_id: id,
            };
            let mut commitment = [0; 32];
            hex::decode_to_slice(commitment_hex, &mut commitment).unwrap();
            let scope = Scope::from_bytes(&hex::decode(scope_hex).unwrap()).unwrap();
            let sealed = hex::decode(cell_hex).unwrap();
            let key = aside::open(&with, &bundle, &scope, &Commitment(commitment), &sealed);
            Some(key.unwrap().key_id())
        }
    }
}

fn all(keys: u64, superseded: u64) -> RetireCounts {
    RetireCounts {
        keys,
        wraps: keys,
        superseded,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_a_retire_deletes_what_is_set_aside_and_everything_still_opens() {
    for mode in [Mode::Reencrypt, Mode::Rewrap] {
        let (rig, slice, unnamed) = filled().await;
        let mut before = BTreeMap::new();
        for slice in slices(&rig).await {
            before.insert(slice.clone(), keys(&rig, &slice).await);
        }
        let job = drained(&rig, mode).await;
        // A writer makes it just now, and will name it in a moment.
        let fresh = add_key(&rig, &slice, &rig.new, Epoch::new(2).unwrap()).await;
        let row = rig.seen(job).await.unwrap();
        let aside = row.set_aside.unwrap();
        let expected = match mode {
            Mode::Reencrypt => (SLICES + 1, all(SLICES + 1, 0)),
            // Of the keys that cells name the new wrap is among the key rows.
            Mode::Rewrap => (1, all(1, SLICES)),
        };
        assert_eq!(
            (aside.keys, aside.refused_keys()),
            (expected.0, 0),
            "{mode:?}"
        );

        rig.ring.disable(&rig.old).unwrap();
        let retire = retire(&rig, job, mode).await;
        let Survey {
            counts,
            kept,
            found,
            ..
        } = retire.survey().await.unwrap();
        assert_eq!((counts, kept), (expected.1, Kept::default()), "{mode:?}");
        assert!(found.is_whole());
        assert!(
            keys(&rig, &slice).await.len() > 2,
            "a survey deletes nothing"
        );
        assert_eq!(delete(&rig, &retire).await.unwrap(), expected.1);
        assert!(is_whole(&rig).await, "{mode:?}");

        let old_epoch = |key: &&KeyRow| key.wrap_epoch < Epoch::new(2).unwrap();
        let mut opened_keys = BTreeSet::new();
        for (slice, rows) in &before {
            let now = keys(&rig, slice).await;
            assert_eq!(now.iter().filter(old_epoch).count(), 0, "{mode:?} {slice}");
            for old in rows {
                let stays = now.iter().any(|key| key.key_id == old.key_id);
                let aside = opened(&rig, job, slice, old.key_id).await;
                assert!(stays || aside == Some(old.key_id), "{mode:?} {slice}");
                opened_keys.extend(aside);
            }
        }
        assert_eq!(opened_keys.len() as u64, expected.0, "{mode:?}");
        assert!(opened_keys.contains(&unnamed));
        let left = keys(&rig, &slice).await;
        assert!(left.iter().any(|key| key.key_id == fresh), "{mode:?}");
        // Called again, it finds nothing, and says what the first one did.
        assert_eq!(delete(&rig, &retire).await.unwrap(), expected.1);
        let (survey, nothing) = (retire.survey().await.unwrap(), RetireCounts::default());
        assert_eq!(survey.counts, nothing);
    }
}

/// A message of an hour that stood empty when its keys were retired, put back as a
/// backup does: the bytes of then, and no key row.
pub struct PutBack {
    pub rig: Rig,
    pub channel: ChannelId,
    hour: Hour,
    record: RecordId,
}

pub const TEXT: &[u8] = b"it was lost";

impl PutBack {
    /// After a retire, in a window for a backup.
    pub async fn after(mode: Mode) -> Self {
        Self::with(mode, Some(Epoch::ZERO)).await
    }

    /// After a retire, in a window from an epoch on, or without one: then another
    /// message keeps the hour among those that are walked.
    pub async fn with(mode: Mode, window: Option<Epoch>) -> Self {
        let (rig, slice, _) = filled().await;
        let (channel, record) = (slice.channel, RecordId::new(b"lost".to_vec()).unwrap());
        let hour = Hour::of_unix_seconds(1_500_000_000).unwrap();
        let view = rig.registry.view(&rig.org, &channel).await.unwrap();
        let at = WriteTime(rig.clock.wall().0);
        write(&rig, &view, hour, &record, TEXT, at, None).await;
        let partition = view.partition(hour);
        let cell = cells(&rig, &partition).await.remove(0).cell;
        let deleted = rig
            .store
            .delete_cell(&partition, &record, WriteTime(at.0 + 1));
        deleted.await.unwrap();
        let stands = RecordId::new(b"stands".to_vec()).unwrap();
        if window.is_none() {
            write(&rig, &view, hour, &stands, b"it stayed", at, None).await;
        }

        let job = drained(&rig, mode).await;
        let retire = retire(&rig, job, mode).await;
        let its_neighbour = u64::from(window.is_none() && mode == Mode::Reencrypt);
        assert_eq!(
            delete(&rig, &retire).await.unwrap().keys,
            2 + own_keys(mode) + its_neighbour
        );
        let slice = SliceId {
            channel: channel.clone(),
            hour,
        };
        let is_walked = slices(&rig).await.contains(&slice);
        assert_eq!(is_walked, window.is_none());
        if let Some(floor) = window {
            let window = RestoreWindow {
                floor,
                opened_by: "test".to_owned(),
                opened_ms: 1,
                reason: "a backup".to_owned(),
            };
            let open = rig.registry.open_restore_window(&rig.org, &window);
            open.await.unwrap();
        }
        let put_back = [CellWrite {
            record: record.clone(),
            cell: cell.into(),
            write_time: WriteTime(at.0 + 2),
            ttl_s: 0,
        }];
        let written = rig.store.write_cells(&partition, &put_back);
        written.await.unwrap();
        assert!(slices(&rig).await.contains(&slice));
        rig.ring.disable(&rig.old).unwrap();
        Self {
            rig,
            channel,
            hour,
            record,
        }
    }

    pub async fn third(&self) -> CmkArn {
        let unlock = wiring::unlock(&self.rig.config);
        let key = self.rig.ring.create_key(&unlock, &NewKey::default());
        let third = key.unwrap();
        self.rig.allow(&third).await;
        third
    }

    /// What a reader gets, or the code of its error.
    pub async fn read(&self) -> Result<Vec<u8>, &'static str> {
        let why = Use::new(ReasonCode::MessageRead, "test");
        let client = self.rig.client().await;
        let org = client.organization(&self.rig.org);
        let channel = org.channel(&self.rig.workspace, &self.channel);
        let read = channel.read(self.hour, &self.record, &why).await;
        read.map(|message| message.unwrap().text().to_vec())
            .map_err(|error| error.code())
    }

    /// What a job left as it was, by code, once it is in a state.
    pub async fn left(&self, job: JobId, state: JobState) -> Vec<String> {
        let row = self.rig.wait_state(job, state).await;
        let left = self.rig.book.quarantined(&row).await.unwrap();
        left.into_iter().map(|cell| cell.code).collect()
    }

    async fn is_audited(&self) -> bool {
        self.rig.audit.durable().await.unwrap();
        let mut files = std::fs::read_dir(&self.rig.config.audit.dir).unwrap();
        files.any(|file| {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            text.contains(r#""action":"set_aside_used""#)
        })
    }

    /// What a scan finds wrong, by code.
    pub async fn wrong(&self) -> Vec<String> {
        let (store, clock) = (self.rig.store.clone(), self.rig.clock.clone());
        let (kms, org) = (Some(self.rig.kms.clone()), self.rig.org.clone());
        let scan = Scan::new(store, clock, kms, org, None).await.unwrap();
        let found = scan.run(|_| {}).await.unwrap();
        assert_eq!(found.cells, 20 * SLICES + 1);
        found.quarantined.keys().map(ToString::to_string).collect()
    }
}

/// Keys of the filled store that only the old CMK opens after a job.
fn own_keys(mode: Mode) -> u64 {
    match mode {
        Mode::Reencrypt => SLICES,
        Mode::Rewrap => 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_what_comes_back_after_a_retire_is_rewritten_with_what_was_set_aside() {
    comes_back(Mode::Reencrypt, Mode::Reencrypt).await;
}

pub async fn comes_back(first: Mode, second: Mode) {
    let back = PutBack::after(first).await;
    let rig = &back.rig;
    assert_eq!(back.read().await, Err("key_row_missing"));
    assert_eq!(back.wrong().await, ["key_row_missing"]);
    let third = back.third().await;
    let worker = rig.worker().await;
    let job = rig.enqueue(rig.request(&third, second)).await;
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    rig.ring.disable(&rig.new).unwrap();
    assert_eq!(back.wrong().await, [""; 0], "{first:?} {second:?}");
    assert_eq!(back.read().await.as_deref(), Ok(TEXT));
    rig.registry.close_restore_window(&rig.org).await.unwrap();
    assert_eq!(back.read().await.as_deref(), Ok(TEXT));
    assert!(back.is_audited().await);
}
