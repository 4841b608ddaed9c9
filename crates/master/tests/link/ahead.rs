//! Orders that come while something is written: judged with what that holds, promised while it is a
//! settlement, and written once whatever dies.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use papertrader_core::order::OrderState;
use papertrader_market::{Replay, ReplayConfig};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_protocol::data::{OrderLine, OrderStatus, Orders, Portfolio};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Instruction, Reason, Request, SessionId};
use papertrader_store::{Batch, Change, Store};

use crate::events;
use crate::harness::*;
use crate::trouble::with_store;

/// Where the store stands still before it commits certain batches.
struct Gate {
    arrived: Option<Receiver<()>>,
    go: Sender<()>,
    fails: Arc<AtomicBool>,
    /// How often the intake keeps nothing.
    intake_fails: Arc<AtomicUsize>,
}

impl Gate {
    async fn master(held: fn(&Batch) -> bool) -> (TestMaster, PathBuf, Gate) {
        let ((here, arrived), (go, go_on)) = (channel(), channel());
        let fails = Arc::new(AtomicBool::new(false));
        let intake_fails = Arc::new(AtomicUsize::new(0));
        let (told, kept) = (Arc::clone(&fails), Arc::clone(&intake_fails));
        let (master, path) = with_store(held, told, Some((here, go_on)), kept).await;
        (master, path, Gate { arrived: Some(arrived), go, fails, intake_fails })
    }

    /// Waits for the next one.
    async fn arrives(&mut self) {
        let arrived = self.arrived.take().unwrap();
        let waiting = tokio::task::spawn_blocking(move || {
            arrived.recv().unwrap();
            arrived
        });
        self.arrived = Some(waiting.await.unwrap());
    }

    /// Commits it, or does not.
    fn pass(&self, is_stored: bool) {
        self.fails.store(!is_stored, Ordering::SeqCst);
        self.go.send(()).unwrap();
    }

    /// Holds nothing any more.
    fn open(&mut self) {
        self.arrived = None;
    }
}

/// A settlement that has orders to decide: not those that only bring prices.
fn settles(batch: &Batch) -> bool {
    batch.changes.iter().any(|change| {
        matches!(change, Change::Settle { settlement, .. } if !settlement.decisions.is_empty())
    })
}

/// A batch with an order whose client order ID begins so.
fn places(batch: &Batch, prefix: &str) -> bool {
    let has_it = |change: &Change| match change {
        Change::PlaceOrder(record) => {
            record.order.request.client_order_id.as_str().starts_with(prefix)
        }
        _ => false,
    };
    batch.changes.iter().any(has_it)
}

fn settles_or_places_late(batch: &Batch) -> bool {
    settles(batch) || places(batch, "late")
}

async fn is_queued(worker: &mut FakeWorker, number: u64) -> u64 {
    match worker.answer(number).await {
        Return::OrderQueued(order) => order.order,
        other => panic!("not queued: {other:?}"),
    }
}

async fn is_filled(worker: &mut FakeWorker, number: u64) {
    let answer = worker.answer(number).await;
    assert!(matches!(answer, Return::Filled(..)), "{answer:?}");
}

/// A worker with two accounts, of which the first has an order that the next settlement decides.
async fn with_one_order(master: &TestMaster) -> (FakeWorker, [SessionId; 2], u64) {
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let sessions = [worker.new_session("alice").await, worker.new_session("bob").await];
    let number = worker.send(sessions[0], &buy("AAPL", "10", "early")).await;
    is_queued(&mut worker, number).await;
    (worker, sessions, number)
}

/// Everything is in the books once, and they are right.
async fn ends_well(master: TestMaster, orders: &[&str]) {
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = TestMaster::store_in(&dir);
    assert_eq!(store.verify().unwrap(), []);
    let mut reader = store.reader().unwrap();
    for account in [1, 2] {
        let account = papertrader_core::ids::AccountId(account);
        for record in reader.orders(account, 100).unwrap() {
            let id = &record.order.request.client_order_id;
            assert!(orders.contains(&id.as_str()), "{record:?}");
            assert!(matches!(record.state, OrderState::Filled(_)), "{record:?}");
        }
    }
    let all: usize = [1, 2]
        .map(|account| reader.orders(papertrader_core::ids::AccountId(account), 100).unwrap().len())
        .iter()
        .sum();
    assert_eq!(all, orders.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_promised_while_a_settlement_is_written() {
    let (master, _, mut gate) = Gate::master(settles).await;
    let (mut worker, [alice, bob], early) = with_one_order(&master).await;
    master.tick().await;
    gate.arrives().await;
    // Of one whose account the settlement changes, and of one that it does not.
    let (one, two) = (
        worker.send(alice, &buy("AAPL", "5", "late-1")).await,
        worker.send(bob, &buy("IBM", "3", "late-2")).await,
    );
    let ids = [is_queued(&mut worker, one).await, is_queued(&mut worker, two).await];
    assert_eq!(ids, [2, 3]);
    // What depends on the settlement waits for it, and so does what comes after it of that account,
    // the same order again, and whatever shows an order that is promised.
    let sale = worker.send(alice, &sell("AAPL", "2", "late-3")).await;
    let behind = worker.send(alice, &buy("AAPL", "1", "late-4")).await;
    let again = worker.send(bob, &buy("IBM", "3", "late-2")).await;
    let other = worker.send(bob, &buy("IBM", "4", "late-2")).await;
    let seen = worker.send(bob, &Request::Order("late-2".parse().unwrap())).await;
    let cancel = worker.send(bob, &Request::CancelOrder("none".parse().unwrap())).await;
    // All of that has arrived when this is answered.
    let pong = worker.send(bob, &Request::Ping("here".into())).await;
    let mut answered = HashSet::new();
    loop {
        let received = worker.receive().await;
        answered.insert(received.header.request);
        if received.header.request == pong {
            break;
        }
    }
    for waits in [sale, behind, again, other, seen, cancel] {
        assert!(!answered.contains(&waits), "{waits} of {answered:?}");
    }
    gate.pass(true);
    is_filled(&mut worker, early).await;
    assert_eq!(is_queued(&mut worker, sale).await, 4);
    assert_eq!(is_queued(&mut worker, behind).await, 5);
    assert_eq!(is_queued(&mut worker, again).await, 3);
    assert_eq!(worker.refusal(other).await, Reason::ClientOrderIdConflict);
    let line = worker.data(seen).await;
    let line = <OrderLine as papertrader_protocol::wire::Wire>::from_bytes(&line).unwrap();
    assert_eq!((line.order, line.status), (3, OrderStatus::Queued));
    assert_eq!(worker.answer(cancel).await, Return::Cancelled("none".parse().unwrap()));
    gate.open();
    master.tick().await;
    for number in [one, two, sale, behind, again] {
        is_filled(&mut worker, number).await;
    }
    ends_well(master, &["early", "late-1", "late-2", "late-3", "late-4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_is_there_after_a_crash_at_any_time() {
    let (master, path, mut gate) = Gate::master(settles_or_places_late).await;
    let (mut worker, [_, bob], early) = with_one_order(&master).await;
    master.tick().await;
    gate.arrives().await;
    let number = worker.send(bob, &buy("IBM", "3", "late")).await;
    assert_eq!(is_queued(&mut worker, number).await, 2);
    let before_the_settlement = copy(&path);
    gate.pass(true);
    is_filled(&mut worker, early).await;
    gate.arrives().await;
    let before_the_order = copy(&path);
    gate.open();
    gate.pass(true);
    // The answer comes after the batch: it is a batch later.
    let line: OrderLine = worker.ask_data(bob, &Request::Order("late".parse().unwrap())).await;
    assert_eq!(line.status, OrderStatus::Queued);
    let after_both = copy(&path);
    master.tick().await;
    is_filled(&mut worker, number).await;
    ends_well(master, &["early", "late"]).await;

    for (dir, early_is_filled) in
        [(before_the_settlement, false), (before_the_order, true), (after_both, true)]
    {
        let source = Arc::new(Replay::bundled(ReplayConfig::default()).unwrap());
        let master = TestMaster::start_with(dir, Setup::default().config, source).await;
        let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
        let (alice, bob) = (worker.login("alice", false).await, worker.login("bob", false).await);
        let line: OrderLine = worker.ask_data(bob, &Request::Order("late".parse().unwrap())).await;
        assert_eq!((line.order, line.status), (2, OrderStatus::Queued));
        let again = worker.send(bob, &buy("IBM", "3", "late")).await;
        assert_eq!(is_queued(&mut worker, again).await, 2);
        let line: OrderLine =
            worker.ask_data(alice, &Request::Order("early".parse().unwrap())).await;
        assert_eq!(line.status == OrderStatus::Filled, early_is_filled);
        // The next order has the next number, and holds what is left.
        let next = worker.send(bob, &buy("IBM", "1", "next")).await;
        assert_eq!(is_queued(&mut worker, next).await, 3);
        // The first may be at the market time at which they came.
        worker.snapshot().await;
        for _ in 0..2 {
            master.tick().await;
            worker.snapshot().await;
        }
        is_filled(&mut worker, again).await;
        is_filled(&mut worker, next).await;
        ends_well(master, &["early", "late", "next"]).await;
    }
}

/// The files as a crash would leave them.
fn copy(from: &std::path::Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let is_of_database = name.to_string_lossy().contains(".db");
        if is_of_database && !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry, to.path().join(name)).unwrap();
        }
    }
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_promised_is_written_however_often_the_store_refuses() {
    events::keep();
    let (master, _, mut gate) = Gate::master(settles_or_places_late).await;
    let (mut worker, [_, bob], early) = with_one_order(&master).await;
    master.tick().await;
    gate.arrives().await;
    let number = worker.send(bob, &buy("IBM", "3", "late")).await;
    is_queued(&mut worker, number).await;
    // The settlement is not stored; then the order is not, twice; then both are.
    gate.pass(false);
    for is_stored in [false, false, true] {
        gate.arrives().await;
        gate.pass(is_stored);
    }
    gate.arrives().await;
    gate.pass(true);
    is_filled(&mut worker, early).await;
    assert!(events::written(&["orders that are promised were not stored"]));
    gate.open();
    master.tick().await;
    is_filled(&mut worker, number).await;
    ends_well(master, &["early", "late"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_promised_than_there_is_before_and_after_the_settlement() {
    let (master, _, mut gate) = Gate::master(settles).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let alice = worker.new_session("alice").await;
    // Near 65 each, of 100,000: 900 hold 61,200 with the margin, and cost 58,300.
    let early = worker.send(alice, &buy("AAPL", "900", "early")).await;
    is_queued(&mut worker, early).await;
    master.tick().await;
    gate.arrives().await;
    // These hold 34,000. What is left then would do after the settlement and does not before it.
    let fits = worker.send(alice, &buy("AAPL", "500", "late-1")).await;
    is_queued(&mut worker, fits).await;
    let waits = worker.send(alice, &buy("AAPL", "100", "late-2")).await;
    let pong = worker.send(alice, &Request::Ping("here".into())).await;
    let is_refusal =
        |said: &Option<Return>| matches!(said, Some(Return::Failed(Instruction::PurchaseFail, _)));
    let received =
        worker.receive_where(|it| it.header.request == pong || is_refusal(&it.said)).await;
    assert_eq!(received.header.request, pong, "it waits: the settlement may bring what it needs");
    gate.pass(true);
    is_filled(&mut worker, early).await;
    is_queued(&mut worker, waits).await;
    gate.open();
    master.tick().await;
    is_filled(&mut worker, fits).await;
    is_filled(&mut worker, waits).await;
    let portfolio: Portfolio =
        worker.ask_data(alice, &Request::Portfolio("alice".parse().unwrap())).await;
    let private = portfolio.private.unwrap();
    assert!(!private.cash.is_negative() && private.held_cash.cents() == 0);
    master.end().await.1.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_behind_a_batch_see_what_it_holds_and_are_refused_with_it() {
    let (master, _, mut gate) = Gate::master(|batch| places(batch, "first")).await;
    let mut worker = FakeWorker::connect(master.address, WORKERS[0]).await;
    let alice = worker.new_session("alice").await;
    for is_stored in [true, false] {
        let first = worker.send(alice, &buy("AAPL", "900", &format!("first-{is_stored}"))).await;
        gate.arrives().await;
        let (fits, too_much) = (
            worker.send(alice, &buy("AAPL", "500", &format!("a-{is_stored}"))).await,
            worker.send(alice, &buy("AAPL", "100", &format!("b-{is_stored}"))).await,
        );
        // Both were judged, or wait, when this is answered; neither is answered yet.
        let pong = worker.send(alice, &Request::Ping("here".into())).await;
        let next = worker.receive_where(|it| it.header.request >= first).await;
        assert_eq!(next.header.request, pong);
        gate.pass(is_stored);
        if is_stored {
            is_queued(&mut worker, first).await;
            is_queued(&mut worker, fits).await;
            assert_eq!(worker.refusal(too_much).await, Reason::InsufficientCash);
            for id in ["first-true", "a-true"] {
                let cancel = Request::CancelOrder(id.parse().unwrap());
                assert!(matches!(worker.ask(alice, &cancel).await, Return::Cancelled(_)));
            }
        } else {
            for number in [first, fits, too_much] {
                assert_eq!(worker.refusal(number).await, Reason::Unavailable);
            }
        }
    }
    // Nothing of what was refused is left: neither its holds nor its IDs.
    gate.open();
    gate.fails.store(false, Ordering::SeqCst);
    let all = worker.send(alice, &buy("AAPL", "1000", "first-false")).await;
    is_queued(&mut worker, all).await;
    let orders: Orders = worker.ask_data(alice, &Request::Orders("alice".parse().unwrap())).await;
    assert_eq!(orders.orders.len(), 4);
    master.end().await.1.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_intake_has_not_kept_is_told_when_it_is_written() {
    events::keep();
    let (master, path, mut gate) = Gate::master(settles).await;
    let (mut worker, [alice, bob], early) = with_one_order(&master).await;
    gate.intake_fails.store(1, Ordering::SeqCst);
    master.tick().await;
    gate.arrives().await;
    // Many at once, so that some come while the first are being kept; nothing of them is told.
    let mut numbers = Vec::new();
    for n in 0..50 {
        let session = if n % 2 == 0 { alice } else { bob };
        numbers.push(worker.send(session, &buy("IBM", "1", &format!("late-{n}"))).await);
    }
    while !events::written(&["orders cannot be promised", "this intake does not want it"]) {
        tokio::task::yield_now().await;
    }
    let more = worker.send(bob, &buy("IBM", "1", "more")).await;
    let pong = worker.send(bob, &Request::Ping("here".into())).await;
    let next = worker.receive_where(|it| it.header.request >= numbers[0]).await;
    assert_eq!(next.header.request, pong);
    let crashed = copy(&path);
    gate.open();
    gate.pass(true);
    is_filled(&mut worker, early).await;
    numbers.push(more);
    for number in &numbers {
        is_queued(&mut worker, *number).await;
    }
    master.tick().await;
    for number in numbers {
        is_filled(&mut worker, number).await;
    }
    let ids: Vec<String> = (0..50).map(|n| format!("late-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).chain(["early", "more"]).collect();
    ends_well(master, &ids).await;
    // None was told, and none is there.
    let mut store = TestMaster::store_in(&crashed);
    assert_eq!(store.load().unwrap().books.open_orders().count(), 1);
    let mut intake = store.intake().unwrap().unwrap();
    let next = store.load().unwrap();
    assert_eq!(intake.kept(next.next_order, next.last_batch).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_promised_while_a_change_of_the_operators_waits() {
    let (master, path, mut gate) = Gate::master(settles).await;
    let (mut worker, [_, bob], early) = with_one_order(&master).await;
    let mut other = FakeWorker::connect(master.address, WORKERS[1]).await;
    other.ask(bob, &Request::LoginSession).await;
    master.tick().await;
    gate.arrives().await;
    let at = path.clone();
    let booting = tokio::spawn(async move {
        let name = "worker-1".into();
        operator(&at, AdminRequest::BootWorker { name, for_ms: None, compromised: true }).await
    });
    loop {
        match operator(&path, AdminRequest::Status {}).await.unwrap() {
            AdminReply::Status(status) if status.queue == 1 => break,
            _ => tokio::task::yield_now().await,
        }
    }
    other.send(bob, &buy("IBM", "1", "late")).await;
    other.ask(bob, &Request::Ping("it has come".into())).await;
    gate.open();
    gate.pass(true);
    is_filled(&mut worker, early).await;
    let booted = booting.await.unwrap().unwrap();
    assert!(matches!(booted, AdminReply::WorkerBooted(_)), "{booted:?}");
    ends_well(master, &["early"]).await;
}
