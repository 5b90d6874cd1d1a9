//! Writes the tasks of a round.
//!
//! The job says first that a round is being planned, then the tasks are
//! written, then the job says how many there are. Tasks are claimed only from a
//! round whose number is complete; a planner that died leaves a round that
//! nobody works on, and the next planner begins another.

use crate::job::{HoldError, JobHold, Pass, Round, TaskRow};
use crate::killpoint;
use crate::pipeline::plan::{Cutter, SliceWalk};
use crate::worker::{Worker, WorkerError};

/// Tasks written with one conditional batch.
const TASKS_AT_ONCE: usize = 20;

pub(super) async fn plan(
    worker: &Worker,
    hold: &JobHold,
    pass: Pass,
) -> Result<Round, WorkerError> {
    let shared = &worker.shared;
    let mut number = 0;
    hold.save(|row| {
        row.rounds += 1;
        if matches!(pass, Pass::Rewrite | Pass::Copy | Pass::Sweep) {
            row.rewrite_round = row.rounds;
        }
        number = row.rounds;
        row.round = Some(Round {
            number,
            pass,
            tasks: None,
            slices: 0,
        });
    })
    .await?;
    let job = hold.row().await;
    let request = &job.request;
    let (org, channel) = job.scans(pass);
    let mut walk = SliceWalk::new(
        shared.store.clone(),
        shared.registry.clone(),
        org,
        channel,
        None,
    );
    let mut cutter = Cutter::of(shared.limits.task_slices);
    let mut waiting: Vec<TaskRow> = Vec::new();
    let mut written = 0u32;
    let mut slices = 0u64;
    loop {
        let slice = walk.next().await?;
        let at_end = slice.is_none();
        match slice {
            Some(slice) => {
                slices += 1;
                waiting.extend(cutter.push(slice));
            }
            None => waiting.extend(cutter.finish()),
        }
        if waiting.len() >= TASKS_AT_ONCE || (at_end && !waiting.is_empty()) {
            // A planner whose lease ran out must not add to a round that another
            // may have begun to work on.
            if !hold.is_trusted() {
                return Err(HoldError::Lost(request.job_id().to_string()).into());
            }
            shared
                .book
                .add_tasks(request.job_id(), number, written, &waiting)
                .await?;
            killpoint::reach("plan_half_written");
            written += waiting.len() as u32;
            waiting.clear();
        }
        if at_end {
            break;
        }
    }
    let round = Round {
        number,
        pass,
        tasks: Some(written),
        slices,
    };
    killpoint::reach("plan_before_commit");
    hold.save(|row| row.round = Some(round)).await?;
    killpoint::reach("plan_after_commit");
    Ok(round)
}
