//! Damage to a database, past the constraints.

use papertrader_store::Store;

use crate::contract::{behind, damage};
use crate::server::{Database, Server};

/// A database without constraints whose rows are kept a second time, so that each damage begins with
/// a whole one.
struct Kept<'s> {
    database: Database<'s>,
    tables: Vec<String>,
}

impl<'s> Kept<'s> {
    fn new(database: Database<'s>) -> Kept<'s> {
        let mut raw = database.raw();
        let sql = "SELECT conrelid::regclass::text, conname FROM pg_constraint
                   WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace";
        for row in raw.query(sql, &[]).unwrap() {
            let (table, name): (String, String) = (row.get(0), row.get(1));
            raw.batch_execute(&format!("ALTER TABLE {table} DROP CONSTRAINT \"{name}\"")).unwrap();
        }
        let sql = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'";
        let tables: Vec<String> =
            raw.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        raw.batch_execute("CREATE SCHEMA whole").unwrap();
        for table in &tables {
            raw.batch_execute(&format!("CREATE TABLE whole.{table} AS TABLE {table}")).unwrap();
        }
        Kept { database, tables }
    }
}

impl damage::Damaged for Kept<'_> {
    fn columns(&self) -> Vec<(String, String)> {
        // Who is the master is not a matter of the books.
        let sql = "SELECT table_name::text, column_name::text
                   FROM information_schema.columns JOIN pg_tables
                   ON tablename = table_name AND schemaname = table_schema
                   WHERE table_schema = 'public' AND table_name NOT IN ('schema_version', 'lease')
                   AND column_name <> 'holder'";
        let rows = self.database.raw().query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    fn damage(&self, _: usize, sql: &str) -> (u64, Box<dyn Store>) {
        let mut raw = self.database.raw();
        let mut restore = String::new();
        for table in &self.tables {
            restore.push_str(&format!(
                "DELETE FROM {table};
                 INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM whole.{table};"
            ));
        }
        raw.batch_execute(&restore).unwrap();
        let changed = raw.execute(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        (changed, Box::new(self.database.store()))
    }

    fn bytes(&self, hexadecimal: &str) -> String {
        format!("decode('{hexadecimal}', 'hex')")
    }
}

#[test]
fn any_changed_row_is_named() {
    let database = Server::shared().database();
    damage::prepare(&mut database.store());
    let kept = Kept::new(database);
    damage::any_changed_row_is_named(&kept);
    damage::any_changed_column_is_named(&kept);
}

#[test]
fn damage_to_what_is_behind_is_named() {
    let database = Server::shared().database();
    let mut store = database.store();
    store.set_pace(behind::PACE);
    behind::prepare(&mut store);
    drop(store);
    behind::damage_to_what_is_behind_is_named(&Kept::new(database));
}
