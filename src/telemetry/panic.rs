//! A panic message that names the place and nothing else. The usual one prints
//! the payload, and a payload can hold anything: a slice that did not index, a
//! value that did not unwrap.

use std::io::Write;
use std::panic::{PanicHookInfo, set_hook};

/// From here on a panic prints `panic at <file>:<line> in thread <name>`.
pub fn quiet_panics() {
    set_hook(Box::new(print_place));
}

fn print_place(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let line = match info.location() {
        Some(at) => format!("panic at {}:{} in thread {name}\n", at.file(), at.line()),
        None => format!("panic in thread {name}\n"),
    };
    // Standard error may be closed; a panic in here would abort the process.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "TELEMETRY_TEST_PANIC";

    /// Runs itself again as a process of its own: the hook is the process's, and
    /// other tests may panic on purpose.
    #[test]
    fn a_panic_prints_its_place_and_not_its_payload() {
        if std::env::var_os(CHILD).is_some() {
            quiet_panics();
            panic!("{}", "marked-payload");
        }
        let me = std::env::current_exe().unwrap();
        let out = std::process::Command::new(me)
            .args([
                "--exact",
                "telemetry::panic::tests::a_panic_prints_its_place_and_not_its_payload",
            ])
            .arg("--nocapture")
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        assert!(!out.status.success());
        let text = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        assert!(text.contains("panic at src/telemetry/panic.rs:"), "{text}");
        assert!(!text.contains("marked-payload"), "{text}");
        assert!(!text.contains("backtrace"), "{text}");
    }
}
