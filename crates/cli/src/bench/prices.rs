//! What the prices must be: computed a second time, by the source that the master has too.
//!
//! Invariant: it knows nothing but the source; what servers say does not reach it.

use std::collections::HashMap;

use papertrader_core::money::Price;
use papertrader_core::time::MarketTime;
use papertrader_market::{PriceSource, Synthetic};

use super::{BenchError, wrong};

/// What prices there are at a time, computed by the source that the master has too.
pub(super) struct Expected {
    pub(super) source: Synthetic,
    known: HashMap<MarketTime, Vec<Price>>,
}

impl Expected {
    pub(super) fn new(source: Synthetic) -> Expected {
        Expected { source, known: HashMap::new() }
    }

    pub(super) fn price(
        &mut self,
        index: usize,
        time: MarketTime,
    ) -> Result<Option<Price>, BenchError> {
        if let Some(prices) = self.known.get(&time) {
            return Ok(prices.get(index).copied());
        }
        let step = self.source.next(time.plus_nanos(-1)).map_err(wrong)?;
        let step = step.filter(|step| step.time == time);
        let prices = step
            .map_or(Vec::new(), |step| step.prices.iter().map(|price| price.mark.price).collect());
        let price = prices.get(index).copied();
        self.known.insert(time, prices);
        Ok(price)
    }
}
