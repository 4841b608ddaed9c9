//! Damage to a database, past the constraints.

use papertrader_store::Store;

use crate::contract::damage;
use crate::server::{Database, Server};

/// Copies of one database whose constraints are gone.
struct Copies<'s> {
    server: &'s Server,
    whole: Database<'s>,
}

impl damage::Damaged for Copies<'_> {
    fn damage(&self, _: usize, sql: &str) -> (u64, Box<dyn Store>) {
        let copy = self.server.database_like(&self.whole.name);
        let changed =
            copy.raw().execute(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        (changed, Box::new(copy.store()))
    }

    fn bytes(&self, hexadecimal: &str) -> String {
        format!("decode('{hexadecimal}', 'hex')")
    }
}

#[test]
fn any_changed_row_is_named() {
    let server = Server::shared();
    let whole = server.database();
    damage::prepare(&mut whole.store());
    let mut raw = whole.raw();
    let sql = "SELECT conrelid::regclass::text, conname FROM pg_constraint
               WHERE contype IN ('c', 'f') AND connamespace = 'public'::regnamespace";
    for row in raw.query(sql, &[]).unwrap() {
        let (table, name): (String, String) = (row.get(0), row.get(1));
        raw.batch_execute(&format!("ALTER TABLE {table} DROP CONSTRAINT \"{name}\"")).unwrap();
    }
    drop(raw);
    damage::any_changed_row_is_named(&Copies { server, whole });
}
