//! The short form of life and death; `examples/life_and_death.rs` is the long one.
//!
//! No time is asserted: that every client goes on after each event, and that every order is there once.

use std::path::Path;

use crate::life_and_death::{Plan, run};

#[test]
fn every_client_goes_on_after_each_death_and_every_order_is_accounted_for_once() {
    let program = Path::new(env!("CARGO_BIN_EXE_papertrader"));
    let report = run(&Plan { program, clients: 30, seed: 20_261_128, talk: false });
    let report = report.unwrap_or_else(|problem| panic!("{problem}"));
    let counts = &report.counts;
    assert_eq!((counts.worker_kills, counts.master_kills), (3, 1), "{counts}");
    // It would prove nothing if nothing had happened.
    assert!(counts.acknowledged > 100 && counts.filled > 100, "{counts}");
    assert!(counts.repeated >= counts.orders && report.quotes > 100, "{counts}");
    // The latest prices are given also while the master is away.
    let failed = &report.failed_quotes;
    assert!(failed.values().sum::<usize>() <= report.quotes / 10, "{failed:?}");
    for row in &report.rows {
        assert_eq!(row.clients.iter().sum::<usize>(), 30, "{}", row.line());
        let dead = row.event.strip_prefix("kill -9 worker ").and_then(|n| n.parse::<usize>().ok());
        assert!(dead.is_none_or(|n| row.clients[n - 1] == 0), "{}", row.line());
    }
}
