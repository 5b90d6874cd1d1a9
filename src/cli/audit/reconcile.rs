//! `rekeyd audit reconcile`

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::audit::reconcile::{
    Call, Event, Inputs, Listed, ReconcileError, Reconciled, Span, reconcile, trail_files_of,
};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures::{count, parse_span, printable};
use crate::cli::out;
use crate::cli::report::Failure;

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// CloudTrail's files, packed or not, or directories of them.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    cloudtrail: Vec<PathBuf>,
    /// A directory of streams, or one file; `audit.dir` if not given.
    #[arg(long, value_name = "PATH")]
    audit: Option<PathBuf>,
    /// How late CloudTrail may deliver: a record that near to the ends of the files
    /// is not missed yet.
    #[arg(long, value_name = "SPAN", default_value = "15m", value_parser = parse_span)]
    slack: Duration,
    /// From this time on, RFC 3339, in place of what both cover.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Up to this time.
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// A role, user or session that is ours, besides those whom the audit log names.
    #[arg(long = "principal", value_name = "ARN")]
    principals: Vec<String>,
    /// How many of each list are shown.
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    let mut trail = Vec::new();
    for path in &arguments.cloudtrail {
        trail.extend(trail_files_of(path).map_err(|source| ReconcileError::Io {
            path: path.clone(),
            source,
        })?);
    }
    let audit = arguments.audit.as_ref();
    let inputs = Inputs {
        audit: audit.unwrap_or(&context.config().audit.dir),
        trail: &trail,
        slack: arguments.slack,
        from: arguments.from,
        to: arguments.to,
        principals: &arguments.principals,
        list: arguments.list,
    };
    let done = reconcile(&inputs)?;
    let joined = done.all_joined();
    let mut programs = json!(done);
    programs["all_joined"] = json!(joined);
    context.out.show(&programs, || for_people(&done))?;
    if joined {
        return Ok(Exit::Done);
    }
    if context.out.is_json() {
        return Ok(Exit::BadData);
    }
    Err(
        Failure::new(Exit::BadData, "the audit log and CloudTrail do not agree").help(
            "docs/audit.md says what each list may come from; `rekeyd audit verify` says whether \
             the log was changed",
        ),
    )
}

impl From<ReconcileError> for Failure {
    fn from(error: ReconcileError) -> Self {
        let exit = match &error {
            ReconcileError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            ReconcileError::Io { .. } => Exit::Failed,
            ReconcileError::Nothing(_) | ReconcileError::Apart { .. } => Exit::NotFound,
        };
        Failure::new(exit, printable(&error.to_string())).help(
            "give `--cloudtrail` the files of the time and the accounts in question, and `--audit` \
             the streams",
        )
    }
}

fn span(span: Option<Span>) -> String {
    match span {
        Some(span) => format!("{:.0} to {:.0}", span.from, span.to),
        None => "none".to_owned(),
    }
}

fn for_people(done: &Reconciled) -> String {
    let mut text = format!(
        "audit log   {}, {}\ncloudtrail  {} of the KMS, {}\njoined      {}",
        count(done.records, "call"),
        span(Some(done.audit)),
        count(done.events, "event"),
        span(Some(done.trail)),
        done.joined,
    );
    text += &format!(
        "\njudged      calls of {}, records of {}",
        span(done.calls_judged),
        span(done.records_judged)
    );
    for (n, what) in [
        (done.copies, "came more than once"),
        (
            done.not_yet_delivered,
            "not yet delivered: too near to the ends of CloudTrail's files",
        ),
        (
            done.records_outside,
            "recorded at a time of which there is no CloudTrail here",
        ),
        (
            done.calls_outside,
            "made by us at a time of which there is no audit log here",
        ),
        (
            done.unanswered,
            "never answered: their records have no id to be joined by",
        ),
    ] {
        if n > 0 {
            text += &format!("\n{:<10}  {what}", n);
        }
    }
    text += &calls(&done.calls_without_record);
    text += &records(&done.records_without_call);
    let disagree = done.disagree.listed.iter();
    text += &listed("joined, but not the same", &done.disagree, || {
        out::table(
            ["time", "operation", "request", "code", ""],
            disagree.map(|one| {
                let [time, operation, _, request, code] = row(&one.event);
                [time, operation, request, code, printable(&one.what)]
            }),
        )
    });
    text += &listed("not read", &done.bad_lines, || {
        let lines = done.bad_lines.listed.iter();
        let lines = lines.map(|line| format!("{}: {}: {}", line.file.display(), line.at, line.why));
        printable_lines(lines)
    });
    if !done.others.is_empty() {
        text += "\n\nothers who called for these CMKs\n";
        text += &out::table(
            ["principal", "operation", "calls", "failed", "first", "last"],
            done.others.iter().map(|other| {
                [
                    printable(&other.principal),
                    printable(&other.operation),
                    other.calls.to_string(),
                    other.failed.to_string(),
                    format!("{:.0}", other.first),
                    format!("{:.0}", other.last),
                ]
            }),
        );
        if done.others_untold > 0 {
            text += &format!(
                "\n… and {} by more of them",
                count(done.others_untold, "call")
            );
        }
    }
    text += match (done.all_joined(), done.records_judged) {
        (true, Some(_)) => {
            "\n\nevery call that was judged has its record, and every record its call"
        }
        (true, None) => {
            "\n\nevery call that was judged has its record. No record was judged: its call may \
             not be delivered yet; ask again later, or with a smaller --slack"
        }
        (false, _) => "",
    };
    text
}

fn printable_lines(lines: impl Iterator<Item = String>) -> String {
    lines
        .map(|line| printable(&line))
        .collect::<Vec<_>>()
        .join("\n")
}

fn row(event: &Event) -> [String; 5] {
    [
        format!("{:.0}", event.time),
        printable(&event.operation),
        printable(&event.principal),
        printable(event.request_id.as_deref().unwrap_or("none")),
        printable(event.error.as_deref().unwrap_or("ok")),
    ]
}

fn calls(list: &Listed<Event>) -> String {
    listed("calls without a record", list, || {
        let head = ["time", "operation", "principal", "request", "code"];
        out::table(head, list.listed.iter().map(row))
    })
}

fn records(list: &Listed<Call>) -> String {
    listed("records without a call", list, || {
        let head = ["time", "operation", "principal", "request", "record"];
        out::table(
            head,
            list.listed.iter().map(|call| {
                [
                    format!("{:.0}", call.ts),
                    printable(&call.action),
                    printable(call.principal.as_deref().unwrap_or_default()),
                    printable(call.kms_request_id.as_deref().unwrap_or_default()),
                    printable(&format!("{} {}", call.stream, call.seq)),
                ]
            }),
        )
    })
}

fn listed<T>(what: &str, list: &Listed<T>, table: impl FnOnce() -> String) -> String {
    if list.count == 0 {
        return String::new();
    }
    let mut text = format!("\n\n{what}: {}\n{}", list.count, table());
    let more = list.count.saturating_sub(list.listed.len() as u64);
    if more > 0 {
        text += &format!("\n… and {more} more");
    }
    text
}
