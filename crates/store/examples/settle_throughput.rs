//! Measures what durable orders cost: places orders in batches, settles all of them in one, then
//! verifies, backs up and restores all of them while more are placed, and prints the times. It judges
//! nothing and belongs to no test.
//!
//! `cargo run --release -p papertrader-store --example settle_throughput -- [orders] [accounts] [URL]`
//!
//! Without the URL of an empty PostgreSQL database it measures SQLite.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use papertrader_core::bar::Bar;
use papertrader_core::books::{Books, InFlight, Rules};
use papertrader_core::ids::{
    AccountId, BatchNumber, InstrumentId, OrderId, SnapshotNumber, WorkerId,
};
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::order::{Order, OrderRecord, OrderRequest, OrderState, Side};
use papertrader_core::settle::settle;
use papertrader_core::snapshot::{Mark, PricePoint, Snapshot};
use papertrader_core::time::{MarketTime, Moment, SECOND, WallTime};
use papertrader_store::postgres::PostgresStore;
use papertrader_store::sqlite::SqliteStore;
use papertrader_store::{
    Batch, Change, Cursor, InstrumentRow, Location, NewAccount, Profile, Store,
};

const INSTRUMENTS: u32 = 500;
const ORDERS_A_BATCH: u64 = 10_000;
const SMALL_BATCH: u64 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| match arguments.next() {
        Some(text) => text.parse(),
        None => Ok(otherwise),
    };
    let (orders, accounts) = (number(100_000)?, number(10_000)?);
    let dir = tempfile::tempdir()?;
    let store: Box<dyn Store> = match arguments.next() {
        Some(url) => Box::new(PostgresStore::open(&url, "measured")?),
        None => Box::new(SqliteStore::open(&dir.path().join("books.sqlite"), "measured")?),
    };
    let mut measured = Measured { store, books: Books::new(), batch: 0 };
    measured.prepare(u32::try_from(accounts)?)?;
    measured.settle("first prices")?;
    // Twice: the second time buys into positions that are there.
    for round in 0..2 {
        measured.place(round * orders, orders, accounts)?;
        measured.settle("settle all of them")?;
    }
    let begun = Instant::now();
    let wrong = measured.store.verify()?;
    println!("{:<28} {:>8.1?}  ({} mismatches)", "verify", begun.elapsed(), wrong.len());
    let begun = Instant::now();
    let loaded = measured.store.load()?;
    println!("{:<28} {:>8.1?}", "load", begun.elapsed());
    if loaded.books != measured.books {
        return Err("what was loaded is not what was written".into());
    }
    let location = measured.store.location();
    let next = 2 * orders;
    let next = measured.place_beside("nothing", next, accounts, || {
        std::thread::sleep(std::time::Duration::from_secs(5));
        Ok(())
    })?;
    let next = measured.place_beside("verify", next, accounts, || {
        Ok(location.verify(&mut |_| ControlFlow::Continue(())).map(drop)?)
    })?;
    let backup = dir.path().join("backup");
    measured.place_beside("back up", next, accounts, || {
        Ok(location.back_up(&backup, &mut |_| ControlFlow::Continue(())).map(drop)?)
    })?;
    println!("the backup has {} bytes", std::fs::metadata(&backup)?.len());
    let begun = Instant::now();
    let new = dir.path().join("new");
    std::fs::create_dir(&new)?;
    let restored = Location::file(&new.join("books.sqlite"));
    restored.restore(&backup, &new, &mut |_| ControlFlow::Continue(()))?;
    println!("{:<28} {:>8.1?}", "restore into a file", begun.elapsed());
    let begun = Instant::now();
    let (mut exporter, mut after, mut lines) = (location.exporter()?, Cursor::default(), 0);
    loop {
        let page = exporter.page(AccountId(1), after, 2_000)?;
        (lines, after) = (lines + page.lines.len(), page.next);
        if !page.more {
            break;
        }
    }
    println!("{:<28} {:>8.1?}  ({lines} lines)", "export one account", begun.elapsed());
    Ok(())
}

struct Measured {
    store: Box<dyn Store>,
    books: Books,
    batch: u64,
}

impl Measured {
    fn now(&self) -> Moment {
        let market = self.books.head().market;
        Moment { wall: WallTime(self.batch as i64 * 10 + 1), market }
    }

    fn commit(
        &mut self,
        what: &str,
        changes: Vec<Change>,
        rows: u64,
    ) -> Result<(), Box<dyn Error>> {
        self.batch += 1;
        let number = BatchNumber(self.batch);
        let batch = Batch { number, wall: WallTime(self.batch as i64 * 10), changes };
        let begun = Instant::now();
        self.store.commit(&batch)?;
        let took = begun.elapsed();
        let rate = rows as f64 / took.as_secs_f64();
        println!("{what:<28} {took:>8.1?}  {rows:>8} orders or accounts, {rate:>9.0}/s");
        Ok(())
    }

    fn prepare(&mut self, accounts: u32) -> Result<(), Box<dyn Error>> {
        let mut instruments = Vec::new();
        for id in 1..=INSTRUMENTS {
            let symbol = format!("SYM{id}").parse()?;
            let name = format!("Instrument {id}");
            instruments.push(InstrumentRow { id: InstrumentId(id), symbol, name, kind: 1 });
        }
        let mut changes = vec![Change::AddInstruments(instruments)];
        let grant = Cash::from_units(1_000_000).unwrap_or_default();
        for _ in 0..accounts {
            let id = self.books.open_account(grant)?;
            let moment = self.now();
            let profile = Profile {
                name: format!("trader-{id}").parse()?,
                email: format!("{id}@example.org").parse()?,
                pass_hash: None,
                password_due: false,
                since: moment.wall,
            };
            changes.push(Change::OpenAccount(NewAccount { id, profile, grant, moment }));
        }
        self.commit("open accounts", changes, u64::from(accounts))
    }

    fn place(&mut self, first: u64, orders: u64, accounts: u64) -> Result<(), Box<dyn Error>> {
        let end = first + orders;
        for from in (first..end).step_by(ORDERS_A_BATCH as usize) {
            let rows = ORDERS_A_BATCH.min(end - from);
            let changes = self.orders(from, rows, accounts)?;
            self.commit("place orders", changes, rows)?;
        }
        Ok(())
    }

    fn orders(
        &mut self,
        first: u64,
        orders: u64,
        accounts: u64,
    ) -> Result<Vec<Change>, Box<dyn Error>> {
        let rules = Rules { max_open_orders: u32::MAX, ..Rules::default() };
        let mut changes = Vec::new();
        for n in first..first + orders {
            let received = self.now();
            let quantity = Quantity::from_units(1 + (n % 7) as i64).unwrap_or_default();
            let request = OrderRequest {
                account: AccountId((n * 7_919 % accounts) as u32 + 1),
                client_order_id: format!("018f3a7c-0000-7000-8000-{n:012x}").parse()?,
                side: Side::Buy,
                instrument: InstrumentId((n % u64::from(INSTRUMENTS)) as u32 + 1),
                quantity,
            };
            let hold = self.books.judge(&request, &InFlight::default(), &rules)?;
            let head = self.books.head();
            let order = Order {
                id: OrderId(n + 1),
                request,
                asked: quantity,
                hold,
                received,
                seen: SnapshotNumber(head.snapshot),
                day: head.day,
                worker: WorkerId([7; 16]),
                worker_time: received.wall,
                worker_sequence: n,
            };
            self.books.accept(order.clone(), None)?;
            let state = OrderState::Queued(None);
            changes.push(Change::PlaceOrder(OrderRecord { order, state, decided: None }));
        }
        Ok(changes)
    }

    /// Places orders in small batches for as long as something goes on beside, and prints how long that
    /// took and the slowest commits.
    fn place_beside(
        &mut self,
        what: &str,
        mut next: u64,
        accounts: u64,
        work: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>> + Send,
    ) -> Result<u64, Box<dyn Error>> {
        let ended = AtomicBool::new(false);
        let mut commits = Vec::new();
        let took = std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                let begun = Instant::now();
                let worked = work();
                ended.store(true, Ordering::Relaxed);
                worked.map(|()| begun.elapsed())
            });
            // Some more, after which what was kept for it is caught up with.
            let mut after = 20;
            while after > 0 {
                after -= u32::from(ended.load(Ordering::Relaxed));
                let changes = self.orders(next, SMALL_BATCH, accounts)?;
                next += SMALL_BATCH;
                self.batch += 1;
                let (number, wall) = (BatchNumber(self.batch), WallTime(self.batch as i64 * 10));
                let begun = Instant::now();
                self.store.commit(&Batch { number, wall, changes })?;
                commits.push(begun.elapsed());
            }
            let worked = working.join().map_err(|_| "it panicked")?;
            worked.map_err(|error| -> Box<dyn Error> { error })
        })?;
        commits.sort_unstable();
        let slowest: Vec<_> = commits.iter().rev().take(3).collect();
        let middle = commits.get(commits.len() / 2);
        println!(
            "{:<28} {took:>8.1?}  beside it {} commits of {SMALL_BATCH} orders: {middle:.1?} the \
             middle one, {slowest:.1?} the slowest",
            what,
            commits.len()
        );
        Ok(next)
    }

    fn settle(&mut self, what: &str) -> Result<(), Box<dyn Error>> {
        let number = self.books.head().snapshot + 1;
        let time = MarketTime(number as i64 * 60 * SECOND);
        let mut prices = Vec::new();
        for id in 1..=INSTRUMENTS {
            let raw = 1_000_000_000 + i64::from(id) * 1_000_000 + number as i64;
            let price = Price::from_raw(raw).ok_or("a price that is none")?;
            let volume = Volume::ZERO;
            let bar =
                Bar { start: time, open: price, high: price, low: price, close: price, volume };
            let mark = Mark { price, time };
            prices.push(PricePoint { instrument: InstrumentId(id), mark, bar });
        }
        let snapshot = Snapshot {
            number: SnapshotNumber(number),
            time,
            market_open: true,
            ended: false,
            prices,
            splits: Vec::new(),
        };
        let settlement = settle(&self.books, &snapshot, self.now().wall, &Rules::default())?;
        self.books.apply(&settlement)?;
        let rows = settlement.decisions.len() as u64;
        self.commit(what, vec![Change::Settle { settlement, bars: Vec::new() }], rows)
    }
}
