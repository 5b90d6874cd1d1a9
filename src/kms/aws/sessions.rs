//! Credentials: our own, and one session for each organization, role, external
//! id and Region. Two organizations never share a session, even where they name
//! the same role: the external id that opened it is one customer's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_kms::config::Credentials;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::{Builder, IdentityCache, Region};
use aws_sdk_sts::operation::RequestId;

use super::failure;
use crate::audit::{AuditLog, Record, RecordType};
use crate::clock::{SharedClock, WallTime};
use crate::ids::{ExternalId, OrgId, RoleArn};
use crate::kms::KmsError;
use crate::kms::caller::{Caller, Grant, session_name};
use crate::kms::codes::{
    ASSUME_ROLE, CREDENTIALS_PROVIDER_ERROR, CREDENTIALS_PROVIDER_TIMEOUT, Cause, Circumstance,
    RESPONSE_MISMATCH,
};

/// `GetCallerIdentity` of the token service.
const GET_CALLER_IDENTITY: &str = "GetCallerIdentity";

/// Credentials are fetched anew when so little of their life is left.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// Longest wait for our own credentials.
const OWN_WITHIN: Duration = Duration::from_secs(5);

/// Whose session it is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SessionKey {
    org: OrgId,
    role: RoleArn,
    external_id: Option<ExternalId>,
    region: String,
}

/// Credentials that are held until they are about to expire or were refused.
#[derive(Default)]
struct Session {
    /// Held while they are fetched, so that callers at one moment fetch once.
    fetching: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    /// Rises with each fetch: a refusal of older credentials must not drop newer.
    generation: u64,
}

impl Session {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credentials, if they are good for a while yet.
    fn good(&self, now: WallTime) -> Option<(Credentials, u64)> {
        let held = self.held();
        let credentials = held.credentials.clone()?;
        let lasts = |credentials: &Credentials| {
            let expiry = credentials.expiry()?.duration_since(UNIX_EPOCH).ok()?;
            Some(expiry.saturating_sub(Duration::from_millis(now.unix_ms())))
        };
        match lasts(&credentials) {
            Some(left) if left < FRESH => None,
            _ => Some((credentials, held.generation)),
        }
    }

    /// Takes new credentials. Those that are short-lived from the start are used
    /// for the call they were fetched for, and fetched anew for the next.
    fn put(&self, credentials: Credentials) -> (Credentials, u64) {
        let mut held = self.held();
        held.generation += 1;
        held.credentials = Some(credentials.clone());
        (credentials, held.generation)
    }

    fn forget(&self, generation: u64) {
        let mut held = self.held();
        if held.generation == generation {
            held.credentials = None;
        }
    }
}

/// Credentials for one call.
pub(super) struct Ready {
    pub credentials: Credentials,
    session: Arc<Session>,
    generation: u64,
    external_id: Option<ExternalId>,
}

impl Ready {
    /// They were refused as expired: the next call fetches new ones.
    pub fn forget(&self) {
        self.session.forget(self.generation);
    }

    /// The error without the external id, should the other side have repeated it.
    pub fn redacted(&self, error: KmsError) -> KmsError {
        redacted(error, self.external_id.as_ref())
    }
}

fn redacted(mut error: KmsError, external_id: Option<&ExternalId>) -> KmsError {
    if let Some(id) = external_id {
        error.message = error.message.replace(id.expose(), "(external id)");
        error.code = error.code.replace(id.expose(), "(external id)");
    }
    error
}

pub(super) struct Sessions {
    provider: Option<SharedCredentialsProvider>,
    own: Arc<Session>,
    config: Builder,
    region: Option<String>,
    clients: Mutex<HashMap<String, Client>>,
    assumed: Mutex<HashMap<SessionKey, Arc<Session>>>,
    audit: Option<AuditLog>,
    clock: SharedClock,
}

impl Sessions {
    pub fn new(
        provider: Option<SharedCredentialsProvider>,
        config: Builder,
        region: Option<String>,
        audit: Option<AuditLog>,
        clock: SharedClock,
    ) -> Self {
        Self {
            provider,
            own: Arc::default(),
            config,
            region,
            clients: Mutex::default(),
            assumed: Mutex::default(),
            audit,
            clock,
        }
    }

    /// Our own credentials.
    pub async fn own(&self, operation: &'static str) -> Result<Ready, KmsError> {
        let session = &self.own;
        let ready = |(credentials, generation)| Ready {
            credentials,
            session: session.clone(),
            generation,
            external_id: None,
        };
        if let Some(good) = session.good(self.clock.wall()) {
            return Ok(ready(good));
        }
        let _one_fetches = session.fetching.lock().await;
        if let Some(good) = session.good(self.clock.wall()) {
            return Ok(ready(good));
        }
        let failed = |code: &str, message: &str| {
            KmsError::new(operation, code, message, &Circumstance::default())
        };
        let Some(provider) = &self.provider else {
            return Err(failed(
                CREDENTIALS_PROVIDER_ERROR,
                "this process has no credentials of AWS",
            ));
        };
        // What a provider says may hold what it read: only its kind is told.
        match tokio::time::timeout(OWN_WITHIN, provider.provide_credentials()).await {
            Ok(Ok(credentials)) => Ok(ready(session.put(credentials))),
            Err(_) | Ok(Err(CredentialsError::ProviderTimedOut(_))) => Err(failed(
                CREDENTIALS_PROVIDER_TIMEOUT,
                "our own credentials did not come in time",
            )),
            Ok(Err(CredentialsError::CredentialsNotLoaded(_))) => Err(failed(
                CREDENTIALS_PROVIDER_ERROR,
                "no credentials of AWS were found in the environment, the profile or the machine",
            )),
            Ok(Err(_)) => Err(failed(
                CREDENTIALS_PROVIDER_ERROR,
                "our own credentials could not be loaded",
            )),
        }
    }

    /// The session of an organization in a role.
    pub async fn of_role(
        &self,
        org: &OrgId,
        grant: &Grant,
        region: &str,
    ) -> Result<Ready, KmsError> {
        let key = SessionKey {
            org: org.clone(),
            role: grant.role.clone(),
            external_id: grant.external_id.clone(),
            region: region.to_owned(),
        };
        let session = {
            let mut assumed = self.assumed.lock().unwrap_or_else(PoisonError::into_inner);
            assumed.entry(key).or_default().clone()
        };
        let ready = |(credentials, generation)| Ready {
            credentials,
            session: session.clone(),
            generation,
            external_id: grant.external_id.clone(),
        };
        if let Some(good) = session.good(self.clock.wall()) {
            return Ok(ready(good));
        }
        let _one_fetches = session.fetching.lock().await;
        if let Some(good) = session.good(self.clock.wall()) {
            return Ok(ready(good));
        }
        let credentials = self.assume(org, grant, region).await?;
        Ok(ready(session.put(credentials)))
    }

    fn client(&self, region: &str) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(region.to_owned()).or_insert_with(|| {
            let config = self.config.clone().region(Region::new(region.to_owned()));
            Client::from_conf(config.build())
        });
        client.clone()
    }

    async fn assume(
        &self,
        org: &OrgId,
        grant: &Grant,
        region: &str,
    ) -> Result<Credentials, KmsError> {
        let own = self.own(ASSUME_ROLE).await?;
        let session = session_name(org);
        let external_id = grant.external_id.as_ref();
        let outcome = self
            .client(region)
            .assume_role()
            .role_arn(grant.role.as_str())
            .role_session_name(&session)
            .set_external_id(external_id.map(|id| id.expose().to_owned()))
            .customize()
            .config_override(identity(&own))
            .send()
            .await;
        let answer = outcome.map_err(|error| {
            let error = failure::read(&error).classified(ASSUME_ROLE, Circumstance::default());
            if error.cause() == Cause::Credentials {
                own.forget();
            }
            redacted(error, external_id)
        })?;
        let request_id = answer.request_id().map(str::to_owned);
        let given = answer.credentials.ok_or_else(|| {
            let what = "the token service answered without credentials";
            KmsError::new(
                ASSUME_ROLE,
                RESPONSE_MISMATCH,
                what,
                &Circumstance::default(),
            )
        })?;
        self.record(org, grant, region, &session, request_id);
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            given.expiration.try_into().ok(),
            "rekeyd AssumeRole",
        ))
    }

    /// That a session was begun; one that was refused is in the record of the
    /// call that needed it.
    fn record(
        &self,
        org: &OrgId,
        grant: &Grant,
        region: &str,
        session: &str,
        request_id: Option<String>,
    ) {
        if let Some(audit) = &self.audit {
            let mut record = Record::new(RecordType::Kms, ASSUME_ROLE);
            record.org = Some(org.clone());
            record.region = Some(region.to_owned());
            record.caller_account = Some(grant.role.account().to_owned());
            record.principal = Some(grant.role.session_arn(session));
            record.kms_request_id = request_id;
            audit.record(record);
        }
    }

    /// Who we are, as the token service says.
    pub async fn whoami(&self) -> Result<Caller, KmsError> {
        let failed = |code: &str, message: &str| {
            KmsError::new(GET_CALLER_IDENTITY, code, message, &Circumstance::default())
        };
        let Some(region) = &self.region else {
            return Err(failed(
                "NoRegion",
                "no Region of AWS is set; set AWS_REGION",
            ));
        };
        let own = self.own(GET_CALLER_IDENTITY).await?;
        let outcome = self
            .client(region)
            .get_caller_identity()
            .customize()
            .config_override(identity(&own))
            .send()
            .await;
        let answer = outcome.map_err(|error| {
            let error =
                failure::read(&error).classified(GET_CALLER_IDENTITY, Circumstance::default());
            if error.cause() == Cause::Credentials {
                own.forget();
            }
            error
        })?;
        match answer.account {
            Some(account) => Ok(Caller {
                account,
                principal: answer.arn,
            }),
            None => Err(failed(
                RESPONSE_MISMATCH,
                "the token service did not say which account we are of",
            )),
        }
    }
}

/// Our credentials, for one call.
fn identity(own: &Ready) -> Builder {
    Builder::new()
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(own.credentials.clone())
}
