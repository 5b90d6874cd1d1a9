//! Control rows: serial reads and conditional batches, each in one partition.
//!
//! They do not wait for the limiter: a lease must be renewed however busy the
//! data keeps the cluster.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use scylla::response::PagingState;
use scylla::response::query_result::{QueryResult, QueryRowsResult};
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency};
use scylla::value::{CqlValue, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::Requests;
use super::ambiguity::{Found, Judgement, judge};
use super::connect::Cluster;
use super::errors::{self, Failure};
use super::statements::ControlStatements;
use crate::store::{
    Applied, ControlRow, ControlTable, ControlWrite, Expect, StoreError, StoreErrorClass,
    StoreResult,
};

const READING: &str = "reading control rows";
const WRITING: &str = "writing control rows";

/// Wait before a conditional write without an answer is sent again; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// So many request timeouts until an ambiguous write is given up.
const PATIENCE: u32 = 3;
/// Partitions of one answer of a listing.
const PARTITIONS: i32 = 1000;

impl Cluster {
    /// At what a conditional write is committed. The registry is read by the
    /// clients of every datacenter, each at its own quorum.
    pub(super) fn commit_consistency(&self, table: ControlTable) -> Consistency {
        match table {
            ControlTable::Registry if self.spans_several_datacenters() => Consistency::EachQuorum,
            _ => Consistency::LocalQuorum,
        }
    }
}

impl Requests {
    pub(super) async fn rows(
        &self,
        table: ControlTable,
        partition: &str,
        ids: &[&str],
    ) -> StoreResult<Vec<ControlRow>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let get = &self.statements.control(table)?.get;
        control_rows(&self.serial(table, partition, get, (partition, ids)).await?)
    }

    pub(super) async fn rows_from(
        &self,
        table: ControlTable,
        partition: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<ControlRow>> {
        // The least id behind `after`, in the order of bytes.
        let behind = after.map(|after| format!("{after}\0"));
        let from = behind.as_deref().unwrap_or("").max(prefix);
        let until = end_of_prefix(prefix);
        if from >= until.as_str() || limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let list = &self.statements.control(table)?.list;
        let values = (partition, from, &*until, limit);
        control_rows(&self.serial(table, partition, list, values).await?)
    }

    /// The server lists partitions in the order of their tokens. So each call
    /// reads them all and keeps the first few of those asked for: memory is
    /// bounded by `limit`, the work is the whole table's partitions every time.
    pub(super) async fn partitions(
        &self,
        table: ControlTable,
        after: Option<&str>,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let mut statement = self.statements.control(table)?.partitions.clone();
        statement.set_page_size(PARTITIONS);
        let mut first: BTreeSet<String> = BTreeSet::new();
        let mut state = PagingState::start();
        loop {
            let session = &self.cluster.session;
            let (answer, more) = session
                .execute_single_page(&statement, (), state)
                .await
                .map_err(|e| Failure::from(e).into_error(READING))?;
            let answer = rows_of(answer)?;
            for row in answer
                .rows::<(&str,)>()
                .map_err(|e| errors::unexpected(READING, e))?
            {
                let (name,) = row.map_err(|e| errors::unexpected(READING, e))?;
                let is_behind = after.is_none_or(|after| name > after);
                let has_room = first.len() < limit;
                if is_behind && (has_room || first.last().is_some_and(|last| name < &**last)) {
                    first.insert(name.to_owned());
                    if first.len() > limit {
                        first.pop_last();
                    }
                }
            }
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(first.into_iter().collect()),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }

    /// See [`super::ambiguity`] for what is done without an answer.
    pub(super) async fn apply(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
    ) -> StoreResult<Applied> {
        if writes.is_empty() {
            return Ok(Applied::Yes);
        }
        let statements = self.statements.control(table)?;
        let op = Uuid::new_v4();
        let change = self.change(statements, table, partition, writes, op)?;
        let start = Instant::now();
        let mut wait = FIRST_WAIT;
        let mut is_ambiguous = false;
        loop {
            match self.send(table, partition, &change).await {
                Ok(true) => return Ok(Applied::Yes),
                Ok(false) if !is_ambiguous => return Ok(Applied::No),
                Ok(false) => match self.look_back(table, partition, writes, op).await {
                    Ok(Judgement::Applied) => return Ok(Applied::Yes),
                    Ok(Judgement::NotApplied) => return Ok(Applied::No),
                    Ok(Judgement::Unknown) => {
                        return Err(open(table, partition, "its rows have changed since"));
                    }
                    Err(error) if error.class != StoreErrorClass::Transient => return Err(error),
                    Err(_) => {}
                },
                Err(failure) if !is_ambiguous && failure.not_done => {
                    return Err(failure.into_error(WRITING));
                }
                Err(failure) => {
                    is_ambiguous |= !failure.not_done;
                    let error = failure.into_error(WRITING);
                    tracing::debug!(%error, "a conditional write without an answer; asking again");
                    if error.class != StoreErrorClass::Transient {
                        return Err(open(table, partition, &error.message));
                    }
                }
            }
            if start.elapsed() + wait >= self.cluster.request_timeout * PATIENCE {
                return Err(open(table, partition, "no node answered in time"));
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    fn change<'s>(
        &self,
        statements: &'s ControlStatements,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
        op: Uuid,
    ) -> StoreResult<Change<'s>> {
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            changes.push(statement(statements, partition, write, op)?);
        }
        if changes.len() == 1
            && let Some((statement, values)) = changes.pop()
        {
            return Ok(Change::One(statement, values));
        }
        let (parts, values): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .map(|(s, v)| (BatchStatement::PreparedStatement(s.clone()), v))
            .unzip();
        let mut batch = Batch::new_with_statements(BatchType::Unlogged, parts);
        batch.set_consistency(self.cluster.commit_consistency(table));
        batch.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        batch.set_is_idempotent(false);
        Ok(Change::Batch(Box::new(batch), values))
    }

    async fn send(
        &self,
        table: ControlTable,
        partition: &str,
        change: &Change<'_>,
    ) -> Result<bool, Failure> {
        let _turn = self.lines.turn(table, partition).await;
        let session = &self.cluster.session;
        let answer = match change {
            Change::One(statement, values) => session.execute_unpaged(statement, values).await,
            Change::Batch(batch, values) => session.batch(batch, values).await,
        }?;
        Ok(is_applied(answer))
    }

    async fn look_back(
        &self,
        table: ControlTable,
        partition: &str,
        writes: &[ControlWrite],
        op: Uuid,
    ) -> StoreResult<Judgement> {
        let ids: Vec<&str> = writes.iter().map(|write| &*write.id).collect();
        let ops = &self.statements.control(table)?.ops;
        let answer = self.serial(table, partition, ops, (partition, ids)).await?;
        let mut found = Vec::new();
        for row in answer
            .rows::<(String, Option<i64>, Option<Uuid>)>()
            .map_err(|e| errors::unexpected(READING, e))?
        {
            let (id, rev, op) = row.map_err(|e| errors::unexpected(READING, e))?;
            let rev = revision(rev, &id)?;
            found.push(Found { id, rev, op });
        }
        Ok(judge(op, writes, &found))
    }

    async fn serial(
        &self,
        table: ControlTable,
        partition: &str,
        statement: &PreparedStatement,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> StoreResult<QueryRowsResult> {
        let _turn = self.lines.turn(table, partition).await;
        let answer = self
            .cluster
            .session
            .execute_unpaged(statement, values)
            .await
            .map_err(|e| Failure::from(e).into_error(READING))?;
        rows_of(answer)
    }
}

/// What is sent, as often as it must be.
enum Change<'s> {
    One(&'s PreparedStatement, Values),
    Batch(Box<Batch>, Vec<Values>),
}

type Values = Vec<Option<CqlValue>>;

fn statement<'s>(
    statements: &'s ControlStatements,
    partition: &str,
    write: &ControlWrite,
    op: Uuid,
) -> StoreResult<(&'s PreparedStatement, Values)> {
    let text = |text: &str| Some(CqlValue::Text(text.to_owned()));
    let part = text(partition);
    let id = text(&write.id);
    let before = match write.expect {
        Expect::Absent => None,
        Expect::Rev(rev) => Some(number(rev)?),
    };
    Ok(match (&write.body, before) {
        (Some(body), None) => (
            &statements.insert,
            vec![
                part,
                id,
                Some(CqlValue::BigInt(1)),
                text(body),
                Some(CqlValue::Uuid(op)),
            ],
        ),
        (Some(body), Some(rev)) => (
            &statements.update,
            vec![
                Some(CqlValue::BigInt(rev.saturating_add(1))),
                text(body),
                Some(CqlValue::Uuid(op)),
                part,
                id,
                Some(CqlValue::BigInt(rev)),
            ],
        ),
        // `IF rev = null` holds where there is no row.
        (None, before) => (
            &statements.delete,
            vec![part, id, before.map(CqlValue::BigInt)],
        ),
    })
}

fn number(rev: u64) -> StoreResult<i64> {
    i64::try_from(rev).map_err(|_| {
        StoreError::new(
            StoreErrorClass::Invalid,
            format!("{WRITING}: revision {rev} is too large"),
        )
    })
}

/// Reads `[applied]` by its name. ScyllaDB answers with one row for each
/// statement of a batch, and with the old rows also when it was applied.
fn is_applied(answer: QueryResult) -> bool {
    let Ok(answer) = answer.into_rows_result() else {
        return false;
    };
    let Some((at, _)) = answer.column_specs().get_by_name("[applied]") else {
        return false;
    };
    let Ok(rows) = answer.rows::<Row>() else {
        return false;
    };
    let mut any = false;
    for row in rows {
        any = true;
        let applied = row
            .ok()
            .and_then(|row| row.columns.into_iter().nth(at).flatten());
        if applied != Some(CqlValue::Boolean(true)) {
            return false;
        }
    }
    any
}

fn open(table: ControlTable, partition: &str, why: &str) -> StoreError {
    StoreError::new(
        StoreErrorClass::Transient,
        format!(
            "{WRITING}: it is not known whether a change of {}/{partition} was made ({why}); read the rows again",
            table.as_str()
        ),
    )
}

fn rows_of(answer: QueryResult) -> StoreResult<QueryRowsResult> {
    answer
        .into_rows_result()
        .map_err(|e| errors::unexpected(READING, e))
}

fn control_rows(answer: &QueryRowsResult) -> StoreResult<Vec<ControlRow>> {
    let mut rows = Vec::with_capacity(answer.rows_num());
    for row in answer
        .rows::<(String, Option<i64>, Option<String>)>()
        .map_err(|e| errors::unexpected(READING, e))?
    {
        let (id, rev, body) = row.map_err(|e| errors::unexpected(READING, e))?;
        let rev = revision(rev, &id)?;
        let body = body.ok_or_else(|| not_ours(&id))?;
        rows.push(ControlRow { id, rev, body });
    }
    Ok(rows)
}

fn revision(rev: Option<i64>, id: &str) -> StoreResult<u64> {
    rev.and_then(|rev| u64::try_from(rev).ok())
        .ok_or_else(|| not_ours(id))
}

fn not_ours(id: &str) -> StoreError {
    StoreError::new(
        StoreErrorClass::Fatal,
        format!("{READING}: row `{id}` was not written by rekeyd"),
    )
}

/// The least text, in the order of bytes, behind everything that starts with
/// `prefix`. Ids are ASCII but for what they quote; none starts with the last
/// character there is.
fn end_of_prefix(prefix: &str) -> String {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // A range of characters leaves out what is none (surrogates).
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return end.into_iter().collect();
        }
    }
    char::MAX.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_just_behind_its_last() {
        for (prefix, end) in [
            ("job/", "job0"),
            ("a\u{d7ff}", "a\u{e000}"),
            ("a\u{10ffff}", "b"),
            ("", "\u{10ffff}"),
        ] {
            assert_eq!(end_of_prefix(prefix), end, "{prefix:?}");
            assert!(prefix < &*end_of_prefix(prefix));
            assert!(format!("{prefix}\u{ffff}zz") < end_of_prefix(prefix));
        }
    }
}
