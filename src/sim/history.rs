//! One history: a store is filled, jobs are sent, people and the weather and
//! death do what they do, and at the end everything is held against the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Outcome;
use super::chance::Dice;
use super::harm::{spoil, stall_a_write};
use super::judge;
use super::process::{Process, ProcessClock};
use super::replicas::REPLICAS;
use super::running::{Running, fresh_worker, keep_client, keep_worker, lock};
use super::time::Time;
use super::weather::Weather;
use super::world::{World, timing};
use crate::client::{Lifetime, ReasonCode, Use};
use crate::clock::SharedClock;
use crate::demo::ledger::{MessageName, TextId};
use crate::ids::{ChannelId, Hour, JobId, RecordId, WorkspaceId};
use crate::job::{
    Cause, JobBook, JobMessage, JobRow, Mode, MoveFrom, MoveRequest, MoveTo, RekeyRequest,
};
use crate::pipeline::patiently;
use crate::queue::Queue;
use crate::registry::Registry;

/// How long jobs may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(8 * 3600);
pub(super) const CLIENTS: usize = 2;
pub(super) const CHANNELS: usize = 3;
/// How many histories are such that no write comes late: what a scan finds then
/// was left out by a worker.
const QUIET: f64 = 0.3;
/// How many are about copies and about clients that stall.
const COPIES: f64 = 0.3;

/// What the history does from outside.
pub(super) struct Operator {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
    pub(super) clock: SharedClock,
    pub(super) registry: Registry,
    pub(super) book: JobBook,
}

pub(super) async fn play(time: Time, seed: u64, compute: Arc<rayon::ThreadPool>) -> Outcome {
    let dice = Dice::new(seed);
    let world = Arc::new(World::new(time.clone(), dice, compute));
    let process = Process::new(&time, "operator");
    let clock: SharedClock = Arc::new(ProcessClock(process.clone()));
    let store = world.store(&process);
    let operator = Operator {
        registry: Registry::new(store.clone(), clock.clone()),
        book: JobBook::new(store.clone(), clock.clone()),
        process,
        clock,
        world: world.clone(),
    };
    let mut wrong = Vec::new();
    let running = Arc::new(Running::default());
    let mut jobs = Vec::new();
    match operator.live(&running, &mut jobs).await {
        Ok(rows) => {
            wrong.extend(judge::all(&operator, &rows, running.quiet.load(Ordering::Relaxed)).await)
        }
        Err(stuck) => wrong.push(stuck),
    }
    for report in lock(&running.reports).iter() {
        wrong.extend(
            report
                .violations
                .iter()
                .map(|v| format!("a reader saw: {v:?}")),
        );
    }
    let mut tally = *lock(&running.tally);
    tally.jobs = jobs.len() as u64;
    tally.operations = lock(&running.reports)
        .iter()
        .flat_map(|report| report.counts.done.values())
        .sum();
    let (trace, events) = time.traced();
    Outcome {
        seed,
        wrong,
        log: world.said(),
        tally,
        lasted: time.now(),
        events,
        trace,
    }
}

impl Operator {
    /// All but the judgement. `Err`: what did not come to its end.
    async fn live(
        &self,
        running: &Arc<Running>,
        jobs: &mut Vec<JobId>,
    ) -> Result<Vec<JobRow>, String> {
        let world = &self.world;
        let hours = self.fill().await?;
        let quiet = world.dice.chance(QUIET);
        running.quiet.store(quiet, Ordering::Relaxed);
        let copies = !quiet && world.dice.chance(COPIES);
        running.copies.store(copies, Ordering::Relaxed);
        let mut weather = Weather::any(&world.dice);
        if quiet {
            weather = weather.without_late_writes();
        }
        world.say(&format!("{weather:?}"));
        world.replicas.set_weather(weather);
        for n in 0..2 + world.dice.below(2) {
            lock(&running.workers).push(fresh_worker(world, &format!("worker-{n}.0")));
            tokio::spawn(keep_worker(world.clone(), running.clone(), n));
        }
        for n in 0..CLIENTS {
            lock(&running.clients).push(Process::new(&world.time, &format!("client-{n}.0")));
            tokio::spawn(keep_client(
                world.clone(),
                running.clone(),
                n,
                hours.clone(),
            ));
        }
        // Before anything goes wrong there is something to lose.
        self.clock.sleep(world.dice.span(1_000.0, 60_000.0)).await;
        let spoil = tokio::spawn(spoil(world.clone(), running.clone()));
        self.ask(running, jobs, copies).await;
        // A panic of the simulation itself ends the history.
        let _ = spoil.await;
        world.say("nothing goes wrong any more");
        world.replicas.set_weather(Weather::CALM);
        for replica in 0..REPLICAS {
            world.replicas.set_down(replica, false);
        }
        world.keys.allow_all();
        for (worker, _) in lock(&running.workers).iter() {
            worker.spare();
        }
        for client in lock(&running.clients).iter() {
            client.spare();
        }
        let until = world.time.now() + PATIENCE;
        let mut rows = BTreeMap::new();
        loop {
            for job in jobs.iter() {
                let found = self.book.get(&world.org, *job).await;
                if let Ok(Some(found)) = found {
                    rows.insert(*job, found.row);
                }
            }
            let ended = |row: &JobRow| row.state.is_final();
            if rows.len() == jobs.len() && rows.values().all(ended) {
                break;
            }
            // Nothing is learned from what follows.
            if let Some(broken) = world.replicas.broken().pop() {
                return Err(broken);
            }
            if world.time.now() > until {
                let where_they_are: Vec<String> = rows
                    .values()
                    .map(|row| format!("{} {}: {}", row.request.what(), row.state, row.why))
                    .collect();
                return Err(format!("stuck: {where_they_are:?}"));
            }
            self.clock.sleep(Duration::from_secs(20)).await;
        }
        // People go on for a while over what the jobs left; then they stop.
        self.clock.sleep(Duration::from_secs(120)).await;
        running.over.cancel();
        while lock(&running.reports).len() < CLIENTS || !world.replicas.is_quiet() {
            self.clock.sleep(Duration::from_secs(5)).await;
            if world.time.now() > until + PATIENCE {
                return Err("the traffic does not end".to_owned());
            }
        }
        Ok(rows.into_values().collect())
    }

    /// Makes the organization and fills its channels.
    async fn fill(&self) -> Result<Vec<Hour>, String> {
        let world = &self.world;
        let said = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
        let made = self.registry.init_timing(&timing()).await;
        made.map_err(|e| said("timing", &e))?;
        let cmk = World::cmk(0);
        world.keys.set(&cmk, true);
        let canary = self.canary(&cmk).await?;
        let added = self
            .registry
            .add_org(&world.org, &cmk, &canary, "sim")
            .await;
        added.map_err(|e| said("org", &e))?;
        let client = world.client(&self.process).await.ok_or("no client")?;
        let organization = client.organization(&world.org);
        let now_s = self.clock.wall().unix_seconds() as u64;
        let hours: Vec<Hour> = (0..2u64)
            .filter_map(|ago| Hour::of_unix_seconds(now_s - 3600 * ago).ok())
            .collect();
        let why = Use::new(ReasonCode::Import, "fill");
        for n in 0..CHANNELS {
            let channel = channel(n);
            let handle = organization
                .ensure_channel(&world.workspace, &channel)
                .await;
            let handle = handle.map_err(|e| said("channel", &e))?;
            for hour in &hours {
                for m in 0..3 + world.dice.below(8) {
                    let record = RecordId::new(format!("r{m:02}")).map_err(|e| said("id", &e))?;
                    let text = format!("text {n} {hour} {m}").into_bytes();
                    let lifetime = if world.dice.chance(0.25) {
                        let after_s = world.dice.span(100_000.0, 4_000_000.0).as_secs();
                        Lifetime::Until((now_s + after_s) as u32)
                    } else {
                        Lifetime::Lasting
                    };
                    let written = handle.write(*hour, &record, &text, lifetime, &why).await;
                    let written = written.map_err(|e| said("write", &e))?;
                    let name = MessageName {
                        org: world.org.clone(),
                        workspace: world.workspace.clone(),
                        channel: channel.clone(),
                        hour: *hour,
                        record,
                    };
                    let vanishes = written.expires_at_s.into();
                    let (text, at) = (TextId::of(&text), written.write_time);
                    let entered = world.ledger.loaded(&name, text, vanishes, at);
                    entered.map_err(|e| said("ledger", &e))?;
                }
            }
        }
        Ok(hours)
    }

    async fn canary(&self, cmk: &crate::ids::CmkArn) -> Result<Vec<u8>, String> {
        use crate::kms::KmsBackend;
        let kms = super::kms::SimKms {
            keys: self.world.keys.clone(),
            replicas: self.world.replicas.clone(),
            process: self.process.clone(),
        };
        let scope = crate::scope::Scope::Canary {
            org: self.world.org.clone(),
        };
        for _ in 0..100 {
            if let Ok(made) = KmsBackend::generate_data_key(&kms, cmk, &scope).await {
                return Ok(made.value.wrapped.bytes);
            }
        }
        Err("no canary".to_owned())
    }

    /// Sends jobs, now and later.
    async fn ask(&self, running: &Arc<Running>, jobs: &mut Vec<JobId>, copies: bool) {
        let world = &self.world;
        let dice = &world.dice;
        let queue = world.queue(&self.process);
        let mut cmks = 0;
        let mut moved = [false; CHANNELS];
        for n in 0..1 + dice.below(3) {
            if n > 0 {
                self.clock.sleep(dice.span(1_000.0, 450_000.0)).await;
            }
            let is_rekey = dice.chance(if copies { 0.2 } else { 0.6 });
            let mine = dice.below(CHANNELS);
            let request = if is_rekey || moved[mine] {
                cmks += 1;
                let to = World::cmk(cmks);
                world.keys.set(&to, true);
                let Ok(canary) = self.canary(&to).await else {
                    continue;
                };
                let allow = || self.registry.allow_cmk(&world.org, &to, &canary, "sim");
                let allowed: Result<(), _> = patiently(&self.clock, allow).await;
                if let Err(error) = allowed {
                    world.say(&format!("the CMK cannot be entered: {error}"));
                    continue;
                }
                let mode = if dice.chance(0.6) {
                    Mode::Reencrypt
                } else {
                    Mode::Rewrap
                };
                JobMessage::Rekey(RekeyRequest {
                    job_id: JobId::random(),
                    org: world.org.clone(),
                    from_cmk: None,
                    to_cmk: to,
                    mode,
                    requested_by: "sim".to_owned(),
                    reason: "a history".to_owned(),
                    cause: (mode == Mode::Rewrap).then_some(Cause::Scheduled),
                    not_before: None,
                    not_after: None,
                    window: None,
                    priority: None,
                    plan: None,
                    accept_lifted_denies: Vec::new(),
                })
            } else {
                moved[mine] = true;
                let to = if !copies && dice.chance(0.5) {
                    channel(mine)
                } else {
                    channel(mine + 10)
                };
                JobMessage::Move(MoveRequest {
                    job_id: JobId::random(),
                    org: world.org.clone(),
                    from: MoveFrom {
                        workspace: world.workspace.clone(),
                        channel: channel(mine),
                    },
                    to: MoveTo {
                        org: None,
                        workspace: WorkspaceId::new("w2").expect("an id"),
                        channel: to,
                    },
                    requested_by: "sim".to_owned(),
                    reason: "a history".to_owned(),
                    cause: None,
                    not_before: None,
                    not_after: None,
                    window: None,
                    priority: None,
                    plan: None,
                })
            };
            let body = request.to_json();
            let mut sent = queue.send(&body).await;
            while sent.is_err() {
                sent = queue.send(&body).await;
            }
            if dice.chance(0.2) {
                // Doubled by whoever sends it.
                let _ = queue.send(&body).await;
            }
            world.say(&format!("asked for: {}", request.what()));
            if copies && dice.chance(0.5) {
                stall_a_write(world, running);
            }
            jobs.push(request.job_id());
        }
    }
}

pub(super) fn channel(n: usize) -> ChannelId {
    ChannelId::new(format!("c{n}")).expect("an id")
}
