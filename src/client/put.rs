//! A write on its way: to every place of a route, and again by a newer route if
//! the registry has changed before its caller was told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Use;
use super::channel::{Channel, ROUNDS};
use super::error::{ErrorClass, ErrorKind};
use super::follow::{all_places, origin};
use super::key_service::SealingKey;
use super::message::Written;
use crate::clock::{WallTime, WriteTime};
use crate::crypto::expiry;
use crate::epoch::Epoch;
use crate::ids::{Hour, RecordId};
use crate::planted::{self, Bug};
use crate::registry::{ChannelView, Places};
use crate::store::{CellWrite, Partition};

pub(super) struct Put<'a> {
    pub(super) channel: &'a Channel,
    pub(super) hour: Hour,
    pub(super) record: &'a RecordId,
    pub(super) text: &'a [u8],
    pub(super) expiry: Option<u32>,
    pub(super) why: &'a Use,
}

/// What was sent of a write.
pub(super) struct Sent {
    /// The one write time it has everywhere.
    pub(super) at: WriteTime,
    /// Every place it was to go to.
    planned: HashSet<Partition>,
    /// What stands where a place has acknowledged it.
    acknowledged: HashMap<Partition, Standing>,
}

/// What was written to one place.
#[derive(Clone, Copy)]
struct Standing {
    epoch: Epoch,
    ttl_s: u32,
    answered: WallTime,
}

/// How a round ended that did not fail.
enum Round {
    /// Every place has acknowledged.
    Acknowledged,
    /// Its route ran out between two places.
    RanOut,
    /// Its time is over, and it does not stand everywhere.
    Vanished,
}

/// What the store says about a write that is about to be repeated.
enum Look {
    /// It stands; a repetition brings nothing back.
    Repeat,
    /// Something newer has taken its place.
    Replaced,
    /// The channel has gone on by more than one copy meanwhile.
    CannotTell,
}

impl Put<'_> {
    /// `sent` tells the caller, who may have to say that something failed, what
    /// was sent.
    pub(super) async fn run(&self, sent: &mut Option<Sent>) -> Result<Written, ErrorKind> {
        let views = &self.channel.shared.views;
        let mut places = self.channel.places().await?;
        for _ in 0..ROUNDS {
            if let Some(sent) = sent {
                if self.is_over() {
                    return self.vanish(sent, places).await;
                }
                match self.look(sent, &places).await? {
                    Look::Repeat => {}
                    Look::Replaced => return Ok(self.written(sent)),
                    Look::CannotTell => return Err(ErrorKind::Stale),
                }
            }
            let keys = match self.keys(&places).await {
                Ok(keys) => keys,
                // The CMK that an old view names may have been left and shut.
                Err(kind) if kind.class() == ErrorClass::Blocked => {
                    let newer = self.newer(sent.as_ref()).await?;
                    if newer.agree_with(&places) {
                        return Err(kind);
                    }
                    places = newer;
                    continue;
                }
                Err(kind) => return Err(kind),
            };
            // The KMS may have taken its time. From here to the store there is
            // no more waiting.
            if views.ran_out(&places) {
                places = self.newer(sent.as_ref()).await?;
                continue;
            }
            // As long as nothing was sent, the write time is of this round: a
            // time from before the KMS was asked could lie before a delete that
            // did not go to all places of this route.
            let at = match &sent {
                Some(sent) => sent.at,
                None => self.channel.next_time(&places, self.hour, self.record),
            };
            let cells = self.seal(&places, keys)?;
            let sent = match self.send(at, &places, cells, sent).await? {
                (Round::Acknowledged, sent) => sent,
                (Round::Vanished, sent) => return self.vanish(sent, places).await,
                (Round::RanOut, _) => {
                    places = self.channel.places_to_finish().await?;
                    continue;
                }
            };
            if planted::is(Bug::ClientDoesNotLookAgain) {
                return Ok(self.written(sent));
            }
            match self.channel.overtaken(&places).await? {
                None => return Ok(self.written(sent)),
                Some(newer) => places = newer,
            }
        }
        Err(ErrorKind::Stale)
    }

    async fn newer(&self, sent: Option<&Sent>) -> Result<Arc<Places>, ErrorKind> {
        match sent {
            Some(_) => self.channel.places_to_finish().await,
            None => self.channel.fresh_places().await,
        }
    }

    fn written(&self, sent: &Sent) -> Written {
        Written {
            write_time: sent.at,
            expires_at_s: self.expiry,
        }
    }

    fn is_over(&self) -> bool {
        let now = self.channel.shared.clock.wall();
        self.expiry.is_some_and(|at| expiry::is_expired(at, now))
    }

    /// A message that was sent, has vanished since, and may not stand in every
    /// place of the present route. Where it does not, an older text may: that
    /// has to go, as if the message had stood there and vanished.
    async fn vanish(&self, sent: &Sent, places: Arc<Places>) -> Result<Written, ErrorKind> {
        self.channel
            .delete_everywhere(places, self.hour, self.record, sent.at)
            .await?;
        Ok(self.written(sent))
    }

    /// A key for each place, before anything is sent to one of them.
    async fn keys(&self, places: &Places) -> Result<Vec<SealingKey>, ErrorKind> {
        let mut keys = Vec::with_capacity(places.write.len());
        for view in &places.write {
            let key = self
                .channel
                .shared
                .keys
                .sealing_key(view, self.hour, self.why);
            keys.push(key.await?);
        }
        Ok(keys)
    }

    /// Seals the message for each place: for its organization and channel, in
    /// its epoch.
    fn seal(&self, places: &Places, keys: Vec<SealingKey>) -> Result<Vec<Vec<u8>>, ErrorKind> {
        let seal = |(key, view): (SealingKey, &Arc<ChannelView>)| {
            let epoch = view.desired().cell_epoch;
            let locus = super::channel::locus(view, self.record);
            key.seal(epoch, self.expiry, &locus, self.text)
        };
        keys.into_iter().zip(&places.write).map(seal).collect()
    }

    /// One place after the other, in the route's order: who reads the first is
    /// never behind who reads the last.
    async fn send<'s>(
        &self,
        at: WriteTime,
        places: &Places,
        cells: Vec<Vec<u8>>,
        sent: &'s mut Option<Sent>,
    ) -> Result<(Round, &'s mut Sent), ErrorKind> {
        let shared = &self.channel.shared;
        for (n, (view, cell)) in places.write.iter().zip(cells).enumerate() {
            let to = view.partition(self.hour);
            if n > 0 && planted::is(Bug::OnePlaceOnly) {
                break;
            }
            // Each request is sent while the route holds. So it has landed, or
            // was given up, when the phase after next begins.
            if n > 0 && shared.views.ran_out(places) {
                return Ok((Round::RanOut, open(sent, at)));
            }
            let epoch = view.desired().cell_epoch;
            let stands = sent.as_ref().and_then(|s| s.acknowledged.get(&to).copied());
            let Some(ttl_s) = self.ttl(epoch, stands) else {
                return match sent {
                    Some(sent) => Ok((Round::Vanished, sent)),
                    None => Err(ErrorKind::ExpiryPast),
                };
            };
            let write = [CellWrite {
                record: self.record.clone(),
                cell: cell.into(),
                write_time: at,
                ttl_s,
            }];
            let sent = open(sent, at);
            let all = places.write.iter().map(|view| view.partition(self.hour));
            sent.planned.extend(all);
            self.channel
                .in_time(shared.store.write_cells(&to, &write))
                .await?;
            let answered = shared.clock.wall();
            let stands = Standing {
                epoch,
                ttl_s,
                answered,
            };
            sent.acknowledged.insert(to, stands);
        }
        if self.expiry.is_some() && !self.shade(at, places).await? {
            return Ok((Round::RanOut, open(sent, at)));
        }
        Ok((Round::Acknowledged, open(sent, at)))
    }

    /// A vanishing message in `announced`: takes what is older out of the
    /// destination, where the message itself is not written yet. `false` if the
    /// route ran out.
    ///
    /// Who is in `mirrored` already may have written an older text there. The
    /// worker would put this message on top of it, but it may vanish from the
    /// source before the worker comes by, and then nothing says that the older
    /// text is no more. After the source, so that a client which dies here has
    /// taken nothing away; one microsecond before the message, so that a copy of
    /// it stays.
    async fn shade(&self, at: WriteTime, places: &Places) -> Result<bool, ErrorKind> {
        let shared = &self.channel.shared;
        for view in &places.delete {
            let place = view.partition(self.hour);
            if places.write.iter().any(|w| w.partition(self.hour) == place) {
                continue;
            }
            if shared.views.ran_out(places) {
                return Ok(false);
            }
            let before = WriteTime(at.0.saturating_sub(1));
            let sent = shared.store.delete_row(&place, self.record, before);
            self.channel.in_time(sent).await?;
        }
        Ok(true)
    }

    /// The store's TTL: 0 for a lasting message, `None` if its time is over.
    /// Computed when the statement is sent. A repetition tells what stands in
    /// that place already, so that its expiry is the later one (I4).
    fn ttl(&self, epoch: Epoch, stands: Option<Standing>) -> Option<u32> {
        match self.expiry {
            None => Some(0),
            Some(expiry) => {
                let before = stands.map(|s| (s.epoch, s.ttl_s, s.answered));
                expiry::store_ttl(expiry, epoch, before, self.channel.shared.clock.wall())
            }
        }
    }

    /// Whether the write may be sent again, at a time that may long be over.
    ///
    /// In a place that it was to go to before, it may: that place has had, since
    /// the write time, every newer edit and delete, and they stay on top of it.
    /// A place that is new to the write has only what came to it since it was
    /// announced. An edit or delete from before that went to its origin alone,
    /// and a delete leaves nothing there that would be copied. So the origin is
    /// asked, which has acknowledged this write:
    ///
    /// - It shows the write time: nothing newer came before the new place took
    ///   part, and what comes now goes to the new place too.
    /// - The new place shows it: the worker has carried it over, perhaps purged
    ///   it from the origin. The same holds.
    /// - Neither: something newer has replaced it in the origin, or has met it
    ///   in the new place. To send it again would bring it back.
    ///
    /// To ask only the places of the newer route would not do: in `moved` these
    /// are the destination alone, and a write that reached the source after the
    /// last copy would pass for replaced, though it is only not carried over
    /// yet. Nor would any old place do: one of a copy that was called off is
    /// purged by nobody and shows for ever what has since been deleted.
    ///
    /// If the origin is a place that this write never stood in, the channel has
    /// been copied on. The delete may be in the place between, which this client
    /// does not know. Then the caller is told that it is not known.
    async fn look(&self, sent: &Sent, newer: &Places) -> Result<Look, ErrorKind> {
        let mut asked = Vec::new();
        let mut any_new = false;
        for view in &newer.write {
            let to = view.partition(self.hour);
            if sent.planned.contains(&to) {
                continue;
            }
            any_new = true;
            match origin(view, self.hour) {
                Some(origin) if sent.acknowledged.contains_key(&origin) => {
                    asked.extend([origin, to]);
                }
                _ => return Ok(Look::CannotTell),
            }
        }
        if !any_new {
            let in_one_place = sent.planned.len() == 1 && all_places(newer, self.hour).len() == 1;
            // Where a place has not acknowledged it, that it does not stand says
            // nothing.
            if in_one_place || sent.acknowledged.len() < sent.planned.len() {
                return Ok(Look::Repeat);
            }
            asked.extend(sent.acknowledged.keys().cloned());
        }
        let store = &self.channel.shared.store;
        for place in asked {
            let stored = self
                .channel
                .in_time(store.read_cell(&place, self.record))
                .await?;
            if stored.is_some_and(|stored| stored.write_time == sent.at) {
                return Ok(Look::Repeat);
            }
        }
        Ok(Look::Replaced)
    }
}

/// From the first request on.
fn open(sent: &mut Option<Sent>, at: WriteTime) -> &mut Sent {
    sent.get_or_insert_with(|| Sent {
        at,
        planned: HashSet::new(),
        acknowledged: HashMap::new(),
    })
}
