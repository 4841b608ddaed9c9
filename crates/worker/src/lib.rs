//! The worker server (specification 3.2): it stands between clients and the master, stamps what
//! clients send with the time, answers prices and history from its cache, and passes on the rest.
//!
//! The modules are those of the specification: [`driver`] starts and ends everything, `uplink` is
//! the only one that talks to the master, `cache` holds prices and history, `auth` is the
//! authorization tunnel with the table of verified sessions, `clients` keeps the connections and
//! judges what comes through them. `handshakes` lets them in over TLS, on sockets of `records`;
//! `seats` and `counters` are small tables that all share. The event log is `papertrader_node`'s.
//!
//! A worker holds nothing that cannot be lost. Invariants: no lock is held across an await; every
//! queue that a client can grow has a bound; an order that was handed to the link is never
//! answered "will not happen" by the worker itself.

pub(crate) mod auth;
pub(crate) mod cache;
pub(crate) mod clients;
pub mod config;
pub(crate) mod counters;
mod courtesy;
pub mod driver;
pub(crate) mod handshakes;
pub(crate) mod records;
pub(crate) mod seats;
pub(crate) mod uplink;

pub use config::{Config, ConfigError};
pub use driver::{Worker, WorkerError};
