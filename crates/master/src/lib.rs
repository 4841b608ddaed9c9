//! The master server (specification 3.1): accounts, sessions, orders, positions, the registry of
//! workers and the history of prices.
//!
//! | module of the specification | here |
//! |---|---|
//! | 3.1.1 main, the driver | [`driver`]: one loop that owns all state |
//! | 3.1.2 database | `database`: one thread that writes, a few that read; `lease`, [`standby`]: which of several masters it is |
//! | 3.1.3 accounts and authorization | `accounts`, `sessions`, `hasher`, `limits`, `logins`, `access` |
//! | 3.1.4 event log | `papertrader_node::log` |
//! | 3.1.5 workers | `workers`, `registry`, `port`, `hello` |
//! | 3.1.6 assets data retrieval | `assets` |
//! | 2.4.5 the operator | [`admin`]: a socket in the data directory |
//! | 3.1.7 assets buy and sell | `trading`; `followers` tells who follows an account |
//!
//! Invariant: memory changes only after the commit that made the change durable, and every answer
//! that promises something leaves after that commit.

mod access;
mod accounts;
pub mod admin;
mod ahead;
mod argon;
mod assets;
mod bars;
mod batch;
pub mod config;
mod database;
pub mod driver;
mod followers;
mod hasher;
mod hello;
mod lease;
pub mod limits;
mod lines;
mod logins;
mod port;
mod pushes;
mod reads;
mod registry;
mod sessions;
pub mod standby;
mod trading;
mod workers;

pub use config::{Config, PortLimits};
pub use driver::{Entrance, Master, MasterError, Ticks};
pub use limits::{Backoff, Limits, Rate};
