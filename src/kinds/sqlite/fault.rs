//! What SQLite's errors mean for us: the one place where they are translated.
//!
//! SQLite's messages name tables and columns, never values; our statements hold no values either.

use rusqlite::ErrorCode;

use crate::error::{Error, Fault};

/// Extended result code: a journal of a writer that died must be rolled back first, which a reader may not do.
const READONLY_ROLLBACK: i32 = 776;

/// Translates an error of SQLite. `attempt` says what was being done.
pub fn fault(attempt: &str, error: rusqlite::Error) -> Error {
    let (code, extended) = match error.sqlite_error() {
        Some(inner) => (Some(inner.code), inner.extended_code),
        None => (None, 0),
    };
    let (fault, why) = match code {
        _ if extended == READONLY_ROLLBACK => (
            Fault::Transient,
            "the writer of this file died in the middle of a transaction and left its journal; it is rolled back when Teleport \
             starts, or by `sqlite3 sqlite.db 'select 1 from kv'`",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (Fault::Transient, "another process holds its lock for longer than the busy timeout")
        }
        Some(ErrorCode::NotADatabase) => (Fault::Config, "the file is not a SQLite database, or it is encrypted"),
        Some(ErrorCode::DatabaseCorrupt) => {
            (Fault::Corrupt, "the file is damaged; `sqlite3 sqlite.db 'pragma integrity_check'` says where")
        }
        Some(ErrorCode::DiskFull) => (Fault::Transient, "the disk is full"),
        Some(ErrorCode::TooBig) => (Fault::Rejected, "a row is larger than SQLite's limit of 1 GB"),
        Some(ErrorCode::ConstraintViolation) => (Fault::Rejected, "the table's definition does not allow the row"),
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            (Fault::Transient, "this process may not do that to the file; check its owner and mode")
        }
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::SystemIoFailure
            | ErrorCode::SchemaChanged
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory,
        ) => (Fault::Transient, "the file cannot be used right now"),
        _ => (Fault::Corrupt, "the database does not look as expected"),
    };
    Error::new(fault, format!("{attempt}: {why}")).because(error)
}
