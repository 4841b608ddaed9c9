//! The embedded store: SQLite with a write-ahead log.
//!
//! One connection writes; readers have their own and never block it. Every commit reaches the
//! disk before it is reported (`synchronous = FULL`). What the errors mean is decided in
//! `failure.rs`; the log is copied into the file by a thread of its own (`checkpoint.rs`); the schema stands in `migrations/sqlite`.
//!
//! This file opens the database and brings batches through their transaction. What is written, read
//! and verified is the same for every database (`write.rs`, `read.rs`, `verify.rs`); how SQLite does
//! it stands in `sqlite/rows.rs`.

mod checkpoint;
mod failure;
pub(crate) mod intake;
mod rows;
mod schema;
pub(crate) mod whole;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::ClientOrderId;
use rusqlite::Connection;

use checkpoint::Checkpointer;
use failure::{Phase, of_batch, of_read};
use intake::IntakeFile;

use crate::behind::{Behind, Pace};
use crate::index::Index;
use crate::past::Filling;
use crate::read::{self, Reader, SharedIndex, read_index};
use crate::verify;
use crate::write::{self, Committed};
use crate::{
    Batch, CommitError, Found, Intake, Loaded, Location, Mismatch, Sieve, Store, StoreError,
    StoreReader,
};

/// A database file that this process writes. Lock its directory first
/// ([`crate::directory::lock_directory`]): two writers would contradict each other.
pub struct SqliteStore {
    path: PathBuf,
    /// `None` only after a reconnection failed.
    connection: Option<Connection>,
    index: SharedIndex,
    /// The last batch in the index. It is read at its first use, so that a damaged database can be
    /// opened and verified.
    indexed: Option<BatchNumber>,
    /// The index was compared with what this connection sees.
    compared: bool,
    /// What is behind after this batch, once it was read.
    behind: Option<(BatchNumber, Behind)>,
    pace: Pace,
    /// Reads the past of the index.
    filling: Option<Filling>,
    checkpointer: Checkpointer,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqliteStore({})", self.path.display())
    }
}

impl SqliteStore {
    /// Opens the database at `path`, made when it is missing (readable by its owner only) and
    /// brought to the newest schema. A new database gets the deployment ID `deployment_if_new`;
    /// one that is there keeps its own.
    ///
    /// Fails with [`StoreError::TooNew`] on a newer program's database, [`StoreError::Corrupt`] on
    /// a file that is none of ours, [`StoreError::Directory`] where no file can be.
    pub fn open(path: &Path, deployment_if_new: &str) -> Result<SqliteStore, StoreError> {
        let connection = schema::open(path, deployment_if_new)?;
        Ok(SqliteStore {
            path: path.to_owned(),
            connection: Some(connection),
            index: Arc::new(RwLock::new(Index::new(0, 0, 0))),
            indexed: None,
            compared: false,
            behind: None,
            pace: Pace::default(),
            filling: None,
            checkpointer: Checkpointer::start(path)
                .map_err(|error| StoreError::Database(error.to_string()))?,
        })
    }

    /// Makes the connection anew if a reconnection failed before.
    fn ensure_connected(&mut self) -> Result<(), StoreError> {
        if self.connection.is_none() { self.reconnect() } else { Ok(()) }
    }

    /// Sets how far a settlement brings balances and positions forward.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Brings the index to what this connection sees, if that was not done yet. A new connection to
    /// the same state goes on with the index of the old one.
    fn ensure_indexed(&mut self) -> Result<(), StoreError> {
        self.ensure_connected()?;
        if self.compared {
            return Ok(());
        }
        let last = self.read(|connection| Ok(read::meta(connection)?.last_batch))?;
        if self.indexed != Some(last) {
            self.filling = None;
            let index = self.read(|connection| read::index(connection))?;
            if !index.knows_past() {
                let connection = schema::connect_reader(&self.path).map_err(of_read)?;
                self.filling = Some(Filling::start(connection, &index)?);
            }
            *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
            self.indexed = Some(last);
        }
        self.compared = true;
        Ok(())
    }

    /// What is behind, read if it is not known.
    fn ensure_behind(&mut self) -> Result<(), StoreError> {
        let known = self.behind.as_ref().map(|(batch, _)| *batch);
        if known.is_none() || known != self.indexed { self.load().map(|_| ()) } else { Ok(()) }
    }

    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or_else(lost)
    }

    /// Runs a read in one transaction, so that all it sees is of one moment.
    fn read<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.ensure_connected()?;
        let connection = self.connection.as_mut().ok_or_else(lost)?;
        let transaction = connection.transaction().map_err(of_read)?;
        read(&transaction)
    }

    fn write(&mut self, batch: &Batch) -> Result<Committed, CommitError> {
        let not_stored = |error: StoreError| CommitError::NotStored(error.to_string());
        self.ensure_connected().map_err(not_stored)?;
        self.ensure_indexed().map_err(not_stored)?;
        self.ensure_behind().map_err(not_stored)?;
        let connection = self.connection().map_err(not_stored)?;
        let Some((_, behind)) = &self.behind else { return Err(not_stored(lost())) };
        connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|error| of_batch(&error, Phase::Open))?;
        let mut writer = rows::Writer::new(connection);
        let index = read_index(&self.index);
        let written = write::batch(&mut writer, &index, behind, self.pace, batch);
        drop(index);
        drop(writer);
        let committed = match written {
            Ok(committed) => committed,
            Err(error) => {
                self.roll_back();
                return Err(error);
            }
        };
        if let Err(error) = connection.execute_batch("COMMIT") {
            // SQLite ends the transaction itself on most failures, but not on all.
            let is_open = !connection.is_autocommit();
            let phase = if is_open { Phase::Open } else { Phase::Ended };
            let error = of_batch(&error, phase);
            if is_open {
                self.roll_back();
            }
            return Err(error);
        }
        Ok(committed)
    }

    /// Ends the open transaction. If even that fails the connection is dropped, which does it.
    fn roll_back(&mut self) {
        let Some(connection) = &self.connection else { return };
        if connection.is_autocommit() {
            return;
        }
        if let Err(error) = connection.execute_batch("ROLLBACK") {
            tracing::warn!(%error, "a transaction could not be rolled back: reconnecting");
        }
        if !connection.is_autocommit()
            && let Err(error) = self.reconnect()
        {
            tracing::error!(%error, "reconnecting failed");
        }
    }
}

fn lost() -> StoreError {
    StoreError::Database("the connection was lost: reconnect".to_owned())
}

impl Store for SqliteStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let (loaded, behind) = self.read(|connection| read::load(connection))?;
        self.behind = Some((loaded.last_batch, behind));
        Ok(loaded)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if let Some(why) = self.checkpointer.failed() {
            return Err(CommitError::Disk(why.to_owned()));
        }
        let committed = self.write(batch)?;
        self.indexed = Some(batch.number);
        committed.apply(batch.number, &self.index, &mut self.behind);
        if let Some(connection) = &self.connection {
            self.checkpointer.committed(connection);
        }
        Ok(())
    }

    fn find(
        &mut self,
        keys: &[(AccountId, ClientOrderId)],
    ) -> Result<Vec<Option<Found>>, StoreError> {
        self.ensure_indexed()?;
        let index = Arc::clone(&self.index);
        let index = read_index(&index);
        self.read(|connection| read::find(connection, &index, keys))
    }

    fn last_batch(&mut self) -> Result<BatchNumber, StoreError> {
        // What is asked after a batch with an unknown result is seen by the readers from now on.
        self.ensure_indexed()?;
        self.read(|connection| Ok(read::meta(connection)?.last_batch))
    }

    fn reconnect(&mut self) -> Result<(), StoreError> {
        self.connection = None;
        // A batch whose result was unknown may be stored.
        self.compared = false;
        self.connection = Some(schema::connect(&self.path).map_err(of_read)?);
        Ok(())
    }

    fn reader(&mut self) -> Result<Box<dyn StoreReader>, StoreError> {
        self.ensure_indexed()?;
        let connection = schema::connect_reader(&self.path).map_err(of_read)?;
        Ok(Box::new(Reader::new(connection, Arc::clone(&self.index))))
    }

    fn verify(&mut self) -> Result<Vec<Mismatch>, StoreError> {
        self.read(|connection| Ok(verify::verify(connection)?.mismatches))
    }

    fn sieve(&mut self) -> Result<Sieve, StoreError> {
        self.ensure_indexed()?;
        Ok(Sieve::new(&self.index))
    }

    fn intake(&mut self) -> Result<Option<Box<dyn Intake>>, StoreError> {
        let deployment = self.read(|connection| Ok(read::meta(connection)?.deployment))?;
        Ok(Some(Box::new(IntakeFile::open(&self.path, &deployment)?)))
    }

    fn location(&self) -> Location {
        Location::file(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use papertrader_core::time::WallTime;

    #[test]
    fn a_lost_connection_is_made_anew_when_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("test.db"), dir.path().join("away.db"));
        let mut store = SqliteStore::open(&path, "deployment").unwrap();
        let batch = |number| Batch {
            number: BatchNumber(number),
            wall: WallTime(number as i64),
            changes: Vec::new(),
        };
        store.commit(&batch(1)).unwrap();
        store.connection = None;
        std::fs::rename(&path, &away).unwrap();
        store.reconnect().unwrap_err();
        assert!(matches!(store.commit(&batch(2)), Err(CommitError::NotStored(_))));
        std::fs::rename(&away, &path).unwrap();
        store.commit(&batch(2)).unwrap();
        assert_eq!(store.last_batch().unwrap(), BatchNumber(2));
    }
}
