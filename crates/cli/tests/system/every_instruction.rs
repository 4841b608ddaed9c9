//! Every instruction that a client can send, through client, worker and master: with success, in
//! the wrong state, without and with unknown sessions, malformed, and with each of its refusals.
//!
//! The list of instructions is the protocol's own: one that is added there and not here fails.

use std::collections::{BTreeMap, BTreeSet};

use papertrader_core::books::Rules;
use papertrader_core::time::DAY;
use papertrader_master::Config;
use papertrader_protocol::data::{
    AssetInfo, AssetList, AssetValue, AssetValues, Bars, History, OrderEvent, OrderLine,
    OrderStatus, Orders, Portfolio, Prediction, UserInfo,
};
use papertrader_protocol::instruction::{MessageType, State, States};
use papertrader_protocol::returns::Return;
use papertrader_protocol::wire::Wire;
use papertrader_protocol::{Instruction, Reason, SessionId, args};

use crate::peer::{Peer, pass};
use crate::scene::{Scene, Setup};

use Instruction as I;

/// What a client may send.
fn clients() -> impl Iterator<Item = Instruction> {
    I::ALL.iter().copied().filter(|instruction| instruction.states() != States::Never)
}

/// The returns of sections 4.5.3 and 4.6 and of the extensions: all that is not a client's, and
/// not between master and worker only.
fn returns() -> BTreeSet<u16> {
    let numbers = I::ALL.iter().filter(|instruction| instruction.states() == States::Never);
    numbers.map(|instruction| *instruction as u16).filter(|number| *number < 0x2000).collect()
}

/// Arguments with which an instruction is well formed.
fn good(instruction: Instruction) -> Vec<String> {
    let (hash, new) = (pass("alice"), pass("another"));
    let arguments: &[&str] = match instruction {
        I::Login => &["alice", &hash, "false"],
        I::Register => &["erin", "erin@example.org", &hash],
        I::PurchaseAsset | I::SellAsset => &["AAPL", "1", "an-order"],
        I::CancelOrder | I::GetOrder => &["an-order"],
        I::SwitchState => &["command"],
        I::GetAssetInfo | I::GetAssetValueCurrent | I::GetAssetValueAllTime => &["AAPL"],
        I::GetAssetValueDay
        | I::GetAssetValueWeek
        | I::GetAssetValueMonth
        | I::GetAssetValueYear => &["AAPL", "2012-05-16"],
        I::GetAssetValuePredicted => &["AAPL", "5"],
        I::GetAssetBars => &["AAPL", "day", "2012-05-01", "2012-05-17"],
        I::GetUserInfo | I::GetUserPortfolio | I::GetUserTransactionHistory | I::GetUserOrders => {
            &["alice"]
        }
        I::SubscribeAssets | I::UnsubscribeAssets => &["AAPL"],
        I::SubscribeOrders => &["0"],
        I::Hello => &["1"],
        I::Ping => &["some text"],
        I::Goodbye => &["done"],
        I::ChangePassword => &[&hash, &new],
        I::LoginSession | I::Logout | I::LogoutEverywhere | I::GetWorkerList | I::GetAssetList => {
            &[]
        }
        other => panic!("{other:?} is new: say here how it is asked"),
    };
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// The state in which an instruction is accepted; the command state if both will do.
fn right_state(instruction: Instruction) -> State {
    match instruction.states() {
        States::Data => State::DataTransfer,
        _ => State::Command,
    }
}

/// FB has no price before 2012-05-18, and one bar on it: what is asked of it fails in ways of its
/// own.
fn setup() -> Setup {
    let rules = Rules { max_open_orders: 3, ..Rules::default() };
    let master = Config { rules, ..Config::default() };
    Setup { master, start: "2012-05-16", step: DAY, ..Setup::default() }
}

/// Two connections with one session, each in its own state.
struct Pair {
    command: Peer,
    data: Peer,
}

impl Pair {
    async fn start(scene: &Scene, name: &str) -> Pair {
        let command = scene.trader(0, name).await;
        let mut data = scene.peer(0).await;
        data.resume(command.session).await;
        data.switch(State::DataTransfer).await;
        Pair { command, data }
    }

    fn of(&mut self, state: State) -> &mut Peer {
        match state {
            State::Command => &mut self.command,
            State::DataTransfer => &mut self.data,
        }
    }

    fn right(&mut self, instruction: Instruction) -> &mut Peer {
        self.of(right_state(instruction))
    }

    fn wrong(&mut self, instruction: Instruction) -> Option<&mut Peer> {
        match instruction.states() {
            States::Command => Some(&mut self.data),
            States::Data => Some(&mut self.command),
            States::Both | States::Never => None,
        }
    }

    fn heard(&self) -> BTreeSet<u16> {
        self.command.heard.union(&self.data.heard).copied().collect()
    }
}

/// What comes next of a subscription.
async fn pushed<T: Wire>(peer: &mut Peer, request: u64, instruction: Instruction) -> T {
    let message = peer.message(request).await;
    assert_eq!(message.instruction, instruction, "{:?}", message.said);
    T::from_bytes(&message.data).unwrap()
}

#[tokio::test]
async fn every_instruction_succeeds_in_its_state() {
    let mut scene = Scene::start(setup()).await;
    let mut pair = Pair::start(&scene, "alice").await;
    let mut done: BTreeSet<u16> = BTreeSet::new();
    let mut heard: BTreeSet<u16> = BTreeSet::new();
    let mut did = |instruction: Instruction| done.insert(instruction as u16);

    // Control, in both states, and before any session.
    for state in [State::Command, State::DataTransfer] {
        let peer = pair.of(state);
        let welcome = peer.ask(I::Hello, &["1"]).await;
        let Return::Welcome(welcome) = welcome else { panic!("{welcome:?}") };
        assert_eq!((welcome.deployment.as_str(), welcome.version), ("deployment", 1));
        assert_eq!(welcome.market, scene.market);
        assert_eq!(peer.ask(I::Ping, &["a b  c"]).await, Return::Pong("a b  c".into()));
        let request = peer.send(I::GetWorkerList, &[]).await;
        let list = peer.list(request).await;
        assert_eq!(list.workers.len(), 1);
        assert_eq!(list.workers[0].name, "worker-1");
    }
    did(I::Hello);
    did(I::Ping);
    did(I::GetWorkerList);

    // Accounts and sessions.
    let mut bob = scene.peer(0).await;
    let answer = bob.ask(I::Register, &["Bob", "bob@example.org", &pass("bob")]).await;
    assert_eq!(answer, Return::Registered("Bob".into()));
    did(I::Register);
    // Names are found whatever their case, and answered as their owner writes them.
    let grant = bob.login("bOB").await;
    assert_eq!(grant.name, "Bob");
    did(I::Login);
    let mut elsewhere = scene.peer(0).await;
    assert_eq!(elsewhere.resume(grant.session).await, grant);
    did(I::LoginSession);
    for state in [State::DataTransfer, State::DataTransfer, State::Command, State::Command] {
        elsewhere.switch(state).await;
    }
    did(I::SwitchState);
    assert_eq!(bob.ask(I::Logout, &[]).await, Return::LoggedOut);
    did(I::Logout);
    elsewhere.refused(I::PurchaseAsset, &["AAPL", "1", "x"], Reason::SessionUnknown).await;
    elsewhere.refused(I::LoginSession, &[], Reason::SessionUnknown).await;

    // A new password ends the other sessions, and the one that changed it goes on.
    bob.login("bob").await;
    let mut here = scene.peer(0).await;
    here.login("bob").await;
    let passwords = [pass("bob"), pass("another")];
    let passwords = [passwords[0].as_str(), passwords[1].as_str()];
    assert_eq!(here.ask(I::ChangePassword, &passwords).await, Return::PasswordChanged);
    did(I::ChangePassword);
    bob.refused(I::PurchaseAsset, &["AAPL", "1", "x"], Reason::SessionUnknown).await;
    bob.refused(I::Login, &["bob", passwords[0], "false"], Reason::BadCredentials).await;
    assert_eq!(here.ask(I::LogoutEverywhere, &[]).await, Return::LoggedOut);
    did(I::LogoutEverywhere);
    here.refused(I::PurchaseAsset, &["AAPL", "1", "x"], Reason::SessionUnknown).await;

    // Trading.
    let (bought, queued) = pair.command.place(I::PurchaseAsset, "AAPL", "10", "in").await;
    assert_eq!((queued.symbol.as_str(), queued.waiting.as_str()), ("AAPL", "-"));
    assert_eq!(queued.quantity.to_string(), "10");
    did(I::PurchaseAsset);
    let market = scene.tick().await;
    let fill = pair.command.fill(bought).await;
    let value: AssetValue = pair.data.data(I::GetAssetValueCurrent, &["AAPL"]).await;
    assert_eq!((fill.price, fill.market), (value.price, market));
    assert_eq!(fill.order, queued.order);
    assert_eq!((value.time, value.market), (market, market));
    did(I::GetAssetValueCurrent);
    let (sold, _) = pair.command.place(I::SellAsset, "AAPL", "4", "out").await;
    did(I::SellAsset);
    scene.tick().await;
    let sale = pair.command.fill(sold).await;
    assert_eq!(sale.quantity.to_string(), "4");
    let (cancelled, _) = pair.command.place(I::PurchaseAsset, "IBM", "1", "an-order").await;
    let id = "an-order".parse().unwrap();
    assert_eq!(pair.command.ask(I::CancelOrder, &["an-order"]).await, Return::Cancelled(id));
    pair.command.refusal(cancelled, I::PurchaseAsset, Reason::OrderCancelled).await;
    did(I::CancelOrder);

    // Streams, in both states: what there is at first, and what happens.
    let prices = pair.command.send(I::SubscribeAssets, &["AAPL IBM"]).await;
    assert_eq!(pair.command.answer(prices).await, Return::Subscribed("2".into()));
    let values: AssetValues = pushed(&mut pair.command, prices, I::AssetValues).await;
    let symbols: Vec<&str> = values.values.iter().map(|value| value.symbol.as_str()).collect();
    assert_eq!(symbols, ["AAPL", "IBM"]);
    did(I::SubscribeAssets);
    let left = pair.command.ask(I::UnsubscribeAssets, &["IBM AAPL"]).await;
    assert_eq!(left, Return::Subscribed("0".into()));
    did(I::UnsubscribeAssets);
    let orders = pair.data.send(I::SubscribeOrders, &["0"]).await;
    let from = pair.data.answer(orders).await;
    assert!(matches!(from, Return::Subscribed(_)), "{from:?}");
    let (placed, _) = pair.command.place(I::PurchaseAsset, "IBM", "1", "followed").await;
    let event: OrderEvent = pushed(&mut pair.data, orders, I::OrderEvent).await;
    assert_eq!((event.number, event.order.client_order_id.as_str()), (1, "followed"));
    pair.command.ask(I::CancelOrder, &["followed"]).await;
    pair.command.refusal(placed, I::PurchaseAsset, Reason::OrderCancelled).await;
    let event: OrderEvent = pushed(&mut pair.data, orders, I::OrderEvent).await;
    assert_eq!((event.number, event.order.status), (2, OrderStatus::Cancelled));
    did(I::SubscribeOrders);

    // Data.
    let data = &mut pair.data;
    let info: AssetInfo = data.data(I::GetAssetInfo, &["AAPL"]).await;
    assert_eq!((info.name.as_str(), info.market), ("Apple Inc.", scene.market));
    assert!(info.low <= info.open && info.open <= info.high);
    did(I::GetAssetInfo);
    let list: AssetList = data.data(I::GetAssetList, &[]).await;
    let symbols: Vec<&str> = list.assets.iter().map(|line| line.symbol.as_str()).collect();
    assert_eq!(symbols, ["AAPL", "FB", "GOOG", "IBM", "MSFT"]);
    did(I::GetAssetList);
    let counts = [
        (I::GetAssetValueDay, 1),
        (I::GetAssetValueWeek, 5),
        (I::GetAssetValueMonth, 22),
        (I::GetAssetValueYear, 12),
        (I::GetAssetValueAllTime, 147),
        (I::GetAssetBars, 12),
    ];
    for (instruction, count) in counts {
        let bars: Bars = data.data(instruction, &texts(&good(instruction))).await;
        assert_eq!(bars.bars.len(), count, "{instruction:?}");
        assert_eq!((bars.symbol.as_str(), bars.market), ("AAPL", scene.market));
        did(instruction);
    }
    let prediction: Prediction = data.data(I::GetAssetValuePredicted, &["AAPL", "5"]).await;
    let days: Vec<u32> = prediction.values.iter().map(|value| value.day).collect();
    assert_eq!(days, [1, 2, 3, 4, 5]);
    did(I::GetAssetValuePredicted);

    // Users: the owner sees all, others the public part.
    let own: UserInfo = data.data(I::GetUserInfo, &["alice"]).await;
    assert_eq!(own.private.unwrap().email, "alice@example.org");
    let other: UserInfo = data.data(I::GetUserInfo, &["bob"]).await;
    assert_eq!((other.name.as_str(), other.private), ("Bob", None));
    did(I::GetUserInfo);
    let own: Portfolio = data.data(I::GetUserPortfolio, &["alice"]).await;
    let private = own.private.unwrap();
    assert_eq!(private.positions[0].quantity.to_string(), "6");
    let paid = fill.amount.minus(sale.amount).unwrap();
    assert_eq!(private.cash, private.granted.minus(paid).unwrap());
    let other: Portfolio = data.data(I::GetUserPortfolio, &["bob"]).await;
    assert_eq!(other.private, None);
    did(I::GetUserPortfolio);
    let own: History = data.data(I::GetUserTransactionHistory, &["alice"]).await;
    assert_eq!(own.private.unwrap().lines.len(), 5);
    let other: History = data.data(I::GetUserTransactionHistory, &["bob"]).await;
    assert_eq!(other.private, None);
    did(I::GetUserTransactionHistory);
    let own: Orders = data.data(I::GetUserOrders, &["alice"]).await;
    assert_eq!(own.orders.len(), 4);
    let other: Orders = data.data(I::GetUserOrders, &["bob"]).await;
    assert!(other.orders.is_empty());
    did(I::GetUserOrders);
    let line: OrderLine = data.data(I::GetOrder, &["in"]).await;
    assert_eq!((line.order, line.fill.unwrap().price), (fill.order, fill.price));
    did(I::GetOrder);

    // Goodbye: what was asked before it is answered, what comes after it is not, and it closes.
    heard.extend(pair.heard());
    for state in [State::Command, State::DataTransfer] {
        let peer = pair.of(state);
        let before = peer.send(I::Ping, &["before"]).await;
        peer.send(I::Goodbye, &["that is all"]).await;
        peer.send(I::Ping, &["after"]).await;
        let rest = peer.rest().await;
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!(rest[0].header.request, before);
    }
    did(I::Goodbye);

    let all: BTreeSet<u16> = clients().map(|instruction| instruction as u16).collect();
    assert_eq!(done, all);
    heard.extend(bob.heard);
    heard.extend(elsewhere.heard);
    heard.extend(here.heard);
    let fails = |number: &u16| I::from_number(*number).unwrap().name().ends_with("Fail");
    let successes: BTreeSet<u16> = returns().into_iter().filter(|n| !fails(n)).collect();
    assert_eq!(heard.into_iter().filter(|n| !fails(n)).collect::<BTreeSet<u16>>(), successes);
    scene.end().await;
}

#[tokio::test]
async fn every_instruction_is_refused_in_the_same_order_of_checks() {
    let scene = Scene::start(setup()).await;
    let mut pair = Pair::start(&scene, "alice").await;
    for instruction in clients() {
        let good = good(instruction);
        let good = texts(&good);
        let data = args::join(&good);
        if let Some(peer) = pair.wrong(instruction) {
            peer.refused(instruction, &good, Reason::WrongState).await;
            // The state is judged before the session and the arguments.
            let mut header = peer.header(instruction, 9);
            header.session = SessionId::from_bytes([9; 16]);
            let request = peer.send_frame(header, b"\xff").await;
            peer.refusal(request, instruction, Reason::WrongState).await;
        }
        let peer = pair.right(instruction);

        // The form of the frame.
        let mut header = peer.header(instruction, good.len());
        header.message_type = match header.message_type {
            MessageType::Command => MessageType::Control,
            _ => MessageType::Command,
        };
        let request = peer.send_frame(header, data.as_bytes()).await;
        peer.refusal(request, instruction, Reason::BadFrame).await;
        let mut header = peer.header(instruction, good.len());
        header.max = 2;
        let request = peer.send_frame(header, data.as_bytes()).await;
        peer.refusal(request, instruction, Reason::BadFrame).await;

        // The session, before the arguments.
        if instruction.needs_session() {
            let sessions = [([0; 16], Reason::SessionRequired), ([9; 16], Reason::SessionUnknown)];
            for (session, reason) in sessions {
                // The master judges loginSession: it hears of it only if it is well formed.
                let wrong = usize::from(instruction != I::LoginSession);
                let mut header = peer.header(instruction, good.len() + wrong);
                header.session = SessionId::from_bytes(session);
                let request = peer.send_frame(header, data.as_bytes()).await;
                peer.refusal(request, instruction, reason).await;
            }
        }

        // The arguments: their number, then their form.
        let mut more = good.clone();
        more.push("more");
        peer.refused(instruction, &more, Reason::ArgumentCount).await;
        if let Some((_, fewer)) = good.split_last() {
            peer.refused(instruction, fewer, Reason::ArgumentCount).await;
        }
        let mut header = peer.header(instruction, usize::from(u16::MAX));
        let request = peer.send_frame(header, data.as_bytes()).await;
        peer.refusal(request, instruction, Reason::ArgumentCount).await;
        header = peer.header(instruction, good.len());
        let request = peer.send_frame(header, b"\xff\xfe").await;
        peer.refusal(request, instruction, Reason::BadArguments).await;
        if good.len() > 1 {
            for bad in ["only-one", " leading", ""] {
                let header = peer.header(instruction, good.len());
                let request = peer.send_frame(header, bad.as_bytes()).await;
                peer.refusal(request, instruction, Reason::BadArguments).await;
            }
        }
    }
    // Nothing of all this had an effect.
    let orders: Orders = pair.data.data(I::GetUserOrders, &["alice"]).await;
    assert!(orders.orders.is_empty());
    pair.data.refused(I::GetUserInfo, &["erin"], Reason::UnknownUser).await;
    scene.end().await;
}

#[tokio::test]
async fn every_instruction_has_its_own_refusals() {
    let mut scene = Scene::start(setup()).await;
    let mut pair = Pair::start(&scene, "alice").await;
    let mut seen: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();

    // What makes the refusals that depend on something before them.
    let (first, _) = pair.command.place(I::PurchaseAsset, "AAPL", "10", "first").await;
    scene.tick().await;
    pair.command.fill(first).await;
    for id in ["open-1", "open-2"] {
        pair.command.place(I::PurchaseAsset, "AAPL", "1", id).await;
    }
    pair.command.place(I::SellAsset, "AAPL", "6", "open-3").await;
    let id = "marked".parse().unwrap();
    assert_eq!(pair.command.ask(I::CancelOrder, &["marked"]).await, Return::Cancelled(id));

    let hash = pass("alice");
    let other_hash = pass("carol-b");
    assert_ne!(hash, other_hash);
    let upper = hash.to_uppercase();
    let name_25 = "n".repeat(25);
    let email_322 = format!("{}@example.org", "e".repeat(310));
    let id_129 = "i".repeat(129);
    let symbol_24 = "S".repeat(24);
    let many = vec!["A"; 501].join(" ");
    #[rustfmt::skip]
    let rows: &[(Instruction, &[&str], Reason)] = &[
        (I::Login, &["nobody", &hash, "false"], Reason::BadCredentials),
        (I::Login, &[&name_25, &hash, "false"], Reason::BadCredentials),
        (I::Login, &["alice", &other_hash, "false"], Reason::BadCredentials),
        (I::Login, &["alice", "abc", "false"], Reason::BadPasswordHash),
        (I::Login, &["alice", &upper, "false"], Reason::BadPasswordHash),
        (I::Login, &["alice", &hash, "perhaps"], Reason::BadArguments),
        (I::Register, &[&name_25, "a@example.org", &hash], Reason::BadUserName),
        (I::Register, &["älice", "a@example.org", &hash], Reason::BadUserName),
        (I::Register, &["dave", &email_322, &hash], Reason::BadEmail),
        (I::Register, &["dave", "no-at-sign", &hash], Reason::BadEmail),
        (I::Register, &["dave", "d@example.org", "abc"], Reason::BadPasswordHash),
        (I::Register, &["ALICE", "d@example.org", &hash], Reason::NameTaken),
        (I::ChangePassword, &["abc", &hash], Reason::BadPasswordHash),
        (I::ChangePassword, &[&hash, "abc"], Reason::BadPasswordHash),
        (I::ChangePassword, &[&hash, &hash], Reason::SamePassword),
        (I::ChangePassword, &[&other_hash, &hash], Reason::BadCredentials),
        (I::PurchaseAsset, &["aapl", "1", "n"], Reason::BadSymbol),
        (I::PurchaseAsset, &[&symbol_24, "1", "n"], Reason::BadSymbol),
        (I::PurchaseAsset, &["NONE", "1", "n"], Reason::UnknownAsset),
        (I::PurchaseAsset, &["AAPL", "0", "n"], Reason::BadQuantity),
        (I::PurchaseAsset, &["AAPL", "-1", "n"], Reason::BadQuantity),
        (I::PurchaseAsset, &["AAPL", "1", ""], Reason::BadClientOrderId),
        (I::PurchaseAsset, &["AAPL", "1", "two words"], Reason::BadClientOrderId),
        (I::PurchaseAsset, &["AAPL", "1", &id_129], Reason::BadClientOrderId),
        (I::PurchaseAsset, &["AAPL", "2", "first"], Reason::ClientOrderIdConflict),
        (I::PurchaseAsset, &["AAPL", "1", "marked"], Reason::OrderCancelled),
        (I::PurchaseAsset, &["FB", "1", "no-price"], Reason::NoPrice),
        (I::PurchaseAsset, &["AAPL", "1", "many"], Reason::TooManyOpenOrders),
        (I::SellAsset, &["aapl", "1", "n"], Reason::BadSymbol),
        (I::SellAsset, &["NONE", "1", "n"], Reason::UnknownAsset),
        (I::SellAsset, &["AAPL", "many", "n"], Reason::BadQuantity),
        (I::SellAsset, &["AAPL", "1", &id_129], Reason::BadClientOrderId),
        (I::SellAsset, &["AAPL", "10", "first"], Reason::ClientOrderIdConflict),
        (I::SellAsset, &["AAPL", "1", "marked"], Reason::OrderCancelled),
        (I::SellAsset, &["FB", "1", "no-price-2"], Reason::NoPrice),
        (I::SellAsset, &["AAPL", "1", "many-2"], Reason::TooManyOpenOrders),
        (I::CancelOrder, &[&id_129], Reason::BadClientOrderId),
        (I::CancelOrder, &["first"], Reason::OrderDone),
        (I::SwitchState, &["trading"], Reason::BadState),
        (I::SwitchState, &["data transfer"], Reason::BadState),
        (I::GetAssetInfo, &["aapl"], Reason::BadSymbol),
        (I::GetAssetInfo, &["NONE"], Reason::UnknownAsset),
        (I::GetAssetInfo, &["FB"], Reason::NoPrice),
        (I::GetAssetValueCurrent, &["aapl"], Reason::BadSymbol),
        (I::GetAssetValueCurrent, &["NONE"], Reason::UnknownAsset),
        (I::GetAssetValueCurrent, &["FB"], Reason::NoPrice),
        (I::GetAssetValueAllTime, &["aapl"], Reason::BadSymbol),
        (I::GetAssetValueAllTime, &["NONE"], Reason::UnknownAsset),
        (I::GetAssetValuePredicted, &["aapl", "5"], Reason::BadSymbol),
        (I::GetAssetValuePredicted, &["NONE", "5"], Reason::UnknownAsset),
        (I::GetAssetValuePredicted, &["FB", "5"], Reason::NoPrice),
        (I::GetAssetValuePredicted, &["AAPL", "0"], Reason::BadHorizon),
        (I::GetAssetValuePredicted, &["AAPL", "61"], Reason::BadHorizon),
        (I::GetAssetValuePredicted, &["AAPL", "-5"], Reason::BadHorizon),
        (I::GetAssetValuePredicted, &["AAPL", "soon"], Reason::BadHorizon),
        (I::GetAssetBars, &["aapl", "day", "2012-05-01", "2012-05-02"], Reason::BadSymbol),
        (I::GetAssetBars, &["NONE", "day", "2012-05-01", "2012-05-02"], Reason::UnknownAsset),
        (I::GetAssetBars, &["AAPL", "year", "2012-05-01", "2012-05-02"], Reason::BadResolution),
        (I::GetAssetBars, &["AAPL", "day", "2012-05-02", "2012-05-01"], Reason::BadRange),
        (I::GetAssetBars, &["AAPL", "day", "2012-05-01", "2012-05-01"], Reason::BadRange),
        (I::GetAssetBars, &["AAPL", "day", "2012-02-30", "2012-05-01"], Reason::BadRange),
        (I::GetAssetBars, &["AAPL", "day", "0", "99999999999999999999"], Reason::BadRange),
        (I::GetUserInfo, &["nobody"], Reason::UnknownUser),
        (I::GetUserInfo, &[&name_25], Reason::BadUserName),
        (I::GetUserPortfolio, &["nobody"], Reason::UnknownUser),
        (I::GetUserPortfolio, &["no body"], Reason::BadUserName),
        (I::GetUserTransactionHistory, &["nobody"], Reason::UnknownUser),
        (I::GetUserTransactionHistory, &[""], Reason::BadUserName),
        (I::GetUserOrders, &["nobody"], Reason::UnknownUser),
        (I::GetUserOrders, &["a/b"], Reason::BadUserName),
        (I::SubscribeAssets, &["AAPL none"], Reason::BadSymbol),
        (I::SubscribeAssets, &["AAPL  FB"], Reason::BadSymbol),
        (I::SubscribeAssets, &["AAPL NONE"], Reason::UnknownAsset),
        (I::SubscribeAssets, &[&many], Reason::BadArguments),
        (I::UnsubscribeAssets, &["* AAPL"], Reason::BadSymbol),
        (I::UnsubscribeAssets, &[&many], Reason::BadArguments),
        (I::SubscribeOrders, &["1"], Reason::BadCursor),
        (I::SubscribeOrders, &["1.-2.3"], Reason::BadCursor),
        (I::SubscribeOrders, &["1.2.3.4"], Reason::BadCursor),
        (I::GetOrder, &["none"], Reason::OrderNotFound),
        (I::GetOrder, &["marked"], Reason::OrderCancelled),
        (I::GetOrder, &[&id_129], Reason::BadClientOrderId),
    ];
    let mut try_row = async |pair: &mut Pair, row: (Instruction, &[&str], Reason)| {
        let (instruction, arguments, reason) = row;
        seen.entry(instruction as u16).or_default().insert(reason.code());
        pair.right(instruction).refused(instruction, arguments, reason).await;
    };
    for row in rows {
        try_row(&mut pair, *row).await;
    }
    let dated =
        [I::GetAssetValueDay, I::GetAssetValueWeek, I::GetAssetValueMonth, I::GetAssetValueYear];
    for instruction in dated {
        for bad in ["2012-02-30", "12-05-16", "2012-5-16", "today", "2012-05-16T00:00"] {
            try_row(&mut pair, (instruction, &["AAPL", bad], Reason::BadDate)).await;
        }
        // Tomorrow, and the end of the calendar.
        for future in ["2012-05-17", "9999-12-31"] {
            try_row(&mut pair, (instruction, &["AAPL", future], Reason::FutureDate)).await;
        }
        try_row(&mut pair, (instruction, &["aapl", "2012-05-16"], Reason::BadSymbol)).await;
        try_row(&mut pair, (instruction, &["NONE", "2012-05-16"], Reason::UnknownAsset)).await;
    }

    // With orders out of the way, the refusals of the account itself.
    for id in ["open-1", "open-2", "open-3"] {
        pair.command.ask(I::CancelOrder, &[id]).await;
    }
    #[rustfmt::skip]
    let rows: &[(Instruction, &[&str], Reason)] = &[
        (I::PurchaseAsset, &["IBM", "1000000000", "huge"], Reason::InsufficientCash),
        // With the position it would be more than the largest quantity.
        (I::PurchaseAsset, &["AAPL", "1000000000", "largest"], Reason::OrderTooLarge),
        (I::PurchaseAsset, &["AAPL", "500", "dear"], Reason::InsufficientCash),
        (I::SellAsset, &["AAPL", "10.00000001", "more"], Reason::InsufficientShares),
        (I::SellAsset, &["IBM", "1", "none-of-it"], Reason::InsufficientShares),
    ];
    for row in rows {
        try_row(&mut pair, *row).await;
    }

    // FB's first day: a price, but too little to predict from.
    while crate::file::date_of(scene.market).to_string() != "2012-05-18" {
        scene.tick().await;
    }
    try_row(&mut pair, (I::GetAssetValuePredicted, &["FB", "5"], Reason::NoForecast)).await;

    // Every instruction with refusals of its own has been refused; the others have none.
    let without = [
        I::LoginSession,
        I::GetWorkerList,
        I::Hello,
        I::Ping,
        I::Goodbye,
        I::Logout,
        I::LogoutEverywhere,
    ];
    for instruction in clients() {
        let own = seen.contains_key(&(instruction as u16));
        let expected = !without.contains(&instruction) && instruction != I::GetAssetList;
        assert_eq!(own, expected, "{instruction:?}");
    }
    // And every failure return of a client's instruction was heard.
    let refusing = clients().filter(|i| !without.contains(i));
    let failures: BTreeSet<u16> = refusing.map(|i| i.failure() as u16).collect();
    assert!(pair.heard().is_superset(&failures));
    scene.end().await;
}

#[tokio::test]
async fn the_end_of_the_prices_and_the_end_of_the_worker_are_told() {
    let setup = Setup { start: "2013-03-01", step: DAY, ..Setup::default() };
    let mut scene = Scene::start(setup).await;
    let mut pair = Pair::start(&scene, "alice").await;
    let (bought, _) = pair.command.place(I::PurchaseAsset, "AAPL", "2", "last").await;
    scene.tick().await;
    pair.command.fill(bought).await;
    // The last price is there: no order can be filled any more, and data still can be asked for.
    pair.command.refused(I::PurchaseAsset, &["AAPL", "1", "late"], Reason::MarketEnded).await;
    pair.command.refused(I::SellAsset, &["AAPL", "1", "late-2"], Reason::MarketEnded).await;
    let request = pair.data.send(I::GetAssetList, &[]).await;
    let bytes = pair.data.bytes(request, I::Data).await;
    assert!(AssetList::from_bytes(&bytes).unwrap().ended);

    // A worker that ends says goodbye, and closes.
    scene.stop_worker(0).await;
    for peer in [&mut pair.command, &mut pair.data] {
        let rest = peer.rest().await;
        let said: Vec<&Return> = rest.iter().filter_map(|message| message.said.as_ref()).collect();
        assert_eq!(said, [&Return::Goodbye(Reason::ShuttingDown.into())]);
    }
    scene.end().await;
}
