//! Goes through every state that can be reached, breadth first, so that what is
//! found is found by a shortest way.

use std::collections::{HashMap, VecDeque};
use std::fmt::{Debug, Write};
use std::hash::Hash;

/// What may happen, and what must not.
pub trait Model {
    /// A state. Finitely many can be reached.
    type State: Clone + Eq + Hash + Debug;

    /// Where it may begin.
    fn initial(&self) -> Vec<Self::State>;

    /// All that may happen in a state.
    fn steps(&self, state: &Self::State, steps: &mut Steps<Self::State>);

    /// The promise that a state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether nothing more need happen.
    fn is_end(&self, state: &Self::State) -> bool;
}

/// What may happen in a state.
pub struct Steps<S> {
    found: Vec<(&'static str, bool, S)>,
}

impl<S> Steps<S> {
    /// Something that the system does by itself as long as somebody lives.
    pub fn live(&mut self, what: &'static str, next: S) {
        self.found.push((what, true, next));
    }

    /// Something that may happen and cannot be counted on: a death, an order of
    /// an operator, a customer who takes a key away.
    pub fn chance(&mut self, what: &'static str, next: S) {
        self.found.push((what, false, next));
    }
}

/// What a search found.
pub struct Found {
    /// States that can be reached, of those that were looked at.
    pub states: usize,
    /// The promise that is broken, and a shortest way there.
    pub broken: Option<(&'static str, String)>,
    /// A shortest way to a state from which no end can be reached by what the
    /// system does by itself.
    pub stuck: Option<String>,
}

impl Found {
    /// Nothing is broken and nothing is stuck.
    #[track_caller]
    pub fn holds(&self, name: &str) {
        if let Some((promise, way)) = &self.broken {
            panic!("{name}: {promise}\n{way}");
        }
        if let Some(way) = &self.stuck {
            panic!("{name}: no end can be reached any more\n{way}");
        }
        println!("{name}: {} states, all of them good", self.states);
    }

    /// The search has found that this promise is broken.
    #[track_caller]
    pub fn breaks(&self, name: &str, promise: &str) {
        match &self.broken {
            Some((broken, _)) => assert_eq!(*broken, promise, "{name}"),
            None => panic!("{name}: nothing found in {} states", self.states),
        }
        println!("{name}: found after {} states", self.states);
    }

    /// The search has found a state that nothing leads out of.
    #[track_caller]
    pub fn is_stuck(&self, name: &str) {
        if let Some((promise, way)) = &self.broken {
            panic!("{name}: {promise}\n{way}");
        }
        assert!(self.stuck.is_some(), "{name}: nothing is stuck");
        println!("{name}: found in {} states", self.states);
    }
}

/// More than this is no small size any more.
const TOO_MANY: usize = 6_000_000;

/// Looks at every state, up to the first that breaks a promise.
pub fn search<M: Model>(model: &M) -> Found {
    let mut all: Vec<M::State> = Vec::new();
    let mut index: HashMap<M::State, u32> = HashMap::new();
    // From where and by what each state was first reached.
    let mut from: Vec<(u32, &'static str)> = Vec::new();
    // By what the system does itself: to, from.
    let mut live: Vec<(u32, u32)> = Vec::new();
    let mut queue = VecDeque::new();
    for state in model.initial() {
        if !index.contains_key(&state) {
            let n = all.len() as u32;
            index.insert(state.clone(), n);
            all.push(state);
            from.push((u32::MAX, "begins"));
            queue.push_back(n);
        }
    }
    let mut steps = Steps { found: Vec::new() };
    while let Some(n) = queue.pop_front() {
        let state = all[n as usize].clone();
        if let Some(promise) = model.broken(&state) {
            return Found {
                states: all.len(),
                broken: Some((promise, way(&all, &from, n))),
                stuck: None,
            };
        }
        model.steps(&state, &mut steps);
        for (what, is_live, next) in steps.found.drain(..) {
            let to = match index.get(&next) {
                Some(to) => *to,
                None => {
                    let to = all.len() as u32;
                    index.insert(next.clone(), to);
                    all.push(next);
                    from.push((n, what));
                    queue.push_back(to);
                    assert!(all.len() < TOO_MANY, "more than {TOO_MANY} states");
                    to
                }
            };
            if is_live {
                live.push((to, n));
            }
        }
    }
    Found {
        states: all.len(),
        broken: None,
        stuck: first_stuck(model, &all, live).map(|n| way(&all, &from, n)),
    }
}

/// The first state that has no way to an end: all that have one are found from
/// the ends backwards.
fn first_stuck<M: Model>(model: &M, all: &[M::State], mut live: Vec<(u32, u32)>) -> Option<u32> {
    live.sort_unstable();
    let mut ends = vec![false; all.len()];
    let mut queue = VecDeque::new();
    for (n, state) in all.iter().enumerate() {
        if model.is_end(state) {
            ends[n] = true;
            queue.push_back(n as u32);
        }
    }
    while let Some(to) = queue.pop_front() {
        let first = live.partition_point(|(other, _)| *other < to);
        for (_, n) in live[first..].iter().take_while(|(other, _)| *other == to) {
            if !std::mem::replace(&mut ends[*n as usize], true) {
                queue.push_back(*n);
            }
        }
    }
    ends.iter().position(|end| !end).map(|n| n as u32)
}

fn way<S: Debug>(all: &[S], from: &[(u32, &'static str)], last: u32) -> String {
    let mut steps = vec![last];
    while from[steps[steps.len() - 1] as usize].0 != u32::MAX {
        steps.push(from[steps[steps.len() - 1] as usize].0);
    }
    let mut text = String::new();
    for n in steps.into_iter().rev() {
        let _ = writeln!(text, "  {}: {:?}", from[n as usize].1, all[n as usize]);
    }
    text
}
