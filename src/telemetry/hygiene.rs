//! Keeps what is in this process's memory in this process: no core dump, no
//! debugger of another process of the same user, and, where the system allows
//! it, no page in swap.

use std::fmt;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// What [`harden`] achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardeningReport {
    /// The process cannot be traced and its `/proc` files are root's. The error
    /// is the system's words.
    pub not_dumpable: Result<(), String>,
    /// The core size limit is 0, hard limit too.
    pub no_core: Result<(), String>,
    /// Whether memory is kept out of swap.
    pub memory: MemoryLock,
}

/// Whether memory is kept out of swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLock {
    /// All of it, now and later, as it is used.
    Locked,
    /// Not locked: the process may lock only so many bytes, and locking under a
    /// limit would make later allocations fail.
    Limited {
        /// The limit (`ulimit -l`), bytes.
        limit_bytes: u64,
    },
    /// The system refused, with its words.
    Refused(String),
}

impl HardeningReport {
    /// Core dumps and tracing are off. Without these a process should not take
    /// keys; memory in swap is the operator's to weigh.
    pub fn is_acceptable(&self) -> bool {
        self.not_dumpable.is_ok() && self.no_core.is_ok()
    }
}

impl fmt::Display for HardeningReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.not_dumpable {
            Ok(()) => f.write_str("not dumpable")?,
            Err(e) => write!(f, "STILL DUMPABLE ({e})")?,
        }
        match &self.no_core {
            Ok(()) => f.write_str(", no core files")?,
            Err(e) => write!(f, ", CORE FILES POSSIBLE ({e})")?,
        }
        match &self.memory {
            MemoryLock::Locked => f.write_str(", memory locked"),
            MemoryLock::Limited { limit_bytes } => write!(
                f,
                ", memory may be swapped (the limit on locked memory is {limit_bytes} bytes; \
                 raise it to unlimited, or turn swap off)"
            ),
            MemoryLock::Refused(e) => write!(f, ", memory may be swapped ({e})"),
        }
    }
}

/// Takes every measure the system allows. Call it once, before the first key and
/// before threads are started. Child processes inherit the core limit only.
pub fn harden() -> HardeningReport {
    let no_core = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let memory = lock_memory();
    let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    HardeningReport {
        not_dumpable: not_dumpable.map_err(|e| e.to_string()),
        no_core: no_core.map_err(|e| e.to_string()),
        memory,
    }
}

fn lock_memory() -> MemoryLock {
    let mut limit = getrlimit(Resource::Memlock);
    if limit.current.is_some() && limit.maximum.is_none() {
        // The soft limit is ours to raise. If that is refused it still holds.
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        if setrlimit(Resource::Memlock, unlimited).is_ok() {
            limit = unlimited;
        }
    }
    if let Some(limit_bytes) = limit_that_binds(limit, may_lock_any()) {
        return MemoryLock::Limited { limit_bytes };
    }
    // ONFAULT: without it every thread's whole stack and every reserved page
    // would be filled in at once, and memory in use would be many times larger.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    match mlockall(all) {
        Ok(()) => MemoryLock::Locked,
        Err(e) => MemoryLock::Refused(e.to_string()),
    }
}

/// The limit under which memory must not be locked. FUTURE counts every later
/// mapping against it, used or not, so no limit is large enough to be safe.
fn limit_that_binds(limit: Rlimit, privileged: bool) -> Option<u64> {
    limit.current.filter(|_| !privileged)
}

/// Whether the limit on locked memory does not apply to this process.
fn may_lock_any() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| has_ipc_lock(&status))
}

/// Whether the effective capabilities of `/proc/<pid>/status` have `CAP_IPC_LOCK`.
fn has_ipc_lock(status: &str) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    const CHILD: &str = "TELEMETRY_TEST_HARDEN";

    /// Hardens a process of its own (this test, run again) and asks the system
    /// what is so there.
    #[test]
    fn a_hardened_process_is_closed_and_can_still_allocate() {
        if std::env::var_os(CHILD).is_some() {
            let report = harden();
            assert!(report.is_acceptable(), "{report}");
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            let zero = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            assert_eq!(getrlimit(Resource::Core), zero);
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let locked_kib: u64 = status
                .lines()
                .find_map(|line| line.strip_prefix("VmLck:"))
                .and_then(|rest| rest.trim().strip_suffix("kB"))
                .and_then(|n| n.trim().parse().ok())
                .unwrap();
            assert_eq!(
                locked_kib > 0,
                report.memory == MemoryLock::Locked,
                "{report}"
            );
            // The trap: locked under a limit, these would fail.
            let threads: Vec<_> = (0..8)
                .map(|n| std::thread::spawn(move || vec![n as u8; 8 << 20].len()))
                .collect();
            for thread in threads {
                assert_eq!(thread.join().unwrap(), 8 << 20);
            }
            return;
        }
        let me = std::env::current_exe().unwrap();
        let out = std::process::Command::new(me)
            .arg("--exact")
            .arg("telemetry::hygiene::tests::a_hardened_process_is_closed_and_can_still_allocate")
            .arg("--nocapture")
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }

    #[test]
    fn memory_is_never_locked_under_a_limit_that_binds() {
        let limit = |current| Rlimit {
            current,
            maximum: current,
        };
        for (current, privileged, expected) in [
            (None, false, None),
            (None, true, None),
            (Some(8 << 20), true, None),
            (Some(8 << 20), false, Some(8 << 20)),
            // Large is not enough: the address space is larger.
            (Some(64 << 30), false, Some(64 << 30)),
            (Some(0), false, Some(0)),
        ] {
            assert_eq!(limit_that_binds(limit(current), privileged), expected);
        }
    }

    #[test]
    fn the_capability_is_read_from_the_effective_set() {
        let status = |caps: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{caps}\n");
        assert!(has_ipc_lock(&status("000001ffffffffff")));
        assert!(has_ipc_lock(&status("0000000000004000")));
        assert!(!has_ipc_lock(&status("0000000000000000")));
        assert!(!has_ipc_lock(&status("ffffffffffffbfff")));
        assert!(!has_ipc_lock(""));
    }

    #[test]
    fn a_report_says_what_to_do() {
        let report = HardeningReport {
            not_dumpable: Ok(()),
            no_core: Ok(()),
            memory: MemoryLock::Limited {
                limit_bytes: 65_536,
            },
        };
        assert_eq!(
            report.to_string(),
            "not dumpable, no core files, memory may be swapped (the limit on locked memory is \
             65536 bytes; raise it to unlimited, or turn swap off)"
        );
    }
}
