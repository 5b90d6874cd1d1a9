//! Where the servers are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What `tests/services/install` says that it installed.
pub struct Installed {
    /// The command that runs Java 17.
    pub java: PathBuf,
    /// A folder with `lib/*.jar` and `classes.jsa`.
    pub cassandra: PathBuf,
    /// A folder with `lib/*.jar`.
    pub elasticmq: PathBuf,
    /// A folder with the Python environment `venv`.
    pub moto: PathBuf,
}

/// The folder that this file is in.
pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services")
}

/// Where the servers are; the first call installs what is not there yet.
///
/// # Panics
///
/// If something cannot be installed, with the words of the script.
pub fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let script = here().join("install");
        let output = Command::new(&script)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("cannot run {}: {e}", script.display()));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "the servers that this test needs are not installed; run `tests/services/install` \
             and do what it says:\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            let path = line.and_then(|rest| rest.strip_prefix('='));
            PathBuf::from(path.unwrap_or_else(|| panic!("{name} is missing in:\n{said}")))
        };
        Installed {
            java: path("java"),
            cassandra: path("cassandra"),
            elasticmq: path("elasticmq"),
            moto: path("moto"),
        }
    })
}
