//! What the client knows of the registry, and how old that is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::{ErrorKind, Moving};
use super::flights::Flights;
use crate::clock::{BootTime, SharedClock};
use crate::ids::{ChannelId, OrgId};
use crate::registry::{ChannelName, Places, Registry, Route};

/// Routes kept at once; beyond it the expired ones go, then all: reading one
/// again is one or two small statements.
const KEPT: usize = 1 << 16;

/// A channel as the registry names it. Its workspace is no part of the key: a
/// channel is found under every workspace it has had.
type Name = (OrgId, ChannelId);

/// Where a name leads, as it was read.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// Its records.
    Here(Arc<Places>),
    /// It cannot be used yet.
    Moving(Box<Moving>),
    /// It has gone to another name.
    MovedTo(ChannelName),
}

/// A route and when its read was begun.
#[derive(Clone)]
struct Kept {
    known: Known,
    read_at: BootTime,
}

pub(super) struct Views {
    registry: Registry,
    clock: SharedClock,
    status_time: Duration,
    kept: Mutex<HashMap<Name, Kept>>,
    flights: Flights<Name, Kept>,
}

impl Views {
    pub(super) fn new(registry: Registry, clock: SharedClock, status_time: Duration) -> Self {
        Self {
            registry,
            clock,
            status_time,
            kept: Mutex::default(),
            flights: Flights::new(),
        }
    }

    /// Whether a route may not be used any more. Its age counts from the start
    /// of its first read, on a clock that runs through suspend.
    pub(super) fn ran_out(&self, places: &Places) -> bool {
        self.is_old(places.read_at)
    }

    fn is_old(&self, read_at: BootTime) -> bool {
        self.clock.boot().since(read_at) >= self.status_time
    }

    /// Where a name leads, by a read that has not run out.
    pub(super) async fn current(&self, name: &Name) -> Result<Known, ErrorKind> {
        if let Some(kept) = self.kept().get(name)
            && !self.is_old(kept.read_at)
        {
            return Ok(kept.known.clone());
        }
        let look_up = || {
            let (registry, clock) = (self.registry.clone(), self.clock.clone());
            read(registry, clock, name.clone())
        };
        let (kept, _) = self.flights.run(name.clone(), look_up).await;
        let kept = kept?;
        self.keep(name, kept.clone());
        Ok(kept.known)
    }

    /// The same by a read that begins now: before something is refused, and when
    /// the last one ran out under an operation. Never another's read, which may
    /// have begun before what is to be judged.
    pub(super) async fn fresh(&self, name: &Name) -> Result<Known, ErrorKind> {
        let kept = read(self.registry.clone(), self.clock.clone(), name.clone()).await?;
        self.keep(name, kept.clone());
        Ok(kept.known)
    }

    fn keep(&self, name: &Name, new: Kept) {
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.retain(|_, kept| !self.is_old(kept.read_at));
            if kept.len() >= KEPT {
                kept.clear();
            }
        }
        match kept.get(name) {
            Some(other) if other.read_at > new.read_at => {}
            _ => drop(kept.insert(name.clone(), new)),
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Name, Kept>> {
        // Nothing that holds the lock can panic half way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(registry: Registry, clock: SharedClock, name: Name) -> Result<Kept, ErrorKind> {
    let begun = clock.boot();
    let (org, channel) = &name;
    Ok(match registry.route(org, channel).await? {
        Route::Here(places) => Kept {
            read_at: places.read_at,
            known: Known::Here(Arc::new(places)),
        },
        Route::Moving { job, from } => Kept {
            read_at: begun,
            known: Known::Moving(Box::new(Moving {
                org: name.0,
                channel: name.1,
                job,
                from,
            })),
        },
        Route::MovedTo(to) => Kept {
            read_at: begun,
            known: Known::MovedTo(to),
        },
    })
}
