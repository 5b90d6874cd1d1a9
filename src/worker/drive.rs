//! One job from state to state.
//!
//! Whoever holds the job's lease does this. It may be killed anywhere: each
//! step is one conditional write, and a takeover goes on from the state it
//! finds. An operator's command (cancel, pause, retry) changes the row under the
//! driver, which then reads it again and goes on from there.
//!
//! | file | what |
//! |---|---|
//! | `rekey` | what only a rekey does |
//! | `moves` | what only a channel move does |
//! | `sum` | the tasks of a round, added up |

mod moves;
mod rekey;
mod sum;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tracing::Instrument;

use crate::audit::{Record, RecordType};
use crate::clock::WallTime;
use crate::ids::OrgId;
use crate::job::{
    Counts, HoldError, JobHold, JobMessage, JobRow, JobState, Pass, Round, TaskRow, Verdict,
    Versioned,
};
use crate::killpoint;
use crate::kms::{ReasonCode, Use};
use crate::pipeline::patiently;
use crate::planted::{self, Bug};
use crate::registry::{CopyPhase, Raised, RegistryError};
use crate::telemetry::span;
use crate::telemetry::waiting::Part;
use crate::worker::preflight::{self, Found};
use crate::worker::{Worker, WorkerError, plan_round};
use sum::Sum;

/// Drives a job until it is at an end or has to wait for a time, the lease is
/// lost or the worker stops.
/// Returns an error only if the worker must end.
pub(super) async fn run(
    worker: Arc<Worker>,
    hold: JobHold,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let row = hold.row().await;
    let request = &row.request;
    let span = span::job(&worker.name.worker, request.org(), request.job_id());
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
            biased;
            lost = driver.keep() => Err(lost),
            () = asked_to_stop => Ok(()),
            ended = driver.to_the_end() => ended,
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
            JobState::Activating => match &job.request {
                JobMessage::Rekey(request) => self.activate_rekey(job, request).await,
                JobMessage::Move(request) => self.activate_move(job, request).await,
            },
            JobState::Settling => self.settle(job).await,
            JobState::Rewriting => self.rewrite(job).await,
            JobState::Verifying => self.verify(job).await,
            JobState::Verified => self.verified(job).await,
            JobState::Draining => match &job.request {
                JobMessage::Rekey(request) => self.drain_rekey(job, request).await,
                JobMessage::Move(request) if job.copy.is_some() => {
                    self.drain_copy(job, request).await
                }
                JobMessage::Move(request) => self.drain_in_place(job, request).await,
            },
            JobState::Blocked => self.blocked(job).await,
            JobState::Paused
            | JobState::Drained
            | JobState::Retired
            | JobState::Failed
            | JobState::Cancelled => Ok(()),
        }
    }

    async fn queued(&self, job: &JobRow) -> Result<(), WorkerError> {
        let now = self.worker.shared.clock.wall();
        let micros = |t: jiff::Timestamp| WallTime(t.as_microsecond());
        if let Some(end) = job.request.not_after()
            && now >= micros(end)
        {
            return self
                .fail(
                    job,
                    &format!("too_late: it was not to begin at or after {end}"),
                )
                .await;
        }
        if let Some(begin) = job.request.not_before()
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
            // It closed meanwhile: everything is tried again when it opens.
            Found::Good(..) if self.is_closed(job) => Ok(()),
            Found::Good(estimate, not_looked) => {
                let mut why = format!(
                    "preflight passed: {} slices, {} KMS calls",
                    estimate.slices, estimate.kms_calls
                );
                if let Some(not_looked) = not_looked {
                    why += &format!("; {not_looked}");
                }
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

    /// Whether its window keeps the job from acting now.
    fn is_closed(&self, job: &JobRow) -> bool {
        let now_ms = self.worker.shared.clock.wall().unix_ms();
        job.closed_until_ms(now_ms).is_some()
    }

    /// Waits until no writer can still follow the old state. A takeover waits
    /// the whole span again, on its own clock: it cannot know when the registry
    /// was changed by that clock.
    async fn settle(&self, job: &JobRow) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        shared
            .clock
            .sleep(match planted::is(Bug::SettleTooShort) {
                true => Duration::ZERO,
                false => Duration::from_millis(shared.timing.settle_ms()),
            })
            .await;
        killpoint::reach("job_after_settling");
        if let (Some(request), Some(phase)) = (job.request.channel_move(), moves::phase(job)) {
            return self.phase_settled(job, request, phase).await;
        }
        self.go(
            job,
            JobState::Rewriting,
            "every writer follows the new state",
            |_| {},
        )
        .await
    }

    async fn rewrite(&self, job: &JobRow) -> Result<(), WorkerError> {
        if let (Some(request), Some(phase)) = (job.request.channel_move(), moves::phase(job)) {
            return self.rewrite_copy(job, request, phase).await;
        }
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
        let verdict = match &job.request {
            JobMessage::Move(request) => self.proven(request, until).await?,
            JobMessage::Rekey(request) => match self.lapsed(job, request).await? {
                Some(lapsed) => lapsed,
                None => Verdict::NotNeeded {
                    old: rekey::old_cmk(job, request),
                    after: until.to_string(),
                },
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
        if let (Some(request), Some(_)) = (job.request.channel_move(), moves::phase(job)) {
            return self
                .step(job, request, CopyPhase::Moved, &Sum::default())
                .await;
        }
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
        let mut wait = Duration::from_millis(timing.drain_ms + 2 * timing.max_skew_ms);
        if planted::is(Bug::NoDrain) {
            wait = Duration::ZERO;
        }
        shared.clock.wall().plus(wait)
    }

    /// Whether the drain's wait is not over yet.
    fn still_drains(&self, job: &JobRow) -> bool {
        let now_ms = self.worker.shared.clock.wall().unix_ms();
        job.round.is_none() && now_ms < job.drain_until_ms.unwrap_or(0)
    }

    /// The scan at all replicas after the drain's wait, once it has found
    /// nothing; `None` while it waits or runs, or if it led elsewhere.
    async fn drain_scan(&self, job: &JobRow) -> Result<Option<Sum>, WorkerError> {
        if self.still_drains(job) {
            self.look_again().await?;
            return Ok(None);
        }
        let round = self.round(job, Pass::Drain).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(None);
        };
        let sum = Sum::of(&tasks);
        self.note_scan(job, "scan", &sum.counts);
        if sum.effort.finds > 0 {
            self.back_to_rewriting(job, &sum).await?;
            return Ok(None);
        }
        if sum.counts.quarantined > 0 || sum.parked > 0 {
            self.block(job, &sum).await?;
            return Ok(None);
        }
        Ok(Some(sum))
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
        let verdict = waits(job, sum);
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
        if let Some(request) = job.request.channel_move()
            && self.is_called_off(job, request).await?
        {
            return Ok(());
        }
        let Some(round) = job.round else {
            let why = "nothing is left to wait for";
            return self.go(job, JobState::Rewriting, why, |_| {}).await;
        };
        let tasks = self
            .worker
            .shared
            .book
            .tasks(job.request.job_id(), round.number)
            .await?;
        let sum = Sum::of(&tasks);
        if sum.parked > 0 && round.pass == Pass::Copy && moves::leaves_behind(job) {
            return self
                .go(
                    job,
                    JobState::Rewriting,
                    "an operator leaves behind what waits for a key",
                    |_| {},
                )
                .await;
        }
        if sum.parked > 0 || sum.open > 0 {
            if sum.blocked_slices != job.blocked_slices {
                let verdict = waits(job, &sum);
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
        let proves = matches!(round.pass, Pass::Verify | Pass::Drain);
        if proves && sum.counts.quarantined > 0 {
            // Nobody can open these but a person who mends them or deletes them;
            // `retry` looks again.
            return self.look_again().await;
        }
        let to = match round.pass {
            Pass::Rewrite | Pass::Copy => JobState::Rewriting,
            Pass::Verify | Pass::Drain => JobState::Verifying,
            Pass::Sweep => JobState::Draining,
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
            .tasks(job.request.job_id(), round.number)
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
        let body = job.request.to_json();
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
        let mut why = Use::new(job.request.reason_code(), job.request.reason());
        why.job = Some(job.request.job_id());
        why.requested_by = Some(job.request.requested_by().to_owned());
        why
    }

    /// Records what became of floors that were to be raised to the job's epoch.
    fn note_floors(&self, job: &JobRow, org: &OrgId, raised: &Raised) {
        match raised {
            Raised::Yes => {
                let mut record = Record::registry(org, "raise_floors", None, &self.why(job));
                record.cell_epoch = job.activated.as_ref().map(|activated| activated.epoch);
                self.worker.shared.audit.record(record);
            }
            Raised::CopyUnderWay(channel) => tracing::info!(
                %channel,
                "floors stay as they are: the channel's copy is not closed"
            ),
            Raised::NoChannel => {}
        }
    }

    fn note_scan(&self, job: &JobRow, action: &'static str, counts: &Counts) {
        let mut why = self.why(job);
        why.code = ReasonCode::Verify;
        let record = Record::verify(job.request.org(), action, counts.into(), &why);
        debug_assert_eq!(record.kind_of_record, RecordType::Verify);
        self.worker.shared.audit.record(record);
    }
}

/// What is said of a job that waits for a person or a customer.
fn waits(job: &JobRow, sum: &Sum) -> Verdict {
    let (blocked_slices, quarantined) = (sum.blocked_slices, sum.counts.quarantined);
    match &job.request {
        JobMessage::Rekey(request) => Verdict::MustNotBeDisabled {
            old: rekey::old_cmk(job, request),
            blocked_slices,
            quarantined,
        },
        JobMessage::Move(request) => Verdict::MoveWaits {
            from: request.source(),
            to: request.destination(),
            blocked_slices,
            quarantined,
        },
    }
}
