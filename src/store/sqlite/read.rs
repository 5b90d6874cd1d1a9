//! The statements that read. Each function is one statement or one short
//! transaction: it sees one state of the store, and everything that was
//! acknowledged, by whatever process, before it started.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::mutate::{EXPIRING, LASTING, NONE, TOMBSTONE, hour_number};
use crate::clock::{WallTime, WriteTime};
use crate::crypto::KeyId;
use crate::epoch::Epoch;
use crate::ids::{OrgId, RecordId};
use crate::scope::Kind;
use crate::store::{
    ControlRow, ControlTable, KeyRow, Page, PageLimit, Partition, SliceKey, StoredCell,
};

// CROSS JOIN fixes the order: first the one partition, then its rows by key.
const PAGE: &str = "
    SELECT c.record, c.wt, c.kind, c.ldt, p.del_wt, c.cell
      FROM partitions p CROSS JOIN cells c ON c.part = p.id
     WHERE p.org = ?1 AND p.place = ?2 AND p.hour = ?3 AND c.record > ?4
     ORDER BY c.record";

const CELL: &str = "
    SELECT c.record, c.wt, c.kind, c.ldt, p.del_wt, c.cell
      FROM partitions p CROSS JOIN cells c ON c.part = p.id
     WHERE p.org = ?1 AND p.place = ?2 AND p.hour = ?3 AND c.record = ?4";

/// What a row of `cells` is to a reader.
enum Seen {
    /// `ttl_s` of the live value.
    Live(Option<u32>),
    /// A row whose value is gone: deleted by itself, or expired.
    Empty,
    /// No row: deleted as a row or with its partition.
    Nothing,
}

fn see(row: &Row<'_>, now_s: i64) -> Result<Seen> {
    let (wt, kind, ldt): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let deleted: Option<i64> = row.get(4)?;
    if kind == NONE || deleted.is_some_and(|deleted| wt <= deleted) {
        return Ok(Seen::Nothing);
    }
    Ok(match kind {
        LASTING => Seen::Live(None),
        // Cassandra: live while now is before the expiry, in whole seconds. The
        // difference fits, for the expiry was checked when it was written.
        EXPIRING if now_s < ldt => Seen::Live(u32::try_from(ldt - now_s).ok()),
        EXPIRING | TOMBSTONE => Seen::Empty,
        _ => return Err(rusqlite::Error::IntegralValueOutOfRange(2, kind)),
    })
}

fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8]> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => Ok(bytes),
        other => Err(rusqlite::Error::InvalidColumnType(
            column,
            "blob".to_owned(),
            other.data_type(),
        )),
    }
}

fn record(row: &Row<'_>) -> Result<RecordId> {
    RecordId::from_slice(blob(row, 0)?).map_err(|err| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(err))
    })
}

fn stored_cell(row: &Row<'_>, ttl_s: Option<u32>) -> Result<StoredCell> {
    Ok(StoredCell {
        record: record(row)?,
        cell: blob(row, 5)?.to_vec(),
        write_time: WriteTime(row.get(1)?),
        ttl_s,
    })
}

/// One page. `limit.rows` counts every row looked at, so that a page is short
/// work even where everything is deleted.
pub(super) fn page(
    conn: &Connection,
    partition: &Partition,
    after: Option<&RecordId>,
    limit: PageLimit,
    now: WallTime,
) -> Result<Page> {
    let now_s = now.unix_seconds();
    let mut statement = conn.prepare_cached(PAGE)?;
    // A record id has at least one byte: all are above the empty one.
    let after = after.map_or(&[][..], RecordId::as_bytes);
    let mut rows = statement.query(params![
        partition.org.as_str(),
        partition.place.as_str(),
        hour_number(partition.hour),
        after
    ])?;
    let mut page = Page::default();
    let (mut looked_at, mut bytes) = (0, 0);
    let mut last = None;
    while let Some(row) = rows.next()? {
        let seen = see(row, now_s)?;
        let size = if let Seen::Live(_) = seen {
            blob(row, 5)?.len()
        } else {
            0
        };
        if looked_at > 0 && (looked_at >= limit.rows || bytes + size > limit.bytes) {
            page.next = last;
            break;
        }
        looked_at += 1;
        bytes += size;
        match seen {
            Seen::Live(ttl_s) => {
                let cell = stored_cell(row, ttl_s)?;
                last = Some(cell.record.clone());
                page.cells.push(cell);
                continue;
            }
            Seen::Empty => page.empty_rows += 1,
            Seen::Nothing => {}
        }
        last = Some(record(row)?);
    }
    Ok(page)
}

/// One cell, if it is live.
pub(super) fn cell(
    conn: &Connection,
    partition: &Partition,
    record: &RecordId,
    now: WallTime,
) -> Result<Option<StoredCell>> {
    let key = params![
        partition.org.as_str(),
        partition.place.as_str(),
        hour_number(partition.hour),
        record.as_bytes()
    ];
    conn.prepare_cached(CELL)?
        .query_row(key, |row| match see(row, now.unix_seconds())? {
            Seen::Live(ttl_s) => stored_cell(row, ttl_s).map(Some),
            Seen::Empty | Seen::Nothing => Ok(None),
        })
        .optional()
        .map(Option::flatten)
}

/// All key rows of a slice, by key id, highest wrap epoch first.
pub(super) fn keys(conn: &Connection, slice: &SliceKey) -> Result<Vec<KeyRow>> {
    conn.prepare_cached(
        "SELECT key_id, wrap_epoch, row FROM data_keys
          WHERE org = ?1 AND kind = ?2 AND grp = ?3 AND slice = ?4
          ORDER BY key_id, wrap_epoch DESC",
    )?
    .query_map(
        params![
            slice.org.as_str(),
            slice.kind.as_str(),
            slice.group,
            slice.slice
        ],
        |row| {
            let wrap_epoch: u32 = row.get(1)?;
            Ok(KeyRow {
                key_id: KeyId(row.get(0)?),
                wrap_epoch: Epoch::new(wrap_epoch).map_err(|_| {
                    rusqlite::Error::IntegralValueOutOfRange(1, i64::from(wrap_epoch))
                })?,
                row: row.get(2)?,
            })
        },
    )?
    .collect()
}

/// Slices of a group that have a key row.
pub(super) fn slices(
    conn: &Connection,
    org: &OrgId,
    kind: Kind,
    group: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>> {
    conn.prepare_cached(
        "SELECT DISTINCT slice FROM data_keys
          WHERE org = ?1 AND kind = ?2 AND grp = ?3 AND slice >= ?4 AND (?5 IS NULL OR slice <> ?5)
          ORDER BY slice LIMIT ?6",
    )?
    .query_map(
        params![
            org.as_str(),
            kind.as_str(),
            group,
            // A range the index can start from; `after IS NULL OR` is none.
            after.unwrap_or_default(),
            after,
            limit_value(limit)
        ],
        |row| row.get(0),
    )?
    .collect()
}

/// SQLite reads a negative limit as none.
fn limit_value(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn control_row(row: &Row<'_>) -> Result<ControlRow> {
    Ok(ControlRow {
        id: row.get(0)?,
        rev: row.get::<_, i64>(1)?.cast_unsigned(),
        body: row.get(2)?,
    })
}

/// Control rows by id, in one statement and so of one instant.
pub(super) fn control_get(
    conn: &Connection,
    table: ControlTable,
    partition: &str,
    ids: &[String],
) -> Result<Vec<ControlRow>> {
    let ids = serde_json::Value::from(ids).to_string();
    conn.prepare_cached(
        "SELECT id, rev, body FROM control
          WHERE tbl = ?1 AND part = ?2 AND id IN (SELECT value FROM json_each(?3))
          ORDER BY id",
    )?
    .query_map(params![table.as_str(), partition, ids], control_row)?
    .collect()
}

/// Control rows by the beginning of their id.
pub(super) fn control_list(
    conn: &Connection,
    table: ControlTable,
    partition: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ControlRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT id, rev, body FROM control
          WHERE tbl = ?1 AND part = ?2 AND id >= ?3 AND (?4 IS NULL OR id > ?4)
          ORDER BY id LIMIT ?5",
    )?;
    // From the later of the two on: the rows before `after` are not walked.
    let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
    let mut rows = statement.query(params![
        table.as_str(),
        partition,
        from,
        after,
        limit_value(limit)
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let row = control_row(row)?;
        // Ids that start with the prefix stand together, right from the prefix.
        if !row.id.starts_with(prefix) {
            break;
        }
        found.push(row);
    }
    Ok(found)
}

/// The partitions of a control table: one seek each, however many rows each has.
pub(super) fn control_partitions(
    conn: &Connection,
    table: ControlTable,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<String>> {
    conn.prepare_cached(
        "WITH RECURSIVE found (part) AS (
            SELECT iif(?2 IS NULL,
                (SELECT min(part) FROM control WHERE tbl = ?1),
                (SELECT min(part) FROM control WHERE tbl = ?1 AND part > ?2))
            UNION ALL
            SELECT (SELECT min(part) FROM control WHERE tbl = ?1 AND part > found.part)
              FROM found WHERE found.part IS NOT NULL
         )
         SELECT part FROM found WHERE part IS NOT NULL LIMIT ?3",
    )?
    .query_map(params![table.as_str(), after, limit_value(limit)], |row| {
        row.get(0)
    })?
    .collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::ids::{Hour, Place};
    use crate::store::sqlite::schema;

    /// SQLite can look at the values asked for and then plans anew for others,
    /// at several times the cost of the read.
    #[test]
    fn a_kept_statement_is_not_planned_again_for_other_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        schema::create(&path).unwrap();
        let conn = schema::connect(&path).unwrap();
        let limit = PageLimit {
            rows: 9,
            bytes: 9999,
        };
        for n in 0..3u64 {
            let partition = Partition {
                org: OrgId::new(format!("org{n}")).unwrap(),
                place: Place::random(),
                hour: Hour::of_unix_seconds(3600 * n).unwrap(),
            };
            let after = RecordId::new(vec![n as u8]).unwrap();
            page(&conn, &partition, Some(&after), limit, WallTime(0)).unwrap();
            cell(&conn, &partition, &after, WallTime(0)).unwrap();
        }
        for sql in [PAGE, CELL] {
            let kept = conn.prepare_cached(sql).unwrap();
            assert_eq!(kept.get_status(StatementStatus::Run), 3, "{sql}");
            assert_eq!(kept.get_status(StatementStatus::RePrepare), 0, "{sql}");
        }
    }
}
