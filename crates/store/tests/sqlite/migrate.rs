//! Databases of earlier versions: opened, brought forward, and all that was in them still there.

use papertrader_core::ids::{AccountId, BatchNumber, WorkerId};
use papertrader_core::time::WallTime;
use papertrader_store::{Batch, Boot, Change, PassHash, SessionKey, Store, WorkerRow};

use crate::File;

/// What version 1 wrote: an account with its grant and a session, and a worker.
const ROWS_OF_1: &str = "
    INSERT INTO meta (one, deployment, last_batch, last_wall) VALUES (1, 'old', 4, 2000);
    INSERT INTO account (id, name, name_key, email, pass_hash, since, cash, granted, disabled)
    VALUES (1, 'Alice', 'alice', 'a@b', '$argon2id$old', 1000, 500, 500, 0);
    INSERT INTO journal (account, kind, quantity, cash, wall, market) VALUES (1, 1, 0, 500, 1000, 0);
    UPDATE named_account SET amount = '-500' WHERE name = 'grants';
    INSERT INTO session (key, account, expires, expirable, client, started)
    VALUES (zeroblob(32), 1, 9000, 1, '::1', 1500);
    INSERT INTO worker (id, name, allowed) VALUES (zeroblob(16), 'first', '127.0.0.1');";

#[test]
fn a_database_of_version_1_is_brought_forward_with_its_rows() {
    let file = File::new();
    let raw = file.raw();
    raw.execute_batch(include_str!("../../migrations/sqlite/0001_books.sql")).unwrap();
    raw.execute_batch(ROWS_OF_1).unwrap();
    raw.pragma_update(None, "application_id", 0x5054_5244).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    drop(raw);

    let mut store = file.store();
    assert_eq!(store.verify().unwrap(), []);
    let loaded = store.load().unwrap();
    assert_eq!((loaded.deployment.as_str(), loaded.last_batch), ("old", BatchNumber(4)));
    let profile = &loaded.profiles[0];
    assert_eq!(profile.pass_hash, Some(PassHash("$argon2id$old".to_owned())));
    assert!(!profile.password_due);
    let session = &loaded.sessions[0];
    assert_eq!((session.started, session.used), (WallTime(1500), WallTime(1500)));
    let worker = WorkerRow {
        id: WorkerId([0; 16]),
        name: "first".to_owned(),
        allowed: "127.0.0.1".to_owned(),
        key: None,
        booted: None,
    };
    assert_eq!(loaded.workers, std::slice::from_ref(&worker));
    // Nobody knows what passed through whom.
    assert_eq!(loaded.exposures, [(AccountId(1), worker.id)]);
    assert_eq!(loaded.stolen_keys, Vec::<String>::new());

    // What is new can be written beside what is old.
    let booted = Some(Boot { until: Some(WallTime(5)), compromised: true });
    let worker = WorkerRow { key: Some(vec![1]), booted, ..worker };
    let alice = AccountId(1);
    let changes = vec![
        Change::RequirePassword(alice),
        Change::Expose { account: alice, worker: worker.id },
        Change::UseSessions(vec![(SessionKey([0; 32]), WallTime(2500))]),
        Change::PutWorker(worker.clone()),
    ];
    store.commit(&Batch { number: BatchNumber(5), wall: WallTime(3000), changes }).unwrap();
    drop(store);
    let loaded = file.store().load().unwrap();
    assert!(loaded.profiles[0].password_due);
    assert_eq!(loaded.sessions[0].used, WallTime(2500));
    assert_eq!(loaded.exposures, [(alice, worker.id)]);
    assert_eq!(loaded.workers, [worker]);
}
