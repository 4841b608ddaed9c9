//! A market for the benchmarks: accounts that own something, orders from a seed, prices. It brings
//! them through the real books and the real settlement, into any store.
//!
//! Invariant: the same seed makes the same orders, whatever the store.

use std::time::{Duration, Instant};

use papertrader_core::bar::Bar;
use papertrader_core::books::{Books, InFlight, Rules};
use papertrader_core::ids::{
    AccountId, BatchNumber, InstrumentId, OrderId, SnapshotNumber, WorkerId,
};
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::names::{ClientOrderId, Symbol};
use papertrader_core::order::{Order, OrderRecord, OrderRequest, OrderState, Side};
use papertrader_core::settle::{Settlement, settle};
use papertrader_core::snapshot::{Mark, PricePoint, Snapshot};
use papertrader_core::time::{MarketTime, Moment, SECOND, WallTime};
use papertrader_market::PriceSource;
use papertrader_store::{Batch, Change, InstrumentRow, NewAccount, Profile, Store};

use super::{BenchError, wrong};

/// Changes that one batch of the preparation holds.
const CHUNK: usize = 10_000;
/// Instruments that an account trades: a person does not trade all there are.
pub(super) const OWNED: u64 = 5;
/// When the benchmark's world begins.
const START: i64 = 1_700_000_000 * SECOND;

/// How client order IDs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ids {
    /// As the SDK makes them: they ascend with time
    Uuid,
    /// 36 characters in no order
    Random,
}

/// One of the instruments that an account trades, which are not those of its neighbours.
pub(super) fn owned_by(account: AccountId, nth: u64, symbols: u32) -> InstrumentId {
    let n = u64::from(account.0) * 7 + nth * 101;
    InstrumentId((n % u64::from(symbols)) as u32 + 1)
}

/// What it is made of.
#[derive(Debug, Clone)]
pub(super) struct Size {
    pub(super) accounts: u32,
    pub(super) symbols: u32,
    pub(super) ids: Ids,
    pub(super) seed: u64,
}

/// The market, with the books that mirror what the store holds.
pub(super) struct Market {
    size: Size,
    /// Of the instruments from 1 on.
    symbols: Vec<Symbol>,
    start: MarketTime,
    pub(super) books: Books,
    rules: Rules,
    batch: u64,
    wall: i64,
    next_order: u64,
    random: u64,
}

/// What one settlement took.
pub(super) struct Settled {
    /// Judging all orders and taking the result over.
    pub(super) engine: Duration,
    /// Writing it.
    pub(super) store: Duration,
    pub(super) filled: u64,
}

impl Market {
    pub(super) fn new(size: Size) -> Result<Market, BenchError> {
        let symbols = (1..=size.symbols).map(|id| format!("S{id}").parse().map_err(wrong));
        let symbols = symbols.collect::<Result<_, _>>()?;
        Ok(Market::with(size, symbols, MarketTime(START)))
    }

    /// With the instruments of a price source, from its first time on.
    pub(super) fn of(size: Size, source: &dyn PriceSource) -> Market {
        let symbols = source.instruments().iter().map(|spec| spec.symbol).collect();
        Market::with(size, symbols, source.start())
    }

    fn with(size: Size, symbols: Vec<Symbol>, start: MarketTime) -> Market {
        let random = size.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let rules = Rules { max_open_orders: u32::MAX, ..Rules::default() };
        let books = Books::new();
        Market { size, symbols, start, books, rules, batch: 0, wall: START, next_order: 1, random }
    }

    /// Instruments, accounts with cash, and five positions for each.
    pub(super) fn prepare(
        &mut self,
        store: &mut dyn Store,
        mut progress: impl FnMut(u64),
    ) -> Result<(), BenchError> {
        let mut instruments = Vec::new();
        for (id, symbol) in (1..).zip(self.symbols.iter().copied()) {
            let name = format!("Instrument {id}");
            instruments.push(InstrumentRow { id: InstrumentId(id), symbol, name, kind: 1 });
        }
        self.commit(store, vec![Change::AddInstruments(instruments)])?;
        let grant = Cash::from_units(1_000_000).unwrap_or_default();
        let mut changes = Vec::new();
        for n in 0..self.size.accounts {
            let id = self.books.open_account(grant)?;
            let moment = self.moment();
            let profile = Profile {
                name: format!("trader-{id}").parse().map_err(wrong)?,
                email: format!("{id}@example.org").parse().map_err(wrong)?,
                pass_hash: None,
                password_due: false,
                since: moment.wall,
            };
            changes.push(Change::OpenAccount(NewAccount { id, profile, grant, moment }));
            if changes.len() == CHUNK || n + 1 == self.size.accounts {
                let opened = changes.len() as u64;
                self.commit(store, std::mem::take(&mut changes))?;
                progress(opened);
            }
        }
        self.settle(store, &mut |_, _| Ok(()))?;
        for owned in 0..OWNED {
            let accounts = 1..=self.size.accounts;
            let chunks: Vec<AccountId> = accounts.map(AccountId).collect();
            for chunk in chunks.chunks(CHUNK) {
                let mut changes = Vec::new();
                for account in chunk {
                    let instrument = owned_by(*account, owned, self.size.symbols);
                    changes.push(self.order(*account, Side::Buy, instrument, 100)?);
                }
                self.commit(store, changes)?;
                progress(chunk.len() as u64);
            }
            self.settle(store, &mut |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Makes `orders` orders durable, in batches of 10,000.
    pub(super) fn place(&mut self, store: &mut dyn Store, orders: u64) -> Result<(), BenchError> {
        let mut left = orders;
        while left > 0 {
            let mut changes = Vec::new();
            for _ in 0..left.min(CHUNK as u64) {
                let random = self.next_random();
                let account = AccountId((random % u64::from(self.size.accounts)) as u32 + 1);
                let instrument = owned_by(account, (random >> 40) % OWNED, self.size.symbols);
                let owned = self.books.account(account).and_then(|a| a.position(instrument));
                let can_sell = owned.is_some_and(|p| {
                    let most = Quantity::from_units(10).unwrap_or_default();
                    p.quantity.minus(p.held).is_some_and(|free| free > most)
                });
                let side = if (random >> 32).is_multiple_of(3) && can_sell {
                    Side::Sell
                } else {
                    Side::Buy
                };
                changes.push(self.order(
                    account,
                    side,
                    instrument,
                    1 + (random >> 50) as i64 % 10,
                )?);
            }
            left -= changes.len() as u64;
            self.commit(store, changes)?;
        }
        Ok(())
    }

    /// Settles all open orders. `also` sees the settlement and its batch after they were written.
    pub(super) fn settle(
        &mut self,
        store: &mut dyn Store,
        also: &mut dyn FnMut(&Settlement, &Batch) -> Result<(), BenchError>,
    ) -> Result<Settled, BenchError> {
        let number = self.books.head().snapshot + 1;
        let time = MarketTime(self.start.0 + number as i64 * 60 * SECOND);
        let mut prices = Vec::new();
        for id in 1..=self.size.symbols {
            let raw = 1_000_000_000 + i64::from(id) * 10_000_000 + (number as i64 % 100) * 100_000;
            let price = Price::from_raw(raw).ok_or_else(|| wrong("a price that is none"))?;
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
        let now = self.moment().wall;
        let begun = Instant::now();
        let settlement = settle(&self.books, &snapshot, now, &self.rules)?;
        let judged = begun.elapsed();
        let filled = settlement.decisions.len() as u64;
        let batch =
            self.batch_of(vec![Change::Settle { settlement: settlement.into(), bars: Vec::new() }]);
        let Some(Change::Settle { settlement, .. }) = batch.changes.first() else {
            return Err(wrong("a settlement that is none"));
        };
        let begun = Instant::now();
        store.commit(&batch)?;
        let written = begun.elapsed();
        let begun = Instant::now();
        self.books.apply(settlement)?;
        let engine = judged + begun.elapsed();
        also(settlement, &batch)?;
        Ok(Settled { engine, store: written, filled })
    }

    fn order(
        &mut self,
        account: AccountId,
        side: Side,
        instrument: InstrumentId,
        units: i64,
    ) -> Result<Change, BenchError> {
        let quantity = Quantity::from_units(units).unwrap_or_default();
        let client_order_id = self.client_order_id()?;
        let request = OrderRequest { account, client_order_id, side, instrument, quantity };
        let hold = self
            .books
            .judge(&request, &InFlight::default(), &self.rules)
            .map_err(|refusal| wrong(format!("an order was refused: {refusal}")))?;
        let (head, received) = (self.books.head(), self.moment());
        let order = Order {
            id: OrderId(self.next_order),
            request,
            asked: quantity,
            hold,
            received,
            seen: head.number(),
            day: head.day,
            worker: WorkerId([7; 16]),
            worker_time: received.wall,
            worker_sequence: received.wall.0 as u64,
        };
        self.next_order += 1;
        self.books.accept(order.clone(), None)?;
        Ok(Change::PlaceOrder(OrderRecord {
            order,
            state: OrderState::Queued(None),
            decided: None,
        }))
    }

    fn client_order_id(&mut self) -> Result<ClientOrderId, BenchError> {
        let (random, order) = (self.next_random(), self.next_order);
        let text = match self.size.ids {
            // The time in milliseconds, at 100 orders a millisecond, then what makes it unique.
            Ids::Uuid => {
                let time = START as u64 / 1_000_000 + order / 100;
                let (high, low) = (time >> 16, time & 0xffff);
                let (a, b) = (random & 0xfff, (random >> 12) & 0xfff);
                format!("{high:08x}-{low:04x}-7{a:03x}-8{b:03x}-{:012x}", random >> 16)
            }
            Ids::Random => {
                format!("{random:016x}{:016x}{:04x}", self.next_random(), order & 0xffff)
            }
        };
        text.parse().map_err(wrong)
    }

    fn moment(&mut self) -> Moment {
        self.wall += 1_000;
        Moment { wall: WallTime(self.wall), market: self.books.head().market }
    }

    fn batch_of(&mut self, changes: Vec<Change>) -> Batch {
        self.batch += 1;
        Batch { number: BatchNumber(self.batch), wall: self.moment().wall, changes }
    }

    fn commit(&mut self, store: &mut dyn Store, changes: Vec<Change>) -> Result<(), BenchError> {
        let batch = self.batch_of(changes);
        Ok(store.commit(&batch)?)
    }

    /// SplitMix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
