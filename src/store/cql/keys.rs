//! Data keys and the index of slices.
//!
//! Two inserts of different rows at one address are two wraps of one key under
//! one CMK: the key id is a hash of the key, and a wrap epoch names one CMK.
//! Either opens it. So the store does not look before it inserts; of two the
//! later stays.

use std::ops::ControlFlow;

use scylla::response::PagingState;

use super::Requests;
use super::errors::{self, Failure};
use super::limiter::Does;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::OrgId;
use crate::scope::Kind;
use crate::store::{KeyRow, SliceKey, StoreError, StoreErrorClass, StoreResult};

const WRITING: &str = "writing a data key";
const DELETING: &str = "deleting a data key";
const READING: &str = "reading data keys";
const LISTING: &str = "listing slices";

/// Rows of one answer: key rows are some hundred bytes.
const PAGE: i32 = 500;

impl Requests {
    pub(super) async fn add_key(&self, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
        // Epochs are below 2^28.
        let epoch = key.wrap_epoch.get() as i32;
        let values = (
            slice.org.as_str(),
            slice.kind.as_str(),
            &*slice.group,
            &*slice.slice,
            &key.key_id.0[..],
            epoch,
            &*key.row,
        );
        self.limiter
            .run(Does::Write, async {
                let session = &self.cluster.session;
                let statement = &self.statements.insert_key;
                let answer = session.execute_unpaged(statement, values).await;
                answer.map_err(Failure::from)
            })
            .await
            .map_err(|e| e.into_error(WRITING))?;
        Ok(())
    }

    /// The row as a whole, by its full primary key. Inserts and this one have the
    /// driver's timestamps, so a row that is inserted later stands.
    pub(super) async fn remove_key(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    ) -> StoreResult<()> {
        let values = (
            slice.org.as_str(),
            slice.kind.as_str(),
            &*slice.group,
            &*slice.slice,
            &key_id.0[..],
            wrap_epoch.get() as i32,
        );
        self.limiter
            .run(Does::Write, async {
                let session = &self.cluster.session;
                let statement = &self.statements.delete_key;
                let answer = session.execute_unpaged(statement, values).await;
                answer.map_err(Failure::from)
            })
            .await
            .map_err(|e| e.into_error(DELETING))?;
        Ok(())
    }

    pub(super) async fn keys_of(&self, slice: &SliceKey) -> StoreResult<Vec<KeyRow>> {
        let values = (
            slice.org.as_str(),
            slice.kind.as_str(),
            &*slice.group,
            &*slice.slice,
        );
        let mut statement = self.statements.keys.clone();
        statement.set_page_size(PAGE);
        let mut keys = Vec::new();
        let mut state = PagingState::start();
        loop {
            let (answer, more) = self
                .limiter
                .run(Does::Read, async {
                    let session = &self.cluster.session;
                    let answer = session.execute_single_page(&statement, values, state).await;
                    answer.map_err(Failure::from)
                })
                .await
                .map_err(|e| e.into_error(READING))?;
            let answer = answer
                .into_rows_result()
                .map_err(|e| errors::unexpected(READING, e))?;
            for row in answer
                .rows::<(&[u8], i32, Option<&[u8]>)>()
                .map_err(|e| errors::unexpected(READING, e))?
            {
                let (key_id, epoch, row) = row.map_err(|e| errors::unexpected(READING, e))?;
                keys.push(key_row(slice, key_id, epoch, row)?);
            }
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(keys),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }

    /// Every row of `data_keys` is looked at, and each slice taken once: a slice
    /// has few of them.
    pub(super) async fn slices(
        &self,
        org: &OrgId,
        kind: Kind,
        group: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let mut slices: Vec<String> = Vec::new();
        if limit == 0 {
            return Ok(slices);
        }
        // No slice is named by an empty text.
        let values = (org.as_str(), kind.as_str(), group, after.unwrap_or(""));
        let mut statement = self.statements.slices.clone();
        // Two wraps of each is the usual case in the middle of a job.
        statement.set_page_size(i32::try_from(limit.saturating_mul(2).min(5000)).unwrap_or(PAGE));
        let mut state = PagingState::start();
        loop {
            let (answer, more) = self
                .limiter
                .run(Does::Read, async {
                    let session = &self.cluster.session;
                    let answer = session.execute_single_page(&statement, values, state).await;
                    answer.map_err(Failure::from)
                })
                .await
                .map_err(|e| e.into_error(LISTING))?;
            let answer = answer
                .into_rows_result()
                .map_err(|e| errors::unexpected(LISTING, e))?;
            for row in answer
                .rows::<(&str,)>()
                .map_err(|e| errors::unexpected(LISTING, e))?
            {
                let (slice,) = row.map_err(|e| errors::unexpected(LISTING, e))?;
                if slices.last().is_some_and(|last| last == slice) {
                    continue;
                }
                if slices.len() == limit {
                    return Ok(slices);
                }
                slices.push(slice.to_owned());
            }
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(slices),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }
}

fn key_row(slice: &SliceKey, key_id: &[u8], epoch: i32, row: Option<&[u8]>) -> StoreResult<KeyRow> {
    let parts = <[u8; 16]>::try_from(key_id).ok().and_then(|id| {
        let epoch = Epoch::new(u32::try_from(epoch).ok()?).ok()?;
        Some((KeyId(id), epoch, row?.to_vec()))
    });
    let Some((key_id, wrap_epoch, row)) = parts else {
        return Err(StoreError::new(
            StoreErrorClass::Fatal,
            format!("table data_keys has a row at {slice} that is not ours"),
        ));
    };
    Ok(KeyRow {
        key_id,
        wrap_epoch,
        row,
    })
}
