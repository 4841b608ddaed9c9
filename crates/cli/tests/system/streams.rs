//! Streams through the SDK, a worker and the master: no order event is left out, whatever was lost in
//! between, and prices go on at another worker.

use papertrader_client::{Client, Options, OrderStream, Password};
use papertrader_core::names::{ClientOrderId, UserName};
use papertrader_core::order::Side;
use papertrader_protocol::data::OrderStatus;

use crate::scene::{Scene, Setup, soon};

async fn account(scene: &Scene, worker: usize, name: &str) -> Client {
    let (user, password): (UserName, _) = (name.parse().unwrap(), Password::new("secret-pw"));
    let options = Options::default();
    let client = Client::connect(&[scene.server(worker)], options).await.unwrap();
    let email = format!("{name}@example.org").parse().unwrap();
    client.register(&user, &email, &password).await.unwrap();
    client.login(&user, &password, true).await.unwrap();
    client
}

/// Another connection with the same session.
async fn again(scene: &Scene, worker: usize, client: &Client) -> Client {
    let other = Client::connect(&[scene.server(worker)], Options::default()).await.unwrap();
    other.resume(client.session().unwrap()).await.unwrap();
    other
}

async fn buy(client: &Client, id: &str) {
    let id: ClientOrderId = id.parse().unwrap();
    let (aapl, one) = ("AAPL".parse().unwrap(), "1".parse().unwrap());
    client.order(Side::Buy, aapl, one, id).await.unwrap();
}

/// The next events, as `id status`.
async fn heard(stream: &mut OrderStream, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let order = soon(stream.next()).await.unwrap();
        all.push(format!("{} {}", order.client_order_id, order.status.name()));
    }
    all
}

#[tokio::test]
async fn orders_are_heard_of_whoever_places_them_and_nobody_elses() {
    let mut scene = Scene::start(Setup { workers: 2, ..Setup::default() }).await;
    let alice = account(&scene, 0, "alice").await;
    let bob = account(&scene, 0, "bob").await;
    let follower = again(&scene, 1, &alice).await;
    buy(&alice, "before").await;
    let mut stream = follower.watch_orders(None).await.unwrap();
    buy(&bob, "bobs").await;
    buy(&alice, "one").await;
    assert_eq!(heard(&mut stream, 1).await, ["one queued"]);
    scene.tick().await;
    let mut both = heard(&mut stream, 2).await;
    both.sort();
    assert_eq!(both, ["before filled", "one filled"]);
    buy(&alice, "two").await;
    alice.cancel(&"two".parse().unwrap()).await.unwrap();
    assert_eq!(heard(&mut stream, 2).await, ["two queued", "two cancelled"]);
    // Refused at once, in a way that binds the ID.
    let (aapl, many) = ("AAPL".parse().unwrap(), "1000000".parse().unwrap());
    alice.order(Side::Sell, aapl, many, "much".parse().unwrap()).await.unwrap_err();
    assert_eq!(heard(&mut stream, 1).await, ["much rejected"]);
    scene.end().await;
}

#[tokio::test]
async fn what_was_missed_is_told_first_and_once() {
    let mut scene = Scene::start(Setup::default()).await;
    let alice = account(&scene, 0, "alice").await;
    let mut stream = again(&scene, 0, &alice).await.watch_orders(None).await.unwrap();
    buy(&alice, "seen").await;
    buy(&alice, "open").await;
    assert_eq!(heard(&mut stream, 2).await, ["seen queued", "open queued"]);
    let cursor = stream.cursor();
    drop(stream);
    // Away: two are filled, one is placed and filled, one is placed.
    buy(&alice, "missed").await;
    scene.tick().await;
    buy(&alice, "new").await;
    let late = again(&scene, 0, &alice).await;
    let mut stream = late.watch_orders(cursor).await.unwrap();
    buy(&alice, "live").await;
    let all = heard(&mut stream, 5).await;
    assert_eq!(all, ["seen filled", "open filled", "missed filled", "new queued", "live queued"]);
    // From the last one nothing is missing.
    let cursor = stream.cursor();
    let mut other = late.watch_orders(cursor).await.unwrap();
    scene.tick().await;
    let mut all = heard(&mut other, 2).await;
    all.sort();
    assert_eq!(all, ["live filled", "new filled"]);
    scene.end().await;
}

#[tokio::test]
async fn streams_go_on_at_another_worker_when_theirs_is_gone() {
    let mut scene = Scene::start(Setup { workers: 2, ..Setup::default() }).await;
    let alice = account(&scene, 1, "alice").await;
    let follower = again(&scene, 0, &alice).await;
    let mut orders = follower.watch_orders(None).await.unwrap();
    let symbols = ["AAPL".parse().unwrap(), "IBM".parse().unwrap()];
    let mut prices = follower.watch_prices(&symbols).await.unwrap();
    let first = soon(prices.next()).await.unwrap();
    assert_eq!(first.len(), 2);
    buy(&alice, "one").await;
    assert_eq!(heard(&mut orders, 1).await, ["one queued"]);
    scene.stop_worker(0).await;
    buy(&alice, "two").await;
    scene.tick().await;
    let mut all = heard(&mut orders, 2).await;
    all.sort();
    assert_eq!(all, ["one filled", "two filled"]);
    loop {
        let values = soon(prices.next()).await.unwrap();
        assert!(values.iter().all(|value| value.snapshot > first[0].snapshot));
        if values.iter().any(|value| value.market == scene.market) {
            break;
        }
    }
    assert_eq!(follower.server(), scene.server(1));
    scene.end().await;
}

#[tokio::test]
async fn every_event_of_a_busy_account_is_told_over_cut_connections() {
    let mut scene = Scene::start(Setup { workers: 2, ..Setup::default() }).await;
    let alice = account(&scene, 0, "alice").await;
    let mut cursor = None;
    let mut queued = std::collections::BTreeSet::new();
    let mut filled = std::collections::BTreeSet::new();
    let begin = again(&scene, 1, &alice).await.watch_orders(None).await.unwrap().cursor();
    for round in 0..12 {
        // A follower hears some of it and is gone, in the middle of a settlement or between two.
        let from = cursor.or(begin);
        let mut stream = again(&scene, round % 2, &alice).await.watch_orders(from).await.unwrap();
        for n in 0..20 {
            buy(&alice, &format!("{round}-{n}")).await;
        }
        scene.start_tick().await;
        let last = format!("{round}-7");
        for count in 0.. {
            // Some are gone before they have heard all that they had missed.
            if round % 2 == 0 && count == round * 2 || queued.contains(&last) {
                break;
            }
            let order = soon(stream.next()).await.unwrap();
            let seen = match order.status {
                OrderStatus::Queued => &mut queued,
                OrderStatus::Filled => &mut filled,
                other => panic!("{other:?}"),
            };
            seen.insert(order.client_order_id);
        }
        cursor = stream.cursor();
        drop(stream);
        scene.wait_for_market().await;
    }
    let last = again(&scene, 0, &alice).await;
    let mut stream = last.watch_orders(cursor.or(begin)).await.unwrap();
    while filled.len() < 240 {
        let order = soon(stream.next()).await.unwrap();
        if order.status == OrderStatus::Filled {
            filled.insert(order.client_order_id);
        }
    }
    assert_eq!(filled.len(), 240);
    assert!(queued.len() >= 6 * 8, "{}", queued.len());
    scene.end().await;
}
