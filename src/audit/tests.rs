use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use futures::future::join_all;
use proptest::prelude::*;

use super::log::QUEUE_RECORDS;
use super::verify::verify_stream;
use super::*;
use crate::clock::{FakeClock, SharedClock, SystemClock, WallTime};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, Hour, OrgId};
use crate::kms::{ReasonCode, Use};
use crate::scope::Scope;
use crate::store::SliceKey;

/// A sink in memory that can fail, and whose sync can be held.
#[derive(Clone, Default)]
struct Memory(Arc<(Mutex<MemoryState>, Condvar)>);

#[derive(Default)]
struct MemoryState {
    written: Vec<u8>,
    synced_bytes: usize,
    syncs: u32,
    appends: u32,
    held: bool,
    broken: bool,
}

impl Memory {
    fn set(&self, change: impl FnOnce(&mut MemoryState)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn get<T>(&self, read: impl FnOnce(&MemoryState) -> T) -> T {
        read(&self.0.0.lock().unwrap())
    }

    fn synced_text(&self) -> String {
        self.get(|s| String::from_utf8(s.written[..s.synced_bytes].to_vec()).unwrap())
    }
}

impl Sink for Memory {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        while state.held {
            state = self.0.1.wait(state).unwrap();
        }
        state.appends += 1;
        if state.broken {
            return Err(io::Error::other("no space left"));
        }
        state.written.extend_from_slice(lines);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.syncs += 1;
        self.0.1.notify_all();
        while state.held {
            state = self.0.1.wait(state).unwrap();
        }
        state.synced_bytes = state.written.len();
        Ok(())
    }
}

fn origin() -> Origin {
    Origin {
        principal: "worker-role".into(),
        service: "rekeyd worker".into(),
        version: "0.1.0".into(),
        worker: Some("w-1".into()),
        host: "h-1".into(),
    }
}

fn org() -> OrgId {
    OrgId::new("acme").unwrap()
}

fn cmk() -> CmkArn {
    CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/k1").unwrap()
}

fn slice() -> SliceKey {
    let hour: Hour = "2019-02-13T17".parse().unwrap();
    SliceKey::messages(&org(), &crate::ids::ChannelId::new("c1").unwrap(), hour)
}

fn why() -> Use {
    Use::new(ReasonCode::Rekey, "yearly rotation")
}

fn start() -> WallTime {
    WallTime(1_700_000_000_123_456)
}

fn on_memory(clock: SharedClock) -> (AuditLog, Memory) {
    let memory = Memory::default();
    let log = AuditLog::with_sink(Box::new(memory.clone()), origin(), clock).unwrap();
    (log, memory)
}

fn lines(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// A closed log of seven records: its file name, bytes and head.
async fn closed_log() -> (PathBuf, Vec<u8>, Head) {
    let dir = tempfile::tempdir().unwrap();
    let log = AuditLog::open(dir.path(), origin(), FakeClock::at(start())).unwrap();
    for n in 0..5 {
        let mut record = Record::new(RecordType::Kms, "Decrypt").because(&why());
        record.records = Some(n);
        log.record(record);
    }
    let head = log.close().await.unwrap();
    let name = PathBuf::from(log.path().file_name().unwrap());
    (name, std::fs::read(log.path()).unwrap(), head)
}

fn check(name: &Path, bytes: &[u8], known: &[Head]) -> StreamReport {
    verify_stream(name, BufReader::new(bytes), known, &mut Vec::new()).unwrap()
}

#[tokio::test]
async fn a_line_has_every_field_under_its_name_and_no_absent_one() {
    let (log, memory) = on_memory(FakeClock::at(start()));
    let scope = Scope::Message {
        org: org(),
        workspace: crate::ids::WorkspaceId::new("w1").unwrap(),
        channel: crate::ids::ChannelId::new("c1").unwrap(),
        hour: "2019-02-13T17".parse().unwrap(),
    };
    let mut full = Record::new(RecordType::Kms, "ReEncrypt").because(&why());
    full.on_all_fields();
    let full = full.under(&scope);
    log.record(full);
    log.record(Record::new(RecordType::Verify, "scan"));
    log.durable().await.unwrap();

    let got = lines(&memory.synced_text());
    let fixed = [
        "v", "stream", "seq", "prev", "ts", "service", "version", "worker", "host",
    ];
    let documented: Vec<&str> = fixed
        .into_iter()
        .chain(
            "type phase action outcome code attempt latency_ms count first_ts last_ts org \
             context kind slice key_id cell_epoch wrap_epoch cmk cmk_to key_material_id \
             kms_request_id region caller_account records reason_code reason job_id \
             requested_by approvers principal end_user task token trace_id from to \
             body_sha256 counts streams"
                .split_whitespace(),
        )
        .collect();
    let full = got[1].as_object().unwrap();
    for field in &documented {
        assert!(full.contains_key(*field), "{field} is missing");
    }
    assert_eq!(full.len(), documented.len(), "{full:?}");
    for field in INTERNAL_FIELDS {
        assert!(documented.contains(&field), "{field}");
    }
    assert_eq!(full["ts"], "2023-11-14T22:13:20.123456Z");
    assert_eq!(full["first_ts"], "2023-11-14T22:13:20.123456Z");
    assert_eq!(full["context"]["hour"], "2019-02-13T17");
    assert_eq!(full["reason_code"], "rekey");
    assert_eq!(full["type"], "kms");

    let mut bare: Vec<&str> = got[2]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    bare.retain(|field| !fixed.contains(field));
    bare.sort_unstable();
    assert_eq!(bare, ["action", "outcome", "phase", "principal", "type"]);
    assert_eq!(got[2]["principal"], "worker-role");
    assert_eq!(got[0]["type"], "start");
    assert_eq!(got[0]["prev"], "0".repeat(64));
}

impl Record {
    /// Gives every field a value.
    fn on_all_fields(&mut self) {
        self.code = Some("c".into());
        self.attempt = Some(1);
        self.latency_ms = Some(2);
        self.count = Some(3);
        self.first_ts = Some(start());
        self.last_ts = Some(start());
        self.org = Some(org());
        self.context = Some(Scope::Search { org: org() }.context());
        self.kind = Some(slice().kind);
        self.slice = Some(slice().to_string());
        self.requested_by = Some("ops".into());
        self.end_user = Some("u-9".into());
        self.task = Some("3".into());
        self.token = Some(7);
        self.key_id = Some(KeyId([7; 16]));
        self.cell_epoch = Some(Epoch::FIRST);
        self.wrap_epoch = Some(Epoch::FIRST);
        self.cmk = Some(cmk());
        self.cmk_to = Some(cmk());
        self.key_material_id = Some("m".into());
        self.kms_request_id = Some("r".into());
        self.region = Some("eu-west-1".into());
        self.caller_account = Some("1".into());
        self.records = Some(4);
        self.job_id = Some(crate::ids::JobId::random());
        self.approvers = vec!["a".into()];
        self.principal = Some("p".into());
        self.trace_id = Some("t".into());
        self.from = Some("queued".into());
        self.to = Some("preflight".into());
        self.body_sha256 = Some("00".into());
        self.counts = Some(Counts::default());
        self.streams = vec![StreamRef {
            stream: "s".into(),
            seq: 1,
            head: "h".into(),
        }];
    }
}

#[test]
fn an_outcome_has_one_word_everywhere() {
    for outcome in [
        Outcome::Ok,
        Outcome::Transient,
        Outcome::Blocked,
        Outcome::Quarantined,
        Outcome::Fatal,
    ] {
        assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.as_str());
    }
}

#[tokio::test]
async fn a_reason_is_cut_to_its_limit() {
    let (log, memory) = on_memory(FakeClock::at(start()));
    let mut record = Record::new(RecordType::Verify, "scan");
    record.reason = Some("é".repeat(500));
    log.record(record);
    log.close().await.unwrap();
    let reason = lines(&memory.synced_text())[1]["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(reason, "é".repeat(REASON_MAX_CHARS));
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_named_after_its_stream() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("audit");
    let log = AuditLog::open(&dir, origin(), FakeClock::at(start())).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(log.path()), 0o600);
    assert_eq!(mode(&dir), 0o700);
    let name = log.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(
        name,
        format!("2023-11-14-rekeyd-worker-{}.jsonl", log.stream())
    );
    // A process that is killed right after its start has left its start record.
    assert_eq!(verify(&dir, &[]).unwrap().streams[0].records, 1);
}

/// docs/audit.md is what a customer reads: it explains every field that is
/// written, and says of the internal ones that they are.
#[tokio::test]
async fn the_documentation_explains_every_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (log, memory) = on_memory(FakeClock::at(start()));
    let mut full = Record::new(RecordType::Kms, "Decrypt").because(&why());
    full.on_all_fields();
    log.record(full);
    log.durable().await.unwrap();
    let row = |field: &str| {
        text.lines()
            .find(|l| l.starts_with(&format!("| `{field}` |")))
    };
    for field in lines(&memory.synced_text())[1].as_object().unwrap().keys() {
        let row = row(field).unwrap_or_else(|| panic!("docs/audit.md does not explain `{field}`"));
        let internal = INTERNAL_FIELDS.contains(&field.as_str());
        assert_eq!(row.contains("internal"), internal, "{field}");
    }
}

/// The table for OCSF has every field of the record, and nothing else.
#[tokio::test]
async fn every_field_has_its_place_in_ocsf() {
    let (log, memory) = on_memory(FakeClock::at(start()));
    let mut full = Record::new(RecordType::Kms, "Decrypt").because(&why());
    full.on_all_fields();
    log.record(full);
    log.durable().await.unwrap();
    let line = lines(&memory.synced_text())[1].clone();
    let written: Vec<&str> = line
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();

    // As they stand in the source: one that the test above forgot would not be
    // written here either.
    let source = include_str!("record.rs");
    let (_, fields) = source.split_once("pub struct Record {").unwrap();
    let (fields, _) = fields.split_once("\n}").unwrap();
    let names = fields
        .lines()
        .filter_map(|l| l.trim().strip_prefix("pub ")?.split_once(':'));
    for (name, _) in names {
        let name = name.replace("kind_of_record", "type");
        assert!(
            written.contains(&name.as_str()),
            "{name} is not written by this test"
        );
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("\n## In the words of OCSF\n").unwrap();
    let rows = section
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once("` | "));
    let mapped: Vec<(&str, &str)> = rows.collect();
    for field in &written {
        let times = mapped.iter().filter(|(name, _)| name == field).count();
        assert_eq!(
            times, 1,
            "`{field}` stands {times} times in the table for OCSF"
        );
    }
    for (name, place) in mapped {
        assert!(
            written.contains(&name),
            "`{name}` is no field of the record"
        );
        assert!(place.contains('`'), "`{name}` has no place in OCSF");
        let internal = INTERNAL_FIELDS.contains(&name);
        assert_eq!(place.contains("(internal)"), internal, "{name}");
    }
}

#[tokio::test]
async fn an_intact_log_verifies_and_names_its_head() {
    let (name, bytes, head) = closed_log().await;
    let report = check(&name, &bytes, std::slice::from_ref(&head));
    assert_eq!(report.broken, None);
    assert_eq!(report.records, 7);
    assert_eq!(report.ending, Ending::Stopped);
    assert_eq!(report.torn_bytes, 0);
    assert_eq!(report.head, Some(head));
    assert_eq!(report.service, "rekeyd worker");
}

#[tokio::test]
async fn every_flipped_bit_is_found() {
    let (name, bytes, head) = closed_log().await;
    let last_line = bytes[..bytes.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .unwrap()
        + 1;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let report = check(&name, &changed, std::slice::from_ref(&head));
            assert!(report.broken.is_some(), "byte {at} bit {bit}");
            // Without a known head, all but the last line is still proven.
            if at < last_line {
                assert!(
                    check(&name, &changed, &[]).broken.is_some(),
                    "byte {at} bit {bit}"
                );
            }
        }
    }
}

/// The lines after a change, as a file's bytes.
fn edit<'a>(lines: &[&'a str], change: impl FnOnce(&mut Vec<&'a str>)) -> Vec<u8> {
    let mut lines = lines.to_vec();
    change(&mut lines);
    lines
        .iter()
        .flat_map(|line| [*line, "\n"])
        .collect::<String>()
        .into_bytes()
}

#[tokio::test]
async fn removed_moved_added_and_foreign_lines_are_found_where_they_are() {
    let (name, bytes, head) = closed_log().await;
    let text = String::from_utf8(bytes).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let (_, other, _) = closed_log().await;
    let other = String::from_utf8(other).unwrap();
    let foreign = other.lines().nth(3).unwrap();
    let fair = all[2].replace("\"records\":1", "\"records\":9");
    let seq = |expected, found| Why::Seq { expected, found };
    let cut = seq(3, 4);
    let cases: [(&str, Vec<u8>, u64, Why); 8] = [
        (
            "the first removed",
            edit(&all, |l| l.retain(|x| *x != all[0])),
            1,
            seq(0, 1),
        ),
        (
            "one removed",
            edit(&all, |l| l.retain(|x| *x != all[3])),
            4,
            cut,
        ),
        ("two swapped", edit(&all, |l| l.swap(2, 3)), 3, seq(2, 3)),
        (
            "one doubled",
            edit(&all, |l| l.insert(3, all[2])),
            4,
            seq(3, 2),
        ),
        (
            "one of another stream",
            edit(&all, |l| l.insert(3, foreign)),
            4,
            {
                let line: serde_json::Value = serde_json::from_str(foreign).unwrap();
                Why::Stream(line["stream"].as_str().unwrap().to_owned())
            },
        ),
        (
            "the end cut off",
            edit(&all, |l| l.truncate(5)),
            6,
            Why::Cut(6),
        ),
        ("everything removed", Vec::new(), 1, Why::Cut(6)),
        (
            "one replaced by a fair copy",
            edit(&all, |l| l[2] = &fair),
            4,
            Why::Prev,
        ),
    ];
    for (what, changed, line, why) in cases {
        let broken = check(&name, &changed, std::slice::from_ref(&head))
            .broken
            .expect(what);
        assert_eq!((broken.line, &broken.why), (line, &why), "{what}");
        let offset: usize = changed
            .split_inclusive(|b| *b == b'\n')
            .take(line as usize - 1)
            .map(<[u8]>::len)
            .sum();
        assert_eq!(broken.offset, offset as u64, "{what}");
    }
    let blank = check(&name, &edit(&all, |l| l.insert(1, "")), &[])
        .broken
        .unwrap();
    assert_eq!((blank.line, matches!(blank.why, Why::Record(_))), (2, true));
    let renamed = Path::new("2023-11-14-x-01ARZ3NDEKTSV4RRFFQ69G5FAV.jsonl");
    assert!(matches!(
        check(renamed, text.as_bytes(), &[]).broken.unwrap().why,
        Why::Stream(_)
    ));
    assert_eq!(
        check(Path::new("notes.jsonl"), text.as_bytes(), &[])
            .broken
            .unwrap()
            .why,
        Why::Name
    );
}

#[tokio::test]
async fn a_stream_whose_file_is_gone_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (name, bytes, head) = closed_log().await;
    std::fs::write(dir.path().join(name), &bytes).unwrap();
    let gone = Head {
        stream: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        seq: 1,
        hash: [1; 32],
    };
    let report = verify(dir.path(), &[head, gone.clone()]).unwrap();
    assert_eq!(report.missing, [gone]);
    assert!(!report.is_intact());
    assert!(verify(dir.path(), &[]).unwrap().is_intact());
}

#[tokio::test]
async fn a_jobs_last_record_names_heads_that_a_later_check_can_use() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::at(start());
    let (one, two) = {
        let open = || AuditLog::open(dir.path(), origin(), clock.clone()).unwrap();
        (open(), open())
    };
    one.record(Record::new(RecordType::Verify, "scan"));
    let known = one.close().await.unwrap();
    let mut end = Record::transition(&org(), Some("draining"), "drained", &why());
    end.streams = vec![StreamRef::from(&known)];
    two.record(end);
    two.close().await.unwrap();

    let report = verify(dir.path(), &[]).unwrap();
    assert_eq!(report.named, std::slice::from_ref(&known));
    assert!(verify(dir.path(), &report.named).unwrap().is_intact());
    std::fs::remove_file(one.path()).unwrap();
    let report = verify(dir.path(), &report.named).unwrap();
    assert_eq!(report.missing, [known]);
    // Asked for one file, nobody misses the others.
    assert!(verify(two.path(), &report.named).unwrap().is_intact());
}

#[tokio::test]
async fn a_torn_tail_is_reported_and_is_not_a_break() {
    let (name, bytes, _) = closed_log().await;
    for end in 0..bytes.len() {
        let report = check(&name, &bytes[..end], &[]);
        let whole = bytes[..end].iter().filter(|b| **b == b'\n').count() as u64;
        let torn = end
            - bytes[..end]
                .iter()
                .rposition(|b| *b == b'\n')
                .map_or(0, |n| n + 1);
        assert_eq!(report.broken, None, "cut at {end}");
        assert_eq!(
            (report.records, report.torn_bytes),
            (whole, torn as u64),
            "cut at {end}"
        );
        assert_eq!(report.ending, Ending::Open, "cut at {end}");
    }
}

#[tokio::test]
async fn durable_means_synced() {
    let (log, memory) = on_memory(SystemClock::shared());
    for n in 0..20 {
        let mut record = Record::new(RecordType::Verify, "scan");
        record.records = Some(n);
        let ticket = log.record(record);
        log.durable_up_to(ticket).await.unwrap();
        assert!(
            memory.synced_text().contains(&format!("\"records\":{n},")),
            "{n}"
        );
        assert_eq!(log.head().seq, n + 1);
    }
}

#[tokio::test]
async fn one_sync_serves_all_who_wait() {
    let (log, memory) = on_memory(SystemClock::shared());
    memory.set(|s| s.held = true);
    log.record(Record::new(RecordType::Verify, "first"));
    let first = tokio::spawn({
        let log = log.clone();
        async move { log.durable().await }
    });
    let mut rest = Box::pin(join_all((0..100).map(|_| async {
        let ticket = log.record(Record::new(RecordType::Verify, "later"));
        log.durable_up_to(ticket).await
    })));
    assert!(futures::poll!(rest.as_mut()).is_pending());
    memory.set(|s| s.held = false);
    first.await.unwrap().unwrap();
    for result in rest.await {
        result.unwrap();
    }
    // One for the start; then at most one for what was under way when the rest
    // came, one for the rest.
    let syncs = memory.get(|s| s.syncs);
    assert!((2..=4).contains(&syncs), "{syncs} syncs for 101 waiters");
    assert_eq!(lines(&memory.synced_text()).len(), 102);
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_promised_and_nothing_is_written() {
    let (log, memory) = on_memory(SystemClock::shared());
    let good = log.record(Record::new(RecordType::Verify, "good"));
    log.durable_up_to(good).await.unwrap();
    memory.set(|s| s.broken = true);
    let bad = log.record(Record::new(RecordType::Verify, "bad"));
    let error = log.durable_up_to(bad).await.unwrap_err();
    assert!(error.to_string().contains("no space left"), "{error}");

    let appends = memory.get(|s| s.appends);
    memory.set(|s| s.broken = false);
    let later = log.record(Record::new(RecordType::Verify, "later"));
    assert!(log.check().is_err());
    assert!(log.durable().await.is_err());
    assert!(log.durable_up_to(later).await.is_err());
    assert!(matches!(log.close().await, Err(AuditError::Failed { .. })));
    assert_eq!(memory.get(|s| s.appends), appends);
}

#[tokio::test]
async fn a_log_that_cannot_start_says_so() {
    let memory = Memory::default();
    memory.set(|s| s.broken = true);
    let log = AuditLog::with_sink(Box::new(memory), origin(), SystemClock::shared());
    assert!(matches!(log.err(), Some(AuditError::Failed { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    let log = AuditLog::open(file.path(), origin(), SystemClock::shared());
    assert!(matches!(log.err(), Some(AuditError::Open { .. })));
}

#[tokio::test]
async fn after_the_stop_record_nothing_is_taken() {
    let (log, memory) = on_memory(FakeClock::at(start()));
    let head = log.close().await.unwrap();
    assert_eq!(log.close().await.unwrap(), head);
    let late = log.record(Record::new(RecordType::Verify, "late"));
    assert!(matches!(
        log.durable_up_to(late).await,
        Err(AuditError::Closed { .. })
    ));
    let all = lines(&memory.synced_text());
    assert_eq!(all.len(), 2);
    assert_eq!(all[1]["type"], "stop");
}

#[tokio::test]
async fn dropping_the_last_handle_writes_what_waits_but_no_stop() {
    let (log, memory) = on_memory(FakeClock::at(start()));
    log.record(Record::new(RecordType::Verify, "scan"));
    log.cache_hit(cached(&slice(), &cmk()), &why());
    drop(log);
    let all = lines(&memory.synced_text());
    assert_eq!(
        all.iter()
            .map(|l| l["action"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["start", "scan", "cache_hit"]
    );
}

#[test]
fn many_threads_make_one_chain_in_bounded_memory() {
    let (log, memory) = on_memory(SystemClock::shared());
    memory.set(|s| s.held = true);
    let each = QUEUE_RECORDS;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..each {
                    log.record(Record::new(RecordType::Verify, "scan"));
                    assert!(log.queued() <= QUEUE_RECORDS);
                }
            });
        }
        // The writer holds one batch at most; then the queue fills and stays full.
        while log.queued() < QUEUE_RECORDS {
            std::thread::yield_now();
        }
        memory.set(|s| s.held = false);
    });
    let stream = log.stream().to_owned();
    drop(log);
    let name = PathBuf::from(format!("x-{stream}.jsonl"));
    let report = check(&name, memory.synced_text().as_bytes(), &[]);
    assert_eq!(report.broken, None);
    assert_eq!(report.records, 1 + 4 * each as u64);
}

#[test]
fn a_failed_log_lets_go_of_those_it_held_back_and_keeps_nothing() {
    let (log, memory) = on_memory(SystemClock::shared());
    memory.set(|s| s.held = true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 * QUEUE_RECORDS {
                log.record(Record::new(RecordType::Verify, "scan"));
            }
        });
        while log.queued() < QUEUE_RECORDS {
            std::thread::yield_now();
        }
        memory.set(|s| {
            s.broken = true;
            s.held = false;
        });
    });
    assert!(log.check().is_err());
    assert_eq!(log.queued(), 0);
    log.record(Record::new(RecordType::Verify, "scan"));
    assert_eq!(log.queued(), 0);
}

fn cached<'a>(slice: &'a SliceKey, cmk: &'a CmkArn) -> CachedUse<'a> {
    CachedUse {
        action: "cache_hit",
        slice,
        key_id: KeyId([7; 16]),
        wrap_epoch: Epoch::FIRST,
        cmk,
        principal: None,
    }
}

#[tokio::test]
async fn cache_hits_are_counted_by_the_minute() {
    let clock = FakeClock::at(start());
    let (log, memory) = on_memory(clock.clone());
    let (slice, cmk) = (slice(), cmk());
    let read = Use::new(ReasonCode::MessageRead, "open channel");
    for _ in 0..3 {
        log.cache_hit(cached(&slice, &cmk), &read);
        clock.advance(Duration::from_secs(1));
    }
    log.cache_hit(cached(&slice, &cmk), &why());
    // The next minute's first use shows that this minute is over.
    clock.advance(Duration::from_secs(60));
    log.cache_hit(cached(&slice, &cmk), &read);
    log.durable().await.unwrap();
    let hits = |text: &str| -> Vec<(u64, String, String, String)> {
        let word = |l: &serde_json::Value, f: &str| l[f].as_str().unwrap().to_owned();
        lines(text)
            .iter()
            .filter(|l| l["type"] == "cache")
            .map(|l| {
                (
                    l["count"].as_u64().unwrap(),
                    word(l, "reason_code"),
                    word(l, "first_ts"),
                    word(l, "last_ts"),
                )
            })
            .collect()
    };
    let at = |s: &str| format!("2023-11-14T22:{s}.123456Z");
    let mut expected = vec![
        (3, "message.read".to_owned(), at("13:20"), at("13:22")),
        (1, "rekey".to_owned(), at("13:23"), at("13:23")),
    ];
    assert_eq!(hits(&memory.synced_text()), expected);
    log.close().await.unwrap();
    expected.push((1, "message.read".to_owned(), at("14:23"), at("14:23")));
    assert_eq!(hits(&memory.synced_text()), expected);
}

proptest! {
    /// However uses fall on keys, reasons and minutes, none is lost and none is
    /// counted twice, and no count spans two minutes.
    #[test]
    fn every_cache_hit_is_counted_once(
        uses in proptest::collection::vec((0u8..3, any::<bool>(), 0u64..70), 1..200),
    ) {
        let mut hits = super::cache_hits::CacheHits::default();
        let (slice, cmk) = (slice(), cmk());
        let mut now = start();
        let mut records = Vec::new();
        for (key, write, wait_s) in &uses {
            now = now.plus(Duration::from_secs(*wait_s));
            let code = if *write { ReasonCode::MessageWrite } else { ReasonCode::MessageRead };
            let used = CachedUse { key_id: KeyId([*key; 16]), ..cached(&slice, &cmk) };
            records.extend(hits.take_due(now));
            hits.hit(now, used, &Use::new(code, ""));
        }
        records.extend(hits.take_all());
        let counted: u64 = records.iter().map(|r| r.count.unwrap()).sum();
        prop_assert_eq!(counted, uses.len() as u64);
        for r in &records {
            let minute = |t: Option<WallTime>| t.unwrap().0.div_euclid(60_000_000);
            prop_assert_eq!(minute(r.first_ts), minute(r.last_ts));
        }
        let mut groups: Vec<_> = records
            .iter()
            .map(|r| (r.key_id, r.reason_code, r.first_ts.unwrap().0.div_euclid(60_000_000)))
            .collect();
        let all = groups.len();
        groups.sort();
        groups.dedup();
        prop_assert_eq!(groups.len(), all);
    }
}
