//! Which server it is, and what its version can do.

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};

use super::errors::{self, Failure};
use crate::store::StoreResult;

/// A server and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// ScyllaDB, for example `2025.1.3` or `6.2.0`.
    Scylla(String),
    /// Cassandra, or what says it is.
    Cassandra(String),
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Server::Scylla(version) => write!(f, "ScyllaDB {version}"),
            Server::Cassandra(version) => write!(f, "Cassandra {version}"),
        }
    }
}

impl Server {
    /// Asks a node. `system.versions` is ScyllaDB's own.
    pub(super) async fn ask(session: &Session) -> StoreResult<Self> {
        const SCYLLA: &str = "SELECT version FROM system.versions WHERE key = 'local'";
        const CASSANDRA: &str = "SELECT release_version FROM system.local WHERE key = 'local'";
        match first_text(session, SCYLLA).await {
            Ok(version) => return Ok(Server::Scylla(version)),
            Err(Asked::NoSuchTable) => {}
            Err(Asked::Failed(failure)) => {
                return Err(failure.into_error("asking for the server's version"));
            }
        }
        match first_text(session, CASSANDRA).await {
            Ok(version) => Ok(Server::Cassandra(version)),
            Err(Asked::NoSuchTable) => Ok(Server::Cassandra("of an unknown version".to_owned())),
            Err(Asked::Failed(failure)) => {
                Err(failure.into_error("asking for the server's version"))
            }
        }
    }

    /// Whether it is ScyllaDB.
    pub fn is_scylla(&self) -> bool {
        matches!(self, Server::Scylla(_))
    }

    /// What must be said of tablets when the keyspace is made. ScyllaDB has them
    /// since 6.0 and 2024.2, and conditional writes with them since 2025.4; in
    /// between they must be off. Nothing is said to a server without them.
    pub(super) fn tablets_must_be_off(&self) -> bool {
        let Server::Scylla(version) = self else {
            return false;
        };
        let mut numbers = version
            .split(['.', '-', '~'])
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let major = numbers.next().unwrap_or(0);
        let minor = numbers.next().unwrap_or(0);
        let has_tablets = match major {
            0..2000 => major >= 6,
            _ => (major, minor) >= (2024, 2),
        };
        has_tablets && !(major >= 2000 && (major, minor) >= (2025, 4))
    }
}

enum Asked {
    NoSuchTable,
    Failed(Box<Failure>),
}

async fn first_text(session: &Session, query: &str) -> Result<String, Asked> {
    let answer = match session.query_unpaged(query, ()).await {
        Ok(answer) => answer,
        Err(error) => {
            let is_unknown = matches!(
                &error,
                ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::Invalid | DbError::Unauthorized,
                    _
                ))
            );
            return Err(if is_unknown {
                Asked::NoSuchTable
            } else {
                Asked::Failed(Box::new(error.into()))
            });
        }
    };
    let rows = answer.into_rows_result().map_err(|_| Asked::NoSuchTable)?;
    match rows.maybe_first_row::<(Option<String>,)>() {
        Ok(Some((Some(text),))) => Ok(text),
        _ => Err(Asked::NoSuchTable),
    }
}

/// The rows of a query of the servers' own tables, by name of column.
pub(super) struct Described {
    columns: Vec<String>,
    rows: Vec<scylla::value::Row>,
}

impl Described {
    /// Runs a query of a few rows.
    pub async fn ask(
        session: &Session,
        query: &str,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> StoreResult<Self> {
        const WHAT: &str = "reading the schema";
        let answer = session
            .query_unpaged(query, values)
            .await
            .map_err(|e| Failure::from(e).into_error(WHAT))?;
        let result = answer
            .into_rows_result()
            .map_err(|e| errors::unexpected(WHAT, e))?;
        let columns = result
            .column_specs()
            .iter()
            .map(|spec| spec.name().to_owned())
            .collect();
        let rows = result
            .rows::<scylla::value::Row>()
            .map_err(|e| errors::unexpected(WHAT, e))?
            .collect::<Result<_, _>>()
            .map_err(|e| errors::unexpected(WHAT, e))?;
        Ok(Self { columns, rows })
    }

    /// Rows that were found.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// A value; `None` if it is null, or if this server has no such column.
    pub fn value(&self, row: usize, column: &str) -> Option<&scylla::value::CqlValue> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?.columns.get(at)?.as_ref()
    }

    /// A text.
    pub fn text(&self, row: usize, column: &str) -> Option<&str> {
        match self.value(row, column)? {
            scylla::value::CqlValue::Text(text) | scylla::value::CqlValue::Ascii(text) => {
                Some(text)
            }
            _ => None,
        }
    }

    /// A whole number.
    pub fn int(&self, row: usize, column: &str) -> Option<i64> {
        match self.value(row, column)? {
            scylla::value::CqlValue::Int(n) => Some(i64::from(*n)),
            scylla::value::CqlValue::BigInt(n) => Some(*n),
            _ => None,
        }
    }

    /// Yes or no.
    pub fn boolean(&self, row: usize, column: &str) -> Option<bool> {
        match self.value(row, column)? {
            scylla::value::CqlValue::Boolean(yes) => Some(*yes),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablets_are_switched_off_where_conditional_writes_lack_them() {
        let scylla = |version: &str| Server::Scylla(version.to_owned());
        for off in ["6.0.0", "6.2.3", "2024.2.1", "2025.1.0", "2025.3.0~rc1"] {
            assert!(scylla(off).tablets_must_be_off(), "{off}");
        }
        for unsaid in ["5.4.9", "2024.1.12", "2025.4.0", "2026.1.0"] {
            assert!(!scylla(unsaid).tablets_must_be_off(), "{unsaid}");
        }
        assert!(!Server::Cassandra("5.0.5".to_owned()).tablets_must_be_off());
    }
}
