//! The key service in the application's own process: a store, a KMS, and the
//! caches between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ErrorKind;
use super::flights::Flights;
use super::key_cache::{Held, KeyCache, Refused};
use super::key_service::{KeyService, SealingKey};
use crate::audit::{AuditLog, CachedUse};
use crate::clock::{BootTime, SharedClock};
use crate::crypto::open::{MessageLocus, check_commitment, scope_fits};
use crate::crypto::{CellError, CellKey, KeyId, KeyRowBody, NonceSource, Provider};
use crate::ids::{CmkArn, Hour, OrgId};
use crate::keys::{SliceKeys, choose_sealing_key};
use crate::kms::{KmsClass, KmsError, SharedKms, Use};
use crate::registry::{AllowList, ChannelView, Desired, Registry};
use crate::scope::Scope;
use crate::store::{KeyRow, SharedStore, SliceKey};

/// Keys held at once, unless said otherwise. A key with its schedule and scope
/// is about 1 KiB.
const DEFAULT_CAPACITY: usize = 16_384;

/// A key service on a store and a KMS.
#[derive(Clone)]
pub struct InProcessKeys(Arc<Inner>);

struct Inner {
    store: SharedStore,
    kms: SharedKms,
    provider: Provider,
    registry: Registry,
    audit: AuditLog,
    clock: SharedClock,
    status_time: Duration,
    principal: Option<String>,
    cache: Mutex<KeyCache>,
    reaper_runs: Mutex<bool>,
    allow_lists: Mutex<HashMap<OrgId, (BootTime, Arc<AllowList>)>>,
    flights: Flights<Flight, Arc<Held>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Flight {
    Open(SliceKey, KeyId),
    Seal(SliceKey, Scope, CmkArn, [u32; 2]),
}

/// What an [`InProcessKeys`] is made of.
pub struct InProcessKeysBuilder {
    store: SharedStore,
    kms: SharedKms,
    provider: Provider,
    audit: AuditLog,
    clock: SharedClock,
    capacity: usize,
    principal: Option<String>,
}

impl InProcessKeysBuilder {
    /// Most plaintext keys held at once.
    pub fn capacity(mut self, keys: usize) -> Self {
        self.capacity = keys;
        self
    }

    /// Who uses the keys, where it is not the audit log's own principal.
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// Reads the store's waits and makes the service.
    ///
    /// # Errors
    /// `Unavailable`; `Fatal` if the store is not set up.
    pub async fn build(self) -> Result<InProcessKeys, ErrorKind> {
        let registry = Registry::new(self.store.clone(), self.clock.clone());
        let timing = registry.timing().await?;
        Ok(InProcessKeys(Arc::new(Inner {
            store: self.store,
            kms: self.kms,
            provider: self.provider,
            registry,
            audit: self.audit,
            clock: self.clock,
            status_time: timing.status_time(),
            principal: self.principal,
            cache: Mutex::new(KeyCache::new(self.capacity)),
            reaper_runs: Mutex::new(false),
            allow_lists: Mutex::default(),
            flights: Flights::new(),
        })))
    }
}

impl InProcessKeys {
    /// A key service on a store, a KMS and an audit log. The KMS is to be
    /// audited and budgeted already ([`crate::kms::audited`],
    /// [`crate::kms::budget`]); `provider` says which kind it is, for the key
    /// rows.
    pub fn builder(
        store: SharedStore,
        kms: SharedKms,
        provider: Provider,
        audit: AuditLog,
        clock: SharedClock,
    ) -> InProcessKeysBuilder {
        InProcessKeysBuilder {
            store,
            kms,
            provider,
            audit,
            clock,
            capacity: DEFAULT_CAPACITY,
            principal: None,
        }
    }
}

#[async_trait::async_trait]
impl KeyService for InProcessKeys {
    async fn sealing_key(
        &self,
        view: &ChannelView,
        hour: Hour,
        why: &Use,
    ) -> Result<SealingKey, ErrorKind> {
        let inner = &self.0;
        inner.check_audit()?;
        let slice = SliceKey::messages(&view.org, &view.channel, hour);
        let (desired, scope) = (view.desired(), view.scope(hour));
        inner.check_allowed(&view.org, &desired.cmk).await?;
        // A second round only if the key found has just spent its last seal.
        for _ in 0..3 {
            let cached = inner
                .cache()
                .to_seal(&slice, &desired, &scope, inner.clock.boot());
            let (held, from_cache) = match cached {
                Some(held) => (held, true),
                None => {
                    let epochs = [desired.cell_epoch.get(), desired.wrap_epoch.get()];
                    let flight =
                        Flight::Seal(slice.clone(), scope.clone(), desired.cmk.clone(), epochs);
                    let look_up = || {
                        inner.clone().find_or_make(
                            slice.clone(),
                            desired.clone(),
                            scope.clone(),
                            why.clone(),
                        )
                    };
                    let (held, mine) = inner.flights.run(flight, look_up).await;
                    (held?, !mine)
                }
            };
            if !held.is_live(inner.clock.boot()) || held.key.reserve_seals(1).is_err() {
                continue;
            }
            if from_cache {
                inner.audit_use("cache_hit", &slice, &held, why);
            }
            return Ok(SealingKey::new(held.key.clone(), held.nonces.clone()));
        }
        Err(slow_kms())
    }

    async fn opening_key(
        &self,
        view: &ChannelView,
        hour: Hour,
        key_id: KeyId,
        why: &Use,
    ) -> Result<Arc<CellKey>, ErrorKind> {
        let inner = &self.0;
        inner.check_audit()?;
        let slice = SliceKey::messages(&view.org, &view.channel, hour);
        let cached = inner.cache().to_open(&slice, key_id, inner.clock.boot());
        let (held, from_cache) = match cached {
            Some(held) => (held, true),
            None => {
                let flight = Flight::Open(slice.clone(), key_id);
                let look_up = || {
                    inner
                        .clone()
                        .unwrap_named(view.clone(), hour, key_id, why.clone())
                };
                let (held, mine) = inner.flights.run(flight, look_up).await;
                (held?, !mine)
            }
        };
        if !held.is_live(inner.clock.boot()) {
            return Err(slow_kms());
        }
        // Steps 3 and 4 again for a key that somebody else looked up: the cache
        // holds keys, not permissions.
        scope_fits(held.key.scope(), &asked(view, hour), workspaces(view))?;
        inner.check_allowed(&view.org, &held.cmk).await?;
        if from_cache {
            inner.audit_use("cache_hit", &slice, &held, why);
        }
        Ok(held.key.clone())
    }
}

fn slow_kms() -> ErrorKind {
    ErrorKind::Unavailable {
        what: "KMS",
        detail: "the answer came too late to be used".to_owned(),
    }
}

fn asked(view: &ChannelView, hour: Hour) -> MessageLocus<'_> {
    MessageLocus {
        org: &view.org,
        channel: &view.channel,
        hour,
    }
}

fn workspaces(view: &ChannelView) -> &[crate::ids::WorkspaceId] {
    &view.channel_row.workspaces_had
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, KeyCache> {
        // Nothing that holds the lock can panic half way through a change.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What cannot be recorded is not done.
    fn check_audit(&self) -> Result<(), ErrorKind> {
        self.audit
            .check()
            .map_err(|e| ErrorKind::Fatal(e.to_string()))
    }

    fn audit_use(&self, action: &'static str, slice: &SliceKey, held: &Held, why: &Use) {
        let used = CachedUse {
            action,
            slice,
            key_id: held.key.key_id(),
            wrap_epoch: held.wrap_epoch,
            cmk: &held.cmk,
            principal: self.principal.as_deref(),
        };
        self.audit.cache_hit(used, why);
    }

    async fn allow_list(&self, org: &OrgId, fresh: bool) -> Result<Arc<AllowList>, ErrorKind> {
        let lists = || {
            self.allow_lists
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let begun = self.clock.boot();
        if !fresh
            && let Some((read_at, list)) = lists().get(org)
            && begun.since(*read_at) < self.status_time
        {
            return Ok(list.clone());
        }
        let list = Arc::new(self.registry.allow_list(org).await?);
        let mut lists = lists();
        lists.retain(|_, (read_at, _)| begun.since(*read_at) < self.status_time);
        lists.insert(org.clone(), (begun, list.clone()));
        Ok(list)
    }

    /// Step 4. A CMK entered a moment ago is not refused from an old list.
    async fn check_allowed(&self, org: &OrgId, cmk: &CmkArn) -> Result<(), ErrorKind> {
        if self.allow_list(org, false).await?.may_open(cmk)
            || self.allow_list(org, true).await?.may_open(cmk)
        {
            Ok(())
        } else {
            Err(CellError::CmkNotAllowed(cmk.clone()).into())
        }
    }

    /// A key of the slice that may seal, unwrapped; a new one if there is none.
    async fn find_or_make(
        self: Arc<Self>,
        slice: SliceKey,
        desired: Desired,
        scope: Scope,
        why: Use,
    ) -> Result<Arc<Held>, ErrorKind> {
        let keys = SliceKeys::parse(&self.store.read_keys(&slice).await?);
        if let Some(row) = self.unspent(&slice, &keys, &desired, &scope) {
            return self.unwrap_row(&slice, &keys, &row, why).await;
        }
        self.check_refusals(&slice, None, &scope, &desired.cmk)?;
        let since = self.clock.boot();
        let made = self
            .kms
            .generate_data_key(&desired.cmk, &scope, &why)
            .await
            .map_err(|e| self.refuse(e, &slice, None, &scope, &desired.cmk, since, &why))?;
        let key = CellKey::derive(made.dek, &scope);
        let body = KeyRowBody {
            // Its generation: at least the epoch of the cells it will seal, so
            // that it is found again for them.
            wrap_epoch: desired.wrap_epoch.max(desired.cell_epoch),
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
            row: body.encode().map_err(CellError::from)?,
        };
        // I11: the row is durable before anyone gets the key.
        self.store.insert_key(&slice, &row).await?;
        self.hold(
            &slice,
            Held {
                key: Arc::new(key),
                nonces: Arc::new(Mutex::new(NonceSource::new())),
                wrap_epoch: body.wrap_epoch,
                cmk: body.cmk,
                lowest_wrap: Some(body.wrap_epoch),
                since,
            },
        )
    }

    fn unspent(
        &self,
        slice: &SliceKey,
        keys: &SliceKeys,
        desired: &Desired,
        scope: &Scope,
    ) -> Option<KeyRowBody> {
        let best = keys.sealing_key(desired, scope)?;
        let cache = self.cache();
        if !cache.is_spent(slice, best.key_id()) {
            return Some(best.clone());
        }
        let fresh: Vec<KeyRowBody> = keys
            .sound_rows()
            .filter(|row| !cache.is_spent(slice, row.key_id()))
            .cloned()
            .collect();
        choose_sealing_key(&fresh, desired, scope).cloned()
    }

    /// Steps 2 to 6 for a key that a cell names.
    async fn unwrap_named(
        self: Arc<Self>,
        view: ChannelView,
        hour: Hour,
        key_id: KeyId,
        why: Use,
    ) -> Result<Arc<Held>, ErrorKind> {
        let slice = SliceKey::messages(&view.org, &view.channel, hour);
        // Rows are read for each look-up and not cached: they are read once for
        // a key's life, and a row is durable before a cell that names it (I11).
        let keys = SliceKeys::parse(&self.store.read_keys(&slice).await?);
        let floor = view.org_row.wrap_floor;
        let mut allowed = self.allow_list(&view.org, false).await?;
        if let Err(CellError::CmkNotAllowed(_)) = keys.wrap_to_open(key_id, &allowed, floor) {
            allowed = self.allow_list(&view.org, true).await?;
        }
        let row = keys.wrap_to_open(key_id, &allowed, floor)?.clone();
        scope_fits(&row.scope, &asked(&view, hour), workspaces(&view))?;
        self.unwrap_row(&slice, &keys, &row, why).await
    }

    /// Steps 5 and 6, and into the cache.
    async fn unwrap_row(
        self: &Arc<Self>,
        slice: &SliceKey,
        keys: &SliceKeys,
        row: &KeyRowBody,
        mut why: Use,
    ) -> Result<Arc<Held>, ErrorKind> {
        let key_id = row.key_id();
        self.check_refusals(slice, Some(key_id), &row.scope, &row.cmk)?;
        why.key_id = Some(key_id);
        let since = self.clock.boot();
        let dek = self
            .kms
            .decrypt(&row.cmk, &row.wrapped, &row.scope, &why)
            .await
            .map_err(|e| self.refuse(e, slice, Some(key_id), &row.scope, &row.cmk, since, &why))?;
        let key = CellKey::derive(dek, &row.scope);
        if let Err(mismatch) = check_commitment(&key, row, &key_id) {
            let kind = ErrorKind::from(mismatch);
            let now = self.clock.boot();
            self.cache().refuse(
                Refused::Key(slice.clone(), key_id),
                kind.clone(),
                since,
                now,
            );
            return Err(kind);
        }
        self.hold(
            slice,
            Held {
                key: Arc::new(key),
                nonces: Arc::new(Mutex::new(NonceSource::new())),
                wrap_epoch: row.wrap_epoch,
                cmk: row.cmk.clone(),
                lowest_wrap: keys
                    .generation(key_id)
                    .filter(|_| keys.is_highest_wrap(row)),
                since,
            },
        )
    }

    fn check_refusals(
        &self,
        slice: &SliceKey,
        key_id: Option<KeyId>,
        scope: &Scope,
        cmk: &CmkArn,
    ) -> Result<(), ErrorKind> {
        let now = self.clock.boot();
        let cache = self.cache();
        let about = [
            Some(Refused::Scope(scope.clone())),
            Some(Refused::Cmk(cmk.clone())),
            key_id.map(|id| Refused::Key(slice.clone(), id)),
        ];
        match about
            .iter()
            .flatten()
            .find_map(|about| cache.refused(about, now))
        {
            Some(kind) => Err(kind),
            None => Ok(()),
        }
    }

    /// Takes note of what the KMS refused, and says it in the client's words.
    #[allow(clippy::too_many_arguments, reason = "all of them name the one call")]
    fn refuse(
        &self,
        error: KmsError,
        slice: &SliceKey,
        key_id: Option<KeyId>,
        scope: &Scope,
        cmk: &CmkArn,
        since: BootTime,
        why: &Use,
    ) -> ErrorKind {
        let kind = ErrorKind::of_kms(&error, cmk);
        let about = match (error.class, key_id) {
            (KmsClass::Denied | KmsClass::Unknown, _) => Refused::Scope(scope.clone()),
            (KmsClass::CmkUnusable | KmsClass::RoleDenied, _) => Refused::Cmk(cmk.clone()),
            (KmsClass::QuarantinedKey, Some(id)) => Refused::Key(slice.clone(), id),
            // Never remembered: the next call may succeed, or must say the same.
            (KmsClass::QuarantinedKey, None)
            | (
                KmsClass::Transient { .. }
                | KmsClass::Unavailable
                | KmsClass::FatalJob
                | KmsClass::FatalWorker,
                _,
            ) => return kind,
        };
        let now = self.clock.boot();
        let dropped = self.cache().refuse(about, kind.clone(), since, now);
        for (slice, held) in dropped {
            self.audit_use("cache_evict", &slice, &held, why);
        }
        kind
    }

    fn hold(self: &Arc<Self>, slice: &SliceKey, held: Held) -> Result<Arc<Held>, ErrorKind> {
        let now = self.clock.boot();
        let held = self.cache().hold(slice, held, now)?;
        self.reap_later();
        Ok(held)
    }

    /// Keys are wiped when their time is over, used or not.
    fn reap_later(self: &Arc<Self>) {
        {
            let mut runs = self.reaper_runs();
            if *runs {
                return;
            }
            *runs = true;
        }
        let (weak, clock) = (Arc::downgrade(self), self.clock.clone());
        tokio::spawn(async move {
            loop {
                let wait = match weak.upgrade() {
                    Some(inner) => inner.reap(),
                    None => return,
                };
                match wait {
                    Some(wait) => clock.sleep(wait).await,
                    None => return,
                }
            }
        });
    }

    fn reap(&self) -> Option<Duration> {
        // Held over the look, so that a key which comes now starts another.
        let mut runs = self.reaper_runs();
        let now = self.clock.boot();
        let mut cache = self.cache();
        cache.sweep(now);
        let wait = cache.next_sweep(now);
        *runs = wait.is_some();
        wait
    }

    fn reaper_runs(&self) -> MutexGuard<'_, bool> {
        self.reaper_runs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
