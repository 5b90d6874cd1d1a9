//! What the SDK makes of answers, with answers that are played to it. The queue
//! itself is tested on a server that speaks SQS, in tests/real/queue.rs.

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::aws::sdk_config;
use crate::clock::SystemClock;

const SECRET_BODY: &str = "the body";

/// An answer as SQS gives it: status, headers and body.
fn answer(status: u16, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n\
         content-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// An error with a code, as the JSON protocol says it.
fn error_of(status: u16, code: &str) -> String {
    let body = serde_json::json!({
        "__type": format!("com.amazonaws.sqs#{code}"),
        "message": format!("Value {SECRET_BODY} is not good"),
    });
    answer(status, "", &body.to_string())
}

/// A server that gives one answer to whatever it is asked; without one it is
/// silent.
async fn played(reply: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(reply) = &reply else {
                silent.push(stream);
                continue;
            };
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            // Headers, then as many bytes as they say.
            let whole = |request: &[u8]| {
                let text = String::from_utf8_lossy(request).to_lowercase();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    return false;
                };
                let length = head.split("content-length: ").nth(1).unwrap_or("0");
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                body.len() >= length
            };
            while !whole(&request) {
                match stream.read(&mut piece).await {
                    Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                    _ => break,
                }
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    endpoint
}

async fn queue_at(endpoint: &str, credentials: bool) -> SqsQueue {
    let settings = SqsSettings {
        credentials: Default::default(),
        url: format!("{endpoint}/111122223333/jobs"),
        dead_letter_url: Some(format!("{endpoint}/111122223333/dead")),
        ..SqsSettings::default()
    };
    let shared = sdk_config(Some("eu-west-1"), Some(endpoint), TimeLimits::PROMPT)
        .await
        .unwrap()
        .into_builder();
    let shared = if credentials {
        let dummy = Credentials::new("id", "secret", None, None, "test");
        shared.credentials_provider(SharedCredentialsProvider::new(dummy))
    } else {
        let mut shared = shared;
        shared.set_credentials_provider(Some(SharedCredentialsProvider::new(Nobody)));
        shared
    };
    SqsQueue::with(settings, &shared.build(), SystemClock::shared()).unwrap()
}

/// A machine without credentials.
#[derive(Debug)]
struct Nobody;

impl aws_credential_types::provider::ProvideCredentials for Nobody {
    fn provide_credentials<'a>(
        &'a self,
    ) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::future::ProvideCredentials;
        ProvideCredentials::ready(Err(
            aws_credential_types::provider::error::CredentialsError::not_loaded("none here"),
        ))
    }
}

async fn send_error(reply: Option<String>) -> QueueError {
    let endpoint = played(reply).await;
    let queue = queue_at(&endpoint, true).await;
    let error = queue.send(SECRET_BODY).await.unwrap_err();
    assert!(!error.to_string().contains(SECRET_BODY), "{error}");
    error
}

fn is_transient(error: &QueueError) -> bool {
    matches!(error, QueueError::Transient(_))
}

#[tokio::test]
async fn codes_come_through_the_sdk() {
    for (status, code, transient, words) in [
        (400, "QueueDoesNotExist", false, "there is no such queue"),
        (403, "AccessDeniedException", false, "allow sqs:SendMessage"),
        (
            403,
            "InvalidClientTokenId",
            false,
            "credentials are not accepted",
        ),
        (403, "ExpiredToken", true, "expired"),
        (403, "RequestThrottled", true, "slows us down"),
        (403, "OverLimit", true, "in flight"),
        (400, "KmsThrottled", true, "slows us down"),
        (400, "KmsAccessDenied", false, "kms:GenerateDataKey"),
        (400, "InvalidSecurity", false, "HTTPS"),
        (400, "InvalidMessageContents", false, "MaximumMessageSize"),
        (500, "InternalFailure", true, "in trouble"),
        (503, "ServiceUnavailable", true, "in trouble"),
        (400, "BrandNew", false, "BrandNew"),
    ] {
        // AccessDenied passes on who was denied what; none of it is a body.
        let reply = if code == "AccessDeniedException" {
            answer(
                status,
                "",
                &format!("{{\"__type\":\"{code}\",\"message\":\"x\"}}"),
            )
        } else {
            error_of(status, code)
        };
        let error = send_error(Some(reply)).await;
        assert_eq!(is_transient(&error), transient, "{code}: {error}");
        assert!(error.to_string().contains(words), "{code}: {error}");
    }
}

#[tokio::test]
async fn the_old_spelling_in_a_header_is_understood() {
    let header = "x-amzn-query-error: AWS.SimpleQueueService.NonExistentQueue;Sender\r\n";
    let body = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"gone"}"#;
    let error = send_error(Some(answer(400, header, body))).await;
    assert!(
        error.to_string().contains("there is no such queue"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_answer_passes() {
    for reply in [
        Some(answer(200, "", "not json")),
        Some(answer(403, "", "<html>no entry</html>")),
        Some(answer(502, "", "<html>bad gateway</html>")),
        Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned()),
        Some(String::new()),
    ] {
        let error = send_error(reply).await;
        assert!(is_transient(&error), "{error}");
    }
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = queue_at(&endpoint, true).await.send("x").await.unwrap_err();
    assert!(is_transient(&error), "{error}");
}

#[tokio::test]
async fn silence_ends() {
    let error = send_error(None).await;
    assert!(is_transient(&error), "{error}");
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn a_machine_without_credentials_is_told_so() {
    let endpoint = played(None).await;
    let error = queue_at(&endpoint, false)
        .await
        .send("x")
        .await
        .unwrap_err();
    assert!(!is_transient(&error), "{error}");
    assert!(error.to_string().contains("no AWS credentials"), "{error}");
}

/// A dead-letter queue that does not take one message must not end the worker:
/// the message is left for the queue's own redrive.
#[tokio::test]
async fn what_the_dead_letter_queue_does_not_take_is_left() {
    let endpoint = played(Some(error_of(400, "InvalidParameterValue"))).await;
    let error = queue_at(&endpoint, true)
        .await
        .bury("x", "why")
        .await
        .unwrap_err();
    assert!(is_transient(&error), "{error}");
}

#[tokio::test]
async fn entries_of_a_batch_are_answered_one_by_one() {
    let body = serde_json::json!({
        "Successful": [{"Id": "0"}],
        "Failed": [
            {"Id": "1", "Code": "ReceiptHandleIsInvalid", "SenderFault": true},
            {"Id": "2", "Code": "InternalError", "SenderFault": false},
            {"Id": "3", "Code": "InvalidParameterValue", "SenderFault": true},
        ],
    });
    let endpoint = played(Some(answer(200, "", &body.to_string()))).await;
    let queue = queue_at(&endpoint, true).await;
    let answers = queue.delete(&["a", "b", "c", "d"]).await;
    assert!(
        matches!(
            answers[..],
            [
                Ok(()),
                Ok(()),
                Err(QueueError::Transient(_)),
                Err(QueueError::ReceiptExpired)
            ]
        ),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_queue_without_a_place_for_refused_messages_is_no_queue() {
    let endpoint = played(Some(answer(200, "", "{}"))).await;
    let mut queue = queue_at(&endpoint, true).await;
    queue.dead_letter_url = OnceCell::new();
    let error = queue.check().await.unwrap_err().to_string();
    assert!(
        error.contains("RedrivePolicy") && error.contains("queue.dead_letter_url"),
        "{error}"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    let shared = sdk_config(Some("eu-west-1"), None, TimeLimits::PROMPT)
        .await
        .unwrap();
    for (url, dead) in [
        ("jobs", None),
        ("https://sqs.eu-west-1.amazonaws.com/1/jobs", Some("dead")),
        (
            "https://sqs.eu-west-1.amazonaws.com/1/jobs",
            Some("https://sqs.eu-west-2.amazonaws.com/1/dead"),
        ),
        (
            "https://sqs.eu-west-1.amazonaws.com/1/jobs.fifo",
            Some("https://sqs.eu-west-1.amazonaws.com/1/dead"),
        ),
    ] {
        let settings = SqsSettings {
            credentials: Default::default(),
            url: url.to_owned(),
            dead_letter_url: dead.map(str::to_owned),
            ..SqsSettings::default()
        };
        let refused = SqsQueue::with(settings, &shared, SystemClock::shared());
        assert!(matches!(refused, Err(QueueError::Settings(_))), "{url}");
    }
}

#[test]
fn policies_are_read_in_both_spellings() {
    for count in ["3", "\"3\""] {
        let policy = RedrivePolicy::parse(&format!(
            "{{\"deadLetterTargetArn\":\"arn:aws:sqs:eu-west-1:1:dead\",\"maxReceiveCount\":{count}}}"
        ))
        .unwrap();
        assert_eq!(policy.max_receives, Some(3));
        assert_eq!(policy.target.name, "dead");
    }
    assert!(RedrivePolicy::parse("{}").is_none());
    assert_eq!(seconds(Duration::from_millis(1500)), 2);
    assert_eq!(seconds(Duration::from_secs(1 << 40)), 43_200);
}
