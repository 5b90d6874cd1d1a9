//! The jobs of a round, as messages.

use super::script::{Job, Round};
use super::stage::{Stage, patiently};
use crate::demo::run::DemoError;
use crate::demo::run::scene::OPERATOR;
use crate::ids::{ChannelId, CmkArn, JobId, WorkspaceId};
use crate::job::{Cause, JobMessage, JobRow, Mode, MoveFrom, MoveRequest, MoveTo, RekeyRequest};
use crate::registry::ChannelName;

/// A job of a round.
pub(super) struct Asked {
    pub message: JobMessage,
    /// Which channel it moves, and whether by a copy.
    pub moves: Option<(usize, bool)>,
    /// What stands of it.
    pub row: Option<JobRow>,
}

/// What is asked for. The CMKs it leads to are entered as targets.
pub(super) async fn requests(
    stage: &mut Stage,
    n: usize,
    round: &Round,
) -> Result<Vec<Asked>, DemoError> {
    let scene = stage.scene.clone();
    let active = patiently(async || Ok(scene.registry.org(&scene.org).await?.cmk)).await?;
    let at = stage.cmks.iter().position(|cmk| *cmk == active);
    let others = 1..stage.cmks.len();
    let next = others.map(|k| stage.cmks[(at.unwrap_or(0) + k) % stage.cmks.len()].clone());
    let mut next: std::vec::IntoIter<CmkArn> = next.collect::<Vec<_>>().into_iter();
    let mut jobs = Vec::new();
    for ask in &round.asks {
        let (kind, asked) = match ask.job {
            Job::Rekey { mode } => {
                let Some(to) = next.next() else { continue };
                patiently(async || scene.allow(&stage.operator, &to).await).await?;
                let kind = match mode {
                    Mode::Reencrypt => "reencrypt",
                    Mode::Rewrap => "rewrap",
                };
                (kind, rekey(stage, to, mode))
            }
            Job::MoveInPlace { channel } => {
                let channel = channel % stage.channels.len();
                let from = stage.channels[channel].now.clone();
                let to = ChannelName {
                    workspace: WorkspaceId::new(format!("place-{n}"))?,
                    ..from.clone()
                };
                ("move in place", channel_move(channel, false, &from, &to))
            }
            Job::Copy { channel } => {
                let channel = channel % stage.channels.len();
                let from = stage.channels[channel].now.clone();
                let to = ChannelName {
                    org: from.org.clone(),
                    workspace: WorkspaceId::new(format!("copy-{n}"))?,
                    channel: ChannelId::new(format!("copy-{n}"))?,
                };
                ("copy", channel_move(channel, true, &from, &to))
            }
        };
        let figures = &mut stage.report.figures;
        figures.jobs += 1;
        *figures.jobs_by_kind.entry(kind).or_default() += 1;
        jobs.push(asked);
    }
    Ok(jobs)
}

fn rekey(stage: &Stage, to: CmkArn, mode: Mode) -> Asked {
    Asked {
        message: JobMessage::Rekey(RekeyRequest {
            job_id: JobId::random(),
            org: stage.scene.org.clone(),
            from_cmk: None,
            to_cmk: to,
            mode,
            requested_by: OPERATOR.to_owned(),
            reason: "rekeyd chaos".to_owned(),
            cause: (mode == Mode::Rewrap).then_some(Cause::Scheduled),
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
            accept_lifted_denies: Vec::new(),
        }),
        moves: None,
        row: None,
    }
}

fn channel_move(channel: usize, copy: bool, from: &ChannelName, to: &ChannelName) -> Asked {
    Asked {
        message: JobMessage::Move(MoveRequest {
            job_id: JobId::random(),
            org: from.org.clone(),
            from: MoveFrom {
                workspace: from.workspace.clone(),
                channel: from.channel.clone(),
            },
            to: MoveTo {
                org: None,
                workspace: to.workspace.clone(),
                channel: to.channel.clone(),
            },
            requested_by: OPERATOR.to_owned(),
            reason: "rekeyd chaos".to_owned(),
            cause: None,
            not_before: None,
            not_after: None,
            window: None,
            priority: None,
            plan: None,
        }),
        moves: Some((channel, copy)),
        row: None,
    }
}
