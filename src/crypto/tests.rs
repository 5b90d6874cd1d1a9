//! What must hold of cells and keys, beyond the vectors.

mod binding;
mod expiry;
mod keys;
mod vectors;

use zeroize::Zeroizing;

use crate::crypto::CellKey;
use crate::ids::{ChannelId, Hour, OrgId, RecordId, WorkspaceId};
use crate::kms::Dek;
use crate::scope::{Locus, Scope};

/// The data key 00 01 .. 1f of docs/format.md, plus `n` in its first byte.
fn dek(n: u8) -> Dek {
    let mut bytes: [u8; 32] = std::array::from_fn(|i| i as u8);
    bytes[0] = n;
    Dek::new(Zeroizing::new(bytes))
}

/// Where a message is and what its key is for, each part to be changed by a test.
#[derive(Clone)]
struct Site {
    org: OrgId,
    workspace: WorkspaceId,
    channel: ChannelId,
    hour: Hour,
    record: RecordId,
}

impl Site {
    /// The site of the vectors of docs/format.md.
    fn vector() -> Self {
        Self {
            org: OrgId::new("acme").unwrap(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: ChannelId::new("c1").unwrap(),
            hour: "2019-02-13T17".parse().unwrap(),
            record: "0000016880a1b2c3d4e5f60718293a4b".parse().unwrap(),
        }
    }

    fn scope(&self) -> Scope {
        Scope::Message {
            org: self.org.clone(),
            workspace: self.workspace.clone(),
            channel: self.channel.clone(),
            hour: self.hour,
        }
    }

    fn locus(&self) -> Locus<'_> {
        Locus::Message {
            org: &self.org,
            channel: &self.channel,
            record: &self.record,
        }
    }

    fn key(&self, n: u8) -> CellKey {
        CellKey::derive(dek(n), &self.scope())
    }
}
