//! The rules of an order's life, one test each: when and at what an order fills, what it holds,
//! why it waits, is refused or expires.
//!
//! Only the public API is used, and every settlement is audited against a journal kept beside the
//! books. Splits have a file of their own.

// A test ends at the first surprise.
#![allow(clippy::unwrap_used)]

mod exchange;

use exchange::{Exchange, MINUTE, cash, point, price, quantity, split};
use papertrader_core::books::InFlight;
use papertrader_core::ids::{AccountId, InstrumentId, OrderId, SnapshotNumber};
use papertrader_core::money::{Cash, MAX_CASH, MAX_PRICE, MAX_QUANTITY, Quantity};
use papertrader_core::order::{OrderRefusal, OrderState, Side, WaitReason};
use papertrader_core::settle::Settlement;
use papertrader_core::snapshot::{Mark, Split};
use papertrader_core::time::DAY;

const A: InstrumentId = InstrumentId(1);
const B: InstrumentId = InstrumentId(2);

/// An exchange at its first prices, and one account.
fn start(grant: &str, prices: &[(InstrumentId, &str)]) -> (Exchange, AccountId) {
    let mut exchange = Exchange::new();
    let account = exchange.open(cash(grant));
    exchange.tick(prices);
    (exchange, account)
}

/// The same, and the account owns `units` of A bought at `at`, which is then the price of A.
fn owner(grant: &str, units: &str, at: &str) -> (Exchange, AccountId) {
    let (mut exchange, account) = start(grant, &[(A, at)]);
    exchange.buy(account, A, units);
    exchange.tick(&[(A, at)]);
    assert_eq!(owned(&exchange, account, A), quantity(units));
    (exchange, account)
}

fn owned(exchange: &Exchange, account: AccountId, of: InstrumentId) -> Quantity {
    exchange.account(account).position(of).map_or(Quantity::ZERO, |p| p.quantity)
}

fn waiting(reason: WaitReason) -> OrderState {
    OrderState::Queued(Some(reason))
}

// When an order fills.

#[test]
fn an_order_fills_at_the_next_snapshot_and_at_its_price() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    let id = exchange.buy(account, A, "3");
    assert_eq!(exchange.state(id), OrderState::Queued(None));
    exchange.tick(&[(A, "9.99")]);
    let fill = exchange.fill(id);
    assert_eq!(fill.price, price("9.99"));
    assert_eq!(fill.amount, cash("29.97"));
    assert_eq!(fill.basis, fill.amount);
    assert_eq!(fill.snapshot, SnapshotNumber(2));
    assert_eq!(exchange.account(account).cash, cash("970.03"));
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
    assert_eq!(exchange.account(account).open_orders, 0);
    assert_eq!(exchange.books.open_orders().count(), 0);
}

#[test]
fn an_order_does_not_fill_at_the_price_that_was_current_at_its_receipt() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    let seen = exchange.books.mark(A).unwrap().time;
    let id = exchange.buy(account, A, "1");
    // A later snapshot that repeats the price already seen, with its old time.
    let mut repeated = exchange.snapshot(MINUTE, &[]);
    repeated.prices = vec![point(A, price("10"), seen)];
    exchange.settle(&repeated);
    assert_eq!(exchange.state(id), waiting(WaitReason::PriceStale));
    exchange.tick(&[(A, "10.5")]);
    assert_eq!(exchange.fill(id).price, price("10.5"));
}

#[test]
fn an_order_fills_only_at_a_price_made_after_its_receipt_by_at_least_a_nanosecond() {
    for (late, fills) in [(0, false), (1, true)] {
        let (mut exchange, account) = start("1000", &[(A, "10")]);
        let received = exchange.books.head().market;
        let id = exchange.buy(account, A, "1");
        let mut next = exchange.snapshot(MINUTE, &[]);
        next.prices = vec![point(A, price("11"), received.plus_nanos(late))];
        exchange.settle(&next);
        assert_eq!(matches!(exchange.state(id), OrderState::Filled(_)), fills, "{late} ns later");
    }
}

#[test]
fn an_order_does_not_fill_at_the_snapshot_it_has_seen_even_at_a_later_price() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    let request = exchange.request(account, Side::Buy, A, quantity("1"));
    let hold = exchange.judge(&request).unwrap();
    let mut next = exchange.snapshot(MINUTE, &[(A, "10")]);
    // The order is accepted with the number of a snapshot that the settlement then brings.
    let id = OrderId(77);
    let head = exchange.books.head();
    let mut order = exchange_order(&exchange, id, request, hold);
    order.seen = SnapshotNumber(head.snapshot + 1);
    exchange.books.accept(order, None).unwrap();
    exchange.settle(&next);
    assert_eq!(exchange.state(id), waiting(WaitReason::PriceStale));
    next = exchange.snapshot(MINUTE, &[(A, "10")]);
    exchange.settle(&next);
    assert!(matches!(exchange.state(id), OrderState::Filled(_)));
}

fn exchange_order(
    exchange: &Exchange,
    id: OrderId,
    request: papertrader_core::order::OrderRequest,
    hold: Cash,
) -> papertrader_core::order::Order {
    use papertrader_core::time::{Moment, WallTime};
    let head = exchange.books.head();
    papertrader_core::order::Order {
        id,
        asked: request.quantity,
        request,
        hold,
        received: Moment { wall: WallTime(1), market: head.market },
        seen: head.number(),
        day: head.day,
        worker: papertrader_core::ids::WorkerId::default(),
        worker_time: WallTime(1),
        worker_sequence: 1,
    }
}

#[test]
fn a_price_dated_after_its_snapshot_is_neither_shown_nor_filled_at() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    let early = exchange.buy(account, A, "1");
    let mut next = exchange.snapshot(MINUTE, &[]);
    let future = next.time.plus_nanos(MINUTE);
    next.prices = vec![point(A, price("20"), future)];
    exchange.settle(&next);
    assert_eq!(exchange.books.mark(A).unwrap().price, price("10"));
    assert_eq!(exchange.state(early), waiting(WaitReason::PriceStale));
    // Once market time is there, it is a price like any other.
    let mut next = exchange.snapshot(MINUTE, &[]);
    next.prices = vec![point(A, price("20"), future)];
    exchange.settle(&next);
    assert_eq!(exchange.fill(early).price, price("20"));
}

#[test]
fn a_snapshot_that_is_not_later_is_refused_and_changes_nothing() {
    let (exchange, _) = start("1000", &[(A, "10")]);
    let before = exchange.books.clone();
    let mut same_number = exchange.snapshot(MINUTE, &[(A, "11")]);
    same_number.number = exchange.books.head().number();
    assert!(exchange.try_settle(&same_number).is_err());
    let mut earlier = exchange.snapshot(-1, &[(A, "11")]);
    assert!(exchange.try_settle(&earlier).is_err());
    earlier.time = exchange.books.head().market;
    assert!(exchange.try_settle(&earlier).is_ok(), "market time may stand still");
    assert_eq!(exchange.books, before);
}

// What an order holds and what pays.

#[test]
fn a_buy_holds_its_value_plus_five_per_cent_rounded_up() {
    let cases = [
        // quantity, price, hold
        ("1", "1.01", "1.07"), // 1.0605
        ("1", "1.00", "1.05"),
        ("0.00000001", "0.01", "0.02"), // a cent, and a twentieth of one
        ("3", "33.333", "105.00"),      // 99.999 -> 100.00
        ("10", "100", "1050.00"),
    ];
    for (units, at, hold) in cases {
        let (mut exchange, account) = start("5000", &[(A, at)]);
        exchange.buy(account, A, units);
        assert_eq!(exchange.account(account).held_cash, cash(hold), "{units} at {at}");
        assert_eq!(exchange.account(account).cash, cash("5000"));
        assert_eq!(exchange.account(account).free_cash(), cash("5000").minus(cash(hold)));
    }
}

#[test]
fn a_buy_is_accepted_with_exactly_its_hold_and_refused_with_a_cent_less() {
    let (mut exchange, exact) = start("105.00", &[(A, "100")]);
    let short = exchange.open(cash("104.99"));
    assert!(exchange.submit(exact, Side::Buy, A, quantity("1")).is_ok());
    let refused = exchange.submit(short, Side::Buy, A, quantity("1"));
    assert_eq!(refused, Err(OrderRefusal::InsufficientCash));
}

#[test]
fn the_hold_and_unheld_cash_pay_for_a_price_that_rose() {
    let (mut exchange, account) = start("200", &[(A, "100")]);
    let id = exchange.buy(account, A, "1"); // holds 105
    exchange.tick(&[(A, "200")]);
    assert_eq!(exchange.fill(id).amount, cash("200"));
    assert_eq!(exchange.account(account).cash, Cash::ZERO);
}

#[test]
fn a_buy_that_hold_and_unheld_cash_do_not_cover_is_rejected_and_gives_its_hold_back() {
    let (mut exchange, account) = start("200", &[(A, "100")]);
    let id = exchange.buy(account, A, "1");
    exchange.tick(&[(A, "200.00000001")]);
    assert_eq!(exchange.state(id), OrderState::Rejected(OrderRefusal::InsufficientCash));
    assert_eq!(exchange.account(account).free_cash(), Some(cash("200")));
}

#[test]
fn an_order_cannot_pay_with_what_another_order_holds() {
    let (mut exchange, account) = start("210", &[(A, "100"), (B, "100")]);
    let first = exchange.buy(account, A, "1");
    let second = exchange.buy(account, B, "1");
    // The first is taken first, and would need a cent of the second's hold.
    exchange.tick(&[(A, "105.01"), (B, "105")]);
    assert_eq!(exchange.state(first), OrderState::Rejected(OrderRefusal::InsufficientCash));
    assert_eq!(exchange.fill(second).amount, cash("105"));
    assert_eq!(exchange.account(account).cash, cash("105"));
}

#[test]
fn what_a_sale_brings_pays_for_a_later_buy_of_the_same_settlement() {
    let (mut exchange, account) = owner("105", "1", "100"); // 5.00 left
    exchange.tick(&[(A, "100"), (B, "4")]);
    let sale = exchange.sell(account, A, "1");
    let buy = exchange.buy(account, B, "1"); // holds 4.20 of 5.00
    exchange.tick(&[(A, "100"), (B, "104")]);
    assert_eq!(exchange.fill(sale).amount, cash("100"));
    assert_eq!(exchange.fill(buy).amount, cash("104"));
    assert_eq!(exchange.account(account).cash, cash("1"));
}

#[test]
fn cash_is_never_negative_whatever_the_price_does() {
    for next in ["0.00000001", "50", "100", "104.99", "105", "105.01", "1000000000"] {
        let (mut exchange, account) = start("105", &[(A, "100")]);
        exchange.buy(account, A, "1");
        exchange.tick(&[(A, next)]);
        assert!(!exchange.account(account).cash.is_negative(), "at {next}");
    }
}

#[test]
fn a_sell_holds_its_shares() {
    let (mut exchange, account) = owner("1000", "3", "10");
    exchange.sell(account, A, "2");
    let position = *exchange.account(account).position(A).unwrap();
    assert_eq!((position.quantity, position.held), (quantity("3"), quantity("2")));
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
    let too_many = exchange.submit(account, Side::Sell, A, quantity("1.00000001"));
    assert_eq!(too_many, Err(OrderRefusal::InsufficientShares));
    exchange.sell(account, A, "1");
    exchange.tick(&[(A, "10")]);
    assert_eq!(exchange.account(account).positions, []);
    assert_eq!(exchange.account(account).cash, cash("1000"));
}

#[test]
fn shares_of_an_open_buy_cannot_be_sold() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    exchange.buy(account, A, "3");
    let refused = exchange.submit(account, Side::Sell, A, quantity("1"));
    assert_eq!(refused, Err(OrderRefusal::InsufficientShares));
}

#[test]
fn a_cancelled_order_gives_its_hold_back_and_never_fills() {
    let (mut exchange, account) = owner("1000", "3", "10");
    let (sale, buy) = (exchange.sell(account, A, "3"), exchange.buy(account, A, "1"));
    assert!(exchange.cancel(sale) && exchange.cancel(buy));
    assert!(!exchange.cancel(sale), "only once");
    exchange.audit();
    assert_eq!(exchange.account(account).position(A).unwrap().held, Quantity::ZERO);
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
    assert_eq!(exchange.account(account).open_orders, 0);
    let settlement = exchange.tick(&[(A, "10")]);
    assert_eq!(settlement.decisions, []);
}

#[test]
fn a_fraction_of_a_cent_goes_against_the_trader_on_both_sides() {
    let (mut exchange, account) = start("10", &[(A, "0.333")]);
    let buy = exchange.buy(account, A, "1");
    exchange.tick(&[(A, "0.333")]);
    assert_eq!(exchange.fill(buy).amount, cash("0.34"));
    let sale = exchange.sell(account, A, "1");
    exchange.tick(&[(A, "0.333")]);
    assert_eq!(exchange.fill(sale).amount, cash("0.33"));
}

// In which order.

#[test]
fn orders_are_taken_by_clamped_time_then_sequence_then_id() {
    // (worker's time, worker's sequence) in the order of acceptance, and the order they are taken.
    let keys = [(30, 1), (10, 9), (20, 5), (20, 4), (20, 4), (10, 8)];
    let taken = [6, 2, 4, 5, 3, 1];
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    for (time, sequence) in keys {
        let request = exchange.request(account, Side::Buy, A, quantity("1"));
        let hold = exchange.judge(&request).unwrap();
        exchange.accept(request, hold, time, sequence);
    }
    let settlement = exchange.tick(&[(A, "10")]);
    let decided: Vec<u64> = settlement.decisions.iter().map(|d| d.order.0).collect();
    assert_eq!(decided, taken);
}

#[test]
fn the_earlier_order_gets_the_money() {
    for first_is_earlier in [true, false] {
        let (mut exchange, account) = start("210", &[(A, "100")]);
        let mut ids = Vec::new();
        for sequence in [1, 2] {
            let request = exchange.request(account, Side::Buy, A, quantity("1"));
            let hold = exchange.judge(&request).unwrap();
            let sequence = if first_is_earlier { sequence } else { 3 - sequence };
            ids.push(exchange.accept(request, hold, 5, sequence));
        }
        let (winner, loser) = if first_is_earlier { (ids[0], ids[1]) } else { (ids[1], ids[0]) };
        // Above the hold: the first is rejected, and what it held then pays for the second.
        exchange.tick(&[(A, "150")]);
        assert_eq!(exchange.state(winner), OrderState::Rejected(OrderRefusal::InsufficientCash));
        assert_eq!(exchange.fill(loser).amount, cash("150"));
    }
}

// Waiting and expiry.

#[test]
fn an_order_waits_with_its_reason_and_only_a_change_of_reason_is_reported() {
    let (mut exchange, account) = start("1000", &[(A, "10"), (B, "10")]);
    let id = exchange.buy(account, A, "1");
    let mut closed = exchange.snapshot(MINUTE, &[(A, "10")]);
    closed.market_open = false;
    let settlement = exchange.settle(&closed);
    assert_eq!(settlement.waiting.len(), 1);
    assert_eq!(exchange.state(id), waiting(WaitReason::MarketClosed));
    let mut closed = exchange.snapshot(MINUTE, &[]);
    closed.market_open = false;
    assert_eq!(exchange.settle(&closed).waiting, [], "still closed: nothing new");
    // Open, but only B has a new price.
    let settlement = exchange.tick(&[(B, "10")]);
    assert_eq!(settlement.waiting.len(), 1);
    assert_eq!(settlement.waiting[0].reason, Some(WaitReason::PriceStale));
    assert_eq!(exchange.state(id), waiting(WaitReason::PriceStale));
    assert_eq!(exchange.account(account).held_cash, cash("10.50"), "it still holds");
    exchange.tick(&[(A, "12")]);
    assert_eq!(exchange.fill(id).price, price("12"));
}

#[test]
fn an_order_does_not_fill_at_a_price_older_than_the_largest_age() {
    for (older, fills) in [(0, true), (1, false)] {
        let (mut exchange, account) = start("1000", &[(A, "10")]);
        let id = exchange.buy(account, A, "1");
        let age = exchange.rules.max_price_age + older;
        let mut next = exchange.snapshot(age + MINUTE, &[]);
        next.prices = vec![point(A, price("10"), next.time.plus_nanos(-age))];
        exchange.settle(&next);
        assert_eq!(matches!(exchange.state(id), OrderState::Filled(_)), fills, "{older} ns older");
    }
}

#[test]
fn an_order_expires_after_the_configured_number_of_market_days() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    exchange.rules.expire_after_days = 3;
    let id = exchange.buy(account, A, "1");
    // Two snapshots a day: only days count.
    for after in [MINUTE, DAY - MINUTE, MINUTE, DAY - MINUTE, MINUTE] {
        let quiet = exchange.snapshot(after, &[]);
        exchange.settle(&quiet);
        assert_eq!(exchange.state(id), waiting(WaitReason::PriceStale));
    }
    assert_eq!(exchange.books.head().day, 3);
    let third_day_after = exchange.snapshot(DAY, &[]);
    exchange.settle(&third_day_after);
    assert_eq!(exchange.state(id), OrderState::Expired);
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
}

#[test]
fn on_the_day_of_its_expiry_an_order_still_fills_if_it_can() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    exchange.rules.expire_after_days = 1;
    let id = exchange.buy(account, A, "1");
    let next_day = exchange.snapshot(DAY, &[(A, "10")]);
    exchange.settle(&next_day);
    exchange.fill(id);
}

#[test]
fn at_the_end_of_the_prices_what_cannot_fill_expires() {
    let (mut exchange, account) = start("1000", &[(A, "10"), (B, "10")]);
    let fills = exchange.buy(account, A, "1");
    let expires = exchange.buy(account, B, "1");
    let mut last = exchange.snapshot(MINUTE, &[(A, "10")]);
    last.ended = true;
    exchange.settle(&last);
    exchange.fill(fills);
    assert_eq!(exchange.state(expires), OrderState::Expired);
    assert_eq!(exchange.account(account).held_cash, Cash::ZERO);
    let request = exchange.request(account, Side::Buy, A, quantity("1"));
    assert_eq!(exchange.judge(&request), Err(OrderRefusal::MarketEnded));
}

// Refusals.

/// Makes each refusal that a judgement can give apply or not, independently as far as they can be.
struct Faults(&'static [OrderRefusal]);

impl Faults {
    fn has(&self, refusal: OrderRefusal) -> bool {
        self.0.contains(&refusal)
    }

    fn judge(&self, side: Side) -> Result<Cash, OrderRefusal> {
        let (mut exchange, account) = start("1000", &[(A, "1"), (B, "1")]);
        if side == Side::Sell && !self.has(OrderRefusal::InsufficientShares) {
            exchange.buy(account, A, "10");
            exchange.tick(&[(A, "1"), (B, "1")]);
        }
        if self.has(OrderRefusal::MarketEnded) {
            let mut last = exchange.snapshot(MINUTE, &[(A, "1")]);
            last.ended = true;
            exchange.settle(&last);
        }
        if self.has(OrderRefusal::AccountDisabled) {
            exchange.books.disable(account).unwrap();
        }
        let of = if self.has(OrderRefusal::NoPrice) { InstrumentId(99) } else { A };
        if self.has(OrderRefusal::TooManyOpenOrders) {
            exchange.rules.max_open_orders = 0;
        }
        let units = if self.has(OrderRefusal::OrderTooLarge) {
            Quantity::from_raw(MAX_QUANTITY.raw() + 1)
        } else if self.has(OrderRefusal::NothingLeft) {
            Quantity::from_raw(-1)
        } else if self.has(OrderRefusal::InsufficientCash) {
            quantity("1000")
        } else {
            quantity("5")
        };
        exchange.judge(&exchange.request(account, side, of, units))
    }
}

#[test]
fn each_refusal_is_given_and_when_several_apply_the_first_in_the_list() {
    use OrderRefusal::*;
    const BUY: &[OrderRefusal] = &[
        AccountDisabled,
        MarketEnded,
        NoPrice,
        TooManyOpenOrders,
        OrderTooLarge,
        InsufficientCash,
    ];
    const SELL: &[OrderRefusal] = &[
        AccountDisabled,
        MarketEnded,
        NoPrice,
        TooManyOpenOrders,
        OrderTooLarge,
        InsufficientShares,
    ];
    // Each row: this one and everything after it applies, so this one must be given. And alone.
    for (side, order) in [(Side::Buy, BUY), (Side::Sell, SELL)] {
        assert!(Faults(&[]).judge(side).is_ok());
        for (index, refusal) in order.iter().enumerate() {
            assert_eq!(Faults(&order[index..]).judge(side), Err(*refusal), "{side:?}");
            assert_eq!(Faults(&order[index..=index]).judge(side), Err(*refusal), "{side:?} alone");
        }
        assert_eq!(Faults(&[NothingLeft]).judge(side), Err(NothingLeft), "{side:?}");
        assert_eq!(Faults(&[NoPrice, NothingLeft]).judge(side), Err(NoPrice), "{side:?}");
    }
    let mut sorted = OrderRefusal::ALL;
    sorted.sort_by_key(|refusal| *refusal as u8);
    assert_eq!(sorted, OrderRefusal::ALL, "numbers follow the precedence");
}

#[test]
fn an_unknown_account_may_not_trade() {
    let (exchange, _) = start("1000", &[(A, "1")]);
    for id in [0, 2, u32::MAX] {
        let request = exchange.request(AccountId(id), Side::Buy, A, quantity("1"));
        assert_eq!(exchange.judge(&request), Err(OrderRefusal::AccountDisabled), "{id}");
    }
}

#[test]
fn no_order_without_a_positive_quantity_is_accepted() {
    let (exchange, account) = owner("1000", "10", "1");
    for raw in [0, -1, -100_000_000, -MAX_QUANTITY.raw(), i64::MIN] {
        for side in [Side::Buy, Side::Sell] {
            let request = exchange.request(account, side, A, Quantity::from_raw(raw));
            assert!(exchange.judge(&request).is_err(), "{side:?} {raw}");
        }
    }
}

#[test]
fn at_the_fill_too_large_comes_before_insufficient_cash() {
    // The price rises so far that the order is worth more than the largest amount.
    let (mut exchange, account) = start("10000000", &[(A, "0.001")]);
    let id = exchange.buy(account, A, "900000000");
    exchange.tick(&[(A, "1000000")]);
    assert_eq!(exchange.state(id), OrderState::Rejected(OrderRefusal::OrderTooLarge));
    // Two orders that together exceed the largest position, the second without the cash as well.
    let (mut exchange, account) = start("1200000", &[(A, "0.001")]);
    let first = exchange.buy(account, A, "600000000");
    let second = exchange.buy(account, A, "500000000");
    exchange.tick(&[(A, "0.0011")]);
    exchange.fill(first);
    assert_eq!(exchange.state(second), OrderState::Rejected(OrderRefusal::OrderTooLarge));
}

#[test]
fn orders_in_flight_count_as_if_they_were_open() {
    let (mut exchange, account) = owner("1000", "10", "10"); // 900 left
    let other = exchange.open(cash("1000"));
    exchange.rules.max_open_orders = 3;
    let mut in_flight = InFlight::default();
    let judge = |exchange: &Exchange, in_flight: &mut InFlight, who, side, units: &str| {
        let request = exchange.request(who, side, A, quantity(units));
        let judged = exchange.books.judge(&request, in_flight, &exchange.rules);
        if let Ok(hold) = judged {
            in_flight.add(&request, hold);
        }
        judged
    };
    let buy = Side::Buy;
    assert_eq!(judge(&exchange, &mut in_flight, account, buy, "80"), Ok(cash("840")));
    let refused = judge(&exchange, &mut in_flight, account, buy, "6");
    assert_eq!(refused, Err(OrderRefusal::InsufficientCash), "63 of 60 left");
    assert_eq!(judge(&exchange, &mut in_flight, other, buy, "6"), Ok(cash("63")), "not its cash");
    let sell = Side::Sell;
    assert_eq!(judge(&exchange, &mut in_flight, account, sell, "7"), Ok(Cash::ZERO));
    let refused = judge(&exchange, &mut in_flight, account, sell, "4");
    assert_eq!(refused, Err(OrderRefusal::InsufficientShares), "3 left");
    assert_eq!(judge(&exchange, &mut in_flight, account, sell, "3"), Ok(Cash::ZERO));
    let refused = judge(&exchange, &mut in_flight, account, buy, "1");
    assert_eq!(refused, Err(OrderRefusal::TooManyOpenOrders));
}

#[test]
fn an_in_flight_total_that_overflows_leaves_nothing_free() {
    let (exchange, account) = start("1000", &[(A, "1")]);
    let request = exchange.request(account, Side::Buy, A, quantity("1"));
    let mut in_flight = InFlight::default();
    for _ in 0..3 {
        in_flight.add(&request, Cash::from_cents(i64::MAX / 2));
    }
    let judged = exchange.books.judge(&request, &in_flight, &exchange.rules);
    assert_eq!(judged, Err(OrderRefusal::InsufficientCash));
}

// Limits.

#[test]
fn the_largest_amounts_neither_panic_nor_overflow() {
    let extremes = ["0.00000001", "0.01", "1", "10000", "1000000000"];
    for first in extremes {
        for second in extremes {
            let mut exchange = Exchange::new();
            let account = exchange.open(MAX_CASH);
            exchange.tick(&[(A, first)]);
            for raw in [1, 100_000_000, MAX_QUANTITY.raw() / 2, MAX_QUANTITY.raw(), i64::MAX] {
                let _ = exchange.submit(account, Side::Buy, A, Quantity::from_raw(raw));
            }
            exchange.tick(&[(A, second)]);
            let units = owned(&exchange, account, A);
            for raw in [1, units.raw() / 2, units.raw(), i64::MAX] {
                let _ = exchange.submit(account, Side::Sell, A, Quantity::from_raw(raw));
            }
            exchange.tick(&[(A, first)]);
            assert!(exchange.account(account).cash <= MAX_CASH);
            assert!(exchange.books.equity(exchange.account(account)) <= MAX_CASH);
        }
    }
}

#[test]
fn the_largest_position_can_be_bought_and_sold_but_not_exceeded() {
    let (mut exchange, account) = start("100000000000", &[(A, "1")]);
    exchange.submit(account, Side::Buy, A, MAX_QUANTITY).unwrap();
    exchange.tick(&[(A, "1")]);
    assert_eq!(owned(&exchange, account, A), MAX_QUANTITY);
    let more = exchange.submit(account, Side::Buy, A, Quantity::from_raw(1));
    assert_eq!(more, Err(OrderRefusal::OrderTooLarge));
    exchange.submit(account, Side::Sell, A, MAX_QUANTITY).unwrap();
    exchange.tick(&[(A, "1")]);
    assert_eq!(exchange.account(account).cash, cash("100000000000"));
}

#[test]
fn a_buy_whose_hold_is_above_the_largest_amount_is_too_large() {
    let mut exchange = Exchange::new();
    let account = exchange.open(MAX_CASH);
    exchange.tick(&[(A, "1000000")]);
    // Worth 9.6 trillion, which the account has, but it would hold 10.08.
    let judge =
        |units: &str| exchange.judge(&exchange.request(account, Side::Buy, A, quantity(units)));
    assert_eq!(judge("9600000"), Err(OrderRefusal::OrderTooLarge));
    assert_eq!(judge("9500000"), Ok(cash("9975000000000")));
}

#[test]
fn a_sale_that_would_bring_more_than_the_largest_balance_is_rejected_and_keeps_its_shares() {
    let mut exchange = Exchange::new();
    let account = exchange.open(MAX_CASH);
    exchange.tick(&[(A, "1")]);
    exchange.buy(account, A, "10");
    exchange.tick(&[(A, "1")]);
    let id = exchange.sell(account, A, "10");
    exchange.tick(&[(A, "1.01")]);
    assert_eq!(exchange.state(id), OrderState::Rejected(OrderRefusal::OrderTooLarge));
    let position = exchange.account(account).position(A).unwrap();
    assert_eq!((position.quantity, position.held), (quantity("10"), Quantity::ZERO));
    // At that price it is not even accepted.
    let refused = exchange.submit(account, Side::Sell, A, quantity("10"));
    assert_eq!(refused, Err(OrderRefusal::OrderTooLarge));
    let id = exchange.sell(account, A, "9");
    exchange.tick(&[(A, "1.01")]);
    assert_eq!(exchange.fill(id).amount, cash("9.09"));
}

#[test]
fn equity_saturates_at_the_largest_amount() {
    let mut exchange = Exchange::new();
    let account = exchange.open(MAX_CASH);
    exchange.tick(&[(A, "1"), (B, "1")]);
    exchange.buy(account, A, "100000000");
    exchange.buy(account, B, "100000000");
    exchange.tick(&[(A, "1"), (B, "1")]);
    let highest = MAX_PRICE.to_string();
    exchange.tick(&[(A, &highest), (B, &highest)]);
    assert_eq!(exchange.books.equity(exchange.account(account)), MAX_CASH);
}

#[test]
fn grants_outside_the_accepted_amounts_are_refused() {
    let mut exchange = Exchange::new();
    for cents in [-1, MAX_CASH.cents() + 1, i64::MAX, i64::MIN] {
        assert!(exchange.books.open_account(Cash::from_cents(cents)).is_err(), "{cents}");
    }
    exchange.open(Cash::ZERO);
    exchange.open(MAX_CASH);
    exchange.audit();
}

// Cost basis.

#[test]
fn partial_sales_take_their_share_of_the_cost_and_the_last_one_takes_the_rest() {
    let (mut exchange, account) = owner("1000", "3", "33.35"); // cost 100.05
    let mut bases = Vec::new();
    for units in ["0.7", "1.1", "1.2"] {
        let id = exchange.sell(account, A, units);
        exchange.tick(&[(A, "33.35")]);
        bases.push(exchange.fill(id).basis);
    }
    // 23.345 and 36.685 rounded down, and what is left.
    assert_eq!(bases, [cash("23.34"), cash("36.68"), cash("40.03")]);
    assert_eq!(exchange.account(account).positions, []);
}

#[test]
fn the_cost_of_a_position_bought_in_parts_is_what_was_paid() {
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    for at in ["10", "10.333", "12.1"] {
        exchange.buy(account, A, "1.5");
        exchange.tick(&[(A, at)]);
    }
    // 15.00 + 15.4995 + 18.15, each rounded up.
    assert_eq!(exchange.account(account).position(A).unwrap().cost, cash("48.65"));
    assert_eq!(exchange.account(account).cash, cash("951.35"));
}

#[test]
fn selling_all_and_buying_again_in_one_settlement_starts_a_new_cost_basis() {
    let (mut exchange, account) = owner("1000", "3", "10");
    let (sale, buy) = (exchange.sell(account, A, "3"), exchange.buy(account, A, "1"));
    exchange.tick(&[(A, "20")]);
    assert_eq!(exchange.fill(sale).basis, cash("30"));
    assert_eq!(exchange.fill(buy).amount, cash("20"));
    assert_eq!(exchange.account(account).position(A).unwrap().cost, cash("20"));
}

// Misuse of the books.

#[test]
fn the_books_refuse_what_would_break_them() {
    let (mut exchange, account) = start("100", &[(A, "10")]);
    let request = exchange.request(account, Side::Buy, A, quantity("1"));
    let order = exchange_order(&exchange, OrderId(1), request.clone(), cash("10.50"));
    exchange.books.accept(order.clone(), None).unwrap();
    assert!(exchange.books.accept(order.clone(), None).is_err(), "the same order twice");
    exchange.audit();

    let with = |id, hold| exchange_order(&exchange, OrderId(id), request.clone(), hold);
    let (too_much, negative) = (with(2, cash("89.51")), with(3, Cash::from_cents(-1)));
    let mut naked = with(4, Cash::ZERO);
    naked.request.side = Side::Sell;
    let mut stranger = with(5, Cash::ZERO);
    stranger.request.account = AccountId(9);
    for order in [too_much, negative, naked, stranger] {
        assert!(exchange.books.accept(order, None).is_err());
        exchange.audit();
    }
    assert!(exchange.books.disable(account).is_err(), "it has an open order");
    assert!(exchange.cancel(OrderId(1)));
    exchange.books.disable(account).unwrap();
    exchange.audit();
    let judge =
        |exchange: &Exchange| exchange.books.judge(&request, &InFlight::default(), &exchange.rules);
    assert_eq!(judge(&exchange), Err(OrderRefusal::AccountDisabled));
    exchange.books.enable(account).unwrap();
    assert_eq!(judge(&exchange), Ok(cash("10.50")));
    assert!(exchange.books.enable(AccountId(9)).is_err(), "nobody has this number");
    exchange.audit();
}

#[test]
fn a_settlement_cannot_be_applied_twice_when_it_decided_something() {
    let (mut exchange, account) = start("100", &[(A, "10")]);
    exchange.buy(account, A, "1");
    let settlement = exchange.tick(&[(A, "10")]);
    let before = exchange.books.clone();
    assert!(exchange.books.apply(&settlement).is_err());
    assert_eq!(exchange.books, before);
}

#[test]
fn the_check_finds_books_that_were_tampered_with() {
    let (mut exchange, account) = owner("1000", "3", "10");
    exchange.sell(account, A, "1");
    let stored = exchange.account(account).clone();
    let mark = Mark { price: price("10"), time: exchange.books.head().market };
    let rebuilt = |change: &dyn Fn(&mut papertrader_core::account::Account)| {
        let mut books = papertrader_core::books::Books::new();
        let mut account = stored.clone();
        account.open_orders = 0;
        account.positions[0].held = Quantity::ZERO;
        change(&mut account);
        books.restore_account(account);
        books.restore_mark(A, mark);
        books.restore_head(exchange.books.head(), exchange.books.named().clone());
        let order = exchange.books.open_orders().next().unwrap().order.clone();
        books.accept(order, None).unwrap();
        books
    };
    let faithful = rebuilt(&|_| {});
    assert_eq!(faithful.check(), Ok(()));
    assert_eq!(faithful, exchange.books);
    let one = Quantity::from_raw(1);
    let tampered: [&dyn Fn(&mut papertrader_core::account::Account); 6] = [
        &|account| account.cash = account.cash.plus(Cash::from_cents(1)).unwrap(),
        &|account| account.held_cash = Cash::from_cents(1),
        &|account| account.open_orders = 1,
        &|account| account.positions[0].quantity = account.positions[0].quantity.plus(one).unwrap(),
        &|account| account.positions[0].held = one,
        &|account| account.positions[0].cost = Cash::from_cents(-1),
    ];
    for (index, change) in tampered.into_iter().enumerate() {
        assert!(rebuilt(change).check().is_err(), "change {index} was not found");
    }
}

#[test]
fn beside_a_settlement_an_order_must_be_good_before_and_after_it() {
    let settlement = |exchange: &Exchange, prices: &[(InstrumentId, &str)], splits: &[Split]| {
        let mut snapshot = exchange.snapshot(MINUTE, prices);
        snapshot.splits.extend_from_slice(splits);
        exchange.try_settle(&snapshot).unwrap()
    };
    let judge = |exchange: &Exchange, settlement: &Settlement, who, side, units: &str| {
        let request = exchange.request(who, side, A, quantity(units));
        exchange.books.judge_beside(settlement, &request, &InFlight::default(), &exchange.rules)
    };
    // A buy that holds 105 and costs 180 leaves 820 where 895 were free.
    let (mut exchange, account) = start("1000", &[(A, "10")]);
    let other = exchange.open(cash("1000"));
    exchange.buy(account, A, "10");
    let rising = settlement(&exchange, &[(A, "18")], &[]);
    assert_eq!(judge(&exchange, &rising, account, Side::Buy, "80"), None, "840 of 820 after it");
    assert_eq!(judge(&exchange, &rising, account, Side::Buy, "78"), Some(cash("819")));
    assert_eq!(judge(&exchange, &rising, other, Side::Buy, "90"), Some(cash("945")), "untouched");
    // What it brings is not there before it.
    assert_eq!(judge(&exchange, &rising, account, Side::Sell, "1"), None);
    let falling = settlement(&exchange, &[(A, "1")], &[]);
    assert_eq!(judge(&exchange, &falling, account, Side::Buy, "90"), None, "945 of 895 before it");
    // What a sale takes away is not there after it, nor before: it is held.
    let (mut exchange, account) = owner("1000", "10", "10");
    exchange.sell(account, A, "7");
    let sold = settlement(&exchange, &[(A, "10")], &[]);
    assert_eq!(judge(&exchange, &sold, account, Side::Sell, "4"), None);
    assert_eq!(judge(&exchange, &sold, account, Side::Sell, "3"), Some(Cash::ZERO));
    // After a split, or the end, it would mean something else.
    let halved = settlement(&exchange, &[(A, "5")], &[split(1, A, 2, 1)]);
    assert_eq!(judge(&exchange, &halved, account, Side::Sell, "3"), None);
    let mut ended = sold;
    ended.head.ended = true;
    assert_eq!(judge(&exchange, &ended, account, Side::Sell, "3"), None);
}
