//! Settlement: what one snapshot of prices does to the books. Pure and deterministic.
//!
//! Account by account, for none can change what happens to another, and so many accounts on several
//! threads, put together in their order: first the splits that the
//! snapshot brings are applied, then the account's open orders are decided, in the order of
//! [`crate::order::QueueKey`], or kept with a reason. Nothing is changed here: the result says what
//! the books and the store are to become, and each account in it is checked against its own postings.
//!
//! An order may only fill at a snapshot later than the one it had seen, and at a price of that
//! snapshot made after the master received it: nobody trades at a price that was already known. A
//! price dated later than the snapshot's own time is not taken at all: it would be shown before
//! its time and then fill orders made in that knowledge.
//!
//! What a split would bring above the largest quantity or balance is paid in cash as far as the
//! largest balance allows, and lost beyond it.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use rustc_hash::FxHashMap;

use crate::account::{Account, Position};
use crate::books::{Books, BrokenBooks, Head, OpenOrder, Rules, release};
use crate::ids::{AccountId, InstrumentId, OrderId};
use crate::ledger::{
    Asset, JournalEntry, LedgerAccount, NamedAccounts, Posting, Sums, fill_postings,
};
use crate::money::{Cash, MAX_CASH, MAX_PRICE, MAX_QUANTITY, Price, Quantity};
use crate::order::{Fill, Order, OrderRefusal, OrderState, Side, WaitReason};
use crate::snapshot::{Mark, PricePoint, Snapshot, Split};
use crate::time::{Moment, WallTime};

/// Accounts that a thread settles at a time. With fewer open orders than this one thread does it all.
const CHUNK: usize = 4096;
/// Threads that settle, at most: the accounts are soon judged, and written by one.
const MOST_THREADS: usize = 8;

/// price (10⁻⁸) × quantity (10⁻⁸) is in 10⁻¹⁶; a cent is 10¹⁴ of those.
const CENT_IN_PRODUCT: i128 = 100_000_000_000_000;

/// The outcome of an interval: all of it is written in one SQL transaction, then applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Where the books stand afterwards.
    pub head: Head,
    /// When it was settled, and the snapshot's market time.
    pub moment: Moment,
    /// Orders that got a final state: by account, and of each in the order in which they were taken.
    pub decisions: Vec<Decision>,
    /// Open orders whose reason to wait changed.
    pub waiting: Vec<Waiting>,
    /// Open orders whose quantity a split changed.
    pub rescaled: Vec<Rescaled>,
    /// Splits of holders' positions, by account.
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

/// An account after the settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountChange {
    /// Which account.
    pub id: AccountId,
    /// The account afterwards.
    pub after: Account,
}

/// Decides every open order at the snapshot's prices.
pub fn settle(
    books: &Books,
    snapshot: &Snapshot,
    now: WallTime,
    rules: &Rules,
) -> Result<Settlement, BrokenBooks> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    settle_on(if books.open_count() < CHUNK { 1 } else { threads }, books, snapshot, now, rules)
}

/// Settles on so many threads, which makes no difference to the result.
fn settle_on(
    threads: usize,
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
    let mut prices = Prices::of(books, snapshot);
    // By number, or one that is listed late would be taken for one that was applied before.
    let mut splits: Vec<&Split> =
        snapshot.splits.iter().filter(|split| split.number > before.last_action).collect();
    splits.sort_by_key(|split| split.number);
    splits.dedup_by_key(|split| split.number);
    if splits.iter().any(|split| split.to == 0 || split.from == 0) {
        return Err(BrokenBooks::new("a split by zero"));
    }
    let priced = |(index, split): (usize, &&Split)| {
        let split = **split;
        PricedSplit { split, price: prices.after(&split, &splits[index + 1..]) }
    };
    let splits: Vec<PricedSplit> = splits.iter().enumerate().map(priced).collect();
    let head = Head {
        snapshot: snapshot.number.0,
        market: snapshot.time,
        day: before.day + u32::from(new_day),
        last_action: splits.last().map_or(before.last_action, |last| last.split.number),
        ended: snapshot.ended,
    };
    let open = books.open_count();
    let mut outcome = Settlement {
        head,
        moment: Moment { wall: now, market: head.market },
        decisions: Vec::with_capacity(open),
        waiting: Vec::new(),
        rescaled: Vec::new(),
        journal: Vec::new(),
        accounts: Vec::with_capacity(open),
        marks: Vec::new(),
        named: books.named().clone(),
    };
    let judging =
        Judging { books, snapshot, rules, day: head.day, splits: &splits, prices: &prices };
    let accounts = books.next_account().0 as usize - 1;
    let mut posted = Posted::default();
    if threads < 2 {
        judging.part(0..accounts)?.join(&mut outcome, &mut posted);
    } else {
        for part in judging.in_parts(accounts, threads)? {
            part.join(&mut outcome, &mut posted);
        }
    }
    finish(outcome, posted, prices)
}

/// What the snapshot says that things are worth.
struct Prices<'a> {
    books: &'a Books,
    /// This snapshot's prices: the only ones that fill orders.
    new: FxHashMap<InstrumentId, Mark>,
    /// Earlier prices that a split scaled: they value, but fill nothing.
    scaled: FxHashMap<InstrumentId, Mark>,
}

impl Prices<'_> {
    fn of<'a>(books: &'a Books, snapshot: &Snapshot) -> Prices<'a> {
        let is_shown = |point: &&PricePoint| point.mark.time <= snapshot.time;
        let points = snapshot.prices.iter().filter(is_shown);
        let new = points.map(|point| (point.instrument, point.mark)).collect();
        Prices { books, new, scaled: FxHashMap::default() }
    }

    /// The price right after a split, in 10⁻⁸, at which fractions are paid: this snapshot's, which
    /// was made after all of the snapshot's splits, or else the last one, scaled and kept as the
    /// mark. Rounded down, to zero if need be; `None` if there is no price at all. `later` are the
    /// splits that follow in the same snapshot.
    fn after(&mut self, split: &Split, later: &[&Split]) -> Option<i128> {
        let instrument = split.instrument;
        if let Some(mark) = self.new.get(&instrument) {
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
}

/// A split, and the price at which it pays fractions.
#[derive(Clone, Copy)]
struct PricedSplit {
    split: Split,
    price: Option<i128>,
}

impl PricedSplit {
    fn is_of(&self, account: &Account) -> bool {
        account.position(self.split.instrument).is_some()
    }
}

/// Everything posted so far. A trader's postings are kept until that account is checked.
#[derive(Default)]
struct Posted {
    /// To the account that is being settled, one by one.
    own: Vec<(Asset, i128)>,
    /// To all traders that are settled.
    traders: FxHashMap<Asset, i128>,
    named: Sums,
}

impl Posted {
    /// Adds postings, of which those to a trader are of `id`.
    fn add(&mut self, id: AccountId, postings: &[Posting]) -> Result<(), BrokenBooks> {
        for posting in postings {
            match posting.account {
                LedgerAccount::Trader(trader) if trader == id => {
                    self.own.push((posting.asset, i128::from(posting.amount)));
                }
                LedgerAccount::Trader(_) => {
                    return Err(BrokenBooks::new("a posting to another account").account(id));
                }
                _ => self.named.add(std::slice::from_ref(posting)),
            }
        }
        Ok(())
    }

    /// What was posted to the account that is being settled, by asset, and nothing of it any more.
    fn take_own(&mut self) -> impl Iterator<Item = (Asset, i128)> {
        self.own.sort_unstable_by_key(|(asset, _)| *asset);
        self.own.dedup_by(|next, sum| {
            let is_same = next.0 == sum.0;
            if is_same {
                sum.1 += next.1;
            }
            is_same
        });
        for (asset, amount) in &self.own {
            *self.traders.entry(*asset).or_default() += amount;
        }
        self.own.drain(..).filter(|(_, amount)| *amount != 0)
    }

    /// Whether all postings sum to zero in every asset.
    fn balance(mut self) -> bool {
        for (_, asset, amount) in self.named.iter() {
            *self.traders.entry(asset).or_default() += amount;
        }
        self.traders.values().all(|total| *total == 0)
    }

    /// Adds what was posted to other accounts.
    fn join(&mut self, other: Posted) {
        for (asset, amount) in other.traders {
            *self.traders.entry(asset).or_default() += amount;
        }
        self.named.join(&other.named);
    }
}

/// What all accounts are judged by.
#[derive(Clone, Copy)]
struct Judging<'a> {
    books: &'a Books,
    snapshot: &'a Snapshot,
    rules: &'a Rules,
    /// Market days, with this snapshot's.
    day: u32,
    splits: &'a [PricedSplit],
    prices: &'a Prices<'a>,
}

impl<'a> Judging<'a> {
    /// Settles some of the accounts.
    fn part(self, accounts: Range<usize>) -> Result<Settling<'a>, BrokenBooks> {
        let most = accounts.len().min(self.books.open_count());
        let mut settling = Settling {
            judging: self,
            posted: Posted::default(),
            decisions: Vec::with_capacity(most),
            waiting: Vec::new(),
            rescaled: Vec::new(),
            journal: Vec::new(),
            accounts: Vec::with_capacity(most),
        };
        for (id, account) in self.books.accounts_in(accounts) {
            let open = self.books.open_orders_of(id);
            if !open.is_empty() || self.splits.iter().any(|split| split.is_of(account)) {
                settling.account(id, account, open)?;
            }
        }
        Ok(settling)
    }

    /// Settles all accounts on several threads; the parts are in the order of the accounts. Of
    /// several errors it is the first account's.
    fn in_parts(self, accounts: usize, threads: usize) -> Result<Vec<Settling<'a>>, BrokenBooks> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let chunk = next.fetch_add(1, Ordering::Relaxed);
                let begin = chunk.saturating_mul(CHUNK);
                if begin >= accounts {
                    return done;
                }
                done.push((chunk, self.part(begin..accounts.min(begin + CHUNK))));
            }
        };
        let mut parts = std::thread::scope(|scope| {
            // Without another thread this one does all of it.
            let spawn = |_| Builder::new().spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads).filter_map(spawn).collect();
            let mut parts = work();
            for other in others {
                // A panic of it goes on here.
                parts.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
            parts
        });
        parts.sort_unstable_by_key(|(chunk, _)| *chunk);
        parts.into_iter().map(|(_, part)| part).collect()
    }
}

/// Some of the accounts, and what is known of their outcome so far.
struct Settling<'a> {
    judging: Judging<'a>,
    posted: Posted,
    decisions: Vec<Decision>,
    waiting: Vec<Waiting>,
    rescaled: Vec<Rescaled>,
    journal: Vec<JournalEntry>,
    accounts: Vec<AccountChange>,
}

/// An account on its way through the settlement.
struct Trader<'a> {
    id: AccountId,
    before: &'a Account,
    /// A copy, once something changes.
    after: Option<Account>,
}

impl Trader<'_> {
    fn account(&mut self) -> &mut Account {
        self.after.get_or_insert_with(|| self.before.clone())
    }
}

impl Settling<'_> {
    /// Splits what an account owns and asks, and decides its open orders.
    fn account(
        &mut self,
        id: AccountId,
        before: &Account,
        open: &[OpenOrder],
    ) -> Result<(), BrokenBooks> {
        let mut trader = Trader { id, before, after: None };
        // What is asked now, of the orders that a split changed.
        let mut asked: Vec<Option<Quantity>> = Vec::new();
        for PricedSplit { split, price } in self.judging.splits.iter().copied() {
            let owned = trader.after.as_ref().unwrap_or(trader.before);
            if owned.position(split.instrument).is_some() {
                self.split_position(&mut trader, &split, price)?;
            }
            asked.resize(open.len(), None);
            split_orders(&mut trader, open, &mut asked, &split)?;
        }
        for (index, OpenOrder { order, waiting }) in open.iter().enumerate() {
            let changed = asked.get(index).copied().flatten();
            match self.decide(&mut trader, order, changed.unwrap_or(order.request.quantity))? {
                OrderState::Queued(reason) => {
                    if reason != *waiting {
                        self.waiting.push(Waiting { order: order.id, reason });
                    }
                    let rescaled = changed.map(|quantity| Rescaled { order: order.id, quantity });
                    self.rescaled.extend(rescaled);
                }
                state => {
                    let (side, instrument) = (order.request.side, order.request.instrument);
                    let decision =
                        Decision { order: order.id, account: id, side, instrument, state };
                    self.decisions.push(decision);
                }
            }
        }
        self.check(trader)
    }

    fn split_position(
        &mut self,
        trader: &mut Trader<'_>,
        split: &Split,
        price: Option<i128>,
    ) -> Result<(), BrokenBooks> {
        let id = trader.id;
        let broken = || BrokenBooks::new("a split that cannot be booked").account(id);
        let account = trader.account();
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
        self.posted.add(id, &entry.postings())?;
        self.journal.push(entry);
        Ok(())
    }

    /// Decides an order, of which `quantity` is asked now.
    fn decide(
        &mut self,
        trader: &mut Trader<'_>,
        order: &Order,
        quantity: Quantity,
    ) -> Result<OrderState, BrokenBooks> {
        if quantity.is_zero() {
            release(trader.account(), order, quantity)?;
            return Ok(OrderState::Rejected(OrderRefusal::NothingLeft));
        }
        let Judging { snapshot, rules, day, prices, .. } = self.judging;
        let fresh = |mark: &Mark| {
            mark.time > order.received.market
                && snapshot.time.0.saturating_sub(mark.time.0) <= rules.max_price_age
        };
        let mark = prices.new.get(&order.request.instrument).copied().filter(fresh);
        match mark {
            Some(mark) if snapshot.market_open && snapshot.number > order.seen => {
                self.fill(trader, order, quantity, mark.price)
            }
            _ => {
                let age = day.saturating_sub(order.day);
                if snapshot.ended || age >= rules.expire_after_days {
                    release(trader.account(), order, quantity)?;
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
        trader: &mut Trader<'_>,
        order: &Order,
        quantity: Quantity,
        price: Price,
    ) -> Result<OrderState, BrokenBooks> {
        let request = &order.request;
        let broken = |what| BrokenBooks::new(what).account(request.account).order(order.id);
        let account = trader.account();
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
        let fill = Fill { quantity, price, amount, basis, snapshot: self.judging.snapshot.number };
        let postings = fill_postings(request.account, request.side, request.instrument, &fill);
        self.posted.add(trader.id, &postings)?;
        Ok(OrderState::Filled(fill))
    }

    /// Checks a settled account against what was posted to it, and notes it if it changed.
    fn check(&mut self, trader: Trader<'_>) -> Result<(), BrokenBooks> {
        let Trader { id, before, after } = trader;
        let broken = |what| BrokenBooks::new(what).account(id);
        let mut posted = self.posted.take_own();
        let Some(mut after) = after else {
            return match posted.next() {
                None => Ok(()),
                Some(_) => Err(broken("a posting that changed nothing")),
            };
        };
        after.drop_empty_positions();
        if !after.is_sound() {
            return Err(broken("a settlement leaves an account unsound"));
        }
        let cash = i128::from(after.cash.cents()) - i128::from(before.cash.cents());
        let cash = Some((Asset::Cash, cash)).filter(|(_, moved)| *moved != 0);
        if !posted.eq(cash.into_iter().chain(moved_units(before, &after))) {
            return Err(broken("what an account has is not what was posted to it"));
        }
        self.accounts.push(AccountChange { id, after });
        Ok(())
    }

    /// Adds its part to what the accounts before it made.
    fn join(mut self, outcome: &mut Settlement, posted: &mut Posted) {
        outcome.decisions.append(&mut self.decisions);
        outcome.waiting.append(&mut self.waiting);
        outcome.rescaled.append(&mut self.rescaled);
        outcome.journal.append(&mut self.journal);
        outcome.accounts.append(&mut self.accounts);
        posted.join(self.posted);
    }
}

/// Checks the sum of all postings and puts the result together.
fn finish(
    mut outcome: Settlement,
    posted: Posted,
    prices: Prices<'_>,
) -> Result<Settlement, BrokenBooks> {
    outcome.named.add(&posted.named);
    if !posted.balance() {
        return Err(BrokenBooks::new("the postings of a settlement do not sum to zero"));
    }
    outcome.rescaled.sort_unstable_by_key(|rescaled| rescaled.order);
    // A scaled price and a new one of the same instrument never meet.
    outcome.marks = prices.new.into_iter().chain(prices.scaled).collect();
    outcome.marks.sort_unstable_by_key(|(instrument, _)| *instrument);
    Ok(outcome)
}

/// Scales an account's open orders of the split's instrument.
fn split_orders(
    trader: &mut Trader<'_>,
    open: &[OpenOrder],
    asked: &mut [Option<Quantity>],
    split: &Split,
) -> Result<(), BrokenBooks> {
    let id = trader.id;
    let broken = || BrokenBooks::new("a sale holds what is not owned").account(id);
    // What the sales scaled so far hold.
    let mut sold = Quantity::ZERO;
    for (open, asked) in open.iter().zip(asked) {
        let request = &open.order.request;
        if request.instrument != split.instrument {
            continue;
        }
        let old = asked.unwrap_or(request.quantity);
        let (mut new, _) = scale(old, split);
        if request.side == Side::Sell {
            let position = trader.account().position_mut(split.instrument).ok_or_else(broken)?;
            // A position that reached the largest quantity grew less than its sales would.
            new = position.quantity.minus(sold).ok_or_else(broken)?.min(new);
            sold = sold.plus(new).ok_or_else(broken)?;
            let held = position.held.minus(old).and_then(|held| held.plus(new));
            position.held = held.ok_or_else(broken)?;
        }
        *asked = Some(new);
    }
    Ok(())
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

/// The instruments of which there is more or less than before, in their order, and by how much.
fn moved_units(before: &Account, after: &Account) -> impl Iterator<Item = (Asset, i128)> {
    let units = |position: &Position| i128::from(position.quantity.raw());
    let mut old = before.positions.iter().peekable();
    let mut new = after.positions.iter().peekable();
    let both = std::iter::from_fn(move || {
        let first = old.peek().into_iter().chain(new.peek()).map(|p| p.instrument).min()?;
        let old = old.next_if(|old| old.instrument == first).map_or(0, units);
        let new = new.next_if(|new| new.instrument == first).map_or(0, units);
        Some((Asset::Instrument(first), new - old))
    });
    both.filter(|(_, moved)| *moved != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bar::Bar;
    use crate::books::InFlight;
    use crate::ids::{SnapshotNumber, WorkerId};
    use crate::money::Volume;
    use crate::order::OrderRequest;
    use crate::time::MarketTime;

    fn snapshot(number: u64, price: i64, splits: Vec<Split>) -> Snapshot {
        let time = MarketTime(number as i64 * 1_000);
        let point = |instrument| {
            let price = Price::from_raw(price).unwrap();
            let volume = Volume::ZERO;
            let bar =
                Bar { start: time, open: price, high: price, low: price, close: price, volume };
            PricePoint { instrument, mark: Mark { price, time }, bar }
        };
        let prices = (1..=3).map(InstrumentId).map(point).collect();
        let number = SnapshotNumber(number);
        Snapshot { number, time, market_open: true, ended: false, prices, splits }
    }

    /// Each of the accounts whose number `divisor` divides buys of each instrument that is free
    /// for it.
    fn buy(books: &mut Books, next: &mut u64, divisor: u32, rules: &Rules) {
        for account in 1..books.next_account().0 {
            if account % divisor != 0 {
                continue;
            }
            for instrument in 1..=1 + account % 3 {
                *next += 1;
                let request = OrderRequest {
                    account: AccountId(account),
                    client_order_id: next.to_string().parse().unwrap(),
                    side: if *next % 5 == 4 { Side::Sell } else { Side::Buy },
                    instrument: InstrumentId(instrument),
                    quantity: Quantity::from_raw(100_000_000 + i64::from(account)),
                };
                let Ok(hold) = books.judge(&request, &InFlight::default(), rules) else { continue };
                let head = books.head();
                let wall = WallTime(*next as i64);
                let order = Order {
                    id: OrderId(*next),
                    asked: request.quantity,
                    request,
                    hold,
                    received: Moment { wall, market: head.market },
                    seen: head.number(),
                    day: head.day,
                    worker: WorkerId([0; 16]),
                    worker_time: wall,
                    worker_sequence: 0,
                };
                books.accept(order, None).unwrap();
            }
        }
    }

    #[test]
    fn many_threads_settle_as_one() {
        let (mut books, mut next) = (Books::new(), 1);
        let rules = Rules::default();
        for account in 0..3 * CHUNK as i64 + 7 {
            books.open_account(Cash::from_cents(100_000 + account)).unwrap();
        }
        let mut filled = 0;
        for number in 1..=5 {
            let splits = match number {
                3 => vec![Split { number: 1, instrument: InstrumentId(1), to: 3, from: 2 }],
                _ => Vec::new(),
            };
            let snapshot = snapshot(number, 100_000_000 + number as i64, splits);
            let wall = WallTime(i64::MAX / 2 + number as i64);
            let one = settle_on(1, &books, &snapshot, wall, &rules).unwrap();
            for threads in [2, 3, 8] {
                assert_eq!(settle_on(threads, &books, &snapshot, wall, &rules).unwrap(), one);
            }
            assert_eq!(settle(&books, &snapshot, wall, &rules).unwrap(), one);
            assert_eq!(number == 3, !one.journal.is_empty(), "snapshot {number}");
            filled += one.decisions.len();
            books.apply(&one).unwrap();
            books.check().unwrap();
            buy(&mut books, &mut next, number as u32, &rules);
        }
        assert!(filled > 2 * CHUNK, "{filled} orders were decided");
    }

    #[test]
    fn an_account_that_is_not_what_was_posted_to_it_stops_the_settlement() {
        let mut books = Books::new();
        let id = books.open_account(Cash::from_cents(100)).unwrap();
        let (snapshot, rules) = (snapshot(1, 100_000_000, Vec::new()), Rules::default());
        let prices = Prices::of(&books, &snapshot);
        let splits = &[];
        let judging = Judging {
            books: &books,
            snapshot: &snapshot,
            rules: &rules,
            day: 1,
            splits,
            prices: &prices,
        };
        let is_right = |posted: &[(Asset, i128)], cash: i64, units: &[i64]| {
            let mut settling = judging.part(0..0).unwrap();
            settling.posted.own.extend(posted);
            let before = books.account(id).unwrap();
            let mut after = before.clone();
            after.cash = Cash::from_cents(100 + cash);
            for (instrument, units) in (1..).map(InstrumentId).zip(units) {
                after.position_or_new(instrument).quantity = Quantity::from_raw(*units);
            }
            settling.check(Trader { id, before, after: Some(after) }).is_ok()
        };
        let (first, second) =
            (Asset::Instrument(InstrumentId(1)), Asset::Instrument(InstrumentId(2)));
        let posted = [(second, 7), (Asset::Cash, -1), (first, 5), (Asset::Cash, -2), (first, -1)];
        assert!(is_right(&posted, -3, &[4, 7]));
        assert!(is_right(&[(first, 1), (first, -1), (Asset::Cash, 0)], 0, &[]));
        assert!(!is_right(&posted, -2, &[4, 7]));
        assert!(!is_right(&posted, -3, &[5, 7]));
        assert!(!is_right(&posted, -3, &[4]));
        assert!(!is_right(&posted, -3, &[4, 7, 1]));
        assert!(!is_right(&posted[..4], -3, &[4, 7]));
        assert!(!is_right(&[], -3, &[]));
        assert!(!is_right(&[(Asset::Cash, 1)], 0, &[]));
    }
}
