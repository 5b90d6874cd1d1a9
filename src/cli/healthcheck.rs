//! `rekeyd healthcheck`

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;

/// The longest wait for the connection and for each read.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than this is not an answer to what was asked.
const LONGEST: u64 = 4096;

#[derive(clap::Args)]
#[command(
    after_help = "For a container's health check: needs no shell. It asks the port of the metrics \
                  (`metrics.listen`), which the worker serves as long as it runs. Whether work gets \
                  on is for alerts on the metrics, and `rekeyd doctor` looks at all the rest.\n\n\
                  Example:\n  rekeyd healthcheck"
)]
pub(super) struct Arguments {
    /// Ask only whether anything answers HTTP there, with whatever status: a
    /// server that is not a worker (`rekeyd kms serve`).
    #[arg(long, value_name = "ADDRESS:PORT")]
    answers: Option<SocketAddr>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    if let Some(address) = arguments.answers {
        return match ask(address) {
            Ok(_) => say(context, address, "an HTTP server answers"),
            Err(error) => {
                let what = format!("nothing answers HTTP on {address}: {error}");
                Err(Failure::new(Exit::Unavailable, what).help("see the server's own log"))
            }
        };
    }
    let Some(listen) = context.config().metrics.listen else {
        return Err(Failure::new(
            Exit::Config,
            "metrics.listen is not set: there is no port to ask",
        )
        .help("set it for worker and health check alike, for example 127.0.0.1:9464"));
    };
    let address = reachable(listen);
    let answer = ask(address).and_then(|status| match status.as_str() {
        "200" => Ok(()),
        other => Err(std::io::Error::other(format!("status {other}"))),
    });
    if let Err(error) = answer {
        let what = format!("no worker answers on {address}: {error}");
        return Err(Failure::new(Exit::Unavailable, what)
            .help("see the worker's log; `rekeyd doctor` says what it lacks"));
    }
    say(context, address, "a worker answers")
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

/// One request, and the status of its answer.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In one piece: a server may answer and close before a second one is sent.
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    String::from_utf8_lossy(&answer)
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other("what answers does not speak HTTP"))
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

    #[test]
    fn the_status_is_what_the_server_said() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answers = ["HTTP/1.1 200 OK\r\n\r\nOK", "HTTP/1.1 503 No\r\n\r\n", ""];
        let serving = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = server.accept().unwrap();
                let mut asked = [0; 512];
                let n = stream.read(&mut asked).unwrap();
                assert!(asked[..n].starts_with(b"GET /health "));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        assert_eq!(ask(address).unwrap(), "200");
        assert_eq!(ask(address).unwrap(), "503");
        assert!(ask(address).is_err());
        serving.join().unwrap();
        // Nobody is there any more.
        assert!(ask(address).is_err());
    }
}
