//! Durations as the benchmarks keep them, in bounded memory, and the percentiles that they report.
//!
//! It measures nothing itself. Invariant: a duration is kept to three digits, and none is left out.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{BenchError, wrong};
use crate::output::table::Table;

/// Durations, in microseconds.
pub(super) struct Times(Histogram<u64>);

impl Times {
    pub(super) fn new() -> Times {
        // Three digits, up to an hour: these bounds are valid.
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3);
        Times(histogram.unwrap_or_else(|_| unreachable!("the bounds are constants")))
    }

    pub(super) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Adds what others took.
    pub(super) fn join(&mut self, others: &Times) -> Result<(), BenchError> {
        self.0.add(&others.0).map_err(wrong)
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this part of all does not exceed, in milliseconds.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1_000.0
    }
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latencies {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latencies {
    pub(super) fn of(times: &Times) -> Latencies {
        Latencies {
            p50: times.quantile(0.5),
            p90: times.quantile(0.9),
            p99: times.quantile(0.99),
            p999: times.quantile(0.999),
            max: times.quantile(1.0),
        }
    }

    /// Adds a line of them to a table.
    pub(super) fn row(&self, table: &mut Table, name: String) {
        let cell = |ms: f64| format!("{ms:.2}").into();
        table.row([
            name.into(),
            cell(self.p50),
            cell(self.p90),
            cell(self.p99),
            cell(self.p999),
            cell(self.max),
        ]);
    }
}
