//! Reading cells.

use std::ops::ControlFlow;

use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;

use super::Requests;
use super::errors::{self, Failure};
use super::limiter::Does;
use crate::clock::WriteTime;
use crate::ids::RecordId;
use crate::store::{
    Consistency, Page, PageLimit, Partition, StoreError, StoreErrorClass, StoreResult, StoredCell,
};

const WHAT: &str = "reading cells";

/// A row as it is in the answer's bytes: nothing is copied that is not kept.
type Row<'a> = (&'a [u8], Option<&'a [u8]>, Option<i64>, Option<i32>);

impl Requests {
    pub(super) async fn page(
        &self,
        partition: &Partition,
        after: Option<&RecordId>,
        limit: PageLimit,
        consistency: Consistency,
    ) -> StoreResult<Page> {
        let s = &self.statements;
        let hour = partition.hour.to_string();
        let slice = (partition.org.as_str(), partition.place.as_str(), &*hour);
        match (after, consistency) {
            (None, Consistency::Quorum) => self.fill(&s.page, &slice, partition, limit).await,
            (None, Consistency::All) => self.fill(&s.page_of_all, &slice, partition, limit).await,
            (Some(after), consistency) => {
                let statement = match consistency {
                    Consistency::Quorum => &s.page_after,
                    Consistency::All => &s.page_after_of_all,
                };
                let values = (slice.0, slice.1, slice.2, after.as_bytes());
                self.fill(statement, &values, partition, limit).await
            }
        }
    }

    /// Fills a page, question by question. The paging state lives within this
    /// call only: the next call goes on from the record id.
    async fn fill<V: SerializeRow>(
        &self,
        statement: &PreparedStatement,
        values: &V,
        partition: &Partition,
        limit: PageLimit,
    ) -> StoreResult<Page> {
        let mut filling = Filling {
            page: Page::default(),
            limit: PageLimit {
                rows: limit.rows.max(1),
                bytes: limit.bytes,
            },
            rows: 0,
            bytes: 0,
            last: None,
        };
        let mut seen = self.sizes.of(partition);
        let mut state = PagingState::start();
        let goes_on = loop {
            let ask = seen
                .ask(filling.limit.rows - filling.rows, filling.left())
                .max(1);
            let mut question = statement.clone();
            question.set_page_size(i32::try_from(ask).unwrap_or(i32::MAX));
            let (answer, more) = self
                .limiter
                .run(Does::Read, async {
                    let session = &self.cluster.session;
                    let answer = session.execute_single_page(&question, values, state).await;
                    answer.map_err(Failure::from)
                })
                .await
                .map_err(|e| e.into_error(WHAT))?;
            let answer = answer
                .into_rows_result()
                .map_err(|e| errors::unexpected(WHAT, e))?;
            let (mut rows, mut largest, mut is_full) = (0, 0, false);
            for row in answer
                .rows::<Row<'_>>()
                .map_err(|e| errors::unexpected(WHAT, e))?
            {
                let row = row.map_err(|e| errors::unexpected(WHAT, e))?;
                rows += 1;
                largest = largest.max(row.1.map_or(0, <[u8]>::len) + row.0.len());
                if !is_full {
                    is_full = !filling.take(row)?;
                }
            }
            seen.add(rows, largest);
            if is_full {
                break true;
            }
            match more.into_paging_control_flow() {
                ControlFlow::Break(()) => break false,
                ControlFlow::Continue(next) => state = next,
            }
            // A server may answer with no rows at all and say that there are
            // more: then there is nothing yet to go on from.
            if filling.last.is_some()
                && (filling.rows >= filling.limit.rows
                    || !seen.is_worth_asking(filling.left(), filling.limit))
            {
                break true;
            }
        };
        self.sizes.keep(partition, seen, goes_on);
        if goes_on {
            filling.page.next = filling.last;
        }
        Ok(filling.page)
    }

    pub(super) async fn cell(
        &self,
        partition: &Partition,
        record: &RecordId,
    ) -> StoreResult<Option<StoredCell>> {
        let hour = partition.hour.to_string();
        let values = (
            partition.org.as_str(),
            partition.place.as_str(),
            &*hour,
            record.as_bytes(),
        );
        let answer = self
            .limiter
            .run(Does::Read, async {
                let session = &self.cluster.session;
                let answer = session.execute_unpaged(&self.statements.cell, values).await;
                answer.map_err(Failure::from)
            })
            .await
            .map_err(|e| e.into_error(WHAT))?;
        let answer = answer
            .into_rows_result()
            .map_err(|e| errors::unexpected(WHAT, e))?;
        match answer
            .maybe_first_row::<Row<'_>>()
            .map_err(|e| errors::unexpected(WHAT, e))?
        {
            Some((id, Some(cell), Some(at), ttl)) => Ok(Some(stored(id, cell, at, ttl)?)),
            _ => Ok(None),
        }
    }
}

/// A page that is being filled.
struct Filling {
    page: Page,
    limit: PageLimit,
    rows: usize,
    bytes: usize,
    /// The last row that was taken, with a cell or without.
    last: Option<RecordId>,
}

impl Filling {
    fn left(&self) -> usize {
        self.limit.bytes.saturating_sub(self.bytes)
    }

    /// Takes a row, unless the page is full.
    fn take(&mut self, (id, cell, at, ttl): Row<'_>) -> StoreResult<bool> {
        if self.rows >= self.limit.rows {
            return Ok(false);
        }
        match (cell, at) {
            (Some(cell), Some(at)) => {
                if !self.page.cells.is_empty() && cell.len() > self.left() {
                    return Ok(false);
                }
                let cell = stored(id, cell, at, ttl)?;
                self.bytes += cell.cell.len();
                self.last = Some(cell.record.clone());
                self.page.cells.push(cell);
            }
            // A row whose value is gone and whose marker stands: not ours.
            _ => {
                self.page.empty_rows += 1;
                self.last = Some(record(id)?);
            }
        }
        self.rows += 1;
        Ok(true)
    }
}

fn record(id: &[u8]) -> StoreResult<RecordId> {
    RecordId::new(id).map_err(|e| {
        StoreError::new(
            StoreErrorClass::Fatal,
            format!("table cells has a row that is not ours: {e}"),
        )
    })
}

fn stored(id: &[u8], cell: &[u8], at: i64, ttl: Option<i32>) -> StoreResult<StoredCell> {
    Ok(StoredCell {
        record: record(id)?,
        cell: cell.to_vec(),
        write_time: WriteTime(at),
        ttl_s: ttl.and_then(|ttl| u32::try_from(ttl).ok()),
    })
}
