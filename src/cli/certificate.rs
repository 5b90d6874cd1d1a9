//! `rekeyd report`

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::certificate::{
    BadDocument, Certificate, Document, Form, KeyFileError, PublicKey, SigningKey, Sources,
    new_key_file,
};
use crate::cli::context::{self, Context, who};
use crate::cli::exit::Exit;
use crate::cli::figures::{self, printable};
use crate::cli::out;
use crate::cli::report::Failure;
use crate::ids::JobId;
use crate::job::{BlockedSlice, ThrottleEvent};

/// The largest file that `check` reads, bytes: far more than any certificate has.
const LARGEST: u64 = 64 << 20;

#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "With `report.signing_key_file` in the configuration it is signed.\n\n\
                  Example:\n  rekeyd report $JOB\n  rekeyd report $JOB --html acme.html\n  \
                  rekeyd report $JOB --output json > acme.json\n  \
                  rekeyd report check acme.html --public-key rekeyd.pub"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The job.
    #[arg(required = true)]
    job: Option<JobId>,
    /// Write it as a page to this new file, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Check a report against a key you trust. It needs no store and no network.
    #[command(after_help = "Example:\n  rekeyd report check acme.html --public-key rekeyd.pub")]
    Check {
        /// The report: JSON or the page; - for standard input.
        file: PathBuf,
        /// The public key (PEM, or 64 hexadecimal digits); the other half of
        /// `report.signing_key_file` if not given.
        #[arg(long, value_name = "FILE")]
        public_key: Option<PathBuf>,
    },
    /// Make a key to sign reports with, in a new file; prints its public half.
    #[command(after_help = "Example:\n  rekeyd report new-key rekeyd-report.key > rekeyd.pub")]
    NewKey {
        /// Where the private key goes.
        file: PathBuf,
    },
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    match (&arguments.command, arguments.job) {
        (Some(Command::Check { file, public_key }), _) => {
            check(context, file, public_key.as_deref())
        }
        (Some(Command::NewKey { file }), _) => new_key(context, file),
        (None, Some(job)) => report(context, job, arguments.html.as_deref()),
        (None, None) => Err(Failure::new(Exit::Usage, "name a job")),
    }
}

fn report(context: &Context, id: JobId, html: Option<&Path>) -> Result<Exit, Failure> {
    let key = context.config().report.signing_key_file.as_deref();
    let key = key.map(SigningKey::read).transpose()?;
    let certificate = context.run(gather(context, id))?;
    let document = Document::new(&certificate, key.as_ref());
    if let Some(path) = html {
        let page = document.to_page().map_err(|e| bad(path, e))?;
        write_new(path, &page)?;
    }
    context
        .out
        .show(&document.to_json(), || for_people(&certificate, &key, html))?;
    Ok(Exit::Done)
}

async fn gather(context: &Context, id: JobId) -> Result<Certificate, Failure> {
    let book = context.book().await?;
    let mut job = context::job(&book, id).await?.row;
    let org = job.request.org().clone();
    let registry = context.registry().await?;
    let (lapsed, _) = context::verdict_of_today(&book, &registry, &mut job).await?;
    let history = book.history(&org, id).await?;
    let throttles = throttles(&book, &job).await?;
    let tasks = context::tasks(&book, &job).await?;
    let job = job.so_far(&tasks);
    let blocked: Vec<BlockedSlice> = tasks.into_iter().flat_map(|task| task.blocked).collect();
    let quarantined = book.quarantined(&job).await?;
    Ok(Certificate::of(&Sources {
        job: &job,
        lapsed,
        history: &history,
        throttles: &throttles,
        blocked: &blocked,
        quarantined: &quarantined,
        now_ms: context.clock.wall().unix_ms(),
        made_by: &who(),
    }))
}

/// Throttles that concerned a job between its record and its end.
pub(super) async fn throttles(
    book: &crate::job::JobBook,
    job: &crate::job::JobRow,
) -> Result<Vec<ThrottleEvent>, Failure> {
    let (org, id) = (job.request.org(), job.request.job_id());
    let until_ms = job.ended_ms().unwrap_or(u64::MAX);
    let mut events = book.throttle_events().await?;
    events.retain(|event| {
        event.target.applies_to(org, id) && (job.recorded_ms..=until_ms).contains(&event.at_ms)
    });
    Ok(events)
}

fn for_people(c: &Certificate, key: &Option<SigningKey>, html: Option<&Path>) -> String {
    let dash = || "-".to_owned();
    let planned = |of: fn(&crate::certificate::Plan) -> u64| {
        c.plan.as_ref().map_or_else(dash, |p| of(p).to_string())
    };
    let mut rows = vec![
        ("job", c.job_id.to_string()),
        ("asked for", printable(&c.asked.what)),
        ("by", printable(&c.asked.requested_by)),
        ("why", printable(&c.asked.reason)),
        ("recorded", c.asked.recorded_at.clone()),
        (
            "state",
            format!("{} since {}", c.outcome.state, c.outcome.since),
        ),
    ];
    if let Some(a) = &c.activation {
        rows.push(("epoch", format!("{}, from {}", a.epoch, a.at)));
        rows.push(("CMK before", a.from_cmk.to_string()));
        if let Some(to) = &a.to_cmk {
            rows.push(("CMK after", to.to_string()));
        }
    }
    let mut text = out::table(["", ""], rows.into_iter().map(|(n, v)| [n.to_owned(), v]));
    let done = &c.done;
    text += "\n\n";
    text += &out::table(
        ["", "planned", "done"],
        [
            (
                "slices (done: of all passes)",
                planned(|p| p.slices),
                done.slices,
            ),
            ("KMS calls", planned(|p| p.kms_calls), done.kms_calls),
            ("seconds", planned(|p| p.seconds), done.seconds),
            ("data keys made", dash(), done.keys_made),
            ("keys wrapped anew", dash(), done.keys_rewrapped),
            ("times a worker took it up", dash(), done.drivers),
            ("tasks taken over", dash(), done.takeovers),
        ]
        .map(|(name, planned, done)| [name.to_owned(), planned, done.to_string()]),
    );
    let (rewriting, proof) = (&c.evidence.rewriting, &c.evidence.proof);
    text += "\n\n";
    text += &out::table(
        ["rows", "rewriting", "last scan"],
        [
            ("scanned", rewriting.scanned, proof.scanned),
            ("rewritten", rewriting.rewritten, proof.rewritten),
            ("current", rewriting.current, proof.current),
            ("changed meanwhile", rewriting.changed, proof.changed),
            ("expired", rewriting.expired, proof.expired),
            ("empty", rewriting.empty, proof.empty),
            ("blocked", rewriting.blocked, proof.blocked),
            ("quarantined", rewriting.quarantined, proof.quarantined),
        ]
        // To the last row: whoever reads it adds them up.
        .map(|(name, a, b)| [name.to_owned(), a.to_string(), b.to_string()]),
    );
    text += match c.evidence.counts_balance {
        true => "\nthe parts sum to the rows scanned",
        false => "\nTHE PARTS DO NOT SUM TO THE ROWS SCANNED",
    };
    if c.evidence.times_blocked > 0 {
        text += &format!(
            "\nblocked {}; `rekeyd history {}` says why",
            figures::count(c.evidence.times_blocked, "time"),
            c.job_id
        );
    }
    for (what, counts) in [
        ("wait for a key", &c.evidence.blocked_slices),
        ("left as found", &c.evidence.quarantined_cells),
    ] {
        for (code, n) in counts {
            text += &format!("\n{n} {what}: {}", printable(code));
        }
    }
    text += &format!(
        "\n{} in the history, {}, {}",
        figures::count(c.history.len() as u64, "step"),
        figures::count(c.throttles.len() as u64, "throttle"),
        figures::count(c.evidence.audit.len() as u64, "audit stream"),
    );
    if let Some(path) = html {
        text += &format!("\nwritten to {}", path.display());
    }
    text += &match key {
        Some(key) => format!("\nsigned with the key {}", key.public().to_hex()),
        None => "\nnot signed: `report.signing_key_file` is not set".to_owned(),
    };
    text + &format!(
        "\n\n{}",
        printable(
            c.outcome
                .verdict
                .as_deref()
                .unwrap_or("there is no verdict yet")
        )
    )
}

fn check(context: &Context, file: &Path, public_key: Option<&Path>) -> Result<Exit, Failure> {
    let trusted = match (public_key, &context.config().report.signing_key_file) {
        (Some(path), _) => PublicKey::read(path)?,
        (None, Some(path)) => SigningKey::read(path)?.public(),
        (None, None) => {
            let what = "name the key that the report is to be signed with";
            return Err(Failure::new(Exit::Usage, what).help(
                "`--public-key FILE`, got from whoever runs rekeyd and not with the report",
            ));
        }
    };
    let text = read(file)?;
    let checked = Document::check(&text, trusted).map_err(|error| bad(file, error))?;
    let c = &checked.certificate;
    let form = match checked.form {
        Form::Json => "json",
        Form::Page => "page",
        Form::PageOfAnotherVersion => "page_of_another_version",
    };
    let programs = json!({
        "good": true, "form": form, "signed_by": trusted.to_hex(), "job_id": c.job_id,
        "org": c.org, "made_at": c.made_at, "state": c.outcome.state,
        "verdict": c.outcome.verdict,
        "old_cmk_may_be_disabled": c.outcome.old_cmk_may_be_disabled,
    });
    context.out.show(&programs, || {
        let mut text = format!(
            "good: signed with the key {}\njob {} of {}, made at {}\n",
            trusted.to_hex(),
            c.job_id,
            c.org,
            printable(&c.made_at)
        );
        if checked.form == Form::PageOfAnotherVersion {
            text += &format!(
                "the page was made by version {}: what it carries is as it was signed; whether \
                 the page shows just that, only that version can tell\n",
                printable(&c.rekeyd)
            );
        }
        let verdict = c.outcome.verdict.as_deref();
        text + &format!(
            "\n{}",
            printable(verdict.unwrap_or("there is no verdict in it"))
        )
    })?;
    Ok(Exit::Done)
}

fn new_key(context: &Context, file: &Path) -> Result<Exit, Failure> {
    let public = new_key_file(file)?;
    let programs = json!({
        "file": file, "public_key": public.to_hex(), "public_key_pem": public.to_pem(),
    });
    context.out.show(&programs, || public.to_pem())?;
    Ok(Exit::Done)
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let result = match file.to_str() {
        Some("-") => std::io::stdin().take(LARGEST).read_to_string(&mut text),
        _ => std::fs::File::open(file).and_then(|f| f.take(LARGEST).read_to_string(&mut text)),
    };
    match result {
        Ok(_) => Ok(text),
        Err(error) => {
            let exit = match error.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                std::io::ErrorKind::InvalidData => Exit::BadData,
                _ => Exit::Failed,
            };
            Err(Failure::new(exit, format!("{}: {error}", file.display())))
        }
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).open(path);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    })
    .map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: {error}", path.display()))
            .help("name a file that is not there yet, in a directory that is")
    })
}

fn bad(file: &Path, error: BadDocument) -> Failure {
    let help = match &error {
        BadDocument::NotOne(_) => "name a file that `rekeyd report` wrote",
        BadDocument::NotSigned => {
            "it was made without `report.signing_key_file`, so it proves nothing"
        }
        BadDocument::OtherKey(_) => {
            "ask whoever runs rekeyd which key they sign with, by another way than the report came"
        }
        BadDocument::Changed | BadDocument::PageChanged => {
            "do not believe it; ask for it anew and compare"
        }
    };
    Failure::new(Exit::BadData, format!("{}: {error}", file.display())).help(help)
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        let exit = match &error {
            KeyFileError::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Exit::NotFound,
                std::io::ErrorKind::AlreadyExists => Exit::Conflict,
                _ => Exit::Failed,
            },
            KeyFileError::NotPrivate(_) | KeyFileError::NotAKey { .. } => Exit::Config,
            KeyFileError::NoRandom => Exit::Failed,
        };
        Failure::new(exit, error.to_string()).help(match &error {
            KeyFileError::Io { source, .. }
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                "name another file; this one was left as it is"
            }
            KeyFileError::NotPrivate(_) => "take the rights of others away: chmod 0600",
            _ => "`rekeyd report new-key FILE` makes a key and prints its public half",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::tests::{certificate_of, job};

    #[test]
    fn figures_are_exact_for_who_reads_adds_them_up() {
        let mut c = certificate_of(&job(), false);
        (c.evidence.rewriting.scanned, c.evidence.rewriting.rewritten) = (3015, 3000);
        let text = for_people(&c, &None, None);
        assert!(text.contains("3015") && text.contains("3000"), "{text}");
        assert!(!text.contains(" k "), "{text}");
        assert!(text.contains("blocked 1 time;"), "{text}");
    }
}
