//! Pages of jobs and of what belongs to one, for whoever looks and must not read
//! everything there is.

use super::{BookError, HISTORY, JOB, JobBook, Versioned, job_id, parse};
use crate::ids::{JobId, OrgId};
use crate::job::rows::{JobRow, QuarantineRow, Transition};
use crate::store::ControlTable;

impl JobBook {
    /// Jobs of an organization in order of their ids, ended ones too, from just
    /// after `after`, at most `limit`. One listing.
    pub async fn page_of_jobs(
        &self,
        org: &OrgId,
        after: Option<JobId>,
        limit: usize,
    ) -> Result<Vec<Versioned<JobRow>>, BookError> {
        let after = after.map(job_id);
        let rows = self
            .store
            .control_list(
                ControlTable::Jobs,
                org.as_str(),
                JOB,
                after.as_deref(),
                limit,
            )
            .await?;
        let parsed = rows.iter().map(|row| parse(ControlTable::Jobs, row));
        parsed.collect()
    }

    /// The last steps of a job's history, oldest first, at most `limit`. One
    /// listing.
    pub async fn recent_history(
        &self,
        job: &JobRow,
        limit: u32,
    ) -> Result<Vec<Transition>, BookError> {
        let prefix = format!("{HISTORY}{}/", job.request.job_id());
        // Steps are numbered from 1, without a gap.
        let before = job.transitions.saturating_sub(limit);
        let after = format!("{prefix}{before:08}");
        let rows = self
            .store
            .control_list(
                ControlTable::Jobs,
                job.request.org().as_str(),
                &prefix,
                Some(&after),
                limit as usize,
            )
            .await?;
        let parsed = rows.iter().map(|row| parse(ControlTable::Jobs, row));
        let parsed: Result<Vec<Versioned<Transition>>, BookError> = parsed.collect();
        Ok(parsed?.into_iter().map(|step| step.row).collect())
    }

    /// Some of the cells that a job left as they are, at most `limit`, and whether
    /// there may be more. One listing.
    pub async fn some_quarantined(
        &self,
        job: &JobRow,
        limit: usize,
    ) -> Result<(Vec<QuarantineRow>, bool), BookError> {
        let partition = job.request.job_id().to_string();
        let rows = self
            .store
            .control_list(ControlTable::Quarantine, &partition, "", None, limit)
            .await?;
        let more = rows.len() == limit;
        let parsed = rows.iter().map(|row| parse(ControlTable::Quarantine, row));
        let parsed: Result<Vec<Versioned<QuarantineRow>>, BookError> = parsed.collect();
        let mut cells: Vec<QuarantineRow> = parsed?.into_iter().map(|cell| cell.row).collect();
        cells.retain(|cell| cell.round >= job.rewrite_round);
        Ok((cells, more))
    }
}
