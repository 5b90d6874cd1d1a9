//! `rekeyd history`

use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{Throttle, ThrottleEvent};
use crate::progress::way;

#[derive(clap::Args)]
#[command(
    after_help = "Every change of the job's state, what operators did to it without one (a retry), \
                  and the throttles that were set or cleared for it since it was recorded.\n\n\
                  Example:\n  rekeyd history $JOB"
)]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(async {
        let book = context.book().await?;
        let id = arguments.job;
        let job = context::job(&book, id).await?.row;
        let org = job.request.org();
        let steps = book.history(org, id).await?;
        let until_ms = if job.state.is_final() {
            job.since_ms
        } else {
            u64::MAX
        };
        let mut throttles = book.throttle_events().await?;
        throttles.retain(|event| {
            event.target.applies_to(org, id) && (job.recorded_ms..=until_ms).contains(&event.at_ms)
        });
        let programs = json!({
            "job_id": id, "org": org, "state": job.state, "recorded_ms": job.recorded_ms,
            "requested_by": job.request.requested_by(), "reason": job.request.reason(),
            "history": steps, "throttles": throttles,
        });
        context.out.show(&programs, || {
            let mut rows = vec![(
                job.recorded_ms,
                "recorded".to_owned(),
                job.request.requested_by().to_owned(),
                asked_for(job.request.what(), job.request.reason()),
            )];
            rows.extend(
                steps
                    .iter()
                    .map(|step| (step.at_ms, way(step), step.who.clone(), step.why.clone())),
            );
            rows.extend(throttles.iter().map(of_throttle));
            // Stable: steps of the same millisecond stay in their order.
            rows.sort_by_key(|row| row.0);
            out::table(
                ["when", "what", "who", "why"],
                rows.into_iter().map(|(at_ms, what, who, why)| {
                    let who = figures::printable(&who);
                    [figures::time(at_ms), what, who, figures::printable(&why)]
                }),
            )
        })?;
        Ok(Exit::Done)
    })
}

fn asked_for(what: String, reason: &str) -> String {
    match reason.is_empty() {
        true => what,
        false => format!("{what}: {reason}"),
    }
}

fn of_throttle(event: &ThrottleEvent) -> (u64, String, String, String) {
    let what = match &event.set {
        Some(Throttle { limits, .. }) => format!("throttle {}: {limits}", event.target),
        None => format!("throttle {}: cleared", event.target),
    };
    (event.at_ms, what, event.who.clone(), event.why.clone())
}
