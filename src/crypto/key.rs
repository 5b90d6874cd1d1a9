//! Data keys ready for use, what they commit to, and their ids.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha512;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::ids::InvalidId;
use crate::kms::Dek;
use crate::scope::{Scope, put_lp};

/// The name of a data key: the first half of its commitment. Not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| InvalidId {
            what: "key id",
            given: text.chars().take(80).collect(),
            rule: "a key id is 32 hexadecimal digits",
        })?;
        Ok(Self(id))
    }
}

impl TryFrom<String> for KeyId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

/// What a data key commits to: 32 bytes that follow from the key and its scope
/// and give neither away. Stored in the key's row; its first half is the key's
/// id, so a cell, which names the id, names the commitment too.
///
/// AES-GCM alone does not commit to its key: one can make two keys that open one
/// ciphertext to two texts. The commitment is what rules that out.
#[derive(Debug, Clone, Eq)]
pub struct Commitment(pub [u8; 32]);

impl Commitment {
    /// The id of the key.
    pub fn key_id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        KeyId(id)
    }
}

impl PartialEq for Commitment {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A key has sealed as many cells in this process as it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {key_id} has sealed {used} cells in this process and may not seal {asked} more \
     (limit {limit}); make another key for the slice",
    limit = CellKey::MAX_SEALS
)]
pub struct SealLimit {
    /// The key.
    pub key_id: KeyId,
    /// Seals counted so far.
    pub used: u32,
    /// Seals asked for.
    pub asked: u32,
}

/// A data key ready to seal and open the cells of its scope.
///
/// It is made once for a slice: the key schedule and the scope's bytes are kept,
/// so that a cell costs no derivation. It has no `Debug`, `Clone` or `Serialize`,
/// and is wiped when dropped.
pub struct CellKey {
    // On the heap, so that moving a `CellKey` moves a pointer and leaves no copy
    // of the key schedule behind. Wiped by its own drop (feature `zeroize`).
    cipher: Box<Aes256Gcm>,
    commitment: Commitment,
    scope: Scope,
    scope_bytes: Vec<u8>,
    seals: AtomicU32,
}

impl CellKey {
    /// Most cells one process seals with one key. With random nonces of 96 bits,
    /// thousands of processes at this limit are still far from a repeated nonce.
    pub const MAX_SEALS: u32 = 1 << 20;

    /// Derives the cell key and the commitment from the KMS's 32 bytes. The data
    /// key and all that lies between it and the result are wiped.
    ///
    /// The hash functions keep copies on the stack that cannot be reached from
    /// here; that the process is not dumpable covers those.
    pub fn derive(dek: Dek, scope: &Scope) -> Self {
        let scope_bytes = scope.to_bytes();
        let Derived {
            commitment,
            cell_key,
        } = Derived::from(dek, &scope_bytes);
        let cipher = Box::new(Aes256Gcm::new((&*cell_key).into()));
        Self {
            cipher,
            commitment,
            scope: scope.clone(),
            scope_bytes,
            seals: AtomicU32::new(0),
        }
    }

    /// The id that cells name.
    pub fn key_id(&self) -> KeyId {
        self.commitment.key_id()
    }

    /// What the key commits to.
    pub fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// What the key is for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether this is the key of that commitment, in constant time.
    pub fn matches(&self, commitment: &Commitment) -> bool {
        self.commitment == *commitment
    }

    /// Counts `n` seals before they are made. Call it once for a batch.
    ///
    /// The count belongs to this value. Who drops a key and unwraps it again to
    /// seal more in the same process starts the new value with
    /// `reserve_seals(old.seals_reserved())`.
    ///
    /// # Errors
    /// [`SealLimit`] if the count would pass [`CellKey::MAX_SEALS`]; nothing is
    /// counted then, and the caller makes another key for the slice.
    pub fn reserve_seals(&self, n: u32) -> Result<(), SealLimit> {
        self.seals
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(n).filter(|sum| *sum <= Self::MAX_SEALS)
            })
            .map(drop)
            .map_err(|used| SealLimit {
                key_id: self.key_id(),
                used,
                asked: n,
            })
    }

    /// Seals counted so far.
    pub fn seals_reserved(&self) -> u32 {
        self.seals.load(Ordering::Relaxed)
    }

    pub(super) fn cipher(&self) -> &Aes256Gcm {
        &self.cipher
    }

    pub(super) fn scope_bytes(&self) -> &[u8] {
        &self.scope_bytes
    }
}

/// What follows from a data key and a scope.
pub(super) struct Derived {
    pub(super) commitment: Commitment,
    pub(super) cell_key: Zeroizing<[u8; 32]>,
}

impl Derived {
    const SALT: &[u8] = b"rekeyd.hkdf.v1";
    const COMMIT: &[u8] = b"rekeyd.commit.v1";
    const CELL_KEY: &[u8] = b"rekeyd.cell-key.v1";

    pub(super) fn from(dek: Dek, scope_bytes: &[u8]) -> Self {
        let (mut prk, hkdf) = Hkdf::<Sha512>::extract(Some(Self::SALT), dek.expose());
        drop(dek);
        prk.as_mut_slice().zeroize();
        let expand = |label: &[u8], out: &mut [u8; 32]| {
            let mut info = Vec::with_capacity(4 + label.len() + scope_bytes.len());
            put_lp(&mut info, label);
            put_lp(&mut info, scope_bytes);
            hkdf.expand(&info, out)
                .expect("32 bytes are within what HKDF-SHA-512 gives");
        };
        let mut commitment = Commitment([0; 32]);
        expand(Self::COMMIT, &mut commitment.0);
        let mut cell_key = Zeroizing::new([0; 32]);
        expand(Self::CELL_KEY, &mut cell_key);
        Self {
            commitment,
            cell_key,
        }
    }
}
