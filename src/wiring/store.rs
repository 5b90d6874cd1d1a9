//! The store of the configuration.

use std::sync::Arc;

use super::WiringError;
use crate::clock::SharedClock;
use crate::config::{Config, StoreKind};
use crate::store::SharedStore;
use crate::store::cql::{Cluster, CqlStore, Password};
use crate::store::sqlite::SqliteStore;

/// Where the password of the database user may be, in the environment.
const STORE_PASSWORD: &str = "REKEYD_STORE_PASSWORD";

/// Opens the store; it must have been made by [`super::init`], or by
/// `rekeyd schema apply`.
pub async fn store(config: &Config, clock: &SharedClock) -> Result<SharedStore, WiringError> {
    match config.store.kind {
        StoreKind::Sqlite => Ok(Arc::new(SqliteStore::open(
            &config.store.path,
            clock.clone(),
        )?)),
        StoreKind::Scylla | StoreKind::Cassandra => {
            Ok(Arc::new(CqlStore::on(cluster(config, clock).await?).await?))
        }
    }
}

/// Connects to the cluster, whatever its tables are.
pub async fn cluster(config: &Config, clock: &SharedClock) -> Result<Cluster, WiringError> {
    let password = std::env::var(STORE_PASSWORD).ok().map(Password::new);
    Ok(Cluster::connect(&config.store, password, clock.clone()).await?)
}
