//! Real servers for tests: started on first use, ended with the test process.
//!
//! | file | what |
//! |---|---|
//! | `cassandra` | one Cassandra node, shared by the tests of a process |
//! | `compactor` | flushes and compacts a node's keyspaces |
//! | `cluster` | several nodes, to be killed and started again |
//! | `installed` | where the servers are; installs them if they are not |
//! | `keeper` | a process that outlives this one for a moment, to clean up |
//! | `moto` | AWS KMS as far as the wire goes |
//! | `ports` | ports that nobody uses |
//! | `proxy` | a faulty network in front of any server |
//! | `server` | one server process: its start, its log, its end |
//! | `sqs` | ElasticMQ, which speaks SQS |
//!
//! Included by a test program with `#[path]`; nothing in it knows rekeyd. A
//! server that cannot be had is a panic that names the command to run, never a
//! skipped test. See README.md there.

mod cassandra;
mod cluster;
mod compactor;
mod installed;
mod keeper;
mod moto;
mod ports;
mod proxy;
mod server;
mod sqs;

pub use cassandra::{Cassandra, Sizing, cassandra, schema_lock};
pub use cluster::Cluster;
pub use keeper::dir as servers_dir;
pub use moto::{Moto, moto};
pub use proxy::{Mode, Proxy};
pub use sqs::{Sqs, sqs};
