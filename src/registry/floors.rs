//! Floors: below them, cells and wraps are refused as rolled back.
//!
//! An attacker with the database, or a backup that was put back by mistake, can
//! bring back a cell or a wrap that is good in itself but older than what stood
//! there. A job that is drained has proven, at every replica, that nothing below
//! its epoch is left; so from then on what is older was put back.
//!
//! | floor | raised at the end of |
//! |---|---|
//! | organization, cells | a rekey by re-encryption |
//! | organization, wraps | any rekey |
//! | channel, cells | a move, for the channel it led to |
//!
//! Floors only rise. A [`RestoreWindow`] suspends them while a backup is brought
//! in.

use crate::epoch::Epoch;
use crate::ids::{ChannelId, JobId, OrgId};
use crate::job::Mode;
use crate::registry::{
    CONTENTION_TRIES, ChannelRow, CopyPhase, ORG_ROW, OrgRow, Registry, RegistryError,
    RestoreWindow, channel_id, find, parse, update,
};
use crate::store::{Applied, ControlRow};

/// Channels read at once.
const PAGE: usize = 500;

/// What became of floors that were to be raised.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Raised {
    /// They are at the epoch or above it.
    Yes,
    /// A copy is not closed: its sweep may still find a write in the old place
    /// that was acknowledged before this job began, and has to carry it over. The
    /// floors stay; the next job raises them.
    CopyUnderWay(ChannelId),
    /// The channel is no longer there under this name.
    NoChannel,
}

impl Registry {
    /// Raises the organization's floors after a rekey that is drained.
    ///
    /// # Errors
    /// `NotMine` if `still_mine` says that another drives the job; `Contended`,
    /// `UnknownOrg`, `Store`.
    pub async fn raise_floors(
        &self,
        org: &OrgId,
        job: JobId,
        (mode, epoch): (Mode, Epoch),
        still_mine: impl Fn() -> bool,
    ) -> Result<Raised, RegistryError> {
        if let Some(channel) = self.copy_under_way(org).await? {
            return Ok(Raised::CopyUnderWay(channel));
        }
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = self.org_row(org).await?;
            let before = (row.cell_floor, row.wrap_floor);
            row.wrap_floor = row.wrap_floor.max(epoch);
            if mode == Mode::Reencrypt {
                row.cell_floor = row.cell_floor.max(epoch);
            }
            if before == (row.cell_floor, row.wrap_floor) {
                return Ok(Raised::Yes);
            }
            if !still_mine() {
                return Err(RegistryError::NotMine(job));
            }
            if self.apply(org, &[update(&old, &row)]).await? == Applied::Yes {
                return Ok(Raised::Yes);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Raises a channel's floor after a move to it that is at its end.
    ///
    /// # Errors
    /// As [`Registry::raise_floors`].
    pub async fn raise_channel_floor(
        &self,
        (org, channel): (&OrgId, &ChannelId),
        job: JobId,
        epoch: Epoch,
        still_mine: impl Fn() -> bool,
    ) -> Result<Raised, RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = match self.channel_row(org, channel).await {
                Err(RegistryError::UnknownChannel { .. }) => return Ok(Raised::NoChannel),
                other => other?,
            };
            if self.has_copy_under_way(org, channel, &row).await? {
                return Ok(Raised::CopyUnderWay(channel.clone()));
            }
            if row.floor >= epoch {
                return Ok(Raised::Yes);
            }
            row.floor = epoch;
            if !still_mine() {
                return Err(RegistryError::NotMine(job));
            }
            if self.apply(org, &[update(&old, &row)]).await? == Applied::Yes {
                return Ok(Raised::Yes);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Opens the window for a backup.
    ///
    /// # Errors
    /// `WindowOpen` if it is open; `Contended`, `UnknownOrg`, `Store`.
    pub async fn open_restore_window(
        &self,
        org: &OrgId,
        window: &RestoreWindow,
    ) -> Result<OrgRow, RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = self.org_row(org).await?;
            if let Some(open) = &row.restore_window {
                return Err(RegistryError::WindowOpen {
                    org: org.clone(),
                    by: open.opened_by.clone(),
                    reason: open.reason.clone(),
                });
            }
            row.restore_window = Some(window.clone());
            if self.apply(org, &[update(&old, &row)]).await? == Applied::Yes {
                return Ok(row);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Closes the window: the floors are in force again. Returns the window that
    /// was open.
    ///
    /// # Errors
    /// `NoWindow` if it is not open; `Contended`, `UnknownOrg`, `Store`.
    pub async fn close_restore_window(
        &self,
        org: &OrgId,
    ) -> Result<(RestoreWindow, OrgRow), RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = self.org_row(org).await?;
            let Some(window) = row.restore_window.take() else {
                return Err(RegistryError::NoWindow(org.clone()));
            };
            if self.apply(org, &[update(&old, &row)]).await? == Applied::Yes {
                return Ok((window, row));
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    async fn org_row(&self, org: &OrgId) -> Result<(ControlRow, OrgRow), RegistryError> {
        let rows = self.get(org, &[ORG_ROW]).await?;
        let row = find(&rows, ORG_ROW).ok_or_else(|| RegistryError::UnknownOrg(org.clone()))?;
        Ok((row.clone(), parse(org.as_str(), row)?))
    }

    /// The row of a channel, and what it says.
    pub(super) async fn channel_row(
        &self,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<(ControlRow, ChannelRow), RegistryError> {
        let id = channel_id(channel);
        let rows = self.get(org, &[&id]).await?;
        let row = find(&rows, &id).ok_or_else(|| RegistryError::UnknownChannel {
            org: org.clone(),
            channel: channel.clone(),
        })?;
        Ok((row.clone(), parse(org.as_str(), row)?))
    }

    /// A channel of the organization that is being copied away, or was brought by
    /// a copy that is not closed yet.
    async fn copy_under_way(&self, org: &OrgId) -> Result<Option<ChannelId>, RegistryError> {
        let mut after: Option<ChannelId> = None;
        loop {
            let page = self.channels(org, after.as_ref(), PAGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(None);
            };
            after = Some(last.clone());
            for (channel, row) in &page {
                if self.has_copy_under_way(org, channel, row).await? {
                    return Ok(Some(channel.clone()));
                }
            }
        }
    }

    async fn has_copy_under_way(
        &self,
        org: &OrgId,
        channel: &ChannelId,
        row: &ChannelRow,
    ) -> Result<bool, RegistryError> {
        let leaves = row.outgoing.as_ref();
        if leaves.is_some_and(|copy| copy.phase < CopyPhase::Closed) {
            return Ok(true);
        }
        // What its sweep still brings is written here.
        Ok(!row.came_from.is_empty() && self.unclosed_origin(org, channel).await?.is_some())
    }
}
