//! Power cuts over the intake: an order that was promised is in the database or in the intake, once,
//! whatever a disk had not yet written when the power went.
//!
//! A child keeps orders in the intake, a few at a time, and says which it has promised; now and then it
//! writes all of them into the database and lets the intake forget them.

use std::path::Path;
use std::process::Command;

use papertrader_core::ids::{
    AccountId, BatchNumber, InstrumentId, OrderId, SnapshotNumber, WorkerId,
};
use papertrader_core::money::{Cash, Quantity};
use papertrader_core::order::{Order, OrderRecord, OrderRequest, Side};
use papertrader_core::time::{MarketTime, Moment, WallTime};
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{Batch, Change, Store};

use crate::disk::{Disk, Random};
use crate::moments::DATABASE;
use crate::record::{Recording, What};
use crate::trading::Trading;
use crate::{CUTS, DIRECTORY, SEED, directory, setting};

/// Orders that the child promises.
const ORDERS: u64 = 120;
/// It promises up to so many at once,
const AT_ONCE: u64 = 4;
/// and writes all that were promised when they are so many.
const WRITTEN_AT: u64 = 12;

/// The first is 1. Each is like no other.
fn order(id: u64) -> Order {
    let quantity = Quantity::from_raw(100_000_000 + id as i64);
    Order {
        id: OrderId(id),
        request: OrderRequest {
            account: AccountId(1),
            client_order_id: format!("order-{id}-{}", "x".repeat(id as usize % 60))
                .parse()
                .unwrap(),
            side: Side::Buy,
            instrument: InstrumentId(1),
            quantity,
        },
        asked: quantity,
        hold: Cash::from_cents(1),
        received: Moment { wall: WallTime(2_000), market: MarketTime(0) },
        seen: SnapshotNumber(1),
        day: 1_000,
        worker: WorkerId([1; 16]),
        worker_time: WallTime(2_000),
        worker_sequence: id,
    }
}

fn open(directory: &Path) -> Result<SqliteStore, String> {
    SqliteStore::open(&directory.join(DATABASE), "one").map_err(|error| error.to_string())
}

#[test]
#[ignore = "run by the test beside it, in a process of its own"]
fn promising_child() {
    let directory = std::env::var_os(DIRECTORY).expect("this test is run by others");
    let mut random = Random(setting(SEED, 1));
    let mut store = open(Path::new(&directory)).unwrap();
    let mut trading = Trading::new(1);
    store.commit(&trading.next_batch()).unwrap();
    let mut batch = BatchNumber(1);
    let mut intake = store.intake().unwrap().expect("a file has an intake");
    let (mut written, mut promised) = (0, 0);
    while promised < ORDERS {
        let now = promised + 1 + random.below(AT_ONCE as usize) as u64;
        let orders: Vec<Order> = (promised + 1..=now).map(order).collect();
        intake.keep(batch, &orders).unwrap();
        promised = now;
        crate::say(promised);
        if promised - written >= WRITTEN_AT {
            batch.0 += 1;
            let place = |id| Change::PlaceOrder(OrderRecord::queued(order(id)));
            let changes = (written + 1..=promised).map(place).collect();
            let wall = WallTime(3_000 + batch.0 as i64);
            store.commit(&Batch { number: batch, wall, changes }).unwrap();
            intake.forget().unwrap();
            written = promised;
        }
    }
}

/// How the files that a cut left are wrong; how many of the orders the intake had.
fn judge(directory: &Path, promised: u64) -> Result<usize, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut store = open(directory)?;
    let last = store.last_batch().map_err(|error| words(&error))?;
    let next = store.load().map_err(|error| words(&error))?.next_order;
    let mut intake = store.intake().map_err(|error| words(&error))?.expect("a file has one");
    let kept = intake.kept(next, last).map_err(|error| words(&error))?;
    let there = next.0 - 1 + kept.len() as u64;
    if there < promised {
        return Err(format!(
            "lost: {promised} promised, {} stored, {} kept",
            next.0 - 1,
            kept.len()
        ));
    }
    if there > promised + AT_ONCE {
        return Err(format!("{there} are there, only {promised} were promised"));
    }
    let as_promised = (next.0..).zip(&kept).all(|(id, kept)| *kept == order(id));
    if !as_promised {
        return Err(format!("kept from {next} on: {kept:?}"));
    }
    // They can be written now.
    let place = |order: &Order| Change::PlaceOrder(OrderRecord::queued(order.clone()));
    let changes = kept.iter().map(place).collect();
    let batch = Batch { number: BatchNumber(last.0 + 1), wall: WallTime(4_000), changes };
    if last.0 > 0 {
        store.commit(&batch).map_err(|error| words(&error))?;
    }
    intake.forget().map_err(|error| words(&error))?;
    match store.verify().map_err(|error| words(&error))?.first() {
        Some(mismatch) => Err(format!("it does not verify: {mismatch:?}")),
        None => Ok(kept.len()),
    }
}

#[test]
#[ignore = "it needs strace and the right to trace: ./test runs it where there are both"]
fn power_cuts_take_no_promise_back() {
    let (seed, count) = (setting(SEED, 1), setting(CUTS, 200) as usize);
    let home = directory();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["promising_child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, home.path())
        .env(SEED, seed.to_string());
    let recording = Recording::of(&command, home.path());
    drop(home);
    let said: Vec<(usize, u64)> = recording
        .ops
        .iter()
        .filter_map(|op| match op.what {
            What::Ack(promised) => Some((op.begun, promised)),
            _ => None,
        })
        .collect();
    let mut random = Random(seed);
    // Half of them just before or after a promise.
    let mut cuts: Vec<usize> = (0..count)
        .map(|n| match n % 2 {
            0 => random.below(recording.end + 1),
            _ => (said[random.below(said.len())].0 + 2).saturating_sub(random.below(16)),
        })
        .collect();
    cuts.sort_unstable();
    let (mut honest, mut forgetful) = (Disk::new(&recording), Disk::that_forgets(&recording));
    let (mut with_kept, mut lost, mut problems) = (0, 0, Vec::new());
    for (number, moment) in cuts.iter().enumerate() {
        let promised =
            said.iter().take_while(|(at, _)| at < moment).last().map_or(0, |said| said.1);
        let random = || Random(seed << 32 ^ number as u64);
        honest.advance(*moment);
        let left = directory();
        honest.cut(left.path(), &mut random());
        match judge(left.path(), promised) {
            Ok(kept) => with_kept += usize::from(kept > 0),
            Err(problem) => problems.push(format!("cut {number} at {moment}: {problem}")),
        }
        forgetful.advance(*moment);
        let left = directory();
        forgetful.cut(left.path(), &mut random());
        lost += usize::from(judge(left.path(), promised).is_err());
    }
    println!("{count} cuts, {with_kept} with orders in the intake; without syncs {lost} bad ones");
    assert!(problems.is_empty(), "seed {seed}:\n{}", problems.join("\n"));
    assert!(with_kept > count / 4, "the intake had orders after {with_kept} cuts only");
    assert!(lost > 0, "without syncs nothing was lost: these cuts show nothing");
}
