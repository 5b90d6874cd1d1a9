//! Which KMS permissions each role uses. The policies allow exactly these, and a
//! test compares the list with what workers were seen to call.

use crate::ids::{CmkArn, JobId, OrgId};
use crate::scope::{EncryptionContext, Scope};

use super::{Role, Sides};

/// One use of one permission on one CMK.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The permission, for example `kms:Decrypt`. `ReEncrypt` is two calls here:
    /// IAM asks for `kms:ReEncryptFrom` on one CMK and `kms:ReEncryptTo` on the
    /// other.
    pub action: &'static str,
    /// The CMK.
    pub cmk: CmkArn,
    /// The encryption context; `DescribeKey` and `GetKeyPolicy` have none.
    pub context: EncryptionContext,
}

/// `kms:GenerateDataKey`.
pub(super) const GENERATE: &str = "kms:GenerateDataKey";
/// `kms:Decrypt`.
pub(super) const DECRYPT: &str = "kms:Decrypt";
/// `kms:ReEncryptFrom`.
pub(super) const FROM: &str = "kms:ReEncryptFrom";
/// `kms:ReEncryptTo`.
pub(super) const TO: &str = "kms:ReEncryptTo";
/// `kms:DescribeKey`.
pub(super) const DESCRIBE: &str = "kms:DescribeKey";
/// `kms:GetKeyPolicy`.
pub(super) const POLICY: &str = "kms:GetKeyPolicy";
/// What is asked about a CMK itself, without an encryption context.
pub(super) const LOOKS: [&str; 2] = [DESCRIBE, POLICY];

/// What a role may do with old and new CMKs under an encryption context.
pub(super) struct Rights {
    /// On every CMK.
    pub on_all: &'static [&'static str],
    /// On new CMKs as well.
    pub on_new: &'static [&'static str],
    /// Whether CMKs are described and their policies read.
    pub describes: bool,
}

impl Role {
    /// Where each comes from: `worker/preflight.rs` and `kms/trial.rs` (the
    /// canaries), `pipeline/unwrap.rs` (Decrypt, GenerateDataKey),
    /// `pipeline/rewrap.rs` (ReEncrypt from each CMK to a new one, and of each
    /// new wrap onto its own CMK as the proof), `set_aside/fill.rs` (the same
    /// calls for old keys, by the job's mode), `pipeline/aside.rs` (Decrypt of
    /// what those were sealed with), `worker/drive.rs` (DescribeKey
    /// of the old CMK for the verdict), `worker/drift.rs` (GetKeyPolicy),
    /// `verify.rs` (the verifier).
    pub(super) fn rights(self) -> Rights {
        match self {
            Role::Reencrypt => Rights {
                on_all: &[DECRYPT],
                on_new: &[GENERATE],
                describes: true,
            },
            Role::Rewrap => Rights {
                on_all: &[FROM],
                on_new: &[TO],
                describes: true,
            },
            Role::Verifier => Rights {
                on_all: &[],
                on_new: &[DECRYPT],
                describes: false,
            },
        }
    }
}

/// Every permission that a role uses, with `slices` standing for the scopes of
/// its data.
pub fn calls(role: Role, org: &OrgId, sides: &Sides, slices: &[Scope]) -> Vec<Call> {
    let rights = role.rights();
    let mut contexts: Vec<EncryptionContext> = slices.iter().map(Scope::context).collect();
    if role != Role::Verifier {
        let canary = Scope::Canary { org: org.clone() };
        // A canary under a wrong context has to reach the KMS, so that it is the
        // KMS which refuses it.
        let wrong = Scope::Search { org: org.clone() };
        contexts.extend([canary.context(), wrong.context()]);
    }
    if role == Role::Reencrypt {
        contexts.extend(slices.iter().filter_map(set_aside));
    }
    let mut all = Vec::new();
    let mut put = |action, cmk: &CmkArn, context: &EncryptionContext| {
        all.push(Call {
            action,
            cmk: cmk.clone(),
            context: context.clone(),
        });
    };
    for context in &contexts {
        for action in rights.on_all {
            sides.all().for_each(|cmk| put(action, cmk, context));
        }
        for action in rights.on_new {
            sides.new.iter().for_each(|cmk| put(action, cmk, context));
        }
    }
    if rights.describes {
        let none = EncryptionContext::new();
        for action in LOOKS {
            sides.all().for_each(|cmk| put(action, cmk, &none));
        }
    }
    all
}

/// The context of the key that the old keys of a slice's channel are set aside
/// under, with an id that stands for any job.
fn set_aside(slice: &Scope) -> Option<EncryptionContext> {
    let Scope::Message { org, channel, .. } = slice else {
        return None;
    };
    let aside = Scope::SetAside {
        org: org.clone(),
        channel: channel.clone(),
        job: JobId::NIL,
    };
    Some(aside.context())
}
