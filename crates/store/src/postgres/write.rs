//! Writing set-wise: the rows of a batch are gathered by what is to become of them, and written with
//! one statement each, never with a round trip for each row.
//!
//! New rows go by binary COPY when there are many, all others by one statement over arrays (UNNEST).
//! The order in which changes are made matters only for rows with the same key, and for questions:
//! before a row is touched a second time, or anything is asked, all that was gathered is written.
//!
//! Nothing here begins, commits or rolls back.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashSet, FxHasher};
use tokio_postgres::types::{ToSql, Type};

use super::client::{Client, NONE};
use super::lease;
use crate::read::Ask;
use crate::rows::{Reading, Value};
use crate::shape::{Kind, Rows, Shape, Verb};
use crate::write::{Refused, Tables, Written, contradiction};
use crate::{CommitError, StoreError};

/// Up to so many new rows a statement with arrays is quicker than COPY, which takes one answer more.
const FEW: usize = 64;
/// So many rows of one kind are written at once, at the most.
const MANY: usize = 1 << 17;

/// Writes through a connection whose transaction is open.
pub(super) struct Writer<'c> {
    client: &'c Client,
    /// Who writes.
    holder: &'c str,
    /// By [`Rows`]: what is gathered.
    gathered: [Option<Gathered>; Rows::COUNT],
    /// The keys of gathered rows, hashed: two with the same hash only cost a statement more.
    keys: FxHashSet<(&'static str, u64)>,
}

impl<'c> Writer<'c> {
    pub(super) fn new(client: &'c Client, holder: &'c str) -> Writer<'c> {
        let gathered = [const { None }; Rows::COUNT];
        Writer { client, holder, gathered, keys: FxHashSet::default() }
    }

    /// Writes all that was gathered, parents before the rows that refer to them.
    fn flush(&mut self) -> Written {
        self.keys.clear();
        for gathered in &mut self.gathered {
            if let Some(gathered) = gathered.take() {
                gathered.write(self.client)?;
            }
        }
        Ok(())
    }
}

impl Tables for Writer<'_> {
    fn last(&mut self) -> Written<(i64, i64)> {
        let (mut last, mut is_ours) = (None, false);
        let sql = "SELECT last_batch, last_wall, holder FROM meta FOR UPDATE";
        self.client.for_each(sql, NONE, &mut |row| {
            let row = Reading::new(row, "meta", 0);
            last = Some((row.integer(0)?, row.integer(1)?));
            is_ours = row.text(2)? == self.holder;
            Ok(())
        })?;
        let missing = || StoreError::Corrupt("table meta: its row is missing".to_owned());
        let last = last.ok_or_else(missing)?;
        if !is_ours {
            // It came past the lock: this is the last word, whatever became of that.
            let name = lease::held(self.client)?.name;
            return Err(Refused(CommitError::TakenOver(name)));
        }
        Ok(last)
    }

    fn write(&mut self, rows: Rows, values: &[Value<'_>]) -> Written {
        let shape = rows.shape();
        if may_come_again(rows) {
            let mut hasher = FxHasher::default();
            values[..shape.key].hash(&mut hasher);
            let key = (shape.table, hasher.finish());
            if !self.keys.insert(key) {
                self.flush()?;
                self.keys.insert(key);
            }
        }
        let gathered = self.gathered[rows as usize].get_or_insert_with(|| Gathered::new(shape));
        gathered.push(values);
        if gathered.rows == MANY { self.flush() } else { Ok(()) }
    }

    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Written<u64> {
        self.flush()?;
        Ok(self.client.execute(sql, values)?)
    }

    fn ask(&mut self) -> Written<&dyn Ask> {
        self.flush()?;
        Ok(self.client)
    }
}

/// Whether a batch may rightly write the same key twice. A key that is new twice is refused by the
/// database.
fn may_come_again(rows: Rows) -> bool {
    !matches!(
        rows,
        Rows::Instrument
            | Rows::Account
            | Rows::Order
            | Rows::Outcome
            | Rows::CancelMark
            | Rows::Journal
    )
}

/// Rows that are written together, by column.
struct Gathered {
    shape: &'static Shape,
    rows: usize,
    columns: Vec<Column>,
}

enum Column {
    Big(Vec<Option<i64>>),
    Small(Vec<Option<i16>>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
}

impl Column {
    fn new(kind: Kind) -> Column {
        match kind {
            Kind::Big => Column::Big(Vec::new()),
            Kind::Small => Column::Small(Vec::new()),
            Kind::Text => Column::Text(Vec::new()),
            Kind::Bytes => Column::Bytes(Vec::new()),
        }
    }

    fn push(&mut self, value: &Value<'_>) {
        match (self, *value) {
            (Column::Big(all), Value::Integer(number)) => all.push(Some(number)),
            // All that is written to a small column is a flag or the number of an enum.
            (Column::Small(all), Value::Integer(number)) => all.push(i16::try_from(number).ok()),
            (Column::Text(all), Value::Text(text)) => all.push(Some(text.to_owned())),
            (Column::Bytes(all), Value::Bytes(bytes)) => all.push(Some(bytes.to_owned())),
            (column, value) => {
                debug_assert_eq!(value, Value::Null, "a value of another kind than its column");
                match column {
                    Column::Big(all) => all.push(None),
                    Column::Small(all) => all.push(None),
                    Column::Text(all) => all.push(None),
                    Column::Bytes(all) => all.push(None),
                }
            }
        }
    }

    fn get(&self, row: usize) -> Value<'_> {
        let value = match self {
            Column::Big(all) => all[row].map(Value::Integer),
            Column::Small(all) => all[row].map(|number| Value::Integer(i64::from(number))),
            Column::Text(all) => all[row].as_deref().map(Value::Text),
            Column::Bytes(all) => all[row].as_deref().map(Value::Bytes),
        };
        value.unwrap_or(Value::Null)
    }

    fn array(&self) -> &(dyn ToSql + Sync) {
        match self {
            Column::Big(all) => all,
            Column::Small(all) => all,
            Column::Text(all) => all,
            Column::Bytes(all) => all,
        }
    }
}

impl Gathered {
    fn new(shape: &'static Shape) -> Gathered {
        let columns = shape.columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Gathered { shape, rows: 0, columns }
    }

    fn push(&mut self, values: &[Value<'_>]) {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
        self.rows += 1;
    }

    fn write(&self, client: &Client) -> Written {
        let (shape, rows) = (self.shape, self.rows as u64);
        let written = if shape.verb == Verb::Insert && self.rows > FEW {
            self.copy(client)?
        } else {
            let arrays: Vec<&(dyn ToSql + Sync)> = self.columns.iter().map(Column::array).collect();
            client.execute(&statement(shape), &arrays)?
        };
        let may_be_fewer = matches!(shape.verb, Verb::Put | Verb::PutChanged | Verb::Raise);
        if !may_be_fewer && written != rows {
            return Err(contradiction(format!(
                "table {}: of {rows} rows that must be there {written} are",
                shape.table
            )));
        }
        Ok(())
    }

    fn copy(&self, client: &Client) -> Written<u64> {
        let names: Vec<&str> = self.shape.names().collect();
        let (table, names) = (self.shape.table, names.join(", "));
        let sql = format!("COPY {table} ({names}) FROM STDIN (FORMAT binary)");
        let types: Vec<Type> = self.shape.columns.iter().map(|(_, kind)| type_of(*kind)).collect();
        let row = |row| self.columns.iter().map(move |column| column.get(row));
        Ok(client.copy(&sql, &types, (0..self.rows).map(row))?)
    }
}

fn type_of(kind: Kind) -> Type {
    match kind {
        Kind::Big => Type::INT8,
        Kind::Small => Type::INT2,
        Kind::Text => Type::TEXT,
        Kind::Bytes => Type::BYTEA,
    }
}

/// The statement that writes rows from an array for each column.
fn statement(shape: &Shape) -> String {
    let table = shape.table;
    let (key, rest) = shape.split();
    let names: Vec<&str> = shape.names().collect();
    let names = names.join(", ");
    let array = |(n, (_, kind)): (usize, &(&str, Kind))| match kind {
        Kind::Big => format!("CAST(?{} AS BIGINT[])", n + 1),
        Kind::Small => format!("CAST(?{} AS SMALLINT[])", n + 1),
        Kind::Text => format!("CAST(?{} AS TEXT[])", n + 1),
        Kind::Bytes => format!("CAST(?{} AS BYTEA[])", n + 1),
    };
    let arrays: Vec<String> = shape.columns.iter().enumerate().map(array).collect();
    let new = format!("unnest({}) AS n ({names})", arrays.join(", "));
    let is_key: Vec<String> = key.iter().map(|name| format!("t.{name} = n.{name}")).collect();
    let is_key = is_key.join(" AND ");
    let set: Vec<String> = rest.iter().map(|name| format!("{name} = n.{name}")).collect();
    let set = set.join(", ");
    match shape.verb {
        Verb::Insert | Verb::Put | Verb::PutChanged => {
            let on_conflict = shape.on_conflict();
            format!("INSERT INTO {table} ({names}) SELECT {names} FROM {new} {on_conflict}")
        }
        Verb::Set => format!("UPDATE {table} AS t SET {set} FROM {new} WHERE {is_key}"),
        Verb::Raise => {
            let is_less: Vec<String> =
                rest.iter().map(|name| format!("t.{name} < n.{name}")).collect();
            let is_less = is_less.join(" AND ");
            format!("UPDATE {table} AS t SET {set} FROM {new} WHERE {is_key} AND {is_less}")
        }
        Verb::Delete => {
            format!("DELETE FROM {table} AS t USING {new} WHERE {is_key}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_take_an_array_for_each_column() {
        assert_eq!(
            statement(Rows::SessionUse.shape()),
            "UPDATE session AS t SET used = n.used FROM unnest(CAST(?1 AS BYTEA[]), \
             CAST(?2 AS BIGINT[])) AS n (key, used) WHERE t.key = n.key AND t.used < n.used"
        );
        assert_eq!(
            statement(Rows::WaitEnd.shape()),
            "DELETE FROM waiting AS t USING unnest(CAST(?1 AS BIGINT[])) AS n (id) \
             WHERE t.id = n.id"
        );
        assert_eq!(
            statement(Rows::Rescale.shape()),
            "INSERT INTO waiting (id, quantity) SELECT id, quantity FROM unnest(CAST(?1 AS \
             BIGINT[]), CAST(?2 AS BIGINT[])) AS n (id, quantity) ON CONFLICT (id) DO UPDATE SET \
             quantity = excluded.quantity"
        );
    }
}
