//! What only master and worker say to each other, over the link (4.3.1).
//!
//! A link has no states: it starts with `linkHello` and `linkWelcome` or `linkRefused`, then
//! carries the clients' own instructions with a link header each, their returns, and the control
//! messages here. Their content is binary.

use papertrader_core::ids::WorkerId;
use papertrader_core::money::{Price, Volume};
use papertrader_core::names::Symbol;
use papertrader_core::time::{MarketTime, WallTime};

use crate::data::AssetKind;
use crate::session::SessionId;
use crate::wire::wire_struct;

wire_struct! {
    /// `linkHello`: the first message of a worker.
    pub struct LinkHello {
        /// The worker's UUID.
        worker: WorkerId,
        /// Its software version, for the operator.
        version: String,
        /// Where clients reach it: `host:port`.
        address: String,
        /// Its web address, or empty.
        web: String,
        /// The fingerprint of its certificate, or empty.
        fingerprint: String,
        /// Its clock, for the operator.
        clock: WallTime,
    }
}

wire_struct! {
    /// `linkWelcome`: the worker is accepted.
    pub struct LinkWelcome {
        /// The deployment's ID, a UUID as text: passwords are salted with it.
        deployment: String,
        /// The worker's name in the registry.
        name: String,
        /// The master's clock.
        clock: WallTime,
        /// Nanoseconds of wall time between snapshots (2.3.4).
        interval: i64,
        /// Nanoseconds of market time that one bar of resolution `interval` covers.
        bar_interval: i64,
        /// Where prices come from, in words.
        source: String,
    }
}

wire_struct! {
    /// An instrument, sent with a full snapshot.
    pub struct LinkInstrument {
        /// Its number in this deployment.
        id: u32,
        /// The short name.
        symbol: Symbol,
        /// The full name.
        name: String,
        /// What it is.
        kind: AssetKind,
    }
}

wire_struct! {
    /// The values of an instrument that a snapshot changed.
    pub struct Tick {
        /// The instrument's number.
        instrument: u32,
        /// The latest price.
        price: Price,
        /// When it was made.
        time: MarketTime,
        /// Today's first price.
        open: Price,
        /// Today's highest so far.
        high: Price,
        /// Today's lowest so far.
        low: Price,
        /// Today's volume so far.
        volume: Volume,
        /// The last price of the market day before, adjusted for a split today.
        previous_close: Option<Price>,
    }
}

wire_struct! {
    /// `snapshot`: the prices after a settlement. A full one replaces everything.
    pub struct SnapshotPush {
        /// Its number.
        number: u64,
        /// The market's time.
        market: MarketTime,
        /// Whether the prices have come to their end.
        ended: bool,
        /// The instruments; only in a full snapshot, otherwise empty.
        instruments: Vec<LinkInstrument>,
        /// In a full snapshot all values, otherwise those that changed.
        ticks: Vec<Tick>,
    }
}

wire_struct! {
    /// `sessionPresence`: whether a session still has a connection at this worker.
    pub struct SessionPresence {
        /// Which session.
        session: SessionId,
        /// True when its first connection opened, false when its last closed.
        present: bool,
    }
}

wire_struct! {
    /// `sessionEnded`: the worker must forget a session at once.
    pub struct SessionEnded {
        /// Which session.
        session: SessionId,
    }
}

wire_struct! {
    /// `workerStatus`: what the worker reports of itself.
    pub struct WorkerStatus {
        /// Connected clients.
        clients: u32,
    }
}
