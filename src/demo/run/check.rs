//! What is looked at when the job has ended, each thing with its line on the
//! screen, its line in the report and what must hold of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::DemoError;
use super::follow::Followed;
use super::read::Reader;
use super::report::{Report, by_code};
use super::scene::{APP, Part, Scene, WORKER};
use super::show::{Show, count, number};
use crate::audit;
use crate::client::Client;
use crate::demo::ledger::Ledger;
use crate::demo::traffic::Traffic;
use crate::ids::{ChannelId, JobId};
use crate::job::{JobRow, JobState, MoveRequest};
use crate::kms::{ReasonCode, Use};
use crate::scope::Scope;
use crate::verify::{Found, Scan};

/// What the job did, for the report.
pub(super) async fn job(
    report: &mut Report,
    scene: &Scene,
    job: JobId,
    followed: &Followed,
    witness: Option<&Path>,
) -> Result<(), DemoError> {
    let row = &followed.job;
    for (part, time) in times(scene, job).await? {
        report.took(part, time);
    }
    report.figure(
        "messages rewritten",
        row.rewriting.rewritten,
        format!("and {} were new already", number(row.rewriting.current)),
    );
    let mut calls: BTreeMap<String, u64> = BTreeMap::new();
    scene.ring.each_call(|call| {
        if call.caller == WORKER {
            *calls.entry(call.operation).or_default() += 1;
        }
    })?;
    let by_operation: Vec<String> = calls
        .iter()
        .map(|(operation, n)| format!("{} {operation}", number(*n)))
        .collect();
    report.figure(
        "KMS calls of the workers",
        calls.values().sum(),
        by_operation.join(", "),
    );
    report.figure("kills survived", followed.kills, "");
    report.figure(
        "takeovers",
        followed.takeovers,
        "of the job and its tasks, after a lease ran out",
    );
    match witness {
        Some(path) => {
            let sealed = sealed(path)?;
            let twice = sealed.saturating_sub(row.rewriting.rewritten);
            report.figure(
                "rework, at most",
                twice,
                "messages that the dead worker sealed after its last checkpoint",
            );
        }
        None => report.remark("rework", "not counted in a release build"),
    }
    report.check(followed.kills == 1, || "no worker was killed".to_owned());
    report.check(row.rewriting.balances() && row.proof.balances(), || {
        "the job's counts do not sum to the rows scanned".to_owned()
    });
    report.check(verdict_is_good(row, scene), || {
        format!(
            "the verdict is: {}",
            row.verdict.as_deref().unwrap_or("none")
        )
    });
    report.verdict(row.verdict.clone());
    Ok(())
}

/// What the move did, and that all of the channel is where it went to.
pub(super) async fn moved(
    report: &mut Report,
    scene: &Scene,
    request: &MoveRequest,
    followed: &Followed,
) -> Result<(), DemoError> {
    let row = &followed.job;
    report.figure("kills survived by the move", followed.kills, "");
    report.check(followed.kills == 1, || {
        "no worker was killed during the move".to_owned()
    });
    report.check(row.rewriting.balances(), || {
        "the move's counts do not sum to the rows scanned".to_owned()
    });
    let good = format!("{} is {} now", request.source(), request.destination());
    let said = row.verdict.as_deref().unwrap_or("none");
    report.check(said.starts_with(&good), || {
        format!("the move's verdict is: {said}")
    });
    let count = async |channel: &ChannelId| {
        let (store, clock) = (scene.store.clone(), scene.clock.clone());
        let channel = Some(channel.clone());
        let scan = Scan::new(store, clock, None, scene.org.clone(), channel).await?;
        let found = scan.at_all_replicas().run(|_| {}).await?;
        Ok::<_, DemoError>(found.cells - found.expired)
    };
    let left = count(&request.from.channel).await?;
    let there = count(&request.to.channel).await?;
    report.figure(
        "messages in the moved channel",
        there,
        format!("{} are left in its old place", number(left)),
    );
    report.check(left == 0 && there > 0, || {
        format!("{left} messages are in the old place, {there} in the new one")
    });
    Ok(())
}

fn verdict_is_good(row: &JobRow, scene: &Scene) -> bool {
    let good = format!("no live cell or key needs {}", scene.old);
    row.verdict.as_ref().is_some_and(|v| v.starts_with(&good))
}

/// How long the job was in its states.
async fn times(scene: &Scene, job: JobId) -> Result<Vec<(&'static str, Duration)>, DemoError> {
    let history = scene.book.history(&scene.org, job).await?;
    let mut times: Vec<(&'static str, Duration)> = Vec::new();
    for pair in history.windows(2) {
        let part = match pair[0].to {
            JobState::Settling => "settle",
            JobState::Rewriting => "rewrite",
            JobState::Verifying => "verify",
            JobState::Draining => "drain",
            _ => continue,
        };
        let time = Duration::from_millis(pair[1].at_ms.saturating_sub(pair[0].at_ms));
        match times.iter_mut().find(|(name, _)| *name == part) {
            Some((_, sum)) => *sum += time,
            None => times.push((part, time)),
        }
    }
    Ok(times)
}

/// Rows that the workers sealed, as they noted it themselves before each batch.
fn sealed(path: &Path) -> Result<u64, DemoError> {
    let text = std::fs::read_to_string(path).map_err(|e| DemoError::io("read", path, e))?;
    let rows = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
    Ok(text.lines().filter_map(rows).sum())
}

/// Counts what CMK each stored message depends on.
pub(super) async fn scan(
    report: &mut Report,
    scene: &Scene,
    show: &mut Show,
) -> Result<(), DemoError> {
    show.step("PROOF", "a scan of its own looks at every stored message");
    // Without a KMS: it goes by the stored bytes alone. That everything opens
    // is for the readers below to show.
    let scan = Scan::new(
        scene.store.clone(),
        scene.clock.clone(),
        None,
        scene.org.clone(),
        None,
    );
    let mut seen = |so_far: &Found| {
        show.live(&format!(
            "{} seen",
            count(so_far.cells, "message", "messages")
        ))
    };
    let found = scan.await?.at_all_replicas().run(&mut seen).await?;
    let (left, moved) = (found.cells_under(&scene.old), found.cells_under(&scene.new));
    show.note(&format!(
        "{} under the new CMK, {} under the old one",
        number(moved),
        number(left)
    ));
    report.figure(
        "messages under the old CMK",
        left,
        format!("{} are under the new one", number(moved)),
    );
    report.check(left == 0, || {
        format!(
            "{} still need the old CMK",
            count(left, "message", "messages")
        )
    });
    report.check(found.is_whole(), || {
        format!("the scan found bad cells: {:?}", found.quarantined)
    });
    // Every live cell is under one of the two, or nothing is proven.
    report.check(
        moved > 0 && moved + left + found.expired == found.cells,
        || format!("of {} cells, some are under no CMK known here", found.cells),
    );
    Ok(())
}

/// Ends the traffic, and tells what its reads saw.
pub(super) async fn traffic(
    report: &mut Report,
    traffic: Traffic,
    show: &mut Show,
) -> Result<(), DemoError> {
    let ended = traffic
        .stop()
        .await
        .map_err(|e| DemoError::io("write", Path::new("the ledger"), e))?;
    let total: u64 = ended.counts.done.values().sum();
    show.note(&format!(
        "live traffic ends after {}; {} of its reads saw what they should not",
        count(total, "operation", "operations"),
        number(ended.counts.violations),
    ));
    if !ended.counts.errors.is_empty() {
        show.detail(&format!(
            "errors it was given, and the ledger reckons with: {}",
            by_code(&ended.counts.errors)
        ));
    }
    report.check(ended.counts.violations == 0, || {
        let mut text = format!("{} in live reads", number(ended.counts.violations));
        for violation in ended.violations.iter().take(5) {
            text += &format!("\n    {violation}");
        }
        text
    });
    Ok(())
}

/// Reads everything and compares it with the ledger.
pub(super) async fn ledger(
    report: &mut Report,
    scene: &Scene,
    client: Client,
    ledger: &Arc<Ledger>,
    show: &mut Show,
) -> Result<(), DemoError> {
    let reader = Reader {
        client,
        ledger: ledger.clone(),
        clock: scene.clock.clone(),
        why: Use::new(ReasonCode::MessageRead, "demo check"),
    };
    let mut seen = |n| show.live(&format!("{} read", count(n, "message", "messages")));
    let found = reader.everything(&mut seen).await?;
    let read = found.present + found.absent;
    let wrong = found.violations.iter().count() as u64;
    show.note(&format!(
        "{} compared with the ledger: {} there, {} deleted or vanished, {} wrong",
        count(read, "message", "messages"),
        number(found.present),
        number(found.absent),
        number(wrong),
    ));
    report.figure(
        "compared with the ledger",
        read,
        format!(
            "{} lost, {} revived, {} overwritten, {} undecryptable",
            found.violations.lost.len(),
            found.violations.revived.len(),
            found.violations.overwritten.len() + found.violations.torn.len(),
            found.violations.undecryptable.len()
        ),
    );
    report.check_read("after the rekey", &found);
    Ok(())
}

/// Disables the old CMK, and reads everything once more without any cached key.
pub(super) async fn without_old(
    report: &mut Report,
    scene: &Scene,
    ledger: &Arc<Ledger>,
    show: &mut Show,
) -> Result<(), DemoError> {
    scene.ring.disable(&scene.old)?;
    let app: Part = scene.part(APP).await?;
    let why = Use::new(ReasonCode::MessageRead, "demo check, old CMK disabled");
    let scope = Scope::Canary {
        org: scene.org.clone(),
    };
    let refused = app
        .kms
        .generate_data_key(&scene.old, &scope, &why)
        .await
        .err();
    let words = match &refused {
        Some(error) => format!("the KMS now refuses it ({})", error.code),
        None => "THE KMS STILL ANSWERS FOR IT".to_owned(),
    };
    show.step("DISABLE", &format!("the old CMK is disabled; {words}"));
    report.check(refused.is_some(), || {
        "the KMS still answers for the disabled CMK".to_owned()
    });
    let reader = Reader {
        client: scene.client(&app).await?,
        ledger: ledger.clone(),
        clock: scene.clock.clone(),
        why,
    };
    let mut seen = |n| show.live(&format!("{} read again", count(n, "message", "messages")));
    let found = reader.everything(&mut seen).await?;
    show.note(&format!(
        "{} read again by a new client with no cached key",
        count(found.present, "message", "messages"),
    ));
    report.figure(
        "read with the old CMK disabled",
        found.present,
        format!(
            "{} refused, {} wrong",
            number(found.refused.values().sum()),
            number(found.violations.iter().count() as u64)
        ),
    );
    report.check_read("with the old CMK disabled", &found);
    app.audit.close().await?;
    Ok(())
}

/// Verifies every chain of the audit log, and that the workers' chains reach as
/// far as the jobs' ends say they do.
pub(super) async fn audit_log(
    report: &mut Report,
    scene: &Scene,
    jobs: &[&JobRow],
    show: &mut Show,
) -> Result<(), DemoError> {
    show.live("verifying the audit log");
    let heads: Result<Vec<audit::Head>, String> = jobs
        .iter()
        .flat_map(|job| job.streams.iter().cloned())
        .map(TryInto::try_into)
        .collect();
    report.check(heads.is_ok(), || {
        "the job names an audit stream in a way that is not understood".to_owned()
    });
    let heads = heads.unwrap_or_default();
    let dir = scene.config.audit.dir.clone();
    let verified = tokio::task::spawn_blocking(move || {
        audit::verify(&dir, &heads).map_err(|e| DemoError::io("read", &dir, e))
    });
    let found = verified
        .await
        .map_err(|e| DemoError::Task(e.to_string()))??;
    let records: u64 = found.streams.iter().map(|stream| stream.records).sum();
    let open = found
        .streams
        .iter()
        .filter(|stream| stream.ending == audit::Ending::Open)
        .count() as u64;
    let streams = found.streams.len() as u64;
    let state = if found.is_intact() {
        "intact"
    } else {
        "BROKEN"
    };
    let ends = match open {
        0 => "each ended in order".to_owned(),
        _ => format!("{} without an end, as a kill leaves it", number(open)),
    };
    show.step(
        "AUDIT",
        &format!(
            "{} in {}, every chain {state}; {ends}",
            count(records, "record", "records"),
            count(streams, "stream", "streams")
        ),
    );
    report.figure("audit records", records, format!("every chain {state}"));
    report.check(found.is_intact(), || {
        let broken = found
            .streams
            .iter()
            .find_map(|s| Some(format!("{}: {}", s.file.display(), s.broken.as_ref()?)));
        format!(
            "the audit log does not verify: {}",
            broken.unwrap_or_else(|| format!("{} streams are missing", found.missing.len()))
        )
    });
    Ok(())
}
