//! Which wraps of a slice may go. Pure.
//!
//! | the key's wraps | a cell names it | what goes |
//! |---|---|---|
//! | all below the job's epoch | no | all, if the key is set aside |
//! | all below the job's epoch | yes | nothing: the scan calls that wrong |
//! | some below, some at or above it | yes | those below, if the wrap that readers use is at or above it and under the CMK that its epoch names |
//! | some below, some at or above it | no | nothing: nobody has shown that the newer wrap opens |
//! | none below | | nothing: one that no cell names yet may be about to be used |
//!
//! A key that has a row which does not parse stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::job::RetireCounts;

/// What is known of a slice's keys.
pub(super) struct Slice<'a> {
    /// Every row that parses: key and wrap epoch.
    pub rows: &'a [(KeyId, Epoch)],
    /// Keys with a row that does not.
    pub bad: &'a BTreeSet<KeyId>,
    /// Keys that cells name.
    pub named: &'a BTreeSet<KeyId>,
    /// Named keys whose wrap, the one that readers use, is at or above the job's
    /// epoch and under the CMK that this epoch names.
    pub stands: &'a BTreeSet<KeyId>,
    /// Keys that are set aside.
    pub aside: &'a BTreeSet<KeyId>,
    /// The job's epoch.
    pub epoch: Epoch,
}

/// What of a slice goes, and what stays although it is old.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Wraps to be deleted.
    pub gone: Vec<(KeyId, Epoch)>,
    /// The same, counted.
    pub counts: RetireCounts,
    /// Old wraps that stay.
    pub kept: super::Kept,
}

/// Decides for each key of the slice.
pub(super) fn decide(slice: &Slice<'_>) -> Decision {
    let mut by_key: BTreeMap<KeyId, Vec<Epoch>> = BTreeMap::new();
    for (id, epoch) in slice.rows {
        by_key.entry(*id).or_default().push(*epoch);
    }
    let mut decision = Decision::default();
    for (id, epochs) in by_key {
        let old: Vec<Epoch> = epochs
            .iter()
            .copied()
            .filter(|e| *e < slice.epoch)
            .collect();
        let n = old.len() as u64;
        let is_old = old.len() == epochs.len();
        let is_named = slice.named.contains(&id);
        let goes = if n == 0 {
            continue;
        } else if slice.bad.contains(&id) || (is_old && is_named) {
            decision.kept.not_sound += n;
            false
        } else if is_old {
            let is_aside = slice.aside.contains(&id);
            decision.counts.keys += u64::from(is_aside);
            *match is_aside {
                true => &mut decision.counts.wraps,
                false => &mut decision.kept.not_set_aside,
            } += n;
            is_aside
        } else {
            let stands = slice.stands.contains(&id);
            *match stands {
                true => &mut decision.counts.superseded,
                false => &mut decision.kept.not_proven,
            } += n;
            stands
        };
        if goes {
            decision
                .gone
                .extend(old.into_iter().map(|epoch| (id, epoch)));
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retire::Kept;

    fn id(n: u8) -> KeyId {
        KeyId([n; 16])
    }

    fn epoch(n: u32) -> Epoch {
        Epoch::new(n).unwrap()
    }

    /// The table above, row by row, and the rule that nothing at or above the
    /// job's epoch ever goes.
    #[test]
    fn each_row_of_the_table() {
        struct Case {
            wraps: &'static [u32],
            named: bool,
            stands: bool,
            aside: bool,
            bad: bool,
            gone: &'static [u32],
            kept: Kept,
        }
        let case = |wraps, named, stands, aside, gone, kept| Case {
            wraps,
            named,
            stands,
            aside,
            bad: false,
            gone,
            kept,
        };
        let none = Kept::default();
        let kept = |not_set_aside, not_proven, not_sound| Kept {
            not_set_aside,
            not_proven,
            not_sound,
        };
        let cases = [
            case(&[1], false, false, true, &[1], none),
            case(&[1, 3], false, false, true, &[1, 3], none),
            case(&[1, 3], false, false, false, &[], kept(2, 0, 0)),
            case(&[1], true, false, true, &[], kept(0, 0, 1)),
            case(&[1, 5], true, true, false, &[1], none),
            case(&[1, 2, 5, 7], true, true, true, &[1, 2], none),
            case(&[1, 5], true, false, true, &[], kept(0, 1, 0)),
            case(&[1, 5], false, false, true, &[], kept(0, 1, 0)),
            // Just made, and named by nobody yet.
            case(&[5], false, false, true, &[], none),
            case(&[6], false, false, true, &[], none),
            Case {
                bad: true,
                ..case(&[1], false, false, true, &[], kept(0, 0, 1))
            },
        ];
        for (n, case) in cases.iter().enumerate() {
            let rows: Vec<_> = case.wraps.iter().map(|e| (id(1), epoch(*e))).collect();
            let set = |holds: bool| holds.then(|| id(1)).into_iter().collect::<BTreeSet<_>>();
            let decision = decide(&Slice {
                rows: &rows,
                bad: &set(case.bad),
                named: &set(case.named),
                stands: &set(case.stands),
                aside: &set(case.aside),
                epoch: epoch(5),
            });
            let gone: Vec<_> = case.gone.iter().map(|e| (id(1), epoch(*e))).collect();
            assert_eq!(decision.gone, gone, "case {n}");
            assert_eq!(decision.kept, case.kept, "case {n}");
            assert_eq!(decision.counts.rows(), gone.len() as u64, "case {n}");
        }
    }
}
