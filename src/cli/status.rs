//! `rekeyd status`
//!
//! | file | what |
//! |---|---|
//! | `patience` | how long a store that does not answer is waited for |

mod patience;

use std::time::Duration;

use serde_json::{Value, json};

use self::patience::{Away, Patience};
use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::planned;
use crate::cli::report::Failure;
use crate::clock::BootTime;
use crate::config::QueueKind;
use crate::ids::JobId;
use crate::job::{
    JobBook, JobMessage, JobRow, JobState, RetireProgress, Retired, SetAside, TaskRow, is_free,
};
use crate::progress::{self, Progress, Speed, throttles};
use crate::queue::SharedQueue;
use crate::registry::{Registry, Timing};

/// How often the job is looked at while waiting.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is tried to look while the store does not answer.
const LOOK_AWAY: Duration = Duration::from_secs(2);
/// A look that has begun is given so long beyond the time that was given.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// How often refused messages are looked at while a job is not recorded: on SQS
/// a look takes a second, and hides them from others for as long.
const LOOK_AT_SQS: Duration = Duration::from_secs(10);
/// Refused messages looked through for one that asked for this job.
const DEAD_LETTERS: usize = 10_000;

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  rekeyd status $JOB --watch\n  rekeyd status $JOB --wait --timeout 30m && rekeyd kms disable $OLD"
)]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
    /// Follow it to its end: one line that is redrawn, or a line every so often
    /// where the output is no terminal.
    #[arg(long)]
    watch: bool,
    /// Wait for its end and tell by the exit code how it ended. Being blocked
    /// counts as an end, for somebody has to act; not while a retry is under way.
    #[arg(long)]
    wait: bool,
    /// With --wait: go on waiting while it is blocked.
    #[arg(long, requires = "wait")]
    through_blocked: bool,
    /// Give up after so long, in seconds or such as 30m or 2h; the job goes on.
    #[arg(long, value_name = "SPAN", value_parser = figures::parse_span)]
    timeout: Option<Duration>,
    /// Seconds between two lines of --watch where the output is no terminal.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(async {
        if arguments.watch || arguments.wait {
            follow(context, arguments).await
        } else {
            Status::open(context, arguments).await?.once().await
        }
    })
}

/// Follows the job to its end. A store that does not answer is waited for: whoever
/// waits wants the end of the job, and not that of a connection.
async fn follow(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let clock = &context.clock;
    let begun = clock.boot();
    let mut status = None;
    let mut seen = Seen::default();
    let mut patience = Patience::new(arguments.timeout.is_some());
    // Listened to from here on, also while a look is under way.
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let look = async {
            let status = match &mut status {
                Some(status) => status,
                none => none.insert(Status::open(context, arguments).await?),
            };
            status.follow(&mut seen).await
        };
        let left = arguments
            .timeout
            .map(|all| all.saturating_sub(clock.boot().since(begun)).max(LAST_LOOK));
        let too_long = async {
            match left {
                Some(left) => clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let looked = tokio::select! {
            biased;
            looked = look => looked,
            () = too_long => Err(Failure::new(Exit::Unavailable, "no answer in time")),
            _ = &mut interrupt => return seen.interrupted(),
        };
        let pause = match looked {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {
                if patience.is_back() && !context.out.is_json() {
                    seen.end_line()?;
                    eprintln!("it answers again");
                }
                LOOK
            }
            Err(why) if why.exit == Exit::Unavailable => {
                match patience.away(clock.boot()) {
                    Away::Still => {}
                    Away::First => {
                        seen.end_line()?;
                        if !context.out.is_json() {
                            eprintln!("{}; it is tried again", figures::printable(why.what()));
                        }
                    }
                    Away::TooLong => {
                        seen.end_line()?;
                        return Err(why);
                    }
                }
                LOOK_AWAY
            }
            Err(why) => {
                seen.end_line()?;
                return Err(why);
            }
        };
        let over = arguments
            .timeout
            .is_some_and(|all| clock.boot().since(begun) >= all);
        if over {
            seen.end_line()?;
            return Err(seen.timed_out(arguments.job, patience.is_away()));
        }
        tokio::select! {
            () = clock.sleep(pause) => {}
            _ = &mut interrupt => return seen.interrupted(),
        }
    }
}

/// What has been seen of the job while following it.
#[derive(Default)]
struct Seen {
    state: Option<JobState>,
    /// When refused messages were last looked through for it.
    asked: Option<BootTime>,
    screen: Screen,
}

impl Seen {
    fn end_line(&mut self) -> Result<(), Failure> {
        self.screen.end_line()
    }

    fn interrupted(&mut self) -> Result<Exit, Failure> {
        self.end_line()?;
        Ok(Exit::Timeout)
    }

    fn timed_out(&self, id: JobId, is_away: bool) -> Failure {
        let what = match (self.state, is_away) {
            (Some(state), false) => format!("the time is over; job {id} is {state} and goes on"),
            (Some(state), true) => format!(
                "the time is over, and the store does not answer; job {id} was {state} when it last did"
            ),
            (None, true) => {
                format!("the time is over, and the store does not answer; job {id} was not seen")
            }
            (None, false) => return Failure::no_job(id).exiting(Exit::Timeout),
        };
        Failure::new(Exit::Timeout, what).help(format!("look again with `rekeyd status {id}`"))
    }
}

struct Status<'a> {
    context: &'a Context,
    arguments: &'a Arguments,
    book: JobBook,
    registry: Registry,
    queue: SharedQueue,
    timing: Timing,
}

impl<'a> Status<'a> {
    async fn open(context: &'a Context, arguments: &'a Arguments) -> Result<Self, Failure> {
        let store = context.store().await?;
        let registry = Registry::new(store.clone(), context.clock.clone());
        Ok(Self {
            context,
            arguments,
            book: JobBook::new(store, context.clock.clone()),
            timing: registry.timing().await?,
            registry,
            queue: context.queue().await?,
        })
    }

    async fn once(&self) -> Result<Exit, Failure> {
        let Some(mut job) = self.look().await? else {
            return Err(self.not_recorded().await?);
        };
        self.lapse(&mut job).await?;
        let tasks = context::tasks(&self.book, &job).await?;
        let progress = self.progress(&job, &tasks, &mut Speed::default()).await?;
        let so_far = job.so_far(&tasks);
        let retiring = self.retiring(&job).await?;
        self.context.out.show(
            &self.for_programs(&job, &so_far, &progress, &retiring),
            || {
                let mut text = self.for_people(&job, &so_far, &progress);
                if let Some(begun) = &retiring {
                    text += &cut_short(&job, begun);
                }
                text
            },
        )?;
        Ok(Exit::Done)
    }

    async fn look(&self) -> Result<Option<JobRow>, Failure> {
        let found = self.book.find(self.arguments.job).await?;
        Ok(found.map(|job| job.row))
    }

    /// Puts the verdict right that later jobs have made untrue, and tells
    /// whether it has lapsed.
    async fn lapse(&self, job: &mut JobRow) -> Result<bool, Failure> {
        let today = context::verdict_of_today(&self.book, &self.registry, job).await?;
        Ok(today.0)
    }

    /// Why there is no such job: its message was refused, or is not taken yet.
    async fn not_recorded(&self) -> Result<Failure, Failure> {
        let id = self.arguments.job;
        let letters = self.queue.dead_letters(DEAD_LETTERS).await?;
        let refused = letters
            .into_iter()
            .rev()
            .find(|letter| JobMessage::receive(&letter.body).is_ok_and(|m| m.job_id() == id));
        Ok(match refused {
            Some(letter) => {
                let reason = figures::printable(&letter.reason);
                Failure::new(
                    Exit::JobFailed,
                    format!("the message that asked for job {id} was refused: {reason}"),
                )
                .help("mend the cause and ask again with a new job id: `rekeyd enqueue`")
            }
            None => Failure::no_job(id),
        })
    }

    async fn progress(
        &self,
        job: &JobRow,
        tasks: &[TaskRow],
        speed: &mut Speed,
    ) -> Result<Progress, Failure> {
        let clock = &self.context.clock;
        let mut progress = Progress::of(job, tasks, &self.timing, clock.wall());
        if !job.state.is_final() {
            let (org, id, now) = (job.request.org(), job.request.job_id(), clock.wall());
            let rows = self.book.throttles().await?;
            progress.throttle(
                throttles::of_job(&rows, org, id, now),
                &throttles::unreadable_of_job(&rows, org, id),
            );
        }
        if progress::may_set_aside(job, tasks) {
            let so_far = self.book.aside_so_far(job.request.job_id()).await?;
            if let Some(so_far) = so_far {
                let channels = self.registry.count_channels(job.request.org()).await?;
                progress.set_aside(so_far, channels);
            }
        }
        speed.look(&mut progress, job, clock.wall(), clock.boot());
        Ok(progress)
    }

    /// One look at the job while following it; the exit code if it is at its end.
    async fn follow(&self, seen: &mut Seen) -> Result<Option<Exit>, Failure> {
        let Some(mut job) = self.look().await? else {
            self.is_it_refused(seen).await?;
            return Ok(None);
        };
        let lapsed = self.lapse(&mut job).await?;
        seen.state = Some(job.state);
        seen.screen.show(self, &job).await?;
        if !self.is_over(&job).await? {
            return Ok(None);
        }
        self.end(&job, lapsed, seen).await.map(Some)
    }

    /// Of a job that is not recorded: ends if its message was refused.
    async fn is_it_refused(&self, seen: &mut Seen) -> Result<(), Failure> {
        let between = match self.context.config().queue.kind {
            QueueKind::Sqlite => LOOK,
            QueueKind::Sqs => LOOK_AT_SQS,
        };
        let now = self.context.clock.boot();
        if seen.asked.is_some_and(|at| now.since(at) < between) {
            return Ok(());
        }
        let why = self.not_recorded().await?;
        if why.exit == Exit::JobFailed {
            return Err(why);
        }
        if seen.asked.replace(now).is_none() && !self.context.out.is_json() {
            eprintln!(
                "job {} is not recorded yet: waiting for a worker to take its message",
                self.arguments.job
            );
        }
        Ok(())
    }

    async fn is_over(&self, job: &JobRow) -> Result<bool, Failure> {
        let blocked_ends = self.arguments.wait && !self.arguments.through_blocked;
        if job.state != JobState::Blocked || !blocked_ends {
            return Ok(job.state.is_final());
        }
        let tasks = context::tasks(&self.book, job).await?;
        Ok(!progress::is_tried_again(job, &tasks))
    }

    /// The last words, and the exit code by them.
    async fn end(&self, job: &JobRow, lapsed: bool, seen: &mut Seen) -> Result<Exit, Failure> {
        let tasks = context::tasks(&self.book, job).await?;
        let progress = self.progress(job, &tasks, &mut Speed::default()).await?;
        let retiring = self.retiring(job).await?;
        let programs = self.for_programs(job, &job.so_far(&tasks), &progress, &retiring);
        seen.end_line()?;
        self.context.out.show(&programs, || last_words(job))?;
        let left_behind = job.copy.as_ref().map_or(0, |copy| copy.left_behind);
        Ok(match job.state {
            state if state.is_drained() && lapsed => Exit::MustNotDisable,
            // Said in the verdict, and not to be missed by a script.
            JobState::Drained if left_behind > 0 => Exit::BadData,
            JobState::Drained | JobState::Retired => Exit::Done,
            JobState::Failed => Exit::JobFailed,
            JobState::Cancelled => Exit::JobCancelled,
            _ if job.request.channel_move().is_some() => Exit::MoveUnfinished,
            _ => Exit::MustNotDisable,
        })
    }

    /// How far a retire is that has begun and not ended.
    async fn retiring(&self, job: &JobRow) -> Result<Option<RetireProgress>, Failure> {
        if job.state != JobState::Drained {
            return Ok(None);
        }
        let begun = self.book.retire_progress(job.request.job_id()).await?;
        Ok(begun.map(|begun| begun.row))
    }

    fn for_programs(
        &self,
        job: &JobRow,
        so_far: &JobRow,
        progress: &Progress,
        retiring: &Option<RetireProgress>,
    ) -> Value {
        let now_ms = self.context.clock.wall().unix_ms();
        let driven_by = job.lease.as_ref().filter(|_| !is_free(job, now_ms));
        json!({
            "job_id": job.request.job_id(), "org": job.request.org(), "mode": job.request.mode(),
            "state": job.state, "since_ms": job.since_ms, "why": job.why,
            "to_cmk": job.request.rekey().map(|rekey| &rekey.to_cmk),
            "from": job.request.channel_move().map(|m| m.source()),
            "to": job.request.channel_move().map(|m| m.destination()),
            "move": job.request.channel_move().map(|m| m.kind()),
            "copy": job.copy, "paused_from": job.paused_from, "activated": job.activated,
            "requested_by": job.request.requested_by(), "reason": job.request.reason(),
            "recorded_ms": job.recorded_ms, "estimate": job.estimate,
            "plan": planned::for_programs(so_far, self.context.clock.wall()),
            "window": job.request.window(), "priority": job.request.priority(),
            "driven_by": driven_by.map(|lease| &lease.worker),
            "progress": progress,
            "rewriting": job.rewriting, "proof": job.proof, "effort": job.effort,
            "takeovers": so_far.takeovers, "verdict": job.verdict,
            "set_aside": job.set_aside, "retired": job.retired,
            "retiring": retiring.as_ref().map(|begun| json!({
                "begun_ms": begun.begun_ms, "deleted": begun.counts,
            })),
        })
    }

    fn for_people(&self, job: &JobRow, so_far: &JobRow, progress: &Progress) -> String {
        let now = self.context.clock.wall();
        let request = &job.request;
        let since = Duration::from_millis(now.unix_ms().saturating_sub(job.since_ms));
        let mut rows = vec![
            ("job", request.job_id().to_string()),
            (
                "asked for",
                format!(
                    "{} by {}{}",
                    request.what(),
                    figures::printable(request.requested_by()),
                    match request.reason().is_empty() {
                        true => String::new(),
                        false => format!(": {}", figures::printable(request.reason())),
                    }
                ),
            ),
            (
                "state",
                format!(
                    "{} for {}: {}",
                    job.state,
                    figures::span(since),
                    figures::printable(&job.why)
                ),
            ),
        ];
        if let Some(a) = &job.activated {
            let cmk = match request.rekey() {
                Some(_) => "old CMK",
                None => "CMK",
            };
            rows.push((cmk, a.from_cmk.to_string()));
            rows.push((
                "epoch",
                format!("{} since {}", a.epoch, figures::time(a.at_ms)),
            ));
        }
        if let Some(lease) = job.lease.as_ref().filter(|_| !is_free(job, now.unix_ms())) {
            rows.push(("driven by", figures::printable(&lease.worker)));
        }
        if let Some(window) = job.request.window() {
            rows.push(("window", window.to_string()));
        }
        if job.request.priority() != 0 {
            rows.push(("priority", job.request.priority().to_string()));
        }
        if !job.state.is_final() {
            rows.push(("progress", progress.line(job)));
        }
        rows.extend(planned::in_words(so_far, now).map(|plan| ("plan", plan)));
        if job.rewriting.scanned > 0 {
            rows.push(("rewriting", counts(&job.rewriting)));
        }
        if job.proof.scanned > 0 {
            rows.push(("proof", counts(&job.proof)));
        }
        if so_far.takeovers > 0 {
            rows.push(("takeovers", so_far.takeovers.to_string()));
        }
        let copy = job.copy.as_ref();
        if let Some(said) = copy.and_then(|copy| copy.leave_behind.as_ref()) {
            rows.push((
                "left behind",
                format!(
                    "what waits for a key, by {} at {}: {}",
                    figures::printable(&said.who),
                    figures::time(said.at_ms),
                    figures::printable(&said.why)
                ),
            ));
        }
        for row in &progress.throttles {
            rows.push(("throttled", throttles::in_words(row, now)));
        }
        if let Some(from) = job.paused_from {
            rows.push(("paused in", from.to_string()));
        }
        if let Some(verdict) = &job.verdict {
            rows.push(("verdict", verdict.clone()));
        }
        if let Some(aside) = &job.set_aside {
            rows.push(("set aside", set_aside(aside)));
        }
        if let Some(retired) = &job.retired {
            rows.push(("retired", in_words(job, retired)));
        }
        if let Some(next) = progress::next(job) {
            rows.push(("next", next));
        }
        rows.iter()
            .map(|(name, value)| format!("{name:<11} {value}\n"))
            .collect()
    }
}

/// A retire that is under way, or that was cut short.
fn cut_short(job: &JobRow, begun: &RetireProgress) -> String {
    let (id, org) = (job.request.job_id(), job.request.org());
    format!(
        "retiring    begun at {}, up to {} gone; if nothing runs any more: rekeyd retire {id} --confirm {org}",
        figures::time(begun.begun_ms),
        figures::count(begun.counts.rows(), "wrap")
    )
}

/// When a job was retired, what went, and what stayed.
fn in_words(job: &JobRow, retired: &Retired) -> String {
    let mut text = format!(
        "at {}, {} deleted",
        figures::time(job.since_ms),
        figures::count(retired.deleted.rows(), "old wrap")
    );
    if let Some(both) = figures::both_cmks(retired.kept) {
        text += &format!(", {} kept: {both}", retired.kept);
    }
    text
}

/// The old keys of a drained rekey.
fn set_aside(aside: &SetAside) -> String {
    let mut text = format!(
        "{} until {}",
        figures::count(aside.keys, "old key"),
        figures::time(aside.until_ms)
    );
    for (code, n) in &aside.refused {
        text += &format!(", {n} not: {code}");
    }
    text
}

fn counts(c: &crate::job::Counts) -> String {
    let parts = [
        ("rewritten", c.rewritten),
        ("current", c.current),
        ("changed meanwhile", c.changed),
        ("expired", c.expired),
        ("empty", c.empty),
        ("blocked", c.blocked),
        ("quarantined", c.quarantined),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    format!(
        "{} ({})",
        figures::count(c.scanned, "row"),
        parts.join(", ")
    )
}

fn last_words(job: &JobRow) -> String {
    let request = &job.request;
    // A retire may come months later, and is none of the job's time.
    let over_ms = match &job.retired {
        Some(retired) => retired.drained_ms,
        None => job.since_ms,
    };
    let took = Duration::from_millis(over_ms.saturating_sub(job.recorded_ms));
    let what = match request.channel_move() {
        None => format!("rekey {}", request.org()),
        Some(m) => format!("move {} to {}", m.source(), m.destination()),
    };
    let state = match &job.retired {
        Some(_) => JobState::Drained,
        None => job.state,
    };
    let mut text = format!("{what} {state} after {}", figures::span(took));
    if let Some(retired) = &job.retired {
        text += &format!("; retired {}", in_words(job, retired));
    }
    if job.rewriting.scanned > 0 {
        text += &format!("; rewriting: {}", counts(&job.rewriting));
    }
    let verdict = job.verdict.as_deref().unwrap_or(&job.why);
    text += &format!("\n{}", figures::printable(verdict));
    if let Some(next) = progress::next(job) {
        text += &format!("\nnext: {next}");
    }
    text
}

/// Shows how a job goes on, as `--watch` asks for it.
#[derive(Default)]
struct Screen {
    speed: Speed,
    drawn: bool,
    shown: Option<(BootTime, JobState)>,
}

impl Screen {
    async fn show(&mut self, status: &Status<'_>, job: &JobRow) -> Result<(), Failure> {
        if !status.arguments.watch {
            return Ok(());
        }
        let redraws = status.context.out.is_live();
        let now = status.context.clock.boot();
        let pause = match redraws {
            true => Duration::from_secs(1),
            false => Duration::from_secs(status.arguments.interval),
        };
        // A change of state is news at once.
        if let Some((at, state)) = self.shown
            && state == job.state
            && now.since(at) < pause
        {
            return Ok(());
        }
        let tasks = context::tasks(&status.book, job).await?;
        let progress = status.progress(job, &tasks, &mut self.speed).await?;
        self.shown = Some((now, job.state));
        if status.context.out.is_json() {
            let retiring = status.retiring(job).await?;
            let programs = status.for_programs(job, &job.so_far(&tasks), &progress, &retiring);
            return out::line(&programs.to_string());
        }
        let line = progress.line(job);
        if redraws {
            self.drawn = true;
            out::redraw(&line)
        } else {
            out::line(&format!(
                "{}  {line}",
                figures::time(status.context.clock.wall().unix_ms())
            ))
        }
    }

    /// Leaves the redrawn line as it is and goes on below it.
    fn end_line(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.drawn) {
            return out::line("");
        }
        Ok(())
    }
}
