//! Price sources, the replay of recorded prices, the synthetic source, and the forecast.
//!
//! A [`PriceSource`] is asked for the step after a market time and for history before one. It reads
//! no clock and keeps no position of its own: the same configuration gives the same steps wherever
//! it is resumed. Nothing here stores prices, knows accounts or opens a connection.
//!
//! Invariants kept by this crate:
//! - no answer contains anything later than the market time that it was asked for;
//! - the increments of a day, merged, are the recorded daily bar, exactly;
//! - prices and volumes are integers when they leave; floating point only shapes what lies between
//!   recorded prices, with operations that give the same bits on every machine (the forecast, which
//!   nothing is settled by, also uses logarithms).

pub mod forecast;
mod intraday;
mod noise;
mod recorded;
mod replay;
mod source;
mod synthetic;

pub use forecast::{Forecast, ForecastError, ForecastPoint, adjusted_closes, forecast};
pub use recorded::RowError;
pub use replay::{Replay, ReplayConfig};
pub use source::{
    InstrumentKind, InstrumentSpec, LONGEST_STEP, PriceSource, SHORTEST_STEP, SourceError, Step,
    StepPrice, StepSplit,
};
pub use synthetic::{MAX_INSTRUMENTS, Synthetic, SyntheticConfig};
