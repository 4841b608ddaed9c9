//! Settlement: what one snapshot of prices does to the books. Pure and deterministic.
//!
//! First the splits that the snapshot brings are applied, then every open order is decided, in
//! the order of [`crate::order::QueueKey`], or kept with a reason. Nothing is changed here: the
//! result says what the books and the store are to become, and is checked against its own
//! postings before it is returned.
//!
//! An order may only fill at a snapshot later than the one it had seen, and at a price of that
//! snapshot made after the master received it: nobody trades at a price that was already known. A
//! price dated later than the snapshot's own time is not taken at all: it would be shown before
//! its time and then fill orders made in that knowledge.
//!
//! What a split would bring above the largest quantity or balance is paid in cash as far as the
//! largest balance allows, and lost beyond it.

use std::collections::hash_map::Entry;

use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::account::{Account, Position};
use crate::books::{Books, BrokenBooks, Head, Rules, release};
use crate::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber};
use crate::ledger::{Asset, JournalEntry, LedgerAccount, NamedAccounts, Sums, fill_postings};
use crate::money::{Cash, MAX_CASH, MAX_PRICE, MAX_QUANTITY, Price, Quantity};
use crate::order::{Fill, Order, OrderRefusal, OrderState, Side, WaitReason};
use crate::snapshot::{Mark, Snapshot, Split};
use crate::time::{Moment, WallTime};

/// price (10⁻⁸) × quantity (10⁻⁸) is in 10⁻¹⁶; a cent is 10¹⁴ of those.
const CENT_IN_PRODUCT: i128 = 100_000_000_000_000;

/// The outcome of an interval: all of it is written in one SQL transaction, then applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Where the books stand afterwards.
    pub head: Head,
    /// When it was settled, and the snapshot's market time.
    pub moment: Moment,
    /// Orders that got a final state, in the order in which they were taken.
    pub decisions: Vec<Decision>,
    /// Open orders whose reason to wait changed.
    pub waiting: Vec<Waiting>,
    /// Open orders whose quantity a split changed.
    pub rescaled: Vec<Rescaled>,
    /// Splits of holders' positions.
    pub journal: Vec<JournalEntry>,
    /// Every account that changed, by ID.
    pub accounts: Vec<AccountChange>,
    /// New prices.
    pub marks: Vec<(InstrumentId, Mark)>,
    /// The named accounts afterwards.
    pub named: NamedAccounts,
}

/// The final state of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Which order.
    pub order: OrderId,
    /// Whose.
    pub account: AccountId,
    /// Buy or sell.
    pub side: Side,
    /// Of what.
    pub instrument: InstrumentId,
    /// [`OrderState::Filled`], [`OrderState::Rejected`] or [`OrderState::Expired`].
    pub state: OrderState,
}

/// Why an order now waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Which order.
    pub order: OrderId,
    /// Why.
    pub reason: Option<WaitReason>,
}

/// The quantity of an open order after a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rescaled {
    /// Which order.
    pub order: OrderId,
    /// Its quantity now.
    pub quantity: Quantity,
}

/// An account after the settlement, and which of its positions changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// Which account.
    pub id: AccountId,
    /// The account afterwards.
    pub after: Account,
    /// Instruments whose position changed in quantity or cost; absent in `after` means gone.
    pub positions: Vec<InstrumentId>,
}

/// Decides every open order at the snapshot's prices.
pub fn settle(
    books: &Books,
    snapshot: &Snapshot,
    now: WallTime,
    rules: &Rules,
) -> Result<Settlement, BrokenBooks> {
    let before = books.head();
    if snapshot.number.0 <= before.snapshot || snapshot.time < before.market {
        return Err(BrokenBooks::new("a snapshot that is not later than the one before"));
    }
    let new_day = before.day == 0 || snapshot.time.day_number() != before.market.day_number();
    let open = books.open_count();
    let mut settling = Settling {
        books,
        touched: FxHashMap::with_capacity_and_hasher(open, FxBuildHasher),
        sums: Sums::with_room(open),
        journal: Vec::new(),
        quantities: FxHashMap::default(),
        prices: snapshot
            .prices
            .iter()
            .filter(|point| point.mark.time <= snapshot.time)
            .map(|point| (point.instrument, point.mark))
            .collect(),
        scaled: FxHashMap::default(),
        head: Head {
            snapshot: snapshot.number.0,
            market: snapshot.time,
            day: before.day + u32::from(new_day),
            last_action: before.last_action,
            ended: snapshot.ended,
        },
    };
    // By number, or one that is listed late would be taken for one that was applied before.
    let mut splits: Vec<&Split> =
        snapshot.splits.iter().filter(|split| split.number > before.last_action).collect();
    splits.sort_by_key(|split| split.number);
    splits.dedup_by_key(|split| split.number);
    if splits.iter().any(|split| split.to == 0 || split.from == 0) {
        return Err(BrokenBooks::new("a split by zero"));
    }
    for (index, split) in splits.iter().enumerate() {
        settling.split(split, &splits[index + 1..])?;
        settling.head.last_action = split.number;
    }

    let mut decisions = Vec::with_capacity(open);
    let mut waiting = Vec::new();
    for open in books.open_orders() {
        let order = &open.order;
        let quantity = match settling.quantities.is_empty() {
            true => order.request.quantity,
            false => settling.quantities.get(&order.id).copied().unwrap_or(order.request.quantity),
        };
        match settling.decide(order, quantity, snapshot, rules)? {
            OrderState::Queued(reason) => {
                if reason != open.waiting {
                    waiting.push(Waiting { order: order.id, reason });
                }
            }
            state => {
                settling.quantities.remove(&order.id);
                let request = &order.request;
                let (account, side, instrument) =
                    (request.account, request.side, request.instrument);
                decisions.push(Decision { order: order.id, account, side, instrument, state });
            }
        }
    }
    settling.finish(decisions, waiting, now)
}

struct Settling<'a> {
    books: &'a Books,
    /// Copies of the accounts that change.
    touched: FxHashMap<AccountId, Account>,
    /// Everything posted so far.
    sums: Sums,
    journal: Vec<JournalEntry>,
    /// Quantities of open orders that a split changed.
    quantities: FxHashMap<OrderId, Quantity>,
    /// This snapshot's prices: the only ones that fill orders.
    prices: FxHashMap<InstrumentId, Mark>,
    /// Earlier prices that a split scaled: they value, but fill nothing.
    scaled: FxHashMap<InstrumentId, Mark>,
    head: Head,
}

impl Settling<'_> {
    fn account(&mut self, id: AccountId) -> Result<&mut Account, BrokenBooks> {
        match self.touched.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let account = self.books.account(id).ok_or_else(|| {
                    BrokenBooks::new("an order of an unknown account").account(id)
                })?;
                Ok(entry.insert(account.clone()))
            }
        }
    }

    /// Scales every holder's shares and every open order of the instrument. `later` are the splits
    /// that follow in the same snapshot.
    fn split(&mut self, split: &Split, later: &[&Split]) -> Result<(), BrokenBooks> {
        let price = self.price_after(split, later);
        let holders: Vec<AccountId> = self
            .books
            .accounts()
            .filter(|(_, account)| account.position(split.instrument).is_some())
            .map(|(id, _)| id)
            .collect();
        for id in holders {
            self.split_position(id, split, price)?;
        }
        // What the sales scaled so far hold, per holder.
        let mut scaled_holds: FxHashMap<AccountId, Quantity> = FxHashMap::default();
        for open in self.books.open_orders() {
            let order = &open.order;
            if order.request.instrument != split.instrument {
                continue;
            }
            let old = self.quantities.get(&order.id).copied().unwrap_or(order.request.quantity);
            let (mut new, _) = scale(old, split);
            if order.request.side == Side::Sell {
                let id = order.request.account;
                let broken = || BrokenBooks::new("a sale holds what is not owned").account(id);
                let position =
                    self.account(id)?.position_mut(split.instrument).ok_or_else(broken)?;
                // A position that reached the largest quantity grew less than its sales would.
                let sold = scaled_holds.entry(id).or_default();
                new = position.quantity.minus(*sold).ok_or_else(broken)?.min(new);
                *sold = sold.plus(new).ok_or_else(broken)?;
                let held = position.held.minus(old).and_then(|held| held.plus(new));
                position.held = held.ok_or_else(broken)?;
            }
            self.quantities.insert(order.id, new);
        }
        Ok(())
    }

    /// The price right after a split, in 10⁻⁸, at which fractions are paid: this snapshot's, which
    /// was made after all of the snapshot's splits, or else the last one, scaled and kept as the
    /// mark. Rounded down, to zero if need be; `None` if there is no price at all.
    fn price_after(&mut self, split: &Split, later: &[&Split]) -> Option<i128> {
        let instrument = split.instrument;
        if let Some(mark) = self.prices.get(&instrument) {
            let undone = later.iter().filter(|other| other.instrument == instrument);
            return Some(undone.rev().fold(i128::from(mark.price.raw()), |raw, other| {
                raw.saturating_mul(i128::from(other.to)) / i128::from(other.from)
            }));
        }
        let old = self.scaled.get(&instrument).copied().or_else(|| self.books.mark(instrument))?;
        let raw = i128::from(old.price.raw()) * i128::from(split.from) / i128::from(split.to);
        // Prices have a smallest and a largest: the mark stays within them.
        let bounded = raw.clamp(1, i128::from(MAX_PRICE.raw()));
        let price = Price::from_raw(i64::try_from(bounded).ok()?)?;
        self.scaled.insert(instrument, Mark { price, time: old.time });
        Some(raw)
    }

    fn split_position(
        &mut self,
        id: AccountId,
        split: &Split,
        price: Option<i128>,
    ) -> Result<(), BrokenBooks> {
        let broken = || BrokenBooks::new("a split that cannot be booked").account(id);
        let account = self.account(id)?;
        let Some(position) = account.position_mut(split.instrument) else { return Ok(()) };
        let old = position.quantity;
        let (new, rest) = scale(old, split);
        position.quantity = new;
        if new.is_zero() {
            // Nothing is left that could have cost something.
            position.cost = Cash::ZERO;
        }
        let value = value_of_rest(rest, i128::from(split.from), price.unwrap_or(0));
        let room = MAX_CASH.minus(account.cash).unwrap_or(Cash::ZERO).max(Cash::ZERO);
        let cents = (value / CENT_IN_PRODUCT).min(i128::from(room.cents()));
        let cash = Cash::from_cents(i64::try_from(cents).map_err(|_| broken())?);
        account.cash = account.cash.plus(cash).ok_or_else(broken)?;
        let quantity = new.minus(old).ok_or_else(broken)?;
        let (instrument, action) = (split.instrument, split.number);
        let entry = JournalEntry::Split { account: id, instrument, action, quantity, cash };
        self.sums.add(&entry.postings());
        self.journal.push(entry);
        Ok(())
    }

    /// Decides an order, of which `quantity` is asked now.
    fn decide(
        &mut self,
        order: &Order,
        quantity: Quantity,
        snapshot: &Snapshot,
        rules: &Rules,
    ) -> Result<OrderState, BrokenBooks> {
        if quantity.is_zero() {
            release(self.account(order.request.account)?, order, quantity)?;
            return Ok(OrderState::Rejected(OrderRefusal::NothingLeft));
        }
        let fresh = |mark: &Mark| {
            mark.time > order.received.market
                && snapshot.time.0.saturating_sub(mark.time.0) <= rules.max_price_age
        };
        let mark = self.prices.get(&order.request.instrument).copied().filter(fresh);
        match mark {
            Some(mark) if snapshot.market_open && snapshot.number > order.seen => {
                self.fill(order, quantity, mark.price, snapshot.number)
            }
            _ => {
                let age = self.head.day.saturating_sub(order.day);
                if snapshot.ended || age >= rules.expire_after_days {
                    release(self.account(order.request.account)?, order, quantity)?;
                    return Ok(OrderState::Expired);
                }
                let closed = !snapshot.market_open;
                let reason = if closed { WaitReason::MarketClosed } else { WaitReason::PriceStale };
                Ok(OrderState::Queued(Some(reason)))
            }
        }
    }

    fn fill(
        &mut self,
        order: &Order,
        quantity: Quantity,
        price: Price,
        snapshot: SnapshotNumber,
    ) -> Result<OrderState, BrokenBooks> {
        let request = &order.request;
        let broken = |what| BrokenBooks::new(what).account(request.account).order(order.id);
        let account = self.account(request.account)?;
        release(account, order, quantity)?;
        let (amount, basis) = match request.side {
            Side::Buy => {
                let Some(cost) = price.cost_of(quantity) else {
                    return Ok(OrderState::Rejected(OrderRefusal::OrderTooLarge));
                };
                let owned = account.position(request.instrument);
                let (owned, basis) =
                    owned.map_or((Quantity::ZERO, Cash::ZERO), |p| (p.quantity, p.cost));
                let total = owned.plus(quantity).filter(|total| *total <= MAX_QUANTITY);
                let (Some(total), Some(basis)) = (total, basis.plus(cost)) else {
                    return Ok(OrderState::Rejected(OrderRefusal::OrderTooLarge));
                };
                // The hold is released: it and the cash that no other order holds may pay.
                let free = account.free_cash().ok_or_else(|| broken("cash overflows"))?;
                if cost > free {
                    return Ok(OrderState::Rejected(OrderRefusal::InsufficientCash));
                }
                account.cash = account.cash.minus(cost).ok_or_else(|| broken("cash overflows"))?;
                let position = account.position_or_new(request.instrument);
                position.quantity = total;
                position.cost = basis;
                (cost, cost)
            }
            Side::Sell => {
                let proceeds = price.proceeds_of(quantity);
                let cash = proceeds.and_then(|proceeds| account.cash.plus(proceeds));
                let cash = cash.filter(|cash| *cash <= MAX_CASH);
                let (Some(proceeds), Some(cash)) = (proceeds, cash) else {
                    return Ok(OrderState::Rejected(OrderRefusal::OrderTooLarge));
                };
                let position = account
                    .position_mut(request.instrument)
                    .ok_or_else(|| broken("a sale of what is not owned"))?;
                let basis = position
                    .cost
                    .share(quantity, position.quantity)
                    .ok_or_else(|| broken("a cost basis that cannot be divided"))?;
                position.quantity = position
                    .quantity
                    .minus(quantity)
                    .filter(|left| !left.is_negative() && *left >= position.held)
                    .ok_or_else(|| broken("a sale of more than is owned"))?;
                position.cost =
                    position.cost.minus(basis).ok_or_else(|| broken("a negative cost basis"))?;
                account.cash = cash;
                // An empty position stays until the end: an order of which a split left nothing
                // may still have to be released from it.
                (proceeds, basis)
            }
        };
        let fill = Fill { quantity, price, amount, basis, snapshot };
        let postings = fill_postings(request.account, request.side, request.instrument, &fill);
        self.sums.add(&postings);
        Ok(OrderState::Filled(fill))
    }

    /// Checks the result against its own postings and puts it together.
    fn finish(
        mut self,
        decisions: Vec<Decision>,
        waiting: Vec<Waiting>,
        now: WallTime,
    ) -> Result<Settlement, BrokenBooks> {
        if !self.sums.balance() {
            return Err(BrokenBooks::new("the postings of a settlement do not sum to zero"));
        }
        let mut named = self.books.named().clone();
        named.add(&self.sums);

        let mut accounts = Vec::with_capacity(self.touched.len());
        for (id, mut after) in self.touched.drain() {
            after.drop_empty_positions();
            let broken = |what| BrokenBooks::new(what).account(id);
            let before =
                self.books.account(id).ok_or_else(|| broken("an unknown account changed"))?;
            if !after.is_sound() {
                return Err(broken("a settlement leaves an account unsound"));
            }
            let trader = LedgerAccount::Trader(id);
            let posted = self.sums.of(trader, Asset::Cash);
            let moved = i128::from(after.cash.cents()) - i128::from(before.cash.cents());
            if posted != moved {
                return Err(broken("cash changed without a posting"));
            }
            let positions = changed_positions(before, &after);
            for instrument in &positions {
                let units = |account: &Account| {
                    i128::from(account.position(*instrument).map_or(0, |p| p.quantity.raw()))
                };
                let posted = self.sums.of(trader, Asset::Instrument(*instrument));
                if posted != units(&after) - units(before) {
                    return Err(broken("shares changed without a posting"));
                }
            }
            accounts.push(AccountChange { id, after, positions });
        }
        accounts.sort_unstable_by_key(|change| change.id);
        for (account, asset, _) in self.sums.iter() {
            let LedgerAccount::Trader(id) = account else { continue };
            let change = accounts.binary_search_by_key(&id, |change| change.id);
            let known = change.is_ok_and(|index| match asset {
                Asset::Cash => true,
                Asset::Instrument(instrument) => accounts[index].positions.contains(&instrument),
            });
            if !known {
                return Err(BrokenBooks::new("a posting that changed nothing").account(id));
            }
        }
        let mut rescaled: Vec<Rescaled> = self
            .quantities
            .into_iter()
            .map(|(order, quantity)| Rescaled { order, quantity })
            .collect();
        rescaled.sort_unstable_by_key(|r| r.order);
        // A scaled price and a new one of the same instrument never meet.
        let mut marks: Vec<_> = self.prices.into_iter().chain(self.scaled).collect();
        marks.sort_unstable_by_key(|(instrument, _)| *instrument);
        Ok(Settlement {
            head: self.head,
            moment: Moment { wall: now, market: self.head.market },
            decisions,
            waiting,
            rescaled,
            journal: self.journal,
            accounts,
            marks,
            named,
        })
    }
}

/// `quantity × to / from`, rounded down, and what is left over in `1/from` of the smallest unit.
/// What would be above the largest quantity is left over too.
fn scale(quantity: Quantity, split: &Split) -> (Quantity, i128) {
    let product = i128::from(quantity.raw()) * i128::from(split.to);
    let from = i128::from(split.from);
    let units = (product / from).min(i128::from(MAX_QUANTITY.raw()));
    (Quantity::from_raw(units as i64), product - units * from)
}

/// `rest × price / from`, rounded down and saturating, without a product that overflows while the
/// result does not.
fn value_of_rest(rest: i128, from: i128, price: i128) -> i128 {
    let (whole, part) = (rest / from, rest % from);
    let of_part = part * (price / from) + part * (price % from) / from;
    whole.saturating_mul(price).saturating_add(of_part)
}

fn changed_positions(before: &Account, after: &Account) -> Vec<InstrumentId> {
    let same = |a: &Position, b: &Position| a.quantity == b.quantity && a.cost == b.cost;
    let mut changed: Vec<InstrumentId> = Vec::new();
    for position in &after.positions {
        match before.position(position.instrument) {
            Some(old) if same(old, position) => {}
            _ => changed.push(position.instrument),
        }
    }
    for position in &before.positions {
        if after.position(position.instrument).is_none() {
            changed.push(position.instrument);
        }
    }
    changed.sort_unstable();
    changed
}
