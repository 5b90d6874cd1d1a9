//! Is everything as the job needs it? Asked before anything is changed.

use crate::ids::CmkArn;
use crate::job::{Estimate, JobRow, Mode, RekeyRequest};
use crate::kms::trial::{self, Unfit};
use crate::kms::{KmsClass, KmsError, ReasonCode, Use};
use crate::pipeline::plan::count_slices;
use crate::pipeline::{Shared, patiently};
use crate::registry::{AllowList, RegistryError};
use crate::worker::{Worker, WorkerError};

/// What preflight found.
pub(super) enum Found {
    /// Go on.
    Good(Estimate),
    /// The job may not or cannot do what it asks for.
    Refuse(String),
    /// Not now; tried again by itself.
    Wait(String),
}

pub(super) async fn run(worker: &Worker, job: &JobRow) -> Result<Found, WorkerError> {
    let shared = &worker.shared;
    let request = &job.request;
    let authorized = shared
        .registry
        .authorize_rekey(
            &request.org,
            request.from_cmk.as_ref(),
            &request.to_cmk,
            request.mode,
        )
        .await;
    let org_row = match authorized {
        Ok(row) => row,
        Err(RegistryError::Refused(refusal)) => return Ok(Found::Refuse(refusal.to_string())),
        Err(error) => return Err(error.into()),
    };
    if let Some(reason) = store_problem(shared).await? {
        return Ok(Found::Refuse(reason));
    }
    let list = shared.registry.allow_list(&request.org).await?;
    let trial = Trial {
        worker,
        job,
        list: &list,
        why: why(request),
    };
    // One after the other: a target that is disabled costs one call.
    if let Some(found) = trial.describe_target().await? {
        return Ok(found);
    }
    if let Some(found) = trial.use_target().await? {
        return Ok(found);
    }
    if let Some(found) = trial.use_source(&org_row.cmk).await? {
        return Ok(found);
    }
    let slices = count_slices(&shared.store, &shared.registry, &request.org).await?;
    // Rewriting opens one key and makes one, or wraps one anew; the proof opens
    // each once more.
    let calls_per_slice = match request.mode {
        Mode::Reencrypt => 3,
        Mode::Rewrap => 2,
    };
    let kms_calls = slices * calls_per_slice;
    let waits_ms = shared.timing.settle_ms()
        + shared.timing.row_age_ms
        + shared.timing.request_timeout_ms
        + shared.timing.drain_ms;
    let at_budget_s = kms_calls as f64 / worker.pace.kms_rate_per_s.max(0.001);
    Ok(Found::Good(Estimate {
        slices,
        kms_calls,
        seconds: at_budget_s.ceil() as u64 + waits_ms.div_ceil(1000),
    }))
}

/// What about the store would break the promises that the rewriting stands on.
async fn store_problem(shared: &Shared) -> Result<Option<String>, WorkerError> {
    let health = patiently(&shared.clock, || shared.store.health())
        .await
        .map_err(RegistryError::from)?;
    if let Some(problem) = health.problems.first() {
        let more = match health.problems.len() - 1 {
            0 => String::new(),
            n => format!(" (and {n} more; `rekeyd schema check` lists them)"),
        };
        return Ok(Some(format!(
            "store_unfit: {}; {}{more}",
            problem.what, problem.fix
        )));
    }
    let skew_ms = shared.timing.max_skew_ms;
    if health.clock_offset_ms.unsigned_abs() > skew_ms {
        return Ok(Some(format!(
            "clock_skew: the store's clock is {} ms from ours, and {skew_ms} ms are allowed; \
             set the clocks (NTP) and ask again",
            health.clock_offset_ms
        )));
    }
    Ok(None)
}

fn why(request: &RekeyRequest) -> Use {
    let mut why = Use::new(ReasonCode::Canary, "preflight");
    why.job = Some(request.job_id);
    why.requested_by = Some(request.requested_by.clone());
    why
}

struct Trial<'a> {
    worker: &'a Worker,
    job: &'a JobRow,
    list: &'a AllowList,
    why: Use,
}

impl Trial<'_> {
    /// Tries CMKs on behalf of the job's organization.
    fn ask(&self) -> trial::Trial<'_> {
        trial::Trial {
            kms: &*self.worker.shared.kms,
            org: &self.job.request.org,
            why: &self.why,
        }
    }

    async fn describe_target(&self) -> Result<Option<Found>, WorkerError> {
        let cmk = &self.job.request.to_cmk;
        let described = self.ask().describe(cmk).await;
        self.target(described.map(drop))
    }

    /// The target wraps and unwraps, and refuses a wrong context.
    async fn use_target(&self) -> Result<Option<Found>, WorkerError> {
        let request = &self.job.request;
        if request.mode == Mode::Rewrap {
            // The rewrap role can neither make nor open keys; `use_source` tries
            // the one call it has.
            return Ok(None);
        }
        let used = self.ask().wraps(&request.to_cmk).await;
        self.target(used)
    }

    /// The canary that was stored when the source CMK was entered opens.
    async fn use_source(&self, source: &CmkArn) -> Result<Option<Found>, WorkerError> {
        let request = &self.job.request;
        let wrap = self
            .list
            .get(source)
            .and_then(|row| hex::decode(&row.canary_hex).ok());
        let Some(wrap) = wrap else {
            return Ok(Some(Found::Refuse(format!(
                "source_not_allowed: the active `{source}` has no canary on the allow-list; \
                 enter it again with `rekeyd org allow-cmk {} {source}`",
                request.org
            ))));
        };
        let answer = match request.mode {
            Mode::Reencrypt => self.ask().opens(source, &wrap).await,
            Mode::Rewrap => self.ask().rewraps(source, &wrap, &request.to_cmk).await,
        };
        let error = match answer {
            Ok(()) => return Ok(None),
            Err(Unfit::Kms(error)) => error,
            // Opening and rewrapping find nothing but errors of the KMS.
            Err(unfit) => return self.target(Err(unfit)),
        };
        if error.class == KmsClass::FatalWorker {
            return Err(error.into());
        }
        let code = error
            .blocked_reason()
            .map_or(error.code.clone(), |r| r.into_owned());
        Ok(Some(Found::Wait(format!(
            "source_{code}: the active `{source}` does not open its canary ({})",
            error.message
        ))))
    }

    /// What is to become of the job by what its target answered.
    fn target(&self, answer: Result<(), Unfit>) -> Result<Option<Found>, WorkerError> {
        let cmk = &self.job.request.to_cmk;
        let refusal = match answer {
            Ok(()) => return Ok(None),
            Err(Unfit::Kms(error)) => return self.target_error(error).map(Some),
            Err(Unfit::NotEnabled(described)) => {
                let state = described.state;
                format!("target_not_enabled: `{cmk}` is {state:?}; enable it and ask again")
            }
            Err(Unfit::NotSymmetric) => format!(
                "target_not_symmetric: `{cmk}` cannot wrap data keys; name a symmetric encryption key"
            ),
            Err(Unfit::ContextNotBound) => format!(
                "context_not_bound: `{cmk}` opened a canary under another encryption context"
            ),
        };
        Ok(Some(Found::Refuse(refusal)))
    }

    fn target_error(&self, error: KmsError) -> Result<Found, WorkerError> {
        let cmk = &self.job.request.to_cmk;
        match error.class {
            KmsClass::FatalWorker => Err(error.into()),
            KmsClass::Unavailable | KmsClass::Transient { .. } => Ok(Found::Wait(format!(
                "kms_unavailable: `{cmk}` could not be tried ({})",
                error.code
            ))),
            _ => Ok(Found::Refuse(format!(
                "target_unusable: `{cmk}` answers {} ({})",
                error.code, error.message
            ))),
        }
    }
}
