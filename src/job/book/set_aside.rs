//! The table `set_aside`: old keys of a job, channel by channel, and how far
//! its retire is.
//!
//! | partition | id | row |
//! |---|---|---|
//! | `~until` | `<Unix milliseconds, 15 digits>/<org>/<job>` | empty: when a job's rows are deleted, soonest first |
//! | job | `head` | [`AsideHead`] |
//! | job | `channel/<channel>` | [`AsideChannel`]; made before the channel's own rows |
//! | job | `retire` | [`RetireProgress`] |
//! | job`/`channel | `key` | [`AsideSeal`] |
//! | job`/`channel | `<hour>/<key id>` | [`AsideKey`] |
//!
//! A partition for each channel: a large organization has a million keys.

use std::collections::BTreeSet;

use super::{BookError, JobBook, Versioned, write_back};
use crate::crypto::KeyId;
use crate::ids::{ChannelId, Hour, JobId, OrgId};
use crate::job::set_aside::{
    AsideChannel, AsideHead, AsideKey, AsideSeal, AsideSoFar, RetireCounts, RetireProgress,
};
use crate::registry::insert;
use crate::store::{Applied, ControlRow, ControlTable, ControlWrite, Expect};

const TABLE: ControlTable = ControlTable::SetAside;
/// Partition of the jobs by when their rows are deleted. No job has this name.
const UNTIL: &str = "~until";
const HEAD: &str = "head";
const CHANNEL: &str = "channel/";
const RETIRE: &str = "retire";
const SEAL: &str = "key";

/// Rows of one conditional batch, and their bytes. A row has some 700 bytes, and
/// up to 13 KiB where a KMS gives long wraps; clusters refuse batches of 50 KiB.
pub(crate) const ROWS_AT_ONCE: usize = 20;
const BYTES_AT_ONCE: usize = 24 << 10;
/// Rows read at once for the hours they are of: a row may be large.
const HOURS_AT_ONCE: usize = 100;
/// Rows deleted with one.
const DELETED_AT_ONCE: usize = 100;

/// One old key at its place.
pub(crate) type Aside = ((Hour, KeyId), AsideKey);

impl JobBook {
    /// Notes that a job sets keys aside, to be deleted at a time, Unix
    /// milliseconds. Answers with the time that stands: that of the first call.
    pub(crate) async fn begin_set_aside(
        &self,
        org: &OrgId,
        job: JobId,
        until_ms: u64,
    ) -> Result<u64, BookError> {
        let partition = job.to_string();
        if let Some(head) = self.aside_head(job).await? {
            return Ok(head.until_ms);
        }
        // First, so that nothing stands that would never be deleted.
        let index = insert(&until_id(until_ms, org, job), &());
        let _either = self.apply(TABLE, UNTIL, &[index]).await?;
        let head = AsideHead {
            org: org.clone(),
            until_ms,
        };
        match self
            .apply(TABLE, &partition, &[insert(HEAD, &head)])
            .await?
        {
            Applied::Yes => Ok(until_ms),
            Applied::No => {
                let stands = self.aside_head(job).await?;
                Ok(stands.map_or(until_ms, |head| head.until_ms))
            }
        }
    }

    async fn aside_head(&self, job: JobId) -> Result<Option<AsideHead>, BookError> {
        let found: Option<Versioned<AsideHead>> = self.read(TABLE, &job.to_string(), HEAD).await?;
        Ok(found.map(|head| head.row))
    }

    /// How far the setting aside of a job is; `None` before it began.
    pub async fn aside_so_far(&self, job: JobId) -> Result<Option<AsideSoFar>, BookError> {
        if self.aside_head(job).await?.is_none() {
            return Ok(None);
        }
        let mut sum = AsideSoFar::default();
        for row in self.list_raw(TABLE, &job.to_string(), CHANNEL).await? {
            let Ok(row) = serde_json::from_str::<AsideChannel>(&row.body) else {
                continue;
            };
            sum.keys += row.keys;
            sum.refused += row.refused.values().sum::<u64>();
            sum.channels_done += u64::from(row.done);
        }
        Ok(Some(sum))
    }

    /// Saves how far a channel that is not done is, for those who look. Whether it
    /// could be is no matter: what counts is in the keys' own rows.
    pub(crate) async fn show_aside_channel(
        &self,
        job: JobId,
        channel: &ChannelId,
        so_far: AsideChannel,
    ) {
        if let Ok(Some(mut found)) = self.aside_channel(job, channel).await
            && !found.row.done
        {
            found.row = so_far;
            let _next_time = self.save_aside(job, &mut found).await;
        }
    }

    /// How far a channel of a job is.
    pub(crate) async fn aside_channel(
        &self,
        job: JobId,
        channel: &ChannelId,
    ) -> Result<Option<Versioned<AsideChannel>>, BookError> {
        let id = format!("{CHANNEL}{channel}");
        self.read(TABLE, &job.to_string(), &id).await
    }

    /// Begins a channel, unless somebody has.
    pub(crate) async fn begin_aside_channel(
        &self,
        job: JobId,
        channel: &ChannelId,
    ) -> Result<(), BookError> {
        let row = insert(&format!("{CHANNEL}{channel}"), &AsideChannel::default());
        let _either = self.apply(TABLE, &job.to_string(), &[row]).await?;
        Ok(())
    }

    /// The key that a channel's old keys are sealed with, if there is one.
    pub async fn aside_seal(
        &self,
        job: JobId,
        channel: &ChannelId,
    ) -> Result<Option<AsideSeal>, BookError> {
        let found: Option<Versioned<AsideSeal>> =
            self.read(TABLE, &of_channel(job, channel), SEAL).await?;
        Ok(found.map(|seal| seal.row))
    }

    /// Takes a key to seal a channel's old keys with. `No`: another stands.
    pub(crate) async fn take_aside_seal(
        &self,
        job: JobId,
        channel: &ChannelId,
        seal: &AsideSeal,
    ) -> Result<Applied, BookError> {
        self.apply(TABLE, &of_channel(job, channel), &[insert(SEAL, seal)])
            .await
    }

    /// Which keys of a channel are set aside; of one hour, if it is given.
    pub(crate) async fn aside_ids(
        &self,
        job: JobId,
        channel: &ChannelId,
        hour: Option<Hour>,
    ) -> Result<BTreeSet<(Hour, KeyId)>, BookError> {
        let prefix = hour.map(|hour| format!("{hour}/")).unwrap_or_default();
        let rows = self
            .list_raw(TABLE, &of_channel(job, channel), &prefix)
            .await?;
        Ok(rows.iter().filter_map(|row| key_address(&row.id)).collect())
    }

    /// Hours of a channel that have keys set aside, ascending, from just after
    /// `after`, at most `limit`.
    pub(crate) async fn aside_hours(
        &self,
        job: JobId,
        channel: &ChannelId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, BookError> {
        let partition = of_channel(job, channel);
        let mut hours: Vec<String> = Vec::new();
        let mut seen = after.map(past_hour);
        loop {
            let rows = self
                .store
                .control_list(TABLE, &partition, "", seen.as_deref(), HOURS_AT_ONCE)
                .await?;
            for (hour, _) in rows.iter().filter_map(|row| key_address(&row.id)) {
                let hour = hour.to_string();
                if hours.last() != Some(&hour) {
                    hours.push(hour);
                }
            }
            if rows.len() < HOURS_AT_ONCE || hours.len() >= limit {
                hours.truncate(limit);
                return Ok(hours);
            }
            // Other keys of an hour that is known need not be read.
            let known = hours.last().map(|hour| past_hour(hour));
            seen = rows.last().map(|row| row.id.clone()).max(known);
        }
    }

    /// One key that is set aside.
    pub async fn aside_key(
        &self,
        job: JobId,
        channel: &ChannelId,
        (hour, key_id): (Hour, KeyId),
    ) -> Result<Option<AsideKey>, BookError> {
        let id = key_row_id(hour, key_id);
        let found: Option<Versioned<AsideKey>> =
            self.read(TABLE, &of_channel(job, channel), &id).await?;
        Ok(found.map(|key| key.row))
    }

    /// Sets keys of a channel aside. What stands already is left as it is: it is
    /// the same key, sealed by another worker.
    pub(crate) async fn keep_aside(
        &self,
        job: JobId,
        channel: &ChannelId,
        keys: &[Aside],
    ) -> Result<(), BookError> {
        let partition = of_channel(job, channel);
        let mut batches: Vec<Vec<ControlWrite>> = Vec::new();
        let mut bytes = 0;
        for ((hour, id), key) in keys {
            let write = insert(&key_row_id(*hour, *id), key);
            let size = write.body.as_ref().map_or(0, String::len);
            match batches.last_mut() {
                Some(batch) if batch.len() < ROWS_AT_ONCE && bytes + size <= BYTES_AT_ONCE => {
                    batch.push(write);
                    bytes += size;
                }
                _ => {
                    batches.push(vec![write]);
                    bytes = size;
                }
            }
        }
        for writes in batches {
            if self.apply(TABLE, &partition, &writes).await? == Applied::Yes {
                continue;
            }
            for write in writes {
                let _either = self.apply(TABLE, &partition, &[write]).await?;
            }
        }
        Ok(())
    }

    /// Jobs whose rows are to be deleted at a time, Unix milliseconds.
    pub(crate) async fn ended_set_asides(
        &self,
        now_ms: u64,
    ) -> Result<Vec<(u64, OrgId, JobId)>, BookError> {
        let mut ended = self.set_asides().await?;
        ended.retain(|(until_ms, _, _)| *until_ms <= now_ms);
        Ok(ended)
    }

    /// Jobs of an organization that have set keys aside, and until when, Unix
    /// milliseconds; the last to end first.
    pub async fn set_asides_of(&self, org: &OrgId) -> Result<Vec<(JobId, u64)>, BookError> {
        let all = self.set_asides().await?.into_iter();
        let mut own: Vec<(JobId, u64)> = all
            .filter(|(_, of, _)| of == org)
            .map(|(until_ms, _, job)| (job, until_ms))
            .collect();
        own.sort_by_key(|(_, until_ms)| std::cmp::Reverse(*until_ms));
        Ok(own)
    }

    async fn set_asides(&self) -> Result<Vec<(u64, OrgId, JobId)>, BookError> {
        let rows = self.list_raw(TABLE, UNTIL, "").await?;
        let parts = |row: &ControlRow| {
            let (until, rest) = row.id.split_once('/')?;
            let (org, job) = rest.rsplit_once('/')?;
            let until_ms: u64 = until.parse().ok()?;
            Some((until_ms, OrgId::new(org).ok()?, job.parse().ok()?))
        };
        Ok(rows.iter().filter_map(parts).collect())
    }

    /// Deletes all that a job has set aside: the keys, then what leads to them.
    /// What an earlier call left is deleted by the next.
    pub(crate) async fn end_set_aside(
        &self,
        (until_ms, org, job): (u64, &OrgId, JobId),
    ) -> Result<(), BookError> {
        let partition = job.to_string();
        for row in self.list_raw(TABLE, &partition, CHANNEL).await? {
            let Some(name) = row.id.strip_prefix(CHANNEL) else {
                continue;
            };
            self.delete_all(&format!("{job}/{name}")).await?;
        }
        self.delete_all(&partition).await?;
        let index = ControlWrite {
            id: until_id(until_ms, org, job),
            expect: Expect::Rev(1),
            body: None,
        };
        let _either = self.apply(TABLE, UNTIL, &[index]).await?;
        Ok(())
    }

    async fn delete_all(&self, partition: &str) -> Result<(), BookError> {
        let mut after: Option<String> = None;
        loop {
            let rows = self
                .store
                .control_list(TABLE, partition, "", after.as_deref(), DELETED_AT_ONCE)
                .await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = Some(last.id.clone());
            let writes: Vec<ControlWrite> = rows.iter().map(deleted).collect();
            if self.apply(TABLE, partition, &writes).await? == Applied::No {
                // Another worker deletes them as well.
                for write in writes {
                    let _either = self.apply(TABLE, partition, &[write]).await?;
                }
            }
        }
    }

    /// How far the retire of a job is, if it was begun.
    pub async fn retire_progress(
        &self,
        job: JobId,
    ) -> Result<Option<Versioned<RetireProgress>>, BookError> {
        self.read(TABLE, &job.to_string(), RETIRE).await
    }

    /// Begins the retire of a job, or finds it begun.
    pub(crate) async fn begin_retire(
        &self,
        job: JobId,
    ) -> Result<Versioned<RetireProgress>, BookError> {
        let fresh = RetireProgress {
            begun_ms: self.clock.wall().unix_ms(),
            counts: RetireCounts::default(),
            from: None,
            counted_to: None,
        };
        let _either = self
            .apply(TABLE, &job.to_string(), &[insert(RETIRE, &fresh)])
            .await?;
        let found = self.retire_progress(job).await?;
        found.ok_or_else(|| BookError::Overtaken(format!("{job}/{RETIRE}")))
    }

    /// Writes a row of the table back as it now is.
    ///
    /// # Errors
    /// `Overtaken` if somebody else changed it: two do the same work.
    pub(crate) async fn save_aside<T: serde::Serialize>(
        &self,
        job: JobId,
        row: &mut Versioned<T>,
    ) -> Result<(), BookError> {
        let writes = vec![write_back(row)];
        self.commit(TABLE, &job.to_string(), writes, &row.id)
            .await?;
        row.rev += 1;
        Ok(())
    }
}

fn deleted(row: &ControlRow) -> ControlWrite {
    ControlWrite {
        id: row.id.clone(),
        expect: Expect::Rev(row.rev),
        body: None,
    }
}

fn until_id(until_ms: u64, org: &OrgId, job: JobId) -> String {
    format!("{until_ms:015}/{org}/{job}")
}

fn of_channel(job: JobId, channel: &ChannelId) -> String {
    format!("{job}/{channel}")
}

fn key_row_id(hour: Hour, key_id: KeyId) -> String {
    format!("{hour}/{key_id}")
}

/// A row id after all keys of an hour, and before those of the next.
fn past_hour(hour: &str) -> String {
    format!("{hour}/~")
}

fn key_address(id: &str) -> Option<(Hour, KeyId)> {
    let (hour, key_id) = id.split_once('/')?;
    Some((hour.parse().ok()?, key_id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, FakeClock, WallTime};
    use crate::store::sqlite::SqliteStore;
    use std::sync::Arc;

    /// However many hours are asked for at once, and however many keys an hour has,
    /// each hour is met once, in order, and none is passed over.
    #[tokio::test]
    async fn the_hours_of_what_is_set_aside_are_listed_whatever_the_page() {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::at(WallTime(1_700_000_000_000_000));
        let store = SqliteStore::open_or_create(dir.path().join("s"), clock.clone()).unwrap();
        let book = JobBook::new(Arc::new(store), clock.clone());
        let (job, channel) = (JobId::random(), ChannelId::new("c1").unwrap());
        let hour = |n: u32| Hour::of_unix_seconds(3600 * u64::from(n)).unwrap();
        let seal = AsideSeal {
            row_hex: String::new(),
        };
        let _ = book.take_aside_seal(job, &channel, &seal).await.unwrap();
        let mut keys = Vec::new();
        for (n, of_hour) in [(7, 1), (8, 150), (9, 3), (400_000, 100), (400_001, 99)] {
            keys.extend((0..of_hour).map(|key| {
                let row_hex = String::new();
                let wrap_epoch = crate::epoch::Epoch::FIRST;
                let row = AsideKey::Wrapped {
                    row_hex,
                    wrap_epoch,
                };
                ((hour(n), KeyId([key; 16])), row)
            }));
        }
        book.keep_aside(job, &channel, &keys).await.unwrap();
        let expected: Vec<String> = [7, 8, 9, 400_000, 400_001]
            .map(|n| hour(n).to_string())
            .to_vec();
        for limit in 1..=6 {
            let (mut all, mut after) = (Vec::new(), None::<String>);
            loop {
                let listed = book.aside_hours(job, &channel, after.as_deref(), limit);
                let listed = listed.await.unwrap();
                assert!(listed.len() <= limit, "{limit}");
                let ended = listed.len() < limit;
                all.extend(listed);
                after = all.last().cloned();
                if ended {
                    break;
                }
            }
            assert_eq!(all, expected, "{limit}");
        }
        let other = book.aside_hours(JobId::random(), &channel, None, 5).await;
        assert!(other.unwrap().is_empty());
        assert!(clock.wall().unix_ms() > 0);
    }
}
