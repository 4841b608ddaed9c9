//! Crashes: a process that commits batches is killed at any moment, or its disk is full, and
//! every batch is then stored entirely or not at all.
//!
//! The child is this test program again, told by the environment to run [`child`]. Its batches
//! come from a seed, so the parent knows what must be stored after any number of them.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use papertrader_core::ids::BatchNumber;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{CommitError, Pace, Store};

use crate::File;
use crate::contract::trading::Trading;

/// Tells the child which file to write.
const FILE: &str = "PAPERTRADER_TEST_CRASH_FILE";
const SEED: u64 = 51;

/// The story after `batches` batches.
fn advance(trading: &mut Trading, batches: u64) {
    while trading.batch < batches {
        trading.next_batch();
    }
}

#[test]
#[ignore = "run by the tests beside it, in a process of its own"]
fn child() {
    let path = std::env::var_os(FILE).expect("this test is run by others");
    let mut store = SqliteStore::open(Path::new(&path), "one").unwrap();
    // Or these few accounts would never be behind.
    store.set_pace(Pace { round: 64, at_least: 1 });
    let mut trading = Trading::new(SEED);
    advance(&mut trading, store.last_batch().unwrap().0);
    let mut out = std::io::stdout();
    let mut batch = trading.next_batch();
    loop {
        let BatchNumber(number) = batch.number;
        match store.commit(&batch) {
            Ok(()) => {
                // The next batch is made before this one is reported, so that what the report
                // sets off finds the next commit under way.
                batch = trading.next_batch();
                writeln!(out, "\ncommitted {number}").unwrap();
            }
            Err(error) => {
                store.reconnect().unwrap();
                let last = store.last_batch().unwrap().0;
                let stored = last == number;
                assert!(stored || last == number - 1, "{last} stored at batch {number}");
                let kind = match error {
                    CommitError::NotStored(_) if !stored => "not stored",
                    CommitError::Unknown(_) => "unknown",
                    error => panic!("{error} with {last} stored at batch {number}"),
                };
                writeln!(out, "\nfailed {kind}").unwrap();
                return;
            }
        }
    }
}

/// Starts [`child`], behind a shell that runs `prepare` first.
fn start(file: &File, prepare: &str) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{prepare} exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env(FILE, file.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn committed(line: &str) -> Option<u64> {
    line.strip_prefix("committed ")?.parse().ok()
}

/// That the file holds whole batches, at least `reported` and at most one more.
fn check(file: &File, trading: &mut Trading, reported: u64) {
    let mut store = file.store();
    let BatchNumber(last) = store.last_batch().unwrap();
    assert!(last == reported || last == reported + 1, "{last} stored, {reported} reported");
    advance(trading, last);
    trading.assert_loaded(&store.load().unwrap());
    assert_eq!(store.verify().unwrap(), []);
}

#[test]
fn a_killed_process_leaves_whole_batches() {
    let file = File::new();
    let mut trading = Trading::new(SEED);
    let mut reported = 0;
    // Each round goes on with the file that the one before left.
    for round in 0..40 {
        let mut child = start(&file, "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 1 + round * 7 % 13;
        while left > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some(number) = committed(&line) {
                reported = number;
                left -= 1;
            }
        }
        // A little work of varying length spreads the kills over the commit.
        (0..round * 400).for_each(|n| {
            std::hint::black_box(n);
        });
        child.kill().unwrap();
        child.wait().unwrap();
        // What it reported before the signal came.
        for line in lines {
            reported = committed(&line.unwrap()).unwrap_or(reported);
        }
        // A round that died before its first report may have stored one batch more.
        check(&file, &mut trading, reported);
        reported = reported.max(trading.batch);
    }
    assert!(trading.batch > 200);
}

#[test]
fn a_disk_that_is_full_leaves_whole_batches() {
    let file = File::new();
    let mut trading = Trading::new(SEED);
    let mut reported = 0;
    // Writing beyond the limit fails instead of killing the process.
    for blocks in [900, 1_000, 1_100, 1_777] {
        let mut child = start(&file, &format!("trap '' XFSZ; ulimit -f {blocks};"));
        let mut failure = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            reported = committed(&line).unwrap_or(reported);
            if let Some(kind) = line.strip_prefix("failed ") {
                failure = Some(kind.to_owned());
            }
        }
        assert!(child.wait().unwrap().success());
        assert!(failure.is_some(), "the limit of {blocks} blocks was never reached");
        check(&file, &mut trading, reported);
        reported = trading.batch;
    }
}
