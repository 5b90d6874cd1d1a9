//! Two workers and one row that one of them may hold. Rows do not know each
//! other, so one stands for all.
//!
//! The real code under test: [`is_free`], [`Leased`], [`Timing::trust`], how a
//! lease's end is reckoned and cut to milliseconds, how trust is reckoned on the
//! clock that only goes forward. The model adds the store (conditional writes),
//! the network (a request lands late, or its answer does), deaths, freezes and
//! time. Each wall clock is off by up to `max_skew` either way and may jump
//! within that at any time; of all it may show, the two ends are looked at.
//!
//! A freeze is no step of its own: a worker that does nothing while time goes on
//! is frozen, and one that is frozen between its check and its write is a request
//! that lands late.

use std::time::Duration;

use rekeyd::clock::{BootTime, WallTime};
use rekeyd::ids::{ChannelId, Hour};
use rekeyd::job::{Counts, Effort, Lease, Leased, SliceId, TaskRow, TaskState, is_free};
use rekeyd::registry::Timing;

use crate::search::{Model, Steps, search};

/// Time goes in halves of a millisecond, so that cutting to whole ones shows.
const TICK_US: i64 = 500;
/// What the clocks show at half 0. Any time would do: all else is relative.
const BASE_US: i64 = 1_000_000_000;

/// What is done otherwise than it should be.
#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// A holder writes the row whatever its revision.
    NoRevision,
    /// Trust begins when the store answers, not when the request began.
    TrustFromTheAnswer,
    /// Nobody waits for the end of another's lease.
    NoWait,
}

struct Leases {
    timing: Timing,
    planted: Planted,
}

/// Small waits that keep every rule.
fn timing() -> Timing {
    let timing = Timing {
        status_time_ms: 4,
        request_timeout_ms: 4,
        max_skew_ms: 1,
        row_age_ms: 4,
        lease_ms: 9,
        margin_ms: 3,
        grace_ms: 9,
        drain_ms: 10,
        blocked_retry_ms: 1,
        blocked_retry_max_ms: 1,
    };
    timing.check().unwrap();
    timing
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Claim,
    Save,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Fate {
    /// On its way to the store.
    Pending,
    Applied,
    Refused,
}

/// A conditional write. The worker that sent it may be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Request {
    kind: Kind,
    fate: Fate,
    /// The revision it expects; once applied, the one it made.
    rev: u8,
    token: u8,
    /// Ticks from now to when it was begun.
    start: i16,
    /// End of the lease it writes, in milliseconds from the base.
    until: i16,
    orphan: bool,
}

/// What a worker believes to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Held {
    rev: u8,
    token: u8,
    /// Ticks for which it trusts its lease.
    trusted: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Worker {
    /// A free row as it was read: revision and token.
    seen: Option<(u8, u8)>,
    held: Option<Held>,
    request: Option<Request>,
}

impl Worker {
    /// Whether it acts as the owner. One that lets the row go has stopped its
    /// work before; it may learn late that somebody else has it by now.
    fn acts(&self) -> bool {
        let lets_go = self.request.is_some_and(|r| r.kind == Kind::Release);
        self.held.is_some_and(|held| held.trusted > 0) && !lets_go
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    /// Which half of a millisecond it is.
    half: u8,
    rev: u8,
    token: u8,
    /// Who holds the row, and until when, in milliseconds from the base.
    lease: Option<(u8, i16)>,
    workers: [Worker; 2],
    overtaken_wrote: bool,
}

fn base() -> TaskRow {
    let slice = SliceId {
        channel: ChannelId::new("c1").unwrap(),
        hour: Hour::of_unix_seconds(0).unwrap(),
    };
    TaskRow {
        from: slice,
        to: None,
        planned: 1,
        state: TaskState::Open,
        token: 0,
        lease: None,
        takeovers: 0,
        checkpoint: None,
        counts: Counts::default(),
        effort: Effort::default(),
        blocked: Vec::new(),
        streams: Vec::new(),
    }
}

impl State {
    /// A worker's wall clock, which is off by so many milliseconds.
    fn wall(&self, off_ms: i64) -> WallTime {
        WallTime(BASE_US + i64::from(self.half) * TICK_US + off_ms * 1000)
    }

    /// The row as it stands in the store.
    fn row(&self) -> TaskRow {
        let mut row = base();
        row.token = u64::from(self.token);
        row.set_lease(self.lease.map(|(holder, until)| Lease {
            worker: format!("w{holder}"),
            until_ms: (BASE_US / 1000 + i64::from(until)) as u64,
            waits: None,
            intake_waits: None,
            slowed: None,
        }));
        row
    }

    /// Revisions and tokens are compared and counted up, no more; so they are
    /// numbered anew. What lies so far back that it changes nothing is cut. And
    /// it does not matter which worker is which.
    fn canonical(mut self, model: &Leases) -> Self {
        let free = model.free();
        let trust = (model.timing.trust().as_micros() as i64 / TICK_US) as i16;
        if let Some((_, until)) = &mut self.lease {
            *until = (*until).max(free);
        }
        for worker in &mut self.workers {
            if let Some(request) = &mut worker.request {
                request.until = request.until.max(free);
                // It gives no trust any more, so the lease that it makes protects
                // nobody. It is taken to have run out: others may then act
                // earlier than they could.
                if request.start <= -trust {
                    (request.start, request.until) = (-trust, free);
                }
            }
            // Trust that is over is no trust, unless an answer may renew it.
            if worker.request.is_none() && worker.held.is_some_and(|held| held.trusted == 0) {
                worker.held = None;
            }
        }
        if self.workers[0] > self.workers[1] {
            self.workers.swap(0, 1);
            self.lease = self.lease.map(|(holder, until)| (1 - holder, until));
        }
        let mut revs = vec![self.rev];
        let mut tokens = vec![self.token];
        for worker in &self.workers {
            revs.extend(worker.seen.map(|seen| seen.0));
            revs.extend(worker.held.map(|held| held.rev));
            revs.extend(worker.request.map(|request| request.rev));
            tokens.extend(worker.seen.map(|seen| seen.1));
            tokens.extend(worker.held.map(|held| held.token));
            tokens.extend(worker.request.map(|request| request.token));
        }
        for numbers in [&mut revs, &mut tokens] {
            numbers.sort_unstable();
            numbers.dedup();
        }
        let rev = |old: u8| revs.iter().position(|n| *n == old).unwrap_or(0) as u8;
        let token = |old: u8| tokens.iter().position(|n| *n == old).unwrap_or(0) as u8;
        self.rev = rev(self.rev);
        self.token = token(self.token);
        for worker in &mut self.workers {
            if let Some(seen) = &mut worker.seen {
                (seen.0, seen.1) = (rev(seen.0), token(seen.1));
            }
            if let Some(held) = &mut worker.held {
                (held.rev, held.token) = (rev(held.rev), token(held.token));
            }
            if let Some(request) = &mut worker.request {
                (request.rev, request.token) = (rev(request.rev), token(request.token));
            }
        }
        self
    }

    fn tick(mut self) -> Self {
        self.half ^= 1;
        let whole = self.half == 0;
        if let Some((_, until)) = &mut self.lease {
            *until -= i16::from(whole);
        }
        for worker in &mut self.workers {
            if let Some(held) = &mut worker.held {
                held.trusted = (held.trusted - 1).max(0);
            }
            if let Some(request) = &mut worker.request {
                request.start -= 1;
                request.until -= i16::from(whole);
            }
        }
        self
    }
}

impl Leases {
    /// An end of a lease, in milliseconds from the base, that everybody's clock
    /// has passed.
    fn free(&self) -> i16 {
        -(self.timing.max_skew_ms as i16) - 1
    }

    /// The end of a lease that is written now, in milliseconds from the base.
    fn end(&self, state: &State, off_ms: i64) -> i16 {
        let until = state.wall(off_ms).plus(self.timing.lease()).unix_ms() as i64;
        (until - BASE_US / 1000) as i16
    }

    /// For how many ticks a write that was begun so long ago gives trust.
    fn trust(&self, start: i16) -> i16 {
        let now = Duration::from_micros(BASE_US as u64);
        let began = Duration::from_micros((BASE_US + i64::from(start) * TICK_US) as u64);
        let until = BootTime(began).plus(self.timing.trust());
        let now = BootTime(now);
        if now < until {
            (until.since(now).as_micros() as i64 / TICK_US) as i16
        } else {
            0
        }
    }

    fn of_worker(&self, state: &State, i: usize, steps: &mut Steps<State>) {
        let worker = state.workers[i];
        let with = |change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            next.canonical(self)
        };
        let skew = self.timing.max_skew_ms as i64;
        if worker.seen.is_none() && worker.held.is_none() && worker.request.is_none() {
            // The clock that is furthest ahead finds it free whenever another does.
            let now_ms = state.wall(skew).unix_ms();
            if is_free(&state.row(), now_ms) || self.planted == Planted::NoWait {
                let seen = Some((state.rev, state.token));
                steps.live("finds the row free", with(&|s| s.workers[i].seen = seen));
            }
        }
        let mut send = |kind, rev, token, until| {
            let request = Request {
                kind,
                fate: Fate::Pending,
                rev,
                token,
                start: 0,
                until,
                orphan: false,
            };
            steps.live(
                "sends a write",
                with(&|s| {
                    s.workers[i].seen = None;
                    s.workers[i].request = Some(request);
                }),
            );
        };
        if let (Some((rev, token)), None) = (worker.seen, worker.request) {
            let mut row = base();
            row.token = u64::from(token);
            row.claimed(true);
            for off in [-skew, skew] {
                send(Kind::Claim, rev, row.token as u8, self.end(state, off));
            }
        }
        if let (Some(held), None) = (worker.held, worker.request)
            && held.trusted > 0
        {
            for off in [-skew, skew] {
                send(Kind::Save, held.rev, held.token, self.end(state, off));
            }
            send(Kind::Release, held.rev, held.token, self.free());
        }
        if let Some(request) = worker.request {
            match request.fate {
                Fate::Pending => steps.live("it lands", with(&|s| self.land(s, i, request))),
                _ if request.orphan => {
                    steps.live("nobody hears", with(&|s| s.workers[i].request = None));
                }
                _ => steps.live("it is answered", with(&|s| self.answer(s, i, request))),
            }
            if request.orphan && request.fate == Fate::Pending {
                steps.chance("it is lost", with(&|s| s.workers[i].request = None));
            }
        }
        if worker.seen.is_some() || worker.held.is_some() {
            steps.chance(
                "dies",
                with(&|s| {
                    s.workers[i].seen = None;
                    s.workers[i].held = None;
                    if let Some(request) = &mut s.workers[i].request {
                        request.orphan = true;
                    }
                }),
            );
        }
    }

    fn land(&self, state: &mut State, i: usize, mut request: Request) {
        let blind = self.planted == Planted::NoRevision && request.kind != Kind::Claim;
        let fits = state.rev == request.rev || blind;
        if fits {
            if request.kind != Kind::Claim && state.token != request.token {
                state.overtaken_wrote = true;
            }
            state.rev += 1;
            state.token = request.token;
            state.lease = match request.kind {
                Kind::Release => None,
                Kind::Claim | Kind::Save => Some((i as u8, request.until)),
            };
            request.rev = state.rev;
            request.fate = Fate::Applied;
        } else {
            request.fate = Fate::Refused;
        }
        state.workers[i].request = Some(request);
    }

    fn answer(&self, state: &mut State, i: usize, request: Request) {
        state.workers[i].request = None;
        let start = match self.planted {
            Planted::TrustFromTheAnswer => 0,
            _ => request.start,
        };
        let held = &mut state.workers[i].held;
        match (request.fate, request.kind) {
            (Fate::Applied, Kind::Release) => *held = None,
            (Fate::Applied, _) => {
                *held = Some(Held {
                    rev: request.rev,
                    token: request.token,
                    trusted: self.trust(start),
                });
            }
            (_, Kind::Claim) => {}
            // The row is another's by now.
            (_, Kind::Save | Kind::Release) => *held = None,
        }
    }
}

impl Model for Leases {
    type State = State;

    fn initial(&self) -> Vec<State> {
        vec![State {
            half: 0,
            rev: 0,
            token: 0,
            lease: None,
            workers: [Worker::default(); 2],
            overtaken_wrote: false,
        }]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        steps.live("half a millisecond", state.tick().canonical(self));
        for i in 0..2 {
            self.of_worker(state, i, steps);
        }
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        if state.workers.iter().all(Worker::acts) {
            return Some(TWO_OWNERS);
        }
        state.overtaken_wrote.then_some(OVERTAKEN_WROTE)
    }

    /// That somebody can get the row, whatever happened.
    fn is_end(&self, state: &State) -> bool {
        state.workers.iter().any(Worker::acts)
    }
}

const TWO_OWNERS: &str = "two workers trust one lease";
const OVERTAKEN_WROTE: &str = "one that was overtaken wrote the row";

#[test]
fn no_two_workers_trust_one_lease_and_none_is_stranded() {
    let timing = timing();
    let planted = Planted::Nothing;
    search(&Leases { timing, planted }).holds("leases");
}

#[test]
fn each_rule_of_the_lease_is_needed() {
    for margin_ms in [2, 1] {
        let mut timing = timing();
        timing.margin_ms = margin_ms;
        assert!(timing.margin_ms <= 2 * timing.max_skew_ms);
        assert!(timing.check().is_err(), "and such a row is refused");
        let planted = Planted::Nothing;
        let name = format!("leases with a margin of {margin_ms} ms");
        search(&Leases { timing, planted }).breaks(&name, TWO_OWNERS);
    }
    for (name, planted, promise) in [
        (
            "leases whose holders write without a revision",
            Planted::NoRevision,
            OVERTAKEN_WROTE,
        ),
        (
            "leases trusted from the answer on",
            Planted::TrustFromTheAnswer,
            TWO_OWNERS,
        ),
        ("leases that nobody waits for", Planted::NoWait, TWO_OWNERS),
    ] {
        let timing = timing();
        search(&Leases { timing, planted }).breaks(name, promise);
    }
}
