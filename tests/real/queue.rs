//! The queue on SQS, on a server that speaks it (ElasticMQ).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use rekeyd::aws::{SdkConfig, TimeLimits, sdk_config};
use rekeyd::clock::SystemClock;
use rekeyd::queue::conformance::{self, Harness};
use rekeyd::queue::sqs::{SqsQueue, SqsSettings};
use rekeyd::queue::{Queue, SharedQueue, Which};
use serde_json::{Value, json};

use crate::backend::UNHURRIED;
use crate::services::sqs;

const REGION: &str = "eu-west-1";
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Deliveries until ElasticMQ moves a message to the dead letters.
const MAX_RECEIVES: u32 = 3;

async fn set_up(limits: TimeLimits) -> SdkConfig {
    let endpoint = tokio::task::spawn_blocking(|| sqs().endpoint())
        .await
        .unwrap();
    let dummy = Credentials::new("id", "secret", None, None, "test");
    sdk_config(Some(REGION), Some(&endpoint), limits)
        .await
        .unwrap()
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(dummy))
        .build()
}

/// A queue and its dead letters, both new.
struct Place {
    shared: SdkConfig,
    client: Client,
    url: String,
    dead_url: String,
}

impl Place {
    async fn new(kind: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let shared = set_up(TimeLimits::PROMPT).await;
        let client = Client::new(&set_up(UNHURRIED).await);
        let (name, dead) = (format!("jobs-{n}{kind}"), format!("dead-{n}{kind}"));
        let make = |name: &str| {
            let call = client.create_queue().queue_name(name);
            match kind {
                "" => call,
                _ => call.attributes(QueueAttributeName::FifoQueue, "true"),
            }
        };
        let dead_url = make(&dead).send().await.unwrap().queue_url.unwrap();
        let attributes = client
            .get_queue_attributes()
            .queue_url(&dead_url)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
            .unwrap();
        let arn = &attributes.attributes.unwrap()[&QueueAttributeName::QueueArn];
        let policy = json!({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES});
        let url = make(&name)
            .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
            .send()
            .await
            .unwrap()
            .queue_url
            .unwrap();
        Self {
            shared,
            client,
            url,
            dead_url,
        }
    }

    fn queue(&self) -> SqsQueue {
        let settings = SqsSettings {
            credentials: Default::default(),
            url: self.url.clone(),
            ..SqsSettings::default()
        };
        SqsQueue::with(settings, &self.shared, SystemClock::shared()).unwrap()
    }
}

struct Bench {
    kind: &'static str,
}

#[async_trait::async_trait]
impl Harness for Bench {
    async fn queue(&self) -> SharedQueue {
        Arc::new(Place::new(self.kind).await.queue())
    }
    fn max_receives(&self) -> u32 {
        MAX_RECEIVES
    }
    async fn pass(&self, span: Duration) {
        // The server's time cannot be turned.
        tokio::time::sleep(span).await;
    }
}

#[tokio::test]
async fn a_standard_queue_conforms() {
    conformance::all(&Bench { kind: "" }).await;
}

#[tokio::test]
async fn a_fifo_queue_conforms() {
    conformance::all(&Bench { kind: ".fifo" }).await;
}

#[tokio::test]
async fn the_dead_letters_are_found_by_the_redrive_policy() {
    let place = Place::new("").await;
    let facts = place.queue().check().await.unwrap();
    assert_eq!(facts.dead_letter_url, place.dead_url);
    assert_eq!(facts.max_receives, Some(MAX_RECEIVES));
    assert!(!facts.fifo);

    let plain = SqsSettings {
        credentials: Default::default(),
        url: place.dead_url.clone(),
        ..SqsSettings::default()
    };
    let plain = SqsQueue::with(plain, &place.shared, SystemClock::shared()).unwrap();
    let error = plain.check().await.unwrap_err();
    assert!(error.is_fatal(), "{error}");
    assert!(
        error.to_string().contains("queue.dead_letter_url"),
        "{error}"
    );

    let nowhere = SqsSettings {
        credentials: Default::default(),
        url: format!("{}-not", place.url),
        ..SqsSettings::default()
    };
    let nowhere = SqsQueue::with(nowhere, &place.shared, SystemClock::shared()).unwrap();
    for error in [
        nowhere.check().await.unwrap_err(),
        nowhere.send("x").await.unwrap_err(),
        nowhere
            .receive(1, Duration::from_secs(1), Duration::ZERO)
            .await
            .unwrap_err(),
    ] {
        assert!(error.is_fatal(), "{error}");
        assert!(
            error.to_string().contains("there is no such queue"),
            "{error}"
        );
    }
}

/// Long polling: who waits gets the message when it comes, and the call that
/// waits is not cut off by the limits of the others.
#[tokio::test]
async fn who_waits_is_handed_the_message_when_it_comes() {
    let place = Place::new("").await;
    let queue = Arc::new(place.queue());
    let wait = TimeLimits::PROMPT.attempt + Duration::from_secs(2);
    let quiet = queue
        .receive(1, Duration::from_secs(30), wait)
        .await
        .unwrap();
    assert!(quiet.is_empty());
    let waiter = {
        let queue = queue.clone();
        tokio::spawn(async move {
            let hidden = Duration::from_secs(30);
            queue.receive(10, hidden, Duration::from_secs(20)).await
        })
    };
    queue.send("late").await.unwrap();
    let got = waiter.await.unwrap().unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].body, "late");
}

/// The reason is an attribute that any tool can show, whatever the message was.
#[tokio::test]
async fn a_refused_message_says_why_to_any_tool() {
    for kind in ["", ".fifo"] {
        let place = Place::new(kind).await;
        let queue = place.queue();
        let id = queue.send("{\"v\":9}").await.unwrap();
        let hidden = Duration::from_secs(30);
        let delivery = queue.receive(1, hidden, Duration::ZERO).await.unwrap();
        // A reason may repeat what a stranger wrote.
        let reason = "bad_field: unknown field `\u{0}\n\u{ffff}é`";
        queue.refuse(&delivery[0], reason).await.unwrap();
        let seen = place
            .client
            .receive_message()
            .queue_url(&place.dead_url)
            .visibility_timeout(0)
            .message_attribute_names("All")
            .send()
            .await
            .unwrap();
        let seen = &seen.messages.unwrap()[0];
        assert_eq!(seen.body.as_deref(), Some("{\"v\":9}"));
        let attributes = seen.message_attributes.as_ref().unwrap();
        let text = |name: &str| attributes[name].string_value.clone().unwrap();
        assert!(text("rekeyd-reason").starts_with("bad_field: unknown field"));
        assert!(text("rekeyd-reason").ends_with("é`"));
        assert_eq!(text("rekeyd-message-id"), id);
        let at: jiff::Timestamp = text("rekeyd-refused-at").parse().unwrap();
        assert!(at <= jiff::Timestamp::now());

        let letters = queue.dead_letters(10).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].message_id, id);
        assert_eq!(letters[0].at_ms as i64, at.as_millisecond());

        // Put back it is a message like any other, without our attributes.
        queue.redrive(Which::All).await.unwrap();
        let back = place
            .client
            .receive_message()
            .queue_url(&place.url)
            .message_attribute_names("All")
            .send()
            .await
            .unwrap();
        assert!(back.messages.unwrap()[0].message_attributes.is_none());
    }
}

/// A message that is far too large, or holds what SQS does not take back, must
/// be refused like any other, or it would end worker after worker.
#[tokio::test]
async fn whatever_was_sent_can_be_refused_and_buried() {
    let place = Place::new("").await;
    let queue = place.queue();
    let large = "é".repeat(100 * 1024);
    let send = place.client.send_message().queue_url(&place.url);
    send.message_body(&large).send().await.unwrap();
    let hidden = Duration::from_secs(30);
    let delivery = queue.receive(1, hidden, Duration::ZERO).await.unwrap();
    assert_eq!(delivery[0].body, large);
    queue.refuse(&delivery[0], "too_large").await.unwrap();

    let odd = json!({"reason": "\u{ffff}\u{fffe}\u{1f512}"});
    queue.bury(&odd.to_string(), "preflight").await.unwrap();

    let letters = queue.dead_letters(10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].body.len(), 64 * 1024);
    let read: Value = serde_json::from_str(&letters[1].body).unwrap();
    assert_eq!(read, odd);
    assert!(
        queue
            .receive(1, hidden, Duration::ZERO)
            .await
            .unwrap()
            .is_empty()
    );
}

/// Looking takes nothing away, however many there are.
#[tokio::test]
async fn looking_at_dead_letters_leaves_them_all() {
    let place = Place::new("").await;
    let queue = place.queue();
    for n in 0..25 {
        queue.bury(&format!("job {n:02}"), "why").await.unwrap();
    }
    for _ in 0..2 {
        let letters = queue.dead_letters(100).await.unwrap();
        let bodies: Vec<_> = letters.iter().map(|l| l.body.clone()).collect();
        let mut sorted = bodies.clone();
        sorted.sort();
        assert_eq!(bodies, sorted, "oldest first");
        assert_eq!(bodies.len(), 25);
        assert_eq!(queue.dead_letters(3).await.unwrap().len(), 3);
    }
}

/// `rekeyd` in a directory of its own, on the SQS stand-in.
struct Site {
    dir: tempfile::TempDir,
    url: String,
}

impl Site {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(self.dir.path());
        command
            .args(arguments)
            .env("REKEYD_DATA_DIR", self.dir.path())
            .env("REKEYD_QUEUE__KIND", "sqs")
            .env("REKEYD_QUEUE__URL", &self.url)
            .env("REKEYD_QUEUE__WAIT_S", "1")
            .env("REKEYD_QUEUE__VISIBILITY_S", "2");
        command
    }

    fn json(&self, code: i32, arguments: &[&str]) -> Value {
        run(
            &mut self.command(&[arguments, &["--output", "json"]].concat()),
            code,
        )
    }
}

/// `rekeyd` with nothing set but what any client of AWS needs.
fn bare(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    command
        .current_dir(dir)
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", "id")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", REGION)
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

fn run(command: &mut Command, code: i32) -> Value {
    let out = command.output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{command:?}: {errors}");
    let text = if code == 0 { &out.stdout } else { &out.stderr };
    serde_json::from_slice(text).unwrap_or_else(|e| panic!("{e}: {errors}"))
}

/// A worker that is ended with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn job_of(org: &str, cmk: &str, job: &str) -> Value {
    json!({
        "v": 1, "kind": "rekey", "job_id": job, "org": org, "to_cmk": cmk,
        "requested_by": "ops@acme.example",
    })
}

/// Sends as the AWS CLI does by the line of docs/queue-sqs.md: the body as it is,
/// no attribute.
async fn send_plainly(place: &Place, body: &Value) {
    let send = place.client.send_message().queue_url(&place.url);
    send.message_body(body.to_string()).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_come_by_every_way_and_what_is_refused_can_be_put_back() {
    let place = Place::new("").await;
    let site = Site {
        dir: tempfile::tempdir().unwrap(),
        url: place.url.clone(),
    };
    site.json(0, &["init", "--timing", "demo"]);
    let cmk = || {
        site.json(0, &["kms", "create-key"])["cmk"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (old, new) = (cmk(), cmk());
    site.json(0, &["org", "add", "acme", "--cmk", &old]);

    // By the command, with the URL and nothing else; its region is the
    // environment's, its endpoint the URL's own.
    let elsewhere = tempfile::tempdir().unwrap();
    let enqueue = ["enqueue", "rekey", "--org", "acme", "--to", &new];
    let sent = run(
        bare(elsewhere.path())
            .args(enqueue)
            .args(["--queue-url", &place.url, "--output", "json"]),
        0,
    );
    assert!(!sent["message_id"].as_str().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);

    // By the AWS CLI, through SNS, through EventBridge, and twice the same.
    let id = "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69";
    let job = job_of("acme", &old, id);
    send_plainly(&place, &job).await;
    send_plainly(
        &place,
        &json!({"Type": "Notification", "Message": job.to_string()}),
    )
    .await;
    send_plainly(&place, &json!({"detail-type": "x", "detail": job})).await;
    send_plainly(&place, &json!({"v": 9})).await;

    let worker = site
        .command(&["worker"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let worker = Worker(worker.unwrap());
    // The new CMK is on nobody's list yet: refused. The old one is the active one.
    let refused = sent["job_id"].as_str().unwrap();
    let why = site.json(11, &["status", refused, "--wait", "--timeout", "120"]);
    assert!(
        why["error"]["message"]
            .as_str()
            .unwrap()
            .contains("refused"),
        "{why}"
    );
    let begin = Instant::now();
    let letters = loop {
        let list = site.json(0, &["dlq", "list"]);
        let letters = list["dead_letters"].as_array().unwrap().clone();
        if letters.len() >= 2 {
            break letters;
        }
        assert!(begin.elapsed() < PATIENCE, "only these: {letters:?}");
    };
    let letter = |part: &str| {
        let found = letters
            .iter()
            .find(|l| l["reason"].as_str().unwrap().contains(part));
        found.unwrap_or_else(|| panic!("{part}: {letters:?}"))["message_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let unknown = site.json(0, &["dlq", "show", &letter("unknown_version")]);
    assert_eq!(unknown["body"], json!({"v": 9}).to_string());
    site.json(5, &["dlq", "show", "nobody"]);
    site.json(5, &["dlq", "redrive", "nobody"]);

    // Mended, put back, done.
    site.json(0, &["org", "allow-cmk", "acme", &new]);
    let of_job = letters
        .iter()
        .find(|l| l["body"].as_str().unwrap().contains(refused))
        .unwrap()["message_id"]
        .as_str()
        .unwrap();
    let back = site.json(0, &["dlq", "redrive", of_job]);
    assert_eq!(back["redriven"], json!([of_job]));
    let end = site.json(0, &["status", refused, "--wait", "--timeout", "120"]);
    assert_eq!(end["state"], "drained");
    let all = site.json(0, &["jobs", "--all"]);
    let jobs: Vec<_> = all["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|j| j["job_id"].clone())
        .collect();
    assert_eq!(jobs.iter().filter(|j| **j == id).count(), 1, "{jobs:?}");
    drop(worker);
}
