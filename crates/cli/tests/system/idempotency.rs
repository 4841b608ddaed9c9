//! A client order ID means one order, whichever worker brings it and whatever became of it; and a
//! client goes on at another worker when its own is gone.

use papertrader_client::{Client, ClientError, Options, Password};
use papertrader_core::order::Side;
use papertrader_protocol::data::{History, HistoryKind, OrderLine, OrderStatus, Portfolio};
use papertrader_protocol::instruction::State;
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Instruction, Reason};

use crate::peer::Peer;
use crate::scene::{Scene, Setup, region};

use Instruction as I;

async fn two_workers() -> Scene {
    Scene::start(Setup { workers: 2, ..Setup::default() }).await
}

/// How much of AAPL the owner of this session has.
async fn shares(peer: &mut Peer, name: &str) -> String {
    peer.switch(State::DataTransfer).await;
    let portfolio: Portfolio = peer.data(I::GetUserPortfolio, &[name]).await;
    peer.switch(State::Command).await;
    let positions = portfolio.private.unwrap().positions;
    positions.first().map_or("0".into(), |line| line.quantity.to_string())
}

#[tokio::test]
async fn the_same_order_through_two_workers_happens_once_and_both_hear_the_same() {
    let mut scene = two_workers().await;
    let mut first = scene.trader(0, "alice").await;
    let mut second = scene.peer(1).await;
    // The second worker does not know the session until it is shown it.
    second.session = first.session;
    second.refused(I::PurchaseAsset, &["AAPL", "10", "one"], Reason::SessionUnknown).await;
    second.resume(first.session).await;

    // Sent at the same time, so that they may meet in one batch.
    let a = first.send(I::PurchaseAsset, &["AAPL", "10", "one"]).await;
    let b = second.send(I::PurchaseAsset, &["AAPL", "10", "one"]).await;
    let queued = first.answer(a).await;
    assert!(matches!(queued, Return::OrderQueued(_)), "{queued:?}");
    assert_eq!(second.answer(b).await, queued);
    // Again on the same connection; the quantity written otherwise is the same content.
    let (c, again) = first.place(I::PurchaseAsset, "AAPL", "10.0", "one").await;
    assert_eq!(Return::OrderQueued(again), queued);

    // Other content is a conflict, through either worker.
    for peer in [&mut first, &mut second] {
        for other in [["AAPL", "11", "one"], ["IBM", "10", "one"]] {
            peer.refused(I::PurchaseAsset, &other, Reason::ClientOrderIdConflict).await;
        }
        let sale = ["AAPL", "10", "one"];
        peer.refused(I::SellAsset, &sale, Reason::ClientOrderIdConflict).await;
    }

    scene.tick().await;
    let filled = first.answer(a).await;
    assert!(matches!(filled, Return::Filled(Side::Buy, _)), "{filled:?}");
    assert_eq!(second.answer(b).await, filled);
    assert_eq!(first.answer(c).await, filled);

    // Sent once more when it is done: the outcome alone.
    for peer in [&mut first, &mut second] {
        assert_eq!(peer.ask(I::PurchaseAsset, &["AAPL", "10", "one"]).await, filled);
        let other = ["AAPL", "9", "one"];
        peer.refused(I::PurchaseAsset, &other, Reason::ClientOrderIdConflict).await;
        peer.refused(I::CancelOrder, &["one"], Reason::OrderDone).await;
    }
    scene.tick().await;
    assert_eq!(shares(&mut first, "alice").await, "10");
    assert_eq!(shares(&mut second, "alice").await, "10");

    // The ID is the account's own: another may use the same.
    let mut other = scene.trader(1, "bob").await;
    let (request, _) = other.place(I::PurchaseAsset, "IBM", "1", "one").await;
    scene.tick().await;
    assert_eq!(other.fill(request).await.symbol.as_str(), "IBM");
    scene.end().await;
}

#[tokio::test]
async fn many_copies_at_once_buy_once() {
    let mut scene = two_workers().await;
    let mut first = scene.trader(0, "alice").await;
    let mut second = scene.peer(1).await;
    second.resume(first.session).await;
    let mut sent = Vec::new();
    for copy in 0..12 {
        let peer = if copy % 2 == 0 { &mut first } else { &mut second };
        sent.push(peer.send(I::PurchaseAsset, &["AAPL", "10", "copies"]).await);
    }
    let mut answers = Vec::new();
    for (copy, request) in sent.iter().enumerate() {
        let peer = if copy % 2 == 0 { &mut first } else { &mut second };
        answers.push(peer.answer(*request).await);
    }
    assert!(matches!(answers[0], Return::OrderQueued(_)), "{:?}", answers[0]);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    scene.tick().await;
    let outcome = first.answer(sent[0]).await;
    assert!(matches!(outcome, Return::Filled(..)), "{outcome:?}");
    for (copy, request) in sent.iter().enumerate().skip(1) {
        let peer = if copy % 2 == 0 { &mut first } else { &mut second };
        assert_eq!(peer.answer(*request).await, outcome);
    }
    assert_eq!(shares(&mut first, "alice").await, "10");
    first.switch(State::DataTransfer).await;
    let history: History = first.data(I::GetUserTransactionHistory, &["alice"]).await;
    let lines = history.private.unwrap().lines;
    let kinds: Vec<HistoryKind> = lines.iter().map(|line| line.kind).collect();
    assert_eq!(kinds, [HistoryKind::Buy, HistoryKind::Grant]);
    scene.end().await;
}

#[tokio::test]
async fn a_refusal_that_binds_the_id_stays_and_a_cancelled_order_never_happens() {
    let mut scene = two_workers().await;
    let mut first = scene.trader(0, "alice").await;
    let mut second = scene.peer(1).await;
    second.resume(first.session).await;

    // What the account cannot pay is refused for good under that ID.
    let dear = ["AAPL", "100000", "dear"];
    first.refused(I::PurchaseAsset, &dear, Reason::InsufficientCash).await;
    second.refused(I::PurchaseAsset, &dear, Reason::InsufficientCash).await;
    let affordable = ["AAPL", "1", "dear"];
    second.refused(I::PurchaseAsset, &affordable, Reason::ClientOrderIdConflict).await;

    // Cancelled through the other worker: who waits for the outcome hears of it.
    let (request, _) = first.place(I::PurchaseAsset, "AAPL", "5", "gone").await;
    let id = "gone".parse().unwrap();
    assert_eq!(second.ask(I::CancelOrder, &["gone"]).await, Return::Cancelled(id));
    first.refusal(request, I::PurchaseAsset, Reason::OrderCancelled).await;
    // Cancelling again changes nothing and says the same.
    let id = "gone".parse().unwrap();
    assert_eq!(first.ask(I::CancelOrder, &["gone"]).await, Return::Cancelled(id));
    let late = ["AAPL", "5", "gone"];
    second.refused(I::PurchaseAsset, &late, Reason::OrderCancelled).await;

    // Cancelled before it came: a late copy is refused.
    let id = "early".parse().unwrap();
    assert_eq!(second.ask(I::CancelOrder, &["early"]).await, Return::Cancelled(id));
    first.refused(I::PurchaseAsset, &["AAPL", "5", "early"], Reason::OrderCancelled).await;
    first.refused(I::SellAsset, &["AAPL", "5", "early"], Reason::OrderCancelled).await;

    scene.tick().await;
    assert_eq!(shares(&mut first, "alice").await, "0");
    first.switch(State::DataTransfer).await;
    let order: OrderLine = first.data(I::GetOrder, &["gone"]).await;
    assert_eq!(order.status, OrderStatus::Cancelled);
    first.refused(I::GetOrder, &["early"], Reason::OrderCancelled).await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_goes_to_the_worker_of_its_region_and_elsewhere_when_that_is_lost() {
    let mut scene = two_workers().await;
    let name = "alice".parse().unwrap();
    let email = "alice@example.org".parse().unwrap();
    let password = Password::new("secret-pw");
    let options = Options { region: Some(region(2)), ..Options::default() };
    let client = Client::connect(&[scene.server(0)], options).await.unwrap();
    client.register(&name, &email, &password).await.unwrap();
    assert_eq!(client.server(), scene.server(0));
    client.login(&name, &password, true).await.unwrap();
    assert_eq!(client.server(), scene.server(1));
    let list = client.worker_list().await.unwrap();
    let regions: Vec<&str> = list.workers.iter().map(|line| line.region.as_str()).collect();
    assert_eq!(regions, ["region-1", "region-2"]);
    scene.stop_worker(1).await;
    client.orders(&name).await.unwrap();
    assert_eq!(client.server(), scene.server(0));
    client.close().await;
    scene.end().await;
}

#[tokio::test]
async fn a_client_goes_on_at_the_second_worker_with_the_same_session() {
    let mut scene = two_workers().await;
    let name = "alice".parse().unwrap();
    let email = "alice@example.org".parse().unwrap();
    let password = Password::new("secret-pw");
    // The SDK is told of the first worker only; the second one it has from the list.
    let given = [scene.server(0)];
    let second = scene.server(1);
    let client = Client::connect(&given, Options::default()).await.unwrap();
    client.register(&name, &email, &password).await.unwrap();
    let grant = client.login(&name, &password, true).await.unwrap();
    assert!(client.listed().contains(&second));
    let (aapl, ten) = ("AAPL".parse().unwrap(), "10".parse().unwrap());
    let id: papertrader_core::names::ClientOrderId = "over-the-gap".parse().unwrap();
    let mut order = client.order(Side::Buy, aapl, ten, id.clone()).await.unwrap();
    let number = order.queued().unwrap().order;
    assert_eq!(client.server(), given[0]);

    scene.stop_worker(0).await;

    // The next command succeeds, with the same session and the order in its place.
    let orders = client.orders(&name).await.unwrap();
    assert_eq!(client.server(), second);
    assert_eq!(client.session(), Some(grant.session));
    assert_eq!(orders.orders.len(), 1);
    assert_eq!(orders.orders[0].status, OrderStatus::Queued);
    let again = client.order(Side::Buy, aapl, ten, id.clone()).await.unwrap();
    assert_eq!(again.queued().unwrap().order, number);
    let conflict = client.order(Side::Sell, aapl, ten, id).await.unwrap_err();
    let ClientError::Refused(failure) = conflict else { panic!("{conflict:?}") };
    assert_eq!(failure.reason, Reason::ClientOrderIdConflict);

    // The outcome of the order that was placed through the first worker comes through the second.
    scene.tick().await;
    let fill = order.outcome().await.unwrap();
    assert_eq!(fill.order, number);
    let portfolio = client.portfolio(&name).await.unwrap().private.unwrap();
    assert_eq!(portfolio.positions.len(), 1);
    assert_eq!(portfolio.positions[0].quantity, ten);
    client.close().await;
    scene.end().await;
}
