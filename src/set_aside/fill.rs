//! Sets the old keys of a job aside, channel by channel.
//!
//! A worker that is killed is followed by another that goes on: channels that are
//! done are passed over, and of the one that was begun the keys that stand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::OnceCell;

use crate::audit::{Record, RecordType};
use crate::crypto::aside::{self, Bundle};
use crate::crypto::{
    CellKey, KeyId, KeyRowBody, MessageLocus, NonceSource, check_commitment, scope_fits,
};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, Hour, JobId, OrgId};
use crate::job::{
    Aside, AsideChannel, AsideKey, AsideSeal, JobHold, JobState, Mode, ROWS_AT_ONCE, SetAside,
};
use crate::keys::SliceKeys;
use crate::killpoint;
use crate::kms::{KmsClass, KmsError, Use};
use crate::pipeline::plan::SliceWalk;
use crate::pipeline::{Shared, TaskError, patiently};
use crate::registry::{AllowList, ChannelRow};
use crate::scope::Scope;
use crate::store::{Applied, SliceKey, StoreError, StoreErrorClass};

/// Slices whose keys are opened at once. The KMS has a budget of its own.
const SLICES_AT_ONCE: usize = 32;
/// Channels listed at once.
const PAGE: usize = 500;
/// How often it is saved how far a channel is.
const SHOWN_EVERY: Duration = Duration::from_secs(2);

/// What is set aside, for which job, and with what.
pub(crate) struct Fill<'a> {
    /// Store, KMS, audit log, clock.
    pub shared: &'a Shared,
    /// The organization.
    pub org: &'a OrgId,
    /// The job.
    pub job: JobId,
    /// How the job rewrites: it says which calls its role may make.
    pub mode: Mode,
    /// The job's epoch. Keys with a wrap at or above it are not old.
    pub epoch: Epoch,
    /// Why keys are used, for the audit.
    pub why: Use,
    /// How long it is kept, seconds.
    pub keep_s: u64,
    /// The job's row: a pause or a cancel by an operator ends this between two
    /// channels.
    pub hold: &'a JobHold,
}

/// How it ended.
pub(crate) enum Filled {
    /// Every old key was looked at. With the calls of the KMS that it took.
    All(SetAside, u64),
    /// The KMS does not answer: no refusal. To be called again later.
    Waits(String),
    /// The job is not draining any more.
    Stopped,
}

/// Why a key is not set aside.
enum NotAside {
    /// It is refused, by its stable code.
    Refused(String),
    /// Nobody said no.
    Waits(String),
}

/// What one run needs besides.
struct Run<'a> {
    fill: &'a Fill<'a>,
    /// The CMK it goes under: the one that is active now, which a later job may
    /// have brought.
    cmk: CmkArn,
    allowed: AllowList,
    /// Source CMKs that are refused as a whole: not asked again for each key.
    unusable: Mutex<BTreeMap<CmkArn, String>>,
}

/// One channel while it is gone through.
struct Going<'a> {
    run: &'a Run<'a>,
    channel: &'a ChannelId,
    row: &'a ChannelRow,
    held: BTreeSet<(Hour, KeyId)>,
    /// How far it was when this run took it up, for those who look: keys are
    /// counted anew, from those that are held.
    before: AsideChannel,
    seal: OnceCell<Result<CellKey, NotAside>>,
}

/// What came of a slice.
#[derive(Default)]
struct Slice {
    keys: Vec<Aside>,
    held: u64,
    refused: BTreeMap<String, u64>,
    waits: Option<String>,
    kms_calls: u64,
}

impl Fill<'_> {
    /// Goes through every channel.
    ///
    /// # Errors
    /// If store, registry or audit log fail for good, or the KMS refuses this
    /// worker as such.
    pub async fn run(&self) -> Result<Filled, TaskError> {
        let Shared {
            registry,
            book,
            clock,
            ..
        } = self.shared;
        let run = Run {
            fill: self,
            cmk: patiently(clock, || registry.org(self.org)).await?.cmk,
            allowed: patiently(clock, || registry.allow_list(self.org)).await?,
            unusable: Mutex::default(),
        };
        let until_ms = clock.wall().unix_ms() + self.keep_s * 1000;
        let until_ms =
            patiently(clock, || book.begin_set_aside(self.org, self.job, until_ms)).await?;
        let mut sum = SetAside {
            until_ms,
            keys: 0,
            refused: BTreeMap::new(),
        };
        let mut kms_calls = 0;
        let mut after: Option<ChannelId> = None;
        loop {
            let page =
                patiently(clock, || registry.channels(self.org, after.as_ref(), PAGE)).await?;
            let Some((last, _)) = page.last() else {
                self.note(&sum);
                return Ok(Filled::All(sum, kms_calls));
            };
            after = Some(last.clone());
            for (channel, row) in &page {
                if self.hold.row().await.state != JobState::Draining {
                    return Ok(Filled::Stopped);
                }
                match run.channel(channel, row).await? {
                    Ok(done) => {
                        sum.add(&done);
                        kms_calls += done.kms_calls;
                    }
                    Err(why) => return Ok(Filled::Waits(why)),
                }
                killpoint::reach("set_aside_after_channel");
            }
        }
    }

    fn note(&self, sum: &SetAside) {
        let mut record = Record::new(RecordType::Job, "set_aside").because(&self.why);
        record.org = Some(self.org.clone());
        record.records = Some(sum.keys);
        self.shared.audit.record(record);
    }
}

impl Run<'_> {
    /// Sets a channel's keys aside, or says what of the KMS it waits for.
    async fn channel(
        &self,
        channel: &ChannelId,
        row: &ChannelRow,
    ) -> Result<Result<AsideChannel, String>, TaskError> {
        let (shared, job) = (self.fill.shared, self.fill.job);
        let (book, clock) = (&shared.book, &shared.clock);
        let found = patiently(clock, || book.aside_channel(job, channel)).await?;
        let before = match found {
            Some(found) if found.row.done => return Ok(Ok(found.row)),
            Some(found) => found.row,
            None => AsideChannel::default(),
        };
        patiently(clock, || book.begin_aside_channel(job, channel)).await?;
        let held = patiently(clock, || book.aside_ids(job, channel, None)).await?;
        let going = Going {
            run: self,
            channel,
            row,
            held,
            before,
            seal: OnceCell::new(),
        };
        let done = match going.slices().await? {
            Ok(done) => done,
            Err(why) => return Ok(Err(why)),
        };
        let found = patiently(clock, || book.aside_channel(job, channel)).await?;
        if let Some(mut found) = found {
            found.row = done.clone();
            book.save_aside(job, &mut found).await?;
        }
        Ok(Ok(done))
    }

    /// What an answer of the KMS means for a key that is wrapped under `from`.
    async fn not_aside(&self, from: &CmkArn, error: KmsError) -> Result<NotAside, TaskError> {
        let code = error
            .blocked_reason()
            .map_or_else(|| error.code.clone(), std::borrow::Cow::into_owned);
        let as_a_whole = match error.class {
            KmsClass::FatalWorker => return Err(error.into()),
            KmsClass::Transient { .. } | KmsClass::Unavailable => {
                return Ok(NotAside::Waits(error.message));
            }
            KmsClass::CmkUnusable | KmsClass::RoleDenied => Some(code.clone()),
            // This scope, or the whole CMK? One more call tells, and spares the
            // customer's log thousands.
            KmsClass::Denied if !self.canary_answers(from).await? => Some("cmk_denied".to_owned()),
            _ => None,
        };
        if let Some(code) = &as_a_whole {
            self.unusable().insert(from.clone(), code.clone());
        }
        Ok(NotAside::Refused(as_a_whole.unwrap_or(code)))
    }

    /// Whether the canary that was stored when the CMK was entered still opens.
    async fn canary_answers(&self, cmk: &CmkArn) -> Result<bool, TaskError> {
        let canary = self.allowed.get(cmk);
        let Some(wrap) = canary.and_then(|row| hex::decode(&row.canary_hex).ok()) else {
            return Ok(false);
        };
        let scope = Scope::Canary {
            org: self.fill.org.clone(),
        };
        let mut why = self.fill.why.clone();
        why.code = crate::kms::ReasonCode::Canary;
        let kms = &self.fill.shared.kms;
        let answer = match self.fill.mode {
            Mode::Reencrypt => kms.decrypt(cmk, &wrap, &scope, &why).await.map(drop),
            // The rewrap role has no Decrypt.
            Mode::Rewrap => kms
                .re_encrypt(cmk, &wrap, &self.cmk, &scope, &why)
                .await
                .map(drop),
        };
        Ok(answer.is_ok())
    }

    fn unusable(&self) -> std::sync::MutexGuard<'_, BTreeMap<CmkArn, String>> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Going<'_> {
    async fn slices(&self) -> Result<Result<AsideChannel, String>, TaskError> {
        let fill = self.run.fill;
        let shared = fill.shared;
        let mut walk = SliceWalk::new(
            shared.store.clone(),
            shared.registry.clone(),
            fill.org.clone(),
            Some(self.channel.clone()),
            None,
        );
        let mut done = AsideChannel {
            kms_calls: self.before.kms_calls,
            ..AsideChannel::default()
        };
        let mut shown = shared.clock.boot();
        let mut batch: Vec<Aside> = Vec::new();
        let mut flying = FuturesUnordered::new();
        let mut more = true;
        while more || !flying.is_empty() {
            while more && flying.len() < SLICES_AT_ONCE {
                match walk.next().await? {
                    Some(slice) => flying.push(self.slice(slice.hour)),
                    None => more = false,
                }
            }
            let Some(slice) = flying.next().await else {
                continue;
            };
            let slice = slice?;
            done.keys += slice.held + slice.keys.len() as u64;
            done.kms_calls += slice.kms_calls;
            for (code, n) in slice.refused {
                *done.refused.entry(code).or_default() += n;
            }
            batch.extend(slice.keys);
            if batch.len() >= ROWS_AT_ONCE {
                self.keep(&mut batch).await?;
            }
            if shared.clock.boot().since(shown) >= SHOWN_EVERY || slice.waits.is_some() {
                self.keep(&mut batch).await?;
                self.show(&done).await;
                shown = shared.clock.boot();
            }
            if let Some(why) = slice.waits {
                return Ok(Err(why));
            }
        }
        self.keep(&mut batch).await?;
        done.done = true;
        Ok(Ok(done))
    }

    /// Saves how far it is. Whoever goes on after a kill first counts what is held:
    /// what is shown does not go back for that.
    async fn show(&self, so_far: &AsideChannel) {
        let (book, job) = (&self.run.fill.shared.book, self.run.fill.job);
        let so_far = AsideChannel {
            keys: so_far.keys.max(self.before.keys),
            ..so_far.clone()
        };
        book.show_aside_channel(job, self.channel, so_far).await;
    }

    /// Makes a batch durable, after the records of the calls that it took (I16).
    async fn keep(&self, batch: &mut Vec<Aside>) -> Result<(), TaskError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (shared, job) = (self.run.fill.shared, self.run.fill.job);
        shared.audit.durable().await?;
        patiently(&shared.clock, || {
            shared.book.keep_aside(job, self.channel, batch)
        })
        .await?;
        killpoint::reach("set_aside_after_keys");
        batch.clear();
        Ok(())
    }

    async fn slice(&self, hour: Hour) -> Result<Slice, TaskError> {
        let fill = self.run.fill;
        let store = &fill.shared.store;
        let address = SliceKey::messages(fill.org, self.channel, hour);
        let rows = patiently(&fill.shared.clock, || store.read_keys(&address)).await?;
        let mut newest: BTreeMap<KeyId, Epoch> = BTreeMap::new();
        for row in &rows {
            let top = newest.entry(row.key_id).or_insert(Epoch::ZERO);
            *top = (*top).max(row.wrap_epoch);
        }
        let keys = SliceKeys::parse(&rows);
        let (mut slice, mut nonces) = (Slice::default(), NonceSource::new());
        for (id, _) in newest.into_iter().filter(|(_, top)| *top < fill.epoch) {
            if self.held.contains(&(hour, id)) {
                slice.held += 1;
                continue;
            }
            match self.key(&keys, hour, id, &mut nonces, &mut slice).await? {
                Ok(key) => slice.keys.push(((hour, id), key)),
                Err(NotAside::Refused(code)) => *slice.refused.entry(code).or_default() += 1,
                Err(NotAside::Waits(why)) => {
                    slice.waits = Some(why);
                    return Ok(slice);
                }
            }
        }
        Ok(slice)
    }

    async fn key(
        &self,
        keys: &SliceKeys,
        hour: Hour,
        id: KeyId,
        nonces: &mut NonceSource,
        slice: &mut Slice,
    ) -> Result<Result<AsideKey, NotAside>, TaskError> {
        let fill = self.run.fill;
        // No floor here: what is old is what is wanted.
        let row = match keys.wrap_to_open(id, &self.run.allowed, Epoch::ZERO) {
            Ok(row) => row,
            Err(error) => return Ok(Err(NotAside::Refused(error.code().to_owned()))),
        };
        let asked = MessageLocus {
            org: fill.org,
            channel: self.channel,
            hour,
        };
        // A row that was copied here must not make us open another's key.
        if let Err(error) = scope_fits(&row.scope, &asked, &self.row.workspaces_had) {
            return Ok(Err(NotAside::Refused(error.code().to_owned())));
        }
        let known = self.run.unusable().get(&row.cmk).cloned();
        if let Some(code) = known {
            return Ok(Err(NotAside::Refused(code)));
        }
        match fill.mode {
            Mode::Reencrypt => self.sealed(row, hour, id, nonces, slice).await,
            Mode::Rewrap => self.wrapped(row, id, slice).await,
        }
    }

    async fn sealed(
        &self,
        row: &KeyRowBody,
        hour: Hour,
        id: KeyId,
        nonces: &mut NonceSource,
        slice: &mut Slice,
    ) -> Result<Result<AsideKey, NotAside>, TaskError> {
        let fill = self.run.fill;
        let with = self
            .seal
            .get_or_try_init(|| self.sealing_key(&mut slice.kms_calls))
            .await?;
        let with = match with {
            Ok(with) => with,
            Err(NotAside::Refused(code)) => return Ok(Err(NotAside::Refused(code.clone()))),
            Err(NotAside::Waits(why)) => return Ok(Err(NotAside::Waits(why.clone()))),
        };
        if with.reserve_seals(1).is_err() {
            return Ok(Err(NotAside::Refused("seal_limit".to_owned())));
        }
        let mut why = fill.why.clone();
        why.key_id = Some(id);
        slice.kms_calls += 1;
        let kms = &fill.shared.kms;
        let dek = match kms.decrypt(&row.cmk, &row.wrapped, &row.scope, &why).await {
            Ok(dek) => dek,
            Err(error) => return Ok(Err(self.run.not_aside(&row.cmk, error).await?)),
        };
        let bundle = Bundle {
            org: fill.org,
            channel: self.channel,
            hour,
            key_id: id,
        };
        Ok(
            match aside::seal(with, fill.epoch, &bundle, row, dek, nonces) {
                Ok(cell) => Ok(AsideKey::Sealed {
                    commitment_hex: row.commitment.to_string(),
                    scope_hex: hex::encode(row.scope.to_bytes()),
                    wrap_epoch: row.wrap_epoch,
                    created_ms: row.created_ms,
                    cell_hex: hex::encode(cell),
                }),
                Err(error) => Err(NotAside::Refused(error.code().to_owned())),
            },
        )
    }

    async fn wrapped(
        &self,
        row: &KeyRowBody,
        id: KeyId,
        slice: &mut Slice,
    ) -> Result<Result<AsideKey, NotAside>, TaskError> {
        let (fill, to) = (self.run.fill, &self.run.cmk);
        let mut why = fill.why.clone();
        why.key_id = Some(id);
        slice.kms_calls += 1;
        let kms = &fill.shared.kms;
        let answer = kms
            .re_encrypt(&row.cmk, &row.wrapped, to, &row.scope, &why)
            .await;
        let wrapped = match answer {
            Ok(wrapped) => wrapped,
            Err(error) => return Ok(Err(self.run.not_aside(&row.cmk, error).await?)),
        };
        let body = KeyRowBody {
            wrap_epoch: fill.epoch,
            provider: fill.shared.provider,
            cmk: wrapped.cmk,
            key_material_id: wrapped.key_material_id,
            wrapped: wrapped.bytes,
            ..row.clone()
        };
        Ok(Ok(AsideKey::Wrapped {
            row_hex: hex::encode(encoded(&body)?),
            wrap_epoch: row.wrap_epoch,
        }))
    }

    /// The key that this channel's old keys are sealed with: the one that stands,
    /// or a new one.
    async fn sealing_key(
        &self,
        kms_calls: &mut u64,
    ) -> Result<Result<CellKey, NotAside>, TaskError> {
        let fill = self.run.fill;
        let shared = fill.shared;
        let (book, clock, job) = (&shared.book, &shared.clock, fill.job);
        let scope = Scope::SetAside {
            org: fill.org.clone(),
            channel: self.channel.clone(),
            job,
        };
        loop {
            let stands = patiently(clock, || book.aside_seal(job, self.channel)).await?;
            if let Some(seal) = stands {
                *kms_calls += 1;
                return self.opened(&seal, &scope).await;
            }
            *kms_calls += 1;
            let made = match shared
                .kms
                .generate_data_key(&self.run.cmk, &scope, &fill.why)
                .await
            {
                Ok(made) => made,
                Err(error) => return Ok(Err(self.run.not_aside(&self.run.cmk, error).await?)),
            };
            let key = CellKey::derive(made.dek, &scope);
            let body = KeyRowBody {
                wrap_epoch: fill.epoch,
                provider: shared.provider,
                commitment: key.commitment().clone(),
                created_ms: clock.wall().unix_ms(),
                cmk: made.wrapped.cmk,
                key_material_id: made.wrapped.key_material_id,
                scope: scope.clone(),
                wrapped: made.wrapped.bytes,
            };
            let seal = AsideSeal {
                row_hex: hex::encode(encoded(&body)?),
            };
            shared.audit.durable().await?;
            let taken = patiently(clock, || book.take_aside_seal(job, self.channel, &seal)).await?;
            if taken == Applied::Yes {
                return Ok(Ok(key));
            }
        }
    }

    async fn opened(
        &self,
        seal: &AsideSeal,
        scope: &Scope,
    ) -> Result<Result<CellKey, NotAside>, TaskError> {
        let fill = self.run.fill;
        let body = hex::decode(&seal.row_hex)
            .ok()
            .and_then(|row| KeyRowBody::decode(&row).ok())
            .filter(|body| body.scope == *scope);
        let Some(body) = body else {
            return Ok(Err(NotAside::Refused("key_row_malformed".to_owned())));
        };
        let kms = &fill.shared.kms;
        match kms
            .decrypt(&body.cmk, &body.wrapped, scope, &fill.why)
            .await
        {
            Ok(dek) => {
                let key = CellKey::derive(dek, scope);
                Ok(match check_commitment(&key, &body, &body.key_id()) {
                    Ok(()) => Ok(key),
                    Err(error) => Err(NotAside::Refused(error.code().to_owned())),
                })
            }
            Err(error) => Ok(Err(self.run.not_aside(&body.cmk, error).await?)),
        }
    }
}

fn encoded(body: &KeyRowBody) -> Result<Vec<u8>, TaskError> {
    let encoded = body.encode();
    Ok(encoded.map_err(|e| StoreError::new(StoreErrorClass::Fatal, e.to_string()))?)
}
