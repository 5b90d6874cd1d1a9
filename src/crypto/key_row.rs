//! One wrap of one data key, as stored.
//!
//! ```text
//! 0 wrap epoch (4) | 4 version | 5 provider | 6 commitment (32) | 38 created ms (8) |
//! 46 LP(CMK ARN) ‖ LP(key material id) ‖ LP(scope) ‖ LP(wrapped key)
//! ```

use crate::crypto::{CellError, Commitment, KeyId};
use crate::epoch::Epoch;
use crate::ids::{CmkArn, InvalidId};
use crate::scope::{Scope, ScopeError, put_lp, take_lp};

const VERSION: u8 = 1;
const FIXED: usize = 46;

/// Which kind of KMS wrapped a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Provider {
    /// AWS KMS.
    Aws = 1,
    /// The local key ring.
    LocalRing = 2,
    /// A hardware module by PKCS#11.
    Pkcs11 = 3,
    /// Vault Transit.
    Vault = 4,
}

impl Provider {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Provider::Aws),
            2 => Some(Provider::LocalRing),
            3 => Some(Provider::Pkcs11),
            4 => Some(Provider::Vault),
            _ => None,
        }
    }
}

/// Bytes that are no key row, or a key row that has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRowError {
    /// Cut short, or bytes after the last part.
    #[error("it is cut short or has bytes after its last part")]
    Length,
    /// One of the four epoch bytes is 0x80 or above.
    #[error("its wrap epoch is not base 128")]
    Epoch,
    /// Written by a later program, or damaged.
    #[error("it has format version {0}; this program knows 1")]
    Version(u8),
    /// Written by a later program, or damaged.
    #[error("it names KMS provider {0}, which this program does not know")]
    Provider(u8),
    /// The CMK is not named by a key ARN.
    #[error("its {0}")]
    Cmk(InvalidId),
    /// The key material id is not UTF-8 or longer than 256 bytes.
    #[error("its key material id is empty, not UTF-8, or longer than 256 bytes")]
    KeyMaterial,
    /// The scope does not parse.
    #[error("its {0}")]
    Scope(ScopeError),
    /// No wrapped key, or one that is too long.
    #[error("its wrapped key has {0} bytes; it must have 1 to 6144")]
    Wrapped(usize),
}

impl KeyRowError {
    /// The stable name of the failure, as tests/vectors use it. Operators see
    /// `key_row_malformed` with this error's text beside it.
    pub fn code(&self) -> &'static str {
        match self {
            KeyRowError::Length => "key_row_length",
            KeyRowError::Epoch => "key_row_epoch",
            KeyRowError::Version(_) => "key_row_version",
            KeyRowError::Provider(_) => "key_row_provider",
            KeyRowError::Cmk(_) => "key_row_cmk",
            KeyRowError::KeyMaterial => "key_row_key_material",
            KeyRowError::Scope(_) => "key_row_scope",
            KeyRowError::Wrapped(_) => "key_row_wrapped",
        }
    }
}

/// What a key row holds. Nothing in it is secret, and nothing in it is trusted
/// before the unwrapped key matches the commitment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRowBody {
    /// Higher with each rewrap; readers take the highest.
    pub wrap_epoch: Epoch,
    /// Which kind of KMS wrapped it.
    pub provider: Provider,
    /// What the unwrapped key must commit to. Its first half is the key id.
    pub commitment: Commitment,
    /// When the wrap was made, Unix milliseconds.
    pub created_ms: u64,
    /// The CMK that wrapped it.
    pub cmk: CmkArn,
    /// Which material of the CMK was used, where the KMS tells.
    pub key_material_id: Option<String>,
    /// What the key is for, and the context the KMS is sent.
    pub scope: Scope,
    /// The wrapped key, 1 to [`KeyRowBody::MAX_WRAPPED_BYTES`] bytes.
    pub wrapped: Vec<u8>,
}

impl KeyRowBody {
    /// Longest wrapped key, in bytes: the longest ciphertext AWS KMS takes.
    pub const MAX_WRAPPED_BYTES: usize = 6144;

    const MAX_KEY_MATERIAL_BYTES: usize = 256;

    /// The id of the key.
    pub fn key_id(&self) -> KeyId {
        self.commitment.key_id()
    }

    /// Checks that the row says the same inside as the address it was read from.
    ///
    /// # Errors
    /// `KeyRowMisplaced` if not: somebody moved or copied it.
    pub fn check_address(&self, key_id: &KeyId, wrap_epoch: Epoch) -> Result<(), CellError> {
        if self.key_id() == *key_id && self.wrap_epoch == wrap_epoch {
            Ok(())
        } else {
            Err(CellError::KeyRowMisplaced)
        }
    }

    /// The bytes of the row.
    ///
    /// # Errors
    /// `Wrapped` or `KeyMaterial` if a part has a length that [`Self::decode`]
    /// would refuse.
    pub fn encode(&self) -> Result<Vec<u8>, KeyRowError> {
        check_wrapped(&self.wrapped)?;
        if let Some(id) = &self.key_material_id {
            check_key_material(id.as_bytes()).ok_or(KeyRowError::KeyMaterial)?;
        }
        let mut out = Vec::with_capacity(FIXED + 512 + self.wrapped.len());
        out.extend_from_slice(&self.wrap_epoch.to_bytes());
        out.push(VERSION);
        out.push(self.provider as u8);
        out.extend_from_slice(&self.commitment.0);
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        put_lp(&mut out, self.cmk.as_str().as_bytes());
        put_lp(
            &mut out,
            self.key_material_id.as_deref().unwrap_or("").as_bytes(),
        );
        put_lp(&mut out, &self.scope.to_bytes());
        put_lp(&mut out, &self.wrapped);
        Ok(out)
    }

    /// Reads what [`Self::encode`] writes, and nothing else.
    ///
    /// # Errors
    /// The first part that is wrong, from front to back.
    pub fn decode(row: &[u8]) -> Result<Self, KeyRowError> {
        let (epoch, rest) = row.split_first_chunk::<4>().ok_or(KeyRowError::Length)?;
        let wrap_epoch = Epoch::from_bytes(*epoch).ok_or(KeyRowError::Epoch)?;
        let ([version, provider], rest) =
            rest.split_first_chunk::<2>().ok_or(KeyRowError::Length)?;
        if *version != VERSION {
            return Err(KeyRowError::Version(*version));
        }
        let provider = Provider::from_byte(*provider).ok_or(KeyRowError::Provider(*provider))?;
        let (commitment, rest) = rest.split_first_chunk::<32>().ok_or(KeyRowError::Length)?;
        let (created, mut rest) = rest.split_first_chunk::<8>().ok_or(KeyRowError::Length)?;

        let cmk = text(take_lp(&mut rest).ok_or(KeyRowError::Length)?);
        let cmk = CmkArn::new(cmk).map_err(KeyRowError::Cmk)?;
        let key_material_id = match take_lp(&mut rest).ok_or(KeyRowError::Length)? {
            [] => None,
            id => Some(
                check_key_material(id)
                    .ok_or(KeyRowError::KeyMaterial)?
                    .to_owned(),
            ),
        };
        let scope = take_lp(&mut rest).ok_or(KeyRowError::Length)?;
        let scope = Scope::from_bytes(scope).map_err(KeyRowError::Scope)?;
        let wrapped = take_lp(&mut rest).ok_or(KeyRowError::Length)?;
        check_wrapped(wrapped)?;
        if !rest.is_empty() {
            return Err(KeyRowError::Length);
        }
        Ok(Self {
            wrap_epoch,
            provider,
            commitment: Commitment(*commitment),
            created_ms: u64::from_be_bytes(*created),
            cmk,
            key_material_id,
            scope,
            wrapped: wrapped.to_vec(),
        })
    }
}

/// The ARN grammar is ASCII, so bytes that are not UTF-8 fail it either way.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check_key_material(id: &[u8]) -> Option<&str> {
    let fits = (1..=KeyRowBody::MAX_KEY_MATERIAL_BYTES).contains(&id.len());
    std::str::from_utf8(id).ok().filter(|_| fits)
}

fn check_wrapped(wrapped: &[u8]) -> Result<(), KeyRowError> {
    if (1..=KeyRowBody::MAX_WRAPPED_BYTES).contains(&wrapped.len()) {
        Ok(())
    } else {
        Err(KeyRowError::Wrapped(wrapped.len()))
    }
}
