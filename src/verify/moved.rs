//! Whether a channel's moves are at their end: every cell under the scope of
//! where it is now, none below the move's epoch, none left in a place it came
//! from. Read from the rows and cells alone; no job is asked.

use std::fmt;

use serde::Serialize;

use super::{EXAMPLES, Found, Place, Scan};
use crate::crypto::{Header, expiry};
use crate::ids::{ChannelId, JobId, OrgId, RecordId};
use crate::pipeline::TaskError;
use crate::pipeline::plan::SliceWalk;
use crate::registry::{ChannelName, ChannelRow, CopyPhase, Origin, RegistryError};
use crate::store::Partition;

/// A place that a channel was copied from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldPlace {
    /// The copy.
    pub job: JobId,
    /// The channel as it was named.
    pub from: ChannelName,
    /// How far that copy is, if the source's row still says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<CopyPhase>,
    /// Slices looked at.
    pub slices: u64,
    /// Cells that are still there and not past their expiry.
    pub live: u64,
    /// The first few of them.
    pub examples: Vec<Place>,
}

/// What a channel's row says of its moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Standing {
    /// It is where it was entered.
    NeverMoved,
    /// It came here by one move or several.
    Moved,
    /// It is being copied to another name.
    BeingCopied {
        /// To where.
        to: ChannelName,
        /// How far.
        phase: CopyPhase,
    },
    /// It has gone to another name.
    Gone {
        /// To where.
        to: ChannelName,
        /// How far.
        phase: CopyPhase,
    },
    /// It is the copy of another, which is not at its end.
    Arriving {
        /// The organization of the other.
        org: OrgId,
        /// The other.
        channel: ChannelId,
    },
}

/// What a scan of one channel says of its moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The channel as it is named now.
    pub channel: ChannelName,
    /// What its row says.
    pub standing: Standing,
    /// Live cells: to be held against what the application knows of.
    pub live: u64,
    /// Of these, cells under the scope of another workspace than the present.
    pub under_old_scope: u64,
    /// Of these, cells below the epoch of the channel's last move.
    pub below_epoch: u64,
    /// The places it came from.
    pub old_places: Vec<OldPlace>,
    /// Whether the moves are proven to be at their end; `None` where there is no
    /// move, or where nothing speaks against it but no cell was opened.
    pub proven: Option<bool>,
    /// What is not as it should be, in words.
    pub lacks: Vec<String>,
}

impl Scan {
    /// Holds what [`Scan::run`] found of a channel against the channel's row as
    /// it is now, and looks into the places it came from. `None` for a scan of a
    /// whole organization.
    ///
    /// # Errors
    /// If the store or the registry fails.
    pub async fn proof(&self, found: &Found) -> Result<Option<Proof>, TaskError> {
        let Some(channel) = &self.channel else {
            return Ok(None);
        };
        let row = self.registry.view(&self.org, channel).await?.channel_row;
        let mut old_places = Vec::with_capacity(row.came_from.len());
        for origin in &row.came_from {
            old_places.push(self.old_place(origin).await?);
        }
        let name = ChannelName {
            org: self.org.clone(),
            workspace: row.workspace.clone(),
            channel: channel.clone(),
        };
        Ok(Some(judge(
            name,
            &row,
            found,
            old_places,
            self.kms.is_some(),
        )))
    }

    async fn old_place(&self, origin: &Origin) -> Result<OldPlace, TaskError> {
        let from = &origin.from;
        let phase = match self.registry.view(&from.org, &from.channel).await {
            Ok(view) => view
                .channel_row
                .outgoing
                .filter(|outgoing| outgoing.job == origin.job)
                .map(|outgoing| outgoing.phase),
            Err(RegistryError::UnknownChannel { .. } | RegistryError::UnknownOrg(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let mut old = OldPlace {
            job: origin.job,
            from: from.clone(),
            phase,
            slices: 0,
            live: 0,
            examples: Vec::new(),
        };
        let mut walk = SliceWalk::new(
            self.store.clone(),
            self.registry.clone(),
            from.org.clone(),
            Some(from.channel.clone()),
            None,
        );
        while let Some(slice) = walk.next().await? {
            old.slices += 1;
            let partition = Partition {
                org: from.org.clone(),
                place: origin.place.clone(),
                hour: slice.hour,
            };
            let mut after: Option<RecordId> = None;
            loop {
                let page = self.page(&partition, after.as_ref()).await?;
                let now = self.clock.wall();
                let is_absent = |cell: &[u8]| {
                    Header::parse(cell)
                        .is_ok_and(|h| h.expiry.is_some_and(|at| expiry::is_expired(at, now)))
                };
                for cell in page.cells.into_iter().filter(|c| !is_absent(&c.cell)) {
                    old.live += 1;
                    if old.examples.len() < EXAMPLES {
                        old.examples.push(Place {
                            channel: slice.channel.clone(),
                            hour: slice.hour,
                            record: cell.record,
                        });
                    }
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(old)
    }
}

/// The judgement. Pure.
fn judge(
    channel: ChannelName,
    row: &ChannelRow,
    found: &Found,
    old_places: Vec<OldPlace>,
    opened: bool,
) -> Proof {
    let standing = standing(row);
    let live = found.cells - found.expired;
    let others = found.by_workspace.iter();
    let under_old_scope = others
        .filter(|(workspace, _)| **workspace != row.workspace)
        .map(|(_, n)| n)
        .sum();
    let below_epoch = found
        .by_epoch
        .range(..row.epoch.get())
        .map(|(_, n)| n)
        .sum();
    let mut lacks = Vec::new();
    match &standing {
        Standing::NeverMoved | Standing::Moved => {}
        Standing::BeingCopied { to, phase } => {
            lacks.push(format!("it is being copied to {to} (phase {phase})"));
        }
        Standing::Gone { to, phase } => lacks.push(format!(
            "it has gone to {to} (phase {phase}): ask for that channel"
        )),
        Standing::Arriving { org, channel } => lacks.push(format!(
            "it is the copy of {org}/{channel}, and clients still look there"
        )),
    }
    if under_old_scope > 0 {
        lacks.push(format!("{} under an old scope", cells(under_old_scope)));
    }
    if below_epoch > 0 {
        lacks.push(format!(
            "{} below epoch {} of the last move",
            cells(below_epoch),
            row.epoch
        ));
    }
    for old in &old_places {
        if old.live > 0 {
            let (n, from) = (cells(old.live), &old.from);
            lacks.push(format!("{n} in the old place of {from}"));
        }
        if let Some(phase) = old.phase.filter(|phase| *phase != CopyPhase::Closed) {
            lacks.push(format!("the copy of {} is in phase {phase}", old.from));
        }
    }
    let shut = live.saturating_sub(found.opened);
    if opened && shut > 0 {
        lacks.push(format!("{} not opened", cells(shut)));
    } else if !opened && !found.is_whole() {
        lacks.push("not every cell has a key that is allowed".to_owned());
    }
    let proven = match &standing {
        Standing::NeverMoved => None,
        _ if !lacks.is_empty() => Some(false),
        _ => opened.then_some(true),
    };
    Proof {
        channel,
        standing,
        live,
        under_old_scope,
        below_epoch,
        old_places,
        proven,
        lacks,
    }
}

fn standing(row: &ChannelRow) -> Standing {
    match (&row.incoming, &row.outgoing) {
        (Some(incoming), _) => Standing::Arriving {
            org: incoming.org.clone(),
            channel: incoming.channel.clone(),
        },
        (None, Some(out)) if out.phase < CopyPhase::Switched => Standing::BeingCopied {
            to: out.to.clone(),
            phase: out.phase,
        },
        (None, Some(out)) => Standing::Gone {
            to: out.to.clone(),
            phase: out.phase,
        },
        // Only a move gives a channel an epoch of its own.
        (None, None) if row.epoch > crate::epoch::Epoch::ZERO => Standing::Moved,
        (None, None) => Standing::NeverMoved,
    }
}

fn cells(n: u64) -> String {
    match n {
        1 => "1 cell".to_owned(),
        n => format!("{n} cells"),
    }
}

/// The one sentence.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (channel, live) = (&self.channel, self.live);
        match (self.proven, &self.standing) {
            (Some(true), _) => write!(
                f,
                "the move is proven: each of the {live} live cells of {channel} opens under its \
                 own scope, none is under an old one, and none is left in an old place"
            ),
            (Some(false), _) => {
                write!(
                    f,
                    "the move is not proven: {channel}: {}",
                    self.lacks.join("; ")
                )
            }
            (None, Standing::NeverMoved) => {
                write!(f, "{channel} never moved; it has {live} live cells")
            }
            (None, _) => write!(
                f,
                "nothing speaks against the move to {channel}, but none of its {live} live cells \
                 was opened"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::ids::{self, WorkspaceId};
    use crate::registry::{Incoming, Outgoing};

    fn name(text: &str) -> ChannelName {
        text.parse().unwrap()
    }

    fn workspace(id: &str) -> WorkspaceId {
        WorkspaceId::new(id).unwrap()
    }

    /// A channel that came to `w2` at epoch 4, with ten cells that open.
    fn moved() -> (ChannelRow, Found, OldPlace) {
        let job = JobId::random();
        let row = ChannelRow {
            workspace: workspace("w2"),
            place: ids::Place::random(),
            epoch: Epoch::new(4).unwrap(),
            floor: Epoch::ZERO,
            workspaces_had: vec![workspace("w1"), workspace("w2")],
            created_ms: 0,
            outgoing: None,
            incoming: None,
            came_from: vec![Origin {
                job,
                from: name("acme/w1/c1"),
                place: ids::Place::random(),
            }],
            places_had: Vec::new(),
        };
        let mut found = Found {
            cells: 12,
            expired: 2,
            opened: 10,
            ..Found::default()
        };
        found.by_epoch.insert(4, 10);
        found.by_workspace.insert(workspace("w2"), 10);
        let old = OldPlace {
            job,
            from: name("acme/w1/c1"),
            phase: Some(CopyPhase::Closed),
            slices: 3,
            live: 0,
            examples: Vec::new(),
        };
        (row, found, old)
    }

    fn judged(change: impl FnOnce(&mut ChannelRow, &mut Found, &mut OldPlace)) -> Proof {
        let (mut row, mut found, mut old) = moved();
        change(&mut row, &mut found, &mut old);
        judge(name("acme/w2/c2"), &row, &found, vec![old], true)
    }

    #[test]
    fn a_move_is_proven_only_if_nothing_is_left_anywhere() {
        type Change = fn(&mut ChannelRow, &mut Found, &mut OldPlace);
        let good = judged(|_, _, _| {});
        assert_eq!((good.proven, good.live), (Some(true), 10));
        assert!(
            good.to_string()
                .starts_with("the move is proven: each of the 10 live cells")
        );
        let cases: [(Change, &str); 9] = [
            (
                |_, f, _| {
                    f.by_workspace.insert(workspace("w1"), 1);
                },
                "1 cell under an old scope",
            ),
            (
                |_, f, _| {
                    f.by_epoch.insert(3, 2);
                },
                "2 cells below epoch 4",
            ),
            (
                |_, _, o| o.live = 2,
                "2 cells in the old place of acme/w1/c1",
            ),
            (
                |_, _, o| o.phase = Some(CopyPhase::Moved),
                "the copy of acme/w1/c1 is in phase moved",
            ),
            (|_, f, _| f.opened = 9, "1 cell not opened"),
            (
                |r, _, _| {
                    let phase = CopyPhase::Mirrored;
                    r.outgoing = Some(Outgoing {
                        job: JobId::random(),
                        phase,
                        to: name("acme/w3/c3"),
                    });
                },
                "it is being copied to acme/w3/c3 (phase mirrored)",
            ),
            (
                |r, _, _| {
                    let phase = CopyPhase::Closed;
                    r.outgoing = Some(Outgoing {
                        job: JobId::random(),
                        phase,
                        to: name("acme/w3/c3"),
                    });
                },
                "it has gone to acme/w3/c3 (phase closed): ask for that channel",
            ),
            (
                |r, _, _| {
                    let name = name("acme/w1/c1");
                    r.incoming = Some(Incoming {
                        job: JobId::random(),
                        org: name.org,
                        channel: name.channel,
                    });
                },
                "it is the copy of acme/c1",
            ),
            (
                |_, f, o| {
                    f.opened = 0;
                    o.live = 1;
                },
                "1 cell in the old place of acme/w1/c1; 10 cells not opened",
            ),
        ];
        for (change, says) in cases {
            let proof = judged(change);
            assert_eq!(proof.proven, Some(false), "{says}");
            assert!(proof.to_string().contains(says), "{proof}");
        }
        // An id that was left and came back by another copy: its old row is gone.
        assert_eq!(judged(|_, _, o| o.phase = None).proven, Some(true));
    }

    #[test]
    fn without_a_move_or_without_opening_nothing_is_claimed() {
        let (row, mut found, old) = moved();
        found.opened = 0;
        let unopened = judge(name("acme/w2/c2"), &row, &found, vec![old], false);
        assert_eq!(unopened.proven, None);
        assert!(
            unopened
                .to_string()
                .contains("none of its 10 live cells was opened")
        );
        let mut row = row;
        row.epoch = Epoch::ZERO;
        row.came_from.clear();
        row.workspaces_had.remove(0);
        found.opened = 10;
        let still = judge(name("acme/w2/c2"), &row, &found, Vec::new(), true);
        assert_eq!(still.proven, None);
        assert_eq!(
            still.to_string(),
            "acme/w2/c2 never moved; it has 10 live cells"
        );
    }
}
