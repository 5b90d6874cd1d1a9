//! Which slices there are, cut into tasks; and the slices of one task, in order.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::ids::{ChannelId, Hour, JobId, OrgId, RecordId};
use crate::job::{Counts, Effort, JobBook, SliceId, TaskRow, TaskState};
use crate::pipeline::patience::patiently;
use crate::pipeline::work::SliceTicket;
use crate::pipeline::{TaskError, TaskRun};
use crate::planted::{self, Bug};
use crate::registry::{Registry, RegistryError};
use crate::scope::Kind;
use crate::store::{SharedStore, StoreError, StoreErrorClass};

/// Slices a task has at most. Small enough that a takeover repeats little,
/// large enough that claims cost little.
pub const SLICES_PER_TASK: u64 = 256;

/// Names of slices that are listed at once.
const PAGE: usize = 1000;

/// Walks the slices of an organization, or of one channel of it, in order,
/// channel by channel.
///
/// While a window for a backup is open, these are also the hours whose keys a
/// rekey has set aside: a retire may have deleted the last key row of an hour that
/// was empty, and cells that come back there are found by nothing else.
pub struct SliceWalk {
    store: SharedStore,
    registry: Registry,
    book: JobBook,
    org: OrgId,
    /// Jobs that have set keys aside, if a window is open; read before the first
    /// slice.
    asides: Option<Vec<JobId>>,
    only: Option<ChannelId>,
    channel: Option<ChannelId>,
    in_channel: bool,
    after: Option<String>,
    listed_at_once: usize,
    page: std::vec::IntoIter<SliceId>,
}

impl SliceWalk {
    /// From the first slice at or after `from`; of the channel `only`, if given.
    pub fn new(
        store: SharedStore,
        registry: Registry,
        org: OrgId,
        only: Option<ChannelId>,
        from: Option<&SliceId>,
    ) -> Self {
        let channel = from.map(|s| s.channel.clone()).or_else(|| only.clone());
        Self {
            book: JobBook::new(store.clone(), registry.clock().clone()),
            store,
            registry,
            org,
            asides: None,
            only,
            in_channel: channel.is_some(),
            channel,
            after: from.and_then(|s| s.hour.previous()).map(|h| h.to_string()),
            listed_at_once: PAGE,
            page: Vec::new().into_iter(),
        }
    }

    /// Lists no more than so many slices at once: for who wants no more of them.
    #[must_use]
    fn for_about(mut self, slices: u64) -> Self {
        self.listed_at_once = usize::try_from(slices).unwrap_or(PAGE).clamp(1, PAGE);
        self
    }

    /// The next slice, or `None` after the last.
    pub async fn next(&mut self) -> Result<Option<SliceId>, TaskError> {
        loop {
            if let Some(slice) = self.page.next() {
                return Ok(Some(slice));
            }
            match self.channel.clone() {
                Some(channel) if self.in_channel => self.next_page(&channel).await?,
                // The only channel is through.
                Some(_) if self.only.is_some() => return Ok(None),
                at => {
                    let next = patiently(self.registry.clock(), || {
                        self.registry.channels(&self.org, at.as_ref(), 1)
                    })
                    .await?;
                    let Some((channel, _)) = next.into_iter().next() else {
                        return Ok(None);
                    };
                    self.channel = Some(channel);
                    self.in_channel = true;
                    self.after = None;
                }
            }
        }
    }

    /// Jobs whose keys may be the only trace of an hour.
    async fn asides(&mut self) -> Result<Vec<JobId>, TaskError> {
        if let Some(asides) = &self.asides {
            return Ok(asides.clone());
        }
        let clock = self.registry.clock();
        let org = match patiently(clock, || self.registry.org(&self.org)).await {
            // It has no slices either.
            Err(RegistryError::UnknownOrg(_)) => None,
            org => Some(org?),
        };
        let asides = match org.and_then(|org| org.restore_window) {
            None => Vec::new(),
            Some(_) => {
                let asides = patiently(clock, || self.book.set_asides_of(&self.org)).await?;
                asides.into_iter().map(|(job, _)| job).collect()
            }
        };
        self.asides = Some(asides.clone());
        Ok(asides)
    }

    async fn next_page(&mut self, channel: &ChannelId) -> Result<(), TaskError> {
        let asides = self.asides().await?;
        let clock = self.registry.clock();
        let (after, limit) = (self.after.as_deref(), self.listed_at_once);
        let mut names = patiently(clock, || {
            let group = channel.as_str();
            self.store
                .list_slices(&self.org, Kind::Message, group, after, limit)
        })
        .await?;
        for job in asides {
            let hours = || self.book.aside_hours(job, channel, after, limit);
            names.extend(patiently(clock, hours).await?);
        }
        // Each list is whole up to its last name, so the first `limit` of all are.
        names.sort_unstable();
        names.dedup();
        names.truncate(limit);
        self.in_channel = names.len() == self.listed_at_once;
        self.after = names.last().cloned();
        let mut slices = Vec::with_capacity(names.len());
        for name in &names {
            let hour: Hour = name.parse().map_err(|e| {
                StoreError::new(
                    StoreErrorClass::Fatal,
                    format!(
                        "data_keys of {}/{channel} has a slice that is no hour: {e}",
                        self.org
                    ),
                )
            })?;
            slices.push(SliceId {
                channel: channel.clone(),
                hour,
            });
        }
        self.page = slices.into_iter();
        Ok(())
    }
}

/// Cuts slices into tasks that lie end to end: each begins where the one before
/// ends, and the last has no end. A slice that appears later than the plan is in
/// one of them or before the first. None needs to be gone through: its key row
/// was written after the settle, so all in it is of the new state (I11). But for
/// hours that appear because a window for a backup was opened: what is put back
/// before the first is found by the next scan, and by the rekey after it, which
/// the window asks for.
pub struct Cutter {
    most: u64,
    run: Option<(SliceId, u64)>,
}

impl Cutter {
    /// For tasks of at most so many slices.
    pub fn of(most: u64) -> Self {
        Self { most, run: None }
    }

    /// Takes the next slice; gives a task when one is full.
    pub fn push(&mut self, slice: SliceId) -> Option<TaskRow> {
        match &mut self.run {
            None => {
                self.run = Some((slice, 1));
                None
            }
            Some((_, n)) if *n < self.most => {
                *n += 1;
                None
            }
            Some(_) => {
                let (from, n) = self.run.replace((slice.clone(), 1))?;
                Some(task(from, Some(slice), n))
            }
        }
    }

    /// The last task.
    pub fn finish(&mut self) -> Option<TaskRow> {
        self.run.take().map(|(from, n)| task(from, None, n))
    }
}

fn task(from: SliceId, to: Option<SliceId>, planned: u64) -> TaskRow {
    TaskRow {
        from,
        to,
        planned,
        state: TaskState::Open,
        token: 0,
        lease: None,
        takeovers: 0,
        checkpoint: None,
        counts: Counts::default(),
        effort: Effort::default(),
        blocked: Vec::new(),
        streams: Vec::new(),
    }
}

/// The first stage: hands out the slices of a task from its checkpoint on, and
/// then those that wait for a key and are due.
pub(super) async fn slices_of_task(
    task: Arc<TaskRun>,
    out: mpsc::Sender<SliceTicket>,
) -> Result<(), TaskError> {
    let row = task.hold.row().await;
    let mut number = 0;
    let mut send = async |slice: SliceId, resume_after: Option<RecordId>| {
        let ticket = SliceTicket {
            number,
            slice,
            resume_after,
        };
        number += 1;
        // The next stage only goes away with the whole task.
        out.send(ticket).await.is_ok()
    };
    if row.state == TaskState::Open {
        let (from, mut resume) = match row.checkpoint {
            None => (row.from, None),
            Some(at) if planted::is(Bug::ResumeTooFar) => {
                let end = RecordId::new([0xff; 8]).ok();
                (at.slice.clone(), end.map(|end| (at.slice, end)))
            }
            Some(at) => {
                let resume = at.record.map(|record| (at.slice.clone(), record));
                (at.slice, resume)
            }
        };
        let shared = &task.shared;
        let mut walk = SliceWalk::new(
            shared.store.clone(),
            shared.registry.clone(),
            task.org.clone(),
            task.channel.clone(),
            Some(&from),
        )
        // And the next task's first, which ends it.
        .for_about(row.planned + 1);
        while let Some(slice) = walk.next().await? {
            if task.stopping() || row.to.as_ref().is_some_and(|to| slice >= *to) {
                break;
            }
            let after = match resume.take() {
                Some((at, record)) if at == slice => Some(record),
                _ => None,
            };
            if !send(slice, after).await {
                return Ok(());
            }
        }
    } else {
        let now_ms = task.shared.clock.wall().unix_ms();
        for blocked in row.blocked.iter().filter(|b| b.retry_ms <= now_ms) {
            if task.stopping() || !send(blocked.slice.clone(), blocked.after.clone()).await {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Counts the slices of an organization, or of one channel of it.
pub async fn count_slices(
    store: &SharedStore,
    registry: &Registry,
    org: &OrgId,
    channel: Option<&ChannelId>,
) -> Result<u64, TaskError> {
    // The organization must be known, or the count of nothing would look fine.
    registry.org(org).await?;
    let mut walk = SliceWalk::new(
        store.clone(),
        registry.clone(),
        org.clone(),
        channel.cloned(),
        None,
    );
    let mut n = 0;
    while walk.next().await?.is_some() {
        n += 1;
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(n: u32) -> SliceId {
        SliceId {
            channel: ChannelId::new("c1").unwrap(),
            hour: Hour::of_unix_seconds(u64::from(n) * 3600).unwrap(),
        }
    }

    #[test]
    fn tasks_lie_end_to_end() {
        for total in [0u64, 1, 255, 256, 257, 512, 1000] {
            let mut cutter = Cutter::of(SLICES_PER_TASK);
            let mut tasks = Vec::new();
            for n in 0..total {
                tasks.extend(cutter.push(slice(n as u32)));
            }
            tasks.extend(cutter.finish());
            assert_eq!(tasks.iter().map(|t| t.planned).sum::<u64>(), total);
            assert_eq!(tasks.len() as u64, total.div_ceil(SLICES_PER_TASK));
            for pair in tasks.windows(2) {
                assert_eq!(pair[0].to.as_ref(), Some(&pair[1].from));
            }
            if let Some(last) = tasks.last() {
                assert_eq!(last.to, None);
            }
        }
    }
}
