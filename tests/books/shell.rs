//! The shell that a page is played in: one bash from the first command to the
//! last, so that variables and workers in the background stay.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// More than any command of a page needs: a job takes some ten seconds.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Shell {
    bash: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    scratch: PathBuf,
    commands: usize,
}

/// What became of a command.
pub struct Ended {
    pub printed: String,
    pub exit: i32,
}

impl Shell {
    /// In `stage`, with notes of its own in `scratch`.
    pub fn start(stage: &Path, scratch: &Path) -> Self {
        let binary = Path::new(env!("CARGO_BIN_EXE_rekeyd"));
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .current_dir(stage)
            // What a developer has set for himself is not the reader's.
            .envs(own_settings().map(|name| (name, "")))
            .env(
                "PATH",
                format!("{}:{path}", binary.parent().unwrap().display()),
            )
            .env("USER", "ops")
            .env("NO_COLOR", "1")
            .env("REKEYD_WORKER__POLL_MS", "50")
            .env("REKEYD_WORKER__CHECKPOINT_MS", "50")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        for name in own_settings() {
            command.env_remove(name);
        }
        let mut bash = command.spawn().expect("bash plays the pages");
        let output = BufReader::new(bash.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            input: bash.stdin.take().unwrap(),
            bash,
            answers,
            scratch: scratch.to_owned(),
            commands: 0,
        }
    }

    /// Runs a command to its end; `None` if it has none. Of several the exit code
    /// is that of the last, or where `each` has to succeed, of the last that
    /// failed.
    pub fn run(&mut self, script: &str, each: bool) -> Option<Ended> {
        self.commands += 1;
        let file = |what: &str| self.scratch.join(format!("{}.{what}", self.commands));
        let (source, printed) = (file("sh"), file("out"));
        std::fs::write(&source, script).unwrap();
        let run = format!(
            "source {} >{} 2>&1 </dev/null",
            source.display(),
            printed.display()
        );
        let exit = self.ask(&match each {
            true => format!("failed=0; trap 'failed=$?' ERR; {run}; trap - ERR; echo $failed"),
            false => format!("{run}; echo $?"),
        })?;
        Some(Ended {
            printed: String::from_utf8_lossy(&std::fs::read(&printed).unwrap()).into_owned(),
            exit: exit.parse().unwrap(),
        })
    }

    /// The value of a variable, if it has one.
    pub fn value(&mut self, name: &str) -> Option<String> {
        self.ask(&format!("printf '%s\\n' \"${{{name}-}}\""))
            .filter(|value| !value.is_empty())
    }

    fn ask(&mut self, line: &str) -> Option<String> {
        writeln!(self.input, "{line}").ok()?;
        self.answers.recv_timeout(PATIENCE).ok()
    }
}

/// Variables that would change what commands do.
fn own_settings() -> impl Iterator<Item = String> {
    std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("REKEYD_") || name.starts_with("AWS_"))
}

impl Drop for Shell {
    /// With all that it started, whatever happened.
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.bash);
        // Fails if all have ended, which is as well.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.bash.wait();
    }
}
