//! How the KMS learns which role to assume: from the registry.

use std::sync::Arc;

use crate::ids::{CmkArn, OrgId};
use crate::kms::caller::{Access, Grant, Roles};
use crate::registry::{CmkAccess, Registry};

/// The roles of the registry's allow-lists.
pub(super) struct RegistryRoles(pub Registry);

#[async_trait::async_trait]
impl Roles for RegistryRoles {
    async fn access(&self, org: &OrgId, cmk: &CmkArn) -> Result<Access, String> {
        match self.0.cmk(org, cmk).await {
            Ok(None) => Ok(Access::Unlisted),
            Ok(Some(row)) => Ok(access(CmkAccess {
                role_arn: row.role_arn,
                external_id: row.external_id,
            })),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A CMK that is just being entered, before its row is there.
pub(super) struct Entering {
    pub org: OrgId,
    pub cmk: CmkArn,
    pub access: CmkAccess,
    pub others: Arc<dyn Roles>,
}

#[async_trait::async_trait]
impl Roles for Entering {
    async fn access(&self, org: &OrgId, cmk: &CmkArn) -> Result<Access, String> {
        if (org, cmk) == (&self.org, &self.cmk) {
            Ok(access(self.access.clone()))
        } else {
            self.others.access(org, cmk).await
        }
    }
}

fn access(access: CmkAccess) -> Access {
    match access.role_arn {
        None => Access::Own,
        Some(role) => Access::Role(Grant {
            role,
            external_id: access.external_id,
        }),
    }
}
