//! Questions and rows: how SQLite answers what [`crate::read`] asks, and writes what
//! [`crate::write`] makes of a batch, row by row with prepared statements.
//!
//! Nothing here begins or ends a transaction, but for a reader's.

use std::ops::Range;

use papertrader_core::ids::{AccountId, OrderId};
use papertrader_core::order::OrderRecord;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, Row, ToSql, params_from_iter};

use super::failure::of_read;
use crate::StoreError;
use crate::read::{self, Ask, Consistent, Each, sql_limit};
use crate::rows::{self, Cells, Reading, SELECT_ORDER, Value};
use crate::shape::{Rows, Shape, Verb};
use crate::write::{Tables, Written, contradiction};

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Cells for Row<'_> {
    fn cell(&self, column: usize) -> Result<Value<'_>, StoreError> {
        let impossible = |what: &str| {
            let name = self.column_name(column);
            Err(StoreError::Corrupt(format!("a column {name} holds {what}")))
        };
        match self.get_ref(column).map_err(of_read)? {
            ValueRef::Null => Ok(Value::Null),
            ValueRef::Integer(number) => Ok(Value::Integer(number)),
            ValueRef::Real(_) => impossible("a floating-point number"),
            ValueRef::Text(text) => match std::str::from_utf8(text) {
                Ok(text) => Ok(Value::Text(text)),
                Err(_) => impossible("text that is not UTF-8"),
            },
            ValueRef::Blob(bytes) => Ok(Value::Bytes(bytes)),
        }
    }

    fn column_name(&self, column: usize) -> &str {
        self.as_ref().column_name(column).unwrap_or("?")
    }
}

impl Ask for Connection {
    fn for_each(
        &self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut Each<'_>,
    ) -> Result<(), StoreError> {
        let mut statement = self.prepare_cached(sql).map_err(of_read)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(of_read)?;
        while let Some(row) = rows.next().map_err(of_read)? {
            each(row)?;
        }
        Ok(())
    }

    fn keys(
        &self,
        generations: Range<u64>,
        account: AccountId,
        hash: Option<u64>,
        limit: usize,
    ) -> Result<Vec<OrderId>, StoreError> {
        let sql = match hash {
            Some(_) => {
                "SELECT id FROM outcome WHERE generation = ?1 AND account = ?2 AND hash = ?3
                 ORDER BY id DESC"
            }
            None => {
                "SELECT id FROM outcome WHERE generation = ?1 AND account = ?2
                 ORDER BY id DESC LIMIT ?3"
            }
        };
        let third = hash.map_or(sql_limit(limit), u64::cast_signed).into();
        let mut orders = Vec::new();
        for generation in generations.rev() {
            if orders.len() >= limit {
                break;
            }
            let values = [generation.cast_signed().into(), account.0.into(), third];
            orders.extend(read::rows(self, sql, &values, |row| {
                Reading::new(row, "outcome", 1).number(0).map(OrderId)
            })?);
        }
        orders.truncate(limit);
        Ok(orders)
    }

    fn orders(&self, ids: &[OrderId]) -> Result<Vec<OrderRecord>, StoreError> {
        let sql = format!("{SELECT_ORDER} WHERE o.id = ?1");
        let mut orders = Vec::with_capacity(ids.len());
        for id in ids {
            orders.extend(read::rows(self, &sql, &[id.0.cast_signed().into()], rows::order)?);
        }
        Ok(orders)
    }

    fn structure(&self) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        self.for_each("PRAGMA integrity_check", &[], &mut |row| {
            let what = Reading::new(row, "integrity_check", 0).text(0)?.to_owned();
            if what != "ok" {
                found.push(format!("the file: {what}"));
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// A reader's connection, which cannot write.
impl Consistent for Connection {
    fn consistent<T>(
        &mut self,
        mut ask: impl FnMut(&dyn Ask) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self.transaction().map_err(of_read)?;
        ask(&*transaction)
    }
}

/// Writes through a connection whose transaction is open.
pub(super) struct Writer<'c> {
    connection: &'c Connection,
    /// By [`Rows`], once they were used.
    statements: [Option<CachedStatement<'c>>; Rows::COUNT],
}

impl<'c> Writer<'c> {
    pub(super) fn new(connection: &'c Connection) -> Writer<'c> {
        Writer { connection, statements: [const { None }; Rows::COUNT] }
    }
}

impl Tables for Writer<'_> {
    fn last(&mut self) -> Written<(i64, i64)> {
        let sql = "SELECT last_batch, last_wall FROM meta";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    fn write(&mut self, rows: Rows, values: &[Value<'_>]) -> Written {
        let shape = rows.shape();
        let statement = match &mut self.statements[rows as usize] {
            Some(statement) => statement,
            unused => unused.insert(self.connection.prepare_cached(&statement(shape))?),
        };
        let changed = statement.execute(params_from_iter(values))?;
        if changed != 1 && matches!(shape.verb, Verb::Set | Verb::Delete) {
            let key: Vec<String> =
                values.iter().take(shape.key).map(|value| format!("{value:?}")).collect();
            let what = format!("table {}: there is no row {}", shape.table, key.join(", "));
            return Err(contradiction(what));
        }
        Ok(())
    }

    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Written<u64> {
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.execute(params_from_iter(values))? as u64)
    }

    fn ask(&mut self) -> Written<&dyn Ask> {
        Ok(self.connection)
    }
}

/// The statement that writes a row.
fn statement(shape: &Shape) -> String {
    let table = shape.table;
    let (key, rest) = shape.split();
    let is_key: Vec<String> =
        key.iter().enumerate().map(|(n, name)| format!("{name} = ?{}", n + 1)).collect();
    let is_key = is_key.join(" AND ");
    let set: Vec<String> = rest
        .iter()
        .enumerate()
        .map(|(n, name)| format!("{name} = ?{}", n + 1 + key.len()))
        .collect();
    let set = set.join(", ");
    match shape.verb {
        Verb::Insert | Verb::Put | Verb::PutChanged => {
            let names: Vec<&str> = shape.names().collect();
            let values: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
            format!(
                "INSERT INTO {table} ({}) VALUES ({}) {}",
                names.join(", "),
                values.join(", "),
                shape.on_conflict()
            )
        }
        Verb::Set => format!("UPDATE {table} SET {set} WHERE {is_key}"),
        Verb::Raise => {
            let last = shape.columns.len();
            format!("UPDATE {table} SET {set} WHERE {is_key} AND {} < ?{last}", rest.join(", "))
        }
        Verb::Delete => format!("DELETE FROM {table} WHERE {is_key}"),
    }
}
