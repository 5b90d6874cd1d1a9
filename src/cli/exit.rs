//! How a command ends, as scripts see it. docs/cli.md lists these; a test holds
//! the two together.

use std::process::ExitCode;

/// The exit codes. A code keeps its meaning for good; new meanings get new codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done. Of `status --wait`: drained, and the old CMK may be disabled, or the
    /// channel is where it was to go.
    Done = 0,
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line, or the request it makes, is not valid. Nothing was done.
    Usage = 2,
    /// The configuration is not valid, or names a queue that is not there. Nothing
    /// was done.
    Config = 3,
    /// There is no store or key ring here yet, or no keyspace on the cluster.
    NotSetUp = 4,
    /// No such organization, channel, job, record or CMK.
    NotFound = 5,
    /// What stands already, or the state something is in, does not allow it.
    Conflict = 6,
    /// Store, queue or KMS did not answer in time. The same command may succeed
    /// later.
    Unavailable = 7,
    /// The KMS refused, or the CMK cannot be used now.
    KmsRefused = 8,
    /// Of `doctor`: something is wrong and has to be mended.
    Unfit = 9,
    /// The old CMK must not be disabled: slices are blocked, cells are
    /// quarantined, or a later job made it active again. Of `verify --job`: a scan
    /// does not show what the rekey promised.
    MustNotDisable = 10,
    /// The job failed, or its message was refused. Nothing was changed.
    JobFailed = 11,
    /// The job was cancelled.
    JobCancelled = 12,
    /// The time given with `--timeout` is over; the job goes on.
    Timeout = 13,
    /// Data is not as it should be: cells that do not open, an audit log that
    /// was changed or does not agree with CloudTrail. Of `status --wait`: a move left such cells behind.
    BadData = 14,
    /// A move of a channel is not at its end: slices wait for a key, a cell is
    /// under the old scope or in an old place.
    MoveUnfinished = 15,
    /// Ctrl-C or SIGTERM ended the command; what it had started is ended too.
    Interrupted = 130,
}

impl Exit {
    /// All of them, by number.
    pub const ALL: [Exit; 17] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Config,
        Exit::NotSetUp,
        Exit::NotFound,
        Exit::Conflict,
        Exit::Unavailable,
        Exit::KmsRefused,
        Exit::Unfit,
        Exit::MustNotDisable,
        Exit::JobFailed,
        Exit::JobCancelled,
        Exit::Timeout,
        Exit::BadData,
        Exit::MoveUnfinished,
        Exit::Interrupted,
    ];

    /// The number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The word that stands for it in JSON and in docs/cli.md.
    pub fn as_str(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Config => "config",
            Exit::NotSetUp => "not_set_up",
            Exit::NotFound => "not_found",
            Exit::Conflict => "conflict",
            Exit::Unavailable => "unavailable",
            Exit::KmsRefused => "kms_refused",
            Exit::Unfit => "unfit",
            Exit::MustNotDisable => "must_not_disable",
            Exit::JobFailed => "job_failed",
            Exit::JobCancelled => "job_cancelled",
            Exit::Timeout => "timeout",
            Exit::BadData => "bad_data",
            Exit::MoveUnfinished => "move_unfinished",
            Exit::Interrupted => "interrupted",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_code() {
        let page = include_str!("../../docs/cli.md");
        for exit in Exit::ALL {
            let row = format!("| {} | `{}` | ", exit.number(), exit.as_str());
            assert!(page.contains(&row), "docs/cli.md lacks `{row}`");
        }
        let mut numbers: Vec<u8> = Exit::ALL.iter().map(|e| e.number()).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), Exit::ALL.len());
    }
}
