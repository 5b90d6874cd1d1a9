//! Plays one round: sends its jobs, kills, freezes and ails its workers, and
//! watches until every job is at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::asks::{Asked, requests};
use super::script::{Ail, Deed, KmsFault, Round};
use super::stage::Stage;
use crate::demo::run::DemoError;
use crate::faults;
use crate::job::{BookError, JobRow};
use crate::queue::QueueError;
use crate::queue::sqlite::{SqliteQueue, Withheld};
use crate::store::StoreErrorClass;

/// Between two looks at the jobs.
const LOOK: Duration = Duration::from_millis(40);
/// The same on a cluster, where each look is rounds of Paxos on rows that the
/// workers need as well.
const LOOK_AT_CLUSTER: Duration = Duration::from_millis(250);
/// After a round's length, a job that has not ended within so long is stuck: all
/// its waits are a few seconds each.
const PATIENCE: Duration = Duration::from_secs(90);
/// The same on a cluster.
const PATIENCE_WITH_CLUSTER: Duration = Duration::from_secs(300);
/// Thousandths of a round by which workers that are to die at a point come before
/// the others.
const HEAD_START: u32 = 250;
/// From SIGTERM to SIGKILL, beyond the grace time.
const BEYOND_GRACE: Duration = Duration::from_secs(10);

/// What is left to do, at its time.
enum Action {
    Send(usize),
    Do(Deed),
    Wake(String),
    Start(Ail),
    EndKms(KmsFault),
    EndQueue,
    DieBy(String),
}

/// A worker that is dead, until nothing is held in its name.
struct Dead {
    name: String,
    at: Instant,
    held: bool,
}

struct Storm<'a> {
    stage: &'a mut Stage,
    jobs: Vec<Asked>,
    begun: Instant,
    span: Duration,
    lease: Duration,
    agenda: Vec<(Instant, Action)>,
    ails: BTreeMap<String, Ail>,
    dead: Vec<Dead>,
    queue: Option<Withheld>,
}

/// Plays it, and returns its jobs.
pub(super) async fn play(
    stage: &mut Stage,
    n: usize,
    round: &Round,
) -> Result<Vec<Asked>, DemoError> {
    let witness = stage.witness(n);
    stage.workers.witness_in(witness);
    let jobs = requests(stage, n, round).await?;
    let timing = stage.scene.timing;
    // A job without mishaps takes about as long.
    let span = Duration::from_millis(timing.settle_ms() * 7 / 2);
    let mut storm = Storm {
        stage,
        jobs,
        begun: Instant::now(),
        span,
        lease: Duration::from_millis(timing.lease_ms),
        agenda: Vec::new(),
        ails: BTreeMap::new(),
        dead: Vec::new(),
        queue: None,
    };
    storm.begin(round)?;
    storm.weather().await?;
    storm.stop_workers().await?;
    let Storm { stage, jobs, .. } = storm;
    stage.report.figures.rounds += 1;
    Ok(jobs)
}

impl Storm<'_> {
    fn at(&self, thousandths: u32) -> Instant {
        self.begun + self.span.mul_f64(f64::from(thousandths) / 1000.0)
    }

    /// Starts the workers, and writes the agenda.
    fn begin(&mut self, round: &Round) -> Result<(), DemoError> {
        // Those that are to die at a point first, or others would come to it in
        // their place: whoever takes the job in drives it.
        let doomed = |ail: &&Ail| matches!(ail, Ail::DiesAt { .. });
        for ail in round.workers.iter().filter(doomed) {
            let name = self.start(ail)?;
            if let Ail::DiesAt { by, .. } = ail {
                self.agenda.push((self.at(*by), Action::DieBy(name)));
            }
        }
        let begin = match round.workers.iter().any(|ail| doomed(&ail)) {
            true => HEAD_START,
            false => 0,
        };
        for ail in round.workers.iter().filter(|ail| !doomed(ail)) {
            let start = Action::Start(ail.clone());
            self.agenda.push((self.at(begin), start));
        }
        for (n, ask) in round.asks.iter().enumerate().take(self.jobs.len()) {
            for at in std::iter::once(&ask.at).chain(&ask.again_at) {
                self.agenda.push((self.at(*at), Action::Send(n)));
            }
            self.stage.report.figures.duplicates += ask.again_at.len() as u64;
        }
        for event in &round.events {
            let action = Action::Do(event.deed.clone());
            self.agenda.push((self.at(event.at), action));
        }
        Ok(())
    }

    /// Starts a worker with what is wrong with it.
    fn start(&mut self, ail: &Ail) -> Result<String, DemoError> {
        let figures = &mut self.stage.report.figures;
        let mut environment = vec![
            ("REKEYD_WORKER__POLL_MS", "20".to_owned()),
            ("REKEYD_WORKER__CHECKPOINT_MS", "20".to_owned()),
            ("REKEYD_QUEUE__VISIBILITY_S", "2".to_owned()),
        ];
        match ail {
            Ail::Well => {}
            Ail::DiesAt { point, nth, .. } => {
                environment.push(("REKEYD_KILL_AT", format!("{point}:{nth}")));
            }
            Ail::ClockJumps { every_ms } => {
                figures.clock_jumps += 1;
                // Two that jump apart are still within the skew.
                let far_ms = self.stage.scene.timing.max_skew_ms * 9 / 20;
                environment.push((faults::CLOCK, format!("{far_ms}:{every_ms}")));
            }
            Ail::AuditFull { writes } => {
                figures.audit_full[0] += 1;
                environment.push((faults::AUDIT, writes.to_string()));
            }
            Ail::StoreFull { pages } => {
                figures.store_full[0] += 1;
                environment.push((faults::STORE, pages.to_string()));
            }
        }
        let name = self.stage.workers.start_with(&environment)?.name.clone();
        self.ails.insert(name.clone(), ail.clone());
        Ok(name)
    }

    /// Until everything has happened and every job has ended, or patience has.
    async fn weather(&mut self) -> Result<(), DemoError> {
        let cluster = self.stage.scene.config.store.kind.is_cluster();
        let (look, patience) = match cluster {
            false => (LOOK, PATIENCE),
            true => (LOOK_AT_CLUSTER, PATIENCE_WITH_CLUSTER),
        };
        let until = self.begun + self.span + patience;
        loop {
            self.act().await?;
            self.see_ended()?;
            match self.look().await {
                Ok(()) => {}
                // The store is late, or a node of it is dead just now.
                Err(BookError::Store(error)) if error.class == StoreErrorClass::Transient => {}
                Err(error) => return Err(error.into()),
            }
            let ended = |asked: &Asked| asked.row.as_ref().is_some_and(|r| r.state.is_final());
            if self.agenda.is_empty() && self.jobs.iter().all(ended) {
                return Ok(());
            }
            if Instant::now() > until {
                return self.give_up();
            }
            tokio::time::sleep(look).await;
        }
    }

    /// Does what is due.
    async fn act(&mut self) -> Result<(), DemoError> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.agenda)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.agenda = later;
        for (_, action) in due {
            match action {
                Action::Send(n) if self.queue.is_some() => {
                    self.agenda.push((now + self.span / 20, Action::Send(n)));
                }
                Action::Send(n) => {
                    let body = self.jobs[n].message.to_json();
                    let sent = self.stage.scene.queue.send(&body);
                    // No longer: who holds the queue may be frozen, and has to be
                    // woken from here. Sent twice is as good as once.
                    match tokio::time::timeout(self.span / 10, sent).await {
                        Ok(Ok(_)) => {}
                        Err(_) | Ok(Err(QueueError::Transient(_))) => {
                            self.agenda.push((now + self.span / 5, Action::Send(n)));
                        }
                        Ok(Err(error)) => return Err(error.into()),
                    }
                }
                Action::EndQueue => self.queue = None,
                Action::Start(ail) => drop(self.start(&ail)?),
                Action::Do(deed) => self.do_deed(&deed)?,
                Action::Wake(name) => {
                    let running = self.stage.workers.running();
                    if let Some(zombie) = running.iter().find(|worker| worker.name == name) {
                        zombie.signal(Signal::CONT);
                        self.stage.report.figures.zombies += 1;
                    }
                }
                Action::EndKms(fault) => fault.end(&self.stage.scene)?,
                Action::DieBy(name) => {
                    let running = self.stage.workers.running();
                    if let Some(n) = running.iter().position(|worker| worker.name == name) {
                        self.stage.report.figures.points_not_reached += 1;
                        self.kill(n)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn do_deed(&mut self, deed: &Deed) -> Result<(), DemoError> {
        let running = self.stage.workers.running();
        match deed {
            Deed::Kill {
                pick,
                at_work: Some(after_ms),
            } if self.begun.elapsed() < self.span * 2 => {
                let works = |asked: &Asked| {
                    let row = asked.row.as_ref();
                    row.is_some_and(|row| {
                        row.state.has_tasks() && row.round.is_some_and(|r| r.tasks.is_some())
                    })
                };
                let now = Instant::now();
                let next = match self.jobs.iter().any(works) {
                    true => {
                        let after = Duration::from_millis(u64::from(*after_ms));
                        let kill = Deed::Kill {
                            pick: *pick,
                            at_work: None,
                        };
                        (now + after, Action::Do(kill))
                    }
                    false => (now, Action::Do(deed.clone())),
                };
                self.agenda.push(next);
            }
            Deed::Kill { pick, .. } => {
                // One that is to die at a point dies there, or later by itself.
                let fit: Vec<usize> = (0..running.len())
                    .filter(|n| !self.is_doomed(&running[*n].name))
                    .collect();
                match fit.get(*pick as usize % fit.len().max(1)) {
                    Some(n) => self.kill(*n)?,
                    // All are doomed, or the others are not there yet.
                    None => {
                        let again = Action::Do(deed.clone());
                        let soon = Instant::now() + self.span.mul_f64(0.1);
                        self.agenda.push((soon, again));
                    }
                }
            }
            Deed::Freeze { pick, beyond } => {
                if running.is_empty() {
                    return Ok(());
                }
                let worker = &running[*pick as usize % running.len()];
                worker.signal(Signal::STOP);
                let beyond = self.lease.mul_f64(f64::from(*beyond) / 1000.0);
                let wake = Action::Wake(worker.name.clone());
                self.agenda
                    .push((Instant::now() + self.lease + beyond, wake));
            }
            Deed::Queue { lasts } => {
                let path = &self.stage.scene.config.queue.path;
                match SqliteQueue::withhold(path) {
                    Ok(withheld) => self.queue = Some(withheld),
                    // Somebody writes to it just now, and may be frozen there.
                    Err(QueueError::Transient(_)) => {
                        let again = Action::Do(deed.clone());
                        self.agenda.push((Instant::now() + self.span / 50, again));
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
                self.stage.report.figures.queue_faults += 1;
                let lasts = self.span.mul_f64(f64::from(*lasts) / 1000.0);
                self.agenda.push((Instant::now() + lasts, Action::EndQueue));
            }
            Deed::Kms { fault, lasts } => {
                let channel = match fault {
                    KmsFault::DeniesChannel { channel } => channel % self.stage.channels.len(),
                    _ => 0,
                };
                let channel = &self.stage.channels[channel].now.channel;
                fault.begin(&self.stage.scene, channel)?;
                let lasts = self.span.mul_f64(f64::from(*lasts) / 1000.0);
                let end = Action::EndKms(*fault);
                self.agenda.push((Instant::now() + lasts, end));
                let faults = &mut self.stage.report.figures.kms_faults;
                *faults.entry(fault.name()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn is_doomed(&self, name: &str) -> bool {
        matches!(self.ails.get(name), Some(Ail::DiesAt { .. }))
    }

    /// Kills one, and starts another in its place.
    fn kill(&mut self, n: usize) -> Result<(), DemoError> {
        let dead = self.stage.workers.kill(n);
        self.stage.report.figures.kills += 1;
        self.dies(dead.name);
        self.start(&Ail::Well)?;
        Ok(())
    }

    fn dies(&mut self, name: String) {
        self.dead.push(Dead {
            name,
            at: Instant::now(),
            held: false,
        });
    }

    /// Notices those that have ended by themselves, and starts others.
    fn see_ended(&mut self) -> Result<(), DemoError> {
        for (worker, status) in self.stage.workers.take_ended() {
            let log = self.stage.workers.log(&worker.name);
            let report = &mut self.stage.report;
            let figures = &mut report.figures;
            let killed = status.signal() == Some(Signal::KILL.as_raw());
            match self.ails.get(&worker.name) {
                Some(Ail::DiesAt { point, .. }) if killed => {
                    figures.kills += 1;
                    figures.kills_at_points += 1;
                    *figures.points.entry(*point).or_default() += 1;
                }
                Some(Ail::AuditFull { .. }) if !status.success() => figures.audit_full[1] += 1,
                Some(Ail::StoreFull { .. }) if !status.success() => figures.store_full[1] += 1,
                _ => {
                    figures.ended_unasked += 1;
                    report.wrong(format!(
                        "{} ended with {status}; its log is {}",
                        worker.name,
                        log.display()
                    ));
                }
            }
            self.dies(worker.name);
            self.start(&Ail::Well)?;
        }
        Ok(())
    }

    /// Looks at the jobs, and at what is held in the name of the dead.
    async fn look(&mut self) -> Result<(), BookError> {
        let mut holders: BTreeSet<String> = BTreeSet::new();
        let scene = self.stage.scene.clone();
        for asked in &mut self.jobs {
            let id = asked.message.job_id();
            asked.row = match scene.book.get(&scene.org, id).await? {
                Some(found) => Some(found.row),
                None => continue,
            };
            let Some(row) = &asked.row else { continue };
            if row.state.is_final() {
                continue;
            }
            holders.extend(row.lease.iter().map(|lease| lease.worker.clone()));
            if self.dead.is_empty() || !row.state.has_tasks() {
                continue;
            }
            if let Some(round) = row.round {
                let tasks = scene.book.tasks(id, round.number).await?;
                let leases = tasks.iter().filter_map(|task| task.row.lease.as_ref());
                holders.extend(leases.map(|lease| lease.worker.clone()));
            }
        }
        let figures = &mut self.stage.report.figures;
        self.dead.retain_mut(|dead| {
            let holds = holders.contains(&dead.name);
            if dead.held && !holds {
                figures.took_over(dead.at.elapsed());
            }
            dead.held |= holds;
            // One that held nothing at the first look after its end held nothing.
            holds
        });
        Ok(())
    }

    /// Patience has ended.
    fn give_up(&mut self) -> Result<(), DemoError> {
        self.queue = None;
        for (_, action) in std::mem::take(&mut self.agenda) {
            if let Action::EndKms(fault) = action {
                fault.end(&self.stage.scene)?;
            }
        }
        for asked in &self.jobs {
            let state = asked.row.as_ref().map(|row| (row.state, row.why.clone()));
            if state.as_ref().is_some_and(|(state, _)| state.is_final()) {
                continue;
            }
            let report = &mut self.stage.report;
            report.figures.stuck += 1;
            let (state, why) = match state {
                Some((state, why)) => (state.as_str(), why),
                None => ("not taken in", String::new()),
            };
            report.wrong(format!(
                "job {} ({}) is stuck: {state}: {why}",
                asked.message.job_id(),
                asked.message.what()
            ));
        }
        Ok(())
    }

    /// Asks all that run to stop, and sees that the healthy ones end well.
    async fn stop_workers(&mut self) -> Result<(), DemoError> {
        for worker in self.stage.workers.running() {
            worker.signal(Signal::CONT);
            worker.signal(Signal::TERM);
        }
        let grace = Duration::from_millis(self.stage.scene.timing.grace_ms);
        let until = Instant::now() + grace + BEYOND_GRACE;
        while !self.stage.workers.running().is_empty() {
            for (worker, status) in self.stage.workers.take_ended() {
                // One that was started a moment ago did not listen yet.
                let fine = status.success() || status.signal() == Some(Signal::TERM.as_raw());
                let ails = matches!(
                    self.ails.get(&worker.name),
                    Some(Ail::AuditFull { .. } | Ail::StoreFull { .. } | Ail::DiesAt { .. })
                );
                if !fine && !ails {
                    let report = &mut self.stage.report;
                    report.figures.ended_unasked += 1;
                    report.wrong(format!("{} did not stop well: {status}", worker.name));
                }
            }
            if Instant::now() > until {
                let slow = self.stage.workers.kill(0);
                let name = slow.name;
                self.stage
                    .report
                    .other(format!("{name} did not stop within its grace time"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Whether a job came to the end that it should.
pub(super) fn ended_well(row: &JobRow) -> bool {
    row.state.is_drained()
}
