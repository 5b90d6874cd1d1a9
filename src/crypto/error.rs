//! Why a cell or a key is not trusted.

use crate::crypto::KeyId;
use crate::crypto::key_row::KeyRowError;
use crate::epoch::Epoch;
use crate::ids::CmkArn;

/// Why a cell is not opened, or a key not used. Each has a stable code that is
/// shown to operators as the reason of a quarantine and that tests/vectors name.
///
/// None of them carries a byte of a message or of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// Too few bytes for header, nonce and tag.
    #[error("the cell has {bytes} bytes; the shortest has 54")]
    CellTooShort {
        /// Its length.
        bytes: usize,
    },
    /// One of the four epoch bytes is 0x80 or above.
    #[error("the cell's epoch bytes are not base 128")]
    BadEpoch,
    /// Written by a later program, or damaged.
    #[error("the cell has format version {0}; this program knows 1")]
    UnknownVersion(u8),
    /// Written by a later program, or damaged.
    #[error("the cell has cipher suite {0}; this program knows 1")]
    UnknownSuite(u8),
    /// The epoch is above the organization's newest: nobody has given it out.
    #[error("the cell has epoch {epoch}, above the newest, {newest}, that was ever given out")]
    EpochAboveNewest {
        /// The cell's.
        epoch: Epoch,
        /// The organization's, freshly read.
        newest: Epoch,
    },
    /// The epoch is below the floor: the cell was rolled back to an old state.
    #[error("the cell has epoch {epoch}, below the floor {floor}: it was rolled back")]
    EpochBelowFloor {
        /// The cell's.
        epoch: Epoch,
        /// The higher of the organization's and the channel's floor.
        floor: Epoch,
    },
    /// The wrap is below the organization's wrap floor: the key table was rolled
    /// back to an old state.
    #[error("the key's wrap has epoch {epoch}, below the floor {floor}: it was rolled back")]
    WrapBelowFloor {
        /// The wrap's.
        epoch: Epoch,
        /// The organization's wrap floor.
        floor: Epoch,
    },
    /// The expiry is 0, which means none, or later than a cell may have.
    #[error("the expiry {expiry} (Unix seconds) is 0 or later than {latest}")]
    BadExpiry {
        /// The expiry asked for, Unix seconds.
        expiry: u32,
        /// The latest allowed, Unix seconds.
        latest: u32,
    },
    /// The header says that the cell lasts, the store says that it expires.
    #[error("the cell's header has no expiry but the store holds a time to live for it")]
    TtlMismatch,
    /// The text is longer than a cell may hold.
    #[error("{bytes} bytes of plaintext; a cell holds at most 1 MiB")]
    PlaintextTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The tag does not fit: wrong key, other place, or changed bytes.
    #[error("the cell's tag does not fit: it was changed, or moved from another record or key")]
    TagMismatch,
    /// The cell names another key than the one it is to be opened with.
    #[error("the cell names key {named}, not the key {given} given for it")]
    KeyIdMismatch {
        /// What the cell names.
        named: KeyId,
        /// The key that was given.
        given: KeyId,
    },
    /// The cell names a key that has no row in its slice.
    #[error("the slice has no row for key {0}")]
    KeyRowMissing(KeyId),
    /// A key row does not parse.
    #[error("key row: {0}")]
    KeyRowMalformed(#[from] KeyRowError),
    /// A key row's blob says another key id or wrap epoch than its address.
    #[error("the key row says another key id or wrap epoch inside than the address it stands at")]
    KeyRowMisplaced,
    /// The key's scope is not what was asked for, or its workspace is not one the
    /// channel has had.
    #[error("the key's scope does not fit the record asked for")]
    ScopeMismatch,
    /// The row names a CMK that is not on the organization's allow-list.
    #[error("the key row names {0}, which the organization's allow-list does not have")]
    CmkNotAllowed(CmkArn),
    /// The unwrapped key is not the one that the row and the cells name.
    #[error("the unwrapped key is not the one that its row and its cells name")]
    CommitmentMismatch,
}

impl CellError {
    /// The stable code of the failure.
    pub fn code(&self) -> &'static str {
        match self {
            CellError::CellTooShort { .. } => "cell_too_short",
            CellError::BadEpoch => "bad_epoch",
            CellError::UnknownVersion(_) => "unknown_version",
            CellError::UnknownSuite(_) => "unknown_suite",
            CellError::EpochAboveNewest { .. } => "epoch_above_newest",
            CellError::EpochBelowFloor { .. } => "epoch_below_floor",
            CellError::WrapBelowFloor { .. } => "wrap_below_floor",
            CellError::BadExpiry { .. } => "bad_expiry",
            CellError::TtlMismatch => "ttl_mismatch",
            CellError::PlaintextTooLarge { .. } => "plaintext_too_large",
            CellError::TagMismatch => "tag_mismatch",
            CellError::KeyIdMismatch { .. } => "key_id_mismatch",
            CellError::KeyRowMissing(_) => "key_row_missing",
            CellError::KeyRowMalformed(_) => "key_row_malformed",
            CellError::KeyRowMisplaced => "key_row_misplaced",
            CellError::ScopeMismatch => "scope_mismatch",
            CellError::CmkNotAllowed(_) => "cmk_not_allowed",
            CellError::CommitmentMismatch => "commitment_mismatch",
        }
    }
}
