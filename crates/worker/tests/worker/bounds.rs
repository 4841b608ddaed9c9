//! Bad bytes, slow and greedy clients, and the end of the worker.

use std::time::Duration;

use papertrader_protocol::Reason;
use papertrader_protocol::instruction::{Instruction, State};
use tokio::io::AsyncWriteExt;

use crate::{Scene, soon};

const FAIL: Instruction = Instruction::CommandFail;

#[tokio::test]
async fn bytes_that_cannot_be_framed_close_the_connection_with_a_reason() {
    let (scene, _link) = Scene::ready(|_| {}).await;
    let cases: [(usize, u8, Reason); 4] = [
        (14, 9, Reason::BadVersion),
        (5, 0xff, Reason::FrameTooLarge),
        (1, 9, Reason::BadFrame),
        (15, 0x80, Reason::BadFrame),
    ];
    for (at, byte, reason) in cases {
        let mut client = scene.client().await;
        // What came before is still answered.
        let (request, mut bytes) = client.encode(Instruction::Ping, &["x"]);
        let (_, mut bad) = client.encode(Instruction::Ping, &["y"]);
        bad[at] = byte;
        bytes.extend(bad);
        client.write(&bytes).await;
        client.expect(request, Instruction::Pong).await;
        client.expect_refusal(0, FAIL, reason).await;
        assert!(client.read().await.is_none());
    }
    // A link header is not a client's to send.
    let mut client = scene.client().await;
    let (request, mut bytes) = client.encode(Instruction::Ping, &["y"]);
    bytes[15] = 1;
    bytes.splice(40..40, [0; 64]);
    client.write(&bytes).await;
    client.expect_refusal(request, FAIL, Reason::BadFrame).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn a_cut_message_ends_the_connection_and_no_other() {
    let (scene, _link) = Scene::ready(|_| {}).await;
    let mut other = scene.client().await;
    let mut client = scene.client().await;
    let (_, bytes) = client.encode(Instruction::Ping, &["x"]);
    client.write(&bytes[..bytes.len() - 1]).await;
    client.writer.shutdown().await.unwrap();
    assert!(client.read().await.is_none());
    let request = other.send(Instruction::Ping, &["x"]).await;
    other.expect(request, Instruction::Pong).await;
    scene.end().await;
}

#[tokio::test]
async fn a_message_that_is_never_finished_ends_the_connection() {
    let (scene, _link) = Scene::ready(|c| c.frame_timeout = Duration::from_millis(50)).await;
    let mut client = scene.client().await;
    let (_, bytes) = client.encode(Instruction::Ping, &["x"]);
    client.write(&bytes[..7]).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_nobody_and_is_cut_off() {
    let (scene, mut link) = Scene::ready(|c| {
        c.threads = 1;
        c.write_timeout = Duration::from_millis(300);
    })
    .await;
    let mut slow = scene.logged_in(&mut link, 1).await;
    slow.switch(State::DataTransfer).await;
    let mut quick = scene.client().await;
    quick.session = slow.session;
    quick.switch(State::DataTransfer).await;
    // Far more than the buffers between them hold, all from one answer in the cache.
    let (_, frame) = slow.encode(Instruction::GetAssetValueDay, &["AAPL", "2005-01-03"]);
    slow.write(&frame).await;
    let asked = link.expect(Instruction::GetAssetValueDay).await;
    link.data(asked.header.request, &vec![1; 1_000_000], true).await;
    let mut written = 0;
    let cut_off = loop {
        match soon(slow.writer.write_all(&frame)).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        let request = quick.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
        quick.expect(request, Instruction::Data).await;
    };
    assert!(written > 0, "{cut_off}");
    let request = quick.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
    quick.expect(request, Instruction::Data).await;
    scene.end().await;
}

#[tokio::test]
async fn too_many_requests_and_too_many_clients_are_refused() {
    let (scene, mut link) = Scene::ready(|c| {
        c.max_requests_per_connection = 2;
        c.max_outcomes_per_connection = 1;
        c.max_connections = 1;
    })
    .await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let mut second = scene.client().await;
    second.expect_refusal(0, Instruction::Goodbye, Reason::Busy).await;
    assert!(second.read().await.is_none());

    let buy = Instruction::PurchaseAsset;
    let one = client.send(buy, &["AAPL", "1", "a"]).await;
    let two = client.send(buy, &["AAPL", "1", "b"]).await;
    client.refused(buy, &["AAPL", "1", "c"], Reason::TooManyRequests).await;
    let order = link.expect(buy).await;
    link.queue(&order).await;
    client.expect(one, Instruction::OrderQueued).await;
    // One waits for its outcome: no more are taken until it is there.
    client.refused(buy, &["AAPL", "1", "c"], Reason::TooManyRequests).await;
    let other = link.expect(buy).await;
    link.failed(other.header.request, Instruction::PurchaseFail, Reason::NoPrice).await;
    client.expect_refusal(two, Instruction::PurchaseFail, Reason::NoPrice).await;
    link.fill(&order).await;
    client.expect(one, Instruction::PurchaseSuccess).await;
    client.send(buy, &["AAPL", "1", "d"]).await;
    assert_eq!(link.expect(buy).await.text(), "AAPL 1 d");
    scene.end().await;
}

#[tokio::test]
async fn goodbye_closes_when_everything_is_answered() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.client().await;
    let hash = "ab".repeat(32);
    let request = client.send(Instruction::Login, &["alice", &hash, "true"]).await;
    client.send(Instruction::Goodbye, &["bye"]).await;
    let login = link.expect(Instruction::Login).await;
    link.failed(login.header.request, Instruction::LoginFail, Reason::BadCredentials).await;
    client.expect_refusal(request, Instruction::LoginFail, Reason::BadCredentials).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn the_end_says_goodbye_and_waits_for_orders_on_their_way() {
    let (scene, mut link) = Scene::ready(|c| c.drain = Duration::from_secs(600)).await;
    let mut idle = scene.client().await;
    let request = idle.send(Instruction::Ping, &["x"]).await;
    idle.expect(request, Instruction::Pong).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let request = client.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
    let order = link.expect(Instruction::PurchaseAsset).await;
    scene.trigger.pull();
    idle.expect_refusal(0, Instruction::Goodbye, Reason::ShuttingDown).await;
    assert!(idle.read().await.is_none());
    client.expect_refusal(0, Instruction::Goodbye, Reason::ShuttingDown).await;
    link.queue(&order).await;
    client.expect(request, Instruction::OrderQueued).await;
    assert!(client.read().await.is_none());
    drop((client, idle));
    let goodbye = link.closed().await.expect("a goodbye");
    assert!(goodbye.text().starts_with("shuttingDown"));
    scene.end().await;
}

#[tokio::test]
async fn the_end_does_not_wait_forever_and_says_what_is_known() {
    let (scene, mut link) = Scene::ready(|c| {
        c.drain = Duration::from_millis(50);
        c.order_wait = Duration::from_secs(600);
    })
    .await;
    let mut client = scene.logged_in(&mut link, 1).await;
    let sent = client.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
    link.expect(Instruction::PurchaseAsset).await;
    scene.trigger.pull();
    client.expect_refusal(0, Instruction::Goodbye, Reason::ShuttingDown).await;
    client.expect_refusal(sent, Instruction::PurchaseFail, Reason::OutcomeUnknown).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn the_end_without_a_master_drops_orders_that_were_never_sent() {
    let scene = Scene::unlinked(|c| c.drain = Duration::from_millis(50)).await;
    let (mut link, _) = scene.master.accept().await;
    link.welcome("deployment-1", 0).await;
    link.push_all(1).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    drop(link);
    let hash = "ab".repeat(32);
    client.refused(Instruction::Login, &["alice", &hash, "true"], Reason::Unavailable).await;
    let request = client.send(Instruction::PurchaseAsset, &["AAPL", "1", "x"]).await;
    let ping = client.send(Instruction::Ping, &["x"]).await;
    client.expect(ping, Instruction::Pong).await;
    scene.trigger.pull();
    client.expect_refusal(0, Instruction::Goodbye, Reason::ShuttingDown).await;
    client.expect_refusal(request, Instruction::PurchaseFail, Reason::DeadlinePassed).await;
    assert!(client.read().await.is_none());
    scene.end().await;
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused() {
    let (scene, mut link) = Scene::ready(|c| c.max_answer_bytes = 100_000).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let request = client.send(Instruction::GetUserTransactionHistory, &["alice"]).await;
    let asked = link.expect(Instruction::GetUserTransactionHistory).await;
    link.data(asked.header.request, &vec![1; 100_001], false).await;
    client.expect_refusal(request, Instruction::DataFail, Reason::RangeTooLarge).await;
    let request = client.send(Instruction::GetUserTransactionHistory, &["alice"]).await;
    let asked = link.expect(Instruction::GetUserTransactionHistory).await;
    link.data(asked.header.request, &vec![1; 100_000], false).await;
    assert_eq!(client.data(request, Instruction::Data).await.len(), 100_000);
    scene.end().await;
}
