//! A real worker over loopback, between a scripted master and raw clients.
//!
//! No test waits for time to pass: where a deadline matters, its answer is awaited.

// A test may fail by a panic, and so may what only tests use.
#![allow(clippy::unwrap_used)]

mod bounds;
mod client;
mod encrypted;
mod history;
mod limits;
mod master;
mod orders;
mod sessions;

use std::time::Duration;

use papertrader_core::time::WallTime;
use papertrader_node::clock::Clock;
use papertrader_node::shutdown::{self, Trigger};
use papertrader_protocol::data::{AssetInfo, AssetList, AssetValue, WorkerList};
use papertrader_protocol::instruction::{Instruction, State};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Frame, Reason, SessionId};
use papertrader_worker::{Config, Worker};

use client::Client;
use master::{Link, Master, WORKER, tick, worker_list, worker_side};

/// Fails a test that would hang; says nothing about speed.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("a test hangs")
}

pub(crate) const NEVER: WallTime = WallTime(i64::MAX);

pub(crate) fn session(byte: u8) -> SessionId {
    SessionId::from_bytes([byte; 16])
}

/// A worker with its master.
pub(crate) struct Scene {
    pub(crate) worker: Worker,
    pub(crate) trigger: Trigger,
    pub(crate) master: Master,
}

impl Scene {
    /// A worker whose link is not made yet.
    pub(crate) async fn unlinked(change: impl FnOnce(&mut Config)) -> Scene {
        let master = Master::start().await;
        let (worker, trigger) = start_worker(&master.address(), change);
        Scene { worker, trigger, master }
    }

    /// A worker that is ready, and its link.
    pub(crate) async fn ready(change: impl FnOnce(&mut Config)) -> (Scene, Link) {
        let scene = Scene::unlinked(change).await;
        let link = scene.master.link().await;
        assert!(soon(scene.worker.ready()).await);
        (scene, link)
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.worker.address()).await
    }

    /// A client that has logged in, with the session of this byte.
    pub(crate) async fn logged_in(&self, link: &mut Link, byte: u8) -> Client {
        let mut client = self.client().await;
        let hash = "ab".repeat(32);
        let request = client.send(Instruction::Login, &["alice", &hash, "false"]).await;
        link.grant(session(byte), NEVER).await;
        client.expect(request, Instruction::SessionId).await;
        client.data(request, Instruction::WorkerList).await;
        client.session = session(byte);
        client
    }

    pub(crate) async fn end(self) {
        self.trigger.pull();
        soon(self.worker.ended()).await;
        self.worker.join().unwrap();
    }
}

pub(crate) fn start_worker(master: &str, change: impl FnOnce(&mut Config)) -> (Worker, Trigger) {
    let mut config = Config::new(worker_side(), master);
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.threads = 2;
    config.reconnect_delay_min = Duration::from_millis(5);
    config.reconnect_delay_max = Duration::from_millis(20);
    config.refused_delay = Duration::from_millis(20);
    config.drain = Duration::from_millis(200);
    // A scripted master answers pings only while its test listens to it.
    config.link_timeout = Duration::from_secs(600);
    change(&mut config);
    let (trigger, shutdown) = shutdown::channel();
    (Worker::start(config, Clock::system(WallTime(0)), shutdown).unwrap(), trigger)
}

#[tokio::test]
async fn hello_is_answered_once_the_master_was_reached() {
    let scene = Scene::unlinked(|_| {}).await;
    let mut client = scene.client().await;
    client.refused(Instruction::Hello, &["1"], Reason::Unavailable).await;
    let (mut link, hello) = scene.master.accept().await;
    assert_eq!(hello.worker, WORKER);
    assert_eq!(hello.address, scene.worker.address().to_string());
    link.welcome("deployment-1", 0).await;
    link.push_all(1).await;
    assert!(soon(scene.worker.ready()).await);
    let request = client.send(Instruction::Hello, &["1"]).await;
    let answer = client.expect(request, Instruction::Welcome).await;
    let frame = Frame { header: answer.header, data: &answer.data };
    let Ok(Some(Return::Welcome(welcome))) = Return::parse(&frame) else { panic!("{answer:?}") };
    assert_eq!(
        (welcome.deployment.as_str(), welcome.server.as_str()),
        ("deployment-1", "worker one")
    );
    assert_eq!(welcome.market.0, 77);
    let request = client.send(Instruction::Ping, &["a b"]).await;
    assert_eq!(client.expect(request, Instruction::Pong).await.text(), "a b");
    let request = client.send(Instruction::GetWorkerList, &[]).await;
    let list = client.data(request, Instruction::WorkerList).await;
    assert_eq!(WorkerList::from_bytes(&list), Ok(worker_list()));
    scene.end().await;
}

#[tokio::test]
async fn quotes_come_from_the_last_snapshot_even_without_a_master() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let value = async |client: &mut Client| {
        let request = client.send(Instruction::GetAssetValueCurrent, &["AAPL"]).await;
        AssetValue::from_bytes(&client.data(request, Instruction::Data).await).unwrap()
    };
    let first = value(&mut client).await;
    assert_eq!((first.price.raw(), first.snapshot), (100, 1));
    link.push_change(2, vec![tick(200)]).await;
    // A question that the master answers after the push: when it is back, the push was taken.
    let request = client.send(Instruction::GetOrder, &["x"]).await;
    let asked = link.expect(Instruction::GetOrder).await;
    link.data(asked.header.request, b"order", false).await;
    client.data(request, Instruction::Data).await;
    let second = value(&mut client).await;
    assert_eq!((second.price.raw(), second.snapshot, second.market.0), (200, 2, 78));

    let request = client.send(Instruction::GetAssetInfo, &["AAPL"]).await;
    let info = AssetInfo::from_bytes(&client.data(request, Instruction::Data).await).unwrap();
    assert_eq!((info.close.raw(), info.source.as_str()), (200, "a test"));
    let request = client.send(Instruction::GetAssetList, &[]).await;
    let list = AssetList::from_bytes(&client.data(request, Instruction::Data).await).unwrap();
    assert_eq!(list.assets.len(), 2);
    client.refused(Instruction::GetAssetValueCurrent, &["NONE"], Reason::NoPrice).await;
    client.refused(Instruction::GetAssetValueCurrent, &["ELSE"], Reason::UnknownAsset).await;
    client
        .refused(Instruction::GetAssetValueDay, &["ELSE", "2005-01-01"], Reason::UnknownAsset)
        .await;

    // The next answer that needs the master says that it is away; prices go on.
    let request = client.send(Instruction::GetOrder, &["x"]).await;
    link.expect(Instruction::GetOrder).await;
    drop(link);
    client.expect_refusal(request, Instruction::DataFail, Reason::Unavailable).await;
    client.refused(Instruction::GetOrder, &["x"], Reason::Unavailable).await;
    assert_eq!(value(&mut client).await, second);
    scene.end().await;
}

#[tokio::test]
async fn what_is_refused_is_refused_by_name_and_the_connection_goes_on() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.refused(Instruction::GetAssetValueCurrent, &["AAPL"], Reason::WrongState).await;
    client.refused(Instruction::SwitchState, &["dance"], Reason::BadState).await;
    client.switch(State::DataTransfer).await;
    client.refused(Instruction::PurchaseAsset, &["AAPL", "1", "x"], Reason::WrongState).await;
    client.refused(Instruction::GetAssetValueCurrent, &[], Reason::ArgumentCount).await;
    let (request, mut bytes) = client.encode(Instruction::GetAssetInfo, &["AAPL"]);
    bytes[2..4].copy_from_slice(&0xeeee_u16.to_be_bytes());
    client.write(&bytes).await;
    client.expect_refusal(request, Instruction::DataFail, Reason::UnknownInstruction).await;
    let (request, bytes) = client.encode(Instruction::Snapshot, &[]);
    client.write(&bytes).await;
    client.expect_refusal(request, Instruction::CommandFail, Reason::NotForClients).await;
    let (request, mut bytes) = client.encode(Instruction::GetAssetInfo, &["AAPL"]);
    bytes[13] = 2;
    client.write(&bytes).await;
    client.expect_refusal(request, Instruction::DataFail, Reason::BadFrame).await;
    client.switch(State::Command).await;
    scene.end().await;
}

#[tokio::test]
async fn the_answer_to_a_switch_comes_after_the_data_asked_before_it() {
    let (scene, mut link) = Scene::ready(|_| {}).await;
    let mut client = scene.logged_in(&mut link, 1).await;
    client.switch(State::DataTransfer).await;
    let portfolio = client.send(Instruction::GetUserPortfolio, &["alice"]).await;
    let switch = client.send(Instruction::SwitchState, &["command"]).await;
    // Judged under the new state at once, and not held back by the transfer.
    client.refused(Instruction::GetAssetInfo, &["AAPL"], Reason::WrongState).await;
    let asked = link.expect(Instruction::GetUserPortfolio).await;
    assert_eq!(asked.header.session, session(1));
    assert_eq!(asked.header.link.unwrap().worker, WORKER);
    let sent = vec![3; 50_000];
    link.data(asked.header.request, &sent, false).await;
    assert_eq!(client.data(portfolio, Instruction::Data).await, sent);
    client.expect(switch, Instruction::StateSwitchSuccess).await;
    scene.end().await;
}
