//! `papertrader bench start`: how long a master takes from the start of the program until it is ready,
//! on books with many accounts and fills.
//!
//! The books are in the system's memory, for they were just written. Nobody has a password, a session
//! or an open order. Invariant: in the end they are
//! loaded and folded anew, and are what was written.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use papertrader_store::Store;
use serde::Serialize;

use super::deployment::{self, Deployment, Size};
use super::market::{self, Ids, Market};
use super::{BenchError, Scratch, median, progress, wrong};
use crate::error::CliError;
use crate::output::Output;

/// Orders that one settlement decides while the books are made.
const BATCH: u64 = 100_000;

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Accounts, each with five positions
    #[arg(long, default_value_t = 1_000_000)]
    accounts: u32,
    /// Fills, at least the five of each account
    #[arg(long, default_value_t = 10_000_000)]
    fills: u64,
    /// Instruments
    #[arg(long, default_value_t = 500)]
    symbols: u32,
    /// How often it is started
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Makes the orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The directory for the servers' data [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    accounts: u32,
    fills: u64,
    symbols: u32,
    seed: u64,
    /// Until the master was ready, each time, in seconds.
    ready_seconds: Vec<f64>,
    median_seconds: f64,
    verified: bool,
}

pub(super) fn run(args: &StartArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&text(&report))
}

fn measure(args: &StartArgs, output: &Output) -> Result<Report, BenchError> {
    let problem = |name, problem: &str| Err(BenchError::Option { name, problem: problem.into() });
    if args.accounts == 0 || args.rounds == 0 {
        return problem("--accounts and --rounds", "must be at least 1");
    }
    if args.symbols < 10 {
        return problem("--symbols", "must be at least 10: each account owns five");
    }
    let Some(history) = args.fills.checked_sub(u64::from(args.accounts) * market::OWNED) else {
        return problem("--fills", "must be at least five for each account");
    };
    let scratch = Scratch::new(args.dir.as_ref())?;
    let data = scratch.file("data");
    let size = market::Size {
        accounts: args.accounts,
        symbols: args.symbols,
        ids: Ids::Uuid,
        seed: args.seed,
    };
    let mut market = Market::of(size, &deployment::source(args.symbols)?);
    let mut store = deployment::books(&data)?;
    let bar = progress(output, "accounts and orders", u64::from(args.accounts) + args.fills);
    market.prepare(&mut store, |done| bar.inc(done))?;
    let mut left = history;
    while left > 0 {
        let orders = left.min(BATCH);
        market.place(&mut store, orders)?;
        market.settle(&mut store, &mut |_, _| Ok(()))?;
        left -= orders;
        bar.inc(orders);
    }
    bar.finish_and_clear();
    drop(store);
    let size = Size {
        connections: 1,
        symbols: args.symbols,
        open: None,
        // No settlement comes while it is measured.
        interval: Duration::from_secs(3_600),
        plain: false,
        threads: 0,
        eager: false,
        registering: 0,
    };
    let mut times = Vec::new();
    // The first time it makes keys, and is not counted.
    for round in 0..=args.rounds {
        let servers = Deployment::start(&data, &size)?;
        let took = servers.master_took.as_secs_f64();
        servers.end()?;
        if round > 0 {
            output.note(&format!("ready after {took:.2} s"));
            times.push(took);
        }
    }
    let mut store = deployment::books(&data)?;
    let loaded = store.load()?;
    let made = (loaded.books.accounts().count() as u64, loaded.next_order.0 - 1);
    if made != (args.accounts.into(), args.fills) || loaded.books.open_orders().count() > 0 {
        return Err(wrong("accounts or fills are missing"));
    }
    drop(loaded);
    if let Some(mismatch) = store.verify()?.first() {
        return Err(wrong(&mismatch.what));
    }
    Ok(Report {
        accounts: args.accounts,
        fills: args.fills,
        symbols: args.symbols,
        seed: args.seed,
        median_seconds: median(&times),
        ready_seconds: times,
        verified: true,
    })
}

fn text(report: &Report) -> String {
    let times: Vec<String> =
        report.ready_seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    format!(
        "{} accounts, {} fills, {} symbols\nready after {:.2} s (median of {}), the books in the system's memory\n\nthe books were \
         folded anew and are right\n",
        report.accounts,
        report.fills,
        report.symbols,
        report.median_seconds,
        times.join(", ")
    )
}
