//! What one client, one address, and all of them together may take; and what the master hears of
//! the worker.

use std::time::Duration;

use papertrader_protocol::Reason;
use papertrader_protocol::instruction::{Instruction, State};

use crate::client::Client;
use crate::{Scene, session, soon};

/// How often tests hear of the state of the worker.
const OFTEN: Duration = Duration::from_millis(10);

async fn ping(client: &mut Client) {
    let request = client.send(Instruction::Ping, &["x"]).await;
    client.expect(request, Instruction::Pong).await;
}

#[tokio::test]
async fn one_address_leaves_room_for_others() {
    let (scene, mut link) = Scene::ready(|config| {
        config.max_connections_per_address = 2;
        config.ping_interval = OFTEN;
    })
    .await;
    let worker = scene.worker.address();
    let mut first = Client::connect_from("127.0.0.2", worker).await;
    let mut second = Client::connect_from("127.0.0.2", worker).await;
    let mut third = Client::connect_from("127.0.0.2", worker).await;
    third.expect_refusal(0, Instruction::Goodbye, Reason::TooManyConnections).await;
    assert!(third.read().await.is_none());
    let mut other = Client::connect_from("127.0.0.3", worker).await;
    for client in [&mut first, &mut second, &mut other] {
        ping(client).await;
    }
    link.status(|status| (status.clients, status.refused_connections) == (3, 1)).await;
    // A place that was left is free.
    drop(first);
    link.status(|status| status.clients == 2).await;
    ping(&mut Client::connect_from("127.0.0.2", worker).await).await;
    scene.end().await;
}

#[tokio::test]
async fn what_comes_too_fast_is_answered_later_and_in_order() {
    let (scene, mut link) = Scene::ready(|config| {
        config.max_requests_per_second = 500;
        config.ping_interval = OFTEN;
    })
    .await;
    let mut client = scene.client().await;
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..750 {
        let (request, frame) = client.encode(Instruction::Ping, &["x"]);
        bytes.extend(frame);
        requests.push(request);
    }
    client.write(&bytes).await;
    for request in requests {
        client.expect(request, Instruction::Pong).await;
    }
    link.status(|status| status.throttled_requests > 0).await;
    scene.end().await;
}

#[tokio::test]
async fn who_says_nothing_and_has_no_session_is_told_so_and_closed() {
    let (scene, mut link) = Scene::ready(|config| {
        config.idle_timeout = Duration::from_secs(1);
        config.ping_interval = OFTEN;
    })
    .await;
    let mut known = scene.logged_in(&mut link, 1).await;
    let mut unknown = scene.client().await;
    unknown.expect_refusal(0, Instruction::Goodbye, Reason::Idle).await;
    assert!(unknown.read().await.is_none());
    // It was silent for longer.
    ping(&mut known).await;
    link.status(|status| (status.cut_connections, status.clients) == (1, 1)).await;
    link.end_session(session(1)).await;
    known.expect_refusal(0, Instruction::Goodbye, Reason::Idle).await;
    assert!(known.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn pings_do_not_keep_a_connection_that_uses_no_session() {
    let (scene, _link) =
        Scene::ready(|config| config.idle_timeout = Duration::from_millis(50)).await;
    let mut client = scene.client().await;
    let goodbye = soon(async {
        loop {
            client.send(Instruction::Ping, &["x"]).await;
            let message = client.next().await;
            if message.instruction() != Instruction::Pong {
                return message;
            }
        }
    })
    .await;
    assert_eq!(goodbye.instruction(), Instruction::Goodbye);
    assert!(goodbye.text().starts_with("idle "), "{}", goodbye.text());
    scene.end().await;
}

#[tokio::test]
async fn when_too_much_waits_in_all_who_asks_for_more_is_cut_off_and_no_other() {
    const ANSWER: usize = 3_000_000;
    let (scene, mut link) = Scene::ready(|config| {
        config.max_answer_bytes = 4_000_000;
        config.max_outgoing_bytes = 4_000_000;
        config.max_outgoing_total = 8_000_000;
        config.ping_interval = OFTEN;
    })
    .await;
    let mut quick = scene.logged_in(&mut link, 1).await;
    quick.switch(State::DataTransfer).await;
    let ask = async |link: &mut crate::master::Link| {
        let mut client = scene.client().await;
        client.session = session(1);
        client.switch(State::DataTransfer).await;
        let request = client.send(Instruction::GetUserTransactionHistory, &["alice"]).await;
        let asked = link.expect(Instruction::GetUserTransactionHistory).await;
        link.data(asked.header.request, &vec![7; ANSWER], false).await;
        (client, request)
    };
    let (mut first, first_request) = ask(&mut link).await;
    let (mut second, second_request) = ask(&mut link).await;
    link.status(|status| status.outgoing_bytes >= 2 * ANSWER as u64).await;
    let (mut third, _) = ask(&mut link).await;
    assert!(third.read().await.is_none());
    link.status(|status| status.cut_connections == 1).await;
    // Small answers go on, and what was there before is not touched.
    let request = quick.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
    quick.data(request, Instruction::Data).await;
    assert_eq!(first.data(first_request, Instruction::Data).await.len(), ANSWER);
    // There is room again.
    link.status(|status| status.outgoing_bytes < 2 * ANSWER as u64).await;
    let (mut fourth, request) = ask(&mut link).await;
    assert_eq!(fourth.data(request, Instruction::Data).await.len(), ANSWER);
    assert_eq!(second.data(second_request, Instruction::Data).await.len(), ANSWER);
    link.status(|status| status.outgoing_bytes == 0 && status.cut_connections == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn an_answer_for_many_waits_once() {
    const ANSWER: usize = 3_000_000;
    let (scene, mut link) = Scene::ready(|config| {
        config.cache_bytes = 0;
        config.max_answer_bytes = 4_000_000;
        config.max_outgoing_bytes = 4_000_000;
        config.max_outgoing_total = 4_000_000;
        config.ping_interval = OFTEN;
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = scene.logged_in(&mut link, 1).await;
        client.switch(State::DataTransfer).await;
        clients.push((client, 0));
    }
    for (client, request) in &mut clients {
        *request = client.send(Instruction::GetAssetValueAllTime, &["AAPL"]).await;
        // When this has passed, so has what was asked before.
        client.send(Instruction::GetOrder, &["x"]).await;
    }
    let mut asked = None;
    for _ in 0..=clients.len() {
        let message = link.next().await;
        let number = message.header.request;
        match message.instruction() {
            Instruction::GetOrder => link.data(number, b"order", false).await,
            _ => assert_eq!(asked.replace(number), None),
        }
    }
    link.data(asked.unwrap(), &vec![7; ANSWER], true).await;
    link.status(|status| status.outgoing_bytes >= ANSWER as u64).await;
    for (client, request) in &mut clients {
        assert_eq!(client.any_data().await.1, b"order");
        assert_eq!(client.data(*request, Instruction::Data).await.len(), ANSWER);
    }
    link.status(|status| status.outgoing_bytes == 0 && status.cut_connections == 0).await;
    scene.end().await;
}

#[tokio::test]
async fn the_master_hears_how_the_worker_is() {
    let (scene, mut link) = Scene::ready(|config| {
        config.ping_interval = OFTEN;
        config.cache_bytes = 1_000_000;
    })
    .await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let question = ["AAPL", "2005-01-03"];
    for round in 0..3 {
        let request = client.send(Instruction::GetAssetValueDay, &question).await;
        if round == 0 {
            let asked = link.expect(Instruction::GetAssetValueDay).await;
            link.data(asked.header.request, &[1; 1_000], true).await;
        }
        client.data(request, Instruction::Data).await;
    }
    client.switch(State::Command).await;
    client.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
    let order = link.expect(Instruction::PurchaseAsset).await;
    let status = link.status(|status| status.orders == 1 && status.round_trip > 0).await;
    assert!(status.started.0 > 0);
    assert_eq!((status.clients, status.sessions), (1, 1));
    assert_eq!((status.cache_hits, status.cache_misses), (2, 1));
    assert!((1_000..2_000).contains(&status.cache_bytes), "{}", status.cache_bytes);
    assert_eq!(status.cache_limit, 1_000_000);
    link.queue(&order).await;
    link.status(|status| status.orders == 0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_clock_that_is_set_on_a_living_link_moves_the_deadlines_with_it() {
    const HOUR: i64 = 3_600_000_000_000;
    let (scene, mut link) = Scene::ready(|config| config.ping_interval = OFTEN).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    for ahead in [HOUR, -HOUR] {
        link.ahead = ahead;
        let near = |offset: i64| (offset - ahead).abs() < HOUR / 2;
        link.status(|status| near(status.clock_offset)).await;
        client.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
        let stamp = link.expect(Instruction::PurchaseAsset).await.header.link.unwrap();
        assert!(near(stamp.deadline.0 - stamp.received_at.0), "{stamp:?}");
    }
    scene.end().await;
}
