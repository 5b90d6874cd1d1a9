//! AWS KMS. docs/kms-aws.md describes it for operators.
//!
//! Each call is one attempt, in the Region of the CMK's ARN, as ourselves or as
//! the role that the registry has for the organization and the CMK.
//!
//! | file | what |
//! |---|---|
//! | `answers` | what an answer must be before it is believed |
//! | `failure` | the client's errors, turned into codes and classes |
//! | `sessions` | credentials: our own, and one session per organization and role |

mod answers;
mod failure;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::{Builder, IdentityCache, Region};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;

use self::sessions::{Ready, Sessions};
use super::caller::{Caller, RoleCache};
use super::codes::{
    Cause, Circumstance, DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT,
    Side, side_named,
};
use super::{Answered, CmkDescription, Dek, GeneratedKey, KmsError, Wrapped};
use crate::audit::AuditLog;
use crate::aws::{TimeLimits, sdk_config};
use crate::clock::{SharedClock, WallTime};
use crate::ids::{CmkArn, OrgId};
use crate::scope::Scope;
use crate::telemetry::logs::LogError;

/// Where AWS is and how long it may take. `Default` is AWS itself.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// Where KMS is, if not at AWS.
    pub kms_endpoint: Option<String>,
    /// Where STS is, if not at AWS.
    pub sts_endpoint: Option<String>,
    /// The Region that is asked who we are; from the environment if not given.
    /// CMKs are called in their own.
    pub region: Option<String>,
    /// Our own credentials; the default chain if not given.
    pub credentials: Option<SharedCredentialsProvider>,
    /// How long a call may take.
    pub limits: TimeLimits,
}

impl Default for AwsSettings {
    fn default() -> Self {
        Self {
            kms_endpoint: None,
            sts_endpoint: None,
            region: None,
            credentials: None,
            limits: TimeLimits::PROMPT,
        }
    }
}

/// AWS KMS.
pub struct AwsKms {
    config: Builder,
    /// One for each Region. They share connections, never credentials: those
    /// are given with each call.
    clients: Mutex<HashMap<String, Client>>,
    sessions: Sessions,
    roles: Arc<RoleCache>,
    /// When CMKs were created, as far as they were described: a young one may
    /// not be known everywhere yet.
    created: Mutex<HashMap<CmkArn, WallTime>>,
    clock: SharedClock,
}

impl AwsKms {
    /// A client of AWS KMS. Calls nothing. Sessions that are begun are recorded
    /// in `audit`, if given.
    ///
    /// # Errors
    /// If the environment asks the SDK to log bodies, data keys among them.
    pub async fn new(
        settings: &AwsSettings,
        roles: Arc<RoleCache>,
        audit: Option<AuditLog>,
        clock: SharedClock,
    ) -> Result<Self, LogError> {
        let shared = sdk_config(settings.region.as_deref(), None, settings.limits).await?;
        let mut config = Builder::from(&shared);
        if let Some(endpoint) = &settings.kms_endpoint {
            config = config.endpoint_url(endpoint);
        }
        let own = settings
            .credentials
            .clone()
            .or_else(|| shared.credentials_provider());
        let mut sts = aws_sdk_sts::config::Builder::from(&shared);
        if let Some(endpoint) = &settings.sts_endpoint {
            sts = sts.endpoint_url(endpoint);
        }
        let region = shared.region().map(|region| region.as_ref().to_owned());
        Ok(Self {
            config,
            clients: Mutex::default(),
            sessions: Sessions::new(own, sts, region, audit, clock.clone()),
            roles,
            created: Mutex::default(),
            clock,
        })
    }

    /// Who we are, as STS says.
    ///
    /// # Errors
    /// As any call: transient, or fatal where our credentials are not good.
    pub async fn whoami(&self) -> Result<Caller, KmsError> {
        self.sessions.whoami().await
    }

    fn client(&self, region: &str) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(region.to_owned()).or_insert_with(|| {
            let config = self.config.clone().region(Region::new(region.to_owned()));
            Client::from_conf(config.build())
        });
        client.clone()
    }

    /// Credentials for calls of `org` to `cmk`.
    async fn ready(
        &self,
        operation: &'static str,
        org: &OrgId,
        cmk: &CmkArn,
    ) -> Result<Ready, KmsError> {
        let grant = self.roles.grant(operation, org, cmk).await?;
        match grant {
            None => self.sessions.own(operation).await,
            Some(grant) => self.sessions.of_role(org, &grant, cmk.region()).await,
        }
    }

    /// What is known around a call that failed: of which side its CMK is, and how
    /// old that CMK is.
    fn around(&self, cmk: &CmkArn, side: Option<Side>) -> Circumstance {
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.wall();
        Circumstance {
            side,
            cmk_age: created.get(cmk).map(|at| now.since(*at)),
            http_status: None,
        }
    }

    /// Turns what came of a call into an answer or an error with its class.
    /// `around` is asked with the error's text where that may tell more.
    fn settled<T: RequestId, E: ProvideErrorMetadata>(
        &self,
        operation: &'static str,
        ready: &Ready,
        outcome: Result<T, SdkError<E>>,
        around: impl FnOnce(&str) -> Circumstance,
    ) -> Result<(T, Option<String>), KmsError> {
        match outcome {
            Ok(answer) => {
                let request_id = answer.request_id().map(str::to_owned);
                Ok((answer, request_id))
            }
            Err(error) => {
                let failure = failure::read(&error);
                let around = around(&failure.message);
                let error = ready.redacted(failure.classified(operation, around));
                if error.cause() == Cause::Credentials {
                    // Our caller tries once more, with fresh ones.
                    ready.forget();
                }
                Err(error)
            }
        }
    }
}

#[async_trait::async_trait]
impl super::KmsBackend for AwsKms {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<GeneratedKey>, KmsError> {
        let ready = self.ready(GENERATE_DATA_KEY, scope.org(), cmk).await?;
        let outcome = self
            .client(cmk.region())
            .generate_data_key()
            .key_id(cmk.as_str())
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(scope.context().into_iter().collect()))
            .customize()
            .config_override(identity(&ready))
            .send()
            .await;
        let (answer, request_id) = self.settled(GENERATE_DATA_KEY, &ready, outcome, |_| {
            self.around(cmk, Some(Side::Target))
        })?;
        answers::generated(cmk, answer, request_id)
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
    ) -> Result<Answered<Dek>, KmsError> {
        let ready = self.ready(DECRYPT, scope.org(), cmk).await?;
        let outcome = self
            .client(cmk.region())
            .decrypt()
            .key_id(cmk.as_str())
            .ciphertext_blob(Blob::new(wrapped))
            .set_encryption_context(Some(scope.context().into_iter().collect()))
            .customize()
            .config_override(identity(&ready))
            .send()
            .await;
        let (answer, request_id) = self.settled(DECRYPT, &ready, outcome, |_| {
            self.around(cmk, Some(Side::Source))
        })?;
        answers::decrypted(cmk, answer, request_id)
    }

    /// One principal makes this call and needs leave on both CMKs. Where each
    /// has a role, it is that of the target.
    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
    ) -> Result<Answered<Wrapped>, KmsError> {
        let ready = self.ready(RE_ENCRYPT, scope.org(), to).await?;
        let context: HashMap<String, String> = scope.context().into_iter().collect();
        let outcome = self
            .client(to.region())
            .re_encrypt()
            .source_key_id(from.as_str())
            .destination_key_id(to.as_str())
            .ciphertext_blob(Blob::new(wrapped))
            .set_source_encryption_context(Some(context.clone()))
            .set_destination_encryption_context(Some(context))
            .customize()
            .config_override(identity(&ready))
            .send()
            .await;
        let (answer, request_id) = self.settled(RE_ENCRYPT, &ready, outcome, |message| {
            match side_named(message, from, to) {
                Some(Side::Target) => self.around(to, Some(Side::Target)),
                side => self.around(from, side),
            }
        })?;
        answers::re_encrypted(from, to, answer, request_id)
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
    ) -> Result<Answered<CmkDescription>, KmsError> {
        let ready = self.ready(DESCRIBE_KEY, org, cmk).await?;
        let outcome = self
            .client(cmk.region())
            .describe_key()
            .key_id(cmk.as_str())
            .customize()
            .config_override(identity(&ready))
            .send()
            .await;
        let (answer, request_id) =
            self.settled(DESCRIBE_KEY, &ready, outcome, |_| self.around(cmk, None))?;
        let (described, created) = answers::described(cmk, answer, request_id)?;
        if let Some(created) = created {
            let mut known = self.created.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(cmk.clone(), created);
        }
        Ok(described)
    }

    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId) -> Result<Answered<String>, KmsError> {
        let ready = self.ready(GET_KEY_POLICY, org, cmk).await?;
        let outcome = self
            .client(cmk.region())
            .get_key_policy()
            .key_id(cmk.as_str())
            .customize()
            .config_override(identity(&ready))
            .send()
            .await;
        let (answer, request_id) =
            self.settled(GET_KEY_POLICY, &ready, outcome, |_| self.around(cmk, None))?;
        answers::policy(answer, request_id)
    }
}

/// The credentials of one call, for that call only.
fn identity(ready: &Ready) -> Builder {
    Builder::new()
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(ready.credentials.clone())
}
