//! Forgetting: tombstones and expired cells are kept for a day and then removed.
//!
//! They have to be kept because a write with an older write time may still
//! arrive (a worker that was frozen, a batch sent twice) and must lose. The rows
//! under a partition's tombstone may go at once: the tombstone stays.

use rusqlite::{Connection, Result, params};

use super::SqliteStore;
use super::errors;
use super::mutate::{Outcome, Request, run};
use crate::clock::WallTime;
use crate::store::StoreResult;

/// How long a tombstone or an expired cell is kept at least, in seconds.
pub const KEPT_S: i64 = 86_400;

/// Rows looked at in one reading transaction.
const STEP_ROWS: i64 = 2000;

// `p` is the row's partition; `?3` the cutoff in Unix seconds.
macro_rules! cell_gone {
    () => {
        "(c.kind = 0 OR (c.kind >= 2 AND c.ldt <= ?3) OR (p.del_wt IS NOT NULL AND c.wt <= p.del_wt))"
    };
}
macro_rules! row_tombstone_gone {
    () => {
        "(c.row_wt IS NULL OR c.row_ldt <= ?3 OR (p.del_wt IS NOT NULL AND c.row_wt <= p.del_wt))"
    };
}

const CANDIDATES: &str = concat!(
    "SELECT c.part, c.record, ",
    "(c.kind <> 0 AND ",
    cell_gone!(),
    ") OR (c.row_wt IS NOT NULL AND ",
    row_tombstone_gone!(),
    ")",
    " FROM cells c CROSS JOIN partitions p ON p.id = c.part",
    " WHERE (c.part, c.record) > (?1, ?2) ORDER BY c.part, c.record LIMIT ?4",
);

const REMOVE: &str = concat!(
    "DELETE FROM cells AS c WHERE c.part = ?1 AND c.record = ?2 AND EXISTS (",
    "SELECT 1 FROM partitions p WHERE p.id = c.part AND ",
    cell_gone!(),
    " AND ",
    row_tombstone_gone!(),
    ")",
);
const CLEAR_CELL: &str = concat!(
    "UPDATE cells AS c SET wt = -9223372036854775808, kind = 0, ldt = 0, ttl = 0, cell = x''",
    " WHERE c.part = ?1 AND c.record = ?2 AND c.kind <> 0 AND EXISTS (",
    "SELECT 1 FROM partitions p WHERE p.id = c.part AND ",
    cell_gone!(),
    ")",
);
const CLEAR_ROW_TOMBSTONE: &str = concat!(
    "UPDATE cells AS c SET row_wt = NULL, row_ldt = NULL",
    " WHERE c.part = ?1 AND c.record = ?2 AND c.row_wt IS NOT NULL AND EXISTS (",
    "SELECT 1 FROM partitions p WHERE p.id = c.part AND ",
    row_tombstone_gone!(),
    ")",
);

impl SqliteStore {
    /// Removes tombstones and expired cells that are at least a day old at
    /// `now`, and what partition tombstones cover. Answers how many rows it
    /// changed. It goes through the whole store in short steps, beside readers
    /// and writers; once a day is often enough.
    ///
    /// # Errors
    /// Those of reading and writing. What was removed before the error stays
    /// removed.
    pub async fn purge(&self, now: WallTime) -> StoreResult<u64> {
        let cutoff_s = now.unix_seconds().saturating_sub(KEPT_S);
        // Taken before the rows are: no row can come under these tombstones any
        // more, so after the pass they cover nothing and may go.
        let partitions = self
            .readers
            .run(move |conn| old_deletions(conn, cutoff_s))
            .await?;
        let mut purged = 0;
        let mut from = (i64::MIN, Vec::new());
        loop {
            let start = from.clone();
            let step = self
                .readers
                .run(move |conn| candidates(conn, &start, cutoff_s))
                .await?;
            purged += self
                .forget(Request::ForgetRows {
                    rows: step.rows,
                    cutoff_s,
                })
                .await?;
            match step.last {
                Some(last) => from = last,
                None => break,
            }
        }
        Ok(purged
            + self
                .forget(Request::ForgetDeletions {
                    partitions,
                    cutoff_s,
                })
                .await?)
    }

    async fn forget(&self, request: Request) -> StoreResult<u64> {
        if request.size().0 == 0 {
            return Ok(0);
        }
        match self.writer.run(request).await? {
            Outcome::Forgotten(rows) => Ok(rows),
            Outcome::Done | Outcome::Control(_) => Err(errors::stopped()),
        }
    }
}

struct Step {
    rows: Vec<(i64, Vec<u8>)>,
    last: Option<(i64, Vec<u8>)>,
}

fn candidates(conn: &Connection, from: &(i64, Vec<u8>), cutoff_s: i64) -> Result<Step> {
    let mut statement = conn.prepare_cached(CANDIDATES)?;
    let mut found = statement.query(params![from.0, from.1, cutoff_s, STEP_ROWS])?;
    let mut step = Step {
        rows: Vec::new(),
        last: None,
    };
    while let Some(row) = found.next()? {
        let key: (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if row.get(2)? {
            step.rows.push(key.clone());
        }
        step.last = Some(key);
    }
    Ok(step)
}

fn old_deletions(conn: &Connection, cutoff_s: i64) -> Result<Vec<(i64, i64)>> {
    conn.prepare_cached(
        "SELECT id, del_wt FROM partitions WHERE del_wt IS NOT NULL AND del_ldt <= ?1",
    )?
    .query_map([cutoff_s], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Removes of one row what may be forgotten, asking again: it may have been
/// written since it was found.
pub(super) fn forget_row(
    conn: &Connection,
    part: i64,
    record: &[u8],
    cutoff_s: i64,
) -> StoreResult<u64> {
    let key = params![part, record, cutoff_s];
    if run(conn, REMOVE, key)? > 0 {
        return Ok(1);
    }
    let cleared = run(conn, CLEAR_CELL, key)? + run(conn, CLEAR_ROW_TOMBSTONE, key)?;
    Ok(cleared.min(1))
}

/// Removes a partition's tombstone, and the partition where nothing is left.
pub(super) fn forget_deletion(
    conn: &Connection,
    part: i64,
    del_wt: i64,
    cutoff_s: i64,
) -> StoreResult<u64> {
    let cleared = run(
        conn,
        "UPDATE partitions SET del_wt = NULL, del_ldt = NULL
          WHERE id = ?1 AND del_wt = ?2 AND del_ldt <= ?3",
        params![part, del_wt, cutoff_s],
    )?;
    run(
        conn,
        "DELETE FROM partitions WHERE id = ?1 AND del_wt IS NULL
            AND NOT EXISTS (SELECT 1 FROM cells WHERE part = ?1)",
        [part],
    )?;
    Ok(cleared)
}
