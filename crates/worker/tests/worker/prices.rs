//! Prices come as steps; a worker that missed one asks for the difference, and shows no mixture.

use papertrader_protocol::data::{AssetInfo, AssetValue};
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::push::SnapshotDifference;
use papertrader_protocol::wire::Wire;

use crate::Scene;
use crate::client::Client;
use crate::master::{LIST, Link, SEQUENCE, tick};

async fn asked(link: &mut Link) -> SnapshotDifference {
    let message = link.aside(Instruction::SnapshotDifference).await;
    assert!(message.header.link.is_some());
    SnapshotDifference::from_bytes(&message.data).unwrap()
}

async fn value(client: &mut Client) -> AssetValue {
    let request = client.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
    AssetValue::from_bytes(&client.data(request, Instruction::Data).await).unwrap()
}

/// What was said to the worker before has been taken by it.
async fn settled(client: &mut Client, link: &mut Link) {
    let request = client.send(Instruction::GetOrder, &["x"]).await;
    let order = link.expect(Instruction::GetOrder).await;
    link.data(order.header.request, b"x", false).await;
    client.data(request, Instruction::Data).await;
}

#[tokio::test]
async fn a_step_that_does_not_follow_is_not_taken_and_the_difference_is_asked_for() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    // At the start of the link it has nothing.
    let nothing = SnapshotDifference { sequence: 0, number: 0, list: 0 };
    assert_eq!(asked(&mut link).await, nothing);
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    link.push_change(2, vec![tick(200)]).await;
    // The third got lost. What comes before the answer is passed over, and asks no second time.
    link.push_step(3, 4, vec![tick(400)]).await;
    link.push_step(4, 5, vec![]).await;
    let have = SnapshotDifference { sequence: SEQUENCE, number: 2, list: LIST };
    assert_eq!(asked(&mut link).await, have);
    settled(&mut client, &mut link).await;
    let old = value(&mut client).await;
    assert_eq!((old.price.raw(), old.snapshot), (200, 2));
    link.push_difference(2, 5, vec![tick(500)]).await;
    link.push_step(5, 6, vec![]).await;
    settled(&mut client, &mut link).await;
    let new = value(&mut client).await;
    assert_eq!((new.price.raw(), new.snapshot), (500, 6));
    assert!(link.asides.iter().all(|m| m.instruction() != Instruction::SnapshotDifference));
    scene.end().await;
}

#[tokio::test]
async fn a_new_link_begins_with_the_prices_of_the_old_one() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    link.push_change(2, vec![tick(200)]).await;
    settled(&mut client, &mut link).await;
    drop(link);
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-1", 0).await;
    let have = SnapshotDifference { sequence: SEQUENCE, number: 2, list: LIST };
    assert_eq!(asked(&mut link).await, have);
    assert_eq!(value(&mut client).await.snapshot, 2);
    link.push_difference(2, 9, vec![tick(900)]).await;
    settled_on_new(&mut client, &mut link).await;
    let new = value(&mut client).await;
    assert_eq!((new.price.raw(), new.snapshot), (900, 9));
    let request = client.send(Instruction::GetAssetInfo, &["AAPL"]).await;
    let info = AssetInfo::from_bytes(&client.data(request, Instruction::Data).await).unwrap();
    assert_eq!((info.name.as_str(), info.close.raw()), ("AAPL", 900));
    scene.end().await;
}

/// The session is shown anew on each link; the test needs none of it.
async fn settled_on_new(client: &mut Client, link: &mut Link) {
    let request = client.send(Instruction::GetAssetValueDay, &["AAPL", "2005-01-03"]).await;
    loop {
        let message = link.next().await;
        if message.instruction() == Instruction::GetAssetValueDay {
            link.data(message.header.request, b"x", false).await;
            break;
        }
        assert_eq!(message.instruction(), Instruction::LoginSession);
    }
    client.data(request, Instruction::Data).await;
}
