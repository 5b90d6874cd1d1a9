//! Every answer of SQS that is no success, decided here: does it pass, and what
//! can be done. Texts never hold a message: what the service says is passed on
//! only where it is about rights or the queue.

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use crate::queue::QueueError;

/// Longest text of the service that is passed on, in characters.
const LONGEST: usize = 300;

/// What was asked of which queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// The operation, as IAM names it without `sqs:`.
    pub action: &'static str,
    /// The queue's URL.
    pub queue: &'a str,
}

/// What an error of SQS means.
pub(super) fn error<E>(asked: Asked<'_>, error: &SdkError<E, Response>) -> QueueError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match error {
        SdkError::ServiceError(answer) => {
            let meta = answer.err().meta();
            let status = answer.raw().status().as_u16();
            match meta.code() {
                Some(code) => by_code(asked, code, status, meta.message().unwrap_or_default()),
                // SQS always gives one: this is a proxy, or an answer cut short.
                None => transient(asked, &format!("an answer that is none of SQS ({status})")),
            }
        }
        SdkError::TimeoutError(_) => transient(asked, "no answer in time"),
        _ => match credentials(error) {
            Some(CredentialsError::CredentialsNotLoaded(_)) => fatal(
                asked,
                "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                 or AWS_PROFILE, or give this machine or container a role",
            ),
            Some(e @ CredentialsError::InvalidConfiguration(_)) => fatal(
                asked,
                &format!(
                    "the AWS credentials are not set up right: {}",
                    text(&chain(e))
                ),
            ),
            Some(e) => transient(
                asked,
                &format!("AWS credentials could not be fetched: {}", text(&chain(e))),
            ),
            None => transient(asked, &format!("no answer: {}", text(&chain(error)))),
        },
    }
}

/// Errors below the service's own: connections and credentials. They hold no
/// body, of request or answer.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        next = error.source();
    }
    words
}

fn credentials<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CredentialsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// What a code of SQS means; also those of single entries of a batch.
pub(super) fn by_code(asked: Asked<'_>, code: &str, status: u16, says: &str) -> QueueError {
    // Newer and older spellings of one code: `AWS.SimpleQueueService.NonExistentQueue`,
    // `com.amazonaws.sqs#QueueDoesNotExist`.
    let short = code.rsplit(['.', '#']).next().unwrap_or(code);
    match short {
        "QueueDoesNotExist" | "NonExistentQueue" => settings(
            asked,
            "there is no such queue; check its URL, region and account (queue.url, \
             queue.dead_letter_url, queue.region)",
        ),
        "QueueDeletedRecently" => transient(asked, "the queue was deleted a moment ago"),
        "AccessDenied" | "AccessDeniedException" | "AuthorizationError" => fatal(
            asked,
            &format!(
                "access denied; allow sqs:{} on this queue to the role of this process \
                 (docs/queue-sqs.md). SQS says: {}",
                asked.action,
                text(says)
            ),
        ),
        "KmsAccessDenied" => fatal(
            asked,
            "the key that encrypts this queue refuses; allow kms:Decrypt (and, to send, \
             kms:GenerateDataKey) on it to the role of this process",
        ),
        "KmsDisabled" | "KmsInvalidState" | "KmsNotFound" | "KmsInvalidKeyUsage"
        | "KmsOptInRequired" => fatal(
            asked,
            &format!(
                "{short}: the key that encrypts this queue cannot be used; see the queue's KmsMasterKeyId"
            ),
        ),
        "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired" => fatal(
            asked,
            &format!("{short}: these AWS credentials are not accepted; check them, and the region"),
        ),
        "InvalidSecurity" => settings(
            asked,
            "InvalidSecurity: SQS wants HTTPS; check queue.url and queue.endpoint",
        ),
        "InvalidAddress" => settings(
            asked,
            "InvalidAddress: this is no URL of a queue; check queue.url",
        ),
        "UnsupportedOperation" => fatal(asked, "UnsupportedOperation: this queue cannot do that"),
        // Whoever rotates them may do so in the next minute.
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired" => transient(
            asked,
            &format!("{short}: the AWS credentials have expired, or this machine's clock is wrong"),
        ),
        "OverLimit" => transient(
            asked,
            "OverLimit: too many messages are in flight on this queue",
        ),
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => QueueError::ReceiptExpired,
        "RequestThrottled"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "KmsThrottled"
        | "SlowDown" => transient(asked, &format!("{short}: SQS slows us down")),
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServerException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => transient(asked, &format!("{short}: SQS is in trouble")),
        _ if status >= 500 || status == 429 => {
            transient(asked, &format!("{} ({status})", text(code)))
        }
        _ => fatal(
            asked,
            &format!("{} ({status}): SQS takes no such request", text(code)),
        ),
    }
}

fn transient(asked: Asked<'_>, why: &str) -> QueueError {
    QueueError::Transient(words(asked, why))
}

/// Fatal, and mended in the configuration.
fn settings(asked: Asked<'_>, why: &str) -> QueueError {
    QueueError::Settings(words(asked, why))
}

fn fatal(asked: Asked<'_>, why: &str) -> QueueError {
    QueueError::Fatal(words(asked, why))
}

fn words(asked: Asked<'_>, why: &str) -> String {
    format!("{} at {}: {why}", asked.action, asked.queue)
}

/// Words of others, for a line of a log.
fn text(says: &str) -> String {
    says.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST)
        .collect()
}

/// SQS refuses a value of the request: a receipt that is too old, a message it
/// does not take.
pub(super) fn is_bad_value<E>(error: &SdkError<E, Response>) -> bool
where
    E: ProvideErrorMetadata,
{
    error
        .as_service_error()
        .and_then(|e| e.meta().code())
        .is_some_and(is_bad_value_code)
}

/// The same, of a code.
pub(super) fn is_bad_value_code(code: &str) -> bool {
    let short = code.rsplit(['.', '#']).next().unwrap_or(code);
    matches!(
        short,
        "InvalidParameterValue" | "InvalidMessageContents" | "MessageTooLong"
    )
}

/// A message that the dead-letter queue does not take stays where it is: it is
/// tried again, and after its last delivery the queue itself moves it.
pub(super) fn not_buried(asked: Asked<'_>) -> QueueError {
    transient(
        asked,
        "the dead-letter queue does not take this message; it must allow messages of at least \
         128 KiB (MaximumMessageSize)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(code: &str, status: u16) -> &'static str {
        let asked = Asked {
            action: "ReceiveMessage",
            queue: "https://sqs.eu-west-1.amazonaws.com/1/jobs",
        };
        let error = by_code(asked, code, status, "User: x is not authorized\n");
        let words = error.to_string();
        assert!(!words.contains('\n'), "{words}");
        match error {
            QueueError::Transient(_) => "transient",
            QueueError::ReceiptExpired => "expired",
            QueueError::Settings(_) => "settings",
            QueueError::Fatal(_) => "fatal",
            QueueError::BodySize(_) => "size",
        }
    }

    #[test]
    fn each_code_has_its_class() {
        for (code, status, expected) in [
            ("QueueDoesNotExist", 400, "settings"),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, "settings"),
            ("com.amazonaws.sqs#QueueDoesNotExist", 400, "settings"),
            ("AccessDenied", 403, "fatal"),
            ("KmsAccessDenied", 400, "fatal"),
            ("KmsThrottled", 400, "transient"),
            ("InvalidClientTokenId", 403, "fatal"),
            ("InvalidSecurity", 400, "settings"),
            ("ExpiredToken", 403, "transient"),
            ("OverLimit", 403, "transient"),
            ("RequestThrottled", 403, "transient"),
            ("ThrottlingException", 400, "transient"),
            ("ReceiptHandleIsInvalid", 404, "expired"),
            ("MessageNotInflight", 400, "expired"),
            ("InternalFailure", 500, "transient"),
            ("SomethingNew", 503, "transient"),
            ("SomethingNew", 429, "transient"),
            ("SomethingNew", 400, "fatal"),
        ] {
            assert_eq!(class(code, status), expected, "{code} {status}");
        }
    }

    #[test]
    fn an_error_says_what_to_do_and_repeats_nothing_it_should_not() {
        let asked = Asked {
            action: "SendMessage",
            queue: "https://sqs.eu-west-1.amazonaws.com/1/jobs",
        };
        let denied = by_code(asked, "AccessDenied", 403, "User: arn:aws:iam::1:role/r");
        let denied = denied.to_string();
        assert!(denied.contains("allow sqs:SendMessage"), "{denied}");
        assert!(denied.contains("arn:aws:iam::1:role/r"), "{denied}");
        let bad = by_code(asked, "InvalidParameterValue", 400, "Value THE BODY is bad");
        assert!(!bad.to_string().contains("THE BODY"), "{bad}");
    }
}
