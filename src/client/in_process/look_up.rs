//! A key from rows and KMS: find or make the one that seals, unwrap the one that
//! a cell names, remember what was refused.

use std::sync::{Arc, Mutex};

use super::{Held, Inner, asked, workspaces};
use crate::client::ErrorKind;
use crate::client::key_cache::Refused;
use crate::clock::BootTime;
use crate::crypto::open::{check_commitment, scope_fits};
use crate::crypto::{CellError, CellKey, KeyId, KeyRowBody, NonceSource};
use crate::ids::{CmkArn, Hour};
use crate::keys::{SliceKeys, choose_sealing_key};
use crate::kms::{KmsClass, KmsError, Use};
use crate::registry::{ChannelView, Desired};
use crate::scope::Scope;
use crate::store::{KeyRow, SliceKey};

impl Inner {
    /// A key of the slice that may seal, unwrapped; a new one if there is none.
    pub(super) async fn find_or_make(
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
            // Its generation: that of the organization, so that it is found again.
            // Not the epoch of a channel's move, which names no CMK.
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
    pub(super) async fn unwrap_named(
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
        let floor = view.wrap_floor();
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
}
