//! The short forms of the kill loop, one for each database system; `examples/kill_loop.rs` is the long
//! one.

use std::path::Path;

use crate::kill_loop::servers::Books;
use crate::kill_loop::{Counts, Plan, run};

#[test]
fn what_was_answered_outlives_kills_and_nothing_is_done_twice() {
    let counts = short(Books::Sqlite, 8);
    assert!(counts.master_kills >= 4, "{counts}");
}

#[test]
fn the_same_in_postgresql_which_is_killed_too() {
    let counts = short(Books::Postgres, 10);
    assert!(counts.master_kills >= 2 && counts.database_kills >= 3, "{counts}");
}

fn short(books: Books, rounds: u32) -> Counts {
    let program = Path::new(env!("CARGO_BIN_EXE_papertrader"));
    let counts = run(&Plan { program, books, seed: 20_260_203, rounds, talk: false });
    let counts = counts.unwrap_or_else(|problem| panic!("{problem}"));
    // It would prove nothing if nothing had happened.
    assert!(counts.kills() >= rounds, "{counts}");
    assert!(counts.acknowledged > 50 && counts.filled > 50, "{counts}");
    assert!(counts.repeated >= counts.orders, "{counts}");
    counts
}
