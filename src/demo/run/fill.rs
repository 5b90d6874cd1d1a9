//! The messages that are there before the rekey: generated, or from a Slack
//! export. Each is entered in the ledger, and goes in as an import's would.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::DemoError;
use super::scene::{IMPORTER, Scene};
use crate::demo::generate::Recipe;
use crate::demo::ledger::{Ledger, MessageName, TextId};
use crate::demo::traffic::Target;
use crate::ids::{ChannelId, Hour, OrgId, WorkspaceId};
use crate::import::load::{Load, LoadError, LoadMessage, Loader};
use crate::import::{ImportReport, Imported, ImportedMessage, slack};
use crate::wiring;

/// Messages between the maker and the loader.
const WAITING: usize = 1024;
/// Messages between two reports of progress.
const TELL_EVERY: u64 = 2000;

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

    /// Where live traffic writes: so many of the channels, in so many of the hours
    /// of each and in this one.
    ///
    /// # Errors
    /// If the clock shows no hour.
    pub fn targets(
        &self,
        scene: &Scene,
        channels: usize,
        hours_each: usize,
    ) -> Result<Vec<Target>, DemoError> {
        let now_s = u64::try_from(scene.clock.wall().unix_seconds()).unwrap_or(0);
        let this_hour = Hour::of_unix_seconds(now_s)?;
        let targets = self.slices.iter().take(channels);
        let targets = targets.map(|(channel, hours)| Target {
            org: scene.org.clone(),
            workspace: scene.workspace.clone(),
            channel: channel.clone(),
            hours: hours
                .iter()
                .copied()
                .take(hours_each)
                .chain([this_hour])
                .collect(),
        });
        Ok(targets.collect())
    }
}

/// Generates messages and writes them.
///
/// # Errors
/// If they cannot be written.
pub async fn generated(
    scene: &Scene,
    ledger: &Arc<Ledger>,
    recipe: Recipe,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let make = move |feed: &mut Feed| {
        for made in recipe.messages() {
            if feed.give(made.message, made.expiry_s)?.is_break() {
                break;
            }
        }
        Ok(None)
    };
    load(scene, ledger, make, seen).await
}

/// Reads a Slack export and writes its messages.
///
/// # Errors
/// If it is none, or they cannot be written.
pub async fn slack_export(
    scene: &Scene,
    ledger: &Arc<Ledger>,
    path: &Path,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let (path, now) = (path.to_owned(), scene.clock.wall());
    let make = move |feed: &mut Feed| {
        let mut source = slack::open(&path)?;
        let mut failed = None;
        let mut take = |imported| match imported {
            Imported::DayDone(_) => ControlFlow::Continue(()),
            Imported::Message(message) => feed.give(message, None).unwrap_or_else(|error| {
                failed = Some(error);
                ControlFlow::Break(())
            }),
        };
        let report = slack::read(source.as_mut(), now, None, &mut take)?;
        match failed {
            Some(error) => Err(error),
            None => Ok(Some(report)),
        }
    };
    load(scene, ledger, make, seen).await
}

/// Makes messages on a thread of their own, and writes them as they come.
async fn load(
    scene: &Scene,
    ledger: &Arc<Ledger>,
    make: impl FnOnce(&mut Feed) -> Result<Option<ImportReport>, DemoError> + Send + 'static,
    seen: &mut dyn FnMut(u64),
) -> Result<Filled, DemoError> {
    let part = scene.part(IMPORTER).await?;
    let loader = Loader::new(
        scene.store.clone(),
        scene.registry.clone(),
        part.kms.clone(),
        part.audit.clone(),
        scene.clock.clone(),
        wiring::provider(&scene.config),
        scene.org.clone(),
        scene.workspace.clone(),
    )
    .await?;
    let (out, mut waiting) = mpsc::channel(WAITING);
    let mut feed = Feed {
        out,
        ledger: ledger.clone(),
        org: scene.org.clone(),
        workspace: scene.workspace.clone(),
        given: 0,
        slices: BTreeMap::new(),
    };
    let making = tokio::task::spawn_blocking(move || {
        let report = make(&mut feed)?;
        Ok::<_, DemoError>((report, feed.slices))
    });
    let input = futures::stream::poll_fn(move |context| waiting.poll_recv(context));
    let reached = async |(), so_far: &crate::import::load::LoadReport| {
        seen(so_far.messages);
        Ok::<_, LoadError>(())
    };
    let loaded = loader.load(input, reached).await;
    let (report, slices) = making.await.map_err(|e| DemoError::Task(e.to_string()))??;
    let rows = loaded?.messages;
    part.audit.close().await?;
    Ok(Filled {
        rows,
        slices,
        report,
    })
}

/// Where made messages go.
struct Feed {
    out: mpsc::Sender<Load<()>>,
    ledger: Arc<Ledger>,
    org: OrgId,
    workspace: WorkspaceId,
    given: u64,
    slices: BTreeMap<ChannelId, BTreeSet<Hour>>,
}

impl Feed {
    /// Hands a message on. `Break` if nobody takes it: the loader has ended with
    /// an error that says why.
    fn give(
        &mut self,
        message: ImportedMessage,
        expiry_s: Option<u32>,
    ) -> Result<ControlFlow<()>, DemoError> {
        let name = MessageName {
            org: self.org.clone(),
            workspace: self.workspace.clone(),
            channel: message.channel.clone(),
            hour: message.hour,
            record: message.record.clone(),
        };
        let text = TextId::of(&message.json);
        self.ledger
            .loaded(&name, text, expiry_s.into(), message.write_time)
            .map_err(|e| DemoError::io("write", Path::new("the ledger"), e))?;
        let hours = self.slices.entry(name.channel).or_default();
        hours.insert(name.hour);
        let mut given = self
            .out
            .blocking_send(Load::Message(LoadMessage { message, expiry_s }));
        self.given += 1;
        if given.is_ok() && self.given.is_multiple_of(TELL_EVERY) {
            given = self.out.blocking_send(Load::Mark(()));
        }
        Ok(match given {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
    }
}
