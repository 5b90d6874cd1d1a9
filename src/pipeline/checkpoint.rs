//! Moves a task's checkpoint over what is durable, in order and without gaps.
//!
//! A page comes here when its writes are acknowledged. Before the checkpoint
//! moves, the cells that were left as they are stand in the quarantine list and
//! the audit records are on disk (I7, I16).

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::clock::BootTime;
use crate::ids::RecordId;
use crate::job::{
    BlockedSlice, Checkpoint, Counts, Effort, QuarantineRow, SliceId, TaskRow, TaskState,
};
use crate::killpoint;
use crate::pipeline::order::InOrder;
use crate::pipeline::patience::patiently;
use crate::pipeline::work::{Bad, Blocked, Tally};
use crate::pipeline::{TaskError, TaskRun};
use crate::registry::Timing;
use crate::telemetry::metrics::{CHECKPOINTS, ROWS, SLICES};

#[cfg(test)]
mod tests;

/// The last stage.
pub(super) async fn run(
    task: Arc<TaskRun>,
    mut done: mpsc::Receiver<Tally>,
) -> Result<(), TaskError> {
    let shared = task.shared.clone();
    let every = std::time::Duration::from_millis(shared.limits.checkpoint_ms);
    let mut order = InOrder::new();
    let retrying = task.hold.row().await.state == TaskState::Parked;
    let mut progress = Progress::new(retrying);
    let mut saved_at: BootTime = shared.clock.boot();
    while let Some(mut tally) = done.recv().await {
        tally.tell();
        // Room and turn go back now, not in order: a page that waits here for
        // one before it must not keep that one from being read.
        tally.room = None;
        tally.turn = None;
        order.push(tally.slice.number, tally.page, tally.last_page, tally);
        while let Some(tally) = order.pop() {
            progress.take(tally);
        }
        if progress.is_due() && shared.clock.boot().since(saved_at) >= every {
            save(&task, &mut progress).await?;
            saved_at = shared.clock.boot();
        }
    }
    debug_assert!(order.is_empty(), "a page of the task never came");
    save(&task, &mut progress).await
}

/// What was gone through since the last checkpoint.
struct Progress {
    retrying: bool,
    // Rows that the next checkpoint covers.
    counts: Counts,
    effort: Effort,
    bad: Vec<(SliceId, Bad)>,
    checkpoint: Option<Checkpoint>,
    // A slice in the midst of which no checkpoint may stand: it waits for a
    // key, or it is being tried again. It is covered wholly or not at all.
    whole: Option<Whole>,
    blocked: Vec<Whole>,
    // Slices of a retry that were gone through; those that still wait say why.
    retried: Vec<Whole>,
    // The worker is stopping and the last slice was cut short.
    cut_short: bool,
}

/// A slice that is covered wholly or not at all.
struct Whole {
    slice: SliceId,
    after: Option<RecordId>,
    counts: Counts,
    why: Option<Blocked>,
}

impl Progress {
    fn new(retrying: bool) -> Self {
        Self {
            retrying,
            counts: Counts::default(),
            effort: Effort::default(),
            bad: Vec::new(),
            checkpoint: None,
            whole: None,
            blocked: Vec::new(),
            retried: Vec::new(),
            cut_short: false,
        }
    }

    /// Whether a checkpoint may stand here and would say something new.
    fn is_due(&self) -> bool {
        self.whole.is_none() && (self.checkpoint.is_some() || !self.retried.is_empty())
    }

    /// Gives what the next checkpoint covers, and begins anew behind it.
    fn hand_over(&mut self) -> Self {
        let mut taken = std::mem::replace(self, Self::new(self.retrying));
        // A slice that is covered wholly or not at all stays for the next time.
        self.whole = taken.whole.take();
        self.cut_short = taken.cut_short;
        taken
    }

    /// Takes the next page in order.
    fn take(&mut self, tally: Tally) {
        if self.cut_short {
            // What lies behind a cut is done again by whoever goes on; it finds
            // these rows as they should be.
            return;
        }
        debug_assert!(tally.counts.balances(), "{:?}", tally.counts);
        let slice = tally.slice.id.clone();
        self.effort.add(&tally.effort);
        self.bad
            .extend(tally.bad.into_iter().map(|bad| (slice.clone(), bad)));
        self.cut_short = tally.last_page && !tally.complete;
        let finished = tally.last_page && tally.complete;
        if self.whole.is_none() && (self.retrying || tally.blocked.is_some()) {
            self.whole = Some(Whole {
                slice: slice.clone(),
                after: tally.after,
                counts: Counts::default(),
                why: None,
            });
        }
        match &mut self.whole {
            Some(whole) => {
                whole.counts.add(&tally.counts);
                whole.why = whole.why.take().or(tally.blocked);
            }
            None => self.counts.add(&tally.counts),
        }
        if finished && let Some(whole) = self.whole.take() {
            self.counts.add(&whole.counts);
            if self.retrying {
                self.retried.push(whole);
            } else {
                self.blocked.push(whole);
            }
        }
        if self.whole.is_none() && !self.retrying {
            self.checkpoint = Some(if finished {
                Checkpoint {
                    slice: SliceId {
                        hour: slice.hour.next(),
                        ..slice
                    },
                    record: None,
                }
            } else {
                Checkpoint {
                    slice,
                    record: tally.last_record,
                }
            });
        }
    }
}

async fn save(task: &TaskRun, progress: &mut Progress) -> Result<(), TaskError> {
    let shared = &task.shared;
    let now_ms = shared.clock.wall().unix_ms();
    for (slice, bad) in &progress.bad {
        let row = QuarantineRow {
            slice: slice.clone(),
            record: bad.record.clone(),
            code: bad.code.clone(),
            write_time: bad.write_time.0,
            found_ms: now_ms,
            round: task.round,
        };
        patiently(&shared.clock, || shared.book.quarantine(task.job, &row)).await?;
        let address = crate::store::SliceKey::messages(&task.org, &slice.channel, slice.hour);
        shared.audit.record(crate::audit::Record::quarantine(
            &address,
            bad.code.clone(),
            1,
            &task.why(),
        ));
        killpoint::reach("quarantine_before_checkpoint");
    }
    shared.audit.durable().await?;
    killpoint::reach("checkpoint_before");
    let taken = progress.hand_over();
    count(&taken);
    task.hold
        .save(|row| note(&shared.timing, row, taken, now_ms))
        .await?;
    tracing::debug!("checkpoint made durable");
    killpoint::reach("checkpoint_after");
    Ok(())
}

fn note(timing: &Timing, row: &mut TaskRow, taken: Progress, now_ms: u64) {
    if taken.retrying {
        note_retry(timing, row, taken, now_ms);
    } else {
        note_progress(timing, row, taken, now_ms);
    }
}

/// For Prometheus. Rows and slices that a retry looks at anew count again.
fn count(taken: &Progress) {
    let c = &taken.counts;
    for (result, rows) in [
        ("rewritten", c.rewritten),
        ("current", c.current),
        ("changed", c.changed),
        ("expired", c.expired),
        ("empty", c.empty),
        ("blocked", c.blocked),
        ("quarantined", c.quarantined),
    ] {
        metrics::counter!(ROWS, "result" => result).increment(rows);
    }
    let wait = |slices: &[Whole]| slices.iter().filter(|s| s.why.is_some()).count() as u64;
    let blocked = wait(&taken.blocked) + wait(&taken.retried);
    metrics::counter!(SLICES, "result" => "blocked").increment(blocked);
    let done = taken.effort.slices.saturating_sub(blocked);
    metrics::counter!(SLICES, "result" => "done").increment(done);
    metrics::counter!(CHECKPOINTS).increment(1);
}

fn note_progress(timing: &Timing, row: &mut TaskRow, taken: Progress, now_ms: u64) {
    row.counts.add(&taken.counts);
    row.effort.add(&taken.effort);
    if taken.checkpoint.is_some() {
        row.checkpoint = taken.checkpoint;
    }
    for whole in taken.blocked {
        row.blocked.extend(blocked_slice(timing, whole, 1, now_ms));
    }
}

fn note_retry(timing: &Timing, row: &mut TaskRow, taken: Progress, now_ms: u64) {
    row.counts.add(&taken.counts);
    // The slices and bytes of a retry were counted when they were first read.
    row.effort.add(&Effort {
        slices: 0,
        bytes: 0,
        ..taken.effort
    });
    for whole in taken.retried {
        let Some(at) = row.blocked.iter().position(|b| b.slice == whole.slice) else {
            continue;
        };
        let before = row.blocked.remove(at);
        row.counts.subtract(&before.counts);
        row.blocked
            .extend(blocked_slice(timing, whole, before.tries + 1, now_ms));
    }
}

fn blocked_slice(timing: &Timing, whole: Whole, tries: u32, now_ms: u64) -> Option<BlockedSlice> {
    let why = whole.why?;
    let wait = timing.blocked_retry(tries);
    Some(BlockedSlice {
        slice: whole.slice,
        after: whole.after,
        counts: whole.counts,
        code: why.code,
        message: why.message.chars().take(300).collect(),
        tries,
        retry_ms: now_ms + u64::try_from(wait.as_millis()).unwrap_or(u64::MAX / 2),
    })
}
