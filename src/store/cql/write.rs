//! Writing and deleting cells.

use futures::future::try_join_all;
use scylla::statement::batch::{Batch, BatchStatement, BatchType};
use scylla::statement::prepared::PreparedStatement;

use super::Requests;
use super::batch_size;
use super::errors::{Failure, Load};
use super::limiter::Does;
use crate::clock::WriteTime;
use crate::ids::RecordId;
use crate::store::{CellWrite, Partition, StoreError, StoreErrorClass, StoreResult};

const WRITING: &str = "writing cells";
const DELETING: &str = "deleting cells";

/// The longest TTL there is, seconds: 20 years. Servers refuse more.
const LONGEST_TTL_S: u32 = 630_720_000;

impl Requests {
    pub(super) async fn write(
        &self,
        partition: &Partition,
        writes: &[CellWrite],
    ) -> StoreResult<()> {
        if let Some(write) = writes.iter().find(|write| write.ttl_s > LONGEST_TTL_S) {
            return Err(StoreError::new(
                StoreErrorClass::Invalid,
                format!(
                    "{WRITING}: record {} has a TTL of {} s, and {LONGEST_TTL_S} s is the longest",
                    write.record, write.ttl_s
                ),
            ));
        }
        let (rows, bytes) = self.batch_size.now();
        let hour = partition.hour.to_string();
        let batches = batch_size::cut(writes, rows, bytes, |write| {
            write.cell.len() + write.record.as_bytes().len()
        });
        try_join_all(
            batches
                .into_iter()
                .map(|batch| self.write_batch(partition, &hour, batch)),
        )
        .await?;
        Ok(())
    }

    async fn write_batch(
        &self,
        partition: &Partition,
        hour: &str,
        writes: &[CellWrite],
    ) -> StoreResult<()> {
        // TTLs are at most what fits; see above.
        let values = writes.iter().map(|write| {
            (
                write.write_time.0,
                write.ttl_s as i32,
                &*write.cell,
                partition.org.as_str(),
                partition.place.as_str(),
                hour,
                write.record.as_bytes(),
            )
        });
        let lasts = writes.iter().all(|write| write.ttl_s == 0);
        let statement = match lasts {
            true => &self.statements.update,
            false => &self.statements.update_with_ttl,
        };
        let session = &self.cluster.session;
        let answer = self
            .limiter
            .run(Does::Write, async {
                match writes {
                    [_] => {
                        let mut values = values;
                        let Some(one) = values.next() else {
                            unreachable!("there is one write");
                        };
                        session.execute_unpaged(statement, one).await
                    }
                    _ => {
                        // Unlogged, all rows of one partition: one mutation, and
                        // no log of batches.
                        let mut batch = Batch::new_with_statements(
                            BatchType::Unlogged,
                            vec![
                                BatchStatement::PreparedStatement(statement.clone());
                                writes.len()
                            ],
                        );
                        batch.set_is_idempotent(lasts);
                        let values: Vec<_> = values.collect();
                        session.batch(&batch, values).await
                    }
                }
                .map_err(Failure::from)
            })
            .await;
        let is_batch = writes.len() > 1;
        match answer {
            Ok(answer) => {
                let warned = answer.warnings().any(batch_size::is_about_size);
                if warned {
                    self.batch_size.was_too_large();
                } else if is_batch {
                    self.batch_size.went_well();
                }
                Ok(())
            }
            Err(failure) => {
                let too_large =
                    failure.load == Load::TimedOut || failure.class == StoreErrorClass::Invalid;
                if is_batch && too_large {
                    self.batch_size.was_too_large();
                }
                Err(failure.into_error(WRITING))
            }
        }
    }

    pub(super) async fn delete(
        &self,
        statement: &PreparedStatement,
        partition: &Partition,
        record: &RecordId,
        at: WriteTime,
    ) -> StoreResult<()> {
        let hour = partition.hour.to_string();
        let values = (
            at.0,
            partition.org.as_str(),
            partition.place.as_str(),
            &*hour,
            record.as_bytes(),
        );
        self.limiter
            .run(Does::Write, async {
                let session = &self.cluster.session;
                let answer = session.execute_unpaged(statement, values).await;
                answer.map_err(Failure::from)
            })
            .await
            .map_err(|e| e.into_error(DELETING))?;
        Ok(())
    }

    pub(super) async fn delete_all(&self, partition: &Partition, at: WriteTime) -> StoreResult<()> {
        let hour = partition.hour.to_string();
        let values = (
            at.0,
            partition.org.as_str(),
            partition.place.as_str(),
            &*hour,
        );
        let statement = &self.statements.delete_partition;
        self.limiter
            .run(Does::Write, async {
                let session = &self.cluster.session;
                let answer = session.execute_unpaged(statement, values).await;
                answer.map_err(Failure::from)
            })
            .await
            .map_err(|e| e.into_error(DELETING))?;
        Ok(())
    }
}
