//! A certificate is what was signed, in either form, or is refused.

use serde_json::{Value, json};

use super::content::Sources;
use super::*;
use crate::job::{Counts, JobRow, JobState, Transition};

/// A job at its end; its reason is hostile.
pub(crate) fn job() -> JobRow {
    let request = json!({
        "v": 1, "kind": "rekey", "job_id": "0f8e4d1a-9a53-4f0a-8f0e-0b1f0c9d7e55", "org": "acme",
        "to_cmk": "arn:aws:kms:eu-central-1:111122223333:key/bbbbbbbb",
        "requested_by": "ops", "reason": "</script><script>alert(1)</script> & \"more\"",
    });
    let rows = json!({
        "scanned": 10, "rewritten": 7, "current": 1, "changed": 1, "expired": 1, "empty": 0,
        "blocked": 0, "quarantined": 0,
    });
    let job = json!({
        "request": request, "body_sha256": "00", "recorded_ms": 1_790_000_000_000_u64,
        "state": "drained", "since_ms": 1_790_000_090_000_u64, "why": "", "transitions": 3,
        "token": 2, "lease": null,
        "activated": {
            "epoch": 2, "at_ms": 1_790_000_001_000_u64,
            "from_cmk": "arn:aws:kms:eu-central-1:111122223333:key/aaaaaaaa",
        },
        "estimate": {"slices": 4, "kms_calls": 16, "seconds": 60},
        "rounds": 3, "rewrite_round": 1, "round": null, "preflights": 0, "retry_ms": null,
        "drain_until_ms": null, "rewriting": rows, "proof": rows,
        "effort": {
            "slices": 12, "bytes": 999, "kms_calls": 16, "keys_made": 4, "keys_rewrapped": 0,
            "finds": 0,
        },
        "takeovers": 1,
        "streams": [{"stream": "01JD9ZK3Q2V8W6X4T7N5B1M0RC", "seq": 41, "head": "ab"}],
        "blocked_slices": 0, "verdict": "no live cell or key needs it", "freed": [],
    });
    serde_json::from_value(job).unwrap()
}

fn step(from: JobState, to: JobState) -> Transition {
    Transition {
        from,
        to,
        at_ms: 1_790_000_000_500,
        who: "worker-1".to_owned(),
        why: "<b>because</b>".to_owned(),
    }
}

pub(crate) fn certificate_of(job: &JobRow, lapsed: bool) -> Certificate {
    let history = [
        step(JobState::Rewriting, JobState::Blocked),
        step(JobState::Blocked, JobState::Blocked),
        step(JobState::Blocked, JobState::Rewriting),
    ];
    Certificate::of(&Sources {
        job,
        lapsed,
        history: &history,
        throttles: &[],
        blocked: &[],
        quarantined: &[],
        now_ms: 1_790_000_100_000,
        made_by: "ops@host",
    })
}

struct Keys {
    dir: tempfile::TempDir,
    key: SigningKey,
}

fn keys() -> Keys {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.key");
    let public = new_key_file(&path).unwrap();
    let key = SigningKey::read(&path).unwrap();
    assert_eq!(key.public(), public);
    Keys { dir, key }
}

#[test]
fn what_follows_from_a_job_is_said_and_nothing_more() {
    let good = certificate_of(&job(), false);
    assert_eq!(good.outcome.old_cmk_may_be_disabled, Some(true));
    assert_eq!((good.done.seconds, good.evidence.times_blocked), (90, 1));
    assert!(good.evidence.counts_balance);
    let lapsed = certificate_of(&job(), true);
    assert_eq!(lapsed.outcome.old_cmk_may_be_disabled, Some(false));
    let earlier = JobRow {
        state: JobState::Verified,
        proof: Counts {
            scanned: 11,
            ..job().proof
        },
        ..job()
    };
    let earlier = certificate_of(&earlier, false);
    assert_eq!(earlier.outcome.old_cmk_may_be_disabled, Some(false));
    assert!(!earlier.outcome.at_its_end && !earlier.evidence.counts_balance);
    assert_eq!(earlier.done.seconds, 100, "until now");
}

#[test]
fn a_signed_document_is_good_in_both_forms_however_its_json_is_laid_out() {
    let keys = keys();
    let certificate = certificate_of(&job(), false);
    let document = Document::new(&certificate, Some(&keys.key));
    let trusted = keys.key.public();
    let value = document.to_json();
    for text in [
        value.to_string(),
        serde_json::to_string_pretty(&value).unwrap(),
    ] {
        let checked = Document::check(&text, trusted).unwrap();
        assert_eq!(
            (checked.form, &checked.certificate),
            (Form::Json, &certificate)
        );
    }
    let page = document.to_page().unwrap();
    let checked = Document::check(&page, trusted).unwrap();
    assert_eq!(
        (checked.form, &checked.certificate),
        (Form::Page, &certificate)
    );
    assert!(
        !page.contains("<script>alert") && !page.contains("<b>because"),
        "{page}"
    );
    assert_eq!(
        page.matches("</script>").count(),
        1,
        "nothing ends it early"
    );
    assert!(
        !page.contains("http://") && !page.contains("https://"),
        "nothing from elsewhere"
    );
}

#[test]
fn each_change_is_found() {
    let keys = keys();
    let document = Document::new(&certificate_of(&job(), false), Some(&keys.key));
    let trusted = keys.key.public();
    let check = |text: &str| Document::check(text, trusted).map(|_| ());
    let good = document.to_json();
    // Every field that holds a text or a number, one after the other.
    let mut paths = Vec::new();
    leaves(&good["certificate"], String::new(), &mut paths);
    assert!(paths.len() > 60, "{paths:?}");
    for path in paths {
        let mut bad = good.clone();
        let field = bad["certificate"].pointer_mut(&path).unwrap();
        *field = match field {
            Value::String(text) => json!(format!("{text}x")),
            Value::Number(n) => json!(n.as_u64().unwrap() + 1),
            Value::Bool(b) => json!(!*b),
            other => panic!("{path}: {other}"),
        };
        assert_eq!(check(&bad.to_string()), Err(BadDocument::Changed), "{path}");
    }
    let mut more = good.clone();
    more["certificate"]["also"] = json!(1);
    assert_eq!(check(&more.to_string()), Err(BadDocument::Changed));

    let page = document.to_page().unwrap();
    let repainted = page.replacen("<td>acme</td>", "<td>other</td>", 1);
    assert_ne!(page, repainted);
    assert_eq!(check(&repainted), Err(BadDocument::PageChanged));
    // With a document of another time within it.
    let other = Document::new(&certificate_of(&job(), true), Some(&keys.key));
    let swapped = page.replace(
        &good.to_string().replace('<', "\\u003c"),
        &other.to_json().to_string().replace('<', "\\u003c"),
    );
    assert_ne!(page, swapped);
    assert_eq!(check(&swapped), Err(BadDocument::PageChanged));
}

#[test]
fn who_signed_it_decides() {
    let (ours, theirs) = (keys(), keys());
    let certificate = certificate_of(&job(), false);
    let trusted = ours.key.public();
    let check =
        |document: &Document| Document::check(&document.to_json().to_string(), trusted).map(|_| ());
    assert_eq!(
        check(&Document::new(&certificate, None)),
        Err(BadDocument::NotSigned)
    );
    let by_others = Document::new(&certificate, Some(&theirs.key));
    assert_eq!(
        check(&by_others),
        Err(BadDocument::OtherKey(theirs.key.public()))
    );
    // Their signature under our name.
    let mut renamed = by_others.to_json();
    renamed["signature"]["public_key"] = json!(trusted.to_hex());
    let renamed = Document::check(&renamed.to_string(), trusted);
    assert_eq!(renamed.map(|_| ()), Err(BadDocument::Changed));
    for text in ["", "{}", "[]", "{\"certificate\": 1}", "<html></html>"] {
        let refused = Document::check(text, trusted);
        assert!(matches!(refused, Err(BadDocument::NotOne(_))), "{text}");
    }
}

#[test]
fn a_key_file_is_private_and_not_written_over() {
    use std::os::unix::fs::PermissionsExt;
    let keys = keys();
    let path = keys.dir.path().join("report.key");
    assert!(matches!(new_key_file(&path), Err(KeyFileError::Io { .. })));
    let pem = keys.dir.path().join("public.pem");
    std::fs::write(&pem, keys.key.public().to_pem()).unwrap();
    assert_eq!(PublicKey::read(&pem).unwrap(), keys.key.public());
    std::fs::write(&pem, keys.key.public().to_hex()).unwrap();
    assert_eq!(PublicKey::read(&pem).unwrap(), keys.key.public());
    assert!(matches!(
        PublicKey::read(&path),
        Err(KeyFileError::NotAKey { .. })
    ));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        SigningKey::read(&path),
        Err(KeyFileError::NotPrivate(_))
    ));
}

/// The pair of RFC 8032, section 7.1, test 2, in the files that openssl 3 writes.
#[test]
fn keys_and_signatures_are_those_of_the_standard() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, label: &str, body: &str| {
        let path = dir.path().join(name);
        let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let private = "MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7";
    let public = "MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=";
    let key = SigningKey::read(&file("key", "PRIVATE KEY", private)).unwrap();
    let read = PublicKey::read(&file("pub", "PUBLIC KEY", public)).unwrap();
    assert_eq!(key.public(), read);
    assert_eq!(
        read.to_hex(),
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    );
    let signature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                     085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
    assert_eq!(hex::encode(key.sign(b"r")), signature);
    assert!(read.has_signed(b"r", &hex::decode(signature).unwrap()));
}

fn leaves(value: &Value, at: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, format!("{at}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                leaves(value, format!("{at}/{n}"), paths);
            }
        }
        Value::Null => {}
        _ => paths.push(at),
    }
}
