//! Is a CMK as a rekey needs it? Each question is a few calls under the canary
//! context, which holds no data. Preflight asks before a job changes anything,
//! `rekeyd doctor` whenever it is run.

use super::{CmkDescription, CmkState, Kms, KmsClass, KmsError, Use};
use crate::ids::{CmkArn, OrgId};
use crate::scope::Scope;

/// Why a CMK is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is there, and not enabled.
    #[error("it is {}", .0.state.in_words())]
    NotEnabled(Box<CmkDescription>),
    /// It is a key of another kind.
    #[error("it is not a symmetric encryption key and cannot wrap data keys")]
    NotSymmetric,
    /// The KMS opened a key under another context than it was made under, which
    /// would make scopes worthless.
    #[error("it opened a canary under another encryption context")]
    ContextNotBound,
    /// The KMS refused or failed.
    #[error("{operation} answers {code} ({message})", operation = .0.operation, code = .0.code, message = .0.message)]
    Kms(#[from] KmsError),
}

/// Tries CMKs on behalf of an organization.
pub struct Trial<'a> {
    /// The KMS, as whoever is to use it.
    pub kms: &'a dyn Kms,
    /// The organization.
    pub org: &'a OrgId,
    /// Why it is tried, for the audit log.
    pub why: &'a Use,
}

impl Trial<'_> {
    fn canary(&self) -> Scope {
        Scope::Canary {
            org: self.org.clone(),
        }
    }

    /// A context that is not the canary's. It names the organization, so that
    /// the KMS refuses it and not a policy before it.
    fn other(&self) -> Scope {
        Scope::Search {
            org: self.org.clone(),
        }
    }

    /// It exists, is enabled and symmetric.
    ///
    /// # Errors
    /// Why not.
    pub async fn describe(&self, cmk: &CmkArn) -> Result<CmkDescription, Unfit> {
        let described = self.kms.describe(cmk, self.org, self.why).await?;
        if described.state != CmkState::Enabled {
            Err(Unfit::NotEnabled(Box::new(described)))
        } else if !described.symmetric {
            Err(Unfit::NotSymmetric)
        } else {
            Ok(described)
        }
    }

    /// It makes a data key, opens it, and refuses to under another context.
    ///
    /// # Errors
    /// Why not.
    pub async fn wraps(&self, cmk: &CmkArn) -> Result<(), Unfit> {
        let kms = self.kms;
        let made = kms
            .generate_data_key(cmk, &self.canary(), self.why)
            .await?
            .wrapped
            .bytes;
        kms.decrypt(cmk, &made, &self.canary(), self.why).await?;
        refused(kms.decrypt(cmk, &made, &self.other(), self.why).await)
    }

    /// It opens a canary that was made when it was entered.
    ///
    /// # Errors
    /// Why not.
    pub async fn opens(&self, cmk: &CmkArn, canary: &[u8]) -> Result<(), Unfit> {
        let scope = self.canary();
        self.kms.decrypt(cmk, canary, &scope, self.why).await?;
        Ok(())
    }

    /// The KMS wraps a canary of one CMK under another, inside.
    ///
    /// # Errors
    /// Why not.
    pub async fn rewraps(&self, from: &CmkArn, canary: &[u8], to: &CmkArn) -> Result<(), Unfit> {
        let scope = self.canary();
        let wrapped = self.kms.re_encrypt(from, canary, to, &scope, self.why);
        wrapped.await?;
        Ok(())
    }

    /// A rewrap under another context is refused.
    ///
    /// # Errors
    /// If it is not, or if the KMS fails.
    pub async fn refuses_to_rewrap(
        &self,
        from: &CmkArn,
        canary: &[u8],
        to: &CmkArn,
    ) -> Result<(), Unfit> {
        let other = self.other();
        refused(
            self.kms
                .re_encrypt(from, canary, to, &other, self.why)
                .await,
        )
    }
}

impl CmkState {
    /// As people say it.
    pub fn in_words(self) -> &'static str {
        match self {
            CmkState::Enabled => "enabled",
            CmkState::Disabled => "disabled",
            CmkState::PendingDeletion => "waiting for its deletion",
            CmkState::PendingImport => "without its imported key material",
            CmkState::Unavailable => "in a key store that is disconnected",
            CmkState::Creating => "being made or replicated",
        }
    }
}

/// A call under another context has to be refused: by the ciphertext, or by a
/// policy on the pairs.
fn refused<T>(answer: Result<T, KmsError>) -> Result<(), Unfit> {
    match answer {
        Ok(_) => Err(Unfit::ContextNotBound),
        Err(error) if matches!(error.class, KmsClass::QuarantinedKey | KmsClass::Denied) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
