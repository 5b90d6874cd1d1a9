//! The messages that are there before the rekey: generated, or from a Slack
//! export. Each is sealed as a writer would seal it, and entered in the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::DemoError;
use super::scene::{IMPORTER, Part, Scene};
use crate::crypto::{CellKey, KeyRowBody, NonceSource, cell, expiry};
use crate::demo::generate::Recipe;
use crate::demo::ledger::{Ledger, MessageName, TextId};
use crate::ids::{ChannelId, Hour};
use crate::import::{ImportReport, Imported, ImportedMessage, slack};
use crate::kms::{ReasonCode, Use};
use crate::registry::ChannelView;
use crate::scope::Locus;
use crate::store::{CellWrite, KeyRow, SliceKey};
use crate::wiring;

/// Slices under way at once: their durable writes share commits.
const SLICES_AT_ONCE: usize = 256;
/// Rows written with one statement.
const BATCH_ROWS: usize = 100;

/// What was loaded.
#[derive(Default)]
pub struct Filled {
    /// Messages written.
    pub rows: u64,
    /// The hours of each channel.
    pub slices: BTreeMap<ChannelId, BTreeSet<Hour>>,
    /// What a reader of a Slack export could not read.
    pub report: Option<ImportReport>,
}

impl Filled {
    /// Slices in all.
    pub fn slice_count(&self) -> u64 {
        self.slices.values().map(|hours| hours.len() as u64).sum()
    }
}

/// A run of messages of one slice.
struct Run {
    channel: ChannelId,
    hour: Hour,
    messages: Vec<(ImportedMessage, Option<u32>)>,
}

/// Generates messages and writes them.
///
/// # Errors
/// If they cannot be written.
pub async fn generated(
    scene: &Arc<Scene>,
    ledger: &Arc<Ledger>,
    recipe: Recipe,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let (out, runs) = mpsc::channel(SLICES_AT_ONCE);
    let making = tokio::task::spawn_blocking(move || {
        for slice in recipe.plan() {
            let run = Run {
                channel: slice.channel(),
                hour: slice.hour(),
                messages: slice
                    .messages(&recipe)
                    .map(|made| (made.message, made.expiry_s))
                    .collect(),
            };
            // The writer went away with an error that says more.
            if out.blocking_send(run).is_err() {
                return;
            }
        }
    });
    let filled = write_all(scene, ledger, runs, seen).await?;
    making.await.map_err(|e| DemoError::Task(e.to_string()))?;
    Ok(filled)
}

/// Reads a Slack export and writes its messages.
///
/// # Errors
/// If it is none, or they cannot be written.
pub async fn slack_export(
    scene: &Arc<Scene>,
    ledger: &Arc<Ledger>,
    path: &Path,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let (out, runs) = mpsc::channel(SLICES_AT_ONCE);
    let (path, now) = (path.to_owned(), scene.clock.wall());
    let reading = tokio::task::spawn_blocking(move || {
        let mut source = slack::open(&path)?;
        let mut run: Option<Run> = None;
        let mut take = |imported| {
            let Imported::Message(message) = imported else {
                return ControlFlow::Continue(());
            };
            match &mut run {
                Some(run) if run.channel == message.channel && run.hour == message.hour => {
                    run.messages.push((message, None));
                }
                _ => {
                    let next = Run {
                        channel: message.channel.clone(),
                        hour: message.hour,
                        messages: vec![(message, None)],
                    };
                    if let Some(full) = run.replace(next)
                        && out.blocking_send(full).is_err()
                    {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        };
        let report = slack::read(source.as_mut(), now, None, &mut take)?;
        if let Some(last) = run {
            // As above: the writer's own error says more.
            let _ = out.blocking_send(last);
        }
        Ok::<_, DemoError>(report)
    });
    let filled = write_all(scene, ledger, runs, seen).await;
    let report = reading
        .await
        .map_err(|e| DemoError::Task(e.to_string()))??;
    Ok(Filled {
        report: Some(report),
        ..filled?
    })
}

async fn write_all(
    scene: &Arc<Scene>,
    ledger: &Arc<Ledger>,
    mut runs: mpsc::Receiver<Run>,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let part = Arc::new(scene.part(IMPORTER)?);
    let mut filled = Filled::default();
    let mut views: BTreeMap<ChannelId, Arc<ChannelView>> = BTreeMap::new();
    let mut writing: JoinSet<Result<u64, DemoError>> = JoinSet::new();
    let mut more = true;
    while more || !writing.is_empty() {
        tokio::select! {
            run = runs.recv(), if more && writing.len() < SLICES_AT_ONCE => {
                let Some(run) = run else {
                    more = false;
                    continue;
                };
                let view = match views.get(&run.channel) {
                    Some(view) => view.clone(),
                    None => {
                        let entered = scene
                            .registry
                            .ensure_channel(&scene.org, &scene.workspace, &run.channel)
                            .await?;
                        let view = Arc::new(entered);
                        views.insert(run.channel.clone(), view.clone());
                        view
                    }
                };
                filled.slices.entry(run.channel.clone()).or_default().insert(run.hour);
                let (scene, part, ledger) = (scene.clone(), part.clone(), ledger.clone());
                writing.spawn(async move { write(&scene, &part, &ledger, &view, run).await });
            }
            Some(written) = writing.join_next(), if !writing.is_empty() => {
                filled.rows += written.map_err(|e| DemoError::Task(e.to_string()))??;
                seen(filled.rows);
            }
        }
    }
    part.audit.close().await?;
    Ok(filled)
}

/// Makes a data key for the slice, seals its messages and writes them.
async fn write(
    scene: &Scene,
    part: &Part,
    ledger: &Ledger,
    view: &ChannelView,
    run: Run,
) -> Result<u64, DemoError> {
    let (desired, scope) = (view.desired(), view.scope(run.hour));
    let why = Use::new(ReasonCode::Import, "demo");
    let made = part
        .kms
        .generate_data_key(&desired.cmk, &scope, &why)
        .await?;
    let key = CellKey::derive(made.dek, &scope);
    let body = KeyRowBody {
        wrap_epoch: desired.wrap_epoch,
        provider: wiring::PROVIDER,
        commitment: key.commitment().clone(),
        created_ms: scene.clock.wall().unix_ms(),
        cmk: made.wrapped.cmk,
        key_material_id: made.wrapped.key_material_id,
        scope,
        wrapped: made.wrapped.bytes,
    };
    let row = KeyRow {
        key_id: key.key_id(),
        wrap_epoch: desired.wrap_epoch,
        row: body.encode()?,
    };
    let slice = SliceKey::messages(&scene.org, &run.channel, run.hour);
    // I11: the key row is durable before any cell that names it.
    scene.store.insert_key(&slice, &row).await?;
    let mut nonces = NonceSource::new();
    let mut writes = Vec::with_capacity(run.messages.len());
    for (message, expiry_s) in &run.messages {
        let locus = Locus::Message {
            org: &scene.org,
            channel: &run.channel,
            record: &message.record,
        };
        let now = scene.clock.wall();
        let sealed = cell::seal(
            &key,
            desired.cell_epoch,
            *expiry_s,
            &nonces.next(),
            &locus,
            &message.json,
        )?;
        let ttl_s = expiry_s.map_or(Some(0), |at| {
            expiry::store_ttl(at, desired.cell_epoch, None, now)
        });
        // What expires before it is written need not be.
        let Some(ttl_s) = ttl_s else { continue };
        writes.push(CellWrite {
            record: message.record.clone(),
            cell: sealed,
            write_time: message.write_time,
            ttl_s,
        });
        let name = MessageName {
            org: scene.org.clone(),
            workspace: scene.workspace.clone(),
            channel: run.channel.clone(),
            hour: run.hour,
            record: message.record.clone(),
        };
        let text = TextId::of(&message.json);
        ledger
            .loaded(&name, text, (*expiry_s).into(), message.write_time)
            .map_err(|e| DemoError::io("write", Path::new("the ledger"), e))?;
    }
    let partition = view.partition(run.hour);
    for batch in writes.chunks(BATCH_ROWS) {
        scene.store.write_cells(&partition, batch).await?;
    }
    Ok(writes.len() as u64)
}
