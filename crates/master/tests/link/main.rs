//! The master as its workers see it: over a real socket, with a real store, a hand-written worker
//! on the other end and a market that moves when the test says so.

#![allow(clippy::unwrap_used)]

mod guessing;
mod harness;
mod orders;
mod passwords;
mod prices;
mod sanctions;
mod sessions;
mod trouble;
