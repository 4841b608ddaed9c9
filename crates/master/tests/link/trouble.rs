//! What goes wrong inside: a thread that fails stops the master, since it could not go on without.

use std::sync::Arc;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::time::MarketTime;
use papertrader_market::{InstrumentSpec, PriceSource, Replay, ReplayConfig, SourceError, Step};
use papertrader_master::MasterError;

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
