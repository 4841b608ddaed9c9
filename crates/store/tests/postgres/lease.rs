//! The lease: who waits, when it takes over, and that the one before writes nothing more.
//!
//! No test waits for time to pass: a lease that ends at once stands for one that has ended.

use std::time::Duration;

use papertrader_core::ids::BatchNumber;
use papertrader_store::lease::LEASE;
use papertrader_store::postgres::{Look, PostgresStore, Standby};
use papertrader_store::{CommitError, Store, StoreError};

use crate::contract::trading::Trading;
use crate::server::{Database, Server};

fn standby(database: &Database<'_>, lease: Duration) -> Standby {
    Standby::new(&database.url(), "two", lease).unwrap()
}

/// For whom it waits.
fn waits(standby: &mut Standby) -> String {
    match standby.look().unwrap() {
        Look::Waiting(waiting) => waiting.holder,
        Look::Taken(_) => panic!("it took over"),
    }
}

fn takes(standby: &mut Standby) -> PostgresStore {
    match standby.look().unwrap() {
        Look::Taken(store) => *store,
        Look::Waiting(waiting) => panic!("{waiting:?}"),
    }
}

/// Ends all connections of a database.
fn end_all(database: &Database<'_>) {
    let sql = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.raw().query(sql, &[]).unwrap();
}

/// What a master says that was taken over, after as many failures as its lost connection needs.
fn last_words(store: &mut PostgresStore, trading: &mut Trading) -> String {
    let batch = trading.next_batch();
    for _ in 0..3 {
        match store.commit(&batch) {
            Err(CommitError::NotStored(_)) => {}
            Err(error @ CommitError::TakenOver(_)) => return error.to_string(),
            other => panic!("{other:?}"),
        }
    }
    panic!("it goes on trying");
}

#[test]
fn a_standby_takes_over_when_the_lock_is_free() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(81);
    store.commit(&trading.next_batch()).unwrap();
    let mut standby = standby(&database, LEASE);
    assert!(waits(&mut standby).contains(&std::process::id().to_string()));
    store.commit(&trading.next_batch()).unwrap();
    drop(store);
    // A lock that is free for a moment is not taken yet.
    waits(&mut standby);
    let mut store = takes(&mut standby);
    trading.assert_loaded(&store.load().unwrap());
    store.commit(&trading.next_batch()).unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn who_comes_first_is_the_master_at_once() {
    let database = Server::shared().database();
    let mut store = takes(&mut standby(&database, LEASE));
    assert_eq!(store.load().unwrap().deployment, "two");
    // The end of one that was there before is no reason to wait either.
    drop(store);
    takes(&mut standby(&database, LEASE));
}

#[test]
fn a_lease_that_is_renewed_is_waited_for() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut lease = store.lease().unwrap();
    let mut standby = standby(&database, Duration::ZERO);
    for _ in 0..20 {
        lease.renew().unwrap();
        waits(&mut standby);
    }
    // Without a renewal between two looks it is over.
    takes(&mut standby);
    match lease.renew() {
        Err(StoreError::TakenOver(by)) => assert!(by.contains("process"), "{by}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_batch_does_not_keep_the_lease_from_being_renewed() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut lease = store.lease().unwrap();
    let mut raw = database.raw();
    // As a batch holds it.
    let mut batch = raw.transaction().unwrap();
    batch.query("SELECT last_batch, last_wall, holder FROM meta FOR UPDATE", &[]).unwrap();
    let before = renewed(&database);
    lease.renew().unwrap();
    assert_ne!(renewed(&database), before);
    batch.rollback().unwrap();
}

fn renewed(database: &Database<'_>) -> String {
    database.raw().query_one("SELECT renewed::text FROM lease", &[]).unwrap().get(0)
}

#[test]
fn a_master_that_lives_on_is_ended_and_writes_nothing_more() {
    let database = Server::shared().database();
    let mut old = database.store();
    let mut trading = Trading::new(82);
    old.commit(&trading.next_batch()).unwrap();
    let mut late = Trading::new(82);
    late.next_batch();
    let mut standby = standby(&database, Duration::ZERO);
    waits(&mut standby);
    let mut new = takes(&mut standby);
    let words = last_words(&mut old, &mut late);
    assert!(words.contains("another master has taken over"), "{words}");
    trading.assert_loaded(&new.load().unwrap());
    new.commit(&trading.next_batch()).unwrap();
    // It does not come back either when the other has ended.
    drop(new);
    assert!(matches!(old.reconnect(), Err(StoreError::TakenOver(_))));
    let mut third = database.store();
    assert_eq!(third.last_batch().unwrap(), BatchNumber(2));
    trading.assert_loaded(&third.load().unwrap());
    assert_eq!(third.verify().unwrap(), []);
}

#[test]
fn past_the_lock_the_row_of_meta_stops_the_old_master() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(83);
    store.commit(&trading.next_batch()).unwrap();
    // As if the lock were worth nothing: its session lives, and another has taken the lease.
    database
        .raw()
        .batch_execute("UPDATE meta SET holder = 'x'; UPDATE lease SET holder = 'x', name = 'east'")
        .unwrap();
    let result = store.commit(&trading.next_batch());
    match &result {
        Err(CommitError::TakenOver(by)) => assert_eq!(by, "east"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.last_batch().unwrap(), BatchNumber(1));
    match store.reconnect() {
        Err(StoreError::TakenOver(by)) => assert_eq!(by, "east"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn when_the_server_was_away_its_master_may_come_back_first() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(84);
    store.commit(&trading.next_batch()).unwrap();
    let mut standby = standby(&database, LEASE);
    waits(&mut standby);
    // All lose their connections.
    end_all(&database);
    assert!(matches!(standby.look(), Err(StoreError::Database(_))));
    for _ in 0..10 {
        waits(&mut standby);
    }
    let batch = trading.next_batch();
    if let Err(error) = store.commit(&batch) {
        assert!(matches!(error, CommitError::NotStored(_)), "{error}");
        store.commit(&batch).unwrap();
    }
    waits(&mut standby);
    // Its end is noticed as before.
    drop(store);
    waits(&mut standby);
    trading.assert_loaded(&takes(&mut standby).load().unwrap());
}

#[test]
fn of_two_that_wait_one_takes_over_and_the_other_waits_for_it() {
    let database = Server::shared().database();
    let old = database.store();
    let mut both = [standby(&database, Duration::ZERO), standby(&database, Duration::ZERO)];
    for one in &mut both {
        waits(one);
    }
    let [first, second] = &mut both;
    let mut new = takes(first);
    waits(second);
    new.lease().unwrap().renew().unwrap();
    waits(second);
    drop((old, new));
}

#[test]
fn a_session_that_has_no_lease_yet_is_waited_for() {
    let database = Server::shared().database();
    drop(database.store());
    // As one that begins, and brings the schema forward: it has the lock, and the lease is old.
    let mut beginning = database.raw();
    beginning.batch_execute(&format!("SELECT pg_advisory_lock({})", 0x5054_5244)).unwrap();
    let mut standby = standby(&database, Duration::ZERO);
    for _ in 0..2 {
        waits(&mut standby);
    }
    beginning.batch_execute("SELECT pg_advisory_unlock_all()").unwrap();
    takes(&mut standby);
}

#[test]
fn a_database_without_a_lease_gets_one() {
    let database = Server::shared().database();
    let mut store = database.store();
    let mut trading = Trading::new(85);
    store.commit(&trading.next_batch()).unwrap();
    let mut standby = standby(&database, LEASE);
    drop(store);
    // As the first version left it, and as its master holds it.
    let mut older = database.raw();
    older
        .batch_execute(&format!(
            "DROP TABLE lease; ALTER TABLE meta DROP COLUMN holder;
             ALTER TABLE meta DROP COLUMN folded_snapshot;
             ALTER TABLE meta DROP COLUMN folded_generation;
             DROP TABLE bar_tape; DROP TABLE bar_chunk; DROP INDEX snapshot_by_wall;
             DROP VIEW position;
             ALTER TABLE balance DROP COLUMN snapshot;
             ALTER TABLE balance DROP COLUMN positions;
             CREATE TABLE position (account BIGINT, instrument BIGINT, quantity BIGINT, cost BIGINT);
             UPDATE schema_version SET version = 1; SELECT pg_advisory_lock({})",
            0x5054_5244
        ))
        .unwrap();
    assert_eq!(waits(&mut standby), "");
    older.batch_execute("SELECT pg_advisory_unlock_all()").unwrap();
    waits(&mut standby);
    let mut store = takes(&mut standby);
    trading.assert_loaded(&store.load().unwrap());
    store.commit(&trading.next_batch()).unwrap();
    store.lease().unwrap().renew().unwrap();
}

#[test]
fn a_newer_schema_is_not_waited_for() {
    let database = Server::shared().database();
    let _store = database.store();
    database.raw().batch_execute("UPDATE schema_version SET version = 99").unwrap();
    let error = standby(&database, LEASE).look().unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, .. }), "{error}");
}
