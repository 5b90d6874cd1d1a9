//! The operator's own word on whether the service has room: an HTTP endpoint.
//!
//! Anything but an answer of 2xx in time counts as bad, and so does no answer:
//! an endpoint that is down must not mean full speed. After the grace time since
//! the last good answer nothing new is begun, and the worker says so, until a
//! good one comes. Before the first good answer nothing is begun either.

use std::time::Duration;

use tokio::sync::watch;

use crate::ask;
use crate::clock::BootTime;
use crate::telemetry::metrics::SERVICE_HEALTHY;
use crate::worker::Worker;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to ask, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Host and port.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// From one question to the next.
    pub every: Duration,
    /// How long bad answers, or none, are borne.
    pub grace: Duration,
}

impl ServiceHealth {
    /// From a URL with `http`; `None` if it is none.
    pub fn of(url: &str, every: Duration, grace: Duration) -> Option<Self> {
        let url: http::Uri = url.parse().ok()?;
        let authority = url.authority()?;
        let port = authority.port_u16().unwrap_or(80);
        Some(Self {
            authority: format!("{}:{port}", authority.host()),
            path: url.path_and_query()?.to_string(),
            every,
            grace,
        })
    }
}

/// What the answers so far come to. Pure; it takes the time as an argument.
#[derive(Default)]
struct Judge {
    last_good: Option<BootTime>,
}

impl Judge {
    /// Takes an answer in: `Err` says what was wrong with it. Returns why
    /// nothing new may be begun, if it may not.
    fn hear(
        &mut self,
        answer: Result<(), String>,
        grace: Duration,
        now: BootTime,
    ) -> Option<String> {
        let Err(why) = answer else {
            self.last_good = Some(now);
            return None;
        };
        match self.last_good {
            Some(at) if now.since(at) < grace => None,
            _ => Some(why),
        }
    }
}

/// Asks until asked to stop.
pub(super) async fn run(worker: &Worker, asked: &ServiceHealth, mut stop: watch::Receiver<bool>) {
    let clock = &worker.shared.clock;
    let mut judge = Judge::default();
    let mut was_held = false;
    loop {
        let answer = tokio::time::timeout(PATIENCE, ask(asked)).await;
        let answer = answer.unwrap_or_else(|_| Err("does not answer in time".to_owned()));
        let held = judge.hear(answer, asked.grace, clock.boot());
        let held = held.map(|why| format!("{} {why}", asked.authority));
        metrics::gauge!(SERVICE_HEALTHY).set(if held.is_none() { 1.0 } else { 0.0 });
        match &held {
            Some(why) if !was_held => {
                tracing::warn!(%why, "the service has no room; nothing new is begun");
            }
            None if was_held => tracing::info!("the service has room again"),
            _ => {}
        }
        was_held = held.is_some();
        worker.shared.throttles.hold(held.as_deref());
        tokio::select! {
            biased;
            () = clock.sleep(asked.every) => {}
            // The sender ends with the process.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// One question. What is wrong is told without the answer's body, which is
/// somebody else's text.
async fn ask(asked: &ServiceHealth) -> Result<(), String> {
    match ask::status(&asked.authority, &asked.authority, &asked.path).await {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => Err(format!("answers {}", status.as_u16())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn bad_answers_are_borne_for_the_grace_time_and_none_before_the_first_good_one() {
        let grace = Duration::from_secs(30);
        let at = |s| BootTime(Duration::from_secs(s));
        let bad = || Err("answers 503".to_owned());
        let mut judge = Judge::default();
        assert!(judge.hear(bad(), grace, at(0)).is_some());
        assert_eq!(judge.hear(Ok(()), grace, at(1)), None);
        assert_eq!(judge.hear(bad(), grace, at(30)), None);
        assert_eq!(
            judge.hear(bad(), grace, at(31)).as_deref(),
            Some("answers 503")
        );
        assert_eq!(judge.hear(Ok(()), grace, at(40)), None);
        assert_eq!(judge.hear(bad(), grace, at(69)), None);
        assert!(judge.hear(bad(), Duration::ZERO, at(69)).is_some());
    }

    #[test]
    fn the_url_says_whom_to_ask() {
        let of = |url| {
            let asked = ServiceHealth::of(url, Duration::ZERO, Duration::ZERO)?;
            Some((asked.authority, asked.path))
        };
        let owned = |a: &str, p: &str| Some((a.to_owned(), p.to_owned()));
        assert_eq!(
            of("http://127.0.0.1:8080/room?for=rekeyd"),
            owned("127.0.0.1:8080", "/room?for=rekeyd")
        );
        assert_eq!(of("http://[::1]"), owned("[::1]:80", "/"));
        assert_eq!(of("/room"), None);
    }

    #[tokio::test]
    async fn only_a_good_answer_is_good() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/room", server.local_addr().unwrap());
        let asked = ServiceHealth::of(&url, Duration::ZERO, Duration::ZERO).unwrap();
        let answers = [
            ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
            ("HTTP/1.0 204 No Content\r\n\r\n", Ok(())),
            ("HTTP/1.1 503 Busy\r\n\r\n", Err("answers 503")),
            ("HTTP/1.1 301 Elsewhere\r\n\r\n", Err("answers 301")),
            ("SSH-2.0\r\n", Err("does not speak HTTP")),
            ("", Err("does not speak HTTP")),
        ];
        for (answer, expected) in answers {
            let serving = async {
                let (mut stream, _) = server.accept().await.unwrap();
                let mut request = [0; 512];
                let n = stream.read(&mut request).await.unwrap();
                assert!(request[..n].starts_with(b"GET /room HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (heard, ()) = tokio::join!(ask(&asked), serving);
            assert_eq!(heard, expected.map_err(str::to_owned), "{answer:?}");
        }
        drop(server);
        assert!(
            ask(&asked)
                .await
                .unwrap_err()
                .starts_with("cannot be asked")
        );
    }
}
