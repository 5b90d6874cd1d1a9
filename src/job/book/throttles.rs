//! Throttles in the store: one row for each target, and one for each change.

use super::{BookError, JobBook, Versioned, parse};
use crate::clock::WallTime;
use crate::job::throttle::{Throttle, ThrottleEvent, ThrottleLimits, ThrottleTarget};
use crate::registry::insert;
use crate::store::{ControlTable, ControlWrite, Expect};

/// Partition of the jobs' table with the throttles. No organization can have
/// this name.
pub(super) const THROTTLES: &str = "~throttles";
const SET: &str = "set/";
const PAST: &str = "past/";

/// The rows of all throttles, those that have ended and those that do not parse
/// among them.
#[derive(Debug, Default)]
pub struct ThrottleRows {
    /// By the name of their target, as the row has it.
    pub rows: Vec<(String, Result<Versioned<Throttle>, BookError>)>,
}

impl ThrottleRows {
    /// Those that have not ended, widest first.
    pub fn live(&self, now: WallTime) -> Vec<Throttle> {
        let rows = self.rows.iter().filter_map(|(_, row)| row.as_ref().ok());
        let mut live: Vec<Throttle> = rows
            .filter(|row| !row.row.has_ended(now, 0))
            .map(|row| row.row.clone())
            .collect();
        live.sort_by(|a, b| a.target.cmp(&b.target));
        live
    }

    /// Names of rows that do not parse, and why. Nothing that they may concern is
    /// begun anew.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        let rows = self.rows.iter();
        rows.filter_map(|(name, row)| Some((name.clone(), row.as_ref().err()?.to_string())))
            .collect()
    }
}

impl JobBook {
    /// Reads the throttles. A row that does not parse is an error of its own, not
    /// of the listing.
    pub async fn throttles(&self) -> Result<ThrottleRows, BookError> {
        let rows = self.list_raw(ControlTable::Jobs, THROTTLES, SET).await?;
        let rows = rows.iter().map(|row| {
            let name = row.id.strip_prefix(SET).unwrap_or(&row.id).to_owned();
            let parsed = parse(ControlTable::Jobs, row).and_then(|seen: Versioned<Throttle>| {
                let problem = match seen.row.limits.problem() {
                    None if seen.row.target.to_string() == name => return Ok(seen),
                    None => "it is of another target than its row",
                    Some(problem) => problem,
                };
                Err(BookError::Malformed {
                    table: "jobs",
                    row: row.id.clone(),
                    why: problem.to_owned(),
                })
            });
            (name, parsed)
        });
        Ok(ThrottleRows {
            rows: rows.collect(),
        })
    }

    /// Sets the throttle of a target in place of what stands there, readable or
    /// not, together with the row that says who and why.
    ///
    /// # Errors
    /// `Overtaken` if somebody else changed the same throttle at this moment.
    pub async fn set_throttle(
        &self,
        target: ThrottleTarget,
        limits: ThrottleLimits,
        until: WallTime,
        who: &str,
        why: &str,
    ) -> Result<Throttle, BookError> {
        let throttle = Throttle {
            target: target.clone(),
            limits,
            set_ms: self.clock.wall().unix_ms(),
            until_ms: until.unix_ms(),
            who: who.to_owned(),
            why: why.to_owned(),
        };
        let id = format!("{SET}{target}");
        let write = ControlWrite {
            expect: match self.throttle_rev(&id).await? {
                Some(rev) => Expect::Rev(rev),
                None => Expect::Absent,
            },
            body: Some(crate::registry::body(&throttle)),
            id: id.clone(),
        };
        let event = self.event(target, Some(throttle.clone()), who, why);
        self.commit(ControlTable::Jobs, THROTTLES, vec![write, event], &id)
            .await?;
        Ok(throttle)
    }

    /// Clears the throttle of a target, readable or not. `false`: there was none.
    ///
    /// # Errors
    /// `Overtaken` if somebody else changed the same throttle at this moment.
    pub async fn clear_throttle(
        &self,
        target: ThrottleTarget,
        who: &str,
        why: &str,
    ) -> Result<bool, BookError> {
        let id = format!("{SET}{target}");
        let Some(rev) = self.throttle_rev(&id).await? else {
            return Ok(false);
        };
        let write = ControlWrite {
            id: id.clone(),
            expect: Expect::Rev(rev),
            body: None,
        };
        let event = self.event(target, None, who, why);
        self.commit(ControlTable::Jobs, THROTTLES, vec![write, event], &id)
            .await?;
        Ok(true)
    }

    /// Every throttle that was set or cleared, oldest first.
    pub async fn throttle_events(&self) -> Result<Vec<ThrottleEvent>, BookError> {
        let rows: Vec<Versioned<ThrottleEvent>> =
            self.list(ControlTable::Jobs, THROTTLES, PAST).await?;
        Ok(rows.into_iter().map(|row| row.row).collect())
    }

    async fn throttle_rev(&self, id: &str) -> Result<Option<u64>, BookError> {
        let rows = self
            .store
            .control_get(ControlTable::Jobs, THROTTLES, &[id])
            .await?;
        Ok(rows.first().map(|row| row.rev))
    }

    fn event(
        &self,
        target: ThrottleTarget,
        set: Option<Throttle>,
        who: &str,
        why: &str,
    ) -> ControlWrite {
        let at_ms = self.clock.wall().unix_ms();
        let event = ThrottleEvent {
            target,
            at_ms,
            who: who.to_owned(),
            why: why.to_owned(),
            set,
        };
        // In order of time; the end keeps two of one millisecond apart.
        insert(
            &format!("{PAST}{at_ms:015}/{:08x}", rand::random::<u32>()),
            &event,
        )
    }
}
