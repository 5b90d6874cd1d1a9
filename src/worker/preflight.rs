//! Is everything as the job needs it? Asked before anything is changed.

use crate::ids::{CmkArn, OrgId};
use crate::job::{Estimate, JobMessage, JobRow, Mode, MoveKind, MoveRequest, RekeyRequest};
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
    if let Some(reason) = store_problem(&worker.shared).await? {
        return Ok(Found::Refuse(reason));
    }
    match &job.request {
        JobMessage::Rekey(request) => rekey(worker, job, request).await,
        JobMessage::Move(request) => channel_move(worker, job, request).await,
    }
}

async fn rekey(
    worker: &Worker,
    job: &JobRow,
    request: &RekeyRequest,
) -> Result<Found, WorkerError> {
    let shared = &worker.shared;
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
    let trial = Trial::new(worker, job, &request.org).await?;
    // One after the other: a target that is disabled costs one call.
    if let Some(found) = trial.describe_target(&request.to_cmk).await? {
        return Ok(found);
    }
    // The rewrap role can neither make nor open keys; `use_source` tries the one
    // call it has.
    if request.mode == Mode::Reencrypt
        && let Some(found) = trial.use_target(&request.to_cmk).await?
    {
        return Ok(found);
    }
    let rewrap_to = (request.mode == Mode::Rewrap).then_some(&request.to_cmk);
    if let Some(found) = trial.use_source(&org_row.cmk, rewrap_to).await? {
        return Ok(found);
    }
    let slices = count_slices(&shared.store, &shared.registry, &request.org, None).await?;
    // Rewriting opens one key and makes one, or wraps one anew; the proof opens
    // each once more.
    let calls_per_slice = match request.mode {
        Mode::Reencrypt => 3,
        Mode::Rewrap => 2,
    };
    Ok(Found::Good(estimate(worker, slices, calls_per_slice, 1)))
}

async fn channel_move(
    worker: &Worker,
    job: &JobRow,
    request: &MoveRequest,
) -> Result<Found, WorkerError> {
    let registry = &worker.shared.registry;
    match registry.authorize_move(request).await {
        Ok(()) => {}
        Err(RegistryError::Refused(refusal)) => return Ok(Found::Refuse(refusal.to_string())),
        Err(error) => return Err(error.into()),
    }
    // Keys are made under the CMK of where the channel goes to, and opened under
    // that of where it is.
    let target = registry.org(request.to_org()).await?.cmk;
    let to = Trial::new(worker, job, request.to_org()).await?;
    if let Some(found) = to.describe_target(&target).await? {
        return Ok(found);
    }
    if let Some(found) = to.use_target(&target).await? {
        return Ok(found);
    }
    let source = registry.org(&request.org).await?.cmk;
    let from = Trial::new(worker, job, &request.org).await?;
    if let Some(found) = from.use_source(&source, None).await? {
        return Ok(found);
    }
    let channel = Some(&request.from.channel);
    let slices = count_slices(&worker.shared.store, registry, &request.org, channel).await?;
    // Announced, mirrored, switched and moved each settle.
    let settles = match request.kind() {
        MoveKind::InPlace => 1,
        MoveKind::Copy => 4,
    };
    Ok(Found::Good(estimate(worker, slices, 3, settles)))
}

fn estimate(worker: &Worker, slices: u64, calls_per_slice: u64, settles: u64) -> Estimate {
    let timing = &worker.shared.timing;
    let kms_calls = slices * calls_per_slice;
    let waits_ms = settles * timing.settle_ms()
        + timing.row_age_ms
        + timing.request_timeout_ms
        + timing.drain_ms;
    let at_budget_s = kms_calls as f64 / worker.pace.kms_rate_per_s.max(0.001);
    Estimate {
        slices,
        kms_calls,
        seconds: at_budget_s.ceil() as u64 + waits_ms.div_ceil(1000),
    }
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

/// Tries CMKs on behalf of one organization.
struct Trial<'a> {
    worker: &'a Worker,
    org: &'a OrgId,
    list: AllowList,
    why: Use,
}

impl<'a> Trial<'a> {
    async fn new(worker: &'a Worker, job: &JobRow, org: &'a OrgId) -> Result<Self, WorkerError> {
        let mut why = Use::new(ReasonCode::Canary, "preflight");
        why.job = Some(job.request.job_id());
        why.requested_by = Some(job.request.requested_by().to_owned());
        Ok(Self {
            worker,
            org,
            list: worker.shared.registry.allow_list(org).await?,
            why,
        })
    }

    fn ask(&self) -> trial::Trial<'_> {
        trial::Trial {
            kms: &*self.worker.shared.kms,
            org: self.org,
            why: &self.why,
        }
    }

    async fn describe_target(&self, cmk: &CmkArn) -> Result<Option<Found>, WorkerError> {
        let described = self.ask().describe(cmk).await;
        target(cmk, described.map(drop))
    }

    /// The target wraps and unwraps, and refuses a wrong context.
    async fn use_target(&self, cmk: &CmkArn) -> Result<Option<Found>, WorkerError> {
        target(cmk, self.ask().wraps(cmk).await)
    }

    /// The canary that was stored when the source CMK was entered opens, or is
    /// wrapped anew under the CMK given.
    async fn use_source(
        &self,
        source: &CmkArn,
        rewrap_to: Option<&CmkArn>,
    ) -> Result<Option<Found>, WorkerError> {
        let wrap = self
            .list
            .get(source)
            .and_then(|row| hex::decode(&row.canary_hex).ok());
        let Some(wrap) = wrap else {
            let org = self.org;
            return Ok(Some(Found::Refuse(format!(
                "source_not_allowed: the active `{source}` has no canary on the allow-list; \
                 enter it again with `rekeyd org allow-cmk {org} {source}`"
            ))));
        };
        let answer = match rewrap_to {
            None => self.ask().opens(source, &wrap).await,
            Some(to) => self.ask().rewraps(source, &wrap, to).await,
        };
        let error = match answer {
            Ok(()) => return Ok(None),
            Err(Unfit::Kms(error)) => error,
            // Opening and rewrapping find nothing but errors of the KMS.
            Err(unfit) => return target(rewrap_to.unwrap_or(source), Err(unfit)),
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
}

/// What is to become of the job by what its target answered.
fn target(cmk: &CmkArn, answer: Result<(), Unfit>) -> Result<Option<Found>, WorkerError> {
    let refusal = match answer {
        Ok(()) => return Ok(None),
        Err(Unfit::Kms(error)) => return target_error(cmk, error).map(Some),
        Err(Unfit::NotEnabled(described)) => {
            let state = described.state;
            format!("target_not_enabled: `{cmk}` is {state:?}; enable it and ask again")
        }
        Err(Unfit::NotSymmetric) => format!(
            "target_not_symmetric: `{cmk}` cannot wrap data keys; name a symmetric encryption key"
        ),
        Err(Unfit::ContextNotBound) => {
            format!("context_not_bound: `{cmk}` opened a canary under another encryption context")
        }
    };
    Ok(Some(Found::Refuse(refusal)))
}

fn target_error(cmk: &CmkArn, error: KmsError) -> Result<Found, WorkerError> {
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
