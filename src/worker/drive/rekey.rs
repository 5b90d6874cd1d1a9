//! What only a rekey does: its activation and its end.

use crate::audit::Record;
use crate::ids::CmkArn;
use crate::job::{Activated, JobRow, JobState, RekeyRequest, SetAside, Verdict};
use crate::killpoint;
use crate::kms::Use;
use crate::registry::{ActivationRow, RegistryError};
use crate::set_aside::{Fill, Filled};
use crate::telemetry::waiting::Part;
use crate::worker::WorkerError;
use crate::worker::drive::Driver;

impl Driver<'_> {
    pub(super) async fn activate_rekey(
        &self,
        job: &JobRow,
        request: &RekeyRequest,
    ) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        killpoint::reach("job_before_activate");
        let activated = shared
            .registry
            .activate_rekey(
                &request.org,
                request.job_id,
                request.from_cmk.as_ref(),
                &request.to_cmk,
                request.mode,
                || self.hold.is_trusted(),
            )
            .await;
        let activation = match activated {
            Ok(activation) => activation,
            Err(RegistryError::Refused(refusal)) => {
                return self.fail(job, &refusal.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        };
        killpoint::reach("job_after_activate");
        let mut record = Record::registry(&request.org, "activate", None, &self.why(job));
        record.cmk = Some(activation.from_cmk.clone());
        record.cmk_to = Some(activation.to_cmk.clone());
        record.wrap_epoch = Some(activation.epoch);
        shared.audit.record(record);
        let why = format!("epoch {} is under {}", activation.epoch, activation.to_cmk);
        self.go(job, JobState::Settling, &why, |row| {
            row.activated = Some(Activated {
                epoch: activation.epoch,
                from_cmk: activation.from_cmk,
                at_ms: activation.at_ms,
            });
        })
        .await
    }

    pub(super) async fn drain_rekey(
        &self,
        job: &JobRow,
        request: &RekeyRequest,
    ) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        let Some(sum) = self.drain_scan(job).await? else {
            return Ok(());
        };
        let old = old_cmk(job, request);
        let mut lapsed = self.lapsed(job, request).await?;
        let mut aside = None;
        if lapsed.is_none() {
            // I10: the verdict lets the old CMK be disabled, and a retire ends the
            // old wraps.
            aside = self.set_aside(job, request).await?;
            if aside.is_none() {
                return Ok(());
            }
            // Before the end is recorded: a takeover repeats this, and the end
            // does not come without it.
            let registry = &shared.registry;
            if registry.make_source_only(job.request.org(), &old).await? {
                let mut record =
                    Record::registry(job.request.org(), "source_only", None, &self.why(job));
                record.cmk = Some(old.clone());
                shared.audit.record(record);
            }
            // From here on no job can make it active, so this look is the last.
            lapsed = self.lapsed(job, request).await?;
        }
        self.raise_floors(job, request).await?;
        let mut freed = Vec::new();
        let verdict = match lapsed {
            Some(lapsed) => lapsed,
            None => {
                freed = self.free_earlier(job, &old).await?;
                self.last_words(job, old, freed.clone()).await?
            }
        };
        self.note_scan(job, "verdict", &sum.counts);
        tracing::info!(%verdict, "verdict");
        let (aside, kms_calls) = aside.unzip();
        let why = with_what_stays(&verdict.to_string(), aside.as_ref());
        self.go(job, JobState::Drained, &why, |row| {
            row.proof = sum.counts;
            row.verdict = Some(verdict.to_string());
            row.freed = freed;
            row.set_aside = aside;
            sum.fold_into(row);
            row.effort.kms_calls += kms_calls.unwrap_or(0);
        })
        .await
    }

    /// Sets the old keys aside; `None` while the KMS does not answer. Called again
    /// by a takeover, it goes on where the other was.
    async fn set_aside(
        &self,
        job: &JobRow,
        request: &RekeyRequest,
    ) -> Result<Option<(SetAside, u64)>, WorkerError> {
        let Some(activated) = &job.activated else {
            return Ok(None);
        };
        let fill = Fill {
            shared: &self.worker.shared,
            org: &request.org,
            job: request.job_id,
            mode: request.mode,
            epoch: activated.epoch,
            why: Use {
                reason: "old keys are set aside".to_owned(),
                ..self.why(job)
            },
            keep_s: self.worker.pace.set_aside_s,
            hold: self.hold,
        };
        let waiting = &self.worker.name.waiting;
        match fill.run().await? {
            Filled::All(aside, kms_calls) => {
                waiting.clear(Part::Kms);
                Ok(Some((aside, kms_calls)))
            }
            Filled::Stopped => Ok(None),
            Filled::Waits(why) => {
                waiting.note(Part::Kms, &why);
                self.look_again().await?;
                Ok(None)
            }
        }
    }

    /// Nothing below the job's epoch is left at any replica: what is older from
    /// here on was put back. Before the end is recorded, as above.
    async fn raise_floors(&self, job: &JobRow, request: &RekeyRequest) -> Result<(), WorkerError> {
        let Some(activated) = &job.activated else {
            return Ok(());
        };
        let (org, epoch) = (&request.org, activated.epoch);
        let trusted = || self.hold.is_trusted();
        let raised = self
            .worker
            .shared
            .registry
            .raise_floors(org, request.job_id, (request.mode, epoch), trusted)
            .await?;
        killpoint::reach("job_after_floors");
        self.note_floors(job, org, &raised);
        Ok(())
    }

    /// CMKs that earlier jobs led away from without coming to their end (they
    /// were cancelled): the scans of this job have shown that nothing is below
    /// its epoch, so nothing is under them either. They too are no targets now,
    /// unless an operator has entered them anew since they were left.
    async fn free_earlier(&self, job: &JobRow, old: &CmkArn) -> Result<Vec<CmkArn>, WorkerError> {
        let registry = &self.worker.shared.registry;
        let org = job.request.org();
        let own = job.activated.as_ref().map(|activated| activated.epoch);
        let all = registry.activations(org).await?;
        let list = registry.allow_list(org).await?;
        let is_newer = |cmk: &CmkArn, all: &[ActivationRow]| {
            all.iter()
                .any(|other| Some(other.epoch) >= own && other.to_cmk == *cmk)
        };
        let earlier: std::collections::BTreeSet<CmkArn> = all
            .iter()
            .filter(|other| Some(other.epoch) < own)
            .filter(|other| {
                let row = list.get(&other.from_cmk);
                row.is_some_and(|row| row.entered_ms <= other.at_ms)
            })
            .map(|other| other.from_cmk.clone())
            .filter(|cmk| cmk != old && list.may_target(cmk) && !is_newer(cmk, &all))
            .collect();
        let mut freed = Vec::new();
        for cmk in earlier {
            if registry.make_source_only(org, &cmk).await? {
                let mut record = Record::registry(org, "source_only", None, &self.why(job));
                record.cmk = Some(cmk.clone());
                self.worker.shared.audit.record(record);
                freed.push(cmk);
            }
        }
        // A job may have gone to one of them and on again since the first look.
        // From here on none can, so this look is the last.
        let all = registry.activations(org).await?;
        freed.retain(|cmk| !is_newer(cmk, &all));
        Ok(freed)
    }

    /// The good verdict, with the replicas that the old CMK has. A CMK that can
    /// no longer be asked is none the less not needed.
    async fn last_words(
        &self,
        job: &JobRow,
        old: CmkArn,
        also: Vec<CmkArn>,
    ) -> Result<Verdict, WorkerError> {
        let kms = &self.worker.shared.kms;
        let replicas = match kms.describe(&old, job.request.org(), &self.why(job)).await {
            Ok(described) => described.replicas,
            Err(error) => {
                tracing::warn!(%error, "the old CMK could not be described");
                Vec::new()
            }
        };
        Ok(Verdict::MayBeDisabled {
            old,
            also,
            replicas,
        })
    }

    /// A later job may have made the old CMK active again. It counts for ever,
    /// even if the CMK is not active now: cells and keys of that job's epoch are
    /// under it, and this job's scans pass over what is newer than its own.
    pub(super) async fn lapsed(
        &self,
        job: &JobRow,
        request: &RekeyRequest,
    ) -> Result<Option<Verdict>, WorkerError> {
        let registry = &self.worker.shared.registry;
        let old = old_cmk(job, request);
        let own = job.activated.as_ref().map(|activated| activated.epoch);
        let lapsed = registry
            .activations(job.request.org())
            .await?
            .iter()
            .any(|later| Some(later.epoch) > own && later.to_cmk == old);
        Ok(lapsed.then_some(Verdict::Lapsed { old }))
    }
}

/// The verdict, and which old keys nobody could set aside: they do not hold the
/// job, and a retire leaves them where they are.
fn with_what_stays(verdict: &str, aside: Option<&SetAside>) -> String {
    let refused = aside.map(|aside| &aside.refused).into_iter().flatten();
    let list: Vec<String> = refused.map(|(code, n)| format!("{n} {code}")).collect();
    match list.is_empty() {
        true => verdict.to_owned(),
        false => format!(
            "{verdict}. Old keys that could not be set aside, and that a retire leaves: {}",
            list.join(", ")
        ),
    }
}

/// The CMK that a rekey leads away from.
pub(super) fn old_cmk(job: &JobRow, request: &RekeyRequest) -> CmkArn {
    match (&job.activated, &request.from_cmk) {
        (Some(activated), _) => activated.from_cmk.clone(),
        (None, Some(from)) => from.clone(),
        (None, None) => request.to_cmk.clone(),
    }
}
