//! What was done, and what was found.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::demo::ledger::{Violations, Wrong};

/// Violations kept in words; all are counted.
const KEPT: usize = 200;

/// Figures of a run. Those of the lower half must be 0, or within the bound beside
/// them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// The seed.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Rounds played.
    pub rounds: u64,
    /// Jobs asked for.
    pub jobs: u64,
    /// Of these, by kind.
    pub jobs_by_kind: BTreeMap<&'static str, u64>,
    /// Messages sent to the queue more than once.
    pub duplicates: u64,
    /// Workers killed with SIGKILL.
    pub kills: u64,
    /// Of these, at a named point.
    pub kills_at_points: u64,
    /// Of these, killed because they did not come to their point.
    pub points_not_reached: u64,
    /// The points that were died at.
    pub points: BTreeMap<&'static str, u64>,
    /// Workers frozen beyond their leases and woken.
    pub zombies: u64,
    /// Workers whose clock jumped.
    pub clock_jumps: u64,
    /// Workers whose audit log's disk was to be full, and those that it stopped.
    pub audit_full: [u64; 2],
    /// The same of the embedded store's disk.
    pub store_full: [u64; 2],
    /// Faults of the KMS, by kind.
    pub kms_faults: BTreeMap<&'static str, u64>,
    /// How often nobody could reach the queue for a while.
    pub queue_faults: u64,
    /// Operations of live traffic.
    pub operations: u64,
    /// Errors it was given, by code; the ledger reckons with them.
    pub traffic_errors: BTreeMap<&'static str, u64>,
    /// Messages compared with the ledger at the end.
    pub compared: u64,
    /// Of these, there.
    pub present: u64,
    /// Time until nothing was held by a dead worker, milliseconds, for each that
    /// held something; ascending.
    pub takeovers_ms: Vec<u64>,
    /// Rows sealed in vain, in all; `None` if this build does not count them.
    pub rework_rows: Option<u64>,
    /// Audit records verified.
    pub audit_records: u64,

    /// Acknowledged messages that are gone.
    pub lost: u64,
    /// Deleted or vanished messages that are back.
    pub revived: u64,
    /// Older texts over newer ones, and texts that nobody wrote.
    pub overwritten: u64,
    /// Messages that do not open, or are refused.
    pub undecryptable: u64,
    /// Rows under a key that a finished job was to leave.
    pub old_key_rows: u64,
    /// Slices in which a death cost more than one batch.
    pub rework_excess: u64,
    /// Jobs that came to no good end in time.
    pub stuck: u64,
    /// Workers that ended though nobody killed them and nothing ailed them.
    pub ended_unasked: u64,
    /// What else does not hold: counts that do not sum, rows in an old place, an
    /// audit log that does not verify.
    pub others: u64,
}

/// Figures and what is wrong, in words.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What is wrong. Names records and times, never a text.
    pub violations: Vec<String>,
}

impl Report {
    /// Whether every guarantee was kept.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    /// Notes that something is wrong; the caller counts it.
    pub(super) fn wrong(&mut self, what: impl Into<String>) {
        if self.violations.len() < KEPT {
            self.violations.push(what.into());
        }
    }

    /// Notes something wrong that has no count of its own.
    pub(super) fn other(&mut self, what: impl Into<String>) {
        self.figures.others += 1;
        self.wrong(what);
    }

    /// Takes in what a reading found.
    pub(super) fn judged(&mut self, when: &str, found: &Violations) {
        for violation in found.iter() {
            let count = match violation.wrong {
                Wrong::Lost => &mut self.figures.lost,
                Wrong::Revived => &mut self.figures.revived,
                Wrong::Overwritten | Wrong::Torn => &mut self.figures.overwritten,
                Wrong::Undecryptable => &mut self.figures.undecryptable,
            };
            *count += 1;
            self.wrong(format!("{when}: {violation}"));
        }
    }

    /// The one line at the end.
    pub fn line(&self) -> String {
        let f = &self.figures;
        let what = format!(
            "chaos: seed {}, {}, {}, {}",
            f.seed,
            count(f.kills, "kill"),
            count(f.zombies, "zombie"),
            count(f.jobs, "job")
        );
        if self.holds() {
            return format!("{what}: nothing lost, revived, overwritten or undecryptable.");
        }
        let parts: Vec<String> = [
            (f.lost, "lost"),
            (f.revived, "revived"),
            (f.overwritten, "overwritten"),
            (f.undecryptable, "undecryptable"),
            (f.old_key_rows, "under an old key"),
            (f.rework_excess, "with too much rework"),
            (f.stuck, "stuck"),
            (f.ended_unasked, "workers ended by themselves"),
            (f.others, "other violations"),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
        format!("{what}: VIOLATED: {}.", parts.join(", "))
    }
}

impl Figures {
    /// A line of progress.
    pub(super) fn in_short(&self) -> String {
        format!(
            "{}, {}, {}",
            count(self.kills, "kill"),
            count(self.zombies, "zombie"),
            count(self.jobs, "job")
        )
    }

    pub(super) fn took_over(&mut self, after: Duration) {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let at = self.takeovers_ms.partition_point(|other| *other <= ms);
        self.takeovers_ms.insert(at, ms);
    }

    /// Least, middle and longest time of a takeover.
    pub fn takeover_ms(&self) -> Option<[u64; 3]> {
        let all = &self.takeovers_ms;
        Some([*all.first()?, *all.get(all.len() / 2)?, *all.last()?])
    }
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ledger::{MessageName, Violation};
    use crate::ids::{ChannelId, OrgId, RecordId, WorkspaceId};

    #[test]
    fn what_is_wrong_is_counted_and_said() {
        let mut report = Report::default();
        assert!(report.holds());
        assert!(
            report
                .line()
                .ends_with("nothing lost, revived, overwritten or undecryptable.")
        );
        let violation = |wrong| Violation {
            name: MessageName {
                org: OrgId::new("acme").unwrap(),
                workspace: WorkspaceId::new("w").unwrap(),
                channel: ChannelId::new("c").unwrap(),
                hour: "2019-01-01T00".parse().unwrap(),
                record: RecordId::new("r").unwrap(),
            },
            wrong,
            detail: "planted".to_owned(),
        };
        let mut found = Violations::default();
        for wrong in [Wrong::Lost, Wrong::Lost, Wrong::Revived, Wrong::Torn] {
            found.push(violation(wrong));
        }
        report.judged("at the end", &found);
        assert!(!report.holds());
        let f = &report.figures;
        assert_eq!((f.lost, f.revived, f.overwritten), (2, 1, 1));
        assert!(
            report
                .line()
                .ends_with("VIOLATED: 2 lost, 1 revived, 1 overwritten."),
            "{}",
            report.line()
        );
    }

    #[test]
    fn takeovers_are_kept_in_order() {
        let mut figures = Figures::default();
        assert_eq!(figures.takeover_ms(), None);
        for ms in [30, 10, 20] {
            figures.took_over(Duration::from_millis(ms));
        }
        assert_eq!(figures.takeover_ms(), Some([10, 20, 30]));
    }
}
