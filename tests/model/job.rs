//! A job from its record to its end: two workers that drive it and hold its two
//! tasks, an operator, a customer who takes keys away and gives them back, one
//! late write, one damaged cell.
//!
//! The real code under test: [`JobState::next`], [`JobState::has_tasks`],
//! [`CopyPhase`]. The driver's decisions are those of `src/worker/drive.rs`, as
//! a function of the same things; each step from one state to another is held
//! against the table, and each line of the table must be gone through by some
//! way. `lease` shows that one driver trusts its lease at a time; here a lease may
//! run out at any time, and who held it goes on with what it had decided.

use std::cell::RefCell;
use std::collections::BTreeSet;

use rekeyd::job::{JobState, Pass};
use rekeyd::registry::CopyPhase;

use crate::search::{Model, Steps, search};

#[derive(Clone, Copy, PartialEq)]
enum Planted {
    Nothing,
    /// A driver that was overtaken moves the job all the same.
    NoToken,
    /// A lease of a dead worker does not run out.
    LeasesStay,
    /// A round whose planner died is waited for.
    RoundsStay,
    /// A parked task is not claimed again.
    ParkedStays,
    /// What the last scan finds is read over.
    FindsIgnored,
    /// The job waits for late writes before it verifies and not after.
    NoDrain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A rekey, or a move in place: the same but for what is activated.
    Rekey,
    Copy,
}

struct Jobs {
    kind: Kind,
    planted: Planted,
    /// Ways that were gone.
    gone: RefCell<BTreeSet<(JobState, JobState)>>,
}

/// The state after a change of it.
type Changed<'a> = dyn Fn(&dyn Fn(&mut State)) -> State + 'a;

impl Jobs {
    fn new(kind: Kind, planted: Planted) -> Self {
        let gone = RefCell::default();
        Self {
            kind,
            planted,
            gone,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Task {
    state: TaskWord,
    /// Some worker holds it; which one makes no difference here.
    held: bool,
    found: bool,
    bad: bool,
}

/// As [`rekeyd::job::TaskState`], which has no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum TaskWord {
    Open,
    Parked,
    Done,
}

const OPEN: Task = Task {
    state: TaskWord::Open,
    held: false,
    found: false,
    bad: false,
};

/// What a driver has decided and not yet written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Decision {
    /// To a state; whether the round is closed.
    Go(JobState, bool),
    /// The registry is changed first, then the job says so.
    Activate,
    /// To the next phase of a copy.
    Step(CopyPhase),
    /// A round is said to be planned, or its plan to be complete.
    Begin(PassWord),
    Complete(PassWord),
    /// A round is closed without another state.
    Close,
}

/// A pass by its place in [`PASSES`], for passes have no order.
type PassWord = u8;

const PASSES: [Pass; 5] = [
    Pass::Rewrite,
    Pass::Verify,
    Pass::Drain,
    Pass::Copy,
    Pass::Sweep,
];

fn word(pass: Pass) -> PassWord {
    PASSES.iter().position(|other| *other == pass).unwrap() as u8
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Round {
    None,
    Planning(PassWord),
    Planned(PassWord, [Task; 2]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
struct Driver {
    decision: Option<Decision>,
    /// Somebody else has written the job's row since it was read.
    overtaken: bool,
    /// It has claimed the job and not lost it.
    drives: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    job: JobState,
    /// Of a paused job: where it goes on.
    paused_from: Option<JobState>,
    /// The registry has been changed; what the job's row says of it.
    registry: bool,
    phase: Option<CopyPhase>,
    round: Round,
    lease: Option<u8>,
    drivers: [Driver; 2],
    /// The wait of `draining` is over.
    waited: bool,
    /// The customer lets us use the key.
    key: bool,
    /// Slices with a cell that is older than the job, and with one that does
    /// not open.
    old: [bool; 2],
    bad: bool,
    may_be_late: bool,
    may_break: bool,
    /// No write of before can land any more.
    over: bool,
}

impl State {
    fn tasks(&self) -> Option<(Pass, &[Task; 2])> {
        match &self.round {
            Round::Planned(pass, tasks) => Some((PASSES[usize::from(*pass)], tasks)),
            _ => None,
        }
    }

    /// Which worker is which does not matter.
    fn canonical(mut self) -> Self {
        if self.drivers[0] > self.drivers[1] {
            self.drivers.swap(0, 1);
            self.lease = self.lease.map(|holder| 1 - holder);
        }
        self
    }

    /// Every write of the job's row makes what others have read an old revision.
    fn written_by(&mut self, who: Option<usize>) {
        for (n, driver) in self.drivers.iter_mut().enumerate() {
            driver.overtaken |= Some(n) != who && driver.drives;
        }
    }
}

impl Jobs {
    fn move_to(&self, state: &mut State, to: JobState, closes: bool) {
        let from = state.job;
        assert!(from.may_become(to), "{from} to {to} is no way");
        self.gone.borrow_mut().insert((from, to));
        state.job = to;
        if closes {
            state.round = Round::None;
        }
        // `draining` waits from its beginning on.
        if to == JobState::Draining && !matches!(from, JobState::Blocked | JobState::Paused) {
            state.waited = self.planted == Planted::NoDrain;
        }
        state.paused_from = (to == JobState::Paused).then_some(from);
        if to.is_final() || to == JobState::Paused {
            state.lease = None;
        }
    }

    /// What the driver does with the job as it is, as `src/worker/drive.rs`.
    /// More than one, where it depends on what is not modelled.
    fn decide(&self, state: &State) -> Vec<Decision> {
        match state.job {
            JobState::Queued => vec![
                Decision::Go(JobState::Preflight, false),
                Decision::Go(JobState::Failed, false),
            ],
            JobState::Preflight if state.key => vec![
                Decision::Go(JobState::Activating, false),
                Decision::Go(JobState::Failed, false),
            ],
            JobState::Preflight => vec![Decision::Go(JobState::Blocked, false)],
            JobState::Activating if state.registry => vec![Decision::Activate],
            JobState::Activating => vec![Decision::Activate, Decision::Go(JobState::Failed, false)],
            JobState::Settling => match state.phase {
                Some(phase) if phase >= CopyPhase::Moved => {
                    vec![Decision::Go(JobState::Draining, false)]
                }
                _ => vec![Decision::Go(JobState::Rewriting, false)],
            },
            JobState::Rewriting => self.rewrite(state),
            JobState::Verifying => self.in_round(state, Pass::Verify, |sum| {
                if sum.parked || sum.bad && !sum.found {
                    Decision::Go(JobState::Blocked, false)
                } else if sum.found {
                    Decision::Go(JobState::Rewriting, true)
                } else {
                    Decision::Go(JobState::Verified, true)
                }
            }),
            JobState::Verified => match state.phase {
                Some(_) => vec![Decision::Step(CopyPhase::Moved)],
                None => vec![Decision::Go(JobState::Draining, false)],
            },
            JobState::Draining => self.drain(state),
            JobState::Blocked => self.blocked(state),
            JobState::Paused
            | JobState::Drained
            | JobState::Retired
            | JobState::Failed
            | JobState::Cancelled => {
                vec![]
            }
        }
    }

    fn rewrite(&self, state: &State) -> Vec<Decision> {
        let Some(phase) = state.phase else {
            return self.in_round(state, Pass::Rewrite, |sum| {
                if sum.parked {
                    Decision::Go(JobState::Blocked, false)
                } else {
                    Decision::Go(JobState::Verifying, true)
                }
            });
        };
        match phase {
            CopyPhase::Announced => vec![Decision::Step(CopyPhase::Mirrored)],
            _ => self.in_round(state, Pass::Copy, |sum| {
                if sum.parked {
                    Decision::Go(JobState::Blocked, false)
                } else if phase == CopyPhase::Mirrored {
                    Decision::Step(CopyPhase::Switched)
                } else {
                    Decision::Go(JobState::Verifying, true)
                }
            }),
        }
    }

    fn drain(&self, state: &State) -> Vec<Decision> {
        if state.round == Round::None && !state.waited {
            return vec![];
        }
        if state.phase.is_some() {
            // What is swept is carried over, and waited for as long again.
            return self.in_round(state, Pass::Sweep, |sum| {
                if sum.parked {
                    Decision::Go(JobState::Blocked, false)
                } else if sum.found {
                    Decision::Close
                } else {
                    Decision::Go(JobState::Drained, true)
                }
            });
        }
        self.in_round(state, Pass::Drain, |sum| {
            if sum.found && self.planted != Planted::FindsIgnored {
                Decision::Go(JobState::Rewriting, true)
            } else if sum.bad || sum.parked {
                Decision::Go(JobState::Blocked, false)
            } else {
                Decision::Go(JobState::Drained, true)
            }
        })
    }

    fn blocked(&self, state: &State) -> Vec<Decision> {
        if !state.registry {
            return vec![Decision::Go(JobState::Preflight, false)];
        }
        let Some((pass, tasks)) = state.tasks() else {
            return vec![Decision::Go(JobState::Rewriting, false)];
        };
        let sum = Sum::of(tasks);
        let proves = matches!(pass, Pass::Verify | Pass::Drain);
        if sum.parked || sum.open || proves && sum.bad {
            return vec![];
        }
        let to = match pass {
            Pass::Rewrite | Pass::Copy => JobState::Rewriting,
            Pass::Verify | Pass::Drain => JobState::Verifying,
            Pass::Sweep => JobState::Draining,
        };
        vec![Decision::Go(to, false)]
    }

    /// A round of this pass is planned, then waited for.
    fn in_round(&self, state: &State, pass: Pass, end: impl Fn(Sum) -> Decision) -> Vec<Decision> {
        match state.round {
            Round::Planned(there, tasks) if there == word(pass) => {
                let sum = Sum::of(&tasks);
                if sum.open { vec![] } else { vec![end(sum)] }
            }
            Round::Planning(_) if self.planted == Planted::RoundsStay => vec![],
            _ => vec![Decision::Begin(word(pass))],
        }
    }

    /// The driver's write, if the row is still what it read.
    fn commit(&self, state: &mut State, i: usize, decision: Decision) {
        let overtaken = state.drivers[i].overtaken;
        state.drivers[i].decision = None;
        if overtaken && self.planted != Planted::NoToken {
            // It reads the row again, and drives on only if it is still its own.
            state.drivers[i].overtaken = false;
            state.drivers[i].drives = state.lease == Some(i as u8);
            return;
        }
        match decision {
            Decision::Go(to, closes) => {
                // Without a token the way need not be one.
                if !state.job.may_become(to) {
                    return;
                }
                self.move_to(state, to, closes);
            }
            Decision::Activate => {
                if state.job != JobState::Activating {
                    return;
                }
                state.phase = (self.kind == Kind::Copy).then_some(CopyPhase::Announced);
                self.move_to(state, JobState::Settling, true);
            }
            Decision::Step(phase) => {
                if !state.job.may_become(JobState::Settling) {
                    return;
                }
                state.phase = Some(phase);
                self.move_to(state, JobState::Settling, true);
            }
            Decision::Begin(pass) => {
                state.round = Round::Planning(pass);
                state.drivers[i].decision = Some(Decision::Complete(pass));
            }
            Decision::Complete(pass) => state.round = Round::Planned(pass, [OPEN; 2]),
            Decision::Close => {
                state.round = Round::None;
                state.waited = false;
            }
        }
        if !state.job.is_final() {
            state.lease = Some(i as u8);
        }
        state.written_by(Some(i));
    }

    fn of_driver(&self, state: &State, i: usize, steps: &mut Steps<State>) {
        let driver = state.drivers[i];
        let mut live = |what, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            steps.live(what, next.canonical());
        };
        if !driver.drives {
            if state.lease.is_none() && !state.job.is_final() && state.job != JobState::Paused {
                live("claims the job", &|s| {
                    s.lease = Some(i as u8);
                    s.drivers[i] = Driver {
                        decision: None,
                        overtaken: false,
                        drives: true,
                    };
                    s.written_by(Some(i));
                });
            }
            return;
        }
        match driver.decision {
            Some(Decision::Activate) if !state.registry => {
                // Made only while the lease is trusted.
                if state.lease == Some(i as u8) && !driver.overtaken {
                    live("changes the registry", &|s| s.registry = true);
                } else {
                    live("may not change the registry", &|s| {
                        s.drivers[i] = Driver::default();
                    });
                }
            }
            Some(decision) => live("writes what it decided", &|s| self.commit(s, i, decision)),
            None if driver.overtaken || state.lease != Some(i as u8) => {
                live("reads the row again", &|s| {
                    s.drivers[i].overtaken = false;
                    s.drivers[i].drives = s.lease == Some(i as u8);
                });
            }
            None => {
                for decision in self.decide(state) {
                    let mut next = state.clone();
                    next.drivers[i].decision = Some(decision);
                    let next = next.canonical();
                    // That a job can be refused is no way out for one that is stuck.
                    match decision {
                        Decision::Go(JobState::Failed, _) => steps.chance("refuses", next),
                        _ => steps.live("decides", next),
                    }
                }
            }
        }
        let mut next = state.clone();
        next.drivers[i] = Driver::default();
        steps.chance("a driver dies", next.canonical());
    }

    fn of_tasks(&self, state: &State, steps: &mut Steps<State>) {
        let Some((pass, tasks)) = state.tasks() else {
            return;
        };
        for n in 0..2 {
            let with = |change: &dyn Fn(&mut State, &mut Task)| {
                let mut next = state.clone();
                let Round::Planned(_, mut tasks) = next.round else {
                    unreachable!("there is a round");
                };
                let mut task = tasks[n];
                change(&mut next, &mut task);
                tasks[n] = task;
                next.round = Round::Planned(word(pass), tasks);
                next.canonical()
            };
            let task = tasks[n];
            let claimable = match task.state {
                TaskWord::Open => true,
                TaskWord::Parked => self.planted != Planted::ParkedStays,
                TaskWord::Done => false,
            };
            if task.held {
                steps.live(
                    "goes through a task",
                    with(&|s, t| self.work(s, t, pass, n)),
                );
                if self.planted != Planted::LeasesStay {
                    // It died, or is frozen: what it writes is refused.
                    steps.live("a task's lease runs out", with(&|_, t| t.held = false));
                }
            } else if claimable && state.job.has_tasks() {
                steps.live("claims a task", with(&|_, t| t.held = true));
            }
        }
    }

    fn work(&self, state: &mut State, task: &mut Task, pass: Pass, n: usize) {
        task.held = false;
        let bad = state.bad && n == 1;
        if !state.key {
            task.state = TaskWord::Parked;
            return;
        }
        task.state = TaskWord::Done;
        match pass {
            Pass::Rewrite | Pass::Copy => state.old[n] = false,
            Pass::Verify | Pass::Drain => task.found = state.old[n],
            Pass::Sweep => task.found = std::mem::take(&mut state.old[n]),
        }
        task.bad = bad;
    }

    fn of_others(&self, state: &State, steps: &mut Steps<State>) {
        let with = |change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            next.canonical()
        };
        if state.job.is_final() {
            return;
        }
        if let Some(holder) = state.lease {
            let lives = state.drivers[usize::from(holder)].drives;
            let next = with(&|s| s.lease = None);
            if self.planted != Planted::LeasesStay {
                steps.live("the job's lease runs out", next);
            } else if lives {
                steps.chance("the job's lease runs out", next);
            }
        }
        if state.job == JobState::Draining && !state.waited && state.round == Round::None {
            let over = with(&|s| {
                s.waited = true;
                s.over = true;
            });
            steps.live("the wait is over", over);
        }
        if state.may_be_late && !state.over && state.registry {
            for n in 0..2 {
                let late = with(&|s| {
                    s.old[n] = true;
                    s.may_be_late = false;
                });
                steps.chance("a late write lands", late);
            }
        }
        if state.may_break {
            let broken = with(&|s| {
                s.bad = true;
                s.may_break = false;
            });
            steps.chance("a cell is damaged", broken);
        }
        if state.key {
            steps.chance("the customer takes the key", with(&|s| s.key = false));
        } else {
            // To wait for a customer is no way of being stuck.
            steps.live("the customer gives the key", with(&|s| s.key = true));
        }
        self.of_operator(state, steps, &with);
    }

    fn of_operator(&self, state: &State, steps: &mut Steps<State>, with: &Changed<'_>) {
        if state.job.may_become(JobState::Cancelled) {
            let cancelled = with(&|s| {
                self.move_to(s, JobState::Cancelled, false);
                s.written_by(None);
            });
            steps.chance("an operator cancels", cancelled);
        }
        if state.job.may_pause() {
            let paused = with(&|s| {
                self.move_to(s, JobState::Paused, false);
                s.written_by(None);
            });
            steps.chance("an operator pauses", paused);
        }
        if let Some(from) = state.paused_from {
            // Nor is it to wait for an operator who paused it.
            let resumed = with(&|s| {
                self.move_to(s, from, false);
                s.written_by(None);
            });
            steps.live("an operator resumes", resumed);
        }
        if state.bad {
            // Nor is it to wait for a person where a cell is damaged.
            steps.live("a person mends the cell", with(&|s| s.bad = false));
        }
        let all_done = state
            .tasks()
            .is_some_and(|(_, tasks)| tasks.iter().all(|t| t.state == TaskWord::Done));
        if state.job == JobState::Blocked && state.registry && all_done {
            let retried = with(&|s| {
                self.move_to(s, JobState::Rewriting, true);
                s.written_by(None);
            });
            steps.live("an operator asks to retry", retried);
        }
    }
}

struct Sum {
    open: bool,
    parked: bool,
    found: bool,
    bad: bool,
}

impl Sum {
    fn of(tasks: &[Task; 2]) -> Self {
        let any = |what: fn(&Task) -> bool| tasks.iter().any(what);
        Self {
            open: any(|task| task.state == TaskWord::Open),
            parked: any(|task| task.state == TaskWord::Parked),
            found: any(|task| task.found),
            bad: any(|task| task.bad),
        }
    }
}

const CHANGED_AND_FAILED: &str = "failed, and the registry was changed";
const FALSE_VERIFIED: &str = "verified, and a cell is older than the job";
const FALSE_DRAINED: &str = "drained, and a cell is older than the job";

impl Model for Jobs {
    type State = State;

    fn initial(&self) -> Vec<State> {
        vec![State {
            job: JobState::Queued,
            paused_from: None,
            registry: false,
            phase: None,
            round: Round::None,
            lease: None,
            drivers: [Driver::default(); 2],
            waited: false,
            key: true,
            old: [true; 2],
            bad: false,
            may_be_late: true,
            may_break: true,
            over: false,
        }]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        if state.job == JobState::Drained {
            steps.live("an operator retires the job", {
                let mut next = state.clone();
                self.move_to(&mut next, JobState::Retired, false);
                next.canonical()
            });
        }
        if state.job.is_final() {
            return;
        }
        for i in 0..2 {
            self.of_driver(state, i, steps);
        }
        self.of_tasks(state, steps);
        self.of_others(state, steps);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let old = state.old.contains(&true);
        match state.job {
            JobState::Failed if state.registry => Some(CHANGED_AND_FAILED),
            JobState::Verified if old && state.may_be_late => Some(FALSE_VERIFIED),
            JobState::Drained | JobState::Retired if old => Some(FALSE_DRAINED),
            _ => None,
        }
    }

    fn is_end(&self, state: &State) -> bool {
        state.job.is_final()
    }
}

#[test]
fn no_job_is_stuck_and_none_ends_in_a_lie() {
    let mut gone = BTreeSet::new();
    for kind in [Kind::Rekey, Kind::Copy] {
        let model = Jobs::new(kind, Planted::Nothing);
        search(&model).holds(&format!("{kind:?}"));
        gone.append(&mut model.gone.borrow_mut());
    }
    // The table has no way that leads nowhere and none that is not gone.
    let table: BTreeSet<(JobState, JobState)> = JobState::ALL
        .into_iter()
        .flat_map(|from| from.next().iter().map(move |to| (from, *to)))
        .collect();
    assert_eq!(gone, table, "the ways that were gone, and the table");
}

#[test]
fn each_rule_of_the_job_is_needed() {
    let find = |name: &str, planted, promise: &str| {
        search(&Jobs::new(Kind::Rekey, planted)).breaks(name, promise);
    };
    find(
        "drivers without a token",
        Planted::NoToken,
        CHANGED_AND_FAILED,
    );
    find(
        "finds that are read over",
        Planted::FindsIgnored,
        FALSE_DRAINED,
    );
    find("no drain", Planted::NoDrain, FALSE_DRAINED);
    for (name, planted) in [
        ("leases that stay", Planted::LeasesStay),
        ("rounds that stay", Planted::RoundsStay),
        ("parked tasks that stay", Planted::ParkedStays),
    ] {
        search(&Jobs::new(Kind::Rekey, planted)).is_stuck(name);
    }
}
