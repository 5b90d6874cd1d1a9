//! `rekeyd healthcheck`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::ask;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(
    after_help = "For a container's health check: needs no shell. It asks `/healthz` on the port of \
                  the metrics (`metrics.listen`): do the worker's loops move? A worker that waits \
                  for its store, queue or KMS is healthy; with --ready it asks `/readyz` instead: \
                  have store and queue answered lately?\n\n\
                  Examples:\n  rekeyd healthcheck\n  rekeyd healthcheck --ready"
)]
pub(super) struct Arguments {
    /// Ask whether it can work now, and not only whether it is alive.
    #[arg(long, conflicts_with = "answers")]
    ready: bool,
    /// Ask only whether anything answers HTTP there, with whatever status: a
    /// server that is not a worker (`rekeyd kms serve`).
    #[arg(long, value_name = "ADDRESS:PORT")]
    answers: Option<SocketAddr>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    if let Some(address) = arguments.answers {
        ask(context, address, "/")?;
        return say(context, address, "an HTTP server answers");
    }
    let Some(listen) = context.config().metrics.listen else {
        return Err(Failure::new(
            Exit::Config,
            "metrics.listen is not set: there is no port to ask",
        )
        .help("set it for worker and health check alike, for example 127.0.0.1:9464"));
    };
    let address = reachable(listen);
    let (path, good) = match arguments.ready {
        true => ("/readyz", "a worker is ready"),
        false => ("/healthz", "a worker is alive"),
    };
    match ask(context, address, path)? {
        StatusCode::OK => say(context, address, good),
        StatusCode::SERVICE_UNAVAILABLE => {
            let what = format!("the worker on {address} says that it is not: {good}");
            Err(Failure::new(Exit::Unavailable, what)
                .help(format!("its reasons: http://{address}{path}, and its log")))
        }
        other => {
            let what = format!("what answers on {address} is no worker: status {other}");
            Err(Failure::new(Exit::Unavailable, what)
                .help("`metrics.listen` must be the worker's own"))
        }
    }
}

fn say(context: &Context, address: SocketAddr, what: &str) -> Result<Exit, Failure> {
    let programs = json!({"address": address});
    context
        .out
        .show(&programs, || format!("{what} on {address}"))?;
    Ok(Exit::Done)
}

/// An address that is listened on everywhere is asked on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks a path there, with an end to the patience.
fn ask(context: &Context, address: SocketAddr, path: &str) -> Result<StatusCode, Failure> {
    let no_answer = |why: String| {
        let what = format!("nothing answers HTTP on {address}: it {why}");
        Failure::new(Exit::Unavailable, what)
            .help("see the server's own log; of a worker `rekeyd doctor` says what it lacks")
    };
    context.run(async {
        let host = address.to_string();
        let asked = ask::status(address, &host, path);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| no_answer(error.to_string())),
            Err(_) => Err(no_answer("does not answer in time".to_owned())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_everywhere_is_asked_here() {
        for (listen, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("10.0.0.7:9464", "10.0.0.7:9464"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
