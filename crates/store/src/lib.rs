//! The durable truth: the [`Store`] trait, what is written through it, and its implementations.
//!
//! Everything that must survive is written in a numbered [`Batch`]: one SQL transaction, all or
//! nothing. The master changes its memory only after a batch is committed. This crate judges
//! nothing: a batch that contradicts what is stored fails as a whole.
//!
//! Invariant: after any crash, each batch is stored entirely or not at all, and
//! [`Store::last_batch`] tells which.

mod bars;
mod behind;
mod copy;
pub mod directory;
mod export;
mod fold;
mod held;
mod index;
mod intake;
pub mod lease;
pub mod location;
mod past;
pub mod postgres;
mod read;
pub mod report;
mod rows;
mod shape;
pub mod sqlite;
mod verify;
mod watch;
mod write;

pub use behind::Pace;
pub use export::{Activity, Cursor, Page};
pub use index::order_hash;
pub use intake::{Intake, Sieve};
pub use location::{CopyError, Exporter, Location, Restored};
pub use report::{Mismatch, Report};
pub use watch::{Doing, Progress, Watch};

use std::net::IpAddr;
use std::sync::Arc;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::books::Books;
use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId, WorkerId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::Cash;
use papertrader_core::names::{ClientOrderId, Email, Symbol, UserName};
use papertrader_core::order::OrderRecord;
use papertrader_core::settle::Settlement;
use papertrader_core::time::{MarketTime, Moment, WallTime};

use lease::Lease;

/// Changes that are made durable together, in one SQL transaction.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One more than the batch before.
    pub number: BatchNumber,
    /// When it was made; later than every wall time stored before.
    pub wall: WallTime,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new account with its starting cash, booked as a grant.
    OpenAccount(NewAccount),
    /// The account may not log in or trade any more; its open orders are cancelled before.
    DisableAccount(AccountId),
    /// The account may log in and trade again.
    EnableAccount(AccountId),
    /// A new password; none is due any more. Workers have seen the old one: their exposure is
    /// forgotten, but for the worker through which the new one came.
    SetPassword {
        /// Whose.
        account: AccountId,
        /// The new hash.
        pass_hash: PassHash,
        /// The worker that it came through, if any.
        through: Option<WorkerId>,
    },
    /// The account must change its password before anything else.
    RequirePassword(AccountId),
    /// An account's password or session passed through a worker. Repeating it changes nothing.
    Expose {
        /// Whose.
        account: AccountId,
        /// Through which.
        worker: WorkerId,
    },
    /// When sessions were used last. Those that have ended meanwhile are passed over.
    UseSessions(Vec<(SessionKey, WallTime)>),
    /// A new session.
    StartSession(StoredSession),
    /// A session that is over.
    EndSession(SessionKey),
    /// An order that was judged: queued, or rejected in a way that binds its ID.
    PlaceOrder(OrderRecord),
    /// An open order is cancelled.
    CancelOrder {
        /// Which order.
        order: OrderId,
        /// When.
        moment: Moment,
    },
    /// A client order ID that no order has is cancelled: a late copy of the order is refused.
    MarkCancelled {
        /// Whose.
        account: AccountId,
        /// Which ID.
        client_order_id: ClientOrderId,
        /// When.
        moment: Moment,
    },
    /// The outcome of an interval, with the bars that its prices changed (each replaces the
    /// stored bar of the same instrument, resolution and start).
    Settle {
        /// The outcome.
        settlement: Arc<Settlement>,
        /// Bars to store.
        bars: Vec<BarRow>,
    },
    /// Bars from the source's history.
    PutBars(Vec<BarRow>),
    /// New instruments. Their IDs follow those before without gaps.
    AddInstruments(Vec<InstrumentRow>),
    /// A worker of the registry, new or changed.
    PutWorker(WorkerRow),
    /// A worker is no longer registered. What passed through it stays recorded.
    RemoveWorker(WorkerId),
    /// The fingerprint of a key that is in wrong hands. Repeating it changes nothing.
    KeyStolen(String),
}

/// A new account.
#[derive(Clone)]
pub struct NewAccount {
    /// Its ID: one more than the last.
    pub id: AccountId,
    /// Name, email and password.
    pub profile: Profile,
    /// Its starting cash.
    pub grant: Cash,
    /// When.
    pub moment: Moment,
}

/// The Argon2id hash of the client's hash of a password, in PHC form. It never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PassHash(pub String);

impl std::fmt::Debug for PassHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassHash(hidden)")
    }
}

/// Who an account belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct Profile {
    /// The name as its owner writes it; unique without regard to case.
    pub name: UserName,
    /// Where mail reaches them.
    pub email: Email,
    /// `None` for an account without a password (3.1.3).
    pub pass_hash: Option<PassHash>,
    /// The owner must choose a new password before anything else.
    pub password_due: bool,
    /// When the account was made.
    pub since: WallTime,
}

impl std::fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewAccount({})", self.id)
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Profile({})", self.name)
    }
}

/// The SHA-256 of a session ID: what is stored and looked up instead of the secret itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub [u8; 32]);

/// A session (2.4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// The hash of its ID.
    pub key: SessionKey,
    /// Whose.
    pub account: AccountId,
    /// expiryDate: when it ends at the latest.
    pub expires: WallTime,
    /// isExpirable: it ends soon after its last connection closes.
    pub expirable: bool,
    /// clientIP: where it was started from.
    pub client: IpAddr,
    /// When it was started.
    pub started: WallTime,
    /// When it was known to be in use last: written now and then, not at every use.
    pub used: WallTime,
}

/// An instrument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstrumentRow {
    /// Its number in this deployment.
    pub id: InstrumentId,
    /// The short name; unique.
    pub symbol: Symbol,
    /// The full name.
    pub name: String,
    /// What it is, as the protocol numbers it.
    pub kind: u8,
}

/// A bar of one instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRow {
    /// Whose.
    pub instrument: InstrumentId,
    /// What it covers.
    pub resolution: Resolution,
    /// The bar.
    pub bar: Bar,
}

/// A worker of the registry (2.4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// Its UUID.
    pub id: WorkerId,
    /// Its name; unique.
    pub name: String,
    /// Addresses or networks (`10.0.0.0/8`) that it may connect from, separated by commas.
    pub allowed: String,
    /// Its OpenPGP public key, binary. `None` for one that was registered before keys were needed:
    /// it cannot connect.
    pub key: Option<Vec<u8>>,
    /// Set while it may not connect.
    pub booted: Option<Boot>,
}

/// A worker that was sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Boot {
    /// Until when; `None` until it is registered anew.
    pub until: Option<WallTime>,
    /// What passed through it is in wrong hands.
    pub compromised: bool,
}

/// Everything that the master keeps in memory, as it is stored.
#[derive(Debug)]
pub struct Loaded {
    /// The deployment's ID.
    pub deployment: String,
    /// The number of the last batch; 0 before the first.
    pub last_batch: BatchNumber,
    /// The latest wall time stored; 0 before the first batch.
    pub last_wall: WallTime,
    /// The ID that the next order gets.
    pub next_order: OrderId,
    /// Accounts, open orders, prices; checked with [`Books::check`].
    pub books: Books,
    /// Profiles by account, in the order of the account IDs.
    pub profiles: Vec<Profile>,
    /// Sessions that had not ended.
    pub sessions: Vec<StoredSession>,
    /// All instruments, by ID.
    pub instruments: Vec<InstrumentRow>,
    /// All registered workers.
    pub workers: Vec<WorkerRow>,
    /// Whose password or session passed through which worker, in ascending order.
    pub exposures: Vec<(AccountId, WorkerId)>,
    /// Fingerprints of keys that are in wrong hands, in ascending order.
    pub stolen_keys: Vec<String>,
}

/// What is known under a client order ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An order.
    Order(OrderRecord),
    /// It was cancelled before an order with it came.
    Mark,
}

/// A line of an account's history: an order that has a final state, or a journal entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryRow {
    /// An order that was filled, rejected, cancelled or expired.
    Order(OrderRecord),
    /// Cash or shares that moved otherwise.
    Journal(JournalEntry, Moment),
}

/// Reading or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the database failed: {0}")]
    Database(String),
    /// What is stored cannot be what this program wrote.
    #[error("the database holds something impossible: {0}")]
    Corrupt(String),
    /// The database was written by a newer version.
    #[error(
        "the database has schema version {found}, newer than this program's {known}: use the newer program"
    )]
    TooNew {
        /// The version found.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The database was written by an older version, and only reading is asked for.
    #[error(
        "the database has schema version {found}, older than this program's {known}: start the \
         master with this program once, which brings it forward"
    )]
    TooOld {
        /// The version found.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// Whoever watched it did not want it to go on.
    #[error("it was stopped")]
    Stopped,
    /// The directory is in use, or cannot be used.
    #[error("{0}")]
    Directory(String),
    /// Another process is the master now. Nothing of this one is stored any more, for ever.
    #[error("another master has taken over ({0})")]
    TakenOver(String),
}

/// Committing a batch failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing of the batch is stored. It may be tried again.
    #[error("the batch was not stored: {0}")]
    NotStored(String),
    /// It is not known whether the batch is stored: ask [`Store::last_batch`] after
    /// [`Store::reconnect`] before anything else.
    #[error("it is not known whether the batch was stored: {0}")]
    Unknown(String),
    /// The batch contradicts what is stored. Stop: the memory is not what the store holds.
    #[error("the batch contradicts what is stored: {0}")]
    Contradiction(String),
    /// The disk failed to make data durable. Stop: what was written before may be gone.
    #[error("the disk failed: {0}")]
    Disk(String),
    /// Nothing of the batch is stored, and nothing will be: another process is the master now. Stop.
    #[error("the batch was not stored: another master has taken over ({0})")]
    TakenOver(String),
}

/// A database that can hold a deployment. One process uses it at a time.
pub trait Store: Send {
    /// Everything that the master keeps in memory.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Makes a batch durable, all or nothing. Its number must be one more than the last, and its
    /// wall time later than all that is stored.
    ///
    /// Every change must find what it expects, or the whole batch is
    /// [`CommitError::Contradiction`]: IDs that follow the last ones, names and client order IDs
    /// that are free, orders that are open where they are decided or cancelled, sessions that are
    /// stored where they end, no open orders where an account is disabled, bars whose prices lie
    /// between low and high, accounts and workers that exist where they are changed or removed,
    /// accounts that are disabled where they are enabled and the other way round.
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError>;

    /// What is known under each (account, client order ID), in the same order.
    fn find(
        &mut self,
        keys: &[(AccountId, ClientOrderId)],
    ) -> Result<Vec<Option<Found>>, StoreError>;

    /// The number of the last batch that is stored.
    fn last_batch(&mut self) -> Result<BatchNumber, StoreError>;

    /// Drops the connection and makes a new one.
    fn reconnect(&mut self) -> Result<(), StoreError>;

    /// A second view for reading beside the writer.
    fn reader(&mut self) -> Result<Box<dyn StoreReader>, StoreError>;

    /// Folds every stored grant, fill and journal entry, and compares with the stored cash,
    /// positions, cost bases and named accounts. Empty means that the books are right.
    fn verify(&mut self) -> Result<Vec<Mismatch>, StoreError>;

    /// Where the books are, for whoever reads all of them beside this.
    fn location(&self) -> Location;

    /// Says without a question to the database that a client order ID is new.
    fn sieve(&mut self) -> Result<Sieve, StoreError>;

    /// Where orders are kept while this is writing something else. `None` where there is no such
    /// place: they wait.
    fn intake(&mut self) -> Result<Option<Box<dyn Intake>>, StoreError>;

    /// The lease to renew, of a database that other masters may wait for. Without one nobody else can
    /// ever take it over while this process lives.
    fn lease(&mut self) -> Option<Box<dyn Lease>> {
        None
    }
}

/// Up to where somebody knows an account's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The last order that they know was placed.
    pub placed: OrderId,
    /// All decisions up to then are known to them.
    pub decided: WallTime,
    /// The first order that was open then; not above `placed` + 1.
    pub open: OrderId,
}

/// Reads beside the writer; sees everything that was committed before the call.
pub trait StoreReader: Send {
    /// Bars that start in `[from, to)`, in order of time, at most `limit` of them.
    fn bars(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
        limit: usize,
    ) -> Result<Vec<Bar>, StoreError>;

    /// The last bar that starts before `before`.
    fn last_bar(
        &mut self,
        instrument: InstrumentId,
        resolution: Resolution,
        before: MarketTime,
    ) -> Result<Option<Bar>, StoreError>;

    /// The newest `limit` lines of an account's history, newest first. An order stands where it
    /// was received, a journal entry where it was booked.
    fn history(&mut self, account: AccountId, limit: usize) -> Result<Vec<HistoryRow>, StoreError>;

    /// All open orders and the newest others of an account, newest first, at most `limit`.
    fn orders(&mut self, account: AccountId, limit: usize) -> Result<Vec<OrderRecord>, StoreError>;

    /// Orders of an account that were placed or decided since: those of a higher number than
    /// `placed`, and of the others, from the number `open` on, those decided later than `decided`. In
    /// ascending order; if there are more than `limit`, any `limit` of them.
    fn orders_since(
        &mut self,
        account: AccountId,
        since: &Since,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError>;

    /// What is known under one client order ID.
    fn order(
        &mut self,
        account: AccountId,
        client_order_id: &ClientOrderId,
    ) -> Result<Option<Found>, StoreError>;
}
