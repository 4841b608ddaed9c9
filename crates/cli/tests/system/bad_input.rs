//! Bad input: each kind gets its typed refusal, and whoever uses the same worker honestly notices
//! nothing.
//!
//! Every test here runs beside an honest client with a position and an open order, whose session,
//! order and position are compared before and after, and whose order then fills.

use std::time::Duration;

use papertrader_master::Config;
use papertrader_protocol::data::{OrderLine, OrderStatus, Portfolio, UserInfo};
use papertrader_protocol::frame::{HEADER, LinkHeader, MAX_DATA};
use papertrader_protocol::instruction::{MessageType, State, States};
use papertrader_protocol::returns::Return;
use papertrader_protocol::{Header, Instruction, Reason, args};
use tokio::task::JoinSet;

use crate::peer::{Message, Peer, pass};
use crate::scene::{Scene, Setup, soon};

use Instruction as I;

/// Somebody who does everything right.
struct Honest {
    command: Peer,
    data: Peer,
    request: u64,
    before: (UserInfo, Portfolio, OrderLine),
}

impl Honest {
    /// Buys ten shares of AAPL and leaves an order for three more open.
    async fn start(scene: &mut Scene) -> Honest {
        let mut command = scene.trader(0, "honest").await;
        let mut data = scene.peer(0).await;
        data.resume(command.session).await;
        data.switch(State::DataTransfer).await;
        let (bought, _) = command.place(I::PurchaseAsset, "AAPL", "10", "position").await;
        scene.tick().await;
        command.fill(bought).await;
        let (request, _) = command.place(I::PurchaseAsset, "AAPL", "3", "open").await;
        let before = Honest::look(&mut data).await;
        assert_eq!(before.2.status, OrderStatus::Queued);
        Honest { command, data, request, before }
    }

    async fn look(data: &mut Peer) -> (UserInfo, Portfolio, OrderLine) {
        (
            data.data(I::GetUserInfo, &["honest"]).await,
            data.data(I::GetUserPortfolio, &["honest"]).await,
            data.data(I::GetOrder, &["open"]).await,
        )
    }

    /// Everything is as it was, on the same connections, and goes on.
    async fn goes_on(mut self, mut scene: Scene) {
        assert_eq!(Honest::look(&mut self.data).await, self.before);
        scene.tick().await;
        let fill = self.command.fill(self.request).await;
        assert_eq!(fill.quantity.to_string(), "3");
        let (sale, _) = self.command.place(I::SellAsset, "AAPL", "13", "all").await;
        scene.tick().await;
        self.command.fill(sale).await;
        let portfolio: Portfolio = self.data.data(I::GetUserPortfolio, &["honest"]).await;
        assert!(portfolio.private.unwrap().positions.is_empty());
        scene.end().await;
    }
}

/// The last words before a connection is closed: one refusal that answers nothing in particular,
/// or one request.
fn assert_last_words(rest: &[Message], request: u64, expected: Reason) {
    let [message] = rest else { panic!("not one message: {rest:?}") };
    let Some(Return::Failed(I::CommandFail, failure)) = &message.said else {
        panic!("not a refusal: {message:?}")
    };
    assert_eq!((message.header.request, failure.reason), (request, expected));
}

#[tokio::test]
async fn what_is_not_an_instruction_of_a_client_is_refused_and_the_connection_goes_on() {
    let mut scene = Scene::start(Setup::default()).await;
    let honest = Honest::start(&mut scene).await;
    let mut peer = scene.trader(0, "mallory").await;
    for state in [State::Command, State::DataTransfer] {
        peer.switch(state).await;
        for number in [0, 7, 0x10c, 0x20e, 0x1000, 0x1105, 0x20ff, 0x7fff, 0xffff] {
            assert_eq!(I::from_number(number), None, "{number:#x} exists now: take another");
            for (kind, failure) in [
                (MessageType::Command, I::CommandFail),
                (MessageType::Control, I::CommandFail),
                (MessageType::ServerReturn, I::CommandFail),
                (MessageType::DataTransfer, I::DataFail),
            ] {
                let mut header = Header::new(kind, number, 1_000_000 + u64::from(number));
                header.session = peer.session;
                let request = peer.send_frame(header, b"").await;
                match peer.answer(request).await {
                    Return::Failed(instruction, refused) => {
                        let got = (instruction, refused.reason);
                        assert_eq!(got, (failure, Reason::UnknownInstruction), "{number:#x}");
                    }
                    other => panic!("{number:#x}: {other:?}"),
                }
            }
        }
        for instruction in I::ALL.iter().filter(|i| i.states() == States::Never) {
            for arguments in [&[][..], &["insufficientCash", "x"]] {
                let request = peer.send(*instruction, arguments).await;
                // Such an instruction has no failure return of a client's.
                peer.refusal(request, I::CommandFail, Reason::NotForClients).await;
            }
        }
    }
    // Wrong state, both ways.
    peer.refused(I::PurchaseAsset, &["AAPL", "1", "x"], Reason::WrongState).await;
    peer.refused(I::Login, &["honest", &pass("honest"), "true"], Reason::WrongState).await;
    peer.switch(State::Command).await;
    peer.refused(I::GetUserPortfolio, &["mallory"], Reason::WrongState).await;
    peer.refused(I::GetAssetBars, &["AAPL", "day", "x", "y"], Reason::WrongState).await;
    honest.goes_on(scene).await;
}

#[tokio::test]
async fn bad_orders_are_refused_and_what_open_orders_hold_counts() {
    let mut scene = Scene::start(Setup::default()).await;
    let honest = Honest::start(&mut scene).await;
    let mut peer = scene.trader(0, "mallory").await;
    let quantities = [
        "0",
        "-0",
        "0.0",
        "0.00000000",
        "-1",
        "-0.5",
        "+1",
        "1.123456789",
        "0.000000001",
        "1000000000.00000001",
        "1000000001",
        "99999999999999999999999999",
        "1e3",
        "0x10",
        "abc",
        "NaN",
        "inf",
        "-inf",
        "1,5",
        "1.",
        ".5",
        "1.2.3",
        "١",
        "½",
        "'",
        "1;drop",
    ];
    for side in [I::PurchaseAsset, I::SellAsset] {
        for (number, quantity) in quantities.iter().enumerate() {
            let id = format!("{}-{number}", side.name());
            peer.refused(side, &["AAPL", quantity, &id], Reason::BadQuantity).await;
        }
        for symbol in ["NONE", "AAP", "AAPLL", "AAPL.X"] {
            peer.refused(side, &[symbol, "1", "n"], Reason::UnknownAsset).await;
        }
        for symbol in ["aapl", "AAPL'", "AAPL;", "ÄAPL", &"A".repeat(24)] {
            peer.refused(side, &[symbol, "1", "n"], Reason::BadSymbol).await;
        }
    }
    // A refusal of the form binds no ID: the same one can be used now.
    let (small, queued) = peer.place(I::PurchaseAsset, "AAPL", "0.00000001", "n").await;
    assert_eq!(queued.quantity.to_string(), "0.00000001");
    scene.tick().await;
    assert_eq!(peer.fill(small).await.quantity.to_string(), "0.00000001");

    // 100,000.00 in cash and shares at about 89.00: 900 hold most of it, so that not much else is
    // to be had, however it is cut, until something is free again.
    let (open, held) = peer.place(I::PurchaseAsset, "AAPL", "900", "most").await;
    let cash = held.hold.to_string();
    assert!(held.hold.cents() > 8_000_000, "{cash}");
    let no_cash = Reason::InsufficientCash;
    peer.refused(I::PurchaseAsset, &["AAPL", "900", "again"], no_cash).await;
    peer.refused(I::PurchaseAsset, &["IBM", "500", "other"], no_cash).await;
    peer.refused(I::PurchaseAsset, &["AAPL", "1000000000", "huge"], Reason::OrderTooLarge).await;
    peer.refused(I::PurchaseAsset, &["IBM", "1000000000", "huge-2"], no_cash).await;
    // What is not bought yet cannot be sold.
    let no_shares = Reason::InsufficientShares;
    peer.refused(I::SellAsset, &["AAPL", "900", "short"], no_shares).await;
    scene.tick().await;
    peer.fill(open).await;
    // Sales that wait hold their shares.
    let (sale, _) = peer.place(I::SellAsset, "AAPL", "600", "sale").await;
    peer.refused(I::SellAsset, &["AAPL", "600", "sale-2"], no_shares).await;
    peer.refused(I::SellAsset, &["AAPL", "300.00000002", "sale-3"], no_shares).await;
    let (rest, _) = peer.place(I::SellAsset, "AAPL", "300.00000001", "sale-4").await;
    peer.refused(I::SellAsset, &["AAPL", "0.00000001", "sale-5"], no_shares).await;
    peer.command_cancel("sale-4").await;
    peer.refusal(rest, I::SellAsset, Reason::OrderCancelled).await;
    scene.tick().await;
    peer.fill(sale).await;
    // Orders sent together see each other: three halves of what is left are one too many.
    let mut sent = Vec::new();
    for number in 0..3 {
        let id = format!("together-{number}");
        sent.push(peer.send(I::SellAsset, &["AAPL", "150", &id]).await);
    }
    let mut refused = 0;
    for request in sent {
        match peer.answer(request).await {
            Return::OrderQueued(_) => {}
            Return::Failed(I::SellFail, failure) => {
                assert_eq!(failure.reason, no_shares);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 1);
    // The honest order filled meanwhile: it was of the first of these intervals.
    honest.filled_meanwhile(scene).await;
}

impl Peer {
    async fn command_cancel(&mut self, id: &str) {
        let answer = self.ask(I::CancelOrder, &[id]).await;
        assert_eq!(answer, Return::Cancelled(id.parse().unwrap()));
    }
}

impl Honest {
    /// The order filled while the market went on; nothing else changed.
    async fn filled_meanwhile(mut self, mut scene: Scene) {
        let fill = self.command.fill(self.request).await;
        assert_eq!(fill.quantity.to_string(), "3");
        let (_, portfolio, order) = Honest::look(&mut self.data).await;
        assert_eq!(order.status, OrderStatus::Filled);
        let private = portfolio.private.unwrap();
        let before = self.before.1.private.as_ref().unwrap();
        assert_eq!(private.cash, before.cash.minus(fill.amount).unwrap());
        assert_eq!(private.positions.len(), 1);
        assert_eq!(private.positions[0].quantity.to_string(), "13");
        scene.tick().await;
        scene.end().await;
    }
}

#[tokio::test]
async fn bad_accounts_and_sessions_are_refused() {
    let mut scene = Scene::start(Setup::default()).await;
    let honest = Honest::start(&mut scene).await;
    let mut peer = scene.peer(0).await;
    let hash = pass("mallory");
    let name = |length: usize| "n".repeat(length);
    let email = |length: usize| format!("{}@example.org", "e".repeat(length - 12));
    assert_eq!(email(322).len(), 322);
    let refusals = [
        (name(25), email(20), Reason::BadUserName),
        ("a\u{a0}b".into(), email(20), Reason::BadUserName),
        ("mallory'--".into(), email(20), Reason::BadUserName),
        ("mallory".into(), email(322), Reason::BadEmail),
        ("mallory".into(), "two@at@example.org".into(), Reason::BadEmail),
        ("mallory".into(), "@example.org".into(), Reason::BadEmail),
        ("HONEST".into(), email(20), Reason::NameTaken),
        ("Honest".into(), email(20), Reason::NameTaken),
    ];
    for (name, email, reason) in &refusals {
        peer.refused(I::Register, &[name, email, &hash], *reason).await;
    }
    // The longest that are allowed, in a name once taken in any case.
    let (longest, address) = (name(24), email(321));
    let answer = peer.ask(I::Register, &[&longest, &address, &hash]).await;
    assert_eq!(answer, Return::Registered(longest.clone()));
    let upper = longest.to_uppercase();
    peer.refused(I::Register, &[&upper, &address, &hash], Reason::NameTaken).await;
    // Two at the same time: one gets the name.
    let mut other = scene.peer(0).await;
    let one = peer.send(I::Register, &["twice", "a@example.org", &hash]).await;
    let two = other.send(I::Register, &["TWICE", "b@example.org", &hash]).await;
    let answers = [peer.answer(one).await, other.answer(two).await];
    let registered = |answer: &&Return| matches!(answer, Return::Registered(_));
    assert_eq!(answers.iter().filter(registered).count(), 1, "{answers:?}");
    let taken = |answer: &&Return| matches!(answer, Return::Failed(I::RegisterFail, why) if why.reason == Reason::NameTaken);
    assert_eq!(answers.iter().filter(taken).count(), 1, "{answers:?}");

    // Wrong passwords and unknown names look alike.
    for name in ["honest", "nobody", "Honest ".trim(), &name(25)] {
        let wrong = "0".repeat(64);
        peer.refused(I::Login, &[name, &wrong, "false"], Reason::BadCredentials).await;
    }
    for wrong in ["", "0", &"0".repeat(63), &"0".repeat(65), &"G".repeat(64), &"A".repeat(64)] {
        let header = peer.header(I::Login, 3);
        let text = format!("honest {wrong} false");
        let request = peer.send_frame(header, text.as_bytes()).await;
        let reason = if wrong.is_empty() { Reason::BadArguments } else { Reason::BadPasswordHash };
        peer.refusal(request, I::Login, reason).await;
    }

    // Nobody else's session can be guessed or taken from another's name.
    let mut bytes = *honest.command.session.bytes();
    bytes[15] ^= 1;
    peer.session = papertrader_protocol::SessionId::from_bytes(bytes);
    peer.refused(I::LoginSession, &[], Reason::SessionUnknown).await;
    peer.refused(I::SellAsset, &["AAPL", "10", "theft"], Reason::SessionUnknown).await;
    peer.refused(I::CancelOrder, &["open"], Reason::SessionUnknown).await;
    peer.refused(I::Logout, &[], Reason::SessionUnknown).await;

    // With a session of one's own: one's own orders and nobody else's.
    peer.register("mallory").await;
    peer.login("mallory").await;
    peer.refused(I::SellAsset, &["AAPL", "10", "theft"], Reason::InsufficientShares).await;
    peer.command_cancel("open").await;
    peer.switch(State::DataTransfer).await;
    peer.refused(I::GetOrder, &["position"], Reason::OrderNotFound).await;
    let seen: Portfolio = peer.data(I::GetUserPortfolio, &["honest"]).await;
    assert_eq!(seen.private, None);
    honest.goes_on(scene).await;
}

#[tokio::test]
async fn an_expired_session_is_told_so_until_it_is_forgotten() {
    let master = Config { session_lifetime: Duration::ZERO, ..Config::default() };
    let scene = Scene::start(Setup { master, ..Setup::default() }).await;
    let mut peer = scene.peer(0).await;
    peer.register("alice").await;
    let mut expired = 0;
    for number in 0..4 {
        peer.login("alice").await;
        // The worker's word, then the master's. Once the master has swept it, nobody knows it.
        let id = format!("order-{number}");
        let bought = ["AAPL", "1", id.as_str()];
        for (what, arguments) in [(I::PurchaseAsset, &bought[..]), (I::LoginSession, &[])] {
            match peer.ask(what, arguments).await {
                Return::Failed(instruction, failure) => {
                    assert_eq!(instruction, what.failure());
                    match failure.reason {
                        Reason::SessionExpired => expired += 1,
                        other => assert_eq!(other, Reason::SessionUnknown),
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        // The worker has forgotten it.
        peer.refused(I::CancelOrder, &[&id], Reason::SessionUnknown).await;
    }
    // The sweep comes once a second: it cannot have been first each time.
    assert!(expired > 0);
    scene.end().await;
}

#[tokio::test]
async fn what_cannot_be_framed_is_told_and_closed() {
    let mut scene = Scene::start(Setup::default()).await;
    let honest = Honest::start(&mut scene).await;
    let session = honest.command.session;

    // Changes to the bytes of a good frame that make it none, at their offsets.
    let changes: &[(&[(usize, u8)], Reason)] = &[
        (&[(6, 0x40), (7, 1)], Reason::FrameTooLarge),
        (&[(4, 0xff), (5, 0xff), (6, 0xff), (7, 0xff)], Reason::FrameTooLarge),
        (&[(14, 0)], Reason::BadVersion),
        (&[(14, 2)], Reason::BadVersion),
        (&[(0, 0xff)], Reason::BadFrame),
        (&[(1, 0)], Reason::BadFrame),
        (&[(1, 5)], Reason::BadFrame),
        (&[(11, 0)], Reason::BadFrame),
        (&[(11, 2)], Reason::BadFrame),
        (&[(12, 0), (13, 0)], Reason::BadFrame),
        (&[(15, 4)], Reason::BadFrame),
        (&[(15, 0x80)], Reason::BadFrame),
    ];
    for (changed, reason) in changes {
        let mut peer = scene.peer(0).await;
        let mut header = peer.header(I::PurchaseAsset, 3);
        header.session = session;
        let mut bytes = Vec::new();
        header.encode(b"AAPL 1 x", &mut bytes);
        for (at, value) in *changed {
            bytes[*at] = *value;
        }
        peer.write(&bytes).await;
        // This end stays open: it is the worker that closes.
        assert_last_words(&peer.rest().await, 0, *reason);
    }

    // The largest frame that is allowed is read, and refused for what it says.
    let mut peer = scene.peer(0).await;
    peer.session = session;
    let header = peer.header(I::PurchaseAsset, 3);
    let text = format!("AAPL 1 {}", "i".repeat(MAX_DATA - 7));
    assert_eq!(text.len(), MAX_DATA);
    let request = peer.send_frame(header, text.as_bytes()).await;
    peer.refusal(request, I::PurchaseAsset, Reason::BadClientOrderId).await;

    // A link header is the master's to read: a client that has one is cut off, even with a good
    // session and a good order.
    let mut header = peer.header(I::SellAsset, 3);
    header.link = Some(LinkHeader {
        worker: papertrader_core::ids::WorkerId([1; 16]),
        received_at: papertrader_core::time::WallTime(1),
        sequence: 1,
        deadline: papertrader_core::time::WallTime(0),
        client: "127.0.0.1:1".parse().unwrap(),
    });
    let request = peer.send_frame(header, b"AAPL 10 smuggled").await;
    assert_last_words(&peer.rest().await, request, Reason::BadFrame);

    // A frame that is cut anywhere and closed: what came before it is answered, it is not.
    let whole = {
        let mut peer = scene.peer(0).await;
        peer.session = session;
        let mut header = peer.header(I::SellAsset, 3);
        header.request = 77;
        let mut bytes = Vec::new();
        header.encode(args::join(&["AAPL", "10", "cut"]).as_bytes(), &mut bytes);
        bytes
    };
    for cut in [1, 2, HEADER - 1, HEADER, HEADER + 1, whole.len() - 1] {
        let mut peer = scene.peer(0).await;
        let request = peer.send(I::Ping, &["before"]).await;
        peer.write(&whole[..cut]).await;
        peer.finish();
        let rest = peer.rest().await;
        assert!(rest.iter().all(|message| message.header.request == request), "{rest:?}");
        assert_eq!(rest.len(), 1);
    }
    let mut honest = honest;
    honest.data.refused(I::GetOrder, &["cut"], Reason::OrderNotFound).await;
    honest.data.refused(I::GetOrder, &["smuggled"], Reason::OrderNotFound).await;
    honest.goes_on(scene).await;
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What one connection says: noise, or frames of which some bytes are noise.
fn noise(random: &mut Random) -> Vec<u8> {
    if random.below(2) == 0 {
        let length = 1 + random.below(3_000);
        return random.bytes(length);
    }
    let mut bytes = Vec::new();
    for _ in 0..1 + random.below(8) {
        let instruction = I::ALL[random.below(I::ALL.len())];
        let mut header = Header::new(instruction.message_type(), instruction as u16, random.next());
        header.argument_count = random.below(5) as u16;
        let words = ["AAPL", "1", "day", "2005-02-25", "honest", "-1", "x", "\u{fffd}"];
        let data: Vec<&str> =
            (0..random.below(6)).map(|_| words[random.below(words.len())]).collect();
        header.encode(args::join(&data).as_bytes(), &mut bytes);
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    bytes
}

#[tokio::test]
async fn a_thousand_connections_of_noise_change_nothing() {
    const CONNECTIONS: u64 = 1_000;
    const AT_ONCE: usize = 50;
    let mut scene = Scene::start(Setup::default()).await;
    let honest = Honest::start(&mut scene).await;
    let address = scene.address(0);
    let mut running = JoinSet::new();
    let mut refused = 0;
    for seed in 0..CONNECTIONS {
        if running.len() == AT_ONCE {
            refused += soon(running.join_next()).await.unwrap().unwrap();
        }
        running.spawn(async move {
            let bytes = noise(&mut Random(seed));
            let mut peer = Peer::connect(address).await;
            // It may close before everything is written.
            peer.try_write(&bytes).await;
            peer.finish();
            let rest = peer.rest().await;
            // Whatever is answered is what the protocol has for it.
            for message in &rest {
                match &message.said {
                    Some(Return::Failed(..) | Return::Pong(_) | Return::Welcome(_)) => {}
                    None if message.instruction == I::WorkerList => {}
                    _ => panic!("seed {seed}: {message:?}"),
                }
            }
            if bytes.len() >= HEADER && bytes[14] != 1 {
                assert_last_words(&rest, 0, Reason::BadVersion);
            }
            if bytes.len() < HEADER {
                assert!(rest.is_empty(), "seed {seed}: {rest:?}");
            }
            rest.iter().filter(|message| matches!(message.said, Some(Return::Failed(..)))).count()
        });
    }
    while let Some(done) = soon(running.join_next()).await {
        refused += done.unwrap();
    }
    // Most of it was read and refused, rather than not arriving at all.
    assert!(refused > CONNECTIONS as usize / 2, "{refused}");
    honest.goes_on(scene).await;
}
