//! The client's errors, turned into codes. By code, never by modelled type:
//! refusals and throttling are not modelled for these operations.

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::kms::KmsError;
use crate::kms::codes::{Circumstance, NO_RESPONSE, UNREADABLE_RESPONSE};

/// Longest message kept, in characters.
const MESSAGE: usize = 600;

/// What an error says, before it is classified.
pub(super) struct Failure {
    code: String,
    pub message: String,
    http_status: Option<u16>,
    request_id: Option<String>,
}

/// Reads an error of the client of any service.
pub(super) fn read<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Failure {
    let (code, message, raw) = match error {
        SdkError::ServiceError(service) => {
            let raw = service.raw();
            let status = raw.status().as_u16();
            let error = service.err();
            let message = error.message().unwrap_or_default().to_owned();
            match error.code() {
                Some(code) => (code.to_owned(), message, Some(raw)),
                None if raw.status().is_success() => (
                    UNREADABLE_RESPONSE.to_owned(),
                    unreadable(status),
                    Some(raw),
                ),
                // A proxy, a load balancer: it refuses without a code of KMS.
                None => {
                    let message = format!("HTTP status {status}, without an error code");
                    (format!("Http{status}"), message, Some(raw))
                }
            }
        }
        SdkError::ResponseError(response) => {
            let raw = response.raw();
            let message = unreadable(raw.status().as_u16());
            (UNREADABLE_RESPONSE.to_owned(), message, Some(raw))
        }
        SdkError::TimeoutError(_) => {
            let message = "no answer came in time".to_owned();
            (NO_RESPONSE.to_owned(), message, None)
        }
        SdkError::DispatchFailure(failure) => {
            let message = match failure.as_connector_error() {
                Some(error) => innermost(error),
                None => "the request could not be sent".to_owned(),
            };
            (NO_RESPONSE.to_owned(), message, None)
        }
        // Nothing was sent: what was asked cannot be said in this protocol.
        _ => {
            let message = "the request could not be built".to_owned();
            ("RequestNotBuilt".to_owned(), message, None)
        }
    };
    Failure {
        code,
        message: printable(&message),
        http_status: raw.map(|raw| raw.status().as_u16()),
        request_id: raw.and_then(request_id),
    }
}

impl Failure {
    pub fn classified(self, operation: &'static str, around: Circumstance) -> KmsError {
        let around = Circumstance {
            http_status: self.http_status,
            ..around
        };
        let mut error = KmsError::new(operation, self.code, self.message, &around);
        error.request_id = self.request_id;
        error
    }
}

/// What the system says: the layers above it only say that there was an error.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

fn unreadable(status: u16) -> String {
    format!("the answer (HTTP status {status}) cannot be read")
}

fn request_id(raw: &HttpResponse) -> Option<String> {
    ["x-amzn-requestid", "x-amz-request-id"]
        .iter()
        .find_map(|name| raw.headers().get(*name))
        .map(printable)
}

/// Words of another's, fit for a log: without control characters, and not long.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE)
        .collect()
}
