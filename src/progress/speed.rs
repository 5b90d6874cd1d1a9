//! How fast a job goes, from one look at it to the next.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::Progress;
use crate::clock::{BootTime, WallTime};
use crate::job::{JobRow, JobState};

/// Rates are measured over so much time: checkpoints come once a second, and a
/// shorter span would jump.
const WINDOW: Duration = Duration::from_secs(15);

/// The shortest look at the setting aside of keys that says something.
const ASIDE_LOOK: Duration = Duration::from_secs(5);

/// Speed, per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// Slices.
    pub slices_per_s: f64,
    /// Messages.
    pub messages_per_s: f64,
    /// KMS calls.
    pub kms_per_s: f64,
}

/// Measures speed from one look to the next.
#[derive(Default)]
pub struct Speed {
    round: Option<u32>,
    seen: VecDeque<(BootTime, u64, u64, u64)>,
    aside: VecDeque<(BootTime, u64)>,
}

impl Speed {
    /// Takes a look in, and tells the speed if it can. The first look of a
    /// rewriting round is set against its begin, if nothing has held it up since.
    pub fn look(&mut self, progress: &mut Progress, job: &JobRow, now: WallTime, boot: BootTime) {
        if let Some(aside) = &mut progress.setting_aside {
            // The scan is over: its speed is none, not 0.
            aside.keys_per_s = self.look_aside(aside.so_far.keys, boot);
            return;
        }
        if self.round != progress.round {
            self.round = progress.round;
            self.seen.clear();
        }
        let look = (
            boot,
            progress.slices_done,
            progress.counts.scanned,
            progress.kms_calls,
        );
        let oldest = match self.seen.front() {
            Some(oldest) => Some(*oldest),
            None if is_undisturbed(job) => {
                let since = Duration::from_millis(now.unix_ms().saturating_sub(job.since_ms));
                let begin = BootTime(boot.0.saturating_sub(since));
                Some((begin, 0, 0, 0))
            }
            None => None,
        };
        self.seen.push_back(look);
        while self.seen.len() > 2
            && self
                .seen
                .front()
                .is_some_and(|(at, ..)| boot.since(*at) > WINDOW)
        {
            self.seen.pop_front();
        }
        let Some((at, slices, messages, kms)) = oldest else {
            return;
        };
        // What it did before it stood still says nothing.
        if progress.waits.is_some() {
            return;
        }
        let took = boot.since(at).as_secs_f64();
        if took < 0.5 {
            return;
        }
        // A retry may count a slice's rows anew, and so fewer than before.
        let per_s = |now: u64, then: u64| now.saturating_sub(then) as f64 / took;
        let rates = Rates {
            slices_per_s: per_s(progress.slices_done, slices),
            messages_per_s: per_s(progress.counts.scanned, messages),
            kms_per_s: per_s(progress.kms_calls, kms),
        };
        if rates.slices_per_s > 0.0 && job.state != JobState::Blocked && progress.waits.is_none() {
            progress.eta_s = Some((progress.left() as f64 / rates.slices_per_s).ceil() as u64);
        }
        progress.rates = Some(rates);
    }

    /// How many keys a second are set aside.
    fn look_aside(&mut self, keys: u64, boot: BootTime) -> Option<f64> {
        let first = self.aside.front().copied();
        self.aside.push_back((boot, keys));
        let is_old = |at: BootTime| boot.since(at) > WINDOW;
        while self.aside.len() > 2 && self.aside.front().is_some_and(|(at, _)| is_old(*at)) {
            self.aside.pop_front();
        }
        let (at, then) = first?;
        let took = boot.since(at);
        // It is saved every few seconds: a shorter look would say 0.
        (took >= ASIDE_LOOK).then(|| keys.saturating_sub(then) as f64 / took.as_secs_f64())
    }
}

/// Transitions from the record of a job to its first rewriting.
const TO_REWRITING: u32 = 4;

/// Whether it has been rewriting since it began to, without a pause, a block or a
/// worker that died: then what it did since is its speed.
fn is_undisturbed(job: &JobRow) -> bool {
    job.state == JobState::Rewriting
        && job.transitions <= TO_REWRITING
        && job.token <= 1
        && job.takeovers == 0
}
