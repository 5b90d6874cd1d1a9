//! `rekeyd retry --leave-behind`: an operator's word that a copy goes on without
//! the cells that wait for a key. Never by itself, and never silently: it stands
//! in the job's row, in its history and in the audit log.

use serde_json::json;

use crate::cli::act;
use crate::cli::context::{Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{JobRow, JobState, LeaveBehind, Pass};
use crate::steer::Act;

pub(super) async fn run(context: &Context, id: JobId, reason: &str) -> Result<Exit, Failure> {
    let reason = act::reason(Some(reason), "")?;
    let book = context.book().await?;
    let audit = context.audit(OPERATOR)?;
    let who = who();
    let act = Act {
        book: &book,
        audit: &audit,
        job: id,
        who: &who,
        why: &format!("what waits for a key is left behind, by {who}: {reason}"),
    };
    let said = LeaveBehind {
        who: who.clone(),
        why: reason,
        at_ms: context.clock.wall().unix_ms(),
    };
    let mut slices = 0;
    let acted = act
        .go::<Failure>(async |job| {
            slices = job.row.blocked_slices;
            leave(&mut job.row, &said)?;
            Ok(Some(JobState::Rewriting))
        })
        .await;
    audit.close().await?;
    let (job, _) = acted?;
    let programs = json!({
        "job_id": id, "retried": "left_behind", "slices": slices, "copy": job.copy,
    });
    context.out.show(&programs, || {
        format!(
            "the move goes on without what waits for a key: {} at this moment. Before its end it \
             tries them again, and does not end without them\nnext: rekeyd status {id} --watch",
            figures::count(slices, "slice")
        )
    })?;
    Ok(Exit::Done)
}

/// Notes it in the job's row, where it can help.
fn leave(job: &mut JobRow, said: &LeaveBehind) -> Result<(), Failure> {
    let id = job.request.job_id();
    let conflict = |what: String, help: String| {
        let what = format!("nothing can be left behind by job {id}: {what}");
        Err(Failure::new(Exit::Conflict, what).help(help))
    };
    let see = format!("see `rekeyd status {id}`");
    let (state, pass) = (job.state, job.round.map(|round| round.pass));
    let Some(copy) = &mut job.copy else {
        return conflict(
            match job.request.channel_move() {
                Some(_) if job.activated.is_none() => "it has not begun to copy".to_owned(),
                Some(_) => "it is a move in place, whose cells stay where they are".to_owned(),
                None => "it is a rekey, which ends when every cell is done".to_owned(),
            },
            format!("when the cause is gone: `rekeyd retry {id}`"),
        );
    };
    match (state, pass) {
        (JobState::Blocked, Some(Pass::Copy)) => {
            copy.leave_behind = Some(said.clone());
            Ok(())
        }
        (JobState::Blocked, Some(Pass::Sweep)) => conflict(
            "it sweeps the old place, and what is still there waits for a key".to_owned(),
            format!(
                "it ends when they are carried over; when the cause is gone: `rekeyd retry {id}`"
            ),
        ),
        (JobState::Paused, _) => conflict(
            "it is paused".to_owned(),
            format!("let it go on first: `rekeyd resume {id}`"),
        ),
        (JobState::Blocked, _) => conflict(
            "it is not blocked in a round that copies".to_owned(),
            format!("see `rekeyd failures {id}`"),
        ),
        (state, _) => conflict(format!("it is not blocked but {state}"), see),
    }
}
