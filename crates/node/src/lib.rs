//! What both servers share: the clock, shutdown, framed connections, the link between master and
//! worker, the OpenPGP keys that prove who is on it, configuration, and the event log.
//!
//! Nothing here knows what an instruction means.

pub mod clock;
pub mod config;
pub mod connection;
pub mod link;
pub mod log;
pub mod openpgp;
mod private_file;
pub mod shutdown;
pub mod tls;
