//! What a worker keeps of the past and brings up to date by itself is, byte for byte, what the master
//! answers: after every step, over the ends of days and months, of recorded and of synthetic prices.

use papertrader_core::time::{MarketTime, SECOND, WallTime};
use papertrader_node::clock::Clock;
use papertrader_node::connection::Inbox;
use papertrader_node::link::LinkStream;
use papertrader_protocol::data::Bars;
use papertrader_protocol::frame::LinkHeader;
use papertrader_protocol::instruction::State;
use papertrader_protocol::link::LinkHello;
use papertrader_protocol::transfer::Assembly;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Header, Instruction, args};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use crate::peer::Peer;
use crate::scene::{Scene, Setup, soon};

use Instruction as I;

/// An answer: its data, and whether it is final.
type Answer = (Vec<u8>, bool);

/// A link of this test's own: what it asks, the master answers.
struct Outside {
    inbox: Inbox<ReadHalf<LinkStream>>,
    writer: WriteHalf<LinkStream>,
    header: LinkHeader,
    asked: u64,
}

impl Outside {
    async fn connect(scene: &Scene) -> Outside {
        let clock = Clock::system(WallTime(0));
        let (stream, _) = soon(scene.outside.connect(scene.master(), &clock)).await.unwrap();
        let (reader, writer) = tokio::io::split(stream);
        let header = LinkHeader {
            worker: scene.outside.worker,
            received_at: clock.now(),
            sequence: 1,
            deadline: WallTime(0),
            client: "127.0.0.1:5000".parse().unwrap(),
        };
        let mut outside = Outside { inbox: Inbox::new(reader), writer, header, asked: 0 };
        let hello = LinkHello {
            worker: scene.outside.worker,
            version: "a test".into(),
            address: "127.0.0.1:1".into(),
            web: String::new(),
            region: String::new(),
            fingerprint: String::new(),
            clock: clock.now(),
        };
        let instruction = Instruction::LinkHello;
        let mut bytes = Vec::new();
        Header::new(instruction.message_type(), instruction as u16, 0)
            .encode(&hello.to_bytes(), &mut bytes);
        outside.write(&bytes).await;
        outside
    }

    async fn write(&mut self, bytes: &[u8]) {
        soon(self.writer.write_all(bytes)).await.unwrap();
        soon(self.writer.flush()).await.unwrap();
    }

    async fn ask(&mut self, what: Instruction, arguments: &[&str]) -> Answer {
        self.asked += 1;
        let mut header = Header::new(what.message_type(), what as u16, self.asked);
        header.argument_count = arguments.len() as u16;
        header.link = Some(self.header);
        let mut bytes = Vec::new();
        header.encode(args::join(arguments).as_bytes(), &mut bytes);
        self.write(&bytes).await;
        let mut assembly = Assembly::default();
        loop {
            while let Some(frame) = self.inbox.frame().unwrap() {
                // The other messages are pushes.
                if frame.header.request != self.asked {
                    continue;
                }
                assert_eq!(frame.header.instruction, Instruction::Data as u16);
                let is_final = frame.header.is_final;
                assembly.push(&frame, usize::MAX).unwrap();
                match assembly.finished() {
                    Ok(data) => return (data, is_final),
                    Err(unfinished) => assembly = unfinished,
                }
            }
            assert!(soon(self.inbox.fill()).await.unwrap() > 0, "the link is open");
        }
    }
}

async fn of_worker(peer: &mut Peer, what: Instruction, arguments: &[&str]) -> Answer {
    let request = peer.send(what, arguments).await;
    let packets = peer.packets(request, I::Data).await;
    let is_final = packets.iter().all(|packet| packet.header.is_final);
    (packets.into_iter().flat_map(|packet| packet.data).collect(), is_final)
}

/// Windows that hold the present for a while, end with it, lie before it, or begin in the midst.
fn windows(
    symbol: &'static str,
    dates: &[&'static str],
    noon: MarketTime,
) -> Vec<(I, Vec<String>)> {
    let mut windows = vec![(I::GetAssetValueAllTime, vec![symbol.to_owned()])];
    for date in dates {
        for what in
            [I::GetAssetValueDay, I::GetAssetValueWeek, I::GetAssetValueMonth, I::GetAssetValueYear]
        {
            windows.push((what, vec![symbol.into(), (*date).into()]));
        }
    }
    let noon = noon.0.to_string();
    for resolution in ["interval", "hour", "day", "month"] {
        for (from, to) in [(dates[0], "2013-03-02"), (&noon, "2013-03-02"), (dates[0], &noon)] {
            let arguments = [symbol, resolution, from, to].map(str::to_owned);
            windows.push((I::GetAssetBars, arguments.to_vec()));
        }
    }
    windows
}

/// Compares all windows of which both know the date already.
async fn compare(
    scene: &Scene,
    peer: &mut Peer,
    master: &mut Outside,
    windows: &[(I, Vec<String>)],
) -> usize {
    let mut finals = 0;
    for (what, arguments) in windows {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let is_ahead = arguments.get(1).and_then(|date| papertrader_core::time::Date::parse(date));
        if is_ahead.is_some_and(|date| date.start() > scene.market) {
            continue;
        }
        let (told, is_final) = of_worker(peer, *what, &arguments).await;
        let (expected, is_over) = master.ask(*what, &arguments).await;
        assert_eq!(is_final, is_over, "{what:?} {arguments:?}");
        if is_final {
            // It is true for ever, and says when it was made.
            let (told, expected) = (Bars::from_bytes(&told), Bars::from_bytes(&expected));
            let (told, expected) = (told.unwrap(), expected.unwrap());
            assert_eq!(Bars { market: expected.market, ..told }, expected);
            finals += 1;
        } else {
            let same = told == expected;
            let (told, expected) = (Bars::from_bytes(&told), Bars::from_bytes(&expected));
            assert!(same, "{what:?} {arguments:?}: {told:?}, not {expected:?}");
        }
    }
    finals
}

async fn run(setup: Setup, symbols: &[&'static str], dates: &[&'static str], steps: usize) {
    let start = papertrader_core::time::Date::parse(setup.start).unwrap().start();
    let mut scene = Scene::start(setup).await;
    let mut peer = scene.trader(0, "alice").await;
    peer.switch(State::DataTransfer).await;
    let mut master = Outside::connect(&scene).await;
    let noon = start.plus_nanos(15 * 3_600 * SECOND + 1);
    let windows: Vec<(I, Vec<String>)> =
        symbols.iter().flat_map(|symbol| windows(symbol, dates, noon)).collect();
    let mut finals = compare(&scene, &mut peer, &mut master, &windows).await;
    for _ in 0..steps {
        scene.tick().await;
        finals += compare(&scene, &mut peer, &mut master, &windows).await;
    }
    assert!(finals > 0);
    drop(master);
    scene.end().await;
}

/// Over a weekend with a split, and the end of February.
#[tokio::test]
async fn a_replay_is_brought_up_to_date_as_the_master_answers() {
    let setup = Setup { start: "2005-02-25", ..Setup::default() };
    let dates = ["2005-02-25", "2005-02-28", "2005-03-01"];
    run(setup, &["AAPL", "IBM"], &dates, 36).await;
}

/// Around the clock, over two midnights and the end of a month, with steps that no hour is made of.
#[tokio::test]
async fn synthetic_prices_are_brought_up_to_date_as_the_master_answers() {
    let setup =
        Setup { start: "2005-01-30", step: 5_000 * SECOND, synthetic: 3, ..Setup::default() };
    let dates = ["2005-01-30", "2005-01-31", "2005-02-01"];
    run(setup, &["SYN0001", "SYN0003"], &dates, 45).await;
}
