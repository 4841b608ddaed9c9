//! Whole files: a copy of one that is written meanwhile, a file that is filled from another database,
//! and one that takes the place of books that are not there.
//!
//! A copy is made page by page inside one read transaction: it is of one moment, the writer goes on,
//! and only the log cannot be begun anew before it ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::failure::of_read;
use super::schema;
use crate::copy::tables;
use crate::directory::private;
use crate::read::Ask;
use crate::watch::{Doing, Progress, Watch, Watched, tell};
use crate::{Report, StoreError, verify};

/// Pages that are copied between two looks at the watch.
const PAGES: i32 = 4_096;

/// Opens books that are there, for reading, and looks whether this program can.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    let failed = |error: rusqlite::Error| {
        StoreError::Directory(format!("cannot open the database {}: {error}", path.display()))
    };
    let connection = schema::connect_reader(path).map_err(failed)?;
    schema::check(&connection)?;
    // The outcomes of a generation, which are looked up in the order of their orders, and some more.
    connection.execute_batch("PRAGMA cache_size = -65536").map_err(of_read)?;
    Ok(connection)
}

/// Verifies the books that a connection shows, at one moment.
pub(crate) fn verify(
    connection: &mut Connection,
    watch: &mut Watch<'_>,
) -> Result<Report, StoreError> {
    let transaction = connection.transaction().map_err(of_read)?;
    verify::verify(&Watched::new(&*transaction, Doing::Verifying, watch))
}

/// Copies the books at `source` into the empty file `copy`, as they are at one moment.
pub(crate) fn copy(source: &Path, copy: &Path, watch: &mut Watch<'_>) -> Result<(), StoreError> {
    let from = open_to_read(source)?;
    // Without it, each batch that is written meanwhile would begin the copy anew.
    from.execute_batch("BEGIN; SELECT one FROM meta").map_err(of_read)?;
    tell(watch, Progress { doing: Doing::Copying, done: 0, of: None })?;
    let mut to = scratch(copy)?;
    // What is copied goes to the disk bit by bit: all at once in the end would keep a commit waiting.
    to.execute_batch("PRAGMA cache_size = -4096").map_err(of_read)?;
    let file = File::open(copy).map_err(not_synced)?;
    let backup = Backup::new(&from, &mut to).map_err(of_read)?;
    loop {
        let step = backup.step(PAGES).map_err(of_read)?;
        file.sync_data().map_err(not_synced)?;
        let progress = backup.progress();
        let pages = |count: i32| u64::try_from(count).unwrap_or(0);
        let of = pages(progress.pagecount);
        let done = of - pages(progress.remaining).min(of);
        tell(watch, Progress { doing: Doing::Copying, done, of: Some(of) })?;
        if matches!(step, StepResult::Done) {
            break;
        }
    }
    drop(backup);
    drop(from);
    // One file, which can be read where nothing can be written.
    to.execute_batch("PRAGMA journal_mode = DELETE").map_err(of_read)?;
    to.close().map_err(|(_, error)| of_read(error))
}

fn not_synced(error: std::io::Error) -> StoreError {
    StoreError::Database(format!("the copy cannot be brought to the disk: {error}"))
}

/// Fills the empty file `copy` with all rows that `ask` shows.
pub(crate) fn fill(ask: &dyn Ask, copy: &Path, watch: &mut Watch<'_>) -> Result<(), StoreError> {
    let mut to = scratch(copy)?;
    schema::migrate(&mut to, "")?;
    let tables = tables(&to)?;
    let ask = Watched::new(ask, Doing::Copying, watch);
    let transaction = to.transaction().map_err(of_read)?;
    for table in &tables {
        let names = table.columns.join(", ");
        let values: Vec<String> = (1..=table.columns.len()).map(|n| format!("?{n}")).collect();
        let name = &table.name;
        // The migrations put some rows there.
        transaction.execute(&format!("DELETE FROM {name}"), []).map_err(of_read)?;
        let sql = format!("INSERT INTO {name} ({names}) VALUES ({})", values.join(", "));
        let mut insert = transaction.prepare(&sql).map_err(of_read)?;
        table.each(&ask, |row| {
            insert.execute(rusqlite::params_from_iter(row)).map_err(of_read)?;
            Ok(())
        })?;
    }
    transaction.commit().map_err(of_read)?;
    to.close().map_err(|(_, error)| of_read(error))
}

/// A file that is made: nothing of it counts before it is complete, and then it is synced.
fn scratch(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(of_read)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;
             PRAGMA trusted_schema = OFF; PRAGMA cache_size = -65536",
        )
        .map_err(of_read)?;
    Ok(connection)
}

/// Brings the copy of a backup at `path` to the newest schema and ends all its sessions: what was
/// ended since would be there again. Verifies it.
pub(crate) fn stage(path: &Path, watch: &mut Watch<'_>) -> Result<Report, StoreError> {
    let found = schema::version_of_ours(&schema::connect_reader(path).map_err(of_read)?)?;
    if found == 0 {
        return Err(StoreError::Corrupt("the file is empty".to_owned()));
    }
    let mut connection = schema::open(path, "")?;
    connection.execute_batch("DELETE FROM session").map_err(of_read)?;
    let report = verify(&mut connection, watch)?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(of_read)?;
    connection.close().map_err(|(_, error)| of_read(error))?;
    Ok(report)
}

/// How many accounts the books at `path` have. A log that a crash has left is in the file then.
pub(crate) fn accounts(path: &Path) -> Result<u32, StoreError> {
    let connection = schema::connect(path).map_err(of_read)?;
    if schema::version_of_ours(&connection)? == 0 {
        return Ok(0);
    }
    let count = connection.query_row("SELECT count(*) FROM account", [], |row| row.get(0));
    count.map_err(of_read)
}

/// Makes a file, readable by its owner only. Fails if there is one.
pub(crate) fn make(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    private(&mut options);
    options.open(path)
}
