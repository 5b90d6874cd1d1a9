//! The judgement of one read, as a pure function of the record's operations.

use super::{Effect, Observed, Op, Outcome, Reading, TextId, Vanishes, Wrong};
use crate::clock::{WallTime, WriteTime};

/// `None` if what was seen may be.
pub(super) fn judge(
    ops: &[Op],
    seen: &Observed,
    began: Reading,
    ended: WallTime,
) -> Option<(Wrong, String)> {
    // The newest that the reader must take into account, by write time.
    let newest: Option<WriteTime> = ops
        .iter()
        .filter(|op| op.answered <= began.seq)
        .filter_map(|op| match op.outcome {
            Some(Outcome::Acknowledged { at, .. }) => Some(at),
            _ => None,
        })
        .max();
    // What may show: the newest itself (or those that tie with it), and all that
    // may have happened with a time at least as high.
    let may_show = |op: &Op| {
        op.outcome != Some(Outcome::NotDone) && op.at().is_none_or(|at| Some(at) >= newest)
    };
    let visible: Vec<&Op> = ops.iter().filter(|op| may_show(op)).collect();
    let standing = match newest {
        Some(at) => format!("the newest acknowledged is at {at}"),
        None => "nothing was acknowledged".to_owned(),
    };
    match seen {
        Observed::Undecryptable { code } => {
            Some((Wrong::Undecryptable, format!("{code}; {standing}")))
        }
        Observed::Absent => {
            let may_be_gone = newest.is_none()
                || visible
                    .iter()
                    .any(|op| op.effect == Effect::Delete || may_have_vanished(op, ended));
            (!may_be_gone).then(|| (Wrong::Lost, format!("absent; {standing}")))
        }
        Observed::Present { text, at } => {
            let wrote_it = |op: &&Op| writes(op, text);
            if visible.iter().copied().filter(wrote_it).any(|op| {
                op.at().is_none_or(|known| known == *at) && may_still_show(op, began.since)
            }) {
                return None;
            }
            let gone = |op: &&Op| op.effect == Effect::Delete || !may_still_show(op, began.since);
            let wrong = if !ops.iter().any(|op| wrote_it(&op)) {
                if ops.is_empty() {
                    Wrong::Revived
                } else {
                    Wrong::Torn
                }
            } else if newest.is_none() || visible.iter().copied().any(|op| gone(&op)) {
                Wrong::Revived
            } else {
                Wrong::Overwritten
            };
            Some((wrong, format!("a text at {at}; {standing}")))
        }
    }
}

fn writes(op: &Op, seen: &TextId) -> bool {
    matches!(&op.effect, Effect::Put { text, .. } if text == seen)
}

fn may_have_vanished(op: &Op, by: WallTime) -> bool {
    match op.vanishes() {
        Vanishes::Never => false,
        Vanishes::At(s) => by.0 >= i64::from(s) * 1_000_000,
        Vanishes::AsBefore => true,
    }
}

fn may_still_show(op: &Op, since: WallTime) -> bool {
    match op.vanishes() {
        Vanishes::Never | Vanishes::AsBefore => true,
        Vanishes::At(s) => since.0 < i64::from(s) * 1_000_000,
    }
}
