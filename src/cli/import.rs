//! `rekeyd import`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use futures::stream;
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::context::{Context, IMPORTER};
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::out;
use crate::cli::report::{self, Failure};
use crate::ids::{OrgId, WorkspaceId};
use crate::import::load::{Load, LoadMessage, LoadReport, Loader};
use crate::import::progress::ProgressFile;
use crate::import::{ImportProgress, ImportReport, Imported, Subject, slack};
use crate::registry::Registry;
use crate::wiring;

/// Messages that wait between the reader and the writer.
const WAITING: usize = 1024;
/// How often progress is kept and shown.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub(super) enum Command {
    /// Read a Slack export, encrypt each message by its scope, and store it.
    #[command(
        after_help = "Running it again goes on where it stopped; importing twice changes nothing.\n\n\
                      Example:\n  rekeyd import slack-export export.zip --org acme --workspace T024BE7LD"
    )]
    SlackExport(SlackExport),
}

#[derive(clap::Args)]
pub(super) struct SlackExport {
    /// The export's folder, or its ZIP file.
    #[arg(value_name = "DIR|ZIP")]
    path: PathBuf,
    /// The organization, entered before with `rekeyd org add`.
    #[arg(long)]
    org: OrgId,
    /// The workspace of its channels.
    #[arg(long)]
    workspace: WorkspaceId,
    /// Begin anew, whatever an earlier run has done.
    #[arg(long)]
    from_start: bool,
}

pub(super) fn run(context: &Context, command: &Command) -> Result<Exit, Failure> {
    let Command::SlackExport(arguments) = command;
    context.run_on_all_cores(slack_export(context, arguments))
}

async fn slack_export(context: &Context, arguments: &SlackExport) -> Result<Exit, Failure> {
    let (org, workspace) = (&arguments.org, &arguments.workspace);
    let store = context.store().await?;
    let registry = Registry::new(store.clone(), context.clock.clone());
    registry.org(org).await?;
    let mut source = slack::open(&arguments.path)?;
    let kept = ProgressFile::of(&context.config().data_dir, &arguments.path, org, workspace)
        .map_err(|e| report::system("cannot look at the export", e))?;
    if arguments.from_start {
        forget(&kept)?;
    }
    let resume = kept.load();
    if let Some(p) = &resume {
        context.out.say(&format!(
            "goes on after {}/{}; --from-start begins anew",
            figures::printable(&p.folder),
            p.day
        ))?;
    }
    let audit = context.audit(IMPORTER)?;
    let kms = context.patient_kms(IMPORTER, &audit).await?;
    let loader = Loader::new(
        store,
        registry,
        kms,
        audit.clone(),
        context.clock.clone(),
        wiring::provider(context.config()),
        org.clone(),
        workspace.clone(),
    )
    .await?;

    // Reading blocks, so it has a thread of its own; when the writer ends early
    // the channel closes and the reader stops.
    let (send, receive) = mpsc::channel(WAITING);
    let now = context.clock.wall();
    let reader = tokio::task::spawn_blocking(move || {
        slack::read(source.as_mut(), now, resume.as_ref(), &mut |item| {
            let item = match item {
                Imported::Message(message) => Load::Message(LoadMessage {
                    message,
                    expiry_s: None,
                }),
                Imported::DayDone(day) => Load::Mark(day),
            };
            match send.blocking_send(item) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    });
    let input = stream::unfold(receive, async |mut receive| {
        receive.recv().await.map(|item| (item, receive))
    });
    let begun = context.clock.boot();
    let mut told = begun;
    let mut last: Option<ImportProgress> = None;
    let loaded = loader
        .load(input, async |day: ImportProgress, so_far: &LoadReport| {
            let now = context.clock.boot();
            last = Some(day);
            if now.since(told) >= EVERY {
                told = now;
                keep(&kept, &last)?;
                tell(context, so_far, now.since(begun))?;
            }
            Ok::<(), Failure>(())
        })
        .await;
    if context.out.is_live() {
        out::redraw("")?;
    }
    // What is durable stays done, whatever happened after it.
    keep(&kept, &last)?;
    let loaded = loaded.map_err(|failure| {
        failure.or_help("what was written stays; when the cause is gone, the same command goes on where it stopped")
    })?;
    let read = reader
        .await
        .map_err(|e| report::system("the reader ended early", e))??;
    audit.close().await?;
    // A later export at the same path may have more days in any folder.
    forget(&kept)?;

    let took = context.clock.boot().since(begun);
    let programs = json!({
        "org": org, "workspace": workspace, "seconds": took.as_secs_f64(),
        "read": read, "loaded": loaded,
    });
    context.out.show(&programs, || {
        for_people(&read, &loaded, took) + &format!("\n\nnext: rekeyd verify --org {org}")
    })?;
    Ok(Exit::Done)
}

fn keep(kept: &ProgressFile, last: &Option<ImportProgress>) -> Result<(), Failure> {
    match last {
        Some(day) => kept
            .save(day)
            .map_err(|e| report::system("cannot keep the import's progress", e)),
        None => Ok(()),
    }
}

fn forget(kept: &ProgressFile) -> Result<(), Failure> {
    kept.remove()
        .map_err(|e| report::system("cannot remove the import's progress", e))
}

fn tell(context: &Context, so_far: &LoadReport, took: Duration) -> Result<(), Failure> {
    let line = format!(
        "import  {} messages  {}/s  {} keys",
        figures::amount(so_far.messages),
        figures::rate(so_far.messages as f64 / took.as_secs_f64().max(0.001)),
        figures::amount(so_far.keys_made),
    );
    match context.out.is_live() {
        true => out::redraw(&line),
        false => context.out.say(&line),
    }
}

fn for_people(read: &ImportReport, loaded: &LoadReport, took: Duration) -> String {
    let mut text = format!(
        "{} of {} in {} written, {} keys made, in {}",
        figures::count(loaded.messages, "message"),
        figures::count(read.channels, "channel"),
        figures::count(read.days, "day file"),
        loaded.keys_made,
        figures::span(took),
    );
    for (n, what) in [
        (read.days_resumed, "day files were done by an earlier run"),
        (read.duplicates, "duplicates were left out"),
        (
            read.replacements,
            "are later edits of a message before them",
        ),
        (read.edits_ignored, "edit times could not be believed"),
        (
            read.unlisted_channels,
            "channels are in no list of the export",
        ),
    ] {
        if n > 0 {
            text += &format!("\n{n} {what}");
        }
    }
    for (reason, skipped) in &read.skipped {
        let subject = match reason.subject() {
            Subject::Message => "message",
            Subject::File => "file",
            Subject::Folder => "folder",
            Subject::Entry => "entry",
        };
        text += &format!(
            "\nskipped: {}: {}",
            figures::count(skipped.count, subject).replace("entrys", "entries"),
            reason.explain()
        );
        for example in &skipped.examples {
            text += &format!("\n  {example}");
        }
    }
    text
}
