//! What only a channel move does: its activation, the phases of a copy, its end.
//!
//! A phase is changed in the registry first and then recorded with the job, by
//! going to `settling`. A takeover in between finds the registry ahead of the
//! job and goes on from there. Each phase is waited for until every client
//! follows it, so that at most two neighbouring ones are followed at once (I14).

use crate::audit::Record;
use crate::clock::WallTime;
use crate::job::{Activated, CopyProgress, JobRow, JobState, MoveKind, MoveRequest, Pass, Verdict};
use crate::killpoint;
use crate::registry::{CopyPhase, RegistryError, Stepped};
use crate::telemetry::waiting::Part;
use crate::worker::WorkerError;
use crate::worker::drive::Driver;
use crate::worker::drive::sum::Sum;

/// The phase of a job's copy as its row says; `None` for other jobs.
pub(super) fn phase(job: &JobRow) -> Option<CopyPhase> {
    job.copy.as_ref().map(|copy| copy.phase)
}

impl Driver<'_> {
    pub(super) async fn activate_move(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        killpoint::reach("job_before_activate");
        let activated = shared
            .registry
            .activate_move(request, || self.hold.is_trusted())
            .await;
        let row = match activated {
            Ok(row) => row,
            Err(RegistryError::Refused(refusal)) => {
                // Between two organizations the destination may have been
                // entered before the source refused.
                if request.kind() == MoveKind::Copy {
                    shared.registry.call_off_copy(request).await?;
                }
                return self.fail(job, &refusal.to_string()).await;
            }
            Err(error) => return Err(error.into()),
        };
        killpoint::reach("job_after_activate");
        let mut record = Record::registry(&row.to.org, "activate", None, &self.why(job));
        record.cmk = Some(row.cmk.clone());
        record.cell_epoch = Some(row.epoch);
        shared.audit.record(record);
        let (why, copy) = match row.kind {
            MoveKind::InPlace => (
                format!("`{}` is `{}` from epoch {} on", row.from, row.to, row.epoch),
                None,
            ),
            MoveKind::Copy => (
                format!(
                    "phase announced: `{}` is copied to `{}` at epoch {}",
                    row.from, row.to, row.epoch
                ),
                Some(CopyProgress {
                    phase: CopyPhase::Announced,
                    leave_behind: None,
                    left_behind: 0,
                }),
            ),
        };
        self.go(job, JobState::Settling, &why, |job| {
            job.activated = Some(Activated {
                epoch: row.epoch,
                from_cmk: row.cmk,
                at_ms: row.at_ms,
            });
            job.copy = copy;
        })
        .await
    }

    /// After a settle of a copy: where its phase leads.
    pub(super) async fn phase_settled(
        &self,
        job: &JobRow,
        request: &MoveRequest,
        phase: CopyPhase,
    ) -> Result<(), WorkerError> {
        if self.is_called_off(job, request).await? {
            return Ok(());
        }
        let why = format!("every client follows phase {phase}");
        if phase < CopyPhase::Moved {
            return self.go(job, JobState::Rewriting, &why, |_| {}).await;
        }
        // From here on the destination may be moved on.
        self.worker
            .shared
            .registry
            .release_destination(request)
            .await?;
        killpoint::reach("move_after_release");
        // Swept at once, and again after the wait: a delete goes to the
        // destination only from here on, so what it deletes has to leave the
        // source before the store may forget the delete.
        self.go(job, JobState::Draining, &why, |row| {
            row.drain_until_ms = None
        })
        .await
    }

    /// `rewriting` of a copy: announced leads to mirrored at once, mirrored and
    /// switched each copy once.
    pub(super) async fn rewrite_copy(
        &self,
        job: &JobRow,
        request: &MoveRequest,
        phase: CopyPhase,
    ) -> Result<(), WorkerError> {
        if self.is_called_off(job, request).await? {
            return Ok(());
        }
        if phase == CopyPhase::Announced {
            return self
                .step(job, request, CopyPhase::Mirrored, &Sum::default())
                .await;
        }
        if phase >= CopyPhase::Moved {
            // An operator's retry leads here, whatever waited. There is nothing
            // to copy any more, only to sweep.
            let why = format!("phase {phase} is waited for again");
            return self.go(job, JobState::Settling, &why, |_| {}).await;
        }
        let round = self.round(job, Pass::Copy).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(());
        };
        let sum = Sum::of(&tasks);
        if sum.parked > 0 && !leaves_behind(job) {
            return self.block(job, &sum).await;
        }
        if phase == CopyPhase::Mirrored {
            return self.step(job, request, CopyPhase::Switched, &sum).await;
        }
        let why = format!(
            "{} rows copied, {} were there already",
            sum.counts.rewritten, sum.counts.current
        );
        self.go(job, JobState::Verifying, &why, |row| {
            row.rewriting.add(&sum.counts);
            sum.fold_into(row);
        })
        .await
    }

    /// Takes the copy to its next phase, in the registry and then in the job.
    pub(super) async fn step(
        &self,
        job: &JobRow,
        request: &MoveRequest,
        to: CopyPhase,
        sum: &Sum,
    ) -> Result<(), WorkerError> {
        let shared = &self.worker.shared;
        killpoint::reach("move_before_phase");
        let stepped = shared
            .registry
            .advance_copy(request, to, || self.hold.is_trusted())
            .await?;
        if stepped == Stepped::CalledOff {
            return self.called_off(job, request).await;
        }
        killpoint::reach("move_after_phase");
        let record = Record::registry(&request.org, to.as_str(), None, &self.why(job));
        shared.audit.record(record);
        let why = format!("phase {to}: {} rows copied", sum.counts.rewritten);
        self.go(job, JobState::Settling, &why, |row| {
            if let Some(copy) = &mut row.copy {
                copy.phase = to;
            }
            row.rewriting.add(&sum.counts);
            sum.fold_into(row);
        })
        .await
    }

    /// Whether an operator has called the copy off since the job was read. Then
    /// the job ends here.
    pub(super) async fn is_called_off(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<bool, WorkerError> {
        let may_be = phase(job).is_some_and(CopyPhase::may_be_cancelled);
        if !may_be {
            return Ok(false);
        }
        if self
            .worker
            .shared
            .registry
            .copy_phase(request)
            .await?
            .is_some()
        {
            return Ok(false);
        }
        self.called_off(job, request).await?;
        Ok(true)
    }

    async fn called_off(&self, job: &JobRow, request: &MoveRequest) -> Result<(), WorkerError> {
        // Whoever called it off may have died before the destination's row was
        // taken away.
        let registry = &self.worker.shared.registry;
        registry.call_off_copy(request).await?;
        let verdict = Verdict::MoveCalledOff {
            from: request.source(),
        };
        self.go(job, JobState::Cancelled, "the copy was called off", |row| {
            row.verdict = Some(verdict.to_string());
        })
        .await
    }

    /// The first verdict of a move.
    pub(super) async fn proven(
        &self,
        request: &MoveRequest,
        until: WallTime,
    ) -> Result<Verdict, WorkerError> {
        Ok(match self.superseded(request).await? {
            Some(verdict) => verdict,
            None => Verdict::MoveProven {
                from: request.source(),
                to: request.destination(),
                after: until.to_string(),
            },
        })
    }

    /// A later move in place took the channel on.
    async fn superseded(&self, request: &MoveRequest) -> Result<Option<Verdict>, WorkerError> {
        if request.kind() != MoveKind::InPlace {
            return Ok(None);
        }
        let registry = &self.worker.shared.registry;
        let view = registry.view(&request.org, &request.from.channel).await?;
        let has = view.channel_row.workspace;
        Ok(
            (has != request.to.workspace).then(|| Verdict::MoveSuperseded {
                from: request.source(),
                now_in: has,
            }),
        )
    }

    pub(super) async fn drain_in_place(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<(), WorkerError> {
        let Some(sum) = self.drain_scan(job).await? else {
            return Ok(());
        };
        let verdict = match self.superseded(request).await? {
            Some(verdict) => verdict,
            None => Verdict::Moved {
                from: request.source(),
                to: request.destination(),
                left_behind: 0,
            },
        };
        self.raise_channel_floor(job, request).await?;
        self.end(job, &verdict, &sum, 0).await
    }

    /// `draining` of a copy: the old place is swept at once, and after L until a
    /// sweep finds nothing in it but what cannot be opened.
    pub(super) async fn drain_copy(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<(), WorkerError> {
        let is_first = job.drain_until_ms.is_none();
        if self.still_drains(job)
            || (!is_first && self.waits_for_earlier_copy(job, request).await?)
        {
            return self.look_again().await;
        }
        let round = self.round(job, Pass::Sweep).await?;
        let Some(tasks) = self.tasks(job, &round).await? else {
            return Ok(());
        };
        let sum = Sum::of(&tasks);
        self.note_scan(job, "sweep", &sum.counts);
        if sum.parked > 0 {
            return self.block(job, &sum).await;
        }
        let counts = &sum.counts;
        if is_first || counts.rewritten + counts.current + counts.changed > 0 {
            // Late writes were carried over: more may come as late, so they are
            // waited for as long again. Rows that were only purged are looked
            // for once more.
            let waits = is_first || sum.effort.finds > 0;
            let until = waits.then(|| self.drain_end());
            return Ok(self
                .hold
                .save(|row| {
                    row.rewriting.add(&sum.counts);
                    row.blocked_slices = 0;
                    sum.fold_into(row);
                    if let Some(until) = until {
                        row.drain_until_ms = Some(until.unix_ms());
                    }
                })
                .await?);
        }
        let left_behind = counts.quarantined;
        let shared = &self.worker.shared;
        killpoint::reach("move_before_phase");
        shared
            .registry
            .advance_copy(request, CopyPhase::Closed, || self.hold.is_trusted())
            .await?;
        killpoint::reach("move_after_phase");
        // Not before the copy is closed: its sweep was the last to find what is
        // older.
        self.raise_channel_floor(job, request).await?;
        let verdict = Verdict::Moved {
            from: request.source(),
            to: request.destination(),
            left_behind,
        };
        self.end(job, &verdict, &sum, left_behind).await
    }

    /// Nothing below the move's epoch is left where the channel is now.
    async fn raise_channel_floor(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<(), WorkerError> {
        let Some(activated) = &job.activated else {
            return Ok(());
        };
        let (to, epoch) = (request.destination(), activated.epoch);
        let trusted = || self.hold.is_trusted();
        let raised = self
            .worker
            .shared
            .registry
            .raise_channel_floor((&to.org, &to.channel), request.job_id, epoch, trusted)
            .await?;
        killpoint::reach("job_after_floors");
        self.note_floors(job, &to.org, &raised);
        Ok(())
    }

    /// Whether the source is still being filled by the sweep of an earlier copy,
    /// that brought the channel here. What comes late goes from place to place,
    /// since each knows what was deleted while the channel was there; so no place
    /// is swept for the last time before the one before it is closed. The first
    /// sweep does not wait: what is deleted has to leave the source while the
    /// store still knows of the delete.
    async fn waits_for_earlier_copy(
        &self,
        job: &JobRow,
        request: &MoveRequest,
    ) -> Result<bool, WorkerError> {
        if job.round.is_some() {
            // Looked at before it was planned; a copy that is closed stays so.
            return Ok(false);
        }
        let registry = &self.worker.shared.registry;
        let earlier = registry
            .unclosed_origin(&request.org, &request.from.channel)
            .await?;
        let waiting = &self.worker.name.waiting;
        match earlier {
            Some(earlier) => waiting.note(Part::EarlierCopy, &format!("job {earlier}")),
            None => waiting.clear(Part::EarlierCopy),
        }
        Ok(earlier.is_some())
    }

    async fn end(
        &self,
        job: &JobRow,
        verdict: &Verdict,
        sum: &Sum,
        left_behind: u64,
    ) -> Result<(), WorkerError> {
        self.note_scan(job, "verdict", &sum.counts);
        tracing::info!(%verdict, "verdict");
        self.go(job, JobState::Drained, &verdict.to_string(), |row| {
            if let Some(copy) = &mut row.copy {
                copy.phase = CopyPhase::Closed;
                copy.left_behind = left_behind;
            } else {
                row.proof = sum.counts;
            }
            row.verdict = Some(verdict.to_string());
            sum.fold_into(row);
        })
        .await
    }
}

/// Whether an operator said that cells which wait for a key may stay behind.
pub(super) fn leaves_behind(job: &JobRow) -> bool {
    job.copy
        .as_ref()
        .is_some_and(|copy| copy.leave_behind.is_some())
}
