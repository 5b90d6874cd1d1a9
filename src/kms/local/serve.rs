//! The ring over HTTP, in the words of AWS KMS, so that the real client of AWS
//! can be tried on it: the JSON protocol of KMS for the four calls that rekeyd
//! makes, and of STS `AssumeRole` and `GetCallerIdentity`.
//!
//! **For trial and tests.** Signatures are not checked: the caller is whoever
//! the access key id of the request says. Data keys travel in clear, as they do
//! from AWS, but without TLS. So it belongs on the loopback address.
//!
//! | file | what |
//! |---|---|
//! | `kms` | the calls of KMS |
//! | `sts` | the calls of STS |

mod kms;
mod sts;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::post;
use tokio::net::TcpListener;

use super::LocalKeyRing;

/// Serves the ring on `listener` until `stop` is ready, then ends the calls that
/// are under way.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    ring: LocalKeyRing,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/", post(answer))
        .with_state(Arc::new(ring));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

async fn answer(
    State(ring): State<Arc<LocalKeyRing>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let caller = text(header::AUTHORIZATION.as_str()).and_then(access_key_id);
    match text("x-amz-target") {
        Some(target) => kms::answer(&ring, caller, target, &body).await,
        None => sts::answer(&ring, caller, &body).await,
    }
}

/// The access key id of a request that is signed by Signature Version 4:
/// `… Credential=<id>/<date>/<region>/<service>/aws4_request, …`.
fn access_key_id(authorization: &str) -> Option<&str> {
    let (_, rest) = authorization.split_once("Credential=")?;
    let scope = rest
        .split_once(", SignedHeaders")
        .map_or(rest, |(scope, _)| scope);
    let mut parts = scope.rsplitn(5, '/');
    let id = parts.nth(4)?;
    (!id.is_empty()).then_some(id)
}

fn reply(status: u16, content_type: &str, request_id: &str, body: String) -> Response<Body> {
    let answer = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(header::CONTENT_TYPE, content_type)
        .header("x-amzn-requestid", request_id)
        .body(Body::from(body));
    // All of the parts are ours and of a form that fits.
    answer.unwrap_or_else(|_| Response::new(Body::empty()))
}

/// The status that AWS gives an error.
fn status_of(code: &str) -> u16 {
    match code {
        "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "InternalFailure"
        | "InternalError" => 500,
        "ServiceUnavailable" | "ServiceUnavailableException" => 503,
        "AccessDenied" => 403,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_the_access_key_id_whatever_is_in_it() {
        let header = |id: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={id}/20261123/eu-west-1/kms/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature=00"
            )
        };
        for id in ["AKIAEXAMPLE", "role+with=,.@-all", "a/b"] {
            assert_eq!(access_key_id(&header(id)), Some(id));
        }
        for none in [
            "",
            "Basic eDp5",
            "AWS4-HMAC-SHA256 Credential=x",
            &header(""),
        ] {
            assert_eq!(access_key_id(none), None, "{none}");
        }
    }
}
