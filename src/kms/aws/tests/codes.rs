//! Every row of the table of codes, as it comes over the wire.

use serde_json::json;

use super::canned::{Answer, Canned};
use super::*;
use crate::clock::Clock;
use crate::kms::codes::tests::table;
use crate::kms::codes::{
    ASSUME_ROLE, CODES, NO_RESPONSE, RESPONSE_MISMATCH, UNREADABLE_RESPONSE, classify,
};
use crate::kms::{CmkState, KmsClass};

const TRANSIENT: KmsClass = KmsClass::Transient { throttled: false };

/// Every form in which AWS sends a code.
fn shapes(status: u16, code: &str, message: &str) -> Vec<Answer> {
    let mut shapes = vec![
        Answer::http(status, json!({"__type": code, "message": message})),
        Answer::http(
            status,
            json!({"__type": format!("com.amazonaws.kms#{code}"), "Message": message}),
        ),
        Answer::http(status, json!({"code": code, "message": message})),
    ];
    if !code.chars().any(char::is_control) {
        let coral = "http://internal.amazon.com/coral/com.amazonaws.kms/";
        let header = format!("{code}:{coral}");
        shapes.push(
            Answer::http(status, json!({"message": message})).with("x-amzn-errortype", header),
        );
    }
    shapes
}

fn failed<T>(result: Result<T, KmsError>) -> KmsError {
    match result {
        Ok(_) => panic!("the call went through"),
        Err(error) => error,
    }
}

/// A server whose answer to the data key calls can be changed.
struct Bench {
    answer: Arc<Mutex<Answer>>,
    server: Canned,
    clock: Arc<FakeClock>,
}

impl Bench {
    async fn new() -> Self {
        let answer = Arc::new(Mutex::new(Answer::Silence));
        let clock = clock();
        let (played, created) = (answer.clone(), clock.clone());
        let server = Canned::playing(move |seen| match seen.operation() {
            // A CMK that was created the moment the bench was.
            "DescribeKey" if seen.body.contains("/young") => {
                let at_s = created.wall().unix_ms() as f64 / 1000.0;
                let arn = arn_young();
                let about =
                    json!({"KeyId": "x", "Arn": arn, "CreationDate": at_s, "KeyState": "Enabled"});
                Answer::http(200, json!({"KeyMetadata": about}))
            }
            _ => played.lock().unwrap().clone(),
        })
        .await;
        Self {
            answer,
            server,
            clock,
        }
    }

    fn play(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    async fn aws(&self) -> AwsKms {
        let settings = settings(&self.server.endpoint);
        aws_with(&settings, Arc::new(NoRoles), self.clock.clone()).await
    }
}

fn arn_young() -> CmkArn {
    CmkArn::new("arn:aws:kms:eu-west-1:111122223333:key/young").unwrap()
}

#[tokio::test]
async fn every_row_of_the_table_comes_over_the_wire_as_it_is_meant() {
    let bench = Bench::new().await;
    let mut played = 0;
    for row in table() {
        // A role's refusal comes from STS, in another protocol.
        if row.operation == ASSUME_ROLE {
            continue;
        }
        let kms = bench.aws().await;
        let mut cmk = arn(1);
        if let Some(age) = row.around.cmk_age {
            cmk = arn_young();
            kms.describe(&cmk, &org("acme"), &why()).await.unwrap();
            bench.clock.advance(age);
        }
        for code in row.codes {
            let status = row.around.http_status.unwrap_or(400);
            for shape in shapes(status, code, row.message) {
                bench.play(shape);
                let error = failed(match row.around.side {
                    Some(Side::Target) => {
                        let (scope, why) = (scope(), why());
                        let made = kms.generate_data_key(&cmk, &scope, &why);
                        made.await.map(drop)
                    }
                    _ => kms.decrypt(&cmk, b"w", &scope(), &why()).await.map(drop),
                });
                let name = format!("{code} {:?} {:?}", row.message, row.around);
                assert_eq!(error.class, row.class, "{name}: {error}");
                assert_eq!(error.request_id.as_deref(), Some("req-1"), "{name}");
                let last = error.given_up();
                assert_eq!(last.class, row.given_up, "{name}");
                assert_eq!(last.blocked_reason().as_deref(), row.reason, "{name}");
                played += 1;
            }
        }
    }
    assert!(played > 200, "only {played} answers were played");
}

#[tokio::test]
async fn every_code_keeps_its_meaning_in_every_operation() {
    let bench = Bench::new().await;
    let kms = bench.aws().await;
    let (from, to) = (arn(1), arn(2));
    for (cause, codes) in CODES {
        for code in *codes {
            let status = if *cause == Cause::Service { 500 } else { 400 };
            bench.play(Answer::http(status, json!({"__type": code})));
            let all = [
                (
                    failed(kms.generate_data_key(&to, &scope(), &why()).await),
                    GENERATE_DATA_KEY,
                    Some(Side::Target),
                ),
                (
                    failed(kms.decrypt(&from, b"w", &scope(), &why()).await),
                    DECRYPT,
                    Some(Side::Source),
                ),
                (
                    failed(kms.re_encrypt(&from, b"w", &to, &scope(), &why()).await),
                    RE_ENCRYPT,
                    None,
                ),
                (
                    failed(kms.describe(&to, &org("acme"), &why()).await),
                    DESCRIBE_KEY,
                    None,
                ),
            ];
            for (error, operation, side) in all {
                let around = Circumstance {
                    side,
                    http_status: Some(status),
                    ..Circumstance::default()
                };
                assert_eq!(error.code, *code);
                assert_eq!(error.operation, operation);
                let expected = classify(operation, code, "", &around);
                assert_eq!(error.class, expected, "{operation} {code}");
            }
        }
    }
}

#[tokio::test]
async fn a_re_encrypt_is_classed_by_the_side_that_its_message_names() {
    let bench = Bench::new().await;
    let kms = bench.aws().await;
    let (from, to) = (arn(1), arn(2));
    for (named, class) in [(&from, KmsClass::CmkUnusable), (&to, KmsClass::FatalJob)] {
        let message = format!("Key '{named}' does not exist");
        let body = json!({"__type": "NotFoundException", "message": message});
        bench.play(Answer::http(400, body));
        let error = failed(kms.re_encrypt(&from, b"w", &to, &scope(), &why()).await);
        assert_eq!(error.class, class, "{error}");
    }
}

#[tokio::test]
async fn what_is_no_answer_of_kms_has_a_code_of_ours() {
    let html = "<html>Bad gateway</html>";
    for (answer, code, class, reason) in [
        (Answer::Reset, NO_RESPONSE, TRANSIENT, "kms_unavailable"),
        (Answer::Silence, NO_RESPONSE, TRANSIENT, "kms_unavailable"),
        (
            Answer::Cut,
            UNREADABLE_RESPONSE,
            TRANSIENT,
            "kms_unavailable",
        ),
        (
            Answer::http(200, html),
            UNREADABLE_RESPONSE,
            TRANSIENT,
            "kms_unavailable",
        ),
        (
            Answer::http(502, html),
            "Http502",
            TRANSIENT,
            "kms_unavailable",
        ),
        (
            Answer::http(503, ""),
            "Http503",
            TRANSIENT,
            "kms_unavailable",
        ),
        (
            Answer::http(429, ""),
            "Http429",
            KmsClass::Transient { throttled: true },
            "kms_unavailable",
        ),
        (
            Answer::http(403, html),
            "Http403",
            KmsClass::Unknown,
            "unknown:Http403",
        ),
        (
            Answer::http(400, "{}"),
            "Http400",
            KmsClass::Unknown,
            "unknown:Http400",
        ),
    ] {
        let server = Canned::always(answer).await;
        let mut settings = settings(&server.endpoint);
        settings.limits.attempt = Duration::from_millis(500);
        let kms = aws_with(&settings, Arc::new(NoRoles), clock()).await;
        let error = failed(kms.decrypt(&arn(1), b"w", &scope(), &why()).await);
        assert_eq!((error.code.as_str(), error.class), (code, class), "{error}");
        assert_eq!(error.given_up().blocked_reason().as_deref(), Some(reason));
        assert_eq!(server.seen().len(), 1, "one attempt, whatever came of it");
    }

    // Nobody listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = failed(
        aws(&endpoint)
            .await
            .decrypt(&arn(1), b"w", &scope(), &why())
            .await,
    );
    assert_eq!((error.code.as_str(), error.class), (NO_RESPONSE, TRANSIENT));
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_is_not_used() {
    let b64 = |bytes: &[u8]| aws_smithy_types::base64::encode(bytes);
    let (key, wrap) = (b64(&[7; 32]), b64(b"wrapped"));
    let bench = Bench::new().await;
    let kms = bench.aws().await;
    let (one, two) = (arn(1), arn(2));

    let good =
        json!({"KeyId": one, "Plaintext": key, "CiphertextBlob": wrap, "KeyMaterialId": "m7"});
    let change = |field: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[field] = value;
        if body[field].is_null() {
            body.as_object_mut().unwrap().remove(field);
        }
        body
    };
    let wrong_key = [
        change("KeyId", json!(two)),
        change("KeyId", json!("alias/x")),
        change("KeyId", json!(null)),
        change("Plaintext", json!(b64(&[7; 31]))),
        change("Plaintext", json!(b64(&[7; 33]))),
        change("Plaintext", json!(null)),
    ];
    let wrong_wrap = [
        change("CiphertextBlob", json!(null)),
        change("CiphertextBlob", json!(b64(&[1; 6145]))),
    ];
    bench.play(Answer::http(200, &good));
    let made = crate::kms::KmsBackend::generate_data_key(&kms, &one, &scope())
        .await
        .unwrap();
    assert!(made.value.dek.expose() == &[7; 32]);
    assert_eq!(made.request_id.as_deref(), Some("req-1"));
    assert_eq!(made.key_material_id.as_deref(), Some("m7"));
    assert_eq!(made.value.wrapped.key_material_id.as_deref(), Some("m7"));
    let opened = crate::kms::KmsBackend::decrypt(&kms, &one, b"w", &scope())
        .await
        .unwrap();
    assert!(opened.value.expose() == &[7; 32]);
    assert_eq!(opened.key_material_id.as_deref(), Some("m7"));

    let check = |error: KmsError| {
        assert_eq!(error.code, RESPONSE_MISMATCH, "{error}");
        assert_eq!(error.class, KmsClass::QuarantinedKey);
        assert_eq!(error.request_id.as_deref(), Some("req-1"));
        assert!(error.alerts());
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("7, 7") && !shown.contains(&key), "{shown}");
    };
    for body in wrong_key.iter().chain(&wrong_wrap) {
        bench.play(Answer::http(200, body));
        check(failed(kms.generate_data_key(&one, &scope(), &why()).await));
    }
    for body in &wrong_key {
        bench.play(Answer::http(200, body));
        check(failed(kms.decrypt(&one, b"w", &scope(), &why()).await));
    }

    let good = json!({
        "SourceKeyId": one, "KeyId": two, "CiphertextBlob": wrap,
        "SourceKeyMaterialId": "m1", "DestinationKeyMaterialId": "m2",
    });
    bench.play(Answer::http(200, &good));
    let moved = crate::kms::KmsBackend::re_encrypt(&kms, &one, b"w", &two, &scope())
        .await
        .unwrap();
    assert_eq!(moved.key_material_id.as_deref(), Some("m2"));
    assert_eq!(moved.value.bytes, b"wrapped");
    for (field, value) in [
        ("SourceKeyId", json!(two)),
        ("SourceKeyId", json!(null)),
        ("KeyId", json!(one)),
        ("CiphertextBlob", json!("")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        bench.play(Answer::http(200, body));
        check(failed(
            kms.re_encrypt(&one, b"w", &two, &scope(), &why()).await,
        ));
    }

    bench.play(Answer::http(
        200,
        json!({"KeyMetadata": {"KeyId": "k2", "Arn": two}}),
    ));
    check(failed(kms.describe(&one, &org("acme"), &why()).await));
    bench.play(Answer::http(200, json!({})));
    check(failed(kms.describe(&one, &org("acme"), &why()).await));
}

#[tokio::test]
async fn a_description_says_state_kind_deletion_and_replicas() {
    let bench = Bench::new().await;
    let kms = bench.aws().await;
    let one = arn(1);
    let replica = "arn:aws:kms:us-east-1:111122223333:key/k1";
    let base = json!({
        "KeyId": "k1", "Arn": one, "KeyState": "PendingDeletion", "DeletionDate": 1_790_000_000.5,
        "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "MultiRegion": true,
        "MultiRegionConfiguration": {
            "MultiRegionKeyType": "PRIMARY", "PrimaryKey": {"Arn": one, "Region": "eu-west-1"},
            "ReplicaKeys": [{"Arn": replica, "Region": "us-east-1"}],
        },
    });
    let ask = async |about: &serde_json::Value| {
        bench.play(Answer::http(200, json!({"KeyMetadata": about})));
        kms.describe(&one, &org("acme"), &why()).await.unwrap()
    };
    let told = ask(&base).await;
    assert_eq!(told.state, CmkState::PendingDeletion);
    assert_eq!(told.deletion_ms, Some(1_790_000_000_500));
    assert!(told.symmetric);
    assert_eq!(told.replicas, [CmkArn::new(replica).unwrap()]);

    for (state, expected) in [
        ("Enabled", CmkState::Enabled),
        ("Disabled", CmkState::Disabled),
        ("PendingImport", CmkState::PendingImport),
        ("PendingReplicaDeletion", CmkState::PendingDeletion),
        ("Creating", CmkState::Creating),
        ("Updating", CmkState::Creating),
        ("Unavailable", CmkState::Unavailable),
        ("OfALaterYear", CmkState::Unavailable),
    ] {
        let mut about = base.clone();
        about["KeyState"] = json!(state);
        assert_eq!(ask(&about).await.state, expected, "{state}");
    }
    for (field, value) in [
        ("KeySpec", "RSA_2048"),
        ("KeyUsage", "SIGN_VERIFY"),
        ("KeyUsage", "GENERATE_VERIFY_MAC"),
    ] {
        let mut about = base.clone();
        about[field] = json!(value);
        assert!(!ask(&about).await.symmetric, "{field} {value}");
    }
}

#[tokio::test]
async fn what_is_sent_is_what_was_asked() {
    let bench = Bench::new().await;
    let kms = bench.aws().await;
    bench.play(Answer::http(400, json!({"__type": "DisabledException"})));
    let (one, two) = (arn(1), arn(2));
    failed(kms.generate_data_key(&one, &scope(), &why()).await);
    failed(kms.decrypt(&one, b"w", &scope(), &why()).await);
    failed(kms.re_encrypt(&one, b"w", &two, &scope(), &why()).await);
    failed(kms.describe(&one, &org("acme"), &why()).await);
    let context = json!({
        "organization": "acme", "kind": "message", "workspace": "w1", "channel": "c1",
        "hour": "2019-02-13T17",
    });
    let wrap = aws_smithy_types::base64::encode(b"w");
    let expected = [
        json!({"KeyId": one, "KeySpec": "AES_256", "EncryptionContext": context}),
        json!({"KeyId": one, "CiphertextBlob": wrap, "EncryptionContext": context}),
        json!({
            "SourceKeyId": one, "DestinationKeyId": two, "CiphertextBlob": wrap,
            "SourceEncryptionContext": context, "DestinationEncryptionContext": context,
        }),
        json!({"KeyId": one}),
    ];
    let sent: Vec<serde_json::Value> = bench
        .server
        .seen()
        .iter()
        .map(|seen| serde_json::from_str(&seen.body).unwrap())
        .collect();
    assert_eq!(sent, expected);
}
