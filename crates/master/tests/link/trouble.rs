//! What goes wrong inside: a thread that fails stops the master, since it could not go on without; a
//! store that takes no settlement takes no settlement, and all else goes on.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::ids::{AccountId, BatchNumber};
use papertrader_core::names::ClientOrderId;
use papertrader_core::time::MarketTime;
use papertrader_market::{InstrumentSpec, PriceSource, Replay, ReplayConfig, SourceError, Step};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_master::{Config, MasterError};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{
    Batch, Change, CommitError, Found, Loaded, Mismatch, Store, StoreError, StoreReader,
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

/// Takes everything but settlements as long as it is told to.
struct Unsettled(SqliteStore, Arc<AtomicBool>);

impl Store for Unsettled {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load()
    }
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let settles = batch.changes.iter().any(|change| matches!(change, Change::Settle { .. }));
        if settles && self.1.load(Ordering::Relaxed) {
            return Err(CommitError::NotStored("this store takes no settlement".into()));
        }
        self.0.commit(batch)
    }
    fn find(
        &mut self,
        keys: &[(AccountId, ClientOrderId)],
    ) -> Result<Vec<Option<Found>>, StoreError> {
        self.0.find(keys)
    }
    fn last_batch(&mut self) -> Result<BatchNumber, StoreError> {
        self.0.last_batch()
    }
    fn reconnect(&mut self) -> Result<(), StoreError> {
        self.0.reconnect()
    }
    fn reader(&self) -> Result<Box<dyn StoreReader>, StoreError> {
        self.0.reader()
    }
    fn verify(&mut self) -> Result<Vec<Mismatch>, StoreError> {
        self.0.verify()
    }
}

#[tokio::test]
async fn the_operator_is_heard_while_no_settlement_can_be_stored() {
    events::keep();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    let config = Config { admin: Some(path.clone()), ..Setup::default().config };
    let source = Replay::bundled(ReplayConfig::default()).unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let store = Unsettled(TestMaster::store_in(&dir), Arc::clone(&fails));
    let master = TestMaster::start_on(dir, config, Arc::new(source), Box::new(store)).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let before = worker.snapshot().await.number;
    fails.store(true, Ordering::Relaxed);
    master.tick().await;
    while !events::written(&["this store takes no settlement"]) {
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
