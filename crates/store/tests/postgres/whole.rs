//! Books that move: from a file to the server and back they are the same, row by row.

use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{CopyError, Location, Store};

use crate::books::{all_rows, patient, restore};
use crate::contract::trading::Trading;
use crate::server::Server;

#[test]
fn from_a_file_to_the_server_and_back_every_row_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut trading = Trading::new(81);
    let mut store = SqliteStore::open(&at("books.sqlite"), "one").unwrap();
    for _ in 0..150 {
        store.commit(&trading.next_batch()).unwrap();
    }
    store.commit(&trading.leave_orders_open()).unwrap();
    store.location().back_up(&at("first"), &mut patient).unwrap();
    drop(store);

    let database = Server::shared().database();
    let server = Location::server(&database.url()).unwrap();
    let restored = server.restore(&at("first"), dir.path(), &mut patient).unwrap();
    assert_eq!(restored.report.orders, trading.records.len() as u64);
    let again = server.restore(&at("first"), dir.path(), &mut patient).unwrap_err();
    assert!(matches!(again, CopyError::NotEmpty { accounts: 1.., .. }), "{again}");
    server.back_up(&at("second"), &mut patient).unwrap();
    let (back, _) = restore(&at("second"), &at("new")).unwrap();

    let sessions_ended = |mut rows: Vec<(String, Vec<_>)>| {
        for (table, rows) in &mut rows {
            if table == "session" {
                rows.clear();
            }
        }
        rows
    };
    let first = all_rows(&at("first"));
    let is_empty = |name: &str| first.iter().any(|(table, rows)| table == name && rows.is_empty());
    assert!(!is_empty("session") && !is_empty("waiting") && !is_empty("exposure"));
    let first = sessions_ended(first);
    for after in [at("second"), back] {
        for (was, is) in first.iter().zip(all_rows(&after)) {
            assert_eq!(was, &is);
        }
    }

    // A master goes on there: numbers that the server gives follow those that were copied.
    trading.sessions.clear();
    let mut store = database.store();
    trading.assert_loaded(&store.load().unwrap());
    for _ in 0..30 {
        store.commit(&trading.next_batch()).unwrap();
    }
    trading.assert_loaded(&store.load().unwrap());
    assert_eq!(store.verify().unwrap(), []);
    // While it does nobody fills the database.
    drop(database.raw().batch_execute("TRUNCATE account CASCADE"));
    let refused = server.restore(&at("first"), dir.path(), &mut patient).unwrap_err();
    assert!(refused.to_string().contains("another master uses this database"), "{refused}");
}

#[test]
fn what_is_wrong_leaves_the_database_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let database = Server::shared().database();
    let server = Location::server(&database.url()).unwrap();
    let nothing = server.verify(&mut patient).unwrap_err();
    assert!(nothing.to_string().contains("no books"), "{nothing}");
    let mut store = SqliteStore::open(&at("books.sqlite"), "one").unwrap();
    let mut trading = Trading::new(82);
    for _ in 0..40 {
        store.commit(&trading.next_batch()).unwrap();
    }
    store.location().back_up(&at("backup"), &mut patient).unwrap();
    // The watch ends it in the middle of the copy to the server.
    let mut looks = 0;
    let stopped = server.restore(&at("backup"), dir.path(), &mut |_| {
        looks += 1;
        match looks {
            ..4 => std::ops::ControlFlow::Continue(()),
            _ => std::ops::ControlFlow::Break(()),
        }
    });
    stopped.unwrap_err();
    assert_eq!(database.store().load().unwrap().profiles.len(), 0);
    server.restore(&at("backup"), dir.path(), &mut patient).unwrap();
    trading.sessions.clear();
    trading.assert_loaded(&database.store().load().unwrap());
}
