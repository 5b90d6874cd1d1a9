//! One job from state to state.
//!
//! Whoever holds the job's lease does this. It may be killed anywhere: each
//! step is one conditional write, and a takeover goes on from the state it
//! finds. An operator's command (cancel, retry) changes the row under the
//! driver, which then reads it again and goes on from there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tracing::Instrument;

use crate::audit::{Record, RecordType, StreamRef};
use crate::clock::WallTime;
use crate::ids::CmkArn;
use crate::job::{
    Activated, Counts, Effort, HoldError, JobHold, JobRow, JobState, Pass, Round, TaskRow,
    TaskState, Verdict, Versioned, note_stream,
};
use crate::killpoint;
use crate::kms::{ReasonCode, Use};
use crate::pipeline::patiently;
use crate::registry::{ActivationRow, RegistryError};
use crate::telemetry::waiting::Part;
use crate::worker::preflight::{self, Found};
use crate::worker::{Worker, WorkerError, audit_counts, plan_round};

/// Drives a job until it is at an end or has to wait for a time, the lease is
/// lost or the worker stops.
/// Returns an error only if the worker must end.
pub(super) async fn run(
    worker: Arc<Worker>,
    hold: JobHold,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let row = hold.row().await;
    let span = tracing::info_span!(
        "job", org = %row.request.org, job = %row.request.job_id, worker = %worker.name.worker
    );
    let driver = Driver {
        worker: &worker,
        hold: &hold,
        moving: Mutex::default(),
    };
    let asked_to_stop = async {
        let _ = stop.wait_for(|stop| *stop).await;
        // A transition that has begun is finished, its audit record included.
        let _ = driver.moving.lock().await;
    };
    let ended = async {
        tokio::select! {
            ended = driver.to_the_end() => ended,
            lost = driver.keep() => Err(lost),
            () = asked_to_stop => Ok(()),
        }
    }
    .instrument(span.clone())
    .await;
    // Whatever happened, do not make others wait for the lease to run out.
    if hold.is_trusted() {
        match hold.release(|_| {}).await {
            Ok(()) | Err(HoldError::Lost(_) | HoldError::Changed(_)) => {}
            Err(HoldError::Book(error)) => {
                tracing::warn!(%error, "the job's lease could not be given back");
            }
        }
    }
    match ended {
        Err(error) if error.may_pass() => {
            span.in_scope(|| tracing::warn!(%error, "the job is left to whoever takes it up"));
            worker.pause(&mut stop).await;
            Ok(())
        }
        other => other,
    }
}

struct Driver<'a> {
    worker: &'a Worker,
    hold: &'a JobHold,
    // Held while the job is moved from one state to another.
    moving: Mutex<()>,
}

impl Driver<'_> {
    /// Keeps the lease while the row is changed by operators too.
    async fn keep(&self) -> WorkerError {
        loop {
            match self.hold.keep().await {
                HoldError::Changed(_) => {
                    if let Err(lost) = self.hold.reload().await {
                        return lost.into();
                    }
                }
                error => return error.into(),
            }
        }
    }

    async fn to_the_end(&self) -> Result<(), WorkerError> {
        loop {
            let job = self.hold.row().await;
            let now_ms = self.worker.shared.clock.wall().unix_ms();
            if job.state.is_final() || !job.is_due(now_ms) {
                return Ok(());
            }
            match self.one_step(&job).await {
                Ok(()) => {}
                // An operator was faster: go on from what stands there now.
                Err(WorkerError::Hold(HoldError::Changed(_))) => {
                    self.hold.reload().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn one_step(&self, job: &JobRow) -> Result<(), WorkerError> {
        match job.state {
            JobState::Queued => self.queued(job).await,
            JobState::Preflight => self.preflight(job).await,
            JobState::Activating => self.activate(job).await,
            JobState::Settling => self.settle(job).await,
            JobState::Rewriting => self.rewrite(job).await,
            JobState::Verifying => self.verify(job).await,
            JobState::Verified => self.verified(job).await,
            JobState::Draining => self.drain(job).await,
            JobState::Blocked => self.blocked(job).await,
            JobState::Drained | JobState::Failed | JobState::Cancelled => Ok(()),
        }
    }

    async fn queued(&self, job: &JobRow) -> Result<(), WorkerError> {
        let now = self.worker.shared.clock.wall();
        let micros = |t: jiff::Timestamp| WallTime(t.as_microsecond());
        if let Some(end) = job.request.not_after
            && now >= micros(end)
        {
            return self
                .fail(
                    job,
                    &format!("too_late: it was not to begin at or after {end}"),
                )
                .await;
        }
        if let Some(begin) = job.request.not_before
            && now < micros(begin)
        {
            return self.look_again().await;
        }
        self.go(job, JobState::Preflight, "its time has come", |_| {})
            .await
    }

    async fn preflight(&self, job: &JobRow) -> Result<(), WorkerError> {
        let found = preflight::run(self.worker, job).await?;
        self.worker.shared.audit.durable().await?;
        match found {
            Found::Good(estimate) => {
                let why = format!(
                    "preflight passed: {} slices, {} KMS calls",
                    estimate.slices, estimate.kms_calls
                );
                self.go(job, JobState::Activating, &why, |row| {
                    row.estimate = Some(estimate)
                })
                .await
            }
            Found::Refuse(reason) => self.fail(job, &reason).await,
            Found::Wait(reason) => {
                let timing = &self.worker.shared.timing;
                let wait = timing.blocked_retry(job.preflights + 1);
                let retry_ms = self.worker.shared.clock.wall().plus(wait).unix_ms();
                self.go(job, JobState::Blocked, &reason, |row| {
                    row.preflights += 1;
                    row.retry_ms = Some(retry_ms);
                })
                .await
            }
        }
    }

    async fn activate(&self, job: &JobRow) -> Result<(), WorkerError> {
        let request = &job.request;
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

    /// Waits until no writer can still follow the old state. A takeover waits
    /// the whole span again, on its own clock: it cannot know when the registry
    /// was changed by that clock.
    async fn settle(&self, job: &JobRow) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        shared
            .clock
            .sleep(Duration::from_millis(shared.timing.settle_ms()))
            .await;
        killpoint::reach("job_after_settling");
        self.go(
            job,
            JobState::Rewriting,
            "every writer follows the new state",
            |_| {},
        )
        .await
    }

    async fn rewrite(&self, job: &JobRow) -> Result<(), WorkerError> {
        let round = self.round(job, Pass::Rewrite).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(());
        };
        let sum = Sum::of(&tasks);
        if sum.parked > 0 {
            return self.block(job, &sum).await;
        }
        let why = format!(
            "{} rows rewritten, {} were current",
            sum.counts.rewritten, sum.counts.current
        );
        self.go(job, JobState::Verifying, &why, |row| {
            row.rewriting.add(&sum.counts);
            sum.fold_into(row);
        })
        .await
    }

    async fn verify(&self, job: &JobRow) -> Result<(), WorkerError> {
        if job.round.is_none() {
            // A zombie may still write for as long as its reads are good.
            let timing = &self.worker.shared.timing;
            let wait = timing.row_age() + timing.request_timeout();
            self.worker.shared.clock.sleep(wait).await;
        }
        let round = self.round(job, Pass::Verify).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(());
        };
        let sum = Sum::of(&tasks);
        if sum.parked > 0 {
            return self.block(job, &sum).await;
        }
        self.note_scan(job, "scan", &sum.counts);
        if sum.effort.finds > 0 {
            return self.back_to_rewriting(job, &sum).await;
        }
        if sum.counts.quarantined > 0 {
            return self.block(job, &sum).await;
        }
        let until = self.drain_end();
        let verdict = match self.lapsed(job).await? {
            Some(lapsed) => lapsed,
            None => Verdict::NotNeeded {
                old: old_cmk(job),
                after: until.to_string(),
            },
        };
        let why = format!("{} rows proven", sum.counts.scanned);
        self.go(job, JobState::Verified, &why, |row| {
            row.proof = sum.counts;
            row.verdict = Some(verdict.to_string());
            row.drain_until_ms = Some(until.unix_ms());
            sum.fold_into(row);
        })
        .await
    }

    /// The drain waits out hints, and a node that is away has its hints still to
    /// come. So all are back first, and the wait begins then.
    async fn verified(&self, job: &JobRow) -> Result<(), WorkerError> {
        let waiting = &self.worker.name.waiting;
        let shared = &self.worker.shared;
        let away = patiently(&shared.clock, || shared.store.away())
            .await
            .map_err(RegistryError::from)?;
        if !away.is_empty() {
            waiting.note(Part::Replicas, &format!("{} away", away.join(", ")));
            return self.look_again().await;
        }
        waiting.clear(Part::Replicas);
        let until = self.drain_end();
        self.go(
            job,
            JobState::Draining,
            "waits until no late write can land",
            |row| row.drain_until_ms = Some(until.unix_ms()),
        )
        .await
    }

    /// When a drain that begins now may end. Clocks may differ, so it is as much
    /// longer.
    fn drain_end(&self) -> WallTime {
        let shared = &self.worker.shared;
        let timing = &shared.timing;
        let wait = Duration::from_millis(timing.drain_ms + 2 * timing.max_skew_ms);
        shared.clock.wall().plus(wait)
    }

    async fn drain(&self, job: &JobRow) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        if job.round.is_none() {
            let until_ms = job.drain_until_ms.unwrap_or(0);
            if shared.clock.wall().unix_ms() < until_ms {
                return self.look_again().await;
            }
        }
        let round = self.round(job, Pass::Drain).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(());
        };
        let sum = Sum::of(&tasks);
        self.note_scan(job, "scan", &sum.counts);
        if sum.effort.finds > 0 {
            return self.back_to_rewriting(job, &sum).await;
        }
        if sum.counts.quarantined > 0 || sum.parked > 0 {
            return self.block(job, &sum).await;
        }
        let old = old_cmk(job);
        let mut lapsed = self.lapsed(job).await?;
        if lapsed.is_none() {
            // Before the end is recorded: a takeover repeats this, and the end
            // does not come without it.
            let registry = &shared.registry;
            if registry.make_source_only(&job.request.org, &old).await? {
                let mut record =
                    Record::registry(&job.request.org, "source_only", None, &self.why(job));
                record.cmk = Some(old.clone());
                shared.audit.record(record);
            }
            // From here on no job can make it active, so this look is the last.
            lapsed = self.lapsed(job).await?;
        }
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
        self.go(job, JobState::Drained, &verdict.to_string(), |row| {
            row.proof = sum.counts;
            row.verdict = Some(verdict.to_string());
            row.freed = freed;
            sum.fold_into(row);
        })
        .await
    }

    /// CMKs that earlier jobs led away from without coming to their end (they
    /// were cancelled): the scans of this job have shown that nothing is below
    /// its epoch, so nothing is under them either. They too are no targets now.
    async fn free_earlier(&self, job: &JobRow, old: &CmkArn) -> Result<Vec<CmkArn>, WorkerError> {
        let registry = &self.worker.shared.registry;
        let org = &job.request.org;
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
        let replicas = match kms.describe(&old, &job.request.org, &self.why(job)).await {
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
    async fn lapsed(&self, job: &JobRow) -> Result<Option<Verdict>, WorkerError> {
        let registry = &self.worker.shared.registry;
        let old = old_cmk(job);
        let own = job.activated.as_ref().map(|activated| activated.epoch);
        let lapsed = registry
            .activations(&job.request.org)
            .await?
            .iter()
            .any(|later| Some(later.epoch) > own && later.to_cmk == old);
        Ok(lapsed.then_some(Verdict::Lapsed { old }))
    }

    async fn back_to_rewriting(&self, job: &JobRow, sum: &Sum) -> Result<(), WorkerError> {
        let why = format!(
            "the scan found {} rows or keys that are not as they should be",
            sum.effort.finds
        );
        self.go(job, JobState::Rewriting, &why, |row| {
            row.verdict = None;
            row.drain_until_ms = None;
            sum.fold_into(row);
        })
        .await
    }

    /// Something waits for a person or a customer. The round stays: its parked
    /// tasks are claimed again when their time comes.
    async fn block(&self, job: &JobRow, sum: &Sum) -> Result<(), WorkerError> {
        let verdict = Verdict::MustNotBeDisabled {
            old: old_cmk(job),
            blocked_slices: sum.blocked_slices,
            quarantined: sum.counts.quarantined,
        };
        self.go(job, JobState::Blocked, &sum.reasons(), |row| {
            row.blocked_slices = sum.blocked_slices;
            row.verdict = Some(verdict.to_string());
            if sum.parked == 0 {
                row.proof = sum.counts;
            }
        })
        .await
    }

    async fn blocked(&self, job: &JobRow) -> Result<(), WorkerError> {
        if job.activated.is_none() {
            let now_ms = self.worker.shared.clock.wall().unix_ms();
            if job.retry_ms.is_some_and(|at| now_ms < at) {
                return self.look_again().await;
            }
            return self
                .go(job, JobState::Preflight, "tried again", |row| {
                    row.retry_ms = None
                })
                .await;
        }
        let Some(round) = job.round else {
            return self
                .go(
                    job,
                    JobState::Rewriting,
                    "nothing is left to wait for",
                    |_| {},
                )
                .await;
        };
        let tasks = self
            .worker
            .shared
            .book
            .tasks(job.request.job_id, round.number)
            .await?;
        let sum = Sum::of(&tasks);
        if sum.parked > 0 || sum.open > 0 {
            if sum.blocked_slices != job.blocked_slices {
                let verdict = Verdict::MustNotBeDisabled {
                    old: old_cmk(job),
                    blocked_slices: sum.blocked_slices,
                    quarantined: sum.counts.quarantined,
                };
                self.hold
                    .save(|row| {
                        row.blocked_slices = sum.blocked_slices;
                        row.why = sum.reasons();
                        row.verdict = Some(verdict.to_string());
                    })
                    .await?;
            }
            return self.look_again().await;
        }
        if round.pass != Pass::Rewrite && sum.counts.quarantined > 0 {
            // Nobody can open these but a person who mends them or deletes them;
            // `retry` looks again.
            return self.look_again().await;
        }
        let to = match round.pass {
            Pass::Rewrite => JobState::Rewriting,
            Pass::Verify | Pass::Drain => JobState::Verifying,
        };
        self.go(job, to, "no slice is blocked any more", |row| {
            row.blocked_slices = 0;
            row.verdict = None;
        })
        .await
    }

    /// The round of this pass, planned if there is none or if its planner died.
    async fn round(&self, job: &JobRow, pass: Pass) -> Result<Round, WorkerError> {
        match job.round {
            Some(round) if round.pass == pass && round.tasks.is_some() => Ok(round),
            _ => plan_round::plan(self.worker, self.hold, pass).await,
        }
    }

    /// The tasks of a round once none of them is open; `None` while some are.
    async fn tasks(
        &self,
        job: &JobRow,
        round: &Round,
    ) -> Result<Option<Vec<Versioned<TaskRow>>>, WorkerError> {
        let tasks = self
            .worker
            .shared
            .book
            .tasks(job.request.job_id, round.number)
            .await?;
        if Sum::of(&tasks).open > 0 {
            self.look_again().await?;
            return Ok(None);
        }
        Ok(Some(tasks))
    }

    async fn look_again(&self) -> Result<(), WorkerError> {
        let wait = Duration::from_millis(self.worker.pace.poll_ms);
        self.worker.shared.clock.sleep(wait).await;
        Ok(())
    }

    async fn fail(&self, job: &JobRow, reason: &str) -> Result<(), WorkerError> {
        // Among the dead letters first: a kill in between puts it there twice,
        // which is better than never.
        let body = crate::job::JobMessage::Rekey(job.request.clone()).to_json();
        self.worker.queue.bury(&body, reason).await?;
        self.go(job, JobState::Failed, reason, |_| {}).await
    }

    async fn go(
        &self,
        job: &JobRow,
        to: JobState,
        why: &str,
        change: impl FnOnce(&mut JobRow),
    ) -> Result<(), WorkerError> {
        let _moving = self.moving.lock().await;
        // What led here is on disk before the state says so (I16).
        self.worker.note_intent(job, to, why);
        self.worker.shared.audit.durable().await?;
        killpoint::reach("job_before_transition");
        let step = self.hold.transition(job, to, why, change).await?;
        self.worker.note_transition(&self.hold.row().await, &step);
        self.worker.shared.audit.durable().await?;
        killpoint::reach("job_after_transition");
        Ok(())
    }

    fn why(&self, job: &JobRow) -> Use {
        let mut why = Use::new(ReasonCode::Rekey, job.request.reason.clone());
        why.job = Some(job.request.job_id);
        why.requested_by = Some(job.request.requested_by.clone());
        why
    }

    fn note_scan(&self, job: &JobRow, action: &'static str, counts: &Counts) {
        let mut why = self.why(job);
        why.code = ReasonCode::Verify;
        let record = Record::verify(&job.request.org, action, audit_counts(counts), &why);
        debug_assert_eq!(record.kind_of_record, RecordType::Verify);
        self.worker.shared.audit.record(record);
    }
}

fn old_cmk(job: &JobRow) -> CmkArn {
    match (&job.activated, &job.request.from_cmk) {
        (Some(activated), _) => activated.from_cmk.clone(),
        (None, Some(from)) => from.clone(),
        (None, None) => job.request.to_cmk.clone(),
    }
}

/// The tasks of a round, added up.
#[derive(Default)]
struct Sum {
    open: usize,
    parked: usize,
    counts: Counts,
    effort: Effort,
    blocked_slices: u64,
    takeovers: u64,
    codes: std::collections::BTreeMap<String, u64>,
    streams: Vec<StreamRef>,
}

impl Sum {
    fn of(tasks: &[Versioned<TaskRow>]) -> Self {
        let mut sum = Self::default();
        for task in tasks.iter().map(|task| &task.row) {
            match task.state {
                TaskState::Open => sum.open += 1,
                TaskState::Parked => sum.parked += 1,
                TaskState::Done => {}
            }
            sum.counts.add(&task.counts);
            sum.effort.add(&task.effort);
            sum.blocked_slices += task.blocked.len() as u64;
            sum.takeovers += u64::from(task.takeovers);
            for stream in &task.streams {
                note_stream(&mut sum.streams, stream.clone());
            }
            for blocked in &task.blocked {
                *sum.codes.entry(blocked.code.clone()).or_default() += 1;
            }
        }
        sum
    }

    /// Why things wait, in one line.
    fn reasons(&self) -> String {
        let mut parts: Vec<String> = self
            .codes
            .iter()
            .map(|(code, n)| format!("{n} slices {code}"))
            .collect();
        if self.counts.quarantined > 0 {
            parts.push(format!("{} cells quarantined", self.counts.quarantined));
        }
        if parts.is_empty() {
            parts.push("nothing waits any more".to_owned());
        }
        parts.join(", ")
    }

    /// Closes the round in the job's row, in the same write as the transition.
    fn fold_into(&self, row: &mut JobRow) {
        row.effort.add(&self.effort);
        row.takeovers += self.takeovers;
        row.blocked_slices = 0;
        for stream in &self.streams {
            note_stream(&mut row.streams, stream.clone());
        }
        row.round = None;
    }
}
