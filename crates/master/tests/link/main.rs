//! The master as its workers see it: over a real socket, with a real store, a hand-written worker
//! on the other end and a market that moves when the test says so.

#![allow(clippy::unwrap_used)]

mod ahead;
mod bounds;
mod events;
mod floods;
#[path = "../../../node/tests/openpgp/gpg.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod gpg;
mod guessing;
mod harness;
mod hostile;
mod lease;
mod orders;
mod passwords;
mod prices;
mod proof;
mod registry;
mod sanctions;
mod sessions;
mod trouble;
