//! `rekeyd verify`
//!
//! | file | what |
//! |---|---|
//! | `course` | the scan under way: its line, its file, its end |
//! | `words` | what is said to people |

mod course;
mod words;

use std::path::PathBuf;

use serde_json::json;

use crate::cli::context::{self, Context};
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::ids::{ChannelId, JobId, OrgId};
use crate::job::{JobBook, JobMessage, JobRow, Pass};
use crate::progress;
use crate::registry::Registry;
use crate::verify::{Asked, Found, Looked, Promise, Proof, Scan};
use course::{Course, Way};

/// How long one call of the KMS is tried for, seconds: a scan of hours does not end
/// because of an outage of one minute. What it waits for it says.
const KMS_PATIENCE_S: u64 = 300;

#[derive(clap::Args)]
#[command(
    group(clap::ArgGroup::new("scope").required(true)),
    after_help = "It reads only: what it passes, a reader can read. Of one channel it says besides \
                  whether its moves are proven to be at their end, of a job whether what it \
                  promised holds.\n\n\
                  Examples:\n  rekeyd verify --org acme\n  \
                  rekeyd verify --org acme --channel c2 --all-replicas\n  \
                  rekeyd verify --job 7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69\n  \
                  rekeyd verify --org acme --sample 200\n  \
                  rekeyd verify --org acme --rows-per-s 2000 --resume acme.scan"
)]
pub(super) struct Arguments {
    /// The organization.
    #[arg(long, group = "scope")]
    org: Option<OrgId>,
    /// This channel only.
    #[arg(long)]
    channel: Option<ChannelId>,
    /// What this job was about, and whether what it promised holds.
    #[arg(long, group = "scope", conflicts_with = "channel")]
    job: Option<JobId>,
    /// Look at headers and key rows only; no call to the KMS.
    #[arg(long)]
    no_open: bool,
    /// Ask every replica for each row, not a quorum.
    #[arg(long)]
    all_replicas: bool,
    /// Read so many slices only, drawn by chance from all: a quick look, and no proof.
    #[arg(long, value_name = "SLICES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    sample: Option<u32>,
    /// Draw the sample again that another run named.
    #[arg(long, value_name = "N", requires = "sample")]
    seed: Option<u32>,
    /// Read so many rows a second at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rows_per_s: Option<u32>,
    /// Keep in FILE how far it is, and go on from there if it was stopped.
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    resume: Option<PathBuf>,
}

/// What is scanned.
struct Subject {
    org: OrgId,
    channel: Option<ChannelId>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    context.run_on_all_cores(async {
        let store = context.store().await?;
        let registry = Registry::new(store.clone(), context.clock.clone());
        let book = JobBook::new(store.clone(), context.clock.clone());
        let subject = arguments.subject(&book).await?;
        let org = registry.org(&subject.org).await?;
        let (audit, kms) = match arguments.no_open {
            true => (None, None),
            false => {
                let caller = &context.config().kms.caller;
                let audit = context.audit(caller)?;
                let kms = context.kms_within(KMS_PATIENCE_S, caller, &audit).await?;
                (Some(audit), Some(kms))
            }
        };
        let clock = context.clock.clone();
        let Subject { org: id, channel } = &subject;
        let mut scan = Scan::new(store, clock, kms, id.clone(), channel.clone()).await?;
        if arguments.all_replicas {
            scan = scan.at_all_replicas();
        }
        if let Some(rows_per_s) = arguments.rows_per_s {
            scan = scan.at_rows_per_s(rows_per_s);
        }
        let asked = arguments.asked(&subject, org.created_ms);
        let way = Way::of(
            arguments.sample,
            arguments.seed,
            arguments.resume.as_deref(),
        );
        let ended = course::run(context, &scan, way, asked, org.last_epoch).await;
        // A sample says nothing of a move: the places a channel came from would
        // have to be read whole.
        let proof = match &ended {
            Ok(course) if course.sample.is_none() => scan.proof(&course.found).await,
            _ => Ok(None),
        };
        // What was called is on record, however it went.
        if let Some(audit) = audit {
            audit.close().await?;
        }
        let (course, proof) = (ended?, proof?);
        let promise = match arguments.job {
            Some(job) => Some(promise(&book, &registry, job, arguments, &course, &proof).await?),
            None => None,
        };
        let active = org.cmk;
        let programs = json!({
            "org": subject.org, "channel": subject.channel, "active_cmk": active,
            "opened": !arguments.no_open, "whole": course.found.is_whole(),
            "is_proof": course.sample.is_none() && !arguments.no_open,
            "found": course.found, "proof": proof, "job": promise,
            "sample": course.sample, "parts": course.parts,
        });
        context.out.show(&programs, || {
            let mut text = words::for_people(&course.found, &active);
            text += "\n";
            text += &words::in_sum(&course.found, !arguments.no_open, course.sample.as_ref());
            text += &words::in_parts(&course.parts);
            if let Some(proof) = &proof {
                text += &words::old_places(proof);
                text += &format!("\n{proof}");
            }
            if let Some(promise) = &promise {
                text += &format!("\n{promise}");
            }
            text
        })?;
        course.finish()?;
        Ok(exit(&course.found, proof.as_ref(), promise.as_ref()))
    })
}

fn exit(found: &Found, proof: Option<&Proof>, promise: Option<&Promise>) -> Exit {
    if !found.quarantined.is_empty() {
        return Exit::BadData;
    }
    if !found.is_whole() {
        return Exit::KmsRefused;
    }
    if let Some(promise) = promise.filter(|promise| promise.holds == Some(false)) {
        return match promise.is_move {
            true => Exit::MoveUnfinished,
            false => Exit::MustNotDisable,
        };
    }
    match proof.is_some_and(|proof| proof.proven == Some(false)) {
        true => Exit::MoveUnfinished,
        false => Exit::Done,
    }
}

impl Arguments {
    async fn subject(&self, book: &JobBook) -> Result<Subject, Failure> {
        if let Some(id) = self.job {
            let job = context::job(book, id).await?.row;
            // Where the job's own scan looks, which of a copy is where it went.
            let (org, channel) = job.scans(Pass::Verify);
            return Ok(Subject { org, channel });
        }
        let channel = self.channel.clone();
        match self.org.clone() {
            Some(org) => Ok(Subject { org, channel }),
            None => Err(Failure::new(Exit::Usage, "name an organization or a job")
                .help("rekeyd verify --org acme")),
        }
    }

    fn asked(&self, subject: &Subject, org_created_ms: u64) -> Asked {
        Asked {
            org: subject.org.clone(),
            org_created_ms,
            channel: subject.channel.clone(),
            job: self.job,
            opened: !self.no_open,
            all_replicas: self.all_replicas,
        }
    }
}

/// Judged by the job as it is after the scan: a later job may have come meanwhile.
async fn promise(
    book: &JobBook,
    registry: &Registry,
    id: JobId,
    arguments: &Arguments,
    course: &Course,
    proof: &Option<Proof>,
) -> Result<Promise, Failure> {
    let mut job: JobRow = context::job(book, id).await?.row;
    let lapsed = match &job.request {
        JobMessage::Rekey(request) => {
            let activations = registry.activations(&request.org).await?;
            progress::lapse(&mut job, &activations)
        }
        JobMessage::Move(_) => false,
    };
    let looked = Looked {
        began_ms: course.parts.first().map_or(0, |part| part.from_ms),
        opened: !arguments.no_open,
        all: course.sample.is_none(),
    };
    let lapsed = lapsed.then_some(job.why.as_str());
    let (found, moved) = (&course.found, proof.as_ref());
    Ok(Promise::of(id, &job, lapsed, found, looked, moved))
}
