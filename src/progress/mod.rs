//! How far a job is, and what to do about it: in numbers, and in words for
//! people. Pure; whoever calls has read the rows and knows the time. The commands
//! and the status page say the same by it.
//!
//! | file | what |
//! |---|---|
//! | `figures` | numbers, spans and times as people read them |
//! | `waits` | what a job waits for |
//! | `speed` | how fast it goes, and how long it still needs |
//! | `held` | what each worker holds, by its leases |
//! | `throttles` | which throttles hold for a job, in words |
//! | `next` | what a person can do for a job, as commands |
//! | `planned` | the plan a job was asked for with, beside what happened |
//! | `lapse` | verdicts that later jobs made untrue, or have a better answer to |

pub mod figures;
mod held;
mod lapse;
mod next;
pub mod planned;
mod speed;
#[cfg(test)]
mod tests;
pub mod throttles;
mod waits;

use std::time::Duration;

use serde::Serialize;

use crate::clock::WallTime;
use crate::job::{
    AsideSoFar, Counts, JobRow, JobState, Pass, TaskRow, TaskState, Throttle, Transition,
};
use crate::registry::{CopyPhase, Timing};

pub use held::{Held, Seen, held};
pub use lapse::{answer, lapse, later};
pub use next::{has_parked, next, retry};
pub use speed::{Rates, Speed};
pub use waits::{Wait, is_tried_again};

/// How far the pass is that a job is in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// What is being done, in one word.
    pub phase: &'static str,
    /// Of a copy of a channel: the phase that clients are in or go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_phase: Option<CopyPhase>,
    /// The round, if tasks are planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
    /// Slices planned in this round.
    pub slices: u64,
    /// Of these, gone through: never more than planned.
    pub slices_done: u64,
    /// Slices that wait for a key.
    pub blocked_slices: u64,
    /// Rows of this round.
    pub counts: Counts,
    /// KMS calls of this round.
    pub kms_calls: u64,
    /// Measured speed; absent before there are two measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Rates>,
    /// Seconds that this pass still needs at this speed, if that can be said.
    pub eta_s: Option<u64>,
    /// What it waits for, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Wait>,
    /// What slows it down, as the workers on it last said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowed: Option<String>,
    /// What operators have slowed it down by.
    pub throttles: Vec<Throttle>,
    /// Of a rekey whose last scan is done: how far the setting aside of its old
    /// keys is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting_aside: Option<SettingAside>,
}

/// How far the setting aside of old keys is. How many there are is known only at
/// its end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SettingAside {
    /// Keys and channels so far.
    #[serde(flatten)]
    pub so_far: AsideSoFar,
    /// Channels in all.
    pub channels: u64,
    /// Keys a second; absent before there are two measurements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_per_s: Option<f64>,
}

/// Whether a job may be setting its old keys aside: it drains, and its last scan is
/// done.
pub fn may_set_aside(job: &JobRow, tasks: &[TaskRow]) -> bool {
    let drains = job.round.is_some_and(|round| round.pass == Pass::Drain);
    job.state == JobState::Draining
        && drains
        && job.request.rekey().is_some()
        && !tasks.is_empty()
        && tasks.iter().all(|task| task.state == TaskState::Done)
}

impl Progress {
    /// What the rows say. `tasks` are those of the job's round.
    pub fn of(job: &JobRow, tasks: &[TaskRow], timing: &Timing, now: WallTime) -> Self {
        let mut progress = Self {
            phase: phase(job),
            copy_phase: job.copy.as_ref().map(|copy| copy.phase),
            round: job.round.map(|r| r.number),
            slices: job.round.map_or(0, |r| r.slices),
            slices_done: 0,
            blocked_slices: job.blocked_slices,
            counts: Counts::default(),
            kms_calls: 0,
            rates: None,
            eta_s: None,
            waits: waits::of(job, tasks, timing, now),
            slowed: waits::said(job, tasks, |lease| lease.slowed.as_deref()),
            throttles: Vec::new(),
            setting_aside: None,
        };
        if !tasks.is_empty() {
            progress.blocked_slices = tasks.iter().map(|t| t.blocked.len() as u64).sum();
        }
        for task in tasks {
            progress.slices_done += slices_done(task);
            progress.counts.add(&task.counts);
            progress.kms_calls += task.effort.kms_calls;
        }
        progress.slices_done = progress.slices_done.min(progress.slices);
        progress
    }

    /// Notes the throttles that hold for the job, and the names of those that
    /// cannot be read, before which nothing new is begun where no worker knows
    /// what they said.
    pub fn throttle(&mut self, throttles: Vec<Throttle>, unreadable: &[String]) {
        self.throttles = throttles;
        if let (Some(name), None) = (unreadable.first(), &self.waits) {
            self.waits = Some(Wait {
                code: "throttle_unreadable",
                words: format!(
                    "the throttle of `{}` cannot be read: set it anew or clear it",
                    figures::printable(name)
                ),
                until_ms: None,
            });
        }
    }

    /// Notes how far the setting aside is, of so many channels.
    pub fn set_aside(&mut self, so_far: AsideSoFar, channels: u64) {
        self.setting_aside = Some(SettingAside {
            so_far,
            channels,
            keys_per_s: None,
        });
    }

    fn left(&self) -> u64 {
        self.slices - self.slices_done
    }

    /// The line that people follow.
    pub fn line(&self, job: &JobRow) -> String {
        let mut parts = vec![match job.request.channel_move() {
            None => format!("{} {}", self.phase, job.request.org()),
            Some(m) => format!("{} {} to {}", self.phase, m.source(), m.destination()),
        }];
        if let Some(phase) = self.copy_phase.filter(|_| !job.state.is_final()) {
            parts.push(format!("phase {phase}: {}", in_words(phase)));
        }
        // Rounded down: 100 % is said when all is done, not just before.
        if let Some(permille) = (self.slices_done * 1000).checked_div(self.slices) {
            parts.push(format!(
                "{}/{} slices {}.{} %",
                self.slices_done,
                self.slices,
                permille / 10,
                permille % 10
            ));
            parts.push(format!("{} messages", figures::amount(self.counts.scanned)));
            if let Some(rates) = &self.rates {
                parts.push(format!("{}/s", figures::rate(rates.messages_per_s)));
                parts.push(format!("KMS {}/s", figures::rate(rates.kms_per_s)));
            }
        }
        if let Some(aside) = &self.setting_aside {
            parts.push(aside.in_words());
        }
        if self.blocked_slices > 0 {
            parts.push(format!("{} blocked", self.blocked_slices));
        }
        if self.counts.quarantined > 0 {
            parts.push(format!("{} quarantined", self.counts.quarantined));
        }
        parts.extend(self.slowed.iter().map(|s| figures::printable(s)));
        let throttles = self.throttles.iter();
        parts.extend(throttles.map(|t| format!("throttled to {}", t.limits)));
        match &self.waits {
            Some(wait) => parts.push(wait.words.clone()),
            None if self.slices > 0 && self.left() > 0 => parts.push(match self.eta_s {
                Some(s) => format!("ETA {}", figures::span(Duration::from_secs(s))),
                None => "ETA unknown".to_owned(),
            }),
            None => {}
        }
        parts.join("  ")
    }
}

impl SettingAside {
    /// In words, for people.
    pub fn in_words(&self) -> String {
        let AsideSoFar {
            keys,
            refused,
            channels_done,
        } = self.so_far;
        let mut text = format!("old keys are set aside: {keys} so far");
        if let Some(per_s) = self.keys_per_s {
            text += &format!(", {}/s", figures::rate(per_s));
        }
        if refused > 0 {
            text += &format!(", {refused} not");
        }
        text + &format!(
            ", {channels_done} of {}",
            figures::count(self.channels, "channel")
        )
    }
}

/// Slices of a task that are gone through. Those that wait for a key are not,
/// whatever the task is at. Slices may appear after the plan: what is shown never
/// passes it.
pub fn slices_done(task: &TaskRow) -> u64 {
    let blocked = task.blocked.len() as u64;
    match task.state {
        TaskState::Done => task.planned,
        TaskState::Parked => task.planned.saturating_sub(blocked),
        TaskState::Open => task.effort.slices.min(task.planned).saturating_sub(blocked),
    }
}

fn phase(job: &JobRow) -> &'static str {
    let rewrite = match (job.request.channel_move(), &job.copy) {
        (None, _) => "rekey",
        (Some(_), None) => "move",
        (Some(_), Some(_)) => "copy",
    };
    match (job.state, job.round.map(|r| r.pass)) {
        (JobState::Rewriting, _) => rewrite,
        (JobState::Verifying, _) => "verify",
        (JobState::Draining, Some(Pass::Sweep)) => "sweep",
        (JobState::Draining, _) => "drain",
        (JobState::Blocked, Some(Pass::Rewrite | Pass::Copy)) => rewrite,
        (JobState::Blocked, Some(Pass::Verify)) => "verify",
        (JobState::Blocked, Some(Pass::Drain)) => "drain",
        (JobState::Blocked, Some(Pass::Sweep)) => "sweep",
        (JobState::Settling, _) => "settle",
        (state, _) => state.as_str(),
    }
}

/// What clients do in a phase of a copy.
pub fn in_words(phase: CopyPhase) -> &'static str {
    match phase {
        CopyPhase::Announced => "clients delete in both places",
        CopyPhase::Mirrored => "clients write to both places",
        CopyPhase::Switched => "clients read the new place and write to both",
        CopyPhase::Moved => "clients have left the old place",
        CopyPhase::Closed => "the old place is empty",
    }
}

/// A line of a job's history: the change, or that it stayed where it was.
pub fn way(step: &Transition) -> String {
    match step.is_note() {
        true => format!("stays {}", step.to),
        false => format!("{} -> {}", step.from, step.to),
    }
}
