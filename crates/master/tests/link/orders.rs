//! Orders: accepted once, filled at the next price, whatever is repeated, late or restarted.

use papertrader_core::money::Cash;
use papertrader_core::time::WallTime;
use papertrader_protocol::data::{History, HistoryKind, OrderLine, OrderStatus, Orders, Portfolio};
use papertrader_protocol::returns::{FilledOrder, QueuedOrder, Return};
use papertrader_protocol::{Reason, Request};
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;

use crate::harness::*;

async fn queued(worker: &mut FakeWorker, number: u64) -> QueuedOrder {
    match worker.answer(number).await {
        Return::OrderQueued(order) => order,
        other => panic!("not queued: {other:?}"),
    }
}

async fn filled(worker: &mut FakeWorker, number: u64) -> FilledOrder {
    match worker.answer(number).await {
        Return::Filled(_, fill) => fill,
        other => panic!("not filled: {other:?}"),
    }
}

fn user(name: &str) -> papertrader_core::names::UserName {
    name.parse().unwrap()
}

#[tokio::test]
async fn an_order_fills_at_the_next_price_and_the_money_adds_up() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let first = worker.snapshot().await;
    let session = worker.new_session("alice").await;

    let number = worker.send(session, &buy("AAPL", "10", "a")).await;
    assert_eq!(queued(&mut worker, number).await.order, 1);
    master.tick().await;
    let fill = filled(&mut worker, number).await;
    let second = worker.snapshot().await;
    assert_eq!(second.number, first.number + 1);
    assert_eq!(fill.market, second.market);
    assert!(second.ticks.iter().any(|tick| tick.price == fill.price));
    assert_eq!(fill.amount, fill.price.cost_of(fill.quantity).unwrap());

    let portfolio: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    let private = portfolio.private.unwrap();
    assert_eq!(private.cash.plus(fill.amount), Cash::from_units(100_000));
    assert_eq!(private.positions[0].cost, fill.amount);

    let number = worker.send(session, &sell("AAPL", "4", "b")).await;
    queued(&mut worker, number).await;
    master.tick().await;
    let sale = filled(&mut worker, number).await;
    let history: History = worker.ask_data(session, &Request::History(user("alice"))).await;
    let lines = history.private.unwrap().lines;
    let kinds: Vec<HistoryKind> = lines.iter().map(|line| line.kind).collect();
    assert_eq!(kinds, [HistoryKind::Sell, HistoryKind::Buy, HistoryKind::Grant]);
    let sum: i64 = lines.iter().map(|line| line.amount.cents()).sum();
    let portfolio: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    assert_eq!(portfolio.private.unwrap().cash.cents(), sum);
    assert_eq!(lines[0].amount, sale.amount);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn the_same_id_is_the_same_order_through_any_worker() {
    let master = TestMaster::start(Setup::default()).await;
    let mut one = FakeWorker::connect(master.address, WORKERS[0]).await;
    let mut two = FakeWorker::connect(master.address, WORKERS[1]).await;
    let session = one.new_session("alice").await;
    // A session is honoured only on a link that it was proved through.
    let number = two.send(session, &buy("AAPL", "10", "a")).await;
    assert_eq!(two.refusal(number).await, Reason::SessionUnknown);
    two.ask(session, &Request::LoginSession).await;

    let first = one.send(session, &buy("AAPL", "10", "a")).await;
    let again = one.send(session, &buy("AAPL", "10", "a")).await;
    let order = queued(&mut one, first).await;
    assert_eq!(queued(&mut one, again).await, order);
    let other = two.send(session, &buy("AAPL", "10.0", "a")).await;
    assert_eq!(queued(&mut two, other).await, order);
    for different in [buy("AAPL", "11", "a"), buy("IBM", "10", "a"), sell("AAPL", "10", "a")] {
        let number = two.send(session, &different).await;
        assert_eq!(two.refusal(number).await, Reason::ClientOrderIdConflict);
    }
    master.tick().await;
    let fill = filled(&mut one, first).await;
    assert_eq!(filled(&mut one, again).await, fill);
    assert_eq!(filled(&mut two, other).await, fill);
    // Long done: still the same answer, and the same conflict.
    let number = two.send(session, &buy("AAPL", "10", "a")).await;
    assert_eq!(filled(&mut two, number).await, fill);
    let number = two.send(session, &buy("AAPL", "1", "a")).await;
    assert_eq!(two.refusal(number).await, Reason::ClientOrderIdConflict);
    let orders: Orders = one.ask_data(session, &Request::Orders(user("alice"))).await;
    assert_eq!(orders.orders.len(), 1);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn holds_count_and_a_business_refusal_binds_the_id() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    // AAPL is near 89: 1,000 are within 100,000 with the margin, another 100 are not.
    let held = worker.send(session, &buy("AAPL", "1000", "a")).await;
    queued(&mut worker, held).await;
    let number = worker.send(session, &buy("AAPL", "100", "b")).await;
    assert_eq!(worker.refusal(number).await, Reason::InsufficientCash);
    let number = worker.send(session, &sell("AAPL", "1", "c")).await;
    assert_eq!(worker.refusal(number).await, Reason::InsufficientShares);
    let number = worker.send(session, &buy("NONE", "1", "d")).await;
    assert_eq!(worker.refusal(number).await, Reason::UnknownAsset);
    let number = worker.send(session, &buy("FB", "1", "e")).await;
    assert_eq!(worker.refusal(number).await, Reason::NoPrice);

    let cancel = Request::CancelOrder("a".parse().unwrap());
    assert_eq!(worker.ask(session, &cancel).await, Return::Cancelled("a".parse().unwrap()));
    assert_eq!(worker.refusal(held).await, Reason::OrderCancelled);
    // The cash is free again, but the refused ID stays refused; a malformed one was never bound.
    let number = worker.send(session, &buy("AAPL", "100", "b")).await;
    assert_eq!(worker.refusal(number).await, Reason::InsufficientCash);
    let number = worker.send(session, &buy("AAPL", "100", "d")).await;
    queued(&mut worker, number).await;
    // Cancelling again is the same; cancelling what is unknown refuses a late copy.
    assert_eq!(worker.ask(session, &cancel).await, Return::Cancelled("a".parse().unwrap()));
    let late = Request::CancelOrder("late".parse().unwrap());
    assert_eq!(worker.ask(session, &late).await, Return::Cancelled("late".parse().unwrap()));
    let number = worker.send(session, &buy("AAPL", "1", "late")).await;
    assert_eq!(worker.refusal(number).await, Reason::OrderCancelled);
    master.tick().await;
    filled(&mut worker, number - 3).await;
    let done = Request::CancelOrder("d".parse().unwrap());
    let number = worker.send(session, &done).await;
    assert_eq!(worker.refusal(number).await, Reason::OrderDone);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn orders_of_one_batch_see_each_other() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let mut numbers = Vec::new();
    for n in 0..20 {
        numbers.push(worker.send(session, &buy("AAPL", "100", &format!("n{n}"))).await);
    }
    let mut accepted = 0;
    for number in &numbers {
        match worker.answer(*number).await {
            Return::OrderQueued(_) => accepted += 1,
            Return::Failed(_, failure) => assert_eq!(failure.reason, Reason::InsufficientCash),
            other => panic!("{other:?}"),
        }
    }
    // 100 × about 89 × 1.05 each, of 100,000.
    assert_eq!(accepted, 10);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn what_a_cancel_frees_is_free_for_the_order_behind_it() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let cancel = |id: &str| Request::CancelOrder(id.parse().unwrap());
    let mut held = worker.send(session, &buy("AAPL", "1000", "n0")).await;
    queued(&mut worker, held).await;
    for n in 1..=10 {
        let (old, new) = (format!("n{}", n - 1), format!("n{n}"));
        // While the first of these is written the others wait, and are judged together.
        worker.send(session, &cancel(&format!("unknown{n}"))).await;
        worker.send(session, &cancel(&old)).await;
        let number = worker.send(session, &buy("AAPL", "1000", &new)).await;
        let beside = worker.send(session, &buy("AAPL", "100", &format!("beside{n}"))).await;
        assert_eq!(worker.refusal(held).await, Reason::OrderCancelled);
        queued(&mut worker, number).await;
        assert_eq!(worker.refusal(beside).await, Reason::InsufficientCash);
        held = number;
    }
    master.tick().await;
    filled(&mut worker, held).await;
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    assert_eq!(store.verify().unwrap(), []);
}

#[tokio::test]
async fn after_its_deadline_an_order_is_refused_unless_it_is_known() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let mut late = worker.link_header();
    late.deadline = WallTime(1);
    let number = worker.send_with(session, &buy("AAPL", "1", "a"), late).await;
    assert_eq!(worker.refusal(number).await, Reason::DeadlinePassed);
    let number = worker.send(session, &buy("AAPL", "1", "a")).await;
    let order = queued(&mut worker, number).await;
    let number = worker.send_with(session, &buy("AAPL", "1", "a"), late).await;
    assert_eq!(queued(&mut worker, number).await, order);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_everything_and_an_open_order_fills_after_it() {
    let master = TestMaster::start(Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let number = worker.send(session, &buy("AAPL", "10", "done")).await;
    queued(&mut worker, number).await;
    master.tick().await;
    let fill = filled(&mut worker, number).await;
    let number = worker.send(session, &buy("IBM", "5", "open")).await;
    queued(&mut worker, number).await;
    let before: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    let (dir, result) = master.end().await;
    result.unwrap();

    let master = TestMaster::start_in(dir, Setup::default()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    match worker.ask(session, &Request::LoginSession).await {
        Return::Session(grant) => assert_eq!(grant.session, session),
        other => panic!("{other:?}"),
    }
    let after: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    assert_eq!(after, before);
    let number = worker.send(session, &buy("AAPL", "10", "done")).await;
    assert_eq!(filled(&mut worker, number).await, fill);
    let number = worker.send(session, &buy("IBM", "5", "open")).await;
    queued(&mut worker, number).await;
    master.tick().await;
    filled(&mut worker, number).await;
    let line: OrderLine = worker.ask_data(session, &Request::Order("open".parse().unwrap())).await;
    assert_eq!(line.status, OrderStatus::Filled);
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    assert_eq!(store.verify().unwrap(), []);
    assert_eq!(store.load().unwrap().deployment, "deployment");
}

#[tokio::test]
async fn a_split_scales_positions_and_open_orders_and_nobody_gains() {
    // Two steps a day: opening and close. AAPL splits 2:1 on 2005-02-28, a Monday.
    let setup = || Setup { step: 86_400_000_000_000, ..Setup::default() };
    let master = TestMaster::start(setup()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let number = worker.send(session, &buy("AAPL", "10", "a")).await;
    queued(&mut worker, number).await;
    master.tick().await;
    filled(&mut worker, number).await;
    // Open over the split: a sale of 4, which becomes one of 8.
    let sale = worker.send(session, &sell("AAPL", "4", "b")).await;
    queued(&mut worker, sale).await;
    let before: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    let before = before.private.unwrap();
    master.tick().await;
    let sold = filled(&mut worker, sale).await;
    assert_eq!(sold.quantity.to_string(), "8");
    let after: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    let after = after.private.unwrap();
    assert_eq!(after.positions[0].quantity.to_string(), "12");
    // Friday's close 88.99, Monday's opening 44.68 × 2 = 89.36: the equity moves by the price.
    let equity = |p: &papertrader_protocol::data::PortfolioPrivate| p.equity.cents();
    let moved = equity(&after) - equity(&before);
    assert_eq!(moved, 20 * 4468 - 10 * 8899);
    let history: History = worker.ask_data(session, &Request::History(user("alice"))).await;
    let lines = history.private.unwrap().lines;
    let split = lines.iter().find(|line| line.kind == HistoryKind::Split).unwrap();
    assert_eq!((split.quantity.to_string().as_str(), split.amount), ("10", Cash::ZERO));
    let (dir, result) = master.end().await;
    result.unwrap();

    // A second start does not apply it again.
    let master = TestMaster::start_in(dir, setup()).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    worker.ask(session, &Request::LoginSession).await;
    let again: Portfolio = worker.ask_data(session, &Request::Portfolio(user("alice"))).await;
    assert_eq!(again.private.unwrap(), after);
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn at_the_end_of_the_prices_open_orders_expire_and_new_ones_are_refused() {
    let setup = Setup { start: "2013-03-01", step: 86_400_000_000_000, ..Setup::default() };
    let master = TestMaster::start(setup).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let session = worker.new_session("alice").await;
    let number = worker.send(session, &buy("AAPL", "1", "a")).await;
    queued(&mut worker, number).await;
    master.tick().await;
    filled(&mut worker, number).await;
    let number = worker.send(session, &buy("AAPL", "1", "b")).await;
    assert_eq!(worker.refusal(number).await, Reason::MarketEnded);
    // The market stands still.
    master.tick().await;
    let number = worker.send(session, &Request::Ping("x".into())).await;
    assert_eq!(worker.answer(number).await, Return::Pong("x".into()));
    master.end().await.1.unwrap();
}
