//! Reading and changing jobs and tasks. Every change is conditional on the
//! revision that was read, so whoever lost a lease or was overtaken by an
//! operator's command cannot write (I6).

mod pages;
mod set_aside;
mod throttles;

use crate::clock::SharedClock;
use crate::ids::{JobId, OrgId, RecordId};
use crate::job::message::JobMessage;
use crate::job::rows::{JobRow, QuarantineRow, SliceId, TaskRow, Transition};
use crate::job::state::JobState;
use crate::registry::{insert, update};
use crate::store::{
    Applied, ControlRow, ControlTable, ControlWrite, Expect, SharedStore, StoreError,
};

pub(crate) use set_aside::{Aside, ROWS_AT_ONCE};
pub use throttles::ThrottleRows;

/// Rows read per page of a listing.
const PAGE: usize = 500;
const JOB: &str = "job/";
const OPEN: &str = "open/";
const HISTORY: &str = "history/";
/// Partition of the jobs' table with a row for every job that is not at an end,
/// `<org>/<job>`: a worker looks here and not into every organization. No
/// organization can have this name.
const OPEN_EVERYWHERE: &str = "~open";
/// Row of a job's tasks that says which organization the job id belongs to.
const OWNER: &str = "owner";

/// A row with the revision it was read at.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    /// Row id.
    pub id: String,
    /// Revision.
    pub rev: u64,
    /// The row.
    pub row: T,
}

/// Why jobs could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row does not parse.
    #[error(
        "row `{row}` of table `{table}` does not parse ({why}); it was written by another version or by hand"
    )]
    Malformed {
        /// The table.
        table: &'static str,
        /// The row.
        row: String,
        /// What is wrong.
        why: String,
    },
    /// Somebody else changed the row: the lease is lost, or an operator acted.
    #[error("row `{0}` was changed by somebody else")]
    Overtaken(String),
    /// The state machine has no such way.
    #[error("a job that is {from} cannot become {to}")]
    NoSuchWay {
        /// Where the job is.
        from: JobState,
        /// Where it was to go.
        to: JobState,
    },
}

/// The answer to recording a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is new.
    New,
    /// The same request was recorded before: nothing to do.
    Before,
    /// The id was taken by another request.
    Taken,
}

/// The jobs of a store.
#[derive(Clone)]
pub struct JobBook {
    store: SharedStore,
    clock: SharedClock,
}

impl JobBook {
    /// What slows the store down for this process, in words.
    pub(super) fn slowed(&self) -> Option<String> {
        let pace = self.store.pace()?;
        let reason = pace.reason?;
        Some(format!(
            "store {reason}: {} of {} requests at a time",
            pace.limit, pace.ceiling
        ))
    }

    /// The jobs in a store.
    pub fn new(store: SharedStore, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// Records a job once.
    pub async fn record(
        &self,
        request: &JobMessage,
        body_sha256: &str,
        why: &str,
    ) -> Result<Recorded, BookError> {
        let now = self.clock.wall().unix_ms();
        let row = JobRow::recorded(request, body_sha256, now, why);
        if !self.take_id(request).await? {
            return Ok(Recorded::Taken);
        }
        // First, so that a job that stands is never missing there.
        self.index(request.org(), request.job_id()).await?;
        let id = job_id(request.job_id());
        let open = open_id(request.job_id());
        let writes = [insert(&id, &row), insert(&open, &())];
        match self
            .apply(ControlTable::Jobs, request.org().as_str(), &writes)
            .await?
        {
            Applied::Yes => Ok(Recorded::New),
            Applied::No => match self.get(request.org(), request.job_id()).await? {
                Some(old) if old.row.body_sha256 == body_sha256 => Ok(Recorded::Before),
                _ => Ok(Recorded::Taken),
            },
        }
    }

    /// Takes a job id for one organization. Tasks and quarantined cells are
    /// filed by the job id alone, so a second organization with the same id
    /// would work on the first one's tasks and call them done.
    async fn take_id(&self, request: &JobMessage) -> Result<bool, BookError> {
        let partition = request.job_id().to_string();
        let write = insert(OWNER, request.org());
        if self
            .apply(ControlTable::Tasks, &partition, &[write])
            .await?
            == Applied::Yes
        {
            return Ok(true);
        }
        let owner: Option<Versioned<OrgId>> =
            self.read(ControlTable::Tasks, &partition, OWNER).await?;
        Ok(owner.is_some_and(|owner| owner.row == *request.org()))
    }

    /// Reads a job.
    pub async fn get(
        &self,
        org: &OrgId,
        job: JobId,
    ) -> Result<Option<Versioned<JobRow>>, BookError> {
        let id = job_id(job);
        let rows = self
            .store
            .control_get(ControlTable::Jobs, org.as_str(), &[&id])
            .await?;
        rows.first()
            .map(|row| parse(ControlTable::Jobs, row))
            .transpose()
    }

    /// Finds a job by its id alone, whatever its organization.
    pub async fn find(&self, job: JobId) -> Result<Option<Versioned<JobRow>>, BookError> {
        let owner: Option<Versioned<OrgId>> = self
            .read(ControlTable::Tasks, &job.to_string(), OWNER)
            .await?;
        match owner {
            Some(owner) => self.get(&owner.row, job).await,
            None => Ok(None),
        }
    }

    /// Jobs of all organizations that are not at an end, ended ones among them
    /// that were not taken off the list yet, in order of organizations. One
    /// listing of one partition.
    pub async fn open_everywhere(&self) -> Result<Vec<(OrgId, JobId)>, BookError> {
        let rows = self
            .list_raw(ControlTable::Jobs, OPEN_EVERYWHERE, "")
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let (org, job) = row.id.rsplit_once('/')?;
                Some((OrgId::new(org).ok()?, job.parse().ok()?))
            })
            .collect())
    }

    /// Puts a job on the list of [`JobBook::open_everywhere`], where it may
    /// stand already.
    pub async fn index(&self, org: &OrgId, job: JobId) -> Result<(), BookError> {
        let write = insert(&format!("{org}/{job}"), &());
        let _either = self
            .apply(ControlTable::Jobs, OPEN_EVERYWHERE, &[write])
            .await?;
        Ok(())
    }

    /// Takes a job that is at an end off the list.
    pub async fn unindex(&self, org: &OrgId, job: JobId) -> Result<(), BookError> {
        let write = ControlWrite {
            id: format!("{org}/{job}"),
            expect: Expect::Rev(1),
            body: None,
        };
        let _either = self
            .apply(ControlTable::Jobs, OPEN_EVERYWHERE, &[write])
            .await?;
        Ok(())
    }

    /// Organizations that have jobs.
    pub async fn orgs(&self) -> Result<Vec<OrgId>, BookError> {
        let mut orgs = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let names = self
                .store
                .control_partitions(ControlTable::Jobs, after.as_deref(), PAGE)
                .await?;
            let Some(last) = names.last() else {
                return Ok(orgs);
            };
            after = Some(last.clone());
            for name in names.into_iter().filter(|name| !name.starts_with('~')) {
                orgs.push(OrgId::new(name.clone()).map_err(|e| BookError::Malformed {
                    table: "jobs",
                    row: name,
                    why: e.to_string(),
                })?);
            }
        }
    }

    /// All jobs of an organization, in order of their ids.
    pub async fn jobs(&self, org: &OrgId) -> Result<Vec<Versioned<JobRow>>, BookError> {
        self.list(ControlTable::Jobs, org.as_str(), JOB).await
    }

    /// Ids of the jobs of an organization that are not at an end.
    pub async fn open(&self, org: &OrgId) -> Result<Vec<JobId>, BookError> {
        let rows = self
            .list_raw(ControlTable::Jobs, org.as_str(), OPEN)
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| row.id.strip_prefix(OPEN)?.parse().ok())
            .collect())
    }

    /// The history of a job, oldest first.
    pub async fn history(&self, org: &OrgId, job: JobId) -> Result<Vec<Transition>, BookError> {
        let prefix = format!("{HISTORY}{job}/");
        let rows: Vec<Versioned<Transition>> =
            self.list(ControlTable::Jobs, org.as_str(), &prefix).await?;
        Ok(rows.into_iter().map(|v| v.row).collect())
    }

    /// Reads a job or a task by its row id.
    pub async fn read<T: serde::de::DeserializeOwned>(
        &self,
        table: ControlTable,
        partition: &str,
        id: &str,
    ) -> Result<Option<Versioned<T>>, BookError> {
        let rows = self.store.control_get(table, partition, &[id]).await?;
        rows.first().map(|row| parse(table, row)).transpose()
    }

    /// Writes a job or a task back as it now is, without a change of state.
    pub async fn write_back<T: serde::Serialize>(
        &self,
        table: ControlTable,
        partition: &str,
        row: &mut Versioned<T>,
    ) -> Result<(), BookError> {
        self.commit(table, partition, vec![write_back(row)], &row.id)
            .await?;
        row.rev += 1;
        Ok(())
    }

    /// Moves a job to another state, together with its history row and whatever
    /// else the caller has changed in `job.row`.
    pub async fn transition(
        &self,
        job: &mut Versioned<JobRow>,
        to: JobState,
        who: &str,
        why: &str,
    ) -> Result<Transition, BookError> {
        let from = job.row.state;
        // A paused job goes back to where it was and nowhere else.
        let goes_back = from == JobState::Paused && to != JobState::Cancelled;
        if !from.may_become(to) || (goes_back && job.row.paused_from != Some(to)) {
            return Err(BookError::NoSuchWay { from, to });
        }
        let id = job.row.request.job_id();
        let org = job.row.request.org().clone();
        let at_ms = self.clock.wall().unix_ms();
        let step = Transition {
            from,
            to,
            at_ms,
            who: who.to_owned(),
            why: why.to_owned(),
        };
        let before = job.row.clone();
        job.row.state = to;
        job.row.since_ms = at_ms;
        job.row.why = why.to_owned();
        job.row.transitions += 1;
        job.row.paused_from = (to == JobState::Paused).then_some(from);
        if to.is_final() || to == JobState::Paused {
            // Whoever drives it finds that it does so no more.
            job.row.lease = None;
        }
        let history = format!("{HISTORY}{id}/{:08}", job.row.transitions);
        let mut writes = vec![write_back(job), insert(&history, &step)];
        if to.is_final() && !from.is_final() {
            writes.push(ControlWrite {
                id: open_id(id),
                expect: Expect::Rev(1),
                body: None,
            });
        }
        if let Err(error) = self
            .commit(ControlTable::Jobs, org.as_str(), writes, &job.id)
            .await
        {
            job.row = before;
            return Err(error);
        }
        job.rev += 1;
        if to.is_final()
            && !from.is_final()
            && let Err(error) = self.unindex(&org, id).await
        {
            // The job is at its end all the same; a worker that meets it on the
            // list takes it off.
            tracing::debug!(%error, job = %id, "an ended job stays on the list for now");
        }
        Ok(step)
    }

    /// Notes in the history of a job that somebody acted on it without a change
    /// of its state, together with whatever else the caller has changed in
    /// `job.row`. Such a row goes from the state to itself. Conditional like a
    /// transition: `Overtaken` if somebody else changed the job meanwhile.
    pub async fn note(
        &self,
        job: &mut Versioned<JobRow>,
        who: &str,
        why: &str,
    ) -> Result<Transition, BookError> {
        let (id, org) = (job.row.request.job_id(), job.row.request.org().clone());
        let note = Transition {
            from: job.row.state,
            to: job.row.state,
            at_ms: self.clock.wall().unix_ms(),
            who: who.to_owned(),
            why: why.to_owned(),
        };
        // Numbered like a transition, so that the history is in order; a driver
        // that decided on the row from before reads it again.
        job.row.transitions += 1;
        let history = format!("{HISTORY}{id}/{:08}", job.row.transitions);
        let writes = vec![write_back(job), insert(&history, &note)];
        if let Err(error) = self
            .commit(ControlTable::Jobs, org.as_str(), writes, &job.id)
            .await
        {
            job.row.transitions -= 1;
            return Err(error);
        }
        job.rev += 1;
        Ok(note)
    }

    /// Adds tasks to a round. Their ids are fresh: a round is planned once.
    pub async fn add_tasks(
        &self,
        job: JobId,
        round: u32,
        first: u32,
        tasks: &[TaskRow],
    ) -> Result<(), BookError> {
        let writes: Vec<ControlWrite> = tasks
            .iter()
            .enumerate()
            .map(|(i, task)| insert(&task_id(round, first + i as u32), task))
            .collect();
        let what = task_id(round, first);
        self.commit(ControlTable::Tasks, &job.to_string(), writes, &what)
            .await
    }

    /// The tasks of a round.
    pub async fn tasks(
        &self,
        job: JobId,
        round: u32,
    ) -> Result<Vec<Versioned<TaskRow>>, BookError> {
        self.list(
            ControlTable::Tasks,
            &job.to_string(),
            &format!("{round:06}/"),
        )
        .await
    }

    /// Lists a cell that was left as it is. Listing it again keeps the newest.
    pub async fn quarantine(&self, job: JobId, row: &QuarantineRow) -> Result<(), BookError> {
        let id = quarantine_id(&row.slice, &row.record);
        let partition = job.to_string();
        loop {
            let old = self
                .store
                .control_get(ControlTable::Quarantine, &partition, &[&id])
                .await?;
            let write = match old.first() {
                Some(old) => update(old, row),
                None => insert(&id, row),
            };
            if self
                .apply(ControlTable::Quarantine, &partition, &[write])
                .await?
                == Applied::Yes
            {
                return Ok(());
            }
        }
    }

    /// Whether a record was left as it is, and as what.
    pub async fn is_quarantined(
        &self,
        job: JobId,
        slice: &SliceId,
        record: &RecordId,
    ) -> Result<Option<QuarantineRow>, BookError> {
        let id = quarantine_id(slice, record);
        let found: Option<Versioned<QuarantineRow>> = self
            .read(ControlTable::Quarantine, &job.to_string(), &id)
            .await?;
        Ok(found.map(|v| v.row))
    }

    /// Cells that a job left as they are and that were not tried again since.
    pub async fn quarantined(&self, job: &JobRow) -> Result<Vec<QuarantineRow>, BookError> {
        let partition = job.request.job_id().to_string();
        let rows: Vec<Versioned<QuarantineRow>> =
            self.list(ControlTable::Quarantine, &partition, "").await?;
        Ok(rows
            .into_iter()
            .map(|v| v.row)
            .filter(|row| row.round >= job.rewrite_round)
            .collect())
    }

    async fn commit(
        &self,
        table: ControlTable,
        partition: &str,
        writes: Vec<ControlWrite>,
        what: &str,
    ) -> Result<(), BookError> {
        match self.apply(table, partition, &writes).await? {
            Applied::Yes => Ok(()),
            Applied::No => Err(BookError::Overtaken(what.to_owned())),
        }
    }

    async fn apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> Result<Applied, BookError> {
        Ok(self.store.control_apply(table, partition, writes).await?)
    }

    async fn list<T: serde::de::DeserializeOwned>(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<Versioned<T>>, BookError> {
        let rows = self.list_raw(table, partition, prefix).await?;
        rows.iter().map(|row| parse(table, row)).collect()
    }

    async fn list_raw(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
    ) -> Result<Vec<ControlRow>, BookError> {
        let mut all: Vec<ControlRow> = Vec::new();
        loop {
            let after = all.last().map(|row| row.id.clone());
            let rows = self
                .store
                .control_list(table, partition, prefix, after.as_deref(), PAGE)
                .await?;
            let full = rows.len() == PAGE;
            all.extend(rows);
            if !full {
                return Ok(all);
            }
        }
    }
}

fn job_id(job: JobId) -> String {
    format!("{JOB}{job}")
}

fn open_id(job: JobId) -> String {
    format!("{OPEN}{job}")
}

fn quarantine_id(slice: &SliceId, record: &RecordId) -> String {
    format!("{}/{}/{record}", slice.channel, slice.hour)
}

/// Id of a task: the round, then its number, so that a round lists in order.
pub fn task_id(round: u32, n: u32) -> String {
    format!("{round:06}/{n:06}")
}

fn write_back<T: serde::Serialize>(row: &Versioned<T>) -> ControlWrite {
    ControlWrite {
        id: row.id.clone(),
        expect: Expect::Rev(row.rev),
        body: Some(crate::registry::body(&row.row)),
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    table: ControlTable,
    row: &ControlRow,
) -> Result<Versioned<T>, BookError> {
    let parsed = serde_json::from_str(&row.body).map_err(|e| BookError::Malformed {
        table: table.as_str(),
        row: row.id.clone(),
        why: e.to_string(),
    })?;
    Ok(Versioned {
        id: row.id.clone(),
        rev: row.rev,
        row: parsed,
    })
}
