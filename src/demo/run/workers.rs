//! The worker processes: real ones, so that a kill is a kill. None of them
//! outlives the demo.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

use super::DemoError;
use crate::config::ENV_PREFIX;
use crate::wiring::{RING_PASSPHRASE, STORE_PASSWORD};

/// What workers need of this process's environment.
const SECRETS: [&str; 2] = [RING_PASSPHRASE, STORE_PASSWORD];

/// Worker processes, and the directory they work on.
pub struct Workers {
    program: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    witness: Option<PathBuf>,
    started: usize,
    running: Vec<Running>,
}

/// A worker process.
pub struct Running {
    /// Its name in leases, logs and the audit log.
    pub name: String,
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. One that has just ended cannot be sent any; its status
    /// tells.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Workers {
    /// None yet. They will log into `dir`, read the configuration `config`, and
    /// note what they seal in `witness`.
    ///
    /// # Errors
    /// If the system does not say which program this is.
    pub fn new(dir: &Path, config: &Path, witness: Option<PathBuf>) -> Result<Self, DemoError> {
        let program = std::env::current_exe()
            .map_err(|e| DemoError::io("find", Path::new("the program itself"), e))?;
        Ok(Self {
            program,
            dir: dir.to_owned(),
            config: config.to_owned(),
            witness,
            started: 0,
            running: Vec::new(),
        })
    }

    /// Starts the next one. Call it on a thread that lives as long as the demo:
    /// a child ends with the thread that started it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self) -> Result<&Running, DemoError> {
        self.start_with(&[])
    }

    /// As [`Workers::start`], with more in its environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_with(&mut self, environment: &[(&str, String)]) -> Result<&Running, DemoError> {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let log = self.log(&name);
        let file = File::create(&log).map_err(|e| DemoError::io("make", &log, e))?;
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with(ENV_PREFIX) && !SECRETS.contains(&&*text) {
                command.env_remove(&variable);
            }
        }
        if let Some(witness) = &self.witness {
            command.env("REKEYD_WITNESS", witness);
        }
        command
            .args(["worker", "--config"])
            .arg(&self.config)
            .args(["--end-with", &std::process::id().to_string()])
            .env("REKEYD_WORKER__ID", &name)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            // Ctrl-C is for the demo alone; it ends them in its own order.
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|e| DemoError::io("start", &self.program, e))?;
        self.running.push(Running { name, child });
        Ok(&self.running[self.running.len() - 1])
    }

    /// Those that run.
    pub fn running(&self) -> &[Running] {
        &self.running
    }

    /// Kills one with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self, n: usize) -> Running {
        let mut dead = self.running.remove(n);
        end(&mut dead.child);
        dead
    }

    /// Takes those out that have ended by themselves, with how they did.
    pub fn take_ended(&mut self) -> Vec<(Running, ExitStatus)> {
        let (mut ended, mut running) = (Vec::new(), Vec::new());
        for mut worker in std::mem::take(&mut self.running) {
            match worker.ended() {
                Some(status) => ended.push((worker, status)),
                None => running.push(worker),
            }
        }
        self.running = running;
        ended
    }

    /// Where the workers that are started from now on note what they seal.
    pub fn witness_in(&mut self, witness: Option<PathBuf>) {
        self.witness = witness;
    }

    /// Notices one that ended by itself: here none should.
    ///
    /// # Errors
    /// If one has.
    pub fn check(&mut self) -> Result<(), DemoError> {
        for worker in &mut self.running {
            if let Some(status) = worker.ended() {
                return Err(DemoError::WorkerEnded {
                    name: worker.name.clone(),
                    status,
                    log: self.dir.join(format!("{}.log", worker.name)),
                });
            }
        }
        Ok(())
    }

    /// Asks all of them to stop in order, and waits for them.
    ///
    /// # Errors
    /// If one ends badly.
    pub async fn stop(&mut self) -> Result<(), DemoError> {
        for worker in &self.running {
            worker.signal(Signal::TERM);
        }
        for mut worker in std::mem::take(&mut self.running) {
            let waited = tokio::task::spawn_blocking(move || {
                let status = worker.child.wait();
                (worker.name, status)
            });
            let (name, status) = waited.await.map_err(|e| DemoError::Task(e.to_string()))?;
            let log = self.log(&name);
            let status = status.map_err(|e| DemoError::io("wait for", &log, e))?;
            if !status.success() {
                return Err(DemoError::WorkerEnded { name, status, log });
            }
        }
        Ok(())
    }

    /// The log of a worker.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.running {
            end(&mut worker.child);
        }
    }
}

fn end(child: &mut Child) {
    // A child that is gone already cannot be killed, and that is well.
    let _ = child.kill();
    let _ = child.wait();
}

/// In a worker: ends this process with the one that started it, however that
/// one ends.
///
/// # Errors
/// If the system refuses, or the parent is gone already.
pub fn end_with(parent: u32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now.and_then(|pid| u32::try_from(pid).ok()) == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other(format!("process {parent} is gone")))
    }
}
