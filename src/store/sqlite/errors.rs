//! SQLite's errors, turned into the store's: the one place where their class is
//! decided.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::{StoreError, StoreErrorClass};

/// The class of an error of SQLite, and what to do about it.
pub(super) fn of(err: rusqlite::Error) -> StoreError {
    use StoreErrorClass::{Fatal, Invalid, Transient};
    let (class, advice) = match err.sqlite_error_code() {
        // Only after the busy handler has waited its full time.
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            Transient,
            "another process has held the store's lock for long; it will be tried again",
        ),
        Some(ErrorCode::OutOfMemory | ErrorCode::FileLockingProtocolFailed) => (
            Transient,
            "the system is short of memory or locks; it will be tried again",
        ),
        Some(ErrorCode::DiskFull) => (
            Fatal,
            "no space is left for the store's file; nothing was half done; free space and start again",
        ),
        Some(ErrorCode::SystemIoFailure) => (
            Fatal,
            "the disk of the store's file does not read or write; nothing was half done; look at the system's log",
        ),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (
            Fatal,
            "the store's file is damaged; stop all processes and restore it from a backup",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => (
            Fatal,
            "the store's file cannot be opened for writing; check its path, owner and mode, and that its folder is writable",
        ),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            (Invalid, "the row does not fit the store's tables")
        }
        _ => (
            Fatal,
            "SQLite answered with an error that is not expected here",
        ),
    };
    StoreError {
        class,
        message: format!("{advice} ({err})"),
        is_not_set_up: false,
        source: Some(Box::new(err)),
    }
}

/// A statement that the store refuses as such.
pub(super) fn invalid(message: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorClass::Invalid, message)
}

/// An error at a path: stop and say what to do.
pub(super) fn fatal_at(path: &Path, message: &str) -> StoreError {
    StoreError::new(
        StoreErrorClass::Fatal,
        format!("{}: {message}", path.display()),
    )
}

/// A thread of the store is gone. It ends only with the store, so this shows a
/// panic in it.
pub(super) fn stopped() -> StoreError {
    StoreError::new(
        StoreErrorClass::Fatal,
        "a thread of the embedded store has stopped; restart this process",
    )
}

/// The same error once more, for another request of the same transaction.
pub(super) fn again(err: &StoreError) -> StoreError {
    StoreError::new(err.class, err.message.clone())
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;
    use StoreErrorClass::{Fatal, Invalid, Transient};

    #[test]
    fn each_code_has_its_class() {
        for (code, class) in [
            (ffi::SQLITE_BUSY, Transient),
            (ffi::SQLITE_BUSY_SNAPSHOT, Transient),
            (ffi::SQLITE_LOCKED, Transient),
            (ffi::SQLITE_NOMEM, Transient),
            (ffi::SQLITE_PROTOCOL, Transient),
            (ffi::SQLITE_TOOBIG, Invalid),
            (ffi::SQLITE_CONSTRAINT, Invalid),
            (ffi::SQLITE_FULL, Fatal),
            (ffi::SQLITE_IOERR, Fatal),
            (ffi::SQLITE_IOERR_FSYNC, Fatal),
            (ffi::SQLITE_CORRUPT, Fatal),
            (ffi::SQLITE_NOTADB, Fatal),
            (ffi::SQLITE_READONLY, Fatal),
            (ffi::SQLITE_CANTOPEN, Fatal),
            (ffi::SQLITE_PERM, Fatal),
            (ffi::SQLITE_ERROR, Fatal),
        ] {
            let err = of(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
            assert_eq!(err.class, class, "{code}: {err}");
        }
    }
}
