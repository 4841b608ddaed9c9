//! The newest bar of each resolution of one instrument, and how a price extends them.
//!
//! A bar that a later one supersedes is finished: it is stored and never changes again. The newest
//! hour, day and month live here until then; the newest interval bar is stored at every
//! settlement, so that the others can be made again from it after a restart.

use papertrader_core::bar::{Bar, Resolution, roll_up};
use papertrader_core::ids::InstrumentId;
use papertrader_core::money::Price;
use papertrader_core::time::MarketTime;
use papertrader_store::{BarRow, StoreError, StoreReader};

/// The newest bars of one instrument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Current {
    newest: [Option<Bar>; 4],
    /// The close of the day before the newest, in today's units.
    pub(crate) previous_close: Option<Price>,
}

impl Current {
    /// The newest bar of a resolution.
    pub(crate) fn newest(&self, resolution: Resolution) -> Option<&Bar> {
        self.newest[resolution as usize].as_ref()
    }

    /// Extends the bars by what one snapshot brought. Returns the rows to store: the newest
    /// interval bar, and the bars that are finished now.
    pub(crate) fn extend(&mut self, instrument: InstrumentId, increment: &Bar) -> Vec<BarRow> {
        let mut rows = Vec::new();
        for resolution in Resolution::ALL {
            let start = resolution.start_of(increment.start);
            let newest = &mut self.newest[resolution as usize];
            match newest {
                Some(bar) if bar.start == start => *bar = bar.merged(increment),
                old => {
                    let finished = old.replace(Bar { start, ..*increment });
                    if resolution == Resolution::Day {
                        self.previous_close = finished.map(|bar| bar.close);
                    }
                    if resolution != Resolution::Interval {
                        rows.extend(finished.map(|bar| BarRow { instrument, resolution, bar }));
                    }
                }
            }
        }
        if let Some(bar) = self.newest[Resolution::Interval as usize] {
            rows.push(BarRow { instrument, resolution: Resolution::Interval, bar });
        }
        rows
    }

    /// What a split does to the close of the day before: it is shown in today's units. The bars
    /// themselves stay as they were traded. Call it after [`Current::extend`] of the same step.
    pub(crate) fn split(&mut self, to: u32, from: u32) {
        self.previous_close = self.previous_close.and_then(|price| {
            let raw = i128::from(price.raw()) * i128::from(from) / i128::from(to.max(1));
            Price::from_raw(i64::try_from(raw).ok()?)
        });
    }

    /// Makes the newest bars again from what is stored.
    pub(crate) fn restore(
        reader: &mut dyn StoreReader,
        instrument: InstrumentId,
    ) -> Result<Current, StoreError> {
        let mut current = Current::default();
        let end = MarketTime(i64::MAX);
        let Some(interval) = reader.last_bar(instrument, Resolution::Interval, end)? else {
            // Only history from before the start: its days and months are all stored.
            for resolution in [Resolution::Day, Resolution::Month] {
                current.newest[resolution as usize] =
                    reader.last_bar(instrument, resolution, end)?;
            }
            if let Some(day) = current.newest(Resolution::Day) {
                let before = reader.last_bar(instrument, Resolution::Day, day.start)?;
                current.previous_close = before.map(|bar| bar.close);
            }
            return Ok(current);
        };
        let hour_start = Resolution::Hour.start_of(interval.start);
        let day_start = Resolution::Day.start_of(interval.start);
        let month_start = Resolution::Month.start_of(interval.start);
        current.previous_close =
            reader.last_bar(instrument, Resolution::Day, day_start)?.map(|bar| bar.close);
        let mut read = |resolution, from: MarketTime, to: MarketTime| {
            reader.bars(instrument, resolution, from, to, usize::MAX)
        };
        let hour = roll_up(&read(Resolution::Interval, hour_start, end)?, Resolution::Hour);
        let mut hours = read(Resolution::Hour, day_start, hour_start)?;
        hours.extend(&hour);
        let day = roll_up(&hours, Resolution::Day);
        let mut days = read(Resolution::Day, month_start, day_start)?;
        days.extend(&day);
        let month = roll_up(&days, Resolution::Month);
        current.newest =
            [Some(interval), hour.last().copied(), day.last().copied(), month.last().copied()];
        Ok(current)
    }
}
