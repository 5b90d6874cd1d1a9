//! One stored blob: header, nonce, ciphertext and tag.
//!
//! ```text
//! 0 epoch (4) | 4 version | 5 suite | 6 key id (16) | 22 expiry (4) | 26 nonce (12) | 38 ciphertext ‖ tag (16)
//! ```

use std::cell::RefCell;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Nonce, Tag};
use zeroize::Zeroizing;

use crate::crypto::{CellError, CellKey, KeyId, expiry};
use crate::epoch::Epoch;
use crate::scope::{Locus, Scope, put_lp};

const VERSION: u8 = 1;
const SUITE: u8 = 1;
const AAD_LABEL: &[u8] = b"rekeyd.cell.v1";

const HEADER: usize = 26;
const NONCE: usize = 12;
const TAG: usize = 16;
const BODY: usize = HEADER + NONCE;

/// Bytes that a cell has beyond its plaintext; an empty message makes a cell of
/// this length.
pub const OVERHEAD_BYTES: usize = BODY + TAG;

/// Most bytes of plaintext in a cell.
pub const MAX_PLAINTEXT_BYTES: usize = 1 << 20;

/// What a cell says about itself. Authenticated by opening it, not by parsing:
/// until then it is a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The epoch it was sealed in.
    pub epoch: Epoch,
    /// The data key it was sealed with.
    pub key_id: KeyId,
    /// When it vanishes, in Unix seconds; `None` for a lasting cell.
    pub expiry: Option<u32>,
}

impl Header {
    /// Reads the header of a cell.
    ///
    /// # Errors
    /// In this order: `CellTooShort`, `BadEpoch`, `UnknownVersion`,
    /// `UnknownSuite`.
    pub fn parse(cell: &[u8]) -> Result<Self, CellError> {
        let header = match cell.first_chunk::<HEADER>() {
            Some(header) if cell.len() >= OVERHEAD_BYTES => header,
            _ => return Err(CellError::CellTooShort { bytes: cell.len() }),
        };
        // Fixed places in an array of 26: none of these can fail.
        let [e0, e1, e2, e3, version, suite, rest @ ..] = header;
        let epoch = Epoch::from_bytes([*e0, *e1, *e2, *e3]).ok_or(CellError::BadEpoch)?;
        if *version != VERSION {
            return Err(CellError::UnknownVersion(*version));
        }
        if *suite != SUITE {
            return Err(CellError::UnknownSuite(*suite));
        }
        let [id @ .., x0, x1, x2, x3] = rest;
        let expiry = u32::from_be_bytes([*x0, *x1, *x2, *x3]);
        Ok(Self {
            epoch,
            key_id: KeyId(*id),
            expiry: (expiry != 0).then_some(expiry),
        })
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&self.epoch.to_bytes());
        out[4] = VERSION;
        out[5] = SUITE;
        out[6..22].copy_from_slice(&self.key_id.0);
        out[22..26].copy_from_slice(&self.expiry.unwrap_or(0).to_be_bytes());
        out
    }
}

/// A message in clear, wiped when dropped. No `Debug`, `Clone` or `Serialize`.
#[derive(PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// Takes a message in clear.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Seals a message. Count the seal before, with [`CellKey::reserve_seals`].
///
/// `expiry` is in Unix seconds. Whether it is too far from now is for the caller
/// to ask ([`expiry::check_new_expiry`]); only the end of the format's own range
/// is refused here. The nonce must come from a [`crate::crypto::NonceSource`].
///
/// # Errors
/// `PlaintextTooLarge`, `BadExpiry`; `ScopeMismatch` if the key is for another
/// organization or channel than the locus, since nobody could open the cell.
pub fn seal(
    key: &CellKey,
    epoch: Epoch,
    expiry: Option<u32>,
    nonce: &[u8; 12],
    locus: &Locus<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, CellError> {
    if plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(CellError::PlaintextTooLarge {
            bytes: plaintext.len(),
        });
    }
    if let Some(expiry) = expiry.filter(|e| !(1..=expiry::LATEST).contains(e)) {
        return Err(CellError::BadExpiry {
            expiry,
            latest: expiry::LATEST,
        });
    }
    if !belongs(locus, key.scope()) {
        return Err(CellError::ScopeMismatch);
    }
    let header = Header {
        epoch,
        key_id: key.key_id(),
        expiry,
    }
    .to_bytes();
    let mut cell = Vec::with_capacity(OVERHEAD_BYTES + plaintext.len());
    cell.extend_from_slice(&header);
    cell.extend_from_slice(nonce);
    cell.extend_from_slice(plaintext);
    // Encrypted where it lies: the capacity above is exact, so no copy of the
    // plaintext is left behind by a growing vector.
    let tag = with_aad(key, &header, locus, |aad| {
        key.cipher()
            .encrypt_inout_detached(&Nonce::from(*nonce), aad, (&mut cell[BODY..]).into())
    })
    .map_err(|_| CellError::PlaintextTooLarge {
        bytes: plaintext.len(),
    })?;
    cell.extend_from_slice(&tag);
    Ok(cell)
}

/// Opens a cell. The checks of [`crate::crypto::open`] come before this one.
///
/// # Errors
/// Those of [`Header::parse`]; `PlaintextTooLarge`, `KeyIdMismatch`;
/// `TagMismatch` for every other reason, and no plaintext leaves then.
pub fn open(key: &CellKey, locus: &Locus<'_>, cell: &[u8]) -> Result<Plaintext, CellError> {
    let mut scratch = Scratch::default();
    open_into(key, locus, cell, &mut scratch)?;
    Ok(Plaintext(scratch.0))
}

/// As [`open`], into room that is used again.
///
/// # Errors
/// Those of [`open`]; the room then holds nothing that may be used.
pub fn open_into<'s>(
    key: &CellKey,
    locus: &Locus<'_>,
    cell: &[u8],
    scratch: &'s mut Scratch,
) -> Result<&'s [u8], CellError> {
    let header = Header::parse(cell)?;
    let bytes = cell.len() - OVERHEAD_BYTES;
    if bytes > MAX_PLAINTEXT_BYTES {
        return Err(CellError::PlaintextTooLarge { bytes });
    }
    if header.key_id != key.key_id() {
        return Err(CellError::KeyIdMismatch {
            named: header.key_id,
            given: key.key_id(),
        });
    }
    let (head, body) = cell.split_at(BODY);
    let (header, nonce) = head.split_at(HEADER);
    let (ciphertext, tag) = body.split_at(bytes);
    // `parse` has seen to the lengths; slices that do not fit are no cell.
    let (Ok(nonce), Ok(tag)) = (Nonce::try_from(nonce), Tag::try_from(tag)) else {
        return Err(CellError::CellTooShort { bytes: cell.len() });
    };
    let text = scratch.hold(ciphertext);
    with_aad(key, header, locus, |aad| {
        key.cipher()
            .decrypt_inout_detached(&nonce, aad, text.into(), &tag)
    })
    .map_err(|_| CellError::TagMismatch)?;
    Ok(scratch.text())
}

/// Room for one plaintext after the other. Who opens many cells keeps one: the
/// room is wiped when it is dropped and not for each cell.
#[derive(Default)]
pub struct Scratch(Zeroizing<Vec<u8>>);

impl Scratch {
    /// Puts bytes in the place of what was held.
    fn hold(&mut self, bytes: &[u8]) -> &mut [u8] {
        if self.0.capacity() < bytes.len() {
            // Not grown: that would free the old room without wiping it.
            self.0 = Zeroizing::new(Vec::with_capacity(bytes.len().next_power_of_two()));
        }
        // Longer than what comes, the rest of the last text would stay readable
        // to nobody but this process; it is wiped at the end with all else.
        self.0.clear();
        self.0.extend_from_slice(bytes);
        &mut self.0
    }

    fn text(&self) -> &[u8] {
        &self.0
    }
}

fn belongs(locus: &Locus<'_>, scope: &Scope) -> bool {
    match (locus, scope) {
        (
            Locus::Message { org, channel, .. },
            Scope::Message {
                org: o, channel: c, ..
            },
        ) => *org == o && *channel == c,
        (
            Locus::SetAside { org, channel, .. },
            Scope::SetAside {
                org: o, channel: c, ..
            },
        ) => *org == o && *channel == c,
        _ => false,
    }
}

/// Runs `f` on `LP("rekeyd.cell.v1") ‖ header ‖ LP(scope) ‖ LP(locus)`. The
/// buffer is the thread's own and used again: most cells are small, and an
/// allocation for each would show. Nothing in it is secret.
fn with_aad<T>(key: &CellKey, header: &[u8], locus: &Locus<'_>, f: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static AAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    AAD.with_borrow_mut(|aad| {
        aad.clear();
        put_lp(aad, AAD_LABEL);
        aad.extend_from_slice(header);
        put_lp(aad, key.scope_bytes());
        let at = aad.len();
        aad.extend_from_slice(&[0, 0]);
        locus.append_to(aad);
        // A few parts of at most 256 bytes each: the length fits two bytes.
        let length = (aad.len() - at - 2) as u16;
        aad[at..at + 2].copy_from_slice(&length.to_be_bytes());
        f(aad)
    })
}

/// The associated data of a cell, for the tests that compare it.
#[cfg(test)]
pub(super) fn aad_of(key: &CellKey, cell: &[u8], locus: &Locus<'_>) -> Vec<u8> {
    with_aad(key, &cell[..HEADER], locus, <[u8]>::to_vec)
}
