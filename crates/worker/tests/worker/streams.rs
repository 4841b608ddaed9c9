//! What each stream promises: the newest value to a slow reader, no lost order event, and going on
//! where it was.

use std::collections::HashMap;

use papertrader_core::names::Symbol;
use papertrader_core::order::Side;
use papertrader_core::time::{MarketTime, WallTime};
use papertrader_protocol::data::{
    AssetValue, AssetValues, OrderCursor, OrderEvent, OrderLine, OrderStatus,
};
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Reason};

use crate::client::Client;
use crate::master::{Link, tick};
use crate::{NEVER, Scene, session, soon};

/// The values of the push that must come next.
async fn values(client: &mut Client, request: u64) -> Vec<AssetValue> {
    let message = client.expect(request, Instruction::AssetValues).await;
    AssetValues::from_bytes(&message.data).unwrap().values
}

/// Subscribes, and says how many assets that is about.
async fn subscribe(
    client: &mut Client,
    instruction: Instruction,
    symbols: &[&str],
) -> (u64, String) {
    let request = client.send(instruction, symbols).await;
    let message = client.expect(request, Instruction::Subscribed).await;
    (request, message.text().to_owned())
}

#[tokio::test]
async fn a_subscriber_hears_of_what_changes_and_of_nothing_else() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.refused(Instruction::SubscribeAssets, &["ELSE"], Reason::UnknownAsset).await;
    let (request, count) = subscribe(&mut client, Instruction::SubscribeAssets, &["AAPL"]).await;
    assert_eq!(count, "1");
    let first = values(&mut client, request).await;
    assert_eq!((first.len(), first[0].price.raw(), first[0].snapshot), (1, 100, 1));
    link.push_change(2, vec![tick(200)]).await;
    assert_eq!(values(&mut client, request).await[0].price.raw(), 200);
    // Nothing of the next one, in either state.
    client.switch(State::DataTransfer).await;
    link.push_change(3, vec![]).await;
    link.push_change(4, vec![tick(400)]).await;
    let next = values(&mut client, request).await;
    assert_eq!((next[0].price.raw(), next[0].snapshot), (400, 4));
    // All: NONE has no price yet.
    let (request, count) = subscribe(&mut client, Instruction::SubscribeAssets, &["*"]).await;
    assert_eq!(count, "2");
    assert_eq!(values(&mut client, request).await.len(), 1);
    let mut none = tick(7);
    none.instrument = 2;
    link.push_change(5, vec![none]).await;
    let symbol: Symbol = "NONE".parse().unwrap();
    assert_eq!(values(&mut client, request).await[0].symbol, symbol);
    let (_, count) = subscribe(&mut client, Instruction::UnsubscribeAssets, &["*"]).await;
    assert_eq!(count, "0");
    link.push_change(6, vec![tick(600)]).await;
    let request = client.send(Instruction::Ping, &["x"]).await;
    client.expect(request, Instruction::Pong).await;
    scene.end().await;
}

#[tokio::test]
async fn a_slow_reader_gets_the_newest_value_and_no_queue() {
    const SNAPSHOTS: u64 = 20_000;
    let (scene, mut link) = Scene::ready(|config| {
        config.send_buffer = 4_096;
        config.ping_interval = std::time::Duration::from_millis(10);
    })
    .await;
    let mut slow = scene.logged_in(&mut link, 1).await;
    let (request, _) = subscribe(&mut slow, Instruction::SubscribeAssets, &["AAPL"]).await;
    let mut other = scene.logged_in(&mut link, 2).await;
    other.switch(State::DataTransfer).await;
    let mut most = 0;
    for number in 2..=SNAPSHOTS {
        link.push_change(number, vec![tick(number as i64)]).await;
        if number % 64 == 0 {
            // The worker has taken all of them, one by one.
            soon(async {
                loop {
                    let asked = other.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
                    let data = other.data(asked, Instruction::Data).await;
                    if AssetValue::from_bytes(&data).unwrap().snapshot == number {
                        break;
                    }
                }
            })
            .await;
        }
        if number % 4_096 == 0 {
            let status = link.status(|_| true).await;
            most = most.max(status.outgoing_bytes);
        }
    }
    // A queue would hold two megabytes.
    assert!(most < 100_000, "{most} bytes wait");
    let (mut last, mut count) = (0, 0);
    while last < SNAPSHOTS {
        for value in values(&mut slow, request).await {
            assert!(value.snapshot > last, "{} after {last}", value.snapshot);
            let price = if value.snapshot == 1 { 100 } else { value.snapshot };
            assert_eq!(value.price.raw() as u64, price);
            (last, count) = (value.snapshot, count + 1);
        }
    }
    assert!(count < SNAPSHOTS / 2, "{count} values were kept for it");
    scene.end().await;
}

#[tokio::test]
async fn a_price_stream_ends_with_its_session() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (request, _) = subscribe(&mut client, Instruction::SubscribeAssets, &["AAPL"]).await;
    values(&mut client, request).await;
    link.end_session(session(1)).await;
    link.push_change(2, vec![tick(200)]).await;
    let reason = Reason::SessionUnknown;
    client.expect_refusal(request, Instruction::SubscribeFail, reason).await;
    link.push_change(3, vec![tick(300)]).await;
    client.refused(Instruction::SubscribeAssets, &["AAPL"], reason).await;
    scene.end().await;
}

fn cursor(number: u64) -> OrderCursor {
    OrderCursor { order: number, decided: WallTime(number as i64 * 10), open: number + 1 }
}

/// An event of the master's, whose own number means nothing.
async fn tell(link: &mut Link, request: u64, order: u64) {
    let line = OrderLine {
        order,
        client_order_id: format!("order-{order}"),
        side: Side::Buy,
        symbol: "AAPL".parse().unwrap(),
        quantity: "1".parse().unwrap(),
        hold: Default::default(),
        status: OrderStatus::Queued,
        reason: String::new(),
        fill: None,
        received: WallTime(1),
        received_market: MarketTime(1),
        decided: None,
        decided_market: None,
    };
    let event = OrderEvent { number: 0, cursor: cursor(order), order: line };
    let instruction = Instruction::OrderEvent;
    let header = Header::new(instruction.message_type(), instruction as u16, request);
    let mut out = Vec::new();
    header.encode(&event.to_bytes(), &mut out);
    link.write(&out).await;
}

/// The next event: its number, its order, its cursor.
async fn heard(client: &mut Client, request: u64) -> (u64, u64, OrderCursor) {
    let message = client.expect(request, Instruction::OrderEvent).await;
    let event = OrderEvent::from_bytes(&message.data).unwrap();
    (event.number, event.order.order, event.cursor)
}

/// Follows orders; the request, and its number on the link.
async fn follow(client: &mut Client, link: &mut Link, from: &str) -> (u64, u64) {
    let request = client.send(Instruction::SubscribeOrders, &[from]).await;
    let asked = link.expect(Instruction::SubscribeOrders).await;
    assert_eq!((asked.text(), asked.header.session), (from, client.session));
    let number = asked.header.request;
    link.returned(number, &Return::Subscribed(cursor(1).to_string())).await;
    let answer = client.expect(request, Instruction::Subscribed).await;
    assert_eq!(answer.text(), cursor(1).to_string());
    (request, number)
}

#[tokio::test]
async fn an_order_stream_goes_on_over_a_new_link_where_it_was() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.refused(Instruction::SubscribeOrders, &["1.2"], Reason::BadCursor).await;
    let (request, number) = follow(&mut client, &mut link, "0").await;
    for order in 2..=5 {
        tell(&mut link, number, order).await;
        assert_eq!(heard(&mut client, request).await, (order - 1, order, cursor(order)));
    }
    drop(link);
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-1", 0).await;
    link.push_all(9).await;
    let resumed = link.grant(session(1), NEVER).await;
    assert_eq!(resumed.instruction(), Instruction::LoginSession);
    let again = link.expect(Instruction::SubscribeOrders).await;
    assert_eq!((again.text(), again.header.session), (&*cursor(5).to_string(), session(1)));
    let number = again.header.request;
    link.returned(number, &Return::Subscribed(cursor(5).to_string())).await;
    tell(&mut link, number, 6).await;
    assert_eq!(heard(&mut client, request).await, (5, 6, cursor(6)));
    // It ends with a word when the master will not go on.
    link.failed(number, Instruction::SubscribeFail, Reason::SessionExpired).await;
    client.expect_refusal(request, Instruction::SubscribeFail, Reason::SessionExpired).await;
    client.refused(Instruction::SubscribeOrders, &["0"], Reason::SessionUnknown).await;
    scene.end().await;
}

#[tokio::test]
async fn the_master_hears_when_nobody_follows_any_more() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (before, first) = follow(&mut client, &mut link, "0").await;
    // Another one of the same session takes its place, and no third while that is not accepted.
    let request = client.send(Instruction::SubscribeOrders, &["0"]).await;
    let why = Reason::TooManyRequests;
    client.expect_refusal(before, Instruction::SubscribeFail, why).await;
    assert_eq!(link.expect(Instruction::StreamEnded).await.header.request, first);
    let second = link.expect(Instruction::SubscribeOrders).await.header.request;
    client.refused(Instruction::SubscribeOrders, &["0"], why).await;
    link.returned(second, &Return::Subscribed(cursor(1).to_string())).await;
    client.expect(request, Instruction::Subscribed).await;
    tell(&mut link, first, 2).await;
    tell(&mut link, second, 3).await;
    assert_eq!(heard(&mut client, request).await.1, 3);
    drop(client);
    link.aside(Instruction::SessionPresence).await;
    let ended = soon(async {
        loop {
            tell(&mut link, second, 4).await;
            let message = link.next().await;
            if message.instruction() == Instruction::StreamEnded {
                return message.header.request;
            }
        }
    })
    .await;
    assert_eq!(ended, second);
    scene.end().await;
}

#[tokio::test]
async fn no_order_event_is_dropped_for_a_reader_that_reads_late() {
    const EVENTS: u64 = 20_000;
    let (scene, mut link) = Scene::ready(|config| config.send_buffer = 4_096).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (request, number) = follow(&mut client, &mut link, "0").await;
    for order in 1..=EVENTS {
        tell(&mut link, number, order).await;
    }
    let mut seen = HashMap::new();
    for expected in 1..=EVENTS {
        let (number, order, _) = heard(&mut client, request).await;
        assert_eq!((number, order), (expected, expected));
        seen.insert(order, number);
    }
    assert_eq!(seen.len() as u64, EVENTS);
    scene.end().await;
}

/// `subscribeOrders` "ends with the session (then `subscribeFail` comes under its number)".
#[tokio::test]
async fn an_order_stream_ends_with_its_session() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (request, _) = follow(&mut client, &mut link, "0").await;
    link.end_session(session(1)).await;
    client.expect_refusal(request, Instruction::SubscribeFail, Reason::SessionUnknown).await;
    scene.end().await;
}

/// `tooManyRequests`: "another one took this one's place".
#[tokio::test]
async fn a_stream_whose_place_was_taken_is_told_so() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (first, _) = follow(&mut client, &mut link, "0").await;
    client.send(Instruction::SubscribeOrders, &["0"]).await;
    client.expect_refusal(first, Instruction::SubscribeFail, Reason::TooManyRequests).await;
    scene.end().await;
}

/// "A worker whose link is lost asks the next master for what was missed ..., and its clients notice
/// nothing": a master that is busy with all the others is asked again.
#[tokio::test]
async fn a_stream_survives_a_master_that_is_busy_when_it_resumes() {
    let (scene, mut link) = Scene::ready(|config| {
        config.ping_interval = std::time::Duration::from_millis(20);
    })
    .await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let (request, number) = follow(&mut client, &mut link, "0").await;
    tell(&mut link, number, 2).await;
    heard(&mut client, request).await;
    drop(link);
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-1", 0).await;
    link.push_all(9).await;
    link.grant(session(1), NEVER).await;
    let again = link.expect(Instruction::SubscribeOrders).await;
    link.failed(again.header.request, Instruction::SubscribeFail, Reason::Busy).await;
    let again = link.expect(Instruction::SubscribeOrders).await;
    assert_eq!(again.text(), cursor(2).to_string());
    scene.end().await;
}
