//! `rekeyd cancel`

use serde_json::json;

use crate::audit::Record;
use crate::cli::context::{self, Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{BookError, JobState, Verdict};
use crate::kms::{ReasonCode, Use};
use crate::registry::Registry;
use crate::worker::audit_counts;

/// How often a change by the job's driver at the same moment is waited out.
const TRIES: usize = 100;

#[derive(clap::Args)]
#[command(after_help = "Example:\n  rekeyd cancel $JOB --reason 'the customer asked to wait'")]
pub(super) struct Arguments {
    /// The job.
    job: JobId,
    /// Why, for the history and the audit log.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run(cancel(context, arguments))
}

async fn cancel(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let book = context.book().await?;
    let registry = Registry::new(context.store().await?, context.clock.clone());
    let (id, who) = (arguments.job, who());
    let reason = match arguments.reason.is_empty() {
        true => "an operator stopped it".to_owned(),
        false => arguments.reason.chars().take(200).collect(),
    };
    let mut tries = 0;
    let (job, step) = loop {
        let mut job = context::job(&book, id).await?;
        if job.row.state.is_final() {
            return Err(Failure::new(
                Exit::Conflict,
                format!("job {id} is at its end: {}", job.row.state),
            )
            .help(format!("see `rekeyd status {id}`")));
        }
        if let Some(activated) = &job.row.activated {
            let active = registry.org(job.row.request.org()).await?.cmk;
            let old = activated.from_cmk.clone();
            let verdict = if old == active {
                Verdict::Lapsed { old }
            } else {
                Verdict::Unfinished { old, active }
            };
            job.row.verdict = Some(verdict.to_string());
        }
        match book
            .transition(&mut job, JobState::Cancelled, &who, &reason)
            .await
        {
            Ok(step) => break (job.row, step),
            // Its driver was faster: what it wrote is read and counts.
            Err(BookError::Overtaken(_)) if tries < TRIES => tries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    let request = &job.request;
    let audit = context.audit(OPERATOR)?;
    let mut why = Use::new(ReasonCode::Rekey, reason);
    why.job = Some(id);
    why.requested_by = Some(who);
    let mut record = Record::transition(
        request.org(),
        Some(step.from.as_str()),
        step.to.as_str(),
        &why,
    );
    record.counts = Some(audit_counts(&job.rewriting));
    record.streams = job.streams.clone();
    audit.record(record);
    audit.close().await?;

    let programs = json!({
        "job_id": id, "org": request.org(), "from": step.from, "to": step.to,
        "activated": job.activated, "verdict": job.verdict,
    });
    context.out.show(&programs, || match (&job.verdict, step.from) {
        (Some(verdict), _) => format!(
            "job {id} is cancelled. The store stays readable as it is: part of it under the new \
             CMK, part under the old\n{verdict}\nnext: rekeyd enqueue rekey --org {0} --to <ARN> \
             finishes what is left, or goes back",
            request.org()
        ),
        // The driver may have been in the middle of it.
        (None, JobState::Activating) => format!(
            "job {id} is cancelled as it was being activated; `rekeyd org show {}` says which CMK \
             is active",
            request.org()
        ),
        (None, _) => format!("job {id} is cancelled; it had not changed anything"),
    })?;
    Ok(Exit::Done)
}
