//! Write, read, edit, delete, list.
//!
//! Each operation follows one route of the registry: where a channel's records
//! are read, written and deleted. A write's route has its age checked before the
//! cell is sealed and again after every place has acknowledged it; if it ran out
//! meanwhile and the registry now says something else, the operation is repeated
//! by the new route with the same write time. So a job that has waited for the
//! settle time finds no write by the old state that its sender believes to be
//! done, and of the two cells the newer epoch wins.

use std::sync::Arc;

use super::error::{ClientError, ErrorKind};
use super::follow::{all_places, origin};
use super::message::{EditLifetime, Lifetime, Listing, Message, Written};
use super::put::Put;
use super::{PageLimit, Shared, Use};
use crate::clock::WriteTime;
use crate::crypto::open::{Admission, admit_cell};
use crate::crypto::{CellError, cell, expiry};
use crate::ids::{ChannelId, Hour, OrgId, RecordId, WorkspaceId};
use crate::planted::{self, Bug};
use crate::registry::{ChannelView, Places};
use crate::scope::Locus;
use crate::store::{Consistency, StoreResult, StoredCell};

/// How often an operation starts over with a newer route before it gives up. The
/// registry changes a few times a year; twice within one operation is a stall.
pub(super) const ROUNDS: usize = 5;

/// A channel. All that is read and written here is bound to it.
#[derive(Clone)]
pub struct Channel {
    pub(super) shared: Arc<Shared>,
    pub(super) org: OrgId,
    pub(super) workspace: WorkspaceId,
    pub(super) channel: ChannelId,
}

/// Where a record is, as a view has it. In a copy each place has its own: the
/// handle's name may be the other's.
pub(super) fn locus<'a>(view: &'a ChannelView, record: &'a RecordId) -> Locus<'a> {
    Locus::Message {
        org: &view.org,
        channel: &view.channel,
        record,
    }
}

impl Channel {
    pub(super) fn new(
        shared: Arc<Shared>,
        org: OrgId,
        workspace: WorkspaceId,
        channel: ChannelId,
    ) -> Self {
        Self {
            shared,
            org,
            workspace,
            channel,
        }
    }

    /// Writes a message, over whatever stands under this record id. `hour` is
    /// the UTC hour in which the message was created; it is part of the address.
    ///
    /// # Errors
    /// `revoked`, `cmk_unusable`, `unavailable`, `stale`, `not_found`, `moving`,
    /// `moved_to`, `plaintext_too_large`, `bad_expiry`, `expiry_past`. If the error says
    /// `perhaps_written`, the message may be there all the same.
    pub async fn write(
        &self,
        hour: Hour,
        record: &RecordId,
        text: &[u8],
        lifetime: Lifetime,
        why: &Use,
    ) -> Result<Written, ClientError> {
        let expiry = self.check_lifetime(lifetime)?;
        self.put(hour, record, text, expiry, why).await
    }

    /// Replaces a message that is there. Reads it first: the edit's write time
    /// is above the one it read, and an expiry that is kept is the one that the
    /// message's cell proves.
    ///
    /// # Errors
    /// `absent` if there is no such message; as [`Self::read`] and
    /// [`Self::write`].
    pub async fn edit(
        &self,
        hour: Hour,
        record: &RecordId,
        text: &[u8],
        lifetime: EditLifetime,
        why: &Use,
    ) -> Result<Written, ClientError> {
        let now_standing = self
            .read(hour, record, why)
            .await?
            .ok_or(ErrorKind::Absent)?;
        let expiry = match lifetime {
            EditLifetime::Keep => now_standing.expires_at_s(),
            EditLifetime::Set(lifetime) => self.check_lifetime(lifetime)?,
        };
        match self.put(hour, record, text, expiry, why).await {
            // It vanished between the read and the write.
            Err(e) if matches!(e.kind, ErrorKind::ExpiryPast) => Err(ErrorKind::Absent.into()),
            result => result,
        }
    }

    /// Reads a message. `None`: it was deleted, has vanished, or never was.
    ///
    /// # Errors
    /// `revoked`, `cmk_unusable`, `unavailable`, `stale`, `not_found`, `moving`,
    /// `moved_to`; the code of a quarantine if the cell or its key cannot be trusted.
    pub async fn read(
        &self,
        hour: Hour,
        record: &RecordId,
        why: &Use,
    ) -> Result<Option<Message>, ClientError> {
        let mut places = self.places().await?;
        let mut asked_afresh = false;
        for _ in 0..ROUNDS {
            let result = self.read_by(&places, hour, record, why).await;
            // What was refused by a cached view is asked once more by a fresh
            // one: an epoch given out a second ago is no forgery.
            let refused = matches!(&result, Err(kind) if kind.may_be_of_an_old_view());
            if refused && !asked_afresh {
                asked_afresh = true;
                places = self.fresh_places().await?;
            } else if let Some(newer) = self.elsewhere(&places, hour).await? {
                places = newer;
            } else {
                return Ok(result?);
            }
        }
        Err(ErrorKind::Stale.into())
    }

    /// Deletes a message. No key is used, so a revocation does not hinder it.
    ///
    /// # Errors
    /// `unavailable`, `stale`, `not_found`, `moving`, `moved_to`. If the error says `perhaps_written`,
    /// the message may be gone all the same; deleting twice does no harm.
    pub async fn delete(&self, hour: Hour, record: &RecordId) -> Result<Written, ClientError> {
        let places = self.places().await?;
        let at = self.next_time(&places, hour, record);
        self.delete_everywhere(places, hour, record, at)
            .await
            .map_err(|kind| ClientError::after_sending(kind, at))?;
        Ok(Written {
            write_time: at,
            expires_at_s: None,
        })
    }

    /// Deletes what is not newer than `at` from every place of a route, and of
    /// the routes that follow it until one holds. It needs no look at what stands
    /// there: what is older is to go, wherever it is, and nothing newer goes.
    pub(super) async fn delete_everywhere(
        &self,
        mut places: Arc<Places>,
        hour: Hour,
        record: &RecordId,
        at: WriteTime,
    ) -> Result<(), ErrorKind> {
        'rounds: for _ in 0..ROUNDS {
            for (n, view) in places.delete.iter().enumerate() {
                if n > 0 && self.shared.views.ran_out(&places) {
                    places = self.places_to_finish().await?;
                    continue 'rounds;
                }
                let from = view.partition(hour);
                let sent = self.shared.store.delete_row(&from, record, at);
                self.in_time(sent).await?;
            }
            if planted::is(Bug::ClientDoesNotLookAgain) {
                return Ok(());
            }
            match self.overtaken(&places).await? {
                None => return Ok(()),
                Some(newer) => places = newer,
            }
        }
        Err(ErrorKind::Stale)
    }

    /// One page of an hour, by ascending record id, from just after `after`.
    /// Each page is a request of its own with a view of its own: a listing that
    /// is carried on tomorrow follows tomorrow's registry.
    ///
    /// # Errors
    /// `unavailable`, `stale`, `not_found`, `moving`, `moved_to`. What is wrong with a single message stands in
    /// its place in the page.
    pub async fn list(
        &self,
        hour: Hour,
        after: Option<&RecordId>,
        limit: PageLimit,
        why: &Use,
    ) -> Result<Listing, ClientError> {
        let mut places = self.places().await?;
        let mut asked_afresh = false;
        'rounds: for _ in 0..ROUNDS {
            let from = places.read.partition(hour);
            let page = self
                .shared
                .store
                .read_page(&from, after, limit, Consistency::Quorum);
            let page = self.in_time(page).await?;
            if let Some(newer) = self.elsewhere(&places, hour).await? {
                places = newer;
                continue;
            }
            let mut messages = Vec::with_capacity(page.cells.len());
            for stored in page.cells {
                let mut opened = self.open(&places.read, hour, &stored, why).await;
                if !asked_afresh && matches!(&opened, Err(kind) if kind.may_be_of_an_old_view()) {
                    // One fresh route serves the page: it is younger than the
                    // page.
                    asked_afresh = true;
                    places = self.fresh_places().await?;
                    if places.read.partition(hour) != from {
                        continue 'rounds;
                    }
                    opened = self.open(&places.read, hour, &stored, why).await;
                }
                match opened {
                    Ok(None) => {}
                    Ok(Some(message)) => messages.push((stored.record, Ok(message))),
                    Err(kind) => messages.push((stored.record, Err(kind.into()))),
                }
            }
            return Ok(Listing {
                messages,
                next: page.next,
            });
        }
        Err(ErrorKind::Stale.into())
    }

    /// After an answer of the store: the newer route if the one that was
    /// followed ran out meanwhile and the channel is now read elsewhere. A
    /// reader that was stopped for an hour has looked into a place that may have
    /// been left and swept since.
    async fn elsewhere(
        &self,
        places: &Places,
        hour: Hour,
    ) -> Result<Option<Arc<Places>>, ErrorKind> {
        if !self.shared.views.ran_out(places) {
            return Ok(None);
        }
        let newer = self.fresh_places().await?;
        let moved = newer.read.partition(hour) != places.read.partition(hour);
        Ok(moved.then_some(newer))
    }

    async fn read_by(
        &self,
        places: &Places,
        hour: Hour,
        record: &RecordId,
        why: &Use,
    ) -> Result<Option<Message>, ErrorKind> {
        let from = places.read.partition(hour);
        let stored = self.shared.store.read_cell(&from, record);
        match self.in_time(stored).await? {
            None => Ok(None),
            Some(stored) => {
                let all = all_places(places, hour);
                self.shared.times.saw(&all, record, stored.write_time);
                self.open(&places.read, hour, &stored, why).await
            }
        }
    }

    /// Opens a cell, step by step as docs/format.md has it.
    async fn open(
        &self,
        view: &ChannelView,
        hour: Hour,
        stored: &StoredCell,
        why: &Use,
    ) -> Result<Option<Message>, ErrorKind> {
        let newest = view.org_row.last_epoch;
        let now = self.shared.clock.wall();
        let header = match admit_cell(&stored.cell, now, view.floor(), newest)? {
            // Before any key is looked up: a vanished message must not become
            // a refusal because its key was revoked.
            Admission::Expired => return Ok(None),
            Admission::AboveNewest(header) => {
                let epoch = header.epoch;
                return Err(CellError::EpochAboveNewest { epoch, newest }.into());
            }
            Admission::Ok(header) => header,
        };
        let key = self
            .shared
            .keys
            .opening_key(view, hour, header.key_id, why)
            .await?;
        let text = cell::open(&key, &locus(view, &stored.record), &stored.cell)?;
        Ok(Some(Message {
            text,
            write_time: stored.write_time,
            expires_at_s: header.expiry,
            epoch: header.epoch,
        }))
    }

    async fn put(
        &self,
        hour: Hour,
        record: &RecordId,
        text: &[u8],
        expiry: Option<u32>,
        why: &Use,
    ) -> Result<Written, ClientError> {
        let put = Put {
            channel: self,
            hour,
            record,
            text,
            expiry,
            why,
        };
        let mut sent = None;
        put.run(&mut sent).await.map_err(|kind| match &sent {
            Some(sent) => ClientError::after_sending(kind, sent.at),
            None => kind.into(),
        })
    }

    fn check_lifetime(&self, lifetime: Lifetime) -> Result<Option<u32>, ErrorKind> {
        let Lifetime::Until(expiry) = lifetime else {
            return Ok(None);
        };
        let now = self.shared.clock.wall();
        expiry::check_new_expiry(expiry, now.unix_seconds()).map_err(ErrorKind::Invalid)?;
        if expiry::is_expired(expiry, now) {
            return Err(ErrorKind::ExpiryPast);
        }
        Ok(Some(expiry))
    }

    /// A write time above all that this client knows of the record, in every
    /// place of its route and in those that they were copied from.
    pub(super) fn next_time(&self, places: &Places, hour: Hour, record: &RecordId) -> WriteTime {
        let now = self.shared.clock.wall();
        let all = all_places(places, hour);
        let origins: Vec<_> = places
            .delete
            .iter()
            .filter_map(|view| origin(view, hour))
            .collect();
        self.shared.times.next(now, &all, &origins, record)
    }

    pub(super) async fn in_time<T>(
        &self,
        call: impl Future<Output = StoreResult<T>>,
    ) -> Result<T, ErrorKind> {
        self.bounded(async { Ok(call.await?) }).await
    }

    /// The settle time counts on it that no request to the store is waited for
    /// longer than this. What was sent may still land.
    pub(super) async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, ErrorKind>>,
    ) -> Result<T, ErrorKind> {
        let limit = self.shared.timing.request_timeout();
        tokio::select! {
            biased;
            answer = call => answer,
            () = self.shared.clock.sleep(limit) => Err(ErrorKind::Unavailable {
                what: "store",
                detail: format!("no answer within {} ms", limit.as_millis()),
            }),
        }
    }
}
