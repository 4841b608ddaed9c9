//! The exchange itself: money, orders, settlement, the ledger and price bars.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness come in as
//! arguments, so that the same inputs always give the same books.
//!
//! Invariants kept by this crate:
//! - money, prices and quantities are integers with a named scale and checked arithmetic;
//! - rounding never favours the trader;
//! - the sum over all postings is zero, for cash and for every instrument;
//! - cash and positions are never negative, and what open orders hold is never spent twice.

pub mod account;
pub mod bar;
pub mod books;
pub mod ids;
pub mod ledger;
pub mod money;
pub mod names;
pub mod order;
pub mod settle;
pub mod snapshot;
pub mod time;
