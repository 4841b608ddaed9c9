//! A master with a lease: it serves workers only while it has it, and ends when it is another's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::ClientOrderId;
use papertrader_market::{Replay, ReplayConfig};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_master::{Config, MasterError};
use papertrader_protocol::Request;
use papertrader_protocol::SessionId;
use papertrader_protocol::returns::Return;
use papertrader_store::lease::Lease;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{
    Batch, CommitError, Found, Intake, Loaded, Location, Mismatch, Sieve, Store, StoreError,
    StoreReader,
};

use crate::harness::*;

/// A renewal: for how long, or that another has the lease.
type Renewal = Result<Duration, StoreError>;

/// Is renewed when the test says so.
struct Told {
    renewals: Receiver<Renewal>,
    length: Duration,
}

impl Lease for Told {
    fn length(&self) -> Duration {
        self.length
    }
    fn renew(&mut self) -> Result<(), StoreError> {
        let gone = || StoreError::Database("the test is over".into());
        self.length = self.renewals.recv().map_err(|_| gone())??;
        Ok(())
    }
}

/// A store that has a lease.
struct Leased {
    store: SqliteStore,
    lease: Mutex<Option<Told>>,
}

impl Store for Leased {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        self.store.commit(batch)
    }
    fn find(
        &mut self,
        keys: &[(AccountId, ClientOrderId)],
    ) -> Result<Vec<Option<Found>>, StoreError> {
        self.store.find(keys)
    }
    fn last_batch(&mut self) -> Result<BatchNumber, StoreError> {
        self.store.last_batch()
    }
    fn reconnect(&mut self) -> Result<(), StoreError> {
        self.store.reconnect()
    }
    fn reader(&mut self) -> Result<Box<dyn StoreReader>, StoreError> {
        self.store.reader()
    }
    fn verify(&mut self) -> Result<Vec<Mismatch>, StoreError> {
        self.store.verify()
    }
    fn sieve(&mut self) -> Result<Sieve, StoreError> {
        self.store.sieve()
    }
    fn intake(&mut self) -> Result<Option<Box<dyn Intake>>, StoreError> {
        self.store.intake()
    }
    fn location(&self) -> Location {
        self.store.location()
    }
    fn lease(&mut self) -> Option<Box<dyn Lease>> {
        let told = self.lease.get_mut().unwrap().take();
        told.map(|told| Box::new(told) as Box<dyn Lease>)
    }
}

const LONG: Duration = Duration::from_secs(600);

/// Connects as a worker does: until the master takes it.
async fn connected(master: &TestMaster) -> FakeWorker {
    loop {
        let side = side(WORKERS[0], &KEYS.workers[0]);
        if let Ok(worker) = FakeWorker::try_connect(master.address, &side).await {
            return worker.welcomed().await;
        }
        tokio::task::yield_now().await;
    }
}

/// What the operator is told of the database.
async fn trouble(dir: &Path) -> Option<String> {
    match operator(dir, AdminRequest::Status {}).await.unwrap() {
        AdminReply::Status(status) => status.database,
        other => panic!("{other:?}"),
    }
}

async fn is_not_served(master: &TestMaster) {
    let side = side(WORKERS[0], &KEYS.workers[0]);
    assert!(FakeWorker::try_connect(master.address, &side).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_served_while_the_lease_is_held_and_not_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (say, renewals) = channel::<Renewal>();
    let told = Told { renewals, length: LONG };
    let store = Leased { store: TestMaster::store_in(&dir), lease: Mutex::new(Some(told)) };
    let source = Arc::new(Replay::bundled(ReplayConfig::default()).unwrap());
    let config = Config { admin: Some(path.clone()), ..Setup::default().config };
    let master = TestMaster::start_on(dir, config, source, Box::new(store)).await;
    is_not_served(&master).await;
    let trouble = trouble(&path).await.unwrap();
    assert!(trouble.contains("no worker is served"), "{trouble}");
    say.send(Ok(LONG)).unwrap();
    let mut worker = connected(&master).await;
    assert_eq!(self::trouble(&path).await, None);
    let pong = worker.ask(SessionId::NONE, &Request::Ping("there".into())).await;
    assert_eq!(pong, Return::Pong("there".into()));
    // It is over at once: the link is cut, and no other is made.
    say.send(Ok(Duration::ZERO)).unwrap();
    while worker.try_receive().await.is_some() {}
    is_not_served(&master).await;
    say.send(Ok(LONG)).unwrap();
    connected(&master).await;
    say.send(Err(StoreError::TakenOver("east".into()))).unwrap();
    match master.ended_by_itself().await {
        Err(error @ MasterError::TakenOver(_)) => {
            assert!(error.to_string().contains("taken over (east)"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
