//! Write, read, edit, delete, list.
//!
//! Each write follows one view of the registry. The view's age is checked before
//! the cell is sealed and again after the store has acknowledged it; if it ran
//! out meanwhile and the registry now says something else, the operation is
//! repeated by the new view with the same write time. So a job that has waited
//! for the settle time finds no write by the old state that its sender believes
//! to be done, and of the two cells the newer epoch wins.

use std::sync::Arc;

use super::error::{ClientError, ErrorClass, ErrorKind};
use super::message::{EditLifetime, Lifetime, Listing, Message, Written};
use super::{PageLimit, Shared, Use};
use crate::clock::{WallTime, WriteTime};
use crate::crypto::open::{Admission, admit_cell};
use crate::crypto::{CellError, cell, expiry};
use crate::epoch::Epoch;
use crate::ids::{ChannelId, Hour, OrgId, RecordId, WorkspaceId};
use crate::registry::ChannelView;
use crate::scope::Locus;
use crate::store::{CellWrite, Consistency, Partition, StoreResult, StoredCell};

/// How often an operation starts over with a newer view before it gives up. The
/// registry changes a few times a year; twice within one operation is a stall.
const ROUNDS: usize = 5;

/// A channel. All that is read and written here is bound to it.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
    org: OrgId,
    workspace: WorkspaceId,
    channel: ChannelId,
}

/// Where an operation reads and writes, by a view. The one place that the
/// phases of a channel's copy to another place will have to change: then a
/// write may go to two.
fn place(view: &ChannelView, hour: Hour) -> Partition {
    view.partition(hour)
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
    /// `revoked`, `cmk_unusable`, `unavailable`, `stale`, `not_found`,
    /// `plaintext_too_large`, `bad_expiry`, `expiry_past`. If the error says
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
    /// `revoked`, `cmk_unusable`, `unavailable`, `not_found`; the code of a
    /// quarantine if the cell or its key cannot be trusted.
    pub async fn read(
        &self,
        hour: Hour,
        record: &RecordId,
        why: &Use,
    ) -> Result<Option<Message>, ClientError> {
        let view = self.view().await?;
        match self.read_by(&view, hour, record, why).await {
            // What was refused by a cached view is asked once more by a fresh
            // one: an epoch given out a second ago is no forgery.
            Err(kind) if kind.may_be_of_an_old_view() => {
                let view = self.fresh_view().await?;
                Ok(self.read_by(&view, hour, record, why).await?)
            }
            result => Ok(result?),
        }
    }

    /// Deletes a message. No key is used, so a revocation does not hinder it.
    ///
    /// # Errors
    /// `unavailable`, `stale`, `not_found`. If the error says `perhaps_written`,
    /// the message may be gone all the same; deleting twice does no harm.
    pub async fn delete(&self, hour: Hour, record: &RecordId) -> Result<Written, ClientError> {
        let mut view = self.view().await?;
        let at = self.next_time(&view, hour, record);
        for _ in 0..ROUNDS {
            let to = place(&view, hour);
            let sent = self.shared.store.delete_row(&to, record, at);
            let unsure = |kind| ClientError::after_sending(kind, at);
            self.in_time(sent).await.map_err(unsure)?;
            match self.overtaken(&view).await.map_err(unsure)? {
                None => {
                    return Ok(Written {
                        write_time: at,
                        expires_at_s: None,
                    });
                }
                Some(newer) => view = newer,
            }
        }
        Err(ClientError::after_sending(ErrorKind::Stale, at))
    }

    /// One page of an hour, by ascending record id, from just after `after`.
    /// Each page is a request of its own with a view of its own: a listing that
    /// is carried on tomorrow follows tomorrow's registry.
    ///
    /// # Errors
    /// `unavailable`, `not_found`. What is wrong with a single message stands in
    /// its place in the page.
    pub async fn list(
        &self,
        hour: Hour,
        after: Option<&RecordId>,
        limit: PageLimit,
        why: &Use,
    ) -> Result<Listing, ClientError> {
        let mut view = self.view().await?;
        let from = place(&view, hour);
        let page = self
            .shared
            .store
            .read_page(&from, after, limit, Consistency::Quorum);
        let page = self.in_time(page).await?;
        let mut fresh = false;
        let mut messages = Vec::with_capacity(page.cells.len());
        for stored in page.cells {
            let mut opened = self.open(&view, hour, &stored, why).await;
            if !fresh && matches!(&opened, Err(kind) if kind.may_be_of_an_old_view()) {
                // One fresh view serves the page: it is younger than the page.
                view = self.fresh_view().await?;
                fresh = true;
                opened = self.open(&view, hour, &stored, why).await;
            }
            match opened {
                Ok(None) => {}
                Ok(Some(message)) => messages.push((stored.record, Ok(message))),
                Err(kind) => messages.push((stored.record, Err(kind.into()))),
            }
        }
        Ok(Listing {
            messages,
            next: page.next,
        })
    }

    async fn read_by(
        &self,
        view: &ChannelView,
        hour: Hour,
        record: &RecordId,
        why: &Use,
    ) -> Result<Option<Message>, ErrorKind> {
        let from = place(view, hour);
        let stored = self.shared.store.read_cell(&from, record);
        match self.in_time(stored).await? {
            None => Ok(None),
            Some(stored) => {
                self.shared.times.saw(&from, record, stored.write_time);
                self.open(view, hour, &stored, why).await
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
        let text = cell::open(&key, &self.locus(&stored.record), &stored.cell)?;
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
        let mut view = self.view().await?;
        let at = self.next_time(&view, hour, record);
        let written = Written {
            write_time: at,
            expires_at_s: expiry,
        };
        let mut sent: Option<Sent> = None;
        for _ in 0..ROUNDS {
            let failed = |kind| match sent {
                Some(_) => ClientError::after_sending(kind, at),
                None => kind.into(),
            };
            let key = match self.shared.keys.sealing_key(&view, hour, why).await {
                Ok(key) => key,
                // The CMK that an old view names may have been left and shut.
                Err(kind) if kind.class() == ErrorClass::Blocked => {
                    let newer = self.fresh_view().await.map_err(failed)?;
                    if newer.agrees_with(&view) {
                        return Err(failed(kind));
                    }
                    view = newer;
                    continue;
                }
                Err(kind) => return Err(failed(kind)),
            };
            // The KMS may have taken its time. From here to the store there is
            // no more waiting.
            if self.shared.views.ran_out(&view) {
                view = self.fresh_view().await.map_err(failed)?;
                continue;
            }
            let epoch = view.desired().cell_epoch;
            let cell = key
                .seal(epoch, expiry, &self.locus(record), text)
                .map_err(failed)?;
            let Some(ttl_s) = self.ttl(expiry, epoch, sent) else {
                return match sent {
                    // Written, and vanished since.
                    Some(_) => Ok(written),
                    None => Err(ErrorKind::ExpiryPast.into()),
                };
            };
            let to = place(&view, hour);
            let write = [CellWrite {
                record: record.clone(),
                cell: cell.into(),
                write_time: at,
                ttl_s,
            }];
            let unsure = |kind| ClientError::after_sending(kind, at);
            self.in_time(self.shared.store.write_cells(&to, &write))
                .await
                .map_err(unsure)?;
            sent = Some(Sent {
                epoch,
                ttl_s,
                answered: self.shared.clock.wall(),
            });
            match self.overtaken(&view).await.map_err(unsure)? {
                None => return Ok(written),
                Some(newer) => view = newer,
            }
        }
        Err(match sent {
            Some(_) => ClientError::after_sending(ErrorKind::Stale, at),
            None => ErrorKind::Stale.into(),
        })
    }

    /// After an acknowledgement: the newer view if the one that was followed ran
    /// out meanwhile and says something else.
    async fn overtaken(&self, view: &ChannelView) -> Result<Option<Arc<ChannelView>>, ErrorKind> {
        if !self.shared.views.ran_out(view) {
            return Ok(None);
        }
        let newer = self.fresh_view().await?;
        Ok((!newer.agrees_with(view)).then_some(newer))
    }

    /// The store's TTL: 0 for a lasting message, `None` if its time is over.
    /// Computed when the statement is sent. A repetition tells what stands in
    /// the store already, so that its expiry is the later one (I4).
    fn ttl(&self, expiry: Option<u32>, epoch: Epoch, sent: Option<Sent>) -> Option<u32> {
        match expiry {
            None => Some(0),
            Some(expiry) => {
                let before = sent.map(|s| (s.epoch, s.ttl_s, s.answered));
                expiry::store_ttl(expiry, epoch, before, self.shared.clock.wall())
            }
        }
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

    fn next_time(&self, view: &ChannelView, hour: Hour, record: &RecordId) -> WriteTime {
        let now = self.shared.clock.wall();
        self.shared.times.next(now, &place(view, hour), record)
    }

    fn locus<'a>(&'a self, record: &'a RecordId) -> Locus<'a> {
        Locus::Message {
            org: &self.org,
            channel: &self.channel,
            record,
        }
    }

    /// A view that has not run out, of a channel that is or was in the workspace
    /// named.
    async fn view(&self) -> Result<Arc<ChannelView>, ErrorKind> {
        let view = self.shared.views.current(&self.org, &self.channel);
        let view = self.bounded(view).await?;
        match self.check_workspace(&view) {
            Ok(()) if !self.shared.views.ran_out(&view) => Ok(view),
            _ => self.fresh_view().await,
        }
    }

    async fn fresh_view(&self) -> Result<Arc<ChannelView>, ErrorKind> {
        let view = self.shared.views.fresh(&self.org, &self.channel);
        let view = self.bounded(view).await?;
        self.check_workspace(&view)?;
        Ok(view)
    }

    /// A name from before a move still finds its channel.
    fn check_workspace(&self, view: &ChannelView) -> Result<(), ErrorKind> {
        if view.channel_row.workspaces_had.contains(&self.workspace) {
            return Ok(());
        }
        Err(ErrorKind::NotFound(format!(
            "channel `{}` of `{}` is not in workspace `{}`",
            self.channel, self.org, self.workspace
        )))
    }

    async fn in_time<T>(&self, call: impl Future<Output = StoreResult<T>>) -> Result<T, ErrorKind> {
        self.bounded(async { Ok(call.await?) }).await
    }

    /// The settle time counts on it that no request to the store is waited for
    /// longer than this. What was sent may still land.
    async fn bounded<T>(
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

/// What this operation has written already, by an older view.
#[derive(Clone, Copy)]
struct Sent {
    epoch: Epoch,
    ttl_s: u32,
    answered: WallTime,
}
