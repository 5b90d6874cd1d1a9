//! Two slices of two pages each. Their writes are acknowledged in any order, and
//! the worker may die at any time. The real code under test: [`InOrder`].

use rekeyd::pipeline::order::InOrder;

use crate::search::{Model, Steps, search};

const PAGES: [(u64, u64, bool); 4] = [(0, 0, false), (0, 1, true), (1, 0, false), (1, 1, true)];

struct Pages {
    in_order: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct State {
    /// Pages whose writes were acknowledged to this worker, in that order. A
    /// takeover begins after the checkpoint, so it has other pages to come.
    acknowledged: Vec<usize>,
    /// Pages that are done, whoever did them.
    done: [bool; 4],
    /// Pages that the stored checkpoint covers.
    covered: usize,
    /// The page this worker began with.
    begun: usize,
}

impl Pages {
    /// How many pages the checkpoint may cover.
    fn cover(&self, state: &State) -> usize {
        if !self.in_order {
            return state.acknowledged.len() + state.begun;
        }
        // The slices and pages of a takeover are counted from its own start.
        let first = PAGES[state.begun.min(3)];
        let mut order = InOrder::new();
        let mut popped = state.begun;
        for page in &state.acknowledged {
            let (slice, number, last) = PAGES[*page];
            let number = if slice == first.0 {
                number - first.1
            } else {
                number
            };
            order.push(slice - first.0, number, last, *page);
            while let Some(page) = order.pop() {
                assert_eq!(page, popped, "pages come out in order");
                popped += 1;
            }
        }
        popped
    }
}

impl Model for Pages {
    type State = State;

    fn initial(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for page in state.begun..PAGES.len() {
            if !state.acknowledged.contains(&page) {
                let mut next = state.clone();
                next.acknowledged.push(page);
                next.done[page] = true;
                steps.live("a page is acknowledged", next);
            }
        }
        let covered = self.cover(state);
        if covered > state.covered {
            let mut next = state.clone();
            next.covered = covered;
            steps.live("the checkpoint is written", next);
        }
        let mut next = state.clone();
        next.acknowledged.clear();
        next.begun = state.covered;
        steps.chance("the worker dies and another goes on", next);
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let gap = state.done[..state.covered].iter().any(|done| !done);
        gap.then_some(GAP)
    }

    fn is_end(&self, state: &State) -> bool {
        state.covered == PAGES.len()
    }
}

const GAP: &str = "the checkpoint covers a page that was not acknowledged";

#[test]
fn a_checkpoint_covers_no_gap_in_any_order() {
    search(&Pages { in_order: true }).holds("pages");
}

#[test]
fn counting_pages_is_not_enough() {
    search(&Pages { in_order: false }).breaks("pages that are counted", GAP);
}
