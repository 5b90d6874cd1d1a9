//! A session on the cluster: nodes, login, TLS, home datacenter, timeouts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use scylla::client::Compression as Wire;
use scylla::client::execution_profile::{ExecutionProfile, ExecutionProfileHandle};
use scylla::client::session::{Session, TlsContext};
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::policies::speculative_execution::SimpleSpeculativeExecutionPolicy;
use scylla::statement::{Consistency, SerialConsistency};
use zeroize::Zeroizing;

use super::errors;
use super::schema::Replication;
use super::server::Server;
use crate::clock::SharedClock;
use crate::config::{Compression, StoreConfig, Switch};
use crate::store::{StoreError, StoreErrorClass, StoreResult};

/// The password of the database user. Wiped when dropped; not printed.
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password, without the line's end that a file may have.
    pub fn new(text: impl Into<String>) -> Self {
        let text = Zeroizing::new(text.into());
        Self(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        ))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// How often a silent connection is tried, and how long the answer may take: a
/// node that is gone without a word is noticed within their sum.
const KEEPALIVE: Duration = Duration::from_secs(3);

/// A cluster that is connected, whatever its tables are.
pub struct Cluster {
    pub(super) session: Session,
    pub(super) clock: SharedClock,
    pub(super) server: Server,
    pub(super) keyspace: String,
    /// The home datacenter.
    pub(super) datacenter: Option<String>,
    pub(super) request_timeout: Duration,
    pub(super) requests_in_flight: usize,
    pub(super) profiles: Profiles,
}

/// How requests are sent.
pub(super) struct Profiles {
    /// Writes, and everything conditional: sent once.
    pub once: ExecutionProfileHandle,
    /// Reads of data: may be sent to a second node as well.
    pub reads: ExecutionProfileHandle,
}

impl Cluster {
    /// The home datacenter, and how many nodes it has.
    pub fn size(&self) -> (String, usize) {
        let state = self.session.get_cluster_state();
        let of = |node: &scylla::cluster::Node| node.datacenter.clone();
        let home = self.datacenter.clone();
        let home = home.or_else(|| state.get_nodes_info().iter().find_map(|n| of(n)));
        let home = home.unwrap_or_else(|| "datacenter1".to_owned());
        let nodes = state.get_nodes_info().iter();
        let nodes = nodes
            .filter(|node| of(node).as_ref() == Some(&home))
            .count();
        (home, nodes)
    }

    /// Connects.
    ///
    /// # Errors
    /// `Fatal`, with what to do, for a configuration that cannot work; `Transient`
    /// if no node can be reached.
    pub async fn connect(
        config: &StoreConfig,
        password: Option<Password>,
        clock: SharedClock,
    ) -> StoreResult<Self> {
        let nodes: Vec<&str> = config.hosts().filter(|host| !host.is_empty()).collect();
        if nodes.is_empty() {
            return Err(fatal(
                "store.nodes is not set: name nodes of the cluster to begin with, `host` or `host:port`",
            ));
        }
        check_keyspace(&config.keyspace)?;
        let profiles = profiles(config, config.datacenter.as_deref());
        let mut builder = SessionBuilder::new()
            .known_nodes(&nodes)
            .connection_timeout(Duration::from_millis(config.connect_timeout_ms))
            .compression(match config.compression {
                Compression::None => None,
                Compression::Lz4 => Some(Wire::Lz4),
                Compression::Snappy => Some(Wire::Snappy),
            })
            .keepalive_interval(KEEPALIVE)
            .keepalive_timeout(KEEPALIVE)
            .default_execution_profile_handle(profiles.once.clone());
        if let Some(user) = &config.user {
            let password = match (password, &config.password_file) {
                (Some(password), _) => password,
                (None, Some(path)) => read_password(path)?,
                (None, None) => {
                    return Err(fatal(format!(
                        "store.user is `{user}` and there is no password: set REKEYD_STORE_PASSWORD or store.password_file"
                    )));
                }
            };
            builder = builder.user(user, password.0.as_str());
        }
        if config.tls == Switch::On {
            builder = builder.tls_context(Some(TlsContext::Rustls023(Arc::new(tls(config)?))));
        }
        let session = builder
            .build()
            .await
            .map_err(|e| errors::of_connect(e, &nodes.join(", ")))?;
        let datacenter = home(&session, config.datacenter.as_deref())?;
        let server = Server::ask(&session).await?;
        Ok(Self {
            server,
            keyspace: config.keyspace.clone(),
            datacenter,
            request_timeout: Duration::from_millis(config.request_timeout_ms),
            requests_in_flight: config.requests_in_flight,
            profiles,
            session,
            clock,
        })
    }

    /// So many copies in the one datacenter there is.
    ///
    /// # Errors
    /// `Fatal` if there are several.
    pub fn in_one_datacenter(&self, copies: u32) -> StoreResult<Replication> {
        let mut all = self.datacenters().into_iter();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(Replication::of(&only, copies)),
            _ => Err(fatal(
                "--replication-factor is for one datacenter; say with --replication how many copies each has",
            )),
        }
    }

    /// Which server it is.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The datacenters that there are, in order.
    pub(super) fn datacenters(&self) -> BTreeSet<String> {
        datacenters(&self.session)
    }

    /// Nodes without a connection, by address and datacenter. The driver tries
    /// each again at least every 10 s, and at once when another node says that
    /// it is back.
    pub(super) fn away(&self) -> Vec<String> {
        let mut away: Vec<String> = self
            .session
            .get_cluster_state()
            .get_nodes_info()
            .iter()
            .filter(|node| !node.is_connected())
            .map(|node| match &node.datacenter {
                Some(datacenter) => format!("{} ({datacenter})", node.address),
                None => node.address.to_string(),
            })
            .collect();
        away.sort();
        away
    }
}

fn fatal(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorClass::Fatal, message)
}

/// The name is put into statements: it may hold nothing that ends a name.
fn check_keyspace(name: &str) -> StoreResult<()> {
    let good = (1..=48).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if good {
        return Ok(());
    }
    Err(fatal(format!(
        "store.keyspace `{name}` is not valid: 1 to 48 characters, a lower-case letter first, then lower-case letters, digits and `_`"
    )))
}

fn datacenters(session: &Session) -> BTreeSet<String> {
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info();
    nodes.iter().filter_map(|n| n.datacenter.clone()).collect()
}

/// The home datacenter. With several it must be said: `LOCAL_QUORUM` of whatever
/// datacenter a request happens to reach would be no quorum at all.
fn home(session: &Session, configured: Option<&str>) -> StoreResult<Option<String>> {
    let all = datacenters(session);
    let listed = all.iter().cloned().collect::<Vec<_>>().join(", ");
    match configured {
        Some(name) if all.contains(name) => Ok(Some(name.to_owned())),
        Some(name) => Err(fatal(format!(
            "store.datacenter is `{name}`, and the cluster has: {listed}"
        ))),
        None if all.len() > 1 => Err(fatal(format!(
            "the cluster has several datacenters ({listed}): set store.datacenter to the home datacenter, the same for all workers"
        ))),
        None => Ok(all.into_iter().next()),
    }
}

fn profiles(config: &StoreConfig, datacenter: Option<&str>) -> Profiles {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(name) = datacenter {
        policy = policy
            .prefer_datacenter(name.to_owned())
            .permit_dc_failover(false);
    }
    let base = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(Duration::from_millis(config.request_timeout_ms)))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .load_balancing_policy(policy.build())
        .speculative_execution_policy(None);
    let once = base.build();
    let mut reads = once.to_builder();
    if config.speculative_ms > 0 {
        reads =
            reads.speculative_execution_policy(Some(Arc::new(SimpleSpeculativeExecutionPolicy {
                max_retry_count: 1,
                retry_interval: Duration::from_millis(config.speculative_ms),
            })));
    }
    Profiles {
        reads: reads.build().into_handle(),
        once: once.into_handle(),
    }
}

fn read_password(path: &Path) -> StoreResult<Password> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        fatal(format!(
            "cannot read store.password_file `{}`: {e}",
            path.display()
        ))
    })?;
    Ok(Password::new(text))
}

/// Where systems keep the certificates they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// TLS as configured, on aws-lc. The driver checks a node's certificate against
/// its address, so it must name that.
fn tls(config: &StoreConfig) -> StoreResult<ClientConfig> {
    let path = match &config.tls_ca {
        Some(path) => path.clone(),
        None => SYSTEM_CERTIFICATES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .ok_or_else(|| {
                fatal("this system has no list of certificates: name one with store.tls_ca")
            })?,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(&path)?);
    if added == 0 {
        return Err(fatal(format!("`{}` holds no certificate", path.display())));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fatal(format!("TLS: {e}")))?
        .with_root_certificates(roots);
    match (&config.tls_cert, &config.tls_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| fatal(format!("store.tls_key `{}`: {e}", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                fatal(format!(
                    "store.tls_cert and store.tls_key do not go together: {e}"
                ))
            })
        }
        _ => Err(fatal(
            "store.tls_cert and store.tls_key must be set together",
        )),
    }
}

fn certificates(path: &Path) -> StoreResult<Vec<CertificateDer<'static>>> {
    let failed = |e| fatal(format!("certificates in `{}`: {e}", path.display()));
    CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_is_a_plain_name() {
        for good in ["rekeyd", "a", "r2_d2"] {
            assert!(check_keyspace(good).is_ok(), "{good}");
        }
        let long = "a".repeat(49);
        for bad in ["", "2a", "_a", "Rekeyd", "a-b", "a\"b", "a;drop", &long] {
            assert!(check_keyspace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_printed_and_loses_its_line_end() {
        let password = Password::new("hunter2\n");
        assert_eq!(*password.0, "hunter2");
        assert_eq!(format!("{password:?}"), "Password");
    }
}
