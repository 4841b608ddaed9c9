//! The lease in PostgreSQL: one row that says which process is the master, and when it last said that
//! it lives.
//!
//! Nothing here decides when a lease is over: `standby.rs` does.
//!
//! Invariant: the holder changes only under the database's lock and together with `meta`, so that no
//! batch of the holder before can be committed after it.

use tokio_postgres::types::ToSql;

use super::address::Address;
use super::client::{Client, NONE};
use super::schema::{self, Session};
use crate::StoreError;
use crate::lease::Lease;
use crate::rows::Reading;

/// A process that is the master, or wants to be.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    /// A random UUID.
    pub(super) id: String,
    /// Where it runs, for people.
    name: String,
}

impl Holder {
    /// This process, under an ID that nobody had before.
    pub(super) fn new(client: &Client) -> Result<Holder, StoreError> {
        let mut id = None;
        client.for_each("SELECT CAST(gen_random_uuid() AS TEXT)", NONE, &mut |row| {
            id = Some(Reading::new(row, "gen_random_uuid", 0).text(0)?.to_owned());
            Ok(())
        })?;
        let id = id.ok_or_else(|| StoreError::Database("no answer".to_owned()))?;
        Ok(Holder { id, name: own_name() })
    }
}

/// What the lease's row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Whose it is; empty before the first.
    pub(super) holder: String,
    pub(super) name: String,
    /// In which session it writes.
    pub(super) session: Session,
    /// When it was renewed, as the server writes it.
    pub(super) renewed: String,
    /// How long ago that is by the server's clock, in milliseconds.
    pub(super) age: i64,
}

impl Held {
    /// Whether nothing was renewed between the two.
    pub(super) fn is_same_renewal(&self, other: &Held) -> bool {
        (&self.holder, &self.renewed) == (&other.holder, &other.renewed)
    }
}

/// Makes a process the one that may write. The connection holds the lock.
pub(super) fn take(client: &Client, holder: &Holder, session: &Session) -> Result<(), StoreError> {
    client.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
    // The row of `meta` is locked by each batch: what was being committed is committed or not.
    let id: [&(dyn ToSql + Sync); 1] = [&holder.id];
    client.execute("UPDATE meta SET holder = ?1", &id)?;
    let process = i64::from(session.process);
    let values: [&(dyn ToSql + Sync); 4] = [&holder.id, &holder.name, &process, &session.started];
    let sql = "UPDATE lease SET holder = ?1, name = ?2, process = ?3, started = ?4,
                                renewed = clock_timestamp()";
    client.execute(sql, &values)?;
    client.batch("COMMIT")?;
    Ok(())
}

/// Notes the new session of a process that may write; fails if it is not the one any more.
pub(super) fn follow(
    client: &Client,
    holder: &Holder,
    session: &Session,
) -> Result<(), StoreError> {
    let process = i64::from(session.process);
    let values: [&(dyn ToSql + Sync); 3] = [&holder.id, &process, &session.started];
    let sql = "UPDATE lease SET process = ?2, started = ?3, renewed = clock_timestamp()
               WHERE holder = ?1";
    if client.execute(sql, &values)? == 1 { Ok(()) } else { Err(taken_over(client)?) }
}

/// Fails if the lease is another's.
pub(super) fn check(client: &Client, holder: &Holder) -> Result<(), StoreError> {
    if held(client)?.holder == holder.id { Ok(()) } else { Err(taken_over(client)?) }
}

/// That another process is the master now.
fn taken_over(client: &Client) -> Result<StoreError, StoreError> {
    Ok(StoreError::TakenOver(held(client)?.name))
}

/// What the row says.
pub(super) fn held(client: &Client) -> Result<Held, StoreError> {
    let sql = "SELECT holder, name, process, started, CAST(renewed AS TEXT),
                      CAST(1000 * EXTRACT(EPOCH FROM clock_timestamp() - renewed) AS BIGINT)
               FROM lease";
    let mut held = None;
    client.for_each(sql, NONE, &mut |row| {
        let row = Reading::new(row, "lease", 0);
        held = Some(Held {
            holder: row.text(0)?.to_owned(),
            name: row.text(1)?.to_owned(),
            session: Session { process: row.number(2)?, started: row.text(3)?.to_owned() },
            renewed: row.text(4)?.to_owned(),
            age: row.integer(5)?,
        });
        Ok(())
    })?;
    held.ok_or_else(|| StoreError::Corrupt("table lease: its row is missing".to_owned()))
}

/// Renews the lease in a session of its own, which no batch keeps busy.
pub(super) struct Keeper {
    address: Address,
    holder: Holder,
    client: Option<Client>,
}

impl Keeper {
    /// For the process that has the lease.
    pub(super) fn new(address: &Address, holder: &Holder) -> Keeper {
        Keeper { address: address.impatient(), holder: holder.clone(), client: None }
    }
}

impl Lease for Keeper {
    fn renew(&mut self) -> Result<(), StoreError> {
        let client = match self.client.take().filter(|client| !client.is_lost()) {
            Some(client) => client,
            None => {
                let client = schema::begin(&self.address)?;
                // It need not outlive the server, and should not wait for its disk.
                client.batch("SET synchronous_commit = off")?;
                client
            }
        };
        let id: [&(dyn ToSql + Sync); 1] = [&self.holder.id];
        let sql = "UPDATE lease SET renewed = clock_timestamp() WHERE holder = ?1";
        let answer = client.execute(sql, &id).map_err(StoreError::from);
        let answer = match answer {
            Ok(0) => Err(taken_over(&client).unwrap_or_else(|error| error)),
            answer => answer.map(|_| ()),
        };
        self.client = Some(client);
        answer
    }
}

/// How people find this process: the machine's name, if the system tells it, and the process.
fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let process = std::process::id();
    if host.is_empty() {
        format!("process {process}")
    } else {
        format!("{host}, process {process}")
    }
}
