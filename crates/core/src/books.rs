//! The books: every account, every open order, the latest prices and the named accounts.
//!
//! [`Books`] are the master's memory of what the store holds. They change only through the
//! methods here, which the master calls after the commit that made the change durable; judging
//! ([`Books::judge`]) and settling ([`crate::settle::settle`]) only read them.
//!
//! What open orders hold is derived from the open orders, never stored.

use std::collections::hash_map::Entry;
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::account::{Account, Position};
use crate::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber};
use crate::ledger::{JournalEntry, NamedAccounts, Sums};
use crate::money::{Cash, MAX_CASH, MAX_QUANTITY, Quantity};
use crate::order::{Order, OrderRefusal, OrderRequest, Side, WaitReason};
use crate::settle::{Decision, Settlement};
use crate::snapshot::Mark;
use crate::time::MarketTime;

/// What the operator decides about trading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Open orders that one account may have.
    pub max_open_orders: u32,
    /// An order does not fill at a price older than this many nanoseconds of market time.
    pub max_price_age: i64,
    /// An open order expires after this many market days.
    pub expire_after_days: u32,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            max_open_orders: 1_000,
            max_price_age: 15 * 60 * crate::time::SECOND,
            expire_after_days: 5,
        }
    }
}

/// The snapshot that the books stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// Number of the last settled snapshot; 0 before the first.
    pub snapshot: u64,
    /// Its market time.
    pub market: MarketTime,
    /// Market days so far, counted from 1.
    pub day: u32,
    /// The number of the last corporate action applied.
    pub last_action: u64,
    /// The source has no later prices.
    pub ended: bool,
}

impl Head {
    /// The number of the last settled snapshot.
    pub fn number(&self) -> SnapshotNumber {
        SnapshotNumber(self.snapshot)
    }
}

/// An open order and why it still waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOrder {
    /// The order.
    pub order: Order,
    /// Why the last settlement could not fill it.
    pub waiting: Option<WaitReason>,
}

/// The books contradict themselves. The master must stop and write nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the books are broken: {what} (account {account:?}, order {order:?})")]
pub struct BrokenBooks {
    /// The invariant that does not hold.
    pub what: &'static str,
    /// The account concerned.
    pub account: Option<AccountId>,
    /// The order concerned.
    pub order: Option<OrderId>,
}

impl BrokenBooks {
    pub(crate) fn new(what: &'static str) -> BrokenBooks {
        BrokenBooks { what, account: None, order: None }
    }

    pub(crate) fn account(self, account: AccountId) -> BrokenBooks {
        BrokenBooks { account: Some(account), ..self }
    }

    pub(crate) fn order(self, order: OrderId) -> BrokenBooks {
        BrokenBooks { order: Some(order), ..self }
    }
}

/// What orders and cancellations that are being made durable do to the holds in the books. Those
/// judged together see each other through it. Below zero where more is cancelled than ordered.
#[derive(Debug, Default)]
pub struct InFlight {
    cash: FxHashMap<AccountId, Cash>,
    units: FxHashMap<(AccountId, InstrumentId), Quantity>,
    orders: FxHashMap<AccountId, i64>,
}

impl InFlight {
    /// Adds an order that was judged good, with what it holds.
    pub fn add(&mut self, request: &OrderRequest, hold: Cash) {
        *self.orders.entry(request.account).or_default() += 1;
        match request.side {
            Side::Buy => {
                let held = self.cash.entry(request.account).or_default();
                *held = held.plus(hold).unwrap_or(Cash::from_cents(i64::MAX));
            }
            Side::Sell => {
                let key = (request.account, request.instrument);
                let held = self.units.entry(key).or_default();
                *held = held.plus(request.quantity).unwrap_or(Quantity::from_raw(i64::MAX));
            }
        }
    }

    /// Takes back what an open order holds, in the books or here: it is being cancelled.
    pub fn release(&mut self, order: &Order) {
        let request = &order.request;
        change(&mut self.orders, request.account, |orders| orders - 1);
        // Where it would overflow less is given back than was held, which refuses too much.
        match request.side {
            Side::Buy => change(&mut self.cash, request.account, |held| {
                held.minus(order.hold).unwrap_or(held)
            }),
            Side::Sell => change(&mut self.units, (request.account, request.instrument), |held| {
                held.minus(request.quantity).unwrap_or(held)
            }),
        }
    }
}

/// Changes what a map has of a key; what is nothing then has no place in it.
fn change<K: Eq + std::hash::Hash, V: Copy + Default + PartialEq>(
    map: &mut FxHashMap<K, V>,
    key: K,
    change: impl FnOnce(V) -> V,
) {
    let mut place = match map.entry(key) {
        Entry::Occupied(place) => place,
        Entry::Vacant(place) => place.insert_entry(V::default()),
    };
    let value = change(*place.get());
    if value == V::default() {
        place.remove();
    } else {
        *place.get_mut() = value;
    }
}

/// Every account, open order and latest price.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    accounts: Vec<Account>,
    /// The open orders of each account, in the order of their keys.
    open: Vec<Vec<OpenOrder>>,
    /// Whose each open order is.
    by_id: FxHashMap<OrderId, AccountId>,
    marks: FxHashMap<InstrumentId, Mark>,
    named: NamedAccounts,
    head: Head,
}

impl Books {
    /// Empty books.
    pub fn new() -> Books {
        Books::default()
    }

    // Reading.

    /// Where the books stand.
    pub fn head(&self) -> Head {
        self.head
    }

    /// One account.
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get((id.0 as usize).checked_sub(1)?)
    }

    /// All accounts with their IDs.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        (1..).map(AccountId).zip(&self.accounts)
    }

    /// Some of the accounts, by their places among all, with their IDs.
    pub(crate) fn accounts_in(
        &self,
        places: Range<usize>,
    ) -> impl Iterator<Item = (AccountId, &Account)> {
        let first = places.start as u32 + 1;
        (first..).map(AccountId).zip(self.accounts.get(places).unwrap_or_default())
    }

    /// The ID that the next account gets.
    pub fn next_account(&self) -> AccountId {
        AccountId(self.accounts.len() as u32 + 1)
    }

    /// The latest price of an instrument.
    pub fn mark(&self, instrument: InstrumentId) -> Option<Mark> {
        self.marks.get(&instrument).copied()
    }

    /// How many orders are open.
    pub fn open_count(&self) -> usize {
        self.by_id.len()
    }

    /// The open orders, by account, and of each in the order in which a settlement takes them.
    pub fn open_orders(&self) -> impl Iterator<Item = &OpenOrder> {
        self.open.iter().flatten()
    }

    /// One open order.
    pub fn open_order(&self, id: OrderId) -> Option<&OpenOrder> {
        self.open_orders_of(*self.by_id.get(&id)?).iter().find(|open| open.order.id == id)
    }

    /// The open orders of one account, in the order in which a settlement takes them.
    pub fn open_orders_of(&self, account: AccountId) -> &[OpenOrder] {
        let index = (account.0 as usize).checked_sub(1);
        index.and_then(|index| self.open.get(index)).map_or(&[], Vec::as_slice)
    }

    /// The balances of the named accounts.
    pub fn named(&self) -> &NamedAccounts {
        &self.named
    }

    /// What an account is worth: its cash, and its positions at their latest prices, each rounded
    /// down to the cent; saturating at the largest amount.
    pub fn equity(&self, account: &Account) -> Cash {
        account.positions.iter().fold(account.cash, |sum, position| {
            sum.plus(self.value(position)).map_or(MAX_CASH, |sum| sum.min(MAX_CASH))
        })
    }

    /// What a position would bring at its latest price; zero without one.
    pub fn value(&self, position: &Position) -> Cash {
        let Some(mark) = self.mark(position.instrument) else { return Cash::ZERO };
        mark.price.proceeds_of(position.quantity).unwrap_or(MAX_CASH)
    }

    /// Judges an order as the books stand, counting what open orders and orders in flight hold.
    /// Returns what a buy must hold (zero for a sale) or the refusal that is first in precedence.
    pub fn judge(
        &self,
        request: &OrderRequest,
        in_flight: &InFlight,
        rules: &Rules,
    ) -> Result<Cash, OrderRefusal> {
        let account = self.account(request.account).ok_or(OrderRefusal::AccountDisabled)?;
        self.judge_of(account, request, in_flight, rules)
    }

    /// What an order holds that comes while `settlement` is being written, if it is good whatever
    /// becomes of that: in the books as they are, and as they are to be. `None` if it must wait for
    /// it: because that is not so, or because the settlement brings a split or the market's end,
    /// after which the order would mean something else.
    pub fn judge_beside(
        &self,
        settlement: &Settlement,
        request: &OrderRequest,
        in_flight: &InFlight,
        rules: &Rules,
    ) -> Option<Cash> {
        if settlement.head.last_action != self.head.last_action || settlement.head.ended {
            return None;
        }
        let hold = self.judge(request, in_flight, rules).ok()?;
        let changed = settlement.accounts.binary_search_by_key(&request.account, |it| it.id);
        if let Ok(place) = changed {
            let after = &settlement.accounts.get(place)?.after;
            self.judge_of(after, request, in_flight, rules).ok()?;
        }
        Some(hold)
    }

    /// Judges an order of an account that may be another than the one in the books.
    fn judge_of(
        &self,
        account: &Account,
        request: &OrderRequest,
        in_flight: &InFlight,
        rules: &Rules,
    ) -> Result<Cash, OrderRefusal> {
        if account.disabled {
            return Err(OrderRefusal::AccountDisabled);
        }
        if self.head.ended {
            return Err(OrderRefusal::MarketEnded);
        }
        let mark = self.mark(request.instrument).ok_or(OrderRefusal::NoPrice)?;
        let in_flight_orders = in_flight.orders.get(&request.account).copied().unwrap_or(0);
        if i64::from(account.open_orders) + in_flight_orders >= i64::from(rules.max_open_orders) {
            return Err(OrderRefusal::TooManyOpenOrders);
        }
        if request.quantity > MAX_QUANTITY {
            return Err(OrderRefusal::OrderTooLarge);
        }
        let value = mark.price.cost_of(request.quantity).ok_or(OrderRefusal::OrderTooLarge)?;
        let hold = match request.side {
            Side::Buy => {
                let hold = value
                    .with_hold_margin()
                    .filter(|hold| *hold <= MAX_CASH)
                    .ok_or(OrderRefusal::OrderTooLarge)?;
                let owned =
                    account.position(request.instrument).map_or(Quantity::ZERO, |p| p.quantity);
                owned
                    .plus(request.quantity)
                    .filter(|total| *total <= MAX_QUANTITY)
                    .ok_or(OrderRefusal::OrderTooLarge)?;
                let pending = in_flight.cash.get(&request.account).copied().unwrap_or_default();
                let free = account.free_cash().and_then(|free| free.minus(pending));
                match free {
                    Some(free) if free >= hold => hold,
                    _ => return Err(OrderRefusal::InsufficientCash),
                }
            }
            Side::Sell => {
                account
                    .cash
                    .plus(value)
                    .filter(|total| *total <= MAX_CASH)
                    .ok_or(OrderRefusal::OrderTooLarge)?;
                let key = (request.account, request.instrument);
                let pending = in_flight.units.get(&key).copied().unwrap_or_default();
                let free = account
                    .position(request.instrument)
                    .and_then(|p| p.quantity.minus(p.held)?.minus(pending));
                match free {
                    Some(free) if free >= request.quantity => Cash::ZERO,
                    _ => return Err(OrderRefusal::InsufficientShares),
                }
            }
        };
        // Requests are positive by contract; one that is not would buy money for nothing.
        if request.quantity <= Quantity::ZERO {
            return Err(OrderRefusal::NothingLeft);
        }
        Ok(hold)
    }

    // Changing: only after the change is durable.

    /// Adds the account that [`Books::next_account`] named, with its starting cash, from zero to
    /// [`MAX_CASH`].
    pub fn open_account(&mut self, grant: Cash) -> Result<AccountId, BrokenBooks> {
        let id = self.next_account();
        if grant.is_negative() || grant > MAX_CASH {
            return Err(BrokenBooks::new("a grant outside the accepted amounts").account(id));
        }
        let mut sums = Sums::default();
        sums.add(&JournalEntry::Grant { account: id, cash: grant }.postings());
        self.named.add(&sums);
        self.restore_account(Account { cash: grant, granted: grant, ..Account::default() });
        Ok(id)
    }

    /// Adds an accepted order and its holds.
    pub fn accept(&mut self, order: Order, waiting: Option<WaitReason>) -> Result<(), BrokenBooks> {
        let request = &order.request;
        let broken = |what| BrokenBooks::new(what).account(request.account).order(order.id);
        if self.by_id.contains_key(&order.id) {
            return Err(broken("the same order twice"));
        }
        let account = entry_mut(&mut self.accounts, request.account)
            .ok_or_else(|| broken("an order of an unknown account"))?;
        if order.hold.is_negative() || request.quantity.is_negative() {
            return Err(broken("an order with a negative hold or quantity"));
        }
        match request.side {
            Side::Buy => {
                account.held_cash = account
                    .held_cash
                    .plus(order.hold)
                    .filter(|held| *held <= account.cash)
                    .ok_or_else(|| broken("orders hold more cash than there is"))?;
            }
            Side::Sell => {
                let position = account
                    .position_mut(request.instrument)
                    .ok_or_else(|| broken("a sale of what is not owned"))?;
                position.held = position
                    .held
                    .plus(request.quantity)
                    .filter(|held| *held <= position.quantity)
                    .ok_or_else(|| broken("orders hold more shares than there are"))?;
            }
        }
        account.open_orders += 1;
        let (id, key) = (order.id, order.key());
        let owner = request.account;
        let open = entry_mut(&mut self.open, owner)
            .ok_or_else(|| BrokenBooks::new("an order of an unknown account").account(owner))?;
        if open.is_empty() {
            // Most have one only.
            open.reserve_exact(1);
        }
        let place = open.partition_point(|other| other.order.key() < key);
        open.insert(place, OpenOrder { order, waiting });
        self.by_id.insert(id, owner);
        Ok(())
    }

    /// Takes an open order out and releases what it holds. `None` if it is not open.
    pub fn cancel(&mut self, id: OrderId) -> Result<Option<Order>, BrokenBooks> {
        let Some(open) = self.remove_open(id) else { return Ok(None) };
        let request = &open.order.request;
        let broken = |what| BrokenBooks::new(what).account(request.account).order(id);
        let account = entry_mut(&mut self.accounts, request.account)
            .ok_or_else(|| broken("an order of an unknown account"))?;
        release(account, &open.order, request.quantity)?;
        Ok(Some(open.order))
    }

    /// Marks an account as disabled. Its open orders must have been cancelled first.
    pub fn disable(&mut self, id: AccountId) -> Result<(), BrokenBooks> {
        let broken = |what| BrokenBooks::new(what).account(id);
        let account = entry_mut(&mut self.accounts, id)
            .ok_or_else(|| broken("disabling an unknown account"))?;
        if account.open_orders != 0 {
            return Err(broken("disabling an account with open orders"));
        }
        account.disabled = true;
        Ok(())
    }

    /// Marks an account as no longer disabled.
    pub fn enable(&mut self, id: AccountId) -> Result<(), BrokenBooks> {
        let account = entry_mut(&mut self.accounts, id)
            .ok_or_else(|| BrokenBooks::new("enabling an unknown account").account(id))?;
        account.disabled = false;
        Ok(())
    }

    /// Takes a settlement over: the state after it, and the prices it used. Returns the orders that it
    /// decided, in the order of its decisions.
    pub fn apply(&mut self, settlement: &Settlement) -> Result<Vec<Order>, BrokenBooks> {
        let mut orders = Vec::with_capacity(settlement.decisions.len());
        for decided in settlement.decisions.chunk_by(|a, b| a.account == b.account) {
            self.remove_decided(decided, &mut orders)?;
        }
        if orders.len() == self.by_id.len() {
            // Mostly it decides all there are: then none is looked for.
            self.by_id.clear();
        } else {
            for order in &orders {
                self.by_id.remove(&order.id);
            }
        }
        for rescaled in &settlement.rescaled {
            let broken =
                || BrokenBooks::new("a split of an order that is not open").order(rescaled.order);
            let open = self.open_mut(rescaled.order).ok_or_else(broken)?;
            open.order.request.quantity = rescaled.quantity;
        }
        for waiting in &settlement.waiting {
            let broken =
                || BrokenBooks::new("an order waits that is not open").order(waiting.order);
            self.open_mut(waiting.order).ok_or_else(broken)?.waiting = waiting.reason;
        }
        for touched in &settlement.accounts {
            let account = entry_mut(&mut self.accounts, touched.id).ok_or_else(|| {
                BrokenBooks::new("a settlement of an unknown account").account(touched.id)
            })?;
            account.clone_from(&touched.after);
        }
        for (instrument, mark) in &settlement.marks {
            self.marks.insert(*instrument, *mark);
        }
        self.named.clone_from(&settlement.named);
        self.head = settlement.head;
        Ok(orders)
    }

    // Loading what the store holds.

    /// Adds the next account as it was stored, without holds: its open orders bring them.
    pub fn restore_account(&mut self, account: Account) -> AccountId {
        let id = self.next_account();
        self.accounts.push(account);
        self.open.push(Vec::new());
        id
    }

    /// Sets the latest price of an instrument.
    pub fn restore_mark(&mut self, instrument: InstrumentId, mark: Mark) {
        self.marks.insert(instrument, mark);
    }

    /// Sets where the books stand and what the named accounts hold.
    pub fn restore_head(&mut self, head: Head, named: NamedAccounts) {
        self.head = head;
        self.named = named;
    }

    /// Checks everything that can be checked without the journal: every account is sound, its open
    /// orders are counted and hold what it says they hold, and all balances sum to zero.
    pub fn check(&self) -> Result<(), BrokenBooks> {
        let mut cash = self.named.cash();
        let mut units: FxHashMap<InstrumentId, i128> = self.named.market_units.clone();
        let mut held_cash: FxHashMap<AccountId, i128> = FxHashMap::default();
        let mut held_units: FxHashMap<(AccountId, InstrumentId), i128> = FxHashMap::default();
        let mut orders: FxHashMap<AccountId, u32> = FxHashMap::default();
        for open in self.open_orders() {
            let request = &open.order.request;
            *orders.entry(request.account).or_default() += 1;
            *held_cash.entry(request.account).or_default() += i128::from(open.order.hold.cents());
            if request.side == Side::Sell {
                let key = (request.account, request.instrument);
                *held_units.entry(key).or_default() += i128::from(request.quantity.raw());
            }
        }
        for (id, account) in self.accounts() {
            let broken = |what| BrokenBooks::new(what).account(id);
            if !account.is_sound() {
                return Err(broken("an account is unsound"));
            }
            cash += i128::from(account.cash.cents());
            if i128::from(account.held_cash.cents()) != held_cash.remove(&id).unwrap_or(0) {
                return Err(broken("held cash is not what the open orders hold"));
            }
            if account.open_orders != orders.remove(&id).unwrap_or(0) {
                return Err(broken("the number of open orders is wrong"));
            }
            for position in &account.positions {
                *units.entry(position.instrument).or_default() +=
                    i128::from(position.quantity.raw());
                let held = held_units.remove(&(id, position.instrument)).unwrap_or(0);
                if i128::from(position.held.raw()) != held {
                    return Err(broken("held shares are not what the open orders hold"));
                }
            }
        }
        if !orders.is_empty() {
            return Err(BrokenBooks::new("an order of an unknown account"));
        }
        if held_units.values().any(|held| *held != 0) {
            return Err(BrokenBooks::new("an order holds shares that nobody owns"));
        }
        if cash != 0 {
            return Err(BrokenBooks::new("cash does not sum to zero"));
        }
        if units.values().any(|total| *total != 0) {
            return Err(BrokenBooks::new("shares do not sum to zero"));
        }
        Ok(())
    }

    fn open_mut(&mut self, id: OrderId) -> Option<&mut OpenOrder> {
        let open = entry_mut(&mut self.open, *self.by_id.get(&id)?)?;
        open.iter_mut().find(|open| open.order.id == id)
    }

    fn remove_open(&mut self, id: OrderId) -> Option<OpenOrder> {
        let open = entry_mut(&mut self.open, self.by_id.remove(&id)?)?;
        let place = open.iter().position(|open| open.order.id == id)?;
        let removed = open.remove(place);
        if open.is_empty() {
            *open = Vec::new();
        }
        Some(removed)
    }

    /// Takes the decided orders of one account out: they are in the order of its open ones.
    fn remove_decided(
        &mut self,
        decided: &[Decision],
        orders: &mut Vec<Order>,
    ) -> Result<(), BrokenBooks> {
        let mut left = decided.iter();
        let mut next = left.next();
        if let Some(open) = next.and_then(|first| entry_mut(&mut self.open, first.account)) {
            let is_decided = |open: &mut OpenOrder| {
                let is_decided = next.is_some_and(|next| next.order == open.order.id);
                if is_decided {
                    next = left.next();
                }
                is_decided
            };
            orders.extend(open.extract_if(.., is_decided).map(|open| open.order));
            if open.is_empty() {
                *open = Vec::new();
            }
        }
        if let Some(unknown) = next {
            let what = "a decision on an order that is not open, or not in its turn";
            return Err(BrokenBooks::new(what).order(unknown.order));
        }
        Ok(())
    }
}

/// What a list by account has of one.
fn entry_mut<T>(list: &mut [T], id: AccountId) -> Option<&mut T> {
    list.get_mut((id.0 as usize).checked_sub(1)?)
}

/// Gives back what an open order holds, of which `quantity` is asked now.
pub(crate) fn release(
    account: &mut Account,
    order: &Order,
    quantity: Quantity,
) -> Result<(), BrokenBooks> {
    let request = &order.request;
    let broken = || {
        BrokenBooks::new("an order held what was not held").account(request.account).order(order.id)
    };
    match request.side {
        Side::Buy => {
            let held = account.held_cash.minus(order.hold).filter(|held| !held.is_negative());
            account.held_cash = held.ok_or_else(broken)?;
        }
        Side::Sell => {
            let position = account.position_mut(request.instrument).ok_or_else(broken)?;
            let held = position.held.minus(quantity).filter(|held| !held.is_negative());
            position.held = held.ok_or_else(broken)?;
        }
    }
    account.open_orders = account.open_orders.checked_sub(1).ok_or_else(broken)?;
    Ok(())
}
