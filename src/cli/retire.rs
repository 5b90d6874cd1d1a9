//! `rekeyd retire`: deletes the old wraps that a finished rekey left behind.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::audit::{Record, RecordType};
use crate::cli::act;
use crate::cli::context::{self, Context, OPERATOR, who};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::{self, Failure};
use crate::ids::{JobId, OrgId};
use crate::job::{
    Activated, BookError, JobBook, JobRow, JobState, RekeyRequest, RetireCounts, Retired, SetAside,
    SliceId,
};
use crate::killpoint;
use crate::kms::{ReasonCode, Use};
use crate::registry::Registry;
use crate::retire::{NotNow, PATIENCE, Retire, RetireError, Survey};
use crate::steer::Act;

#[derive(clap::Args)]
#[command(
    after_help = "It deletes data keys that no message names and that only older CMKs open, and older \
                  wraps of keys that have a newer one. That cannot be undone. It scans everything at \
                  every replica first, shows what it will delete, and asks for the organization's \
                  name. It calls no KMS. Killed in the middle, it goes on when it is called again.\n\n\
                  Examples:\n  rekeyd retire $JOB --dry-run\n  \
                  rekeyd retire $JOB --confirm acme --reason 'a week without complaints'"
)]
pub(super) struct Arguments {
    /// The job: a rekey that is drained.
    job: JobId,
    /// Show what would be deleted, and delete nothing.
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// The organization's name, in place of typing it when asked.
    #[arg(long, value_name = "ORG")]
    confirm: Option<String>,
    /// Wraps deleted a second at most.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Why, for the history and the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run_on_all_cores(retire(context, arguments))
}

/// A job that may be retired, as far as its row says.
struct Ready {
    request: RekeyRequest,
    activated: Activated,
    aside: SetAside,
    drained_ms: u64,
}

async fn retire(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let reason = act::reason(arguments.reason.as_deref(), "old wraps are not needed")?;
    let book = context.book().await?;
    let registry = context.registry().await?;
    let id = arguments.job;
    let ready = ready(context, &book, &registry, id).await?;
    let org = &ready.request.org;
    if let Some(given) = &arguments.confirm
        && given != org.as_str()
    {
        let what = format!("--confirm {given}: job {id} is of organization {org}");
        return Err(Failure::new(Exit::Usage, what));
    }
    let retire = Retire::new(
        context.store().await?,
        context.clock.clone(),
        (org.clone(), id),
        (ready.request.mode, ready.activated.epoch),
    )
    .await?;
    retire
        .may_go()
        .await?
        .map_err(|why| not_now(&ready, &why))?;
    let survey = retire.survey().await?;
    if !survey.found.is_whole() {
        return Err(not_whole(&ready, None));
    }
    // What an earlier call deleted before it was killed counts as well.
    let begun = book.retire_progress(id).await?;
    let gone = begun.map_or(0, |begun| begun.row.counts.rows());
    let is_empty = survey.counts.rows() == 0 && gone == 0 && survey.kept.wraps() > 0;
    let programs = |state: JobState, deleted: Option<&RetireCounts>| {
        for_programs(id, &ready, &survey, state, deleted)
    };
    if arguments.dry_run {
        let next = match is_empty {
            true => format!("nothing can be deleted; {}", what_helps(&ready, &survey)),
            false => format!("nothing was deleted; next: rekeyd retire {id} --confirm {org}"),
        };
        context.out.show(&programs(JobState::Drained, None), || {
            format!("{}\n{next}", for_people(id, &ready, &survey))
        })?;
        return Ok(Exit::Done);
    }
    if is_empty {
        return Err(nothing_to_delete(&ready, &survey));
    }
    let shown = for_people(id, &ready, &survey);
    match &arguments.confirm {
        Some(_) => context.out.say(&format!("{shown}\n"))?,
        None => ask(context, &shown, org.as_str())?,
    }
    let deleting = Deleting {
        context,
        book: &book,
        retire: &retire,
        ready: &ready,
        survey: &survey,
    };
    let deleted = deleting.run(arguments.rate, &reason).await?;
    context
        .out
        .show(&programs(JobState::Retired, Some(&deleted)), || {
            format!(
                "job {id} is retired: {} deleted{}{}",
                counted(&deleted),
                kept(&ready, &survey),
                figures::both_cmks(survey.kept.wraps())
                    .map_or(String::new(), |said| format!("\n{said}"))
            )
        })?;
    Ok(Exit::Done)
}

/// How often it is said how far it is, on a terminal and elsewhere.
const EVERY: Duration = Duration::from_secs(1);
const EVERY_ELSEWHERE: Duration = Duration::from_secs(10);

/// What is deleted, and what of.
struct Deleting<'a> {
    context: &'a Context,
    book: &'a JobBook,
    retire: &'a Retire,
    ready: &'a Ready,
    survey: &'a Survey,
}

impl Deleting<'_> {
    /// Says now and then how far it is. What cannot be said now is no reason to stop.
    async fn watch(&self) -> std::convert::Infallible {
        let live = self.context.out.is_live();
        let all = figures::count(self.survey.counts.rows(), "old wrap");
        loop {
            let pause = if live { EVERY } else { EVERY_ELSEWHERE };
            self.context.clock.sleep(pause).await;
            let line = format!("{} of {all} deleted", self.retire.gone());
            match live {
                true => drop(out::redraw(&line)),
                false => eprintln!("{line}"),
            }
        }
    }

    /// Says that the store does not answer.
    fn away(&self, error: &RetireError) {
        if self.context.out.is_live() {
            drop(out::redraw(""));
        }
        let error = figures::printable(&error.to_string());
        let span = figures::span(PATIENCE);
        eprintln!("the store does not answer, and is tried again for {span}: {error}");
    }

    async fn run(&self, rate: u32, reason: &str) -> Result<RetireCounts, Failure> {
        let Self {
            context,
            book,
            retire,
            ready,
            survey,
        } = *self;
        let (id, who) = (ready.request.job_id, who());
        let mut why = Use::new(ReasonCode::Retire, reason);
        why.job = Some(id);
        why.requested_by = Some(who.clone());
        let audit = context.audit(OPERATOR)?;
        let record = || {
            let mut record = Record::new(RecordType::Job, "retire").because(&why);
            record.org = Some(ready.request.org.clone());
            record
        };
        audit.record(record().intended());
        audit.durable().await?;
        let ended = async {
            // Whoever finds it cut short learns so from the history.
            let mut job = context::job(book, id).await?;
            let begun = format!("retire begun or taken up again by {who}: {reason}");
            book.note(&mut job, &who, &begun).await?;
            let deleting = retire.delete(rate, &audit, &why, |error| self.away(error));
            let deleted = tokio::select! {
                biased;
                deleted = deleting => deleted,
                never = self.watch() => match never {},
            }
            .map_err(|error| match error {
                RetireError::NotNow(why) => not_now(ready, &why),
                RetireError::NotWhole(slice) => not_whole(ready, Some(&slice)),
                other => other.into(),
            })?;
            if context.out.is_live() {
                out::redraw("")?;
            }
            killpoint::reach("retire_before_end");
            let kept = survey.kept.wraps();
            let mut said = format!("by {who}: {reason}; {} deleted", counted(&deleted));
            if let Some(both) = figures::both_cmks(kept) {
                said += &format!("; {} kept: {both}", figures::count(kept, "old wrap"));
            }
            let act = Act {
                book,
                audit: &audit,
                job: id,
                who: &who,
                why: &said,
            };
            act.go::<Failure>(async |job| {
                let row = &mut job.row;
                if row.state == JobState::Retired {
                    return Ok(None);
                }
                row.retired = Some(Retired {
                    drained_ms: row.since_ms,
                    deleted,
                    kept,
                });
                Ok(Some(JobState::Retired))
            })
            .await?;
            Ok(deleted)
        }
        .await;
        if let Ok(deleted) = &ended {
            let mut record = record();
            record.records = Some(RetireCounts::rows(deleted));
            audit.record(record);
        }
        audit.close().await?;
        ended
    }
}

/// Refuses what may not be retired, or not yet.
async fn ready(
    context: &Context,
    book: &JobBook,
    registry: &Registry,
    id: JobId,
) -> Result<Ready, Failure> {
    let refuse = |what: String| Failure::new(Exit::Conflict, what);
    let mut row = context::job(book, id).await?.row;
    let org = row.request.org().clone();
    let Some(request) = row.request.rekey().cloned() else {
        return Err(refuse(format!(
            "job {id} is a move: a move leaves no CMK behind, and its old keys go when the \
             organization's next rekey is retired"
        )));
    };
    if row.state == JobState::Retired {
        return Err(refuse(format!("job {id} is retired already"))
            .help(format!("`rekeyd history {id}` says by whom and when")));
    }
    let (lapsed, by) = context::verdict_of_today(book, registry, &mut row).await?;
    if row.state != JobState::Drained {
        let what = format!(
            "job {id} is {}: only a job that is drained can be retired",
            row.state
        );
        return Err(refuse(what).help(match row.state {
            JobState::Blocked => format!("`rekeyd failures {id}` says what holds it"),
            JobState::Failed => "it can never be retired: it has changed nothing".to_owned(),
            JobState::Cancelled if row.activated.is_none() => {
                "it can never be retired: it was cancelled before it changed anything".to_owned()
            }
            JobState::Cancelled => never(&org, by),
            _ => format!("wait for it with `rekeyd status {id} --wait`"),
        }));
    }
    if lapsed {
        let verdict = row.verdict.clone().unwrap_or_default();
        return Err(
            refuse(format!("job {id} has no good verdict any more: {verdict}"))
                .help(never(&org, by)),
        );
    }
    waited(context, &row, id)?;
    let mut open = book.open(&org).await?;
    open.retain(|other| *other != id);
    if let Some(other) = open.first() {
        return Err(refuse(format!(
            "job {other} of {org} is not at its end: what it does may need old wraps"
        ))
        .help(format!("wait for it with `rekeyd status {other} --wait`")));
    }
    let (aside, activated) = kept_aside(context, &row, id)?;
    Ok(Ready {
        request,
        activated,
        aside,
        drained_ms: row.since_ms,
    })
}

/// What to do in place of retiring a job that has no good end. `by` is the later
/// job that has one.
fn never(org: &OrgId, by: Option<JobId>) -> String {
    match by {
        Some(by) => format!(
            "it can never be retired: retire the later job that finished it, and its old wraps go \
             as well: `rekeyd retire {by} --dry-run`"
        ),
        None => format!(
            "it can never be retired: its old wraps go with the retire of a later rekey of {org}, \
             once one is drained (`rekeyd enqueue rekey`)"
        ),
    }
}

fn waited(context: &Context, row: &JobRow, id: JobId) -> Result<(), Failure> {
    let wait_ms = context.config().retire.wait_s.saturating_mul(1000);
    let from_ms = row.since_ms.saturating_add(wait_ms);
    if context.clock.wall().unix_ms() >= from_ms {
        return Ok(());
    }
    let what = format!(
        "job {id} was drained at {}: it may be retired from {} on ({} later)",
        figures::time(row.since_ms),
        figures::time(from_ms),
        figures::span(Duration::from_millis(wait_ms))
    );
    Err(Failure::new(Exit::Conflict, what).help(
        "until then whoever finds something missing can still be helped; the wait is \
         retire.wait_s in the configuration",
    ))
}

/// What the job has set aside, if that still stands.
fn kept_aside(
    context: &Context,
    row: &JobRow,
    id: JobId,
) -> Result<(SetAside, Activated), Failure> {
    let now_ms = context.clock.wall().unix_ms();
    let aside = row
        .set_aside
        .clone()
        .filter(|aside| aside.until_ms > now_ms);
    match (aside, row.activated.clone()) {
        (Some(aside), Some(activated)) => Ok((aside, activated)),
        _ => {
            let what = match &row.set_aside {
                Some(aside) => format!(
                    "what job {id} had set aside was kept until {}: its old keys would be gone for \
                     good",
                    figures::time(aside.until_ms)
                ),
                None => format!(
                    "job {id} has set nothing aside: it ended under an older version, and its old \
                     keys would be gone for good"
                ),
            };
            Err(Failure::new(Exit::Conflict, what).help(
                "the organization's next rekey sets them aside again, and its retire deletes them",
            ))
        }
    }
}

fn not_now(ready: &Ready, why: &NotNow) -> Failure {
    let org = &ready.request.org;
    match why {
        NotNow::Window => Failure::new(
            Exit::Conflict,
            format!("a restore window of {org} is open: what a backup holds may need old wraps"),
        )
        .help(format!("rekeyd restore-window close {org} --reason …")),
        NotNow::Floors => Failure::new(
            Exit::Conflict,
            format!(
                "readers of {org} still accept what is older than the job: a copy of a channel was \
                 under way when it ended"
            ),
        )
        .help("once the copy is closed, run a rekey; its retire deletes these wraps too"),
    }
}

fn not_whole(ready: &Ready, slice: Option<&SliceId>) -> Failure {
    let org = &ready.request.org;
    let at = slice.map_or(String::new(), |slice| format!(" (first in slice {slice})"));
    let what =
        format!("not every cell of {org} is as it should be{at}, so nothing more is deleted");
    Failure::new(Exit::BadData, what)
        .help(format!("`rekeyd verify --org {org}` says which and why"))
}

/// Asks a person for the organization's name.
fn ask(context: &Context, shown: &str, org: &str) -> Result<(), Failure> {
    if context.out.is_json() || !std::io::stdin().is_terminal() {
        let what = "this deletes for good, and nobody is there to be asked";
        return Err(Failure::new(Exit::Usage, what).help(format!(
            "say `--confirm {org}`, after a look with `--dry-run`"
        )));
    }
    let mut err = std::io::stderr();
    write!(
        err,
        "{shown}\n\nThis cannot be undone. Type the organization's name to delete: "
    )
    .and_then(|()| err.flush())
    .map_err(|e| report::system("cannot ask", e))?;
    let mut typed = String::new();
    std::io::stdin()
        .read_line(&mut typed)
        .map_err(|e| report::system("cannot read the answer", e))?;
    match typed.trim() == org {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::Usage,
            format!("that is not {org}; nothing was deleted"),
        )),
    }
}

fn for_programs(
    id: JobId,
    ready: &Ready,
    survey: &Survey,
    state: JobState,
    deleted: Option<&RetireCounts>,
) -> Value {
    json!({
        "job_id": id, "org": ready.request.org, "state": state,
        "old_cmk": ready.activated.from_cmk, "epoch": ready.activated.epoch,
        "drained_ms": ready.drained_ms, "set_aside": ready.aside,
        "found": survey.counts, "by_channel": survey.by_channel, "kept": survey.kept,
        "deleted": deleted,
    })
}

fn for_people(id: JobId, ready: &Ready, survey: &Survey) -> String {
    let mut text = format!(
        "job {id} led {} away from {} and was drained at {}. To be deleted:\n\n",
        ready.request.org,
        ready.activated.from_cmk,
        figures::time(ready.drained_ms)
    );
    let row = |name: String, counts: &RetireCounts| {
        let n = [counts.keys, counts.wraps, counts.superseded].map(|n| n.to_string());
        let [keys, wraps, superseded] = n;
        [name, keys, wraps, superseded]
    };
    let channels = survey.by_channel.iter();
    let mut rows: Vec<_> = channels.map(|(c, n)| row(c.to_string(), n)).collect();
    rows.push(row("all".to_owned(), &survey.counts));
    text += &out::table(
        [
            "channel",
            "keys no cell names",
            "their wraps",
            "older wraps",
        ],
        rows,
    );
    text += &kept(ready, survey);
    let until = figures::time(ready.aside.until_ms);
    text += &format!(
        "\n\nset aside under the CMK that was active at its end: {} until {until}",
        figures::count(ready.aside.keys, "old key")
    );
    text
}

fn counted(counts: &RetireCounts) -> String {
    format!(
        "{} that no cell names ({}), {}",
        figures::count(counts.keys, "key"),
        figures::count(counts.wraps, "wrap"),
        figures::count(counts.superseded, "older wrap")
    )
}

/// Old wraps that stay, in a line of its own each.
fn kept(ready: &Ready, survey: &Survey) -> String {
    let lines = why_kept(ready, survey);
    lines.iter().map(|line| format!("\nkept: {line}")).collect()
}

/// How many old wraps stay, and why: for each why one.
fn why_kept(ready: &Ready, survey: &Survey) -> Vec<String> {
    let kept = &survey.kept;
    let codes: Vec<&str> = ready.aside.refused.keys().map(String::as_str).collect();
    let not_set_aside = match codes.is_empty() {
        true => "their key could not be set aside".to_owned(),
        false => format!("their key could not be set aside ({})", codes.join(", ")),
    };
    [
        (kept.not_set_aside, not_set_aside.as_str()),
        (
            kept.not_proven,
            "no cell names their key, so its newer wrap is not proven",
        ),
        (kept.not_sound, "their key is not as it should be"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, why)| format!("{}: {why}", figures::count(n, "old wrap")))
    .collect()
}

/// A job that would be called retired for nothing: what it left behind stays, and a
/// later job's retire takes it.
fn nothing_to_delete(ready: &Ready, survey: &Survey) -> Failure {
    let what = format!(
        "job {} has nothing that can be deleted; kept: {}",
        ready.request.job_id,
        why_kept(ready, survey).join("; ")
    );
    Failure::new(Exit::Conflict, what).help(what_helps(ready, survey))
}

fn what_helps(ready: &Ready, survey: &Survey) -> String {
    let next = "run another rekey; that job's retire deletes them";
    let cmk = &ready.activated.from_cmk;
    let mut help = match survey.kept.not_set_aside {
        0 => next.to_owned(),
        _ => format!(
            "see that the CMK they are under can be used (this job's old one is {cmk}), then run \
             another rekey: it sets their keys aside, and its retire deletes them"
        ),
    };
    if survey.kept.not_sound > 0 {
        help += &format!(
            "; `rekeyd verify --org {}` says more of keys that are not as they should be",
            ready.request.org
        );
    }
    help + "; until then every revocation has to be applied to both CMKs"
}

impl From<RetireError> for Failure {
    fn from(error: RetireError) -> Self {
        match error {
            RetireError::Book(BookError::Overtaken(_)) => Failure::new(
                Exit::Conflict,
                "another retire of this job is running, or was while this one ran",
            )
            .help("wait until it is over; the same command then says what is left"),
            RetireError::Book(error) => error.into(),
            RetireError::Scan(error) => error.into(),
            RetireError::Registry(error) => error.into(),
            RetireError::Store(error) => error.into(),
            RetireError::Audit(error) => error.into(),
            error @ (RetireError::NotNow(_) | RetireError::NotWhole(_)) => {
                Failure::new(Exit::Conflict, error.to_string())
            }
        }
    }
}
