//! Copies of whole books, table by table, between a database that is read and one that is filled.
//!
//! Which tables and columns there are is read from the schema of a file, so that none can be
//! forgotten: the migrations of each database have the same. No more than a row, or a chunk of rows,
//! is held in memory. Nothing here begins or ends a transaction.

use rusqlite::Connection;

use crate::StoreError;
use crate::read::{self, Ask};
use crate::rows::{Cells, Reading, Value};

/// A table, and its columns in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
}

/// Tables that others refer to, in PostgreSQL by foreign keys.
const FIRST: [&str; 2] = ["account", "instrument"];

/// All tables of a file of the newest schema, parents before the rows that refer to them.
pub(crate) fn tables(file: &Connection) -> Result<Vec<Table>, StoreError> {
    let sql = "SELECT name FROM sqlite_schema
               WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
    let text = |row: &dyn Cells| Ok(Reading::new(row, "sqlite_schema", 1).text(0)?.to_owned());
    let mut names: Vec<String> = read::rows(file, sql, &[], text)?;
    names.sort_by_key(|name| !FIRST.contains(&name.as_str()));
    let columns = "SELECT name FROM pragma_table_info(?1) ORDER BY cid";
    let table = |name: String| {
        let columns = read::rows(file, columns, &[Value::Text(&name)], text)?;
        Ok(Table { name, columns })
    };
    names.into_iter().map(table).collect()
}

impl Table {
    /// Selects all that it holds.
    pub(crate) fn select(&self) -> String {
        format!("SELECT {} FROM {}", self.columns.join(", "), self.name)
    }

    /// Hands each row of it to a function.
    pub(crate) fn each(
        &self,
        ask: &dyn Ask,
        mut each: impl FnMut(&[Value<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        ask.for_each(&self.select(), &[], &mut |row| {
            let cells = (0..self.columns.len()).map(|column| row.cell(column));
            each(&cells.collect::<Result<Vec<_>, _>>()?)
        })
    }
}
