//! What every client of AWS is set up with: TLS by rustls on aws-lc, the
//! default chain of credentials, time limits, and one attempt a call. Retries
//! are ours (`retry`), so that budgets and audit records see every attempt.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

pub use aws_config::SdkConfig;

use crate::telemetry::logs::{LogError, check_body_tracing};

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// Until there is a connection.
    pub connect: Duration,
    /// One attempt: credentials, connection, request, answer.
    pub attempt: Duration,
    /// The whole call.
    pub call: Duration,
}

impl TimeLimits {
    /// For calls that are answered at once: 1 s, 3 s, 10 s.
    pub const PROMPT: TimeLimits = TimeLimits {
        connect: Duration::from_secs(1),
        attempt: Duration::from_secs(3),
        call: Duration::from_secs(10),
    };

    /// The same for a call that the server holds back for up to `wait`.
    #[must_use]
    pub fn and_waiting(self, wait: Duration) -> Self {
        Self {
            connect: self.connect,
            attempt: self.attempt + wait,
            call: self.call + wait,
        }
    }
}

impl From<TimeLimits> for TimeoutConfig {
    fn from(limits: TimeLimits) -> Self {
        TimeoutConfig::builder()
            .connect_timeout(limits.connect)
            .operation_attempt_timeout(limits.attempt)
            .operation_timeout(limits.call)
            .build()
    }
}

/// Where credentials come from. Default: the chain that every tool of AWS goes
/// through (environment, profile, web identity, container, machine).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// This profile, and nothing else.
    pub profile: Option<String>,
    /// The file that the profile is in; the usual ones if `None`.
    pub file: Option<PathBuf>,
}

impl Credentials {
    /// What gives them, if not the usual chain.
    pub fn provider(&self) -> Option<SharedCredentialsProvider> {
        let profile = self.profile.as_ref()?;
        // A profile may lead to a role or to a machine's own: calls to STS, SSO
        // or the machine's metadata. This crate has no client by default.
        let region = ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
            .map(Region::new);
        let calls = ProviderConfig::without_region()
            .with_region(region)
            .with_http_client(http_client());
        let mut builder = ProfileFileCredentialsProvider::builder()
            .configure(&calls)
            .profile_name(profile);
        if let Some(file) = &self.file {
            let files = EnvConfigFiles::builder()
                .include_default_config_file(true)
                .with_file(EnvConfigFileKind::Credentials, file)
                .build();
            builder = builder.profile_files(files);
        }
        Some(SharedCredentialsProvider::new(builder.build()))
    }
}

/// TLS by rustls on aws-lc.
fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https()
}

/// The set-up of a client. `region` from the environment, the profile or the
/// machine if not given (`SdkConfig::region` is `None` if nowhere); `endpoint`
/// is where the service is, if not at AWS.
///
/// Credentials are looked for at the first call, not here, and are kept until
/// shortly before they expire.
///
/// # Errors
/// If the environment asks the SDK to log bodies, data keys among them.
pub async fn sdk_config(
    region: Option<&str>,
    endpoint: Option<&str>,
    limits: TimeLimits,
) -> Result<SdkConfig, LogError> {
    sdk_config_as(&Credentials::default(), region, endpoint, limits).await
}

/// As [`sdk_config`], with credentials from where one says.
///
/// # Errors
/// As there.
pub async fn sdk_config_as(
    credentials: &Credentials,
    region: Option<&str>,
    endpoint: Option<&str>,
    limits: TimeLimits,
) -> Result<SdkConfig, LogError> {
    check_body_tracing()?;
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(limits.into())
        // The limits above bound every call. This would end a long poll.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    if let Some(provider) = credentials.provider() {
        loader = loader.credentials_provider(provider);
    }
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    Ok(loader.load().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_tries_once_and_within_its_limits() {
        let limits = TimeLimits::PROMPT.and_waiting(Duration::from_secs(20));
        let usual = Credentials::default();
        let config = sdk_config_as(
            &usual,
            Some("eu-west-1"),
            Some("http://127.0.0.1:1"),
            limits,
        )
        .await
        .unwrap();
        assert_eq!(config.retry_config().unwrap().max_attempts(), 1);
        let timeouts = config.timeout_config().unwrap();
        assert_eq!(timeouts.connect_timeout(), Some(Duration::from_secs(1)));
        assert_eq!(
            timeouts.operation_attempt_timeout(),
            Some(Duration::from_secs(23))
        );
        assert_eq!(timeouts.operation_timeout(), Some(Duration::from_secs(30)));
        assert_eq!(config.region().unwrap().as_ref(), "eu-west-1");
        assert_eq!(config.endpoint_url(), Some("http://127.0.0.1:1"));
    }

    #[tokio::test]
    async fn a_profile_is_taken_from_its_file_and_from_nowhere_else() {
        use aws_credential_types::provider::ProvideCredentials;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials");
        let text = "[one]\naws_access_key_id = A1\naws_secret_access_key = s1\n\
                    [two]\naws_access_key_id = A2\naws_secret_access_key = s2\n";
        std::fs::write(&file, text).unwrap();
        let of = async |profile: &str| {
            let credentials = Credentials {
                profile: Some(profile.to_owned()),
                file: Some(file.clone()),
            };
            let region = Some("eu-west-1");
            let config = sdk_config_as(&credentials, region, None, TimeLimits::PROMPT).await;
            let provider = config.unwrap().credentials_provider().unwrap();
            let found = provider.provide_credentials().await;
            found.map(|c| c.access_key_id().to_owned())
        };
        assert_eq!(of("one").await.unwrap(), "A1");
        assert_eq!(of("two").await.unwrap(), "A2");
        assert!(of("three").await.is_err());
    }
}
