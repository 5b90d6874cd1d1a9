//! What a job waits for.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::figures;
use crate::clock::WallTime;
use crate::job::{JobRow, JobState, Lease, TaskRow, is_free};
use crate::registry::Timing;

/// A job or task that nobody holds is taken up within a poll or two of the time
/// it is due. Only after so long is it said that there is no worker.
const UNCLAIMED_MS: u64 = 5_000;

/// What a job waits for, as a code for programs and in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// Stable code.
    pub code: &'static str,
    /// In words.
    pub words: String,
    /// Until when at least, Unix milliseconds, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

/// What those who hold the job or one of its tasks say of themselves, each thing
/// once. A worker says the same of itself in every row that it holds, as it is
/// when it writes that row: so of its leases the newest counts.
pub(super) fn said(
    job: &JobRow,
    tasks: &[TaskRow],
    what: impl Fn(&Lease) -> Option<&str>,
) -> Option<String> {
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

/// Whether a blocked job is being tried again because somebody asked: it is not at
/// an end then, though it stays `blocked` until a worker knows more.
pub fn is_tried_again(job: &JobRow, tasks: &[TaskRow]) -> bool {
    if job.state != JobState::Blocked {
        return false;
    }
    if job.activated.is_none() {
        return job.retry_ms == Some(0);
    }
    let mut waiting = tasks.iter().flat_map(|task| &task.blocked).peekable();
    match waiting.peek() {
        Some(_) => waiting.any(|slice| slice.retry_ms == 0),
        // They could be read, and the job's driver has not seen it yet.
        None => job.blocked_slices > 0,
    }
}

/// What the job waits for, if it does.
pub(super) fn of(job: &JobRow, tasks: &[TaskRow], timing: &Timing, now: WallTime) -> Option<Wait> {
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
            if is_tried_again(job, tasks) {
                words += "; is tried again now";
            } else if let Some(left) = next.and_then(|at| figures::until(at, now)) {
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
