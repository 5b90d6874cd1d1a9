//! A process that cleans up after this one.
//!
//! Statics are not dropped when a process ends, and nothing is when it is killed.
//! The keeper waits for the end of its input, which comes either way. (A signal
//! on the parent's death would come too early: it is bound to the thread that
//! started the child, and each test has its own.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use super::installed::here;

struct Keeper {
    dir: PathBuf,
    input: Mutex<ChildStdin>,
}

fn keeper() -> &'static Keeper {
    static KEEPER: OnceLock<Keeper> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let dir = tempfile::Builder::new()
            .prefix("rekeyd-services-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let mut child = Command::new(here().join("keep"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C goes to the group in front; the keeper has work left then.
            .process_group(0)
            .spawn()
            .expect("tests/services/keep runs");
        let input = child.stdin.take().expect("its input is a pipe");
        Keeper {
            dir,
            input: Mutex::new(input),
        }
    })
}

/// The folder for all that servers write. It goes when this process has ended.
pub fn dir() -> &'static Path {
    &keeper().dir
}

/// Has a process killed when this one has ended.
pub fn keep(pid: u32) {
    let mut input = keeper().input.lock().unwrap();
    writeln!(input, "{pid}").expect("the keeper lives");
}
