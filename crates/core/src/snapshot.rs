//! One retrieval of prices, and the corporate actions that come with it.

use crate::bar::Bar;
use crate::ids::{InstrumentId, SnapshotNumber};
use crate::money::Price;
use crate::time::MarketTime;

/// The latest price of an instrument and the market time at which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The price.
    pub price: Price,
    /// When the price was made.
    pub time: MarketTime,
}

/// A new price of one instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricePoint {
    /// Whose price.
    pub instrument: InstrumentId,
    /// The price and its time.
    pub mark: Mark,
    /// What happened since the snapshot before, to be merged into the bars.
    pub bar: Bar,
}

/// A split: every `from` units become `to` units (2:1 is `to` 2, `from` 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Numbers actions in order of time, from 1, so that each is applied once.
    pub number: u64,
    /// Which instrument.
    pub instrument: InstrumentId,
    /// Units after.
    pub to: u32,
    /// Units before.
    pub from: u32,
}

/// All that one retrieval brought. A settlement uses exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number; later snapshots have higher ones.
    pub number: SnapshotNumber,
    /// The source's market clock. Never earlier than that of the snapshot before.
    pub time: MarketTime,
    /// Whether the market trades; if not, orders wait for it.
    pub market_open: bool,
    /// True when the source has no later prices: market time stops here.
    pub ended: bool,
    /// The new prices. An instrument without a new price is absent.
    pub prices: Vec<PricePoint>,
    /// The splits that take effect before these prices.
    pub splits: Vec<Split>,
}
