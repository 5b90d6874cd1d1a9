//! The ring's cryptography: how CMKs lie at rest, and what a wrapped data key is.
//!
//! Everything that is sealed here is a key of 32 bytes, under AES-256-GCM with a
//! random nonce: `nonce(12) ‖ ciphertext(32) ‖ tag(16)`. One CMK seals far fewer
//! than the 2^32 keys that random nonces allow.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aes_gcm::aead::KeyInit;
use aes_gcm::{AeadInOut, Aes256Gcm, Nonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::RingError;
use crate::ids::CmkArn;
use crate::scope::{EncryptionContext, context_bytes, put_lp, take_lp};

/// 32 bytes of key, wiped when dropped.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

const NONCE: usize = 12;
const TAG: usize = 16;
const SEALED: usize = NONCE + 32 + TAG;

/// First bytes of a wrapped data key: "rekeyd local key ring", version 1.
const MAGIC: &[u8; 5] = b"RKLR\x01";

/// What opens a ring.
pub enum Unlock {
    /// A file of 64 hexadecimal digits that only its owner can read.
    KeyFile(PathBuf),
    /// A passphrase.
    Passphrase(Zeroizing<String>),
}

/// How a ring's keys are protected at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Protection {
    /// By a key file.
    KeyFile,
    /// By a passphrase through Argon2id.
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
        salt: String,
    },
}

/// Argon2id: 64 MiB and 3 passes, the second recommended option of RFC 9106
/// (with one lane, for machines of one core).
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// The parameters come from a file: more than this is refused, not tried.
const MEMORY_KIB_LIMIT: u32 = 1024 * 1024;
const PASSES_LIMIT: u32 = 100;

impl Protection {
    /// Protection for a new ring.
    pub fn fresh(unlock: &Unlock) -> Result<Self, RingError> {
        Ok(match unlock {
            Unlock::KeyFile(_) => Protection::KeyFile,
            Unlock::Passphrase(_) => {
                let mut salt = [0; 16];
                getrandom::fill(&mut salt).map_err(|_| RingError::NoRandomness)?;
                Protection::Argon2id {
                    memory_kib: MEMORY_KIB,
                    passes: PASSES,
                    lanes: 1,
                    salt: hex::encode(salt),
                }
            }
        })
    }
}

/// A key to seal other keys with: the ring's own, or a CMK.
pub(super) struct Sealer(Aes256Gcm);

impl Sealer {
    pub fn new(key: &KeyBytes) -> Self {
        Self(Aes256Gcm::new((&**key).into()))
    }

    /// The ring's own key, from what the person holds.
    pub fn unlock(unlock: &Unlock, protection: &Protection) -> Result<Self, RingError> {
        match (unlock, protection) {
            (Unlock::KeyFile(path), Protection::KeyFile) => Ok(Self::new(&read_key_file(path)?)),
            (
                Unlock::Passphrase(passphrase),
                Protection::Argon2id {
                    memory_kib,
                    passes,
                    lanes,
                    salt,
                },
            ) => {
                if *memory_kib > MEMORY_KIB_LIMIT || *passes > PASSES_LIMIT {
                    return Err(RingError::BadProtection);
                }
                let salt = hex::decode(salt).map_err(|_| RingError::BadProtection)?;
                let params = argon2::Params::new(*memory_kib, *passes, *lanes, Some(32))
                    .map_err(|_| RingError::BadProtection)?;
                let argon2 = argon2::Argon2::new(
                    argon2::Algorithm::Argon2id,
                    argon2::Version::V0x13,
                    params,
                );
                let mut key = KeyBytes::default();
                argon2
                    .hash_password_into(passphrase.as_bytes(), &salt, &mut *key)
                    .map_err(|_| RingError::BadProtection)?;
                Ok(Self::new(&key))
            }
            (_, Protection::KeyFile) => Err(RingError::NeedsKeyFile),
            (_, Protection::Argon2id { .. }) => Err(RingError::NeedsPassphrase),
        }
    }

    /// `nonce ‖ ciphertext ‖ tag`.
    pub fn seal(&self, associated: &[u8], key: &KeyBytes) -> Result<Vec<u8>, RingError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| RingError::NoRandomness)?;
        // In a buffer of the final size: growing one would leave the key behind.
        let mut out = vec![0; SEALED];
        out[..NONCE].copy_from_slice(&nonce);
        let (text, tag) = out[NONCE..].split_at_mut(32);
        text.copy_from_slice(&**key);
        let made = self
            .0
            .encrypt_inout_detached(&Nonce::from(nonce), associated, text.into())
            .expect("AES-GCM takes up to 64 GiB, and this is 32 bytes");
        tag.copy_from_slice(&made);
        Ok(out)
    }

    /// The key, if these bytes were sealed by this sealer with this data.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<KeyBytes> {
        if sealed.len() != SEALED {
            return None;
        }
        let (nonce, body) = sealed.split_at(NONCE);
        let (text, tag) = body.split_at(32);
        let mut key = KeyBytes::default();
        key.copy_from_slice(text);
        let (nonce, tag) = (nonce.try_into().ok()?, tag.try_into().ok()?);
        self.0
            .decrypt_inout_detached(nonce, associated, key.as_mut_slice().into(), tag)
            .ok()?;
        Some(key)
    }
}

/// 32 random bytes.
pub(super) fn random_key() -> Result<KeyBytes, RingError> {
    let mut key = KeyBytes::default();
    getrandom::fill(&mut *key).map_err(|_| RingError::NoRandomness)?;
    Ok(key)
}

/// What a CMK's material is bound to at rest.
pub(super) fn at_rest(cmk: &CmkArn) -> Vec<u8> {
    let mut out = Vec::new();
    put_lp(&mut out, b"rekeyd.ring.cmk.v1");
    put_lp(&mut out, cmk.as_str().as_bytes());
    out
}

/// What the ring's check value is bound to: it tells a wrong passphrase from a
/// damaged ring.
pub(super) const CHECK: &[u8] = b"rekeyd.ring.check.v1";

/// What a wrapped data key is bound to: the CMK and the whole context.
fn wrapped_data(cmk: &CmkArn, context: &EncryptionContext) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    put_lp(&mut out, b"rekeyd.ring.wrap.v1");
    put_lp(&mut out, cmk.as_str().as_bytes());
    out.extend_from_slice(&context_bytes(context));
    out
}

/// `MAGIC ‖ LP(ARN) ‖ nonce ‖ ciphertext ‖ tag`.
pub(super) fn wrap(
    cmk: &CmkArn,
    sealer: &Sealer,
    context: &EncryptionContext,
    key: &KeyBytes,
) -> Result<Vec<u8>, RingError> {
    let mut out = MAGIC.to_vec();
    put_lp(&mut out, cmk.as_str().as_bytes());
    out.extend_from_slice(&sealer.seal(&wrapped_data(cmk, context), key)?);
    Ok(out)
}

/// Why a wrapped data key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrapError {
    /// Damaged, cut, or of another context.
    Invalid,
    /// Of another CMK.
    OtherCmk,
}

/// The key that [`wrap`] wrapped.
pub(super) fn unwrap(
    cmk: &CmkArn,
    sealer: &Sealer,
    context: &EncryptionContext,
    wrapped: &[u8],
) -> Result<KeyBytes, WrapError> {
    let mut rest = wrapped.strip_prefix(MAGIC).ok_or(WrapError::Invalid)?;
    let named = take_lp(&mut rest).ok_or(WrapError::Invalid)?;
    if named != cmk.as_str().as_bytes() {
        // Only a name that could be one is another CMK's; the rest is damage.
        let is_arn = std::str::from_utf8(named).is_ok_and(|named| CmkArn::new(named).is_ok());
        return Err(if is_arn {
            WrapError::OtherCmk
        } else {
            WrapError::Invalid
        });
    }
    sealer
        .open(&wrapped_data(cmk, context), rest)
        .ok_or(WrapError::Invalid)
}

/// The CMK that a wrapped data key says it is of. Nothing proves it before it is
/// opened.
pub(super) fn named(wrapped: &[u8]) -> Option<CmkArn> {
    let mut rest = wrapped.strip_prefix(MAGIC)?;
    let named = std::str::from_utf8(take_lp(&mut rest)?).ok()?;
    CmkArn::new(named).ok()
}

/// Writes a new key file; refuses to replace one.
pub(super) fn create_key_file(path: &Path) -> Result<(), RingError> {
    let text = Zeroizing::new(hex::encode(*random_key()?));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| RingError::io(path, e))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(|e| RingError::io(path, e))
}

fn read_key_file(path: &Path) -> Result<KeyBytes, RingError> {
    let mode = fs::metadata(path)
        .map_err(|e| RingError::io(path, e))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(RingError::KeyFileMode {
            path: path.to_owned(),
            mode: mode & 0o777,
        });
    }
    let text = Zeroizing::new(fs::read(path).map_err(|e| RingError::io(path, e))?);
    let mut key = KeyBytes::default();
    hex::decode_to_slice(text.trim_ascii(), &mut *key).map_err(|_| RingError::BadKeyFile {
        path: path.to_owned(),
    })?;
    Ok(key)
}
