//! Finds free tasks and runs them. Claims go round the organizations (`turn`), so
//! that a large one does not starve the others.

mod turn;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, RwLock, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::clock::BootTime;
use crate::ids::JobId;
use crate::job::{HoldError, JobRow, Slot, TaskHold, TaskRow, TaskState, Versioned, is_free};
use crate::killpoint;
use crate::pipeline::{self, AllowLists, Ended, Goal, Targets, TaskError, TaskRun, Views};
use crate::replay;
use crate::telemetry::metrics::{LEASES_LOST, TASKS_HELD, TASKS_TAKEN_OVER};
use crate::telemetry::pulse::Beat;
use crate::telemetry::span;
use crate::worker::{Worker, WorkerError, joined, open_jobs};
use turn::Turn;

pub(super) async fn run(
    worker: Arc<Worker>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let mut finder = Finder::default();
    // Tasks of their own: they keep their leases while this loop looks for more.
    let mut running = JoinSet::new();
    loop {
        worker.pulse.beat(Beat::Claims);
        let mut found = false;
        if !*stop.borrow() && running.len() < worker.pace.tasks {
            match finder.claim_one(&worker).await {
                Ok(Some(claimed)) => {
                    found = true;
                    running.spawn(run_task(worker.clone(), claimed, stop.clone()));
                }
                Ok(None) => {}
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "tasks cannot be claimed now");
                }
                Err(error) => return Err(error),
            }
        }
        if *stop.borrow() && running.is_empty() {
            return Ok(());
        }
        if found && running.len() < worker.pace.tasks {
            continue;
        }
        let mut idle_stop = stop.clone();
        tokio::select! {
            biased;
            Some(ended) = running.join_next(), if !running.is_empty() => match joined(ended) {
                Ok(()) => {}
                Err(error) if error.may_pass() => {
                    tracing::warn!(%error, "a task is left to whoever takes it up next");
                    // Which may be this worker: not at once, or it would spin.
                    worker.pause(&mut idle_stop).await;
                }
                Err(error) => return Err(error),
            },
            () = worker.pause(&mut idle_stop), if !*stop.borrow() => {}
            _ = stop.changed() => {}
        }
    }
}

/// A task that was just claimed, and its job.
struct Claimed {
    job: JobRow,
    hold: TaskHold,
    // Counts it among those under way, for throttles.
    slot: Slot,
}

/// Knows which jobs and tasks looked as if there were something to do, so that
/// they are not listed again for every claim.
#[derive(Default)]
struct Finder {
    turn: Turn,
    // When the jobs were listed.
    listed: Option<BootTime>,
    // What the last listing of a round showed.
    seen: HashMap<(JobId, u32), Vec<Versioned<TaskRow>>>,
}

impl Finder {
    async fn claim_one(&mut self, worker: &Worker) -> Result<Option<Claimed>, WorkerError> {
        self.list(worker).await?;
        for _ in 0..self.turn.orgs() {
            let Some((org, jobs)) = self.turn.next() else {
                break;
            };
            for job in jobs {
                worker.pulse.beat(Beat::Claims);
                let (id, throttles) = (job.request.job_id(), &worker.shared.throttles);
                let now_ms = worker.shared.clock.wall().unix_ms();
                if job.closed_until_ms(now_ms).is_some() || !throttles.may_begin(&org, id) {
                    continue;
                }
                if let Some(hold) = self.claim_of(worker, id, &job).await? {
                    let slot = throttles.begin(&org, id);
                    return Ok(Some(Claimed { job, hold, slot }));
                }
            }
        }
        Ok(None)
    }

    /// Lists the jobs again if the last list is older than a poll. One that has
    /// gone on since does no harm: a claimed task looks at its job first.
    async fn list(&mut self, worker: &Worker) -> Result<(), WorkerError> {
        let now = worker.shared.clock.boot();
        let poll = Duration::from_millis(worker.pace.poll_ms);
        if self.listed.is_some_and(|at| now.since(at) < poll) {
            return Ok(());
        }
        let open = open_jobs::read(worker, Beat::Claims).await?;
        self.turn
            .renew(open.iter().map(|seen| seen.row.clone()).collect());
        self.listed = Some(now);
        let turn = &self.turn;
        self.seen.retain(|(id, _), _| turn.has(*id));
        Ok(())
    }

    async fn claim_of(
        &mut self,
        worker: &Worker,
        id: JobId,
        job: &JobRow,
    ) -> Result<Option<TaskHold>, WorkerError> {
        let Some(round) = job
            .round
            .filter(|r| job.state.has_tasks() && r.tasks.is_some())
        else {
            return Ok(None);
        };
        self.seen
            .retain(|(job, number), _| *job != id || *number == round.number);
        let shared = &worker.shared;
        let now_ms = shared.clock.wall().unix_ms();
        let key = (id, round.number);
        for fresh in [false, true] {
            if fresh {
                let mut tasks = shared.book.tasks(id, round.number).await?;
                tasks.retain(|task| is_claimable(&task.row, now_ms));
                // Workers that list at the same moment should not race for the
                // same task.
                replay::shuffle(&mut tasks);
                self.seen.insert(key, tasks);
            }
            while let Some(task) = self.seen.get_mut(&key).and_then(Vec::pop) {
                if !is_claimable(&task.row, now_ms) {
                    continue;
                }
                let left = task.row.lease.clone();
                let claimed = TaskHold::claim(
                    &shared.book,
                    &shared.clock,
                    &shared.timing,
                    &worker.name,
                    &id.to_string(),
                    task,
                )
                .await?;
                if let Some(hold) = &claimed {
                    if let Some(left) = left {
                        metrics::counter!(TASKS_TAKEN_OVER).increment(1);
                        let (task, token) = (hold.id().await, hold.row().await.token);
                        let over_ms = now_ms.saturating_sub(left.until_ms);
                        tracing::info!(
                            org = %job.request.org(), job = %id, task, token,
                            from = %left.worker, over_ms, "takeover of a task"
                        );
                    }
                    killpoint::reach("task_after_claim");
                    return Ok(claimed);
                }
            }
        }
        Ok(None)
    }
}

/// Whether a task is nobody's and has something to do now.
pub(super) fn is_claimable(task: &TaskRow, now_ms: u64) -> bool {
    is_free(task, now_ms)
        && match task.state {
            TaskState::Open => true,
            // Nothing left to wait for: its last holder saved that and died
            // before it could say that the task is done.
            TaskState::Parked => {
                task.blocked.is_empty() || task.blocked.iter().any(|b| b.retry_ms <= now_ms)
            }
            TaskState::Done => false,
        }
}

async fn run_task(
    worker: Arc<Worker>,
    claimed: Claimed,
    stop: watch::Receiver<bool>,
) -> Result<(), WorkerError> {
    let Claimed { job, hold, slot } = claimed;
    let shared = worker.shared.clone();
    let request = &job.request;
    let (Some(round), Some(activated)) = (job.round, &job.activated) else {
        return Ok(());
    };
    let hold = Arc::new(hold);
    let row = hold.row().await;
    let (task_id, token) = (hold.id().await, row.token);
    // Only an operator's `retry` makes a slice due since 1970: somebody has
    // mended something. A slice that is due by itself does not ask a CMK that is
    // parked.
    if row.blocked.iter().any(|blocked| blocked.retry_ms == 0) {
        shared.parking.try_all();
    }
    let span = span::task(
        &worker.name.worker,
        request.org(),
        request.job_id(),
        &task_id,
        round.pass.as_str(),
        token,
    );
    // Stops for two reasons: the worker is asked to, or the job has no use for
    // the task any more.
    let (stop_task, stopped) = watch::channel(false);
    let (org, channel) = job.scans(round.pass);
    let run = Arc::new(TaskRun {
        allow_lists: AllowLists::default(),
        targets: Targets::default(),
        views: Views::default(),
        asides: OnceCell::default(),
        later_epochs: RwLock::default(),
        shared: shared.clone(),
        job: request.job_id(),
        org,
        channel,
        requested_by: request.requested_by().to_owned(),
        goal: Goal::of(request),
        epoch: activated.epoch,
        pass: round.pass,
        round: round.number,
        rewrite_round: job.rewrite_round,
        task_id: task_id.clone(),
        token,
        room: shared.limits.room(),
        hold: hold.clone(),
        stop: stopped,
    });
    let _held = Held::new();
    let watcher = stop_when_unwanted(&worker, &job, round.number, &slot, stop, &stop_task);
    let ended = async {
        tokio::select! {
            // A busy pipeline must not hold up the renewals.
            biased;
            lost = hold.keep() => Err(TaskError::Hold(lost)),
            never = watcher => never,
            ended = pipeline::run(run.clone()) => ended,
        }
    }
    .instrument(span.clone())
    .await;
    match ended {
        Ok(Ended::Through) => {
            killpoint::reach("task_before_done");
            hold.release(|row| {
                let waits = !row.blocked.is_empty();
                row.state = if waits {
                    TaskState::Parked
                } else {
                    TaskState::Done
                };
            })
            .await?;
            killpoint::reach("task_after_done");
            span.in_scope(|| tracing::debug!("task done"));
            Ok(())
        }
        Ok(Ended::Stopped) => Ok(hold.release(|_| {}).await?),
        Err(error) => {
            span.in_scope(|| tracing::warn!(%error, "task ends early"));
            if matches!(error, TaskError::Hold(_)) {
                metrics::counter!(LEASES_LOST).increment(1);
            }
            // Give it back if it is still ours, so that nobody has to wait for
            // the lease to run out.
            match hold.release(|_| {}).await {
                Ok(()) | Err(HoldError::Lost(_) | HoldError::Changed(_)) => {}
                Err(HoldError::Book(_)) => {}
            }
            Err(error.into())
        }
    }
}

/// Counts a task as held, however it ends.
struct Held;

impl Held {
    fn new() -> Self {
        metrics::gauge!(TASKS_HELD).increment(1);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!(TASKS_HELD).decrement(1);
    }
}

/// Tells the task to stop when the worker or the job wants it to; never returns
/// but with an error.
async fn stop_when_unwanted(
    worker: &Worker,
    job: &JobRow,
    round: u32,
    slot: &Slot,
    mut stop: watch::Receiver<bool>,
    stop_task: &watch::Sender<bool>,
) -> Result<Ended, TaskError> {
    let (org, id) = (job.request.org(), job.request.job_id());
    loop {
        let asked = *stop.borrow();
        let wanted = match worker.shared.book.get(org, id).await {
            Ok(Some(now)) => {
                now.row.state.has_tasks()
                    && now.row.round.is_some_and(|r| r.number == round)
                    && now
                        .row
                        .closed_until_ms(worker.shared.clock.wall().unix_ms())
                        .is_none()
            }
            Ok(None) => false,
            // Not knowing is no reason to stop: the lease bounds it.
            Err(_) => true,
        };
        if asked || !wanted || worker.shared.throttles.is_one_too_many(slot) {
            stop_task.send_replace(true);
            std::future::pending::<()>().await;
        }
        worker.pause(&mut stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChannelId, Hour};
    use crate::job::{BlockedSlice, Counts, Effort, SliceId};

    #[test]
    fn a_parked_task_is_claimed_when_a_slice_is_due_or_none_is_left() {
        let slice = SliceId {
            channel: ChannelId::new("c1").unwrap(),
            hour: Hour::of_unix_seconds(0).unwrap(),
        };
        let mut task = TaskRow {
            from: slice.clone(),
            to: None,
            planned: 1,
            state: TaskState::Parked,
            token: 1,
            lease: None,
            takeovers: 0,
            checkpoint: None,
            counts: Counts::default(),
            effort: Effort::default(),
            blocked: vec![BlockedSlice {
                slice,
                code: "revoked".to_owned(),
                message: String::new(),
                after: None,
                counts: Counts::default(),
                tries: 1,
                retry_ms: 50,
            }],
            streams: Vec::new(),
        };
        assert!(!is_claimable(&task, 49));
        assert!(is_claimable(&task, 50));
        // A kill between the last checkpoint of a retry and its end: without a
        // claim the job would be blocked for ever.
        task.blocked.clear();
        assert!(is_claimable(&task, 0));
    }
}
