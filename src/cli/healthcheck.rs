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
pub(super) struct Arguments {}

pub(super) fn run(context: &Context, _: &Arguments) -> Result<Exit, Failure> {
    let Some(listen) = context.config().metrics.listen else {
        return Err(Failure::new(
            Exit::Config,
            "metrics.listen is not set: there is no port to ask",
        )
        .help("set it for worker and health check alike, for example 127.0.0.1:9464"));
    };
    let address = reachable(listen);
    if let Err(error) = ask(address) {
        let what = format!("no worker answers on {address}: {error}");
        return Err(Failure::new(Exit::Unavailable, what)
            .help("see the worker's log; `rekeyd doctor` says what it lacks"));
    }
    context.out.show(&json!({"address": address}), || {
        format!("a worker answers on {address}")
    })?;
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

/// One request, and its status line.
fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(std::io::Error::other(
            "it is not a metrics port that answers",
        ))
    }
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
    fn only_a_good_answer_is_one() {
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
        assert!(ask(address).is_ok());
        assert!(ask(address).is_err());
        assert!(ask(address).is_err());
        serving.join().unwrap();
        // Nobody is there any more.
        assert!(ask(address).is_err());
    }
}
