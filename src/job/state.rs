//! The states of a job and every way from one to another. docs/state-machine.md
//! is this table in words; a test holds the two together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Recorded; waits for its time.
    Queued,
    /// The CMKs and the organization are tried; nothing has changed yet.
    Preflight,
    /// The registry is being changed.
    Activating,
    /// Waits until no writer can still follow the old state.
    Settling,
    /// Tasks rewrite.
    Rewriting,
    /// An independent scan looks for what is left.
    Verifying,
    /// The scan found nothing; late writes may still land.
    Verified,
    /// Waits out the life of a late write, then scans again.
    Draining,
    /// The end: nothing live needs the old CMK.
    Drained,
    /// After the end: an operator has deleted what only the old CMK opens.
    Retired,
    /// Something waits for a person or a customer: blocked slices, quarantined
    /// cells, a CMK that cannot be used. Tried again by itself and by `retry`.
    Blocked,
    /// Halted by an operator until another command. Nothing is worked on; the
    /// application goes on as it was.
    Paused,
    /// Refused or broken before activation; nothing was changed.
    Failed,
    /// Stopped by an operator. The store is readable; a later job finishes it.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 14] = [
        JobState::Queued,
        JobState::Preflight,
        JobState::Activating,
        JobState::Settling,
        JobState::Rewriting,
        JobState::Verifying,
        JobState::Verified,
        JobState::Draining,
        JobState::Drained,
        JobState::Retired,
        JobState::Blocked,
        JobState::Paused,
        JobState::Failed,
        JobState::Cancelled,
    ];

    /// The states a job may go to from this one.
    pub fn next(self) -> &'static [JobState] {
        use JobState::*;
        match self {
            Queued => &[Preflight, Paused, Failed, Cancelled],
            Preflight => &[Activating, Blocked, Failed, Cancelled],
            // Not cancelled: the driver may be about to change the registry, and
            // a job that was told to have ended must not do that. Not paused, for
            // the same reason, and neither is preflight: it lasts for a few calls.
            Activating => &[Settling, Failed],
            // A copy settles after each of its phases.
            Settling => &[Rewriting, Draining, Paused, Cancelled],
            Rewriting => &[Settling, Verifying, Blocked, Paused, Cancelled],
            Verifying => &[Rewriting, Verified, Blocked, Paused, Cancelled],
            Verified => &[Settling, Draining, Paused, Cancelled],
            Draining => &[Rewriting, Drained, Blocked, Paused, Cancelled],
            Blocked => &[Preflight, Rewriting, Verifying, Draining, Paused, Cancelled],
            // Of these only the one it was paused in; the job's row says which.
            Paused => &[
                Queued, Settling, Rewriting, Verifying, Verified, Draining, Blocked, Cancelled,
            ],
            // By a command of its own, and only of a rekey.
            Drained => &[Retired],
            Retired | Failed | Cancelled => &[],
        }
    }

    /// Whether a job may go from this state to another.
    pub fn may_become(self, to: JobState) -> bool {
        self.next().contains(&to)
    }

    /// Whether an operator may pause a job that is in this state.
    pub fn may_pause(self) -> bool {
        self.may_become(JobState::Paused)
    }

    /// Whether the job is at its end: no worker does anything for it any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            JobState::Drained | JobState::Retired | JobState::Failed | JobState::Cancelled
        )
    }

    /// Whether the job came to its good end, retired since or not.
    pub fn is_drained(self) -> bool {
        matches!(self, JobState::Drained | JobState::Retired)
    }

    /// Whether tasks of the job may be claimed.
    pub fn has_tasks(self) -> bool {
        matches!(
            self,
            JobState::Rewriting | JobState::Verifying | JobState::Draining | JobState::Blocked
        )
    }

    /// The word used in rows, commands and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Preflight => "preflight",
            JobState::Activating => "activating",
            JobState::Settling => "settling",
            JobState::Rewriting => "rewriting",
            JobState::Verifying => "verifying",
            JobState::Verified => "verified",
            JobState::Draining => "draining",
            JobState::Drained => "drained",
            JobState::Retired => "retired",
            JobState::Blocked => "blocked",
            JobState::Paused => "paused",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no state of a job"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const DOC: &str = include_str!("../../docs/state-machine.md");

    /// The rows of the table whose header begins with these words, each split
    /// into its cells.
    fn table(header: &str) -> Vec<Vec<String>> {
        let rows: Vec<Vec<String>> = DOC
            .lines()
            .skip_while(|line| !line.starts_with(header))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells = line.trim_matches('|').split('|');
                cells.map(|cell| cell.trim().to_owned()).collect()
            })
            .collect();
        assert!(!rows.is_empty(), "no table begins with `{header}`");
        rows
    }

    fn state(cell: &str) -> JobState {
        cell.trim_matches('`').parse().unwrap()
    }

    #[test]
    fn every_pair_of_states_is_as_the_document_says() {
        let rows = table("| from | to |");
        let ways: BTreeSet<(JobState, JobState)> = rows
            .iter()
            .map(|row| (state(&row[0]), state(&row[1])))
            .collect();
        assert_eq!(ways.len(), rows.len(), "a way is listed twice");
        for from in JobState::ALL {
            for to in JobState::ALL {
                assert_eq!(
                    from.may_become(to),
                    ways.contains(&(from, to)),
                    "{from} to {to}: code and docs/state-machine.md differ"
                );
            }
        }
    }

    #[test]
    fn every_state_is_explained_once() {
        let explained: Vec<JobState> = table("| state | meaning |")
            .iter()
            .map(|row| state(&row[0]))
            .collect();
        let mut sorted = explained.clone();
        sorted.sort();
        let mut all = JobState::ALL;
        all.sort();
        assert_eq!(sorted, all);
    }

    #[test]
    fn from_an_end_only_a_drained_job_goes_on_and_only_to_retired() {
        for from in JobState::ALL.into_iter().filter(|state| state.is_final()) {
            let expected: &[JobState] = match from {
                JobState::Drained => &[JobState::Retired],
                _ => &[],
            };
            assert_eq!(from.next(), expected, "{from}");
        }
        for from in JobState::ALL.into_iter().filter(|state| !state.is_final()) {
            assert!(!from.next().is_empty(), "{from}");
        }
    }

    #[test]
    fn cancelling_is_possible_wherever_it_can_still_be_true() {
        for from in JobState::ALL {
            let expected = !from.is_final() && from != JobState::Activating;
            assert_eq!(from.may_become(JobState::Cancelled), expected, "{from}");
        }
    }

    #[test]
    fn a_paused_job_goes_back_to_whatever_can_be_paused_and_has_no_tasks() {
        for state in JobState::ALL {
            assert_eq!(
                state.may_pause(),
                JobState::Paused.may_become(state) && state != JobState::Cancelled,
                "{state}"
            );
        }
        assert!(!JobState::Paused.has_tasks());
    }
}
