//! Watches a job from the queue to its end, and kills a worker half way.

use std::time::{Duration, Instant};

use super::DemoError;
use super::scene::Scene;
use super::show::{Show, count, number};
use super::workers::Workers;
use crate::config::StoreKind;
use crate::ids::JobId;
use crate::job::{BookError, JobRow, JobState, Pass, TaskRow, TaskState, Transition};
use crate::progress::slices_done;
use crate::store::StoreErrorClass;

/// Between two looks at the job. Short, so that half of a small job is not
/// missed.
const LOOK: Duration = Duration::from_millis(20);
/// The same on a cluster, where each look is a few rounds of Paxos on rows that
/// the workers need as well.
const LOOK_AT_CLUSTER: Duration = Duration::from_millis(250);
/// A job in which nothing moves for so long is stuck: the longest wait of the
/// demo's timing is a few seconds.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// From a kill to the start of another worker, as whoever runs workers would
/// start one.
const REPLACED_AFTER: Duration = Duration::from_millis(500);

/// What was seen.
pub struct Followed {
    /// The job at its end.
    pub job: JobRow,
    /// Workers killed.
    pub kills: u64,
    /// Claims of the job and its tasks after a lease had run out.
    pub takeovers: u64,
}

/// Follows a job to `drained`. When `kill_at_percent` of its slices are
/// rewritten, kills the worker that drives it, and starts another. Of a move it
/// kills one that copies.
///
/// # Errors
/// If the job ends otherwise, or does not go on.
pub async fn follow(
    scene: &Scene,
    job: JobId,
    workers: &mut Workers,
    kill_at_percent: u8,
    show: &mut Show,
) -> Result<Followed, DemoError> {
    let mut watch = Watch {
        scene,
        job,
        transitions: 0,
        moved: (Instant::now(), None, 0),
        killed: None,
        replaced: false,
        orphaned: None,
        takeovers: 0,
        held: 0,
    };
    let pause = match scene.config.store.kind {
        StoreKind::Sqlite => LOOK,
        _ => LOOK_AT_CLUSTER,
    };
    loop {
        workers.check()?;
        match watch.look(workers, kill_at_percent, show).await {
            Ok(None) => {}
            Ok(Some(row)) => {
                return Ok(Followed {
                    takeovers: row.takeovers + watch.takeovers,
                    job: row,
                    kills: u64::from(watch.killed.is_some()),
                });
            }
            // A node may be dead just now; the next look may find it back.
            Err(DemoError::Book(BookError::Store(error)))
                if error.class == StoreErrorClass::Transient
                    && watch.moved.0.elapsed() < STUCK_AFTER => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pause).await;
    }
}

struct Watch<'a> {
    scene: &'a Scene,
    job: JobId,
    /// Transitions shown so far.
    transitions: usize,
    /// When something last moved, and where it was then.
    moved: (Instant, Option<JobState>, u64),
    killed: Option<Instant>,
    replaced: bool,
    /// The worker that was killed, while the job's lease still names it.
    orphaned: Option<String>,
    /// Takeovers of the job itself; the tasks' are in its row.
    takeovers: u64,
    /// Tasks that the killed worker held, until their takeover is told.
    held: u64,
}

impl Watch<'_> {
    /// One look. Returns the job when it is drained.
    async fn look(
        &mut self,
        workers: &mut Workers,
        kill_at_percent: u8,
        show: &mut Show,
    ) -> Result<Option<JobRow>, DemoError> {
        let scene = self.scene;
        let row = scene.book.get(&scene.org, self.job).await?.map(|v| v.row);
        let state = row.as_ref().map(|row| row.state);
        self.tell_transitions(row.as_ref(), show).await?;
        let tasks = match row.as_ref().and_then(|row| row.round) {
            Some(round) if row.as_ref().is_some_and(|r| r.state.has_tasks()) => {
                let tasks = scene.book.tasks(self.job, round.number).await?;
                tasks.into_iter().map(|v| v.row).collect()
            }
            _ => Vec::new(),
        };
        let done: u64 = tasks.iter().map(slices_done).sum();
        if (self.moved.1, self.moved.2) != (state, done) {
            self.moved = (Instant::now(), state, done);
        } else if self.moved.0.elapsed() > STUCK_AFTER {
            return Err(DemoError::Stuck(
                state.map_or("not taken up", JobState::as_str),
            ));
        }
        let Some(row) = row else { return Ok(None) };
        match row.state {
            JobState::Drained => return Ok(Some(row)),
            JobState::Failed | JobState::Cancelled | JobState::Blocked => {
                return Err(DemoError::JobEnded {
                    state: row.state.as_str(),
                    why: row.why,
                });
            }
            _ => {}
        }
        let planned = row.round.map_or(0, |round| round.slices);
        if self.killed.is_none() {
            let copies = |task: &TaskRow| task.lease.is_some() && task.state == TaskState::Open;
            let due = match row.state {
                // A channel's slices are few: whoever has begun is half way.
                JobState::Rewriting if row.copy.is_some() => tasks.iter().any(copies),
                JobState::Rewriting => {
                    planned > 0 && done * 100 >= planned * u64::from(kill_at_percent)
                }
                // It was faster than our looks.
                JobState::Verifying | JobState::Verified | JobState::Draining => true,
                _ => false,
            };
            if due {
                self.kill(&row, &tasks, done, planned, workers, show);
                return Ok(None);
            }
        }
        self.after_kill(&row, &tasks, workers, show)?;
        if let Some(line) = progress(&row, &tasks, done) {
            show.live(&line);
        }
        Ok(None)
    }

    /// Says what the job has done since the last look.
    async fn tell_transitions(
        &mut self,
        row: Option<&JobRow>,
        show: &mut Show,
    ) -> Result<(), DemoError> {
        let Some(row) = row.filter(|row| row.transitions as usize != self.transitions) else {
            return Ok(());
        };
        let scene = self.scene;
        let history = scene.book.history(&scene.org, self.job).await?;
        for step in history.iter().skip(self.transitions) {
            let settle_s = scene.timing.settle_ms() as f64 / 1000.0;
            let verify_s =
                (scene.timing.row_age_ms + scene.timing.request_timeout_ms) as f64 / 1000.0;
            let drain_s = (scene.timing.drain_ms + 2 * scene.timing.max_skew_ms) as f64 / 1000.0;
            if row.request.channel_move().is_some() {
                tell_of_move(step, settle_s, drain_s, show);
                continue;
            }
            match step.to {
                JobState::Settling => show.note(&format!(
                    "new writes go under the new CMK; {settle_s:.1} s for every client to follow"
                )),
                JobState::Rewriting => {
                    show.note("rewriting: every older message is sealed anew under a new data key");
                }
                JobState::Verifying => show.note(&format!(
                    "{} rewritten; {verify_s:.1} s for the last write in flight, then a scan opens all",
                    count(row.rewriting.rewritten, "message", "messages")
                )),
                JobState::Draining => show.note(&format!(
                    "proven; {drain_s:.1} s for writes that land late, then the scan once more"
                )),
                JobState::Drained => show.note("the job is done"),
                _ => {}
            }
        }
        self.transitions = history.len();
        Ok(())
    }

    fn kill(
        &mut self,
        row: &JobRow,
        tasks: &[TaskRow],
        done: u64,
        planned: u64,
        workers: &mut Workers,
        show: &mut Show,
    ) {
        let driver = row.lease.as_ref().map(|lease| lease.worker.as_str());
        let copier = tasks
            .iter()
            .filter(|task| row.copy.is_some() && task.state == TaskState::Open)
            .find_map(|task| Some(task.lease.as_ref()?.worker.as_str()));
        // The one that drives the job: then the job needs a takeover, and not
        // only its tasks.
        let marked = copier.or(driver);
        let n = workers
            .running()
            .iter()
            .position(|worker| Some(worker.name.as_str()) == marked)
            .unwrap_or(0);
        let dead = workers.kill(n);
        let held = tasks
            .iter()
            .filter(|task| task.lease.as_ref().is_some_and(|l| l.worker == dead.name))
            .filter(|task| task.state == TaskState::Open)
            .count() as u64;
        let drove = Some(dead.name.as_str()) == driver;
        let when = if row.state == JobState::Rewriting {
            format!("at {} of {} slices", number(done), number(planned))
        } else {
            format!("while {}", row.state)
        };
        show.step(
            "KILL",
            &format!("kill -9 {} (process {}) {when}", dead.name, dead.pid()),
        );
        show.detail(&format!(
            "it {}held {}; nobody is told: its leases have to run out",
            if drove { "drove the job and " } else { "" },
            count(held, "task", "tasks")
        ));
        self.held = held;
        self.orphaned = drove.then(|| dead.name.clone());
        self.killed = Some(Instant::now());
    }

    /// Starts another worker a little later, and sees who takes over.
    fn after_kill(
        &mut self,
        row: &JobRow,
        tasks: &[TaskRow],
        workers: &mut Workers,
        show: &mut Show,
    ) -> Result<(), DemoError> {
        let Some(at) = self.killed else { return Ok(()) };
        if !self.replaced && at.elapsed() >= REPLACED_AFTER {
            let started = workers.start()?;
            show.note(&format!(
                "started {} (process {}) in its place",
                started.name,
                started.pid()
            ));
            self.replaced = true;
        }
        if let (Some(orphaned), Some(lease)) = (&self.orphaned, &row.lease)
            && lease.worker != *orphaned
        {
            show.note(&format!(
                "{} drives the job now, {:.1} s after the kill",
                lease.worker,
                at.elapsed().as_secs_f64()
            ));
            self.takeovers += 1;
            self.orphaned = None;
        }
        let taken: u64 = tasks.iter().map(|task| u64::from(task.takeovers)).sum();
        if self.held > 0 && taken >= self.held {
            let what = if self.held == 1 {
                "its task is taken over"
            } else {
                "its tasks are taken over, each"
            };
            show.note(&format!(
                "{what} from the last checkpoint, {:.1} s after the kill",
                at.elapsed().as_secs_f64()
            ));
            self.held = 0;
        }
        Ok(())
    }
}

/// What a move has done. A copy's phases tell themselves.
fn tell_of_move(step: &Transition, settle_s: f64, drain_s: f64, show: &mut Show) {
    match step.to {
        JobState::Settling => show.note(&format!(
            "{}; {settle_s:.1} s for every client to follow",
            step.why
        )),
        JobState::Verifying => show.note("copied; a scan opens all of it in the new place"),
        JobState::Draining => show.note(&format!(
            "{drain_s:.1} s for writes that land late in the old place, then it is swept"
        )),
        JobState::Drained => show.note(&step.why),
        _ => {}
    }
}

fn progress(row: &JobRow, tasks: &[TaskRow], done: u64) -> Option<String> {
    // While the slices are being listed there is nothing to show.
    let round = row.round.filter(|round| round.tasks.is_some())?;
    let what = match round.pass {
        Pass::Rewrite => "rekey",
        Pass::Verify => "verify",
        Pass::Drain => "drain",
        Pass::Copy => "copy",
        Pass::Sweep => "sweep",
    };
    let planned = round.slices.max(1);
    let done = done.min(planned);
    let rows: u64 = tasks.iter().map(|task| task.counts.scanned).sum();
    let takeovers: u32 = tasks.iter().map(|task| task.takeovers).sum();
    let mut line = format!(
        "{what} {}  {}/{} slices  {}.{} %  {} messages",
        row.request.org(),
        number(done),
        number(planned),
        done * 100 / planned,
        done * 1000 / planned % 10,
        number(rows)
    );
    if takeovers > 0 {
        line += &format!("  {takeovers} taken over");
    }
    Some(line)
}
