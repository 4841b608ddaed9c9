//! Power cuts: what the SQLite store acknowledged is there, whole, whatever a disk had not yet
//! written when the power went.
//!
//! A child commits batches of a seed's story while `record.rs` records what it does to its files;
//! `moments.rs` chooses when the power goes, `disk.rs` what the disk then holds, and here the store is
//! opened on that and compared with the story. A cut during the start after a cut is not tried.
//!
//! Invariant: each cut leaves whole batches, all that were acknowledged and at most one more. The
//! same cuts with a disk that never syncs must show that this is no matter of course.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "clippy takes only the test functions themselves for tests")]

mod disk;
mod moments;
mod promises;
mod record;
#[allow(dead_code, reason = "the contract suite uses the rest")]
#[path = "../contract/trading.rs"]
mod trading;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;

use papertrader_core::ids::BatchNumber;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Pace, Store};
use tempfile::TempDir;

use disk::{Disk, Random};
use moments::{DATABASE, Kind, LOG, Moments};
use record::{Recording, What};
use trading::Trading;

/// Tells the child where to write.
const DIRECTORY: &str = "PAPERTRADER_TEST_POWER_DIRECTORY";
/// Chooses the story, the moments and what the disk keeps. The moments also depend on how the
/// threads of the recording met.
const SEED: &str = "PAPERTRADER_TEST_POWER_SEED";
/// How many cuts there are.
const CUTS: &str = "PAPERTRADER_TEST_POWER_CUTS";

/// Up to this batch the story has no large ones.
const SMALL: u64 = 30;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Tells the recording that this was acknowledged, in one write.
fn say(number: u64) {
    std::io::stdout().write_all(format!("ack {number}\n").as_bytes()).unwrap();
}

/// The next batch of the story: each third is large, so that the log is soon long enough to be
/// copied.
fn next_batch(trading: &mut Trading) -> Batch {
    let number = trading.batch + 1;
    if number <= SMALL || !number.is_multiple_of(3) {
        return trading.next_batch();
    }
    // Its pages are like no other batch's.
    let text = format!("{number:08}").repeat(1 << 17);
    let worker = trading.put_worker(7 + (number / 3 % 3) as u8, &text);
    trading.batch_of(vec![worker])
}

/// The number at the log's beginning that rises when it is begun anew after a checkpoint.
fn renewals(log: &Path) -> u32 {
    let mut number = [0; 4];
    let mut log = std::fs::File::open(log).unwrap();
    log.seek(SeekFrom::Start(12)).unwrap();
    log.read_exact(&mut number).unwrap();
    u32::from_be_bytes(number)
}

#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("this test is run by others");
    let directory = Path::new(&directory);
    let mut trading = Trading::new(setting(SEED, 1));
    let commit = |store: &mut SqliteStore, trading: &mut Trading| {
        let batch = next_batch(trading);
        store.commit(&batch).unwrap();
        say(batch.number.0);
    };
    let open = || {
        let mut store = SqliteStore::open(&directory.join(DATABASE), "one").unwrap();
        // Or these few accounts would never be behind.
        store.set_pace(Pace { round: 64, at_least: 1 });
        store
    };
    // The last connection that is closed copies the log and removes it.
    for batches in [10, SMALL] {
        let mut store = open();
        while trading.batch < batches {
            commit(&mut store, &mut trading);
        }
    }
    let mut store = open();
    commit(&mut store, &mut trading);
    let log = directory.join(LOG);
    let first = renewals(&log);
    while renewals(&log) < first + 2 {
        commit(&mut store, &mut trading);
        assert!(trading.batch < 2_000, "the log is never begun anew");
    }
    drop(store);
    let mut store = open();
    for _ in 0..10 {
        commit(&mut store, &mut trading);
    }
}

/// The story, to any batch of it.
struct Story {
    seed: u64,
    trading: Trading,
}

impl Story {
    fn new(seed: u64) -> Story {
        Story { seed, trading: Trading::new(seed) }
    }

    fn at(&mut self, batch: u64) -> &mut Trading {
        if batch < self.trading.batch {
            self.trading = Trading::new(self.seed);
        }
        while self.trading.batch < batch {
            next_batch(&mut self.trading);
        }
        &mut self.trading
    }
}

/// What must be there at a moment.
struct Expected {
    acknowledged: u64,
    /// The next batch has begun to be written.
    next_begun: bool,
}

fn expected(recording: &Recording, moment: usize) -> Expected {
    let mut expected = Expected { acknowledged: 0, next_begun: false };
    for op in recording.ops.iter().take_while(|op| op.begun < moment) {
        match op.what {
            What::Ack(number) => {
                expected = Expected { acknowledged: number, next_begun: false };
            }
            What::Write { file, .. } => expected.next_begun |= recording.files[file] == LOG,
            _ => {}
        }
    }
    expected
}

/// How a store on what the cut left is wrong.
fn judge(directory: &Path, story: &mut Story, expected: &Expected) -> Result<u64, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut store = SqliteStore::open(&directory.join(DATABASE), "one")
        .map_err(|error| format!("it cannot be opened: {error}"))?;
    let mismatches = store.verify().map_err(|error| words(&error))?;
    if !mismatches.is_empty() {
        return Err(format!("it does not verify: {mismatches:?}"));
    }
    let BatchNumber(last) = store.last_batch().map_err(|error| words(&error))?;
    let most = expected.acknowledged + u64::from(expected.next_begun);
    if last < expected.acknowledged {
        return Err(format!("lost: {last} stored, {} acknowledged", expected.acknowledged));
    }
    if last > most {
        return Err(format!("{last} stored, only {most} begun"));
    }
    let loaded = store.load().map_err(|error| words(&error))?;
    let trading = story.at(last);
    std::panic::catch_unwind(AssertUnwindSafe(|| trading.assert_loaded(&loaded)))
        .map_err(|_| format!("it is not the story's batch {last}"))?;
    // It goes on from there.
    store.commit(&next_batch(trading)).map_err(|error| words(&error))?;
    Ok(last)
}

/// An empty directory, in memory where there is such a place: no test waits for a real disk.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What one thread has found.
#[derive(Default)]
struct Findings {
    /// Cuts by what was under way, and those of them that left the batch nobody was told of.
    cuts: BTreeMap<Kind, usize>,
    unanswered_stored: usize,
    unanswered_absent: usize,
    problems: Vec<String>,
    /// Of a disk that never synced: cuts tried, batches lost, otherwise broken.
    forgetful: usize,
    lost: usize,
    broken: usize,
}

/// Tries the cuts, which ascend. Each has a number, which chooses what the disk keeps.
fn try_cuts(
    recording: &Recording,
    moments: &Moments,
    seed: u64,
    cuts: &[(usize, usize)],
) -> Findings {
    let mut findings = Findings::default();
    let mut story = Story::new(seed);
    let mut honest = Disk::new(recording);
    let mut forgetful = Disk::that_forgets(recording);
    for (moment, number) in cuts {
        let random = || Random(seed << 32 ^ *number as u64);
        let expected = expected(recording, *moment);
        let kinds = moments.at(*moment);
        for kind in &kinds {
            *findings.cuts.entry(*kind).or_default() += 1;
        }
        honest.advance(*moment);
        let left = directory();
        honest.cut(left.path(), &mut random());
        match judge(left.path(), &mut story, &expected) {
            Ok(last) if last > expected.acknowledged => findings.unanswered_stored += 1,
            Ok(_) => findings.unanswered_absent += usize::from(expected.next_begun),
            Err(problem) => {
                // The first is kept as it was before a store opened it: it may be large.
                let mut words = format!("cut {number} at {moment} ({kinds:?}): {problem}");
                if findings.problems.is_empty() {
                    let kept = tempfile::tempdir().unwrap().keep();
                    honest.cut(&kept, &mut random());
                    words += &format!("; see {}", kept.display());
                }
                findings.problems.push(words);
            }
        }
        // A part is enough to show it.
        if number.is_multiple_of(5) {
            findings.forgetful += 1;
            forgetful.advance(*moment);
            let left = directory();
            forgetful.cut(left.path(), &mut random());
            match judge(left.path(), &mut story, &expected) {
                Ok(_) => {}
                Err(problem) if problem.starts_with("lost") => findings.lost += 1,
                Err(_) => findings.broken += 1,
            }
        }
    }
    findings
}

#[test]
#[ignore = "it needs strace and the right to trace: ./test runs it where there are both"]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let (seed, count) = (setting(SEED, 1), setting(CUTS, 200) as usize);
    let home = directory();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, home.path())
        .env(SEED, seed.to_string());
    let recording = Recording::of(&command, home.path());
    assert_whole(&recording, home.path());
    drop(home);
    let moments = Moments::of(&recording);
    println!("seed {seed}: {} operations, {moments}", recording.ops.len());

    let mut random = Random(seed);
    let mut cuts: Vec<(usize, usize)> =
        (0..count).map(|n| (moments.choose(n, recording.end, &mut random), n)).collect();
    cuts.sort_unstable();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(4));
    let shares: Vec<Vec<(usize, usize)>> =
        (0..threads).map(|n| cuts.iter().skip(n).step_by(threads).copied().collect()).collect();
    let mut all = Findings::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(|| try_cuts(&recording, &moments, seed, share)))
            .collect();
        for thread in running {
            let findings = thread.join().unwrap();
            for (kind, cuts) in findings.cuts {
                *all.cuts.entry(kind).or_default() += cuts;
            }
            all.unanswered_stored += findings.unanswered_stored;
            all.unanswered_absent += findings.unanswered_absent;
            all.problems.extend(findings.problems);
            all.forgetful += findings.forgetful;
            all.lost += findings.lost;
            all.broken += findings.broken;
        }
    });
    println!("{count} cuts, of which (some in two): {:?}", all.cuts);
    println!(
        "the batch nobody was told of: stored {}, absent {}",
        all.unanswered_stored, all.unanswered_absent
    );
    println!(
        "without syncs: {} cuts, {} lost batches, {} broken",
        all.forgetful, all.lost, all.broken
    );
    assert!(
        all.problems.is_empty(),
        "seed {seed}, {} problems:\n{}",
        all.problems.len(),
        all.problems.join("\n")
    );
    let unsynced = &moments.unsynced;
    assert!(unsynced.is_empty(), "acknowledged before they were synced: {unsynced:?}");
    // Twice because it was long, and three times because it was closed before.
    assert!(moments.renewals >= 5, "the log was not copied often enough: {moments}");
    for kind in Kind::ALL {
        assert!(all.cuts.contains_key(&kind), "no cut at {kind:?}");
    }
    assert!(all.unanswered_stored > 0 && all.unanswered_absent > 0);
    assert!(all.lost > 0, "without syncs nothing was lost: these cuts show nothing");
}

/// That the recording accounts for every byte that is there.
fn assert_whole(recording: &Recording, directory: &Path) {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let content = std::fs::read(entry.path()).unwrap();
        found.insert(entry.file_name().into_string().unwrap(), content);
    }
    found.retain(|name, _| !name.ends_with("-shm"));
    let recorded = recording.files_at_end();
    assert!(found.keys().eq(recorded.keys()), "{:?} {:?}", found.keys(), recorded.keys());
    assert!(found == recorded, "a file is not what was recorded");
}
