//! What an error of SQLite means for a batch and for a reader. This is the one place that decides.
//!
//! A batch, by when the error came:
//!
//! | error | before COMMIT | of COMMIT itself |
//! |---|---|---|
//! | a failed fsync, a corrupt file | [`CommitError::Disk`] | [`CommitError::Disk`] |
//! | a constraint | [`CommitError::Contradiction`] | [`CommitError::Contradiction`] |
//! | disk full, out of memory, busy, locked, interrupted | [`CommitError::NotStored`] | [`CommitError::NotStored`] |
//! | any other, as a failed write | [`CommitError::NotStored`] | [`CommitError::Unknown`] |
//!
//! Before COMMIT nothing can have become durable, whatever failed: the transaction is rolled back.
//! When COMMIT fails and the transaction is still open, rolling it back makes the same certain, so
//! the first column holds. When COMMIT fails and SQLite has already ended the transaction, a disk
//! that was full or memory that was short stopped it before the frame that commits was complete;
//! of a failed write that cannot be said, so the file must be asked again.
//!
//! An fsync that failed once may succeed the next time without the data having reached the disk,
//! so it is never tried again.

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::write::Refused;
use crate::{CommitError, StoreError};

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        Refused(of_batch(&error, Phase::Open))
    }
}

/// When a batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before COMMIT, or at a COMMIT that left the transaction open.
    Open,
    /// At a COMMIT that ended the transaction.
    Ended,
}

/// What a failed write means for its batch.
pub(super) fn of_batch(error: &rusqlite::Error, phase: Phase) -> CommitError {
    let words = error.to_string();
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        // Not from SQLite but from handing values to it or taking them: nothing was tried.
        return match phase {
            Phase::Open => CommitError::NotStored(words),
            Phase::Ended => CommitError::Unknown(words),
        };
    };
    if loses_data(failure) {
        return CommitError::Disk(words);
    }
    match failure.code {
        ErrorCode::ConstraintViolation => CommitError::Contradiction(words),
        ErrorCode::DiskFull
        | ErrorCode::OutOfMemory
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OperationInterrupted => CommitError::NotStored(words),
        _ if phase == Phase::Open => CommitError::NotStored(words),
        _ => CommitError::Unknown(words),
    }
}

/// Whether the disk may have lost what was written before.
pub(super) fn loses_data(failure: &ffi::Error) -> bool {
    matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        || matches!(
            failure.extended_code,
            ffi::SQLITE_IOERR_FSYNC
                | ffi::SQLITE_IOERR_DIR_FSYNC
                | ffi::SQLITE_IOERR_CORRUPTFS
                | ffi::SQLITE_IOERR_DATA
        )
}

/// What a failed read means.
pub(super) fn of_read(error: rusqlite::Error) -> StoreError {
    match &error {
        rusqlite::Error::SqliteFailure(failure, _)
            if matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) =>
        {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Database(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, phase: Phase) -> &'static str {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        match of_batch(&error, phase) {
            CommitError::NotStored(_) => "not stored",
            CommitError::Unknown(_) => "unknown",
            CommitError::Contradiction(_) => "contradiction",
            CommitError::Disk(_) => "disk",
            CommitError::TakenOver(_) => "taken over",
        }
    }

    #[test]
    fn each_error_means_what_the_table_says() {
        let cases = [
            (ffi::SQLITE_IOERR_FSYNC, "disk", "disk"),
            (ffi::SQLITE_IOERR_DIR_FSYNC, "disk", "disk"),
            (ffi::SQLITE_CORRUPT, "disk", "disk"),
            (ffi::SQLITE_NOTADB, "disk", "disk"),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, "contradiction", "contradiction"),
            (ffi::SQLITE_CONSTRAINT_CHECK, "contradiction", "contradiction"),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "contradiction", "contradiction"),
            (ffi::SQLITE_FULL, "not stored", "not stored"),
            (ffi::SQLITE_NOMEM, "not stored", "not stored"),
            (ffi::SQLITE_BUSY, "not stored", "not stored"),
            (ffi::SQLITE_LOCKED, "not stored", "not stored"),
            (ffi::SQLITE_INTERRUPT, "not stored", "not stored"),
            (ffi::SQLITE_IOERR_WRITE, "not stored", "unknown"),
            (ffi::SQLITE_IOERR_READ, "not stored", "unknown"),
            (ffi::SQLITE_CANTOPEN, "not stored", "unknown"),
        ];
        for (code, open, ended) in cases {
            assert_eq!(outcome(code, Phase::Open), open, "{code} before COMMIT");
            assert_eq!(outcome(code, Phase::Ended), ended, "{code} of COMMIT");
        }
    }
}
