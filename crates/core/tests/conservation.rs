//! Random programs of everything that can happen to the books. After every step nothing was made
//! or lost, and every settlement is what a naive one predicts, whatever the hash maps' order.
//!
//! Amounts, prices and splits are partly absurd on purpose. A last test proves that the programs
//! reach every outcome that an order can have, so that the others do not pass for want of orders.

// A test ends at the first surprise.
#![allow(clippy::unwrap_used)]

mod exchange;
mod naive;

use std::collections::BTreeMap;

use exchange::{Exchange, MINUTE, point};
use naive::{Fate, Natural, Prediction, predict};
use papertrader_core::account::Account;
use papertrader_core::books::{Books, InFlight};
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, MAX_CASH, MAX_PRICE, MAX_QUANTITY, Price, Quantity};
use papertrader_core::order::{OrderState, Side};
use papertrader_core::settle::Settlement;
use papertrader_core::snapshot::{Snapshot, Split};
use papertrader_core::time::{DAY, WallTime};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

const INSTRUMENTS: u32 = 3;
const CENT_IN_PRODUCT: i128 = 100_000_000_000_000;

// Programs.

#[derive(Debug, Clone)]
enum Step {
    Open(i64),
    /// Orders that are judged together, before any of them is in the books.
    Orders(Vec<OrderStep>),
    /// Cancels the n-th of all orders, open or not.
    Cancel(usize),
    /// Cancels the open orders of an account and disables it.
    Disable(usize),
    Snapshot(SnapshotStep),
}

#[derive(Debug, Clone)]
struct OrderStep {
    account: usize,
    side: Side,
    instrument: u32,
    amount: Amount,
    worker_time: i64,
    worker_sequence: u64,
}

#[derive(Debug, Clone)]
enum Amount {
    Raw(i64),
    /// Per mille of what the free cash buys, or of the position.
    Share(i64),
}

#[derive(Debug, Clone)]
struct SnapshotStep {
    after: i64,
    market_open: bool,
    ended: bool,
    prices: Vec<Option<PriceStep>>,
    splits: Vec<SplitStep>,
}

#[derive(Debug, Clone)]
struct PriceStep {
    value: NewPrice,
    /// How long before the snapshot it was made; negative is after.
    age: i64,
}

#[derive(Debug, Clone)]
enum NewPrice {
    Raw(i64),
    /// Per mille of the last one.
    Moved(i64),
}

#[derive(Debug, Clone)]
struct SplitStep {
    instrument: u32,
    to: u32,
    from: u32,
    /// Added to the number of the last action known.
    number: i64,
}

fn amounts() -> impl Strategy<Value = Amount> {
    let absurd = [0, 1, -1, MAX_QUANTITY.raw(), MAX_QUANTITY.raw() + 1, i64::MAX, i64::MIN];
    prop_oneof![
        4 => (1i64..=1_200).prop_map(Amount::Share),
        3 => (1i64..=200).prop_map(|units| Amount::Raw(units * 100_000_000)),
        2 => (1i64..=1_000_000_000).prop_map(Amount::Raw),
        1 => (1i64..=9).prop_map(Amount::Raw),
        1 => prop::sample::select(absurd.to_vec()).prop_map(Amount::Raw),
    ]
}

fn orders() -> impl Strategy<Value = OrderStep> {
    let side = prop_oneof![Just(Side::Buy), Just(Side::Sell)];
    (0usize..4, side, 1..=INSTRUMENTS, amounts(), 0i64..4, 0u64..4).prop_map(
        |(account, side, instrument, amount, worker_time, worker_sequence)| OrderStep {
            account,
            side,
            instrument,
            amount,
            worker_time,
            worker_sequence,
        },
    )
}

fn prices() -> impl Strategy<Value = PriceStep> {
    let extreme = [1, 2, 99_999_999, MAX_PRICE.raw() / 3, MAX_PRICE.raw()];
    let value = prop_oneof![
        12 => (900i64..=1_100).prop_map(NewPrice::Moved),
        2 => (1i64..=100_000_000_000).prop_map(NewPrice::Raw),
        1 => prop::sample::select(extreme.to_vec()).prop_map(NewPrice::Raw),
    ];
    let age = prop_oneof![10 => Just(0), 2 => 0..20 * MINUTE, 1 => Just(-1)];
    (value, age).prop_map(|(value, age)| PriceStep { value, age })
}

fn splits() -> impl Strategy<Value = SplitStep> {
    let ratios = [(2, 1), (3, 2), (1, 3), (1, 10), (7, 3), (1, 1), (20, 1)];
    let absurd =
        [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX - 1), (1_000_000, 1), (1, 1_000_000)];
    let ratio = prop_oneof![
        5 => prop::sample::select(ratios.to_vec()),
        1 => prop::sample::select(absurd.to_vec()),
    ];
    (1..=INSTRUMENTS, ratio, -1i64..=3).prop_map(|(instrument, (to, from), number)| SplitStep {
        instrument,
        to,
        from,
        number,
    })
}

fn snapshots() -> impl Strategy<Value = SnapshotStep> {
    let after =
        prop_oneof![6 => Just(MINUTE), 1 => Just(0), 1 => Just(16 * MINUTE), 2 => Just(DAY)];
    let some_prices =
        prop::collection::vec(prop::option::weighted(0.8, prices()), INSTRUMENTS as usize);
    let some_splits =
        prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(splits(), 1..=3)];
    (after, prop::bool::weighted(0.85), prop::bool::weighted(0.01), some_prices, some_splits)
        .prop_map(|(after, market_open, ended, prices, splits)| SnapshotStep {
            after,
            market_open,
            ended,
            prices,
            splits,
        })
}

fn programs() -> impl Strategy<Value = Vec<Step>> {
    let grants = [0, 1, 100_000, 10_000_000, 1_000_000_000, MAX_CASH.cents()];
    let step = prop_oneof![
        2 => prop::sample::select(grants.to_vec()).prop_map(Step::Open),
        20 => prop::collection::vec(orders(), 1..=5).prop_map(Step::Orders),
        3 => (0usize..50).prop_map(Step::Cancel),
        1 => (0usize..40).prop_map(Step::Disable),
        18 => snapshots().prop_map(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..40)
}

// Running them.

/// How often each outcome was seen.
type Seen = BTreeMap<String, usize>;

fn run(program: &[Step], seen: &mut Seen) {
    let mut exchange = Exchange::new();
    exchange.rules.max_open_orders = 7;
    exchange.rules.expire_after_days = 3;
    exchange.open(Cash::from_cents(10_000_000));
    exchange.open(Cash::from_cents(1_000_000));
    let first: Vec<_> = (1..=INSTRUMENTS).map(|id| (InstrumentId(id), "100")).collect();
    exchange.tick(&first);
    for step in program {
        match step {
            Step::Open(cents) => {
                exchange.open(Cash::from_cents(*cents));
            }
            Step::Orders(steps) => place(&mut exchange, steps, seen),
            Step::Cancel(index) => {
                let id = OrderId(1 + *index as u64);
                let was_open = exchange.books.open_order(id).is_some();
                assert_eq!(exchange.cancel(id), was_open);
            }
            Step::Disable(index) => disable(&mut exchange, *index),
            Step::Snapshot(step) => {
                let snapshot = snapshot(&exchange, step);
                settle_and_compare(&mut exchange, &snapshot, seen);
            }
        }
        exchange.audit();
        for id in exchange.orders.keys() {
            let open = exchange.books.open_order(*id).is_some();
            assert!(open != exchange.decided.contains_key(id), "{id} is open and decided, or lost");
        }
    }
}

fn place(exchange: &mut Exchange, steps: &[OrderStep], seen: &mut Seen) {
    let mut in_flight = InFlight::default();
    let mut accepted = Vec::new();
    for step in steps {
        let count = exchange.books.accounts().count();
        let account = AccountId(1 + (step.account % count) as u32);
        let instrument = InstrumentId(step.instrument);
        let units = amount(&exchange.books, exchange.account(account), step, instrument);
        let request = exchange.request(account, step.side, instrument, Quantity::from_raw(units));
        match exchange.books.judge(&request, &in_flight, &exchange.rules) {
            Ok(hold) => {
                assert!(units > 0 && units <= MAX_QUANTITY.raw(), "accepted {units}");
                in_flight.add(&request, hold);
                accepted.push((request, hold, step));
            }
            Err(refusal) => *seen.entry(format!("refused {refusal:?}")).or_default() += 1,
        }
    }
    for (request, hold, step) in accepted {
        exchange.accept(request, hold, step.worker_time, step.worker_sequence);
    }
}

fn amount(books: &Books, account: &Account, step: &OrderStep, of: InstrumentId) -> i64 {
    match step.amount {
        Amount::Raw(raw) => raw,
        Amount::Share(per_mille) => {
            let most = match step.side {
                Side::Buy => {
                    let price = i128::from(books.mark(of).unwrap().price.raw());
                    let free = i128::from(account.free_cash().unwrap().cents());
                    free * CENT_IN_PRODUCT * 100 / 105 / price
                }
                Side::Sell => account.position(of).map_or(1, |p| p.quantity.raw()).into(),
            };
            (most * i128::from(per_mille) / 1_000).min(i128::from(i64::MAX)) as i64
        }
    }
}

fn disable(exchange: &mut Exchange, index: usize) {
    let id = AccountId(1 + index as u32);
    if exchange.books.account(id).is_none() {
        return;
    }
    let open: Vec<OrderId> =
        exchange.books.open_orders_of(id).iter().map(|open| open.order.id).collect();
    for order in open {
        assert!(exchange.cancel(order));
    }
    exchange.books.disable(id).unwrap();
}

fn snapshot(exchange: &Exchange, step: &SnapshotStep) -> Snapshot {
    let head = exchange.books.head();
    let time = head.market.plus_nanos(step.after);
    let mut prices = Vec::new();
    for (index, price) in step.prices.iter().enumerate() {
        let instrument = InstrumentId(1 + index as u32);
        let Some(price) = price else { continue };
        let raw = match price.value {
            NewPrice::Raw(raw) => raw,
            NewPrice::Moved(per_mille) => {
                let old = i128::from(exchange.books.mark(instrument).unwrap().price.raw());
                let moved = old * i128::from(per_mille) / 1_000;
                moved.clamp(1, MAX_PRICE.raw().into()) as i64
            }
        };
        let value = Price::from_raw(raw).unwrap();
        prices.push(point(instrument, value, time.plus_nanos(-price.age)));
    }
    let number = |offset: i64| head.last_action.saturating_add_signed(offset).max(1);
    let to_split = |step: &SplitStep| Split {
        number: number(step.number),
        instrument: InstrumentId(step.instrument),
        to: step.to,
        from: step.from,
    };
    Snapshot {
        number: SnapshotNumber(head.snapshot + 1),
        time,
        market_open: step.market_open,
        ended: step.ended,
        prices,
        splits: step.splits.iter().map(to_split).collect(),
    }
}

// What must hold of every settlement.

fn settle_and_compare(exchange: &mut Exchange, snapshot: &Snapshot, seen: &mut Seen) {
    let prediction = predict(&exchange.books, snapshot, &exchange.rules);
    let before = exchange.books.clone();
    let settlement = exchange.try_settle(snapshot).unwrap();
    assert_eq!(exchange.try_settle(snapshot).as_ref(), Ok(&settlement), "not deterministic");
    let rebuilt = rebuilt(&before);
    let again =
        papertrader_core::settle::settle(&rebuilt, snapshot, WallTime(0), &exchange.rules).unwrap();
    let again = Settlement { moment: settlement.moment, ..again };
    assert_eq!(again, settlement, "the outcome depends on how the books were built");

    exchange.apply(&settlement);
    as_predicted(exchange, &settlement, &prediction);
    no_wealth_from_nowhere(&before, &exchange.books, &settlement, snapshot);
    for (_, fate) in &prediction.fates {
        *seen.entry(label(fate)).or_default() += 1;
    }
    if settlement.decisions.iter().any(|d| matches!(d.state, OrderState::Filled(_)))
        && !settlement.journal.is_empty()
    {
        *seen.entry("filled with a split".to_owned()).or_default() += 1;
    }
}

fn label(fate: &Fate) -> String {
    match fate {
        Fate::Filled(..) => "filled".to_owned(),
        Fate::Rejected(refusal) => format!("rejected {refusal:?}"),
        other => format!("{other:?}"),
    }
}

/// Equal books, loaded as from a store, in another order and with other hash seeds.
fn rebuilt(books: &Books) -> Books {
    let mut copy = Books::new();
    for (_, account) in books.accounts() {
        let mut stored = account.clone();
        (stored.held_cash, stored.open_orders) = (Cash::ZERO, 0);
        for position in &mut stored.positions {
            position.held = Quantity::ZERO;
        }
        copy.restore_account(stored);
    }
    for id in (1..=INSTRUMENTS).rev().map(InstrumentId) {
        if let Some(mark) = books.mark(id) {
            copy.restore_mark(id, mark);
        }
    }
    copy.restore_head(books.head(), books.named().clone());
    let open: Vec<_> = books.open_orders().cloned().collect();
    for open in open.into_iter().rev() {
        copy.accept(open.order, open.waiting).unwrap();
    }
    copy.check().unwrap();
    copy
}

fn as_predicted(exchange: &Exchange, settlement: &Settlement, prediction: &Prediction) {
    let mut taken = Vec::new();
    for (id, fate) in &prediction.fates {
        let state = exchange.state(*id);
        let same = match (*fate, state) {
            (Fate::Waits(reason), OrderState::Queued(Some(now))) => {
                let quantity = exchange.books.open_order(*id).unwrap().order.request.quantity;
                assert_eq!(i128::from(quantity.raw()), prediction.quantities[id], "{id}");
                reason == now
            }
            (Fate::Expires, OrderState::Expired) => true,
            (Fate::Rejected(predicted), OrderState::Rejected(now)) => predicted == now,
            (Fate::Filled(units, price, cents, basis), OrderState::Filled(fill)) => {
                i128::from(fill.quantity.raw()) == units
                    && i128::from(fill.price.raw()) == price
                    && i128::from(fill.amount.cents()) == cents
                    && i128::from(fill.basis.cents()) == basis
                    && fill.snapshot == exchange.books.head().number()
            }
            _ => false,
        };
        assert!(same, "order {id}: predicted {fate:?}, settled {state:?}");
        if !matches!(fate, Fate::Waits(_)) {
            taken.push(*id);
        }
    }
    // By account, and of each in the order of the prediction.
    let owner: BTreeMap<_, _> = settlement.decisions.iter().map(|d| (d.order, d.account)).collect();
    taken.sort_by_key(|order| owner.get(order));
    let decided: Vec<OrderId> = settlement.decisions.iter().map(|d| d.order).collect();
    assert_eq!(decided, taken, "decided in another order");
    for (id, account) in exchange.books.accounts() {
        let predicted = &prediction.balances[&id];
        assert_eq!(i128::from(account.cash.cents()), predicted.cents, "cash of {id}");
        let positions: BTreeMap<_, _> = account
            .positions
            .iter()
            .map(|p| (p.instrument, (p.quantity.raw().into(), p.cost.cents().into())))
            .collect();
        assert_eq!(positions, predicted.positions, "positions of {id}");
    }
    for (of, (raw, time)) in &prediction.marks {
        let mark = exchange.books.mark(*of).unwrap();
        assert_eq!((i128::from(mark.price.raw()), mark.time.0), (*raw, *time), "mark of {of}");
    }
}

/// At the prices after the settlement, nobody has more than what was owned before it was worth,
/// and nobody has lost more than a cent for each fill and each split.
fn no_wealth_from_nowhere(
    before: &Books,
    after: &Books,
    settlement: &Settlement,
    snapshot: &Snapshot,
) {
    let mut splits: Vec<&Split> = Vec::new();
    for split in &snapshot.splits {
        let known = splits.iter().any(|other| other.number == split.number);
        if split.number > before.head().last_action && !known {
            splits.push(split);
        }
    }
    splits.sort_by_key(|split| split.number);
    let new =
        |of| snapshot.prices.iter().any(|p| p.instrument == of && p.mark.time <= snapshot.time);
    for (index, split) in splits.iter().enumerate() {
        let of = split.instrument;
        let again = splits[index + 1..].iter().any(|other| other.instrument == of);
        let at_limit = after.mark(of).is_some_and(|mark| mark.price == MAX_PRICE);
        // A scaled price is itself rounded, or bounded: there is nothing exact to compare with.
        if !new(of) && (again || at_limit) {
            return;
        }
    }
    for (id, account) in after.accounts() {
        let old = before.account(id).unwrap();
        let mut worth_before = i128::from(old.cash.cents()) * CENT_IN_PRODUCT;
        // Cash for fractions stops at the largest balance: then more may be lost.
        let paid = settlement.journal.iter().filter(|entry| entry.account() == id);
        let paid = paid.fold(old.cash, |sum, entry| match entry {
            JournalEntry::Split { cash, .. } => sum.plus(*cash).unwrap(),
            JournalEntry::Grant { .. } => panic!("a settlement grants nothing"),
        });
        let mut limited = paid >= MAX_CASH;
        for position in &old.positions {
            let price = after.mark(position.instrument).unwrap().price;
            let mut worth = Natural::from(position.quantity.raw().into())
                .times(&Natural::from(price.raw().into()));
            for split in splits.iter().filter(|split| split.instrument == position.instrument) {
                worth = worth.times(&Natural::from(split.to.into()));
            }
            for split in splits.iter().filter(|split| split.instrument == position.instrument) {
                worth = worth.by(split.from).0;
            }
            worth_before += worth.at_most(i128::MAX / 8);
            // A position that reached the limit on the way was paid for, at a rounded price.
            let mut units = Natural::from(position.quantity.raw().into());
            for split in splits.iter().filter(|split| split.instrument == position.instrument) {
                units = units.times(&Natural::from(split.to.into())).by(split.from).0;
                let most = i128::from(MAX_QUANTITY.raw());
                limited |= units.at_most(most) == most;
            }
        }
        let mut worth_after = i128::from(account.cash.cents()) * CENT_IN_PRODUCT;
        for position in &account.positions {
            let price = after.mark(position.instrument).unwrap().price;
            worth_after += i128::from(position.quantity.raw()) * i128::from(price.raw());
            limited |= position.quantity == MAX_QUANTITY;
        }
        // Each division above has dropped less than one of these smallest parts.
        let dropped = splits.len() as i128 * i128::from(INSTRUMENTS);
        assert!(worth_after <= worth_before + dropped, "{id} gained from rounding");

        let fills = settlement.decisions.iter().filter(|decision| {
            decision.account == id && matches!(decision.state, OrderState::Filled(_))
        });
        let journaled = settlement.journal.iter().filter(|entry| entry.account() == id);
        let cents = (fills.count() + journaled.count()) as i128;
        if !limited {
            // An earlier fraction of a unit may be priced up to one 10⁻⁸ low.
            let lost = worth_before - worth_after;
            assert!(
                lost <= cents * (CENT_IN_PRODUCT + 1),
                "{id} lost {lost}, more than {cents} cents"
            );
        }
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(1_500))]

    #[test]
    fn nothing_is_made_or_lost_and_every_settlement_is_as_predicted(program in programs()) {
        run(&program, &mut Seen::new());
    }

    #[test]
    fn buying_and_selling_at_one_price_never_makes_money(
        raw in prop_oneof![1i64..=1_000, 1..=MAX_PRICE.raw(), 1i64..=100_000_000_000],
        parts in prop::collection::vec((1i64..=1_000, 1i64..=1_000), 1..6),
        split in prop::option::of((1u32..=7, 1u32..=7)),
    ) {
        let mut exchange = Exchange::new();
        let account = exchange.open(Cash::from_cents(100_000_000));
        let of = InstrumentId(1);
        let price = Price::from_raw(raw).unwrap();
        let tick = |exchange: &mut Exchange, splits: Vec<Split>| {
            let mut snapshot = exchange.snapshot(MINUTE, &[]);
            // There and back again: the price is the same, the quantity is not more.
            snapshot.splits = splits;
            snapshot.prices = vec![point(of, price, snapshot.time)];
            exchange.settle(&snapshot);
        };
        tick(&mut exchange, Vec::new());
        let mut richest = exchange.account(account).cash;
        for (buy, sell) in parts {
            for (side, share) in [(Side::Buy, buy), (Side::Sell, sell), (Side::Sell, 1_000)] {
                let step = OrderStep {
                    account: 0,
                    side,
                    instrument: 1,
                    amount: Amount::Share(share),
                    worker_time: 0,
                    worker_sequence: 0,
                };
                let units = amount(&exchange.books, exchange.account(account), &step, of);
                let units = units.min(MAX_QUANTITY.raw());
                let _ = exchange.submit(account, side, of, Quantity::from_raw(units));
                let next = exchange.books.head().last_action + 1;
                let there_and_back = split.map_or(Vec::new(), |(to, from)| vec![
                    Split { number: next, instrument: of, to, from },
                    Split { number: next + 1, instrument: of, to: from, from: to },
                ]);
                tick(&mut exchange, there_and_back);
            }
            let account = exchange.account(account);
            prop_assert!(exchange.books.equity(account) <= richest);
            richest = exchange.books.equity(account);
        }
    }
}

#[test]
fn the_random_programs_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut seen = Seen::new();
    for _ in 0..150 {
        let program = programs().new_tree(&mut runner).unwrap().current();
        run(&program, &mut seen);
    }
    let expected = [
        "Expires",
        "Waits(MarketClosed)",
        "Waits(PriceStale)",
        "filled",
        "filled with a split",
        "refused AccountDisabled",
        "refused InsufficientCash",
        "refused InsufficientShares",
        "refused MarketEnded",
        "refused NothingLeft",
        "refused OrderTooLarge",
        "refused TooManyOpenOrders",
        "rejected InsufficientCash",
        "rejected NothingLeft",
        "rejected OrderTooLarge",
    ];
    for outcome in expected {
        assert!(seen.contains_key(outcome), "no program reached {outcome:?}: {seen:#?}");
    }
    assert!(seen["filled"] > 150, "hardly anything fills: {seen:#?}");
}
