//! The PostgreSQL store: the contract that every store keeps, on a database of its own for each
//! case, and what only a server has: other masters, other programs' tables, lost connections,
//! crashes, and TLS.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "clippy takes only the test functions themselves for tests")]

#[path = "../contract/whole.rs"]
mod books;
#[path = "../contract/mod.rs"]
mod contract;
mod crash;
mod damage;
mod lease;
mod proxy;
mod server;
mod tls;
mod whole;

use contract::trading::Trading;
use papertrader_core::ids::{AccountId, BatchNumber, InstrumentId, OrderId};
use papertrader_core::money::Quantity;
use papertrader_core::order::Side;
use papertrader_core::time::SECOND;
use papertrader_store::postgres::PostgresStore;
use papertrader_store::{Batch, CommitError, Pace, Store, StoreError, order_hash};
use server::{Database, Server};

impl contract::Backend for Database<'_> {
    fn open_at(&self, deployment: &str, pace: Pace) -> Box<dyn Store> {
        let mut store = PostgresStore::open(&self.url(), deployment).unwrap();
        store.set_pace(pace);
        Box::new(store)
    }

    fn count(&self, sql: &str) -> i64 {
        self.raw().query_one(sql, &[]).unwrap().get(0)
    }
}

contract_tests!(Server::shared().database());
whole_tests!(Server::shared().database());

#[test]
fn the_view_of_postings_is_the_double_entry() {
    let database = Server::shared().database();
    contract::postings::the_view_of_postings_is_the_double_entry(&database, |sql| {
        let rows = database.raw().query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
    });
}

#[test]
fn one_master_at_a_time_uses_it() {
    let database = Server::shared().database();
    let mut store = database.store();
    let error = PostgresStore::open(&database.url(), "two").unwrap_err();
    assert!(matches!(error, StoreError::Directory(_)), "{error:?}");
    assert!(error.to_string().contains("another master uses this database"), "{error}");
    // The first one goes on, also on a new connection; its end lets another one in.
    let mut trading = Trading::new(61);
    store.commit(&trading.next_batch()).unwrap();
    store.reconnect().unwrap();
    store.commit(&trading.next_batch()).unwrap();
    PostgresStore::open(&database.url(), "two").unwrap_err();
    drop(store);
    trading.assert_loaded(&database.store().load().unwrap());
}

#[test]
fn a_writer_past_the_lock_is_found_out() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(62);
    store.commit(&trading.next_batch()).unwrap();
    let changed = database.raw().execute("UPDATE meta SET last_batch = 2", &[]).unwrap();
    assert_eq!(changed, 1);
    let result = store.commit(&trading.next_batch());
    assert!(matches!(result, Err(CommitError::Contradiction(_))), "{result:?}");
}

#[test]
fn a_row_that_another_holds_means_not_stored() {
    let database = Server::shared().database();
    let url = format!("{}?answer_timeout=1", database.url());
    let mut store = PostgresStore::open(&url, "one").unwrap();
    let mut trading = Trading::new(63);
    let mut raw = database.raw();
    let mut other = raw.transaction().unwrap();
    other.execute("UPDATE meta SET last_wall = last_wall", &[]).unwrap();
    let batch = trading.next_batch();
    let result = store.commit(&batch);
    assert!(matches!(result, Err(CommitError::NotStored(_))), "{result:?}");
    assert_eq!(store.last_batch().unwrap(), BatchNumber(0));
    other.rollback().unwrap();
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
}

#[test]
fn a_connection_that_the_server_ends_is_made_anew() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut reader = store.reader().unwrap();
    let mut trading = Trading::new(64);
    store.commit(&trading.next_batch()).unwrap();
    let end_all = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(database.raw().query(end_all, &[]).unwrap().len(), 2);
    // The reader asks a second time by itself.
    assert_eq!(reader.orders(AccountId(1), 5).unwrap(), []);
    let batch = trading.next_batch();
    let result = store.commit(&batch);
    assert!(matches!(result, Err(CommitError::NotStored(_))), "{result:?}");
    store.commit(&batch).unwrap();
    assert_eq!(store.last_batch().unwrap(), BatchNumber(2));
}

#[test]
fn commits_are_on_the_disk_whatever_the_server_is_set_to() {
    let database = Server::shared().database();
    let mut raw = database.raw();
    let setting: String = raw.query_one("SHOW synchronous_commit", &[]).unwrap().get(0);
    assert_eq!(setting, "off", "the test's server would be careful by itself");
    let mut store = database.store();
    // A trigger of the test's own says what the writer's session is set to.
    raw.batch_execute(
        "CREATE TABLE said (setting TEXT);
         CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO said VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
         CREATE TRIGGER say BEFORE UPDATE ON meta FOR EACH ROW EXECUTE FUNCTION say()",
    )
    .unwrap();
    let mut trading = Trading::new(65);
    store.commit(&trading.next_batch()).unwrap();
    store.reconnect().unwrap();
    store.commit(&trading.next_batch()).unwrap();
    let said = raw.query("SELECT setting FROM said", &[]).unwrap();
    let said: Vec<String> = said.iter().map(|row| row.get(0)).collect();
    assert_eq!(said, ["on", "on"]);
}

#[test]
fn a_newer_schema_is_left_alone() {
    let database = Server::shared().database();
    drop(database.store());
    database.raw().batch_execute("UPDATE schema_version SET version = 99").unwrap();
    let error = PostgresStore::open(&database.url(), "one").unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 4 }), "{error}");
}

#[test]
fn other_programs_tables_are_refused_and_left_alone() {
    for sql in [
        "CREATE TABLE account (name TEXT)",
        "CREATE TABLE schema_version (version TEXT)",
        "CREATE TABLE schema_version (program TEXT, version BIGINT)",
        "CREATE VIEW position AS SELECT 1",
    ] {
        let database = Server::shared().database();
        database.raw().batch_execute(sql).unwrap();
        let error = PostgresStore::open(&database.url(), "one").unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{sql}: {error}");
        assert!(error.to_string().contains("tables of another program"), "{error}");
    }
    // Tables of other names do not matter.
    let database = Server::shared().database();
    database.raw().batch_execute("CREATE TABLE recipe (name TEXT)").unwrap();
    database.store().commit(&Trading::new(66).next_batch()).unwrap();
}

#[test]
fn a_database_that_is_not_there_is_named_without_the_password() {
    let url = Server::shared().database().url();
    let url = url.replace("papertrader@", "papertrader:hunter2@");
    let error = PostgresStore::open(&format!("{url}nowhere"), "one").unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let store = PostgresStore::open(&url, "one").unwrap();
    let shown = format!("{store:?}");
    assert!(shown.contains("books") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn it_works_on_a_thread_that_runs_a_runtime() {
    let database = Server::shared().database();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        PostgresStore::open(&format!("{}nowhere", database.url()), "one").unwrap_err();
        let mut store = database.store();
        let mut trading = Trading::new(67);
        for _ in 0..5 {
            store.commit(&trading.next_batch()).unwrap();
        }
        trading.assert_loaded(&store.load().unwrap());
    });
}

#[test]
fn no_error_tells_what_a_row_holds() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(68);
    store.commit(&trading.next_batch()).unwrap();
    database
        .raw()
        .batch_execute("ALTER TABLE account ADD CHECK (pass_hash NOT LIKE '%hunter2%')")
        .unwrap();
    let pass_hash = papertrader_store::PassHash("$argon2id$hunter2".to_owned());
    let account = AccountId(1);
    let change = papertrader_store::Change::SetPassword { account, pass_hash, through: None };
    let batch: Batch = trading.batch_of(vec![change]);
    let error = store.commit(&batch).unwrap_err();
    assert!(matches!(error, CommitError::Contradiction(_)), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn many_rows_are_copied_and_still_contradict() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(69);
    store.commit(&trading.next_batch()).unwrap();
    let (account, what) = (AccountId(1), InstrumentId(1));
    let mut changes = Vec::new();
    for n in 0..200 {
        // Most are refused at once, some are filled.
        let quantity = Quantity::from_raw(if n % 20 == 0 { 1_000 } else { i64::MAX });
        changes.push(trading.place(account, Side::Buy, what, quantity));
    }
    changes.push(trading.settle(SECOND, true, &[(what, 1_000)], &[]));
    let batch = trading.batch_of(changes);

    let mut raw = database.raw();
    let name = &trading.records[&OrderId(150)].order.request.client_order_id;
    let hash = order_hash(account.0, name.as_str()).cast_signed();
    let sql = "INSERT INTO outcome (generation, account, hash, id, state, wall, market)
               VALUES (0, 1, $1, 150, 3, 1, 1)";
    assert_eq!(raw.execute(sql, &[&hash]).unwrap(), 1);
    let result = store.commit(&batch);
    assert!(matches!(result, Err(CommitError::Contradiction(_))), "{result:?}");
    assert_eq!(raw.execute("DELETE FROM outcome", &[]).unwrap(), 1);
    // The connection is as good as before.
    store.commit(&batch).unwrap();
    trading.assert_loaded(&store.load().unwrap());
    assert_eq!(store.verify().unwrap(), []);
    let mut orders = store.reader().unwrap().orders(account, 1_000).unwrap();
    orders.reverse();
    assert_eq!(orders, trading.records.values().cloned().collect::<Vec<_>>());
}
