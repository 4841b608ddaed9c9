//! `papertrader bench settle`: how many orders a second are settled, durable when they are counted.
//! The orders are durable before the clock starts.

use std::time::{Duration, Instant};

use clap::Args;
use papertrader_core::ids::OrderId;
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;
use serde::Serialize;

use super::bare;
use super::market::{Ids, Market, Size};
use super::{BenchError, Place, Scratch, Times, median, progress};
use crate::error::CliError;
use crate::output::Output;
use crate::output::table::{Align, Table};

#[derive(Debug, Args)]
pub(super) struct SettleArgs {
    /// Where the books are kept: sqlite, or the URL of an empty PostgreSQL database, which is left full
    #[arg(long, value_name = "sqlite|URL", default_value = "sqlite")]
    store: Place,
    /// Orders that are measured, in all
    #[arg(long, default_value_t = 500_000)]
    orders: u64,
    /// Orders that one settlement decides
    #[arg(long, default_value_t = 100_000)]
    batch: u64,
    /// Accounts that trade, each with five positions
    #[arg(long, default_value_t = 100_000)]
    accounts: u32,
    /// Instruments
    #[arg(long, default_value_t = 500)]
    symbols: u32,
    /// How the client order IDs look
    #[arg(long, value_enum, default_value_t = Ids::Uuid)]
    ids: Ids,
    /// Orders that were settled before, beside the five of each account
    #[arg(long, default_value_t = 0)]
    history: u64,
    /// Makes the orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// SQLite: also execute the bare statements of each settlement on a second database
    #[arg(long)]
    bare: bool,
    /// SQLite: the directory for the databases, on the disk that is to be measured [default: here]
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    store: &'static str,
    ids: &'static str,
    accounts: u32,
    symbols: u32,
    batch: u64,
    history: u64,
    seed: u64,
    /// Settled orders a second, the median of all batches.
    settled_per_second: f64,
    /// The bare statements alone, the median of all batches.
    bare_per_second: Option<f64>,
    /// The former divided by the latter, of each batch, the median.
    of_bare: Option<f64>,
    /// Orders made durable a second, in batches of 10,000, the median.
    placed_per_second: f64,
    batch_ms: Percentiles,
    engine_ms: Percentiles,
    store_ms: Percentiles,
    verified: bool,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    max: f64,
}

impl Percentiles {
    fn of(times: &Times) -> Percentiles {
        Percentiles { p50: times.quantile(0.5), p90: times.quantile(0.9), max: times.quantile(1.0) }
    }
}

pub(super) fn run(args: &SettleArgs, output: &Output) -> Result<(), CliError> {
    let report = measure(args, output).map_err(CliError::Bench)?;
    if output.json {
        return output.object(&report);
    }
    output.text(&text(&report))
}

fn measure(args: &SettleArgs, output: &Output) -> Result<Report, BenchError> {
    for (name, value) in
        [("--orders", args.orders), ("--batch", args.batch), ("--accounts", args.accounts.into())]
    {
        if value == 0 {
            return Err(BenchError::Option { name, problem: "must be at least 1".into() });
        }
    }
    if args.symbols < 10 {
        let problem = "must be at least 10: each account owns five".into();
        return Err(BenchError::Option { name: "--symbols", problem });
    }
    if args.bare && !matches!(args.store, Place::Sqlite) {
        let problem = "is for SQLite only".into();
        return Err(BenchError::Option { name: "--bare", problem });
    }
    let scratch = Scratch::new(args.dir.as_ref())?;
    let (path, twin_path) = (scratch.file("books.sqlite"), scratch.file("bare.sqlite"));
    let mut store = args.store.open(&path)?;
    let store = store.as_mut();
    let size =
        Size { accounts: args.accounts, symbols: args.symbols, ids: args.ids, seed: args.seed };
    let mut market = Market::new(size)?;
    let before = u64::from(args.accounts) * 6;
    let bar = progress(output, "orders", before + args.history + args.orders + args.batch);
    market.prepare(store, |done| bar.inc(done))?;
    let mut left = args.history;
    while left > 0 {
        let orders = left.min(args.batch);
        market.place(store, orders)?;
        market.settle(store, &mut |_, _| Ok(()))?;
        left -= orders;
        bar.inc(orders);
    }
    let (mut all, mut engine, mut written) = (Times::new(), Times::new(), Times::new());
    let (mut rates, mut bare_rates, mut of_bare, mut placing) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first one, which finds cold caches, is not counted.
    let rounds = args.orders.div_ceil(args.batch);
    for round in 0..=rounds {
        let begun = Instant::now();
        market.place(store, args.batch)?;
        let placed = begun.elapsed();
        let mut bare_time = None;
        let hashes = args.bare.then(|| bare::Hashes::of(&market.books));
        if args.bare {
            // The same content, with nothing settled yet.
            bare::copy(&path, &twin_path)?;
            // The copy has taken the place of the books in the processor's caches: it is their turn,
            // as it is that of the bare statements' pages.
            market.books.check()?;
        }
        let settled = market.settle(store, &mut |settlement, batch| {
            if let Some(hashes) = &hashes {
                bare_time = Some(bare::settle(&twin_path, &path, hashes, settlement, batch)?);
            }
            Ok(())
        })?;
        if settled.filled != args.batch {
            let what = format!("{} of {} orders were settled", settled.filled, args.batch);
            return Err(BenchError::Wrong(what));
        }
        bar.inc(args.batch);
        if round == 0 {
            continue;
        }
        let rate = |time: Duration| args.batch as f64 / time.as_secs_f64();
        let time = settled.engine + settled.store;
        all.add(time);
        engine.add(settled.engine);
        written.add(settled.store);
        rates.push(rate(time));
        placing.push(rate(placed));
        if let Some(bare) = bare_time {
            bare_rates.push(rate(bare));
            of_bare.push(bare.as_secs_f64() / time.as_secs_f64());
        }
    }
    bar.finish_and_clear();
    if args.bare {
        let mut twin = SqliteStore::open(&twin_path, "bench")?;
        if twin.load()?.books != market.books {
            return Err(BenchError::Wrong("the bare statements made other books".into()));
        }
    }
    check(store, &market)?;
    Ok(Report {
        store: args.store.name(),
        ids: if args.ids == Ids::Uuid { "uuid" } else { "random" },
        accounts: args.accounts,
        symbols: args.symbols,
        batch: args.batch,
        history: args.history,
        seed: args.seed,
        settled_per_second: median(&rates),
        bare_per_second: (!bare_rates.is_empty()).then(|| median(&bare_rates)),
        of_bare: (!of_bare.is_empty()).then(|| median(&of_bare)),
        placed_per_second: median(&placing),
        batch_ms: Percentiles::of(&all),
        engine_ms: Percentiles::of(&engine),
        store_ms: Percentiles::of(&written),
        verified: true,
    })
}

/// That the store holds what the books say, and nothing is wrong with it.
fn check(store: &mut dyn Store, market: &Market) -> Result<(), BenchError> {
    let loaded = store.load()?;
    if loaded.books != market.books || loaded.next_order == OrderId(1) {
        return Err(BenchError::Wrong("what was written is not what is loaded".into()));
    }
    match store.verify()?.first() {
        Some(mismatch) => Err(BenchError::Wrong(mismatch.what.clone())),
        None => Ok(()),
    }
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&[
        ("", Align::Left),
        ("p50 ms", Align::Right),
        ("p90 ms", Align::Right),
        ("max ms", Align::Right),
    ]);
    for (name, times) in [
        ("a batch", &report.batch_ms),
        ("  judged", &report.engine_ms),
        ("  written", &report.store_ms),
    ] {
        let ms = |value: f64| format!("{value:.1}");
        table.row([name.into(), ms(times.p50).into(), ms(times.p90).into(), ms(times.max).into()]);
    }
    let mut text = format!(
        "{}, {} accounts, {} symbols, {} orders before, IDs {}\n\
         settled {:.0} orders/s in batches of {}\n",
        report.store,
        report.accounts,
        report.symbols,
        report.history,
        report.ids,
        report.settled_per_second,
        report.batch,
    );
    if let (Some(bare), Some(of_bare)) = (report.bare_per_second, report.of_bare) {
        text += &format!("bare statements {bare:.0} orders/s; settled at {of_bare:.2} of it\n");
    }
    text += &format!("made durable before: {:.0} orders/s\n\n", report.placed_per_second);
    text + &table.draw(false) + "\nthe books were folded anew and are right\n"
}
