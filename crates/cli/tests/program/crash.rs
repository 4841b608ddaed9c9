//! The short form of the kill loop; `examples/kill_loop.rs` is the long one.

use std::path::Path;

use crate::kill_loop::{Plan, run};

#[test]
fn what_was_answered_outlives_kills_and_nothing_is_done_twice() {
    let program = Path::new(env!("CARGO_BIN_EXE_papertrader"));
    let counts = run(&Plan { program, seed: 20_260_203, rounds: 8, talk: false });
    let counts = counts.unwrap_or_else(|problem| panic!("{problem}"));
    // It would prove nothing if nothing had happened.
    assert!(counts.kills() >= 8, "{counts}");
    assert!(counts.acknowledged > 50 && counts.filled > 50, "{counts}");
    assert!(counts.master_kills >= 4 && counts.repeated >= counts.orders, "{counts}");
}
