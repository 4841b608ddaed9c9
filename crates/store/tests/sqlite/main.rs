//! The SQLite store: the contract that every store keeps, on a file of its own for each case, and
//! what only a file has: other programs' files, damage, crashes and full disks.

#![allow(clippy::unwrap_used, reason = "clippy takes only the test functions themselves for tests")]

#[path = "../contract/whole.rs"]
mod books;
#[path = "../contract/mod.rs"]
mod contract;
mod crash;
mod damage;
mod migrate;

use std::path::PathBuf;

use contract::trading::Trading;
use papertrader_core::ids::BatchNumber;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{CommitError, Pace, Store, StoreError};
use rusqlite::Connection;
use tempfile::TempDir;

/// A database file in a directory of its own.
struct File(TempDir);

impl File {
    fn new() -> File {
        File(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("books.sqlite")
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), "one").unwrap()
    }

    /// A connection past the store.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

impl contract::Backend for File {
    fn open_at(&self, deployment: &str, pace: Pace) -> Box<dyn Store> {
        let mut store = SqliteStore::open(&self.path(), deployment).unwrap();
        store.set_pace(pace);
        Box::new(store)
    }

    fn count(&self, sql: &str) -> i64 {
        self.raw().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

contract_tests!(File::new());
whole_tests!(File::new());

#[test]
fn the_view_of_postings_is_the_double_entry() {
    let file = File::new();
    contract::postings::the_view_of_postings_is_the_double_entry(&file, |sql| {
        let raw = file.raw();
        let mut statement = raw.prepare(sql).unwrap();
        let columns =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        statement.query_map([], columns).unwrap().collect::<Result<_, _>>().unwrap()
    });
}

#[test]
fn a_writer_beside_it_means_not_stored() {
    let file = File::new();
    let mut store = file.store();
    let mut trading = Trading::new(32);
    let other = file.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let batch = trading.next_batch();
    match store.commit(&batch) {
        Err(CommitError::NotStored(_)) => {}
        result => panic!("{result:?}"),
    }
    assert_eq!(store.last_batch().unwrap(), BatchNumber(0));
    other.execute_batch("ROLLBACK").unwrap();
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
}

#[test]
fn the_log_is_copied_into_the_file_and_does_not_grow_for_ever() {
    let file = File::new();
    let mut store = file.store();
    let mut trading = Trading::new(33);
    store.commit(&trading.next_batch()).unwrap();
    // Incompressible rows, until the log must have been copied at least twice.
    let mut written = 0;
    let text = "x".repeat(1_000_000);
    while written < 100_000_000 {
        let worker = trading.put_worker((written / 1_000_000) as u8, &format!("{written}{text}"));
        let batch = trading.batch_of(vec![worker]);
        store.commit(&batch).unwrap();
        written += text.len();
    }
    let log = std::fs::metadata(file.path().with_extension("sqlite-wal")).unwrap().len();
    assert!(log < 60_000_000, "the log has {log} bytes");
    trading.assert_loaded(&store.load().unwrap());
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let file = File::new();
    let mut store = file.store();
    store.commit(&Trading::new(34).next_batch()).unwrap();
    for name in ["books.sqlite", "books.sqlite-wal", "books.sqlite-shm"] {
        let permissions = std::fs::metadata(file.0.path().join(name)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_newer_schema_is_left_alone() {
    let file = File::new();
    drop(file.store());
    file.raw().pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteStore::open(&file.path(), "one").unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 5 }), "{error}");
}

#[test]
fn other_files_are_refused() {
    // Another program's database.
    let file = File::new();
    file.raw().execute_batch("CREATE TABLE recipe (name TEXT)").unwrap();
    let error = SqliteStore::open(&file.path(), "one").unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    // No database at all.
    let file = File::new();
    std::fs::write(file.path(), "Dear diary, ".repeat(100)).unwrap();
    let error = SqliteStore::open(&file.path(), "one").unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    // A place where no file can be.
    let error = SqliteStore::open(&file.path().join("x"), "one").unwrap_err();
    assert!(matches!(error, StoreError::Directory(_)), "{error}");
}
