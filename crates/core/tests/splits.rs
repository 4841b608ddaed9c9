//! What a split does to positions, holds, queued orders, prices and equity, one test per rule.
//!
//! Fractions that cannot be held are paid in cash from the named account *fractions*; every
//! settlement is audited against a journal kept beside the books.

// A test ends at the first surprise.
#![allow(clippy::unwrap_used)]

mod exchange;

use exchange::{Exchange, MINUTE, cash, point, price, quantity, split};
use papertrader_core::ids::{AccountId, InstrumentId};
use papertrader_core::ledger::JournalEntry;
use papertrader_core::money::{Cash, MAX_CASH, MAX_PRICE, MAX_QUANTITY, Quantity};
use papertrader_core::order::{OrderRefusal, OrderState, Side, WaitReason};
use papertrader_core::settle::Settlement;
use papertrader_core::snapshot::Split;

const A: InstrumentId = InstrumentId(1);
const B: InstrumentId = InstrumentId(2);

/// An exchange and an account that owns `units` of A bought at `at`.
fn owner(grant: &str, units: &str, at: &str) -> (Exchange, AccountId) {
    let mut exchange = Exchange::new();
    let account = exchange.open(cash(grant));
    exchange.tick(&[(A, at)]);
    exchange.buy(account, A, units);
    exchange.tick(&[(A, at)]);
    assert_eq!(owned(&exchange, account), quantity(units));
    (exchange, account)
}

fn owned(exchange: &Exchange, account: AccountId) -> Quantity {
    exchange.account(account).position(A).map_or(Quantity::ZERO, |p| p.quantity)
}

fn equity(exchange: &Exchange, account: AccountId) -> i64 {
    exchange.books.equity(exchange.account(account)).cents()
}

/// One tick with splits, and a new price of A or none.
fn tick(exchange: &mut Exchange, new_price: Option<&str>, splits: &[Split]) -> Settlement {
    let prices: Vec<_> = new_price.map(|text| (A, text)).into_iter().collect();
    let mut snapshot = exchange.snapshot(MINUTE, &prices);
    snapshot.splits = splits.to_vec();
    exchange.settle(&snapshot)
}

#[test]
fn a_split_scales_the_position_keeps_its_cost_and_leaves_the_equity() {
    let cases = [
        // to, from, price before and after, units after, paid for fractions
        (2, 1, "30", "15", "20", "0"),
        (3, 2, "30", "20", "15", "0"),
        (1, 3, "30", "90", "3.33333333", "0"), // a third of 10⁻⁸ at 90 is no cent
        (1, 1, "30", "30", "10", "0"),
    ];
    for (to, from, before, after, units, paid) in cases {
        let (mut exchange, account) = owner("1000", "10", before);
        let equity_before = equity(&exchange, account);
        let settlement = tick(&mut exchange, Some(after), &[split(1, A, to, from)]);
        assert_eq!(owned(&exchange, account), quantity(units), "{to}:{from}");
        assert_eq!(exchange.account(account).cash, cash("700").plus(cash(paid)).unwrap());
        assert_eq!(exchange.account(account).position(A).unwrap().cost, cash("300"));
        let jump = equity(&exchange, account) - equity_before;
        assert!((-1..=0).contains(&jump), "{to}:{from} moved the equity by {jump}");
        assert_eq!(settlement.journal.len(), 1);
        assert_eq!(exchange.books.head().last_action, 1);
    }
}

#[test]
fn fractions_are_paid_in_cash_from_the_named_account() {
    // Three of the smallest unit at the highest price: a third of a unit is worth 3.33.
    let mut exchange = Exchange::new();
    let account = exchange.open(cash("1000"));
    let third = "333333333"; // a third of the highest price, before the split
    exchange.tick(&[(A, third)]);
    exchange.buy(account, A, "0.00000004"); // 13.33333332, paid as 13.34
    exchange.tick(&[(A, third)]);
    let before = exchange.account(account).cash;
    let settlement = tick(&mut exchange, Some("999999999"), &[split(1, A, 1, 3)]);
    // One unit is left; the rest, a third of one at 9.99999999, is 3.33333333, rounded down.
    assert_eq!(owned(&exchange, account), Quantity::from_raw(1));
    assert_eq!(exchange.account(account).cash, before.plus(cash("3.33")).unwrap());
    assert_eq!(exchange.books.named().fractions, -333);
    let entry = JournalEntry::Split {
        account,
        instrument: A,
        action: 1,
        quantity: Quantity::from_raw(-3),
        cash: cash("3.33"),
    };
    assert_eq!(settlement.journal, [entry]);
}

#[test]
fn a_fraction_worth_exactly_a_cent_is_paid() {
    // Three quarters of the smallest unit at 0.0133333333333334: just above a cent.
    let (mut exchange, account) = owner("1000", "0.00000003", "30");
    let before = exchange.account(account).cash;
    tick(&mut exchange, Some("1333333.33333334"), &[split(1, A, 1, 4)]);
    assert_eq!(exchange.account(account).cash, before.plus(cash("0.01")).unwrap());
    let (mut exchange, account) = owner("1000", "0.00000003", "30");
    tick(&mut exchange, Some("1333333.33333333"), &[split(1, A, 1, 4)]);
    assert_eq!(exchange.account(account).cash, before, "just below");
}

#[test]
fn the_same_action_again_changes_nothing() {
    let (mut exchange, account) = owner("1000", "10", "30");
    tick(&mut exchange, Some("15"), &[split(3, A, 2, 1)]);
    let repeats: [&[Split]; 3] =
        [&[split(3, A, 2, 1)], &[split(2, A, 2, 1), split(3, A, 5, 1)], &[split(1, B, 2, 1)]];
    for repeated in repeats {
        let settlement = tick(&mut exchange, Some("15"), repeated);
        assert_eq!(owned(&exchange, account), quantity("20"));
        assert_eq!(settlement.journal, []);
        assert_eq!(exchange.books.head().last_action, 3);
    }
    // Twice in one snapshot is once as well.
    tick(&mut exchange, Some("7.5"), &[split(4, A, 2, 1), split(4, A, 2, 1)]);
    assert_eq!(owned(&exchange, account), quantity("40"));
}

#[test]
fn actions_listed_out_of_order_are_all_applied() {
    let (mut exchange, account) = owner("1000", "10", "30");
    tick(&mut exchange, Some("15"), &[split(2, B, 2, 1), split(1, A, 2, 1)]);
    assert_eq!(owned(&exchange, account), quantity("20"));
    assert_eq!(exchange.books.head().last_action, 2);
}

#[test]
fn a_split_scales_queued_orders_and_their_holds_once() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let (sale, buy) = (exchange.sell(account, A, "4"), exchange.buy(account, A, "2"));
    // No new price: the orders wait on.
    let settlement = tick(&mut exchange, None, &[split(1, A, 2, 1)]);
    assert_eq!(settlement.rescaled.len(), 2);
    let open = |exchange: &Exchange, id| exchange.books.open_order(id).unwrap().order.clone();
    assert_eq!(open(&exchange, sale).request.quantity, quantity("8"));
    assert_eq!(open(&exchange, buy).request.quantity, quantity("4"));
    assert_eq!(open(&exchange, sale).asked, quantity("4"), "what was asked is kept");
    assert_eq!(exchange.account(account).position(A).unwrap().held, quantity("8"));
    assert_eq!(exchange.account(account).held_cash, cash("63"), "the value is the same");
    tick(&mut exchange, None, &[split(1, A, 2, 1)]);
    assert_eq!(open(&exchange, sale).request.quantity, quantity("8"), "once");
    exchange.tick(&[(A, "15")]);
    assert_eq!(exchange.fill(sale).quantity, quantity("8"));
    assert_eq!(exchange.fill(buy).quantity, quantity("4"));
    assert_eq!(exchange.fill(buy).amount, cash("60"));
}

#[test]
fn an_order_fills_after_the_split_of_its_own_snapshot_at_the_new_price() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let (sale, buy) = (exchange.sell(account, A, "10"), exchange.buy(account, A, "2"));
    let settlement = tick(&mut exchange, Some("15"), &[split(1, A, 2, 1)]);
    assert_eq!(exchange.fill(sale).amount, cash("300"));
    assert_eq!(exchange.fill(buy).amount, cash("60"));
    assert_eq!(settlement.rescaled, [], "what is decided is not rescaled");
}

#[test]
fn a_split_without_a_new_price_scales_the_mark_with_its_old_time() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let (old, before) = (exchange.books.mark(A).unwrap(), equity(&exchange, account));
    tick(&mut exchange, None, &[split(1, A, 3, 2)]);
    let mark = exchange.books.mark(A).unwrap();
    assert_eq!((mark.price, mark.time), (price("20"), old.time));
    assert_eq!(equity(&exchange, account), before);
}

#[test]
fn two_splits_in_one_snapshot_without_a_new_price_both_scale_the_mark() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let before = equity(&exchange, account);
    tick(&mut exchange, None, &[split(1, A, 2, 1), split(2, A, 3, 1)]);
    assert_eq!(owned(&exchange, account), quantity("60"));
    assert_eq!(exchange.books.mark(A).unwrap().price, price("5"));
    assert_eq!(equity(&exchange, account), before);
}

#[test]
fn fractions_of_an_earlier_split_in_a_snapshot_are_paid_at_the_price_between_the_splits() {
    let mut exchange = Exchange::new();
    let account = exchange.open(cash("1000"));
    let first = "300000000";
    exchange.tick(&[(A, first)]);
    exchange.buy(account, A, "0.00000002"); // 6.00
    exchange.tick(&[(A, first)]);
    let before = equity(&exchange, account);
    // 1:3 leaves nothing but two thirds of a unit at 9.00, that is 6.00; 3:1 brings the price back.
    tick(&mut exchange, Some(first), &[split(1, A, 1, 3), split(2, A, 3, 1)]);
    assert_eq!(equity(&exchange, account), before);
    assert_eq!(exchange.account(account).positions, []);
}

#[test]
fn a_scaled_price_fills_nothing() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let id = exchange.buy(account, A, "2");
    // A price made after the receipt, but the market is closed.
    let mut closed = exchange.snapshot(MINUTE, &[(A, "30")]);
    closed.market_open = false;
    exchange.settle(&closed);
    // Open, with a split and without a price: the scaled one was known.
    tick(&mut exchange, None, &[split(1, A, 2, 1)]);
    assert_eq!(exchange.state(id), OrderState::Queued(Some(WaitReason::PriceStale)));
    exchange.tick(&[(A, "15")]);
    assert_eq!(exchange.fill(id).quantity, quantity("4"));
}

#[test]
fn a_scaled_price_stays_within_what_a_price_may_be() {
    for (at, to, from, expected) in [
        ("0.00000003", 10, 1, "0.00000001"),
        ("0.00000001", u32::MAX, 1, "0.00000001"),
        ("500000000", 1, 3, "1000000000"),
        ("1000000000", 1, u32::MAX, "1000000000"),
    ] {
        let mut exchange = Exchange::new();
        exchange.tick(&[(A, at)]);
        tick(&mut exchange, None, &[split(1, A, to, from)]);
        assert_eq!(exchange.books.mark(A).unwrap().price, price(expected), "{at} {to}:{from}");
    }
}

#[test]
fn an_order_of_which_a_split_leaves_nothing_is_rejected() {
    let (mut exchange, account) = owner("1000", "0.00000004", "30");
    // Together they hold everything; 1:3 leaves one unit: the first keeps it, of the second
    // nothing is left. The first sells the position away before the second is decided.
    let first = exchange.sell(account, A, "0.00000003");
    let second = exchange.sell(account, A, "0.00000001");
    tick(&mut exchange, Some("90"), &[split(1, A, 1, 3)]);
    assert_eq!(exchange.fill(first).quantity, Quantity::from_raw(1));
    assert_eq!(exchange.state(second), OrderState::Rejected(OrderRefusal::NothingLeft));
    assert_eq!(exchange.account(account).positions, []);
    assert_eq!(exchange.account(account).open_orders, 0);
}

#[test]
fn a_buy_of_which_a_split_leaves_nothing_gives_its_hold_back() {
    let (mut exchange, account) = owner("1000", "1", "30");
    let id = exchange.buy(account, A, "0.00000002");
    let mut closed = exchange.snapshot(MINUTE, &[]);
    (closed.market_open, closed.splits) = (false, vec![split(1, A, 1, 3)]);
    exchange.settle(&closed);
    assert_eq!(exchange.state(id), OrderState::Rejected(OrderRefusal::NothingLeft));
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
}

#[test]
fn a_position_of_which_a_split_leaves_nothing_goes_while_other_orders_fill() {
    let (mut exchange, account) = owner("1000", "0.00000002", "30");
    exchange.tick(&[(A, "30"), (B, "10")]);
    exchange.buy(account, B, "5");
    exchange.tick(&[(A, "30"), (B, "10")]);
    // The sale of B is decided before that of A, whose position is empty by then.
    let of_b = exchange.sell(account, B, "5");
    let of_a = exchange.sell(account, A, "0.00000002");
    let mut next = exchange.snapshot(MINUTE, &[(A, "90"), (B, "10")]);
    next.splits = vec![split(1, A, 1, 3)];
    exchange.settle(&next);
    assert_eq!(exchange.fill(of_b).amount, cash("50"));
    assert_eq!(exchange.state(of_a), OrderState::Rejected(OrderRefusal::NothingLeft));
    assert_eq!(exchange.account(account).positions, []);
}

#[test]
fn what_is_bought_after_a_split_left_nothing_has_only_its_own_cost() {
    let (mut exchange, account) = owner("1000", "0.00000002", "30"); // cost a cent
    let id = exchange.buy(account, A, "3");
    tick(&mut exchange, Some("90"), &[split(1, A, 1, 3)]);
    assert_eq!(exchange.fill(id).amount, cash("90"));
    assert_eq!(exchange.account(account).position(A).unwrap().cost, cash("90"));
}

#[test]
fn several_small_sales_never_hold_more_than_the_position_after_a_split() {
    for (to, from) in [(3, 2), (2, 3), (1, 3), (7, 5)] {
        let (mut exchange, account) = owner("1000", "0.0000001", "30");
        for _ in 0..10 {
            exchange.sell(account, A, "0.00000001");
        }
        tick(&mut exchange, None, &[split(1, A, to, from)]);
        exchange.tick(&[(A, "30")]);
        assert_eq!(exchange.account(account).open_orders, 0);
    }
}

#[test]
fn a_position_and_its_sales_stop_at_the_largest_quantity() {
    let (mut exchange, account) = owner("10000000000", "900000000", "1");
    let first = exchange.sell(account, A, "450000000");
    let second = exchange.sell(account, A, "450000000");
    let before = equity(&exchange, account);
    let settlement = tick(&mut exchange, None, &[split(1, A, 2, 1)]);
    assert_eq!(owned(&exchange, account), MAX_QUANTITY);
    // What could not be held was paid for.
    assert_eq!(equity(&exchange, account), before);
    assert_eq!(settlement.rescaled.len(), 2);
    let of = |id| exchange.books.open_order(id).unwrap().order.request.quantity;
    assert_eq!((of(first), of(second)), (quantity("900000000"), quantity("100000000")));
    exchange.tick(&[(A, "0.5")]);
    assert_eq!(owned(&exchange, account), Quantity::ZERO);
    assert_eq!(exchange.account(account).cash, cash("10000000000"));
}

#[test]
fn a_buy_stops_at_the_largest_quantity() {
    let (mut exchange, account) = owner("10000000000", "0.00000001", "1");
    let id = exchange.buy(account, A, "900000000");
    tick(&mut exchange, None, &[split(1, A, 1000, 1)]);
    assert_eq!(exchange.books.open_order(id).unwrap().order.request.quantity, MAX_QUANTITY);
    exchange.tick(&[(A, "0.001")]);
    let state = exchange.state(id);
    assert_eq!(state, OrderState::Rejected(OrderRefusal::OrderTooLarge), "with what is owned");
}

#[test]
fn the_largest_splits_at_the_largest_amounts_neither_panic_nor_overflow() {
    let prices = ["0.00000001", "1", "1000000000"];
    let ratios = [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX - 1), (u32::MAX, u32::MAX)];
    for new_price in [None, Some(prices[0]), Some(prices[1]), Some(prices[2])] {
        for (to, from) in ratios {
            let (mut exchange, account) = owner("10000000000000", "1000000000", "1");
            exchange.submit(account, Side::Sell, A, MAX_QUANTITY).unwrap();
            let splits = [split(1, A, to, from), split(2, A, to, from), split(3, A, from, to)];
            tick(&mut exchange, new_price, &splits);
            assert!(exchange.account(account).cash <= MAX_CASH);
        }
    }
}

#[test]
fn what_would_exceed_the_largest_balance_is_lost() {
    let mut exchange = Exchange::new();
    let account = exchange.open(MAX_CASH);
    exchange.tick(&[(A, "0.01")]);
    exchange.submit(account, Side::Buy, A, MAX_QUANTITY).unwrap();
    exchange.tick(&[(A, "0.01")]);
    tick(&mut exchange, Some(&MAX_PRICE.to_string()), &[split(1, A, 1000, 1)]);
    assert_eq!(exchange.account(account).cash, MAX_CASH);
    assert_eq!(exchange.books.named().fractions, -1_000_000_000, "just what it had paid");
}

#[test]
fn a_split_by_zero_is_broken_and_changes_nothing() {
    for (to, from) in [(0, 1), (1, 0), (0, 0)] {
        let (exchange, _) = owner("1000", "10", "30");
        let mut snapshot = exchange.snapshot(MINUTE, &[(A, "30")]);
        snapshot.splits = vec![split(1, A, to, from)];
        assert!(exchange.try_settle(&snapshot).is_err(), "{to}:{from}");
    }
}

#[test]
fn a_split_of_an_instrument_without_price_or_owner_only_counts() {
    let (mut exchange, account) = owner("1000", "10", "30");
    tick(&mut exchange, Some("30"), &[split(1, B, 2, 1)]);
    assert_eq!(exchange.books.mark(B), None);
    assert_eq!(owned(&exchange, account), quantity("10"));
    assert_eq!(exchange.books.head().last_action, 1);
}

#[test]
fn a_price_from_after_the_snapshot_pays_no_fractions() {
    let (mut exchange, account) = owner("1000", "10", "30");
    let mut next = exchange.snapshot(MINUTE, &[]);
    next.prices = vec![point(A, price("1000"), next.time.plus_nanos(1))];
    next.splits = vec![split(1, A, 2, 1)];
    exchange.settle(&next);
    assert_eq!(exchange.books.mark(A).unwrap().price, price("15"));
    assert_eq!(owned(&exchange, account), quantity("20"));
}
