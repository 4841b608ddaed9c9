//! Who proves a key and who does not, with keys that the real GnuPG made.

use std::sync::Arc;

use papertrader_core::ids::WorkerId;
use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::connection::Inbox;
use papertrader_node::link::{
    ConnectError, LinkStream, MasterKey, MasterSide, Proven, Registered, WorkerSide,
};
use papertrader_node::openpgp::{Certificate, Identity, Passphrase, open, seal};
use papertrader_node::tls;
use papertrader_protocol::link::{LinkChallenge, LinkOpen, LinkProof, LinkStatement, Nonce};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Boot, Change, Store, WorkerRow};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::events;
use crate::gpg::{DAY, Gpg, Key, T0};
use crate::harness::*;

/// Seconds from the time at which the tests' keys are made to now.
fn now() -> i64 {
    clock().now().0 / 1_000_000_000 - T0
}

fn clock() -> Clock {
    Clock::system(WallTime(0))
}

/// A worker of the registry, with a name that no other test uses.
fn row(name: &str, id: u8, key: Option<&Certificate>) -> WorkerRow {
    WorkerRow {
        id: WorkerId([id; 16]),
        name: name.into(),
        allowed: "127.0.0.1".into(),
        key: key.map(|key| key.to_bytes().to_vec()),
        booted: None,
    }
}

/// A master whose registry holds these workers.
async fn master(rows: Vec<WorkerRow>) -> TestMaster {
    events::keep();
    let dir = tempfile::tempdir().unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "deployment").unwrap();
    let loaded = store.load().unwrap();
    let mut number = loaded.last_batch;
    number.0 += 1;
    let changes = rows.into_iter().map(Change::PutWorker).collect();
    store.commit(&Batch { number, wall: loaded.last_wall.plus_nanos(1), changes }).unwrap();
    drop(store);
    TestMaster::start_in(dir, Setup::default()).await
}

/// Tries to connect and says what the worker is told.
async fn refused(master: &TestMaster, id: u8, identity: &Arc<Identity>) -> ConnectError {
    let side = side(WorkerId([id; 16]), identity);
    match FakeWorker::try_connect(master.address, &side).await {
        Err(error) => error,
        Ok(_) => panic!("it was let in"),
    }
}

/// The worker is refused without a cause, and the master's log has the cause.
async fn refused_because(row: WorkerRow, identity: &Arc<Identity>, cause: &[&str]) {
    let (name, id) = (row.name.clone(), row.id.0[0]);
    let master = master(vec![row]).await;
    let told = refused(&master, id, identity).await;
    let ConnectError::Refused(words) = told else { panic!("{name}: {told}") };
    assert!(words.contains("the master's log says which"), "{name}: {words}");
    for text in cause.iter().chain([&name.as_str()]) {
        assert!(!words.contains(text), "{name} was told: {words}");
    }
    let mut texts = vec!["a worker was refused", name.as_str()];
    texts.extend_from_slice(cause);
    until_written(&texts).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn keys_that_gpg_made_are_taken_on_either_side() {
    let kinds = [
        ("ed25519", "cv25519", ""),
        ("nistp256", "nistp256", "secret words"),
        ("rsa3072", "rsa3072", ""),
    ];
    for (sign, encrypt, passphrase) in kinds {
        let gpg = Gpg::with_passphrase(passphrase);
        let key = gpg.make(sign, "cert,sign", "never");
        gpg.add(key, encrypt, "encr", "never");
        let identity = Arc::new(gpg.identity(key));
        let master =
            master(vec![row(&format!("gpg-{sign}"), 21, Some(&gpg.certificate(key)))]).await;
        let mut worker =
            FakeWorker::try_connect(master.address, &side(WorkerId([21; 16]), &identity))
                .await
                .unwrap();
        let hello = papertrader_protocol::link::LinkHello {
            worker: WorkerId([21; 16]),
            version: "test".into(),
            address: "127.0.0.1:4021".into(),
            web: String::new(),
            fingerprint: String::new(),
            region: String::new(),
            clock: WallTime(0),
        };
        worker.send_control(Instruction::LinkHello, &hello.to_bytes()).await;
        let welcome = worker.receive().await;
        assert_eq!(welcome.header.instruction, Instruction::LinkWelcome as u16, "{sign}");
        master.end().await.1.unwrap();

        // The same key as the master's.
        assert_eq!(prove_to(&identity).await.0.worker, RAW);
    }
}

/// The first worker connects to a master with this key: what both ends make of it.
async fn prove_to(identity: &Arc<Identity>) -> (Proven, Option<WallTime>) {
    let side = Arc::new(MasterSide::new(KEYS.certificate.clone(), Arc::clone(identity)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proving = tokio::spawn(async move {
        let (stream, from) = listener.accept().await.unwrap();
        let mut stream = side.accept(stream).await.unwrap();
        let registered = |id| {
            let key = Arc::new(KEYS.workers[0].certificate().clone());
            let (name, allowed) = ("one".into(), vec!["127.0.0.1".parse().unwrap()]);
            Some(Registered { id, name, allowed, key: Some(key), booted: None })
        };
        side.prove(&mut stream, from, registered, &clock()).await.unwrap()
    });
    let worker = WorkerSide {
        master_key: Arc::new(MasterKey::known(identity.certificate().clone())),
        ..side_of_first()
    };
    let (_, until) = worker.connect(address, &clock()).await.unwrap();
    (proving.await.unwrap(), until)
}

fn side_of_first() -> WorkerSide {
    side(RAW, &KEYS.workers[0])
}

/// What is wrong with a key, what its owner still has, and what the log says.
fn bad_keys() -> Vec<(&'static str, Certificate, Arc<Identity>, Vec<&'static str>)> {
    let mut rows = Vec::new();
    let later = now() - DAY;
    let mut add = |name, gpg: &Gpg, key: Key, identity: Identity, cause: &[&'static str]| {
        rows.push((name, gpg.certificate(key), Arc::new(identity), cause.to_vec()));
    };

    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "1y");
    gpg.add(key, "cv25519", "encr", "never");
    let identity = gpg.identity(key);
    add("bad-expired", &gpg, key, identity, &["expired"]);

    let mut gpg = Gpg::new();
    let key = gpg.make_usual();
    let identity = gpg.identity(key);
    gpg.clock(later).revoke(key);
    add("bad-revoked", &gpg, key, identity, &["revoked"]);

    let mut gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "never");
    gpg.add(key, "ed25519", "sign", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let identity = gpg.identity(key);
    gpg.clock(later).revoke_subkey(key, 1);
    add("bad-signing-revoked", &gpg, key, identity, &["revoked", "sign"]);

    let mut gpg = Gpg::new();
    let key = gpg.make_usual();
    let identity = gpg.identity(key);
    gpg.clock(later).revoke_subkey(key, 1);
    add("bad-encryption-revoked", &gpg, key, identity, &["revoked", "encrypt"]);

    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "never");
    gpg.add(key, "cv25519", "encr", "1y");
    let identity = gpg.identity(key);
    add("bad-subkey-expired", &gpg, key, identity, &["expired", "encrypt"]);

    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert,sign", "never");
    let identity = gpg.identity(key);
    add("bad-no-encryption", &gpg, key, identity, &["encrypt"]);

    let gpg = Gpg::new();
    let key = gpg.make("ed25519", "cert", "never");
    gpg.add(key, "cv25519", "encr", "never");
    let identity = gpg.identity(key);
    add("bad-no-signing", &gpg, key, identity, &["sign"]);
    rows
}

#[tokio::test]
async fn keys_that_may_not_be_used_are_refused_and_the_log_says_why() {
    let keys = tokio::task::spawn_blocking(bad_keys).await.unwrap();
    for (name, certificate, identity, cause) in keys {
        let mut cause = cause;
        cause.push("cannot be used");
        refused_because(row(name, 22, Some(&certificate)), &identity, &cause).await;
    }
}

#[tokio::test]
async fn who_is_not_registered_like_this_is_refused_and_the_log_says_why() {
    let own = &KEYS.workers[0];
    let good = own.certificate();
    let foreign = WorkerRow { allowed: "10.0.0.0/8,::1".into(), ..row("far-away", 23, Some(good)) };
    refused_because(foreign, own, &["is not allowed to connect from 127.0.0.1"]).await;
    let until = clock().now().plus_nanos(3_600_000_000_000);
    for (name, until) in [("booted-for-now", Some(until)), ("booted-for-good", None)] {
        let boot = Boot { until, compromised: false };
        let booted = WorkerRow { booted: Some(boot), ..row(name, 23, Some(good)) };
        refused_because(booted, own, &["was booted"]).await;
    }
    refused_because(row("keyless", 23, None), own, &["no OpenPGP key in the registry"]).await;

    let master = master(vec![row("known", 24, Some(good))]).await;
    assert!(matches!(refused(&master, 25, own).await, ConnectError::Refused(_)));
    let unknown = WorkerId([25; 16]).to_string();
    until_written(&["a worker was refused", &unknown, "is not registered"]).await;
    // A worker with another key cannot even read what the master says.
    let other = &KEYS.workers[1];
    assert!(matches!(refused(&master, 24, other).await, ConnectError::Proof(_)));
    until_written(&["worker known was challenged", "has it another key"]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn the_right_key_under_the_uuid_of_another_worker_is_refused() {
    let rows = vec![
        row("mine", 26, Some(KEYS.workers[0].certificate())),
        row("hers", 27, Some(KEYS.workers[1].certificate())),
    ];
    let master = master(rows).await;
    assert!(matches!(refused(&master, 27, &KEYS.workers[0]).await, ConnectError::Proof(_)));
    // One that answers all the same.
    let mut raw = Raw::connect(&master).await;
    let challenge = raw.open(WorkerId([27; 16])).await;
    let statement = LinkStatement { worker: WorkerId([27; 16]), ..raw.statement(Nonce([0; 32])) };
    let proof = raw.sealed(&KEYS.workers[0], &statement);
    raw.say(Instruction::LinkProof, &LinkProof { sealed: proof }).await;
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    until_written(&["the proof of worker hers is not good"]).await;
    drop(challenge);
    master.end().await.1.unwrap();
}

/// A worker that is written out by hand, with the first key and the UUID `28…`.
struct Raw {
    stream: LinkStream,
    nonce: Nonce,
    master: Arc<Certificate>,
}

const RAW: WorkerId = WorkerId([28; 16]);

impl Raw {
    async fn connect(master: &TestMaster) -> Raw {
        let stream = TcpStream::connect(master.address).await.unwrap();
        Raw::over(stream, [7; 32]).await
    }

    async fn over(stream: TcpStream, nonce: [u8; 32]) -> Raw {
        let expected = KEYS.certificate.fingerprint();
        let stream = tls::connect(stream, expected, tls::LINK_PROTOCOL).await.unwrap();
        let master = Arc::new(KEYS.master.certificate().clone());
        Raw { stream, nonce: Nonce(nonce), master }
    }

    async fn say(&mut self, instruction: Instruction, content: &impl Wire) {
        say(&mut self.stream, instruction, &content.to_bytes()).await;
    }

    /// Says `linkOpen` and gives the challenge.
    async fn open(&mut self, worker: WorkerId) -> LinkChallenge {
        self.say(Instruction::LinkOpen, &LinkOpen { worker, nonce: self.nonce }).await;
        let (instruction, data) = hear(&mut self.stream).await.unwrap();
        assert_eq!(instruction, Instruction::LinkChallenge);
        LinkChallenge::from_bytes(&data).unwrap()
    }

    async fn answer(&mut self) -> Instruction {
        hear(&mut self.stream).await.unwrap().0
    }

    /// The statement of this worker for this session.
    fn statement(&self, master_nonce: Nonce) -> LinkStatement {
        let connection = self.stream.get_ref().1;
        let exporter =
            connection.export_keying_material([0; 32], b"EXPORTER-papertrader-link-v1", None);
        LinkStatement {
            label: "papertrader-link-v1".into(),
            role: "worker".into(),
            worker: RAW,
            worker_key: KEYS.workers[0].certificate().fingerprint().to_string(),
            master_key: self.master.fingerprint().to_string(),
            certificate: KEYS.certificate.fingerprint(),
            worker_nonce: self.nonce,
            master_nonce,
            exporter: Nonce(exporter.unwrap()),
        }
    }

    /// The nonce that the master has sealed.
    fn nonce_of(&self, challenge: &LinkChallenge) -> Nonce {
        let now = clock().now();
        let plain = open(&KEYS.workers[0], &self.master, &challenge.sealed, now).unwrap();
        LinkStatement::from_bytes(&plain).unwrap().master_nonce
    }

    fn sealed(&self, identity: &Identity, statement: &LinkStatement) -> Vec<u8> {
        seal(identity, &self.master, &statement.to_bytes(), clock().now()).unwrap()
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), instruction: Instruction, data: &[u8]) {
    let mut bytes = Vec::new();
    Header::new(instruction.message_type(), instruction as u16, 0).encode(data, &mut bytes);
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// The next message; `None` when the other end has closed.
async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Instruction, Vec<u8>)> {
    let mut inbox = Inbox::new(stream);
    loop {
        if let Some(frame) = inbox.frame().unwrap() {
            if let Ok(Some(Return::Failed(instruction, failure))) = Return::parse(&frame) {
                assert!(failure.text.contains("the master's log says which"), "{}", failure.text);
                return Some((instruction, Vec::new()));
            }
            let instruction = Instruction::from_number(frame.header.instruction).unwrap();
            return Some((instruction, frame.data.to_vec()));
        }
        if inbox.fill().await.ok()? == 0 {
            return None;
        }
    }
}

/// Waits for an event that another task is about to write.
async fn until_written(texts: &[&str]) {
    let written = async {
        while !events::written(texts) {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    if tokio::time::timeout(limit, written).await.is_err() {
        panic!("{texts:?} is not in the log: {:?}", events::about(texts[texts.len() - 1]));
    }
}

async fn raw_master(name: &str) -> TestMaster {
    master(vec![row(name, 28, Some(KEYS.workers[0].certificate()))]).await
}

#[tokio::test]
async fn a_recorded_proof_is_of_no_use() {
    let master = raw_master("replayed").await;
    let mut honest = Raw::connect(&master).await;
    let challenge = honest.open(RAW).await;
    let statement = honest.statement(honest.nonce_of(&challenge));
    let recorded = honest.sealed(&KEYS.workers[0], &statement);
    honest.say(Instruction::LinkProof, &LinkProof { sealed: recorded.clone() }).await;
    assert_eq!(honest.answer().await, Instruction::LinkProven);

    // The same bytes, in another session.
    let mut thief = Raw::connect(&master).await;
    thief.open(RAW).await;
    thief.say(Instruction::LinkProof, &LinkProof { sealed: recorded }).await;
    assert_eq!(thief.answer().await, Instruction::LinkRefused);
    let cause = "worker replayed is about another nonce of the master: it was replayed or relayed";
    until_written(&[cause]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn every_part_of_the_statement_is_compared() {
    let master = raw_master("changed").await;
    type Change = fn(&mut LinkStatement);
    let changes: [(Change, &str); 8] = [
        (|s| s.label = "papertrader-link-v0".into(), "label"),
        (|s| s.role = "master".into(), "role"),
        (|s| s.worker = WorkerId([29; 16]), "worker"),
        (|s| s.worker_key.push('0'), "key of the worker"),
        (|s| s.master_key.push('0'), "key of the master"),
        (|s| s.certificate.0[0] ^= 1, "certificate"),
        (|s| s.worker_nonce.0[0] ^= 1, "nonce of the worker"),
        (|s| s.exporter.0[0] ^= 1, "TLS session"),
    ];
    for (change, what) in changes {
        let mut raw = Raw::connect(&master).await;
        let challenge = raw.open(RAW).await;
        let mut statement = raw.statement(raw.nonce_of(&challenge));
        change(&mut statement);
        let sealed = raw.sealed(&KEYS.workers[0], &statement);
        raw.say(Instruction::LinkProof, &LinkProof { sealed }).await;
        assert_eq!(raw.answer().await, Instruction::LinkRefused, "{what}");
        let cause = format!("worker changed is about another {what}:");
        until_written(&[&cause]).await;
    }
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let master = raw_master("disordered").await;
    let mut raw = Raw::connect(&master).await;
    raw.say(Instruction::LinkProof, &LinkProof { sealed: vec![1; 100] }).await;
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    let mut raw = Raw::connect(&master).await;
    raw.open(RAW).await;
    raw.say(Instruction::LinkOpen, &LinkOpen { worker: RAW, nonce: Nonce([1; 32]) }).await;
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    // Two at once.
    let mut raw = Raw::connect(&master).await;
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let instruction = Instruction::LinkOpen;
        let header = Header::new(instruction.message_type(), instruction as u16, 0);
        let content = LinkOpen { worker: RAW, nonce: Nonce([1; 32]) };
        header.encode(&content.to_bytes(), &mut bytes);
    }
    raw.stream.write_all(&bytes).await.unwrap();
    raw.stream.flush().await.unwrap();
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    // Bytes that are no frame.
    let mut raw = Raw::connect(&master).await;
    raw.stream.write_all(&[0xff; 100]).await.unwrap();
    raw.stream.flush().await.unwrap();
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    // A frame that would be too long, refused before it is there.
    let mut raw = Raw::connect(&master).await;
    let instruction = Instruction::LinkOpen;
    let mut bytes = Vec::new();
    let header = Header::new(instruction.message_type(), instruction as u16, 0);
    header.encode(&[0; 100], &mut bytes);
    bytes[4..8].copy_from_slice(&16_385_u32.to_be_bytes());
    raw.stream.write_all(&bytes[..40]).await.unwrap();
    raw.stream.flush().await.unwrap();
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    // Half a proof, and then nothing more.
    let mut raw = Raw::connect(&master).await;
    raw.open(RAW).await;
    bytes[4..8].copy_from_slice(&100_u32.to_be_bytes());
    raw.stream.write_all(&bytes[..90]).await.unwrap();
    raw.stream.shutdown().await.unwrap();
    assert!(hear(&mut raw.stream).await.is_none());
    until_written(&["worker disordered was challenged and did not answer"]).await;
    // On a client's connection none of it means anything.
    let mut client = FakeWorker::connect_as_client(master.address).await;
    let open = LinkOpen { worker: RAW, nonce: Nonce([1; 32]) };
    client.send_control(Instruction::LinkOpen, &open.to_bytes()).await;
    match client.receive().await.said {
        Some(Return::Failed(Instruction::CommandFail, _)) => {}
        other => panic!("{other:?}"),
    }
    master.end().await.1.unwrap();
}

/// Somebody who has stolen the key of the master's TLS, and passes each message on between two
/// sessions of their own.
async fn relay(listener: TcpListener, master: std::net::SocketAddr) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut worker = KEYS.certificate.accept(stream).await.unwrap();
    let stream = TcpStream::connect(master).await.unwrap();
    let expected = KEYS.certificate.fingerprint();
    let mut master = tls::connect(stream, expected, tls::LINK_PROTOCOL).await.unwrap();
    loop {
        let Some((instruction, data)) = hear(&mut worker).await else { return };
        say(&mut master, instruction, &data).await;
        let Some((instruction, data)) = hear(&mut master).await else { return };
        say(&mut worker, instruction, &data).await;
    }
}

#[tokio::test]
async fn a_proof_that_is_passed_on_through_a_second_tls_session_is_refused_by_both() {
    let master = raw_master("relayed").await;
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (tokio::spawn(relay(listener, master.address)), address)
    };
    // The worker sees it first.
    let (relaying, address) = listen().await;
    let refused = FakeWorker::try_connect(address, &side(RAW, &KEYS.workers[0])).await;
    assert!(matches!(refused, Err(ConnectError::Statement("TLS session"))));
    relaying.await.unwrap();
    // And the master would, if the worker did not.
    let (relaying, address) = listen().await;
    let mut raw = Raw::over(TcpStream::connect(address).await.unwrap(), [8; 32]).await;
    let challenge = raw.open(RAW).await;
    let statement = raw.statement(raw.nonce_of(&challenge));
    let sealed = raw.sealed(&KEYS.workers[0], &statement);
    raw.say(Instruction::LinkProof, &LinkProof { sealed }).await;
    until_written(&["worker relayed is about another TLS session: it was replayed or relayed"])
        .await;
    drop(raw);
    relaying.abort();
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_worker_knows_its_master_by_certificate_and_key() {
    let master = raw_master("deceived").await;
    let own = side(RAW, &KEYS.workers[0]);
    // Another certificate than the operator said.
    let other = papertrader_protocol::Fingerprint([9; 32]);
    let deceived = WorkerSide { master: other, ..own.clone() };
    match FakeWorker::try_connect(master.address, &deceived).await {
        Err(ConnectError::Io(error)) => assert!(error.to_string().contains("0909"), "{error}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken in"),
    }
    // The right certificate with another key.
    let key = KEYS.workers[1].certificate().clone();
    let deceived = WorkerSide { master_key: Arc::new(MasterKey::known(key)), ..own.clone() };
    let refused = FakeWorker::try_connect(master.address, &deceived).await;
    assert!(matches!(refused, Err(ConnectError::MasterKey { .. })));
    // The first one that proves itself is kept, and then it must be that one.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("master-key.asc");
    let first = Arc::new(MasterKey::first_seen(file.clone()));
    let trusting = WorkerSide { master_key: first, ..own };
    FakeWorker::try_connect(master.address, &trusting).await.unwrap();
    let kept = Certificate::parse(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(&kept, KEYS.master.certificate());
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_key_that_expires_cuts_its_link() {
    let mut gpg = Gpg::with_passphrase("words");
    let key = gpg.clock(now() - DAY).make("ed25519", "cert,sign", "3d");
    gpg.add(key, "cv25519", "encr", "never");
    let secret = gpg.export_secret(key);
    let identity = Identity::load(&secret, Passphrase::new("words").as_ref()).unwrap();
    let master = master(vec![row("mortal", 28, Some(&gpg.certificate(key)))]).await;
    let side = side(RAW, &Arc::new(identity));
    let mut worker = FakeWorker::try_connect(master.address, &side).await.unwrap();
    let hello = papertrader_protocol::link::LinkHello {
        worker: RAW,
        version: "test".into(),
        address: "127.0.0.1:4028".into(),
        web: String::new(),
        fingerprint: String::new(),
        region: String::new(),
        clock: WallTime(0),
    };
    worker.send_control(Instruction::LinkHello, &hello.to_bytes()).await;
    assert_eq!(worker.receive().await.header.instruction, Instruction::LinkWelcome as u16);
    master.pass_time(3 * DAY);
    while worker.try_receive().await.is_some() {}
    until_written(&["a link is cut", "mortal"]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_link_ends_with_the_masters_key_too() {
    let mut gpg = Gpg::new();
    let made = now() - DAY;
    let key = gpg.clock(made).make("ed25519", "cert,sign", "seconds=259200");
    gpg.add(key, "cv25519", "encr", "never");
    let identity = Arc::new(gpg.identity(key));
    let (proven, until) = prove_to(&identity).await;
    let end = WallTime((T0 + made + 3 * DAY) * 1_000_000_000);
    assert_eq!((proven.valid_until, until), (Some(end), Some(end)));
}

#[tokio::test]
async fn those_who_open_and_say_nothing_more_keep_nobody_out() {
    let rows = vec![
        row("silent", 28, Some(KEYS.workers[0].certificate())),
        row("heard", 29, Some(KEYS.workers[1].certificate())),
    ];
    let master = master(rows).await;
    let mut silent = Vec::new();
    // More than are worked at at the same time.
    for _ in 0..16 {
        let mut raw = Raw::connect(&master).await;
        raw.open(RAW).await;
        silent.push(raw);
    }
    let other = side(WorkerId([29; 16]), &KEYS.workers[1]);
    FakeWorker::try_connect(master.address, &other).await.unwrap();
    // They were still welcome to go on.
    let mut raw = silent.remove(0);
    raw.say(Instruction::LinkProof, &LinkProof { sealed: vec![1; 100] }).await;
    assert_eq!(raw.answer().await, Instruction::LinkRefused);
    master.end().await.1.unwrap();
}
