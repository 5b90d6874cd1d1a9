//! Where a channel's records are read, written and deleted now: the phases of a
//! copy, decided in one place for clients and for the worker's sweep.

use std::sync::Arc;

use crate::clock::BootTime;
use crate::ids::{ChannelId, JobId, OrgId};
use crate::registry::{
    ChannelName, ChannelRow, ChannelView, CopyPhase, Incoming, Registry, RegistryError,
};

/// How often a route is looked up again because a copy was called off between
/// two reads.
const TRIES: usize = 5;

/// What a channel's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Its records.
    Here(Places),
    /// The channel is being copied to this name, which cannot be used before
    /// that has come far enough.
    Moving {
        /// The job that copies.
        job: JobId,
        /// The channel that is copied.
        from: (OrgId, ChannelId),
    },
    /// The channel has gone to another name.
    MovedTo(ChannelName),
}

/// Where records are. Each view has its own organization, channel, workspace and
/// place: a record that goes to two places is sealed for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Where to read.
    pub read: Arc<ChannelView>,
    /// Where to write, in this order, all with one write time (I14).
    pub write: Vec<Arc<ChannelView>>,
    /// Where to delete, in this order, all with one write time.
    pub delete: Vec<Arc<ChannelView>>,
    /// When the first of the reads was begun. The age of all of it counts from
    /// here.
    pub read_at: BootTime,
}

impl Places {
    /// A channel that is not being copied.
    pub fn only(view: ChannelView) -> Self {
        let read_at = view.read_at;
        let view = Arc::new(view);
        Self {
            read: view.clone(),
            write: vec![view.clone()],
            delete: vec![view],
            read_at,
        }
    }

    /// By the table of [`CopyPhase`].
    pub fn in_phase(phase: CopyPhase, source: ChannelView, destination: ChannelView) -> Self {
        let read_at = source.read_at.min(destination.read_at);
        let (source, destination) = (Arc::new(source), Arc::new(destination));
        let both = vec![destination.clone(), source.clone()];
        let (read, write, delete) = match phase {
            CopyPhase::Announced => (source.clone(), vec![source], both),
            CopyPhase::Mirrored => (source, both.clone(), both),
            CopyPhase::Switched => (destination, both.clone(), both),
            CopyPhase::Moved | CopyPhase::Closed => (
                destination.clone(),
                vec![destination.clone()],
                vec![destination],
            ),
        };
        Self {
            read,
            write,
            delete,
            read_at,
        }
    }

    /// Whether records are in two places.
    pub fn are_two(&self) -> bool {
        self.delete.len() > 1
    }

    /// Whether another route says the same of what should be and where. The age
    /// does not count.
    pub fn agree_with(&self, other: &Places) -> bool {
        let same = |a: &[Arc<ChannelView>], b: &[Arc<ChannelView>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        };
        is_same(&self.read, &other.read)
            && same(&self.write, &other.write)
            && same(&self.delete, &other.delete)
    }
}

fn is_same(a: &ChannelView, b: &ChannelView) -> bool {
    a.org == b.org && a.channel == b.channel && a.agrees_with(b)
}

impl Registry {
    /// Where the records of a channel are, by the name an application has for
    /// it. Does not follow [`Route::MovedTo`].
    ///
    /// # Errors
    /// `UnknownOrg`, `UnknownChannel`, `Store`, `Malformed`.
    pub async fn route(&self, org: &OrgId, channel: &ChannelId) -> Result<Route, RegistryError> {
        for _ in 0..TRIES {
            let view = self.view(org, channel).await?;
            if let Some(route) = self.route_of(view).await? {
                return Ok(route);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// `None` if a copy was called off between the reads: look again.
    async fn route_of(&self, view: ChannelView) -> Result<Option<Route>, RegistryError> {
        let row = &view.channel_row;
        if let Some(incoming) = row.incoming.clone() {
            return self.route_of_destination(view, incoming).await;
        }
        let Some(outgoing) = row.outgoing.clone() else {
            return Ok(Some(Route::Here(Places::only(view))));
        };
        if outgoing.phase >= CopyPhase::Switched {
            return Ok(Some(Route::MovedTo(outgoing.to)));
        }
        let to = &outgoing.to;
        match self.view(&to.org, &to.channel).await {
            Ok(destination) if is_copy_of(&destination.channel_row, outgoing.job) => {
                let places = Places::in_phase(outgoing.phase, view, destination);
                Ok(Some(Route::Here(places)))
            }
            Ok(_) | Err(RegistryError::UnknownChannel { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The source's phase decides. It is read after the destination's row, so a
    /// phase that is met here was announced for this very row.
    async fn route_of_destination(
        &self,
        view: ChannelView,
        incoming: Incoming,
    ) -> Result<Option<Route>, RegistryError> {
        let source = match self.view(&incoming.org, &incoming.channel).await {
            Ok(source) => source,
            Err(RegistryError::UnknownChannel { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let phase = source
            .channel_row
            .outgoing
            .as_ref()
            .filter(|outgoing| outgoing.job == incoming.job)
            .map(|outgoing| outgoing.phase);
        if let Some(phase) = phase
            && phase >= CopyPhase::Switched
        {
            let places = Places::in_phase(phase, source, view);
            return Ok(Some(Route::Here(places)));
        }
        // Not far enough, not announced yet, or called off just now.
        Ok(Some(match &view.channel_row.outgoing {
            // The id had been left by an earlier copy: it still leads there.
            Some(outgoing) => Route::MovedTo(outgoing.to.clone()),
            None => Route::Moving {
                job: incoming.job,
                from: (incoming.org, incoming.channel),
            },
        }))
    }
}

fn is_copy_of(row: &ChannelRow, job: JobId) -> bool {
    row.incoming
        .as_ref()
        .is_some_and(|incoming| incoming.job == job)
}
