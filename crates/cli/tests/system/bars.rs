//! Thirteen years of days in one answer: every packet numbered, every bar as the file has it.

use std::sync::{Arc, Mutex};

use papertrader_client::{Client, Options, Progress};
use papertrader_core::bar::{Bar, Resolution};
use papertrader_core::time::{DAY, Date};
use papertrader_protocol::Instruction;
use papertrader_protocol::data::{AssetList, Bars};
use papertrader_protocol::instruction::State;
use papertrader_protocol::request::Span;
use papertrader_protocol::wire::Wire;

use crate::file::File;
use crate::scene::{Scene, Setup};

/// The days of AAPL in the file.
const DAYS: usize = 3_270;

#[tokio::test]
async fn all_days_of_a_replay_that_has_ended_arrive_in_numbered_packets() {
    let mut scene =
        Scene::start(Setup { start: "2013-03-01", step: DAY, ..Setup::default() }).await;
    scene.tick().await;
    let mut peer = scene.trader(0, "alice").await;
    peer.switch(State::DataTransfer).await;
    let list: AssetList = peer.data(Instruction::GetAssetList, &[]).await;
    assert!(list.ended);

    let file = File::read();
    let recorded: Vec<Bar> = file.rows("AAPL").iter().map(|row| row.bar).collect();
    assert_eq!(recorded.len(), DAYS);

    // Frame by frame: `packets` checks that they are numbered 1…n of n.
    let asked = ["AAPL", "day", "2000-03-01", "2013-03-02"];
    let request = peer.send(Instruction::GetAssetBars, &asked).await;
    let packets = peer.packets(request, Instruction::Data).await;
    let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.data.clone()).collect();
    let bars = Bars::from_bytes(&bytes).unwrap();
    assert_eq!((bars.symbol.as_str(), bars.resolution), ("AAPL", Resolution::Day));
    assert_eq!(bars.bars, recorded);
    // A bar is six numbers of eight bytes: they do not fit into less than ten packets.
    assert!(packets.len() >= (DAYS * 48).div_ceil(16 * 1024), "{}", packets.len());
    let (last, others) = packets.split_last().unwrap();
    assert!(others.iter().all(|packet| packet.data.len() == 16 * 1024));
    assert!(!last.data.is_empty());

    // The same through the SDK, which hears of every packet.
    let client = Client::connect(&[scene.server(0)], Options::default()).await.unwrap();
    client.resume(peer.session).await.unwrap();
    let heard: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let progress = Arc::clone(&heard);
    let (from, to) = (Date::parse("2000-03-01").unwrap(), Date::parse("2013-03-02").unwrap());
    let span = Span::Bars(Resolution::Day, from.start(), to.start());
    let note = move |packets| progress.lock().unwrap().push(packets);
    let by_sdk = client.bars("AAPL".parse().unwrap(), span, note).await.unwrap();
    assert_eq!(by_sdk.bars, recorded);
    let max = packets.len() as u16;
    let expected: Vec<Progress> = (1..=max).map(|received| Progress { received, max }).collect();
    assert_eq!(*heard.lock().unwrap(), expected);

    client.close().await;
    scene.end().await;
}
