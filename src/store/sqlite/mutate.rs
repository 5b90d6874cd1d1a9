//! The statements that write, run by the writing thread inside its transaction.
//!
//! Which of two cells stays is decided by SQL: [`PUT`] compares row values in the
//! merge order (`store::merge`, kept to it by a test). Only the partition's
//! tombstone is looked at here, once for all rows of a call.

use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::errors;
use crate::clock::{WallTime, WriteTime};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{Hour, RecordId};
use crate::store::{
    Applied, CellWrite, ControlTable, ControlWrite, Expect, KeyRow, Partition, SliceKey,
    StoreResult,
};

/// Cassandra's `MAX_TTL`: 20 years of 365 days, in seconds.
const MAX_TTL_S: u32 = 630_720_000;
/// Latest expiry, Unix seconds: 2038-01-19T03:14:06, where Cassandra's 32-bit
/// local deletion time ends (`Cell.MAX_DELETION_TIME`).
const MAX_EXPIRY_S: i64 = 2_147_483_646;

/// The columns `kind`, in the order in which they win a tie.
pub(super) const NONE: i64 = 0;
pub(super) const LASTING: i64 = 1;
pub(super) const EXPIRING: i64 = 2;
pub(super) const TOMBSTONE: i64 = 3;

/// What the writing thread is asked for.
pub(super) enum Request {
    Cells {
        partition: Partition,
        writes: Vec<CellWrite>,
    },
    DeleteCell {
        partition: Partition,
        record: RecordId,
        at: WriteTime,
    },
    DeleteRow {
        partition: Partition,
        record: RecordId,
        at: WriteTime,
    },
    DeletePartition {
        partition: Partition,
        at: WriteTime,
    },
    Key {
        slice: SliceKey,
        key: KeyRow,
    },
    DeleteKey {
        slice: SliceKey,
        key_id: KeyId,
        wrap_epoch: Epoch,
    },
    Control {
        table: ControlTable,
        partition: String,
        writes: Vec<ControlWrite>,
    },
    /// Removes what of these rows may be forgotten: `(part, record)`.
    ForgetRows {
        rows: Vec<(i64, Vec<u8>)>,
        cutoff_s: i64,
    },
    /// Removes these partition tombstones, whose rows are gone: `(id, del_wt)`.
    ForgetDeletions {
        partitions: Vec<(i64, i64)>,
        cutoff_s: i64,
    },
}

/// What a request that was committed has to say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Done,
    Control(Applied),
    Forgotten(u64),
}

impl Request {
    /// Rows and bytes to be written: what bounds a transaction.
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Request::Cells { writes, .. } => {
                (writes.len(), writes.iter().map(|w| w.cell.len()).sum())
            }
            Request::Key { key, .. } => (1, key.row.len()),
            Request::Control { writes, .. } => (
                writes.len(),
                writes
                    .iter()
                    .filter_map(|w| w.body.as_ref())
                    .map(String::len)
                    .sum(),
            ),
            Request::ForgetRows { rows, .. } => (rows.len(), 0),
            Request::ForgetDeletions { partitions, .. } => (partitions.len(), 0),
            Request::DeleteCell { .. }
            | Request::DeleteRow { .. }
            | Request::DeletePartition { .. }
            | Request::DeleteKey { .. } => (1, 0),
        }
    }

    /// Runs the request's statements. After an error of control rows or keys
    /// nothing of it stands; of cells each row stands for itself.
    pub(super) fn execute(&self, conn: &Connection, now: WallTime) -> StoreResult<Outcome> {
        let now_s = now.unix_seconds();
        match self {
            Request::Cells { partition, writes } => put_cells(conn, partition, writes, now_s)?,
            Request::DeleteCell {
                partition,
                record,
                at,
            } => {
                check_time(*at)?;
                let part = Part::of(conn, partition)?;
                if !part.takes(*at) {
                    return Ok(Outcome::Done);
                }
                put(conn)?
                    .execute(params![
                        part.id,
                        record.as_bytes(),
                        at.0,
                        TOMBSTONE,
                        now_s,
                        0,
                        &[] as &[u8]
                    ])
                    .map_err(errors::of)?;
            }
            Request::DeleteRow {
                partition,
                record,
                at,
            } => {
                check_time(*at)?;
                let part = Part::of(conn, partition)?;
                if !part.takes(*at) {
                    return Ok(Outcome::Done);
                }
                run(
                    conn,
                    DELETE_ROW,
                    params![part.id, record.as_bytes(), at.0, now_s],
                )?;
            }
            Request::DeletePartition { partition, at } => {
                check_time(*at)?;
                let part = Part::of(conn, partition)?;
                run(conn, DELETE_PARTITION, params![part.id, at.0, now_s])?;
            }
            Request::Key { slice, key } => insert_key(conn, slice, key)?,
            Request::DeleteKey {
                slice,
                key_id,
                wrap_epoch,
            } => {
                run(
                    conn,
                    "DELETE FROM data_keys WHERE org = ?1 AND kind = ?2 AND grp = ?3
                        AND slice = ?4 AND key_id = ?5 AND wrap_epoch = ?6",
                    params![
                        slice.org.as_str(),
                        slice.kind.as_str(),
                        slice.group,
                        slice.slice,
                        key_id.0,
                        wrap_epoch.get()
                    ],
                )?;
            }
            Request::Control {
                table,
                partition,
                writes,
            } => {
                return apply_control(conn, *table, partition, writes).map(Outcome::Control);
            }
            Request::ForgetRows { rows, cutoff_s } => {
                let mut forgotten = 0;
                for (part, record) in rows {
                    forgotten += super::purge::forget_row(conn, *part, record, *cutoff_s)?;
                }
                return Ok(Outcome::Forgotten(forgotten));
            }
            Request::ForgetDeletions {
                partitions,
                cutoff_s,
            } => {
                let mut forgotten = 0;
                for (part, del_wt) in partitions {
                    forgotten += super::purge::forget_deletion(conn, *part, *del_wt, *cutoff_s)?;
                }
                return Ok(Outcome::Forgotten(forgotten));
            }
        }
        Ok(Outcome::Done)
    }
}

/// Puts a cell or a cell tombstone where it wins: over nothing, or over what the
/// merge order puts below it, and only above the tombstone of its row.
///
/// One row of VALUES and not a SELECT: SQLite would copy each page it changes
/// (16 KiB) to be able to undo a statement of several rows.
const PUT: &str = "
    INSERT INTO cells (part, record, wt, kind, ldt, ttl, cell)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (part, record) DO UPDATE
    SET wt = excluded.wt, kind = excluded.kind, ldt = excluded.ldt, ttl = excluded.ttl,
        cell = excluded.cell
    WHERE (row_wt IS NULL OR row_wt < excluded.wt)
      AND (excluded.wt, excluded.kind, excluded.ldt, -excluded.ttl, excluded.cell)
        > (wt, kind, ldt, -ttl, cell)";

/// Raises the row's tombstone and drops the cell it covers. `wt` of no cell is
/// the smallest integer, below every write.
const DELETE_ROW: &str = "
    INSERT INTO cells (part, record, wt, kind, ldt, ttl, row_wt, row_ldt, cell)
    VALUES (?1, ?2, -9223372036854775808, 0, 0, 0, ?3, ?4, x'')
    ON CONFLICT (part, record) DO UPDATE
    SET row_wt = excluded.row_wt, row_ldt = excluded.row_ldt,
        kind = iif(wt <= excluded.row_wt, 0, kind),
        ldt  = iif(wt <= excluded.row_wt, 0, ldt),
        ttl  = iif(wt <= excluded.row_wt, 0, ttl),
        cell = iif(wt <= excluded.row_wt, x'', cell),
        wt   = iif(wt <= excluded.row_wt, -9223372036854775808, wt)
    WHERE row_wt IS NULL OR (excluded.row_wt, excluded.row_ldt) > (row_wt, row_ldt)";

/// Raises the partition's tombstone. The rows it covers stay until they are
/// purged, so that deleting a million rows holds the lock no longer than one.
const DELETE_PARTITION: &str = "
    UPDATE partitions SET del_wt = ?2, del_ldt = ?3
     WHERE id = ?1 AND (del_wt IS NULL OR (?2, ?3) > (del_wt, del_ldt))";

fn prepare<'c>(conn: &'c Connection, sql: &str) -> StoreResult<CachedStatement<'c>> {
    conn.prepare_cached(sql).map_err(errors::of)
}

fn put(conn: &Connection) -> StoreResult<CachedStatement<'_>> {
    prepare(conn, PUT)
}

/// Runs one cached statement; answers how many rows it changed.
pub(super) fn run(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> StoreResult<u64> {
    let changed = prepare(conn, sql)?.execute(params).map_err(errors::of)?;
    Ok(changed as u64)
}

/// A partition as it stands in this transaction; nobody else changes it before
/// the commit.
struct Part {
    id: i64,
    /// Write time of its tombstone.
    deleted: Option<i64>,
}

impl Part {
    /// Finds the partition, or gives it its number.
    fn of(conn: &Connection, partition: &Partition) -> StoreResult<Self> {
        let key = params![
            partition.org.as_str(),
            partition.place.as_str(),
            hour_number(partition.hour)
        ];
        let found = prepare(
            conn,
            "SELECT id, del_wt FROM partitions WHERE org = ?1 AND place = ?2 AND hour = ?3",
        )?
        .query_row(key, |row| {
            Ok(Part {
                id: row.get(0)?,
                deleted: row.get(1)?,
            })
        })
        .optional()
        .map_err(errors::of)?;
        if let Some(part) = found {
            return Ok(part);
        }
        run(
            conn,
            "INSERT INTO partitions (org, place, hour) VALUES (?1, ?2, ?3)",
            key,
        )?;
        Ok(Part {
            id: conn.last_insert_rowid(),
            deleted: None,
        })
    }

    /// Whether a write at this time is above the partition's tombstone.
    fn takes(&self, at: WriteTime) -> bool {
        self.deleted.is_none_or(|deleted| deleted < at.0)
    }
}

/// Hours since 1970.
pub(super) fn hour_number(hour: Hour) -> i64 {
    // Hours to the end of 9999 fit in 27 bits.
    (hour.start_unix_seconds() / 3600) as i64
}

/// The smallest integer means "no write" here, as it does in Cassandra.
fn check_time(at: WriteTime) -> StoreResult<()> {
    if at.0 == i64::MIN {
        Err(errors::invalid("the write time is out of range"))
    } else {
        Ok(())
    }
}

/// When a value written now expires; 0 if it is lasting.
fn expiry_s(now_s: i64, ttl_s: u32) -> StoreResult<i64> {
    if ttl_s == 0 {
        return Ok(0);
    }
    if ttl_s > MAX_TTL_S {
        return Err(errors::invalid(format!(
            "a TTL of {ttl_s} s is above {MAX_TTL_S} s"
        )));
    }
    let expiry_s = now_s + i64::from(ttl_s);
    if expiry_s > MAX_EXPIRY_S {
        return Err(errors::invalid(format!(
            "a TTL of {ttl_s} s ends after 2038-01-19T03:14:06Z"
        )));
    }
    Ok(expiry_s)
}

fn put_cells(
    conn: &Connection,
    partition: &Partition,
    writes: &[CellWrite],
    now_s: i64,
) -> StoreResult<()> {
    for write in writes {
        check_time(write.write_time)?;
        expiry_s(now_s, write.ttl_s)?;
    }
    let part = Part::of(conn, partition)?;
    let mut put = put(conn)?;
    for write in writes.iter().filter(|write| part.takes(write.write_time)) {
        let expiry_s = expiry_s(now_s, write.ttl_s)?;
        let kind = if write.ttl_s == 0 { LASTING } else { EXPIRING };
        put.execute(params![
            part.id,
            write.record.as_bytes(),
            write.write_time.0,
            kind,
            expiry_s,
            write.ttl_s,
            write.cell.as_ref()
        ])
        .map_err(errors::of)?;
    }
    Ok(())
}

fn insert_key(conn: &Connection, slice: &SliceKey, key: &KeyRow) -> StoreResult<()> {
    let inserted = run(
        conn,
        "INSERT INTO data_keys (org, kind, grp, slice, key_id, wrap_epoch, row)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        params![
            slice.org.as_str(),
            slice.kind.as_str(),
            slice.group,
            slice.slice,
            key.key_id.0,
            key.wrap_epoch.get(),
            key.row
        ],
    )?;
    if inserted == 1 {
        return Ok(());
    }
    let same: bool = prepare(
        conn,
        "SELECT row = ?7 FROM data_keys WHERE org = ?1 AND kind = ?2 AND grp = ?3 AND slice = ?4
            AND key_id = ?5 AND wrap_epoch = ?6",
    )?
    .query_row(
        params![
            slice.org.as_str(),
            slice.kind.as_str(),
            slice.group,
            slice.slice,
            key.key_id.0,
            key.wrap_epoch.get(),
            key.row
        ],
        |row| row.get(0),
    )
    .map_err(errors::of)?;
    if same {
        Ok(())
    } else {
        Err(errors::invalid(format!(
            "slice {slice} has another row for key {} at wrap epoch {}",
            key.key_id, key.wrap_epoch
        )))
    }
}

fn apply_control(
    conn: &Connection,
    table: ControlTable,
    partition: &str,
    writes: &[ControlWrite],
) -> StoreResult<Applied> {
    let mut ids: Vec<&str> = writes.iter().map(|w| w.id.as_str()).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(errors::invalid(
            "a conditional batch names one control row twice",
        ));
    }
    // All conditions are looked at before the first change, in the transaction
    // that makes the changes.
    for write in writes {
        let rev: Option<u64> = prepare(
            conn,
            "SELECT rev FROM control WHERE tbl = ?1 AND part = ?2 AND id = ?3",
        )?
        .query_row(params![table.as_str(), partition, write.id], |row| {
            row.get::<_, i64>(0)
        })
        .optional()
        .map_err(errors::of)?
        .map(i64::cast_unsigned);
        let holds = match write.expect {
            Expect::Absent => rev.is_none(),
            Expect::Rev(expected) => rev == Some(expected),
        };
        if !holds {
            return Ok(Applied::No);
        }
    }
    run(conn, "SAVEPOINT batch", [])?;
    for write in writes {
        if let Err(err) = change_control(conn, table, partition, write) {
            // Fails only where SQLite has undone the whole transaction itself,
            // which the writing thread looks for.
            let _ = conn.execute_batch("ROLLBACK TO batch; RELEASE batch");
            return Err(err);
        }
    }
    run(conn, "RELEASE batch", [])?;
    Ok(Applied::Yes)
}

fn change_control(
    conn: &Connection,
    table: ControlTable,
    partition: &str,
    write: &ControlWrite,
) -> StoreResult<()> {
    match &write.body {
        Some(body) => run(
            conn,
            "INSERT INTO control (tbl, part, id, rev, body) VALUES (?1, ?2, ?3, 1, ?4)
             ON CONFLICT (tbl, part, id) DO UPDATE SET rev = rev + 1, body = excluded.body",
            params![table.as_str(), partition, write.id, body],
        )?,
        None => run(
            conn,
            "DELETE FROM control WHERE tbl = ?1 AND part = ?2 AND id = ?3",
            params![table.as_str(), partition, write.id],
        )?,
    };
    Ok(())
}
