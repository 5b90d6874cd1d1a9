//! What a page is made of, read from the worker and the store.
//!
//! The unfinished jobs are those that the worker read last, so that a list of ten
//! thousand costs the store nothing. Everything else is read by key or by a page.

use std::collections::BTreeMap;

use crate::clock::{SharedClock, WallTime};
use crate::ids::{JobId, OrgId};
use crate::job::{
    BookError, JobBook, JobRow, JobState, OpenJobs, QuarantineRow, TaskRow, Throttle, Transition,
};
use crate::progress::{self, Progress, Seen, Speed, throttles};
use crate::registry::{Registry, RegistryError, Timing};
use crate::ui::heat::{self, Row};
use crate::ui::machines::Running;

/// Jobs on one page of the list.
pub(super) const JOBS: usize = 50;
/// Rows looked through for one page of the list of all jobs at most.
const LOOKED_THROUGH: usize = 500;
/// Steps of a job's history that are shown.
pub(super) const STEPS: u32 = 50;
/// Quarantined cells and slices of a kind that are shown.
pub(super) const FAILURES: usize = 20;
/// Jobs whose tasks are read for the list of workers.
const JOBS_WITH_TASKS: usize = 20;
/// Points of a graph.
const POINTS: usize = 120;

/// Where pages are read from.
pub struct Source {
    /// The jobs.
    pub book: JobBook,
    /// What should be.
    pub registry: Registry,
    /// The time.
    pub clock: SharedClock,
    /// The waits of the store.
    pub timing: Timing,
    /// The unfinished jobs as the worker last read them.
    pub open: OpenJobs,
    /// The worker.
    pub running: Running,
    /// Whether the page steers as well, with a token.
    pub steers: bool,
}

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Which jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Which {
    /// Ended ones too; then an organization has to be named.
    pub all: bool,
    /// In this state only.
    pub state: Option<JobState>,
    /// Of this organization only.
    pub org: Option<OrgId>,
    /// Of the unfinished ones: the page, from 0.
    pub page: usize,
    /// Of all: from just after this one.
    pub after: Option<JobId>,
}

/// A page of the list of jobs.
pub(super) struct Jobs {
    /// In order.
    pub rows: Vec<JobRow>,
    /// Of the unfinished ones that were asked for: how many there are.
    pub found: Option<usize>,
    /// Unfinished jobs by state, and as of when.
    pub by_state: Option<(WallTime, BTreeMap<JobState, usize>)>,
    /// The next page.
    pub next: Option<Which>,
    /// The one before.
    pub before: Option<Which>,
}

/// One job.
pub(super) struct Job {
    /// With its open round ([`JobRow::so_far`]).
    pub row: JobRow,
    pub progress: Progress,
    pub heat: Vec<Row>,
    pub blocked: BTreeMap<String, Blocked>,
    /// Whether some of those can be tried again by a command.
    pub has_parked: bool,
    pub quarantined: Vec<QuarantineRow>,
    pub more_quarantined: bool,
    pub history: Vec<Transition>,
    pub throttles: Vec<Throttle>,
    pub trend: Vec<Point>,
}

/// Slices that wait for a key for one reason.
#[derive(Default)]
pub(super) struct Blocked {
    /// How many.
    pub slices: usize,
    /// What the KMS says of the first.
    pub message: String,
    /// Some of them.
    pub some: Vec<String>,
    /// When the first is tried again, Unix milliseconds.
    pub retry_ms: u64,
}

/// What each worker holds.
pub(super) struct Workers {
    pub seen: BTreeMap<String, Seen>,
    /// Jobs whose tasks were not read.
    pub left_out: usize,
    pub throttles: Vec<Throttle>,
    pub unreadable: Vec<String>,
}

/// How fast a job was at one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub messages_per_s: f64,
    pub kms_per_s: f64,
}

/// What is kept of a job from one look to the next.
#[derive(Default)]
pub(super) struct Track {
    speed: Speed,
    trend: Vec<Point>,
}

impl Source {
    /// A page of the list of jobs.
    pub(super) async fn jobs(&self, which: &Which) -> Result<Jobs, LookError> {
        let by_state = self.open.latest().map(|open| {
            let mut by_state = BTreeMap::new();
            for seen in open.jobs.iter() {
                *by_state.entry(seen.row.state).or_insert(0) += 1;
            }
            (open.at, by_state)
        });
        let mut jobs = match (which.all, &which.org) {
            (true, Some(org)) => self.all_of(org, which).await?,
            (true, None) => Jobs::none(),
            (false, _) => self.unfinished(which),
        };
        jobs.by_state = by_state;
        Ok(jobs)
    }

    fn unfinished(&self, which: &Which) -> Jobs {
        let Some(open) = self.open.latest() else {
            return Jobs::none();
        };
        let mut found: Vec<&JobRow> = open.jobs.iter().map(|seen| &seen.row).collect();
        found.retain(|job| {
            which.state.is_none_or(|state| state == job.state)
                && which
                    .org
                    .as_ref()
                    .is_none_or(|org| org == job.request.org())
        });
        found.sort_by_key(|job| (job.recorded_ms, job.request.job_id()));
        let at = |page| Which {
            page,
            ..which.clone()
        };
        let from = which.page.saturating_mul(JOBS);
        Jobs {
            rows: found
                .iter()
                .skip(from)
                .take(JOBS)
                .map(|&job| job.clone())
                .collect(),
            found: Some(found.len()),
            by_state: None,
            next: (found.len() > from.saturating_add(JOBS)).then(|| at(which.page + 1)),
            before: which.page.checked_sub(1).map(at),
        }
    }

    /// Looks through a bounded number of rows; the next page goes on after them.
    async fn all_of(&self, org: &OrgId, which: &Which) -> Result<Jobs, LookError> {
        let mut jobs = Jobs::none();
        let mut after = which.after;
        for _ in 0..LOOKED_THROUGH / JOBS {
            let page = self.book.page_of_jobs(org, after, JOBS).await?;
            let full = page.len() == JOBS;
            for seen in page {
                after = Some(seen.row.request.job_id());
                if which.state.is_none_or(|state| state == seen.row.state) {
                    jobs.rows.push(seen.row);
                }
                if jobs.rows.len() == JOBS {
                    break;
                }
            }
            if !full && jobs.rows.len() < JOBS {
                return Ok(jobs);
            }
            if jobs.rows.len() == JOBS {
                break;
            }
        }
        jobs.next = Some(Which {
            after,
            ..which.clone()
        });
        Ok(jobs)
    }

    /// One job; `None` if there is none.
    pub(super) async fn job(&self, id: JobId, track: &mut Track) -> Result<Option<Job>, LookError> {
        let Some(found) = self.book.find(id).await? else {
            return Ok(None);
        };
        let mut row = found.row;
        let tasks: Vec<TaskRow> = match row.round {
            Some(round) => {
                let tasks = self.book.tasks(id, round.number).await?;
                tasks.into_iter().map(|task| task.row).collect()
            }
            None => Vec::new(),
        };
        let history = self.book.recent_history(&row, STEPS).await?;
        let (quarantined, more_quarantined) = self.book.some_quarantined(&row, FAILURES).await?;
        if row.state.is_final() {
            let org = row.request.org().clone();
            let activations = self.registry.activations(&org).await?;
            progress::lapse(&mut row, &activations);
            let mut rows = Vec::new();
            for later in progress::later(&row, &activations) {
                rows.extend(self.book.get(&org, later).await?.map(|later| later.row));
            }
            progress::answer(&mut row, &rows, &activations);
        }
        let (now, boot) = (self.clock.wall(), self.clock.boot());
        let mut progress = Progress::of(&row, &tasks, &self.timing, now);
        let mut holding = Vec::new();
        if !row.state.is_final() {
            let rows = self.book.throttles().await?;
            let org = row.request.org();
            holding = throttles::of_job(&rows, org, id, now);
            let unreadable = throttles::unreadable_of_job(&rows, org, id);
            progress.throttle(holding.clone(), &unreadable);
        }
        if progress::may_set_aside(&row, &tasks)
            && let Some(so_far) = self.book.aside_so_far(id).await?
        {
            let channels = self.registry.count_channels(row.request.org()).await?;
            progress.set_aside(so_far, channels);
        }
        track.speed.look(&mut progress, &row, now, boot);
        if let Some(rates) = &progress.rates {
            if track.trend.len() == POINTS {
                track.trend.remove(0);
            }
            track.trend.push(Point {
                messages_per_s: rates.messages_per_s,
                kms_per_s: rates.kms_per_s,
            });
        }
        Ok(Some(Job {
            heat: heat::map(&tasks, now.unix_ms()),
            blocked: blocked(&tasks),
            has_parked: progress::has_parked(&tasks),
            quarantined,
            more_quarantined,
            history,
            throttles: holding,
            trend: track.trend.clone(),
            progress,
            row: row.so_far(&tasks),
        }))
    }

    /// What each worker holds: of jobs that are driven, and of tasks of the first
    /// jobs that have any.
    pub(super) async fn workers(&self) -> Result<Workers, LookError> {
        let open = self.open.latest();
        let jobs = open.iter().flat_map(|open| open.jobs.iter());
        let mut seen = BTreeMap::new();
        let (mut read, mut left_out) = (0, 0);
        for job in jobs.map(|job| &job.row) {
            let round = job
                .round
                .filter(|round| job.state.has_tasks() && round.tasks.is_some());
            let tasks = match round {
                Some(round) if read < JOBS_WITH_TASKS => {
                    read += 1;
                    self.book.tasks(job.request.job_id(), round.number).await?
                }
                Some(_) => {
                    left_out += 1;
                    Vec::new()
                }
                None => Vec::new(),
            };
            let tasks = tasks.into_iter().map(|task| (task.id, task.row));
            progress::held(&mut seen, job, tasks);
        }
        let rows = self.book.throttles().await?;
        let unreadable = rows.unreadable().into_iter().map(|(name, _)| name);
        Ok(Workers {
            seen,
            left_out,
            throttles: rows.live(self.clock.wall()),
            unreadable: unreadable.collect(),
        })
    }
}

impl Jobs {
    fn none() -> Self {
        Self {
            rows: Vec::new(),
            found: None,
            by_state: None,
            next: None,
            before: None,
        }
    }
}

fn blocked(tasks: &[TaskRow]) -> BTreeMap<String, Blocked> {
    let mut by_code: BTreeMap<String, Blocked> = BTreeMap::new();
    for slice in tasks.iter().flat_map(|task| &task.blocked) {
        let of_code = by_code
            .entry(slice.code.clone())
            .or_insert_with(|| Blocked {
                message: slice.message.clone(),
                retry_ms: slice.retry_ms,
                ..Blocked::default()
            });
        of_code.slices += 1;
        of_code.retry_ms = of_code.retry_ms.min(slice.retry_ms);
        if of_code.some.len() < FAILURES {
            of_code.some.push(slice.slice.to_string());
        }
    }
    by_code
}
