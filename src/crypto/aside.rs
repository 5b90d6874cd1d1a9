//! One old key, sealed with another and opened again.
//!
//! It is a cell of docs/format.md: its text is the 32 bytes of the old key, its
//! locus says whose key it is, and its epoch is the job's. So a sealed key that is
//! copied to another place does not open there.

use zeroize::Zeroizing;

use crate::crypto::{
    CellError, CellKey, Commitment, KeyId, KeyRowBody, NonceSource, cell, check_commitment,
};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId};
use crate::kms::Dek;
use crate::scope::{Locus, Scope};

/// Where an old key belongs.
#[derive(Debug, Clone, Copy)]
pub struct Bundle<'a> {
    /// The organization.
    pub org: &'a OrgId,
    /// The channel.
    pub channel: &'a ChannelId,
    /// The hour.
    pub hour: Hour,
    /// The key.
    pub key_id: KeyId,
}

impl Bundle<'_> {
    fn locus(&self) -> Locus<'_> {
        Locus::SetAside {
            org: self.org,
            channel: self.channel,
            hour: self.hour,
            key_id: &self.key_id.0,
        }
    }
}

/// Seals the key of a row, once it is shown to be that key (as in step 6 of
/// opening a cell: what is set aside must be what the cells name).
///
/// # Errors
/// `CommitmentMismatch`; those of [`cell::seal`].
pub(crate) fn seal(
    with: &CellKey,
    epoch: Epoch,
    bundle: &Bundle<'_>,
    row: &KeyRowBody,
    dek: Dek,
    nonces: &mut NonceSource,
) -> Result<Vec<u8>, CellError> {
    let bytes = Zeroizing::new(*dek.expose());
    check_commitment(&CellKey::derive(dek, &row.scope), row, &bundle.key_id)?;
    cell::seal(with, epoch, None, &nonces.next(), &bundle.locus(), &*bytes)
}

/// Opens a key that was set aside.
///
/// # Errors
/// Those of [`cell::open`]; `CommitmentMismatch` if it is another key than it
/// says.
pub fn open(
    with: &CellKey,
    bundle: &Bundle<'_>,
    scope: &Scope,
    commitment: &Commitment,
    sealed: &[u8],
) -> Result<CellKey, CellError> {
    let text = cell::open(with, &bundle.locus(), sealed)?;
    let bytes: Zeroizing<[u8; 32]> = match text.as_bytes().try_into() {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(_) => return Err(CellError::CommitmentMismatch),
    };
    let key = CellKey::derive(Dek::new(bytes), scope);
    match key.matches(commitment) && key.key_id() == bundle.key_id {
        true => Ok(key),
        false => Err(CellError::CommitmentMismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Provider;
    use crate::ids::{CmkArn, JobId, WorkspaceId};

    fn dek(byte: u8) -> Dek {
        Dek::new(Zeroizing::new([byte; 32]))
    }

    #[test]
    fn a_sealed_key_opens_at_its_own_place_only() {
        let (org, c1, c2) = (
            OrgId::new("acme").unwrap(),
            ChannelId::new("c1").unwrap(),
            ChannelId::new("c2").unwrap(),
        );
        let hour = Hour::of_unix_seconds(1_550_077_200).unwrap();
        let scope = Scope::Message {
            org: org.clone(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: c1.clone(),
            hour,
        };
        let job = JobId::random();
        let with = |channel: &ChannelId, job| {
            let (org, channel) = (org.clone(), channel.clone());
            CellKey::derive(dek(7), &Scope::SetAside { org, channel, job })
        };
        let old = CellKey::derive(dek(1), &scope);
        let row = KeyRowBody {
            wrap_epoch: Epoch::ZERO,
            provider: Provider::LocalRing,
            commitment: old.commitment().clone(),
            created_ms: 1,
            cmk: CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap(),
            key_material_id: None,
            scope: scope.clone(),
            wrapped: vec![1],
        };
        let here = Bundle {
            org: &org,
            channel: &c1,
            hour,
            key_id: old.key_id(),
        };
        let (epoch, mut nonces) = (Epoch::new(2).unwrap(), NonceSource::new());
        let sealed = seal(&with(&c1, job), epoch, &here, &row, dek(1), &mut nonces).unwrap();
        assert!(!sealed.windows(32).any(|run| run == [1; 32]));
        let open = |with: &CellKey, at: &Bundle<'_>, commitment: &Commitment| {
            super::open(with, at, &scope, commitment, &sealed).map(|key| key.key_id())
        };
        let own = old.commitment();
        assert_eq!(open(&with(&c1, job), &here, own), Ok(old.key_id()));

        // Another hour, key id, job, channel; another commitment than its own.
        let later = Bundle {
            hour: Hour::of_unix_seconds(1_550_080_800).unwrap(),
            ..here
        };
        let other = Bundle {
            key_id: KeyId([9; 16]),
            ..here
        };
        for at in [later, other] {
            let refused = open(&with(&c1, job), &at, own);
            assert_eq!(refused, Err(CellError::TagMismatch));
        }
        assert!(open(&with(&c1, JobId::random()), &here, own).is_err());
        assert!(open(&with(&c2, job), &here, own).is_err());
        let forged = Commitment([3; 32]);
        assert_eq!(
            open(&with(&c1, job), &here, &forged),
            Err(CellError::CommitmentMismatch)
        );
        // What the KMS gave is not the key of the row.
        let swapped = seal(&with(&c1, job), epoch, &here, &row, dek(2), &mut nonces);
        assert_eq!(swapped, Err(CellError::CommitmentMismatch));
    }
}
