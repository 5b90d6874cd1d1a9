//! A process that cleans up after this one.
//!
//! Statics are not dropped when a process ends, and nothing is when it is killed.
//! The keeper waits for the end of its input, which comes either way. (A signal
//! on the parent's death would come too early: it is bound to the thread that
//! started the child, and each test has its own.)

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use super::installed::here;

struct Keeper {
    dir: PathBuf,
    /// With its input, which closes with this process.
    child: Mutex<Child>,
}

fn keeper() -> &'static Keeper {
    static KEEPER: OnceLock<Keeper> = OnceLock::new();
    KEEPER.get_or_init(|| {
        let dir = tempfile::Builder::new()
            .prefix("rekeyd-services-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let child = Command::new(here().join("keep"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C goes to the group in front; the keeper has work left then.
            .process_group(0)
            .spawn()
            .expect("tests/services/keep runs");
        Keeper {
            dir,
            child: Mutex::new(child),
        }
    })
}

/// The folder for all that servers write. It goes when this process has ended.
pub fn dir() -> &'static Path {
    &keeper().dir
}

/// Has a process killed when this one has ended.
pub fn keep(pid: u32) {
    let mut child = keeper().child.lock().unwrap();
    let input = child.stdin.as_mut().expect("its input is a pipe");
    writeln!(input, "{pid}").expect("the keeper lives");
}
