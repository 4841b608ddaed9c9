//! Settlement once more, written to be obvious instead of fast: every order recomputes every
//! balance from the beginning, in integers that cannot overflow.
//!
//! It shares no arithmetic with the core: it reads the books before a settlement and predicts the
//! state after it. Its invariant: nothing is remembered but the list of what happened.

use std::collections::BTreeMap;

use papertrader_core::books::{Books, Rules};
use papertrader_core::ids::{AccountId, InstrumentId, OrderId};
use papertrader_core::money::{MAX_CASH, MAX_PRICE, MAX_QUANTITY};
use papertrader_core::order::{Order, OrderRefusal, Side, WaitReason};
use papertrader_core::snapshot::{Snapshot, Split};

const CENT: u32 = 10_000_000; // twice: 10¹⁴

/// A natural number without a largest, in base 2³², the lowest digit first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Natural(Vec<u32>);

impl Natural {
    pub(crate) fn from(mut number: i128) -> Natural {
        assert!(number >= 0, "not a natural number");
        let mut digits = Vec::new();
        while number > 0 {
            digits.push((number & 0xffff_ffff) as u32);
            number >>= 32;
        }
        Natural(digits)
    }

    pub(crate) fn times(&self, other: &Natural) -> Natural {
        let mut digits = vec![0u32; self.0.len() + other.0.len()];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().chain([&0]).enumerate() {
                let Some(digit) = digits.get_mut(i + j) else { break };
                let sum = u64::from(*digit) + u64::from(*a) * u64::from(*b) + carry;
                *digit = sum as u32;
                carry = sum >> 32;
            }
        }
        Natural(digits)
    }

    /// The quotient rounded down, and the remainder.
    pub(crate) fn by(&self, divisor: u32) -> (Natural, u32) {
        let (mut digits, mut rest) = (self.0.clone(), 0u64);
        for digit in digits.iter_mut().rev() {
            let value = rest << 32 | u64::from(*digit);
            *digit = (value / u64::from(divisor)) as u32;
            rest = value % u64::from(divisor);
        }
        (Natural(digits), rest as u32)
    }

    /// The number, or `most` if it is more.
    pub(crate) fn at_most(&self, most: i128) -> i128 {
        let mut number: i128 = 0;
        for digit in self.0.iter().rev() {
            if number > most >> 32 {
                return most;
            }
            number = number << 32 | i128::from(*digit);
        }
        number.min(most)
    }
}

/// `a × b / divisor`, rounded down, at most 2¹⁰⁰.
fn scaled(a: i128, b: u32, divisor: u32) -> i128 {
    Natural::from(a).times(&Natural::from(i128::from(b))).by(divisor).0.at_most(1 << 100)
}

/// What an order came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Waits(WaitReason),
    Expires,
    Rejected(OrderRefusal),
    /// Units, price, cents paid or got, cost basis moved.
    Filled(i128, i128, i128, i128),
}

/// One thing that happened.
enum Event {
    /// A holder's units were scaled and a fraction was paid for.
    Split {
        account: AccountId,
        of: InstrumentId,
        units: i128,
        cents: i128,
    },
    Buy {
        account: AccountId,
        of: InstrumentId,
        units: i128,
        cents: i128,
    },
    Sell {
        account: AccountId,
        of: InstrumentId,
        units: i128,
        cents: i128,
    },
}

/// Cents, and per instrument units and cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) cents: i128,
    pub(crate) positions: BTreeMap<InstrumentId, (i128, i128)>,
}

/// The predicted outcome.
pub(crate) struct Prediction {
    /// Every order that was open, in the order in which it was taken.
    pub(crate) fates: Vec<(OrderId, Fate)>,
    pub(crate) balances: BTreeMap<AccountId, Balance>,
    /// The quantity of every order that was open, after the splits.
    pub(crate) quantities: BTreeMap<OrderId, i128>,
    /// Prices and their times after the settlement.
    pub(crate) marks: BTreeMap<InstrumentId, (i128, i64)>,
}

/// Predicts what a settlement does.
pub(crate) fn predict(books: &Books, snapshot: &Snapshot, rules: &Rules) -> Prediction {
    let mut orders: Vec<Order> = books.open_orders().map(|open| open.order.clone()).collect();
    orders.sort_by_key(|order| (order.worker_time, order.worker_sequence, order.id));
    let mut quantities: BTreeMap<OrderId, i128> =
        orders.iter().map(|order| (order.id, order.request.quantity.raw().into())).collect();
    let mut events = Vec::new();
    let mut marks: BTreeMap<InstrumentId, (i128, i64)> = BTreeMap::new();
    for of in (0..10).map(InstrumentId) {
        if let Some(mark) = books.mark(of) {
            marks.insert(of, (mark.price.raw().into(), mark.time.0));
        }
    }
    let new_prices: BTreeMap<InstrumentId, (i128, i64)> = snapshot
        .prices
        .iter()
        .filter(|point| point.mark.time <= snapshot.time)
        .map(|point| (point.instrument, (point.mark.price.raw().into(), point.mark.time.0)))
        .collect();

    // Splits, by number, each number once.
    let mut splits: BTreeMap<u64, Split> = BTreeMap::new();
    for split in &snapshot.splits {
        if split.number > books.head().last_action {
            splits.entry(split.number).or_insert(*split);
        }
    }
    for split in splits.values() {
        let of = split.instrument;
        let price = match (new_prices.get(&of), marks.get(&of)) {
            (Some((new, _)), _) => splits
                .values()
                .rev()
                .filter(|later| later.number > split.number && later.instrument == of)
                .fold(Natural::from(*new), |price, later| {
                    price.times(&Natural::from(later.to.into())).by(later.from).0
                }),
            (None, Some((old, time))) => {
                let (time, raw) = (*time, scaled(*old, split.from, split.to));
                marks.insert(of, (raw.clamp(1, MAX_PRICE.raw().into()), time));
                Natural::from(raw)
            }
            (None, None) => Natural::from(0),
        };
        for (account, _) in books.accounts() {
            let balance = balance(books, &events, account);
            let Some((units, _)) = balance.positions.get(&of).copied() else { continue };
            let product = Natural::from(units * i128::from(split.to));
            let kept = product.by(split.from).0.at_most(MAX_QUANTITY.raw().into());
            let left = units * i128::from(split.to) - kept * i128::from(split.from);
            let worth = Natural::from(left).times(&price).by(split.from).0.by(CENT).0.by(CENT).0;
            let cents = worth.at_most(i128::from(MAX_CASH.cents()) - balance.cents);
            events.push(Event::Split { account, of, units: kept, cents });
            let mut unheld = kept;
            for order in &orders {
                let request = &order.request;
                if (request.account, request.instrument, request.side) == (account, of, Side::Sell)
                {
                    let quantity = quantities.get_mut(&order.id).unwrap();
                    *quantity = scaled(*quantity, split.to, split.from).min(unheld);
                    unheld -= *quantity;
                }
            }
        }
        for order in &orders {
            if order.request.instrument == of && order.request.side == Side::Buy {
                let quantity = quantities.get_mut(&order.id).unwrap();
                let most = i128::from(MAX_QUANTITY.raw());
                *quantity = scaled(*quantity, split.to, split.from).min(most);
            }
        }
    }
    marks.extend(&new_prices);

    let head = books.head();
    let same_day = snapshot.time.day_number() == head.market.day_number() && head.day > 0;
    let day = if same_day { head.day } else { head.day + 1 };
    let mut fates: Vec<(OrderId, Fate)> = Vec::new();
    for (place, order) in orders.iter().enumerate() {
        let request = &order.request;
        let units = quantities[&order.id];
        let price = new_prices.get(&request.instrument).filter(|(_, time)| {
            *time > order.received.market.0 && snapshot.time.0 - time <= rules.max_price_age
        });
        let fate = match price {
            _ if units == 0 => Fate::Rejected(OrderRefusal::NothingLeft),
            Some((price, _)) if snapshot.market_open && snapshot.number > order.seen => {
                // What the orders still hold: those that wait, and those that come later.
                let held: i128 = orders
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| match fates.get(*other) {
                        Some((_, fate)) => matches!(fate, Fate::Waits(_)),
                        None => *other != place,
                    })
                    .filter(|(_, other)| other.request.account == request.account)
                    .map(|(_, other)| i128::from(other.hold.cents()))
                    .sum();
                let before = balance(books, &events, request.account);
                let fate = fill(&before, held, request.side, request.instrument, units, *price);
                if let Fate::Filled(units, _, cents, _) = fate {
                    let (account, of) = (request.account, request.instrument);
                    events.push(match request.side {
                        Side::Buy => Event::Buy { account, of, units, cents },
                        Side::Sell => Event::Sell { account, of, units, cents },
                    });
                }
                fate
            }
            _ if snapshot.ended || day - order.day >= rules.expire_after_days => Fate::Expires,
            _ if !snapshot.market_open => Fate::Waits(WaitReason::MarketClosed),
            _ => Fate::Waits(WaitReason::PriceStale),
        };
        fates.push((order.id, fate));
    }
    let balances =
        books.accounts().map(|(account, _)| (account, balance(books, &events, account))).collect();
    Prediction { fates, balances, quantities, marks }
}

fn fill(
    before: &Balance,
    held: i128,
    side: Side,
    of: InstrumentId,
    units: i128,
    price: i128,
) -> Fate {
    let (owned, cost) = before.positions.get(&of).copied().unwrap_or((0, 0));
    let most = i128::from(MAX_CASH.cents());
    let (above, rest) = Natural::from(units).times(&Natural::from(price)).by(CENT);
    let (whole, rest_above) = above.by(CENT);
    let whole = whole.at_most(most * 4);
    match side {
        Side::Buy => {
            let cents = if rest + rest_above > 0 { whole + 1 } else { whole };
            if cents > most || owned + units > i128::from(MAX_QUANTITY.raw()) {
                Fate::Rejected(OrderRefusal::OrderTooLarge)
            } else if cents > before.cents - held {
                Fate::Rejected(OrderRefusal::InsufficientCash)
            } else {
                Fate::Filled(units, price, cents, cents)
            }
        }
        Side::Sell if whole > most || before.cents + whole > most => {
            Fate::Rejected(OrderRefusal::OrderTooLarge)
        }
        Side::Sell => Fate::Filled(units, price, whole, cost * units / owned),
    }
}

/// An account's balance after the events, from the books before them.
fn balance(books: &Books, events: &[Event], whose: AccountId) -> Balance {
    let account = books.account(whose).unwrap();
    let mut cash = i128::from(account.cash.cents());
    let mut positions: BTreeMap<InstrumentId, (i128, i128)> = account
        .positions
        .iter()
        .map(|p| (p.instrument, (p.quantity.raw().into(), p.cost.cents().into())))
        .collect();
    for event in events {
        match *event {
            Event::Split { account, of, units, cents } if account == whose => {
                cash += cents;
                positions.entry(of).or_default().0 = units;
            }
            Event::Buy { account, of, units, cents } if account == whose => {
                cash -= cents;
                let position = positions.entry(of).or_default();
                *position = (position.0 + units, position.1 + cents);
            }
            Event::Sell { account, of, units, cents } if account == whose => {
                cash += cents;
                let position = positions.entry(of).or_default();
                let basis = position.1 * units / position.0;
                *position = (position.0 - units, position.1 - basis);
            }
            _ => {}
        }
        positions.retain(|_, (units, _)| *units != 0);
    }
    Balance { cents: cash, positions }
}
