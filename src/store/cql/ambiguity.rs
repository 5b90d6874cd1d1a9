//! A conditional write without an answer: was it applied?
//!
//! A timeout, or a connection that breaks, leaves a conditional write open: it
//! may have been applied, it may be applied in a moment by a coordinator that is
//! still at it, or by a later round of the protocol that finds it half accepted.
//! So a single look that does not show it proves nothing. What is done instead:
//!
//! 1. Each call has an `op`, a random id that it writes into every row it makes.
//! 2. Without an answer the same batch is sent again, with the same `op` and the
//!    same conditions, until there is one. It is applied at most once: a row's
//!    revision only grows, so once any try is applied the conditions of the
//!    others fail, however late they arrive. And each try is a round of the
//!    protocol: it finishes or overrules what earlier ones left half accepted.
//! 3. `[applied] = true` is the answer Yes. `false` after an earlier try without
//!    an answer may be our own earlier success: the rows are read serially and
//!    judged by [`judge`].
//! 4. If the rows have gone on since, so that no trace of ours could be left,
//!    nothing can be said; and so if no answer comes within the time. The caller
//!    then gets `Transient` with those words. For it this means: the change may
//!    stand; read the rows again before anything is built on it not standing.
//!    Whoever sends the same change again is safe: it is applied once or answers
//!    No, and after No every caller reads again. A lease that was taken so
//!    unknowingly runs out by itself.
//!
//! What remains: a coordinator that is still at a first try, while the second is
//! applied, the row is deleted by somebody else and the first condition was
//! `Absent`, would make the row again. Coordinators give up within the server's
//! timeouts (seconds), and the only row that is ever deleted, `open/<job>`, goes
//! when its job has ended; one that came back would name a finished job, which
//! every reader looks up first.

use uuid::Uuid;

use crate::store::{ControlWrite, Expect};

/// A row as a serial read shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub id: String,
    pub rev: u64,
    pub op: Option<Uuid>,
}

/// What the rows say of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Applied,
    NotApplied,
    Unknown,
}

/// Judges a batch whose conditions do not hold now, by the rows as they are now.
/// A batch is applied whole or not at all, so one row that tells is enough.
pub(super) fn judge(op: Uuid, writes: &[ControlWrite], found: &[Found]) -> Judgement {
    let mut judgement = Judgement::Unknown;
    for write in writes {
        let row = found.iter().find(|row| row.id == write.id);
        match judge_row(op, write, row) {
            Judgement::Applied => return Judgement::Applied,
            Judgement::NotApplied => judgement = Judgement::NotApplied,
            Judgement::Unknown => {}
        }
    }
    judgement
}

fn judge_row(op: Uuid, write: &ControlWrite, row: Option<&Found>) -> Judgement {
    let before = match write.expect {
        Expect::Absent => 0,
        Expect::Rev(rev) => rev,
    };
    match row {
        Some(row) if row.op == Some(op) => Judgement::Applied,
        // Another took the step from the revision that ours wanted to start at,
        // or nobody did: ours is not in this row's past.
        Some(row) if write.body.is_some() && row.rev <= before.saturating_add(1) => {
            Judgement::NotApplied
        }
        // Ours would have deleted it.
        Some(row) if write.body.is_none() && row.rev == before => Judgement::NotApplied,
        // It has gone on by more than a step, or is gone: ours may have been one
        // of the steps.
        _ => Judgement::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn write(expect: Expect, body: Option<&str>) -> ControlWrite {
        ControlWrite {
            id: "a".to_owned(),
            expect,
            body: body.map(str::to_owned),
        }
    }

    fn found(rev: u64, op: Uuid) -> Option<Found> {
        Some(Found {
            id: "a".to_owned(),
            rev,
            op: Some(op),
        })
    }

    #[test]
    fn every_trace_is_read_as_what_it_is() {
        use Judgement::{Applied, NotApplied, Unknown};
        let cases = [
            (Expect::Absent, Some("x"), found(1, OURS), Applied),
            (Expect::Absent, Some("x"), found(1, OTHER), NotApplied),
            (Expect::Absent, Some("x"), found(2, OTHER), Unknown),
            (Expect::Absent, Some("x"), None, Unknown),
            (Expect::Rev(4), Some("x"), found(5, OURS), Applied),
            (Expect::Rev(4), Some("x"), found(5, OTHER), NotApplied),
            (Expect::Rev(4), Some("x"), found(4, OTHER), NotApplied),
            (Expect::Rev(4), Some("x"), found(6, OTHER), Unknown),
            (Expect::Rev(4), Some("x"), None, Unknown),
            (Expect::Rev(4), None, found(4, OTHER), NotApplied),
            (Expect::Rev(4), None, found(5, OTHER), Unknown),
            (Expect::Rev(4), None, None, Unknown),
        ];
        for (expect, body, row, expected) in cases {
            let rows: Vec<_> = row.into_iter().collect();
            let judged = judge(OURS, &[write(expect, body)], &rows);
            assert_eq!(judged, expected, "{expect:?} {body:?} {rows:?}");
        }
    }

    #[test]
    fn one_row_that_tells_is_enough() {
        let mut other = write(Expect::Rev(1), Some("y"));
        other.id = "b".to_owned();
        let batch = [write(Expect::Rev(4), None), other];
        let mut row = found(2, OURS).unwrap();
        row.id = "b".to_owned();
        assert_eq!(judge(OURS, &batch, &[row.clone()]), Judgement::Applied);
        row.op = Some(OTHER);
        assert_eq!(judge(OURS, &batch, &[row]), Judgement::NotApplied);
        assert_eq!(judge(OURS, &batch, &[]), Judgement::Unknown);
    }
}
