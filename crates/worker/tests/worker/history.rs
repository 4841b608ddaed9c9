//! The past is asked for once and kept for as long as the worker knows what came since.

use std::collections::HashSet;

use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::money::{Price, Volume};
use papertrader_core::time::MarketTime;
use papertrader_protocol::Reason;
use papertrader_protocol::data::{Bars, Prediction};
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::wire::Wire;

use crate::client::Client;
use crate::master::{Link, tick};
use crate::{Scene, session};

const DAY: Instruction = Instruction::GetAssetValueDay;
const YEAR: Instruction = Instruction::GetAssetValueYear;
/// The year that holds the first nanoseconds of 1970, in which these masters live.
const NOW: [&str; 2] = ["AAPL", "1970-01-01"];

fn bar(start: i64, raw: i64) -> Bar {
    let price = Price::from_raw(raw).unwrap();
    let (start, volume) = (MarketTime(start), Volume::from_raw(1));
    Bar { start, open: price, high: price, low: price, close: price, volume }
}

/// An answer at the market time of snapshot `number`.
fn bars(number: u64, bars: Vec<Bar>) -> Bars {
    Bars {
        symbol: "AAPL".parse().unwrap(),
        resolution: Resolution::Month,
        interval: 1,
        market: MarketTime(76 + number as i64),
        source: "a test".into(),
        bars,
    }
}

fn forecast(number: u64) -> Vec<u8> {
    Prediction {
        symbol: "AAPL".parse().unwrap(),
        model: "none".into(),
        based_on: 1,
        confidence: 1,
        last: Price::from_raw(1).unwrap(),
        market: MarketTime(76 + number as i64),
        values: vec![],
    }
    .to_bytes()
}

/// What was said to the worker before has been taken by it, and it has said nothing else.
async fn settled(client: &mut Client, link: &mut Link) {
    let marker = client.send(Instruction::GetOrder, &["x"]).await;
    let asked = link.expect(Instruction::GetOrder).await;
    link.data(asked.header.request, b"x", false).await;
    client.data(marker, Instruction::Data).await;
}

async fn asking(scene: &Scene, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = scene.client().await;
        client.session = session(1);
        client.switch(State::DataTransfer).await;
        clients.push(client);
    }
    clients
}

/// Sockets for a thousand clients and their worker.
fn allow_sockets() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[tokio::test]
async fn a_thousand_clients_that_ask_for_the_same_year_are_one_question() {
    allow_sockets();
    let (scene, mut link) = Scene::ready(|config| config.max_connections_per_address = 2_000).await;
    drop(scene.logged_in(&mut link, 1).await);
    let mut clients = asking(&scene, 1_000).await;
    let mut requests = Vec::new();
    for client in &mut clients {
        requests.push(client.send(YEAR, &NOW).await);
    }
    let asked = link.expect(YEAR).await;
    assert!(asked.header.session.is_none());
    assert_eq!(asked.text(), "AAPL 1970-01-01");
    let answer = bars(1, vec![bar(0, 100)]).to_bytes();
    link.data(asked.header.request, &answer, false).await;
    for (client, request) in clients.iter_mut().zip(&requests) {
        assert_eq!(client.data(*request, Instruction::Data).await, answer);
    }
    // The next thing that the master hears is something else.
    settled(&mut clients[0], &mut link).await;
    let status = link.status(|status| status.cache_hits + status.cache_misses > 0).await;
    assert_eq!(status.cache_misses, 1);
    scene.end().await;
}

#[tokio::test]
async fn a_thousand_clients_that_ask_over_several_snapshots_are_one_question() {
    allow_sockets();
    let (scene, mut link) = Scene::ready(|config| config.max_connections_per_address = 2_000).await;
    drop(scene.logged_in(&mut link, 1).await);
    let mut clients = asking(&scene, 1_000).await;
    let mut shown = tick(100);
    let mut requests = Vec::new();
    let mut asked = None;
    for (number, group) in (2..).zip(clients.chunks_mut(250)) {
        for client in group.iter_mut() {
            requests.push(client.send(YEAR, &NOW).await);
        }
        if asked.is_none() {
            asked = Some(link.expect(YEAR).await);
        }
        shown = link.push_bar(number, &shown, &bar(75 + number as i64, 100 * number as i64)).await;
        settled_beside(&scene, &mut link).await;
    }
    // The question was answered at the first snapshot; four bars have come since.
    let told = bars(1, vec![Bar { volume: Volume::from_raw(9), ..bar(0, 100) }]).to_bytes();
    link.data(asked.unwrap().header.request, &told, false).await;
    let at_five = Bar {
        open: Price::from_raw(100).unwrap(),
        low: Price::from_raw(100).unwrap(),
        volume: Volume::from_raw(13),
        ..bar(0, 500)
    };
    let expected = bars(5, vec![at_five]).to_bytes();
    for (client, request) in clients.iter_mut().zip(&requests) {
        assert_eq!(client.data(*request, Instruction::Data).await, expected);
    }
    // And over more snapshots they are answered without a word to the master.
    for number in 6..9 {
        let new = bar(75 + number as i64, 10);
        shown = link.push_bar(number, &shown, &new).await;
        settled(&mut clients[0], &mut link).await;
        let volume = Volume::from_raw(8 + number as i64);
        let (low, close) = (new.low, new.close);
        let expected = bars(number, vec![Bar { low, close, volume, ..at_five }]).to_bytes();
        for client in &mut clients {
            let request = client.send(YEAR, &NOW).await;
            assert_eq!(client.data(request, Instruction::Data).await, expected);
        }
    }
    settled(&mut clients[0], &mut link).await;
    let status = link.status(|status| status.cache_hits >= 3_000).await;
    assert_eq!(status.cache_misses, 1);
    scene.end().await;
}

/// The same by a client of its own.
async fn settled_beside(scene: &Scene, link: &mut Link) {
    let mut client = asking(scene, 1).await.remove(0);
    settled(&mut client, link).await;
}

#[tokio::test]
async fn a_thousand_questions_are_one_and_the_answer_is_kept() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    drop(scene.logged_in(&mut link, 1).await);
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = scene.client().await;
        client.session = session(1);
        client.switch(State::DataTransfer).await;
        clients.push(client);
    }
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let mut requests = Vec::new();
    for client in &mut clients {
        let mut bytes = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..100 {
            let (request, frame) = client.encode(DAY, &["AAPL", "2005-01-03"]);
            bytes.extend(frame);
            numbers.push(request);
        }
        client.write(&bytes).await;
        requests.push(numbers);
    }
    let asked = link.expect(DAY).await;
    assert!(asked.header.session.is_none());
    assert_eq!(asked.text(), "AAPL 2005-01-03");
    link.data(asked.header.request, &sent, true).await;
    for (client, numbers) in clients.iter_mut().zip(&requests) {
        // In any order: what was judged after the answer came was answered at once.
        let mut left: HashSet<u64> = numbers.iter().copied().collect();
        for _ in numbers {
            let (request, data) = client.any_data().await;
            assert!(left.remove(&request));
            assert!(data == sent);
        }
    }
    // Final: kept over a new snapshot. The next thing that the master hears is something else.
    link.push_change(2, vec![tick(200)]).await;
    let client = &mut clients[0];
    let marker = client.send(Instruction::GetOrder, &["x"]).await;
    let order = link.expect(Instruction::GetOrder).await;
    link.data(order.header.request, b"x", false).await;
    client.data(marker, Instruction::Data).await;
    let request = client.send(DAY, &["AAPL", "2005-01-03"]).await;
    let first = client.expect(request, Instruction::Data).await;
    assert!(first.header.is_final);
    assert_eq!((first.header.number, first.header.max), (1, 7));
    scene.end().await;
}

#[tokio::test]
async fn what_cannot_be_brought_up_to_date_is_asked_again_after_a_snapshot() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let what = Instruction::GetAssetValuePredicted;
    let arguments = &["AAPL", "5"];

    let request = client.send(what, arguments).await;
    let asked = link.expect(what).await;
    link.data(asked.header.request, &forecast(1), false).await;
    assert_eq!(client.data(request, Instruction::Data).await, forecast(1));
    // From the cache: the master is not asked.
    let request = client.send(what, arguments).await;
    assert_eq!(client.data(request, Instruction::Data).await, forecast(1));

    link.push_change(2, vec![tick(200)]).await;
    settled(&mut client, &mut link).await;
    let request = client.send(what, arguments).await;
    let asked = link.expect(what).await;
    // A failure is not kept.
    link.failed(asked.header.request, Instruction::DataFail, Reason::NoForecast).await;
    client.expect_refusal(request, Instruction::DataFail, Reason::NoForecast).await;
    let request = client.send(what, arguments).await;
    let asked = link.expect(what).await;
    // The snapshot goes on between question and answer: the answer is given, but not kept.
    link.push_change(3, vec![tick(300)]).await;
    link.data(asked.header.request, &forecast(2), false).await;
    assert_eq!(client.data(request, Instruction::Data).await, forecast(2));
    let request = client.send(what, arguments).await;
    let asked = link.expect(what).await;
    link.data(asked.header.request, &forecast(3), false).await;
    assert_eq!(client.data(request, Instruction::Data).await, forecast(3));
    scene.end().await;
}

#[tokio::test]
async fn a_window_is_asked_for_again_when_snapshots_were_missed() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let request = client.send(YEAR, &NOW).await;
    let asked = link.expect(YEAR).await;
    let told = bars(1, vec![bar(0, 100)]).to_bytes();
    link.data(asked.header.request, &told, false).await;
    assert_eq!(client.data(request, Instruction::Data).await, told);
    // Without a bar it changes by its time.
    link.push_change(2, vec![]).await;
    settled(&mut client, &mut link).await;
    let request = client.send(YEAR, &NOW).await;
    let told = bars(2, vec![bar(0, 100)]).to_bytes();
    assert_eq!(client.data(request, Instruction::Data).await, told);
    // What happened between the second and the fifth is not known.
    link.push_difference(2, 5, vec![tick(500)]).await;
    settled(&mut client, &mut link).await;
    let request = client.send(YEAR, &NOW).await;
    let asked = link.expect(YEAR).await;
    let told = bars(5, vec![bar(0, 500)]).to_bytes();
    link.data(asked.header.request, &told, false).await;
    assert_eq!(client.data(request, Instruction::Data).await, told);
    scene.end().await;
}

#[tokio::test]
async fn a_question_after_a_new_snapshot_gets_no_answer_from_before_it() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let what = Instruction::GetAssetValuePredicted;
    let arguments = &["AAPL", "5"];
    let old = client.send(what, arguments).await;
    let asked = link.expect(what).await;
    link.push_change(2, vec![tick(200)]).await;
    settled(&mut client, &mut link).await;
    // Both join what is under way.
    let new = [client.send(what, arguments).await, client.send(what, arguments).await];
    settled(&mut client, &mut link).await;
    link.data(asked.header.request, &forecast(1), false).await;
    assert_eq!(client.data(old, Instruction::Data).await, forecast(1));
    // For those who may have seen the second snapshot it is asked once more.
    let asked = link.expect(what).await;
    link.data(asked.header.request, &forecast(2), false).await;
    for request in new {
        assert_eq!(client.data(request, Instruction::Data).await, forecast(2));
    }
    settled(&mut client, &mut link).await;
    scene.end().await;
}
