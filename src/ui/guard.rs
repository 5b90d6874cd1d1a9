//! By which names the page may be asked for, and what its answers forbid a
//! browser.
//!
//! A page of somebody else's may have its own name lead to the loopback address,
//! and would then be let read ours as its own (DNS rebinding). The name in the
//! request gives it away: only names of ours are answered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;

use super::UiError;

/// What a browser may do with an answer: nothing but show it, with the style and
/// the script that are served beside it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// The names that are ours, without ports: who forwards a port asks by another.
#[derive(Debug, Clone)]
pub struct Hosts(Arc<BTreeSet<String>>);

impl Hosts {
    /// The names of an address that is listened on, and others that were given.
    ///
    /// # Errors
    /// If the address is not a loopback address and no name was given.
    pub fn of<'a>(
        listen: SocketAddr,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, UiError> {
        let mut all: BTreeSet<String> = names.filter_map(name_of).collect();
        if !listen.ip().is_loopback() && all.is_empty() {
            return Err(UiError::Open(listen));
        }
        if listen.ip().is_loopback() {
            all.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        if !listen.ip().is_unspecified() {
            all.extend(name_of(&listen.to_string()));
        }
        Ok(Self(Arc::new(all)))
    }

    fn know(&self, host: &str) -> bool {
        name_of(host).is_some_and(|name| self.0.contains(&name))
    }
}

/// The name in `name`, `name:port` or `[::1]:port`, in small letters.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.trim().parse().ok()?;
    // A user in it is no part of a name.
    let plain = !authority.as_str().contains('@');
    plain.then(|| authority.host().trim_end_matches('.').to_ascii_lowercase())
}

/// Answers only to our names, and says with each answer what it forbids.
pub(super) async fn guard(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let host = request.headers().get(header::HOST);
    let known = host
        .and_then(|host| host.to_str().ok())
        .is_some_and(|host| hosts.know(host));
    let mut answer = if known {
        next.run(request).await
    } else {
        let why = "This is the status page of rekeyd. It was asked for by a name that it does \
                   not know. If the name is right, enter it in `ui.hosts`.\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().entry(name).or_insert(value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, names: &[&str]) -> Result<Hosts, UiError> {
        Hosts::of(listen.parse().unwrap(), names.iter().copied())
    }

    #[test]
    fn only_names_of_ours_are_known() {
        let ours = hosts("127.0.0.1:9480", &["rekeyd.internal"]).unwrap();
        for host in [
            "127.0.0.1:9480",
            "localhost:8080",
            "LOCALHOST",
            "localhost.",
            "[::1]:9480",
            "rekeyd.internal",
        ] {
            assert!(ours.know(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9480",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "127.0.0.2",
            "localhost@evil.example",
            "evil.example@localhost",
            "",
            "[::1",
        ] {
            assert!(!ours.know(host), "{host}");
        }
    }

    #[test]
    fn another_address_needs_names() {
        assert!(matches!(hosts("0.0.0.0:1", &[]), Err(UiError::Open(_))));
        assert!(matches!(hosts("10.0.0.7:1", &[]), Err(UiError::Open(_))));
        let named = hosts("10.0.0.7:1", &["page.example"]).unwrap();
        assert!(named.know("page.example") && named.know("10.0.0.7:80"));
        // Its own loopback name would be somebody else's machine.
        assert!(!named.know("localhost"));
        let everywhere = hosts("0.0.0.0:1", &["page.example"]).unwrap();
        assert!(everywhere.know("page.example") && !everywhere.know("0.0.0.0"));
    }
}
