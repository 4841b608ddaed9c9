//! Damage to a file, past the constraints.

use std::path::{Path, PathBuf};

use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::contract::damage;

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
}
