//! Damage to a file, past the constraints.

use std::path::{Path, PathBuf};

use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::contract::{behind, damage};

/// Copies of one file.
struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, "one").unwrap()
}

impl damage::Damaged for Files {
    fn columns(&self) -> Vec<(String, String)> {
        let raw = Connection::open(self.path("whole.sqlite")).unwrap();
        let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c
                   WHERE t.type = 'table'";
        let mut statement = raw.prepare(sql).unwrap();
        let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        columns.collect::<Result<_, _>>().unwrap()
    }

    fn damage(&self, case: usize, sql: &str) -> (u64, Box<dyn Store>) {
        let path = self.path(&format!("{case}.sqlite"));
        std::fs::copy(self.path("whole.sqlite"), &path).unwrap();
        let raw = Connection::open(&path).unwrap();
        let loose = "PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF";
        raw.execute_batch(loose).unwrap();
        let changed = raw.execute(sql, []).unwrap_or_else(|error| panic!("{sql}: {error}"));
        (changed as u64, Box::new(open(&path)))
    }

    fn bytes(&self, hexadecimal: &str) -> String {
        format!("x'{hexadecimal}'")
    }
}

#[test]
fn any_changed_row_is_named() {
    let files = Files(tempfile::tempdir().unwrap());
    // Closing it leaves one file.
    damage::prepare(&mut open(&files.path("whole.sqlite")));
    damage::any_changed_row_is_named(&files);
    damage::any_changed_column_is_named(&files);
}

#[test]
fn damage_to_what_is_behind_is_named() {
    let files = Files(tempfile::tempdir().unwrap());
    let mut store = open(&files.path("whole.sqlite"));
    store.set_pace(behind::PACE);
    behind::prepare(&mut store);
    drop(store);
    behind::damage_to_what_is_behind_is_named(&files);
}
