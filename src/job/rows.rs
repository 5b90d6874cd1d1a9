//! Jobs, tasks and their counts as they stand in the store. docs/format.md
//! lists the tables.

use serde::{Deserialize, Serialize};

use crate::audit::StreamRef;
use crate::epoch::Epoch;
use crate::ids::{ChannelId, CmkArn, Hour, OrgId, RecordId};
use crate::job::message::{JobMessage, Mode, MoveKind};
use crate::job::set_aside::{Retired, SetAside};
use crate::job::state::JobState;
use crate::job::window::Opening;
use crate::registry::CopyPhase;

/// Who holds a job or a task, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The worker.
    pub worker: String,
    /// When others may take it, wall clock, Unix milliseconds.
    pub until_ms: u64,
    /// What the holder waited for when it last wrote, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
    /// What the holder's taking in of jobs waited for, in words. Jobs that are
    /// recorded go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake_waits: Option<String>,
    /// What slowed the holder down when it last wrote, in words. It goes on,
    /// only slower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowed: Option<String>,
}

/// What became of the rows that were scanned. The seven parts always sum to
/// `scanned` (I13).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Rows read.
    pub scanned: u64,
    /// Rows written back under the desired epoch.
    pub rewritten: u64,
    /// Rows that were as they should be.
    pub current: u64,
    /// Rows that somebody changed between read and write.
    pub changed: u64,
    /// Rows past the expiry in their header.
    pub expired: u64,
    /// Rows without a live value.
    pub empty: u64,
    /// Rows that wait for a key.
    pub blocked: u64,
    /// Rows left as they are because they do not open or parse.
    pub quarantined: u64,
}

/// As the audit log has them.
impl From<&Counts> for crate::audit::Counts {
    fn from(counts: &Counts) -> Self {
        Self {
            rewritten: counts.rewritten,
            current: counts.current,
            changed: counts.changed,
            expired: counts.expired,
            empty: counts.empty,
            blocked: counts.blocked,
            quarantined: counts.quarantined,
            scanned: counts.scanned,
        }
    }
}

impl Counts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Counts) {
        self.scanned += other.scanned;
        self.rewritten += other.rewritten;
        self.current += other.current;
        self.changed += other.changed;
        self.expired += other.expired;
        self.empty += other.empty;
        self.blocked += other.blocked;
        self.quarantined += other.quarantined;
    }

    /// Takes another count, that was added before, out of this one.
    pub fn subtract(&mut self, other: &Counts) {
        self.scanned -= other.scanned;
        self.rewritten -= other.rewritten;
        self.current -= other.current;
        self.changed -= other.changed;
        self.expired -= other.expired;
        self.empty -= other.empty;
        self.blocked -= other.blocked;
        self.quarantined -= other.quarantined;
    }

    /// Whether the parts sum to the rows scanned. A sum that no number holds is
    /// not one: the counts come from a row that may be damaged.
    pub fn balances(&self) -> bool {
        let parts = [
            self.rewritten,
            self.current,
            self.changed,
            self.expired,
            self.empty,
            self.blocked,
            self.quarantined,
        ];
        let sum = parts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
        sum == Some(self.scanned)
    }
}

/// What a pass did besides counting rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Slices finished.
    pub slices: u64,
    /// Bytes of cells read.
    pub bytes: u64,
    /// KMS calls answered.
    pub kms_calls: u64,
    /// Data keys made.
    pub keys_made: u64,
    /// Wraps added by a rewrap.
    pub keys_rewrapped: u64,
    /// Rows found below the job's epoch, or keys without the wrap they need, by
    /// a scan that proves.
    pub finds: u64,
}

impl Effort {
    /// Adds another effort to this one.
    pub fn add(&mut self, other: &Effort) {
        self.slices += other.slices;
        self.bytes += other.bytes;
        self.kms_calls += other.kms_calls;
        self.keys_made += other.keys_made;
        self.keys_rewrapped += other.keys_rewrapped;
        self.finds += other.finds;
    }
}

/// What the tasks of a round do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Rewrite what is older than desired.
    Rewrite,
    /// Prove that nothing is: every cell is opened, every key checked.
    Verify,
    /// Scan once more, at every replica, for writes that landed late.
    Drain,
    /// Copy a channel's cells to its new place, each at its own write time.
    Copy,
    /// Copy what landed late in the old place, at every replica, and purge the
    /// old place row by row.
    Sweep,
}

impl Pass {
    /// The word used in rows, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Pass::Rewrite => "rewrite",
            Pass::Verify => "verify",
            Pass::Drain => "drain",
            Pass::Copy => "copy",
            Pass::Sweep => "sweep",
        }
    }
}

/// A round of tasks. A new round is planned for each pass, and again whenever a
/// planner died before its plan was complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Round {
    /// Number of the round; task ids begin with it.
    pub number: u32,
    /// What its tasks do.
    pub pass: Pass,
    /// Tasks planned, or `None` while the plan is being written.
    pub tasks: Option<u32>,
    /// Slices planned.
    pub slices: u64,
}

/// What preflight expects of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Slices of the organization.
    pub slices: u64,
    /// KMS calls, verification included.
    pub kms_calls: u64,
    /// Seconds at the KMS budget, waits included; the store may need longer.
    pub seconds: u64,
}

/// What activation fixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activated {
    /// The job's epoch. Of a copy, an epoch of the destination's organization.
    pub epoch: Epoch,
    /// The CMK that was active before. Of a move, the active CMK.
    pub from_cmk: CmkArn,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// An operator's word that a move may go on without the cells that wait for a
/// key. They stay in the old place, and the sweep tries them again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveBehind {
    /// Who said so.
    pub who: String,
    /// Why, in words.
    pub why: String,
    /// When, Unix milliseconds.
    pub at_ms: u64,
}

/// How far a copy of a channel is. The phase itself stands in the registry, in
/// the channel's row; the driver changes it there first and notes it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyProgress {
    /// The phase that was last noted. It is being waited for in `settling`;
    /// elsewhere every client follows it.
    pub phase: CopyPhase,
    /// Set by an operator: go on without the cells that wait for a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_behind: Option<LeaveBehind>,
    /// Cells that stayed in the old place when the move ended.
    #[serde(default)]
    pub left_behind: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRow {
    /// What was asked for.
    pub request: JobMessage,
    /// Hash of the request; the same id with another hash is refused.
    pub body_sha256: String,
    /// When it was recorded, Unix milliseconds.
    pub recorded_ms: u64,
    /// Where it is.
    pub state: JobState,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// Why it is there, in words.
    pub why: String,
    /// State changes so far; numbers the rows of its history.
    pub transitions: u32,
    /// Fencing token of whoever drives it; one more with each takeover.
    pub token: u64,
    /// Who drives it.
    pub lease: Option<Lease>,
    /// Set by activation.
    pub activated: Option<Activated>,
    /// Set by preflight.
    pub estimate: Option<Estimate>,
    /// Rounds begun so far; numbers the next.
    pub rounds: u32,
    /// Number of the last round that rewrites, copies or sweeps. What was left as
    /// it is in an earlier one was tried again since.
    pub rewrite_round: u32,
    /// The round of tasks that is planned or worked on now.
    pub round: Option<Round>,
    /// How often preflight had to wait; spaces its retries.
    pub preflights: u32,
    /// When a job that is blocked before activation is tried again, Unix
    /// milliseconds.
    pub retry_ms: Option<u64>,
    /// When the drain wait ends, Unix milliseconds.
    pub drain_until_ms: Option<u64>,
    /// Rows of all finished rewriting rounds.
    pub rewriting: Counts,
    /// Rows of the last finished scan.
    pub proof: Counts,
    /// Effort of all finished rounds.
    pub effort: Effort,
    /// Takeovers of tasks from workers whose lease ran out, in finished rounds.
    pub takeovers: u64,
    /// Audit streams of every worker that drove it or held a task, and how far
    /// each is known to go.
    pub streams: Vec<StreamRef>,
    /// Slices that wait for a key.
    pub blocked_slices: u64,
    /// The verdict, once there is one.
    pub verdict: Option<String>,
    /// CMKs besides its own old one of which the verdict says the same.
    pub freed: Vec<CmkArn>,
    /// Of a move that copies: how far it is, from its activation on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyProgress>,
    /// Of a paused job: the state it was paused in, where it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_from: Option<JobState>,
    /// Of a drained rekey: what it set aside before its verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<SetAside>,
    /// Of a retired one: what was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<Retired>,
}

impl JobRow {
    /// A job as it stands when it is recorded, Unix milliseconds.
    pub fn recorded(request: &JobMessage, body_sha256: &str, now_ms: u64, why: &str) -> Self {
        Self {
            request: request.clone(),
            body_sha256: body_sha256.to_owned(),
            recorded_ms: now_ms,
            state: JobState::Queued,
            since_ms: now_ms,
            why: why.to_owned(),
            transitions: 0,
            token: 0,
            lease: None,
            activated: None,
            estimate: None,
            rounds: 0,
            rewrite_round: 0,
            round: None,
            preflights: 0,
            retry_ms: None,
            drain_until_ms: None,
            rewriting: Counts::default(),
            proof: Counts::default(),
            effort: Effort::default(),
            takeovers: 0,
            streams: Vec::new(),
            blocked_slices: 0,
            verdict: None,
            freed: Vec::new(),
            copy: None,
            paused_from: None,
            set_aside: None,
            retired: None,
        }
    }

    /// When it came to its end, Unix milliseconds, if it has; a retire is after it.
    pub fn ended_ms(&self) -> Option<u64> {
        let drained = self.retired.map(|retired| retired.drained_ms);
        let ended = drained.unwrap_or(self.since_ms);
        self.state.is_final().then_some(ended)
    }

    /// How the job rewrites.
    pub fn mode(&self) -> Mode {
        self.request.mode()
    }

    /// What a pass of the job goes through: an organization, or one channel of it.
    /// A copy is proven where it went to.
    pub fn scans(&self, pass: Pass) -> (OrgId, Option<ChannelId>) {
        match &self.request {
            JobMessage::Rekey(request) => (request.org.clone(), None),
            JobMessage::Move(request)
                if request.kind() == MoveKind::Copy && pass == Pass::Verify =>
            {
                (request.to_org().clone(), Some(request.to.channel.clone()))
            }
            JobMessage::Move(request) => (request.org.clone(), Some(request.from.channel.clone())),
        }
    }

    /// Until when there is nothing to do for it, if at a time it waits for one: the
    /// time it was asked for, its window, the end of the drain wait, the next try
    /// of a preflight. Unix milliseconds.
    pub fn rests_until_ms(&self, now_ms: u64) -> Option<u64> {
        let unix_ms = |t: jiff::Timestamp| u64::try_from(t.as_millisecond()).ok();
        match self.state {
            JobState::Queued => {
                let begin = self.request.not_before().and_then(unix_ms);
                let opens = self.closed_until_ms(now_ms.max(begin.unwrap_or(0)));
                // Too late is found when it is, not when the window opens.
                let end = self.request.not_after().and_then(unix_ms);
                opens.or(begin).map(|at| at.min(end.unwrap_or(at)))
            }
            JobState::Draining if self.round.is_none() => self.drain_until_ms,
            JobState::Blocked if self.activated.is_none() => self.retry_ms,
            _ => self.closed_until_ms(now_ms),
        }
    }

    /// When its window opens, if at a time it is closed and keeps the job from
    /// what it would do in its state. Unix milliseconds.
    ///
    /// Outside of the window nothing is begun and no task is worked on. A settle or
    /// a drain that has begun goes on: clients follow the registry by themselves,
    /// and what a copy leaves behind has to be swept before its deletes are
    /// forgotten.
    pub fn closed_until_ms(&self, now_ms: u64) -> Option<u64> {
        let window = self.request.window()?;
        let keeps = match self.state {
            JobState::Queued
            | JobState::Preflight
            | JobState::Rewriting
            | JobState::Verifying
            | JobState::Verified => true,
            JobState::Blocked => self.round.is_some_and(|round| match round.pass {
                Pass::Rewrite | Pass::Verify | Pass::Copy => true,
                Pass::Drain | Pass::Sweep => false,
            }),
            // It cannot be cancelled, so it is not to wait for hours there:
            // preflight does not end outside of the window.
            JobState::Activating
            | JobState::Settling
            | JobState::Draining
            | JobState::Drained
            | JobState::Retired
            | JobState::Paused
            | JobState::Failed
            | JobState::Cancelled => false,
        };
        let now = jiff::Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        match window.at(now) {
            Opening::ClosedUntil(opens) if keeps => u64::try_from(opens.as_millisecond()).ok(),
            _ => None,
        }
    }

    /// Whether there is something to do for it at a time, Unix milliseconds.
    /// A paused job waits for a command, not for a time.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let rests = self.rests_until_ms(now_ms);
        self.state != JobState::Paused && rests.is_none_or(|until| until <= now_ms)
    }
}

/// One change of a job's state, or what an operator did to it without one: then
/// `from` and `to` are the same. History rows are only inserted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    /// From where.
    pub from: JobState,
    /// To where.
    pub to: JobState,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who: a worker, or an operator.
    pub who: String,
    /// Why, in words.
    pub why: String,
}

impl Transition {
    /// Whether it is a note: the job stayed in its state.
    pub fn is_note(&self) -> bool {
        self.from == self.to
    }
}

/// A slice of messages by its address. Ordered as tasks go through them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceId {
    /// The channel.
    pub channel: ChannelId,
    /// The hour.
    pub hour: Hour,
}

impl std::fmt::Display for SliceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.channel, self.hour)
    }
}

/// Up to where a task's writes are durable: all slices before `slice`, and of
/// `slice` the records up to and with `record`. A hint, never a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The first slice that is not finished.
    pub slice: SliceId,
    /// The last record of it that is done, if one is.
    pub record: Option<RecordId>,
}

/// A slice that waits for a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockedSlice {
    /// The slice.
    pub slice: SliceId,
    /// Why, as a stable code: `revoked`, `cmk_disabled`, ….
    pub code: String,
    /// Why, in the KMS's words.
    pub message: String,
    /// Records up to and with this one are done; the retry goes on after it.
    pub after: Option<RecordId>,
    /// Rows that were read after it. They are in the task's counts, and the
    /// retry counts them anew.
    pub counts: Counts,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again, Unix milliseconds.
    pub retry_ms: u64,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// To be done, or being done.
    Open,
    /// Gone through, but some slices wait for a key.
    Parked,
    /// Done.
    Done,
}

/// A run of slices that one worker holds at a time: from `from` on, up to but
/// not with `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRow {
    /// First slice.
    pub from: SliceId,
    /// First slice of the next task, or `None` for the last task.
    pub to: Option<SliceId>,
    /// Slices planned in it.
    pub planned: u64,
    /// Where it is.
    pub state: TaskState,
    /// Fencing token; one more with each claim.
    pub token: u64,
    /// Who holds it.
    pub lease: Option<Lease>,
    /// Claims that took it from a worker whose lease had run out.
    pub takeovers: u32,
    /// Up to where it is durable; `None` before the first checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Rows up to the checkpoint.
    pub counts: Counts,
    /// Effort up to the checkpoint.
    pub effort: Effort,
    /// Slices that wait for a key.
    pub blocked: Vec<BlockedSlice>,
    /// Audit streams of the workers that held it, and how far each is known to go.
    pub streams: Vec<StreamRef>,
}

/// A cell that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineRow {
    /// The slice.
    pub slice: SliceId,
    /// The record.
    pub record: RecordId,
    /// Why, as a stable code of docs/format.md.
    pub code: String,
    /// The cell's write time, microseconds since 1970.
    pub write_time: i64,
    /// When it was found, Unix milliseconds.
    pub found_ms: u64,
    /// Which scan found it: the round's number.
    pub round: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_balance_or_say_so() {
        let mut c = Counts {
            scanned: 3,
            rewritten: 1,
            current: 1,
            expired: 1,
            ..Counts::default()
        };
        assert!(c.balances());
        c.add(&Counts {
            scanned: 2,
            blocked: 1,
            quarantined: 1,
            ..Counts::default()
        });
        assert!(c.balances());
        assert_eq!(c.scanned, 5);
        c.scanned += 1;
        assert!(!c.balances());
        c.rewritten = u64::MAX;
        assert!(!c.balances());
    }
}
