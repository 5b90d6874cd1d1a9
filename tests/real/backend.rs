//! The parts that a rig stands on: a Cassandra node, SQS, and the AWS KMS client
//! on a key ring that speaks KMS's protocol. The same tests that run on the
//! embedded parts run on these.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rekeyd::aws::{TimeLimits, sdk_config};
use rekeyd::clock::SystemClock;
use rekeyd::config::{self, Config};
use rekeyd::kms::local::{LocalKeyRing, RingAdmin, Unlock, serve};
use rekeyd::registry::{Registry, Timing};
use rekeyd::store::SharedStore;
use rekeyd::store::cql::{Cluster, Replication, Schema};
use rekeyd::wiring;
use tokio::net::TcpListener;

use crate::copy;
use crate::services;

/// For what a test sets up: a server that has just been started loads its code
/// with the first call of each kind, and may have little of the machine.
pub const UNHURRIED: TimeLimits = TimeLimits {
    connect: Duration::from_secs(30),
    attempt: Duration::from_secs(60),
    call: Duration::from_secs(60),
};

/// Everyone who calls AWS in a rig. Each has credentials of its own, and its
/// name is the access key id: the key ring knows callers by that.
const CALLERS: [&str; 4] = ["rekeyd-worker", "operator", "application", "verifier"];

/// Where a store is.
#[derive(Clone)]
pub struct Place {
    /// Its nodes.
    pub nodes: Vec<String>,
    /// Copies of each row.
    pub copies: u32,
}

impl Place {
    /// The one node that the tests of this process share.
    pub fn shared() -> Self {
        Self {
            nodes: vec![services::cassandra().node()],
            copies: 1,
        }
    }
}

/// Store, queue and KMS, made for one rig.
pub struct Backend {
    dir: PathBuf,
    place: Place,
    keyspace: String,
    queue: String,
    kms_endpoint: String,
    // Ends with the rig.
    kms: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kms.abort();
    }
}

impl Backend {
    /// Makes everything new, with its files in `dir`.
    pub async fn new(dir: &Path, timing: &Timing) -> Self {
        Self::at(Place::shared(), dir, timing).await
    }

    /// The same, with the store at a place.
    pub async fn at(place: Place, dir: &Path, timing: &Timing) -> Self {
        RingAdmin::create_with_key_file(&dir.join("keyring")).unwrap();
        let backend = Self::started(place, dir).await;
        backend.make_tables(timing).await;
        backend
    }

    /// The same data again, with its files in `dir`. Nobody may write to this
    /// one meanwhile.
    pub async fn copy(&self, from: &Path, store: &SharedStore, dir: &Path) -> Self {
        copy_files(from, dir);
        let backend = Self::started(self.place.clone(), dir).await;
        let clock = SystemClock::shared();
        let timing = Registry::new(store.clone(), clock.clone()).timing().await;
        backend.make_tables(&timing.unwrap()).await;
        let to = wiring::store(&backend.config(), &clock).await.unwrap();
        copy::store(store, &to).await;
        backend
    }

    /// Starts what is the rig's own and writes the configuration.
    async fn started(place: Place, dir: &Path) -> Self {
        let name = free_name();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kms_endpoint = format!("http://{}", listener.local_addr().unwrap());
        let ring_dir = dir.join("keyring");
        let unlock = Unlock::KeyFile(ring_dir.join("ring.key"));
        let ring =
            LocalKeyRing::open_with_clock(&ring_dir, "unknown", &unlock, SystemClock::shared())
                .unwrap();
        let kms = tokio::spawn(async move {
            serve::serve(ring, listener, std::future::pending::<()>())
                .await
                .unwrap();
        });
        let mut credentials = String::new();
        for caller in CALLERS {
            credentials += &format!(
                "[{caller}]\naws_access_key_id = {caller}\naws_secret_access_key = not-checked\n"
            );
        }
        std::fs::write(dir.join("aws-credentials"), credentials).unwrap();
        let backend = Self {
            dir: dir.to_owned(),
            queue: make_queue(&name).await,
            keyspace: name,
            place,
            kms_endpoint,
            kms,
        };
        let text = backend.settings(
            &backend.place.nodes,
            services::sqs().endpoint(),
            &backend.kms_endpoint,
        );
        std::fs::write(backend.file(), text).unwrap();
        backend
    }

    /// The configuration file's text, with the servers at these addresses.
    fn settings(&self, nodes: &[String], sqs: String, kms: &str) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let dir = |name: &str| quoted(self.dir.join(name).to_str().unwrap());
        format!(
            "data_dir = {}\n\
             [store]\nkind = \"cassandra\"\nnodes = {}\nkeyspace = {}\nrequest_timeout_ms = {}\n\
             [queue]\nkind = \"sqs\"\nurl = {}\nendpoint = {}\nregion = \"eu-west-1\"\nwait_s = 1\n\
             [kms]\nkind = \"aws\"\nendpoint = {}\nsts_endpoint = {}\naccount = \"111122223333\"\nrate_per_s = 100000\n\
             [aws]\nprofile = \"rekeyd-worker\"\ncredentials_file = {}\n\
             [worker]\npoll_ms = 50\ncheckpoint_ms = 50\n",
            quoted(self.dir.to_str().unwrap()),
            quoted(&nodes.join(",")),
            quoted(&self.keyspace),
            short_waits().request_timeout_ms,
            quoted(&self.queue),
            quoted(&sqs),
            quoted(kms),
            quoted(kms),
            dir("aws-credentials"),
        )
    }

    async fn make_tables(&self, timing: &Timing) {
        let clock = SystemClock::shared();
        let _alone = services::schema_lock().await;
        let cluster = Cluster::connect(&self.config().store, None, clock.clone())
            .await
            .unwrap();
        let replication = Replication::of("datacenter1", self.place.copies);
        let done = Schema::apply(&cluster, Some(&replication)).await.unwrap();
        assert_eq!(done.problems, []);
        drop(cluster);
        let store = wiring::store(&self.config(), &clock).await.unwrap();
        Registry::new(store, clock)
            .init_timing(timing)
            .await
            .unwrap();
    }

    /// The configuration file of the workers.
    pub fn file(&self) -> PathBuf {
        self.dir.join("rekeyd.toml")
    }

    /// The configuration of the workers.
    pub fn config(&self) -> Config {
        config::load(Some(&self.file()), [], []).unwrap().config
    }

    /// The configuration of another part, by the name that the KMS knows it by.
    pub fn config_of(&self, caller: &str) -> Config {
        assert!(CALLERS.contains(&caller), "{caller} has no credentials");
        config::load(Some(&self.file()), [], [("aws.profile", caller)])
            .unwrap()
            .config
    }

    /// Lets a process find everything.
    pub fn tell(&self, command: &mut Command) {
        command.arg("--config").arg(self.file());
    }

    /// From here on processes reach the servers at other addresses: proxies.
    /// What is in this process goes on as it was.
    pub fn redirect(&self, store: &str, sqs: &str, kms: &str) {
        let text = self.settings(
            &[store.to_owned()],
            format!("http://{sqs}"),
            &format!("http://{kms}"),
        );
        std::fs::write(self.file(), text).unwrap();
    }

    /// Where the KMS is: `127.0.0.1:PORT`.
    pub fn kms_address(&self) -> &str {
        self.kms_endpoint.trim_start_matches("http://")
    }
}

/// A name for a keyspace and a queue that no other rig has.
fn free_name() -> String {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    format!("rig_{}", GIVEN.fetch_add(1, Ordering::Relaxed))
}

/// A queue with a queue for refused messages behind it, as an operator makes
/// them.
async fn make_queue(name: &str) -> String {
    use aws_sdk_sqs::types::QueueAttributeName as Attribute;
    let endpoint = services::sqs().endpoint();
    let made_up =
        aws_sdk_sqs::config::Credentials::new("operator", "not-checked", None, None, "test");
    let shared = sdk_config(Some("eu-west-1"), Some(&endpoint), UNHURRIED)
        .await
        .unwrap();
    let sqs = aws_sdk_sqs::Client::from_conf(
        aws_sdk_sqs::config::Builder::from(&shared)
            .credentials_provider(made_up)
            .build(),
    );
    let dead = format!("{name}-dead");
    let made = sqs.create_queue().queue_name(&dead).send().await.unwrap();
    let arn = sqs
        .get_queue_attributes()
        .queue_url(made.queue_url().unwrap())
        .attribute_names(Attribute::QueueArn)
        .send()
        .await
        .unwrap();
    let arn = &arn.attributes().unwrap()[&Attribute::QueueArn];
    let redrive = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"5"}}"#);
    let made = sqs
        .create_queue()
        .queue_name(name)
        .attributes(Attribute::RedrivePolicy, redrive)
        .send()
        .await
        .unwrap();
    made.queue_url().unwrap().to_owned()
}

/// Of the kill points one in so many is died at, unless all are asked for.
pub const KILL_POINTS_ONE_IN: usize = 6;
/// Workers that are killed at any instant, unless another number is asked for.
pub const KILLS_BY_DEFAULT: u64 = 3;

/// Longest a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The waits of a rig, unless a test asks for others.
pub fn usual_waits() -> Timing {
    short_waits()
}

/// Short waits that two cores with a server in Java beside them can keep.
pub fn short_waits() -> Timing {
    let mut t = Timing {
        status_time_ms: 1_500,
        request_timeout_ms: 2_000,
        max_skew_ms: 100,
        row_age_ms: 1_500,
        lease_ms: 5_000,
        margin_ms: 500,
        grace_ms: 5_000,
        drain_ms: 0,
        blocked_retry_ms: 1_000,
        blocked_retry_max_ms: 10_000,
    };
    t.drain_ms = t.settle_ms();
    t.check().unwrap();
    t
}

/// What is not in the servers: the key ring and the audit log.
fn copy_files(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&target)
                .unwrap();
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
