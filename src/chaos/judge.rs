//! Holds what is there against the ledger and the guarantees: after each round,
//! and of everything at the end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::asks::Asked;
use super::figures::Report;
use super::script::{Ail, Round};
use super::stage::{Stage, patiently};
use super::storm::ended_well;
use super::{Options, figures::Figures};
use crate::audit;
use crate::client::Client;
use crate::demo::ledger::Violations;
use crate::demo::run::DemoError;
use crate::demo::run::read::Reader;
use crate::demo::run::scene::{APP, Part, Scene};
use crate::ids::ChannelId;
use crate::job::{JobRow, Mode};
use crate::kms::{ReasonCode, Use};
use crate::verify::{Found, Scan};

/// Rows that a worker seals and writes at a time: what one death may cost in each
/// slice that is in flight.
const BATCH_ROWS: u64 = 100;
/// How long the traffic may take to show that it goes on.
const GOES_ON: Duration = Duration::from_secs(60);

/// After a round: its jobs, its rework, old keys, old places.
pub(super) async fn round(
    stage: &mut Stage,
    n: usize,
    round: &Round,
    jobs: &[Asked],
) -> Result<(), DemoError> {
    for asked in jobs {
        let Some(row) = &asked.row else { continue };
        job(&mut stage.report, row);
        if !ended_well(row) {
            continue;
        }
        if let (Some(activated), Some(_), Mode::Reencrypt) =
            (&row.activated, row.request.rekey(), row.mode())
        {
            stage.oldest = stage.oldest.max(Some(activated.epoch));
        }
        stage.ended.push(row.clone());
    }
    rework(stage, n, round, jobs)?;
    for asked in jobs {
        let row = asked.row.as_ref().filter(|row| ended_well(row));
        if let (Some((channel, copy)), Some(row)) = (asked.moves, row)
            && let Some(request) = row.request.channel_move()
        {
            if copy {
                old_place(stage, &request.from.channel).await?;
            }
            stage.channels[channel].now = request.destination();
        }
    }
    if stage.report.figures.stuck == 0 {
        old_keys(stage).await?;
    }
    Ok(())
}

/// A job at its end.
fn job(report: &mut Report, row: &JobRow) {
    let name = format!("job {} ({})", row.request.job_id(), row.request.what());
    if row.state.is_final() && !ended_well(row) {
        report.figures.stuck += 1;
        report.wrong(format!("{name} is {}: {}", row.state, row.why));
        return;
    }
    if !row.state.is_final() {
        return;
    }
    if !row.rewriting.balances() || !row.proof.balances() {
        report.other(format!(
            "{name}: the counts do not sum to the rows scanned: {:?}, {:?}",
            row.rewriting, row.proof
        ));
    }
    let verdict = row.verdict.as_deref().unwrap_or("none");
    let good = match (row.request.rekey(), row.request.channel_move()) {
        (Some(_), _) => verdict.starts_with("no live cell or key needs "),
        (_, Some(request)) => {
            let now = format!("{} is {} now", request.source(), request.destination());
            verdict.starts_with(&now) && row.copy.as_ref().is_none_or(|c| c.left_behind == 0)
        }
        _ => false,
    };
    if !good {
        report.other(format!("{name} ended with the verdict: {verdict}"));
    }
}

/// A death costs at most one batch in each slice that was in flight.
fn rework(stage: &mut Stage, n: usize, round: &Round, jobs: &[Asked]) -> Result<(), DemoError> {
    let Some(path) = stage.witness(n) else {
        return Ok(());
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Nobody sealed anything in a round of rewraps.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(DemoError::io("read", &path, e)),
    };
    let _ = std::fs::remove_file(&path);
    // A channel goes by several names; the ledger knows it by the first.
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for channel in &stage.channels {
        let name = channel.first.to_string();
        first.insert(channel.now.channel.to_string(), name.clone());
    }
    for asked in jobs {
        if let (Some((channel, _)), Some(request)) = (asked.moves, asked.message.channel_move()) {
            let name = stage.channels[channel].first.to_string();
            first.insert(request.to.channel.to_string(), name);
        }
    }
    let sealed = sealed(&text, &first);
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    for name in stage.ledger.names() {
        *rows
            .entry(format!("{}/{}", name.channel, name.hour))
            .or_default() += 1;
    }
    let all = jobs
        .iter()
        .filter(|asked| asked.moves.is_none() && asked.message.mode() == Mode::Reencrypt)
        .count() as u64;
    let finds: u64 = jobs
        .iter()
        .filter_map(|asked| asked.row.as_ref())
        .map(|row| row.effort.finds)
        .sum();
    let deaths = interruptions(round);
    for (slice, sealed) in sealed {
        let (channel, _) = slice.split_once('/').unwrap_or((&slice, ""));
        let moves = jobs.iter().filter_map(|asked| asked.moves);
        let moves: u64 = moves
            .filter(|(n, _)| stage.channels[*n].first.as_str() == channel)
            // A copy goes through all of it twice.
            .map(|(_, copy)| if copy { 2 } else { 1 })
            .sum();
        let there = rows.get(&slice).copied().unwrap_or(0);
        let again = sealed.saturating_sub(there * (all + moves) + finds);
        let bound = deaths * there.min(BATCH_ROWS) * (all + moves).max(1);
        let figures = &mut stage.report.figures;
        figures.rework_rows = figures.rework_rows.map(|n| n + again);
        if again > bound {
            figures.rework_excess += 1;
            stage.report.wrong(format!(
                "round {n}: {slice}: {sealed} rows sealed for {there}, {again} in vain after {deaths} interruptions",
            ));
        }
    }
    Ok(())
}

/// Rows sealed in each slice, by the first name of its channel.
fn sealed(witness: &str, first: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let mut sealed = BTreeMap::new();
    for line in witness.lines() {
        let Some((slice, rows)) = line.rsplit_once(' ') else {
            continue;
        };
        let (channel, hour) = slice.split_once('/').unwrap_or((slice, ""));
        let channel = first.get(channel).map_or(channel, String::as_str);
        *sealed.entry(format!("{channel}/{hour}")).or_default() += rows.parse().unwrap_or(0);
    }
    sealed
}

/// Whatever may make a worker do a batch in vain: deaths, zombies, full disks.
fn interruptions(round: &Round) -> u64 {
    let ails = round.workers.iter();
    let ails = ails.filter(|ail| !matches!(ail, Ail::Well)).count();
    (ails + round.events.len()) as u64
}

/// No live row is under a key that the finished jobs led away from.
async fn old_keys(stage: &mut Stage) -> Result<(), DemoError> {
    let scene = &stage.scene;
    let active = patiently(async || Ok(scene.registry.org(&scene.org).await?.cmk)).await?;
    let found = scan(scene, None).await?;
    let report = &mut stage.report;
    for (cmk, under) in &found.by_cmk {
        if *cmk != active && under.cells > 0 {
            report.figures.old_key_rows += under.cells;
            report.wrong(format!("{} live rows are under {cmk}", under.cells));
        }
    }
    for (epoch, cells) in &found.by_epoch {
        if stage.oldest.is_some_and(|oldest| *epoch < oldest.get()) {
            report.figures.old_key_rows += cells;
            report.wrong(format!("{cells} live rows are of the old epoch {epoch}"));
        }
    }
    for (code, wrong) in found.quarantined.iter().chain(&found.blocked) {
        report.figures.undecryptable += wrong.cells;
        report.wrong(format!(
            "the scan found {} rows with {code}: {:?}",
            wrong.cells, wrong.examples
        ));
    }
    Ok(())
}

/// Reads every row of the organization or of a channel, on every replica, by the
/// stored bytes alone.
async fn scan(scene: &Scene, channel: Option<&ChannelId>) -> Result<Found, DemoError> {
    patiently(async || {
        let (store, clock) = (scene.store.clone(), scene.clock.clone());
        let scan = Scan::new(store, clock, None, scene.org.clone(), channel.cloned());
        Ok(scan.await?.at_all_replicas().run(|_| {}).await?)
    })
    .await
}

/// Nothing that lives is left in the place that a copy came from.
async fn old_place(stage: &mut Stage, channel: &ChannelId) -> Result<(), DemoError> {
    let scene = &stage.scene;
    let found = scan(scene, Some(channel)).await?;
    let live = found.cells - found.expired;
    if live > 0 {
        stage.report.other(format!(
            "{live} live rows are left in the old place of {channel}"
        ));
    }
    Ok(())
}

/// At the end: everything is read by a client that has cached nothing, with the
/// CMKs disabled that are not needed, and compared with the ledger.
pub(super) async fn end(
    mut stage: Stage,
    options: &Options,
    say: &mut dyn FnMut(&str),
) -> Result<Report, DemoError> {
    if let Some(traffic) = stage.traffic.take() {
        let before: u64 = traffic.counts().done.values().sum();
        let more = tokio::time::timeout(GOES_ON, traffic.reached(before + 20)).await;
        if more.is_err() {
            stage
                .report
                .other("the traffic did not go on after the jobs");
        }
        let ended = traffic.stop().await;
        let ended = ended.map_err(|e| DemoError::io("write", Path::new("the ledger"), e))?;
        let figures = &mut stage.report.figures;
        figures.operations = ended.counts.done.values().sum();
        figures.traffic_errors = ended.counts.errors;
        let mut seen = Violations::default();
        for violation in ended.violations {
            seen.push(violation);
        }
        stage.report.judged("a live read", &seen);
    }
    stage.app.audit.close().await?;
    stage.operator.audit.close().await?;
    hold(options, say).await;
    let scene = stage.scene.clone();
    let all_well = stage.report.figures.stuck == 0;
    if all_well {
        old_keys(&mut stage).await?;
        let active = patiently(async || Ok(scene.registry.org(&scene.org).await?.cmk)).await?;
        for cmk in stage.cmks.iter().filter(|cmk| **cmk != active) {
            scene.ring.disable(cmk)?;
        }
    }
    let app: Part = scene.part(APP).await?;
    let client = scene.client(&app).await?;
    compare(&mut stage, client).await?;
    app.audit.close().await?;
    audit_log(&mut stage).await?;
    Ok(stage.report)
}

/// Waits for a file, where a test wants to spoil something first.
async fn hold(options: &Options, say: &mut dyn FnMut(&str)) {
    let Some(file) = &options.hold else { return };
    say(&format!("waiting for {}", file.display()));
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Compares everything with the ledger.
async fn compare(stage: &mut Stage, client: Client) -> Result<(), DemoError> {
    let reader = Reader {
        client,
        ledger: stage.ledger.clone(),
        clock: stage.scene.clock.clone(),
        why: Use::new(ReasonCode::Verify, "chaos: read back"),
    };
    let found = reader.everything(&mut |_| {}).await?;
    let report = &mut stage.report;
    report.figures.compared = found.present + found.absent;
    report.figures.present = found.present;
    report.judged("at the end", &found.violations);
    for (code, n) in &found.refused {
        report.figures.undecryptable += n;
        report.wrong(format!("at the end: {n} messages are refused: {code}"));
    }
    if stage.report.figures.present == 0 {
        stage
            .report
            .other("no message was found, so nothing is proven");
    }
    Ok(())
}

/// Verifies every chain of the audit log, and that they reach as far as the jobs
/// say.
async fn audit_log(stage: &mut Stage) -> Result<(), DemoError> {
    let streams: Vec<_> = stage
        .ended
        .iter()
        .flat_map(|job| job.streams.iter().cloned())
        .collect();
    let mut heads: Vec<audit::Head> = Vec::new();
    for stream in streams {
        match stream.try_into() {
            Ok(head) => heads.push(head),
            // Left out, its missing file would not show.
            Err(error) => {
                let error: String = error;
                stage
                    .report
                    .other(format!("a job names an audit stream wrongly: {error}"));
            }
        }
    }
    let dir = stage.scene.config.audit.dir.clone();
    let verified = tokio::task::spawn_blocking(move || {
        audit::verify(&dir, &heads).map_err(|e| DemoError::io("read", &dir, e))
    });
    let found = verified
        .await
        .map_err(|e| DemoError::Task(e.to_string()))??;
    let Figures { audit_records, .. } = &mut stage.report.figures;
    *audit_records = found.streams.iter().map(|stream| stream.records).sum();
    if !found.is_intact() {
        let broken = found
            .streams
            .iter()
            .find_map(|s| Some(format!("{}: {}", s.file.display(), s.broken.as_ref()?)));
        stage.report.other(format!(
            "the audit log does not verify: {}",
            broken.unwrap_or_else(|| format!("{} streams are missing", found.missing.len()))
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_counted_under_the_first_name() {
        let witness = "a/2019-01-01T00 3\ncopy-1/2019-01-01T00 4\nb/2019-01-01T01 5\n";
        let first = [("copy-1".to_owned(), "a".to_owned())].into();
        let sealed = sealed(witness, &first);
        let expected = [("a/2019-01-01T00", 7), ("b/2019-01-01T01", 5)];
        let expected = expected.map(|(slice, n)| (slice.to_owned(), n));
        assert_eq!(sealed, expected.into());
    }
}
