//! What an operator sets for one process: defaults, under a file, under the
//! environment, under flags. docs/configuration.md lists every setting.
//!
//! What several processes must agree on (the waits of leases, settling and
//! draining) is not here: it stands once in the store, in its `timing` row.
//!
//! | file | what |
//! |---|---|
//! | `schema` | every setting: name, allowed values, default, unit, meaning |
//! | `layers` | reads the four layers and says where each value came from |
//! | `error` | what is wrong, where, and what is allowed there |

mod error;
mod layers;
mod schema;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use error::{ConfigError, Problem, Source};
pub use schema::{ENV_PREFIX, KEYS, Key, Kind, OTHER_VARIABLES, Value, markdown_table};

use layers::{Layers, Settings};

/// The configuration of one process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where everything is that has no path of its own.
    pub data_dir: PathBuf,
    /// The store.
    pub store: StoreConfig,
    /// The queue.
    pub queue: QueueConfig,
    /// The KMS.
    pub kms: KmsConfig,
    /// Credentials for SQS and KMS.
    #[serde(default)]
    pub aws: AwsConfig,
    /// The audit log.
    pub audit: AuditConfig,
    /// What plans reckon with.
    pub plan: PlanConfig,
    /// How long old wraps stay, and what is set aside of them.
    pub retire: RetireConfig,
    /// The worker.
    pub worker: WorkerConfig,
    /// Logs.
    pub log: LogConfig,
    /// Metrics.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Reports on jobs.
    #[serde(default)]
    pub report: ReportConfig,
    /// The status page.
    #[serde(default)]
    pub ui: UiConfig,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// The embedded store.
    Sqlite,
    /// A ScyllaDB cluster.
    Scylla,
    /// A Cassandra cluster: the same driver.
    Cassandra,
}

impl StoreKind {
    /// Whether it is a cluster that speaks CQL.
    pub fn is_cluster(self) -> bool {
        !matches!(self, StoreKind::Sqlite)
    }
}

/// Off or on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Off.
    Off,
    /// On.
    On,
}

/// Compression on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// LZ4.
    Lz4,
    /// Snappy.
    Snappy,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The file of the embedded store.
    pub path: PathBuf,
    /// Which store.
    pub kind: StoreKind,
    /// Nodes to begin with, with commas between; see [`StoreConfig::hosts`].
    pub nodes: Option<String>,
    /// The keyspace.
    pub keyspace: String,
    /// The home datacenter.
    pub datacenter: Option<String>,
    /// The database user.
    pub user: Option<String>,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
    /// TLS to the cluster.
    pub tls: Switch,
    /// Certificates that the nodes' must lead to (PEM).
    pub tls_ca: Option<PathBuf>,
    /// Our certificate (PEM).
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Compression on the wire.
    pub compression: Compression,
    /// Longest wait for a connection, milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest wait for an answer, milliseconds.
    pub request_timeout_ms: u64,
    /// Requests under way at a time at most.
    pub requests_in_flight: usize,
    /// When a read is sent to a second node as well, milliseconds; 0 means never.
    pub speculative_ms: u64,
}

impl StoreConfig {
    /// The nodes, each `host` or `host:port`.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().flat_map(|n| n.split(',')).map(str::trim)
    }
}

/// Which queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// The embedded queue.
    Sqlite,
    /// Amazon SQS.
    Sqs,
}

/// Which KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KmsKind {
    /// The local key ring.
    Ring,
    /// AWS KMS.
    Aws,
}

/// `[queue]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Which queue.
    pub kind: QueueKind,
    /// The URL of the SQS queue.
    pub url: Option<String>,
    /// The URL of the SQS queue for refused messages.
    pub dead_letter_url: Option<String>,
    /// Where SQS is, if not at AWS.
    pub endpoint: Option<String>,
    /// The region of the SQS queue.
    pub region: Option<String>,
    /// How long one call waits for a message, seconds.
    pub wait_s: u64,
    /// The file of the embedded queue.
    pub path: PathBuf,
    /// How long a received message is hidden, seconds.
    pub visibility_s: u64,
    /// Deliveries until a message goes to the dead letters.
    pub max_receives: u32,
}

/// `[kms]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmsConfig {
    /// Which KMS.
    pub kind: KmsKind,
    /// Where KMS is, if not at AWS.
    pub endpoint: Option<String>,
    /// Where STS is, if not at AWS.
    pub sts_endpoint: Option<String>,
    /// The directory of the local key ring.
    pub ring: PathBuf,
    /// The file that unlocks the ring; in the ring's directory if not set.
    pub key_file: Option<PathBuf>,
    /// Who calls the ring.
    pub caller: String,
    /// The calling account.
    pub account: String,
    /// The budget of this process, calls per second.
    pub rate_per_s: u32,
    /// Seconds until a silent KMS parks the slice.
    pub give_up_s: u64,
}

/// `[aws]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// The profile of the credentials; the default chain if `None`.
    pub profile: Option<String>,
    /// The file that the profile is in; the usual ones if `None`.
    pub credentials_file: Option<PathBuf>,
}

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Where the log's files go.
    pub dir: PathBuf,
}

/// `[plan]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanConfig {
    /// List price of 10,000 calls of the KMS, US dollars.
    pub kms_price_per_10k_usd: String,
    /// The day of that price list.
    pub price_date: String,
}

/// `[worker]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The worker's name; made at start if not set.
    pub id: Option<String>,
    /// Tasks held at a time.
    pub tasks_in_flight: usize,
    /// Slices worked on at a time.
    pub slices_in_flight: usize,
    /// Bytes of cells in memory at a time.
    pub bytes_in_flight: usize,
    /// KMS calls under way at a time.
    pub kms_in_flight: usize,
    /// Threads for the cryptography; 0 means one per core.
    pub rayon_threads: usize,
    /// Rows read at a time.
    pub page_rows: usize,
    /// Bytes read at a time.
    pub page_bytes: usize,
    /// How often an idle worker looks for work, milliseconds.
    pub poll_ms: u64,
    /// How often progress is made durable, milliseconds.
    pub checkpoint_ms: u64,
    /// The operator's endpoint that says whether the service has room.
    pub health_url: Option<String>,
    /// How often it is asked, milliseconds.
    pub health_poll_ms: u64,
    /// How long bad answers, or none, are borne, milliseconds.
    pub health_grace_ms: u64,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines are written.
    pub filter: String,
}

/// `[retire]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetireConfig {
    /// How long old keys are kept that a rekey set aside, seconds.
    pub set_aside_s: u64,
    /// How long after its end a job may not be retired, seconds.
    pub wait_s: u64,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Where Prometheus may fetch; off if `None`.
    pub listen: Option<SocketAddr>,
}

/// `[report]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportConfig {
    /// The key that signs reports; they are not signed if `None`.
    pub signing_key_file: Option<PathBuf>,
}

/// `[ui]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UiConfig {
    /// Where the status page is; off if `None`.
    pub listen: Option<SocketAddr>,
    /// By which names it is asked for, with commas between.
    pub hosts: Option<String>,
    /// The file with the token that lets it steer; it only reads if `None`.
    pub token_file: Option<PathBuf>,
}

impl UiConfig {
    /// The names, each without a port.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().flat_map(|h| h.split(',')).map(str::trim)
    }
}

/// One setting as it takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// `section.name`.
    pub name: &'static str,
    /// The value, as it stands in a TOML file; `None` if not set.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// A configuration and where each of its values came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    settings: Settings,
}

impl Loaded {
    /// Every setting in the order of the documentation.
    pub fn effective(&self) -> Vec<Effective> {
        KEYS.iter()
            .filter_map(|key| {
                let (value, source) = self.settings.get(key.name)?;
                Some(Effective {
                    name: key.name,
                    value: value.as_ref().map(Value::to_string),
                    source: source.clone(),
                })
            })
            .collect()
    }

    /// The effective configuration as a file that could be used as it is, with
    /// the source of each value behind it: what `config check` prints.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for (key, setting) in KEYS.iter().zip(self.effective()) {
            let (of, name) = key.parts();
            if of != section {
                section = of;
                text += &format!("\n[{section}]\n");
            }
            text += &match setting.value {
                Some(value) => format!("{name} = {value}  # {}\n", setting.source),
                None => format!("# {name} is not set  # {}\n", setting.source),
            };
        }
        text
    }
}

impl Config {
    /// The defaults, with everything under one directory.
    pub fn default_for(data_dir: &Path) -> Result<Self, ConfigError> {
        let dir = data_dir.to_string_lossy();
        Ok(load(None, [], [("data_dir", &*dir)])?.config)
    }
}

/// Loads a configuration: defaults, under `file`, under the variables of `env`
/// that start with [`ENV_PREFIX`] (pass `std::env::vars_os()`), under `flags`
/// (setting and value).
///
/// # Errors
/// Everything that is wrong, not only the first: settings that do not exist,
/// values that a setting does not take, a file that is not TOML.
pub fn load<'a>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    flags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = file {
        layers.file(path);
    }
    layers.environment(env);
    layers.flags(flags);
    build(layers.finish()?)
}

fn build(settings: Settings) -> Result<Loaded, ConfigError> {
    let mut root = toml::Table::new();
    for key in KEYS {
        let Some((Some(value), _)) = settings.get(key.name) else {
            continue;
        };
        let value = match value {
            // The schema's largest bound is far below 2^63.
            Value::Int(n) => toml::Value::Integer(i64::try_from(*n).unwrap_or(i64::MAX)),
            Value::Text(text) => toml::Value::String(text.clone()),
        };
        let (section, name) = key.parts();
        let table = if section.is_empty() {
            &mut root
        } else {
            match root
                .entry(section)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            {
                toml::Value::Table(table) => table,
                // A section and a setting never share a name; a test holds it.
                _ => continue,
            }
        };
        table.insert(name.to_owned(), value);
    }
    // The structs above and the schema say the same; a test holds that. Should
    // they ever differ, this is an error and not a setting without effect.
    match Config::deserialize(root) {
        Ok(config) => Ok(Loaded { config, settings }),
        Err(error) => Err(ConfigError(vec![Problem::Syntax {
            at: Source::Default,
            error: error.to_string(),
        }])),
    }
}

#[cfg(test)]
mod tests;
