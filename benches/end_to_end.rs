//! The rekey against its floor on the embedded parts: see `measure`.
//!
//! ```text
//! cargo bench --bench end_to_end -- --rows 100000 --shape realistic
//! cargo bench --bench end_to_end -- --rows 1000000 --shape one
//! cargo bench --bench end_to_end -- --rows 20000 --latency-ms 10 --budget 500
//! cargo bench --bench end_to_end -- --rows 100000 --shape 200 --move
//! ```

#[path = "../tests/suite/backend.rs"]
#[allow(dead_code)]
mod backend;
mod measure;
#[path = "../tests/suite/rig.rs"]
#[allow(dead_code)]
mod rig;

#[tokio::main]
async fn main() {
    let options = measure::options();
    measure::measure(rig::Rig::new().await, &options).await;
}
