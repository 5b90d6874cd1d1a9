//! Every statement, prepared.
//!
//! Data is changed by UPDATE and DELETE with a timestamp, never by INSERT: an
//! INSERT would leave a row marker, which outlives the value and has a timestamp
//! of its own. Key rows are the other way round: they are inserted whole, never
//! expire and are deleted whole, so the marker says just what is so.

use scylla::statement::prepared::PreparedStatement;
use scylla::statement::{Consistency, SerialConsistency, Statement};

use super::connect::Cluster;
use super::errors;
use crate::store::{ControlTable, StoreResult};

/// The statements of the data, the keys and the control tables.
pub(super) struct Statements {
    pub page: PreparedStatement,
    pub page_after: PreparedStatement,
    pub page_of_all: PreparedStatement,
    pub page_after_of_all: PreparedStatement,
    pub cell: PreparedStatement,
    pub update: PreparedStatement,
    pub update_with_ttl: PreparedStatement,
    pub delete_row: PreparedStatement,
    pub delete_cell: PreparedStatement,
    pub delete_partition: PreparedStatement,
    pub insert_key: PreparedStatement,
    pub delete_key: PreparedStatement,
    pub keys: PreparedStatement,
    pub slices: PreparedStatement,
    control: Vec<(ControlTable, ControlStatements)>,
}

/// The statements of one control table.
pub(super) struct ControlStatements {
    pub get: PreparedStatement,
    /// As `get`, with who wrote each row.
    pub ops: PreparedStatement,
    pub list: PreparedStatement,
    pub partitions: PreparedStatement,
    pub insert: PreparedStatement,
    pub update: PreparedStatement,
    pub delete: PreparedStatement,
}

pub(super) const CONTROL_TABLES: [ControlTable; 6] = [
    ControlTable::Registry,
    ControlTable::Jobs,
    ControlTable::Tasks,
    ControlTable::Quarantine,
    ControlTable::SetAside,
    ControlTable::Timing,
];

const SLICE: &str = "org = ? AND place = ? AND hour = ?";
const COLUMNS: &str = "record, cell, WRITETIME(cell) AS w, TTL(cell) AS t";

impl Statements {
    /// Prepares all of them.
    pub async fn prepare(cluster: &Cluster) -> StoreResult<Self> {
        let ks = &cluster.keyspace;
        let p = Preparing(cluster);
        let all = Consistency::All;
        let page = format!("SELECT {COLUMNS} FROM {ks}.cells WHERE {SLICE}");
        let page_after = format!("{page} AND record > ?");
        let row = format!("{SLICE} AND record = ?");
        let update =
            format!("UPDATE {ks}.cells USING TIMESTAMP ? AND TTL ? SET cell = ? WHERE {row}");
        let data = async {
            tokio::try_join!(
                p.read(page.clone()),
                p.read(page_after.clone()),
                p.read_at(page.clone(), all),
                p.read_at(page_after.clone(), all),
                p.read(format!("SELECT {COLUMNS} FROM {ks}.cells WHERE {row}")),
                // At a fixed time, without end: twice is once.
                p.write(update.clone(), true),
                // The end moves with the time at which it is sent.
                p.write(update.clone(), false),
                p.write(
                    format!("DELETE FROM {ks}.cells USING TIMESTAMP ? WHERE {row}"),
                    true
                ),
                p.write(
                    format!("DELETE cell FROM {ks}.cells USING TIMESTAMP ? WHERE {row}"),
                    true
                ),
                p.write(
                    format!("DELETE FROM {ks}.cells USING TIMESTAMP ? WHERE {SLICE}"),
                    true
                ),
            )
        };
        let keys = async {
            tokio::try_join!(
                p.write(
                    format!(
                        "INSERT INTO {ks}.data_keys (org, kind, grp, slice, key_id, wrap_epoch, row) \
                         VALUES (?, ?, ?, ?, ?, ?, ?) USING TTL 0"
                    ),
                    true
                ),
                p.write(
                    format!(
                        "DELETE FROM {ks}.data_keys WHERE org = ? AND kind = ? AND grp = ? \
                         AND slice = ? AND key_id = ? AND wrap_epoch = ?"
                    ),
                    true
                ),
                p.read(format!(
                    "SELECT key_id, wrap_epoch, row FROM {ks}.data_keys \
                     WHERE org = ? AND kind = ? AND grp = ? AND slice = ?"
                )),
                p.read(format!(
                    "SELECT slice FROM {ks}.data_keys \
                     WHERE org = ? AND kind = ? AND grp = ? AND slice > ?"
                )),
            )
        };
        let control = futures::future::try_join_all(CONTROL_TABLES.map(|table| p.control(table)));
        let (data, keys, control) = tokio::try_join!(data, keys, control)?;
        Ok(Self {
            page: data.0,
            page_after: data.1,
            page_of_all: data.2,
            page_after_of_all: data.3,
            cell: data.4,
            update: data.5,
            update_with_ttl: data.6,
            delete_row: data.7,
            delete_cell: data.8,
            delete_partition: data.9,
            insert_key: keys.0,
            delete_key: keys.1,
            keys: keys.2,
            slices: keys.3,
            control,
        })
    }

    /// Those of one control table.
    pub fn control(&self, table: ControlTable) -> StoreResult<&ControlStatements> {
        self.control
            .iter()
            .find_map(|(of, statements)| (*of == table).then_some(statements))
            .ok_or_else(|| {
                crate::store::StoreError::new(
                    crate::store::StoreErrorClass::Fatal,
                    format!("no statements for table {}", table.as_str()),
                )
            })
    }
}

struct Preparing<'c>(&'c Cluster);

impl Preparing<'_> {
    async fn read(&self, text: String) -> StoreResult<PreparedStatement> {
        self.read_at(text, Consistency::LocalQuorum).await
    }

    async fn read_at(
        &self,
        text: String,
        consistency: Consistency,
    ) -> StoreResult<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(consistency);
        statement.set_is_idempotent(true);
        statement.set_execution_profile_handle(Some(self.0.profiles.reads.clone()));
        Ok(statement)
    }

    async fn write(&self, text: String, is_idempotent: bool) -> StoreResult<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(Consistency::LocalQuorum);
        statement.set_is_idempotent(is_idempotent);
        Ok(statement)
    }

    async fn serial(&self, text: String) -> StoreResult<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(Consistency::LocalSerial);
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    async fn conditional(
        &self,
        text: String,
        commit: Consistency,
    ) -> StoreResult<PreparedStatement> {
        let mut statement = self.prepare(text).await?;
        statement.set_consistency(commit);
        statement.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        statement.set_is_idempotent(false);
        Ok(statement)
    }

    async fn prepare(&self, text: String) -> StoreResult<PreparedStatement> {
        let mut statement = Statement::new(text);
        statement.set_request_timeout(Some(self.0.request_timeout));
        self.0
            .session
            .prepare(statement)
            .await
            .map_err(errors::of_prepare)
    }

    async fn control(&self, table: ControlTable) -> StoreResult<(ControlTable, ControlStatements)> {
        let name = format!("{}.{}", self.0.keyspace, table.as_str());
        let commit = self.0.commit_consistency(table);
        let (get, ops, list, partitions, insert, update, delete) = tokio::try_join!(
            self.serial(format!(
                "SELECT id, rev, body FROM {name} WHERE part = ? AND id IN ?"
            )),
            self.serial(format!(
                "SELECT id, rev, op FROM {name} WHERE part = ? AND id IN ?"
            )),
            self.serial(format!(
                "SELECT id, rev, body FROM {name} WHERE part = ? AND id >= ? AND id < ? LIMIT ?"
            )),
            // A range of partitions cannot be read serially. What was applied is
            // there: it was committed at a local quorum before it was answered.
            self.read(format!("SELECT DISTINCT part FROM {name}")),
            self.conditional(
                format!(
                    "INSERT INTO {name} (part, id, rev, body, op) VALUES (?, ?, ?, ?, ?) IF NOT EXISTS"
                ),
                commit
            ),
            self.conditional(
                format!(
                    "UPDATE {name} SET rev = ?, body = ?, op = ? WHERE part = ? AND id = ? IF rev = ?"
                ),
                commit
            ),
            self.conditional(
                format!("DELETE FROM {name} WHERE part = ? AND id = ? IF rev = ?"),
                commit
            ),
        )?;
        let statements = ControlStatements {
            get,
            ops,
            list,
            partitions,
            insert,
            update,
            delete,
        };
        Ok((table, statements))
    }
}
