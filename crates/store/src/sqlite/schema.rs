//! Connections and the schema: how a database file is opened, and brought to the newest version.
//!
//! Migrations go forward only, each in one transaction together with its number (SQLite's
//! `user_version`), so a crash leaves one version or the next.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::failure::of_read;
use crate::StoreError;
use crate::directory::private;
use crate::index::order_hash;

/// All migrations: entry n brings version n to version n + 1.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../migrations/sqlite/0001_books.sql"),
    include_str!("../../migrations/sqlite/0002_lock.sql"),
    include_str!("../../migrations/sqlite/0003_ledger.sql"),
    include_str!("../../migrations/sqlite/0004_behind.sql"),
    include_str!("../../migrations/sqlite/0005_bars.sql"),
];

/// Marks the file as one of ours ("PTRD"), so that another program's file is never migrated.
const APPLICATION_ID: i32 = 0x5054_5244;

/// How long a connection waits for another one's lock. Only this process has the file open (the
/// directory is locked), so it waits for a checkpoint at the longest.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// More than the number of different statements, so that each is prepared once.
const STATEMENTS: usize = 64;

/// Opens the file for writing, makes it when it is missing (readable by its owner only), and
/// migrates it. A new database gets the deployment ID given.
pub(super) fn open(path: &Path, deployment_if_new: &str) -> Result<Connection, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    // SQLite gives its other files (-wal, -shm) the permissions of this one.
    options.open(path).map_err(|error| {
        StoreError::Directory(format!("cannot open the database {}: {error}", path.display()))
    })?;
    let mut connection = connect(path).map_err(of_read)?;
    migrate(&mut connection, deployment_if_new)?;
    Ok(connection)
}

/// Opens a file that is there, for writing.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(mode, "the database does not use a write-ahead log on this file system");
    }
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;
         -- 256 MiB at most: a settlement touches the pages of many accounts.
         PRAGMA cache_size = -262144;
         -- Checkpoints are made after a commit, where their errors are seen: the automatic one
         -- would swallow a failed fsync.
         PRAGMA wal_autocheckpoint = 0;
         -- After a checkpoint that emptied it, the log's file is cut to this many bytes.
         PRAGMA journal_size_limit = 134217728;",
    )?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Opens a file that is there, for reading only.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF;")?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// Brings a file to the newest version. A new one gets the deployment ID given.
pub(super) fn migrate(connection: &mut Connection, deployment: &str) -> Result<(), StoreError> {
    let found = version_of_ours(connection)?;
    let (version, known) = (found as usize, MIGRATIONS.len());
    if version < known {
        add_functions(connection).map_err(of_read)?;
    }
    for (done, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        apply(connection, done + 1, sql, deployment).map_err(of_read)?;
        tracing::info!(version = done + 1, "the database schema was brought forward");
    }
    Ok(())
}

/// The version of a file of ours, 0 of an empty one. It is none that this program does not know.
pub(super) fn version_of_ours(connection: &Connection) -> Result<u32, StoreError> {
    let known = MIGRATIONS.len() as u32;
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(of_read)?;
    let owner: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(of_read)?;
    let tables: u32 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(of_read)?;
    let is_new = found == 0 && owner == 0 && tables == 0;
    if !is_new && (owner != APPLICATION_ID || found == 0) {
        let what = "the file is a database of another program";
        return Err(StoreError::Corrupt(what.to_owned()));
    }
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    Ok(found)
}

/// That a file has the newest version.
pub(super) fn check(connection: &Connection) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as u32;
    match version_of_ours(connection)? {
        found if found < known => Err(StoreError::TooOld { found, known }),
        _ => Ok(()),
    }
}

fn apply(
    connection: &mut Connection,
    version: usize,
    sql: &str,
    deployment: &str,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    if version == 1 {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.execute(
            "INSERT INTO meta (one, deployment, last_batch, last_wall) VALUES (1, ?1, 0, 0)",
            [deployment],
        )?;
    }
    transaction.pragma_update(None, "user_version", version as i64)?;
    transaction.commit()
}

/// The functions that migrations use.
fn add_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("order_hash", 2, flags, |context| {
        let id = context.get_raw(1).as_str()?;
        Ok(order_hash(context.get(0)?, id).cast_signed())
    })
}
