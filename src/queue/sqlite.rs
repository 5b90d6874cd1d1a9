//! The embedded queue: a SQLite file that any number of processes may use.
//!
//! The rate is low (jobs, not messages of users), so every operation is one
//! short transaction on a blocking thread. Waiting for a message is polling
//! between transactions: no lock is held while nothing happens.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{DeadLetter, Delivery, MAX_BODY_BYTES, Queue, QueueError, Which};
use crate::clock::{SharedClock, WallTime};

/// How long a transaction waits for those of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two tries to open a file that others are making.
const OPEN_AGAIN: Duration = Duration::from_millis(10);

/// Time between two looks at an empty queue: from the first, doubling to the
/// second.
const FIRST_POLL: Duration = Duration::from_millis(100);
const LAST_POLL: Duration = Duration::from_secs(1);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS queue_messages (
        id            TEXT PRIMARY KEY,
        body          TEXT NOT NULL,
        visible_us    INTEGER NOT NULL,
        receive_count INTEGER NOT NULL,
        token         TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS queue_messages_visible ON queue_messages (visible_us);
    CREATE TABLE IF NOT EXISTS queue_dead_letters (
        n          INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL,
        body       TEXT NOT NULL,
        reason     TEXT NOT NULL,
        at_ms      INTEGER NOT NULL
    ) STRICT;
";

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A message is durable when `send` returns, also when the power fails.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseBusy | DatabaseLocked)
    )
}

/// Keeps a queue from everybody until it is dropped.
pub struct Withheld {
    // Closing it rolls its transaction back.
    _connection: Connection,
}

/// A queue in a SQLite file.
///
/// A receipt is `<message id>/<token>`; each delivery has a new token, so an
/// older receipt no longer fits once another consumer has the message.
/// Visibility is judged by the wall clock, the only one that processes share.
pub struct SqliteQueue {
    connection: Arc<Mutex<Connection>>,
    max_receives: u32,
    clock: SharedClock,
}

impl SqliteQueue {
    /// Opens the queue in the file at `path`, and makes it if need be. A message
    /// that was handed out `max_receives` times (at least 1) without being
    /// settled goes to the dead letters.
    ///
    /// Blocks, for at most about ten seconds, while other processes make the file.
    ///
    /// # Errors
    /// [`QueueError::Fatal`] if the file cannot be opened as a queue.
    pub fn open(path: &Path, max_receives: u32, clock: SharedClock) -> Result<Self, QueueError> {
        let began = Instant::now();
        let connection = loop {
            match connect(path) {
                Ok(connection) => break connection,
                // SQLite does not wait for others while it changes a new file to
                // WAL: of several that open it at once, one may be told "locked".
                Err(e) if is_busy(&e) && began.elapsed() < BUSY_TIMEOUT => {
                    std::thread::sleep(OPEN_AGAIN);
                }
                Err(e) => return Err(QueueError::Fatal(format!("{}: {e}", path.display()))),
            }
        };
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            max_receives: max_receives.max(1),
            clock,
        })
    }

    /// Keeps everybody from the queue in the file at `path` for as long as the
    /// answer lives, as a queue does that is not there: for trials. Does not wait
    /// for others, of whom one may be frozen in its transaction.
    ///
    /// # Errors
    /// [`QueueError::Transient`] if somebody writes just now; if it is no queue.
    pub fn withhold(path: &Path) -> Result<Withheld, QueueError> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::ZERO)?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Withheld {
            _connection: connection,
        })
    }

    /// Runs one write transaction on a blocking thread.
    async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.blocking(move |connection| {
            // Immediate: a transaction that reads first and then wants to write
            // could otherwise fail as busy without waiting.
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let answer = work(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let connection = Arc::clone(&self.connection);
        let run = move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(run).await {
            Ok(answer) => answer,
            Err(e) => Err(QueueError::Fatal(format!("the queue's thread ended: {e}"))),
        }
    }

    /// Something is visible. A read only, so that idle consumers do not queue for
    /// the write lock.
    async fn has_visible(&self, now: WallTime) -> Result<bool, QueueError> {
        self.blocking(move |connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM queue_messages WHERE visible_us <= ?1)";
            Ok(connection
                .prepare_cached(sql)?
                .query_row([now.0], |row| row.get(0))?)
        })
        .await
    }

    async fn take(&self, max: usize, visibility: Duration) -> Result<Vec<Delivery>, QueueError> {
        let now = self.clock.wall();
        if !self.has_visible(now).await? {
            return Ok(Vec::new());
        }
        let max_receives = self.max_receives;
        self.transact(move |transaction| {
            exhausted_to_dead_letters(transaction, max_receives, now)?;
            hand_out(transaction, max, now, now.plus(visibility))
        })
        .await
    }

    async fn delete_one(&self, receipt: &str) -> Result<(), QueueError> {
        let (receipt, now) = (receipt.to_owned(), self.clock.wall());
        self.transact(
            move |transaction| match standing(transaction, &receipt, now)? {
                // Lapsed, but nobody else has it: what was done is done.
                (id, Standing::Good | Standing::Lapsed) => remove(transaction, &id),
                (_, Standing::Gone) => Ok(()),
                (_, Standing::Superseded) => Err(QueueError::ReceiptExpired),
            },
        )
        .await
    }
}

/// What was handed out too often goes to the dead letters, before it is handed
/// out once more.
fn exhausted_to_dead_letters(
    transaction: &Transaction<'_>,
    max_receives: u32,
    now: WallTime,
) -> Result<(), QueueError> {
    let reason = format!("received {max_receives} times and never settled");
    transaction.execute(
        "INSERT INTO queue_dead_letters (message_id, body, reason, at_ms)
         SELECT id, body, ?3, ?4 FROM queue_messages
         WHERE visible_us <= ?1 AND receive_count >= ?2",
        params![now.0, max_receives, reason, now.unix_ms() as i64],
    )?;
    transaction.execute(
        "DELETE FROM queue_messages WHERE visible_us <= ?1 AND receive_count >= ?2",
        params![now.0, max_receives],
    )?;
    Ok(())
}

fn hand_out(
    transaction: &Transaction<'_>,
    max: usize,
    now: WallTime,
    hidden_until: WallTime,
) -> Result<Vec<Delivery>, QueueError> {
    let mut visible = transaction.prepare_cached(
        "SELECT id, body, receive_count FROM queue_messages
         WHERE visible_us <= ?1 ORDER BY visible_us LIMIT ?2",
    )?;
    let rows = visible.query_map(params![now.0, max as i64], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, u32>(2)?,
        ))
    })?;
    let mut deliveries = Vec::new();
    for row in rows {
        let (message_id, body, received) = row?;
        let token = uuid::Uuid::new_v4().to_string();
        let receipt = format!("{message_id}/{token}");
        let receive_count = received.saturating_add(1);
        deliveries.push((
            token,
            Delivery {
                message_id,
                receipt,
                body,
                receive_count,
            },
        ));
    }
    for (token, delivery) in &deliveries {
        transaction.execute(
            "UPDATE queue_messages SET visible_us = ?2, receive_count = ?3, token = ?4
             WHERE id = ?1",
            params![
                delivery.message_id,
                hidden_until.0,
                delivery.receive_count,
                token
            ],
        )?;
    }
    Ok(deliveries
        .into_iter()
        .map(|(_, delivery)| delivery)
        .collect())
}

/// Whether a receipt is still good.
enum Standing {
    /// The message is this consumer's.
    Good,
    /// Its time is up, and nobody else has it yet.
    Lapsed,
    /// Another consumer has it.
    Superseded,
    /// The message is gone.
    Gone,
}

fn standing(
    transaction: &Transaction<'_>,
    receipt: &str,
    now: WallTime,
) -> Result<(String, Standing), QueueError> {
    let (id, token) = receipt.split_once('/').ok_or(QueueError::ReceiptExpired)?;
    let row: Option<(Option<String>, i64)> = transaction
        .query_row(
            "SELECT token, visible_us FROM queue_messages WHERE id = ?1",
            [id],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let standing = match row {
        None => Standing::Gone,
        Some((Some(current), visible_us)) if current == token => {
            if now.0 < visible_us {
                Standing::Good
            } else {
                Standing::Lapsed
            }
        }
        Some(_) => Standing::Superseded,
    };
    Ok((id.to_owned(), standing))
}

fn bury(
    transaction: &Transaction<'_>,
    message_id: &str,
    body: &str,
    reason: &str,
    now: WallTime,
) -> Result<(), QueueError> {
    transaction.execute(
        "INSERT INTO queue_dead_letters (message_id, body, reason, at_ms) VALUES (?1, ?2, ?3, ?4)",
        params![message_id, body, reason, now.unix_ms() as i64],
    )?;
    Ok(())
}

/// A new message. Returns its id.
fn put(transaction: &Transaction<'_>, body: &str, now: WallTime) -> Result<String, QueueError> {
    let id = uuid::Uuid::new_v4().to_string();
    transaction.execute(
        "INSERT INTO queue_messages (id, body, visible_us, receive_count)
         VALUES (?1, ?2, ?3, 0)",
        params![id, body, now.0],
    )?;
    Ok(id)
}

/// Dead letters become messages again.
fn put_back(
    transaction: &Transaction<'_>,
    which: Which<'_>,
    now: WallTime,
) -> Result<Vec<String>, QueueError> {
    let letters: Vec<(i64, String, String)> = transaction
        .prepare_cached("SELECT n, message_id, body FROM queue_dead_letters ORDER BY n")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut back = Vec::new();
    for (n, message_id, body) in letters {
        if which.means(&message_id) {
            put(transaction, &body, now)?;
            transaction.execute("DELETE FROM queue_dead_letters WHERE n = ?1", [n])?;
            back.push(message_id);
        }
    }
    Ok(back)
}

fn remove(transaction: &Transaction<'_>, id: &str) -> Result<(), QueueError> {
    transaction.execute("DELETE FROM queue_messages WHERE id = ?1", [id])?;
    Ok(())
}

#[async_trait::async_trait]
impl Queue for SqliteQueue {
    async fn send(&self, body: &str) -> Result<String, QueueError> {
        if !(1..=MAX_BODY_BYTES).contains(&body.len()) {
            return Err(QueueError::BodySize(body.len()));
        }
        let (body, now) = (body.to_owned(), self.clock.wall());
        self.transact(move |transaction| put(transaction, &body, now))
            .await
    }

    async fn receive(
        &self,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        let max = max.clamp(1, 10);
        let began = self.clock.boot();
        let mut pause = FIRST_POLL;
        loop {
            let deliveries = self.take(max, visibility).await?;
            let left = wait.saturating_sub(self.clock.boot().since(began));
            if !deliveries.is_empty() || left.is_zero() {
                return Ok(deliveries);
            }
            self.clock.sleep(pause.min(left)).await;
            pause = (pause * 2).min(LAST_POLL);
        }
    }

    async fn extend(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError> {
        let (receipt, now) = (receipt.to_owned(), self.clock.wall());
        self.transact(
            move |transaction| match standing(transaction, &receipt, now)? {
                (id, Standing::Good) => {
                    transaction.execute(
                        "UPDATE queue_messages SET visible_us = ?2 WHERE id = ?1",
                        params![id, now.plus(visibility).0],
                    )?;
                    Ok(())
                }
                _ => Err(QueueError::ReceiptExpired),
            },
        )
        .await
    }

    async fn delete(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        let mut answers = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            answers.push(self.delete_one(receipt).await);
        }
        answers
    }

    async fn refuse(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        let (delivery, reason) = (delivery.clone(), reason.to_owned());
        let now = self.clock.wall();
        self.transact(
            move |transaction| match standing(transaction, &delivery.receipt, now)? {
                (id, Standing::Good | Standing::Lapsed) => {
                    bury(transaction, &id, &delivery.body, &reason, now)?;
                    remove(transaction, &id)
                }
                // Gone: settled already, by this consumer or the one after it.
                (_, Standing::Gone | Standing::Superseded) => Err(QueueError::ReceiptExpired),
            },
        )
        .await
    }

    async fn bury(&self, body: &str, reason: &str) -> Result<(), QueueError> {
        let (body, reason, now) = (body.to_owned(), reason.to_owned(), self.clock.wall());
        let id = uuid::Uuid::new_v4().to_string();
        self.transact(move |transaction| bury(transaction, &id, &body, &reason, now))
            .await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.blocking(move |connection| {
            let mut rows = connection.prepare_cached(
                "SELECT message_id, body, reason, at_ms FROM queue_dead_letters ORDER BY n LIMIT ?1",
            )?;
            let letters = rows.query_map([limit], |row| {
                Ok(DeadLetter {
                    message_id: row.get(0)?,
                    body: row.get(1)?,
                    reason: row.get(2)?,
                    at_ms: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                })
            })?;
            Ok(letters.collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn redrive(&self, which: Which<'_>) -> Result<Vec<String>, QueueError> {
        let now = self.clock.wall();
        let ids = match which {
            Which::All => None,
            Which::Ids(ids) => Some(ids.to_vec()),
        };
        self.transact(move |transaction| {
            let which = ids.as_deref().map_or(Which::All, Which::Ids);
            put_back(transaction, which, now)
        })
        .await
    }
}

impl From<rusqlite::Error> for QueueError {
    /// Busy, locked, full and I/O may pass; the rest will not by itself.
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            _ if is_busy(&error) => QueueError::Transient(error.to_string()),
            Some(
                ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::OperationInterrupted,
            ) => QueueError::Transient(error.to_string()),
            _ => QueueError::Fatal(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
