use super::*;

const A: &str = "arn:aws:kms:local:000000000000:key/a";
const B: &str = "arn:aws:kms:local:000000000000:key/b";

fn message(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> String {
    let mut value = serde_json::json!({
        "v": 1, "kind": "rekey", "job_id": "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
        "org": "acme", "from_cmk": A, "to_cmk": B, "requested_by": "ops@acme",
    });
    change(value.as_object_mut().unwrap());
    value.to_string()
}

#[test]
fn a_good_message_parses_and_prints_the_same_request() {
    let text = message(|m| {
        m.insert("not_before".into(), "2026-01-01T00:00:00Z".into());
    });
    let parsed = JobMessage::parse(&text).unwrap();
    assert_eq!(JobMessage::parse(&parsed.to_json()).unwrap(), parsed);
    assert_eq!(parsed.mode(), Mode::Reencrypt);
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let cases: Vec<(String, &str)> = vec![
        ("{".into(), "not_json"),
        ("[]".into(), "not_json"),
        ("x".repeat(MAX_BODY_BYTES + 1), "too_large"),
        (
            message(|m| {
                m.insert("v".into(), 2.into());
            }),
            "unknown_version",
        ),
        (
            message(|m| {
                m.remove("v");
            }),
            "unknown_version",
        ),
        (
            message(|m| {
                m.insert("kind".into(), "wipe".into());
            }),
            "unknown_kind",
        ),
        (
            message(|m| {
                m.insert("urgent".into(), true.into());
            }),
            "bad_field",
        ),
        (
            message(|m| {
                m.remove("to_cmk");
            }),
            "bad_field",
        ),
        (
            message(|m| {
                m.insert("to_cmk".into(), "alias/x".into());
            }),
            "bad_field",
        ),
        (
            message(|m| {
                m.insert("org".into(), "a*".into());
            }),
            "bad_field",
        ),
        (
            message(|m| {
                m.insert("mode".into(), "fast".into());
            }),
            "bad_field",
        ),
        (
            message(|m| {
                m.insert("to_cmk".into(), A.into());
            }),
            "bad_request",
        ),
        (
            message(|m| {
                m.insert("mode".into(), "rewrap".into());
            }),
            "bad_request",
        ),
        (
            message(|m| {
                m.insert("mode".into(), "rewrap".into());
                m.insert("cause".into(), "suspected_compromise".into());
            }),
            "bad_request",
        ),
        (
            message(|m| {
                m.insert("requested_by".into(), "".into());
            }),
            "bad_request",
        ),
        (
            message(|m| {
                m.insert("reason".into(), "a\nb".into());
            }),
            "bad_request",
        ),
    ];
    for (text, code) in cases {
        let error = JobMessage::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(code), "{code}: {error}");
    }
}

#[test]
fn a_window_that_never_opens_or_is_nowhere_is_refused_in_words() {
    for (cron, tz, says) in [
        ("0 0 30 2 *", "UTC", "no year has a day"),
        ("61 0 * * *", "UTC", "`61` is no minute"),
        ("0 0 * * *", "Europe/Nowhere", "no time zone"),
    ] {
        let text = message(|m| {
            let window = serde_json::json!({"cron": cron, "tz": tz, "length_minutes": 60});
            m.insert("window".into(), window);
        });
        let error = JobMessage::parse(&text).unwrap_err().to_string();
        assert!(
            error.starts_with("bad_field") && error.contains(says),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_asked_for_is_not_sent() {
    // Workers of before know none of these fields, and refuse what they do not know.
    let sent = JobMessage::parse(&message(|_| {})).unwrap().to_json();
    for field in ["window", "priority", "plan", "accept_lifted_denies"] {
        assert!(!sent.contains(field), "{sent}");
    }
}

#[test]
fn what_serde_reads_in_several_ways_is_taken_in_one() {
    let bare = "7b1f3e3856b14f3a9a0e1f2d3c4b5a69";
    for (field, value) in [
        ("mode", serde_json::json!({"reencrypt": null})),
        ("cause", serde_json::json!({"scheduled": null})),
        ("cause", serde_json::Value::Null),
        ("from_cmk", serde_json::Value::Null),
        ("not_before", serde_json::Value::Null),
        ("job_id", bare.into()),
        ("job_id", format!("urn:uuid:{bare}").into()),
        ("job_id", format!("{{{bare}}}").into()),
    ] {
        let text = message(|m| {
            m.insert(field.to_owned(), value);
        });
        let error = JobMessage::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("bad_field"), "{text}: {error}");
    }
    let text = a_move(|m| m["from"] = serde_json::json!(["w1", "c1"]));
    let error = JobMessage::parse(&text).unwrap_err().to_string();
    assert!(error.starts_with("bad_field"), "{error}");
    let capital = message(|m| {
        let id = m["job_id"].as_str().unwrap().to_uppercase();
        m.insert("job_id".into(), id.into());
    });
    JobMessage::parse(&capital).unwrap();
}

#[test]
fn an_error_is_short_however_long_the_message_is() {
    for field in ["mode", "job_id", "org", "to_cmk", "not_before", "v", "kind"] {
        let text = message(|m| {
            m.insert(field.to_owned(), "x".repeat(50_000).into());
        });
        let error = JobMessage::parse(&text).unwrap_err().to_string();
        assert!(error.len() < 600, "{field}: {} bytes", error.len());
    }
}

fn a_move(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = serde_json::json!({
        "v": 1, "kind": "channel_move", "job_id": "7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
        "org": "acme", "from": {"workspace": "w1", "channel": "c1"},
        "to": {"workspace": "w2", "channel": "c1"}, "requested_by": "ops@acme",
    });
    change(&mut value);
    value.to_string()
}

#[test]
fn a_move_is_in_place_or_a_copy_by_its_request_alone() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, MoveKind); 4] = [
        (|_| {}, MoveKind::InPlace),
        (|m| m["to"]["org"] = "acme".into(), MoveKind::InPlace),
        (|m| m["to"]["channel"] = "c2".into(), MoveKind::Copy),
        (|m| m["to"]["org"] = "other".into(), MoveKind::Copy),
    ];
    for (change, kind) in cases {
        let message = JobMessage::parse(&a_move(change)).unwrap();
        assert_eq!(message.channel_move().unwrap().kind(), kind);
        assert_eq!(JobMessage::parse(&message.to_json()).unwrap(), message);
    }
}

#[test]
fn a_move_that_goes_nowhere_or_names_what_is_unknown_is_refused() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 5] = [
        (|m| m["to"]["workspace"] = "w1".into(), "bad_request"),
        (|m| m["to"]["channel"] = "c*".into(), "bad_field"),
        (|m| m["from"]["hour"] = "x".into(), "bad_field"),
        (|m| m["to_cmk"] = A.into(), "bad_field"),
        (|m| m["requested_by"] = "".into(), "bad_request"),
    ];
    for (change, code) in cases {
        let error = JobMessage::parse(&a_move(change)).unwrap_err().to_string();
        assert!(error.starts_with(code), "{code}: {error}");
    }
}

#[test]
fn a_stored_request_of_before_there_were_moves_is_a_rekey() {
    let message = JobMessage::parse(&message(|_| {})).unwrap();
    let mut stored = serde_json::to_value(&message).unwrap();
    assert_eq!(stored["kind"], "rekey");
    stored.as_object_mut().unwrap().remove("kind");
    stored.as_object_mut().unwrap().remove("v");
    assert_eq!(
        serde_json::from_value::<JobMessage>(stored).unwrap(),
        message
    );
}

#[test]
fn the_hash_is_of_the_request_and_not_of_its_spelling() {
    let spelled = |text: &str| JobMessage::parse(text).unwrap().body_sha256();
    let plain = message(|_| {});
    let explicit = message(|m| {
        m.insert("mode".into(), "reencrypt".into());
    });
    let spaced =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&plain).unwrap())
            .unwrap();
    let other = message(|m| {
        m.insert("requested_by".into(), "eve".into());
    });
    assert_eq!(spelled(&plain), spelled(&explicit));
    assert_eq!(spelled(&plain), spelled(&spaced));
    assert_ne!(spelled(&plain), spelled(&other));
}
