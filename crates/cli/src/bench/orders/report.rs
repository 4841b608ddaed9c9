//! What `bench orders` has measured, as one object and as text.

use std::collections::BTreeMap;

use serde::Serialize;

use super::OrdersArgs;
use crate::bench::cpu::Processors;
use crate::bench::times::Latencies;
use crate::output::table::{Align, Table};

/// All of it. What was not wanted is `null`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tls: bool,
    connections: usize,
    accounts: usize,
    symbols: u32,
    window: usize,
    interval_ms: u64,
    /// What is raised above the servers' defaults, by its environment variable.
    settings: BTreeMap<&'static str, String>,
    pub(super) throughput: Option<ThroughputReport>,
    pub(super) latency: Option<LatencyReport>,
    pub(super) settlement: Option<SettlementReport>,
    /// That every acknowledged order was found in the books, and these are right.
    verified: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ThroughputReport {
    pub(super) orders: u64,
    /// From the first order that was sent to the last acknowledgement.
    pub(super) acknowledged_per_second: f64,
    /// From the first order that was sent to the last outcome.
    pub(super) settled_per_second: f64,
    pub(super) seconds: f64,
    pub(super) settlements: u64,
    pub(super) acknowledged_ms: Latencies,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) processors: Option<Processors>,
}

#[derive(Debug, Serialize)]
pub(super) struct LatencyReport {
    pub(super) orders: u64,
    pub(super) acknowledged_ms: Latencies,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) processors: Option<Processors>,
}

#[derive(Debug, Serialize)]
pub(super) struct SettlementReport {
    /// How often the queue was filled.
    pub(super) rounds: u64,
    /// How often all of it was decided by one settlement: what is measured are these.
    pub(super) settlements: u64,
    pub(super) decided: u64,
    /// From the beginning of a settlement to its first outcome.
    pub(super) written_ms: Latencies,
    /// Orders of others that were under way meanwhile.
    pub(super) orders: u64,
    pub(super) acknowledged_ms: Latencies,
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) processors: Option<Processors>,
}

impl Report {
    pub(super) fn new(args: &OrdersArgs, settings: BTreeMap<&'static str, String>) -> Report {
        Report {
            tls: !args.plain,
            connections: args.connections,
            accounts: args.connections * args.accounts,
            symbols: args.symbols,
            window: args.window,
            interval_ms: u64::try_from(args.interval.duration().as_millis()).unwrap_or(u64::MAX),
            settings,
            throughput: None,
            latency: None,
            settlement: None,
            verified: true,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{} clients over {}, {} accounts, {} symbols, settled every {} ms\n",
            self.connections,
            if self.tls { "TLS" } else { "plain TCP" },
            self.accounts,
            self.symbols,
            self.interval_ms,
        );
        for (name, value) in &self.settings {
            text += &format!("  set: {name}={value}\n");
        }
        text += "\n";
        let mut table = Table::new(&[
            ("from sending to orderQueued", Align::Left),
            ("p50 ms", Align::Right),
            ("p90 ms", Align::Right),
            ("p99 ms", Align::Right),
            ("p99.9 ms", Align::Right),
            ("max ms", Align::Right),
        ]);
        if let Some(load) = &self.latency {
            let name = format!("one at a time ({} orders)", load.orders);
            load.acknowledged_ms.row(&mut table, name);
        }
        if let Some(load) = &self.throughput {
            let name = format!("{} at a time ({} orders)", self.window, load.orders);
            load.acknowledged_ms.row(&mut table, name);
        }
        if let Some(load) = &self.settlement {
            let name = format!("one at a time, during a settlement ({} orders)", load.orders);
            load.acknowledged_ms.row(&mut table, name);
            load.written_ms.row(&mut table, format!("  the settlements of {}", load.decided));
        }
        text += &table.draw(false);
        if let Some(load) = &self.throughput {
            text += &format!(
                "\nthroughput: {:.0} orders/s acknowledged, {:.0} orders/s settled, {} settlements, \
                 {:.1} s\n",
                load.acknowledged_per_second,
                load.settled_per_second,
                load.settlements,
                load.seconds
            );
            text += &rest(&load.refused, load.processors.as_ref());
        }
        if let Some(load) = &self.latency {
            text += "\nlatency\n";
            text += &rest(&load.refused, load.processors.as_ref());
        }
        if let Some(load) = &self.settlement {
            text += &format!(
                "\nsettlement: the queue was decided at once {} of {} times\n",
                load.settlements, load.rounds
            );
            text += &rest(&load.refused, load.processors.as_ref());
        }
        text + "\nevery acknowledged order is in the books as its client was told, and they are right\n"
    }
}

fn rest(refused: &BTreeMap<String, u64>, processors: Option<&Processors>) -> String {
    let mut text = String::new();
    for (reason, count) in refused {
        text += &format!("  refused, {reason}: {count}\n");
    }
    text + &processors.map(Processors::text).unwrap_or_default()
}
