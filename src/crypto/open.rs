//! The checks around opening a cell, in their order. Reader, worker and verifier
//! all go through these, so that none of them trusts what another refuses.
//!
//! | step | what | here |
//! |---|---|---|
//! | 1 | parse; expired is absent; floor ≤ epoch ≤ newest | [`admit_cell`] |
//! | 2 | of the key's rows at the address ASKED, the highest wrap that is allowed | [`crate::keys`] |
//! | 3 | the row's scope fits what was asked | [`scope_fits`] |
//! | 4 | the row's CMK is on the organization's allow-list | [`crate::keys`] |
//! | 5 | unwrap, or take from the cache | the caller |
//! | 6 | the key is the one that row and cell name | [`check_commitment`] |
//! | 7 | open | [`super::cell::open`] |

use subtle::ConstantTimeEq;

use crate::clock::WallTime;
use crate::crypto::{CellError, CellKey, Header, KeyId, KeyRowBody, expiry};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId, WorkspaceId};
use crate::scope::Scope;

/// What step 1 says of a cell that parses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Past its expiry: the record is absent. No key is looked up, nothing is
    /// quarantined.
    ///
    /// The header is not authenticated yet. Who can change it can delete the
    /// cell as well, so a forged expiry gains nothing.
    Expired,
    /// Its epoch is above the newest that the caller knows of. Read the registry
    /// afresh and ask again; if it is still above, refuse the cell with
    /// [`CellError::EpochAboveNewest`].
    AboveNewest(Header),
    /// Go on with step 2.
    Ok(Header),
}

/// Step 1. `floor` is the higher of the organization's and the channel's cell
/// floor, `newest` the organization's last epoch, both from the registry.
///
/// # Errors
/// Those of [`Header::parse`]; `EpochBelowFloor`.
pub fn admit_cell(
    cell: &[u8],
    now: WallTime,
    floor: Epoch,
    newest: Epoch,
) -> Result<Admission, CellError> {
    let header = Header::parse(cell)?;
    if header.expiry.is_some_and(|at| expiry::is_expired(at, now)) {
        return Ok(Admission::Expired);
    }
    let epoch = header.epoch;
    if epoch < floor {
        return Err(CellError::EpochBelowFloor { epoch, floor });
    }
    if epoch > newest {
        return Ok(Admission::AboveNewest(header));
    }
    Ok(Admission::Ok(header))
}

/// Where the reader of a message looked: the slice it asked for.
#[derive(Debug, Clone, Copy)]
pub struct MessageLocus<'a> {
    /// The organization.
    pub org: &'a OrgId,
    /// The channel.
    pub channel: &'a ChannelId,
    /// The hour of the record's creation.
    pub hour: Hour,
}

/// Step 3. The scope comes from the key's row, so that it is right during a
/// move; it is taken only if it is for what was asked. `workspaces_had` are the
/// workspaces that the channel's registry row lists, the present one included.
///
/// # Errors
/// `ScopeMismatch`.
pub fn scope_fits(
    row_scope: &Scope,
    asked: &MessageLocus<'_>,
    workspaces_had: &[WorkspaceId],
) -> Result<(), CellError> {
    match row_scope {
        Scope::Message {
            org,
            workspace,
            channel,
            hour,
        } if org == asked.org
            && channel == asked.channel
            && *hour == asked.hour
            && workspaces_had.contains(workspace) =>
        {
            Ok(())
        }
        _ => Err(CellError::ScopeMismatch),
    }
}

/// Step 6, in constant time: the unwrapped key is the one of the row, and the
/// row is the one that the cell named. Without it whoever can write key rows
/// could put a key of their own under a cell's name.
///
/// # Errors
/// `CommitmentMismatch`: quarantine the key, open no cell with it.
pub fn check_commitment(key: &CellKey, row: &KeyRowBody, named: &KeyId) -> Result<(), CellError> {
    let is_rows = key.matches(&row.commitment);
    let is_named: bool = key.key_id().0.ct_eq(&named.0).into();
    if is_rows & is_named {
        Ok(())
    } else {
        Err(CellError::CommitmentMismatch)
    }
}
