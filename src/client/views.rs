//! What the client knows of the registry, and how old that is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::ErrorKind;
use super::flights::Flights;
use crate::clock::SharedClock;
use crate::ids::{ChannelId, OrgId};
use crate::registry::{ChannelView, Registry};

/// Views kept at once; beyond it the expired ones go, then all: reading one
/// again is one small statement.
const KEPT: usize = 1 << 16;

type ChannelName = (OrgId, ChannelId);

pub(super) struct Views {
    registry: Registry,
    clock: SharedClock,
    status_time: Duration,
    kept: Mutex<HashMap<ChannelName, Arc<ChannelView>>>,
    flights: Flights<ChannelName, Arc<ChannelView>>,
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

    /// Whether a view may not be used any more. Its age counts from the start of
    /// its read, on a clock that runs through suspend.
    pub(super) fn ran_out(&self, view: &ChannelView) -> bool {
        self.clock.boot().since(view.read_at) >= self.status_time
    }

    /// A view that has not run out.
    pub(super) async fn current(
        &self,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<Arc<ChannelView>, ErrorKind> {
        let name = (org.clone(), channel.clone());
        if let Some(view) = self.kept().get(&name)
            && !self.ran_out(view)
        {
            return Ok(view.clone());
        }
        let look_up = || {
            let (registry, (org, channel)) = (self.registry.clone(), name.clone());
            async move { Ok(Arc::new(registry.view(&org, &channel).await?)) }
        };
        let (view, _) = self.flights.run(name.clone(), look_up).await;
        let view = view?;
        self.keep(view.clone());
        Ok(view)
    }

    /// A view whose read begins now: before something is refused, and when the
    /// last one ran out under an operation. Never another's read, which may
    /// have begun before what is to be judged.
    pub(super) async fn fresh(
        &self,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<Arc<ChannelView>, ErrorKind> {
        let view = Arc::new(self.registry.view(org, channel).await?);
        self.keep(view.clone());
        Ok(view)
    }

    fn keep(&self, view: Arc<ChannelView>) {
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.retain(|_, view| !self.ran_out(view));
            if kept.len() >= KEPT {
                kept.clear();
            }
        }
        let name = (view.org.clone(), view.channel.clone());
        match kept.get(&name) {
            Some(other) if other.read_at > view.read_at => {}
            _ => drop(kept.insert(name, view)),
        }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<ChannelName, Arc<ChannelView>>> {
        // Nothing that holds the lock can panic half way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
