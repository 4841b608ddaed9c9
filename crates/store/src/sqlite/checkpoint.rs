//! The checkpoints: the log is copied into the database file by a thread with a connection of its
//! own, so that no commit waits for it.
//!
//! A commit is durable in the log before a checkpoint sees it, and SQLite begins the log anew only
//! when all of it was copied and synced: a checkpoint that fails loses nothing.
//!
//! Invariant: after a checkpoint that the disk failed nothing more is written.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::{failure, schema};

/// The log is copied when it has grown by this many pages of 4 KiB (about 40 MiB). The larger, the
/// more often a page is changed in the log before it is copied once.
const PAGES: i64 = 10_000;
/// From this length on (about 47 MiB) the writer waits for the copy, or the log would grow for as
/// long as it is busy: SQLite begins it anew only when it is copied whole.
const MOST_PAGES: i64 = PAGES * 6 / 5;

/// How many commits in a row leave more than that to the thread: after a reader of an old state there
/// is much to copy, and no commit shall wait for all of it if the thread can have begun.
const LEFT: u32 = 4;

/// The thread.
#[derive(Debug)]
pub(super) struct Checkpointer {
    /// `None` only while it is dropped.
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    failed: Arc<OnceLock<String>>,
    /// Commits in a row that have left it to the thread.
    left: Cell<u32>,
}

impl Checkpointer {
    /// Starts it for the file at `path`.
    pub(super) fn start(path: &Path) -> std::io::Result<Checkpointer> {
        let (wake, awake) = channel();
        let failed = Arc::new(OnceLock::new());
        let (own, path) = (Arc::clone(&failed), path.to_owned());
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || run(&path, &awake, &own))?;
        Ok(Checkpointer { wake: Some(wake), thread: Some(thread), failed, left: Cell::new(0) })
    }

    /// Why nothing more may be written, if so.
    pub(super) fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Something was committed. `connection` is the writer's; where the log is far too long, it
    /// copies it itself.
    pub(super) fn committed(&self, connection: &Connection) {
        let is_long = |(pages, _): &(i64, i64)| *pages >= MOST_PAGES;
        let wake = || {
            // A thread that has ended has said why.
            let _ = self.wake.as_ref().map(|wake| wake.send(()));
        };
        let Some((pages, copied)) = state(connection).ok().filter(is_long) else { return wake() };
        let left = self.left.get();
        if pages - copied > MOST_PAGES && left < LEFT {
            self.left.set(left + 1);
            return wake();
        }
        self.left.set(0);
        note(copy(connection).map(drop), &self.failed);
    }
}

impl Drop for Checkpointer {
    /// Waits for the copy under way.
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(path: &Path, awake: &Receiver<()>, failed: &OnceLock<String>) {
    let mut connection = None;
    // The log's length at which it is copied next.
    let mut due = PAGES;
    while awake.recv().is_ok() {
        // One look for all commits so far.
        while awake.try_recv().is_ok() {}
        if connection.is_none() {
            connection = match schema::connect(path) {
                Ok(connection) => Some(connection),
                Err(error) => {
                    note(Err(error), failed);
                    continue;
                }
            };
        }
        let Some(open) = &connection else { continue };
        let outcome = state(open).and_then(|(pages, copied)| {
            if pages < due && pages - copied <= MOST_PAGES {
                // The log began anew, or is still short.
                return Ok(PAGES.max(due.min(pages + PAGES)));
            }
            // What a reader of an old state keeps is tried again when the log has grown further.
            Ok(copy(open)? + PAGES)
        });
        match outcome {
            Ok(next) => due = next,
            Err(error) => note(Err(error), failed),
        }
    }
}

/// The log's length in pages, and how many of them are copied.
fn state(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?;
    statement.query_row([], |row| Ok((row.get(1)?, row.get(2)?)))
}

/// Copies what can be copied; the log's length in pages.
fn copy(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
    statement.query_row([], |row| row.get(1))
}

fn note(outcome: rusqlite::Result<()>, failed: &OnceLock<String>) {
    match outcome {
        Ok(()) => {}
        Err(rusqlite::Error::SqliteFailure(error, what)) if failure::loses_data(&error) => {
            let what = what.unwrap_or_else(|| error.to_string());
            tracing::error!(%what, "the disk failed to keep the database");
            let _ = failed.set(what);
        }
        Err(error) => {
            tracing::warn!(%error, "the database's log could not be copied and grows");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_stops_what_writes_and_nothing_else_does() {
        use rusqlite::ffi;
        let outcome = |code| Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        let failed = OnceLock::new();
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_FULL, ffi::SQLITE_IOERR_WRITE] {
            note(outcome(code), &failed);
            assert_eq!(failed.get(), None);
        }
        note(outcome(ffi::SQLITE_IOERR_FSYNC), &failed);
        assert!(failed.get().is_some());
    }
}
