//! A process that waits for the master's end, to take its place.
//!
//! It looks at the database's lock and at the lease, and decides; when to look is its caller's matter.
//! It reads and writes nothing of the books before it has the lock.
//!
//! The lock is free at once when a process dies, for the server sees its connections close. The lease
//! is for all other ends, in which the session and its lock live on: then that session is ended.
//!
//! Invariant: it takes the place of a master that may live only after it has seen, on a connection that
//! was never lost meanwhile, that the lease was not renewed for as long as it lasts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PostgresStore;
use super::address::Address;
use super::client::{Client, NONE};
use super::lease::{self, Held};
use super::schema::{self, LOCK};
use crate::rows::Reading;
use crate::{Location, StoreError};

/// Looks in which the lock must be free, one after the other, before it is taken: a master that makes
/// its connection anew lets it go for a moment.
const FREE: u32 = 2;

/// A process that waits.
pub struct Standby {
    address: Arc<Address>,
    /// With short limits.
    watching: Address,
    deployment_if_new: String,
    /// How long a lease lasts.
    lease: Duration,
    client: Option<Client>,
    /// What the lease said, and since when it has said so.
    seen: Option<(Held, Instant)>,
    /// Looks in a row in which the lock was free.
    free: u32,
    /// The connection was lost, perhaps with the server: the master, which has lost its own, gets the
    /// time to make another.
    is_patient: bool,
}

impl std::fmt::Debug for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Standby({:?})", self.address)
    }
}

/// What a standby has found.
#[derive(Debug)]
pub enum Look {
    /// It is the master now.
    Taken(Box<PostgresStore>),
    /// Another is.
    Waiting(Waiting),
}

/// Whom a standby waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Where that master runs; empty if it has not said so.
    pub holder: String,
    /// How long ago it last said that it lives, by the database's clock.
    pub age: Duration,
}

impl Standby {
    /// Waits for the database of a URL (see [`PostgresStore::open`]). A new database gets the
    /// deployment ID given. `lease` is how long its master may say nothing:
    /// [`LEASE`](crate::lease::LEASE). Nothing is connected yet.
    pub fn new(url: &str, deployment_if_new: &str, lease: Duration) -> Result<Standby, StoreError> {
        let address = Address::new(url)?;
        Ok(Standby {
            watching: address.impatient(),
            address: Arc::new(address),
            deployment_if_new: deployment_if_new.to_owned(),
            lease,
            client: None,
            seen: None,
            // Where nobody is when it begins, it need not look twice.
            free: FREE - 1,
            is_patient: false,
        })
    }

    /// Where the books are, for whoever reads all of them meanwhile.
    pub fn location(&self) -> Location {
        Location::at(Arc::clone(&self.address))
    }

    /// Looks once, and takes the master's place if that is free. It blocks for a few seconds at most
    /// while it waits, longer when it takes the place.
    ///
    /// [`StoreError::Database`] may pass; any other error stays.
    pub fn look(&mut self) -> Result<Look, StoreError> {
        // Whatever comes between the answer and its use, be it an hour, is no time without a renewal.
        let asked = Instant::now();
        let (held, is_locked) = match self.ask() {
            Ok(answer) => answer,
            Err(error) => {
                self.is_patient |= self.client.is_some();
                (self.client, self.seen, self.free) = (None, None, 0);
                return Err(error);
            }
        };
        let is_over = self.is_over(held.as_ref(), asked);
        if is_locked {
            (self.free, self.is_patient) = (0, false);
        } else {
            self.free = self.free.saturating_add(1);
        }
        let has_holder = held.as_ref().is_some_and(|held| !held.holder.is_empty());
        let is_free = self.free >= FREE && !(self.is_patient && has_holder);
        let waiting = Waiting {
            holder: held.as_ref().map(|held| held.name.clone()).unwrap_or_default(),
            age: held.as_ref().map_or(Duration::ZERO, |held| {
                Duration::from_millis(u64::try_from(held.age).unwrap_or(0))
            }),
        };
        if !is_free && !is_over {
            return Ok(Look::Waiting(waiting));
        }
        // Of a lease that is over, the session may live on.
        let over = held.filter(|_| is_over);
        let address = Arc::clone(&self.address);
        match PostgresStore::take(address, over.as_ref(), &self.deployment_if_new) {
            Ok(store) => Ok(Look::Taken(Box::new(store))),
            // Another one was quicker, or begins just now and has no lease yet, or was renewed after all.
            Err(StoreError::Directory(_)) => Ok(Look::Waiting(waiting)),
            Err(error) => Err(error),
        }
    }

    /// Whether the lease has not been renewed for as long as it lasts, seen from here: the server's
    /// clock may be set, and after an interruption its master has had no chance.
    fn is_over(&mut self, held: Option<&Held>, asked: Instant) -> bool {
        let Some(held) = held.filter(|held| !held.holder.is_empty()) else { return false };
        match &self.seen {
            Some((before, since)) if before.is_same_renewal(held) => {
                asked.saturating_duration_since(*since) >= self.lease
            }
            _ => {
                self.seen = Some((held.clone(), Instant::now()));
                false
            }
        }
    }

    /// What the lease says, if the schema has one already, and whether the lock is taken.
    fn ask(&mut self) -> Result<(Option<Held>, bool), StoreError> {
        if self.client.as_ref().is_none_or(Client::is_lost) {
            let was_connected = self.client.take().is_some();
            self.is_patient |= was_connected;
            self.seen = None;
            self.client = Some(schema::begin(&self.watching)?);
        }
        let Some(client) = &self.client else { return Err(super::Failure::lost().into()) };
        // In this order: a lock that is free now was let go after whatever the lease says.
        let has_lease = schema::known_version(client)? >= schema::LEASE_VERSION;
        let held = has_lease.then(|| lease::held(client)).transpose()?;
        let sql = format!(
            "SELECT CAST(count(*) AS BIGINT) FROM pg_locks
             WHERE locktype = 'advisory' AND granted AND objsubid = 1
               AND CAST(classid AS BIGINT) = 0 AND CAST(objid AS BIGINT) = {LOCK}
               AND database = (SELECT oid FROM pg_database
                               WHERE CAST(datname AS TEXT) = CAST(current_database() AS TEXT))"
        );
        let mut locks = 0;
        client.for_each(&sql, NONE, &mut |row| {
            locks = Reading::new(row, "pg_locks", 0).integer(0)?;
            Ok(())
        })?;
        Ok((held, locks > 0))
    }
}
