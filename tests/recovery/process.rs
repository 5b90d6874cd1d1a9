//! A worker process.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::rig::{PATIENCE, Rig};

/// A worker process. It is killed when this is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts one on the rig's directory, by the name that its leases will have;
    /// it kills itself at `kill_at`, if given.
    pub fn start(rig: &Rig, name: &str, kill_at: Option<&str>) -> Self {
        let log = rig.dir.path().join(format!("{name}.log"));
        let log_file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
        command.arg("worker");
        rig.backend.tell(command.as_std_mut());
        command
            .env("REKEYD_WORKER__ID", name)
            .env("REKEYD_WORKER__POLL_MS", "20")
            .env("REKEYD_WORKER__CHECKPOINT_MS", "10")
            .env("REKEYD_QUEUE__VISIBILITY_S", "1")
            .env("REKEYD_WITNESS", witness_file(rig))
            // Not a setting, so the process would refuse to start with it.
            .env_remove(crate::random_kills::KILLS)
            .env_remove("REKEYD_KILL_AT")
            .stdout(log_file.try_clone().unwrap())
            .stderr(log_file)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(point) = kill_at {
            command.env("REKEYD_KILL_AT", point);
        }
        let child = command.spawn().unwrap();
        Self { child, log }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("the process runs");
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Kills it with SIGKILL and waits for its end.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    /// Whether an end was a SIGKILL.
    pub fn was_killed(status: ExitStatus) -> bool {
        status.signal() == Some(Signal::KILL.as_raw())
    }

    /// Waits until it listens for signals; before that any process dies of one.
    async fn works(&mut self) {
        let begin = Instant::now();
        let log = self.log.clone();
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        while !log().contains(" works on ") {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begin.elapsed() < PATIENCE,
                "the worker starts ({ended:?}):\n{}",
                self.last_words()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks it to stop and sees that it ends well.
    pub async fn stop(mut self) {
        self.works().await;
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("the worker stops when asked")
            .unwrap();
        assert!(ended.success(), "{ended}\n{}", self.last_words());
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

/// Where the workers of a rig note how many rows they sealed.
pub fn witness_file(rig: &Rig) -> PathBuf {
    rig.dir.path().join("witness")
}
