//! The store of the configuration.

use std::sync::Arc;

use super::WiringError;
use crate::clock::SharedClock;
use crate::config::{Config, StoreKind};
use crate::registry::{Registry, RegistryError};
use crate::store::SharedStore;
use crate::store::cql::{Cluster, CqlStore, Password};
use crate::store::sqlite::SqliteStore;

/// Where the password of the database user may be, in the environment.
pub const STORE_PASSWORD: &str = "REKEYD_STORE_PASSWORD";

/// Opens the store; it must have been made by [`super::init`], or by
/// `rekeyd schema apply`.
pub async fn store(config: &Config, clock: &SharedClock) -> Result<SharedStore, WiringError> {
    match config.store.kind {
        StoreKind::Sqlite => Ok(Arc::new(SqliteStore::open(
            &config.store.path,
            clock.clone(),
        )?)),
        StoreKind::Scylla | StoreKind::Cassandra => {
            let store = Arc::new(CqlStore::on(cluster(config, clock).await?).await?);
            keeps_the_waits(config, &store, clock).await?;
            Ok(store)
        }
    }
}

/// A request that is waited for longer than the store's waits allow could land
/// after a job has stopped waiting for it.
async fn keeps_the_waits(
    config: &Config,
    store: &Arc<CqlStore>,
    clock: &SharedClock,
) -> Result<(), WiringError> {
    let registry = Registry::new(store.clone(), clock.clone());
    let ours = config.store.request_timeout_ms;
    match registry.timing().await {
        Ok(timing) if ours > timing.request_timeout_ms => Err(WiringError::RequestTimeout {
            ours,
            most: timing.request_timeout_ms,
        }),
        // A store without waits is refused by whoever needs them.
        Ok(_) | Err(RegistryError::NoTiming) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the cluster, whatever its tables are.
pub async fn cluster(config: &Config, clock: &SharedClock) -> Result<Cluster, WiringError> {
    let password = std::env::var(STORE_PASSWORD).ok().map(Password::new);
    Ok(Cluster::connect(&config.store, password, clock.clone()).await?)
}
