//! Where a client gets its keys.

use std::sync::{Arc, Mutex, PoisonError};

use crate::client::ErrorKind;
use crate::crypto::{CellError, CellKey, KeyId, NonceSource, cell};
use crate::epoch::Epoch;
use crate::ids::Hour;
use crate::kms::Use;
use crate::registry::ChannelView;
use crate::scope::Locus;

/// A key that may seal one cell, now.
pub struct SealingKey {
    key: Arc<CellKey>,
    nonces: Arc<Mutex<NonceSource>>,
}

impl SealingKey {
    /// A key for one seal, which the caller has counted
    /// ([`CellKey::reserve_seals`]), with the slice's source of nonces.
    pub fn new(key: Arc<CellKey>, nonces: Arc<Mutex<NonceSource>>) -> Self {
        Self { key, nonces }
    }

    /// The key's id.
    pub fn key_id(&self) -> KeyId {
        self.key.key_id()
    }

    /// Seals one message, opens the cell again and compares (I9).
    ///
    /// # Errors
    /// As [`cell::seal`]; `SelfCheck`.
    pub(super) fn seal(
        self,
        epoch: Epoch,
        expiry: Option<u32>,
        locus: &Locus<'_>,
        text: &[u8],
    ) -> Result<Vec<u8>, ErrorKind> {
        let nonce = self
            .nonces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next();
        let sealed = cell::seal(&self.key, epoch, expiry, &nonce, locus, text).map_err(|e| {
            match e {
                // What the caller asked for; all else is a fault of ours.
                CellError::PlaintextTooLarge { .. } | CellError::BadExpiry { .. } => {
                    ErrorKind::Invalid(e)
                }
                other => ErrorKind::Quarantined(other),
            }
        })?;
        match cell::open(&self.key, locus, &sealed) {
            Ok(again) if again.as_bytes() == text => Ok(sealed),
            _ => Err(ErrorKind::SelfCheck),
        }
    }
}

/// Gives a client the keys of the slices it works on. Today in its own process
/// ([`super::InProcessKeys`]); a service in a process of its own can stand
/// behind the same trait, so that not every application process holds keys.
///
/// # Contract
///
/// Every key given out is audited with the reason given, whether it came from
/// the KMS or from a cache.
///
/// A key is given out at most 300 s after the start of the KMS call that
/// unwrapped it, however often it is used. After a refusal by the KMS none is
/// given out for that scope (or, if the whole CMK is refused, for that CMK)
/// until the refusal has been asked for again.
///
/// The caller uses the key at once and keeps it no longer than one operation.
#[async_trait::async_trait]
pub trait KeyService: Send + Sync {
    /// A key that may seal one cell of this hour as the view desires it. Its row
    /// is durable before this answers (I11).
    async fn sealing_key(
        &self,
        view: &ChannelView,
        hour: Hour,
        why: &Use,
    ) -> Result<SealingKey, ErrorKind>;

    /// The key that a cell of this hour names. Steps 2 to 6 of opening: its row
    /// by what was asked, the highest allowed wrap, the scope, the commitment.
    async fn opening_key(
        &self,
        view: &ChannelView,
        hour: Hour,
        key_id: KeyId,
        why: &Use,
    ) -> Result<Arc<CellKey>, ErrorKind>;
}
