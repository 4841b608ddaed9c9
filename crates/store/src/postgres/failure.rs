//! What an error of PostgreSQL means for a batch and for a reader. This is the one place that decides.
//!
//! A batch, by when the error came:
//!
//! | error | before COMMIT | of COMMIT itself |
//! |---|---|---|
//! | PANIC, data or an index found corrupt (XX001, XX002) | [`CommitError::Disk`] | [`CommitError::Disk`] |
//! | a constraint (class 23), a value that no column holds (22) | [`CommitError::Contradiction`] | [`CommitError::Contradiction`] |
//! | serialization, deadlock (40001, 40P01), lock not free (55P03), disk or memory or connections short (53) | [`CommitError::NotStored`] | [`CommitError::NotStored`] |
//! | connection lost, no answer in time, shutdown (57P), completion unknown (40003), any other | [`CommitError::NotStored`] | [`CommitError::Unknown`] |
//!
//! Before COMMIT was sent nothing can have become durable, whatever failed: the transaction is rolled
//! back, by the server itself when the connection is gone. An ERROR that answers COMMIT says that the
//! transaction was rolled back; but only the codes above are taken at their word, for not every
//! server that speaks this protocol is PostgreSQL. After all others the database must be asked.
//!
//! PostgreSQL stops all its processes when an fsync fails (PANIC) and recovers from its log; what
//! the log had lost then cannot be known here.
//!
//! No error tells the values of a row: the detail of a server's message may have a password's hash.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::error::{Severity, SqlState};

use crate::write::Refused;
use crate::{CommitError, StoreError};

/// A question or statement that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The server's code, if the server said it.
    code: Option<SqlState>,
    /// The server's memory is not to be trusted.
    is_panic: bool,
    /// The connection cannot be used any more.
    is_lost: bool,
    words: String,
}

impl Failure {
    /// That no answer came.
    pub(super) fn late(limit: Duration) -> Failure {
        let words = format!("no answer within {} s", limit.as_secs_f32());
        Failure { code: None, is_panic: false, is_lost: true, words }
    }

    /// That there is no connection.
    pub(super) fn lost() -> Failure {
        let words = "the connection was lost: reconnect".to_owned();
        Failure { code: None, is_panic: false, is_lost: true, words }
    }

    /// Whether the connection cannot be used any more.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether the server said this.
    pub(super) fn is(&self, code: &SqlState) -> bool {
        self.code.as_ref() == Some(code)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        let Some(told) = error.as_db_error() else {
            let mut words = error.to_string();
            if let Some(source) = error.source().map(ToString::to_string)
                && !words.contains(&source)
            {
                words = format!("{words}: {source}");
            }
            return Failure { code: None, is_panic: false, is_lost: true, words };
        };
        let severity = told.parsed_severity();
        let is_panic = severity == Some(Severity::Panic);
        let is_lost = is_panic || severity == Some(Severity::Fatal) || error.is_closed();
        let mut words = format!("{} ({})", told.message(), told.code().code());
        for (what, name) in [("table", told.table()), ("constraint", told.constraint())] {
            if let Some(name) = name {
                words.push_str(&format!(", {what} {name}"));
            }
        }
        Failure { code: Some(told.code().clone()), is_panic, is_lost, words }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused(of_batch(failure, Phase::Open))
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        if failure.loses_data() {
            StoreError::Corrupt(failure.words)
        } else {
            StoreError::Database(failure.words)
        }
    }
}

/// When a batch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before COMMIT was sent.
    Open,
    /// After that.
    Committing,
}

/// What a failed write means for its batch.
pub(super) fn of_batch(failure: Failure, phase: Phase) -> CommitError {
    if failure.loses_data() {
        return CommitError::Disk(failure.words);
    }
    let code = failure.code.as_ref().map_or("", SqlState::code);
    let class = code.get(..2).unwrap_or("");
    match (class, code) {
        ("22" | "23", _) => CommitError::Contradiction(failure.words),
        _ if phase == Phase::Open => CommitError::NotStored(failure.words),
        ("53", _) | (_, "40001" | "40P01" | "55P03") if !failure.is_lost => {
            CommitError::NotStored(failure.words)
        }
        _ => CommitError::Unknown(failure.words),
    }
}

impl Failure {
    /// Whether what was written before may be gone.
    fn loses_data(&self) -> bool {
        self.is_panic || self.is(&SqlState::DATA_CORRUPTED) || self.is(&SqlState::INDEX_CORRUPTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(failure: Failure, phase: Phase) -> &'static str {
        match of_batch(failure, phase) {
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
            ("XX001", "disk", "disk"),
            ("XX002", "disk", "disk"),
            ("23505", "contradiction", "contradiction"),
            ("23503", "contradiction", "contradiction"),
            ("23514", "contradiction", "contradiction"),
            ("22003", "contradiction", "contradiction"),
            ("22021", "contradiction", "contradiction"),
            ("40001", "not stored", "not stored"),
            ("40P01", "not stored", "not stored"),
            ("55P03", "not stored", "not stored"),
            ("53100", "not stored", "not stored"),
            ("53200", "not stored", "not stored"),
            ("53300", "not stored", "not stored"),
            ("40003", "not stored", "unknown"),
            ("08006", "not stored", "unknown"),
            ("08007", "not stored", "unknown"),
            ("25006", "not stored", "unknown"),
            ("57014", "not stored", "unknown"),
            ("57P01", "not stored", "unknown"),
            ("57P02", "not stored", "unknown"),
            ("58030", "not stored", "unknown"),
            ("XX000", "not stored", "unknown"),
        ];
        for (code, open, committing) in cases {
            let failure = || Failure {
                code: Some(SqlState::from_code(code)),
                is_panic: false,
                is_lost: false,
                words: String::new(),
            };
            assert_eq!(outcome(failure(), Phase::Open), open, "{code} before COMMIT");
            assert_eq!(outcome(failure(), Phase::Committing), committing, "{code} of COMMIT");
        }
        // A server that gives up while it commits has not said that it did not.
        let full = Failure {
            code: Some(SqlState::DISK_FULL),
            is_panic: false,
            is_lost: true,
            words: String::new(),
        };
        assert_eq!(outcome(full, Phase::Committing), "unknown");
        let panic = Failure { is_panic: true, ..Failure::lost() };
        assert_eq!(outcome(panic, Phase::Open), "disk");
    }

    #[test]
    fn a_lost_or_silent_connection_is_unknown_only_at_commit() {
        for failure in [Failure::lost, || Failure::late(Duration::from_secs(40))] {
            assert_eq!(outcome(failure(), Phase::Open), "not stored");
            assert_eq!(outcome(failure(), Phase::Committing), "unknown");
        }
    }
}
