//! What is said at the end: the figures, aligned, and whether all of it held.

use std::collections::BTreeMap;
use std::time::Duration;

use super::show::{Show, count, number};
use crate::demo::ledger::Violations;
use crate::demo::traffic::{Counts, Deed, ReadBack};

/// Violations shown in full.
const SHOWN: usize = 5;
/// Width of the labels.
const LABEL: usize = 32;
/// Width of the numbers.
const NUMBER: usize = 9;

/// The figures, in the order in which they are said, and what did not hold.
#[derive(Debug, Default)]
pub struct Report {
    lines: Vec<(String, String, String)>,
    failed: Vec<String>,
    times: Vec<(&'static str, Duration)>,
    verdict: Option<String>,
}

impl Report {
    /// A number with what it counts and a remark.
    pub fn figure(&mut self, label: &str, n: u64, remark: impl Into<String>) {
        self.lines
            .push((label.to_owned(), number(n), remark.into()));
    }

    /// Something that is not counted.
    pub fn remark(&mut self, label: &str, remark: impl Into<String>) {
        self.lines
            .push((label.to_owned(), "-".to_owned(), remark.into()));
    }

    /// How long a part took.
    pub fn took(&mut self, part: &'static str, time: Duration) {
        self.times.push((part, time));
    }

    /// The job's verdict.
    pub fn verdict(&mut self, verdict: Option<String>) {
        self.verdict = verdict;
    }

    /// Notes what did not hold, if it did not.
    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.failed.push(otherwise());
        }
    }

    /// Checks a reading of everything against the ledger.
    pub fn check_read(&mut self, when: &str, found: &ReadBack) {
        self.check(found.violations.is_empty(), || {
            format!("{when}: {}", violations(&found.violations))
        });
        self.check(found.refused.is_empty(), || {
            format!(
                "{when}: some could not be read: {}",
                by_code(&found.refused)
            )
        });
    }

    /// Whether every check passed so far.
    pub fn holds(&self) -> bool {
        self.failed.is_empty()
    }

    /// Shows all of it.
    pub fn show(&self, show: &mut Show) {
        show.plain("");
        show.plain("REPORT");
        for (label, n, remark) in &self.lines {
            show.plain(format!("  {label:<LABEL$}{n:>NUMBER$}   {remark}").trim_end());
        }
        let parts: Vec<String> = self
            .times
            .iter()
            .map(|(part, time)| format!("{part} {:.1}", time.as_secs_f64()))
            .collect();
        let total = format!("{:.1} s", show.elapsed().as_secs_f64());
        show.plain(&format!(
            "  {:<LABEL$}{total:>NUMBER$}   {}",
            "time",
            parts.join(", ")
        ));
        show.plain("");
        if let Some(verdict) = &self.verdict {
            show.plain("VERDICT");
            show.plain(&format!("  {verdict}"));
            show.plain("");
        }
        if self.holds() {
            show.plain("Every check passed.");
            return;
        }
        show.plain("FAILED");
        for failed in &self.failed {
            show.plain(&format!("  {failed}"));
        }
    }
}

/// What traffic did between two moments, in words.
pub fn traffic_between(before: &Counts, after: &Counts) -> (u64, String) {
    let names = [
        (Deed::Read, "reads"),
        (Deed::Write, "writes"),
        (Deed::WriteVanishing, "writes that vanish"),
        (Deed::Edit, "edits"),
        (Deed::Delete, "deletes"),
    ];
    let mut total = 0;
    let parts: Vec<String> = names
        .into_iter()
        .map(|(deed, name)| {
            let of = |counts: &Counts| counts.done.get(&deed).copied().unwrap_or(0);
            let n = of(after) - of(before);
            total += n;
            format!("{} {name}", number(n))
        })
        .collect();
    (total, parts.join(", "))
}

/// `unavailable 3, revoked 1`.
pub fn by_code(codes: &BTreeMap<&'static str, u64>) -> String {
    let parts: Vec<String> = codes
        .iter()
        .map(|(code, n)| format!("{code} {n}"))
        .collect();
    parts.join(", ")
}

fn violations(found: &Violations) -> String {
    let mut text = count(
        found.iter().count() as u64,
        "promise broken",
        "promises broken",
    );
    for violation in found.iter().take(SHOWN) {
        text += &format!("\n    {violation}");
    }
    text
}
