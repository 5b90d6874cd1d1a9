//! The key service in the application's own process: a store, a KMS, and the
//! caches between them.

mod look_up;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ErrorKind;
use super::flights::Flights;
use super::key_cache::{Held, KeyCache};
use super::key_service::{KeyService, SealingKey};
use crate::audit::{AuditLog, CachedUse};
use crate::clock::{BootTime, SharedClock};
use crate::crypto::open::{MessageLocus, scope_fits};
use crate::crypto::{CellError, CellKey, KeyId, Provider};
use crate::ids::{CmkArn, Hour, OrgId};
use crate::kms::{SharedKms, Use};
use crate::registry::{AllowList, ChannelView, Registry};
use crate::scope::Scope;
use crate::store::{SharedStore, SliceKey};

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

#[cfg(test)]
impl InProcessKeys {
    /// Keys in memory at this moment.
    pub(super) fn held(&self) -> usize {
        self.0.cache().len()
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
                    let epochs = [desired.key_epoch.get(), desired.wrap_epoch.get()];
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
