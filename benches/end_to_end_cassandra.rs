//! The rekey against its floor on a Cassandra node, SQS and the AWS KMS client,
//! which it starts as the tests do (tests/services/README.md): see `measure`.
//!
//! ```text
//! cargo bench --bench end_to_end_cassandra -- --rows 20000 --shape realistic
//! cargo bench --bench end_to_end_cassandra -- --rows 100000 --shape 200
//! cargo bench --bench end_to_end_cassandra -- --rows 100000 --shape one
//! ```

#[path = "../tests/real/backend.rs"]
#[allow(dead_code)]
mod backend;
#[path = "../tests/real/copy.rs"]
mod copy;
mod measure;
#[path = "../tests/suite/rig.rs"]
#[allow(dead_code)]
mod rig;
#[path = "../tests/services/mod.rs"]
#[allow(dead_code, unused_imports)]
mod services;

use backend::{Backend, Place, short_waits};

#[tokio::main]
async fn main() {
    let options = measure::options();
    // Larger than the tests' node, and compiled as far as the JVM can.
    let node = services::Cassandra::start(&services::Sizing::FAST);
    let place = Place {
        nodes: vec![node.node()],
        copies: 1,
    };
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::at(place, dir.path(), &short_waits()).await;
    measure::measure(rig::Rig::on(dir, backend).await, &options).await;
}
