//! A rate limit that all processes share: the generic cell rate algorithm, whose
//! whole state is one number in a small file under a lock.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::clock::BootTime;

/// The limits of a ring that this process has met, by fault id.
pub(super) struct Throttles {
    dir: PathBuf,
    // A file lock is per open file, so threads of one process would share it:
    // the mutex keeps them apart, the lock keeps processes apart.
    files: Mutex<HashMap<String, File>>,
}

impl Throttles {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: Mutex::default(),
        }
    }

    /// Takes one call from the limit `id`; false if there is none left now.
    pub fn admit(&self, id: &str, rate_per_s: f64, burst: u32, now: BootTime) -> io::Result<bool> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if !files.contains_key(id) {
            let path = self.dir.join(format!("throttle-{id}.state"));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            files.insert(id.to_owned(), file);
        }
        let file = &files[id];
        rustix::fs::flock(file, FlockOperation::LockExclusive)?;
        let answer = Self::step(file, rate_per_s, burst, now);
        rustix::fs::flock(file, FlockOperation::Unlock)?;
        answer
    }

    fn step(file: &File, rate_per_s: f64, burst: u32, now: BootTime) -> io::Result<bool> {
        let mut bytes = [0; 8];
        let next = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Duration::from_nanos(u64::from_be_bytes(bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Duration::ZERO,
            Err(e) => return Err(e),
        };
        match gcra(
            next,
            now.0,
            Duration::from_secs_f64(1.0 / rate_per_s),
            burst,
        ) {
            Some(next) => {
                let nanos = u64::try_from(next.as_nanos()).unwrap_or(u64::MAX);
                file.write_all_at(&nanos.to_be_bytes(), 0)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// The new state if the call may pass. `next` is when the next call would come
/// if calls came evenly.
fn gcra(next: Duration, now: Duration, interval: Duration, burst: u32) -> Option<Duration> {
    let ahead = interval.saturating_mul(burst - 1);
    // Further ahead than any call could have put it: written before a restart of
    // the machine, whose clock began again, or under a slower rate.
    let stale = next > now + ahead + interval;
    let next = if stale { now } else { next };
    (next <= now + ahead).then(|| next.max(now) + interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_processes() {
        let dir = tempfile::tempdir().unwrap();
        // Two instances have two open files, as two processes have.
        let both = [Throttles::new(dir.path()), Throttles::new(dir.path())];
        let mut admitted = 0;
        for ms in 0..1000_u64 {
            for throttle in &both {
                let now = BootTime(Duration::from_secs(100) + Duration::from_millis(ms));
                admitted += u32::from(throttle.admit("t", 100.0, 5, now).unwrap());
            }
        }
        assert_eq!(
            admitted,
            100 + 4,
            "100 a second, and a burst of 5 at the start"
        );
    }

    #[test]
    fn a_restarted_clock_does_not_lock_everyone_out() {
        let interval = Duration::from_millis(10);
        let before = Duration::from_secs(1_000_000);
        let now = Duration::from_secs(3);
        assert_eq!(gcra(before, now, interval, 1), Some(now + interval));
    }

    #[test]
    fn a_burst_of_one_spaces_calls_evenly() {
        let interval = Duration::from_millis(10);
        let at = Duration::from_millis;
        let next = gcra(Duration::ZERO, at(1000), interval, 1).unwrap();
        assert_eq!(next, at(1010));
        assert_eq!(gcra(next, at(1009), interval, 1), None);
        assert_eq!(gcra(next, at(1010), interval, 1), Some(at(1020)));
    }
}
