//! How the network, the store, the queue and the KMS behave in a history.

use std::time::Duration;

use super::chance::Dice;

/// How late a mutation may come to a replica at most: as a hint, or by a write
/// that was stuck on its way. Shorter than L, as the design assumes.
pub(super) const LATEST: Duration = Duration::from_secs(4 * 60);

/// What goes wrong, and how often. Probabilities are for one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// The usual way from one machine to another, milliseconds, at most.
    pub(super) way_ms: f64,
    /// The usual answer of the KMS, milliseconds, at most.
    pub(super) kms_ms: f64,
    /// A replica gets a mutation seconds late.
    pub(super) slow: f64,
    /// A replica gets a mutation minutes late.
    pub(super) hinted: f64,
    /// A write is minutes on its way to the store; who sent it has given it up.
    pub(super) stuck: f64,
    /// The store does not do what it is asked.
    pub(super) refused: f64,
    /// The store does it, and the answer is lost.
    pub(super) unanswered: f64,
    /// The KMS throttles or fails.
    pub(super) kms_fails: f64,
    /// The queue hands a message out twice.
    pub(super) doubled: f64,
}

impl Weather {
    /// Nothing goes wrong.
    pub(super) const CALM: Weather = Weather {
        way_ms: 1.0,
        kms_ms: 2.0,
        slow: 0.0,
        hinted: 0.0,
        stuck: 0.0,
        refused: 0.0,
        unanswered: 0.0,
        kms_fails: 0.0,
        doubled: 0.0,
    };

    /// Some weather: often fair, at times foul.
    pub(super) fn any(dice: &Dice) -> Self {
        let foul = |most: f64| if dice.chance(0.5) { most } else { most / 20.0 };
        Self {
            way_ms: dice.span(1.0, 300.0).as_secs_f64() * 1000.0,
            kms_ms: dice.span(2.0, 2_000.0).as_secs_f64() * 1000.0,
            slow: foul(0.10),
            hinted: foul(0.05),
            stuck: foul(0.06),
            refused: foul(0.05),
            unanswered: foul(0.05),
            kms_fails: foul(0.10),
            doubled: foul(0.5),
        }
    }

    /// The same, but every write of data comes in time or not at all.
    pub(super) fn without_late_writes(self) -> Self {
        Self {
            slow: 0.0,
            hinted: 0.0,
            stuck: 0.0,
            refused: 0.0,
            unanswered: 0.0,
            ..self
        }
    }

    /// One way.
    pub(super) fn way(&self, dice: &Dice) -> Duration {
        dice.span(0.1, self.way_ms.max(0.2))
    }

    /// How long a write is on its way to the store.
    pub(super) fn way_to_the_store(&self, dice: &Dice) -> Duration {
        if dice.chance(self.stuck) {
            dice.span(10_000.0, LATEST.as_secs_f64() * 1000.0)
        } else {
            self.way(dice)
        }
    }

    /// How long a mutation is under way to one replica.
    pub(super) fn way_to_a_replica(&self, dice: &Dice) -> Duration {
        if dice.chance(self.hinted) {
            dice.span(5_000.0, LATEST.as_secs_f64() * 1000.0)
        } else if dice.chance(self.slow) {
            dice.span(100.0, 9_000.0)
        } else {
            self.way(dice)
        }
    }
}
