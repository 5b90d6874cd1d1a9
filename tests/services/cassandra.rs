//! One Cassandra node, shared by the tests of a process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::compactor::Compactor;
use super::installed::{here, installed};
use super::server::Server;
use super::{keeper, ports};

/// The node that the tests of this process share, started by the first call,
/// which takes some seconds and blocks its thread.
pub fn cassandra() -> &'static Cassandra {
    static NODE: OnceLock<Cassandra> = OnceLock::new();
    NODE.get_or_init(|| Cassandra::start(&Sizing::SHARED))
}

/// Held while a schema is changed, by whoever does it: a node agrees on one change
/// at a time, and changes sent side by side may fail or undo each other.
static SCHEMA: Mutex<()> = Mutex::const_new(());

/// A Cassandra node on 127.0.0.1.
pub struct Cassandra {
    node: Node,
    compactor: std::sync::Mutex<Option<Compactor>>,
}

impl Cassandra {
    /// Starts one of its own and waits until it answers.
    pub fn start(sizing: &Sizing) -> Self {
        Self::start_with(sizing, None)
    }

    /// Starts one whose clients log in, and may use TLS with the certificates in
    /// the folder that is returned: see `certificates` beside this file.
    pub fn start_guarded() -> (Self, PathBuf) {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = keeper::dir().join(format!("certificates-{n}"));
        let made = Command::new(installed().moto.join("venv/bin/python"))
            .arg(here().join("certificates"))
            .arg(&dir)
            .output()
            .expect("the Python of moto runs");
        assert!(
            made.status.success(),
            "no certificates: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        (Self::start_with(&Sizing::SMALL, Some(&dir)), dir)
    }

    fn start_with(sizing: &Sizing, guard: Option<&Path>) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let node = Server::start_on_free_ports(
            || {
                let n = STARTED.fetch_add(1, Ordering::Relaxed);
                Node::start(Place {
                    dir: keeper::dir().join(format!("cassandra-{n}")),
                    address: "127.0.0.1".to_owned(),
                    port: ports::free(&["127.0.0.1"]),
                    storage_port: ports::free(&["127.0.0.1"]),
                    jmx_port: ports::free(&["127.0.0.1"]),
                    seeds: "127.0.0.1".to_owned(),
                    token: i64::MIN,
                    sizing: *sizing,
                    guard: guard.map(Path::to_owned),
                })
            },
            |node| vec![&mut node.server],
            Node::answers,
        );
        Self {
            node,
            compactor: std::sync::Mutex::new(None),
        }
    }

    /// Where it listens for CQL: `127.0.0.1:PORT`.
    pub fn node(&self) -> String {
        self.node.address()
    }

    /// The process.
    pub fn server(&self) -> &Server {
        &self.node.server
    }

    /// A name for a keyspace that no other test has.
    pub fn keyspace_name(&self) -> String {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        format!("test_{}", GIVEN.fetch_add(1, Ordering::Relaxed))
    }

    /// Held while its schema is changed.
    pub async fn schema_lock(&self) -> MutexGuard<'static, ()> {
        schema_lock().await
    }

    /// Writes what is in memory to disk and merges all files of each table into
    /// one: afterwards a read sees the outcome of compaction, not of a merge.
    pub async fn flush_and_compact(&'static self, keyspace: &str) {
        let keyspace = keyspace.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut compactor = self.compactor.lock().unwrap();
            compactor
                .get_or_insert_with(|| Compactor::start(&self.node.place))
                .run(&keyspace);
        })
        .await
        .unwrap();
    }
}

/// Held while the schema of any node is changed: see [`Cassandra::schema_lock`].
pub async fn schema_lock() -> MutexGuard<'static, ()> {
    SCHEMA.lock().await
}

/// How large a node is.
#[derive(Clone, Copy)]
pub struct Sizing {
    heap: &'static str,
    jit: &'static str,
}

impl Sizing {
    /// Starts soon and takes little: for tests.
    pub const SMALL: Self = Self {
        heap: "256m",
        jit: "c1",
    };

    /// Holds the keyspaces of all the tests of a process: a table takes about
    /// 1 MB of the heap as soon as it is written to.
    pub const SHARED: Self = Self {
        heap: "2g",
        jit: "c1",
    };

    /// Slower to start, faster when warm: for benches.
    pub const FAST: Self = Self {
        heap: "1g",
        jit: "full",
    };
}

/// Where a node runs. It is the same each time that it is started.
#[derive(Clone)]
pub struct Place {
    pub dir: PathBuf,
    pub address: String,
    pub port: u16,
    pub storage_port: u16,
    pub jmx_port: u16,
    pub seeds: String,
    pub token: i64,
    pub sizing: Sizing,
    /// The folder of its certificates, if its clients must show who they are.
    pub guard: Option<PathBuf>,
}

/// A node and its process.
pub struct Node {
    pub place: Place,
    pub server: Server,
}

impl Node {
    /// Starts the process; it does not answer yet.
    pub fn start(place: Place) -> Self {
        let installed = installed();
        std::fs::create_dir_all(&place.dir).unwrap();
        let home = &installed.cassandra;
        let mut arguments = vec![
            format!("lib={}", home.join("lib").display()),
            format!("archive={}", home.join("classes.jsa").display()),
            format!("java={}", installed.java.display()),
            format!("dir={}", place.dir.display()),
            format!("address={}", place.address),
            format!("port={}", place.port),
            format!("storage_port={}", place.storage_port),
            format!("jmx_port={}", place.jmx_port),
            format!("seeds={}", place.seeds),
            format!("token={}", place.token),
            format!("heap={}", place.sizing.heap),
            format!("jit={}", place.sizing.jit),
        ];
        if let Some(guard) = &place.guard {
            arguments.push(format!("guard={}", guard.display()));
        }
        let script = here().join("cassandra/node");
        let log = place.dir.join("log");
        let server = Server::start("Cassandra", &script, arguments, &log);
        Self { place, server }
    }

    /// `ADDRESS:PORT`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.place.address, self.place.port)
    }

    /// Whether it answers the first frame of a CQL client.
    pub fn answers(&self) -> bool {
        supports_cql(&self.address()).unwrap_or(false)
    }

    /// Runs a command of Cassandra's own tool, and waits for it.
    pub fn nodetool(&self, command: &[&str]) {
        let installed = installed();
        let log = self.place.dir.join(format!("nodetool-{}.log", command[0]));
        let jmx_port = self.place.jmx_port.to_string();
        let lib = installed.cassandra.join("lib");
        let mut arguments: Vec<&Path> = vec![&lib, &self.place.dir, &installed.java];
        arguments.push(jmx_port.as_ref());
        arguments.extend(command.iter().map(Path::new));
        let script = here().join("cassandra/nodetool");
        let mut tool = Server::start("nodetool", &script, arguments, &log);
        let status = tool.wait();
        assert!(
            status.success(),
            "nodetool {command:?} {status}:\n{}",
            tool.last_words()
        );
    }
}

/// Sends an OPTIONS frame of protocol 4 and sees whether SUPPORTED comes back.
/// The port is open a little before the node answers on it.
fn supports_cql(address: &str) -> std::io::Result<bool> {
    const OPTIONS: [u8; 9] = [4, 0, 0, 0, 5, 0, 0, 0, 0];
    const SUPPORTED: u8 = 6;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&OPTIONS)?;
    let mut header = [0; 9];
    stream.read_exact(&mut header)?;
    Ok(header[4] == SUPPORTED)
}
