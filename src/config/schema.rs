//! Every setting there is: the one list from which parsing, suggestions, the
//! effective configuration and the table in docs/configuration.md come.

use std::net::SocketAddr;

use tracing_subscriber::EnvFilter;

/// Prefix of every environment variable that is a setting.
pub const ENV_PREFIX: &str = "REKEYD_";

/// Variables with the prefix that are not settings.
pub const OTHER_VARIABLES: [&str; 5] = [
    // The configuration file.
    "REKEYD_CONFIG",
    // The passphrase of the local key ring: a secret, so never a setting that
    // `config check` could print.
    "REKEYD_RING_PASSPHRASE",
    // For recovery tests: where the process kills itself, and the file it notes
    // in what it sealed.
    "REKEYD_KILL_AT",
    "REKEYD_WITNESS",
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
        "The calling account: the budget is counted by it, and the audit log names it.",
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
        "audit.dir",
        Kind::Path,
        Default::InDataDir("audit"),
        "",
        "Where the audit log's files go.",
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
        "Where Prometheus may fetch the metrics; off if not set.",
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
