//! Connections and the schema: how a database is opened, locked, and brought to the newest version.
//!
//! Migrations go forward only, each in one transaction together with its number (`schema_version`),
//! so a crash leaves one version or the next.
//!
//! Invariant: whoever holds a writer's connection holds the database's lock. The server gives the
//! lock away only when that connection's session has ended, so that nothing of it, not even a COMMIT
//! without an answer, comes after what the next writer reads.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::address::Address;
use super::client::{Client, NONE};
use super::failure::Failure;
use super::lease::{self, Held, Holder};
use crate::StoreError;
use crate::rows::Reading;

/// All migrations: entry n brings version n to version n + 1.
const MIGRATIONS: [&str; 4] = [
    include_str!("../../migrations/postgres/0001_ledger.sql"),
    include_str!("../../migrations/postgres/0002_lease.sql"),
    include_str!("../../migrations/postgres/0003_behind.sql"),
    include_str!("../../migrations/postgres/0004_bars.sql"),
];

/// From this version on there is a lease.
pub(super) const LEASE_VERSION: u32 = 2;

/// The tables and views of all migrations, and the one that numbers them.
const TABLES: [&str; 23] = [
    "account",
    "balance",
    "bar",
    "bar_chunk",
    "bar_tape",
    "cancel_mark",
    "exposure",
    "instrument",
    "journal",
    "lease",
    "meta",
    "named_account",
    "order_",
    "outcome",
    "position",
    "posting",
    "price",
    "schema_version",
    "session",
    "snapshot",
    "stolen_key",
    "waiting",
    "worker",
];

/// The number of the advisory lock: "PTRD".
pub(super) const LOCK: i64 = 0x5054_5244;
/// How long a writer waits for the lock, in milliseconds: the session of one that has just ended may
/// need a moment to be noticed as gone.
const LOCK_WAIT: u32 = 2_000;

/// A writer's session, as the server names it. It may outlive its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) process: i32,
    pub(super) started: String,
}

/// Connects for writing, takes the lock and the lease, and migrates. A new database gets the
/// deployment ID given. If a lease is said to be `over`, and still is, its session is ended.
pub(super) fn open(
    address: &Address,
    over: Option<&Held>,
    deployment_if_new: &str,
) -> Result<(Client, Session, Holder), StoreError> {
    let client = begin(address)?;
    let over = match over {
        Some(over) if lease::held(&client)?.is_same_renewal(over) => Some(&over.session),
        _ => None,
    };
    let session = lock_for_writing(&client, over)?;
    migrate(&client, deployment_if_new)?;
    let holder = Holder::new(&client)?;
    lease::take(&client, &holder, &session)?;
    Ok((client, session, holder))
}

/// Connects for writing anew: takes the lock again, if the lease is still this process's. Its session
/// before, which may hold the lock still, is ended.
pub(super) fn reconnect(
    address: &Address,
    before: &Session,
    holder: &Holder,
) -> Result<(Client, Session), StoreError> {
    let client = begin(address)?;
    let session = match lock_for_writing(&client, Some(before)) {
        // Who it is may be known already.
        Err(in_use @ StoreError::Directory(_)) => {
            return Err(lease::check(&client, holder).err().unwrap_or(in_use));
        }
        locked => locked?,
    };
    lease::follow(&client, holder, &session)?;
    Ok((client, session))
}

/// Makes a connection the one that writes.
fn lock_for_writing(client: &Client, before: Option<&Session>) -> Result<Session, StoreError> {
    // A commit is on the disk before it is reported, whatever the server's default is.
    client.batch("SET synchronous_commit = on")?;
    if let Some(Session { process, started }) = before {
        let sql = "SELECT CAST(count(pg_terminate_backend(pid)) AS BIGINT) FROM pg_stat_activity
                   WHERE pid = ?1 AND CAST(backend_start AS TEXT) = ?2 AND usename = current_user";
        let values: [&(dyn ToSql + Sync); 2] = [process, started];
        // If that is not allowed the lock is waited for, or missed, all the same.
        if let Err(error) = client.for_each(sql, &values, &mut |_| Ok(())) {
            tracing::warn!(%error, "the session before could not be ended");
        }
    }
    lock(client)?;
    let mut session = None;
    let sql = "SELECT pid, CAST(backend_start AS TEXT) FROM pg_stat_activity
               WHERE pid = pg_backend_pid()";
    client.for_each(sql, NONE, &mut |row| {
        let row = Reading::new(row, "pg_stat_activity", 1);
        session = Some(Session { process: row.number(0)?, started: row.text(1)?.to_owned() });
        Ok(())
    })?;
    let session = session.unwrap_or(Session { process: 0, started: String::new() });
    client.for_each("SELECT setting FROM pg_settings WHERE name = 'fsync'", NONE, &mut |row| {
        if Reading::new(row, "pg_settings", 0).text(0)? == "off" {
            tracing::warn!(
                "the database server runs with fsync = off: a power cut may destroy all it holds"
            );
        }
        Ok(())
    })?;
    Ok(session)
}

/// Connects for reading only.
pub(super) fn connect_reader(address: &Address) -> Result<Client, StoreError> {
    let client = begin(address)?;
    client.batch("SET default_transaction_read_only = on")?;
    Ok(client)
}

/// Connects, and sets what every session has.
pub(super) fn begin(address: &Address) -> Result<Client, StoreError> {
    let client = Client::connect(address)?;
    let limit = address.answer.as_millis();
    client.batch(&format!("SET statement_timeout = {limit}; SET lock_timeout = {limit}"))?;
    // The server, too, notices within a minute that this side is gone. Not every server has these.
    let sql = "SELECT set_config(s.name, v.value, false) FROM pg_settings AS s
               JOIN (VALUES ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '10'),
                            ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '30000'))
                    AS v (name, value) ON v.name = s.name";
    client.for_each(sql, NONE, &mut |_| Ok(()))?;
    Ok(client)
}

/// Takes the lock of the database, for as long as the session lasts.
fn lock(client: &Client) -> Result<(), StoreError> {
    let wait = format!(
        "BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = {LOCK_WAIT}; \
         SELECT pg_advisory_lock({LOCK}); COMMIT"
    );
    match client.batch(&wait) {
        Ok(()) => Ok(()),
        Err(error) if error.is(&SqlState::LOCK_NOT_AVAILABLE) => {
            client.batch("ROLLBACK")?;
            Err(StoreError::Directory(
                "another master uses this database; with `standby = true` in its configuration this \
                 one waits for that one's end"
                    .to_owned(),
            ))
        }
        Err(error) => Err(error.into()),
    }
}

/// That the database has the newest version.
pub(super) fn check(client: &Client) -> Result<(), StoreError> {
    let known = MIGRATIONS.len() as u32;
    match version(client)? {
        0 => Err(StoreError::Corrupt("there are no books in it yet".to_owned())),
        found if found > known => Err(StoreError::TooNew { found, known }),
        found if found < known => Err(StoreError::TooOld { found, known }),
        _ => Ok(()),
    }
}

/// The schema's version, if this program knows it.
pub(super) fn known_version(client: &Client) -> Result<u32, StoreError> {
    let known = MIGRATIONS.len() as u32;
    let found = version(client)?;
    if found > known { Err(StoreError::TooNew { found, known }) } else { Ok(found) }
}

fn migrate(client: &Client, deployment: &str) -> Result<(), StoreError> {
    let found = known_version(client)?;
    for (done, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        apply(client, done + 1, sql, deployment)?;
        tracing::info!(version = done + 1, "the database schema was brought forward");
    }
    Ok(())
}

/// The schema's version; 0 of a database that holds nothing of ours.
fn version(client: &Client) -> Result<u32, StoreError> {
    let mut there = Vec::new();
    let names: Vec<&str> = TABLES.to_vec();
    let values: [&(dyn ToSql + Sync); 1] = [&names];
    // Types that every server gives as such.
    let sql = "SELECT CAST(table_name AS TEXT) FROM information_schema.tables
               WHERE CAST(table_schema AS TEXT) = CAST(current_schema() AS TEXT)
                 AND CAST(table_name AS TEXT) = ANY(CAST(?1 AS TEXT[]))
               ORDER BY 1";
    client.for_each(sql, &values, &mut |row| {
        there.push(Reading::new(row, "tables", 1).text(0)?.to_owned());
        Ok(())
    })?;
    let others = || {
        let there = there.join(", ");
        StoreError::Corrupt(format!("it holds tables of another program: {there}"))
    };
    if there.is_empty() {
        return Ok(0);
    }
    if !there.iter().any(|name| name == "schema_version") {
        return Err(others());
    }
    let mut version = None;
    let sql = "SELECT version FROM schema_version WHERE program = 'papertrader'";
    let asked = client.for_each(sql, NONE, &mut |row| {
        version = Some(Reading::new(row, "schema_version", 0).number(0)?);
        Ok(())
    });
    match (asked, version) {
        (Ok(()), Some(version)) => Ok(version),
        // Another program's table of this name need not have these columns.
        (Err(error), _) if client.is_lost() => Err(error),
        _ => Err(others()),
    }
}

fn apply(client: &Client, version: usize, sql: &str, deployment: &str) -> Result<(), Failure> {
    let _patience = client.wait_for_ever();
    client.batch("BEGIN; SET LOCAL statement_timeout = 0")?;
    client.batch(sql)?;
    if version == 1 {
        client.batch(
            "CREATE TABLE schema_version (program TEXT PRIMARY KEY, version BIGINT NOT NULL);
             INSERT INTO schema_version (program, version) VALUES ('papertrader', 0)",
        )?;
        let sql = "INSERT INTO meta (one, deployment, last_batch, last_wall) VALUES (1, ?1, 0, 0)";
        client.execute(sql, &[&deployment as &(dyn ToSql + Sync)])?;
    }
    client.batch(&format!(
        "UPDATE schema_version SET version = {version} WHERE program = 'papertrader'"
    ))?;
    client.batch("COMMIT")
}
