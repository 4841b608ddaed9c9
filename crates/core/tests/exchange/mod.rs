//! A small master for tests: it judges, accepts, cancels and settles through the public API, and
//! keeps its own journal beside the books, in plain 128-bit sums that share no code with them.
//!
//! It does not decide anything itself. Its invariant: after every step [`Exchange::audit`] finds
//! that the books are sound and that the journal folds to exactly what the books say.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;

use papertrader_core::account::Account;
use papertrader_core::bar::Bar;
use papertrader_core::books::{Books, BrokenBooks, InFlight, Rules};
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber, WorkerId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, Price, Quantity, Volume};
use papertrader_core::order::{Fill, Order, OrderRefusal, OrderRequest, OrderState, Side};
use papertrader_core::settle::{Settlement, settle};
use papertrader_core::snapshot::{Mark, PricePoint, Snapshot, Split};
use papertrader_core::time::{MarketTime, Moment, SECOND, WallTime};

pub(crate) const MINUTE: i64 = 60 * SECOND;

pub(crate) fn cash(text: &str) -> Cash {
    text.parse().unwrap()
}

pub(crate) fn price(text: &str) -> Price {
    text.parse().unwrap()
}

pub(crate) fn quantity(text: &str) -> Quantity {
    text.parse().unwrap()
}

pub(crate) fn split(number: u64, instrument: InstrumentId, to: u32, from: u32) -> Split {
    Split { number, instrument, to, from }
}

/// Who owns something in the test's own ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Trader(AccountId),
    Market,
    Grants,
    Fractions,
}

/// What is owned: cash (`None`) or units of an instrument.
pub(crate) type Thing = Option<InstrumentId>;

/// What happened, in order: enough to rebuild every balance.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Journal(JournalEntry),
    Fill(AccountId, Side, InstrumentId, Fill),
}

/// The books with everything a master keeps beside them.
pub(crate) struct Exchange {
    pub(crate) books: Books,
    pub(crate) rules: Rules,
    pub(crate) events: Vec<Event>,
    /// Every accepted order as it was accepted.
    pub(crate) orders: BTreeMap<OrderId, Order>,
    /// The final state of every order that has one.
    pub(crate) decided: BTreeMap<OrderId, OrderState>,
    balances: BTreeMap<(Holder, Thing), i128>,
    costs: BTreeMap<(AccountId, InstrumentId), i128>,
    folded: usize,
    wall: i64,
    last_sequence: u64,
}

impl Exchange {
    pub(crate) fn new() -> Exchange {
        Exchange {
            books: Books::new(),
            rules: Rules::default(),
            events: Vec::new(),
            orders: BTreeMap::new(),
            decided: BTreeMap::new(),
            balances: BTreeMap::new(),
            costs: BTreeMap::new(),
            folded: 0,
            wall: 0,
            last_sequence: 0,
        }
    }

    pub(crate) fn open(&mut self, grant: Cash) -> AccountId {
        let account = self.books.open_account(grant).unwrap();
        self.events.push(Event::Journal(JournalEntry::Grant { account, cash: grant }));
        account
    }

    pub(crate) fn account(&self, id: AccountId) -> &Account {
        self.books.account(id).unwrap()
    }

    pub(crate) fn request(
        &self,
        account: AccountId,
        side: Side,
        instrument: InstrumentId,
        quantity: Quantity,
    ) -> OrderRequest {
        let name = format!("order-{}", self.last_sequence);
        let client_order_id = name.parse().unwrap();
        OrderRequest { account, client_order_id, side, instrument, quantity }
    }

    pub(crate) fn judge(&self, request: &OrderRequest) -> Result<Cash, OrderRefusal> {
        self.books.judge(request, &InFlight::default(), &self.rules)
    }

    /// Judges an order and accepts it if it is good, as one that came right now.
    pub(crate) fn submit(
        &mut self,
        account: AccountId,
        side: Side,
        instrument: InstrumentId,
        quantity: Quantity,
    ) -> Result<OrderId, OrderRefusal> {
        let request = self.request(account, side, instrument, quantity);
        let hold = self.judge(&request)?;
        self.wall += 1;
        Ok(self.accept(request, hold, self.wall, self.wall as u64))
    }

    pub(crate) fn buy(&mut self, account: AccountId, of: InstrumentId, text: &str) -> OrderId {
        self.submit(account, Side::Buy, of, quantity(text)).unwrap()
    }

    pub(crate) fn sell(&mut self, account: AccountId, of: InstrumentId, text: &str) -> OrderId {
        self.submit(account, Side::Sell, of, quantity(text)).unwrap()
    }

    /// Accepts an order that was judged, with the place in the queue given.
    pub(crate) fn accept(
        &mut self,
        request: OrderRequest,
        hold: Cash,
        worker_time: i64,
        worker_sequence: u64,
    ) -> OrderId {
        self.last_sequence += 1;
        let head = self.books.head();
        let order = Order {
            id: OrderId(self.last_sequence),
            asked: request.quantity,
            request,
            hold,
            received: Moment { wall: WallTime(self.wall), market: head.market },
            seen: head.number(),
            day: head.day,
            worker: WorkerId::default(),
            worker_time: WallTime(worker_time),
            worker_sequence,
        };
        let id = order.id;
        self.orders.insert(id, order.clone());
        self.books.accept(order, None).unwrap();
        id
    }

    pub(crate) fn cancel(&mut self, id: OrderId) -> bool {
        let cancelled = self.books.cancel(id).unwrap().is_some();
        if cancelled {
            assert_eq!(self.decided.insert(id, OrderState::Cancelled), None, "decided twice: {id}");
        }
        cancelled
    }

    /// The next snapshot: `after` nanoseconds of market time later, with prices made at that time.
    pub(crate) fn snapshot(&self, after: i64, prices: &[(InstrumentId, &str)]) -> Snapshot {
        let head = self.books.head();
        let time = head.market.plus_nanos(after);
        Snapshot {
            number: SnapshotNumber(head.snapshot + 1),
            time,
            market_open: true,
            ended: false,
            prices: prices.iter().map(|(id, text)| point(*id, price(text), time)).collect(),
            splits: Vec::new(),
        }
    }

    /// Settles the next snapshot one minute later, applies it and audits.
    pub(crate) fn tick(&mut self, prices: &[(InstrumentId, &str)]) -> Settlement {
        let snapshot = self.snapshot(MINUTE, prices);
        self.settle(&snapshot)
    }

    pub(crate) fn settle(&mut self, snapshot: &Snapshot) -> Settlement {
        let settlement = self.try_settle(snapshot).unwrap();
        self.apply(&settlement);
        settlement
    }

    pub(crate) fn try_settle(&self, snapshot: &Snapshot) -> Result<Settlement, BrokenBooks> {
        settle(&self.books, snapshot, WallTime(self.wall), &self.rules)
    }

    pub(crate) fn apply(&mut self, settlement: &Settlement) {
        self.events.extend(settlement.journal.iter().copied().map(Event::Journal));
        for decision in &settlement.decisions {
            let id = decision.order;
            assert_eq!(self.decided.insert(id, decision.state), None, "decided twice: {id}");
            if let OrderState::Filled(fill) = decision.state {
                let (account, side, of) = (decision.account, decision.side, decision.instrument);
                self.events.push(Event::Fill(account, side, of, fill));
            }
        }
        self.books.apply(settlement).unwrap();
        self.audit();
    }

    /// The state of an order now.
    pub(crate) fn state(&self, id: OrderId) -> OrderState {
        match self.decided.get(&id) {
            Some(state) => *state,
            None => OrderState::Queued(
                self.books.open_order(id).expect("neither open nor decided").waiting,
            ),
        }
    }

    pub(crate) fn fill(&self, id: OrderId) -> Fill {
        match self.state(id) {
            OrderState::Filled(fill) => fill,
            other => panic!("{id} is not filled but {other:?}"),
        }
    }

    /// Folds what is new in the journal and compares everything with the books.
    pub(crate) fn audit(&mut self) {
        self.books.check().unwrap();
        for event in self.events.split_off(self.folded) {
            self.fold(&event);
            self.events.push(event);
        }
        self.folded = self.events.len();

        let mut totals: BTreeMap<Thing, i128> = BTreeMap::new();
        for ((_, thing), amount) in &self.balances {
            *totals.entry(*thing).or_default() += amount;
        }
        assert!(
            totals.values().all(|total| *total == 0),
            "postings do not sum to zero: {totals:?}"
        );

        let mut expected = BTreeMap::new();
        let mut put = |holder, thing, amount: i128| {
            if amount != 0 {
                expected.insert((holder, thing), amount);
            }
        };
        for (id, account) in self.books.accounts() {
            put(Holder::Trader(id), None, i128::from(account.cash.cents()));
            for position in &account.positions {
                let (of, units) = (position.instrument, position.quantity.raw());
                put(Holder::Trader(id), Some(of), i128::from(units));
                let cost = self.costs.get(&(id, of)).copied().unwrap_or(0);
                assert_eq!(i128::from(position.cost.cents()), cost, "cost of {of} of account {id}");
            }
        }
        let named = self.books.named();
        put(Holder::Market, None, named.market);
        put(Holder::Grants, None, named.grants);
        put(Holder::Fractions, None, named.fractions);
        for (of, units) in &named.market_units {
            put(Holder::Market, Some(*of), *units);
        }
        self.balances.retain(|_, amount| *amount != 0);
        assert_eq!(self.balances, expected, "the journal does not fold to the books");
    }

    fn fold(&mut self, event: &Event) {
        match *event {
            Event::Journal(JournalEntry::Grant { account, cash }) => {
                let amount = i128::from(cash.cents());
                self.move_to(Holder::Grants, Holder::Trader(account), None, amount);
            }
            Event::Journal(JournalEntry::Split { account, instrument, quantity, cash, .. }) => {
                let (to, units) = (Holder::Trader(account), i128::from(quantity.raw()));
                self.move_to(Holder::Market, to, Some(instrument), units);
                self.move_to(Holder::Fractions, to, None, i128::from(cash.cents()));
                if self.balance(to, Some(instrument)) == 0 {
                    self.costs.remove(&(account, instrument));
                }
            }
            Event::Fill(account, side, of, fill) => {
                let trader = Holder::Trader(account);
                let (amount, units) = (i128::from(fill.amount.cents()), fill.quantity.raw().into());
                let basis = i128::from(fill.basis.cents());
                match side {
                    Side::Buy => {
                        assert_eq!(amount, basis, "a purchase costs what is paid");
                        self.move_to(trader, Holder::Market, None, amount);
                        self.move_to(Holder::Market, trader, Some(of), units);
                        *self.costs.entry((account, of)).or_default() += basis;
                    }
                    Side::Sell => {
                        self.move_to(Holder::Market, trader, None, amount);
                        self.move_to(trader, Holder::Market, Some(of), units);
                        let cost = self.costs.entry((account, of)).or_default();
                        *cost -= basis;
                        let cost = *cost;
                        assert!(cost >= 0, "more cost basis left than came");
                        if self.balance(trader, Some(of)) == 0 {
                            assert_eq!(cost, 0, "cost basis is left of nothing");
                        }
                    }
                }
                assert!(self.balance(trader, None) >= 0, "cash of {account} was negative");
                assert!(self.balance(trader, Some(of)) >= 0, "{account} sold what it lacked");
            }
        }
    }

    fn balance(&self, holder: Holder, thing: Thing) -> i128 {
        self.balances.get(&(holder, thing)).copied().unwrap_or(0)
    }

    fn move_to(&mut self, from: Holder, to: Holder, thing: Thing, amount: i128) {
        *self.balances.entry((from, thing)).or_default() -= amount;
        *self.balances.entry((to, thing)).or_default() += amount;
    }
}

/// A new price with a bar of that price alone.
pub(crate) fn point(instrument: InstrumentId, price: Price, time: MarketTime) -> PricePoint {
    let (open, high, low, close) = (price, price, price, price);
    let bar = Bar { start: time, open, high, low, close, volume: Volume::ZERO };
    PricePoint { instrument, mark: Mark { price, time }, bar }
}
