//! What may lie between: a COMMIT whose answer is lost, that never arrives, or that is never answered.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use papertrader_core::ids::BatchNumber;
use papertrader_store::postgres::PostgresStore;
use papertrader_store::{CommitError, Store};

use crate::contract::trading::Trading;
use crate::server::{Database, Server};

/// What happens to the next message of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fault {
    None,
    /// The first statement of a batch is cut off, and the connection.
    BeforeBegin,
    /// COMMIT never arrives: the connection is cut before it.
    BeforeCommit,
    /// COMMIT arrives and is executed, but the connection is cut before its answer.
    AfterCommit,
    /// COMMIT arrives and is executed, and nothing is heard any more.
    SilentCommit,
}

/// A way to a server that can be told to break.
struct Proxy {
    port: u16,
    fault: Arc<AtomicU8>,
}

impl Proxy {
    fn before(socket: &Path) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let fault = Arc::new(AtomicU8::new(Fault::None as u8));
        let (shared, socket) = (Arc::clone(&fault), socket.join(".s.PGSQL.5432"));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), UnixStream::connect(&socket).unwrap());
                client.set_nodelay(true).unwrap();
                let fault = Arc::clone(&shared);
                std::thread::spawn(move || carry(client, server, &fault));
            }
        });
        Proxy { port, fault }
    }

    fn url(&self, database: &Database<'_>) -> String {
        let port = self.port;
        format!("postgresql://papertrader@127.0.0.1:{port}/{}?answer_timeout=1", database.name)
    }

    fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }
}

/// What becomes of the server's answers.
const PASS: u8 = 0;
const CUT: u8 = 1;
const SILENT: u8 = 2;

/// Carries one connection's bytes, until the fault comes.
fn carry(mut client: TcpStream, mut server: UnixStream, fault: &AtomicU8) {
    let answers = Arc::new(AtomicU8::new(PASS));
    let back = {
        let (mut server, mut client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let answers = Arc::clone(&answers);
        std::thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(length @ 1..) = server.read(&mut bytes) {
                match answers.load(Ordering::SeqCst) {
                    CUT => break,
                    SILENT => {}
                    _ if client.write_all(&bytes[..length]).is_ok() => {}
                    _ => break,
                }
            }
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        })
    };
    let mut bytes = [0; 65_536];
    while let Ok(length @ 1..) = client.read(&mut bytes) {
        let sent = &bytes[..length];
        let begin = b"BEGIN ISOLATION LEVEL READ COMMITTED";
        let begins = sent.windows(begin.len()).any(|part| part == begin);
        // The message is a Q, its length, and the words.
        let commits = sent.len() == 12 && sent.ends_with(b"COMMIT\0");
        // Disarmed as it strikes.
        let strikes = |kind: Fault| {
            let (from, to, order) = (kind as u8, Fault::None as u8, Ordering::SeqCst);
            fault.compare_exchange(from, to, order, order).is_ok()
        };
        if begins && strikes(Fault::BeforeBegin) || commits && strikes(Fault::BeforeCommit) {
            break;
        }
        if commits && strikes(Fault::AfterCommit) {
            answers.store(CUT, Ordering::SeqCst);
        } else if commits && strikes(Fault::SilentCommit) {
            answers.store(SILENT, Ordering::SeqCst);
        }
        if server.write_all(sent).is_err() {
            break;
        }
    }
    if answers.load(Ordering::SeqCst) == PASS {
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    }
    // Else the server's session lives on, as behind a network that swallows all.
    let _ = back.join();
}

#[test]
fn a_commit_without_an_answer_is_unknown_and_the_database_tells() {
    let server = Server::shared();
    let database = server.database();
    let proxy = Proxy::before(&server.socket());
    let mut store = PostgresStore::open(&proxy.url(&database), "one").unwrap();
    let mut trading = Trading::new(71);
    let mut reader = store.reader().unwrap();
    let faults = [
        (Fault::BeforeCommit, false),
        (Fault::AfterCommit, true),
        (Fault::SilentCommit, true),
        (Fault::AfterCommit, true),
        (Fault::BeforeCommit, false),
    ];
    for (fault, is_stored) in faults {
        for _ in 0..20 {
            store.commit(&trading.next_batch()).unwrap();
        }
        let batch = trading.next_batch();
        proxy.set(fault);
        let result = store.commit(&batch);
        assert!(matches!(result, Err(CommitError::Unknown(_))), "{result:?}");
        store.reconnect().unwrap();
        let BatchNumber(last) = store.last_batch().unwrap();
        assert_eq!(last == batch.number.0, is_stored, "{last} stored");
        if !is_stored {
            store.commit(&batch).unwrap();
        }
        trading.assert_loaded(&store.load().unwrap());
        // What memory holds of the orders is right, too.
        let keys: Vec<_> = trading
            .records
            .values()
            .map(|record| &record.order.request)
            .map(|request| (request.account, request.client_order_id.clone()))
            .collect();
        let found = store.find(&keys).unwrap();
        assert!(found.iter().all(Option::is_some));
        for (key, found) in keys.iter().zip(&found) {
            assert_eq!(reader.order(key.0, &key.1).unwrap(), *found);
        }
    }
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_connection_lost_before_commit_means_not_stored() {
    let server = Server::shared();
    let database = server.database();
    let proxy = Proxy::before(&server.socket());
    let mut store = PostgresStore::open(&proxy.url(&database), "one").unwrap();
    let mut trading = Trading::new(72);
    for _ in 0..5 {
        store.commit(&trading.next_batch()).unwrap();
        let batch = trading.next_batch();
        proxy.set(Fault::BeforeBegin);
        let result = store.commit(&batch);
        assert!(matches!(result, Err(CommitError::NotStored(_))), "{result:?}");
        // Without a reconnection: it is made when it is needed.
        store.commit(&batch).unwrap();
    }
    trading.assert_loaded(&store.load().unwrap());
}
