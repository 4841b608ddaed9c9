//! What a price source is: its instruments, its steps, its history, its errors.
//!
//! It does not poll, retry or store: whoever owns a source decides when to ask it.
//!
//! Invariant: a step carries nothing later than its own time, and history nothing at or after the
//! end that was asked for.

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::Price;
use papertrader_core::names::Symbol;
use papertrader_core::snapshot::Mark;
use papertrader_core::time::{DAY, Date, MarketTime, SECOND};

use crate::recorded::RowError;

/// The shortest market time between two steps, in nanoseconds: one second.
pub const SHORTEST_STEP: i64 = SECOND;
/// The longest market time between two steps, in nanoseconds: one day.
pub const LONGEST_STEP: i64 = DAY;

/// What sort of thing an instrument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstrumentKind {
    /// A share of a company.
    Stock,
    /// Made up by the synthetic source.
    Synthetic,
}

/// One instrument as its source describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstrumentSpec {
    /// The short name, unique within the source.
    pub symbol: Symbol,
    /// The name for people; the symbol where nothing better is known.
    pub name: String,
    /// What sort of thing it is.
    pub kind: InstrumentKind,
}

/// A new price of one instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPrice {
    /// Position in [`PriceSource::instruments`].
    pub index: usize,
    /// The price and when it was made (the step's time).
    pub mark: Mark,
    /// What happened since the step before: an increment, to be merged into the bar that has the
    /// same start.
    pub bar: Bar,
}

/// A split that takes effect before the prices of its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepSplit {
    /// Counts all splits of the source from 1, in order of (time, symbol).
    pub number: u64,
    /// Position in [`PriceSource::instruments`].
    pub index: usize,
    /// Units after.
    pub to: u32,
    /// Units before.
    pub from: u32,
}

/// All that a source has to say at one market time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The market time.
    pub time: MarketTime,
    /// Whether the market trades at this time.
    pub market_open: bool,
    /// The source has no later step.
    pub ended: bool,
    /// The new prices, by ascending index. An instrument without a new price is absent.
    pub prices: Vec<StepPrice>,
    /// The splits between the time that was asked from and this step, by ascending number.
    pub splits: Vec<StepSplit>,
}

/// Where prices come from. It is asked from several threads at once.
pub trait PriceSource: Send + Sync {
    /// What the source is, for people: it must say what is recorded and what is made up.
    fn label(&self) -> &str;

    /// The instruments. Their order never changes while the source lives. An instrument may be
    /// listed here before it has its first price.
    fn instruments(&self) -> &[InstrumentSpec];

    /// The market time at which a fresh deployment begins, earlier than the first step that it is
    /// meant to see: prices before it are history.
    fn start(&self) -> MarketTime;

    /// Nanoseconds of market time that an interval bar covers at most.
    fn interval(&self) -> i64;

    /// The first step later than `after`; `None` after the end of the data (the step before had
    /// [`Step::ended`]). The answer depends on `after` only, not on earlier calls.
    fn next(&self, after: MarketTime) -> Result<Option<Step>, SourceError>;

    /// The bars of one instrument that start in `[from, to)`, by ascending start, not adjusted for
    /// splits.
    ///
    /// They hold what the steps before `to` told, and the step at `to` itself as far as its
    /// increment covers time before `to`. A bar that `to` cuts holds only the part before it; a bar
    /// that starts before `from` is left out. The source does not know where its caller's market
    /// time stands: it is `to` that keeps what is later out of the answer.
    fn history(
        &self,
        index: usize,
        resolution: Resolution,
        from: MarketTime,
        to: MarketTime,
    ) -> Result<Vec<Bar>, SourceError>;

    /// The splits of one instrument in `[from, to)`, by ascending time: when, units after, units
    /// before. None for an unknown instrument.
    fn splits(&self, index: usize, from: MarketTime, to: MarketTime)
    -> Vec<(MarketTime, u32, u32)>;
}

/// Why a source cannot be made or cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The recorded prices cannot be read at all.
    #[error("the recorded prices cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The first line is not the header that says what the columns are.
    #[error("line 1 is not the header \"{expected}\"")]
    Header {
        /// The header that there should be.
        expected: &'static str,
    },
    /// A row of the recorded prices is wrong.
    #[error("line {line} {error}")]
    Row {
        /// The line, counted from 1 (the header).
        line: u64,
        /// What is wrong.
        error: RowError,
    },
    /// There is a header and no row.
    #[error("there are no recorded prices after the header")]
    NoRows,
    /// The rules of New York's clock are missing or do not cover a recorded date.
    #[error("the session of {date} cannot be placed in time")]
    Session {
        /// The date of the session.
        date: Date,
    },
    /// The step is shorter than [`SHORTEST_STEP`] or longer than [`LONGEST_STEP`].
    #[error("the step is {nanos} ns of market time; it must be between one second and one day")]
    BadStep {
        /// The step asked for, in nanoseconds.
        nanos: i64,
    },
    /// Nothing is recorded at or after the date at which to start.
    #[error("the start {start} is after the last recorded date {last}")]
    StartAfterEnd {
        /// The date asked for.
        start: Date,
        /// The last date with prices.
        last: Date,
    },
    /// The start is too close to the ends of what market time can express.
    #[error("the start {start} is not between 1900-01-01 and 2199-12-31")]
    BadStart {
        /// The date asked for.
        start: Date,
    },
    /// The number of synthetic instruments is zero or too large.
    #[error("{instruments} synthetic instruments were asked for; it must be 1 to {max}")]
    BadInstrumentCount {
        /// The number asked for.
        instruments: usize,
        /// The largest number accepted.
        max: usize,
    },
    /// No instrument has this index.
    #[error("the price source has no instrument number {index}")]
    UnknownInstrument {
        /// The index asked for.
        index: usize,
    },
    /// The history asked for covers more steps than one answer may be made of.
    #[error("the history asked for covers more than {max} steps; ask for a shorter time")]
    HistoryTooLong {
        /// The most steps.
        max: i64,
    },
    /// A price left the range that can be expressed.
    #[error("a price of {symbol} is out of range")]
    PriceOutOfRange {
        /// Whose price.
        symbol: Symbol,
    },
}

/// Refuses a step that no source can make.
pub(crate) fn check_step(nanos: i64) -> Result<(), SourceError> {
    let possible = (SHORTEST_STEP..=LONGEST_STEP).contains(&nanos);
    if possible { Ok(()) } else { Err(SourceError::BadStep { nanos }) }
}

/// Dates whose times, with every offset used here, are far from the ends of market time.
pub(crate) fn is_usable(date: Date) -> bool {
    (1900..2200).contains(&date.year)
}

/// The coarsest tick that a raw price is a multiple of: a cent, a hundredth of one, or the last
/// decimal there is.
pub(crate) fn tick_of(price: Price) -> i64 {
    [1_000_000, 10_000].into_iter().find(|tick| price.raw() % tick == 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_is_the_coarsest_that_fits() {
        let tick = |text: &str| tick_of(text.parse().unwrap());
        assert_eq!(tick("12.50"), 1_000_000);
        assert_eq!(tick("12.505"), 10_000);
        assert_eq!(tick("12.50505"), 1);
    }
}
