//! What the event log prints for people, seen from outside the process.

use std::process::Command;

use papertrader_node::log::{LogConfig, init};
use papertrader_node::{debug, warn};

#[test]
fn entries_are_printed_to_stderr_when_wanted() {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "the_process_that_prints", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = printed.lines().filter(|line| line.contains("price")).collect();
    let [line] = lines.as_slice() else { panic!("{printed}") };
    let (time, words) = line.split_at("00:00:00.000".len());
    assert_eq!(time.matches(':').count(), 2, "{line}");
    assert!(words.starts_with(" WARN  the price is old\\u{1b} symbol=IBM"), "{line}");
    assert!(words.contains("(crates/node/tests/event_log_stderr.rs:"), "{line}");
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn the_process_that_prints() {
    let _log = init(&LogConfig { stderr: true, ..LogConfig::default() }).unwrap();
    warn!(symbol = "IBM", "the price is old\u{1b}");
    debug!("a price below the level");
}
