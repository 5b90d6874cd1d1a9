//! This machine and process: what keeps keys in memory, how much memory and disk
//! there is, and whether something keeps the clock.

use std::path::{Path, PathBuf};

use super::{Broken, Check, Part};
use crate::config::{Config, KmsKind, QueueKind};
use crate::telemetry::HardeningReport;
use crate::telemetry::hygiene::MemoryLock;

const MIB: u64 = 1 << 20;
/// Less free than this, and a worker would soon stop.
const DISK_WRONG: u64 = 64 * MIB;
/// Less free than this is worth a look.
const DISK_LOW: u64 = 1024 * MIB;
/// What a worker needs besides cells: code, threads, connections, queues.
const BESIDE_CELLS: u64 = 128 * MIB;

/// What this process could do to keep its memory to itself.
pub fn hardening(report: &HardeningReport) -> Vec<Check> {
    let mut checks = Vec::new();
    match (&report.not_dumpable, &report.no_core) {
        (Ok(()), Ok(())) => checks.push(Check::ok(
            Part::Memory,
            "no core dumps, and no other process of this user can look in",
        )),
        (dumpable, core) => {
            for (what, result) in [
                ("the process can be traced", dumpable),
                ("core dumps cannot be switched off", core),
            ] {
                if let Err(error) = result {
                    checks.push(Check::wrong(
                        Part::Memory,
                        format!("{what}: {error}"),
                        "let the process set its own limits: no seccomp filter on prctl or setrlimit",
                    ));
                }
            }
        }
    }
    let unlocked = match &report.memory {
        MemoryLock::Locked => None,
        MemoryLock::Limited { limit_bytes } => {
            Some(format!("the limit on locked memory is {limit_bytes} bytes"))
        }
        MemoryLock::Refused(error) => Some(error.clone()),
    };
    checks.push(match unlocked {
        None => Check::ok(Part::Memory, "locked: no key reaches swap"),
        Some(_) if !has_swap() => Check::ok(Part::Memory, "not locked, and there is no swap"),
        Some(why) => Check::warning(
            Part::Memory,
            format!("may be swapped: {why}"),
            "LimitMEMLOCK=infinity in the unit, --ulimit memlock=-1 in a container, or no swap",
        ),
    });
    checks
}

fn has_swap() -> bool {
    // One line is the heading. Unreadable means that it is not known: there is.
    std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

/// Whether the memory there is holds what the worker may use.
pub fn memory(config: &Config) -> Check {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let total = read(Path::new("/proc/meminfo")).and_then(|text| mem_total(&text));
    let limits = cgroup_files().into_iter().filter_map(|path| read(&path));
    let limit = limits.filter_map(|text| text.trim().parse().ok()).min();
    match (total, limit) {
        (None, None) => Check::not_checked(Part::Memory, "how much there is"),
        (total, limit) => {
            let there = total.unwrap_or(u64::MAX).min(limit.unwrap_or(u64::MAX));
            fits(config.worker.bytes_in_flight as u64, there)
        }
    }
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Where the limit of this process's control group may stand; `max` there does
/// not parse and is no limit.
fn cgroup_files() -> Vec<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own
        .lines()
        .find_map(|l| l.strip_prefix("0::/"))
        .map(str::to_owned);
    let root = Path::new("/sys/fs/cgroup");
    let mut files = vec![
        root.join("memory.max"),
        root.join("memory/memory.limit_in_bytes"),
    ];
    // The limit of any group above counts as well.
    let mut path = own.map(|own| root.join(own));
    while let Some(group) = path {
        files.push(group.join("memory.max"));
        path = group
            .parent()
            .filter(|p| p.starts_with(root))
            .map(Path::to_path_buf);
    }
    files
}

fn fits(cells: u64, there: u64) -> Check {
    // Old and new cell are in memory together (docs/performance.md).
    let wanted = 2 * cells + BESIDE_CELLS;
    let says = format!(
        "{} MiB, and worker.bytes_in_flight of {} MiB wants about {} MiB",
        there / MIB,
        cells / MIB,
        wanted / MIB
    );
    let fix = "lower worker.bytes_in_flight, or give the worker more memory";
    if there < cells + BESIDE_CELLS {
        Check::wrong(Part::Memory, says, fix)
    } else if there < wanted {
        Check::warning(Part::Memory, says, fix)
    } else {
        Check::ok(Part::Memory, says)
    }
}

/// The directories that the configuration writes to, each once for its use.
pub fn disks(config: &Config) -> Vec<Check> {
    let mut places = vec![("audit.dir", config.audit.dir.as_path())];
    if !config.store.kind.is_cluster() {
        places.push(("store.path", &config.store.path));
    }
    if config.queue.kind == QueueKind::Sqlite {
        places.push(("queue.path", &config.queue.path));
    }
    if config.kms.kind == KmsKind::Ring {
        places.push(("kms.ring", &config.kms.ring));
    }
    places
        .into_iter()
        .map(|(name, path)| disk(name, path))
        .collect()
}

fn disk(name: &str, path: &Path) -> Check {
    // What is not there yet will be made on the disk of what is.
    let there = path
        .ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("."));
    match rustix::fs::statvfs(there) {
        Ok(stat) => room(name, there, stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => {
            Check::not_checked(Part::Disk, format!("{name}: {}: {error}", there.display()))
        }
    }
}

fn room(name: &str, path: &Path, free: u64) -> Check {
    let says = format!("{name}: {} MiB free at {}", free / MIB, path.display());
    let fix = "free or add space: a worker that cannot write its audit log or its store stops";
    if free < DISK_WRONG {
        Check::wrong(Part::Disk, says, fix)
    } else if free < DISK_LOW {
        Check::warning(Part::Disk, says, fix)
    } else {
        Check::ok(Part::Disk, says)
    }
}

/// Whether the audit log could be begun: `opened` is its file, or why not.
pub fn audit(opened: &Result<PathBuf, Broken>) -> Check {
    match opened {
        Ok(path) => Check::ok(Part::Audit, format!("can be written: {}", path.display())),
        Err(broken) => broken.check(Part::Audit),
    }
}

/// Signs that a time service has set this machine's clock.
const TIME_SERVICES: [(&str, &str); 5] = [
    (
        "/run/systemd/timesync/synchronized",
        "systemd-timesyncd has set the clock",
    ),
    ("/run/chrony/chronyd.pid", "chronyd runs"),
    ("/run/chronyd.pid", "chronyd runs"),
    ("/run/ntpd.pid", "ntpd runs"),
    ("/run/phc2sys.pid", "phc2sys runs"),
];

/// Whether something keeps this machine's clock, as far as can be seen.
pub fn time_service() -> Check {
    match TIME_SERVICES
        .iter()
        .find(|(path, _)| Path::new(path).exists())
    {
        Some((_, says)) => Check::ok(Part::Clock, *says),
        None => Check::not_checked(
            Part::Clock,
            "no sign of a time service in /run; in a container the host keeps the clock: look there",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn memory_that_does_not_hold_the_cells_is_wrong() {
        for (cells, there, state) in [
            (64, 1024, State::Ok),
            (64, 255, State::Warning),
            (64, 256, State::Ok),
            (64, 192, State::Warning),
            (64, 191, State::Wrong),
            (4096, 2048, State::Wrong),
        ] {
            assert_eq!(
                fits(cells * MIB, there * MIB).state,
                state,
                "{cells} {there}"
            );
        }
        assert_eq!(
            mem_total("MemFree: 1 kB\nMemTotal:     2048 kB\n"),
            Some(2 * MIB)
        );
        assert_eq!(mem_total("nothing"), None);
    }

    #[test]
    fn a_disk_that_fills_up_is_told_in_time() {
        let at = |mib: u64| room("audit.dir", Path::new("/x"), mib * MIB).state;
        assert_eq!(
            [at(63), at(64), at(1023), at(1024)].map(|s| s == State::Wrong),
            [true, false, false, false]
        );
        assert_eq!(at(1023), State::Warning);
        assert_eq!(at(1024), State::Ok);
        // A place that is not there yet is on the disk of what is there.
        assert_ne!(
            disk("audit.dir", Path::new("/nowhere/at/all")).state,
            State::NotChecked
        );
    }

    #[test]
    fn what_a_process_could_not_keep_to_itself_is_told() {
        let good = HardeningReport {
            not_dumpable: Ok(()),
            no_core: Ok(()),
            memory: MemoryLock::Locked,
        };
        let states = |report: &HardeningReport| -> Vec<State> {
            hardening(report).iter().map(|c| c.state).collect()
        };
        assert_eq!(states(&good), [State::Ok, State::Ok]);
        let bad = HardeningReport {
            not_dumpable: Err("EPERM".to_owned()),
            no_core: Err("EPERM".to_owned()),
            ..good
        };
        assert_eq!(states(&bad), [State::Wrong, State::Wrong, State::Ok]);
    }
}
