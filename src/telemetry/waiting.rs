//! What a process waits for, and what slows it down, right now.
//!
//! Whoever notices writes it here; the holder of a lease puts it into the row
//! it holds with each renewal, so that `rekeyd status` can name it from any
//! machine. Texts are for people and go into the store: no secret, no message.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest text kept, in characters.
const LONGEST: usize = 200;

/// A part that may be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The store.
    Store,
    /// Nodes of the store that are away.
    Replicas,
    /// The KMS.
    Kms,
    /// The queue.
    Queue,
    /// An earlier copy of the channel that is not closed yet.
    EarlierCopy,
    /// The operator's endpoint, which says that the service has no room.
    ServiceHealth,
    /// The operators' throttles, which cannot be read.
    Throttles,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Part::Store => "waits for the store",
            Part::Replicas => "waits for all replicas",
            Part::Kms => "waits for the KMS",
            Part::Queue => "waits for the queue",
            Part::EarlierCopy => "waits for an earlier copy of the channel to close",
            Part::ServiceHealth => "waits for the service to have room",
            Part::Throttles => "waits for the throttles",
        }
    }
}

/// The board. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Board>);

#[derive(Default)]
struct Board {
    // Whether any entry stands: successes, which are many, look at this only.
    any: AtomicBool,
    entries: Mutex<BTreeMap<Part, String>>,
}

impl Waiting {
    /// Notes that `part` is waited for, and why. Replaces what was noted of it.
    pub fn note(&self, part: Part, why: &str) {
        let why = why.chars().filter(|c| !c.is_control());
        self.with(|entries| entries.insert(part, why.take(LONGEST).collect()));
    }

    /// `part` answers again.
    pub fn clear(&self, part: Part) {
        if self.0.any.load(Ordering::Relaxed) {
            self.with(|entries| entries.remove(&part));
        }
    }

    /// All that is waited for, in words: `waits for the KMS: NoResponse`.
    pub fn words(&self) -> Option<String> {
        self.words_of(|_| true)
    }

    /// What jobs that are recorded wait for. They do not need the queue.
    pub fn of_jobs(&self) -> Option<String> {
        self.words_of(|part| part != Part::Queue)
    }

    /// What the taking in of jobs waits for.
    pub fn of_intake(&self) -> Option<String> {
        self.words_of(|part| part == Part::Queue)
    }

    fn words_of(&self, counts: impl Fn(Part) -> bool) -> Option<String> {
        if !self.0.any.load(Ordering::Relaxed) {
            return None;
        }
        self.with(|entries| {
            let all: Vec<String> = entries
                .iter()
                .filter(|(part, _)| counts(**part))
                .map(|(part, why)| format!("{}: {why}", part.as_str()))
                .collect();
            (!all.is_empty()).then(|| all.join("; "))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Part, String>) -> T) -> T {
        let mut entries = self
            .0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let answer = act(&mut entries);
        self.0.any.store(!entries.is_empty(), Ordering::Relaxed);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_named_until_it_answers() {
        let board = Waiting::default();
        assert_eq!(board.words(), None);
        board.note(Part::Kms, "NoResponse");
        board.clone().note(Part::Store, "no node answers\n");
        let words = board.words().unwrap();
        assert_eq!(
            words,
            "waits for the store: no node answers; waits for the KMS: NoResponse"
        );
        board.note(Part::Queue, "refused");
        assert_eq!(board.of_jobs().unwrap(), words);
        assert_eq!(board.of_intake().unwrap(), "waits for the queue: refused");
        assert!(board.words().unwrap().contains("the queue: refused"));
        board.clear(Part::Store);
        board.clear(Part::Queue);
        assert_eq!(board.of_intake(), None);
        assert_eq!(board.words().unwrap(), "waits for the KMS: NoResponse");
        board.clear(Part::Kms);
        assert_eq!(board.words(), None);
    }
}
