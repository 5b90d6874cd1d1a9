//! `rekeyd demo` on real parts: three Cassandra nodes and a queue server, which
//! this starts; a worker is killed, and then a node.
//!
//! ```text
//! cargo run --example demo_on_servers -- --messages 6000
//! ```
//!
//! The servers are those of the tests: tests/services/README.md says what they
//! need. What follows `--` goes to `rekeyd demo`.

#[path = "../tests/services/mod.rs"]
#[allow(dead_code, unused_imports)]
mod services;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use services::{Cluster, sqs};

#[tokio::main]
async fn main() -> ExitCode {
    println!("starting three Cassandra nodes and a queue server");
    let mut cluster = Cluster::start(3).await;
    let endpoint = sqs().endpoint();
    // Beside this program, which stands in `examples`.
    let here = std::env::current_exe().expect("the system knows this program");
    let program = here
        .ancestors()
        .nth(2)
        .expect("a target folder")
        .join("rekeyd");
    let mut demo = Command::new(&program)
        .args(["demo", "--store", "cassandra", "--nodes"])
        .arg(cluster.nodes().join(","))
        .args(["--sqs-endpoint", &endpoint])
        .args(std::env::args().skip(1))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!(
                "cannot start {}: {e}; `cargo build` makes it",
                program.display()
            )
        });
    let lines = BufReader::new(demo.stdout.take().expect("it is piped")).lines();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        println!("{line}");
        // Once the worker is dead, a node dies as well; it is back a little
        // later. The job waits for it before it drains.
        if !killed && line.contains("kill -9 worker") {
            killed = true;
            cluster.kill(2);
            println!("         and kill -9 of the node 127.0.0.3");
            tokio::time::sleep(Duration::from_secs(3)).await;
            cluster.restart(2);
            println!("         the node 127.0.0.3 is started again");
        }
    }
    let status = demo.wait().expect("the demo ends");
    assert!(killed || !status.success(), "nothing was killed");
    match status.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
