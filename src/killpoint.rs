//! Named points at which a test kills the process, and a witness of what was
//! done before. Both do nothing unless asked by the environment, and are left
//! out of release builds.
//!
//! `REKEYD_KILL_AT=<name>` kills the process with SIGKILL the first time it
//! comes to that point, `<name>:<n>` the n-th time. `REKEYD_WITNESS=<file>`
//! appends a line to a file for every batch of new cells that was made, which
//! is how tests count work that a kill made in vain.

/// The points that a rekey comes to, in its order. Each stands before or after a
/// durable step. A move comes to most of them too.
pub const POINTS: [&str; 24] = [
    "intake_before_record",
    "intake_before_delete",
    "job_after_claim",
    "job_before_activate",
    "job_after_activate",
    "job_after_settling",
    "plan_half_written",
    "plan_before_commit",
    "plan_after_commit",
    "task_after_claim",
    "key_after_generate",
    "key_after_insert",
    "cells_before_write",
    "cells_after_write",
    "quarantine_before_checkpoint",
    "checkpoint_before",
    "checkpoint_after",
    "task_before_done",
    "task_after_done",
    "set_aside_after_keys",
    "set_aside_after_channel",
    "job_after_floors",
    "job_before_transition",
    "job_after_transition",
];

/// The points that only a move comes to which copies its channel to another
/// place.
pub const MOVE_POINTS: [&str; 7] = [
    "move_before_phase",
    "move_after_phase",
    "move_after_release",
    "copy_before_write",
    "copy_after_write",
    "sweep_before_purge",
    "sweep_after_purge",
];

/// The points that the retire of a job comes to: within one run of slices, and
/// before the job's state is changed.
pub const RETIRE_POINTS: [&str; 3] = [
    "retire_before_delete",
    "retire_after_delete",
    "retire_before_end",
];

/// Kills the process here if a test asked for it.
#[inline]
pub fn reach(name: &'static str) {
    #[cfg(debug_assertions)]
    asked::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Notes that `rows` new cells of a slice were made.
#[inline]
pub fn witness_sealed(slice: &dyn std::fmt::Display, rows: usize) {
    #[cfg(debug_assertions)]
    asked::witness_sealed(slice, rows);
    #[cfg(not(debug_assertions))]
    let _ = (slice, rows);
}

#[cfg(debug_assertions)]
mod asked {
    use std::fs::File;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Wish {
        name: String,
        left: AtomicU32,
    }

    fn wish() -> Option<&'static Wish> {
        static WISH: OnceLock<Option<Wish>> = OnceLock::new();
        WISH.get_or_init(|| {
            let text = std::env::var("REKEYD_KILL_AT").ok()?;
            let (name, n) = match text.split_once(':') {
                Some((name, n)) => (name.to_owned(), n.parse().ok()?),
                None => (text, 1),
            };
            assert!(is_listed(&name), "no kill point is called {name}");
            Some(Wish {
                name,
                left: AtomicU32::new(n),
            })
        })
        .as_ref()
    }

    fn is_listed(name: &str) -> bool {
        let all = super::POINTS.iter().chain(&super::MOVE_POINTS);
        all.chain(&super::RETIRE_POINTS).any(|point| *point == name)
    }

    pub fn reach(name: &'static str) {
        debug_assert!(is_listed(name), "{name} is not listed");
        let Some(wish) = wish() else { return };
        if wish.name == name && wish.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // SIGKILL to ourselves: no destructor and no flush, as in life.
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
            std::process::abort();
        }
    }

    pub fn witness_sealed(slice: &dyn std::fmt::Display, rows: usize) {
        static FILE: OnceLock<Option<File>> = OnceLock::new();
        let file = FILE.get_or_init(|| {
            let path = std::env::var_os("REKEYD_WITNESS")?;
            File::options().create(true).append(true).open(path).ok()
        });
        if let Some(mut file) = file.as_ref() {
            // One write per line, so that lines of several processes stay whole.
            let _ = file.write_all(format!("{slice} {rows}\n").as_bytes());
        }
    }
}
