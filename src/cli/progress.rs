//! How far a job is: in numbers, and in one line. Pure; whoever calls has read
//! the rows and knows the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::cli::figures;
use crate::clock::{BootTime, WallTime};
use crate::job::{Counts, JobRow, JobState, Lease, Pass, TaskRow, TaskState, Throttle, is_free};
use crate::registry::{CopyPhase, Timing};

/// Rates are measured over so much time: checkpoints come once a second, and a
/// shorter span would jump.
const WINDOW: Duration = Duration::from_secs(15);

/// A job or task that nobody holds is taken up within a poll or two of the time
/// it is due. Only after so long is it said that there is no worker.
const UNCLAIMED_MS: u64 = 5_000;

/// What a job waits for, as a code for programs and in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Wait {
    /// Stable code.
    pub code: &'static str,
    /// In words.
    pub words: String,
    /// Until when at least, Unix milliseconds, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// How far the pass is that a job is in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Progress {
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
}

/// Speed, per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Slices.
    pub slices_per_s: f64,
    /// Messages.
    pub messages_per_s: f64,
    /// KMS calls.
    pub kms_per_s: f64,
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
            waits: waits(job, tasks, timing, now),
            slowed: said(job, tasks, |lease| lease.slowed.as_deref()),
            throttles: Vec::new(),
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

/// Slices of a task that are gone through. A retry of parked slices counts them
/// again in the effort, and slices may appear after the plan: what is shown
/// never passes the plan.
fn slices_done(task: &TaskRow) -> u64 {
    let blocked = task.blocked.len() as u64;
    match task.state {
        TaskState::Done => task.planned,
        TaskState::Parked => task.planned.saturating_sub(blocked),
        TaskState::Open => task.effort.slices.min(task.planned),
    }
}

/// What those who hold the job or one of its tasks say of themselves, each thing
/// once. A worker says the same of itself in every row that it holds, as it is
/// when it writes that row: so of its leases the newest counts.
fn said(job: &JobRow, tasks: &[TaskRow], what: impl Fn(&Lease) -> Option<&str>) -> Option<String> {
    let of_tasks = tasks.iter().filter_map(|task| task.lease.as_ref());
    let mut newest: BTreeMap<&str, &Lease> = BTreeMap::new();
    for lease in job.lease.iter().chain(of_tasks) {
        let known = newest.entry(lease.worker.as_str()).or_insert(lease);
        if known.until_ms < lease.until_ms {
            *known = lease;
        }
    }
    let words: BTreeSet<&str> = newest.into_values().filter_map(what).collect();
    let words: Vec<&str> = words.into_iter().collect();
    (!words.is_empty()).then(|| words.join("; "))
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
pub(super) fn in_words(phase: CopyPhase) -> &'static str {
    match phase {
        CopyPhase::Announced => "clients delete in both places",
        CopyPhase::Mirrored => "clients write to both places",
        CopyPhase::Switched => "clients read the new place and write to both",
        CopyPhase::Moved => "clients have left the old place",
        CopyPhase::Closed => "the old place is empty",
    }
}

fn waits(job: &JobRow, tasks: &[TaskRow], timing: &Timing, now: WallTime) -> Option<Wait> {
    if job.state.is_final() {
        return None;
    }
    if job.state == JobState::Paused {
        return Some(Wait {
            code: "paused",
            words: format!("paused {}", figures::printable(&job.why)),
            until_ms: None,
        });
    }
    let until = |code, what: &str, at: u64| {
        let words = match figures::until(at, now) {
            Some(left) => format!(
                "{what} until {} ({})",
                figures::time(at),
                figures::span(left)
            ),
            None => what.trim_end_matches(',').to_owned(),
        };
        Some(Wait {
            code,
            words,
            until_ms: Some(at),
        })
    };
    let plain = |code, words: &str| {
        Some(Wait {
            code,
            words: words.to_owned(),
            until_ms: None,
        })
    };
    let begin_ms = job
        .request
        .not_before()
        .and_then(|t| u64::try_from(t.as_millisecond()).ok());
    if let (JobState::Queued, Some(at)) = (job.state, begin_ms)
        && at > now.unix_ms()
    {
        return until("not_before", "is not to begin", at);
    }
    if let (false, Some(at)) = (
        job.state == JobState::Blocked,
        job.closed_until_ms(now.unix_ms()),
    ) {
        return until("window", "its window is closed", at);
    }
    // Tasks go on without the one who drives the job, so they are asked too.
    let held = tasks.iter().any(|task| !is_free(task, now.unix_ms()));
    // A worker gives a job back until there is something to do for it.
    let due_ms = job
        .rests_until_ms(now.unix_ms())
        .unwrap_or(0)
        .max(job.since_ms);
    let late = now.unix_ms() >= due_ms.saturating_add(UNCLAIMED_MS);
    if is_free(job, now.unix_ms()) && !held && late {
        return plain(
            "no_worker",
            "no worker drives it; start one with `rekeyd worker`",
        );
    }
    if let Some(words) = said(job, tasks, |lease| lease.waits.as_deref())
        && !matches!(job.state, JobState::Blocked)
    {
        return plain("held_up", &figures::printable(&words));
    }
    match job.state {
        JobState::Queued => plain("queued", "is about to begin"),
        JobState::Preflight => plain("preflight", "tries the CMKs"),
        JobState::Activating => plain("activating", "changes the registry"),
        JobState::Settling => until(
            "settling",
            match &job.copy {
                Some(_) => "waits for every client to follow,",
                None => "waits for every writer to follow,",
            },
            job.since_ms + timing.settle_ms(),
        ),
        JobState::Verifying if job.round.is_none() => until(
            "settling_writes",
            "waits for the last write in flight,",
            job.since_ms + timing.row_age_ms + timing.request_timeout_ms,
        ),
        JobState::Verified => plain("draining", "is about to drain"),
        JobState::Draining if job.round.is_none() => match job.drain_until_ms {
            Some(at) => until("draining", "waits out late writes", at),
            None => plain("draining", "waits out late writes"),
        },
        JobState::Blocked => {
            let next = tasks
                .iter()
                .flat_map(|task| task.blocked.iter().map(|b| b.retry_ms))
                .chain(job.retry_ms)
                .min();
            let mut words = format!("blocked: {}", figures::printable(&job.why));
            if let Some(left) = next.and_then(|at| figures::until(at, now)) {
                words += &format!("; tried again in {}", figures::span(left));
            }
            Some(Wait {
                code: "blocked",
                words,
                until_ms: next,
            })
        }
        JobState::Rewriting | JobState::Verifying | JobState::Draining => match job.round {
            Some(round) if round.tasks.is_some() => None,
            _ => plain("planning", "lists the slices"),
        },
        JobState::Paused
        | JobState::Drained
        | JobState::Retired
        | JobState::Failed
        | JobState::Cancelled => None,
    }
}

/// Measures speed from one look to the next.
#[derive(Default)]
pub(super) struct Speed {
    round: Option<u32>,
    seen: VecDeque<(BootTime, u64, u64, u64)>,
}

impl Speed {
    /// Takes a look in, and tells the speed if it can. The first look of a
    /// rewriting round is set against its begin.
    pub fn look(&mut self, progress: &mut Progress, job: &JobRow, now: WallTime, boot: BootTime) {
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
            None if job.state == JobState::Rewriting => {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::job::{
        Activated, BlockedSlice, CopyProgress, Effort, JobMessage, Round, SliceId, Window,
    };
    use proptest::prelude::*;

    fn job(state: JobState) -> JobRow {
        let request = JobMessage::parse(
            r#"{"v":1,"kind":"rekey","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69","org":"acme",
            "to_cmk":"arn:aws:kms:local:000000000000:key/b","requested_by":"ops"}"#,
        )
        .unwrap();
        let mut row = JobRow::recorded(&request, "", 0, "2 slices revoked");
        (row.state, row.since_ms, row.token) = (state, 1_000_000, 1);
        (row.rounds, row.rewrite_round) = (1, 1);
        row.lease = Some(Lease {
            worker: "w".into(),
            until_ms: u64::MAX,
            waits: None,
            slowed: None,
        });
        row.round = Some(Round {
            number: 1,
            pass: Pass::Rewrite,
            tasks: Some(1),
            slices: 1024,
        });
        row
    }

    fn task(state: TaskState, planned: u64, done: u64, blocked: usize) -> TaskRow {
        let slice = SliceId {
            channel: "c1".parse().unwrap(),
            hour: "2019-02-13T17".parse().unwrap(),
        };
        TaskRow {
            from: slice.clone(),
            to: None,
            planned,
            state,
            token: 1,
            lease: None,
            takeovers: 0,
            checkpoint: None,
            counts: Counts {
                scanned: 18_349_000,
                ..Counts::default()
            },
            effort: Effort {
                slices: done,
                kms_calls: 4200,
                ..Effort::default()
            },
            blocked: vec![
                BlockedSlice {
                    slice,
                    code: "revoked".into(),
                    message: String::new(),
                    after: None,
                    counts: Counts::default(),
                    tries: 1,
                    retry_ms: 1_060_000,
                };
                blocked
            ],
            streams: Vec::new(),
        }
    }

    const NOW: WallTime = WallTime(1_020_000_000);

    #[test]
    fn the_line_says_it_all() {
        let job = job(JobState::Rewriting);
        let tasks = [task(TaskState::Parked, 414, 500, 2)];
        let mut progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
        let boot = BootTime(Duration::from_secs(5000));
        Speed::default().look(&mut progress, &job, NOW, boot);
        assert_eq!(
            progress.line(&job),
            "rekey acme  412/1024 slices 40.2 %  18.3 M messages  917.5 k/s  KMS 210/s  \
             2 blocked  ETA 30 s"
        );
    }

    #[test]
    fn an_unknown_eta_says_so_and_so_does_a_job_nobody_drives() {
        let mut job = job(JobState::Rewriting);
        let idle = [task(TaskState::Open, 1024, 0, 0)];
        let progress = Progress::of(&job, &idle, &Timing::demo(), NOW);
        assert!(progress.line(&job).ends_with("ETA unknown"));
        job.lease = None;
        let progress = Progress::of(&job, &idle, &Timing::demo(), NOW);
        let line = progress.line(&job);
        assert!(line.ends_with("no worker drives it; start one with `rekeyd worker`"));
        assert_eq!(progress.waits.unwrap().code, "no_worker");
    }

    #[test]
    fn a_job_that_rests_needs_nobody() {
        let timing = Timing::demo();
        let mut draining = job(JobState::Draining);
        draining.drain_until_ms = Some(1_030_000);
        let mut refused = job(JobState::Blocked);
        refused.retry_ms = Some(1_030_000);
        for (mut job, code) in [(draining, "draining"), (refused, "blocked")] {
            job.round = None;
            job.lease = None;
            let waits = |ms: i64| {
                let now = WallTime(ms * 1000);
                Progress::of(&job, &[], &timing, now).waits.unwrap()
            };
            assert_eq!(waits(1_020_000).code, code);
            assert_eq!(waits(1_034_000).code, code);
            assert_eq!(waits(1_035_000).code, "no_worker");
        }
        let mut settling = job(JobState::Settling);
        settling.round = None;
        let over = Progress::of(&settling, &[], &timing, NOW).waits.unwrap();
        assert_eq!(over.words, "waits for every writer to follow");
    }

    #[test]
    fn each_wait_is_named() {
        let timing = Timing::demo();
        let cases = [
            (JobState::Settling, "settling"),
            (JobState::Verifying, "settling_writes"),
            (JobState::Draining, "draining"),
            (JobState::Blocked, "blocked"),
            (JobState::Rewriting, "planning"),
            (JobState::Preflight, "preflight"),
        ];
        for (state, code) in cases {
            let mut job = job(state);
            job.round = None;
            let progress = Progress::of(&job, &[], &timing, NOW);
            assert_eq!(progress.waits.as_ref().map(|w| w.code), Some(code));
        }
        let mut paused = job(JobState::Paused);
        (paused.lease, paused.why) = (None, "by ops: repair".to_owned());
        let progress = Progress::of(&paused, &[], &timing, NOW);
        assert_eq!(progress.waits.as_ref().map(|w| w.code), Some("paused"));
        assert!(progress.line(&paused).ends_with("paused by ops: repair"));
        for state in [
            JobState::Drained,
            JobState::Retired,
            JobState::Failed,
            JobState::Cancelled,
        ] {
            assert!(Progress::of(&job(state), &[], &timing, NOW).waits.is_none());
        }
        let blocked = job(JobState::Blocked);
        let tasks = [task(TaskState::Parked, 10, 8, 2)];
        let line = Progress::of(&blocked, &tasks, &timing, NOW).line(&blocked);
        assert!(
            line.ends_with("blocked: 2 slices revoked; tried again in 40 s"),
            "{line}"
        );
    }

    #[test]
    fn a_closed_window_is_waited_for_and_named() {
        // 1970-01-01T00:17 UTC; opens at two o'clock.
        let window = Window::new("0 2 * * *", "UTC", 60).unwrap();
        let waits = |state, pass| {
            let mut job = job(state);
            let JobMessage::Rekey(request) = &mut job.request else {
                unreachable!("the job of these tests is a rekey");
            };
            request.window = Some(window.clone());
            job.lease = None;
            job.round = job.round.map(|round| Round { pass, ..round });
            job.activated = Some(Activated {
                epoch: Epoch::FIRST,
                from_cmk: "arn:aws:kms:local:000000000000:key/a".parse().unwrap(),
                at_ms: 0,
            });
            (
                job.is_due(NOW.unix_ms()),
                Progress::of(&job, &[], &Timing::demo(), NOW).waits,
            )
        };
        for (state, pass) in [
            (JobState::Queued, Pass::Rewrite),
            (JobState::Preflight, Pass::Rewrite),
            (JobState::Rewriting, Pass::Rewrite),
            (JobState::Verifying, Pass::Verify),
            (JobState::Verified, Pass::Verify),
        ] {
            let (due, waits) = waits(state, pass);
            let waits = waits.unwrap();
            assert!(!due, "{state}");
            assert_eq!((waits.code, waits.until_ms), ("window", Some(7_200_000)));
            assert_eq!(
                waits.words,
                "its window is closed until 1970-01-01T02:00:00Z (1 h 43 m)"
            );
        }
        // What has begun goes on outside.
        for (state, pass) in [
            (JobState::Activating, Pass::Rewrite),
            (JobState::Settling, Pass::Rewrite),
            (JobState::Draining, Pass::Drain),
            (JobState::Blocked, Pass::Sweep),
        ] {
            let (due, waits) = waits(state, pass);
            assert!(due, "{state}");
            assert_ne!(waits.map(|w| w.code), Some("window"), "{state}");
        }
        let (due, blocked) = waits(JobState::Blocked, Pass::Rewrite);
        assert!(!due, "its tasks are not taken");
        assert_eq!(blocked.unwrap().code, "blocked");
    }

    #[test]
    fn a_copy_says_its_phase_and_what_clients_do() {
        let mut job = job(JobState::Rewriting);
        job.request = JobMessage::parse(
            r#"{"v":1,"kind":"channel_move","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
            "org":"acme","from":{"workspace":"w1","channel":"c1"},
            "to":{"workspace":"w2","channel":"c2"},"requested_by":"ops"}"#,
        )
        .unwrap();
        let line = |job: &JobRow, tasks: &[TaskRow]| {
            Progress::of(job, tasks, &Timing::demo(), NOW).line(job)
        };
        assert!(line(&job, &[]).starts_with("move acme/w1/c1 to acme/w2/c2  0/1024"));
        job.copy = Some(CopyProgress {
            phase: CopyPhase::Mirrored,
            leave_behind: None,
            left_behind: 0,
        });
        let tasks = [task(TaskState::Open, 1024, 412, 0)];
        assert_eq!(
            line(&job, &tasks),
            "copy acme/w1/c1 to acme/w2/c2  phase mirrored: clients write to both places  \
             412/1024 slices 40.2 %  18.3 M messages  ETA unknown"
        );
        job.round = None;
        job.state = JobState::Settling;
        job.copy.as_mut().unwrap().phase = CopyPhase::Moved;
        assert_eq!(
            line(&job, &[]),
            "settle acme/w1/c1 to acme/w2/c2  phase moved: clients have left the old place  \
             waits for every client to follow"
        );
        job.state = JobState::Drained;
        assert_eq!(line(&job, &[]), "drained acme/w1/c1 to acme/w2/c2");
    }

    #[test]
    fn what_holds_the_workers_up_is_what_each_said_last() {
        let lease = |worker: &str, until_ms, waits: Option<&str>| {
            Some(Lease {
                worker: worker.into(),
                until_ms,
                waits: waits.map(str::to_owned),
                slowed: None,
            })
        };
        let held = |lease| TaskRow {
            lease,
            ..task(TaskState::Open, 10, 0, 0)
        };
        let (kms, queue) = (Some("waits for the KMS: x"), Some("waits for the queue: y"));
        let mut job = job(JobState::Rewriting);
        job.lease = lease("w", 2_000_000, kms);
        let words = |job: &JobRow, tasks: &[TaskRow]| {
            let waits = Progress::of(job, tasks, &Timing::demo(), NOW).waits;
            waits.filter(|w| w.code == "held_up").map(|w| w.words)
        };
        assert_eq!(words(&job, &[]).as_deref(), kms);
        // The same worker has written a row since.
        let newer = |waits| held(lease("w", 2_000_001, waits));
        assert_eq!(words(&job, &[newer(queue)]).as_deref(), queue);
        assert_eq!(words(&job, &[newer(None)]), None);
        // Another one is held up by something else, a third by the same.
        let all = [
            newer(queue),
            held(lease("v", 2_000_000, kms)),
            held(lease("u", 2_000_000, kms)),
        ];
        let both = "waits for the KMS: x; waits for the queue: y";
        assert_eq!(words(&job, &all).as_deref(), Some(both));
    }

    proptest! {
        #[test]
        fn progress_never_passes_the_whole(
            tasks in prop::collection::vec((0u8..3, 0u64..600, 0u64..1000, 0usize..5), 0..8),
            planned in 0u64..2000,
        ) {
            let mut job = job(JobState::Rewriting);
            if let Some(round) = &mut job.round {
                round.slices = planned;
            }
            let tasks: Vec<TaskRow> = tasks
                .into_iter()
                .map(|(state, planned, done, blocked)| {
                    let state = [TaskState::Open, TaskState::Parked, TaskState::Done][usize::from(state)];
                    task(state, planned, done, blocked)
                })
                .collect();
            let progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
            prop_assert!(progress.slices_done <= progress.slices);
            let _ = progress.line(&job);
        }
    }
}
