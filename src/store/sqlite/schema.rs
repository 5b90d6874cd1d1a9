//! The file: its tables, how it is made and how it is opened.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::errors;
use crate::store::{StoreError, StoreResult};

/// "RKEY": marks the file as ours (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x524b_4559;
/// Raised with every change of [`TABLES`] (`PRAGMA user_version`).
const SCHEMA_VERSION: i32 = 1;

/// How long a lock of another process is waited for.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(10);

/// How often opening is tried again when SQLite answers busy without having
/// waited: it does so while another process turns WAL on or recovers the log.
const OPEN_PAUSE: Duration = Duration::from_millis(2);

// Partitions are interned, so that a row's key is an integer and the record id.
//
// A cell's columns stand for what the merge order compares, in its order, so
// that SQLite's comparison of row values is that order:
//   wt    write time, microseconds
//   kind  3 tombstone, 2 expiring value, 1 lasting value, 0 none (only row_wt)
//   ldt   Unix seconds: expiry of an expiring value, local deletion time of a
//         tombstone; otherwise 0
//   ttl   seconds the expiring value was given; otherwise 0
//   cell  the blob; empty unless kind is 1 or 2
// row_wt and row_ldt are the row's tombstone, del_wt and del_ldt the
// partition's: write time and local deletion time; NULL where there is none.
// The blob comes last: reading the other columns of a long row need not follow
// its overflow pages.
const TABLES: &str = "
    CREATE TABLE partitions (
        id      INTEGER PRIMARY KEY,
        org     TEXT NOT NULL,
        place   TEXT NOT NULL,
        hour    INTEGER NOT NULL,
        del_wt  INTEGER,
        del_ldt INTEGER,
        UNIQUE (org, place, hour)
    ) STRICT;
    CREATE TABLE cells (
        part    INTEGER NOT NULL,
        record  BLOB NOT NULL,
        wt      INTEGER NOT NULL,
        kind    INTEGER NOT NULL,
        ldt     INTEGER NOT NULL,
        ttl     INTEGER NOT NULL,
        row_wt  INTEGER,
        row_ldt INTEGER,
        cell    BLOB NOT NULL,
        PRIMARY KEY (part, record)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE data_keys (
        org        TEXT NOT NULL,
        kind       TEXT NOT NULL,
        grp        TEXT NOT NULL,
        slice      TEXT NOT NULL,
        key_id     BLOB NOT NULL,
        wrap_epoch INTEGER NOT NULL,
        row        BLOB NOT NULL,
        PRIMARY KEY (org, kind, grp, slice, key_id, wrap_epoch DESC)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE control (
        tbl  TEXT NOT NULL,
        part TEXT NOT NULL,
        id   TEXT NOT NULL,
        rev  INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (tbl, part, id)
    ) STRICT, WITHOUT ROWID;
";

/// `path` with `suffix` after its last character.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the file of a new, empty store, with mode 0600. `false`: there is a
/// file already, and it is as it was.
///
/// The file appears under its name whole or not at all, so that a process that
/// opens it meanwhile never meets half a schema.
pub(super) fn create(path: &Path) -> StoreResult<bool> {
    if path.exists() {
        return Ok(false);
    }
    // SQLite would take the log of a deleted store for the new one's. Looked at
    // again after the log: another process may be making the store just now.
    if beside(path, "-wal").exists() && !path.exists() {
        return Err(errors::fatal_at(
            path,
            "a file with the suffix -wal is left of a store that is gone; \
             put the store back, or delete the -wal and -shm files beside it",
        ));
    }
    let new = beside(path, &format!(".new-{}", uuid::Uuid::new_v4()));
    let made = build(&new).and_then(|()| match fs::hard_link(&new, path) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(err) => Err(errors::fatal_at(
            path,
            &format!("cannot make the store's file: {err}"),
        )),
    });
    for leftover in ["", "-wal", "-shm"] {
        // Not there: the usual case. Not removable: a harmless stray file.
        let _ = fs::remove_file(beside(&new, leftover));
    }
    // The file's name must be as durable as what will be acknowledged in it.
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if made.as_ref().is_ok_and(|made| *made) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|err| errors::fatal_at(folder, &format!("cannot sync the folder: {err}")))?;
    }
    made
}

fn build(path: &Path) -> StoreResult<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|err| errors::fatal_at(path, &format!("cannot make the store's file: {err}")))?;
    let conn = Connection::open(path).map_err(errors::of)?;
    // 16 KiB: a page then holds some twenty cells of usual size.
    conn.execute_batch(&format!(
        "PRAGMA page_size = 16384;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         BEGIN; {TABLES}
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {SCHEMA_VERSION};
         COMMIT;"
    ))
    .map_err(errors::of)?;
    conn.close().map_err(|(_, err)| errors::of(err))?;
    // Closing the last connection has moved the log into the file.
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|err| errors::fatal_at(path, &format!("cannot sync the store's file: {err}")))
}

/// Opens a connection to an existing store.
pub(super) fn connect(path: &Path) -> StoreResult<Connection> {
    let deadline = Instant::now() + BUSY_WAIT;
    loop {
        match try_connect(path) {
            Err(Refused::Busy) if Instant::now() < deadline => thread::sleep(OPEN_PAUSE),
            Err(Refused::Busy) => {
                return Err(StoreError::new(
                    crate::store::StoreErrorClass::Transient,
                    format!("{}: another process keeps the store locked", path.display()),
                ));
            }
            Err(Refused::Error(err)) => return Err(err),
            Ok(conn) => return Ok(conn),
        }
    }
}

enum Refused {
    Busy,
    Error(StoreError),
}

impl From<rusqlite::Error> for Refused {
    fn from(err: rusqlite::Error) -> Self {
        match err.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => Refused::Busy,
            _ => Refused::Error(errors::of(err)),
        }
    }
}

fn try_connect(path: &Path) -> Result<Connection, Refused> {
    let refuse = |message: &str| Err(Refused::Error(errors::fatal_at(path, message)));
    if !path.is_file() {
        return refuse("there is no store here; check the path, or create the store first");
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_WAIT)?;
    let read =
        |pragma: &str| conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0));
    let foreign = "this file is not a rekeyd store; check the path; the file was not changed";
    match read("application_id") {
        Ok(APPLICATION_ID) => {}
        Ok(_) => return refuse(foreign),
        Err(err) if err.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) => {
            return refuse(foreign);
        }
        Err(err) => return Err(err.into()),
    }
    let version = read("user_version")?;
    if version != SCHEMA_VERSION {
        return refuse(&format!(
            "the store has schema version {version}, this rekeyd knows version {SCHEMA_VERSION}; \
             use the rekeyd that made it, or a new store"
        ));
    }
    // FULL: a commit is on the disk before it is acknowledged. The log is moved
    // into the file each 32 MiB; what a long reader let it grow beyond 64 MiB is
    // given back when it starts again.
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 2048;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;",
    )?;
    // A plan that does not depend on the values asked for. Else SQLite looks at
    // them, and parses and plans a kept statement again for each new value, which
    // costs more than most reads here.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}
