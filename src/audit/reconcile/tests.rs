use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::*;

const CMK: &str = "arn:aws:kms:eu-west-1:111122223333:key/k1";
const ROLE: &str = "arn:aws:iam::444455556666:role/service/rekeyd-worker";
const SESSION: &str = "arn:aws:sts::444455556666:assumed-role/rekeyd-worker/s1";
const AUDITOR: &str = "arn:aws:iam::111122223333:user/auditor";

/// A time of one day, so many seconds after its start.
fn at(s: u32) -> String {
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("2026-11-22T{h:02}:{m:02}:{s:02}")
}

fn record(seq: u64, s: u32, kind: &str, change: Value) -> Value {
    let mut record = json!({
        "v": 1, "stream": "01JD9ZK3Q2V8W6X4T7N5B1M0RC", "seq": seq, "prev": "", "type": kind,
        "ts": format!("{}.250000Z", at(s)), "phase": "result", "action": "start",
    });
    for (name, value) in change.as_object().unwrap() {
        record[name] = value.clone();
    }
    record
}

fn call(seq: u64, s: u32, request: &str) -> Value {
    let change = json!({
        "action": "Decrypt", "outcome": "ok", "cmk": CMK, "kms_request_id": request,
        "context": {"organization": "acme"}, "principal": SESSION,
    });
    record(seq, s, "kms", change)
}

/// As AWS shows one: see the pages that `trail` names.
fn event(s: u32, request: &str) -> Value {
    json!({
        "eventVersion": "1.08",
        "userIdentity": {
            "type": "AssumedRole", "principalId": "AROA:s1", "arn": SESSION,
            "accountId": "444455556666", "accessKeyId": "ASIA",
            "sessionContext": {"sessionIssuer": {"type": "Role", "arn": ROLE}},
        },
        "eventTime": format!("{}Z", at(s)), "eventSource": "kms.amazonaws.com",
        "eventName": "Decrypt", "awsRegion": "eu-west-1", "sourceIPAddress": "192.0.2.0",
        "userAgent": "aws-sdk-rust", "requestParameters": {
            "encryptionAlgorithm": "SYMMETRIC_DEFAULT", "keyId": CMK,
            "encryptionContext": {"organization": "acme"},
        },
        "responseElements": null, "requestID": request, "eventID": request, "readOnly": true,
        "resources": [{"accountId": "111122223333", "type": "AWS::KMS::Key", "ARN": CMK}],
        "eventType": "AwsApiCall", "recipientAccountId": "111122223333",
    })
}

fn by(mut event: Value, arn: &str) -> Value {
    event["userIdentity"] = json!({"type": "IAMUser", "arn": arn, "userName": "x"});
    event
}

/// Hours with a call every ten minutes, r0 to r17, each with its event.
fn three_hours() -> (Vec<Value>, Vec<Value>) {
    let mut records = vec![record(0, 0, "start", json!({}))];
    let mut events = Vec::new();
    for n in 0..18 {
        records.push(call(u64::from(n) + 1, n * 600, &format!("r{n}")));
        events.push(event(n * 600, &format!("r{n}")));
    }
    records.push(record(19, 18 * 600, "stop", json!({})));
    let mut other = event(18 * 600, "s3");
    other["eventSource"] = json!("s3.amazonaws.com");
    events.push(other);
    (records, events)
}

struct Files {
    _dir: tempfile::TempDir,
    audit: PathBuf,
    trail: Vec<PathBuf>,
}

fn files(records: &[Value], trail: &[(&str, Vec<u8>)]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let audit = dir.path().join("audit");
    std::fs::create_dir(&audit).unwrap();
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    std::fs::write(audit.join("a.jsonl"), lines).unwrap();
    let write = |(name, bytes): &(&str, Vec<u8>)| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    Files {
        audit,
        trail: trail.iter().map(write).collect(),
        _dir: dir,
    }
}

impl Files {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            audit: &self.audit,
            trail: &self.trail,
            slack: Duration::from_secs(900),
            from: None,
            to: None,
            principals: &[],
            list: 2,
        }
    }
}

fn document(events: &[Value]) -> Vec<u8> {
    json!({"Records": events}).to_string().into_bytes()
}

fn judged(records: &[Value], events: &[Value]) -> Reconciled {
    let files = files(records, &[("trail.json", document(events))]);
    reconcile(&files.inputs()).unwrap()
}

fn requests(list: &Listed<Event>) -> Vec<&str> {
    let ids = list.listed.iter().map(|event| event.request_id.as_deref());
    ids.map(Option::unwrap).collect()
}

#[test]
fn what_agrees_is_joined_whatever_the_form_of_the_files() {
    let (records, events) = three_hours();
    let packed = |bytes: &[u8]| {
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    };
    let (first, second) = events.split_at(7);
    let lines: String = events.iter().map(|event| format!("{event}\n\n")).collect();
    let pretty = serde_json::to_vec_pretty(&json!({"Records": events})).unwrap();
    let forms: [Vec<(&str, Vec<u8>)>; 6] = [
        vec![("a.json", document(&events))],
        vec![("a.json", pretty)],
        vec![
            ("b.json.gz", packed(&document(second))),
            ("a.json.gz", packed(&document(first))),
        ],
        vec![("a.jsonl", lines.clone().into_bytes())],
        vec![("a.jsonl.gz", packed(lines.as_bytes()))],
        // As `zcat` and `cat` put them together, packed and not.
        vec![
            ("a.json", [document(first), document(second)].concat()),
            (
                "b.json.gz",
                [packed(&document(&[])), packed(&document(&[]))].concat(),
            ),
        ],
    ];
    for form in forms {
        let names: Vec<&str> = form.iter().map(|(name, _)| *name).collect();
        let files = files(&records, &form);
        let done = reconcile(&files.inputs()).unwrap();
        assert!(done.all_joined(), "{names:?}: {done:?}");
        assert_eq!(
            (done.joined, done.records, done.events),
            (18, 18, 18),
            "{names:?}"
        );
        assert_eq!(done.others, [], "{names:?}");
    }
}

#[test]
fn a_call_without_a_record_and_a_record_without_a_call_are_named() {
    let (mut records, mut events) = three_hours();
    records.remove(6);
    events.remove(9);
    let done = judged(&records, &events);
    assert_eq!(requests(&done.calls_without_record), ["r5"]);
    assert_eq!(done.records_without_call.count, 1);
    let missing = &done.records_without_call.listed[0];
    assert_eq!(missing.kms_request_id.as_deref(), Some("r9"));
    assert_eq!((missing.seq, done.joined), (10, 16));
    assert!(!done.all_joined());
    // All are counted, and as many are named as was asked for.
    let (records, mut events) = three_hours();
    events.drain(4..9);
    let done = judged(&records, &events);
    assert_eq!(done.records_without_call.count, 5);
    assert_eq!(done.records_without_call.listed.len(), 2);
}

#[test]
fn what_is_near_an_end_or_outside_is_not_missed() {
    let (records, mut events) = three_hours();
    // The trail ends at the other service's event, 10 minutes after the last call.
    events.retain(|event| event["requestID"] != "r17" && event["requestID"] != "r1");
    events.remove(0);
    let done = judged(&records, &events);
    // r0 is before the trail begins, r1 within the slack of it, r17 of its end.
    assert_eq!(done.records_outside, 2);
    assert_eq!(
        (done.not_yet_delivered, done.records_without_call.count),
        (1, 0)
    );
    assert!(done.all_joined());

    // A span that is named is taken as it is.
    let files = files(&records, &[("trail.json", document(&events))]);
    let inputs = Inputs {
        from: Some("2026-11-22T00:00:00Z".parse().unwrap()),
        to: Some("2026-11-22T03:00:00Z".parse().unwrap()),
        ..files.inputs()
    };
    assert_eq!(reconcile(&inputs).unwrap().records_without_call.count, 3);

    // A call after the log's end: nobody says that there should be a record.
    let (records, mut events) = three_hours();
    events.push(event(5 * 3600, "late"));
    let done = judged(&records, &events);
    assert_eq!(
        (done.calls_outside, done.calls_without_record.count),
        (1, 0)
    );
    let apart = judged_err(&records, &[event(23 * 3600, "r1")]);
    assert!(matches!(apart, ReconcileError::Apart { .. }), "{apart}");
    let nothing = judged_err(&records, &[]);
    assert!(matches!(nothing, ReconcileError::Nothing(_)), "{nothing}");
}

fn judged_err(records: &[Value], events: &[Value]) -> ReconcileError {
    let files = files(records, &[("trail.json", document(events))]);
    reconcile(&files.inputs()).unwrap_err()
}

#[test]
fn others_who_use_the_same_key_are_listed_apart() {
    let (records, mut events) = three_hours();
    for s in [1000, 2000] {
        events.push(by(event(s, &format!("x{s}")), AUDITOR));
    }
    let mut denied = by(event(3000, "x3000"), AUDITOR);
    denied["errorCode"] = json!("AccessDenied");
    events.push(denied);
    // Of ours, but nothing that rekeyd calls.
    let mut policy = event(4000, "x4000");
    policy["eventName"] = json!("PutKeyPolicy");
    events.push(policy);
    // Another key is nobody's business here.
    let mut elsewhere = by(event(5000, "x5000"), AUDITOR);
    elsewhere["resources"][0]["ARN"] = json!("arn:aws:kms:eu-west-1:111122223333:key/k9");
    elsewhere["requestParameters"]["keyId"] = json!("arn:aws:kms:eu-west-1:111122223333:key/k9");
    events.push(elsewhere);
    let done = judged(&records, &events);
    assert!(done.all_joined(), "{done:?}");
    let told: Vec<_> = done
        .others
        .iter()
        .map(|o| {
            (
                o.principal.as_str(),
                o.operation.as_str(),
                o.calls,
                o.failed,
            )
        })
        .collect();
    assert_eq!(
        told,
        [(AUDITOR, "Decrypt", 3, 1), (ROLE, "PutKeyPolicy", 1, 0)]
    );

    // Said to be ours, each of these calls needs a record.
    let files = files(&records, &[("trail.json", document(&events))]);
    let ours = [AUDITOR.to_owned()];
    let inputs = Inputs {
        principals: &ours,
        ..files.inputs()
    };
    // The key is another, but who calls is not.
    assert_eq!(reconcile(&inputs).unwrap().calls_without_record.count, 4);
}

#[test]
fn ours_are_known_by_the_role_and_by_the_session_of_a_record() {
    let (records, mut events) = three_hours();
    // Another session of the role whose calls have records.
    let mut session = event(1500, "new");
    session["userIdentity"]["arn"] =
        json!("arn:aws:sts::444455556666:assumed-role/rekeyd-worker/s2");
    events.push(session);
    assert_eq!(
        requests(&judged(&records, &events).calls_without_record),
        ["new"]
    );
    // A session that only a record names: no call of the role has one.
    let record_of_r0 = vec![records[1].clone(), records[19].clone()];
    let mut unknown = event(0, "gone");
    unknown["userIdentity"]["sessionContext"] = Value::Null;
    let done = judged(&record_of_r0, &[unknown, event(600, "gone2")]);
    assert_eq!(requests(&done.calls_without_record), ["gone", "gone2"]);
}

#[test]
fn refusals_are_joined_and_what_differs_is_named() {
    let (mut records, mut events) = three_hours();
    let refuse = |record: &mut Value, code: &str| {
        record["outcome"] = json!("blocked");
        record["code"] = json!(code);
    };
    // Refused on both sides, under the two names that AWS has for it.
    refuse(&mut records[3], "AccessDeniedException");
    events[2]["errorCode"] = json!("AccessDenied");
    // Done by the KMS, of no use to us.
    refuse(&mut records[4], "ResponseMismatch");
    // The one says so, the other not.
    refuse(&mut records[6], "AccessDeniedException");
    events[7]["errorCode"] = json!("DisabledException");
    events[9]["eventName"] = json!("GenerateDataKey");
    // Never answered.
    records[12]
        .as_object_mut()
        .unwrap()
        .remove("kms_request_id");
    events.remove(11);
    // In two accounts' trails.
    events.push(event(0, "r0"));
    let done = judged(&records, &events);
    assert_eq!(done.disagree.count, 3, "{:?}", done.disagree);
    let said: Vec<_> = done
        .disagree
        .listed
        .iter()
        .map(|d| d.what.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "the record says that it failed",
            "the record says that it was done"
        ]
    );
    assert_eq!((done.unanswered, done.copies, done.joined), (1, 1, 17));
    assert_eq!(
        done.calls_without_record.count + done.records_without_call.count,
        0
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_place_and_fails() {
    let (records, events) = three_hours();
    let mut no_time = event(600, "x");
    no_time["eventTime"] = json!("yesterday");
    let mut with_bad = events.clone();
    with_bad.insert(3, no_time);
    with_bad.insert(5, json!("no event"));
    let good = document(&events);
    let cut = good[..good.len() - 40].to_vec();
    let lines = format!("{}\n{{\"half\n{}\n", events[0], events[1]);
    let elsewhere = b"{\"Records\":[]}{\"Events\":[]}".to_vec();
    for (bytes, places) in [
        (document(&with_bad), vec!["event 4", "event 6"]),
        (cut, vec!["line 1, column"]),
        (lines.into_bytes(), vec!["line 2"]),
        (elsewhere, vec!["after event 0"]),
    ] {
        let named = files(&records, &[("a.json", good.clone()), ("b.json", bytes)]);
        let done = reconcile(&named.inputs()).unwrap();
        let at: Vec<_> = done
            .bad_lines
            .listed
            .iter()
            .map(|bad| bad.at.as_str())
            .collect();
        assert_eq!(at.len(), places.len(), "{at:?}");
        for (at, place) in at.iter().zip(places) {
            assert!(at.starts_with(place), "{at}");
        }
        assert!(done.bad_lines.listed[0].file.ends_with("b.json"));
        assert!(!done.all_joined());
    }
    // Half a line at the end of a stream is what a crash leaves; in the middle it
    // is not.
    let torn = files(&records, &[("a.json", good)]);
    let stream = torn.audit.join("a.jsonl");
    let text = std::fs::read_to_string(&stream).unwrap();
    std::fs::write(&stream, format!("{text}{{\"v\":1,\"str")).unwrap();
    assert!(reconcile(&torn.inputs()).unwrap().all_joined());
    std::fs::write(&stream, format!("{text}{{\"v\":1,\"str\n")).unwrap();
    let done = reconcile(&torn.inputs()).unwrap();
    assert_eq!(done.bad_lines.listed[0].at, "line 21");
}

#[test]
fn a_directory_of_cloudtrails_is_gone_through_without_its_digests() {
    let dir = tempfile::tempdir().unwrap();
    let day = dir
        .path()
        .join("AWSLogs/1111/CloudTrail/eu-west-1/2026/11/22");
    let digests = dir.path().join("AWSLogs/1111/CloudTrail-Digest/eu-west-1");
    for folder in [&day, &digests] {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("a.json.gz"), b"").unwrap();
    }
    std::fs::write(day.join("readme.txt"), b"").unwrap();
    assert_eq!(trail_files_of(dir.path()).unwrap(), [day.join("a.json.gz")]);
    assert!(trail_files_of(&day.join("a.json.gz")).is_ok());
}
