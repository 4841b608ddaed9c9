//! The store in PostgreSQL, for what one machine's file is not enough for.
//!
//! One connection writes and holds the database's lock; readers have their own. Every commit is on
//! the server's disk before it is reported (`synchronous_commit = on`). What the errors mean is
//! decided in `failure.rs`; the schema stands in `migrations/postgres`, the URL in `address.rs`.
//!
//! This file opens the database and brings batches through their transaction. What is written, read
//! and verified is the same for every database (`write.rs`, `read.rs`, `verify.rs`); how PostgreSQL
//! does it stands in `postgres/write.rs` and `postgres/rows.rs`.
//!
//! Invariant: two writers never both commit. The lock keeps a second one away; and each transaction
//! locks the row of `meta`, and changes it only if it is this process's, and from the batch that it
//! follows.

mod address;
mod client;
mod failure;
mod lease;
mod rows;
mod schema;
mod standby;
pub(crate) mod whole;
mod write;

pub use standby::{Look, Standby, Waiting};

use std::sync::{Arc, PoisonError, RwLock};

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::ClientOrderId;

pub(crate) use address::Address;
use client::Client;
use failure::{Failure, Phase, of_batch};
use lease::{Held, Holder, Keeper};
use schema::Session;

use crate::behind::{Behind, Pace};
use crate::index::Index;
use crate::lease::Lease;
use crate::past::Filling;
use crate::read::{self, Ask, Consistent, Reader, SharedIndex, read_index};
use crate::verify;
use crate::write::Committed;
use crate::{
    Batch, CommitError, Found, Intake, Loaded, Location, Mismatch, Sieve, Store, StoreError,
    StoreReader,
};

/// A database that this process writes, it alone.
///
/// It may be opened and used on any thread; on one that runs an asynchronous runtime it blocks that
/// thread.
pub struct PostgresStore {
    address: Arc<Address>,
    /// `None` only after the connection was lost.
    client: Option<Client>,
    /// The session of the last connection.
    session: Session,
    /// This process, as the lease names it.
    holder: Holder,
    index: SharedIndex,
    /// The last batch in the index. It is read at its first use, so that a damaged database can be
    /// opened and verified.
    indexed: Option<BatchNumber>,
    /// Reads the past of the index.
    filling: Option<Filling>,
    /// The index was compared with what this connection sees.
    compared: bool,
    /// What memory takes over if a batch turns out to be stored whose COMMIT had no answer.
    unknown: Option<(BatchNumber, Committed)>,
    /// What is behind after this batch, once it was read.
    behind: Option<(BatchNumber, Behind)>,
    pace: Pace,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresStore({:?})", self.address)
    }
}

impl PostgresStore {
    /// Opens the database of a URL, `postgresql://USER:PASSWORD@HOST:PORT/DATABASE?KEY=VALUE&…`,
    /// and brings it to the newest schema. The database itself must be there. A new one gets the
    /// deployment ID `deployment_if_new`; one that is there keeps its own.
    ///
    /// `sslmode` is `disable`, `prefer` (the default: TLS if the server has it, whoever it is),
    /// `require` (TLS, whoever it is) or `verify-full` (TLS with a certificate for this host by one
    /// of the system's root certificates, or of those in the file `sslrootcert`). `answer_timeout`
    /// is how many seconds the server may take for a statement (30).
    ///
    /// Fails with [`StoreError::TooNew`] on a newer program's database, [`StoreError::Corrupt`] on
    /// one that holds another program's tables, [`StoreError::Directory`] on one that another
    /// master uses.
    pub fn open(url: &str, deployment_if_new: &str) -> Result<PostgresStore, StoreError> {
        PostgresStore::take(Arc::new(Address::new(url)?), None, deployment_if_new)
    }

    /// Opens it, and ends the session of a lease that is over.
    fn take(
        address: Arc<Address>,
        over: Option<&Held>,
        deployment_if_new: &str,
    ) -> Result<PostgresStore, StoreError> {
        let (client, session, holder) = schema::open(&address, over, deployment_if_new)?;
        Ok(PostgresStore {
            address,
            client: Some(client),
            session,
            holder,
            index: Arc::new(RwLock::new(Index::new(0, 0, 0))),
            indexed: None,
            filling: None,
            compared: false,
            unknown: None,
            behind: None,
            pace: Pace::default(),
        })
    }

    /// Sets how far a settlement brings balances and positions forward.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The connection, made anew if the one before was lost.
    fn connected(&mut self) -> Result<&Client, StoreError> {
        if self.client.as_ref().is_none_or(Client::is_lost) {
            self.reconnect()?;
        }
        self.client.as_ref().ok_or_else(|| Failure::lost().into())
    }

    /// Brings the index to what this connection sees, if that was not done yet. A new connection to
    /// the same state goes on with the index of the old one.
    fn ensure_indexed(&mut self) -> Result<(), StoreError> {
        self.connected()?;
        if self.compared {
            return Ok(());
        }
        let last = self.read(|ask| Ok(read::meta(ask)?.last_batch))?;
        let unknown = self.unknown.take();
        if self.indexed != Some(last) {
            let follows = self.indexed.is_some_and(|before| before.0 + 1 == last.0);
            let stored = unknown.filter(|(number, _)| follows && *number == last);
            let index = match stored {
                Some((number, committed)) => {
                    self.apply(number, committed);
                    None
                }
                None => Some(self.read_all(read::index)?),
            };
            if let Some(index) = index {
                self.abandon_filling();
                if !index.knows_past() {
                    let address = Arc::clone(&self.address);
                    let connection = Readable { address, client: None };
                    self.filling = Some(Filling::start(connection, &index)?);
                }
                *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
            }
            self.indexed = Some(last);
        }
        self.compared = true;
        Ok(())
    }

    fn abandon_filling(&mut self) {
        if let Some(filling) = self.filling.take() {
            filling.abandon();
        }
    }

    /// Takes over what was committed as this batch.
    fn apply(&mut self, number: BatchNumber, committed: Committed) {
        self.indexed = Some(number);
        committed.apply(number, &self.index, &mut self.behind);
    }

    /// What is behind, read if it is not known.
    fn ensure_behind(&mut self) -> Result<(), StoreError> {
        let known = self.behind.as_ref().map(|(batch, _)| *batch);
        if known.is_none() || known != self.indexed { self.load().map(|_| ()) } else { Ok(()) }
    }

    /// Runs a read in one transaction, so that all it sees is of one moment.
    fn read<T>(
        &mut self,
        mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        at_one_moment(self.connected()?, "", &mut ask)
    }

    /// The same for as long as it takes, because it reads all there is.
    fn read_all<T>(
        &mut self,
        mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let client = self.connected()?;
        let _patience = client.wait_for_ever();
        at_one_moment(client, "SET LOCAL statement_timeout = 0", &mut ask)
    }

    fn write(&mut self, batch: &Batch) -> Result<Committed, CommitError> {
        let not_stored = |error: StoreError| match error {
            StoreError::TakenOver(by) => CommitError::TakenOver(by),
            error => CommitError::NotStored(error.to_string()),
        };
        self.ensure_indexed().map_err(not_stored)?;
        self.ensure_behind().map_err(not_stored)?;
        let (Some(client), Some((_, behind))) = (&self.client, &self.behind) else {
            return Err(of_batch(Failure::lost(), Phase::Open));
        };
        client
            .batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            .map_err(|failure| of_batch(failure, Phase::Open))?;
        let mut writer = write::Writer::new(client, &self.holder.id);
        let index = read_index(&self.index);
        let written = crate::write::batch(&mut writer, &index, behind, self.pace, batch);
        drop(index);
        let committed = match written {
            Ok(committed) => committed,
            Err(error) => {
                self.roll_back();
                return Err(error);
            }
        };
        if let Err(failure) = client.batch("COMMIT") {
            let error = of_batch(failure, Phase::Committing);
            if matches!(error, CommitError::Unknown(_)) {
                self.unknown = Some((batch.number, committed));
                self.compared = false;
                self.client = None;
            } else {
                self.roll_back();
            }
            return Err(error);
        }
        Ok(committed)
    }

    /// Ends the open transaction. If that fails the connection is dropped, which does it.
    fn roll_back(&mut self) {
        let ended = self.client.as_ref().is_some_and(|client| client.batch("ROLLBACK").is_ok());
        if !ended {
            self.client = None;
        }
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.abandon_filling();
    }
}

/// Asks in one read transaction, after a statement.
fn at_one_moment<T>(
    client: &Client,
    before: &str,
    ask: &mut impl FnMut(&dyn Ask) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    client.batch(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {before}"))?;
    let answer = ask(client);
    let ended = client.batch("ROLLBACK");
    let answer = answer?;
    ended?;
    Ok(answer)
}

impl Store for PostgresStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let (loaded, behind) = self.read_all(read::load)?;
        self.behind = Some((loaded.last_batch, behind));
        Ok(loaded)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let committed = self.write(batch)?;
        self.apply(batch.number, committed);
        Ok(())
    }

    fn find(
        &mut self,
        keys: &[(AccountId, ClientOrderId)],
    ) -> Result<Vec<Option<Found>>, StoreError> {
        self.ensure_indexed()?;
        let index = Arc::clone(&self.index);
        let index = read_index(&index);
        let client = self.client.as_ref().ok_or_else(Failure::lost)?;
        at_one_moment(client, "", &mut |ask| read::find(ask, &index, keys))
    }

    fn last_batch(&mut self) -> Result<BatchNumber, StoreError> {
        // What is asked after a batch with an unknown result is seen by the readers from now on.
        self.ensure_indexed()?;
        self.read(|ask| Ok(read::meta(ask)?.last_batch))
    }

    fn reconnect(&mut self) -> Result<(), StoreError> {
        self.client = None;
        // A batch whose result was unknown may be stored.
        self.compared = false;
        let (client, session) = schema::reconnect(&self.address, &self.session, &self.holder)?;
        (self.client, self.session) = (Some(client), session);
        Ok(())
    }

    fn reader(&mut self) -> Result<Box<dyn StoreReader>, StoreError> {
        self.ensure_indexed()?;
        let address = Arc::clone(&self.address);
        let client = Some(schema::connect_reader(&address)?);
        Ok(Box::new(Reader::new(Readable { address, client }, Arc::clone(&self.index))))
    }

    fn verify(&mut self) -> Result<Vec<Mismatch>, StoreError> {
        Ok(self.read_all(verify::verify)?.mismatches)
    }

    fn sieve(&mut self) -> Result<Sieve, StoreError> {
        self.ensure_indexed()?;
        Ok(Sieve::new(&self.index))
    }

    /// None: what only this machine's disk has is lost to a standby.
    fn intake(&mut self) -> Result<Option<Box<dyn Intake>>, StoreError> {
        Ok(None)
    }

    fn location(&self) -> Location {
        Location::at(Arc::clone(&self.address))
    }

    fn lease(&mut self) -> Option<Box<dyn Lease>> {
        Some(Box::new(Keeper::new(&self.address, &self.holder)))
    }
}

/// A reader's connections: one after another, as they get lost.
struct Readable {
    address: Arc<Address>,
    client: Option<Client>,
}

impl Readable {
    /// Asks, and once more if the connection turns out to be lost: it may have been idle for long.
    fn ask<T>(
        &mut self,
        mut ask: impl FnMut(&Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let was_connected = self.client.is_some();
        let answer = self.attempt(&mut ask);
        if was_connected && self.client.is_none() { self.attempt(&mut ask) } else { answer }
    }

    fn attempt<T>(
        &mut self,
        ask: &mut impl FnMut(&Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => schema::connect_reader(&self.address)?,
        };
        let answer = ask(&client);
        self.client = Some(client).filter(|client| !client.is_lost());
        answer
    }
}

impl Consistent for Readable {
    fn consistent<T>(
        &mut self,
        mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.ask(|client| at_one_moment(client, "", &mut ask))
    }
}
