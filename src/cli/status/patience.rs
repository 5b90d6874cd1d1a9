//! How long a store that does not answer is waited for while a job is followed.

use std::time::Duration;

use crate::clock::BootTime;

/// How long a store that does not answer is waited for.
pub(super) struct Patience {
    /// Somebody has said how long to wait.
    is_limited: bool,
    /// Since when there has been no answer, without a break.
    since: Option<BootTime>,
}

/// Longest wait for a store that does not answer where no time is given.
const AWAY: Duration = Duration::from_secs(300);

/// Of a look that had no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Away {
    First,
    Still,
    TooLong,
}

impl Patience {
    pub(super) fn new(is_limited: bool) -> Self {
        Self {
            is_limited,
            since: None,
        }
    }

    pub(super) fn away(&mut self, now: BootTime) -> Away {
        match self.since {
            None => {
                self.since = Some(now);
                Away::First
            }
            Some(since) if !self.is_limited && now.since(since) >= AWAY => Away::TooLong,
            Some(_) => Away::Still,
        }
    }

    /// There was an answer; whether that is news.
    pub(super) fn is_back(&mut self) -> bool {
        self.since.take().is_some()
    }

    /// The last look had no answer.
    pub(super) fn is_away(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_waited_for_and_not_for_ever() {
        let at = |s| BootTime(Duration::from_secs(s));
        let mut patience = Patience::new(false);
        assert!(!patience.is_back());
        assert_eq!(patience.away(at(10)), Away::First);
        assert_eq!(patience.away(at(309)), Away::Still);
        // An answer begins the time anew.
        assert!(patience.is_back());
        assert_eq!(patience.away(at(311)), Away::First);
        assert_eq!(patience.away(at(610)), Away::Still);
        assert_eq!(patience.away(at(611)), Away::TooLong);
        // Who says how long is taken at their word.
        let mut patience = Patience::new(true);
        assert_eq!(patience.away(at(0)), Away::First);
        assert_eq!(patience.away(at(100_000)), Away::Still);
    }
}
