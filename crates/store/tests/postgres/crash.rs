//! Crashes: the server is killed at any moment while batches are committed; when it runs again, every
//! batch is stored entirely or not at all, and `last_batch` tells which.

use std::sync::mpsc;

use papertrader_core::ids::BatchNumber;
use papertrader_store::{CommitError, Pace, Store};

use crate::contract::trading::Trading;
use crate::server::Server;

const SEED: u64 = 73;

#[test]
fn a_killed_server_leaves_whole_batches() {
    let mut server = Server::start();
    let name = server.database().name;
    let mut store = server.known(&name).store();
    // Or these few accounts would never be behind.
    store.set_pace(Pace { round: 64, at_least: 1 });
    // What the commits have made, and what must be stored.
    let (mut made, mut expected) = (Trading::new(SEED), Trading::new(SEED));
    let mut unknown = 0;
    for round in 0..8_u64 {
        let (committed, reports) = mpsc::channel();
        let (error, batch) = std::thread::scope(|scope| {
            let (store, made) = (&mut store, &mut made);
            let commits = scope.spawn(move || {
                loop {
                    let batch = made.next_batch();
                    if let Err(error) = store.commit(&batch) {
                        return (error, batch);
                    }
                    committed.send(batch.number).unwrap();
                }
            });
            for _ in 0..3 + round * 7 % 13 {
                reports.recv().unwrap();
            }
            // A little work of varying length spreads the kills over the commit.
            (0..round * 20_000).for_each(|n| {
                std::hint::black_box(n);
            });
            server.kill();
            commits.join().unwrap()
        });
        server.run();
        store.reconnect().unwrap();
        let BatchNumber(last) = store.last_batch().unwrap();
        let is_stored = last == batch.number.0;
        assert!(is_stored || last + 1 == batch.number.0, "{last} stored at {}", batch.number);
        match error {
            CommitError::NotStored(_) => assert!(!is_stored),
            CommitError::Unknown(_) => unknown += 1,
            error => panic!("{error}"),
        }
        while expected.batch < last {
            expected.next_batch();
        }
        expected.assert_loaded(&store.load().unwrap());
        assert_eq!(store.verify().unwrap(), []);
        if !is_stored {
            store.commit(&batch).unwrap();
        }
    }
    assert!(made.batch > 50);
    println!("{unknown} of 8 kills met a COMMIT");
}
