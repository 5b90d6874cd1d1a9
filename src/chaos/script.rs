//! What is to happen, drawn from the seed alone: the same seed, the same script,
//! on every machine. Times are parts of a round's length, in thousandths, so a
//! script fits stores with short and with long waits.
//!
//! What the operating system makes of it (who holds which task when the signal
//! comes) is not in the seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::job::Mode;
use crate::killpoint;

/// Most deaths in one round.
const DEATHS: usize = 3;
/// Of the deaths, so many in a hundred are at a named point.
const AT_POINTS: u32 = 45;

/// All rounds of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Script {
    /// In their order.
    pub rounds: Vec<Round>,
}

/// One round: jobs, workers, and what befalls them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Round {
    /// What is asked for.
    pub asks: Vec<Ask>,
    /// The workers at the start, each with what is wrong with it.
    pub workers: Vec<Ail>,
    /// What happens, by time.
    pub events: Vec<Event>,
}

/// A job that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ask {
    /// When.
    pub at: u32,
    /// Of what kind.
    pub job: Job,
    /// How often its message is sent; in what order with others', the queue is
    /// given by `at` and `again_at`.
    pub again_at: Vec<u32>,
}

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// To the next CMK of three, in turn.
    Rekey {
        /// How.
        mode: Mode,
    },
    /// A channel, by a number to be taken modulo their count, to another
    /// workspace in its place.
    MoveInPlace {
        /// Which.
        channel: usize,
    },
    /// The same by a copy, to another channel id.
    Copy {
        /// Which.
        channel: usize,
    },
}

/// What is wrong with a worker from its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ail {
    /// Nothing.
    Well,
    /// It dies when it comes to a point the n-th time, and at the latest then.
    DiesAt {
        /// The point.
        point: &'static str,
        /// Which time.
        nth: u32,
        /// When it is killed if it has not come there.
        by: u32,
    },
    /// Its wall clock jumps by nine tenths of the half skew, at each turn of so
    /// many milliseconds.
    ClockJumps {
        /// Between two jumps.
        every_ms: u32,
    },
    /// The disk of its audit log is full after so many writes.
    AuditFull {
        /// Writes.
        writes: u32,
    },
    /// The disk of the embedded store is full for it after so many pages.
    StoreFull {
        /// Pages.
        pages: u32,
    },
}

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When.
    pub at: u32,
    /// What.
    pub deed: Deed,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// SIGKILL to a worker, by a number modulo their count.
    Kill {
        /// Which.
        pick: u32,
        /// So many milliseconds after a job is seen to have tasks, not before:
        /// most of a round is waiting, and a death then costs nothing.
        at_work: Option<u32>,
    },
    /// SIGSTOP to a worker, and SIGCONT so long after its leases have run out.
    Freeze {
        /// Which.
        pick: u32,
        /// Thousandths of a lease beyond the lease.
        beyond: u32,
    },
    /// A fault of the KMS, and its end.
    Kms {
        /// Which.
        fault: KmsFault,
        /// How long.
        lasts: u32,
    },
    /// Nobody can reach the queue, and its end. Of the embedded queue only.
    Queue {
        /// How long.
        lasts: u32,
    },
}

/// What the KMS does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KmsFault {
    /// Refuses one channel's scopes to the workers, and allows them again.
    DeniesChannel {
        /// Which.
        channel: usize,
    },
    /// Refuses every message's scope to the workers, and allows them again.
    DeniesMessages,
    /// Answers so much later.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// Throttles at so many calls a second.
    Throttles {
        /// Calls a second.
        per_s: u32,
    },
    /// Is not there: every call of a worker fails.
    Down,
}

/// What this build and these parts can do.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    /// Kill points and faults inside of workers: not in release builds.
    pub inside: bool,
    /// The embedded store.
    pub embedded: bool,
    /// The embedded queue.
    pub embedded_queue: bool,
}

impl Script {
    /// The script of a seed with so many kills.
    pub fn new(seed: u64, kills: usize, means: Means) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rounds = Vec::new();
        let mut left = kills;
        while left > 0 || rounds.is_empty() {
            let deaths = left.min(random.random_range(1..=DEATHS));
            rounds.push(round(&mut random, rounds.len(), deaths, means));
            left -= deaths;
        }
        Self { rounds }
    }
}

fn round(random: &mut StdRng, n: usize, deaths: usize, means: Means) -> Round {
    let mode = match n % 2 {
        0 => Mode::Reencrypt,
        _ => Mode::Rewrap,
    };
    let mut asks = vec![ask(random, Job::Rekey { mode })];
    let channel = random.random_range(0..1000);
    match random.random_range(0..100) {
        0..40 => asks.push(ask(random, Job::Copy { channel })),
        40..65 => asks.push(ask(random, Job::MoveInPlace { channel })),
        65..80 => asks.push(ask(
            random,
            Job::Rekey {
                mode: Mode::Reencrypt,
            },
        )),
        _ => {}
    }
    let copies = asks.iter().any(|ask| matches!(ask.job, Job::Copy { .. }));
    let mut workers = vec![Ail::Well; random.random_range(2..=3)];
    let mut events = Vec::new();
    for n in 0..deaths {
        let at_point = random.random_range(0..100) < AT_POINTS;
        let by = random.random_range(0..1000);
        match workers.get_mut(n) {
            Some(worker) if at_point && means.inside => {
                *worker = Ail::DiesAt {
                    point: point(random, copies),
                    // More often the first: not every worker comes twice.
                    nth: [1, 1, 2, 3][random.random_range(0..4)],
                    by: 800 + by / 2,
                };
            }
            _ => events.push(Event {
                at: by,
                deed: Deed::Kill {
                    pick: random.random_range(0..1000),
                    at_work: random.random_bool(0.5).then(|| random.random_range(0..400)),
                },
            }),
        }
    }
    if means.inside {
        for worker in workers.iter_mut().filter(|w| **w == Ail::Well) {
            *worker = ail(random, means);
        }
    }
    if random.random_bool(0.7) {
        events.push(Event {
            at: random.random_range(0..800),
            deed: Deed::Freeze {
                pick: random.random_range(0..1000),
                beyond: random.random_range(50..600),
            },
        });
    }
    if random.random_bool(0.7) {
        events.push(Event {
            at: random.random_range(0..600),
            deed: Deed::Kms {
                fault: kms_fault(random),
                lasts: random.random_range(100..500),
            },
        });
    }
    if random.random_bool(0.25) && means.embedded_queue {
        events.push(Event {
            at: random.random_range(0..600),
            deed: Deed::Queue {
                lasts: random.random_range(100..500),
            },
        });
    }
    events.sort_by_key(|event| event.at);
    Round {
        asks,
        workers,
        events,
    }
}

fn ask(random: &mut StdRng, job: Job) -> Ask {
    let at = random.random_range(0..200);
    let again = random.random_range(0..=2);
    let again_at = (0..again).map(|_| random.random_range(0..600)).collect();
    Ask { at, job, again_at }
}

fn point(random: &mut StdRng, copies: bool) -> &'static str {
    let (all, moves) = (&killpoint::POINTS, &killpoint::MOVE_POINTS);
    let n = all.len() + if copies { moves.len() } else { 0 };
    let n = random.random_range(0..n);
    all.get(n).copied().unwrap_or_else(|| moves[n - all.len()])
}

fn ail(random: &mut StdRng, means: Means) -> Ail {
    match random.random_range(0..100) {
        0..25 => Ail::ClockJumps {
            every_ms: random.random_range(100..900),
        },
        25..37 => Ail::AuditFull {
            writes: random.random_range(1..20),
        },
        37..49 if means.embedded => Ail::StoreFull {
            // Few: a store that has been written to has room of its own.
            pages: random.random_range(0..3),
        },
        _ => Ail::Well,
    }
}

fn kms_fault(random: &mut StdRng) -> KmsFault {
    match random.random_range(0..5) {
        0 => KmsFault::DeniesChannel {
            channel: random.random_range(0..1000),
        },
        1 => KmsFault::DeniesMessages,
        2 => KmsFault::Slow {
            ms: random.random_range(20..300),
        },
        3 => KmsFault::Throttles {
            per_s: random.random_range(20..200),
        },
        _ => KmsFault::Down,
    }
}

impl Round {
    /// Deaths by SIGKILL.
    pub fn deaths(&self) -> usize {
        let at_points = self.workers.iter();
        let at_points = at_points.filter(|ail| matches!(ail, Ail::DiesAt { .. }));
        let killed = self.events.iter();
        let killed = killed.filter(|event| matches!(event.deed, Deed::Kill { .. }));
        at_points.count() + killed.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Means = Means {
        inside: true,
        embedded: true,
        embedded_queue: true,
    };

    #[test]
    fn the_same_seed_makes_the_same_script_and_another_another() {
        for seed in 0..20 {
            assert_eq!(Script::new(seed, 40, ALL), Script::new(seed, 40, ALL));
            assert_ne!(Script::new(seed, 40, ALL), Script::new(seed + 1, 40, ALL));
        }
    }

    #[test]
    fn every_kill_that_was_asked_for_is_in_it() {
        for kills in [1, 2, 7, 100] {
            for seed in 0..50 {
                let script = Script::new(seed, kills, ALL);
                let deaths: usize = script.rounds.iter().map(Round::deaths).sum();
                assert_eq!(deaths, kills, "seed {seed}");
            }
        }
    }

    #[test]
    fn nothing_inside_of_workers_is_asked_of_a_build_that_has_none() {
        let means = Means {
            inside: false,
            embedded: false,
            embedded_queue: false,
        };
        let script = Script::new(3, 200, means);
        let mut ails = script.rounds.iter().flat_map(|round| &round.workers);
        assert!(ails.all(|ail| *ail == Ail::Well));
    }

    #[test]
    fn a_long_script_has_everything_in_it() {
        let text = serde_json::to_string(&Script::new(1, 1000, ALL)).unwrap();
        for part in [
            "reencrypt",
            "rewrap",
            "move_in_place",
            "copy",
            "dies_at",
            "clock_jumps",
            "audit_full",
            "store_full",
            "kill",
            "freeze",
            "queue",
            "denies_channel",
            "denies_messages",
            "slow",
            "throttles",
            "down",
        ] {
            assert!(text.contains(&format!("\"{part}\"")), "{part}");
        }
        for point in killpoint::POINTS.iter().chain(&killpoint::MOVE_POINTS) {
            assert!(text.contains(point), "{point}");
        }
    }
}
