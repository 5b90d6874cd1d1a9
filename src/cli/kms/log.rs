//! `rekeyd kms log`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures::{count, printable};
use crate::cli::out;
use crate::cli::report::Failure;
use crate::kms::local::{RingAdmin, TrailWriter};

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    /// How many calls.
    #[arg(long, default_value_t = 20, value_name = "N")]
    tail: usize,
    /// Write all calls to FILE in the form of AWS CloudTrail, packed if its name
    /// ends in .gz; FILE must not be there.
    #[arg(long, value_name = "FILE", conflicts_with = "tail")]
    cloudtrail: Option<PathBuf>,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let ring = context.ring()?;
    if let Some(file) = &arguments.cloudtrail {
        return write(context, &ring, file);
    }
    let calls = ring.log_tail(arguments.tail)?;
    context.out.show(&json!({"calls": calls}), || {
        out::table(
            ["time", "operation", "result", "caller", "cmk", "context"],
            calls.iter().map(|call| {
                let pairs: Vec<String> = call
                    .context
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                let cmk = match &call.cmk_to {
                    Some(to) => format!("{} -> {to}", call.cmk),
                    None => call.cmk.to_string(),
                };
                [
                    call.ts.clone(),
                    call.operation.clone(),
                    printable(&call.result),
                    printable(&call.caller),
                    cmk,
                    printable(&pairs.join(" ")),
                ]
            }),
        )
    })
}

fn write(context: &Context, ring: &RingAdmin, path: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let exit = match error.kind() {
            io::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("cannot write {}: {error}", path.display()))
            .help("name a file that is not there, in a directory that can be written")
    };
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let file = BufWriter::new(file);
    let packed = path.extension().is_some_and(|e| e == "gz");
    let written = match packed {
        true => all(ring, GzEncoder::new(file, Compression::default()), |gz| {
            gz.finish().map(drop)
        }),
        false => all(ring, file, |_| Ok(())),
    };
    let events = written?.map_err(failed)?;
    let programs = json!({"cloudtrail": {"file": path, "events": events}});
    context.out.show(&programs, || {
        format!(
            "{} written to {}; `rekeyd audit reconcile --cloudtrail {}` holds the audit log against it",
            count(events, "call"),
            path.display(),
            path.display()
        )
    })
}

/// Writes every call. The outer failure is the ring's, the inner the file's.
fn all<W: Write>(
    ring: &RingAdmin,
    out: W,
    finish: impl FnOnce(W) -> io::Result<()>,
) -> Result<io::Result<u64>, Failure> {
    let mut trail = match TrailWriter::begin(out) {
        Ok(trail) => trail,
        Err(error) => return Ok(Err(error)),
    };
    let mut failed = None;
    ring.each_call(|call| {
        if failed.is_none() {
            failed = trail.write(&call).err();
        }
    })?;
    if let Some(error) = failed {
        return Ok(Err(error));
    }
    Ok(trail
        .end()
        .and_then(|(out, events)| finish(out).map(|()| events)))
}
