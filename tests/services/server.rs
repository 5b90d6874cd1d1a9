//! One server process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::keeper;

/// The longest that a server may take to start: far more than it does, because
/// a machine that builds at the same time is slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How often a server is started on other ports before we give up.
const TRIES: usize = 5;

/// A server process, killed when this is dropped or when this process has ended.
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `program`, which logs to `log`.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let mut child = Command::new("bash")
            // It does nothing until the keeper knows of it, and ends if nobody
            // is left to tell it to go on.
            .args(["-c", r#"read -r && exec "$@" </dev/null"#, name])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            // Ctrl-C is for the test process; the keeper does the rest.
            .process_group(0)
            .spawn()
            .expect("bash runs");
        keeper::keep(child.id());
        let mut input = child.stdin.take().expect("its input is a pipe");
        input.write_all(b"go\n").expect("it waits for this");
        Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        }
    }

    /// Starts one server or several with `start`, which picks the ports, and waits
    /// until `ready`. Starts anew on other ports if one was taken meanwhile.
    ///
    /// # Panics
    ///
    /// If a server ends or takes too long, with the end of its log.
    pub fn start_on_free_ports<T>(
        start: impl Fn() -> T,
        servers: impl Fn(&mut T) -> Vec<&mut Self>,
        ready: impl Fn(&T) -> bool,
    ) -> T {
        for _ in 0..TRIES {
            let mut started = start();
            let begin = Instant::now();
            while !ready(&started) {
                let taken = servers(&mut started).iter_mut().any(|s| s.lost_a_port());
                if taken {
                    break;
                }
                for server in servers(&mut started) {
                    server.assert_runs();
                    assert!(
                        begin.elapsed() < PATIENCE,
                        "{} was not ready after {PATIENCE:?}:\n{}",
                        server.name,
                        server.last_words()
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            if ready(&started) {
                return started;
            }
        }
        panic!("each of {TRIES} times another process took a port");
    }

    fn lost_a_port(&mut self) -> bool {
        let ended = self.child.try_wait().unwrap().is_some();
        ended && self.log().to_lowercase().contains("in use")
    }

    /// # Panics
    ///
    /// If it has ended, with the end of its log.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended: {status}\n{}", self.name, self.last_words());
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits for its end. Nothing happens if it has ended.
    pub fn kill(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Waits for its end, for a program that ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what it wrote.
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether something that speaks HTTP answers on a port of 127.0.0.1.
pub fn answers_http(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut start = [0; 5];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}
