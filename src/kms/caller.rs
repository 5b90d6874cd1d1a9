//! Who calls: ourselves, or a role that a customer lets us assume. The KMS counts
//! calls by it, and the audit log names it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::KmsError;
use super::codes::{Circumstance, ROLE_UNKNOWN};
use crate::clock::{BootTime, SharedClock};
use crate::ids::{CmkArn, ExternalId, OrgId, RoleArn};

/// A role to assume for calls to a CMK.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The role.
    pub role: RoleArn,
    /// What it asks for besides our identity.
    pub external_id: Option<ExternalId>,
}

/// How a CMK is reached for an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As ourselves.
    Own,
    /// By a role.
    Role(Grant),
    /// The registry does not have this CMK for this organization. Called as
    /// ourselves, and looked up anew each time.
    Unlisted,
}

/// What knows the roles: the registry. In words why it cannot tell; ids only.
#[async_trait::async_trait]
pub trait Roles: Send + Sync {
    /// How `org` lets us reach `cmk`.
    async fn access(&self, org: &OrgId, cmk: &CmkArn) -> Result<Access, String>;
}

/// Every call as ourselves.
pub struct NoRoles;

#[async_trait::async_trait]
impl Roles for NoRoles {
    async fn access(&self, _: &OrgId, _: &CmkArn) -> Result<Access, String> {
        Ok(Access::Own)
    }
}

/// Roles as they were read at most the status time ago: what an operator changes
/// holds everywhere after that, as all of the registry does.
pub struct RoleCache {
    roles: Arc<dyn Roles>,
    keep: Duration,
    clock: SharedClock,
    read: Mutex<Read>,
}

/// What was read, and when the read began.
type Read = HashMap<(OrgId, CmkArn), (BootTime, Option<Grant>)>;

impl RoleCache {
    /// Keeps what `roles` says for `keep`.
    pub fn new(roles: Arc<dyn Roles>, keep: Duration, clock: SharedClock) -> Self {
        Self {
            roles,
            keep,
            clock,
            read: Mutex::default(),
        }
    }

    /// The role to assume; `None` for a call as ourselves.
    ///
    /// # Errors
    /// Transient, if the roles cannot be read: a call under the wrong identity
    /// would look like a refusal.
    pub async fn grant(
        &self,
        operation: &'static str,
        org: &OrgId,
        cmk: &CmkArn,
    ) -> Result<Option<Grant>, KmsError> {
        let key = (org.clone(), cmk.clone());
        // The age counts from the start of the read.
        let now = self.clock.boot();
        let known = {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.get(&key)
                .filter(|(at, _)| now.since(*at) < self.keep)
                .map(|(_, grant)| grant.clone())
        };
        if let Some(grant) = known {
            return Ok(grant);
        }
        let access = self.roles.access(org, cmk).await.map_err(|why| {
            let message = format!("the role for {cmk} cannot be read: {why}");
            KmsError::new(operation, ROLE_UNKNOWN, message, &Circumstance::default())
        })?;
        let grant = match access {
            Access::Unlisted => return Ok(None),
            Access::Own => None,
            Access::Role(grant) => Some(grant),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(key, (now, grant.clone()));
        Ok(grant)
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account that calls, which need not be the one the CMK is in.
    pub account: String,
    /// The session, where it is another than the process's own principal.
    pub principal: Option<String>,
}

impl Caller {
    /// A caller of whom the account alone is known.
    pub fn of_account(account: impl Into<String>) -> Self {
        Self {
            account: account.into(),
            principal: None,
        }
    }
}

/// Who calls, for each organization and CMK.
#[derive(Clone)]
pub enum Callers {
    /// Always the same.
    Always(Caller),
    /// The role's session where there is a role, else ourselves.
    ByRole {
        /// Ourselves.
        own: Caller,
        /// The roles.
        roles: Arc<RoleCache>,
    },
}

impl Callers {
    /// Who calls `cmk` for `org`. Ourselves if the roles cannot be read: the call
    /// itself then fails for that reason.
    pub async fn of(&self, org: &OrgId, cmk: &CmkArn) -> Caller {
        match self {
            Callers::Always(caller) => caller.clone(),
            Callers::ByRole { own, roles } => match roles.grant("", org, cmk).await {
                Ok(Some(grant)) => Caller {
                    account: grant.role.account().to_owned(),
                    principal: Some(grant.role.session_arn(&session_name(org))),
                },
                _ => own.clone(),
            },
        }
    }
}

/// Longest session name that the token service takes.
const SESSION_NAME: usize = 64;

/// The name of the sessions of an organization, `rekeyd-<org>`, so that the
/// customer's log says for whom we came. Two organizations never share one: `:`
/// is not allowed in session names and becomes `=`, which no organization has;
/// what is too long ends in `@` and a hash.
pub fn session_name(org: &OrgId) -> String {
    let name = format!("rekeyd-{}", org.as_str().replace(':', "="));
    if name.len() <= SESSION_NAME {
        return name;
    }
    let hash = hex::encode(Sha256::digest(org.as_str().as_bytes()));
    format!("{}@{}", &name[..SESSION_NAME - 17], &hash[..16])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::clock::{FakeClock, WallTime};

    fn org(text: &str) -> OrgId {
        OrgId::new(text).unwrap()
    }

    fn cmk() -> CmkArn {
        CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/a").unwrap()
    }

    #[test]
    fn session_names_carry_the_organization_and_are_never_shared() {
        assert_eq!(session_name(&org("acme")), "rekeyd-acme");
        assert_eq!(session_name(&org("a:b.c_d-e")), "rekeyd-a=b.c_d-e");
        let long = |last: char| org(&format!("{}{last}", "a:".repeat(31)));
        let names = [
            session_name(&org("a:b")),
            session_name(&org("a-b")),
            session_name(&long('x')),
            session_name(&long('y')),
            session_name(&org(&"a".repeat(57))),
            session_name(&org(&"a".repeat(58))),
        ];
        for (n, name) in names.iter().enumerate() {
            assert!((2..=64).contains(&name.len()), "{name}");
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
            assert!(name.bytes().all(fits), "{name}");
            assert!(!names[..n].contains(name), "{name} twice");
        }
    }

    struct Counted(AtomicU64, fn(u64) -> Result<Access, String>);

    #[async_trait::async_trait]
    impl Roles for Counted {
        async fn access(&self, _: &OrgId, _: &CmkArn) -> Result<Access, String> {
            (self.1)(self.0.fetch_add(1, Ordering::Relaxed))
        }
    }

    fn grant(external_id: &str) -> Grant {
        Grant {
            role: RoleArn::new("arn:aws:iam::999900001111:role/x/rekeyd").unwrap(),
            external_id: Some(ExternalId::new(external_id).unwrap()),
        }
    }

    #[tokio::test]
    async fn a_role_is_kept_for_the_status_time_and_what_is_missing_is_read_anew() {
        let clock = FakeClock::at(WallTime(0));
        let roles = Arc::new(Counted(AtomicU64::new(0), |n| match n {
            0 => Err("away".to_owned()),
            1 => Ok(Access::Unlisted),
            2 => Ok(Access::Role(grant("first"))),
            _ => Ok(Access::Role(grant("second"))),
        }));
        let cache = Arc::new(RoleCache::new(
            roles.clone(),
            Duration::from_secs(60),
            clock.clone(),
        ));
        let ask = async || cache.grant("Decrypt", &org("acme"), &cmk()).await;
        let error = ask().await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(ask().await.unwrap(), None);
        assert_eq!(ask().await.unwrap(), Some(grant("first")));
        clock.advance(Duration::from_secs(59));
        assert_eq!(ask().await.unwrap(), Some(grant("first")));
        assert_eq!(roles.0.load(Ordering::Relaxed), 3);
        clock.advance(Duration::from_secs(1));
        assert_eq!(ask().await.unwrap(), Some(grant("second")));

        let callers = Callers::ByRole {
            own: Caller::of_account("1"),
            roles: cache,
        };
        let caller = callers.of(&org("acme"), &cmk()).await;
        assert_eq!(caller.account, "999900001111");
        assert_eq!(
            caller.principal.as_deref(),
            Some("arn:aws:sts::999900001111:assumed-role/rekeyd/rekeyd-acme")
        );
    }
}
