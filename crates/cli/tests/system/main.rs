//! The whole system in one process: a real master with its store and the recorded prices, real
//! workers, raw protocol clients and the SDK, over sockets on loopback.
//!
//! The market moves when a test says so, and nothing waits for time to pass: what is awaited is an
//! answer. Every system ends with a check of the store's books.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod bars;
mod every_instruction;
mod file;
mod fresh;
mod idempotency;
mod no_future;
mod peer;
mod scene;
mod streams;
