//! Orders: stamped, sent in order of time, never lost and never answered with more than is known.

use std::time::Duration;

use papertrader_protocol::Reason;
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::{Return, SessionGrant};

use crate::master::{Link, Master};
use crate::{NEVER, Scene, session};

const BUY: Instruction = Instruction::PurchaseAsset;

/// Confirms the session that the worker resumes first on a new link.
async fn resume(link: &mut Link, byte: u8) {
    let login = link.expect(Instruction::LoginSession).await;
    assert_eq!(login.header.session, session(byte));
    let grant = SessionGrant { session: session(byte), expires: NEVER, name: "alice".into() };
    link.returned(login.header.request, &Return::Session(grant)).await;
}

#[tokio::test]
async fn orders_are_stamped_and_sent_in_order_of_time_with_a_deadline_in_the_masters_clock() {
    let hour = 3_600_000_000_000;
    let scene = Scene::unlinked(|_| {}).await;
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-1", hour).await;
    link.push_all(1).await;
    let mut one = scene.logged_in(&mut link, 1).await;
    let mut two = scene.logged_in(&mut link, 2).await;
    for n in 0..50 {
        one.send(BUY, &["AAPL", "1", &format!("one-{n}")]).await;
        two.send(Instruction::SellAsset, &["AAPL", "1", &format!("two-{n}")]).await;
    }
    one.send(Instruction::CancelOrder, &["one-0"]).await;
    let (mut last_time, mut last_sequence) = (i64::MIN, 0);
    let mut orders = [0, 0];
    let mut cancelled = false;
    while orders != [50, 50] || !cancelled {
        let message = link.next().await;
        let stamp = message.header.link.unwrap();
        assert!(stamp.received_at.0 > last_time && stamp.sequence > last_sequence);
        (last_time, last_sequence) = (stamp.received_at.0, stamp.sequence);
        if message.instruction() == Instruction::CancelOrder {
            assert_eq!(orders[0], 50, "a cancellation overtook an order");
            cancelled = true;
            continue;
        }
        let who = usize::from(message.instruction() == Instruction::SellAsset);
        let name = ["one", "two"][who];
        assert_eq!(message.text(), format!("AAPL 1 {name}-{}", orders[who]));
        orders[who] += 1;
        let wait = 10_000_000_000;
        let offset = stamp.deadline.0 - stamp.received_at.0 - wait;
        // As near as the link's own delay lets it be known.
        assert!((offset - hour).abs() < hour / 2, "{offset}");
    }
    scene.end().await;
}

#[tokio::test]
async fn an_outcome_reaches_its_client_in_either_state() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    let order = link.expect(BUY).await;
    link.queue(&order).await;
    client.expect(request, Instruction::OrderQueued).await;
    client.switch(State::DataTransfer).await;
    link.fill(&order).await;
    client.expect(request, Instruction::PurchaseSuccess).await;
    client.switch(State::Command).await;
    // A refusal is passed on as it is.
    let request = client.send(BUY, &["AAPL", "1", "y"]).await;
    let order = link.expect(BUY).await;
    let number = order.header.request;
    link.failed(number, Instruction::PurchaseFail, Reason::InsufficientCash).await;
    client.expect_refusal(request, Instruction::PurchaseFail, Reason::InsufficientCash).await;
    scene.end().await;
}

#[tokio::test]
async fn an_order_that_was_never_sent_will_not_happen() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_millis(100)).await;
    let Scene { worker, trigger, master } = scene;
    let scene = Scene { worker, trigger, master: Master::start().await };
    let mut client = scene.logged_in(&mut link, 1).await;
    let address = master.away();
    drop(link);
    // Until this is refused the link may still count as up.
    let hash = "ab".repeat(32);
    client.refused(Instruction::Login, &["alice", &hash, "true"], Reason::Unavailable).await;
    client.refused(BUY, &["AAPL", "1", "x"], Reason::DeadlinePassed).await;
    let master = Master::back(address).await;
    let mut link = master.link().await;
    resume(&mut link, 1).await;
    // The next order is the first that the master hears of.
    client.send(BUY, &["AAPL", "1", "y"]).await;
    assert_eq!(link.expect(BUY).await.text(), "AAPL 1 y");
    scene.end().await;
}

#[tokio::test]
async fn an_order_without_an_answer_is_sent_again_with_the_same_content() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_secs(600)).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    let queued_request = client.send(BUY, &["AAPL", "2", "q"]).await;
    let first = link.expect(BUY).await;
    let queued = link.expect(BUY).await;
    link.queue(&queued).await;
    client.expect(queued_request, Instruction::OrderQueued).await;
    drop(link);
    let mut link = scene.master.link().await;
    resume(&mut link, 1).await;
    let again = link.expect(BUY).await;
    let queued_again = link.expect(BUY).await;
    for (before, after) in [(&first, &again), (&queued, &queued_again)] {
        assert_eq!(before.data, after.data);
        assert_eq!(before.header.session, after.header.session);
        let (a, b) = (before.header.link.unwrap(), after.header.link.unwrap());
        assert_eq!((a.received_at, a.sequence, a.client), (b.received_at, b.sequence, b.client));
        // A link's own numbers are not the other's: its sequence will do on each.
        assert_eq!((before.header.request, after.header.request), (a.sequence, a.sequence));
    }
    // The client hears once that an order is queued, and then the outcomes of both.
    link.queue(&again).await;
    client.expect(request, Instruction::OrderQueued).await;
    link.queue(&queued_again).await;
    link.fill(&queued_again).await;
    client.expect(queued_request, Instruction::PurchaseSuccess).await;
    link.fill(&again).await;
    client.expect(request, Instruction::PurchaseSuccess).await;
    scene.end().await;
}

#[tokio::test]
async fn an_order_without_an_answer_is_sent_again_to_the_other_master() {
    let other = Master::start().await;
    let (scene, mut link) = {
        // The other takes connections and says nothing, as a machine that stands still does.
        let second = other.address();
        Scene::ready(|c| c.masters.insert(0, second)).await
    };
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    let before = link.expect(BUY).await;
    let Scene { worker, trigger, master } = scene;
    master.away();
    drop(link);
    let mut link = other.link_of_many().await;
    resume(&mut link, 1).await;
    let again = link.expect(BUY).await;
    assert_eq!((again.text(), again.header.session), (before.text(), before.header.session));
    link.queue(&again).await;
    client.expect(request, Instruction::OrderQueued).await;
    link.fill(&again).await;
    client.expect(request, Instruction::PurchaseSuccess).await;
    Scene { worker, trigger, master: other }.end().await;
}

#[tokio::test]
async fn an_order_that_was_sent_and_never_answered_has_an_unknown_outcome() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_millis(200)).await;
    let Scene { worker, trigger, master } = scene;
    let scene = Scene { worker, trigger, master: Master::start().await };
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    link.expect(BUY).await;
    let address = master.away();
    drop(link);
    client.expect_refusal(request, Instruction::PurchaseFail, Reason::OutcomeUnknown).await;
    let master = Master::back(address).await;
    let mut link = master.link().await;
    resume(&mut link, 1).await;
    client.send(BUY, &["AAPL", "1", "y"]).await;
    assert_eq!(link.expect(BUY).await.text(), "AAPL 1 y");
    scene.end().await;
}

#[tokio::test]
async fn a_master_that_says_nothing_of_an_order_makes_nobody_wait_for_ever() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_millis(200)).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    let silent = link.expect(BUY).await;
    client.expect_refusal(request, Instruction::PurchaseFail, Reason::OutcomeUnknown).await;
    // The same order again, on the same link: now the master is quick, and what it says of the first
    // copy is not heard twice.
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    let again = link.expect(BUY).await;
    link.queue(&silent).await;
    link.queue(&again).await;
    client.expect(request, Instruction::OrderQueued).await;
    link.fill(&silent).await;
    link.fill(&again).await;
    client.expect(request, Instruction::PurchaseSuccess).await;
    scene.end().await;
}

#[tokio::test]
async fn a_second_copy_that_is_not_listened_to_says_nothing_of_the_first() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_secs(600)).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(BUY, &["AAPL", "1", "x"]).await;
    link.expect(BUY).await;
    drop(link);
    let mut link = scene.master.link().await;
    let login = link.expect(Instruction::LoginSession).await;
    link.failed(login.header.request, Instruction::LoginFail, Reason::SessionExpired).await;
    let again = link.expect(BUY).await;
    let number = again.header.request;
    link.failed(number, Instruction::PurchaseFail, Reason::SessionUnknown).await;
    client.expect_refusal(request, Instruction::PurchaseFail, Reason::OutcomeUnknown).await;
    scene.end().await;
}

#[tokio::test]
async fn an_order_is_sent_again_even_if_its_client_has_left() {
    let (scene, mut link) = Scene::ready(|c| c.order_wait = Duration::from_secs(600)).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.send(BUY, &["AAPL", "1", "x"]).await;
    link.expect(BUY).await;
    drop(client);
    let other = scene.logged_in(&mut link, 1).await;
    drop(link);
    let mut link = scene.master.link().await;
    resume(&mut link, 1).await;
    assert_eq!(link.expect(BUY).await.text(), "AAPL 1 x");
    drop(other);
    scene.end().await;
}
