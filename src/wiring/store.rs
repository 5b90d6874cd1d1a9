//! The store of the configuration.

use std::sync::Arc;

use super::WiringError;
use crate::clock::SharedClock;
use crate::config::{Config, StoreKind};
use crate::store::sqlite::SqliteStore;
use crate::store::{SharedStore, StoreError, StoreErrorClass};

/// Opens the store; it must have been made by [`init`].
pub async fn store(config: &Config, clock: &SharedClock) -> Result<SharedStore, WiringError> {
    match config.store.kind {
        StoreKind::Sqlite => Ok(Arc::new(SqliteStore::open(
            &config.store.path,
            clock.clone(),
        )?)),
        StoreKind::Scylla | StoreKind::Cassandra => {
            Err(StoreError::new(StoreErrorClass::Fatal, "this build has no cluster store").into())
        }
    }
}
