//! moto: AWS KMS as far as the wire goes.
//!
//! It binds a ciphertext to its encryption context. It knows neither key states
//! nor policies: those are tested on the local key ring.

use std::sync::OnceLock;

use super::installed::installed;
use super::server::{Server, answers_http};
use super::{keeper, ports};

/// The stand-in for AWS that the tests of this process share, started by the
/// first call, which takes some seconds and blocks its thread.
pub fn moto() -> &'static Moto {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| {
        Server::start_on_free_ports(
            Moto::start,
            |moto| vec![&mut moto.server],
            |moto| answers_http(moto.port),
        )
    })
}

/// A moto server on 127.0.0.1. Its keys are in its memory.
pub struct Moto {
    server: Server,
    port: u16,
}

impl Moto {
    fn start() -> Self {
        let port = ports::free(&["127.0.0.1"]);
        let log = keeper::dir().join(format!("moto-{port}.log"));
        let python = installed().moto.join("venv/bin/python");
        let port_argument = port.to_string();
        let arguments = ["-m", "moto.server", "-H", "127.0.0.1", "-p", &port_argument];
        let server = Server::start("moto", &python, arguments, &log);
        Self { server, port }
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.server
    }
}
