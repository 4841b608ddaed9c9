//! What one user may write, what the port takes, what the log is told of strangers; and that the
//! operator sees it all.

use std::path::Path;
use std::time::Duration;

use papertrader_core::ids::{AccountId, WorkerId};
use papertrader_master::admin::message::{LimitsInForce, RateLimit, Status};
use papertrader_master::admin::{AdminReply, AdminRequest};
use papertrader_master::{Config, Rate};
use papertrader_node::link::ConnectError;
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Failure, Instruction, Reason, Request, SessionId};
use papertrader_store::Store;
use papertrader_store::sqlite::SqliteStore;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::events;
use crate::harness::*;
use crate::hostile::started;

async fn status(dir: &Path) -> Status {
    match operator(dir, AdminRequest::Status {}).await.unwrap() {
        AdminReply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many places of the port are taken.
async fn until_taken(dir: &Path, expected: u64, strangers: u64) {
    loop {
        let port = status(dir).await.port;
        if (port.expected, port.strangers) == (expected, strangers) {
            return;
        }
    }
}

async fn boot(dir: &Path, name: &str, for_ms: Option<u64>) {
    let boot = AdminRequest::BootWorker { name: name.into(), for_ms, compromised: false };
    let reply = operator(dir, boot).await.unwrap();
    assert!(matches!(reply, AdminReply::WorkerBooted(_)), "{reply:?}");
}

fn cancel(id: &str) -> Request {
    Request::CancelOrder(id.parse().unwrap())
}

async fn refusal(
    worker: &mut FakeWorker,
    session: SessionId,
    request: &Request,
) -> (Instruction, Failure) {
    match worker.ask(session, request).await {
        Return::Failed(instruction, failure) => (instruction, failure),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_user_who_orders_too_fast_is_refused_and_nobody_else_is() {
    let mut setup = Setup::default();
    setup.config.limits.orders_account = Rate { burst: 5, every: Duration::from_secs(2) };
    let (master, dir, mut one, mut two) = started(setup).await;
    let alice = one.new_session("alice").await;
    let bob = one.new_session("bob").await;
    let resumed = two.ask(alice, &Request::LoginSession).await;
    assert!(matches!(resumed, Return::Session(_)), "{resumed:?}");
    master.pass_time(3_600);
    // What is written is charged, whatever becomes of it.
    let first = one.ask(alice, &buy("AAPL", "1", "first")).await;
    assert!(matches!(first, Return::OrderQueued(_)), "{first:?}");
    let (_, poor) = refusal(&mut one, alice, &buy("AAPL", "100000", "poor")).await;
    assert_eq!(poor.reason, Reason::InsufficientCash);
    let (_, unknown) = refusal(&mut one, alice, &buy("NONE", "1", "none")).await;
    assert_eq!(unknown.reason, Reason::UnknownAsset);
    let mark = one.ask(alice, &cancel("mark")).await;
    assert!(matches!(mark, Return::Cancelled(_)), "{mark:?}");
    for id in ["second", "third"] {
        let queued = one.ask(alice, &buy("AAPL", "1", id)).await;
        assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    }

    // Through whichever worker.
    use Instruction as I;
    for (request, instruction) in [
        (buy("AAPL", "1", "late"), I::PurchaseFail),
        (sell("AAPL", "1", "late"), I::SellFail),
        (cancel("late"), I::CancelFail),
        (cancel("third"), I::CancelFail),
    ] {
        for worker in [&mut one, &mut two] {
            let (said, failure) = refusal(worker, alice, &request).await;
            assert_eq!((said, failure.reason), (instruction, Reason::TooManyAttempts));
            assert_eq!(failure.text, "too many orders: try again in 2 s");
        }
    }
    // What writes nothing is not charged: a worker asks again for all its orders after a lost link.
    // And others have their own.
    for worker in [&mut one, &mut two] {
        assert_eq!(worker.ask(alice, &buy("AAPL", "1", "first")).await, first);
        let again = worker.ask(alice, &cancel("mark")).await;
        assert!(matches!(again, Return::Cancelled(_)), "{again:?}");
    }
    let known = one.send(alice, &Request::Order("first".parse().unwrap())).await;
    assert!(!one.data(known).await.is_empty());
    let other = one.ask(bob, &buy("AAPL", "1", "late")).await;
    assert!(matches!(other, Return::OrderQueued(_)), "{other:?}");
    assert_eq!(status(&dir).await.attempts.orders_refused, 8);

    master.pass_time(1);
    let (_, failure) = refusal(&mut one, alice, &buy("AAPL", "1", "late")).await;
    assert_eq!(failure.text, "too many orders: try again in 1 s");
    master.pass_time(1);
    // The ID was never bound: not to this order, and not to its cancellation.
    let late = one.ask(alice, &buy("IBM", "2", "late")).await;
    assert!(matches!(late, Return::OrderQueued(_)), "{late:?}");
    let (dir, result) = master.end().await;
    result.unwrap();
    let mut store = SqliteStore::open(&dir.path().join("test.db"), "other").unwrap();
    let stored = store.reader().unwrap().orders(AccountId(1), 1_000).unwrap();
    let mut ids: Vec<String> =
        stored.iter().map(|record| record.order.request.client_order_id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["first", "late", "poor", "second", "third"]);
}

#[tokio::test]
async fn the_operator_sees_the_limits_and_the_places_of_the_port() {
    let mut setup = Setup::default();
    setup.config.port.expected = 3;
    setup.config.port.strangers = 1;
    setup.config.limits.orders_account.burst = 77;
    let limits = LimitsInForce::from(&setup.config);
    let (master, dir, _one, _two) = started(setup).await;
    let seen = status(&dir).await;
    assert_eq!(seen.limits, limits);
    assert_eq!(seen.limits.orders_account, RateLimit { burst: 77, every_ms: 20 });
    assert_eq!((seen.limits.port.expected, seen.limits.port.stay_ms), (3, 120_000));
    assert_eq!((seen.port.expected, seen.port.strangers), (2, 0));

    let third = TcpStream::connect(master.address).await.unwrap();
    let mut fourth = TcpStream::connect(master.address).await.unwrap();
    assert!(!matches!(fourth.read(&mut [0]).await, Ok(1..)));
    let seen = status(&dir).await.port;
    assert_eq!((seen.expected, seen.expected_turned_away), (3, 1));
    drop(third);

    // Where all are booted, be it for a time, everybody is a stranger.
    boot(&dir, "worker-0", Some(3_600_000)).await;
    boot(&dir, "worker-1", None).await;
    until_taken(&dir, 0, 0).await;
    let _stranger = FakeWorker::connect_as_client(master.address).await;
    let mut other = TcpStream::connect(master.address).await.unwrap();
    assert!(!matches!(other.read(&mut [0]).await, Ok(1..)));
    let seen = status(&dir).await.port;
    assert_eq!((seen.expected, seen.strangers), (0, 1));
    assert_eq!((seen.expected_turned_away, seen.strangers_turned_away), (1, 1));
    master.pass_time(3_600);
    FakeWorker::connect_in_time_of(&master, WORKERS[0]).await;
    master.end().await.1.unwrap();
}

#[tokio::test]
async fn many_strangers_do_not_fill_the_log_nor_hide_why_a_worker_is_refused() {
    let (master, dir, _one, _two) = started(Setup::default()).await;
    boot(&dir, "worker-1", None).await;
    master.pass_time(3_600);
    let refused = async |id| {
        let side = side(id, &KEYS.workers[1]);
        let told = FakeWorker::try_connect(master.address, &side).await.err();
        assert!(matches!(told, Some(ConnectError::Refused(_))), "{told:?}");
    };
    let written = async |texts: &[&str]| {
        while !events::written(texts) {
            tokio::task::yield_now().await;
        }
    };
    let unknown = WorkerId([77; 16]);
    for _ in 0..57 {
        refused(unknown).await;
    }
    until_taken(&dir, 1, 0).await;
    let name = unknown.to_string();
    assert_eq!(events::about(&name).len(), 20);
    refused(WORKERS[1]).await;
    written(&["a worker was refused", "worker worker-1 was booted"]).await;
    master.pass_time(60);
    refused(unknown).await;
    written(&["more refusals were left out", "of=strangers", "number=37"]).await;
    until_taken(&dir, 1, 0).await;
    assert_eq!(events::about(&name).len(), 21);
    master.end().await.1.unwrap();
}

#[test]
fn the_defaults_leave_room_for_whoever_trades_in_earnest() {
    let rate = Config::default().limits.orders_account;
    assert!(rate.burst >= Config::default().rules.max_open_orders);
    assert!(rate.every <= Duration::from_millis(50));
}
