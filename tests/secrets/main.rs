//! Nothing secret leaves the worker: no message, no key, in no file but where
//! it belongs, however much is logged.
//!
//! The real binary rewrites marked messages at trace level. Then every byte
//! that it and the client library wrote is searched for the marker and for each
//! key there is, in the spellings in which such things leak.

#[path = "../suite/backend.rs"]
#[allow(dead_code)]
mod backend;
#[path = "../suite/rig.rs"]
// The whole of it is used by tests/suite.
#[allow(dead_code)]
mod rig;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use rekeyd::client::{EditLifetime, Lifetime, ReasonCode, Use};
use rekeyd::clock::WriteTime;
use rekeyd::crypto::{CellKey, KeyRowBody};
use rekeyd::ids::{ChannelId, Hour, RecordId};
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::Dek;
use rekeyd::kms::local::{DenyRule, Permission};
use rekeyd::pipeline::plan::SliceWalk;
use rekeyd::store::{CellWrite, KeyRow, SliceKey};
use rustix::process::{Pid, Signal, kill_process};
use zeroize::Zeroizing;

use rig::{Rig, short_waits};

const MARKER: &str = "marked plaintext Zq7xW2 nobody may see this";

/// What may leak, by a name for the report.
type Secrets = BTreeMap<String, Vec<u8>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_and_no_key_is_in_any_log_or_file() {
    let client_log = ClientLog::start();
    for (format, mode) in [("human", Mode::Reencrypt), ("json", Mode::Rewrap)] {
        let rig = Rig::with_timing(&short_waits()).await;
        let slices = write_marked(&rig).await;
        spoil(&rig, &slices[0]).await;
        revoke(&rig, &slices[1]);
        let mut worker = Worker::start(&rig, format);
        let job = rig.enqueue(rig.request(&rig.new, mode)).await;
        // And a message that is refused.
        rig.queue.send("{\"v\":1}").await.unwrap();
        let blocked = rig.wait_state(job, JobState::Blocked).await;
        assert_eq!(blocked.blocked_slices, 1, "{format}: errors were met too");
        rig.ring.remove_deny("revoked").unwrap();
        rig.wait(job, "the damaged cell", |row| {
            row.blocked_slices == 0 && row.proof.quarantined == 1
        })
        .await;
        let metrics = worker.metrics();
        assert!(metrics.contains("rekeyd_"), "{metrics}");
        let log = worker.stop();
        rig.audit.durable().await.unwrap();

        let mut secrets = keys(&rig).await;
        secrets.insert("the marker".to_owned(), MARKER.as_bytes().to_vec());
        let key_file = rig.config.kms.ring.join("ring.key");
        let mut searched = files_in(rig.dir.path());
        assert!(searched.remove(&key_file).is_some());
        searched.insert("(metrics)".into(), metrics.into_bytes());
        searched.insert("(client's log)".into(), client_log.bytes());

        // The search would find what is there.
        let text = String::from_utf8_lossy(&searched[&log]).into_owned();
        assert!(text.contains("TRACE") || text.contains("DEBUG"), "{text}");
        assert!(text.contains(&job.to_string()));
        if format == "json" {
            says_what_each_batch_was_for(&text, &job.to_string());
        }
        let store = &searched[&rig.config.store.path];
        let wal = with_suffix(&rig.config.store.path, "-wal");
        let in_store = finds(store, b"marked-3") || finds(&searched[&wal], b"marked-3");
        assert!(in_store, "record ids are in clear");
        assert!(finds(&searched[&PathBuf::from("(client's log)")], b"cell"));

        for (name, secret) in &secrets {
            for (place, bytes) in &searched {
                for spelled in spellings(secret) {
                    let found = finds(bytes, &spelled);
                    assert!(!found, "{format}: {name} is in {}", place.display());
                }
            }
        }
        // A wrapped key belongs into the store and nowhere else.
        let rows = key_rows(&rig).await;
        searched.retain(|place, _| !place.to_string_lossy().contains("store.db"));
        for (slice, row) in &rows {
            let body = KeyRowBody::decode(&row.row).unwrap();
            for spelled in spellings(&body.wrapped) {
                for (place, bytes) in &searched {
                    let found = finds(bytes, &spelled);
                    assert!(!found, "a wrap of {slice} is in {}", place.display());
                }
            }
        }
    }
}

/// A line for each batch, which is found by its job, task and slice.
fn says_what_each_batch_was_for(log: &str, job: &str) {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let batches: Vec<_> = lines
        .filter(|line| line["message"] == "batch done")
        .collect();
    assert!(!batches.is_empty(), "{log}");
    for batch in batches {
        let about = &batch["spans"][0];
        assert_eq!(about["job"], job, "{batch}");
        for (place, field) in [(about, "task"), (about, "pass"), (&batch, "slice")] {
            assert!(place[field].is_string(), "{field}: {batch}");
        }
        assert!(batch["rows"].is_u64(), "{batch}");
    }
}

/// Messages with the marker, written and edited with the client library.
async fn write_marked(rig: &Rig) -> Vec<(ChannelId, Hour)> {
    let client = rig.client().await;
    let why = Use::new(ReasonCode::MessageWrite, "test");
    let mut slices = Vec::new();
    for n in 0..4 {
        let id = ChannelId::new(format!("c{n}")).unwrap();
        let hour: Hour = "2019-02-13T17".parse().unwrap();
        let channel = client
            .organization(&rig.org)
            .ensure_channel(&rig.workspace, &id)
            .await
            .unwrap();
        for n in 0..20 {
            let record = RecordId::new(format!("marked-{n}")).unwrap();
            let text = format!("{MARKER} {}", MARKER.repeat(n)).into_bytes();
            channel
                .write(hour, &record, &text, Lifetime::Lasting, &why)
                .await
                .unwrap();
            channel
                .edit(hour, &record, &text, EditLifetime::Keep, &why)
                .await
                .unwrap();
            let read = channel.read(hour, &record, &why).await.unwrap().unwrap();
            assert_eq!(read.text(), text);
        }
        slices.push((id, hour));
    }
    slices
}

/// Damages one cell, so that errors about cells are logged.
async fn spoil(rig: &Rig, (channel, hour): &(ChannelId, Hour)) {
    let view = rig.registry.view(&rig.org, channel).await.unwrap();
    let partition = view.partition(*hour);
    let record = RecordId::new("marked-5").unwrap();
    let found = rig.store.read_cell(&partition, &record).await.unwrap();
    let mut cell = found.unwrap();
    cell.cell[4] = 99;
    let write = CellWrite {
        record,
        cell: cell.cell.into(),
        write_time: WriteTime(cell.write_time.0 + 1),
        ttl_s: 0,
    };
    rig.store.write_cells(&partition, &[write]).await.unwrap();
}

/// Revokes one channel, so that errors of the KMS are logged.
fn revoke(rig: &Rig, (channel, _): &(ChannelId, Hour)) {
    let pair = ("channel".to_owned(), channel.to_string());
    let rule = DenyRule {
        id: "revoked".to_owned(),
        cmks: vec![rig.old.clone(), rig.new.clone()],
        permissions: vec![Permission::Decrypt, Permission::ReEncryptFrom],
        context: [pair].into_iter().collect(),
        callers: Vec::new(),
        reason: "a test".to_owned(),
    };
    rig.ring.add_deny(rule).unwrap();
}

/// Every key there is: the ring's own, each CMK, each data key.
async fn keys(rig: &Rig) -> Secrets {
    let mut keys = Secrets::new();
    let ring_dir = &rig.config.kms.ring;
    let text = std::fs::read_to_string(ring_dir.join("ring.key")).unwrap();
    let mut ring_key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut ring_key).unwrap();
    keys.insert("the ring's key".to_owned(), ring_key.to_vec());
    let state = std::fs::read_to_string(ring_dir.join("ring.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let mut cmks = BTreeMap::new();
    for (cmk, entry) in state["keys"].as_object().unwrap() {
        let sealed = hex::decode(entry["sealed"].as_str().unwrap()).unwrap();
        let key = decrypted(&ring_key, &sealed);
        cmks.insert(cmk.clone(), key);
        keys.insert(format!("CMK {cmk}"), key.to_vec());
    }
    assert_eq!(cmks.len(), 2);
    let rows = key_rows(rig).await;
    assert!(rows.len() > 4);
    for (slice, row) in rows {
        let body = KeyRowBody::decode(&row.row).unwrap();
        let sealed = &body.wrapped[body.wrapped.len() - 60..];
        let dek = decrypted(&cmks[body.cmk.as_str()], sealed);
        // It is the key that the row commits to, so this looks for the right thing.
        let cell_key = CellKey::derive(Dek::new(Zeroizing::new(dek)), &body.scope);
        assert!(*cell_key.commitment() == body.commitment);
        keys.insert(format!("a data key of {slice}"), dek.to_vec());
    }
    keys
}

async fn key_rows(rig: &Rig) -> Vec<(SliceKey, KeyRow)> {
    let mut rows = Vec::new();
    let mut walk = SliceWalk::new(
        rig.store.clone(),
        rig.registry.clone(),
        rig.org.clone(),
        None,
        None,
    );
    while let Some(slice) = walk.next().await.unwrap() {
        let address = SliceKey::messages(&rig.org, &slice.channel, slice.hour);
        for row in rig.store.read_keys(&address).await.unwrap() {
            rows.push((address.clone(), row));
        }
    }
    rows
}

/// What `nonce ‖ ciphertext ‖ tag` holds, by encrypting the ciphertext once
/// more: AES-GCM is a stream cipher, and what it is bound to does not matter.
fn decrypted(key: &[u8; 32], sealed: &[u8]) -> [u8; 32] {
    let nonce: [u8; 12] = sealed[..12].try_into().unwrap();
    let mut text: [u8; 32] = sealed[12..44].try_into().unwrap();
    let cipher = Aes256Gcm::new(&(*key).into());
    cipher
        .encrypt_inout_detached(&Nonce::from(nonce), b"", text.as_mut_slice().into())
        .unwrap();
    text
}

/// How bytes look where they leak: as they are, in hexadecimal of either case,
/// as `Debug` prints them, in base64 by their first whole groups.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let decimal: Vec<String> = secret.iter().map(u8::to_string).collect();
    vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        decimal.join(", ").into_bytes(),
        decimal.join(",").into_bytes(),
        base64(&secret[..secret.len() / 3 * 3]),
    ]
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::new();
    for group in bytes.chunks_exact(3) {
        let n = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for shift in [18, 12, 6, 0] {
            out.push(ALPHABET[(n >> shift) as usize & 63]);
        }
    }
    out
}

fn finds(bytes: &[u8], wanted: &[u8]) -> bool {
    // By its first byte, for most of the files is not it.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|b| *b == wanted[0]) {
        if rest[at..].starts_with(wanted) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

fn files_in(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// An address that is free once this returns, and that nobody else asks for by
/// number.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A worker process at trace level.
struct Worker {
    child: Child,
    log: PathBuf,
    metrics: SocketAddr,
}

impl Worker {
    fn start(rig: &Rig, format: &str) -> Self {
        let log = rig.dir.path().join("worker.log");
        let file = std::fs::File::create(&log).unwrap();
        let metrics = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_rekeyd"))
            .arg("worker")
            .arg("--data-dir")
            .arg(rig.dir.path())
            .env("REKEYD_LOG__FILTER", "trace")
            .env("REKEYD_LOG__FORMAT", format)
            .env("REKEYD_METRICS__LISTEN", metrics.to_string())
            .env("REKEYD_WORKER__POLL_MS", "20")
            .env("RUST_BACKTRACE", "full")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            child,
            log,
            metrics,
        }
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks it to stop; gives the path of its log.
    fn stop(&mut self) -> PathBuf {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.clone()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All that the client library logs in this process.
#[derive(Clone, Default)]
struct ClientLog(Arc<Mutex<Vec<u8>>>);

impl ClientLog {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        tracing::trace!("the log of the client's process, where no cell is to be seen");
        log
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for ClientLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
