//! Channel moves in the registry: who may ask for one, the batch that begins it,
//! and each step of a copy's phase. Authority comes from these rows and never
//! from the message (I15).
//!
//! A copy's phase stands in the source channel's row only. Before it is
//! announced there, the destination's row gets its new place, its epoch and
//! whose copy it is. So whoever meets a phase finds the destination.

use serde::de::DeserializeOwned;

use crate::epoch::Epoch;
use crate::ids::{ChannelId, JobId, OrgId, Place};
use crate::job::{MoveKind, MoveRequest};
use crate::registry::{
    CONSENT_PREFIX, CONTENTION_TRIES, ChannelName, ChannelRow, ConsentRow, CopyPhase, Incoming,
    MOVE_PREFIX, MoveRow, ORG_ROW, OrgRow, Origin, Outgoing, Refusal, Registry, RegistryError,
    channel_id, find, insert, parse, update,
};
use crate::store::{Applied, ControlRow, ControlTable, ControlWrite, Expect};

/// What became of a step of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// The copy is in the phase asked for, or beyond it.
    Yes,
    /// The source's row knows nothing of this copy: it was called off.
    CalledOff,
}

/// What became of calling a copy off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalledOff {
    /// It is, or never was.
    Yes,
    /// Readers may follow the destination already; it is in this phase.
    TooLate(CopyPhase),
}

/// The rows of one end of a move, as read.
struct End {
    org: Option<(ControlRow, OrgRow)>,
    channel: Option<(ControlRow, ChannelRow)>,
    moved: Option<MoveRow>,
    consent: Option<ConsentRow>,
}

impl MoveRequest {
    /// The source by all its names.
    pub fn source(&self) -> ChannelName {
        ChannelName {
            org: self.org.clone(),
            workspace: self.from.workspace.clone(),
            channel: self.from.channel.clone(),
        }
    }

    /// The destination by all its names.
    pub fn destination(&self) -> ChannelName {
        ChannelName {
            org: self.to_org().clone(),
            workspace: self.to.workspace.clone(),
            channel: self.to.channel.clone(),
        }
    }
}

impl Registry {
    /// May this move be made, as the registry is now? Asked when a message comes
    /// in, in preflight, and again by the batch that activates it. Makes no KMS
    /// call (I15).
    ///
    /// # Errors
    /// `Refused` with the reason; `Store`.
    pub async fn authorize_move(&self, request: &MoveRequest) -> Result<(), RegistryError> {
        let source = self.end(request, &request.source()).await?;
        if source.moved.is_some() {
            return Ok(());
        }
        let destination = match request.kind() {
            MoveKind::InPlace => None,
            MoveKind::Copy => Some(self.end(request, &request.destination()).await?),
        };
        let now_ms = self.clock.wall().unix_ms();
        may_move(request, &source, destination.as_ref(), now_ms)?;
        Ok(())
    }

    /// Activates a move: takes an epoch and changes the channel's row, or enters
    /// the destination and announces the copy. If the job was activated before,
    /// its activation is returned unchanged.
    ///
    /// Between two organizations these are two batches, the destination's first:
    /// a takeover finds that one's activation and goes on with the other.
    ///
    /// `still_mine` as in [`Registry::activate_rekey`].
    ///
    /// # Errors
    /// `Refused`, `NotMine`, `Contended`, `Store`.
    pub async fn activate_move(
        &self,
        request: &MoveRequest,
        still_mine: impl Fn() -> bool,
    ) -> Result<MoveRow, RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let source = self.end(request, &request.source()).await?;
            if let Some(row) = source.moved {
                return Ok(row);
            }
            let now_ms = self.clock.wall().unix_ms();
            let applied = match request.kind() {
                MoveKind::InPlace => {
                    may_move(request, &source, None, now_ms)?;
                    let (row, writes) = in_place(request, &source, now_ms)?;
                    self.apply_if(request, &request.org, &writes, &still_mine)
                        .await?
                        .then_some(row)
                }
                MoveKind::Copy => {
                    let destination = self.end(request, &request.destination()).await?;
                    self.activate_copy(request, source, destination, now_ms, &still_mine)
                        .await?
                }
            };
            if let Some(row) = applied {
                return Ok(row);
            }
        }
        Err(RegistryError::Contended(request.org.clone()))
    }

    async fn activate_copy(
        &self,
        request: &MoveRequest,
        source: End,
        destination: End,
        now_ms: u64,
        still_mine: &impl Fn() -> bool,
    ) -> Result<Option<MoveRow>, RegistryError> {
        let same_org = request.org == *request.to_org();
        let row = match &destination.moved {
            // A driver died between the two batches.
            Some(row) => {
                may_leave(request, &source)?;
                row.clone()
            }
            None => {
                may_move(request, &source, Some(&destination), now_ms)?;
                let (row, mut writes) = enter_destination(request, &source, &destination, now_ms)?;
                if same_org {
                    writes.push(announce(request, &source)?);
                    let applied = self
                        .apply_if(request, &request.org, &writes, still_mine)
                        .await?;
                    return Ok(applied.then_some(row));
                }
                if !self
                    .apply_if(request, request.to_org(), &writes, still_mine)
                    .await?
                {
                    return Ok(None);
                }
                row
            }
        };
        let writes = [
            announce(request, &source)?,
            insert(&move_id(request.job_id), &row),
        ];
        let applied = self
            .apply_if(request, &request.org, &writes, still_mine)
            .await?;
        Ok(applied.then_some(row))
    }

    async fn apply_if(
        &self,
        request: &MoveRequest,
        org: &OrgId,
        writes: &[ControlWrite],
        still_mine: &impl Fn() -> bool,
    ) -> Result<bool, RegistryError> {
        if !still_mine() {
            return Err(RegistryError::NotMine(request.job_id));
        }
        Ok(self.apply(org, writes).await? == Applied::Yes)
    }

    /// The activation of a move, if there is one.
    pub async fn move_row(
        &self,
        org: &OrgId,
        job: JobId,
    ) -> Result<Option<MoveRow>, RegistryError> {
        let id = move_id(job);
        let rows = self.get(org, &[&id]).await?;
        find(&rows, &id)
            .map(|row| parse(org.as_str(), row))
            .transpose()
    }

    /// The phase of a copy as it stands; `None` if the source's row knows nothing
    /// of it.
    pub async fn copy_phase(
        &self,
        request: &MoveRequest,
    ) -> Result<Option<CopyPhase>, RegistryError> {
        let (_, row) = self
            .channel_row(&request.org, &request.from.channel)
            .await?;
        Ok(of_job(&row, request.job_id).map(|outgoing| outgoing.phase))
    }

    /// The job of a copy that brought this channel where it is, or once did, and
    /// is not closed yet: its sweep may still bring late writes.
    ///
    /// # Errors
    /// `UnknownChannel`, `Store`, `Malformed`.
    pub async fn unclosed_origin(
        &self,
        org: &OrgId,
        channel: &ChannelId,
    ) -> Result<Option<JobId>, RegistryError> {
        let (_, row) = self.channel_row(org, channel).await?;
        for origin in row.came_from.iter().rev() {
            let from = &origin.from;
            let source = match self.channel_row(&from.org, &from.channel).await {
                Err(RegistryError::UnknownChannel { .. }) => continue,
                other => other?.1,
            };
            // A name that was used again since had been closed before.
            if of_job(&source, origin.job).is_some_and(|out| out.phase < CopyPhase::Closed) {
                return Ok(Some(origin.job));
            }
        }
        Ok(None)
    }

    /// Takes a copy one phase further.
    ///
    /// # Errors
    /// `NotMine`, `Contended`, `Store`.
    pub async fn advance_copy(
        &self,
        request: &MoveRequest,
        to: CopyPhase,
        still_mine: impl Fn() -> bool,
    ) -> Result<Stepped, RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = self
                .channel_row(&request.org, &request.from.channel)
                .await?;
            match &mut row.outgoing {
                Some(outgoing) if outgoing.job == request.job_id => {
                    if outgoing.phase >= to {
                        return Ok(Stepped::Yes);
                    }
                    outgoing.phase = to;
                }
                _ => return Ok(Stepped::CalledOff),
            }
            if self
                .apply_if(request, &request.org, &[update(&old, &row)], &still_mine)
                .await?
            {
                return Ok(Stepped::Yes);
            }
        }
        Err(RegistryError::Contended(request.org.clone()))
    }

    /// Frees the destination of its copy: every client is in phase `moved` and
    /// looks at the source no more. From here on it may be moved on.
    pub async fn release_destination(&self, request: &MoveRequest) -> Result<(), RegistryError> {
        let to = request.destination();
        for _ in 0..CONTENTION_TRIES {
            let (old, mut row) = match self.channel_row(&to.org, &to.channel).await {
                Err(RegistryError::UnknownChannel { .. }) => return Ok(()),
                other => other?,
            };
            match &row.incoming {
                Some(incoming) if incoming.job == request.job_id => {
                    row.incoming = None;
                    // Where the id led before this copy came to it.
                    row.outgoing = None;
                }
                _ => return Ok(()),
            }
            if self.apply(&to.org, &[update(&old, &row)]).await? == Applied::Yes {
                return Ok(());
            }
        }
        Err(RegistryError::Contended(to.org))
    }

    /// Calls a copy off: clients go on in the source, which has everything. Only
    /// while nobody reads from the destination. Then the destination's row is
    /// taken away; its place is never used again.
    pub async fn call_off_copy(&self, request: &MoveRequest) -> Result<CalledOff, RegistryError> {
        for _ in 0..CONTENTION_TRIES {
            let source = self.channel_row(&request.org, &request.from.channel).await;
            let (old, mut row) = match source {
                Err(RegistryError::UnknownChannel { .. }) => break,
                other => other?,
            };
            match of_job(&row, request.job_id).map(|outgoing| outgoing.phase) {
                Some(phase) if !phase.may_be_cancelled() => return Ok(CalledOff::TooLate(phase)),
                Some(_) => row.outgoing = None,
                None => break,
            }
            if self.apply(&request.org, &[update(&old, &row)]).await? == Applied::Yes {
                break;
            }
        }
        match self.copy_phase(request).await {
            Ok(None) | Err(RegistryError::UnknownChannel { .. }) => {}
            Ok(Some(_)) => return Err(RegistryError::Contended(request.org.clone())),
            Err(error) => return Err(error),
        }
        self.void_destination(request).await?;
        Ok(CalledOff::Yes)
    }

    async fn void_destination(&self, request: &MoveRequest) -> Result<(), RegistryError> {
        let to = request.destination();
        for _ in 0..CONTENTION_TRIES {
            let (old, row) = match self.channel_row(&to.org, &to.channel).await {
                Err(RegistryError::UnknownChannel { .. }) => return Ok(()),
                other => other?,
            };
            if row.incoming.as_ref().map(|incoming| incoming.job) != Some(request.job_id) {
                return Ok(());
            }
            let write = match former(&row, request.job_id) {
                // The id had been left by an earlier copy, and is so again.
                Some(before) => update(&old, &before),
                None => ControlWrite {
                    id: old.id.clone(),
                    expect: Expect::Rev(old.rev),
                    body: None,
                },
            };
            if self.apply(&to.org, &[write]).await? == Applied::Yes {
                return Ok(());
            }
        }
        Err(RegistryError::Contended(to.org))
    }

    /// Enters an operator's consent in the registry of `org`, which is the
    /// source's or the destination's. A later one replaces it.
    ///
    /// # Errors
    /// `UnknownOrg`, `Contended`, `Store`.
    pub async fn consent_to_move(
        &self,
        org: &OrgId,
        consent: &ConsentRow,
    ) -> Result<(), RegistryError> {
        let id = consent_id(&consent.from, &consent.to);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &id]).await?;
            if find(&rows, ORG_ROW).is_none() {
                return Err(RegistryError::UnknownOrg(org.clone()));
            }
            let write = match find(&rows, &id) {
                Some(old) => update(old, consent),
                None => insert(&id, consent),
            };
            if self.apply(org, &[write]).await? == Applied::Yes {
                return Ok(());
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// The consents in the registry of an organization, expired ones included.
    pub async fn consents(&self, org: &OrgId) -> Result<Vec<ConsentRow>, RegistryError> {
        self.all(org, CONSENT_PREFIX).await
    }

    /// The rows of an organization whose ids begin alike.
    async fn all<T: DeserializeOwned>(
        &self,
        org: &OrgId,
        prefix: &str,
    ) -> Result<Vec<T>, RegistryError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let rows = self
                .store
                .control_list(
                    ControlTable::Registry,
                    org.as_str(),
                    prefix,
                    after.as_deref(),
                    500,
                )
                .await?;
            let Some(last) = rows.last() else {
                return Ok(all);
            };
            after = Some(last.id.clone());
            for row in &rows {
                all.push(parse(org.as_str(), row)?);
            }
        }
    }

    async fn end(&self, request: &MoveRequest, name: &ChannelName) -> Result<End, RegistryError> {
        let org = &name.org;
        let channel = channel_id(&name.channel);
        let moved = move_id(request.job_id);
        let consent = consent_id(&request.source(), &request.destination());
        let rows = self
            .get(org, &[ORG_ROW, &channel, &moved, &consent])
            .await?;
        let with_row = |id: &str| find(&rows, id).cloned();
        let partition = org.as_str();
        Ok(End {
            org: match with_row(ORG_ROW) {
                Some(row) => Some((row.clone(), parse(partition, &row)?)),
                None => None,
            },
            channel: match with_row(&channel) {
                Some(row) => Some((row.clone(), parse(partition, &row)?)),
                None => None,
            },
            moved: match with_row(&moved) {
                Some(row) => Some(parse(partition, &row)?),
                None => None,
            },
            consent: match with_row(&consent) {
                Some(row) => Some(parse(partition, &row)?),
                None => None,
            },
        })
    }
}

/// The rules of authority for moves. Pure: these functions and nothing else
/// decide whether a move may be made.
fn may_move(
    request: &MoveRequest,
    source: &End,
    destination: Option<&End>,
    now_ms: u64,
) -> Result<(), Refusal> {
    if source.org.is_none() {
        return Err(Refusal::UnknownOrg(request.org.clone()));
    }
    let Some(destination) = destination else {
        return may_leave(request, source);
    };
    let same_org = request.org == *request.to_org();
    if !same_org {
        for (end, org) in [(source, &request.org), (destination, request.to_org())] {
            let consents = end.consent.as_ref().is_some_and(|consent| {
                consent.expires_ms > now_ms
                    && consent.from == request.source()
                    && consent.to == request.destination()
            });
            if !consents {
                return Err(Refusal::NoConsent {
                    org: org.clone(),
                    from: Box::new(request.source()),
                    to: Box::new(request.destination()),
                });
            }
        }
    }
    if destination.org.is_none() {
        return Err(Refusal::UnknownOrg(request.to_org().clone()));
    }
    may_leave(request, source)?;
    match &destination.channel {
        None => Ok(()),
        // Left by an earlier copy that is at its end: the id is free again.
        Some((_, row)) if has_been_left(row) => Ok(()),
        Some(_) => Err(Refusal::DestinationExists(request.destination())),
    }
}

/// Whether the source may be moved at all now.
fn may_leave(request: &MoveRequest, source: &End) -> Result<(), Refusal> {
    let name = request.source();
    let Some((_, row)) = &source.channel else {
        return Err(Refusal::UnknownChannel {
            org: name.org,
            channel: name.channel,
        });
    };
    if let Some(incoming) = &row.incoming {
        return Err(Refusal::MoveRunning {
            channel: name,
            job: incoming.job,
        });
    }
    if let Some(outgoing) = &row.outgoing {
        return Err(if outgoing.phase < CopyPhase::Moved {
            Refusal::MoveRunning {
                channel: name,
                job: outgoing.job,
            }
        } else {
            Refusal::MovedAway {
                channel: name,
                to: Box::new(outgoing.to.clone()),
            }
        });
    }
    if row.workspace != name.workspace {
        return Err(Refusal::WrongWorkspace {
            has: row.workspace.clone(),
            channel: name,
        });
    }
    Ok(())
}

/// Whether a channel id is free for another copy: its records were copied away
/// and the old place is empty.
fn has_been_left(row: &ChannelRow) -> bool {
    row.incoming.is_none()
        && row
            .outgoing
            .as_ref()
            .is_some_and(|outgoing| outgoing.phase == CopyPhase::Closed)
}

/// The batch of a move in place: the channel's row gets the workspace and the
/// epoch, the organization's counter goes on, the job is activated.
fn in_place(
    request: &MoveRequest,
    source: &End,
    now_ms: u64,
) -> Result<(MoveRow, Vec<ControlWrite>), RegistryError> {
    let (Some((old_org, org_row)), Some((old_channel, channel_row))) =
        (&source.org, &source.channel)
    else {
        return Err(Refusal::UnknownOrg(request.org.clone()).into());
    };
    let mut org_row = org_row.clone();
    let epoch = take_epoch(&request.org, &mut org_row)?;
    let mut channel_row = channel_row.clone();
    channel_row.epoch = epoch;
    channel_row.workspace = request.to.workspace.clone();
    if !channel_row.workspaces_had.contains(&request.to.workspace) {
        channel_row
            .workspaces_had
            .push(request.to.workspace.clone());
    }
    let row = move_row(request, epoch, &channel_row.place, &org_row, now_ms);
    let writes = vec![
        update(old_org, &org_row),
        update(old_channel, &channel_row),
        insert(&move_id(request.job_id), &row),
    ];
    Ok((row, writes))
}

/// The destination's part of the batch that activates a copy.
fn enter_destination(
    request: &MoveRequest,
    source: &End,
    destination: &End,
    now_ms: u64,
) -> Result<(MoveRow, Vec<ControlWrite>), RegistryError> {
    let (Some((old_org, org_row)), Some((_, source_row))) = (&destination.org, &source.channel)
    else {
        return Err(Refusal::UnknownOrg(request.to_org().clone()).into());
    };
    let mut org_row = org_row.clone();
    let epoch = take_epoch(request.to_org(), &mut org_row)?;
    let workspace = request.to.workspace.clone();
    let before = destination.channel.as_ref().map(|(_, row)| row);
    let mut workspaces_had = before.map_or_else(Vec::new, |row| row.workspaces_had.clone());
    if !workspaces_had.contains(&workspace) {
        workspaces_had.push(workspace.clone());
    }
    let mut places_had = before.map_or_else(Vec::new, |row| row.places_had.clone());
    places_had.extend(before.map(|row| row.place.clone()));
    let mut came_from = before.map_or_else(Vec::new, |row| row.came_from.clone());
    came_from.push(Origin {
        job: request.job_id,
        from: request.source(),
        place: source_row.place.clone(),
    });
    let channel_row = ChannelRow {
        workspace,
        // Never the old one: it may hold tombstones that are newer than what is
        // copied (I14).
        place: Place::random(),
        epoch,
        floor: Epoch::ZERO,
        workspaces_had,
        created_ms: before.map_or(now_ms, |row| row.created_ms),
        outgoing: before.and_then(|row| row.outgoing.clone()),
        incoming: Some(Incoming {
            job: request.job_id,
            org: request.org.clone(),
            channel: request.from.channel.clone(),
        }),
        came_from,
        places_had,
    };
    let row = move_row(request, epoch, &channel_row.place, &org_row, now_ms);
    let writes = vec![
        update(old_org, &org_row),
        match &destination.channel {
            Some((old, _)) => update(old, &channel_row),
            None => insert(&channel_id(&request.to.channel), &channel_row),
        },
        insert(&move_id(request.job_id), &row),
    ];
    Ok((row, writes))
}

/// The source's part: the copy is announced.
fn announce(request: &MoveRequest, source: &End) -> Result<ControlWrite, RegistryError> {
    let Some((old, row)) = &source.channel else {
        return Err(RegistryError::UnknownChannel {
            org: request.org.clone(),
            channel: request.from.channel.clone(),
        });
    };
    let mut row = row.clone();
    row.outgoing = Some(Outgoing {
        job: request.job_id,
        phase: CopyPhase::Announced,
        to: request.destination(),
    });
    Ok(update(old, &row))
}

/// The row of an id that had been left and whose next copy was called off, as it
/// was before but for its place, which nobody reads; `None` if the id was not
/// there before.
fn former(row: &ChannelRow, job: JobId) -> Option<ChannelRow> {
    row.outgoing.as_ref()?;
    let mut before = row.clone();
    before.incoming = None;
    before.came_from.retain(|origin| origin.job != job);
    Some(before)
}

fn take_epoch(org: &OrgId, org_row: &mut OrgRow) -> Result<Epoch, RegistryError> {
    let epoch = org_row
        .last_epoch
        .next()
        .ok_or_else(|| Refusal::EpochExhausted(org.clone()))?;
    org_row.last_epoch = epoch;
    Ok(epoch)
}

fn move_row(
    request: &MoveRequest,
    epoch: Epoch,
    place: &Place,
    org_row: &OrgRow,
    now_ms: u64,
) -> MoveRow {
    MoveRow {
        job: request.job_id,
        kind: request.kind(),
        epoch,
        from: request.source(),
        to: request.destination(),
        place: place.clone(),
        cmk: org_row.cmk.clone(),
        at_ms: now_ms,
    }
}

fn of_job(row: &ChannelRow, job: JobId) -> Option<&Outgoing> {
    row.outgoing.as_ref().filter(|outgoing| outgoing.job == job)
}

fn move_id(job: JobId) -> String {
    format!("{MOVE_PREFIX}{job}")
}

fn consent_id(from: &ChannelName, to: &ChannelName) -> String {
    format!(
        "{CONSENT_PREFIX}{}/{}/{}/{}",
        from.org, from.channel, to.org, to.channel
    )
}
