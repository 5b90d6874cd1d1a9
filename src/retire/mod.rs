//! Deletes what a finished rekey left behind: keys that only the old CMK opens,
//! and older wraps of keys that have a newer one. It calls no KMS.
//!
//! **Why no reader misses what goes.** Only wraps below the job's epoch go, and
//! only while the organization's floors are at it or above, without a window for a
//! backup. Readers refuse such wraps already (`wrap_below_floor`), and after a
//! re-encryption such cells as well. So a cell that lands late and names an old
//! key was refused before the key went, and is refused after it, for another
//! reason. (What a rekey set aside is used again in a restore window alone.) The
//! scan of each slice, at every replica and just before its wraps go,
//! is one more proof: a key that any cell names is not deleted, however old it is.
//!
//! Cells that a copy of a channel left behind in an old place are not looked at:
//! nobody reads there, and only what nobody could open was left.
//!
//! **What may be about to be used stays.** A key is made with the organization's
//! wrap epoch, which has been at the job's epoch or above since it settled; a key
//! that no cell names is deleted only if all of its wraps are older than that. A
//! move raises no wrap epoch, so this cannot be told after one: moves are not
//! retired, and what they leave goes with the next rekey.
//!
//! **What cannot be taken back is kept first.** A key goes only if the job has set
//! it aside (I10), and that still stands.
//!
//! | file | what |
//! |---|---|
//! | `decide` | which wraps of a slice may go; pure |

mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;

use crate::audit::{AuditError, AuditLog, Record, RecordType};
use crate::clock::{BootTime, SharedClock};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, JobId, OrgId};
use crate::job::{BookError, JobBook, Mode, RetireCounts, SliceId};
use crate::keys::SliceKeys;
use crate::killpoint;
use crate::kms::Use;
use crate::pipeline::plan::SliceWalk;
use crate::pipeline::{Passing, TaskError};
use crate::registry::{AllowList, OrgRow, Registry, RegistryError};
use crate::replay;
use crate::store::{SharedStore, SliceKey, StoreError};
use crate::verify::{Found, Scan};
use decide::{Decision, Slice, decide};

/// Slices of one run: what is counted and then deleted between two notes of how
/// far it is.
const RUN: usize = 64;
/// Slices scanned, and wraps deleted, at once.
const AT_ONCE: usize = 16;
/// How long a store that does not answer is tried again before a retire stops.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Longest first wait, and longest later one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Old wraps that stay, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Their key could not be set aside.
    pub not_set_aside: u64,
    /// No cell names their key, so nobody has shown that its newer wrap opens; or
    /// the newer wrap is not under the CMK that its epoch names.
    pub not_proven: u64,
    /// Their key has a row that does not parse, or a cell names it.
    pub not_sound: u64,
}

impl Kept {
    /// All of them.
    pub fn wraps(&self) -> u64 {
        self.not_set_aside + self.not_proven + self.not_sound
    }

    fn add(&mut self, other: &Kept) {
        self.not_set_aside += other.not_set_aside;
        self.not_proven += other.not_proven;
        self.not_sound += other.not_sound;
    }
}

/// What a retire would delete.
#[derive(Debug, Default)]
pub struct Survey {
    /// All of it.
    pub counts: RetireCounts,
    /// Old wraps that stay.
    pub kept: Kept,
    /// By channel, where there is something.
    pub by_channel: BTreeMap<ChannelId, RetireCounts>,
    /// What the scan found. If it is not whole, nothing may be deleted.
    pub found: Found,
}

/// Why the floors do not allow it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotNow {
    /// A backup is being brought in: its cells may name old keys.
    Window,
    /// A copy of a channel was under way when the job ended, so readers still
    /// accept what is older than the job.
    Floors,
}

/// Why a retire stopped. What was deleted is recorded; the same command goes on.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// The scan failed.
    #[error(transparent)]
    Scan(#[from] TaskError),
    /// Rows of the job could not be read or written; `Overtaken`: another retire
    /// of the job is running.
    #[error(transparent)]
    Book(#[from] BookError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What cannot be recorded is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The floors do not allow it any more.
    #[error("readers may need old wraps again")]
    NotNow(NotNow),
    /// A cell is not as it should be, since the survey.
    #[error("cells of {0} are not as they should be")]
    NotWhole(SliceId),
}

impl RetireError {
    /// True where the store is away, and may come back.
    fn may_pass(&self) -> bool {
        match self {
            Self::Scan(TaskError::Store(e)) | Self::Store(e) => e.may_pass(),
            Self::Scan(TaskError::Registry(e)) | Self::Registry(e) => e.may_pass(),
            Self::Scan(TaskError::Book(e)) | Self::Book(e) => e.may_pass(),
            Self::Scan(_) | Self::Audit(_) | Self::NotNow(_) | Self::NotWhole(_) => false,
        }
    }
}

/// The retire of one job.
pub struct Retire {
    store: SharedStore,
    registry: Registry,
    book: JobBook,
    clock: SharedClock,
    scan: Scan,
    org: OrgId,
    job: JobId,
    mode: Mode,
    epoch: Epoch,
    allowed: AllowList,
    /// The CMK that each epoch names.
    named: BTreeMap<Epoch, CmkArn>,
    /// Wraps that this one has deleted.
    gone: AtomicU64,
}

struct Look {
    slice: SliceId,
    found: Found,
    decision: Decision,
}

impl Retire {
    /// A retire of a job of an epoch.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn new(
        store: SharedStore,
        clock: SharedClock,
        (org, job): (OrgId, JobId),
        (mode, epoch): (Mode, Epoch),
    ) -> Result<Self, RetireError> {
        let registry = Registry::new(store.clone(), clock.clone());
        let scan = Scan::new(store.clone(), clock.clone(), None, org.clone(), None).await?;
        let activations = registry.activations(&org).await?;
        Ok(Self {
            allowed: registry.allow_list(&org).await?,
            named: activations
                .into_iter()
                .map(|activation| (activation.epoch, activation.to_cmk))
                .collect(),
            book: JobBook::new(store.clone(), clock.clone()),
            scan: scan.at_all_replicas(),
            store,
            registry,
            clock,
            org,
            job,
            mode,
            epoch,
            gone: AtomicU64::new(0),
        })
    }

    /// Wraps that this one has deleted so far.
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether readers refuse already what would be deleted.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub async fn may_go(&self) -> Result<Result<(), NotNow>, RetireError> {
        Ok(self.floors_hold(&self.registry.org(&self.org).await?))
    }

    fn floors_hold(&self, org: &OrgRow) -> Result<(), NotNow> {
        if org.restore_window.is_some() {
            return Err(NotNow::Window);
        }
        let cells_hold = self.mode == Mode::Rewrap || org.cell_floor >= self.epoch;
        match org.wrap_floor >= self.epoch && cells_hold {
            true => Ok(()),
            false => Err(NotNow::Floors),
        }
    }

    /// Scans all and says what would be deleted; deletes nothing.
    ///
    /// # Errors
    /// If store or registry fail.
    pub async fn survey(&self) -> Result<Survey, RetireError> {
        let mut survey = Survey::default();
        let mut walk = self.walk(None);
        loop {
            let looks = self.looks(&mut walk).await?;
            if looks.is_empty() {
                return Ok(survey);
            }
            for look in looks {
                let counts = look.decision.counts;
                survey.counts.add(&counts);
                survey.kept.add(&look.decision.kept);
                if counts.rows() > 0 {
                    let channel = survey.by_channel.entry(look.slice.channel).or_default();
                    channel.add(&counts);
                }
                survey.found.add(look.found);
            }
        }
    }

    /// Scans all once more and deletes what may go, slice by slice, at most so
    /// many wraps a second. Answers with what this and earlier calls for the job
    /// have deleted.
    ///
    /// A store that does not answer is tried again for [`PATIENCE`]; `away` hears
    /// of it, once until it answers again.
    ///
    /// # Errors
    /// Any [`RetireError`]. The next call goes on at the run of slices at which
    /// this one stopped.
    pub async fn delete(
        &self,
        rate_per_s: u32,
        audit: &AuditLog,
        why: &Use,
        away: impl Fn(&RetireError),
    ) -> Result<RetireCounts, RetireError> {
        // Since when it is away, and what was gone by then.
        let mut silent: Option<(BootTime, u64)> = None;
        let mut ceiling = FIRST_WAIT;
        loop {
            // Begun anew, as after a kill: of a write that failed nobody knows
            // whether it was done.
            let error = match self.go_on(rate_per_s, audit, why).await {
                Err(error) if error.may_pass() => error,
                ended => return ended,
            };
            let (now, gone) = (self.clock.boot(), self.gone());
            let since = match silent {
                // What went meanwhile shows that it had answered.
                Some((since, then)) if then == gone => since,
                _ => {
                    away(&error);
                    ceiling = FIRST_WAIT;
                    now
                }
            };
            if now.since(since) >= PATIENCE {
                return Err(error);
            }
            silent = Some((since, gone));
            self.clock.sleep(ceiling.mul_f64(replay::random())).await;
            ceiling = (ceiling * 2).min(LONGEST_WAIT);
        }
    }

    async fn go_on(
        &self,
        rate_per_s: u32,
        audit: &AuditLog,
        why: &Use,
    ) -> Result<RetireCounts, RetireError> {
        let mut progress = self.book.begin_retire(self.job).await?;
        let mut walk = self.walk(progress.row.from.as_ref());
        loop {
            let looks = self.looks(&mut walk).await?;
            let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
                return Ok(progress.row.counts);
            };
            if let Some(look) = looks.iter().find(|look| !look.found.is_whole()) {
                return Err(RetireError::NotWhole(look.slice.clone()));
            }
            if looks.iter().all(|look| look.decision.gone.is_empty()) {
                continue;
            }
            self.may_go().await?.map_err(RetireError::NotNow)?;
            // Counted first: whoever goes on after a kill finds less to delete in
            // this run, and must not count that.
            let counted_to = progress.row.counted_to.clone();
            let is_new = |look: &&Look| counted_to.as_ref().is_none_or(|to| look.slice > *to);
            for look in looks.iter().filter(is_new) {
                progress.row.counts.add(&look.decision.counts);
            }
            progress.row.from = Some(first.slice.clone());
            progress.row.counted_to = counted_to.max(Some(last.slice.clone()));
            self.book.save_aside(self.job, &mut progress).await?;
            self.note(&looks, audit, why).await?;
            killpoint::reach("retire_before_delete");
            self.delete_run(&looks, rate_per_s).await?;
        }
    }

    /// On disk before the wraps go (I16).
    async fn note(&self, looks: &[Look], audit: &AuditLog, why: &Use) -> Result<(), RetireError> {
        for look in looks.iter().filter(|look| !look.decision.gone.is_empty()) {
            let address = self.address(&look.slice);
            let mut record = Record::new(RecordType::Slice, "retire")
                .because(why)
                .on((&address).into());
            record.records = Some(look.decision.gone.len() as u64);
            audit.record(record.intended());
        }
        Ok(audit.durable().await?)
    }

    async fn delete_run(&self, looks: &[Look], rate_per_s: u32) -> Result<(), RetireError> {
        let began = self.clock.boot();
        let mut deleted = 0_u32;
        for look in looks {
            let address = self.address(&look.slice);
            for wraps in look.decision.gone.chunks(AT_ONCE) {
                let one = |(id, epoch): &(KeyId, Epoch)| {
                    let (id, epoch) = (*id, *epoch);
                    let (store, address) = (&self.store, &address);
                    async move {
                        store.delete_key(address, id, epoch).await?;
                        self.gone.fetch_add(1, Ordering::Relaxed);
                        Ok::<(), StoreError>(())
                    }
                };
                // All of them, also after one that fails: what goes is counted.
                let answers = futures::future::join_all(wraps.iter().map(one)).await;
                answers.into_iter().collect::<Result<(), StoreError>>()?;
                killpoint::reach("retire_after_delete");
                deleted += wraps.len() as u32;
                let due = Duration::from_secs_f64(f64::from(deleted) / f64::from(rate_per_s));
                let spent = self.clock.boot().since(began);
                self.clock.sleep(due.saturating_sub(spent)).await;
            }
        }
        Ok(())
    }

    fn walk(&self, from: Option<&SliceId>) -> SliceWalk {
        let (store, registry) = (self.store.clone(), self.registry.clone());
        SliceWalk::new(store, registry, self.org.clone(), None, from)
    }

    fn address(&self, slice: &SliceId) -> SliceKey {
        SliceKey::messages(&self.org, &slice.channel, slice.hour)
    }

    /// The next slices, in order.
    async fn looks(&self, walk: &mut SliceWalk) -> Result<Vec<Look>, RetireError> {
        let mut slices = Vec::with_capacity(RUN);
        while slices.len() < RUN {
            match walk.next().await? {
                Some(slice) => slices.push(slice),
                None => break,
            }
        }
        let looks = stream::iter(slices).map(|slice| self.look(slice));
        looks.buffered(AT_ONCE).try_collect().await
    }

    async fn look(&self, slice: SliceId) -> Result<Look, RetireError> {
        let looked = self.scan.look(slice.clone()).await?;
        let rows: Vec<(KeyId, Epoch)> = looked
            .keys
            .rows()
            .iter()
            .map(|row| (row.key_id(), row.wrap_epoch))
            .collect();
        let stands = looked
            .named
            .iter()
            .filter(|id| self.stands(&looked.keys, **id))
            .copied()
            .collect();
        let aside = match rows.iter().any(|(_, epoch)| *epoch < self.epoch) {
            true => self.aside(&slice).await?,
            false => BTreeSet::new(),
        };
        let decision = decide(&Slice {
            rows: &rows,
            bad: &looked.keys.bad().map(|(id, _, _)| id).collect(),
            named: &looked.named,
            stands: &stands,
            aside: &aside,
            epoch: self.epoch,
        });
        Ok(Look {
            slice,
            found: looked.found,
            decision,
        })
    }

    /// Whether the wrap of a key that readers use is at or above the job's epoch
    /// and under the CMK which its epoch names.
    fn stands(&self, keys: &SliceKeys, id: KeyId) -> bool {
        keys.wrap_to_open(id, &self.allowed, self.epoch)
            .is_ok_and(|row| self.named.get(&row.wrap_epoch) == Some(&row.cmk))
    }

    async fn aside(&self, slice: &SliceId) -> Result<BTreeSet<KeyId>, RetireError> {
        let hour = Some(slice.hour);
        let ids = self.book.aside_ids(self.job, &slice.channel, hour).await?;
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }
}
