//! A store of three replicas: what each has, what is on its way to it, and the
//! control rows, which are one for all.
//!
//! Data goes by quorum: a write is acknowledged when two replicas have it, and
//! comes to the third whenever it comes; a read asks two, merges by the rule that
//! holds for every backend ([`crate::store::merge`]), and repairs those it asked.
//! Control rows are changed at one moment, as by consensus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::chance::Dice;
use super::process::true_time;
use super::time::Time;
use super::weather::{LATEST, Weather};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::store::merge::Rows;
use crate::store::{
    Applied, Consistency, ControlTable, ControlWrite, Expect, KeyRow, Partition, SliceKey,
    StoreError, StoreErrorClass, StoreResult,
};

pub(super) const REPLICAS: usize = 3;
const QUORUM: usize = 2;
/// How long a coordinator waits for its replicas.
const PATIENCE: Duration = Duration::from_secs(5);

/// One change of data, as a replica takes it.
#[derive(Clone)]
pub(super) enum Mutation {
    Cells(Partition, Rows),
    Key(SliceKey, KeyAddress, Written),
}

/// A key row's place in its slice: as the store lists them.
pub(super) type KeyAddress = (KeyId, std::cmp::Reverse<Epoch>);

/// A key row, or that it was deleted, with its write time in microseconds. The
/// later stands; at one time a delete, as in the stores that are simulated.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Written {
    pub(super) at: i64,
    pub(super) deleted: bool,
    pub(super) row: Vec<u8>,
}

type Keys = BTreeMap<SliceKey, BTreeMap<KeyAddress, Written>>;

#[derive(Default)]
struct Replica {
    down: bool,
    cells: BTreeMap<Partition, Rows>,
    keys: Keys,
    // What came while it was down: hints.
    hints: Vec<Mutation>,
}

impl Replica {
    fn apply(&mut self, mutation: Mutation) {
        match mutation {
            Mutation::Cells(partition, rows) => {
                let held = self.cells.entry(partition).or_default();
                *held = std::mem::take(held).merge(rows);
            }
            Mutation::Key(slice, address, written) => {
                keep_later(self.keys.entry(slice).or_default(), address, written);
            }
        }
    }
}

fn keep_later(keys: &mut BTreeMap<KeyAddress, Written>, address: KeyAddress, comes: Written) {
    match keys.entry(address) {
        std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(comes)),
        std::collections::btree_map::Entry::Occupied(mut stands) => {
            if comes > *stands.get() {
                stands.insert(comes);
            }
        }
    }
}

type Control = BTreeMap<(ControlTable, String), BTreeMap<String, (u64, String)>>;

#[derive(Default)]
struct State {
    replicas: [Replica; REPLICAS],
    control: Control,
    // Mutations on their way.
    under_way: usize,
}

/// The servers of the store.
pub(super) struct Replicas {
    pub(super) time: Time,
    pub(super) dice: Dice,
    state: Mutex<State>,
    weather: Mutex<Weather>,
    // Rules that were broken while somebody wrote.
    broken: Mutex<Vec<String>>,
}

/// The fencing token in a row's body, if it is a row that has one.
fn token(body: &str) -> Option<u64> {
    let (_, rest) = body.split_once("\"token\":")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}

/// How far a write has come.
struct Write {
    acknowledged: usize,
    answer: Option<oneshot::Sender<StoreResult<()>>>,
    unanswered: bool,
}

fn away(what: &str) -> StoreError {
    StoreError::new(StoreErrorClass::Transient, what)
}

impl Replicas {
    pub(super) fn new(time: &Time, dice: &Dice) -> Arc<Self> {
        Arc::new(Self {
            time: time.clone(),
            dice: dice.clone(),
            state: Mutex::default(),
            weather: Mutex::new(Weather::CALM),
            broken: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Rules that were broken while somebody wrote.
    pub(super) fn broken(&self) -> Vec<String> {
        self.broken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// I6: the token of a job's or a task's row never goes back.
    pub(super) fn check_tokens(&self, id: &str, stands: &str, comes: &str) {
        if let (Some(stands), Some(comes)) = (token(stands), token(comes))
            && comes < stands
        {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.push(format!(
                "the token of {id} went from {stands} back to {comes}"
            ));
        }
    }

    /// Stops a replica, or starts it again: its hints then come one by one.
    pub(super) fn set_down(self: &Arc<Self>, replica: usize, down: bool) {
        let hints = {
            let mut state = self.state();
            state.replicas[replica].down = down;
            if down {
                Vec::new()
            } else {
                std::mem::take(&mut state.replicas[replica].hints)
            }
        };
        for hint in hints {
            self.state().under_way += 1;
            let wait = self.dice.span(1.0, LATEST.as_secs_f64() * 250.0);
            self.deliver(replica, wait, hint, None);
        }
    }

    pub(super) fn down(&self) -> Vec<usize> {
        let state = self.state();
        (0..REPLICAS).filter(|n| state.replicas[*n].down).collect()
    }

    /// Whether no mutation is on its way or waits for a replica.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.under_way == 0 && state.replicas.iter().all(|r| r.hints.is_empty())
    }

    /// Takes a write as a coordinator does. `mutations` is made when the
    /// statement has come: from then on the store counts a TTL.
    pub(super) fn write(
        self: &Arc<Self>,
        mutations: impl FnOnce(i64) -> Vec<Mutation> + Send + 'static,
        answer: oneshot::Sender<StoreResult<()>>,
    ) {
        let (us, weather) = (self.clone(), self.weather());
        self.state().under_way += 1;
        self.time
            .after(weather.way_to_the_store(&self.dice), move || {
                us.state().under_way -= 1;
                let up = REPLICAS - us.down().len();
                if up < QUORUM {
                    return us.answer(answer, Err(away("not enough replicas")));
                }
                let mutations = mutations(true_time(&us.time).unix_seconds());
                if us.dice.chance(weather.refused) {
                    // Some of it may have been done.
                    for mutation in mutations {
                        for replica in 0..REPLICAS {
                            if us.dice.chance(0.2) {
                                us.state().under_way += 1;
                                let wait = weather.way_to_a_replica(&us.dice);
                                us.deliver(replica, wait, mutation.clone(), None);
                            }
                        }
                    }
                    return us.answer(answer, Err(away("overloaded")));
                }
                let write = Arc::new(Mutex::new(Write {
                    acknowledged: 0,
                    answer: Some(answer),
                    unanswered: us.dice.chance(weather.unanswered),
                }));
                for replica in 0..REPLICAS {
                    // One way for all of them, so a replica acknowledges all or none.
                    let wait = weather.way_to_a_replica(&us.dice);
                    let last = mutations.len().saturating_sub(1);
                    for (n, mutation) in mutations.iter().enumerate() {
                        us.state().under_way += 1;
                        let tell = (n == last).then(|| write.clone());
                        us.deliver(replica, wait, mutation.clone(), tell);
                    }
                }
                let (late, them) = (write.clone(), us.clone());
                us.time.after(PATIENCE, move || {
                    let waits = late
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .answer
                        .take();
                    if let Some(answer) = waits {
                        them.answer(answer, Err(away("timed out")));
                    }
                });
            });
    }

    fn deliver(
        self: &Arc<Self>,
        replica: usize,
        wait: Duration,
        mutation: Mutation,
        tell: Option<Arc<Mutex<Write>>>,
    ) {
        let us = self.clone();
        self.time.after(wait, move || {
            let mut state = us.state();
            state.under_way -= 1;
            let held = &mut state.replicas[replica];
            if held.down {
                held.hints.push(mutation);
                return;
            }
            held.apply(mutation);
            drop(state);
            let Some(write) = tell else { return };
            let mut write = write.lock().unwrap_or_else(PoisonError::into_inner);
            write.acknowledged += 1;
            if write.acknowledged == QUORUM
                && let Some(answer) = write.answer.take()
            {
                let lost = write.unanswered.then(|| away("no answer"));
                us.answer(answer, lost.map_or(Ok(()), Err));
            }
        });
    }

    fn answer<T: Send + 'static>(
        &self,
        answer: oneshot::Sender<StoreResult<T>>,
        what: StoreResult<T>,
    ) {
        let back = self.weather().way(&self.dice);
        self.time.after(back, move || {
            // Who asked may be gone.
            let _ = answer.send(what);
        });
    }

    /// Reads from as many replicas as asked.
    pub(super) fn read<T: Send + 'static>(
        self: &Arc<Self>,
        consistency: Consistency,
        look: impl FnOnce(&Replicas, &[usize]) -> T + Send + 'static,
        answer: oneshot::Sender<StoreResult<T>>,
    ) {
        let (us, weather) = (self.clone(), self.weather());
        self.time.after(weather.way(&self.dice), move || {
            let down = us.down();
            let mut up: Vec<usize> = (0..REPLICAS).filter(|n| !down.contains(n)).collect();
            let want = match consistency {
                Consistency::Quorum => QUORUM,
                Consistency::All => REPLICAS,
            };
            if up.len() < want || us.dice.chance(weather.refused) {
                return us.answer(answer, Err(away("read timed out")));
            }
            while up.len() > want {
                up.remove(us.dice.below(up.len()));
            }
            let seen = look(&us, &up);
            us.answer(answer, Ok(seen));
        });
    }

    /// A partition as these replicas have it together. They have the same then.
    pub(super) fn partition(&self, partition: &Partition, of: &[usize]) -> Rows {
        let mut state = self.state();
        let mut merged = Rows::default();
        for n in of {
            if let Some(rows) = state.replicas[*n].cells.get(partition) {
                merged = merged.merge(rows.clone());
            }
        }
        for n in of {
            let held = state.replicas[*n]
                .cells
                .entry(partition.clone())
                .or_default();
            *held = merged.clone();
        }
        merged
    }

    /// All partitions that any replica has.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        let state = self.state();
        let of_all = state.replicas.iter().flat_map(|r| r.cells.keys().cloned());
        of_all
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// The keys of a slice as these replicas have them together. They have the
    /// same then: a key that somebody reads is as durable as one that somebody
    /// wrote, and both may use it (I11).
    pub(super) fn keys(&self, slice: &SliceKey, of: &[usize]) -> Vec<KeyRow> {
        let mut state = self.state();
        let mut merged = BTreeMap::new();
        for n in of {
            if let Some(keys) = state.replicas[*n].keys.get(slice) {
                for (address, written) in keys {
                    keep_later(&mut merged, *address, written.clone());
                }
            }
        }
        if !merged.is_empty() {
            for n in of {
                state.replicas[*n]
                    .keys
                    .insert(slice.clone(), merged.clone());
            }
        }
        merged
            .into_iter()
            .filter(|(_, written)| !written.deleted)
            .map(|((key_id, wrap_epoch), written)| KeyRow {
                key_id,
                wrap_epoch: wrap_epoch.0,
                row: written.row,
            })
            .collect()
    }

    /// The slices that have a key.
    pub(super) fn slices(&self, of: &[usize]) -> Vec<SliceKey> {
        let mut all: Vec<SliceKey> = {
            let state = self.state();
            let held = of.iter().flat_map(|n| state.replicas[*n].keys.keys());
            held.cloned().collect()
        };
        all.sort();
        all.dedup();
        all.retain(|slice| !self.keys(slice, of).is_empty());
        all
    }

    /// Asks about control rows, or changes them, at one moment.
    pub(super) fn control<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut ControlRows<'_>) -> T + Send + 'static,
        answer: oneshot::Sender<StoreResult<T>>,
    ) {
        let (us, weather) = (self.clone(), self.weather());
        self.time.after(weather.way(&self.dice), move || {
            if us.dice.chance(weather.refused) || REPLICAS - us.down().len() < QUORUM {
                return us.answer(answer, Err(away("no consensus")));
            }
            let seen = act(&mut ControlRows(&mut us.state().control, &us));
            let lost = us.dice.chance(weather.unanswered);
            us.answer(
                answer,
                if lost {
                    Err(away("no answer"))
                } else {
                    Ok(seen)
                },
            );
        });
    }
}

/// The control rows at a moment.
pub(super) struct ControlRows<'a>(&'a mut Control, &'a Replicas);

impl ControlRows<'_> {
    pub(super) fn partition(
        &self,
        table: ControlTable,
        partition: &str,
    ) -> Option<&BTreeMap<String, (u64, String)>> {
        self.0.get(&(table, partition.to_owned()))
    }

    pub(super) fn partitions(&self, table: ControlTable) -> Vec<String> {
        let of_table = self
            .0
            .iter()
            .filter(|((t, _), rows)| *t == table && !rows.is_empty());
        of_table
            .map(|((_, partition), _)| partition.clone())
            .collect()
    }

    pub(super) fn apply(
        &mut self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> Applied {
        let rows = self.0.entry((table, partition.to_owned())).or_default();
        let holds = |write: &ControlWrite| match (write.expect, rows.get(&write.id)) {
            (Expect::Absent, None) => true,
            (Expect::Rev(rev), Some((stands, _))) => rev == *stands,
            _ => false,
        };
        if !writes.iter().all(holds) {
            return Applied::No;
        }
        for write in writes {
            let rev = rows.get(&write.id).map_or(0, |(rev, _)| *rev);
            match &write.body {
                Some(body) => {
                    if let Some((_, stands)) = rows.get(&write.id) {
                        self.1.check_tokens(&write.id, stands, body);
                    }
                    rows.insert(write.id.clone(), (rev + 1, body.clone()));
                }
                None => {
                    rows.remove(&write.id);
                }
            }
        }
        Applied::Yes
    }
}
