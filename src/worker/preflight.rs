//! Is everything as the job needs it? Asked before anything is changed.

use crate::clock::SharedClock;
use crate::ids::{ChannelId, CmkArn, OrgId};
use crate::job::{Estimate, JobMessage, JobRow, Mode, MoveRequest, RekeyRequest};
use crate::kms::trial::{self, Unfit};
use crate::kms::{Kms, KmsClass, KmsError, ReasonCode, Use};
use crate::pipeline::patiently;
use crate::pipeline::plan::count_slices;
use crate::plan::{self, Way};
use crate::registry::{AllowList, Registry, RegistryError, Timing};
use crate::store::SharedStore;
use crate::worker::drift::{self, Drift};
use crate::worker::{Worker, WorkerError};

/// What preflight found.
pub(super) enum Found {
    /// Go on. What was not looked at is said.
    Good(Estimate, Option<String>),
    /// The job may not or cannot do what it asks for.
    Refuse(String),
    /// Not now; tried again by itself.
    Wait(String),
}

/// What keeps a job from being done; begins with a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The job may not or cannot do what it asks for.
    Refuse(String),
    /// Not now; tried again by itself.
    Wait(String),
}

/// What is looked at, by whom and why. Nothing is changed: canaries hold no data.
/// A plan looks at the same.
pub struct Preflight<'a> {
    /// The store.
    pub store: &'a SharedStore,
    /// The registry.
    pub registry: &'a Registry,
    /// The KMS, as whoever is to use it.
    pub kms: &'a dyn Kms,
    /// The clock.
    pub clock: &'a SharedClock,
    /// The waits of the store.
    pub timing: &'a Timing,
    /// What is asked for.
    pub message: &'a JobMessage,
    /// Why the CMKs are tried, for the audit log.
    pub why: Use,
}

pub(super) async fn run(worker: &Worker, job: &JobRow) -> Result<Found, WorkerError> {
    let shared = &worker.shared;
    let mut why = Use::new(ReasonCode::Canary, "preflight");
    why.job = Some(job.request.job_id());
    why.requested_by = Some(job.request.requested_by().to_owned());
    let look = Preflight {
        store: &shared.store,
        registry: &shared.registry,
        kms: &*shared.kms,
        clock: &shared.clock,
        timing: &shared.timing,
        message: &job.request,
        why,
    };
    let found = |obstacle| match obstacle {
        Obstacle::Refuse(reason) => Found::Refuse(reason),
        Obstacle::Wait(reason) => Found::Wait(reason),
    };
    if let Some(obstacle) = look.store().await? {
        return Ok(found(obstacle));
    }
    if let Some(obstacle) = look.authority().await? {
        return Ok(found(obstacle));
    }
    if let Some(obstacle) = look.cmks().await? {
        return Ok(found(obstacle));
    }
    let not_looked = match drift::look(&look).await? {
        Drift::NotOfThisJob => None,
        Drift::NotLooked(why) => Some(format!("drift was not looked at: {why}")),
        Drift::Wait(reason) => return Ok(Found::Wait(reason)),
        Drift::Compared(lifted) => match drift::not_accepted(&job.request, &lifted) {
            Some(reason) => return Ok(Found::Wait(reason)),
            None => None,
        },
    };
    let (org, channel) = look.reads();
    let slices = count_slices(&shared.store, &shared.registry, org, channel).await?;
    let rate = worker.pace.kms_rate_per_s;
    let estimate = plan::estimate(Way::of(&job.request), slices, &shared.timing, rate);
    Ok(Found::Good(estimate, not_looked))
}

impl Preflight<'_> {
    /// The organization whose data the job goes through, and of a move the
    /// channel.
    pub fn reads(&self) -> (&OrgId, Option<&ChannelId>) {
        match self.message {
            JobMessage::Rekey(request) => (&request.org, None),
            JobMessage::Move(request) => (&request.org, Some(&request.from.channel)),
        }
    }

    /// What about the store would break the promises that the rewriting stands on.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn store(&self) -> Result<Option<Obstacle>, WorkerError> {
        let health = patiently(self.clock, || self.store.health())
            .await
            .map_err(RegistryError::from)?;
        if let Some(problem) = health.problems.first() {
            let more = match health.problems.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more; `rekeyd schema check` lists them)"),
            };
            return Ok(Some(Obstacle::Refuse(format!(
                "store_unfit: {}; {}{more}",
                problem.what, problem.fix
            ))));
        }
        let skew_ms = self.timing.max_skew_ms;
        if health.clock_offset_ms.unsigned_abs() > skew_ms {
            return Ok(Some(Obstacle::Refuse(format!(
                "clock_skew: the store's clock is {} ms from ours, and {skew_ms} ms are allowed; \
                 set the clocks (NTP) and ask again",
                health.clock_offset_ms
            ))));
        }
        Ok(None)
    }

    /// What the registry does not allow. Makes no KMS call.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn authority(&self) -> Result<Option<Obstacle>, WorkerError> {
        let authorized = match self.message {
            JobMessage::Rekey(request) => {
                let authorizing = self.registry.authorize_rekey(
                    &request.org,
                    request.from_cmk.as_ref(),
                    &request.to_cmk,
                    request.mode,
                );
                authorizing.await.map(drop)
            }
            JobMessage::Move(request) => self.registry.authorize_move(request).await,
        };
        match authorized {
            Ok(()) => Ok(None),
            Err(RegistryError::Refused(refusal)) => Ok(Some(Obstacle::Refuse(refusal.to_string()))),
            Err(error) => Err(error.into()),
        }
    }

    /// Which CMK is not as the job needs it, by canaries.
    ///
    /// # Errors
    /// If the KMS refuses us as such, or the registry cannot be read.
    pub async fn cmks(&self) -> Result<Option<Obstacle>, WorkerError> {
        match self.message {
            JobMessage::Rekey(request) => self.cmks_of_rekey(request).await,
            JobMessage::Move(request) => self.cmks_of_move(request).await,
        }
    }

    async fn cmks_of_rekey(&self, request: &RekeyRequest) -> Result<Option<Obstacle>, WorkerError> {
        let active = self.registry.org(&request.org).await?.cmk;
        let trial = self.trial(&request.org).await?;
        // One after the other: a target that is disabled costs one call.
        if let Some(obstacle) = trial.describe_target(&request.to_cmk).await? {
            return Ok(Some(obstacle));
        }
        // The rewrap role can neither make nor open keys; `use_source` tries the
        // one call it has.
        if request.mode == Mode::Reencrypt
            && let Some(obstacle) = trial.use_target(&request.to_cmk).await?
        {
            return Ok(Some(obstacle));
        }
        let rewrap_to = (request.mode == Mode::Rewrap).then_some(&request.to_cmk);
        trial.use_source(&active, rewrap_to).await
    }

    async fn cmks_of_move(&self, request: &MoveRequest) -> Result<Option<Obstacle>, WorkerError> {
        // Keys are made under the CMK of where the channel goes to, and opened
        // under that of where it is.
        let target = self.registry.org(request.to_org()).await?.cmk;
        let to = self.trial(request.to_org()).await?;
        if let Some(obstacle) = to.describe_target(&target).await? {
            return Ok(Some(obstacle));
        }
        if let Some(obstacle) = to.use_target(&target).await? {
            return Ok(Some(obstacle));
        }
        let source = self.registry.org(&request.org).await?.cmk;
        let from = self.trial(&request.org).await?;
        from.use_source(&source, None).await
    }

    async fn trial<'a>(&'a self, org: &'a OrgId) -> Result<Trial<'a>, WorkerError> {
        Ok(Trial {
            look: self,
            org,
            list: self.registry.allow_list(org).await?,
        })
    }
}

/// Tries CMKs on behalf of one organization.
struct Trial<'a> {
    look: &'a Preflight<'a>,
    org: &'a OrgId,
    list: AllowList,
}

impl Trial<'_> {
    fn ask(&self) -> trial::Trial<'_> {
        trial::Trial {
            kms: self.look.kms,
            org: self.org,
            why: &self.look.why,
        }
    }

    async fn describe_target(&self, cmk: &CmkArn) -> Result<Option<Obstacle>, WorkerError> {
        let described = self.ask().describe(cmk).await;
        target(cmk, described.map(drop))
    }

    /// The target wraps and unwraps, and refuses a wrong context.
    async fn use_target(&self, cmk: &CmkArn) -> Result<Option<Obstacle>, WorkerError> {
        target(cmk, self.ask().wraps(cmk).await)
    }

    /// The canary that was stored when the source CMK was entered opens, or is
    /// wrapped anew under the CMK given.
    async fn use_source(
        &self,
        source: &CmkArn,
        rewrap_to: Option<&CmkArn>,
    ) -> Result<Option<Obstacle>, WorkerError> {
        let wrap = self
            .list
            .get(source)
            .and_then(|row| hex::decode(&row.canary_hex).ok());
        let Some(wrap) = wrap else {
            let org = self.org;
            return Ok(Some(Obstacle::Refuse(format!(
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
        Ok(Some(Obstacle::Wait(format!(
            "source_{code}: the active `{source}` does not open its canary ({})",
            error.message
        ))))
    }
}

/// What is to become of the job by what its target answered.
fn target(cmk: &CmkArn, answer: Result<(), Unfit>) -> Result<Option<Obstacle>, WorkerError> {
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
    Ok(Some(Obstacle::Refuse(refusal)))
}

fn target_error(cmk: &CmkArn, error: KmsError) -> Result<Obstacle, WorkerError> {
    match error.class {
        KmsClass::FatalWorker => Err(error.into()),
        KmsClass::Unavailable | KmsClass::Transient { .. } => Ok(Obstacle::Wait(format!(
            "kms_unavailable: `{cmk}` could not be tried ({})",
            error.code
        ))),
        _ => Ok(Obstacle::Refuse(format!(
            "target_unusable: `{cmk}` answers {} ({})",
            error.code, error.message
        ))),
    }
}
