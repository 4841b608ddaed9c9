//! The past is asked for once and kept for as long as it is true.

use std::collections::HashSet;

use papertrader_protocol::Reason;
use papertrader_protocol::instruction::{Instruction, State};

use crate::master::tick;
use crate::{Scene, session};

const DAY: Instruction = Instruction::GetAssetValueDay;

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
async fn what_can_change_is_asked_again_after_a_snapshot() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let arguments = &["AAPL", "2005-01-03"];

    let request = client.send(DAY, arguments).await;
    let asked = link.expect(DAY).await;
    link.data(asked.header.request, b"one", false).await;
    assert_eq!(client.data(request, Instruction::Data).await, b"one");
    // From the cache: the master is not asked.
    let request = client.send(DAY, arguments).await;
    assert_eq!(client.data(request, Instruction::Data).await, b"one");

    link.push_change(2, vec![tick(200)]).await;
    let other = client.send(Instruction::GetAssetValuePredicted, &["AAPL", "5"]).await;
    let asked = link.expect(Instruction::GetAssetValuePredicted).await;
    // A failure is not kept, and the snapshot was taken before it.
    link.failed(asked.header.request, Instruction::DataFail, Reason::NoForecast).await;
    client.expect_refusal(other, Instruction::DataFail, Reason::NoForecast).await;
    let request = client.send(DAY, arguments).await;
    let asked = link.expect(DAY).await;

    // The snapshot goes on between question and answer: the answer is given, but not kept.
    link.push_change(3, vec![tick(300)]).await;
    link.data(asked.header.request, b"two", false).await;
    assert_eq!(client.data(request, Instruction::Data).await, b"two");
    let request = client.send(DAY, arguments).await;
    let asked = link.expect(DAY).await;
    link.data(asked.header.request, b"three", false).await;
    assert_eq!(client.data(request, Instruction::Data).await, b"three");

    let other = client.send(Instruction::GetAssetValuePredicted, &["AAPL", "5"]).await;
    let asked = link.expect(Instruction::GetAssetValuePredicted).await;
    link.data(asked.header.request, b"forecast", false).await;
    assert_eq!(client.data(other, Instruction::Data).await, b"forecast");
    scene.end().await;
}

#[tokio::test]
async fn a_question_after_a_new_snapshot_does_not_join_an_older_one() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let arguments = &["AAPL", "2005-01-03"];
    let old = client.send(DAY, arguments).await;
    let old_asked = link.expect(DAY).await;
    link.push_change(2, vec![tick(200)]).await;
    let marker = client.send(Instruction::GetOrder, &["x"]).await;
    let asked = link.expect(Instruction::GetOrder).await;
    link.data(asked.header.request, b"x", false).await;
    client.data(marker, Instruction::Data).await;
    let new = client.send(DAY, arguments).await;
    let new_asked = link.expect(DAY).await;
    assert_ne!(old_asked.header.request, new_asked.header.request);
    link.data(new_asked.header.request, b"new", false).await;
    assert_eq!(client.data(new, Instruction::Data).await, b"new");
    link.data(old_asked.header.request, b"old", false).await;
    assert_eq!(client.data(old, Instruction::Data).await, b"old");
    let again = client.send(DAY, arguments).await;
    assert_eq!(client.data(again, Instruction::Data).await, b"new");
    scene.end().await;
}
