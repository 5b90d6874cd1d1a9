//! Is everything as the job needs it? Asked before anything is changed.

use crate::ids::CmkArn;
use crate::job::{Estimate, JobRow, Mode};
use crate::kms::{CmkState, KmsClass, KmsError, ReasonCode, Use};
use crate::pipeline::plan::count_slices;
use crate::pipeline::{Shared, patiently};
use crate::registry::{AllowList, RegistryError};
use crate::scope::Scope;
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

struct Trial<'a> {
    worker: &'a Worker,
    job: &'a JobRow,
    list: &'a AllowList,
}

impl Trial<'_> {
    fn why(&self) -> Use {
        let mut why = Use::new(ReasonCode::Canary, "preflight");
        why.job = Some(self.job.request.job_id);
        why.requested_by = Some(self.job.request.requested_by.clone());
        why
    }

    fn canary(&self) -> Scope {
        Scope::Canary {
            org: self.job.request.org.clone(),
        }
    }

    async fn describe_target(&self) -> Result<Option<Found>, WorkerError> {
        let request = &self.job.request;
        let kms = &self.worker.shared.kms;
        let cmk = &request.to_cmk;
        let described = match kms.describe(cmk, &request.org, &self.why()).await {
            Ok(described) => described,
            Err(error) => return self.target_error(error).map(Some),
        };
        Ok(if described.state != CmkState::Enabled {
            let state = format!("{:?}", described.state);
            Some(Found::Refuse(format!(
                "target_not_enabled: `{cmk}` is {state}; enable it and ask again"
            )))
        } else if !described.symmetric {
            Some(Found::Refuse(format!(
                "target_not_symmetric: `{cmk}` cannot wrap data keys; name a symmetric encryption key"
            )))
        } else {
            None
        })
    }

    /// The target wraps and unwraps, and refuses a wrong context.
    async fn use_target(&self) -> Result<Option<Found>, WorkerError> {
        let request = &self.job.request;
        if request.mode == Mode::Rewrap {
            // The rewrap role can neither make nor open keys; `use_source` tries
            // the one call it has.
            return Ok(None);
        }
        let kms = &self.worker.shared.kms;
        let (cmk, why) = (&request.to_cmk, self.why());
        let made = match kms.generate_data_key(cmk, &self.canary(), &why).await {
            Ok(made) => made,
            Err(error) => return self.target_error(error).map(Some),
        };
        let wrapped = &made.wrapped.bytes;
        if let Err(error) = kms.decrypt(cmk, wrapped, &self.canary(), &why).await {
            return self.target_error(error).map(Some);
        }
        // A KMS that does not bind the context would make scopes worthless.
        let other = Scope::Search {
            org: request.org.clone(),
        };
        match kms.decrypt(cmk, wrapped, &other, &why).await {
            Err(error) if matches!(error.class, KmsClass::QuarantinedKey | KmsClass::Denied) => {
                Ok(None)
            }
            Err(error) => self.target_error(error).map(Some),
            Ok(_) => Ok(Some(Found::Refuse(format!(
                "context_not_bound: `{cmk}` opened a canary under another encryption context"
            )))),
        }
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
        let kms = &self.worker.shared.kms;
        let why = self.why();
        let answer = match request.mode {
            Mode::Reencrypt => kms
                .decrypt(source, &wrap, &self.canary(), &why)
                .await
                .map(drop),
            Mode::Rewrap => kms
                .re_encrypt(source, &wrap, &request.to_cmk, &self.canary(), &why)
                .await
                .map(drop),
        };
        match answer {
            Ok(()) => Ok(None),
            Err(error) if error.class == KmsClass::FatalWorker => Err(error.into()),
            Err(error) => {
                let code = error
                    .blocked_reason()
                    .map_or(error.code.clone(), |r| r.into_owned());
                Ok(Some(Found::Wait(format!(
                    "source_{code}: the active `{source}` does not open its canary ({})",
                    error.message
                ))))
            }
        }
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
