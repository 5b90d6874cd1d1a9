//! Every setting there is: the one list from which parsing, suggestions, the
//! effective configuration and the table in docs/configuration.md come.

use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;

/// Prefix of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "REKEYD_";

/// Variables with the prefix that are not settings.
pub const OTHER_VARIABLES: [&str; 9] = [
    // The configuration file.
    "REKEYD_CONFIG",
    // The passphrase of the local key ring: a secret, so never a setting that
    // `config check` could print.
    "REKEYD_RING_PASSPHRASE",
    // The password of the database user: a secret as well.
    "REKEYD_STORE_PASSWORD",
    // For recovery tests: where the process kills itself, and the file it notes
    // in what it sealed.
    "REKEYD_KILL_AT",
    "REKEYD_WITNESS",
    // The faults that `chaos` gives its workers.
    crate::faults::CLOCK,
    crate::faults::AUDIT,
    crate::faults::STORE,
    // The seed of the tests, which the processes they start inherit.
    "REKEYD_TEST_SEED",
];

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.name`, or `name` at the top of the file.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// What it is where nobody sets it.
    pub default: Default,
    /// The unit of a number; empty for the rest.
    pub unit: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// What values a setting takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A path; relative ones start at the working directory.
    Path,
    /// A text of 1 to 128 printable characters.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A whole number, both ends included.
    Int {
        /// The smallest allowed.
        min: u64,
        /// The largest allowed.
        max: u64,
    },
    /// An address and port.
    Listen,
    /// A filter of log levels.
    Filter,
    /// A URL with `http` or `https`.
    Url,
    /// A URL with `http` and without a user or password in it.
    PlainUrl,
    /// Hosts, each with or without a port, with commas between.
    Hosts,
    /// An amount of money: at most six digits before and after the point.
    Amount,
    /// A day.
    Day,
}

/// What a setting is where nobody sets it.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// Not set; an empty value in a later layer means the same.
    None,
    /// A number.
    Int(u64),
    /// A text.
    Text(&'static str),
    /// A name within `data_dir`.
    InDataDir(&'static str),
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: Default,
    unit: &'static str,
    help: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        unit,
        help,
    }
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The settings, by section, in the order of the samples.
pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Path,
        Default::Text("rekeyd-data"),
        "",
        "Where everything is that has no path of its own.",
    ),
    key(
        "store.path",
        Kind::Path,
        Default::InDataDir("store.db"),
        "",
        "The file of the embedded store.",
    ),
    key(
        "store.kind",
        Kind::Choice(&["sqlite", "scylla", "cassandra"]),
        Default::Text("sqlite"),
        "",
        "Where messages, data keys and jobs are: the embedded store, or a ScyllaDB or Cassandra cluster (one driver for both; the server is asked what it is).",
    ),
    key(
        "store.nodes",
        Kind::Hosts,
        Default::None,
        "",
        "Nodes of the cluster to begin with; the rest are found from them.",
    ),
    key(
        "store.keyspace",
        Kind::Text,
        Default::Text("rekeyd"),
        "",
        "The keyspace of the tables.",
    ),
    key(
        "store.datacenter",
        Kind::Text,
        Default::None,
        "",
        "The home datacenter: workers and control rows. Must be set where the cluster has several.",
    ),
    key(
        "store.user",
        Kind::Text,
        Default::None,
        "",
        "The database user; the password comes from REKEYD_STORE_PASSWORD or store.password_file.",
    ),
    key(
        "store.password_file",
        Kind::Path,
        Default::None,
        "",
        "A file that holds the password of the database user.",
    ),
    key(
        "store.tls",
        Kind::Choice(&["off", "on"]),
        Default::Text("off"),
        "",
        "TLS to the cluster.",
    ),
    key(
        "store.tls_ca",
        Kind::Path,
        Default::None,
        "",
        "Certificates (PEM) that the nodes' own must lead to; the system's if not set.",
    ),
    key(
        "store.tls_cert",
        Kind::Path,
        Default::None,
        "",
        "Our certificate (PEM), where the cluster asks for one.",
    ),
    key(
        "store.tls_key",
        Kind::Path,
        Default::None,
        "",
        "The key (PEM) of our certificate.",
    ),
    key(
        "store.compression",
        Kind::Choice(&["none", "lz4", "snappy"]),
        Default::Text("none"),
        "",
        "Compression on the wire. Cells are encrypted and do not shrink.",
    ),
    key(
        "store.connect_timeout_ms",
        int(100, 120_000),
        Default::Int(5_000),
        "milliseconds",
        "Longest wait for a connection to a node.",
    ),
    key(
        "store.request_timeout_ms",
        int(100, 120_000),
        Default::Int(5_000),
        "milliseconds",
        "Longest wait for an answer; not more than the store's own request_timeout_ms.",
    ),
    key(
        "store.requests_in_flight",
        int(1, 65_536),
        Default::Int(256),
        "requests",
        "Requests under way at a time at most; fewer while the cluster is slow or overloaded.",
    ),
    key(
        "store.speculative_ms",
        int(0, 60_000),
        Default::Int(0),
        "milliseconds",
        "After so long a read is sent to a second node as well; 0 means never. Only statements that may run twice.",
    ),
    key(
        "queue.kind",
        Kind::Choice(&["sqlite", "sqs"]),
        Default::Text("sqlite"),
        "",
        "Where jobs come from: the embedded queue, or Amazon SQS.",
    ),
    key(
        "queue.url",
        Kind::Url,
        Default::None,
        "",
        "The URL of the SQS queue.",
    ),
    key(
        "queue.dead_letter_url",
        Kind::Url,
        Default::None,
        "",
        "The URL of the SQS queue for refused messages; from the queue's redrive policy if not set.",
    ),
    key(
        "queue.endpoint",
        Kind::Url,
        Default::None,
        "",
        "Where SQS is, if not at AWS: a stand-in, a VPC endpoint.",
    ),
    key(
        "queue.region",
        Kind::Text,
        Default::None,
        "",
        "The region of the SQS queue; from its URL or the environment if not set.",
    ),
    key(
        "queue.wait_s",
        int(0, 20),
        Default::Int(20),
        "seconds",
        "How long one call waits for a message (long polling).",
    ),
    key(
        "queue.path",
        Kind::Path,
        Default::InDataDir("queue.db"),
        "",
        "The file of the embedded queue.",
    ),
    key(
        "queue.visibility_s",
        int(1, 43_200),
        Default::Int(30),
        "seconds",
        "How long a received message is hidden from other workers.",
    ),
    key(
        "queue.max_receives",
        int(1, 1000),
        Default::Int(5),
        "deliveries",
        "After so many deliveries a message goes to the dead letters.",
    ),
    key(
        "kms.kind",
        Kind::Choice(&["ring", "aws"]),
        Default::Text("ring"),
        "",
        "Which KMS: the local key ring, or AWS KMS.",
    ),
    key(
        "kms.endpoint",
        Kind::Url,
        Default::None,
        "",
        "Where KMS is, if not at AWS: a stand-in, a VPC endpoint.",
    ),
    key(
        "kms.sts_endpoint",
        Kind::Url,
        Default::None,
        "",
        "Where STS is (roles in customers' accounts), if not at AWS.",
    ),
    key(
        "kms.ring",
        Kind::Path,
        Default::InDataDir("keyring"),
        "",
        "The directory of the local key ring.",
    ),
    key(
        "kms.key_file",
        Kind::Path,
        Default::None,
        "",
        "The file that unlocks the key ring; in the ring's directory if not set. Not used where REKEYD_RING_PASSPHRASE is set.",
    ),
    key(
        "kms.caller",
        Kind::Text,
        Default::Text("rekeyd-worker"),
        "",
        "Who calls the local key ring: the name its deny rules and its call log use.",
    ),
    key(
        "kms.account",
        Kind::Text,
        Default::Text("000000000000"),
        "",
        "The calling account: the budget is counted by it, and the audit log names it. With AWS KMS and this default, STS is asked once at start.",
    ),
    key(
        "kms.rate_per_s",
        int(1, 100_000),
        Default::Int(1000),
        "calls per second",
        "The budget of KMS calls of this process, per calling account and region. Leave room for the live service.",
    ),
    key(
        "kms.give_up_s",
        int(1, 86_400),
        Default::Int(900),
        "seconds",
        "After so long without an answer the slice parks as `kms_unavailable`.",
    ),
    key(
        "aws.profile",
        Kind::Text,
        Default::None,
        "",
        "The profile of the AWS credentials, for SQS and KMS; the default chain of credentials if not set.",
    ),
    key(
        "aws.credentials_file",
        Kind::Path,
        Default::None,
        "",
        "The file that the profile is in; the usual ones if not set. Only with aws.profile.",
    ),
    key(
        "audit.dir",
        Kind::Path,
        Default::InDataDir("audit"),
        "",
        "Where the audit log's files go.",
    ),
    key(
        "plan.kms_price_per_10k_usd",
        Kind::Amount,
        Default::Text("0.03"),
        "",
        "List price of 10,000 calls of the KMS in US dollars, for `rekeyd plan`.",
    ),
    key(
        "plan.price_date",
        Kind::Day,
        Default::Text("2026-06-13"),
        "",
        "The day of the price list that the price is from; set both when yours is newer.",
    ),
    key(
        "retire.set_aside_s",
        int(60, 315_360_000),
        Default::Int(7_776_000),
        "s",
        "How long the old data keys of a rekey are kept under its new CMK, from its end on (90 days). The workers go by it.",
    ),
    key(
        "retire.wait_s",
        int(0, 315_360_000),
        Default::Int(604_800),
        "s",
        "How long after its end a job may not be retired yet (7 days). `rekeyd retire` goes by it.",
    ),
    key(
        "worker.id",
        Kind::Text,
        Default::None,
        "",
        "The worker's name in leases, logs and the audit log; made at start if not set. Must differ between processes.",
    ),
    key(
        "worker.tasks_in_flight",
        int(1, 256),
        Default::Int(4),
        "tasks",
        "Tasks held at a time.",
    ),
    key(
        "worker.slices_in_flight",
        int(1, 4096),
        Default::Int(64),
        "slices",
        "Slices worked on at a time.",
    ),
    key(
        "worker.bytes_in_flight",
        int(MIB, 64 * GIB),
        Default::Int(64 * MIB),
        "bytes",
        "Bytes of cells held in memory at a time; bounds the memory of the worker.",
    ),
    key(
        "worker.kms_in_flight",
        int(1, 4096),
        Default::Int(64),
        "calls",
        "KMS calls under way at a time. To use the whole budget: at least rate_per_s x the KMS's latency.",
    ),
    key(
        "worker.rayon_threads",
        int(0, 512),
        Default::Int(0),
        "threads",
        "Threads for the cryptography; 0 means one per core.",
    ),
    key(
        "worker.page_rows",
        int(1, 10_000),
        Default::Int(500),
        "rows",
        "Rows read from the store at a time.",
    ),
    key(
        "worker.page_bytes",
        int(4 * KIB, 64 * MIB),
        Default::Int(MIB),
        "bytes",
        "Bytes read from the store at a time; not more than bytes_in_flight.",
    ),
    key(
        "worker.poll_ms",
        int(10, 60_000),
        Default::Int(1000),
        "milliseconds",
        "How often an idle worker looks for messages and tasks.",
    ),
    key(
        "worker.checkpoint_ms",
        int(10, 60_000),
        Default::Int(1000),
        "milliseconds",
        "How often progress is made durable.",
    ),
    key(
        "worker.health_url",
        Kind::PlainUrl,
        Default::None,
        "",
        "Your own endpoint that says whether the service has room: 2xx lets the worker go on, anything else or no answer holds it after the grace time; not asked if not set.",
    ),
    key(
        "worker.health_poll_ms",
        int(100, 600_000),
        Default::Int(5000),
        "milliseconds",
        "How often health_url is asked.",
    ),
    key(
        "worker.health_grace_ms",
        int(0, 3_600_000),
        Default::Int(30_000),
        "milliseconds",
        "After so long without a good answer of health_url nothing new is begun.",
    ),
    key(
        "log.format",
        Kind::Choice(&["human", "json"]),
        Default::Text("human"),
        "",
        "How log lines look.",
    ),
    key(
        "log.filter",
        Kind::Filter,
        Default::Text("info"),
        "",
        "Which log lines are written: a level, or `target=level` pairs with commas between.",
    ),
    key(
        "metrics.listen",
        Kind::Listen,
        Default::None,
        "",
        "Where a worker answers `/metrics`, `/healthz` and `/readyz`; off if not set.",
    ),
    key(
        "ui.listen",
        Kind::Listen,
        Default::None,
        "",
        "Where a worker serves the status page; off if not set. It asks for no password and names organizations: keep it on a loopback address.",
    ),
    key(
        "ui.hosts",
        Kind::Hosts,
        Default::None,
        "",
        "Names by which the status page is asked for besides those of the loopback address; needed where ui.listen is another address.",
    ),
    key(
        "ui.token_file",
        Kind::Path,
        Default::None,
        "",
        "The file with the token by which the status page pauses, resumes and slows down jobs, 24 characters at least; it only reads if not set.",
    ),
    key(
        "report.signing_key_file",
        Kind::Path,
        Default::None,
        "",
        "The Ed25519 key (PKCS#8, PEM) that `rekeyd report` signs with; reports are not signed if not set.",
    ),
];

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Int(u64),
    /// Anything else.
    Text(String),
}

impl std::fmt::Display for Value {
    /// As it stands in a TOML file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Int(n) => n.fmt(f),
            Value::Text(text) => toml::Value::String(text.clone()).fmt(f),
        }
    }
}

impl Key {
    /// The setting of a name.
    pub fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// `REKEYD_WORKER__PAGE_ROWS` for `worker.page_rows`.
    pub fn env(&self) -> String {
        format!(
            "{ENV_PREFIX}{}",
            self.name.replace('.', "__").to_uppercase()
        )
    }

    /// Section and name within it; the section is empty at the top of the file.
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }

    /// What the setting takes, in words.
    pub fn allowed(&self) -> String {
        let unit = if self.unit.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.unit)
        };
        match self.kind {
            Kind::Path => "a path".to_owned(),
            Kind::Text => "a text of 1 to 128 printable characters".to_owned(),
            Kind::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
                quoted.join(" or ")
            }
            Kind::Int { min, max } => format!("a whole number from {min} to {max}{unit}"),
            Kind::Listen => "an address and port such as `127.0.0.1:9464`".to_owned(),
            Kind::Filter => "a log filter such as `info` or `warn,rekeyd=debug`".to_owned(),
            Kind::Url => "a URL that begins with `http://` or `https://`".to_owned(),
            Kind::PlainUrl => {
                "a URL that begins with `http://`, without a user or password".to_owned()
            }
            Kind::Hosts => "hosts such as `10.0.0.1:9042,10.0.0.2`, with commas between".to_owned(),
            Kind::Amount => "an amount in quotes such as `\"0.03\"`".to_owned(),
            Kind::Day => "a day in quotes such as `\"2026-06-13\"`".to_owned(),
        }
    }

    /// The default, in words.
    pub fn default_in_words(&self) -> String {
        match self.default {
            Default::None => "not set".to_owned(),
            Default::Int(n) => n.to_string(),
            Default::Text(text) => format!("`{text}`"),
            Default::InDataDir(name) => format!("`<data_dir>/{name}`"),
        }
    }

    /// Checks a number.
    pub fn check_int(&self, n: i128) -> Option<Value> {
        match self.kind {
            Kind::Int { min, max } => u64::try_from(n)
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Value::Int),
            _ => None,
        }
    }

    /// Checks a text that is not to be read as a number.
    pub fn check_text(&self, text: &str) -> Option<Value> {
        let good = match self.kind {
            Kind::Int { .. } => false,
            Kind::Path => !text.is_empty() && !text.contains('\0'),
            Kind::Text => {
                (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control)
            }
            Kind::Choice(words) => words.contains(&text),
            Kind::Listen => text.parse::<SocketAddr>().is_ok(),
            Kind::Filter => !text.is_empty() && EnvFilter::try_new(text).is_ok(),
            Kind::Url => is_url(text),
            Kind::PlainUrl => text.starts_with("http://") && !text.contains('@') && is_url(text),
            Kind::Hosts => text.len() <= 4096 && text.split(',').all(is_host),
            Kind::Amount => is_amount(text),
            Kind::Day => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        };
        good.then(|| Value::Text(text.to_owned()))
    }

    /// Checks a value as it comes from the environment or a flag.
    pub fn check_untyped(&self, text: &str) -> Option<Value> {
        match self.kind {
            Kind::Int { .. } => text
                .trim()
                .parse::<i128>()
                .ok()
                .and_then(|n| self.check_int(n)),
            _ => self.check_text(text),
        }
    }

    /// May it be switched off by an empty value?
    pub fn is_optional(&self) -> bool {
        matches!(self.default, Default::None)
    }
}

/// `1`, `0.03`.
fn is_amount(text: &str) -> bool {
    let digits = |s: &str| (1..=6).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part),
        None => digits(text),
    }
}

fn is_url(text: &str) -> bool {
    text.len() <= 1024
        && text
            .parse::<http::Uri>()
            .is_ok_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some())
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn is_host(text: &str) -> bool {
    let good = |host: &str| {
        !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    let port = |port: &str| port.parse::<u16>().is_ok_and(|p| p != 0);
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port));
    }
    match text.split_once(':') {
        Some((host, p)) => good(host) && port(p),
        None => good(text),
    }
}

/// The table of docs/configuration.md.
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| setting | environment | default | allowed | what it does |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        table += &format!(
            "| `{}` | `{}` | {} | {} | {} |\n",
            key.name,
            key.env(),
            key.default_in_words(),
            key.allowed(),
            key.help
        );
    }
    table
}

/// The nearest of `names` to what was written, if one is near.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A right name in the wrong section is nearer than its letters say.
    let last = |name: &str| name.rsplit(['.']).next().unwrap_or_default().to_owned();
    names
        .map(|name| {
            let whole = strsim::normalized_damerau_levenshtein(written, name);
            let tail = strsim::normalized_damerau_levenshtein(&last(written), &last(name)) * 0.95;
            (whole.max(tail), name)
        })
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
