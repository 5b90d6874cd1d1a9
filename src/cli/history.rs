//! `rekeyd history`

use serde_json::json;

use crate::cli::certificate;
use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::planned;
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
        let throttles = certificate::throttles(&book, &job).await?;
        let so_far = job.so_far(&context::tasks(&book, &job).await?);
        let programs = json!({
            "job_id": id, "org": org, "state": job.state, "recorded_ms": job.recorded_ms,
            "requested_by": job.request.requested_by(), "reason": job.request.reason(),
            "history": steps, "throttles": throttles,
            "plan": planned::for_programs(&so_far, context.clock.wall()),
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
            let plan = planned::in_words(&so_far, context.clock.wall());
            let plan = plan.map_or(String::new(), |plan| format!("\nplan {plan}"));
            let table = out::table(
                ["when", "what", "who", "why"],
                rows.into_iter().map(|(at_ms, what, who, why)| {
                    let who = figures::printable(&who);
                    [figures::time(at_ms), what, who, figures::printable(&why)]
                }),
            );
            table + &plan
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
