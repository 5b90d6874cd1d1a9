//! The plaintext keys that are held, and the refusals that are remembered. Time
//! is an argument; nothing here calls a store or a KMS.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::ErrorKind;
use crate::clock::BootTime;
use crate::crypto::{CellKey, KeyId, NonceSource};
use crate::epoch::Epoch;
use crate::ids::CmkArn;
use crate::registry::Desired;
use crate::scope::Scope;
use crate::store::SliceKey;

/// How long a plaintext key lives from the start of the KMS call that gave it.
/// A revocation is complete within this time.
pub(super) const KEY_LIFE: Duration = Duration::from_secs(300);
/// How long a refusal of one scope or one key is believed.
const SCOPE_REFUSAL: Duration = Duration::from_secs(60);
/// How long a refusal of a whole CMK is believed.
const CMK_REFUSAL: Duration = Duration::from_secs(30);
/// Keys whose number of seals is remembered after they were dropped.
const COUNTS: usize = 1 << 16;

/// A key in clear, and where it came from.
pub(super) struct Held {
    pub(super) key: Arc<CellKey>,
    pub(super) nonces: Arc<Mutex<NonceSource>>,
    /// The wrap that was opened.
    pub(super) wrap_epoch: Epoch,
    pub(super) cmk: CmkArn,
    /// The lowest wrap of the key: its generation. `None` if it must not seal.
    pub(super) lowest_wrap: Option<Epoch>,
    /// The start of the KMS call.
    pub(super) since: BootTime,
}

impl Held {
    pub(super) fn is_live(&self, now: BootTime) -> bool {
        now.since(self.since) < KEY_LIFE
    }

    /// The same rule as `keys::choose_sealing_key`, on what is kept of the rows.
    /// Rows are only added, with higher epochs, so it stays true while held.
    fn seals_for(&self, desired: &Desired, scope: &Scope) -> bool {
        self.lowest_wrap.is_some_and(|e| e >= desired.key_epoch)
            && self.wrap_epoch >= desired.wrap_epoch
            && self.cmk == desired.cmk
            && self.key.scope() == scope
            && self.key.seals_reserved() < CellKey::MAX_SEALS
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    Scope(Scope),
    Cmk(CmkArn),
    Key(SliceKey, KeyId),
}

impl Refused {
    fn life(&self) -> Duration {
        match self {
            Refused::Scope(_) | Refused::Key(..) => SCOPE_REFUSAL,
            Refused::Cmk(_) => CMK_REFUSAL,
        }
    }
}

struct Refusal {
    kind: ErrorKind,
    /// The start of the call that was refused.
    since: BootTime,
}

pub(super) struct KeyCache {
    capacity: usize,
    slices: HashMap<SliceKey, BTreeMap<KeyId, Arc<Held>>>,
    /// In the order of insertion, for the limit and for the sweep. May name keys
    /// that were dropped or replaced since; `since` tells.
    order: VecDeque<(BootTime, SliceKey, KeyId)>,
    held: usize,
    refusals: HashMap<Refused, Refusal>,
    seal_counts: HashMap<KeyId, u32>,
}

impl KeyCache {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            slices: HashMap::new(),
            order: VecDeque::new(),
            held: 0,
            refusals: HashMap::new(),
            seal_counts: HashMap::new(),
        }
    }

    pub(super) fn to_open(
        &self,
        slice: &SliceKey,
        key_id: KeyId,
        now: BootTime,
    ) -> Option<Arc<Held>> {
        let held = self.slices.get(slice)?.get(&key_id)?;
        held.is_live(now).then(|| held.clone())
    }

    pub(super) fn to_seal(
        &self,
        slice: &SliceKey,
        desired: &Desired,
        scope: &Scope,
        now: BootTime,
    ) -> Option<Arc<Held>> {
        self.slices
            .get(slice)?
            .values()
            .find(|held| held.is_live(now) && held.seals_for(desired, scope))
            .cloned()
    }

    /// Keeps a key. Refused if a call that was started no earlier has meanwhile
    /// been denied: that answer is the newer one.
    pub(super) fn hold(
        &mut self,
        slice: &SliceKey,
        held: Held,
        now: BootTime,
    ) -> Result<Arc<Held>, ErrorKind> {
        self.sweep(now);
        for about in [
            Refused::Scope(held.key.scope().clone()),
            Refused::Cmk(held.cmk.clone()),
        ] {
            match self.refusals.get(&about) {
                Some(refusal) if refusal.since >= held.since => return Err(refusal.kind.clone()),
                Some(_) => drop(self.refusals.remove(&about)),
                None => {}
            }
        }
        let key_id = held.key.key_id();
        // Seals made under this key before it was dropped count on. The limit
        // itself is checked where a seal is reserved.
        if let Some(count) = self.seal_counts.remove(&key_id) {
            let _ = held.key.reserve_seals(count);
        }
        while self.held >= self.capacity {
            match self.order.pop_front() {
                Some((since, slice, key_id)) => drop(self.remove(&slice, key_id, Some(since))),
                None => break,
            }
        }
        self.remove(slice, key_id, None);
        self.order.push_back((held.since, slice.clone(), key_id));
        let held = Arc::new(held);
        self.slices
            .entry(slice.clone())
            .or_default()
            .insert(key_id, held.clone());
        self.held += 1;
        Ok(held)
    }

    /// Remembers a refusal and drops what it takes away. Returns the keys
    /// dropped.
    pub(super) fn refuse(
        &mut self,
        about: Refused,
        kind: ErrorKind,
        since: BootTime,
        now: BootTime,
    ) -> Vec<(SliceKey, Arc<Held>)> {
        self.refusals
            .retain(|about, refusal| now.since(refusal.since) < about.life());
        let takes_away = |slice: &SliceKey, held: &Held| match (&about, &kind) {
            // A code nobody knows is no revocation: what is held stays its time.
            (_, ErrorKind::KmsUnknown { .. }) => false,
            (Refused::Scope(scope), _) => held.key.scope() == scope,
            (Refused::Cmk(cmk), _) => held.cmk == *cmk,
            (Refused::Key(of, id), _) => of == slice && held.key.key_id() == *id,
        };
        let gone: Vec<(SliceKey, KeyId)> = self
            .slices
            .iter()
            .flat_map(|(slice, keys)| keys.iter().map(move |(id, held)| (slice, *id, held)))
            .filter(|(slice, _, held)| takes_away(slice, held))
            .map(|(slice, id, _)| (slice.clone(), id))
            .collect();
        let gone = gone
            .into_iter()
            .filter_map(|(slice, id)| self.remove(&slice, id, None).map(|held| (slice, held)))
            .collect();
        if self.refusals.len() >= self.capacity
            && let Some(any) = self.refusals.keys().next().cloned()
        {
            // Forgetting a refusal costs one call to the KMS, which refuses again.
            self.refusals.remove(&any);
        }
        self.refusals.insert(about, Refusal { kind, since });
        gone
    }

    /// What was refused less than its time ago.
    pub(super) fn refused(&self, about: &Refused, now: BootTime) -> Option<ErrorKind> {
        let refusal = self.refusals.get(about)?;
        (now.since(refusal.since) < about.life()).then(|| refusal.kind.clone())
    }

    /// Whether a key has sealed all it may in this process, held or not.
    pub(super) fn is_spent(&self, slice: &SliceKey, key_id: KeyId) -> bool {
        let held = self.slices.get(slice).and_then(|keys| keys.get(&key_id));
        let count = match held {
            Some(held) => held.key.seals_reserved(),
            None => self.seal_counts.get(&key_id).copied().unwrap_or(0),
        };
        count >= CellKey::MAX_SEALS
    }

    /// Drops the keys whose time is over, and with them their bytes.
    pub(super) fn sweep(&mut self, now: BootTime) {
        while let Some((since, _, _)) = self.order.front() {
            if now.since(*since) < KEY_LIFE {
                break;
            }
            if let Some((since, slice, key_id)) = self.order.pop_front() {
                self.remove(&slice, key_id, Some(since));
            }
        }
    }

    /// How long until the next key's time is over; `None` if none is held.
    pub(super) fn next_sweep(&self, now: BootTime) -> Option<Duration> {
        let (since, _, _) = self.order.front()?;
        Some(since.plus(KEY_LIFE).since(now))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slices.values().map(BTreeMap::len).sum()
    }

    fn remove(
        &mut self,
        slice: &SliceKey,
        key_id: KeyId,
        since: Option<BootTime>,
    ) -> Option<Arc<Held>> {
        let keys = self.slices.get_mut(slice)?;
        if since.is_some_and(|since| keys.get(&key_id).is_none_or(|held| held.since != since)) {
            return None;
        }
        let held = keys.remove(&key_id)?;
        if keys.is_empty() {
            self.slices.remove(slice);
        }
        self.held -= 1;
        self.keep_count(key_id, held.key.seals_reserved());
        Some(held)
    }

    fn keep_count(&mut self, key_id: KeyId, count: u32) {
        if count == 0 {
            return;
        }
        if self.seal_counts.len() >= COUNTS {
            // The half with the fewest seals is forgotten: those are the farthest
            // from the limit.
            let mut counts: Vec<u32> = self.seal_counts.values().copied().collect();
            counts.sort_unstable();
            let median = counts[counts.len() / 2];
            let mut excess = counts.len() / 2;
            self.seal_counts.retain(|_, n| {
                let forget = *n <= median && excess > 0;
                excess -= usize::from(forget);
                !forget
            });
        }
        self.seal_counts.insert(key_id, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ChannelId, Hour, OrgId, WorkspaceId};
    use crate::kms::Dek;
    use zeroize::Zeroizing;

    fn at(s: u64) -> BootTime {
        BootTime(Duration::from_secs(s))
    }

    fn cmk() -> CmkArn {
        CmkArn::new("arn:aws:kms:local:000000000000:key/a").unwrap()
    }

    fn hour() -> Hour {
        Hour::of_unix_seconds(0).unwrap()
    }

    fn scope() -> Scope {
        Scope::Message {
            org: OrgId::new("acme").unwrap(),
            workspace: WorkspaceId::new("w1").unwrap(),
            channel: ChannelId::new("c1").unwrap(),
            hour: hour(),
        }
    }

    fn slice() -> SliceKey {
        let (org, channel) = (OrgId::new("acme").unwrap(), ChannelId::new("c1").unwrap());
        SliceKey::messages(&org, &channel, hour())
    }

    fn desired() -> Desired {
        Desired {
            cell_epoch: Epoch::FIRST,
            wrap_epoch: Epoch::FIRST,
            key_epoch: Epoch::FIRST,
            cmk: cmk(),
        }
    }

    fn held(byte: u8, since: BootTime) -> Held {
        let dek = Dek::new(Zeroizing::new([byte; 32]));
        Held {
            key: Arc::new(CellKey::derive(dek, &scope())),
            nonces: Arc::new(Mutex::new(NonceSource::new())),
            wrap_epoch: Epoch::FIRST,
            cmk: cmk(),
            lowest_wrap: Some(Epoch::FIRST),
            since,
        }
    }

    fn revoked() -> ErrorKind {
        ErrorKind::Revoked {
            cmk: cmk(),
            kms_code: "AccessDeniedException".to_owned(),
        }
    }

    /// The answers of two calls may come back in the other order. Who was asked
    /// later is right.
    #[test]
    fn a_refusal_beats_an_answer_to_a_call_that_began_before_it() {
        let cases = [(9, 10, false), (10, 10, false), (11, 10, true)];
        for (answer, refusal, kept) in cases {
            for about in [Refused::Scope(scope()), Refused::Cmk(cmk())] {
                let mut cache = KeyCache::new(10);
                cache.refuse(about.clone(), revoked(), at(refusal), at(12));
                let held = cache.hold(&slice(), held(1, at(answer)), at(12));
                assert_eq!(held.is_ok(), kept, "{answer} {refusal} {about:?}");
                assert_eq!(cache.refused(&about, at(12)).is_none(), kept);
            }
        }
    }

    #[test]
    fn a_key_that_is_dropped_and_comes_back_goes_on_counting_its_seals() {
        let mut cache = KeyCache::new(1);
        let first = cache.hold(&slice(), held(1, at(0)), at(0)).unwrap();
        first.key.reserve_seals(CellKey::MAX_SEALS - 1).unwrap();
        // Another key takes its room.
        cache.hold(&slice(), held(2, at(0)), at(0)).unwrap();
        assert_eq!(cache.len(), 1);
        let again = cache.hold(&slice(), held(1, at(1)), at(1)).unwrap();
        assert!(!cache.is_spent(&slice(), again.key.key_id()));
        again.key.reserve_seals(1).unwrap();
        assert!(again.key.reserve_seals(1).is_err());
        assert!(cache.is_spent(&slice(), again.key.key_id()));
        assert!(
            cache
                .to_seal(&slice(), &desired(), &scope(), at(1))
                .is_none()
        );
        assert!(cache.to_open(&slice(), again.key.key_id(), at(1)).is_some());
    }

    #[test]
    fn an_unknown_code_takes_no_key_away() {
        let mut cache = KeyCache::new(10);
        let kept = cache.hold(&slice(), held(1, at(0)), at(0)).unwrap();
        let unknown = ErrorKind::KmsUnknown {
            cmk: cmk(),
            kms_code: "NewException".to_owned(),
        };
        let gone = cache.refuse(Refused::Scope(scope()), unknown, at(1), at(1));
        assert!(gone.is_empty());
        let open = cache.to_open(&slice(), kept.key.key_id(), at(1));
        assert!(open.is_some());
        assert!(cache.refused(&Refused::Scope(scope()), at(1)).is_some());
    }

    #[test]
    fn refusals_and_counts_are_bounded() {
        let mut cache = KeyCache::new(4);
        for n in 0..100u8 {
            let about = Refused::Key(slice(), KeyId([n; 16]));
            cache.refuse(about, revoked(), at(0), at(0));
        }
        assert_eq!(cache.refusals.len(), 4);
        for n in 0..COUNTS as u32 + 10 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            cache.keep_count(KeyId(id), n + 1);
        }
        assert!(cache.seal_counts.len() <= COUNTS);
        // The one that is nearest to the limit is not the one forgotten.
        assert!(cache.seal_counts.values().any(|n| *n == COUNTS as u32 + 10));
    }
}
