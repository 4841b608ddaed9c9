//! The whole database: verified or copied at one moment beside the writer, and filled from a file.
//!
//! Invariant: a database is filled in one transaction that ends only if what it holds then is right;
//! nobody ever sees a part of it.

use std::sync::Arc;

use rusqlite::Connection;
use tokio_postgres::types::Type;

use super::address::Address;
use super::at_one_moment;
use super::client::{Client, NONE};
use super::failure::Failure;
use super::schema;
use crate::copy::{Table, tables};
use crate::read::Ask;
use crate::rows::{Reading, Value};
use crate::watch::{Doing, Watch, Watched};
use crate::{Report, StoreError, verify};

/// Rows that are sent at once.
const CHUNK: usize = 8_192;

/// Opens a connection that reads, and looks whether this program can.
pub(crate) fn open_to_read(address: &Arc<Address>) -> Result<WholeReader, StoreError> {
    let client = schema::connect_reader(address)?;
    schema::check(&client)?;
    Ok(WholeReader(client))
}

/// A connection that reads all there is.
pub(crate) struct WholeReader(Client);

impl WholeReader {
    /// Asks at one moment, for as long as it takes.
    pub(crate) fn consistent<T>(
        &self,
        mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _patience = self.0.wait_for_ever();
        at_one_moment(&self.0, "SET LOCAL statement_timeout = 0", &mut ask)
    }
}

/// Fills a database that has no accounts yet with all rows of a file of the newest schema, verifies
/// what it holds then, and only then makes it durable. Holds the writer's lock meanwhile.
///
/// Returns what is wrong, and has done nothing then; or how many accounts there are already.
pub(crate) fn fill(
    address: &Arc<Address>,
    from: &Connection,
    watch: &mut Watch<'_>,
) -> Result<Filled, StoreError> {
    let (client, ..) = schema::open(address, None, "")?;
    let mut accounts = 0;
    client.for_each("SELECT count(*) FROM account", NONE, &mut |row| {
        accounts = Reading::new(row, "account", 0).number(0)?;
        Ok(())
    })?;
    if accounts > 0 {
        return Ok(Filled::NotEmpty(accounts));
    }
    let _patience = client.wait_for_ever();
    client.batch("BEGIN; SET LOCAL statement_timeout = 0")?;
    let report = rows(&client, from, watch);
    match report {
        Ok(report) if report.mismatches.is_empty() => {
            client.batch("COMMIT")?;
            Ok(Filled::Done(report))
        }
        report => {
            let rolled_back = client.batch("ROLLBACK");
            let report = report?;
            rolled_back?;
            Ok(Filled::Done(report))
        }
    }
}

/// What became of it.
pub(crate) enum Filled {
    /// There are accounts in it: nothing was done.
    NotEmpty(u32),
    /// It is as the file, if this says that it is right; else nothing was done.
    Done(Report),
}

fn rows(client: &Client, from: &Connection, watch: &mut Watch<'_>) -> Result<Report, StoreError> {
    let tables = tables(from)?;
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    client.batch(&format!("TRUNCATE {}", names.join(", ")))?;
    let reading = Watched::new(from, Doing::Copying, watch);
    for table in &tables {
        copy(client, table, &reading)?;
    }
    client.batch(
        "SELECT setval(pg_get_serial_sequence('journal', 'id'), coalesce(max(id), 0) + 1, false)
         FROM journal; ANALYZE",
    )?;
    verify::verify(&Watched::new(client, Doing::Verifying, watch))
}

/// A value that outlives its row.
enum Owned {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Owned {
    fn of(value: Value<'_>) -> Owned {
        match value {
            Value::Null => Owned::Null,
            Value::Integer(number) => Owned::Integer(number),
            Value::Text(text) => Owned::Text(text.to_owned()),
            Value::Bytes(bytes) => Owned::Bytes(bytes.to_owned()),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Owned::Null => Value::Null,
            Owned::Integer(number) => Value::Integer(*number),
            Owned::Text(text) => Value::Text(text),
            Owned::Bytes(bytes) => Value::Bytes(bytes),
        }
    }
}

fn copy(client: &Client, table: &Table, from: &dyn Ask) -> Result<(), StoreError> {
    let types = client.prepare(&table.select())?;
    let types: Vec<Type> = types.columns().iter().map(|column| column.type_().clone()).collect();
    let names = table.columns.join(", ");
    let sql = format!("COPY {} ({names}) FROM STDIN (FORMAT binary)", table.name);
    let wide = types.len();
    let mut chunk: Vec<Owned> = Vec::with_capacity(CHUNK * wide);
    let send = |chunk: &mut Vec<Owned>| -> Result<(), Failure> {
        let rows = chunk.chunks_exact(wide).map(|row| row.iter().map(Owned::value));
        client.copy(&sql, &types, rows)?;
        chunk.clear();
        Ok(())
    };
    table.each(from, |row| {
        chunk.extend(row.iter().map(|value| Owned::of(*value)));
        if chunk.len() >= CHUNK * wide {
            send(&mut chunk)?;
        }
        Ok(())
    })?;
    if !chunk.is_empty() {
        send(&mut chunk)?;
    }
    Ok(())
}
