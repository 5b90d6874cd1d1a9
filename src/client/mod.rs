//! What the application uses: messages by their scope, so that nobody can forget
//! the context they are encrypted under. docs/client.md is the guide.
//!
//! | file | what |
//! |---|---|
//! | `channel` | write, read, edit, delete, list |
//! | `put` | a write on its way to every place it goes to |
//! | `follow` | from a channel's name to the places of its records |
//! | `message` | what goes in and comes out |
//! | `error` | what can go wrong, by class and code |
//! | `views` | what the client knows of the registry, and how old that is |
//! | `write_times` | the write times it gives |
//! | `key_service` | where keys come from: a trait |
//! | `in_process` | its implementation on a store and a KMS |
//! | `key_cache` | the keys held and the refusals remembered |
//! | `flights` | one look-up at a time for one thing |

mod channel;
mod error;
mod flights;
mod follow;
mod in_process;
mod key_cache;
mod key_service;
mod message;
mod put;
#[cfg(test)]
mod tests;
mod views;
mod write_times;

use std::sync::Arc;

pub use crate::kms::{ReasonCode, Use};
pub use crate::store::PageLimit;
pub use channel::Channel;
pub use error::{ClientError, ErrorClass, ErrorKind, Moving};
pub use in_process::{InProcessKeys, InProcessKeysBuilder};
pub use key_service::{KeyService, SealingKey};
pub use message::{EditLifetime, Lifetime, Listing, Message, Written};

use crate::clock::{SharedClock, SystemClock};
use crate::ids::{ChannelId, OrgId, WorkspaceId};
use crate::registry::{Registry, RegistryError, Timing};
use crate::store::SharedStore;
use views::Views;
use write_times::WriteTimes;

/// The entrance. One for a process, cheap to clone; clones share caches and
/// write times.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    store: SharedStore,
    keys: Arc<dyn KeyService>,
    registry: Registry,
    clock: SharedClock,
    timing: Timing,
    views: Views,
    times: WriteTimes,
}

/// What a [`Client`] is made of.
pub struct ClientBuilder {
    store: SharedStore,
    keys: Arc<dyn KeyService>,
    clock: SharedClock,
}

impl ClientBuilder {
    /// The clock, where it is not the system's. Give the key service the same.
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = clock;
        self
    }

    /// Reads the store's waits and makes the client.
    ///
    /// # Errors
    /// `Unavailable`; `Fatal` if the store is not set up.
    pub async fn build(self) -> Result<Client, ClientError> {
        let registry = Registry::new(self.store.clone(), self.clock.clone());
        let timing = registry.timing().await?;
        Ok(Client(Arc::new(Shared {
            store: self.store,
            keys: self.keys,
            views: Views::new(registry.clone(), self.clock.clone(), timing.status_time()),
            registry,
            clock: self.clock,
            timing,
            times: WriteTimes::new(),
        })))
    }
}

impl Client {
    /// A client on a store and a key service.
    pub fn builder(store: SharedStore, keys: Arc<dyn KeyService>) -> ClientBuilder {
        ClientBuilder {
            store,
            keys,
            clock: SystemClock::shared(),
        }
    }

    /// The organization whose data is meant.
    pub fn organization(&self, org: &OrgId) -> Organization {
        Organization {
            client: self.clone(),
            org: org.clone(),
        }
    }
}

/// An organization, as the client sees it.
#[derive(Clone)]
pub struct Organization {
    client: Client,
    org: OrgId,
}

impl Organization {
    /// A channel that is in the registry. Nothing is read until it is used.
    pub fn channel(&self, workspace: &WorkspaceId, channel: &ChannelId) -> Channel {
        Channel::new(
            self.client.0.clone(),
            self.org.clone(),
            workspace.clone(),
            channel.clone(),
        )
    }

    /// Enters a channel in the registry, or finds it there: under any workspace
    /// it has had, and under any name it has had in this organization.
    ///
    /// # Errors
    /// `not_found` for an unknown organization, or if the channel was never in
    /// this workspace; `moving` if it is the destination of a copy that has not
    /// come far enough; `moved_to` if it has gone to another organization;
    /// `unavailable`.
    pub async fn ensure_channel(
        &self,
        workspace: &WorkspaceId,
        channel: &ChannelId,
    ) -> Result<Channel, ClientError> {
        let handle = self.channel(workspace, channel);
        let registry = &self.client.0.registry;
        match registry.view(&self.org, channel).await {
            Err(RegistryError::UnknownChannel { .. }) => {
                match registry.ensure_channel(&self.org, workspace, channel).await {
                    // Somebody else was first. What they entered is judged below.
                    Ok(_) | Err(RegistryError::WrongWorkspace { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        handle.fresh_places().await?;
        Ok(handle)
    }
}
