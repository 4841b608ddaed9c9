//! Whole books, wherever they are: verified, backed up, restored and exported, with a master beside or
//! without one.
//!
//! A backup is one SQLite file of the newest schema, whichever database it comes from, and either can be
//! filled from it. Everything here has its own connections and locks nothing for the master: reading is
//! one read transaction. Who restores must hold the lock of the data directory.
//!
//! Invariant: a file under a backup's name is complete, on the disk, and was verified; no file is ever
//! replaced, and no books that have an account in them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::UserName;
use papertrader_core::time::WallTime;
use rusqlite::Connection;

use crate::export::{self, Cursor, Page};
use crate::postgres::whole::{Filled, WholeReader};
use crate::postgres::{self, Address};
use crate::read::{self, Ask, Consistent};
use crate::sqlite;
use crate::watch::{Doing, Progress, Watch, Watched, tell};
use crate::{Report, StoreError, verify};

/// Where a copy is until it is complete: the name that follows the file's own.
const PART: &str = ".part";
/// Where a backup is while it is looked at.
const STAGED: &str = "restore.part";
/// What SQLite puts beside a file.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Where a deployment's books are. It may hold a password, and does not print it.
#[derive(Debug, Clone)]
pub struct Location(Place);

#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Server(Arc<Address>),
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The books, or the copy, cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be made, read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// The name is taken.
    #[error("{} is there already, and nothing is written over: choose another name", .0.display())]
    Exists(PathBuf),
    /// Another backup is being made there, or was cut short.
    #[error(
        "{} is there: another backup to this name is being made, or one was cut short; if none is, \
         remove that file",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// Not a file that was closed.
    #[error(
        "{} has a log beside it ({}): it is in use, or was copied from where it was. Take a file that \
         `papertrader admin backup` has made",
        .0.display(), .1.display()
    )]
    InUse(PathBuf, PathBuf),
    /// There are books already.
    #[error(
        "there are books already, with {accounts} accounts, in {place}: nothing is restored over them. \
         Name another place, or move them away first"
    )]
    NotEmpty {
        /// Where.
        place: String,
        /// How many.
        accounts: u32,
    },
    /// What was copied contradicts itself.
    #[error("the books contradict themselves; nothing was kept of the copy")]
    Wrong(Box<Report>),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What is there now.
    pub report: Report,
    /// The deployment's ID.
    pub deployment: String,
    /// The last batch that is there.
    pub last_batch: BatchNumber,
    /// Until when: the latest wall time that is stored.
    pub last_wall: WallTime,
}

impl Location {
    /// A file.
    pub fn file(path: &Path) -> Location {
        Location(Place::File(path.to_owned()))
    }

    /// A PostgreSQL database, by its URL.
    pub fn server(url: &str) -> Result<Location, StoreError> {
        Ok(Location(Place::Server(Arc::new(Address::new(url)?))))
    }

    pub(crate) fn at(address: Arc<Address>) -> Location {
        Location(Place::Server(address))
    }

    /// Whether it is a file that is not there.
    pub fn is_missing_file(&self) -> bool {
        matches!(&self.0, Place::File(path) if !path.exists())
    }

    /// How many orders were accepted that are not in the books, but beside them, since the master that
    /// accepted them did not come to write them: the next one does, when it starts.
    pub fn accepted_beside(&self) -> Result<u64, StoreError> {
        match &self.0 {
            Place::File(path) => sqlite::intake::left(path),
            Place::Server(_) => Ok(0),
        }
    }

    /// Verifies all books, as they are at one moment.
    pub fn verify(&self, watch: &mut Watch<'_>) -> Result<Report, StoreError> {
        match &self.0 {
            Place::File(path) => {
                sqlite::whole::verify(&mut sqlite::whole::open_to_read(path)?, watch)
            }
            Place::Server(address) => {
                let reader = postgres::whole::open_to_read(address)?;
                reader.consistent(|ask| verify::verify(&Watched::new(ask, Doing::Verifying, watch)))
            }
        }
    }

    /// Copies all books, as they are at one moment, into a new file; returns what is in it.
    pub fn back_up(&self, file: &Path, watch: &mut Watch<'_>) -> Result<Report, CopyError> {
        if std::fs::symlink_metadata(file).is_ok() {
            return Err(CopyError::Exists(file.to_owned()));
        }
        let part = beside(file, PART);
        match sqlite::whole::make(&part) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CopyError::Unfinished(part));
            }
            Err(error) => return Err(failed(&part, error)),
        }
        let copied = self.copy_to(&part, watch).and_then(|report| {
            publish(&part, file)?;
            Ok(report)
        });
        if copied.is_err() {
            remove(&part);
        }
        copied
    }

    /// Fills the empty file `part`, and verifies what is in it then.
    fn copy_to(&self, part: &Path, watch: &mut Watch<'_>) -> Result<Report, CopyError> {
        match &self.0 {
            Place::File(path) => sqlite::whole::copy(path, part, watch)?,
            Place::Server(address) => {
                let reader = postgres::whole::open_to_read(address)?;
                reader.consistent(|ask| sqlite::whole::fill(ask, part, watch))?;
            }
        }
        sync(part)?;
        right(sqlite::whole::verify(&mut sqlite::whole::open_to_read(part)?, watch)?)
    }

    /// Puts the books of a backup here, where there must be none yet, or none with an account. All
    /// sessions are ended. The directory `dir`, whose lock the caller holds, has room for a copy.
    pub fn restore(
        &self,
        backup: &Path,
        dir: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Restored, CopyError> {
        if let Place::File(path) = &self.0 {
            refuse_books(path)?;
        }
        let log = beside(backup, BESIDE[0]);
        if std::fs::metadata(&log).is_ok_and(|data| data.len() > 0) {
            return Err(CopyError::InUse(backup.to_owned(), log));
        }
        let staged = dir.join(STAGED);
        // What an earlier one has left: nobody else has the lock.
        remove(&staged);
        let restored = self.restore_through(&staged, backup, watch);
        remove(&staged);
        restored
    }

    fn restore_through(
        &self,
        staged: &Path,
        backup: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Restored, CopyError> {
        copy_bytes(backup, staged, watch)?;
        let report = right(sqlite::whole::stage(staged, watch)?)?;
        let connection = sqlite::whole::open_to_read(staged)?;
        let meta = read::meta(&connection)?;
        let restored = Restored {
            report,
            deployment: meta.deployment,
            last_batch: meta.last_batch,
            last_wall: meta.last_wall,
        };
        match &self.0 {
            Place::File(path) => {
                drop(connection);
                sync(staged)?;
                // Empty books that were there, and a log that must not be taken for the new file's.
                remove(path);
                std::fs::rename(staged, path).map_err(|error| failed(path, error))?;
                sync_directory(path)?;
            }
            Place::Server(address) => match postgres::whole::fill(address, &connection, watch)? {
                Filled::NotEmpty(accounts) => {
                    let place = format!("the database {address:?}");
                    return Err(CopyError::NotEmpty { place, accounts });
                }
                Filled::Done(report) => drop(right(report)?),
            },
        }
        Ok(restored)
    }

    /// Opens it to export accounts.
    pub fn exporter(&self) -> Result<Exporter, StoreError> {
        Ok(Exporter(match &self.0 {
            Place::File(path) => Source::File(sqlite::whole::open_to_read(path)?),
            Place::Server(address) => {
                Source::Server(postgres::whole::open_to_read(address)?.into())
            }
        }))
    }
}

/// Reads what accounts ever did.
pub struct Exporter(Source);

enum Source {
    File(Connection),
    Server(Box<WholeReader>),
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Whose a name is, without regard to case, and how its owner writes it.
    pub fn account(
        &mut self,
        name: &UserName,
    ) -> Result<Option<(AccountId, UserName)>, StoreError> {
        self.consistent(|ask| export::account(ask, name))
    }

    /// What an account did after a cursor, at most `limit` lines, oldest first.
    pub fn page(
        &mut self,
        account: AccountId,
        after: Cursor,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.consistent(|ask| export::page(ask, account, after, limit))
    }

    fn consistent<T>(
        &mut self,
        ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &mut self.0 {
            Source::File(connection) => connection.consistent(ask),
            Source::Server(reader) => reader.consistent(ask),
        }
    }
}

/// The report, if nothing in it is wrong.
fn right(report: Report) -> Result<Report, CopyError> {
    if report.mismatches.is_empty() { Ok(report) } else { Err(CopyError::Wrong(report.into())) }
}

/// Refuses a place where somebody has an account.
fn refuse_books(path: &Path) -> Result<(), CopyError> {
    if !path.exists() {
        return Ok(());
    }
    match sqlite::whole::accounts(path)? {
        0 => Ok(()),
        accounts => Err(CopyError::NotEmpty { place: path.display().to_string(), accounts }),
    }
}

/// Gives a complete file its name. Fails if that is taken.
fn publish(part: &Path, file: &Path) -> Result<(), CopyError> {
    match std::fs::hard_link(part, file) {
        Ok(()) => remove(part),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(CopyError::Exists(file.to_owned()));
        }
        // Not every file system has links.
        Err(_) if !file.exists() => {
            std::fs::rename(part, file).map_err(|error| failed(file, error))?;
        }
        Err(error) => return Err(failed(file, error)),
    }
    sync_directory(file)
}

/// Copies a file into a new one, readable by its owner only.
fn copy_bytes(from: &Path, to: &Path, watch: &mut Watch<'_>) -> Result<(), CopyError> {
    let (source, target) = (|error| failed(from, error), |error| failed(to, error));
    let mut reading = File::open(from).map_err(source)?;
    let of = Some(reading.metadata().map_err(source)?.len());
    let mut writing = sqlite::whole::make(to).map_err(target)?;
    let (mut buffer, mut done) = (vec![0; CHUNK], 0);
    loop {
        let read = reading.read(&mut buffer).map_err(source)?;
        if read == 0 {
            return Ok(());
        }
        writing.write_all(&buffer[..read]).map_err(target)?;
        done += read as u64;
        tell(watch, Progress { doing: Doing::Copying, done, of })?;
    }
}

/// A file and what SQLite has put beside it.
fn remove(path: &Path) {
    for name in BESIDE {
        let _ = std::fs::remove_file(beside(path, name));
    }
    // What is not there need not be removed; what cannot be is in the way of the next step.
    let _ = std::fs::remove_file(path);
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn sync(path: &Path) -> Result<(), CopyError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path, error))
}

/// Makes the name of a file durable.
fn sync_directory(path: &Path) -> Result<(), CopyError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync(dir)
}

fn failed(path: &Path, error: io::Error) -> CopyError {
    CopyError::File { path: path.display().to_string(), error }
}
