//! From the name that an application has to the places of its records.
//!
//! A channel that has moved within its organization is followed to its present
//! name. To another organization the client goes only to finish what it has
//! begun here.

use std::sync::Arc;

use super::channel::Channel;
use super::error::ErrorKind;
use super::views::Known;
use crate::ids::Hour;
use crate::registry::{ChannelView, Places};
use crate::store::Partition;

/// Names followed one after another. Each is one copy that the channel has made,
/// and a channel makes few. Routes that were read at different moments can also
/// lead in a circle: a channel that has moved there and back.
const HOPS: usize = 64;

/// Which routes are believed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// One that was read within the status time.
    Lately,
    /// Only one whose read begins now.
    Now,
}

/// How far a name is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    /// The organization of the handle.
    Organization,
    /// Wherever it leads. A write that stands in the source must reach the
    /// destination before it is acknowledged, as it would have in `mirrored`.
    Everywhere,
}

impl Channel {
    /// Where the records are, by a route that has not run out.
    pub(super) async fn places(&self) -> Result<Arc<Places>, ErrorKind> {
        match self.follow(Read::Lately, Within::Organization).await {
            Ok(places) if !self.shared.views.ran_out(&places) => Ok(places),
            // A refusal is not believed from what was read a while ago, and what
            // leads in a circle was not read at one time.
            Err(kind) if !kind.may_be_of_an_old_view() && !matches!(kind, ErrorKind::Stale) => {
                Err(kind)
            }
            Ok(_) | Err(_) => self.fresh_places().await,
        }
    }

    /// Where they are by reads that begin now.
    pub(super) async fn fresh_places(&self) -> Result<Arc<Places>, ErrorKind> {
        self.follow(Read::Now, Within::Organization).await
    }

    /// The same for an operation of which something was sent.
    pub(super) async fn places_to_finish(&self) -> Result<Arc<Places>, ErrorKind> {
        self.follow(Read::Now, Within::Everywhere).await
    }

    /// After an acknowledgement: the newer route if the one that was followed ran
    /// out meanwhile and says something else.
    pub(super) async fn overtaken(
        &self,
        places: &Places,
    ) -> Result<Option<Arc<Places>>, ErrorKind> {
        if !self.shared.views.ran_out(places) {
            return Ok(None);
        }
        let newer = self.places_to_finish().await?;
        Ok((!newer.agree_with(places)).then_some(newer))
    }

    async fn follow(&self, read: Read, within: Within) -> Result<Arc<Places>, ErrorKind> {
        let mut name = (self.org.clone(), self.channel.clone());
        for hop in 0..=HOPS {
            let known = match read {
                Read::Lately => self.bounded(self.shared.views.current(&name)).await?,
                Read::Now => self.bounded(self.shared.views.fresh(&name)).await?,
            };
            match known {
                Known::Here(places) => {
                    // The workspace is part of the name asked for, not of the
                    // names that it leads to.
                    if hop == 0 {
                        self.check_workspace(&places.read)?;
                    }
                    return Ok(places);
                }
                Known::Moving(moving) => return Err(ErrorKind::Moving(moving)),
                Known::MovedTo(to) if to.org != self.org && within == Within::Organization => {
                    return Err(ErrorKind::MovedTo(Box::new(to)));
                }
                Known::MovedTo(to) => name = (to.org, to.channel),
            }
        }
        Err(ErrorKind::Stale)
    }

    /// A name from before a move still finds its channel.
    fn check_workspace(&self, view: &ChannelView) -> Result<(), ErrorKind> {
        if view.channel_row.workspaces_had.contains(&self.workspace) {
            return Ok(());
        }
        Err(ErrorKind::NotFound(format!(
            "channel `{}` of `{}` is not in workspace `{}`",
            self.channel, self.org, self.workspace
        )))
    }
}

/// Every place that an hour's records may be in. All of them are deleted from.
pub(super) fn all_places(places: &Places, hour: Hour) -> Vec<Partition> {
    places
        .delete
        .iter()
        .map(|view| view.partition(hour))
        .collect()
}

/// The place that a view's place was copied from, if it was.
pub(super) fn origin(view: &ChannelView, hour: Hour) -> Option<Partition> {
    let origin = view.channel_row.came_from.last()?;
    Some(Partition {
        org: origin.from.org.clone(),
        place: origin.place.clone(),
        hour,
    })
}
