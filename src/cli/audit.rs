//! `rekeyd audit`

mod reconcile;

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::audit::{Ending, verify};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures::{count, printable};
use crate::cli::out;
use crate::cli::report::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check that nothing in the audit log was changed, removed or added.
    #[command(
        after_help = "Example:\n  rekeyd audit verify\n  rekeyd audit verify /var/log/rekeyd/audit"
    )]
    Verify {
        /// A directory of streams, or one file; `audit.dir` if not given.
        path: Option<PathBuf>,
    },
    /// Hold the audit log against AWS CloudTrail: has every call its record?
    #[command(
        after_help = "Calls are joined with records by the id that the KMS gave to the request.                       Calls by others to the same CMKs are listed apart.\n\n\
                      Examples:\n  rekeyd audit reconcile --cloudtrail trail/\n  \
                      rekeyd audit reconcile --cloudtrail a.json.gz b.json.gz --slack 30m\n\
                      On the local key ring:\n  rekeyd kms log --cloudtrail trail.json\n  \
                      rekeyd audit reconcile --cloudtrail trail.json --slack 0"
    )]
    Reconcile(reconcile::Arguments),
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Verify { path } => check(context, path.as_ref()),
        Command::Reconcile(arguments) => reconcile::run(context, arguments),
    }
}

fn check(context: &Context, path: Option<&PathBuf>) -> Result<Exit, Failure> {
    let path = path.unwrap_or(&context.config().audit.dir);
    let read = |known: &[_]| {
        verify(path, known).map_err(|error| {
            let exit = match error.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            };
            let what = format!("cannot read the audit log at {}: {error}", path.display());
            Failure::new(exit, what)
                .help("name a directory or a file; `audit.dir` is looked at if none is named")
        })
    };
    // Twice: the heads that records name are held against the streams.
    let named = read(&[])?.named;
    let report = read(&named)?;
    let whole = report.is_intact();
    let ending = |e| match e {
        Ending::Stopped => "stopped",
        Ending::Open => "open",
    };
    let programs = json!({
        "path": path, "intact": whole,
        "missing": report.missing.iter().map(|h| &h.stream).collect::<Vec<_>>(),
        "streams": report.streams.iter().map(|s| json!({
            "file": s.file, "stream": s.stream, "service": s.service, "records": s.records,
            "first_ts": s.first_ts, "last_ts": s.last_ts, "ending": ending(s.ending),
            "torn_bytes": s.torn_bytes, "broken": s.broken.as_ref().map(ToString::to_string),
        })).collect::<Vec<_>>(),
    });
    context.out.show(&programs, || {
        let mut text = out::table(
            ["stream", "service", "records", "last", "ends", "state"],
            report.streams.iter().map(|s| {
                [
                    printable(&s.stream),
                    printable(&s.service),
                    s.records.to_string(),
                    printable(s.last_ts.as_deref().unwrap_or_default()),
                    ending(s.ending).to_owned(),
                    s.broken
                        .as_ref()
                        .map_or("good".to_owned(), |b| printable(&format!("BROKEN {b}"))),
                ]
            }),
        );
        text += "\n\n";
        let records = report.streams.iter().map(|s| s.records).sum();
        text += &match whole {
            true => format!(
                "intact: {} in {}",
                count(records, "record"),
                count(report.streams.len() as u64, "stream")
            ),
            false => "the audit log is not as it was written".to_owned(),
        };
        for head in &report.missing {
            text += &format!(
                "\nmissing: stream {}, which a job's last record names",
                head.stream
            );
        }
        text
    })?;
    if whole {
        Ok(Exit::Done)
    } else if context.out.is_json() {
        Ok(Exit::BadData)
    } else {
        Err(
            Failure::new(Exit::BadData, "the audit log was changed or is incomplete").help(
                "keep the files as they are, and compare with the copy that was shipped elsewhere",
            ),
        )
    }
}
