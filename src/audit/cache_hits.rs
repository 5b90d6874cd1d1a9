//! Uses of a cached key, counted by the minute: a busy channel would otherwise
//! write a record per message. One count stands for one key, action, reason and
//! principal within one minute, and keeps the times of its first and last use.

use std::collections::HashMap;

use super::record::{Record, RecordType, SliceRef};
use crate::clock::WallTime;
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{CmkArn, JobId};
use crate::kms::{ReasonCode, Use};
use crate::store::SliceKey;

const MINUTE_US: i64 = 60_000_000;

/// More counts than this at once and all are written early: memory stays
/// bounded however many keys a process touches in a minute.
const MAX_COUNTS: usize = 4096;

/// A key that was used from a cache.
#[derive(Debug, Clone, Copy)]
pub struct CachedUse<'a> {
    /// What was done with it: `cache_hit`, or `cache_evict` when it was dropped.
    pub action: &'static str,
    /// The slice the key is for.
    pub slice: &'a SliceKey,
    /// The key.
    pub key_id: KeyId,
    /// The wrap it came from.
    pub wrap_epoch: Epoch,
    /// The master key of that wrap.
    pub cmk: &'a CmkArn,
    /// Who used it, where that is not the process's own principal.
    pub principal: Option<&'a str>,
}

#[derive(PartialEq, Eq, Hash)]
struct Group {
    minute: i64,
    key_id: KeyId,
    action: &'static str,
    code: ReasonCode,
    reason: String,
    job: Option<JobId>,
    end_user: Option<String>,
    principal: Option<String>,
    // A rewrap changes these under a key that stays.
    wrap_epoch: Epoch,
    cmk: CmkArn,
}

struct Count {
    n: u64,
    first: WallTime,
    last: WallTime,
    record: Record,
}

/// The counts that are not written yet.
#[derive(Default)]
pub struct CacheHits {
    counts: HashMap<Group, Count>,
}

fn minute(at: WallTime) -> i64 {
    at.0.div_euclid(MINUTE_US)
}

impl CacheHits {
    /// Counts one use.
    pub fn hit(&mut self, at: WallTime, used: CachedUse<'_>, why: &Use) {
        let group = Group {
            minute: minute(at),
            key_id: used.key_id,
            action: used.action,
            code: why.code,
            reason: why.reason.clone(),
            job: why.job,
            end_user: why.end_user.clone(),
            principal: used.principal.map(str::to_owned),
            wrap_epoch: used.wrap_epoch,
            cmk: used.cmk.clone(),
        };
        let count = self.counts.entry(group).or_insert_with(|| {
            let mut record =
                Record::new(RecordType::Cache, used.action)
                    .because(why)
                    .on(SliceRef {
                        slice: used.slice,
                        key_id: Some(used.key_id),
                    });
            record.wrap_epoch = Some(used.wrap_epoch);
            record.cmk = Some(used.cmk.clone());
            record.region = Some(used.cmk.region().to_owned());
            record.principal = used.principal.map(str::to_owned);
            Count {
                n: 0,
                first: at,
                last: at,
                record,
            }
        });
        count.n += 1;
        count.first = count.first.min(at);
        count.last = count.last.max(at);
    }

    /// Takes the counts that are complete: those of minutes other than the one
    /// of `now` (a wall clock that was set back must not hold a count back), or
    /// all of them if there are too many to keep.
    pub fn take_due(&mut self, now: WallTime) -> Vec<Record> {
        let this_minute = minute(now);
        let all = self.counts.len() > MAX_COUNTS;
        self.take_if(|minute| all || minute != this_minute)
    }

    /// Takes every count.
    pub fn take_all(&mut self) -> Vec<Record> {
        self.take_if(|_| true)
    }

    fn take_if(&mut self, due: impl Fn(i64) -> bool) -> Vec<Record> {
        let mut taken: Vec<Count> = self
            .counts
            .extract_if(|group, _| due(group.minute))
            .map(|(_, c)| c)
            .collect();
        taken.sort_by_key(|c| (c.first, c.last));
        taken
            .into_iter()
            .map(|count| {
                let mut record = count.record;
                record.count = Some(count.n);
                record.first_ts = Some(count.first);
                record.last_ts = Some(count.last);
                record
            })
            .collect()
    }
}
