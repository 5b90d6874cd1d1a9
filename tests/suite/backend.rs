//! The parts that a rig stands on: here the embedded ones. `tests/real` has the
//! same for a Cassandra node, SQS and the AWS KMS client, and runs the same
//! tests on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use rekeyd::clock::SystemClock;
use rekeyd::config::{self, Config};
use rekeyd::registry::Timing;
use rekeyd::store::SharedStore;
use rekeyd::wiring;

/// Store, queue and KMS, made for one rig.
pub struct Backend {
    file: PathBuf,
}

impl Backend {
    /// Makes everything new, with its files in `dir`.
    pub async fn new(dir: &Path, timing: &Timing) -> Self {
        let backend = Self::configured(dir);
        wiring::init(&backend.config(), timing, &SystemClock::shared())
            .await
            .unwrap();
        backend
    }

    /// The same data again, with its files in `dir`. Nobody may write to this
    /// one meanwhile.
    pub async fn copy(&self, from: &Path, _: &SharedStore, dir: &Path) -> Self {
        copy_files(from, dir);
        Self::configured(dir)
    }

    /// Steps so small that small tests take many of them.
    fn configured(dir: &Path) -> Self {
        let file = dir.join("rekeyd.toml");
        let data_dir = toml::Value::String(dir.to_str().unwrap().to_owned());
        let text = format!("data_dir = {data_dir}\n[worker]\npoll_ms = 50\ncheckpoint_ms = 50\n");
        std::fs::write(&file, text).unwrap();
        Self { file }
    }

    /// The configuration of the workers.
    pub fn config(&self) -> Config {
        config::load(Some(&self.file), [], []).unwrap().config
    }

    /// The configuration of another part, by the name that the KMS knows it by.
    pub fn config_of(&self, _caller: &str) -> Config {
        self.config()
    }

    /// Lets a process find everything.
    pub fn tell(&self, command: &mut Command) {
        command.arg("--config").arg(&self.file);
    }
}

/// Of the kill points one in so many is died at: all.
pub const KILL_POINTS_ONE_IN: usize = 1;
/// Workers that are killed at any instant, unless another number is asked for.
pub const KILLS_BY_DEFAULT: u64 = 6;

/// Longest a test waits for anything.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The waits of a rig, unless a test asks for others.
pub fn usual_waits() -> Timing {
    Timing::demo()
}

/// Waits still smaller than the demo's, for most of a scenario is waiting.
pub fn short_waits() -> Timing {
    let mut t = Timing {
        status_time_ms: 400,
        request_timeout_ms: 400,
        max_skew_ms: 20,
        row_age_ms: 400,
        lease_ms: 1_000,
        margin_ms: 100,
        grace_ms: 1_000,
        drain_ms: 0,
        blocked_retry_ms: 500,
        blocked_retry_max_ms: 10_000,
    };
    t.drain_ms = t.settle_ms();
    t.check().unwrap();
    t
}

fn copy_files(from: &Path, to: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&target)
                .unwrap();
            copy_files(&entry.path(), &target);
        } else if target.extension().is_none_or(|e| e != "db-shm") {
            // The index of the write-ahead log is made anew by who opens first.
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
