//! What goes wrong inside: a thread that fails stops the master, since it could not go on without; what
//! the store does not take is not done, and all else goes on.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::{AccountId, BatchNumber, OrderId};
use papertrader_core::names::ClientOrderId;
use papertrader_core::order::Order;
use papertrader_core::time::MarketTime;
use papertrader_market::{InstrumentSpec, PriceSource, Replay, ReplayConfig, SourceError, Step};
use papertrader_master::admin::{AdminReply, AdminRequest, ClientError};
use papertrader_master::{Config, MasterError};
use papertrader_protocol::Request;
use papertrader_protocol::returns::Return;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{
    Batch, Change, CommitError, Found, Intake, Loaded, Location, Mismatch, Sieve, Store,
    StoreError, StoreReader,
};

use crate::events;
use crate::harness::*;

/// Gives one step, then fails in a way that no source should.
struct Failing(Replay);

impl PriceSource for Failing {
    fn label(&self) -> &str {
        self.0.label()
    }
    fn instruments(&self) -> &[InstrumentSpec] {
        self.0.instruments()
    }
    fn start(&self) -> MarketTime {
        self.0.start()
    }
    fn interval(&self) -> i64 {
        self.0.interval()
    }
    fn next(&self, after: MarketTime) -> Result<Option<Step>, SourceError> {
        assert!(after <= self.start(), "this source fails");
        self.0.next(after)
    }
    fn history(
        &self,
        index: usize,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
    ) -> Result<Vec<Bar>, SourceError> {
        self.0.history(index, resolution, from, to)
    }
    fn splits(
        &self,
        index: usize,
        from: MarketTime,
        to: MarketTime,
    ) -> Vec<(MarketTime, u32, u32)> {
        self.0.splits(index, from, to)
    }
}

#[tokio::test]
async fn a_master_whose_price_thread_fails_ends_and_says_so() {
    let source = Failing(Replay::bundled(ReplayConfig::default()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start_with(dir, Setup::default().config, Arc::new(source)).await;
    master.tick().await;
    match master.ended_by_itself().await {
        Err(MasterError::Writing(why)) => assert!(why.contains("retrieval"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Does not take some batches as long as it is told to, or takes one when it is told to.
struct Unwilling {
    store: SqliteStore,
    /// Which.
    refuses: fn(&Batch) -> bool,
    fails: Arc<AtomicBool>,
    /// Says that a batch is here, and waits until it may be taken.
    held: Option<(Sender<()>, Receiver<()>)>,
    /// How often its intake keeps nothing.
    intake_fails: Arc<AtomicUsize>,
}

/// Keeps nothing as often as it is told to.
struct Forgetful {
    intake: Box<dyn Intake>,
    fails: Arc<AtomicUsize>,
}

impl Intake for Forgetful {
    fn keep(&mut self, after: BatchNumber, orders: &[Order]) -> Result<(), StoreError> {
        let less = |left: usize| left.checked_sub(1);
        if self.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Err(StoreError::Database("this intake does not want it".into()));
        }
        self.intake.keep(after, orders)
    }
    fn kept(&mut self, next: OrderId, last: BatchNumber) -> Result<Vec<Order>, StoreError> {
        self.intake.kept(next, last)
    }
    fn forget(&mut self) -> Result<(), StoreError> {
        self.intake.forget()
    }
}

impl Store for Unwilling {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        // Nobody waits for it any more: it may pass.
        if let Some((here, go_on)) = self.held.as_ref().filter(|_| (self.refuses)(batch))
            && here.send(()).is_ok()
        {
            go_on.recv().unwrap();
        }
        if (self.refuses)(batch) && self.fails.load(Ordering::Relaxed) {
            return Err(CommitError::NotStored("this store does not want it".into()));
        }
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
        let intake = self.store.intake()?;
        let fails = Arc::clone(&self.intake_fails);
        Ok(intake.map(|intake| Box::new(Forgetful { intake, fails }) as Box<dyn Intake>))
    }
    fn location(&self) -> Location {
        self.store.location()
    }
}

/// A master whose store does not take some batches while the switch is on, and its directory.
async fn unwilling(refuses: fn(&Batch) -> bool) -> (TestMaster, PathBuf, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let (master, path) = with_store(refuses, Arc::clone(&fails), None, Arc::default()).await;
    (master, path, fails)
}

pub(crate) async fn with_store(
    refuses: fn(&Batch) -> bool,
    fails: Arc<AtomicBool>,
    held: Option<(Sender<()>, Receiver<()>)>,
    intake_fails: Arc<AtomicUsize>,
) -> (TestMaster, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let config = Config { admin: Some(path.clone()), ..Setup::default().config };
    let source = Replay::bundled(ReplayConfig::default()).unwrap();
    let store = TestMaster::store_in(&dir);
    let store = Unwilling { store, refuses, fails, held, intake_fails };
    (TestMaster::start_on(dir, config, Arc::new(source), Box::new(store)).await, path)
}

#[tokio::test]
async fn what_a_worker_sends_while_its_boot_is_written_does_not_happen() {
    boot_while_it_sends(false).await;
    // Also if it has hung up meanwhile.
    boot_while_it_sends(true).await;
}

async fn boot_while_it_sends(hangs_up: bool) {
    let boots = |batch: &Batch| {
        let is_boot =
            |change: &Change| matches!(change, Change::PutWorker(row) if row.booted.is_some());
        batch.changes.iter().any(is_boot)
    };
    let ((here, arrived), (go, go_on)) = (channel(), channel());
    let held = Some((here, go_on));
    let (master, path) = with_store(boots, Arc::default(), held, Arc::default()).await;
    let mut bad = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut good = FakeWorker::connect(master.address, WORKERS[1]).await;
    let alice = bad.new_session("alice").await;

    let operator_at = path.clone();
    let booting = tokio::spawn(async move {
        let name = "worker-0".into();
        let boot = AdminRequest::BootWorker { name, for_ms: None, compromised: false };
        operator(&operator_at, boot).await
    });
    tokio::task::spawn_blocking(move || arrived.recv().unwrap()).await.unwrap();
    bad.send(alice, &buy("AAPL", "1", "a")).await;
    let mut bad = Some(bad);
    let mut connected = 2;
    loop {
        match operator(&path, AdminRequest::Status {}).await.unwrap() {
            AdminReply::Status(status)
                if status.queue == 1 && status.workers_connected == connected =>
            {
                match hangs_up && bad.take().is_some() {
                    true => connected = 1,
                    false => break,
                }
            }
            AdminReply::Status(_) => {}
            other => panic!("{other:?}"),
        }
    }
    go.send(()).unwrap();
    let booted = booting.await.unwrap().unwrap();
    assert!(
        matches!(&booted, AdminReply::WorkerBooted(done) if done.link_cut != hangs_up),
        "{booted:?}"
    );
    // The ID is free: its owner may use it for another order.
    assert!(matches!(good.ask(alice, &Request::LoginSession).await, Return::Session(_)));
    let bought = good.ask(alice, &buy("AAPL", "2", "a")).await;
    assert!(matches!(bought, Return::OrderQueued(_)), "{bought:?}");
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn the_operator_is_heard_while_no_settlement_can_be_stored() {
    events::keep();
    let settles =
        |batch: &Batch| batch.changes.iter().any(|change| matches!(change, Change::Settle { .. }));
    let (master, path, fails) = unwilling(settles).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let before = worker.snapshot().await.number;
    fails.store(true, Ordering::Relaxed);
    master.tick().await;
    while !events::written(&["a settlement was not stored", "this store does not want it"]) {
        tokio::task::yield_now().await;
    }
    let boot = |name: &str| AdminRequest::BootWorker {
        name: name.into(),
        for_ms: None,
        compromised: false,
    };
    let booted = operator(&path, boot("worker-1")).await.unwrap();
    assert!(matches!(booted, AdminReply::WorkerBooted(_)), "{booted:?}");
    fails.store(false, Ordering::Relaxed);
    assert_eq!(worker.snapshot().await.number, before + 1);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn what_the_operator_wants_and_cannot_be_stored_is_not_done() {
    let (master, path, fails) = unwilling(|_| true).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let alice = worker.new_session("alice").await;

    fails.store(true, Ordering::Relaxed);
    let name = || "worker-0".to_owned();
    let user = || "alice".to_owned();
    for request in [
        AdminRequest::BootWorker { name: name(), for_ms: None, compromised: true },
        AdminRequest::RemoveWorker { name: name() },
        AdminRequest::RevokeSessions { user: user() },
        AdminRequest::DisableUser { name: user() },
    ] {
        match operator(&path, request.clone()).await {
            Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, "unavailable"),
            other => panic!("{request:?}: {other:?}"),
        }
    }
    fails.store(false, Ordering::Relaxed);
    // The link and the session go on, and no new password is asked for.
    let bought = worker.ask(alice, &buy("AAPL", "1", "a")).await;
    assert!(matches!(bought, Return::OrderQueued(_)), "{bought:?}");
    match operator(&path, AdminRequest::DisableUser { name: user() }).await.unwrap() {
        AdminReply::UserDisabled(done) => {
            assert_eq!((done.orders_cancelled, done.sessions_ended), (1, 1));
        }
        other => panic!("{other:?}"),
    }
    master.end().await.1.unwrap();
}
