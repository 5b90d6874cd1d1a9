//! What the demo works on: a data directory with an organization in it, and the
//! application's side of it.

use std::path::Path;
use std::sync::Arc;

use super::DemoError;
use super::parts::{self, Made, Owner, Parts};
use crate::audit::AuditLog;
use crate::client::{Client, InProcessKeys};
use crate::clock::{SharedClock, SystemClock};
use crate::config::Config;
use crate::ids::{CmkArn, OrgId, WorkspaceId};
use crate::job::JobBook;
use crate::kms::local::{NewKey, RingAdmin};
use crate::kms::{ReasonCode, SharedKms, Use};
use crate::queue::SharedQueue;
use crate::registry::{Registry, Timing};
use crate::scope::Scope;
use crate::store::SharedStore;
use crate::wiring;

/// Who the KMS's call log names for each part that the demo plays.
pub const OPERATOR: &str = "operator";
/// The loader of the first messages.
pub const IMPORTER: &str = "importer";
/// The application, with its live traffic.
pub const APP: &str = "app";
/// The workers, by their configuration.
pub const WORKER: &str = "rekeyd-worker";

/// An organization `acme` under one CMK, with a second one allowed.
pub struct Scene {
    /// The configuration that the workers read, too.
    pub config: Config,
    /// Its file, and what was started for the demo.
    pub made: Made,
    /// The time.
    pub clock: SharedClock,
    /// The waits of the store.
    pub timing: Timing,
    /// The store.
    pub store: SharedStore,
    /// The queue.
    pub queue: SharedQueue,
    /// The registry.
    pub registry: Registry,
    /// The jobs.
    pub book: JobBook,
    /// The key ring, as its administrator sees it.
    pub ring: RingAdmin,
    /// The organization.
    pub org: OrgId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The CMK that everything is under at first.
    pub old: CmkArn,
    /// The one that it is to be under.
    pub new: CmkArn,
}

/// A part that calls the KMS: its KMS and its audit stream.
pub struct Part {
    /// The KMS, called by the part's name.
    pub kms: SharedKms,
    /// Where its uses of keys are recorded.
    pub audit: AuditLog,
}

impl Scene {
    /// Makes everything on these parts, with its files in `dir`.
    ///
    /// # Errors
    /// If a part cannot be made.
    pub async fn make(owner: &Owner, parts: &Parts, dir: &Path) -> Result<Self, DemoError> {
        let clock = SystemClock::shared();
        let made = parts::make(owner, parts, dir, &clock).await?;
        let config = made.config.clone();
        let timing = made.timing;
        let store = wiring::store(&config, &clock).await?;
        let queue = wiring::queue(&config, &clock).await?;
        let ring = RingAdmin::open(&config.kms.ring)?;
        let unlock = wiring::unlock(&config);
        let old = ring.create_key(&unlock, &NewKey::default())?;
        let new = ring.create_key(&unlock, &NewKey::default())?;
        let scene = Self {
            made,
            timing,
            registry: Registry::new(store.clone(), clock.clone()),
            book: JobBook::new(store.clone(), clock.clone()),
            // Fixed names that fit the grammar of ids.
            org: OrgId::new("acme")?,
            workspace: WorkspaceId::new("main")?,
            config,
            clock,
            store,
            queue,
            ring,
            old,
            new,
        };
        scene.enrol().await?;
        Ok(scene)
    }

    /// Enters the organization and its CMKs, each with a canary that the worker
    /// will try before a job changes anything.
    async fn enrol(&self) -> Result<(), DemoError> {
        let operator = self.part(OPERATOR).await?;
        let old = self.canary(&operator, &self.old).await?;
        self.registry
            .add_org(&self.org, &self.old, &old, OPERATOR)
            .await?;
        self.allow(&operator, &self.new).await?;
        operator.audit.close().await?;
        Ok(())
    }

    /// Enters a CMK as one that jobs may lead to, for the first time or again.
    ///
    /// # Errors
    /// If the KMS or the registry refuses.
    pub async fn allow(&self, operator: &Part, cmk: &CmkArn) -> Result<(), DemoError> {
        let canary = self.canary(operator, cmk).await?;
        self.registry
            .allow_cmk(&self.org, cmk, &canary, OPERATOR)
            .await?;
        Ok(())
    }

    async fn canary(&self, operator: &Part, cmk: &CmkArn) -> Result<Vec<u8>, DemoError> {
        let scope = Scope::Canary {
            org: self.org.clone(),
        };
        let why = Use::new(ReasonCode::Enrol, "demo");
        let made = operator.kms.generate_data_key(cmk, &scope, &why).await?;
        Ok(made.wrapped.bytes)
    }

    /// Starts a part under a name of its own.
    ///
    /// # Errors
    /// If its audit stream or the key ring cannot be opened.
    pub async fn part(&self, caller: &str) -> Result<Part, DemoError> {
        let mut config = self.config.clone();
        caller.clone_into(&mut config.kms.caller);
        if config.aws.profile.is_some() {
            config.aws.profile = Some(caller.to_owned());
        }
        let service = format!("rekeyd demo {caller}");
        let audit = wiring::audit(&config, &service, None, &self.clock)?;
        let (kms, _) = wiring::kms(&config, caller, &audit, &self.clock).await?;
        Ok(Part { kms, audit })
    }

    /// A client of its own: no cached key and no cached view.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn client(&self, part: &Part) -> Result<Client, DemoError> {
        let keys = InProcessKeys::builder(
            self.store.clone(),
            part.kms.clone(),
            wiring::provider(&self.config),
            part.audit.clone(),
            self.clock.clone(),
        );
        let keys = keys.build().await.map_err(DemoError::Client)?;
        let client = Client::builder(self.store.clone(), Arc::new(keys)).clock(self.clock.clone());
        Ok(client.build().await?)
    }
}
