//! Live traffic on the client library: readers, writers, editors and deleters at
//! a set rate, with a seed. All they do stands in a [`Ledger`], and every read
//! is judged against it at once.

mod look;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use look::{ReadBack, read_back};

use look::{Look, channel, look};

use super::ledger::{Effect, Ledger, MessageName, Observed, Outcome, TextId, Vanishes, Violation};
use crate::client::{
    Channel, Client, ClientError, EditLifetime, Lifetime, ReasonCode, Use, Written,
};
use crate::clock::SharedClock;
use crate::ids::{ChannelId, Hour, InvalidId, OrgId, RecordId, WorkspaceId};

/// Violations kept in full; more are only counted.
const VIOLATIONS_KEPT: usize = 1000;
/// Half of all operations are on the newest of so many messages, where readers,
/// editors and deleters meet.
const HOT: usize = 32;

/// What one kind of hand does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// Reads a message and judges what it saw.
    Read,
    /// Writes a new message.
    Write,
    /// Writes a new message that vanishes.
    WriteVanishing,
    /// Edits a message; lasting ones may become vanishing and the reverse.
    Edit,
    /// Deletes a message.
    Delete,
}

impl Deed {
    /// All of them.
    pub const ALL: [Deed; 5] = [
        Deed::Read,
        Deed::Write,
        Deed::WriteVanishing,
        Deed::Edit,
        Deed::Delete,
    ];
}

/// Where traffic writes new messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The organization.
    pub org: OrgId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The channel; it is in the registry.
    pub channel: ChannelId,
    /// The hours of its new messages.
    pub hours: Vec<Hour>,
}

/// How much traffic, and of what.
#[derive(Debug, Clone)]
pub struct Plan {
    /// One seed makes one sequence of choices for each hand.
    pub seed: u64,
    /// Operations a second of each kind, all its hands together. A kind that is
    /// missing or 0 is not done.
    pub per_s: BTreeMap<Deed, f64>,
    /// Hands of each kind: operations of one kind that may be under way at once.
    pub hands: usize,
    /// Where new messages go; at least one with at least one hour.
    pub targets: Vec<Target>,
    /// Length of new texts, in bytes.
    pub text_bytes: RangeInclusive<usize>,
    /// After how many seconds vanishing messages vanish.
    pub vanish_after_s: RangeInclusive<u32>,
}

impl Plan {
    /// A busy application: six reads to each write, edits and deletes among
    /// them, `total_per_s` operations a second in all.
    pub fn busy(seed: u64, total_per_s: f64, targets: Vec<Target>) -> Self {
        let shares = [
            (Deed::Read, 0.60),
            (Deed::Write, 0.10),
            (Deed::WriteVanishing, 0.05),
            (Deed::Edit, 0.18),
            (Deed::Delete, 0.07),
        ];
        Self {
            seed,
            per_s: shares.map(|(deed, n)| (deed, n * total_per_s)).into(),
            hands: 2,
            targets,
            text_bytes: 20..=400,
            vanish_after_s: 2..=20,
        }
    }
}

/// What has been done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Operations that succeeded, by kind.
    pub done: BTreeMap<Deed, u64>,
    /// Edits that found no message, since it was deleted or has vanished.
    pub absent: u64,
    /// Reads that found no message, and rightly.
    pub read_absent: u64,
    /// Errors by their code. None of them is a violation in itself.
    pub errors: BTreeMap<&'static str, u64>,
    /// Writes, edits and deletes that were sent and not answered.
    pub unsure: u64,
    /// Promises broken.
    pub violations: u64,
}

/// Traffic that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was done.
    pub counts: Counts,
    /// The first violations.
    pub violations: Vec<Violation>,
}

/// Traffic under way.
pub struct Traffic {
    shared: Arc<Shared>,
    stop: CancellationToken,
    hands: JoinSet<io::Result<()>>,
}

struct Shared {
    client: Client,
    ledger: Arc<Ledger>,
    clock: SharedClock,
    plan: Plan,
    names: Mutex<Vec<MessageName>>,
    report: Mutex<Report>,
    done: watch::Sender<u64>,
}

impl Traffic {
    /// Starts traffic on the messages that the ledger knows and on new ones. It
    /// ends by [`Traffic::stop`], or when `stop` is cancelled: each hand then
    /// finishes what it is doing, so nothing is left unanswered.
    pub fn start(
        client: Client,
        ledger: Arc<Ledger>,
        clock: SharedClock,
        plan: Plan,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            names: Mutex::new(ledger.names()),
            client,
            ledger,
            clock,
            plan,
            report: Mutex::default(),
            done: watch::Sender::new(0),
        });
        let mut hands = JoinSet::new();
        for (kind, deed) in Deed::ALL.into_iter().enumerate() {
            let per_s = shared.plan.per_s.get(&deed).copied().unwrap_or(0.0);
            if per_s <= 0.0 {
                continue;
            }
            let each = Duration::from_secs_f64(shared.plan.hands as f64 / per_s);
            for n in 0..shared.plan.hands {
                // Every hand has its own sequence, whatever the others do.
                let seed = shared.plan.seed ^ ((kind as u64) << 32 | n as u64).rotate_left(17);
                let hand = Hand {
                    shared: shared.clone(),
                    deed,
                    rng: StdRng::seed_from_u64(seed),
                    name: format!("{:x}{kind}{n}", shared.plan.seed),
                    made: 0,
                };
                hands.spawn(hand.work(each, stop.clone()));
            }
        }
        Self {
            shared,
            stop,
            hands,
        }
    }

    /// What has been done so far.
    pub fn counts(&self) -> Counts {
        self.shared.report().counts.clone()
    }

    /// The same, with the violations.
    pub fn so_far(&self) -> Report {
        self.shared.report().clone()
    }

    /// Waits until so many operations have succeeded in all.
    pub async fn reached(&self, operations: u64) {
        let mut done = self.shared.done.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = done.wait_for(|n| *n >= operations).await;
    }

    /// Ends the traffic and waits for what is under way.
    ///
    /// # Errors
    /// If the ledger's file could not be written.
    pub async fn stop(mut self) -> io::Result<Report> {
        self.stop.cancel();
        while let Some(ended) = self.hands.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(std::mem::take(&mut *self.shared.report()))
    }
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        // Nothing that holds the lock can panic half way through a change.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Vec<MessageName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel(&self, name: &MessageName) -> Channel {
        channel(&self.client, name)
    }

    fn done(&self, deed: Deed) {
        *self.report().counts.done.entry(deed).or_default() += 1;
        self.done.send_modify(|n| *n += 1);
    }

    fn failed(&self, error: &ClientError) {
        let mut report = self.report();
        *report.counts.errors.entry(error.code()).or_default() += 1;
    }

    fn violated(&self, violation: Violation) {
        let mut report = self.report();
        report.counts.violations += 1;
        if report.violations.len() < VIOLATIONS_KEPT {
            report.violations.push(violation);
        }
    }
}

struct Hand {
    shared: Arc<Shared>,
    deed: Deed,
    rng: StdRng,
    name: String,
    made: u64,
}

impl Hand {
    async fn work(mut self, each: Duration, stop: CancellationToken) -> io::Result<()> {
        let clock = self.shared.clock.clone();
        let first = each.mul_f64(self.rng.random_range(0.0..1.0));
        let mut due = clock.boot().plus(first);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = clock.sleep(due.since(clock.boot())) => {}
            }
            // A slow store slows the traffic down; it is not flooded afterwards.
            due = due.max(clock.boot()).plus(each);
            match self.deed {
                Deed::Read => self.read().await,
                Deed::Write => self.write(Lifetime::Lasting).await?,
                Deed::WriteVanishing => {
                    let until = self.soon();
                    self.write(until).await?;
                }
                Deed::Edit => self.edit().await?,
                Deed::Delete => self.delete().await?,
            }
        }
    }

    fn pick(&mut self) -> Option<MessageName> {
        let hot = self.rng.random_bool(0.5);
        let any: f64 = self.rng.random_range(0.0..1.0);
        let names = self.shared.names();
        let from = if hot {
            names.len().saturating_sub(HOT)
        } else {
            0
        };
        let n = from + (any * (names.len() - from) as f64) as usize;
        names.get(n).cloned()
    }

    async fn read(&mut self) {
        let Some(name) = self.pick() else { return };
        let why = Use::new(ReasonCode::MessageRead, "live traffic");
        let shared = &self.shared;
        match look(&shared.client, &shared.ledger, &shared.clock, &name, &why).await {
            Ok(Look { seen, violation }) => {
                shared.done(Deed::Read);
                if violation.is_none() && seen == Observed::Absent {
                    shared.report().counts.read_absent += 1;
                }
                if let Some(violation) = violation {
                    shared.violated(violation);
                }
            }
            Err(error) => shared.failed(&error),
        }
    }

    async fn write(&mut self, lifetime: Lifetime) -> io::Result<()> {
        let Ok(Some(name)) = self.new_name() else {
            return Ok(());
        };
        let text = self.text();
        let effect = Effect::Put {
            text: TextId::of(&text),
            vanishes: asked(lifetime),
        };
        let op = self.shared.ledger.begin(&name, effect)?;
        let why = Use::new(ReasonCode::MessageWrite, "live traffic");
        let channel = self.shared.channel(&name);
        let result = channel
            .write(name.hour, &name.record, &text, lifetime, &why)
            .await;
        self.shared.ledger.answer(op, outcome(&result))?;
        // Readers find it from here on, acknowledged or not.
        self.shared.names().push(name);
        self.count(&result);
        Ok(())
    }

    async fn edit(&mut self) -> io::Result<()> {
        let Some(name) = self.pick() else {
            return Ok(());
        };
        let lifetime = match self.rng.random_range(0..10) {
            0..=5 => EditLifetime::Keep,
            6..=8 => EditLifetime::Set(Lifetime::Lasting),
            _ => EditLifetime::Set(self.soon()),
        };
        let text = self.text();
        let effect = Effect::Put {
            text: TextId::of(&text),
            vanishes: match lifetime {
                EditLifetime::Keep => Vanishes::AsBefore,
                EditLifetime::Set(lifetime) => asked(lifetime),
            },
        };
        let op = self.shared.ledger.begin(&name, effect)?;
        let why = Use::new(ReasonCode::MessageEdit, "live traffic");
        let channel = self.shared.channel(&name);
        let result = channel
            .edit(name.hour, &name.record, &text, lifetime, &why)
            .await;
        self.shared.ledger.answer(op, outcome(&result))?;
        self.count(&result);
        Ok(())
    }

    async fn delete(&mut self) -> io::Result<()> {
        let Some(name) = self.pick() else {
            return Ok(());
        };
        let op = self.shared.ledger.begin(&name, Effect::Delete)?;
        let channel = self.shared.channel(&name);
        let result = channel.delete(name.hour, &name.record).await;
        self.shared.ledger.answer(op, outcome(&result))?;
        self.count(&result);
        Ok(())
    }

    fn count(&self, result: &Result<Written, ClientError>) {
        match result {
            Ok(_) => self.shared.done(self.deed),
            Err(error) if error.code() == "absent" => {
                self.shared.report().counts.absent += 1;
            }
            Err(error) => {
                self.shared.failed(error);
                if error.perhaps_written.is_some() {
                    self.shared.report().counts.unsure += 1;
                }
            }
        }
    }

    fn new_name(&mut self) -> Result<Option<MessageName>, InvalidId> {
        let targets = &self.shared.plan.targets;
        if targets.is_empty() {
            return Ok(None);
        }
        let target = &targets[self.rng.random_range(0..targets.len())];
        if target.hours.is_empty() {
            return Ok(None);
        }
        let hour = target.hours[self.rng.random_range(0..target.hours.len())];
        self.made += 1;
        // The start time is in the name, so that traffic that is started again
        // with the same seed on the same store does not meet its own past.
        let record = format!(
            "live-{}-{}-{}",
            self.name,
            self.made,
            self.shared.clock.wall().0
        );
        Ok(Some(MessageName {
            org: target.org.clone(),
            workspace: target.workspace.clone(),
            channel: target.channel.clone(),
            hour,
            record: RecordId::new(record)?,
        }))
    }

    fn text(&mut self) -> Vec<u8> {
        let length = self.rng.random_range(self.shared.plan.text_bytes.clone());
        (0..length)
            .map(|_| self.rng.random_range(b' '..=b'~'))
            .collect()
    }

    fn soon(&mut self) -> Lifetime {
        let after_s = self
            .rng
            .random_range(self.shared.plan.vanish_after_s.clone());
        let at_s = self.shared.clock.wall().unix_seconds() + i64::from(after_s);
        Lifetime::Until(u32::try_from(at_s).unwrap_or(u32::MAX))
    }
}

fn asked(lifetime: Lifetime) -> Vanishes {
    match lifetime {
        Lifetime::Lasting => Vanishes::Never,
        Lifetime::Until(s) => Vanishes::At(s),
    }
}

fn outcome(result: &Result<Written, ClientError>) -> Outcome {
    match result {
        Ok(written) => Outcome::Acknowledged {
            at: written.write_time,
            vanishes: written.expires_at_s.into(),
        },
        Err(ClientError {
            perhaps_written: Some(at),
            ..
        }) => Outcome::Unsure { at: Some(*at) },
        Err(_) => Outcome::NotDone,
    }
}
