//! The registry as a task sees it. Neighbouring slices are mostly of one channel,
//! so what is read for one serves the next while it is young.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::{ChannelId, OrgId};
use crate::pipeline::patience::patiently;
use crate::pipeline::{Shared, TaskError};
use crate::registry::{AllowList, ChannelView};

/// Channels that are kept. A task has few at a time, for it goes through them in
/// order.
const KEPT: usize = 128;

type Latest = Arc<tokio::sync::Mutex<Option<Arc<ChannelView>>>>;

/// The views of a task, by organization and channel. A copy to another
/// organization has channels of two.
#[derive(Default)]
pub struct Views(Mutex<HashMap<(OrgId, ChannelId), Latest>>);

impl Views {
    /// A view to begin with: read now or a little ago. A write may be as old as
    /// `row_age`, and its view with it (I4), so a quarter of that leaves the most
    /// of it for the work.
    pub(super) async fn young(
        &self,
        shared: &Shared,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<Arc<ChannelView>, TaskError> {
        let latest = self.of(org, channel);
        // Held while it is read, so that slices which come together ask once.
        let mut latest = latest.lock().await;
        if let Some(view) = &*latest
            && shared.clock.boot().since(view.read_at) < shared.timing.row_age() / 4
        {
            return Ok(view.clone());
        }
        let view = read(shared, org, channel).await?;
        *latest = Some(view.clone());
        Ok(view)
    }

    /// A view that is read now, whatever is kept.
    pub(super) async fn fresh(
        &self,
        shared: &Shared,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<Arc<ChannelView>, TaskError> {
        let view = read(shared, org, channel).await?;
        *self.of(org, channel).lock().await = Some(view.clone());
        Ok(view)
    }

    fn of(&self, org: &OrgId, channel: &ChannelId) -> Latest {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (org.clone(), channel.clone());
        if all.len() >= KEPT && !all.contains_key(&key) {
            all.clear();
        }
        all.entry(key).or_default().clone()
    }
}

/// The CMKs that may be used, by organization.
#[derive(Default)]
pub struct AllowLists(tokio::sync::Mutex<HashMap<OrgId, Arc<AllowList>>>);

impl AllowLists {
    /// The list as it was read last.
    pub(super) async fn known(
        &self,
        shared: &Shared,
        org: &OrgId,
    ) -> Result<Arc<AllowList>, TaskError> {
        if let Some(list) = self.0.lock().await.get(org) {
            return Ok(list.clone());
        }
        self.fresh(shared, org).await
    }

    /// The list as it is now.
    pub(super) async fn fresh(
        &self,
        shared: &Shared,
        org: &OrgId,
    ) -> Result<Arc<AllowList>, TaskError> {
        let list = patiently(&shared.clock, || shared.registry.allow_list(org)).await?;
        let list = Arc::new(list);
        self.0.lock().await.insert(org.clone(), list.clone());
        Ok(list)
    }
}

async fn read(
    shared: &Shared,
    org: &OrgId,
    channel: &ChannelId,
) -> Result<Arc<ChannelView>, TaskError> {
    let view = patiently(&shared.clock, || shared.registry.view(org, channel)).await?;
    Ok(Arc::new(view))
}
